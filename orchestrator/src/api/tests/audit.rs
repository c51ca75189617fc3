//! The audit trail over the API.

use std::sync::Arc;

use chom_protocol::api::audit::{AuditChain, AuditEntry};
use chom_protocol::audit::Checker;

use super::*;
use crate::audit::Keeper;

impl Api {
    /// Moves everything into the log.
    async fn keep(&self) {
        let fleet = self.world.fleet.clone();
        fleet.write_denials(clock::now(), true).await.unwrap();
        let keeper = Keeper::start(fleet, Arc::clone(&self.audit), 400).await.unwrap();
        keeper.pass().await.unwrap();
    }

    /// All entries of a list, page by page.
    async fn entries(&self, token: &str, query: &str) -> Vec<AuditEntry> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let request = Request::builder()
                .uri(format!("/api/audit?limit=3{query}{cursor}"))
                .header("Authorization", format!("Bearer {token}"));
            let answer = self.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let page = answer.json();
            all.extend(serde_json::from_value::<Vec<AuditEntry>>(page["items"].clone()).unwrap());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    async fn with_reason(&self, reason: &[u8]) -> Answer {
        let request = self.request(Method::POST, "/api/tenants").header("Content-Type", "application/json");
        let body = Body::from(r#"{"name":"acme"}"#);
        self.send(request.header("X-Chom-Reason", reason).body(body).unwrap()).await
    }
}

#[tokio::test]
async fn entries_are_listed_newest_first_from_the_store_and_the_log_as_one() {
    let api = Api::new().await;
    for number in 0..4 {
        api.post("/api/tenants", format!(r#"{{"name":"t{number}"}}"#)).await;
    }
    api.keep().await;
    for number in 4..9 {
        api.post("/api/tenants", format!(r#"{{"name":"t{number}"}}"#)).await;
    }
    let targets =
        |entries: Vec<AuditEntry>| entries.into_iter().map(|entry| entry.target).collect::<Vec<_>>();
    let expected: Vec<String> = (0..9).rev().map(|number| format!("t{number}")).collect();
    assert_eq!(targets(api.entries(&api.token, "").await), expected);
    assert_eq!(targets(api.entries(&api.token, "&target=t7").await), ["t7"]);
    assert_eq!(targets(api.entries(&api.token, "&target=t2&action=tenant&actor=admin").await), ["t2"]);
    assert_eq!(targets(api.entries(&api.token, "&tenant=t3&action=tenant.create&result=done").await), ["t3"]);
    assert!(api.entries(&api.token, "&action=tenant.creat").await.is_empty());
    assert!(api.entries(&api.token, "&until=2020-01-01T00:00:00Z").await.is_empty());
    assert_eq!(api.entries(&api.token, "&from=2020-01-01T00:00:00Z").await.len(), 9);
    for (query, location) in [
        ("from=yesterday", "from"),
        ("result=maybe", "result"),
        ("tenant=A!", "tenant"),
        ("colour=red", "colour"),
    ] {
        let answer = api.get(&format!("/api/audit?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.problem().location.as_deref(), Some(location));
    }
}

#[tokio::test]
async fn a_reason_is_kept_and_a_bad_one_refused() {
    let api = Api::new().await;
    for bad in [b"".as_slice(), b" padded", b"\xff\xfe", "x".repeat(301).as_bytes(), b"tab\there"] {
        let answer = api.with_reason(bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad:?}");
        assert_eq!(answer.problem().location.as_deref(), Some("X-Chom-Reason"));
    }
    let answer = api.with_reason("Kündigung, Ticket 7".as_bytes()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let entries = api.entries(&api.token, "&action=tenant").await;
    assert_eq!(entries[0].reason.as_deref(), Some("Kündigung, Ticket 7"));
    let document = api.get("/api/openapi.json").await.json();
    let taken = &document["paths"]["/api/tenants"]["post"]["parameters"];
    assert!(
        taken.as_array().unwrap().iter().any(|parameter| parameter["name"] == "X-Chom-Reason"),
        "{taken}"
    );
}

#[tokio::test]
async fn what_was_refused_is_in_it_and_shown_to_whom_it_concerns() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    api.create("a").await;
    let vps = api.get("/api/vps-servers").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let (viewer, owner) = (api.token_of(Role::Viewer).to_owned(), api.token_of(Role::Owner).to_owned());
    let ask = async |token: &str, method: Method, path: &str| {
        let request =
            Request::builder().method(method).uri(path).header("Authorization", format!("Bearer {token}"));
        api.send(request.body(Body::empty()).unwrap()).await.status
    };
    let foreign = format!("/api/vps-servers/{vps}");
    assert_eq!(ask(&viewer, Method::GET, &foreign).await, StatusCode::NOT_FOUND);
    assert_eq!(
        ask(&viewer, Method::GET, "/api/vps-servers/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e").await,
        StatusCode::NOT_FOUND
    );
    for _ in 0..5 {
        assert_eq!(ask(&viewer, Method::GET, "/api/hosts").await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&api.expired, Method::GET, "/api/hosts").await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask("chom-api-AAAA", Method::GET, "/api/hosts").await, StatusCode::UNAUTHORIZED);
    let bare = Request::builder().uri("/api/hosts").body(Body::empty()).unwrap();
    assert_eq!(api.send(bare).await.status, StatusCode::UNAUTHORIZED);
    api.keep().await;
    let denied = api.entries(&api.token, "&result=denied").await;
    let mut shown: Vec<String> = denied
        .iter()
        .map(|entry| {
            format!("{} {} {} x{}", entry.action, entry.actor, entry.target.replace(&vps, "VPS"), entry.times)
        })
        .collect();
    shown.sort();
    expect_test::expect![[r#"
        [
            "request.forbidden viewer GET /api/hosts x5",
            "request.foreign viewer GET /api/vps-servers/VPS x1",
            "request.unauthorised former GET /api/hosts x1",
            "request.unauthorised unknown GET /api/hosts x1",
        ]
    "#]]
    .assert_debug_eq(&shown);
    let to_owner = api.entries(&owner, "").await;
    let actions: Vec<&str> = to_owner.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["request.forbidden"], "nothing of another tenant, not even that something is there");
}

#[tokio::test]
async fn the_chain_is_for_the_fleet_and_whole() {
    let api = Api::new().await;
    for number in 0..7 {
        api.post("/api/tenants", format!(r#"{{"name":"t{number}"}}"#)).await;
    }
    api.keep().await;
    let (mut checker, mut cursor) = (None, String::new());
    loop {
        let piece: AuditChain =
            serde_json::from_value(api.get(&format!("/api/audit/chain?limit=2{cursor}")).await.json())
                .unwrap();
        let checker = checker.get_or_insert_with(|| Checker::after(piece.before.sequence, piece.before.hash));
        piece.lines.iter().for_each(|line| checker.take(line).unwrap());
        match piece.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                checker.end(piece.last.sequence, &piece.last.hash).unwrap();
                break;
            }
        }
    }
    assert_eq!(checker.unwrap().entries(), 7);
    assert_eq!(api.get("/api/audit/chain?cursor=nonsense").await.status, StatusCode::BAD_REQUEST);
}
