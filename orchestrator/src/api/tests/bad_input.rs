//! Bad input, and the whole answer that each gets.

use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;

fn rendered(answer: &Answer) -> String {
    let problem = answer.problem();
    assert_eq!(problem.status, answer.status.as_u16());
    let mut text = format!("{} {}: {}\n", problem.status, problem.kind, problem.detail);
    if let Some(location) = problem.location {
        let _ = writeln!(text, "  at {location}");
    }
    text
}

async fn check(api: &Api, path: &str, body: &str, expected: Expect) {
    expected.assert_eq(&rendered(&api.post(path, body.to_owned()).await));
}

#[tokio::test]
async fn a_body_that_is_not_as_it_should_be_is_refused_where_it_is_wrong() {
    let api = Api::new().await;
    let vps = "/api/vps-servers";
    check(
        &api,
        vps,
        "",
        expect![[r#"
            400 /problems/malformed: the body is empty; send a JSON object
        "#]],
    )
    .await;
    check(
        &api,
        vps,
        "{\"name\":",
        expect![[r#"
        400 /problems/malformed: the body is no JSON: EOF while parsing a value at line 1 column 8
    "#]],
    )
    .await;
    check(
        &api,
        vps,
        "[]",
        expect![[r#"
            422 /problems/invalid: the body is JSON, but no object; send `{…}`
        "#]],
    )
    .await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east"}"#,
        expect![[r#"
        422 /problems/invalid: missing field `size`
    "#]],
    )
    .await;
    check(&api, vps, r#"{"name":"a","region":"us-east","size":"small","sise":1}"#, expect![[r#"
        422 /problems/invalid: unknown field `sise`, expected one of `name`, `region`, `size`, `image`, `engine`, `network`, `ssh_keys`, `tenant_keys`, `user_data`, `guest_shutdown`, `anti_affinity`, `host_labels`, `tenant`, `external_id`
          at /sise
    "#]]).await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":1}"#,
        expect![[r#"
        422 /problems/invalid: invalid type: integer `1`, expected a string
          at /size
    "#]],
    )
    .await;
    check(&api, vps, r#"{"name":"a_b","region":"us-east","size":"small"}"#, expect![[r#"
        422 /problems/invalid: the name `a_b` has `_` in it; use lower-case letters, digits and hyphens (RFC 1123)
          at /name
    "#]]).await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":"small","ssh_keys":["k",7]}"#,
        expect![[r#"
        422 /problems/invalid: invalid type: integer `7`, expected a string
          at /ssh_keys/1
    "#]],
    )
    .await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":"small","guest_shutdown":"perhaps"}"#,
        expect![[r#"
        422 /problems/invalid: unknown variant `perhaps`, expected `stay_off` or `restart`
          at /guest_shutdown
    "#]],
    )
    .await;
    check(
        &api,
        vps,
        r#"{"name":"a","name":"b","region":"us-east","size":"small"}"#,
        expect![[r#"
        422 /problems/invalid: duplicate field `name`
    "#]],
    )
    .await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":"small"} x"#,
        expect![[r#"
        400 /problems/malformed: the body is no JSON: trailing characters at line 1 column 48
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_request_that_breaks_a_rule_is_refused_with_what_there_is() {
    let api = Api::new().await;
    let vps = "/api/vps-servers";
    check(
        &api,
        vps,
        r#"{"name":"a","region":"mars","size":"small"}"#,
        expect![[r#"
        422 /problems/invalid: there is no region `mars`; there are: eu-west, us-east
          at /region
    "#]],
    )
    .await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":"huge"}"#,
        expect![[r#"
        422 /problems/invalid: there is no size `huge`; there are: small
          at /size
    "#]],
    )
    .await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":"small","image":"dos"}"#,
        expect![[r#"
        422 /problems/invalid: there is no image `dos`; there are: hello
          at /image
    "#]],
    )
    .await;
    check(&api, vps, r#"{"name":"a","region":"us-east","size":"small","ssh_keys":["nonsense"]}"#, expect![[r#"
        422 /problems/invalid: `nonsense…` is no public key; paste one line of a .pub file, such as `ssh-ed25519 AAAA… you@example`
          at /ssh_keys
    "#]]).await;
    check(&api, vps, r#"{"name":"a","region":"us-east","size":"small","user_data":"rm -rf"}"#, expect![[r#"
        422 /problems/invalid: line 1: user data must begin with one of: #cloud-config, #cloud-config-archive, #!, #include, #include-once, #cloud-boothook, #part-handler, ## template: jinja, Content-Type: multipart/; cloud-init passes over anything else
          at /user_data
    "#]]).await;
    check(&api, vps, r#"{"name":"a","region":"us-east","size":"small"}"#, expect![[r#"
        409 /problems/no-capacity: no host in region `us-east` can take it: the region has no host; add one with `chomctl host add`
          at /region
    "#]]).await;
    api.world.host("h1", "us-east", 10).await;
    api.create("a").await;
    check(
        &api,
        vps,
        r#"{"name":"a","region":"us-east","size":"small"}"#,
        expect![[r#"
        409 /problems/conflict: a VPS named `a` exists already (perhaps deleted and kept); choose another name
          at /name
    "#]],
    )
    .await;
    check(
        &api,
        "/api/hosts",
        r#"{"name":"h1","region":"us-east"}"#,
        expect![[r#"
        409 /problems/conflict: a host named `h1` is in the fleet already; choose another name
          at /name
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_request_that_is_not_as_http_wants_it_is_refused_with_what_to_do() {
    let api = Api::new().await;
    let body = r#"{"name":"a","region":"us-east","size":"small"}"#;
    let vps = "/api/vps-servers";
    let post = |path: &str| api.request(Method::POST, path).header("Content-Type", "application/json");
    let untyped = api.send(api.request(Method::POST, vps).body(Body::from(body)).unwrap()).await;
    expect![[r#"
        415 /problems/media-type: the request does not say what its body is; send JSON with `Content-Type: application/json`
          at Content-Type
    "#]].assert_eq(&rendered(&untyped));
    let form = api.request(Method::POST, vps).header("Content-Type", "application/x-www-form-urlencoded");
    expect![[r#"
        415 /problems/media-type: the body is said to be `application/x-www-form-urlencoded`; send JSON with `Content-Type: application/json`
          at Content-Type
    "#]].assert_eq(&rendered(&api.send(form.body(Body::from("name=a")).unwrap()).await));
    expect![[r#"
        413 /problems/body-too-large: the body has more than 262144 bytes; send less
    "#]]
    .assert_eq(&rendered(&api.post(vps, vec![b' '; 256 * 1024 + 1]).await));
    let dry = api.send(post("/api/vps-servers?dry_run=maybe").body(Body::from(body)).unwrap()).await;
    expect![[r#"
        400 /problems/malformed: this path takes `?dry_run=true`, or `?plan=` and the id that such a dry run answered, and not `?dry_run=maybe`
    "#]]
    .assert_eq(&rendered(&dry));
    expect![[r#"
        405 /problems/method-not-allowed: `/api/vps-servers` does not know PUT; the header Allow says what it knows
    "#]]
    .assert_eq(&rendered(&api.send(api.request(Method::PUT, vps).body(Body::empty()).unwrap()).await));
    expect![[r#"
        404 /problems/not-found: there is nothing at `/api/vps`; GET /api/openapi.json lists what there is
    "#]]
    .assert_eq(&rendered(&api.get("/api/vps").await));
    expect![[r#"
        404 /problems/not-found: there is no VPS `nobody`; list what there is and check the name or id
    "#]]
    .assert_eq(&rendered(&api.get("/api/vps-servers/nobody").await));
    expect![[r#"
        404 /problems/not-found: the name `no_name` has `_` in it; use lower-case letters, digits and hyphens (RFC 1123)
    "#]].assert_eq(&rendered(&api.get("/api/vps-servers/no_name").await));
    expect![[r#"
        400 /problems/malformed: the path has characters that are no UTF-8 text
    "#]]
    .assert_eq(&rendered(&api.get("/api/vps-servers/%ff").await));
    expect![[r#"
        404 /problems/not-found: `web` is no VPS id, and this path takes no names: read the row to learn its id
    "#]].assert_eq(&rendered(&api.order("/api/vps-servers/web/start").await));
    let words =
        api.post("/api/vps-servers/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e/start", r#"{"force":true}"#).await;
    expect![[r#"
        422 /problems/invalid: unknown field `force`, there are no fields
          at /force
    "#]]
    .assert_eq(&rendered(&words));
    for (name, value) in [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "with space"),
        ("If-Match", "7"),
        ("If-Match", "W/\"7\""),
    ] {
        let answer = api.send(post(vps).header(name, value).body(Body::from(body)).unwrap()).await;
        assert_eq!(
            (answer.status, answer.problem().location.as_deref()),
            (StatusCode::BAD_REQUEST, Some(name))
        );
    }
    let long =
        api.send(post(vps).header("Idempotency-Key", "k".repeat(256)).body(Body::from(body)).unwrap()).await;
    expect![[r#"
        400 /problems/malformed: an idempotency key has 1 to 255 visible ASCII characters; use a new UUID for each request
          at Idempotency-Key
    "#]].assert_eq(&rendered(&long));
}

#[tokio::test]
async fn a_page_that_cannot_be_given_is_refused() {
    let api = Api::new().await;
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=ten", "cursor=zzz", "offset=3", "limit=%zz"] {
        let answer = api.get(&format!("/api/hosts?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.problem().kind, "/problems/malformed");
    }
    expect![[r#"
        400 /problems/malformed: `0` is no limit; give a number from 1 to 1000
          at limit
    "#]]
    .assert_eq(&rendered(&api.get("/api/hosts?limit=0").await));
    expect![[r#"
        400 /problems/malformed: lists know no parameter `offset`; they take `limit`, `fields`, `region`, `state`, `cordoned`, `label`, `q`, `sort`, `watch` and `cursor`
          at offset
    "#]]
    .assert_eq(&rendered(&api.get("/api/hosts?offset=3").await));
    let other = data_encoding::BASE64URL_NOPAD.encode(b"operations 0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e");
    expect![[r#"
        400 /problems/malformed: this cursor is not one of this list in this order; take `next_cursor` of the page before, or begin without one
          at cursor
    "#]].assert_eq(&rendered(&api.get(&format!("/api/hosts?cursor={other}")).await));
}
