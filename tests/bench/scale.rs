//! One orchestrator and 2,000 agents: what an agent costs it, how soon an intent is durable on its host, and how long it
//! takes until all are back after a restart.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use chom_tests::wait::{pass, wait_for};

use crate::client::Client;
use crate::floor;
use crate::measure::{self, Memory, Times};
use crate::role::Role;
use crate::table::{Line, Target};
use crate::world::{Shape, World};

const AGENTS: usize = 2_000;
const REPORT_SECONDS: u32 = 15;
/// Dials at once: what a first pause of up to a second leaves on two cores.
const WINDOW: usize = 256;
/// Until the first passes of all agents, and what follows from them, are over.
const SETTLE: Duration = Duration::from_secs(30);
/// The history of a host is as large as it gets after so long (14 samples).
const FILL_HISTORY: Duration = Duration::from_secs(120);
const CPU_WINDOW: Duration = Duration::from_secs(90);
/// VPSs that are started, one after another.
const STARTS: usize = 400;
const START_EVERY: Duration = Duration::from_millis(25);
/// An operation that is not taken by then is lost.
const TAKEN_SECONDS_MAX: Duration = Duration::from_secs(30);
/// A restart: agents that heard nothing dial again when a report is due, then after pauses of at most a minute.
const BACK_SECONDS_MAX: Duration = Duration::from_secs(150);
/// So often each of the two is measured, in turn; the median counts.
const ROUNDS: usize = 3;

/// The rows of 2,000 agents.
pub(crate) fn measure() -> Vec<Line> {
    let shape = Shape { hosts: AGENTS, vps_per_host: 1, report_seconds: REPORT_SECONDS, ..Shape::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut world = World::new(&shape);
    let began = Instant::now();
    runtime.block_on(world.fill(&shape));
    runtime.block_on(floor::prepare(&world));
    println!("filled with {AGENTS} hosts in {:.1} s", began.elapsed().as_secs_f64());
    world.start();
    // First all hosts take what they are to have; what an agent costs is measured afterwards, as those commits fill rings
    // and buffers of the store that are as large however many agents there are.
    let mut agents = Agents::start(&world);
    let (welcomed, seconds, _) = agents.go();
    println!("{welcomed} agents welcomed for the first time in {seconds:.1} s");
    pass(SETTLE);
    agents.role.end();
    world.stop();
    world.start();
    pass(Duration::from_secs(3));
    let before = Memory::of(world.pid()).unwrap();
    let mut agents = Agents::start(&world);
    agents.go();
    pass(SETTLE);
    let mut lines = cost(&world, before, &mut agents);
    lines.extend(intents(&world));
    lines.extend(ran_on(&mut world, &mut agents));
    agents.role.end();
    lines.extend(reconnects(&mut world));
    world.stop();
    lines
}

struct Agents {
    role: Role,
}

impl Agents {
    fn start(world: &World) -> Self {
        let (folder, link) = (world.folder().to_str().unwrap().to_owned(), world.link());
        let (role, _) = Role::start("agents", &[&folder, &link, &AGENTS.to_string(), &WINDOW.to_string()]);
        Self { role }
    }

    /// How many were welcomed, in how many seconds all, and each one's median in ms.
    fn go(&mut self) -> (usize, f64, f64) {
        let answer = self.role.ask("go");
        let words: Vec<f64> = answer.split(' ').map(|word| word.parse().unwrap()).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let welcomed = words[0] as usize;
        (welcomed, words[1], words[2])
    }

    /// How many are connected, and how often all were welcomed.
    fn welcomes(&mut self) -> (usize, u64) {
        let answer = self.role.ask("welcomes");
        let (connected, welcomes) = answer.split_once(' ').unwrap();
        (connected.parse().unwrap(), welcomes.parse().unwrap())
    }
}

fn cost(world: &World, before: Memory, agents: &mut Agents) -> Vec<Line> {
    pass(FILL_HISTORY);
    let (cpu, began) = (measure::cpu_seconds_of(world.pid()).unwrap(), Instant::now());
    pass(CPU_WINDOW);
    let cpu = (measure::cpu_seconds_of(world.pid()).unwrap() - cpu) / began.elapsed().as_secs_f64();
    let after = Memory::of(world.pid()).unwrap();
    let (connected, _) = agents.welcomes();
    println!(
        "{connected} connected; the orchestrator before and with them: {before:?} {after:?}, load {}",
        measure::load()
    );
    let each = |after: f64, before: f64| (after - before) / AGENTS as f64;
    let what = format!("orchestrator, {AGENTS} agents, 1 report each {REPORT_SECONDS} s");
    vec![
        Line::new(format!("{what}: agents connected"), connected as f64, ""),
        Line::new(format!("{what}: resident memory per agent"), each(after.rss_kib, before.rss_kib), "KiB")
            .target(Target::ValueAtMost(64.0)),
        Line::new(
            format!("{what}: anonymous memory per agent"),
            each(after.anonymous_kib, before.anonymous_kib),
            "KiB",
        ),
        Line::new(format!("{what}: processor over {} s", CPU_WINDOW.as_secs()), cpu * 100.0, "% of a core")
            .target(Target::ValueAtMost(5.0)),
    ]
}

/// From the HTTP answer of a start to the event that says that its host took it. The event comes from the first status
/// that names the new desired state as durable, itself made durable here: an upper bound of the acknowledgement itself.
fn intents(world: &World) -> Vec<Line> {
    let mut client = world.client();
    let page = client.call("GET", &format!("/api/vps-servers?limit={STARTS}"), None).unwrap().json();
    let vps: Vec<String> =
        page["items"].as_array().unwrap().iter().map(|vps| vps["id"].as_str().unwrap().to_owned()).collect();
    let events = follow(world.client());
    let mut taken = Taken { events, at: BTreeMap::new() };
    for id in &vps {
        let operation = order(&mut client, id, "stop");
        taken.when(&operation, TAKEN_SECONDS_MAX);
    }
    // Agents send at most one status each 200 ms: the last word on the stops is out by then.
    pass(Duration::from_secs(1));
    let (mut from_answer, mut from_request, mut lost) = (Times::default(), Times::default(), 0_u32);
    for id in &vps {
        let asked = Instant::now();
        let operation = order(&mut client, id, "start");
        let answered = Instant::now();
        match taken.when(&operation, TAKEN_SECONDS_MAX) {
            Some(at) => {
                from_answer.push(at.saturating_duration_since(answered));
                from_request.push(at - asked);
            }
            None => lost += 1,
        }
        pass(START_EVERY);
    }
    println!("{} starts, {lost} lost, load {}", from_answer.count(), measure::load());
    let what =
        format!("intent (HTTP answer of a start) to its host's durable acknowledgement, {AGENTS} agents");
    vec![
        Line::new(format!("{what}: p50"), from_answer.percentile_ms(50.0), "ms")
            .target(Target::ValueAtMost(10.0)),
        Line::new(format!("{what}: p99"), from_answer.percentile_ms(99.0), "ms")
            .target(Target::ValueAtMost(50.0)),
        Line::new("the same from the request on: p50", from_request.percentile_ms(50.0), "ms"),
        Line::new("the same from the request on: p99", from_request.percentile_ms(99.0), "ms"),
    ]
}

/// Gives an order and its operation.
fn order(client: &mut Client, vps: &str, action: &str) -> String {
    let answer = client.call("POST", &format!("/api/vps-servers/{vps}/{action}"), None).unwrap();
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()["operation"]["id"].as_str().unwrap().to_owned()
}

type Told = (Instant, String, String);

/// Operations' news, each with the moment it came.
fn follow(mut client: Client) -> Receiver<Told> {
    let (sender, receiver) = sync_channel(100_000);
    assert_eq!(client.follow("/api/events").unwrap(), 200);
    std::thread::spawn(move || {
        // Ends with the connection or with the bench.
        while let Ok(line) = client.line() {
            let at = Instant::now();
            let Some(data) = line.strip_prefix("data:") else { continue };
            let event: serde_json::Value = serde_json::from_str(data.trim()).unwrap_or_default();
            let (id, message) =
                (event["id"].as_str().unwrap_or_default(), event["message"].as_str().unwrap_or_default());
            if sender.send((at, id.to_owned(), message.to_owned())).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Taken {
    events: Receiver<Told>,
    at: BTreeMap<String, Instant>,
}

impl Taken {
    /// When the host of an operation was first said to have taken it.
    fn when(&mut self, operation: &str, most: Duration) -> Option<Instant> {
        let deadline = Instant::now() + most;
        loop {
            if let Some(at) = self.at.get(operation) {
                return Some(*at);
            }
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, id, message))
                    if message.contains(" running: ") || message.contains(" succeeded: ") =>
                {
                    self.at.entry(id).or_insert(at);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("the event stream ended"),
            }
        }
    }
}

/// kill -9 of the orchestrator under agents that run on, jitter and all.
fn ran_on(world: &mut World, agents: &mut Agents) -> Vec<Line> {
    let (_, before) = agents.welcomes();
    world.kill_9();
    world.start();
    let began = Instant::now();
    let wanted = before + AGENTS as u64;
    let lost = loop {
        let (connected, welcomes) = agents.welcomes();
        if connected == AGENTS && welcomes >= wanted {
            break 0;
        }
        if began.elapsed() >= BACK_SECONDS_MAX {
            break AGENTS - connected;
        }
        pass(Duration::from_millis(50));
    };
    let what = "kill -9 of the orchestrator under running agents";
    vec![
        Line::new(format!("{what}: all are back, their pauses included"), began.elapsed().as_secs_f64(), "s"),
        Line::new(format!("{what}: agents lost"), lost as f64, "").target(Target::ValueAtMost(0.0)),
    ]
}

/// All agents dial a restarted orchestrator without pauses, beside bare handshakes.
fn reconnects(world: &mut World) -> Vec<Line> {
    let (mut real, mut bare, mut lost, mut each) = (Vec::new(), Vec::new(), 0, 0.0);
    for _ in 0..ROUNDS {
        bare.push(floor::seconds(world, AGENTS, WINDOW));
        world.kill_9();
        world.start();
        let mut agents = Agents::start(world);
        let (welcomed, seconds, median) = agents.go();
        real.push(seconds);
        lost += AGENTS - welcomed;
        each = median;
        agents.role.end();
        all_gone(world);
    }
    println!("dial to Welcome {real:.2?} s (each {each:.0} ms), bare {bare:.2?} s, load {}", measure::load());
    vec![
        Line::new(
            format!("{AGENTS} agents reconnect after a restart, dial to Welcome, {WINDOW} at once"),
            median(real),
            "s",
        )
        .beside("bare quinn handshakes, mTLS, ring", median(bare))
        .target(Target::RatioAtMost(1.5)),
        Line::new("the same: agents lost", lost as f64, "").target(Target::ValueAtMost(0.0)),
    ]
}

/// The machine is quiet again once the orchestrator has noticed.
fn all_gone(world: &World) {
    let mut client = world.client();
    wait_for("the agents to be gone", BACK_SECONDS_MAX, || {
        let before = measure::cpu_seconds_of(world.pid()).unwrap();
        pass(Duration::from_secs(1));
        let spent = measure::cpu_seconds_of(world.pid()).unwrap() - before;
        let answer = client.call("GET", "/healthz", None).unwrap().status;
        if spent < 0.05 {
            Ok(())
        } else {
            Err(format!("{spent:.2} s of processor time in a second, HTTP {answer}"))
        }
    });
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
