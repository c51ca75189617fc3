//! Lists that are watched, and what was measured.

use std::time::Duration;

use axum::body::BodyDataStream;
use chom_protocol::BootId;
use chom_protocol::sample::{Metric, Point, Sample};
use futures_util::StreamExt;

use super::*;
use crate::fleet::events::RING_EVENTS_MAX;

/// Long beyond what any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A list that is watched.
struct Watch(BodyDataStream, Vec<(Option<String>, Value)>);

impl Watch {
    async fn open(api: &Api, token: &str, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::builder().uri(path).header("Authorization", format!("Bearer {token}"));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(response.into_body().into_data_stream(), Vec::new())
    }

    /// The next change, with its id.
    async fn next(&mut self) -> (Option<String>, Value) {
        while self.1.is_empty() {
            let piece =
                tokio::time::timeout(PATIENCE, self.0.next()).await.expect("the watch should say something");
            let text = String::from_utf8(piece.expect("the watch should go on").unwrap().to_vec()).unwrap();
            for block in text.split("\n\n") {
                let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let Some(data) = line("data: ") {
                    self.1.push((line("id: ").map(str::to_owned), serde_json::from_str(data).unwrap()));
                }
            }
        }
        self.1.remove(0)
    }

    /// What is told up to a word, as text: `row a`, `changed b`, `gone ID`.
    async fn until(&mut self, end: &str) -> (Vec<String>, Option<String>) {
        let mut told = Vec::new();
        loop {
            let (id, change) = self.next().await;
            let kind = change["type"].as_str().unwrap();
            let name = change["row"]["name"].as_str().or(change["id"].as_str()).unwrap_or_default();
            told.push(format!("{kind} {name}").trim().to_owned());
            if told.last().unwrap() == end {
                return (told, id);
            }
        }
    }
}

#[tokio::test]
async fn a_watched_list_tells_its_rows_then_each_that_changes_comes_or_goes() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    api.create("a").await;
    let b = api.create("b").await["vps"]["id"].as_str().unwrap().to_owned();
    api.world.converge(host).await;
    let path = "/api/vps-servers?watch=true&state=running&sort=-name";
    let mut watch = Watch::open(&api, &api.token, path, None).await;
    let (told, synced) = watch.until("synced").await;
    assert_eq!(told, ["row b", "row a", "synced"]);
    // One that does not fit is not told of; once it does, it is.
    api.create("c").await;
    api.order(&format!("/api/vps-servers/{b}/stop")).await;
    assert_eq!(watch.until("changed b").await.0, ["changed b"], "it runs still, and is wanted otherwise");
    api.world.converge(host).await;
    let (mut told, _) = watch.until(&format!("gone {b}")).await;
    if !told.contains(&"changed c".to_owned()) {
        told.extend(watch.until("changed c").await.0);
    }
    assert!(told.iter().all(|told| !told.starts_with("row") && told != "reset"), "{told:?}");
    drop(watch);
    // Who comes back is told what it missed, and that one row of its own is among them no more.
    let mut watch = Watch::open(&api, &api.token, path, synced.as_deref()).await;
    let (told, _) = watch.until(&format!("gone {b}")).await;
    assert!(told.iter().all(|told| !told.starts_with("row") && told != "reset"), "{told:?}");
}

#[tokio::test]
async fn a_watch_that_missed_changes_begins_anew_and_says_so() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    let end = api.world.fleet.changes().end();
    for last in [format!("{}.1", end.epoch - 1), format!("{}.{}", end.epoch, end.sequence + 50)] {
        let mut watch = Watch::open(&api, &api.token, "/api/hosts?watch=true&fields=name", Some(&last)).await;
        let (told, _) = watch.until("synced").await;
        assert_eq!(told, ["reset", "row h1", "synced"]);
    }
    let mut slow = Watch::open(&api, &api.token, "/api/hosts?watch=true", None).await;
    slow.until("synced").await;
    while api.world.fleet.changes().end().sequence <= end.sequence + RING_EVENTS_MAX as u64 {
        api.post(&format!("/api/hosts/{host}/cordon"), r#"{"cordoned":true}"#).await;
    }
    let (told, _) = slow.until("synced").await;
    assert_eq!(told.first().map(String::as_str), Some("reset"), "{told:?}");
    let answer = api.get("/api/hosts?watch=true&cursor=x").await;
    assert_eq!(answer.problem().location.as_deref(), Some("cursor"));
    assert_eq!(
        api.get("/api/images?watch=true").await.status,
        StatusCode::BAD_REQUEST,
        "images are not watched"
    );
}

#[tokio::test]
async fn every_list_that_can_be_watched_tells_its_changes_in_the_fields_asked_for() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    let mut hosts = Watch::open(&api, &api.token, "/api/hosts?watch=true&fields=name,cordoned", None).await;
    let mut operations = Watch::open(&api, &api.token, "/api/operations?watch=true&kind=create", None).await;
    let mut alerts = Watch::open(&api, &api.token, "/api/alerts?watch=true&state=firing", None).await;
    hosts.until("synced").await;
    assert_eq!(operations.until("synced").await.0, ["synced"]);
    assert_eq!(alerts.until("synced").await.0, ["synced"]);
    api.post(&format!("/api/hosts/{host}/cordon"), r#"{"cordoned":true}"#).await;
    loop {
        let (_, change) = hosts.next().await;
        let row = serde_json::json!({"name": "h1", "cordoned": true});
        if change["row"] == row {
            break;
        }
        assert_eq!(change["row"].as_object().unwrap().len(), 2, "{change}");
    }
    api.post(&format!("/api/hosts/{host}/cordon"), r#"{"cordoned":false}"#).await;
    api.create("a").await;
    let (_, change) = operations.next().await;
    assert_eq!((&change["type"], &change["row"]["kind"]), (&Value::from("changed"), &Value::from("create")));
}

#[tokio::test]
async fn a_tenants_watch_and_its_ids_tell_nothing_of_others() {
    let api = Api::new().await;
    let host = api.world.host("secret-host", "us-east", 10).await;
    for tenant in ["acme", "foreign"] {
        api.post("/api/tenants", format!(r#"{{"name":"{tenant}"}}"#)).await;
    }
    let owner = api.token_of(Role::Owner);
    let make = async |vps: &str, tenant: &str| {
        let body = format!(r#"{{"name":"{vps}","region":"us-east","size":"small","tenant":"{tenant}"}}"#);
        api.post("/api/vps-servers", body).await.json()["vps"]["id"].as_str().unwrap().to_owned()
    };
    let theirs = make("foreign-1", "foreign").await;
    let own = make("own", "acme").await;
    let mut watch = Watch::open(&api, owner, "/api/vps-servers?watch=true", None).await;
    let (told, synced) = watch.until("synced").await;
    assert_eq!(told, ["row own", "synced"]);
    let synced = synced.unwrap();
    assert!(!synced.contains('.') && synced.len() > 40, "{synced}");
    let purge = async |id: &str| {
        let path = format!("/api/vps-servers/{id}");
        api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
        api.order(&format!("{path}/purge")).await;
        api.world.converge(host).await;
        assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
    };
    purge(&theirs).await;
    make("foreign-2", "foreign").await;
    purge(&own).await;
    for mut watch in [watch, Watch::open(&api, owner, "/api/vps-servers?watch=true", Some(&synced)).await] {
        let mut all = String::new();
        loop {
            let (id, change) = watch.next().await;
            all += &format!("{id:?} {change}\n");
            assert!(change["row"]["host"].is_null(), "{change}");
            if change["id"] == *own {
                break;
            }
        }
        assert!(!all.contains("foreign") && !all.contains(&theirs) && !all.contains("secret"), "{all}");
    }
    // A place that a tenant makes up is refused, so that none can be tried.
    let end = api.world.fleet.changes().end();
    for path in ["/api/vps-servers?watch=true", "/api/events"] {
        let request = Request::builder()
            .uri(path)
            .header("Authorization", format!("Bearer {owner}"))
            .header("Last-Event-ID", end.to_string());
        let answer = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    }
}

#[tokio::test]
async fn events_are_filtered_by_kind_vps_host_and_tenant() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    api.post("/api/tenants", r#"{"name":"acme"}"#).await;
    let a = api.create("a").await["vps"]["id"].as_str().unwrap().to_owned();
    let first = format!("{}.0", api.world.fleet.events().end().epoch);
    api.post(&format!("/api/hosts/{host}/labels"), r#"{"set":{"rack":"a1"}}"#).await;
    let body = r#"{"name":"b","region":"us-east","size":"small","tenant":"acme"}"#;
    assert_eq!(api.post("/api/vps-servers", body).await.status, StatusCode::ACCEPTED);
    let kinds = async |query: &str| {
        let mut stream = Watch::open(&api, &api.token, &format!("/api/events?{query}"), Some(&first)).await;
        let mut kinds = Vec::new();
        assert!(stream.0.next().await.is_some(), "how to connect again");
        // What stands in the ring is there at the first look.
        while let Some(Some(piece)) = stream.0.next().now_or_never() {
            let text = String::from_utf8(piece.unwrap().to_vec()).unwrap();
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            kinds.extend(data.map(|data| {
                let event: Value = serde_json::from_str(data).unwrap();
                event["type"].as_str().unwrap().to_owned()
            }));
        }
        kinds.sort_unstable();
        kinds.dedup();
        kinds.join(" ")
    };
    assert_eq!(kinds("kind=host").await, "host");
    assert_eq!(kinds("kind=vps,operation&tenant=acme").await, "operation vps");
    assert_eq!(kinds(&format!("vps={a}")).await, "operation vps");
    assert_eq!(kinds(&format!("host={host}&kind=host,alert")).await, "host");
    assert_eq!(kinds("tenant=nobody").await, "");
    for (path, location) in [
        ("/api/events?kind=song", "kind"),
        ("/api/events?vps=7", "vps"),
        ("/api/events?colour=red", "colour"),
    ] {
        assert_eq!(api.get(path).await.problem().location.as_deref(), Some(location));
    }
}

#[tokio::test]
async fn what_was_measured_is_shown_to_whom_it_belongs_and_a_hole_is_no_zero() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    api.post("/api/tenants", r#"{"name":"acme"}"#).await;
    let body = r#"{"name":"a","region":"us-east","size":"small","tenant":"acme"}"#;
    let id = api.post("/api/vps-servers", body).await.json()["vps"]["id"].as_str().unwrap().to_owned();
    let (vps, now) = (id.parse().unwrap(), clock::now());
    let point = |metric, vps, value| Point { metric, vps, label: String::new(), value };
    let sample = |sequence: u64, ago: u64| Sample {
        boot: BootId::new(Uuid::from_u128(1)),
        sequence,
        at: UnixMillis(now.0 - ago * 1000),
        points: vec![
            point(Metric::Load1, None, 2.0),
            point(Metric::VpsCpuSeconds, Some(vps), sequence as f64 * 5.0),
        ],
    };
    // Every ten seconds; and then nothing for the last three minutes.
    api.history.record(host, (0..6).map(|n| sample(n, 240 - n * 10)).collect(), now);
    let shown = api.get("/api/hosts/h1/metrics?series=load1").await.json();
    assert_eq!(shown["series"].as_array().unwrap().len(), 1, "{shown}");
    let values = shown["series"][0]["values"].as_array().unwrap();
    assert_eq!((values.len(), values.contains(&Value::from(2.0))), (20, true), "{shown}");
    assert!(values.last().unwrap().is_null() && !values.contains(&Value::from(0.0)), "{shown}");
    let token = api.token_of(Role::Viewer);
    let get = async |path: String| {
        let request = Request::builder().uri(path).header("Authorization", format!("Bearer {token}"));
        api.send(request.body(Body::empty()).unwrap()).await
    };
    let own = get(format!("/api/vps-servers/{id}/metrics")).await.json();
    assert_eq!(
        (&own["series"][0]["metric"], &own["series"][0]["kind"]),
        (&Value::from("cpu_seconds_total"), &Value::from("per_second"))
    );
    assert!(own["series"][0]["values"].as_array().unwrap().contains(&Value::from(0.5)), "{own}");
    assert_eq!(get(format!("/api/hosts/{host}/metrics")).await.status, StatusCode::FORBIDDEN);
    let foreign = api.create("other").await["vps"]["id"].as_str().unwrap().to_owned();
    assert_eq!(get(format!("/api/vps-servers/{foreign}/metrics")).await.status, StatusCode::NOT_FOUND);
}
