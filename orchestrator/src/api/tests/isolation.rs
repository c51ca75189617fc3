//! The isolation matrix: every route of the document, every role of a tenant, on rows of its own, of another tenant, and on
//! rows that nobody has. What is foreign answers as what does not exist, byte for byte, and nothing of it is in any answer.

use futures_util::StreamExt;

use super::permissions::identified;
use super::*;
use crate::permission::{self, Needs};

/// Who has what; names begin with the tenant's, so that they are found in answers that should not have them.
struct Rows {
    tenant: String,
    vps: String,
    operation: String,
    token: String,
    webhook: String,
    user: String,
}

impl Rows {
    /// A tenant with one row of each kind.
    async fn of(api: &Api, tenant: &str) -> Self {
        let made = api.post("/api/tenants", format!(r#"{{"name":"{tenant}"}}"#)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let body = format!(r#"{{"name":"{tenant}-token","role":"owner","tenant":"{tenant}"}}"#);
        let made = api.post("/api/tokens", body).await.json();
        let secret = made["secret"].as_str().unwrap();
        let body = format!(
            r#"{{"name":"someone@{tenant}","role":"member","tenant":"{tenant}","password":"no password of {tenant}"}}"#
        );
        let user = api.post("/api/users", body).await.json();
        let key =
            format!(r#"{{"name":"{tenant}-key","key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 you@{tenant}"}}"#);
        let added = with(api, secret, Method::POST, "/api/ssh-keys", &key).await;
        assert_eq!(added.status, StatusCode::CREATED, "{added:?}");
        let body = format!(r#"{{"name":"{tenant}-vps","region":"us-east","size":"small"}}"#);
        let accepted = with(api, secret, Method::POST, "/api/vps-servers", &body).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:?}");
        let accepted = accepted.json();
        assert_eq!(accepted["vps"]["tenant"], tenant);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let body =
            format!(r#"{{"name":"{tenant}-hook","url":"https://{tenant}.invalid/","kinds":["operations"]}}"#);
        let hook = with(api, secret, Method::POST, "/api/webhooks", &body).await;
        assert_eq!(hook.status, StatusCode::CREATED, "{hook:?}");
        Self {
            webhook: text(&hook.json()["webhook"]["id"]),
            tenant: tenant.to_owned(),
            vps: text(&accepted["vps"]["id"]),
            operation: text(&accepted["operation"]["id"]),
            token: text(&made["token"]["id"]),
            user: text(&user["id"]),
        }
    }

    /// As many rows that nobody has.
    fn of_nobody() -> Self {
        let id = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e".to_owned();
        Self {
            tenant: "nobody".to_owned(),
            vps: id.clone(),
            operation: id.clone(),
            webhook: id.clone(),
            token: id.clone(),
            user: id,
        }
    }

    /// A route's path on these rows.
    fn path(&self, pattern: &str) -> String {
        let key = format!("{}-key", self.tenant);
        let all = [
            ("{vps}", self.vps.as_str()),
            ("{operation}", &self.operation),
            ("{token}", &self.token),
            ("{webhook}", &self.webhook),
            ("{user}", &self.user),
            ("{tenant}", &self.tenant),
            ("{key}", &key),
            ("{snapshot}", "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e"),
            ("{host}", "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e"),
            ("{network}", "nat"),
            ("{image}", "hello"),
            ("{number}", "7"),
        ];
        all.into_iter().fold(pattern.to_owned(), |path, (part, value)| path.replace(part, value))
    }

    /// An answer without what was asked for, which it may repeat.
    fn without_what_was_asked(&self, answer: &Answer) -> String {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let key = format!("{}-key", self.tenant);
        [&self.vps, &self.operation, &self.token, &self.webhook, &self.user, &key, &self.tenant]
            .into_iter()
            .fold(text, |text, asked| text.replace(asked.as_str(), "ASKED"))
    }
}

async fn with(api: &Api, token: &str, method: Method, path: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Authorization", format!("Bearer {token}"))
        .header("Content-Type", "application/json");
    let response =
        api.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let endless = parts.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let body = if endless { Vec::new() } else { body.collect().await.unwrap().to_bytes().to_vec() };
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Whether a path names a row that somebody owns.
fn names_a_row(pattern: &str) -> bool {
    ["{vps}", "{operation}", "{token}", "{webhook}", "{user}", "{tenant}"]
        .iter()
        .any(|part| pattern.contains(part))
}

/// All that is stored of a tenant.
fn stored(api: &Api, rows: &Rows) -> Vec<String> {
    let state = api.world.fleet.state();
    let all = state.dump().into_iter().map(|(_, key, value)| format!("{key} {value}"));
    all.filter(|text| text.contains(&rows.tenant) || text.contains(&rows.vps)).collect()
}

#[tokio::test]
async fn no_route_shows_a_tenant_or_lets_it_touch_what_is_another_tenants() {
    let api = Api::new().await;
    let host = api.world.host("secret-host", "us-east", 10).await.to_string();
    let (own, foreign, nobody) =
        (Rows::of(&api, "acme").await, Rows::of(&api, "foreign").await, Rows::of_nobody());
    let before = stored(&api, &foreign);
    assert!(before.len() >= 5, "{before:?}");
    // The mightiest last: what it removes is there for the others.
    for role in [Role::Viewer, Role::Member, Role::Owner] {
        let token = api.token_of(role);
        let mut routes = identified();
        // What is removed is gone for the routes that come after.
        routes.sort_by_key(|(method, ..)| *method == Method::DELETE);
        for (method, pattern, id) in routes {
            let Some(permission) = permission::of_route(&id).and_then(Needs::permission) else { continue };
            let may = permission::may(role, permission);
            let mut hidden = Vec::new();
            for rows in [&nobody, &foreign, &own] {
                let path = rows.path(&pattern);
                let answer = with(&api, token, method.clone(), &path, "").await;
                let what = format!("{role} {method} {path}: {answer:?}");
                let text = rows.without_what_was_asked(&answer);
                assert!(!text.contains("foreign"), "something foreign is shown: {what}");
                assert!(!text.contains("secret-host") && !text.contains(&host), "a host is shown: {what}");
                assert!(!answer.status.is_server_error(), "{what}");
                if names_a_row(&pattern) && !std::ptr::eq(rows, &own) {
                    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{what}");
                    hidden.push(text);
                    continue;
                }
                assert_eq!(answer.status == StatusCode::FORBIDDEN, !may, "{what}");
                let is_there = names_a_row(&pattern) && !pattern.contains("{snapshot}");
                assert!(!is_there || answer.status != StatusCode::NOT_FOUND, "{what}");
                if pattern.contains("{key}") && !std::ptr::eq(rows, &own) {
                    hidden.push(text);
                }
            }
            assert!(hidden.windows(2).all(|pair| pair[0] == pair[1]), "{id} tells the two apart: {hidden:?}");
        }
    }
    assert_eq!(stored(&api, &foreign), before, "nothing foreign has changed");
}

#[tokio::test]
async fn names_lists_and_bodies_lead_to_nothing_foreign() {
    let api = Api::new().await;
    api.world.host("secret-host", "us-east", 10).await;
    let (own, foreign) = (Rows::of(&api, "acme").await, Rows::of(&api, "foreign").await);
    let token = api.token_of(Role::Owner);
    for (path, nobody) in [
        ("/api/vps-servers/foreign-vps", "/api/vps-servers/nobodys-vps"),
        ("/api/vps-servers/foreign-vps/snapshots", "/api/vps-servers/nobodys-vps/snapshots"),
    ] {
        let (theirs, none) = (
            with(&api, token, Method::GET, path, "").await,
            with(&api, token, Method::GET, nobody, "").await,
        );
        assert_eq!(theirs.status, StatusCode::NOT_FOUND, "{theirs:?}");
        let text = String::from_utf8_lossy(&theirs.body).replace("foreign", "nobodys");
        assert_eq!(text, String::from_utf8_lossy(&none.body));
    }
    for (path, body) in [
        ("/api/vps-servers", r#"{"name":"a","region":"us-east","size":"small","tenant":"foreign"}"#),
        (
            "/api/vps-servers?dry_run=true",
            r#"{"name":"a","region":"us-east","size":"small","tenant":"foreign"}"#,
        ),
        ("/api/tokens", r#"{"name":"a","role":"viewer","tenant":"foreign"}"#),
        (
            "/api/webhooks",
            r#"{"name":"a","url":"https://a.example/","kinds":["operations"],"tenant":"foreign"}"#,
        ),
        ("/api/tokens", &format!(r#"{{"name":"a","role":"viewer","vps":"{}"}}"#, foreign.vps)),
        ("/api/tokens", r#"{"name":"a","role":"admin"}"#),
        ("/api/users", r#"{"name":"a","role":"viewer","tenant":"foreign","password":"twelve letters"}"#),
        ("/api/users", r#"{"name":"a","role":"admin","password":"twelve letters"}"#),
    ] {
        let theirs = with(&api, token, Method::POST, path, body).await;
        assert_eq!(theirs.status, StatusCode::UNPROCESSABLE_ENTITY, "{path} {body}: {theirs:?}");
        let body = body.replace("foreign", "nobodys").replace(&foreign.vps, &Rows::of_nobody().vps);
        let none = with(&api, token, Method::POST, path, &body).await;
        let text = String::from_utf8_lossy(&theirs.body).replace("foreign", "nobodys");
        assert_eq!(text.replace(&foreign.vps, &Rows::of_nobody().vps), String::from_utf8_lossy(&none.body));
    }
    let body = r#"{"name":"b","region":"us-east","size":"small"}"#;
    let plan = with(&api, token, Method::POST, "/api/vps-servers?dry_run=true", body).await;
    assert_eq!((plan.status, &plan.json()["host"]), (StatusCode::OK, &Value::Null), "{plan:?}");
    assert!(!String::from_utf8_lossy(&plan.body).contains("secret-host"), "{plan:?}");
    // Another tenant's name is free here, and the fleet sees all.
    let body = r#"{"name":"foreign-vps","region":"us-east","size":"small"}"#;
    assert_eq!(with(&api, token, Method::POST, "/api/vps-servers", body).await.status, StatusCode::ACCEPTED);
    assert_eq!(api.get("/api/vps-servers").await.json()["items"].as_array().unwrap().len(), 3);
    let listed = with(&api, token, Method::GET, "/api/vps-servers", "").await.json();
    assert!(
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|vps| vps["tenant"] == "acme" && vps["host"].is_null())
    );
    assert_eq!(listed["items"][0]["id"].as_str().unwrap(), own.vps);
}

#[tokio::test]
async fn filters_and_orders_tell_a_tenant_nothing_of_hosts_or_of_others() {
    let api = Api::new().await;
    let host = api.world.host("secret-host", "us-east", 10).await;
    let (own, foreign) = (Rows::of(&api, "acme").await, Rows::of(&api, "foreign").await);
    let token = api.token_of(Role::Owner);
    let asked = async |path: &str| with(&api, token, Method::GET, path, "").await;
    for list in ["/api/vps-servers", "/api/operations"] {
        let there = asked(&format!("{list}?host={host}")).await;
        let nowhere = asked(&format!("{list}?host=nowhere")).await;
        assert_eq!(there.status, StatusCode::BAD_REQUEST, "{there:?}");
        assert_eq!(there.body, nowhere.body, "the same for every host");
        assert!(!there.problem().detail.contains("`host`,"), "it is not offered: {there:?}");
        for filter in
            ["sort=-created_at", "region=us-east", "tenant=acme", "tenant=foreign", "q=foreign", "vps=ID"]
        {
            let filter = filter.replace("ID", &foreign.vps);
            let answer = asked(&format!("{list}?{filter}&limit=1")).await;
            let text = String::from_utf8_lossy(&answer.body).replace("`foreign`", "");
            assert!(!text.contains("foreign") && !text.contains(&foreign.vps), "{filter}: {answer:?}");
            assert!(
                answer.status != StatusCode::OK || answer.json()["next_cursor"].is_null(),
                "{filter}: {answer:?}"
            );
        }
    }
    for filter in ["tenant=foreign", "q=foreign"] {
        let (theirs, none) = (
            asked(&format!("/api/vps-servers?{filter}")).await,
            asked(&format!("/api/vps-servers?{}", filter.replace("foreign", "nobody"))).await,
        );
        assert_eq!(theirs.body, none.body, "{filter}");
    }
    let listed = asked("/api/vps-servers?sort=name&fields=id,host").await.json();
    assert_eq!(listed["items"], serde_json::json!([{"id": own.vps}]), "and no host");
}

#[tokio::test]
async fn a_token_for_one_vps_meets_that_one_alone() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let own = Rows::of(&api, "acme").await;
    let owner = api.token_of(Role::Owner);
    let body = r#"{"name":"another","region":"us-east","size":"small"}"#;
    let other = with(&api, owner, Method::POST, "/api/vps-servers", body).await.json();
    let other = other["vps"]["id"].as_str().unwrap();
    let body = format!(r#"{{"name":"one","role":"owner","vps":"{}"}}"#, own.vps);
    let made = with(&api, owner, Method::POST, "/api/tokens", &body).await.json();
    let token = made["secret"].as_str().unwrap();
    let listed = with(&api, token, Method::GET, "/api/vps-servers", "").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let order = |vps: &str| format!("/api/vps-servers/{vps}/stop");
    assert_eq!(with(&api, token, Method::POST, &order(other), "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        with(&api, token, Method::GET, "/api/vps-servers/another", "").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(with(&api, token, Method::POST, &order(&own.vps), "").await.status, StatusCode::ACCEPTED);
    for (method, path) in
        [(Method::POST, "/api/vps-servers"), (Method::GET, "/api/tokens"), (Method::GET, "/api/ssh-keys")]
    {
        assert_eq!(with(&api, token, method, path, "").await.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn an_event_stream_tells_a_tenant_of_its_own_rows_alone_and_ends_with_its_token() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let own = Rows::of(&api, "acme").await;
    let owner = api.token_of(Role::Owner);
    let made =
        with(&api, owner, Method::POST, "/api/tokens", r#"{"name":"stream","role":"viewer"}"#).await.json();
    let (secret, id) = (made["secret"].as_str().unwrap(), made["token"]["id"].as_str().unwrap());
    let request = Request::builder().uri("/api/events").header("Authorization", format!("Bearer {secret}"));
    let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let mut stream = response.into_body().into_data_stream();
    Rows::of(&api, "foreign").await;
    api.world.host("h2", "us-east", 10).await;
    let stop = format!("/api/vps-servers/{}/stop", own.vps);
    assert_eq!(with(&api, owner, Method::POST, &stop, "").await.status, StatusCode::ACCEPTED);
    let mut told = String::new();
    while !told.contains("\"tenant\":\"acme\"") {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(20), stream.next()).await.unwrap();
        told += std::str::from_utf8(&piece.unwrap().unwrap()).unwrap();
    }
    assert!(!told.contains("foreign") && !told.contains("\"host\""), "{told}");
    let revoked = with(&api, owner, Method::DELETE, &format!("/api/tokens/{id}"), "").await;
    assert_eq!(revoked.status, StatusCode::OK, "{revoked:?}");
    assert_eq!(
        with(&api, secret, Method::GET, "/api/vps-servers", "").await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        with(&api, owner, Method::POST, &stop.replace("stop", "start"), "").await.status,
        StatusCode::ACCEPTED
    );
    while let Some(piece) = tokio::time::timeout(std::time::Duration::from_secs(20), stream.next())
        .await
        .expect("the stream should end")
    {
        assert!(!String::from_utf8_lossy(&piece.unwrap()).contains("foreign"));
    }
}
