//! The event stream.

use std::time::Duration;

use axum::body::BodyDataStream;
use futures_util::StreamExt;

use super::*;
use crate::fleet::events::RING_EVENTS_MAX;

/// Long beyond what any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Stream(BodyDataStream);

impl Stream {
    async fn open(api: &Api, query: &str, last: Option<&str>) -> (Self, HeaderMap) {
        let mut request = api.request(Method::GET, &format!("/api/events{query}"));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let headers = response.headers().clone();
        (Self(response.into_body().into_data_stream()), headers)
    }

    /// The next piece; none at the end.
    async fn read(&mut self) -> Option<String> {
        let piece = tokio::time::timeout(PATIENCE, self.0.next())
            .await
            .expect("the stream should have said something");
        piece.map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap())
    }

    /// The next events, at least `count`: ids and types.
    async fn events(&mut self, count: usize) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        while events.len() < count {
            let text = self.read().await.expect("the stream should go on");
            for block in text.split("\n\n") {
                let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(id), Some(data)) = (line("id: "), line("data: ")) {
                    events.push((id.to_owned(), serde_json::from_str(data).unwrap()));
                }
            }
        }
        events
    }
}

#[tokio::test]
async fn a_stream_that_is_opened_again_goes_on_behind_the_last_event_seen() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let (mut stream, headers) = Stream::open(&api, "", None).await;
    assert_eq!(headers["content-type"], "text/event-stream");
    for (name, value) in SECURITY_HEADERS {
        assert_eq!(headers[name], value);
    }
    api.create("a").await;
    let seen = stream.events(2).await;
    assert!(seen.iter().any(|(_, event)| event["type"] == "vps" && event["name"] == "a"), "{seen:?}");
    drop(stream);
    api.create("b").await;
    let last = &seen[0].0;
    for (query, header) in [
        (String::new(), Some(last.as_str())),
        (format!("?from={last}"), None),
        ("?from=1.1".to_owned(), Some(last)),
    ] {
        let (mut stream, _) = Stream::open(&api, &query, header).await;
        let again = stream.events(seen.len() - 1 + 2).await;
        assert_eq!(again[..seen.len() - 1], seen[1..], "the rest of what was, without what was seen");
        assert!(again.iter().any(|(_, event)| event["name"] == "b"), "{again:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_first_event_misses_none() {
    let api = Api::new().await;
    let (mut stream, _) = Stream::open(&api, "", None).await;
    let first = stream.read().await.unwrap();
    let id = first.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id at once").to_owned();
    drop(stream);
    api.world.host("h1", "us-east", 10).await;
    let (mut stream, _) = Stream::open(&api, "", Some(&id)).await;
    assert_eq!(stream.events(1).await[0].1["name"], "h1");
}

#[tokio::test]
async fn where_events_were_missed_the_stream_begins_with_reset() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let end = api.world.fleet.events().end();
    let ids = [("a", format!("{}.1", end.epoch - 1)), ("b", format!("{}.{}", end.epoch, end.sequence + 50))];
    for (vps, id) in ids {
        let (mut stream, _) = Stream::open(&api, "", Some(&id)).await;
        let events = stream.events(1).await;
        assert_eq!(events[0].1, serde_json::json!({"type": "reset"}));
        drop(stream);
        let (mut stream, _) = Stream::open(&api, "", Some(&events[0].0)).await;
        api.create(vps).await;
        assert_ne!(stream.events(1).await[0].1["type"], "reset", "its id resumes");
    }
    let host = *api.world.fleet.state().hosts.keys().next().unwrap();
    let id = format!("{}.1", end.epoch);
    while api.world.fleet.events().end().sequence <= RING_EVENTS_MAX as u64 + 1 {
        api.post(&format!("/api/hosts/{host}/cordon"), r#"{"cordoned":true}"#).await;
    }
    api.post(&format!("/api/hosts/{host}/cordon"), r#"{"cordoned":true}"#).await;
    let (mut stream, _) = Stream::open(&api, "", Some(&id)).await;
    assert_eq!(stream.events(1).await[0].1["type"], "reset", "the ring has moved on");
}

#[tokio::test]
async fn an_id_that_is_none_is_refused() {
    let api = Api::new().await;
    for (path, location) in [("/api/events?from=7", "from"), ("/api/events?since=7.7", "since")] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.problem().location.as_deref(), Some(location));
    }
}

#[tokio::test]
async fn a_token_has_a_bounded_number_of_streams_and_gets_room_when_one_ends() {
    let api = Api::new().await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(Stream::open(&api, "", None).await);
    }
    let answer = api.get("/api/events").await;
    assert_eq!(
        (answer.status, answer.problem().kind.as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "/problems/too-many")
    );
    streams.pop();
    Stream::open(&api, "", None).await;
}

#[tokio::test]
async fn streams_end_when_the_orchestrator_does() {
    let api = Api::new().await;
    let (mut stream, _) = Stream::open(&api, "", None).await;
    stream.read().await.unwrap();
    api.stop.stop().cancel();
    assert_eq!(stream.read().await, None);
}
