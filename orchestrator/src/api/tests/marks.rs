//! `Idempotency-Key` and `If-Match`.

use super::*;

const BODY: &str = r#"{"name":"a","region":"us-east","size":"small"}"#;

async fn post(api: &Api, path: &str, header: (&str, &str), body: &str) -> Answer {
    let request = api.request(Method::POST, path).header("Content-Type", "application/json");
    api.send(request.header(header.0, header.1).body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn the_same_request_with_the_same_key_is_carried_out_once_and_answered_the_same() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let key = ("Idempotency-Key", "6f9619ff");
    let first = post(&api, "/api/vps-servers", key, BODY).await;
    let again = post(&api, "/api/vps-servers", key, BODY).await;
    assert_eq!((first.status, again.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    assert_eq!(first.body, again.body);
    assert_eq!(first.header("etag"), again.header("etag"));
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(api.world.fleet.state().vps.len(), 1);
}

#[tokio::test]
async fn a_key_is_good_for_one_request_only() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let key = ("Idempotency-Key", "6f9619ff");
    let first = post(&api, "/api/vps-servers", key, BODY).await.json();
    let path = format!("/api/vps-servers/{}", first["vps"]["id"].as_str().unwrap());
    for (path, body) in
        [("/api/vps-servers", BODY.replace("\"a\"", "\"b\"")), (&format!("{path}/stop"), String::new())]
    {
        let answer = post(&api, path, key, &body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
        let problem = answer.problem();
        assert_eq!(problem.kind, "/problems/key-reused");
        assert_eq!(problem.location.as_deref(), Some("Idempotency-Key"));
    }
}

#[tokio::test]
async fn a_request_that_was_refused_may_be_repeated_with_its_key() {
    let api = Api::new().await;
    let key = ("Idempotency-Key", "k");
    assert_eq!(post(&api, "/api/vps-servers", key, BODY).await.problem().kind, "/problems/no-capacity");
    api.world.host("h1", "us-east", 10).await;
    assert_eq!(post(&api, "/api/vps-servers", key, BODY).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_change_of_a_row_that_changed_meanwhile_is_refused() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let id = api.create("a").await["vps"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/vps-servers/{id}");
    let tag = api.get(&path).await.header("etag").unwrap().to_owned();
    let stopped = post(&api, &format!("{path}/stop"), ("If-Match", &tag), "").await;
    assert_eq!(stopped.status, StatusCode::ACCEPTED, "{stopped:?}");
    let stale = post(&api, &format!("{path}/start"), ("If-Match", &tag), "").await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED, "{stale:?}");
    assert_eq!(
        (stale.problem().kind.as_str(), stale.problem().location.as_deref()),
        ("/problems/stale", Some("If-Match"))
    );
    let tag = stopped.header("etag").unwrap();
    assert_eq!(
        post(&api, &format!("{path}/start"), ("If-Match", tag), "").await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(post(&api, &format!("{path}/stop"), ("If-Match", "*"), "").await.status, StatusCode::ACCEPTED);
}
