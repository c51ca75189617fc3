//! The API as a client meets it: requests against the router, on a real fleet with a real store.

mod audit;
mod bad_input;
mod conditions;
mod document;
mod events;
mod https;
mod images;
mod isolation;
mod limits;
mod lists;
mod marks;
mod permissions;
mod reference;
mod users;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use chom_protocol::api::Problem;
use chom_protocol::api::tokens::Role;
use chom_protocol::{TokenId, UnixMillis};
use chom_supervise::Supervisor;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use uuid::Uuid;

use super::envelope::SECURITY_HEADERS;
use super::{App, router};
use crate::audit::AuditLog;
use crate::clock;
use crate::config::LimitSettings;
use crate::console::Consoles;
use crate::dial::system_tls;
use crate::fleet::Fleet;
use crate::fleet::rows::TokenRow;
use crate::fleet::state::Table;
use crate::fleet::tests::{World, catalogue, name, open};
use crate::fleet::tokens;
use crate::history::History;
use crate::images::ImageFolder;
use crate::notify::Notifier;
use crate::notify::webhook::Courier;
use crate::notify::webhook::post::{Policy, Poster};
use crate::notify::webhook::queue::Backoff;
use crate::store::seal::MasterKey;
use crate::store::{
    Commit, CommitError, Key, Prefix, ReadError, Record, Revision, Store, StoreFailure, WatchStream, encode,
};
use crate::usage::{Accountant, Archive, UsageSettings};

/// An API on a fleet of its own.
struct Api {
    world: World,
    router: Router,
    store: Arc<dyn Store>,
    images: Arc<ImageFolder>,
    audit: Arc<AuditLog>,
    history: Arc<History>,
    stop: Supervisor,
    /// A good token, and one that has expired.
    token: String,
    expired: String,
    /// Of every role.
    tokens: BTreeMap<Role, String>,
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

fn notifier(fleet: &Fleet) -> (Notifier, Courier, Accountant) {
    let folder = tempfile::tempdir().unwrap();
    let master = MasterKey::create(&folder.path().join("key")).unwrap();
    let poster = Poster::new(system_tls(), Policy { networks: Vec::new() });
    let backoff = Backoff { first_seconds: 1, longest_seconds: 1 };
    let settings = UsageSettings { hour_seconds: 3600, close_after_seconds: 0, kept_seconds: 3600 };
    let archive = Archive::open(&folder.keep()).unwrap();
    let accountant = Accountant::new(fleet.clone(), archive, settings);
    let courier = Courier::new(fleet.clone(), poster, accountant.clone(), backoff);
    (Notifier::new(fleet.clone(), Arc::new(master)), courier, accountant)
}

/// Consoles of a fleet that no host is connected to.
fn consoles(fleet: &Fleet, stop: &Supervisor) -> Consoles {
    Consoles::new(fleet.clone(), Arc::default(), stop.clone())
}

/// The audit log of a world.
fn log(world: &World) -> Arc<AuditLog> {
    Arc::new(AuditLog::open(&world.folder.path().join("audit")).unwrap())
}

impl Api {
    async fn new() -> Self {
        let folder = World::new().await.end().await;
        let store = open(&folder);
        let (token, row) = tokens::create(name("admin"), Role::Admin, token_id(1), clock::now()).unwrap();
        let (expired, old) = tokens::create(name("former"), Role::Admin, token_id(2), clock::now()).unwrap();
        let old = TokenRow { expires_at: Some(UnixMillis(1)), ..old };
        let mut commit = Commit::new()
            .put(TokenRow::key(&row.id), encode(&row).unwrap())
            .put(TokenRow::key(&old.id), encode(&old).unwrap());
        let mut tokens = BTreeMap::new();
        for (role, number) in Role::ALL.into_iter().zip(10..) {
            let (text, row) =
                tokens::create(name(&role.to_string()), role, token_id(number), clock::now()).unwrap();
            let row = TokenRow { tenant: role.is_of_tenant().then(|| name("acme")), ..row };
            commit = commit.put(TokenRow::key(&row.id), encode(&row).unwrap());
            tokens.insert(role, text);
        }
        store.commit(commit).await.unwrap();
        let world = World::start(folder, Arc::clone(&store), catalogue()).await;
        let (stop, history) = (Supervisor::new(), Arc::new(History::default()));
        let notifier = notifier(&world.fleet);
        let audit = log(&world);
        let images = Arc::new(ImageFolder::new(world.folder.path()));
        images.take_rows(std::iter::empty()).unwrap();
        let app = App::new(
            world.fleet.clone(),
            Arc::clone(&store),
            Arc::clone(&history),
            notifier,
            Arc::clone(&images),
            consoles(&world.fleet, &stop),
            Arc::clone(&audit),
        );
        // Tests ask more at once than callers may.
        let limits = LimitSettings {
            token_requests_per_second: 1_000_000,
            token_burst: 1_000_000,
            ..Default::default()
        };
        let app = app.limited(&limits);
        Self { world, router: router(app), store, images, audit, history, stop, token, expired, tokens }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A token of a role.
    fn token_of(&self, role: Role) -> &str {
        &self.tokens[&role]
    }

    /// A request with a good token.
    fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder().method(method).uri(path).header("Authorization", format!("Bearer {}", self.token))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = self.request(Method::POST, path).header("Content-Type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn order(&self, path: &str) -> Answer {
        self.send(self.request(Method::POST, path).body(Body::empty()).unwrap()).await
    }

    async fn create(&self, vps: &str) -> Value {
        let body = format!(r#"{{"name":"{vps}","region":"us-east","size":"small"}}"#);
        let answer = self.post("/api/vps-servers", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()
    }
}

fn token_id(number: u128) -> TokenId {
    TokenId::new(Uuid::from_u128(number))
}

/// Every route, by method and pattern, as the router itself lists them.
fn every_route() -> Vec<(Method, String)> {
    let document = serde_json::to_value(super::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |item: &Value| item.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    paths
        .iter()
        .flat_map(|(path, item)| methods(item).into_iter().map(move |method| (method, path.clone())))
        .map(|(method, path)| (method.to_uppercase().parse().unwrap(), path))
        .collect()
}

/// A path of a pattern: with an id that nothing has.
fn filled(pattern: &str) -> String {
    let id = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e";
    ["{host}", "{vps}", "{operation}", "{user}"]
        .iter()
        .fold(pattern.to_owned(), |path, part| path.replace(part, id))
}

#[tokio::test]
async fn the_call_of_the_issue_creates_a_vps() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let answer =
        api.post("/api/vps-servers", r#"{"name":"test-vps","region":"us-east","size":"small"}"#).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let accepted = answer.json();
    assert_eq!(accepted["vps"]["name"], "test-vps");
    let operation = accepted["operation"]["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(format!("/api/operations/{operation}").as_str()));
    let shown = api.get("/api/vps-servers/test-vps").await;
    assert_eq!(shown.status, StatusCode::OK);
    assert_eq!(shown.json()["id"], accepted["vps"]["id"]);
    assert_eq!(shown.header("etag"), answer.header("etag"), "nothing has changed since");
    let shown = api.get(&format!("/api/operations/{operation}")).await.json();
    assert_eq!((&shown["kind"], &shown["state"]), (&Value::from("create"), &Value::from("pending")));
}

#[tokio::test]
async fn every_action_on_a_vps_answers_with_its_operation() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    let id = api.create("a").await["vps"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/vps-servers/{id}");
    for action in ["stop", "start", "restart", "DELETE", "undelete", "DELETE", "purge"] {
        api.world.converge(host).await;
        let answer = match action {
            "DELETE" => api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await,
            action => api.order(&format!("{path}/{action}")).await,
        };
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{action}: {answer:?}");
        assert_eq!(answer.json()["operation"]["kind"], action.to_lowercase());
    }
    api.world.converge(host).await;
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND, "gone for good");
    let id = api.create("b").await["vps"]["id"].as_str().unwrap().to_owned();
    for hold in [true, false] {
        let answer = api.post(&format!("/api/vps-servers/{id}/hold"), format!(r#"{{"hold":{hold}}}"#)).await;
        assert_eq!(
            (answer.status, answer.json()["vps"]["hold"].as_bool()),
            (StatusCode::ACCEPTED, Some(hold))
        );
    }
}

#[tokio::test]
async fn a_host_is_added_cordoned_shown_forgotten_and_revoked() {
    let api = Api::new().await;
    let added = api.post("/api/hosts", r#"{"name":"h9","region":"us-east"}"#).await;
    assert_eq!(added.status, StatusCode::CREATED, "{added:?}");
    let host = added.json()["host"].as_str().unwrap().to_owned();
    assert_eq!(added.header("location"), Some(format!("/api/hosts/{host}").as_str()));
    let path = format!("/api/hosts/{host}");
    assert_eq!(api.get("/api/hosts/h9").await.json()["state"], "invited");
    let cordoned = api.post(&format!("{path}/cordon"), r#"{"cordoned":true}"#).await;
    assert_eq!((cordoned.status, cordoned.json()["cordoned"].as_bool()), (StatusCode::OK, Some(true)));
    assert_eq!(api.order(&format!("{path}/allow-destroys")).await.status, StatusCode::OK);
    assert_eq!(api.get(&format!("{path}/ledger")).await.status, StatusCode::CONFLICT, "nothing was uploaded");
    assert_eq!(api.post(&format!("{path}/forget"), "{}").await.json()["state"], "forgotten");
    assert_eq!(api.order(&format!("{path}/revoke")).await.json()["state"], "revoked");
    assert_eq!(api.get("/api/hosts/h9").await.status, StatusCode::NOT_FOUND, "the name is free again");
    assert_eq!(api.get(&path).await.status, StatusCode::OK, "the row stays");
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let api = Api::new().await;
    let mut answers = Vec::new();
    for (method, pattern) in every_route() {
        if pattern == "/api/events" {
            continue; // does not end; its headers are looked at in its own tests
        }
        let path = filled(&pattern);
        answers.push((
            format!("{method} {path}"),
            api.send(api.request(method.clone(), &path).body(Body::empty()).unwrap()).await,
        ));
        let bare = Request::builder().method(method.clone()).uri(&path).body(Body::empty()).unwrap();
        answers.push((format!("{method} {path} without a token"), api.send(bare).await));
    }
    answers.push(("404".to_owned(), api.get("/nothing/here").await));
    answers.push((
        "405".to_owned(),
        api.send(api.request(Method::PUT, "/api/hosts").body(Body::empty()).unwrap()).await,
    ));
    answers.push(("413".to_owned(), api.post("/api/hosts", vec![b' '; 300_000]).await));
    answers.push((
        "HEAD".to_owned(),
        api.send(api.request(Method::HEAD, "/api/hosts").body(Body::empty()).unwrap()).await,
    ));
    for (what, answer) in answers {
        for (name, value) in SECURITY_HEADERS {
            assert_eq!(answer.header(name.as_str()), Some(value), "{what}: {answer:?}");
        }
        if answer.status.is_client_error() || answer.status.is_server_error() {
            let problem = answer.problem();
            assert_eq!(problem.status, answer.status.as_u16(), "{what}");
            assert!(
                problem.kind.starts_with("/problems/") && !problem.detail.is_empty(),
                "{what}: {problem:?}"
            );
        }
    }
    assert_eq!(api.get("/api/hosts").await.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_wrong_method_is_told_which_are_right() {
    let api = Api::new().await;
    let answer = api.send(api.request(Method::PUT, "/api/hosts").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let mut allowed: Vec<&str> = answer.header("allow").unwrap().split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_with_a_problem() {
    let api = Api::new().await;
    let notifier = notifier(&api.world.fleet);
    let app = App::new(
        api.world.fleet.clone(),
        Arc::clone(&api.store),
        Arc::default(),
        notifier,
        Arc::new(ImageFolder::new(api.world.folder.path())),
        consoles(&api.world.fleet, &api.stop),
        log(&api.world),
    );
    let broken =
        Router::new().route("/broken", axum::routing::get(|| async { panic!("on purpose") as &str }));
    let router = super::envelope::around(broken, app);
    let request = Request::builder().uri("/broken").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in SECURITY_HEADERS {
        assert_eq!(response.headers()[name], value);
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem.kind, "/problems/internal");
    assert!(!problem.detail.contains("on purpose"), "{problem:?}");
}

#[tokio::test]
async fn all_but_health_readiness_and_the_document_needs_a_good_token() {
    let api = Api::new().await;
    for (method, pattern) in every_route() {
        let request =
            Request::builder().method(method.clone()).uri(filled(&pattern)).body(Body::empty()).unwrap();
        let answer = api.send(request).await;
        if pattern == "/api/sign-in" {
            continue; // its own tests say what it takes
        }
        let expected = match pattern.as_str() {
            "/healthz" | "/readyz" | "/api/openapi.json" | "/reference" => StatusCode::OK,
            "/problems/{problem}" => StatusCode::NOT_FOUND,
            _ => StatusCode::UNAUTHORIZED,
        };
        assert_eq!(answer.status, expected, "{method} {pattern}");
    }
}

#[tokio::test]
async fn credentials_that_do_not_open_say_why() {
    let api = Api::new().await;
    let other = "chom-api-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let table = [
        (None, "send one header"),
        (Some(format!("Bearer {}", api.expired)), "has expired"),
        (Some(format!("Bearer {other}")), "is unknown"),
        (Some("Bearer hunter2".to_owned()), "is no API token"),
        (Some("Basic YTpi".to_owned()), "only bearer tokens"),
        (Some("Bearer".to_owned()), "cannot be read"),
        (Some(format!("Bearer {}", "x".repeat(10_000))), "cannot be read"),
    ];
    for (credentials, expected) in table {
        let mut request = Request::builder().uri("/api/hosts");
        if let Some(credentials) = &credentials {
            request = request.header("Authorization", credentials);
        }
        let answer = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{credentials:?}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{answer:?}");
        let problem = answer.problem();
        assert!(problem.detail.contains(expected), "{credentials:?}: {problem:?}");
        assert_eq!(problem.location.as_deref(), Some("Authorization"));
    }
    let lower = Request::builder().uri("/api/hosts").header("authorization", format!("bearer {}", api.token));
    assert_eq!(
        api.send(lower.body(Body::empty()).unwrap()).await.status,
        StatusCode::OK,
        "schemes have no case"
    );
}

#[tokio::test]
async fn readiness_ends_before_the_process_does() {
    let api = Api::new().await;
    assert_eq!(api.get("/readyz").await.status, StatusCode::OK);
    api.stop.stop().cancel();
    let answer = api.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.problem().detail.contains("shutting down"));
    assert_eq!(api.get("/healthz").await.status, StatusCode::OK, "still alive");
}

/// A store whose disk has failed.
struct Failed;

impl Store for Failed {
    fn get(&self, _: &Key) -> BoxFuture<'static, Result<Option<Record>, ReadError>> {
        Box::pin(async { Ok(None) })
    }

    fn list(&self, _: &Prefix) -> BoxFuture<'static, Result<(Revision, Vec<Record>), ReadError>> {
        Box::pin(async { Ok((Revision(0), vec![])) })
    }

    fn commit(&self, _: Commit) -> BoxFuture<'static, Result<Revision, CommitError>> {
        let source = std::io::Error::other("no space left");
        let failure = StoreFailure { step: "write", place: "/var/lib/chom".to_owned(), source };
        Box::pin(async { Err(CommitError::Failed { source: Arc::new(failure) }) })
    }

    fn ready(&self) -> Result<(), CommitError> {
        Err(self.commit(Commit::new()).now_or_never().unwrap().unwrap_err())
    }

    fn watch(&self, _: &Prefix, _: Revision) -> WatchStream {
        unreachable!("readiness does not watch")
    }

    fn revision(&self) -> Revision {
        Revision(0)
    }
}

#[tokio::test]
async fn an_orchestrator_whose_store_has_failed_is_not_ready_and_says_what_to_do() {
    let api = Api::new().await;
    let notifier = notifier(&api.world.fleet);
    let app = App::new(
        api.world.fleet.clone(),
        Arc::new(Failed),
        Arc::default(),
        notifier,
        Arc::new(ImageFolder::new(api.world.folder.path())),
        consoles(&api.world.fleet, &api.stop),
        log(&api.world),
    );
    let api = Api { router: router(app), ..api };
    let answer = api.get("/readyz").await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("2")));
    let detail = answer.problem().detail;
    assert!(detail.contains("no space left") && detail.contains("restart the orchestrator"), "{detail}");
    assert_eq!(api.get("/api/hosts").await.status, StatusCode::OK, "reads go on");
}

#[tokio::test]
async fn metrics_count_what_there_is_and_what_was_asked() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    api.create("a").await;
    api.get("/api/hosts/h1").await;
    api.get("/api/hosts/h2").await;
    let answer = api.get("/metrics").await;
    let text = String::from_utf8(answer.body.clone()).unwrap();
    for line in [
        "chom_hosts{state=\"connected\"} 1",
        "chom_hosts{state=\"unreachable\"} 0",
        "chom_vps 1",
        "chom_operations_open 1",
        "chom_http_requests_total{method=\"GET\",route=\"/api/hosts/{host}\",status=\"200\"} 1",
        "chom_http_requests_total{method=\"GET\",route=\"/api/hosts/{host}\",status=\"404\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
    }
}
