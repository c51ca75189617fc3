//! An agent with 100 VPSs that need nothing: what it takes in memory, and what its passes cost. The engine is the fake one, so
//! that only the agent is measured; `containers` has a real one.

use std::time::{Duration, Instant};

use chom_tests::agent::Agent;
use chom_tests::wait::{pass, wait_for};

use crate::measure::{self, Memory};
use crate::table::{Line, Target};
use crate::world::{Shape, World};

const VPS_COUNT: usize = 100;
/// Reports and passes at the product's pace, and long enough for three of its passes.
pub(crate) const WINDOW: Duration = Duration::from_secs(90);
const SETTLED_SECONDS_MAX: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_secs(10);

/// The rows of an agent at rest.
pub(crate) fn measure() -> Vec<Line> {
    let mut world = World::new(&Shape::default());
    world.start();
    let mut client = world.client();
    let mut agent = Agent::with_state(world.folder().join("agent"));
    let added =
        client.call("POST", "/api/hosts", Some(r#"{"name":"bench","region":"us-east"}"#)).unwrap().json();
    let _ = agent.enrol(added["join_code"].as_str().unwrap()).well("chom-agent enrol");
    agent.run();
    for number in 0..VPS_COUNT {
        let body = format!(r#"{{"name":"rest-{number}","region":"us-east","size":"small"}}"#);
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
    let share = (measure::cpu_seconds_of(pid).unwrap() - before) / began.elapsed().as_secs_f64();
    let memory = Memory::of(pid).unwrap();
    println!("{VPS_COUNT} VPSs at rest for {} s, {memory:?}, load {}", WINDOW.as_secs(), measure::load());
    drop(agent);
    world.stop();
    vec![
        Line::new("agent with 100 VPSs: RSS", memory.rss_kib / 1024.0, "MiB")
            .target(Target::ValueAtMost(12.0)),
        Line::new(
            "agent with 100 VPSs at rest, a pass each 30 s, two reports with samples besides, of a core",
            share * 100.0,
            "%",
        )
        .target(Target::ValueAtMost(1.0)),
    ]
}
