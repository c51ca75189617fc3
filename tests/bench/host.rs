//! A real host (a systemd machine of its own with libvirt and a VPS that runs): what the agent and its helper take there,
//! beside prometheus-node-exporter asked at the same pace; and how long a create takes, beside virsh with the same domain.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use chom_tests::process::program;
use chom_tests::wait::{pass, wait_for};

use crate::client::Client;
use crate::measure::{self, Memory};
use crate::scale::median;
use crate::table::{Line, Target};
use crate::world::{Shape, World};

const FLEET: &str = "bench";
const FLEET_NET: &str = "7";
const FLEET_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 7, 1);
const HOST: &str = "bench";
const EXPORTER: &str = "/usr/bin/prometheus-node-exporter";
const EXPORTER_PORT: u16 = 9100;
/// A tick of 15 s scaled to one second; passes of the reconciler alike.
const REPORT_SECONDS: u32 = 1;
const RECONCILE_SECONDS: u32 = 2;
/// Until both have taken what they take at first.
const WARM_UP: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(150);
/// Booting a host, enrolling, KVM proven or not.
const USABLE_SECONDS_MAX: Duration = Duration::from_secs(120);
/// One change of a VPS.
const OPERATION_SECONDS_MAX: Duration = Duration::from_secs(120);
/// So often a VPS is created, and its copy started by virsh; medians count.
const CREATES: usize = 5;

/// The rows of one host.
pub(crate) fn measure() -> Vec<Line> {
    let what = "agent and create to running on a real host";
    let refused = |why: &str| vec![Line::missing(what, why).target(Target::ValueAtMost(0.0))];
    let check = fleet(&["check"]);
    if !check.status.success() {
        return refused(&String::from_utf8_lossy(&check.stderr));
    }
    if !Path::new(EXPORTER).exists() {
        return refused(
            "prometheus-node-exporter is not installed: run tests/fleet/setup.sh prometheus-node-exporter",
        );
    }
    let _cleanup = Cleanup;
    let mut bench = HostBench::up();
    let mut lines = bench.footprint();
    lines.push(bench.create_to_running());
    bench.world.stop();
    lines
}

struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        let gone = fleet(&["down-all"]);
        if !gone.status.success() {
            eprintln!("cannot remove the bench's host: {}", String::from_utf8_lossy(&gone.stderr));
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet").join(name)
}

fn fleet(words: &[&str]) -> Output {
    let mut command = Command::new(script("fleet.sh"));
    command.args(words).env("CHOM_FLEET", FLEET).env("CHOM_FLEET_NET", FLEET_NET).stdin(Stdio::null());
    command.output().unwrap()
}

fn fleet_well(words: &[&str]) -> String {
    let output = fleet(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "fleet.sh {words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn on_host(words: &[&str]) -> String {
    fleet_well(&[&["exec", HOST], words].concat())
}

struct HostBench {
    world: World,
    client: Client,
    address: String,
}

impl HostBench {
    fn up() -> Self {
        let image = Command::new(script("image.sh")).output().unwrap();
        assert!(image.status.success(), "image.sh: {}", String::from_utf8_lossy(&image.stderr));
        let image = PathBuf::from(String::from_utf8_lossy(&image.stdout).trim());
        fleet_well(&["net-up"]);
        let mut world = World::new(&Shape {
            report_seconds: REPORT_SECONDS,
            reconcile_seconds: RECONCILE_SECONDS,
            address: FLEET_ADDRESS,
            image: Some(image),
            ..Shape::default()
        });
        world.start();
        let mut client = world.client();
        let address = fleet_well(&["up", HOST]);
        let programs = program("chom-agent");
        fleet_well(&["install-agent", HOST, programs.parent().unwrap().to_str().unwrap()]);
        let added =
            client.call("POST", "/api/hosts", Some(r#"{"name":"bench","region":"us-east"}"#)).unwrap().json();
        on_host(&["chom-agent", "enrol", added["join_code"].as_str().unwrap()]);
        on_host(&["systemctl", "enable", "--now", "--no-block", "chom-agent"]);
        wait_for("the host to be usable", USABLE_SECONDS_MAX, || {
            let page = client.call("GET", "/api/hosts", None).unwrap().json();
            let host = &page["items"][0];
            let engines = host["engines"].as_array().cloned().unwrap_or_default();
            let works = engines.iter().any(|engine| engine["problem"].is_null());
            if host["state"] == "connected" && works { Ok(()) } else { Err(host.to_string()) }
        });
        Self { world, client, address }
    }

    /// Creates a VPS; gives its id and the time from the request to its operation's end.
    fn create(&mut self, name: &str) -> (String, Duration) {
        let began = Instant::now();
        let body = format!(r#"{{"name":"{name}","region":"us-east","size":"small"}}"#);
        let made = self.client.call("POST", "/api/vps-servers", Some(&body)).unwrap();
        assert_eq!(made.status, 202, "{}", String::from_utf8_lossy(&made.body));
        let made = made.json();
        self.await_operation(made["operation"]["id"].as_str().unwrap());
        (made["vps"]["id"].as_str().unwrap().to_owned(), began.elapsed())
    }

    fn order(&mut self, method: &str, path: &str) {
        let answer = self.client.call(method, path, None).unwrap();
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
        self.await_operation(answer.json()["operation"]["id"].as_str().unwrap());
    }

    fn await_operation(&mut self, id: &str) {
        let deadline = Instant::now() + OPERATION_SECONDS_MAX;
        loop {
            let operation = self.client.call("GET", &format!("/api/operations/{id}"), None).unwrap().json();
            match operation["state"].as_str() {
                Some("succeeded") => return,
                Some("pending" | "running") if Instant::now() < deadline => pass(Duration::from_millis(5)),
                _ => panic!("{operation}"),
            }
        }
    }

    fn footprint(&mut self) -> Vec<Line> {
        self.create("footprint");
        fleet_well(&["push", HOST, EXPORTER, EXPORTER]);
        on_host(&["systemd-run", "--quiet", "--unit=node-exporter", EXPORTER]);
        let asked = format!("{}:{EXPORTER_PORT}", self.address);
        wait_for("node-exporter to answer", USABLE_SECONDS_MAX, || {
            scrape(&asked).map_err(|error| error.to_string())
        });
        let pid = |name: &str| on_host(&["pgrep", "-x", name]).lines().next().unwrap().to_owned();
        // The kernel keeps 15 characters of a name.
        let pids = [pid("chom-agent"), pid("chom-agent-libv"), pid("prometheus-node")];
        ask_for(&asked, WARM_UP);
        let before = pids.each_ref().map(|pid| cpu(pid));
        let began = Instant::now();
        let scrapes = ask_for(&asked, WINDOW);
        let after = pids.each_ref().map(|pid| cpu(pid));
        let seconds = began.elapsed().as_secs_f64();
        // The old connection was idle for longer than the API keeps one.
        self.client = self.world.client();
        let [agent, helper, exporter] = pids
            .each_ref()
            .map(|pid| Memory::parse(&on_host(&["cat", &format!("/proc/{pid}/smaps_rollup")])));
        let [agent_cpu, helper_cpu, exporter_cpu]: [f64; 3] =
            std::array::from_fn(|place| (after[place] - before[place]) * 1000.0 / scrapes as f64);
        println!(
            "{scrapes} reports in {seconds:.0} s; agent {agent:?}, helper {helper:?}, exporter {exporter:?}, load {}",
            measure::load()
        );
        let peer = "prometheus-node-exporter";
        vec![
            Line::new("agent: RSS", agent.rss_kib / 1024.0, "MiB")
                .beside(peer, exporter.rss_kib / 1024.0)
                .target(Target::ValueAtMost(8.0)),
            Line::new("agent: PSS", agent.pss_kib / 1024.0, "MiB")
                .beside(peer, exporter.pss_kib / 1024.0)
                .target(Target::RatioAtMost(0.25)),
            Line::new("agent: anonymous memory", agent.anonymous_kib / 1024.0, "MiB")
                .beside(peer, exporter.anonymous_kib / 1024.0),
            Line::new("agent and libvirt helper: RSS", (agent.rss_kib + helper.rss_kib) / 1024.0, "MiB")
                .beside(peer, exporter.rss_kib / 1024.0),
            Line::new("agent and libvirt helper: PSS", (agent.pss_kib + helper.pss_kib) / 1024.0, "MiB")
                .beside(peer, exporter.pss_kib / 1024.0)
                .target(Target::RatioAtMost(0.6)),
            Line::new(
                "agent and libvirt helper: anonymous memory",
                (agent.anonymous_kib + helper.anonymous_kib) / 1024.0,
                "MiB",
            )
            .beside(peer, exporter.anonymous_kib / 1024.0),
            Line::new("agent: processor for each report", agent_cpu, "ms").beside(peer, exporter_cpu),
            Line::new("agent and libvirt helper: processor for each report", agent_cpu + helper_cpu, "ms")
                .beside(peer, exporter_cpu)
                .target(Target::RatioAtMost(0.5)),
        ]
    }

    fn create_to_running(&mut self) -> Line {
        let (mut ours, mut virsh) = (Vec::new(), Vec::new());
        for number in 0..CREATES {
            let (id, took) = self.create(&format!("timed-{number}"));
            ours.push(took.as_secs_f64() * 1000.0);
            self.order("POST", &format!("/api/vps-servers/{id}/stop"));
            virsh.push(virsh_ms(&id));
            self.order("DELETE", &format!("/api/vps-servers/{id}"));
        }
        println!("create to running {ours:.0?} ms, virsh {virsh:.0?} ms, load {}", measure::load());
        Line::new("create to running, image on the host (request to the operation's end)", median(ours), "ms")
            .beside("virsh define + virsh start, same domain", median(virsh))
            .target(Target::MoreByAtMost(300.0))
    }
}

/// Defines and starts the same domain under another name, by hand; milliseconds of the two commands.
fn virsh_ms(id: &str) -> f64 {
    let script = r#"
        set -eu
        export LIBVIRT_DEFAULT_URI=qemu:///system
        domain=$(virsh list --all --name | grep "$1" | head -n 1)
        virsh dumpxml --inactive "$domain" | sed -e 's,<name>.*</name>,<name>bench-copy</name>,' -e '/<uuid>/d' >/tmp/copy.xml
        began=$EPOCHREALTIME
        virsh -q define /tmp/copy.xml >/dev/null
        virsh -q start bench-copy >/dev/null
        ended=$EPOCHREALTIME
        echo $(((${ended/./} - ${began/./}) / 1000))
        virsh -q destroy bench-copy >/dev/null
        virsh -q undefine bench-copy >/dev/null"#;
    on_host(&["bash", "-c", script, "bash", id]).parse().unwrap()
}

fn cpu(pid: &str) -> f64 {
    measure::cpu_seconds(&on_host(&["cat", &format!("/proc/{pid}/stat")]))
}

/// Asks once a second for so long; how often.
fn ask_for(address: &str, time: Duration) -> u32 {
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < time {
        scrape(address).unwrap();
        count += 1;
        pass((Duration::from_secs(1) * count).saturating_sub(began.elapsed()));
    }
    count
}

fn scrape(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other("no metrics")) }
}
