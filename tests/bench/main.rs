//! The benches: what CHOM costs and how fast it is, each figure beside its floor or peer of the same run, in one table.
//! Run it through `tests/bench/run.sh`. Exit code 1: a target was missed or could not be measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "like the tests, it fails by panicking, starts programs, sleeps while it measures, and reads the clock"
)]

use std::process::ExitCode;

mod agents;
mod answers;
mod api;
mod bare;
mod client;
mod containers;
mod creates;
mod floor;
mod host;
mod images;
mod measure;
mod real_host;
mod rest;
mod role;
mod scale;
mod seed;
mod table;
mod world;

use table::Line;

/// A group of rows that share what they set up.
struct Bench {
    name: &'static str,
    about: &'static str,
    run: fn() -> Vec<Line>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "host",
        about: "the agent beside prometheus-node-exporter, and create to running",
        run: host::measure,
    },
    Bench {
        name: "containers",
        about: "a container from request to running, and twenty of them at rest",
        run: containers::measure,
    },
    Bench { name: "rest", about: "an agent with 100 VPSs at rest", run: rest::measure },
    Bench { name: "images", about: "an image of 200 MB from orchestrator to agent", run: images::measure },
    Bench { name: "scale", about: "2,000 agents on one orchestrator", run: scale::measure },
    Bench {
        name: "answers",
        about: "API answers and durable creates over a full store",
        run: answers::measure,
    },
    Bench { name: "api", about: "the API over 10,000 hosts and 200,000 VPSs", run: api::measure },
    Bench { name: "creates", about: "200 creates at the same moment over 20 hosts", run: creates::measure },
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role, words @ ..] = wanted.as_slice()
        && flag == "--role"
    {
        match role.as_str() {
            "agents" => agents::run(words),
            "bare" => bare::serve(words),
            "floor-server" => floor::serve(words),
            "floor-client" => floor::connect(words),
            other => panic!("no role `{other}`"),
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = wanted.iter().find(|name| BENCHES.iter().all(|bench| bench.name != **name)) {
        eprintln!("chom-bench: there is no bench `{unknown}`; there are:");
        BENCHES.iter().for_each(|bench| eprintln!("  {:10} {}", bench.name, bench.about));
        return ExitCode::from(2);
    }
    let mut lines = Vec::new();
    for bench in
        BENCHES.iter().filter(|bench| wanted.is_empty() || wanted.iter().any(|name| name == bench.name))
    {
        println!("== {}: {}; load {}", bench.name, bench.about, measure::load());
        // A bench that breaks is a row of the table, not the end of the others.
        match std::panic::catch_unwind(bench.run) {
            Ok(more) => lines.extend(more),
            Err(_) => lines.push(
                Line::missing(bench.about, "the bench broke off; see above")
                    .target(table::Target::ValueAtMost(0.0)),
            ),
        }
    }
    println!("\n{}", table::render(&lines));
    let missed = lines.iter().filter(|line| line.met() == Some(false)).count();
    println!("{missed} missed");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
