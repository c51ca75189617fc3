//! An image that the orchestrator fetches by itself, with chomctl: also when it is killed on the way.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chom_protocol::api::catalogue::ImageView;
use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::vps::Sha256;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::wait::{pass, wait_for, wait_until};
use serde_json::json;

const IMAGE_BYTES: usize = 8 * 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;
/// Between two pieces, until it is told to hurry: minutes for all of it.
const PAUSE: Duration = Duration::from_secs(1);

/// A web server of one file, slow at first.
struct Mirror {
    url: String,
    image: Arc<Vec<u8>>,
    hurry: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl Mirror {
    /// Serves until the test's process ends.
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/image.raw", listener.local_addr().unwrap());
        let image: Vec<u8> = (0..IMAGE_BYTES).map(|at| (at / 7) as u8).collect();
        let mirror = Self {
            url,
            image: Arc::new(image),
            hurry: Arc::new(AtomicBool::new(false)),
            requests: Arc::new(AtomicUsize::new(0)),
        };
        let (image, hurry, requests) =
            (Arc::clone(&mirror.image), Arc::clone(&mirror.hurry), Arc::clone(&mirror.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, image, hurry) = (stream.unwrap(), Arc::clone(&image), Arc::clone(&hurry));
                requests.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                        if line.is_ok_and(|line| line.is_empty()) {
                            break;
                        }
                    }
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {IMAGE_BYTES}\r\n\r\n");
                    for piece in image.chunks(PIECE_BYTES) {
                        if stream.write_all(piece).is_err() {
                            return; // whoever asked is gone
                        }
                        if !hurry.load(Ordering::SeqCst) {
                            pass(PAUSE);
                        }
                    }
                });
            }
        });
        mirror
    }
}

#[test]
fn an_image_is_fetched_though_the_orchestrator_is_killed_on_the_way_and_makes_vpss() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let mirror = Mirror::start();
    let sha256 = Sha256::of(&mirror.image);
    let digest = sha256.to_string();
    let words =
        ["image", "add", "far", "--url", &mirror.url, "--engine", "fake", "--format", "raw", "-o", "json"];
    let unpinned = fleet.orchestrator.chomctl(&words);
    assert!(unpinned.code == Some(2) && unpinned.stderr.contains("--sha256"), "{unpinned:?}");
    let ordered = fleet.orchestrator.chomctl(&[&words[..], &["--sha256", &digest]].concat());
    let ordered: OperationView = serde_json::from_str(&ordered.well("chomctl image add --url")).unwrap();

    let folder = fleet.orchestrator.state().join("images");
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(&folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let part = wait_for("a part of the image", SOON, || match files() {
        found if found.len() == 1 && found[0].ends_with(".part") => Ok(found),
        found => Err(format!("{found:?}")),
    });
    fleet.orchestrator.kill_9();
    assert_eq!(files(), part, "what a kill left");
    fleet.orchestrator.run();
    wait_until("it to be asked for again", SOON, || mirror.requests.load(Ordering::SeqCst) == 2);
    assert!(!files().contains(&part[0]), "what the killed one left is gone: {:?}", files());
    mirror.hurry.store(true, Ordering::SeqCst);
    let ended = fleet.api().ended(ordered.id, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    assert_eq!(files(), [digest]);

    let shown: ImageView = fleet.api().get("/api/images/far").unwrap();
    assert_eq!((shown.sha256, shown.size_bytes.0), (sha256, IMAGE_BYTES as u64));
    // On its host before a VPS needs it, and shown as there.
    let asked = fleet.orchestrator.chomctl(&["image", "prefetch", "far", "--host", "host-0"]);
    assert_eq!(asked.well("chomctl image prefetch"), "1 hosts, 1 of them new\n");
    wait_for("the image on its host", SOON, || {
        let listed =
            fleet.orchestrator.chomctl(&["image", "prefetched", "far"]).well("chomctl image prefetched");
        if listed.contains("ready") { Ok(()) } else { Err(listed) }
    });
    let cached = fleet.hosts[0].agent.state().join("images").join(sha256.to_string());
    assert_eq!(std::fs::read(cached).unwrap(), *mirror.image);

    let body = json!({"name": "v", "region": "us-east", "size": "small", "image": "far"});
    let made: chom_protocol::api::vps_servers::VpsAccepted =
        fleet.api().post("/api/vps-servers", &body).unwrap();
    assert_eq!(fleet.api().ended(made.operation.id, SOON).state, OperationState::Succeeded);
}
