//! People: who may make and change whom, what sessions can do and when they end, and what guessers meet.

use axum::extract::ConnectInfo;
use axum::http::header::RETRY_AFTER;
use expect_test::expect;

use super::*;
use crate::fleet::rows::AuditRow;

const PASSWORD: &str = "four words are good";

impl Api {
    /// A request as somebody, with an answer read to its end.
    async fn as_of(&self, token: &str, method: Method, path: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = match token {
            "" => request,
            token => request.header("Authorization", format!("Bearer {token}")),
        };
        let request = request.header("Content-Type", "application/json");
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// Makes a user and gives its id.
    async fn user(&self, user: &str, role: &str, tenant: Option<&str>) -> String {
        let mut body = serde_json::json!({"name": user, "role": role, "password": PASSWORD});
        if let Some(tenant) = tenant {
            body["tenant"] = tenant.into();
        }
        let made = self.post("/api/users", body.to_string()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        made.json()["id"].as_str().unwrap().to_owned()
    }

    async fn sign_in(&self, user: &str, tenant: Option<&str>, password: &str) -> Answer {
        let mut body = serde_json::json!({"name": user, "password": password});
        if let Some(tenant) = tenant {
            body["tenant"] = tenant.into();
        }
        self.as_of("", Method::POST, "/api/sign-in", &body.to_string()).await
    }

    /// The token of a new session.
    async fn session(&self, user: &str, tenant: Option<&str>) -> String {
        let answer = self.sign_in(user, tenant, PASSWORD).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.json()["secret"].as_str().unwrap().to_owned()
    }

    async fn is_open(&self, token: &str) -> bool {
        self.as_of(token, Method::GET, "/api/whoami", "").await.status == StatusCode::OK
    }

    async fn tenant(&self, tenant: &str) {
        let made = self.post("/api/tenants", format!(r#"{{"name":"{tenant}"}}"#)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    }

    fn audited(&self, action: &str) -> Vec<AuditRow> {
        let state = self.world.fleet.state();
        state
            .audit
            .values()
            .map(|stored| stored.row.as_ref())
            .filter(|row| row.action == action)
            .cloned()
            .collect()
    }
}

#[tokio::test]
async fn a_user_signs_in_acts_under_its_own_name_and_signs_out() {
    let api = Api::new().await;
    api.tenant("acme").await;
    let id = api.user("Anna@Example.com", "owner", Some("acme")).await;
    let session = api.session("anna@example.com", Some("acme")).await;
    let who = api.as_of(&session, Method::GET, "/api/whoami", "").await.json();
    assert_eq!(
        (&who["name"], &who["user"], &who["role"], &who["tenant"]),
        (&"anna@example.com".into(), &id.as_str().into(), &"owner".into(), &"acme".into())
    );
    let permissions: Vec<&str> =
        who["permissions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(permissions.contains(&"vps:change") && permissions.contains(&"user:change"), "{permissions:?}");
    assert!(permissions.contains(&"tenant:read") && !permissions.iter().any(|word| word.starts_with("host")));
    assert!(who["expires_at"].as_str().is_some(), "{who}");
    let key = r#"{"name":"laptop","key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 anna"}"#;
    assert_eq!(api.as_of(&session, Method::POST, "/api/ssh-keys", key).await.status, StatusCode::CREATED);
    assert_eq!(api.audited("ssh-key.add")[0].actor, "anna@example.com");
    let shown = api.get(&format!("/api/users/{id}")).await.json();
    assert_eq!((&shown["sessions"], shown["signed_in_at"].is_string()), (&1.into(), true), "{shown}");
    assert_eq!(api.as_of(&session, Method::POST, "/api/sign-out", "").await.status, StatusCode::OK);
    assert!(!api.is_open(&session).await);
    // An API token is no session, and has no password.
    let owner = api.token_of(Role::Owner);
    assert_eq!(api.as_of(owner, Method::POST, "/api/sign-out", "").await.status, StatusCode::CONFLICT);
    let change = format!(r#"{{"old":"{PASSWORD}","new":"another good one"}}"#);
    let answer = api.as_of(owner, Method::POST, "/api/whoami/password", &change).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    assert!(api.is_open(owner).await);
}

#[tokio::test]
async fn sessions_end_with_their_user_with_its_password_and_when_it_is_disabled() {
    let api = Api::new().await;
    let id = api.user("bert", "operator", None).await;
    let path = format!("/api/users/{id}");
    let session = api.session("bert", None).await;
    assert_eq!(api.order(&format!("{path}/disable")).await.status, StatusCode::OK);
    assert!(!api.is_open(&session).await);
    assert_eq!(api.sign_in("bert", None, PASSWORD).await.status, StatusCode::UNAUTHORIZED, "it is disabled");
    assert_eq!(api.order(&format!("{path}/enable")).await.json()["disabled_at"], Value::Null);
    let session = api.session("bert", None).await;
    let reset = api.post(&format!("{path}/password"), r#"{"password":"another good one"}"#).await;
    assert_eq!(reset.status, StatusCode::OK, "{reset:?}");
    assert!(!api.is_open(&session).await);
    assert_eq!(api.sign_in("bert", None, PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    let signed_in = api.sign_in("bert", None, "another good one").await.json();
    let session = signed_in["secret"].as_str().unwrap();
    // A new role is there at once.
    assert_eq!(api.post(&format!("{path}/role"), r#"{"role":"auditor"}"#).await.status, StatusCode::OK);
    assert_eq!(api.as_of(session, Method::GET, "/api/whoami", "").await.json()["role"], "auditor");
    let refused = api.post(&format!("{path}/role"), r#"{"role":"owner"}"#).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    let deleted = api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
    assert_eq!(deleted.status, StatusCode::OK, "{deleted:?}");
    assert!(!api.is_open(session).await);
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
    assert!(api.world.fleet.state().sessions_of_user.is_empty(), "nothing is left of them");
}

#[tokio::test]
async fn a_user_has_no_more_sessions_than_it_may_and_the_oldest_ends() {
    let api = Api::new().await;
    api.user("bert", "auditor", None).await;
    let mut sessions = Vec::new();
    for _ in 0..21 {
        sessions.push(api.session("bert", None).await);
    }
    assert!(
        !api.is_open(&sessions[0]).await
            && api.is_open(&sessions[1]).await
            && api.is_open(&sessions[20]).await
    );
}

#[tokio::test]
async fn ones_own_password_is_changed_with_the_old_one_and_other_sessions_end() {
    let api = Api::new().await;
    let id = api.user("carl", "admin", None).await;
    let (here, elsewhere) = (api.session("carl", None).await, api.session("carl", None).await);
    let change = |old: &str| format!(r#"{{"old":"{old}","new":"another good one"}}"#);
    let path = "/api/whoami/password";
    let wrong = api.as_of(&here, Method::POST, path, &change("not the old one")).await;
    assert_eq!(
        (wrong.status, wrong.problem().location.as_deref()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("/old"))
    );
    let own = format!("/api/users/{id}/password");
    let own = api.as_of(&here, Method::POST, &own, r#"{"password":"another good one"}"#).await;
    assert_eq!(own.status, StatusCode::CONFLICT, "an open session is not enough to take it over");
    let request = || {
        let request = Request::builder().method(Method::POST).uri(path);
        let request =
            request.header("Authorization", format!("Bearer {here}")).header("Idempotency-Key", "k");
        request.header("Content-Type", "application/json").body(Body::from(change(PASSWORD))).unwrap()
    };
    assert_eq!(api.send(request()).await.status, StatusCode::OK);
    let again = api.send(request()).await;
    assert_eq!(
        (again.status, again.header("idempotency-replayed")),
        (StatusCode::OK, Some("true")),
        "{again:?}"
    );
    assert!(api.is_open(&here).await && !api.is_open(&elsewhere).await);
    assert_eq!(api.sign_in("carl", None, "another good one").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_owner_manages_the_users_of_its_tenant_alone_and_gives_no_more_than_it_has() {
    let api = Api::new().await;
    api.tenant("acme").await;
    api.tenant("other").await;
    let foreign = api.user("anna", "owner", Some("other")).await;
    let owner = api.token_of(Role::Owner);
    let create = |body: &'static str| api.as_of(owner, Method::POST, "/api/users", body);
    // The same name in another tenant is no secret that an owner could find out.
    let made = create(r#"{"name":"anna","role":"member","password":"four words are good"}"#).await;
    assert_eq!((made.status, &made.json()["tenant"]), (StatusCode::CREATED, &"acme".into()), "{made:?}");
    let twice = create(r#"{"name":"ANNA","role":"viewer","password":"four words are good"}"#).await;
    assert_eq!(twice.status, StatusCode::CONFLICT);
    let table = [
        (r#"{"name":"x","role":"admin","password":"four words are good"}"#, "/role"),
        (r#"{"name":"x","role":"member","tenant":"other","password":"four words are good"}"#, "/tenant"),
        (r#"{"name":"x","role":"member","password":"short"}"#, "/password"),
        (r#"{"name":"x@","role":"member","password":"four words are good"}"#, "/name"),
    ];
    for (body, location) in table {
        let refused = create(body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(refused.problem().location.as_deref(), Some(location), "{body}");
    }
    let path = format!("/api/users/{foreign}/disable");
    assert_eq!(api.as_of(owner, Method::POST, &path, "").await.status, StatusCode::NOT_FOUND);
    let listed = api.as_of(owner, Method::GET, "/api/users", "").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(api.get("/api/users?name=anna").await.json()["items"].as_array().unwrap().len(), 2);
    // Each signs in to its own tenant.
    assert!(api.is_open(&api.session("anna", Some("acme")).await).await);
    assert_eq!(api.sign_in("anna", None, PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    let tenant = api.request(Method::DELETE, "/api/tenants/other").body(Body::empty()).unwrap();
    let kept = api.send(tenant).await;
    assert_eq!(kept.status, StatusCode::CONFLICT, "it still has users: {kept:?}");
}

#[tokio::test]
async fn the_last_admin_cannot_be_removed_in_any_way() {
    let api = Api::new().await;
    let ids = ["dora", "emil"];
    let (dora, emil) = (api.user(ids[0], "admin", None).await, api.user(ids[1], "admin", None).await);
    let session = api.session("dora", None).await;
    // While users are there to do everything, every admin's token can go.
    let tokens = api.get("/api/tokens").await.json();
    for token in tokens["items"].as_array().unwrap().iter().filter(|token| token["role"] == "admin") {
        let path = format!("/api/tokens/{}", token["id"].as_str().unwrap());
        if token["user"].is_null() {
            assert_eq!(api.as_of(&session, Method::DELETE, &path, "").await.status, StatusCode::OK);
        }
    }
    let gone = api.as_of(&session, Method::POST, &format!("/api/users/{emil}/disable"), "").await;
    assert_eq!(gone.status, StatusCode::OK, "{gone:?}");
    let own = format!("/api/users/{dora}");
    for (method, path, body) in [
        (Method::DELETE, own.clone(), ""),
        (Method::POST, format!("{own}/disable"), ""),
        (Method::POST, format!("{own}/role"), r#"{"role":"operator"}"#),
    ] {
        let refused = api.as_of(&session, method, &path, body).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{path}");
        expect!["no admin would be left: this is the last admin who can sign in, and there is no admin's token without an end; make another one first (`chomctl user create NAME --role admin`)"]
            .assert_eq(&refused.problem().detail);
    }
    let body = r#"{"name":"robot","role":"admin"}"#;
    let made = api.as_of(&session, Method::POST, "/api/tokens", body).await.json();
    let robot = made["secret"].as_str().unwrap();
    assert_eq!(
        api.as_of(&session, Method::DELETE, &own, "").await.status,
        StatusCode::OK,
        "the robot is left"
    );
    let path = format!("/api/tokens/{}", made["token"]["id"].as_str().unwrap());
    assert_eq!(api.as_of(robot, Method::DELETE, &path, "").await.status, StatusCode::CONFLICT);
}

/// The API as after a restart: of wrong passwords, all that a process remembers is in its router.
fn restarted(api: &Api, sign_in_failures_max: u32) -> Router {
    let settings = crate::config::LimitSettings { sign_in_failures_max, ..Default::default() };
    let app = App::new(
        api.world.fleet.clone(),
        Arc::clone(&api.store),
        Arc::default(),
        notifier(&api.world.fleet),
        Arc::clone(&api.images),
        consoles(&api.world.fleet, &api.stop),
        Arc::clone(&api.audit),
    );
    router(app.limited(&settings))
}

#[tokio::test]
async fn who_guesses_is_locked_out_also_after_a_restart_and_learns_nothing_of_who_there_is() {
    let mut api = Api::new().await;
    let id = api.user("anna", "auditor", None).await;
    let (first, second) = (restarted(&api, 2), restarted(&api, 2));
    api.router = first;
    let mut answers = Vec::new();
    for name in ["anna", "nobody-here"] {
        for _ in 0..2 {
            answers.push(api.sign_in(name, None, "wrong").await);
        }
    }
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.body, answers[0].body);
    }
    // For both alike: the right password is not looked at, and a restart forgets no lock.
    for _ in 0..2 {
        for name in ["anna", "nobody-here"] {
            let locked = api.sign_in(name, None, PASSWORD).await;
            let seconds = locked.header(RETRY_AFTER.as_str()).unwrap();
            assert_eq!(locked.status, StatusCode::TOO_MANY_REQUESTS, "{name}");
            assert!((1..=900).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
            let detail = locked.problem().detail.replace(seconds, "N");
            expect!["too many wrong passwords with this name or from your address; try again in N s, or ask an admin to enable the user again"]
                .assert_eq(&detail);
        }
        api.router = second.clone();
    }
    let audited = |action: &str| {
        let rows = api.audited(action);
        let of = |target: &str| rows.iter().filter(|row| row.target == target).count();
        (of(&id), of("unknown"))
    };
    assert_eq!((audited("user.sign-in-refused"), audited("user.locked")), ((2, 2), (1, 1)));
    // An admin lets the user in again.
    assert!(api.get(&format!("/api/users/{id}")).await.json()["locked_until"].is_string());
    assert_eq!(api.order(&format!("/api/users/{id}/enable")).await.json()["locked_until"], Value::Null);
    assert_eq!(api.sign_in("anna", None, PASSWORD).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_address_that_tries_many_names_is_locked_out_and_others_are_not() {
    let api = Api::new().await;
    let from = |address: &str, name: usize| {
        let body = format!(r#"{{"name":"user-{name}","password":"wrong"}}"#);
        let mut request = Request::builder().method(Method::POST).uri("/api/sign-in");
        request = request.header("Content-Type", "application/json");
        let address: std::net::SocketAddr = address.parse().unwrap();
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(ConnectInfo(address));
        api.send(request)
    };
    let mut let_through = 0;
    while from("192.0.2.1:4000", let_through).await.status == StatusCode::UNAUTHORIZED {
        let_through += 1;
    }
    assert!((15..30).contains(&let_through), "{let_through}");
    assert_eq!(from("192.0.2.2:4000", 0).await.status, StatusCode::UNAUTHORIZED);
}
