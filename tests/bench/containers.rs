//! Containers on a real host with Incus: how long one takes from request to running, beside `incus launch` of the same image
//! with the same limits and card; and what twenty of them at rest cost the agent.

use std::time::{Duration, Instant};

use chom_protocol::vps::Engine;
use chom_tests::wait::pass;

use crate::measure::{self, Memory};
use crate::real_host::{self, RealHost, cpu, on_host, pid_of};
use crate::rest::WINDOW;
use crate::scale::median;
use crate::table::{Line, Target};
use crate::world::Shape;

/// So often one is created by CHOM, and one launched by hand; medians count.
const ROUNDS: usize = 9;
/// As many as the target speaks of.
const AT_REST: usize = 20;
const WARM_UP: Duration = Duration::from_secs(10);

/// The rows of containers.
pub(crate) fn measure() -> Vec<Line> {
    if let Err(why) = real_host::check() {
        return vec![Line::missing("containers on a real host", why).target(Target::ValueAtMost(0.0))];
    }
    let mut host = RealHost::up(Engine::Incus, Shape::default());
    let mut lines = vec![create_to_running(&mut host)];
    lines.extend(at_rest(&mut host));
    host.world.stop();
    lines
}

fn create_to_running(host: &mut RealHost) -> Line {
    // The first one brings the image to the host.
    let (first, _) = host.create("first");
    profile(&first);
    let (mut ours, mut incus) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let (id, took) = host.create(&format!("timed-{number}"));
        ours.push(took.as_secs_f64() * 1000.0);
        host.order("DELETE", &format!("/api/vps-servers/{id}"));
        host.order("POST", &format!("/api/vps-servers/{id}/purge"));
        incus.push(launch_ms());
    }
    println!("create to running {ours:.0?} ms, incus launch {incus:.0?} ms, load {}", measure::load());
    Line::new("container from a cached image (request to the operation's end)", median(ours), "ms")
        .beside("incus launch, same image, limits and card", median(incus))
        .target(Target::RatioAtMost(1.15))
}

/// A profile with what CHOM's containers have.
fn profile(of: &str) {
    let script = r#"
        set -eu
        container=$(incus list -f csv -c n | grep "$1")
        incus profile create bench >/dev/null
        incus profile set bench limits.cpu="$(incus config get "$container" limits.cpu)"
        incus profile set bench limits.memory="$(incus config get "$container" limits.memory)"
        pool=$(incus config device get "$container" root pool)
        incus profile device add bench root disk path=/ pool="$pool" size="$(incus config device get "$container" root size)" >/dev/null
        incus profile device add bench eth0 nic nictype=bridged parent="$(incus config device get "$container" eth0 parent)" >/dev/null"#;
    on_host(&["bash", "-c", script, "bash", of]);
}

/// Launches one by hand; milliseconds of the command.
fn launch_ms() -> f64 {
    let script = r#"
        set -eu
        image=$(incus image list -f csv -c F)
        began=$EPOCHREALTIME
        incus launch "$image" bench-copy -p bench >/dev/null
        ended=$EPOCHREALTIME
        echo $(((${ended/./} - ${began/./}) / 1000))
        incus delete -f bench-copy"#;
    on_host(&["bash", "-c", script]).lines().last().unwrap().parse().unwrap()
}

fn at_rest(host: &mut RealHost) -> Vec<Line> {
    // One runs already.
    for number in 1..AT_REST {
        host.create(&format!("rest-{number}"));
    }
    let agent = pid_of("chom-agent");
    pass(WARM_UP);
    let (before, began) = (cpu(&agent), Instant::now());
    pass(WINDOW);
    let share = (cpu(&agent) - before) / began.elapsed().as_secs_f64();
    let memory = Memory::parse(&on_host(&["cat", &format!("/proc/{agent}/smaps_rollup")]));
    println!("{AT_REST} containers at rest, {memory:?}, load {}", measure::load());
    vec![
        Line::new("agent with 20 containers: RSS", memory.rss_kib / 1024.0, "MiB")
            .target(Target::ValueAtMost(12.0)),
        Line::new(
            "agent with 20 containers at rest, a pass each 30 s, two reports with samples besides, of a core",
            share * 100.0,
            "%",
        )
        .target(Target::ValueAtMost(1.0)),
    ]
}
