//! How soon the API answers 64 clients that never pause, over 2,000 hosts and 20,000 VPSs; and how many durable creates a
//! second it takes, beside the store's own group commits with the same rows and bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chom_orchestrator::fleet::RequestMark;
use chom_orchestrator::store::{Change, Commit, EVERYTHING, Key, sled};
use chom_tests::seed::Chance;
use futures_util::StreamExt as _;

use crate::client::{Client, Target as Api};
use crate::measure::{self, Times};
use crate::table::{Line, Target};
use crate::world::{Shape, World, caller, request};

const HOSTS: usize = 2_000;
const VPS_PER_HOST: usize = 10;
const CLIENTS: usize = 64;
/// How long the mix of requests is kept up: some 500 answers of each kind.
const MIX: Duration = Duration::from_secs(20);
/// How long creates are counted, and how long they run before.
const CREATES: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(2);
/// What the old system promised.
const ANSWER_MS_MAX: f64 = 100.0;
/// Reads are from memory.
const READ_MS_MAX: f64 = 20.0;
/// A Prometheus asks so often.
const SCRAPE: Duration = Duration::from_secs(5);

type Kind = (&'static str, &'static str);

/// Every answer but of event streams; `{vps}` and `{host}` stand for one of them, `{n}` for a number never used before.
const READS: [Kind; 14] = [
    ("GET", "/api/regions"),
    ("GET", "/api/sizes"),
    ("GET", "/api/images"),
    ("GET", "/api/hosts"),
    ("GET", "/api/hosts/{host}"),
    ("GET", "/api/vps-servers"),
    ("GET", "/api/vps-servers/{vps}"),
    ("GET", "/api/operations"),
    ("GET", "/api/operations/{operation}"),
    ("GET", "/api/alerts"),
    ("GET", "/api/alertmanager/smtp/config"),
    ("GET", "/api/openapi.json"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
];
const CHANGES: [Kind; 9] = [
    ("POST", "/api/vps-servers"),
    ("POST", "/api/vps-servers/{vps}/stop"),
    ("POST", "/api/vps-servers/{vps}/start"),
    ("POST", "/api/vps-servers/{vps}/restart"),
    ("POST", "/api/vps-servers/{vps}/hold"),
    ("DELETE", "/api/vps-servers/{vps}"),
    ("POST", "/api/vps-servers/{vps}/undelete"),
    ("POST", "/api/hosts"),
    ("POST", "/api/hosts/{host}/cordon"),
];

/// Both rows.
pub(crate) fn measure() -> Vec<Line> {
    // Nothing reports here: the hosts were seen when the store was filled, and stay seen.
    let shape = Shape {
        hosts: HOSTS,
        vps_per_host: VPS_PER_HOST,
        unreachable_after_seconds: 24 * 60 * 60,
        ..Shape::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut world = World::new(&shape);
    let began = Instant::now();
    runtime.block_on(world.fill(&shape));
    println!(
        "filled with {HOSTS} hosts and {} VPSs in {:.1} s",
        HOSTS * VPS_PER_HOST,
        began.elapsed().as_secs_f64()
    );
    world.start();
    let mut lines = answers(&world);
    let (creates, cores) = creates(&world);
    world.stop();
    let floor = runtime.block_on(store_rate(&world));
    lines.push(
        Line::new(format!("durable creates over HTTPS, {CLIENTS} clients"), creates, "/s")
            .beside("the store's group commits, same rows and bytes", floor)
            .target(Target::RatioAtLeast(0.5)),
    );
    lines.push(cores);
    lines
}

fn answers(world: &World) -> Vec<Line> {
    let ids = Arc::new(Ids::read(&mut world.client()));
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(1_000_000)));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (api, ids, stop, next) =
                (world.target(), Arc::clone(&ids), Arc::clone(&stop), Arc::clone(&next));
            std::thread::spawn(move || mix(&api, number as u64, &ids, &stop, &next))
        })
        .collect();
    let scraper = scrape(world.target(), Arc::clone(&stop));
    let cores = Cores::begin(world);
    chom_tests::wait::pass(MIX);
    let cores = cores.line(world, "API, the mix");
    stop.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let mut by_kind: BTreeMap<Kind, Times> = BTreeMap::new();
    for client in clients {
        for (kind, times) in client.join().unwrap() {
            by_kind.entry(kind).or_default().extend(times);
        }
    }
    let scrapes = scraper.join().unwrap();
    println!("\nanswers to {CLIENTS} clients without pause, load {}:", measure::load());
    let mut worst = [(0.0, ("", "")), (0.0, ("", ""))];
    let (mut all, mut reads, mut changes) = (0, Times::default(), Times::default());
    for (kind, times) in by_kind {
        let (p50, p99) = (times.percentile_ms(50.0), times.percentile_ms(99.0));
        println!(
            "  {:6} {:38} {:6} answers  p50 {p50:6.1} ms  p99 {p99:6.1} ms",
            kind.0,
            kind.1,
            times.count()
        );
        let is_read = READS.contains(&kind);
        let place = &mut worst[usize::from(!is_read)];
        if p99 > place.0 {
            *place = (p99, kind);
        }
        all += times.count();
        if is_read { reads.extend(times) } else { changes.extend(times) }
    }
    let named = |what: &str, (_, (method, path)): (f64, Kind)| {
        format!("API, {CLIENTS} clients without pause: {what}, p99 of the slowest kind ({method} {path})")
    };
    vec![
        Line::new(
            format!("API, {CLIENTS} clients without pause, mix of all kinds"),
            all as f64 / seconds,
            "/s",
        ),
        Line::new(named("reads", worst[0]), worst[0].0, "ms").target(Target::ValueAtMost(READ_MS_MAX)),
        Line::new(named("changes", worst[1]), worst[1].0, "ms").target(Target::ValueAtMost(ANSWER_MS_MAX)),
        Line::new("API, the same: all reads, p50", reads.percentile_ms(50.0), "ms"),
        Line::new("API, the same: all changes, p50", changes.percentile_ms(50.0), "ms"),
        Line::new("API, the same: /metrics every 5 s, slowest", scrapes.percentile_ms(100.0), "ms")
            .target(Target::ValueAtMost(ANSWER_MS_MAX)),
        cores,
    ]
}

/// Processor time of the orchestrator beside that of the clients: on two cores they share it, and the clients must not be
/// what is measured.
struct Cores {
    began: Instant,
    orchestrator: f64,
    clients: f64,
}

impl Cores {
    fn begin(world: &World) -> Self {
        let (orchestrator, clients) = Self::seconds(world);
        Self { began: Instant::now(), orchestrator, clients }
    }

    /// Of the orchestrator, and of this process.
    fn seconds(world: &World) -> (f64, f64) {
        let of = |pid| measure::cpu_seconds_of(pid).unwrap();
        (of(world.pid()), of(std::process::id()))
    }

    fn line(self, world: &World, what: &str) -> Line {
        let (orchestrator, clients) = Self::seconds(world);
        let cores = |after: f64, before: f64| (after - before) / self.began.elapsed().as_secs_f64();
        Line::new(
            format!("{what}: processor of the orchestrator"),
            cores(orchestrator, self.orchestrator),
            "cores",
        )
        .beside(format!("the {CLIENTS} clients"), cores(clients, self.clients))
    }
}

struct Ids {
    vps: Vec<String>,
    hosts: Vec<String>,
    operations: Vec<String>,
}

impl Ids {
    fn read(client: &mut Client) -> Self {
        let mut all = |path: &str, most: usize| {
            let (mut ids, mut cursor) = (Vec::new(), String::new());
            while ids.len() < most {
                let page = client.call("GET", &format!("{path}?limit=1000{cursor}"), None).unwrap().json();
                let items = page["items"].as_array().cloned().unwrap_or_default();
                ids.extend(items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            ids
        };
        Self {
            vps: all("/api/vps-servers", HOSTS * VPS_PER_HOST),
            hosts: all("/api/hosts", HOSTS),
            operations: all("/api/operations", 5_000),
        }
    }
}

/// One client: every kind in turn, each client beginning elsewhere, on rows that no other client changes.
fn mix(api: &Api, number: u64, ids: &Ids, stop: &AtomicBool, next: &AtomicU64) -> BTreeMap<Kind, Times> {
    let mut client = api.connect().unwrap();
    let mut chance = Chance::of(number);
    let mut found: BTreeMap<Kind, Times> = BTreeMap::new();
    let kinds: Vec<Kind> = READS.into_iter().chain(CHANGES).collect();
    let own: Vec<&String> = ids.vps.iter().skip(number as usize).step_by(CLIENTS).collect();
    let mut turn = number as usize % READS.len();
    while !stop.load(Ordering::Relaxed) {
        // Changes of one VPS come in an order in which each is allowed.
        let vps = own[turn / kinds.len() % own.len()];
        let kind = kinds[turn % kinds.len()];
        turn += 1;
        let any =
            |list: &[String], chance: &mut Chance| list[chance.below(list.len() as u64) as usize].clone();
        let path = kind
            .1
            .replace("{vps}", vps)
            .replace("{host}", &any(&ids.hosts, &mut chance))
            .replace("{operation}", &any(&ids.operations, &mut chance));
        let fresh = next.fetch_add(1, Ordering::Relaxed);
        let body = match kind.1 {
            "/api/vps-servers" if kind.0 == "POST" => {
                Some(format!(r#"{{"name":"mix-{fresh}","region":"us-east","size":"small"}}"#))
            }
            "/api/hosts" if kind.0 == "POST" => {
                Some(format!(r#"{{"name":"mix-{fresh}","region":"us-east"}}"#))
            }
            "/api/vps-servers/{vps}/hold" => Some(r#"{"hold":false}"#.to_owned()),
            "/api/hosts/{host}/cordon" => Some(r#"{"cordoned":false}"#.to_owned()),
            _ => None,
        };
        let began = Instant::now();
        let answer = client.call(kind.0, &path, body.as_deref()).unwrap();
        found.entry(kind).or_default().push(began.elapsed());
        let text = String::from_utf8_lossy(&answer.body);
        // Settings that were never made are answered with 404.
        let is_answer = answer.status < 300 || (kind.0 == "GET" && answer.status == 404);
        assert!(is_answer, "{} {path}: HTTP {}: {text}", kind.0, answer.status);
    }
    found
}

fn scrape(api: Api, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Times> {
    std::thread::spawn(move || {
        let (mut client, mut times) = (api.connect().unwrap(), Times::default());
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answer = client.call("GET", "/metrics", None).unwrap();
            assert_eq!(answer.status, 200, "/metrics");
            times.push(began.elapsed());
            chom_tests::wait::pass(SCRAPE);
        }
        times
    })
}

/// Creates a second: counted at the clients, each answer after its commit was durable.
fn creates(world: &World) -> (f64, Line) {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (api, stop, done) = (world.target(), Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut connection = api.connect().unwrap();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let body =
                        format!(r#"{{"name":"create-{client}-{number}","region":"us-east","size":"small"}}"#);
                    let answer = connection.call("POST", "/api/vps-servers", Some(&body)).unwrap();
                    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    chom_tests::wait::pass(WARM_UP);
    let (began, before, cores) = (Instant::now(), done.load(Ordering::Relaxed), Cores::begin(world));
    chom_tests::wait::pass(CREATES);
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    let cores = cores.line(world, "durable creates");
    println!("\ncreates: {rate:.0}/s, load {}", measure::load());
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    (rate, cores)
}

/// Commits a second that the store alone takes from as many callers, each with the rows and bytes of one create, on a copy
/// of the same store on the same disk.
async fn store_rate(world: &World) -> f64 {
    let sample = sample_commit(world).await;
    let folder = world.folder().join("floor");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(world.config().store_directory())
        .arg(&folder)
        .status();
    assert!(copied.unwrap().success(), "cp");
    let store = sled::open(&sled::Options { folder, exports: world.folder().join("exports") }).unwrap();
    println!(
        "one create: {} rows, {} bytes",
        sample.len(),
        sample.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>()
    );
    let (sample, next) = (Arc::new(sample), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (store, sample, next, stop) =
            (Arc::clone(&store), Arc::clone(&sample), Arc::clone(&next), Arc::clone(&stop));
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                store.commit(like(&sample, number)).await.unwrap();
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let (began, before) = (Instant::now(), store.revision());
    tokio::time::sleep(CREATES).await;
    let rate = (store.revision().0 - before.0) as f64 / began.elapsed().as_secs_f64();
    println!("the store alone: {rate:.0} commits/s, load {}", measure::load());
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    rate
}

struct Row {
    key: String,
    value: Arc<str>,
    is_new: bool,
}

/// What one create writes.
async fn sample_commit(world: &World) -> Vec<Row> {
    let running = world.within().await;
    let mut changes = running.store.watch(&EVERYTHING, running.store.revision().next());
    running.fleet.create_vps(&caller(), RequestMark::default(), request("sample")).await.unwrap();
    let batch = changes.next().await.unwrap().unwrap();
    drop(changes);
    running.stop().await.unwrap();
    let row = |event: &chom_orchestrator::store::Event| match &event.change {
        Change::Put(record) => Some(Row {
            key: record.key.as_str().to_owned(),
            value: Arc::clone(&record.value),
            is_new: record.create_revision == record.mod_revision,
        }),
        Change::Delete => None,
    };
    batch.events.iter().filter_map(row).collect()
}

/// A commit of the same rows under keys of the same length; new rows guarded, as the decider guards them.
fn like(sample: &[Row], number: u64) -> Commit {
    sample.iter().fold(Commit::new(), |commit, row| {
        let (folder, last) = row.key.rsplit_once('/').unwrap();
        let width = last.len();
        // From the end of what keys can be, so that no row of the fleet is met.
        let own = format!("{}{number:0>1$}", "f", width.saturating_sub(1));
        let key = Key::new(&format!("{folder}/{own}")).unwrap();
        if row.is_new {
            commit.if_absent(key.clone()).put(key, Arc::clone(&row.value))
        } else {
            commit.put(key, Arc::clone(&row.value))
        }
    })
}
