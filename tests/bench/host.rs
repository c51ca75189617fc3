//! A real host (a systemd machine of its own with libvirt and a VPS that runs): what the agent and its helper take there,
//! beside prometheus-node-exporter asked at the same pace; and how long a create takes, beside virsh with the same domain.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use chom_protocol::vps::Engine;
use chom_tests::wait::{pass, wait_for};

use crate::measure::{self, Memory};
use crate::real_host::{self, HOST, RealHost, USABLE_SECONDS_MAX, cpu, fleet_well, on_host, pid_of};
use crate::scale::median;
use crate::table::{Line, Target};
use crate::world::Shape;

const EXPORTER: &str = "/usr/bin/prometheus-node-exporter";
const EXPORTER_PORT: u16 = 9100;
/// Until both have taken what they take at first.
const WARM_UP: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(150);
/// So often a VPS is created, and its copy started by virsh; medians count.
const CREATES: usize = 5;

/// The rows of one host.
pub(crate) fn measure() -> Vec<Line> {
    let what = "agent and create to running on a real host";
    let refused = |why: &str| vec![Line::missing(what, why).target(Target::ValueAtMost(0.0))];
    if let Err(why) = real_host::check() {
        return refused(&why);
    }
    if !Path::new(EXPORTER).exists() {
        return refused(
            "prometheus-node-exporter is not installed: run tests/fleet/setup.sh prometheus-node-exporter",
        );
    }
    // A tick of 15 s scaled to one second; passes of the reconciler alike.
    let scaled = Shape { report_seconds: 1, reconcile_seconds: 2, ..Shape::default() };
    let mut bench = HostBench(RealHost::up(Engine::Libvirt, scaled));
    let mut lines = bench.footprint();
    lines.push(bench.create_to_running());
    bench.0.world.stop();
    lines
}

struct HostBench(RealHost);

impl HostBench {
    fn footprint(&mut self) -> Vec<Line> {
        self.0.create("footprint");
        fleet_well(&["push", HOST, EXPORTER, EXPORTER]);
        on_host(&["systemd-run", "--quiet", "--unit=node-exporter", EXPORTER]);
        let asked = format!("{}:{EXPORTER_PORT}", self.0.address);
        wait_for("node-exporter to answer", USABLE_SECONDS_MAX, || {
            scrape(&asked).map_err(|error| error.to_string())
        });
        let pids = ["chom-agent", "chom-agent-libv", "prometheus-node"].map(pid_of);
        ask_for(&asked, WARM_UP);
        let before = pids.each_ref().map(|pid| cpu(pid));
        let began = Instant::now();
        let scrapes = ask_for(&asked, WINDOW);
        let after = pids.each_ref().map(|pid| cpu(pid));
        let seconds = began.elapsed().as_secs_f64();
        // The old connection was idle for longer than the API keeps one.
        self.0.client = self.0.world.client();
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
            let (id, took) = self.0.create(&format!("timed-{number}"));
            ours.push(took.as_secs_f64() * 1000.0);
            self.0.order("POST", &format!("/api/vps-servers/{id}/stop"));
            virsh.push(virsh_ms(&id));
            self.0.order("DELETE", &format!("/api/vps-servers/{id}"));
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
