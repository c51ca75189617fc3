//! Two hundred creates at the same moment over twenty hosts: how long the slowest wait, and that no two get the same.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Instant;

use crate::measure::{self, Times};
use crate::table::{Line, Target};
use crate::world::{Shape, World};

const HOSTS: usize = 20;
const CREATES: usize = 200;
/// Rounds, each with names of its own: one alone has two answers above its 99th percentile.
const ROUNDS: usize = 5;
const ANSWER_MS_MAX: f64 = 100.0;

/// The one row.
pub(crate) fn measure() -> Vec<Line> {
    // Nothing reports here: the hosts were seen when the store was filled, and stay seen.
    let shape = Shape { hosts: HOSTS, unreachable_after_seconds: 24 * 60 * 60, ..Shape::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut world = World::new(&shape);
    runtime.block_on(world.fill(&shape));
    world.start();
    let (mut times, mut names, mut addresses) = (Times::default(), BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let start = Barrier::new(CREATES);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = |n: usize| {
                let (mut client, start) = (world.client(), &start);
                scope.spawn(move || {
                    let body =
                        format!(r#"{{"name":"at-once-{round}-{n}","region":"us-east","size":"small"}}"#);
                    start.wait();
                    let began = Instant::now();
                    let answer = client.call("POST", "/api/vps-servers", Some(&body)).unwrap();
                    (began.elapsed(), answer)
                })
            };
            // All are connected before the first one asks.
            let asked: Vec<_> = (0..CREATES).map(ask).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for (time, answer) in answers {
            assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
            times.push(time);
            let vps = answer.json()["vps"].clone();
            assert!(names.insert(vps["name"].to_string()), "a name twice: {vps}");
            assert!(addresses.insert((vps["host"].to_string(), vps["addresses"].to_string())), "{vps}");
        }
    }
    world.stop();
    let (p50, p99) = (times.percentile_ms(50.0), times.percentile_ms(99.0));
    println!(
        "{CREATES} creates at once, {ROUNDS} rounds: p50 {p50:.1} ms, p99 {p99:.1} ms, load {}",
        measure::load()
    );
    vec![
        Line::new(format!("{CREATES} creates at once over {HOSTS} hosts, p99"), p99, "ms")
            .target(Target::ValueAtMost(ANSWER_MS_MAX)),
    ]
}
