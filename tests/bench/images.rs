//! An image on its way: from the orchestrator over the link into an agent's cache, verified and synced, beside curl over
//! HTTPS (OpenSSL's own server, TLS 1.3, one core each side as well) of the same file, synced and verified by hand.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chom_tests::agent::Agent;
use chom_tests::wait::{pass, wait_for};

use crate::floor::{self, CHAIN_FILE, KEY_FILE};
use crate::measure;
use crate::scale::median;
use crate::table::{Line, Target};
use crate::world::{MADE_UP_IMAGE, Shape, World};

const IMAGE_BYTES: usize = 200_000_000;
/// Both ways in turn; medians count.
const ROUNDS: usize = 7;
/// A fetch on a machine under load.
const FETCH_SECONDS_MAX: Duration = Duration::from_secs(120);
/// Between two looks at the cache.
const LOOK: Duration = Duration::from_millis(1);

/// The rows of the images.
pub(crate) fn measure() -> Vec<Line> {
    let mut world = World::new(&Shape {
        report_seconds: 5,
        reconcile_seconds: 5,
        image_bytes: IMAGE_BYTES,
        ..Shape::default()
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(floor::prepare(&world));
    world.start();
    let server = HttpsServer::start(world.folder());
    let mut client = world.client();
    let mut agent = Agent::with_state(world.folder().join("agent"));
    let body = r#"{"name":"bench","region":"us-east"}"#;
    let added = client.call("POST", "/api/hosts", Some(body)).unwrap().json();
    let _ = agent.enrol(added["join_code"].as_str().unwrap()).well("chom-agent enrol");
    agent.run();
    let cache = agent.state().join("images");
    let (mut fetches, mut curls, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        wait_for("the host to take a VPS", FETCH_SECONDS_MAX, || {
            let body = format!(r#"{{"name":"image-{round}","region":"us-east","size":"small"}}"#);
            let answer = client.call("POST", "/api/vps-servers", Some(&body)).unwrap();
            if answer.status == 202 { Ok(()) } else { Err(answer.json().to_string()) }
        });
        fetches.push(fetched(&cache) * 1000.0);
        let (came, all) = server.curl(world.folder());
        bare.push(came * 1000.0);
        curls.push(all * 1000.0);
    }
    println!(
        "fetch {fetches:.0?} ms, curl, sync and sha256sum {curls:.0?} ms, curl {bare:.0?} ms, load {}",
        measure::load()
    );
    drop(agent);
    world.stop();
    vec![
        Line::new("image of 200 MB, first packet to verified and synced on the host", median(fetches), "ms")
            .beside("curl over HTTPS, sync, sha256sum", median(curls))
            .target(Target::RatioAtMost(1.2)),
        Line::new("the same file by curl over HTTPS, not synced, not verified", median(bare), "ms"),
    ]
}

/// Seconds from the first trace of the image in the cache until it is in its place; then it is taken out again.
fn fetched(cache: &Path) -> f64 {
    let files = || -> Vec<PathBuf> {
        fs::read_dir(cache).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    let deadline = Instant::now() + FETCH_SECONDS_MAX;
    let mut began = None;
    loop {
        let found = files();
        if began.is_none() && !found.is_empty() {
            began = Some(Instant::now());
        }
        if let Some(whole) = found.iter().find(|path| path.extension().is_none()) {
            let took = began.unwrap().elapsed();
            fs::remove_file(whole).unwrap();
            return took.as_secs_f64();
        }
        assert!(Instant::now() < deadline, "no image came within {FETCH_SECONDS_MAX:?}: {found:?}");
        pass(LOOK);
    }
}

/// `openssl s_server -WWW` with the fleet's certificate.
struct HttpsServer {
    child: Child,
    port: u16,
}

impl HttpsServer {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).unwrap().port();
        let child = Command::new("openssl")
            .args(["s_server", "-WWW", "-quiet", "-tls1_3", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", CHAIN_FILE, "-cert_chain", CHAIN_FILE, "-key", KEY_FILE])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// Seconds until the file is here, and until it is synced and verified too.
    fn curl(&self, folder: &Path) -> (f64, f64) {
        let url = &format!("https://127.0.0.1:{}/{MADE_UP_IMAGE}", self.port);
        let copy = folder.join("copy.raw");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let path = copy.to_str().unwrap();
        let ca = folder.join("state/ca.pem");
        let began = Instant::now();
        let retried = ["--retry", "50", "--retry-delay", "1", "--retry-connrefused"];
        run("curl", &[&["-sSf", "--cacert", ca.to_str().unwrap(), "-o", path, url], &retried[..]].concat());
        let came = began.elapsed().as_secs_f64();
        run("sync", &[path]);
        run("sha256sum", &[path]);
        let all = began.elapsed().as_secs_f64();
        assert_eq!(fs::metadata(&copy).unwrap().len(), IMAGE_BYTES as u64);
        fs::remove_file(&copy).unwrap();
        (came, all)
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
