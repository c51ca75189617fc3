//! An agent with 100 VPSs that need nothing: what it takes in memory, and what its passes cost. The engine is the fake one, so
//! that only the agent is measured; `containers` has a real one.

use std::time::{Duration, Instant};

use chom_tests::agent::Agent;
use chom_tests::wait::{pass, wait_for};

use crate::measure::{self, Memory};
use crate::table::{Line, Target};
use crate::world::{Shape, World};

const VPS_COUNT: usize = 100;
/// A tick of 15 s scaled to one second; passes alike. Of that pass each 30 s is what the target speaks of.
const PASS_SECONDS: u32 = 1;
pub(crate) const PRODUCT_PASS_SECONDS: f64 = 30.0;
const SETTLED_SECONDS_MAX: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(60);

/// The rows of an agent at rest.
pub(crate) fn measure() -> Vec<Line> {
    let mut world = World::new(&Shape {
        report_seconds: PASS_SECONDS,
        reconcile_seconds: PASS_SECONDS,
        ..Shape::default()
    });
    world.start();
    let mut client = world.client();
    let mut agent = Agent::with_state(world.folder().join("agent"));
    let added =
        client.call("POST", "/api/hosts", Some(r#"{"name":"bench","region":"us-east"}"#)).unwrap().json();
    let _ = agent.enrol(added["join_code"].as_str().unwrap()).well("chom-agent enrol");
    agent.run();
    for number in 0..VPS_COUNT {
        let body = format!(r#"{{"name":"rest-{number}","region":"us-east","size":"tiny"}}"#);
        wait_for("the host to take a VPS", SETTLED_SECONDS_MAX, || {
            let answer = client.call("POST", "/api/vps-servers", Some(&body)).unwrap();
            if answer.status == 202 { Ok(()) } else { Err(answer.json().to_string()) }
        });
    }
    wait_for("all of them to run", SETTLED_SECONDS_MAX, || {
        let page = client.call("GET", "/api/vps-servers?limit=200", None).unwrap().json();
        let rows = page["items"].as_array().cloned().unwrap_or_default();
        let run = rows.iter().filter(|row| row["observed"]["state"] == "running").count();
        if run == VPS_COUNT { Ok(()) } else { Err(format!("{run} run")) }
    });
    pass(WARM_UP);
    let pid = agent.pid();
    let (before, began) = (measure::cpu_seconds_of(pid).unwrap(), Instant::now());
    pass(WINDOW);
    let passes = began.elapsed().as_secs_f64() / f64::from(PASS_SECONDS);
    let each = (measure::cpu_seconds_of(pid).unwrap() - before) / passes;
    let memory = Memory::of(pid).unwrap();
    println!(
        "{passes:.0} passes, reports and samples of {VPS_COUNT} VPSs, {memory:?}, load {}",
        measure::load()
    );
    drop(agent);
    world.stop();
    vec![
        Line::new("agent with 100 VPSs: RSS", memory.rss_kib / 1024.0, "MiB")
            .target(Target::ValueAtMost(12.0)),
        Line::new(
            "one pass with 100 VPSs at rest (with its report and samples), of a core at a pass each 30 s",
            each / PRODUCT_PASS_SECONDS * 100.0,
            "%",
        )
        .target(Target::ValueAtMost(1.0)),
    ]
}
