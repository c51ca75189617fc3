//! Signing in, users, tenants and tokens: what is asked of the server, what is kept where, and what is never shown.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::server::{Server, json as answer, problem};
use crate::{Outcome, chomctl, outcome, run, run_with_input};

const USER: &str = "0190f6d2-8f3e-7cc0-9d4c-0000000000bb";
const TOKEN: &str = "0190f6d2-8f3e-7cc0-9d4c-0000000000cc";

fn token(user: Option<&str>) -> Value {
    json!({"id": TOKEN, "name": "session", "role": "owner", "tenant": "acme", "vps": null, "user": user,
        "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T12:00:00Z", "last_used_at": null})
}

fn user(name: &str, tenant: Option<&str>) -> Value {
    json!({"id": USER, "name": name, "role": "owner", "tenant": tenant, "created_at": "2026-01-01T00:00:00Z",
        "changed_at": "2026-01-01T00:00:00Z", "disabled_at": null, "locked_until": null, "signed_in_at": null, "sessions": 2,
        "revision": 3})
}

fn tenant() -> Value {
    json!({"name": "acme", "quota": {"vps": 10, "memory_bytes": 1073741824}, "external_id": "customer-7", "revision": 1,
        "used": {"vps": 2, "cores": 4, "memory_bytes": 536870912, "disk_bytes": 0, "addresses": 1, "snapshots": 0},
        "created_at": "2026-01-01T00:00:00Z"})
}

/// A server that answers everything as if it had been done.
fn server() -> Server {
    Server::start(|request, _| {
        let (method, path) = request.line.split_once(' ').unwrap();
        match (method, path) {
            ("POST", "/api/sign-in") => {
                answer(201, &json!({"token": token(Some("anna")), "secret": "chom-api-session"}))
            }
            ("POST", "/api/sign-out") => answer(200, &token(Some("anna"))),
            ("GET", "/api/whoami") => answer(
                200,
                &json!({"name": "anna", "user": USER, "token": TOKEN, "role": "owner",
                "tenant": "acme", "vps": null, "permissions": ["vps:change", "tenant:read"],
                "expires_at": "2026-01-01T12:00:00Z"}),
            ),
            ("GET", path) if path.ends_with("name=anna") => {
                answer(200, &json!({"items": [user("anna", Some("acme"))]}))
            }
            ("GET", path) if path.ends_with("name=twice") => {
                answer(200, &json!({"items": [user("twice", Some("acme")), user("twice", None)]}))
            }
            ("GET", path) if path.starts_with("/api/users?") => answer(200, &json!({"items": []})),
            (_, path) if path.starts_with("/api/users") || path == "/api/whoami/password" => {
                answer(200, &user("anna", Some("acme")))
            }
            ("GET", path) if path.starts_with("/api/tenants?") => answer(200, &json!({"items": [tenant()]})),
            (_, path) if path.starts_with("/api/tenants") => answer(200, &tenant()),
            ("GET", path) if path.starts_with("/api/tokens?") => {
                answer(200, &json!({"items": [token(None)]}))
            }
            ("POST", "/api/tokens") => answer(201, &json!({"token": token(None), "secret": "chom-api-new"})),
            (_, path) if path.starts_with("/api/tokens/") => answer(200, &token(None)),
            _ => problem(404, "No such thing", "there is none", None),
        }
    })
}

fn with_input(home: &Path, arguments: &[&str], input: &str) -> Outcome {
    use std::io::Write;
    let mut command = chomctl(home, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_session_is_kept_in_its_context_and_gone_after_signing_out() {
    let (server, home) = (server(), tempfile::tempdir().unwrap());
    let call = |arguments: &[&str]| outcome(chomctl(home.path(), arguments));
    let added = call(&["context", "add", "here", "--server", &server.url]);
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let before = call(&["whoami"]);
    assert!(
        before.stderr.contains("has no token") && before.stderr.contains("chomctl login"),
        "{}",
        before.stderr
    );
    let login = ["login", "Anna", "--tenant", "acme", "--password-stdin"];
    let signed_in = with_input(home.path(), &login, "four words are good\n");
    assert_eq!(signed_in.code, Some(0), "{}", signed_in.stderr);
    assert!(
        signed_in.stdout.contains("anna") && signed_in.stdout.contains("2026-01-01T12:00:00Z"),
        "{}",
        signed_in.stdout
    );
    let body: Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!(body, json!({"name": "anna", "tenant": "acme", "password": "four words are good"}));
    let file = home.path().join("chom/tokens/here");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "chom-api-session\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = format!("{}{}", signed_in.stdout, signed_in.stderr);
    assert!(!shown.contains("four words") && !shown.contains("chom-api-session"), "{shown}");

    let who = call(&["whoami"]);
    assert!(who.stdout.contains("session of a user") && who.stdout.contains("vps:change"), "{}", who.stdout);
    assert_eq!(server.requests()[1].header("authorization"), Some("Bearer chom-api-session"));
    assert_eq!(call(&["logout"]).code, Some(0));
    assert!(!file.exists());
    assert_eq!(server.lines(), ["POST /api/sign-in", "GET /api/whoami", "POST /api/sign-out"]);
}

#[test]
fn a_session_that_has_ended_already_is_signed_out_of_all_the_same() {
    let server = Server::start(|_, _| problem(401, "Not allowed", "this API token is unknown", None));
    let home = tempfile::tempdir().unwrap();
    let add = ["context", "add", "here", "--server", &server.url, "--token-stdin"];
    assert_eq!(with_input(home.path(), &add, "chom-api-old\n").code, Some(0));
    assert_eq!(outcome(chomctl(home.path(), &["logout"])).code, Some(0));
    assert!(!home.path().join("chom/tokens/here").exists());
}

#[test]
fn a_wrong_password_leaves_the_context_as_it_was() {
    let server = Server::start(|_, _| problem(401, "Not allowed", "name, tenant or password is wrong", None));
    let home = tempfile::tempdir().unwrap();
    assert_eq!(
        outcome(chomctl(home.path(), &["context", "add", "here", "--server", &server.url])).code,
        Some(0)
    );
    let refused = with_input(home.path(), &["login", "anna", "--password-stdin"], "wrong\n");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("password is wrong"), "{}", refused.stderr);
    assert!(!home.path().join("chom/tokens/here").exists());
    // Without a terminal nobody is asked, and a session has no place in the environment.
    let silent = outcome(chomctl(home.path(), &["login", "anna"]));
    assert_eq!(silent.code, Some(2));
    assert!(silent.stderr.contains("--password-stdin"), "{}", silent.stderr);
    let placeless = run_with_input(&server.url, &["login", "anna", "--password-stdin"], "x\n");
    assert!(placeless.stderr.contains("no context to keep a session in"), "{}", placeless.stderr);
}

/// Runs it and checks the last request: its line without parameters, and its body.
fn check(arguments: &[&str], input: &str, line: &str, body: &str) -> Outcome {
    let server = server();
    let outcome = run_with_input(&server.url, arguments, input);
    assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    let last = server.requests().pop().unwrap();
    let asked = last.line.split('?').next().unwrap().replace(USER, "USER").replace(TOKEN, "TOKEN");
    assert_eq!((asked.as_str(), last.body.as_str()), (line, body), "{arguments:?}");
    outcome
}

#[test]
fn every_user_command_asks_for_what_it_says() {
    check(
        &["user", "create", "Anna@example.com", "--role", "owner", "--tenant", "acme", "--password-stdin"],
        "four words are good\n",
        "POST /api/users",
        r#"{"name":"anna@example.com","role":"owner","tenant":"acme","password":"four words are good"}"#,
    );
    check(&["user", "list"], "", "GET /api/users", "");
    check(&["user", "show", "anna"], "", "GET /api/users/USER", "");
    check(
        &["user", "set-role", USER, "--role", "viewer"],
        "",
        "POST /api/users/USER/role",
        r#"{"role":"viewer"}"#,
    );
    check(&["user", "disable", "anna"], "", "POST /api/users/USER/disable", "");
    check(&["user", "enable", "anna"], "", "POST /api/users/USER/enable", "");
    check(&["user", "delete", "anna", "--yes"], "", "DELETE /api/users/USER", "");
    let given = check(
        &["user", "set-password", "anna", "--password-stdin"],
        "another good one\n",
        "POST /api/users/USER/password",
        r#"{"password":"another good one"}"#,
    );
    assert!(
        given.stdout.contains("enabled") && !given.stdout.contains("another good one"),
        "{}",
        given.stdout
    );
    check(
        &["user", "set-password", "--password-stdin"],
        "the old one\nthe new one\n",
        "POST /api/whoami/password",
        r#"{"old":"the old one","new":"the new one"}"#,
    );
}

#[test]
fn a_user_that_is_none_or_several_is_not_guessed() {
    let server = server();
    for (arguments, text) in [
        (&["user", "disable", "nobody"][..], "there is no user `nobody`"),
        (&["user", "disable", "twice"], "in these tenants: acme, -"),
        (&["user", "disable", "a b"], "cannot be in a user's name"),
        (&["user", "delete", "anna"], "add --yes"),
        (&["user", "set-password", "--password-stdin"], "standard input has 0 passwords, not 2"),
    ] {
        let outcome = run(&server.url, arguments);
        assert_eq!(outcome.code, Some(2), "{arguments:?}");
        assert!(outcome.stderr.contains(text), "{arguments:?}: {}", outcome.stderr);
    }
    assert!(server.lines().iter().all(|line| line.starts_with("GET ")), "{:?}", server.lines());
    assert_eq!(run(&server.url, &["user", "disable", "twice", "--tenant", "acme"]).code, Some(0));
}

#[test]
fn every_tenant_command_asks_for_what_it_says_and_shows_what_is_used_of_what() {
    check(
        &["tenant", "create", "acme", "--vps", "10", "--memory-gib", "1", "--external-id", "customer-7"],
        "",
        "POST /api/tenants",
        r#"{"name":"acme","quota":{"vps":10,"memory_bytes":1073741824},"external_id":"customer-7"}"#,
    );
    check(
        &["tenant", "quota", "acme", "--cores", "4"],
        "",
        "POST /api/tenants/acme/quota",
        r#"{"quota":{"cores":4}}"#,
    );
    check(&["tenant", "show", "acme"], "", "GET /api/tenants/acme", "");
    check(&["tenant", "delete", "acme"], "", "DELETE /api/tenants/acme", "");
    let listed = check(&["tenant", "list"], "", "GET /api/tenants", "");
    assert!(listed.stdout.contains("2/10") && listed.stdout.contains("customer-7"), "{}", listed.stdout);
}

#[test]
fn every_token_command_asks_for_what_it_says_and_a_new_token_stands_alone() {
    let made = check(
        &[
            "token",
            "create",
            "robot",
            "--role",
            "member",
            "--tenant",
            "acme",
            "--expires-at",
            "2027-01-31T12:00:00Z",
        ],
        "",
        "POST /api/tokens",
        r#"{"name":"robot","role":"member","tenant":"acme","expires_at":"2027-01-31T12:00:00Z"}"#,
    );
    assert_eq!(made.stdout, "chom-api-new\n");
    let listed = check(&["token", "list"], "", "GET /api/tokens", "");
    assert!(listed.stdout.contains("owner") && listed.stdout.contains("never"), "{}", listed.stdout);
    check(&["token", "revoke", TOKEN], "", "DELETE /api/tokens/TOKEN", "");
}
