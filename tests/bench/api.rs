//! The API over 10,000 hosts and 200,000 VPSs: lists with a filter, one VPS beside a bare handler, the start, the memory, and how
//! soon a thousand event streams have a change. `CHOM_BENCH_HOSTS` makes the fleet smaller, to try whether all of it works.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use chom_tests::seed::Chance;

use crate::bare::BODY_FILE;
use crate::client::Target as Api;
use crate::floor;
use crate::measure::{self, Times};
use crate::role::Role;
use crate::seed::{self, TENANTS};
use crate::table::{Line, Target};
use crate::world::{Shape, World};

const HOSTS: usize = 10_000;
const VPS_PER_HOST: usize = 20;
const CLIENTS: usize = 64;
/// How long each kind of request is kept up, and how long before it is counted.
const COUNTED: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(1);
const LIST_MS_MAX: f64 = 20.0;
const START_SECONDS_MAX: f64 = 10.0;
const MEMORY_GIB_MAX: f64 = 1.5;
const STREAMS: usize = 1_000;
/// As many as the API lets one token have.
const STREAMS_PER_TOKEN: usize = 32;
/// Changes that all streams are to have.
const ROUNDS: usize = 10;
const CHANGE_MS_MAX: f64 = 250.0;
/// Some memory for a thread that only reads lines.
const STACK_BYTES: usize = 256 * 1024;
/// A change that a stream does not have by then ends the bench.
const PATIENCE: Duration = Duration::from_secs(30);

/// The path of a request, by a number that is never the same for long.
type PathOf = fn(u64) -> String;

/// All rows.
pub(crate) fn measure() -> Vec<Line> {
    let hosts = std::env::var("CHOM_BENCH_HOSTS").map_or(HOSTS, |text| text.parse().unwrap());
    // Nothing reports here: the hosts were seen when the store was filled, and stay seen.
    let shape = Shape { unreachable_after_seconds: 24 * 60 * 60, ..Shape::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut world = World::new(&shape);
    let began = Instant::now();
    runtime.block_on(seed::fill(&world, hosts, VPS_PER_HOST));
    runtime.block_on(floor::prepare(&world));
    let of = format!("{hosts} hosts, {} VPSs", hosts * VPS_PER_HOST);
    println!("filled with {of} in {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    world.start();
    let started = began.elapsed().as_secs_f64();
    let mut lines = vec![
        Line::new(format!("start until /readyz, {of}"), started, "s")
            .target(Target::ValueAtMost(START_SECONDS_MAX)),
    ];
    let all = lists(&world, "all hosts seen");
    lines.push(
        Line::new(format!("list of 100 VPSs with a filter, {CLIENTS} clients, p99"), all, "ms")
            .target(Target::ValueAtMost(LIST_MS_MAX)),
    );
    lines.extend(shows(&world));
    let memory = measure::Memory::of(world.pid()).unwrap();
    lines.push(
        Line::new(format!("memory with {of} (RSS)"), memory.rss_kib / (1024.0 * 1024.0), "GiB")
            .target(Target::ValueAtMost(MEMORY_GIB_MAX)),
    );
    lines.push(streams(&world));
    world.stop();

    runtime.block_on(seed::lose_three_of_ten(&world));
    world.start();
    let gone = lists(&world, "30 % of the hosts gone");
    world.stop();
    lines.push(
        Line::new("the same list with 30 % of the hosts gone, p99", gone, "ms")
            .beside("all hosts seen", all)
            .target(Target::RatioAtMost(1.1)),
    );
    lines
}

/// The 99th percentile of the list that is judged; the others are only shown.
fn lists(world: &World, when: &str) -> f64 {
    let judged =
        |n: u64| format!("/api/vps-servers?tenant=tenant-{}&region=us-east&limit=100", n % TENANTS as u64);
    let shown: [(&str, PathOf); 3] = [
        ("in a state", |_| "/api/vps-servers?state=running&limit=100".to_owned()),
        ("newest first in a region", |_| {
            "/api/vps-servers?region=us-east&sort=-created_at&limit=100".to_owned()
        }),
        ("text in a name, of a tenant", |n| {
            format!("/api/vps-servers?tenant=tenant-{}&q={}&limit=100", n % TENANTS as u64, n % 10)
        }),
    ];
    let p99 = |what: &str, path: PathOf| {
        let times = asked(&world.target(), path).0;
        let (p50, p99) = (times.percentile_ms(50.0), times.percentile_ms(99.0));
        println!("  list, {what}, {when}: {} answers, p50 {p50:.1} ms, p99 {p99:.1} ms", times.count());
        p99
    };
    for (what, path) in shown {
        p99(what, path);
    }
    p99("of a tenant in a region", judged)
}

/// How long answers took, and how many came each second.
fn asked(api: &Api, path: PathOf) -> (Times, f64) {
    let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS as u64)
        .map(|number| {
            let (api, stop, counts) = (api.clone(), Arc::clone(&stop), Arc::clone(&counts));
            std::thread::spawn(move || {
                let (mut client, mut chance) = (api.connect().unwrap(), Chance::of(number));
                let mut times = Times::default();
                while !stop.load(Ordering::Relaxed) {
                    let path = path(chance.below(1_000_000));
                    let began = Instant::now();
                    let answer = client.call("GET", &path, None).unwrap();
                    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
                    if counts.load(Ordering::Relaxed) {
                        times.push(began.elapsed());
                    }
                }
                times
            })
        })
        .collect();
    chom_tests::wait::pass(WARM_UP);
    counts.store(true, Ordering::Relaxed);
    let began = Instant::now();
    chom_tests::wait::pass(COUNTED);
    let seconds = began.elapsed().as_secs_f64();
    counts.store(false, Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    let mut all = Times::default();
    clients.into_iter().for_each(|client| all.extend(client.join().unwrap()));
    let rate = all.count() as f64 / seconds;
    (all, rate)
}

/// Which VPS is shown: set once, before any client asks.
static SHOWN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// One VPS, beside a handler that does nothing but give the same bytes.
fn shows(world: &World) -> Vec<Line> {
    let listed = world.client().call("GET", "/api/vps-servers?limit=1", None).unwrap().json();
    let path = format!("/api/vps-servers/{}", listed["items"][0]["id"].as_str().unwrap());
    let body = world.client().call("GET", &path, None).unwrap().body;
    std::fs::write(world.folder().join(BODY_FILE), &body).unwrap();
    let _ = SHOWN.set(path);
    let shown = |_: u64| SHOWN.get().unwrap().clone();
    let (times, rate) = asked(&world.target(), shown);
    let (role, address) = Role::start("bare", &[world.folder().to_str().unwrap()]);
    let bare = Api::new(address.parse().unwrap(), &world.folder().join("state/ca.pem"), "none").unwrap();
    let (_, floor) = asked(&bare, shown);
    role.end();
    println!("  one VPS: {rate:.0}/s, p99 {:.1} ms; a bare handler: {floor:.0}/s", times.percentile_ms(99.0));
    vec![
        Line::new(format!("show one VPS, {CLIENTS} clients over kept connections"), rate, "/s")
            .beside("a bare axum handler, same bytes", floor)
            .target(Target::RatioAtLeast(0.5)),
    ]
}

/// How long until the last of all streams has a change: the worst of some.
fn streams(world: &World) -> Line {
    let mut client = world.client();
    let tokens: Vec<Api> = (0..STREAMS.div_ceil(STREAMS_PER_TOKEN))
        .map(|number| {
            let body = format!(r#"{{"name":"stream-{number}","role":"auditor"}}"#);
            let made = client.call("POST", "/api/tokens", Some(&body)).unwrap().json();
            world.target().with_token(made["secret"].as_str().unwrap())
        })
        .collect();
    let (arrived, arrivals) = mpsc::channel();
    let open = Arc::new(AtomicU64::new(0));
    for number in 0..STREAMS {
        let (api, arrived) = (tokens[number / STREAMS_PER_TOKEN].clone(), arrived.clone());
        let open = Arc::clone(&open);
        let read = move || {
            let mut stream = api.connect().unwrap();
            assert_eq!(stream.follow("/api/events?kind=host").unwrap(), 200);
            open.fetch_add(1, Ordering::Relaxed);
            // Ends with the orchestrator.
            while let Ok(line) = stream.line() {
                if line.starts_with("data: ") && arrived.send(Instant::now()).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(read).unwrap();
    }
    chom_tests::wait::wait_for("all streams to be open", PATIENCE, || match open.load(Ordering::Relaxed) {
        count if count == STREAMS as u64 => Ok(()),
        count => Err(format!("{count} are")),
    });
    let hosts = client.call("GET", "/api/hosts?limit=1", None).unwrap().json();
    let path = format!("/api/hosts/{}/cordon", hosts["items"][0]["id"].as_str().unwrap());
    let mut times = Times::default();
    for round in 0..ROUNDS {
        let body = format!(r#"{{"cordoned":{}}}"#, round % 2 == 0);
        let began = Instant::now();
        assert_eq!(client.call("POST", &path, Some(&body)).unwrap().status, 200);
        let last =
            (0..STREAMS).map(|_| arrivals.recv_timeout(PATIENCE).expect("a stream has no change")).max();
        times.push(last.unwrap().duration_since(began));
    }
    let (p50, worst) = (times.percentile_ms(50.0), times.percentile_ms(100.0));
    println!("  one change to {STREAMS} streams, {ROUNDS} rounds: p50 {p50:.1} ms, worst {worst:.1} ms");
    Line::new(
        format!("one change, {STREAMS} event streams open: the last has it, worst of {ROUNDS}"),
        worst,
        "ms",
    )
    .target(Target::ValueAtMost(CHANGE_MS_MAX))
}
