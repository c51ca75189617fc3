//! How much one token and one address may ask.

use axum::extract::ConnectInfo;

use super::*;
use crate::config::LimitSettings;

/// An API that lets three requests through at once, and practically none after them.
async fn strict(settings: LimitSettings) -> Api {
    let api = Api::new().await;
    let app = App::new(
        api.world.fleet.clone(),
        Arc::clone(&api.store),
        Arc::default(),
        notifier(&api.world.fleet),
        Arc::clone(&api.images),
        consoles(&api.world.fleet, &api.stop),
        Arc::clone(&api.audit),
    );
    Api { router: router(app.limited(&settings)), ..api }
}

#[tokio::test]
async fn a_token_that_asks_too_much_is_told_when_to_come_again_and_others_go_on() {
    let settings = LimitSettings { token_requests_per_second: 1, token_burst: 3, ..Default::default() };
    let api = strict(settings).await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = api.get("/api/sizes").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("twenty at once are too many");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.problem().kind, "/problems/too-many");
    let other = Request::builder()
        .uri("/api/sizes")
        .header("Authorization", format!("Bearer {}", api.token_of(Role::Auditor)));
    assert_eq!(api.send(other.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
}

#[test]
fn a_token_pins_no_more_memory_with_answers_it_does_not_read_than_its_share() {
    let limits = crate::api::limits::Limits::new(&LimitSettings::default());
    let answer = |bytes: usize| axum::response::Response::new(Body::from(vec![b' '; bytes]));
    let mut unread = Vec::new();
    while let Ok(response) = limits.answered(token_id(1), answer(4 << 20)) {
        unread.push(response);
    }
    assert_eq!(unread.len(), 8, "32 MiB");
    assert!(limits.answered(token_id(1), answer(60_000)).is_ok(), "small ones are always let through");
    assert!(limits.answered(token_id(2), answer(4 << 20)).is_ok(), "others have a share of their own");
    unread.pop();
    assert!(limits.answered(token_id(1), answer(4 << 20)).is_ok(), "what is sent makes room");
    // And bodies that never end.
    let mut sending = Vec::new();
    while let Ok(slot) = limits.body(token_id(1)) {
        sending.push(slot);
    }
    assert_eq!(sending.len(), 128);
    assert!(limits.body(token_id(2)).is_ok());
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for_and_strangers_hold_up_nobody() {
    let api = Api::new().await;
    let endless =
        || Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::convert::Infallible>>());
    let stranger = || {
        let request = Request::builder().method(Method::POST).uri("/api/sign-in");
        api.send(request.header("Content-Type", "application/json").body(endless()).unwrap())
    };
    let mut strangers: Vec<_> = (0..300).map(|_| Box::pin(stranger())).collect();
    for each in &mut strangers {
        assert!(futures_util::poll!(each.as_mut()).is_pending());
    }
    let known = api.post("/api/tenants", r#"{"name":"acme"}"#).await;
    assert_eq!(known.status, StatusCode::CREATED, "{known:?}");
    drop(strangers);
    // From here on nothing waits for a disk, and time passes as fast as nothing happens.
    tokio::time::pause();
    let slow = api.request(Method::POST, "/api/tenants").header("Content-Type", "application/json");
    let answer = api.send(slow.body(endless()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT, "{answer:?}");
}

#[tokio::test]
async fn an_address_that_asks_too_much_is_refused_whatever_it_shows_but_never_the_health_checks() {
    let settings = LimitSettings { address_requests_per_second: 1, address_burst: 3, ..Default::default() };
    let api = strict(settings).await;
    let from = async |address: &str, path: &str| {
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let address: std::net::SocketAddr = address.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(address));
        api.send(request).await.status
    };
    let mut answers = Vec::new();
    for path in ["/api/sizes", "/nothing/here", "/api/sizes", "/api/sizes", "/api/openapi.json"] {
        answers.push(from("192.0.2.1:1", path).await.as_u16());
    }
    assert_eq!(answers, [401, 404, 401, 429, 429]);
    assert_eq!(from("192.0.2.1:2", "/healthz").await, StatusCode::OK);
    assert_eq!(from("192.0.2.1:2", "/readyz").await, StatusCode::OK);
    assert_eq!(from("192.0.2.9:1", "/api/sizes").await, StatusCode::UNAUTHORIZED, "another address");
    for _ in 0..20 {
        assert_eq!(from("127.0.0.1:1", "/api/openapi.json").await, StatusCode::OK, "this machine itself");
    }
}
