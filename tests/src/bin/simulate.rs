//! Runs many agents in one process, for benches and for looking at a large fleet. Guests are entries in memory.
//!
//! Usage: `chom-simulate FOLDER CODES [THREADS]`. CODES is a file with one join code a line; a host of FOLDER that is
//! enrolled already keeps its place in it. Prints `enrolled N in S s` and `connected N in S s`, and runs until SIGTERM.
#![expect(clippy::expect_used, reason = "a test program fails by panicking")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chom_tests::simulation::{Simulation, enrol};
use tokio::signal::unix::{SignalKind, signal};

/// Thousands of handshakes, with pauses of up to a minute after one that was turned away.
const CONNECTED_DEADLINE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, codes, threads) = match arguments.as_slice() {
        [folder, codes] => (PathBuf::from(folder), codes, 1),
        [folder, codes, threads] => {
            (PathBuf::from(folder), codes, threads.parse().expect("THREADS is a number"))
        }
        _ => {
            eprintln!("usage: chom-simulate FOLDER CODES [THREADS]");
            return ExitCode::from(2);
        }
    };
    let codes = std::fs::read_to_string(codes).expect("CODES can be read");
    let codes: Vec<String> = codes.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(run(folder, codes));
    ExitCode::SUCCESS
}

async fn run(folder: PathBuf, codes: Vec<String>) {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened for");
    let (started, count) = (Instant::now(), codes.len());
    let folders = enrol(&folder, codes).await;
    println!("enrolled {count} in {:.1} s", started.elapsed().as_secs_f64());
    let simulation = Simulation::start(&folders);
    let took = simulation.all_connected(1, CONNECTED_DEADLINE).await;
    println!("connected {count} in {:.1} s", took.as_secs_f64());
    terminate.recv().await;
    simulation.stop().await.expect("all agents end when asked");
}
