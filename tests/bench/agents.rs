//! The role of the agents: thousands of them in one process, each with the agent library's real link, ledger, spool and
//! reconciler; only engine and measurements are made up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chom_agent::agent::{Agent, Parts, Settings};
use chom_agent::driver::fake::FakeDriver;
use chom_agent::ledger::Ledger;
use chom_agent::measure::FixedProbe;
use chom_certs::Identity;
use chom_protocol::BootId;
use chom_protocol::sample::{Metric, Point};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::measure::Times;
use crate::role::{hear, say};
use crate::world::{host_folder, inventory};

/// An agent that is not welcomed by then is lost.
const WELCOME_SECONDS_MAX: Duration = Duration::from_secs(120);
/// How long all agents have to end.
const STOP_SECONDS_MAX: Duration = Duration::from_secs(60);

/// Runs the role: `go` starts all agents, at most `window` of them not yet welcomed, and says how many were welcomed, in
/// how many seconds all of them, and the median of each one's own; `welcomes` says how many are connected and how often
/// all of them were welcomed.
pub(crate) fn run(words: &[String]) {
    let [folder, orchestrator, count, window] = words else {
        panic!("agents FOLDER ORCHESTRATOR COUNT WINDOW")
    };
    let (count, window): (usize, usize) = (count.parse().unwrap(), window.parse().unwrap());
    let parts: Vec<Parts<FakeDriver>> = (0..count)
        .map(|number| parts(&host_folder(Path::new(folder), number), number, orchestrator))
        .collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    say("ready");
    let mut waiting = Some(parts);
    let mut agents: Vec<Agent> = Vec::new();
    while let Some(line) = hear() {
        if line == "go" {
            let (started, seconds, times) = runtime.block_on(start(waiting.take().unwrap(), window));
            say(&format!("{} {seconds} {}", times.count(), times.percentile_ms(50.0)));
            agents = started;
        } else {
            let contacts: Vec<_> = agents.iter().map(Agent::contact).collect();
            let connected = contacts.iter().filter(|contact| contact.borrow().is_connected()).count();
            let welcomes: u64 = contacts.iter().map(|contact| contact.borrow().welcomes).sum();
            say(&format!("{connected} {welcomes}"));
        }
    }
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for agent in agents {
            tasks.spawn(agent.stop(STOP_SECONDS_MAX));
        }
        for stopped in tasks.join_all().await {
            stopped.unwrap();
        }
    });
}

async fn start(parts: Vec<Parts<FakeDriver>>, window: usize) -> (Vec<Agent>, f64, Times) {
    let (began, places) = (Instant::now(), Arc::new(Semaphore::new(window)));
    let (mut agents, mut tasks) = (Vec::with_capacity(parts.len()), JoinSet::new());
    for parts in parts {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let began = Instant::now();
        let agent = Agent::start(parts).unwrap();
        let mut contact = agent.contact();
        agents.push(agent);
        tasks.spawn(async move {
            let welcomed =
                tokio::time::timeout(WELCOME_SECONDS_MAX, contact.wait_for(|contact| contact.welcomes > 0));
            let is_welcome = matches!(welcomed.await, Ok(Ok(_)));
            drop(place);
            is_welcome.then(|| began.elapsed())
        });
    }
    let mut times = Times::default();
    tasks.join_all().await.into_iter().flatten().for_each(|time| times.push(time));
    (agents, began.elapsed().as_secs_f64(), times)
}

fn parts(folder: &Path, number: usize, orchestrator: &str) -> Parts<FakeDriver> {
    let state = folder.join("state");
    let identity = Identity::load(&state.join("identity")).unwrap();
    if Ledger::orchestrators(&state).is_ok_and(|addresses| addresses.is_empty()) {
        Ledger::save_orchestrators(&state, &[orchestrator.to_owned()]).unwrap();
    }
    let images: PathBuf = folder.join("images");
    std::fs::create_dir_all(&images).unwrap();
    Parts {
        settings: Settings {
            state_directory: state,
            image_directory: images,
            vps_directory: folder.join("vps"),
            destroys_per_hour: 5,
            moved_grace: Duration::ZERO,
        },
        identity,
        drivers: vec![FakeDriver::default()],
        probe: Box::new(FixedProbe { inventory: inventory(number), points: points() }),
        boot: BootId::new(Uuid::from_u128(number as u128 + 1)),
    }
}

/// What a small host measures: about 40 series.
fn points() -> Vec<Point> {
    let of = |metric, label: &str| Point { metric, vps: None, label: label.to_owned(), value: 123_456.789 };
    let modes = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    let alone = [
        Metric::Load1,
        Metric::Load5,
        Metric::Load15,
        Metric::MemoryTotal,
        Metric::MemoryAvailable,
        Metric::SwapTotal,
        Metric::SwapFree,
        Metric::Uptime,
    ];
    let disks = [Metric::DiskTotal, Metric::DiskAvailable, Metric::InodesTotal, Metric::InodesFree];
    let device = [Metric::DiskReadBytes, Metric::DiskWrittenBytes, Metric::DiskBusySeconds];
    let network = [
        Metric::NetworkReceivedBytes,
        Metric::NetworkSentBytes,
        Metric::NetworkReceiveErrors,
        Metric::NetworkSendErrors,
    ];
    let pressure = ["cpu some", "memory some", "memory full", "io some", "io full"];
    let mut points: Vec<Point> = modes.iter().map(|mode| of(Metric::CpuSeconds, mode)).collect();
    points.extend(alone.iter().map(|metric| of(*metric, "")));
    points.extend(["/", "/var"].iter().flat_map(|mount| disks.map(|metric| of(metric, mount))));
    points.extend(device.map(|metric| of(metric, "vda")));
    points.extend(["eth0", "virbr0"].iter().flat_map(|device| network.map(|metric| of(metric, device))));
    points.extend(pressure.iter().map(|label| of(Metric::PressureSeconds, label)));
    points
}
