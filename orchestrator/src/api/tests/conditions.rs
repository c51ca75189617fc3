//! What a change may or must say besides its body, by the document: `If-Match`, `dry_run`, `plan`.

use super::*;

/// The routes of the document that change something: method, pattern, and what it says of them.
fn changes() -> Vec<(Method, String, Value)> {
    let document = serde_json::to_value(crate::api::document()).unwrap();
    let all = every_route().into_iter().filter(|(method, _)| *method != Method::GET);
    all.map(|(method, path)| {
        let operation = document["paths"][&path][method.as_str().to_lowercase()].clone();
        (method, path, operation)
    })
    .collect()
}

fn takes(operation: &Value, parameter: &str) -> bool {
    operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == parameter))
}

async fn send(api: &Api, method: &Method, path: &str, if_match: Option<&str>, body: &str) -> Answer {
    let request = api.request(method.clone(), path).header("Content-Type", "application/json");
    let request = if_match.into_iter().fold(request, |request, tag| request.header("If-Match", tag));
    api.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn what_the_document_does_not_say_is_refused_and_never_passed_over() {
    let api = Api::new().await;
    for (method, pattern, operation) in changes() {
        // Uploads have parameters of their own, and these two dry runs whose answers are no plans to be applied.
        let own = ["add_image", "adopt_vps", "order_many"];
        if own.iter().any(|id| operation["operationId"] == *id) {
            continue;
        }
        let path = filled(&pattern);
        if !takes(&operation, "If-Match") && operation["operationId"] != "console_token" {
            let answer = send(&api, &method, &path, Some("\"7\""), "{}").await;
            let problem = answer.problem();
            // A body that breaks a rule, or a row that is not there, may be told first.
            let said = problem.location.as_deref() == Some("If-Match") || answer.status != StatusCode::OK;
            assert!(said, "{method} {pattern}: {problem:?}");
        }
        assert_eq!(takes(&operation, "dry_run"), takes(&operation, "plan"), "{method} {pattern}");
        let query = if takes(&operation, "dry_run") { "dry_run=maybe" } else { "dry_run=true" };
        let answer = send(&api, &method, &format!("{path}?{query}"), None, "{}").await;
        let refused = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
        assert!(refused.contains(&answer.status), "{method} {pattern}: {answer:?}");
    }
    assert!(changes().iter().filter(|(.., operation)| takes(operation, "dry_run")).count() >= 24);
}

#[tokio::test]
async fn what_overwrites_others_changes_must_name_the_revision_that_it_overwrites() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 10).await;
    let vps = api.create("a").await["vps"]["id"].as_str().unwrap().to_owned();
    let tenant = api.post("/api/tenants", r#"{"name":"acme"}"#).await;
    assert_eq!(tenant.status, StatusCode::CREATED);
    let smtp =
        r#"{"host":"127.0.0.1","port":25,"security":"none","from":"a@example.org","to":["b@example.org"]}"#;
    let first = send(&api, &Method::POST, "/api/alertmanager/smtp/configure", None, smtp).await;
    assert_eq!(first.status, StatusCode::OK, "nothing was there to overwrite: {first:?}");
    let known = [
        (
            "label_host",
            format!("/api/hosts/{host}/labels"),
            format!("/api/hosts/{host}"),
            r#"{"set":{"disk":"nvme"}}"#,
        ),
        ("limit_host", format!("/api/hosts/{host}/limits"), format!("/api/hosts/{host}"), "{}"),
        (
            "set_quota",
            "/api/tenants/acme/quota".to_owned(),
            "/api/tenants/acme".to_owned(),
            r#"{"quota":{"vps":9}}"#,
        ),
        (
            "change_vps_network",
            format!("/api/vps-servers/{vps}/network"),
            format!("/api/vps-servers/{vps}/network"),
            r#"{"spoof_guard":true}"#,
        ),
        (
            "configure_smtp",
            "/api/alertmanager/smtp/configure".to_owned(),
            "/api/alertmanager/smtp/config".to_owned(),
            smtp,
        ),
    ];
    let required = changes().into_iter().filter(|(.., operation)| operation["x-if-match"] == "required");
    let mut required: Vec<String> =
        required.map(|(.., operation)| operation["operationId"].as_str().unwrap().to_owned()).collect();
    required.sort();
    let mut tested: Vec<&str> = known.iter().map(|(id, ..)| *id).collect();
    tested.sort_unstable();
    assert_eq!(required, tested, "each route that needs If-Match is tried here");
    for (id, path, row, body) in known {
        let bare = send(&api, &Method::POST, &path, None, body).await;
        assert_eq!(bare.status, StatusCode::PRECONDITION_REQUIRED, "{id}: {bare:?}");
        assert_eq!(bare.problem().location.as_deref(), Some("If-Match"));
        let tag =
            api.get(&row).await.header("etag").unwrap_or_else(|| panic!("{row} has no ETag")).to_owned();
        let changed = send(&api, &Method::POST, &path, Some(&tag), body).await;
        assert!(changed.status.is_success(), "{id}: {changed:?}");
        let stale = send(&api, &Method::POST, &path, Some(&tag), body).await;
        assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED, "{id}: {stale:?}");
        let any = send(&api, &Method::POST, &path, Some("*"), body).await;
        assert!(any.status.is_success(), "{id}: {any:?}");
    }
}

#[tokio::test]
async fn a_plan_is_made_and_applied_over_the_api_and_a_key_is_good_for_one_of_them() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    let vps = api.create("a").await["vps"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/vps-servers/{vps}/stop");
    let before = api.world.fleet.state().revision;
    let plan = |path: String| {
        let api = &api;
        async move { send(api, &Method::POST, &format!("{path}?dry_run=true"), None, "{}").await }
    };
    let planned = plan(path.clone()).await;
    assert_eq!(
        (planned.status, &planned.json()["action"]),
        (StatusCode::OK, &Value::from("stop")),
        "{planned:?}"
    );
    assert_eq!(api.world.fleet.state().revision, before);
    let id = planned.json()["id"].as_str().unwrap().to_owned();
    // It is a plan of this path and this body.
    let start =
        send(&api, &Method::POST, &format!("/api/vps-servers/{vps}/start?plan={id}"), None, "{}").await;
    assert_eq!(
        (start.status, start.problem().location.as_deref()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("plan"))
    );
    let with_key = |plan: String| {
        let request =
            api.request(Method::POST, &format!("{path}?plan={plan}")).header("Idempotency-Key", "k");
        let request = request.header("Content-Type", "application/json").body(Body::from("{}")).unwrap();
        api.send(request)
    };
    let done = with_key(id.clone()).await;
    assert_eq!(
        (done.status, &done.json()["vps"]["desired"]),
        (StatusCode::ACCEPTED, &Value::from("stopped"))
    );
    let again = with_key(id.clone()).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::ACCEPTED, Some("true")));
    let other = plan(path.clone()).await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(with_key(other).await.problem().kind, "/problems/key-reused");
    let moved = send(&api, &Method::POST, &format!("{path}?plan={id}"), None, "{}").await;
    assert_eq!((moved.status, moved.problem().kind.as_str()), (StatusCode::CONFLICT, "/problems/plan-moved"));
    assert!(moved.problem().detail.contains("VPS `a` is now stopped"), "{moved:?}");
}
