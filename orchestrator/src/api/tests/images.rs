//! Images: uploaded, refused, used, removed.

use std::time::Duration;

use chom_supervise::Supervisor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::dial::system_tls;
use crate::images::fetch::{Client, Limits};
use crate::images::fetcher::Fetcher;

/// A fetch from this machine is over by then.
const PATIENCE: Duration = Duration::from_secs(30);

const BYTES: &[u8] = b"0123456789";

impl Api {
    async fn upload(&self, query: &str, bytes: &'static [u8]) -> Answer {
        let request = self.request(Method::POST, &format!("/api/images?{query}"));
        let request = request.header("Content-Type", "application/octet-stream");
        self.send(request.body(Body::from(bytes)).unwrap()).await
    }

    /// The files that were added.
    fn image_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.world.folder.path().join("images")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn remove(&self, image: &str) -> Answer {
        let path = format!("/api/images/{image}");
        self.send(self.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn an_uploaded_image_makes_vpss_and_goes_once_none_was_made_from_it() {
    let api = Api::new().await;
    let _host = api.world.host("h", "us-east", 9).await;
    let sha256 = chom_protocol::vps::Sha256::of(BYTES);
    let query = format!("name=mine&engine=fake&format=raw&version=1.2&default_user=me&sha256={sha256}");
    let answer = api.upload(&query, BYTES).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let image = answer.json();
    assert_eq!(
        (&image["source"], &image["size_bytes"], &image["version"]),
        (&"added".into(), &10.into(), &"1.2".into())
    );
    assert_eq!(api.image_files(), [sha256.to_string()]);
    assert_eq!(api.get("/api/images").await.json()["items"].as_array().unwrap().len(), 2);
    let again = api.upload(&query, BYTES).await;
    assert_eq!((again.status, again.problem().location.as_deref()), (StatusCode::CONFLICT, Some("name")));

    let body = r#"{"name":"v","region":"us-east","size":"small","image":"mine"}"#;
    let made = api.post("/api/vps-servers", body).await.json();
    assert_eq!(made["vps"]["image"], "mine");
    let refused = api.remove("mine").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.problem().detail.contains("`mine`") && refused.problem().detail.contains(": v;"),
        "{refused:?}"
    );
    let id = made["vps"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/vps-servers/{id}");
    api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
    assert_eq!(api.remove("mine").await.status, StatusCode::CONFLICT, "deleted and kept, it can come back");
    api.order(&format!("{path}/purge")).await;
    let host = api.world.fleet.state().hosts.keys().next().copied().unwrap();
    api.world.converge(host).await;
    assert_eq!(api.remove("mine").await.status, StatusCode::OK);
    assert_eq!(api.get("/api/images/mine").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.image_files(), [""; 0]);
    assert_eq!(api.remove("hello").await.status, StatusCode::CONFLICT, "the configuration's");
}

#[tokio::test]
async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let api = Api::new().await;
    let other = chom_protocol::vps::Sha256::of(b"other");
    for (query, status, says) in [
        (
            format!("name=a&engine=fake&format=raw&sha256={other}"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "SHA-256",
        ),
        ("name=a&engine=fake&format=qcow2".to_owned(), StatusCode::UNPROCESSABLE_ENTITY, "qcow2"),
        ("name=hello&engine=fake&format=raw".to_owned(), StatusCode::CONFLICT, "`hello`"),
        ("name=a&engine=fake&format=zip".to_owned(), StatusCode::BAD_REQUEST, "zip"),
        ("name=a&engine=fake&format=raw&colour=red".to_owned(), StatusCode::BAD_REQUEST, "colour"),
        ("engine=fake&format=raw".to_owned(), StatusCode::BAD_REQUEST, "name"),
    ] {
        let answer = api.upload(&query, BYTES).await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        assert!(answer.problem().detail.contains(says), "{query}: {answer:?}");
    }
    let empty = api.upload("name=a&engine=fake&format=raw", b"").await;
    assert!(empty.problem().detail.contains("empty"), "{empty:?}");
    let json = api.post("/api/images?name=a&engine=fake&format=raw", "{}").await;
    assert_eq!(json.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(api.image_files(), [""; 0]);
}

/// Serves [`BYTES`] once, and everything below `/slow` never to its end.
async fn mirror(tasks: &Supervisor) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tasks.stop();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (mut stream, _) = accepted.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234").await.unwrap();
            if head[..length].starts_with(b"GET /slow") {
                let _ = stream.read_u8().await;
            } else {
                stream.write_all(b"56789").await.unwrap();
            }
        }
    });
    format!("http://{address}")
}

impl Api {
    async fn order_fetch(&self, name: &str, url: &str, sha256: chom_protocol::vps::Sha256) -> Answer {
        let body = serde_json::json!({
            "name": name, "engine": "fake", "format": "raw", "url": url, "sha256": sha256, "version": "3",
        });
        self.post("/api/image-fetches", body.to_string()).await
    }

    async fn operation_until(&self, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/operations/{id}");
        let look = async {
            loop {
                let row = self.get(&path).await.json();
                if holds(&row) {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, look).await.unwrap()
    }
}

#[tokio::test]
async fn an_image_is_fetched_from_a_url_and_what_goes_wrong_is_said_and_leaves_nothing() {
    let api = Api::new().await;
    let tasks = Supervisor::new();
    let url = mirror(&tasks).await;
    let client = Client::new(system_tls(), vec!["127.0.0.0/8".parse().unwrap()], Limits::default());
    let fetcher = Fetcher::new(api.world.fleet.clone(), Arc::clone(&api.images), client, tasks.clone());
    tasks.service("images", fetcher.run(tasks.stop()));
    let (sha256, other) = (chom_protocol::vps::Sha256::of(BYTES), chom_protocol::vps::Sha256::of(b"other"));

    let ordered = api.order_fetch("far", &format!("{url}/a.raw?signature=s"), sha256).await;
    assert_eq!(ordered.status, StatusCode::ACCEPTED, "{ordered:?}");
    let operation = ordered.json();
    assert_eq!((&operation["kind"], &operation["vps"]), (&"fetch image".into(), &Value::Null));
    let id = operation["id"].as_str().unwrap();
    let ended = api.operation_until(id, |row| row["finished_at"].is_string()).await;
    let trail: Vec<&str> =
        ended["steps"].as_array().unwrap().iter().map(|step| step["message"].as_str().unwrap()).collect();
    assert_eq!(trail[0], format!("`{url}/a.raw` will be fetched"), "signatures are not shown");
    assert_eq!(
        (&ended["state"], trail.last()),
        (&"succeeded".into(), Some(&"it is in the catalogue")),
        "{trail:?}"
    );
    let shown = api.get("/api/images/far").await.json();
    assert_eq!((&shown["sha256"], &shown["version"]), (&sha256.to_string().into(), &"3".into()));
    assert_eq!(api.image_files(), [sha256.to_string()]);

    let operation = api.order_fetch("wrong", &format!("{url}/a.raw"), other).await.json();
    let ended =
        api.operation_until(operation["id"].as_str().unwrap(), |row| row["finished_at"].is_string()).await;
    let problem = ended["problem"].as_str().unwrap();
    assert!(ended["state"] == "failed" && problem.contains(&other.to_string()), "{ended}");
    assert_eq!(api.get("/api/images/wrong").await.status, StatusCode::NOT_FOUND);

    // Its name is taken while it is on its way; taken back, nothing of it stays.
    let operation = api.order_fetch("slow", &format!("{url}/slow"), sha256).await.json();
    let id = operation["id"].as_str().unwrap();
    api.operation_until(id, |row| row["state"] == "running").await;
    let taken = api.upload("name=slow&engine=fake&format=raw", BYTES).await;
    assert!(taken.status == StatusCode::CONFLICT && taken.problem().detail.contains(id), "{taken:?}");
    let cancelled = api.order(&format!("/api/operations/{id}/cancel")).await;
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (StatusCode::OK, &"cancelled".into()));
    let alone = async {
        while api.image_files() != [sha256.to_string()] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, alone).await.unwrap();
    assert!(api.world.fleet.state().image_fetches.is_empty());
    tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn urls_that_may_not_be_fetched_from_are_refused_before_anything_is_ordered() {
    let api = Api::new().await;
    let sha256 = chom_protocol::vps::Sha256::of(BYTES);
    for (url, says) in [
        ("file:///etc/shadow", "`file:`"),
        ("http://10.0.0.1/a", "image_fetch_networks"),
        ("http://[::1]/a", "image_fetch_networks"),
        ("https://user:password@example.org/a", "a user or password"),
        ("example.org/a", "is no URL"),
    ] {
        let refused = api.order_fetch("far", url, sha256).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{url}: {refused:?}");
        let problem = refused.problem();
        assert!(problem.location.as_deref() == Some("/url") && problem.detail.contains(says), "{problem:?}");
    }
    let taken = api.order_fetch("hello", "https://example.org/a", sha256).await;
    assert_eq!((taken.status, taken.problem().location.as_deref()), (StatusCode::CONFLICT, Some("/name")));
    let unnamed = api.post("/api/image-fetches", r#"{"name":"a","url":"https://example.org/a"}"#).await;
    assert!(unnamed.problem().detail.contains("engine"), "{unnamed:?}");
    assert!(api.world.fleet.state().operations.is_empty());
}

#[tokio::test]
async fn hosts_have_an_image_before_a_vps_needs_it_until_that_is_taken_back() {
    let api = Api::new().await;
    let (near, far) = (api.world.host("near", "us-east", 9).await, api.world.host("far", "eu-west", 9).await);
    assert_eq!(api.upload("name=mine&engine=fake&format=raw", BYTES).await.status, StatusCode::CREATED);
    let named = |host| api.world.fleet.spec(host).unwrap().prefetch.len();
    let body = serde_json::json!({"hosts": [near]}).to_string();
    let changed = api.post("/api/images/mine/prefetch", body.clone()).await;
    assert_eq!(changed.json(), serde_json::json!({"hosts": 1, "changed": 1}), "{changed:?}");
    let number = api.world.fleet.spec(near).unwrap().generation;
    assert_eq!(api.post("/api/images/mine/prefetch", body.clone()).await.json()["changed"], 0);
    assert_eq!(api.world.fleet.spec(near).unwrap().generation, number, "nothing new is no new desired state");
    assert_eq!(api.post("/api/images/mine/prefetch", r#"{"region":"eu-west"}"#).await.json()["changed"], 1);
    assert_eq!((named(near), named(far)), (1, 1));

    // As its host says, as far as it was heard.
    let state = |host: chom_protocol::HostId, prefetch: chom_protocol::host::PrefetchState| {
        let status = chom_protocol::host::HostStatus {
            prefetch: [("mine".parse().unwrap(), prefetch)].into(),
            ..api.world.status_of(host)
        };
        api.world.fleet.observe(host, status)
    };
    state(near, chom_protocol::host::PrefetchState::Fetching { percent: 40 }).await.unwrap();
    let shown = api.get("/api/images/mine/prefetch").await.json();
    let rows: Vec<(&Value, &Value, &Value)> = shown["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (&row["host_name"], &row["state"], &row["percent"]))
        .collect();
    assert_eq!(
        rows,
        [(&"near".into(), &"fetching".into(), &40.into()), (&"far".into(), &"waiting".into(), &Value::Null)]
    );

    for (body, says) in [
        ("{}", "name hosts or a region"),
        (r#"{"region":"moon"}"#, "there is no region `moon`"),
        (r#"{"hosts":["0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e"]}"#, "there is no host"),
    ] {
        let refused = api.post("/api/images/mine/prefetch", body).await;
        assert!(refused.problem().detail.contains(says), "{body}: {refused:?}");
    }
    assert_eq!(api.post("/api/images/none/prefetch", body.clone()).await.status, StatusCode::NOT_FOUND);

    let kept = api.remove("mine").await;
    assert!(kept.status == StatusCode::CONFLICT && kept.problem().detail.contains("2 hosts"), "{kept:?}");
    assert_eq!(api.post("/api/images/mine/unprefetch", body).await.json()["changed"], 1);
    let forget = api.post(&format!("/api/hosts/{far}/forget"), "{}").await;
    assert_eq!(forget.status, StatusCode::OK, "{forget:?}");
    assert_eq!((named(near), api.remove("mine").await.status), (0, StatusCode::OK));
}
