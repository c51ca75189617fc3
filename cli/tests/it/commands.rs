//! Commands: what is asked of the server, what is printed where, and with which exit code they end.

use serde_json::{Value, json};

use crate::server::{Answer, Request, Server, events, json as answer, problem, redirect};
use crate::{run, run_with_input};

const VPS: &str = "0190f6d2-8f3e-7cc0-9d4c-000000000001";
const HOST: &str = "0190f6d2-8f3e-7cc0-9d4c-0000000000aa";
const OPERATION: &str = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e";

fn vps(name: &str) -> Value {
    json!({
        "id": VPS, "name": name, "tenant": "default", "region": "us-east", "size": "small", "image": "debian-12",
        "host": HOST, "engine": "libvirt", "cores": 1, "memory_bytes": 1, "disk_bytes": 1, "network": "nat", "addresses": [],
        "desired": "running",
        "observed": {"state": "running", "last_state": "running", "seen_at": null, "age_seconds": 1, "problem": null,
                     "progress": null, "restart_needed": false},
        "suspensions": [], "guest_shutdown": "stay_off", "hold": false, "deleted_at": null, "purge_at": null, "purging": false,
        "created_at": "2026-01-01T00:00:00Z", "revision": 1
    })
}

fn operation(state: &str) -> Value {
    json!({
        "id": OPERATION, "kind": "start", "tenant": "default", "vps": VPS, "host": HOST, "state": state,
        "steps": [{"at": "2026-01-01T00:00:00Z", "message": format!("step {state}")}],
        "problem": if state == "failed" { Some("no room; free some") } else { None },
        "created_at": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T00:10:00Z", "finished_at": null
    })
}

fn accepted() -> Value {
    json!({"vps": vps("web"), "operation": operation("pending")})
}

/// A server that has the VPS `web`, whose operation goes through these states, one for each time it is asked.
fn fleet(states: &'static [&'static str]) -> Server {
    Server::start(move |request, before| -> Answer {
        match request.line.as_str() {
            "GET /api/vps-servers/web" => answer(200, &vps("web")),
            line if line == format!("GET /api/vps-servers/{VPS}") => answer(200, &vps("web")),
            line if line.starts_with("GET /api/operations/") => {
                let asked = before.saturating_sub(2).min(states.len() - 1);
                answer(200, &operation(states[asked]))
            }
            line if line.starts_with("POST ") || line.starts_with("DELETE ") => answer(202, &accepted()),
            _ => problem(404, "No such thing", "there is none", None),
        }
    })
}

#[test]
fn a_list_is_followed_to_its_end() {
    let server = Server::start(|_, before| match before {
        0 => answer(200, &json!({"items": [vps("a"), vps("b")], "next_cursor": "x/y&z"})),
        1 => answer(200, &json!({"items": [vps("c")], "next_cursor": "last"})),
        _ => answer(200, &json!({"items": [vps("d")]})),
    });
    let outcome = run(&server.url, &["vps", "list", "-o", "json"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let rows: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let names: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(
        server.lines(),
        [
            "GET /api/vps-servers?limit=1000",
            "GET /api/vps-servers?limit=1000&cursor=x%2Fy%26z",
            "GET /api/vps-servers?limit=1000&cursor=last"
        ]
    );
    assert!(server.requests().iter().all(|r| r.header("authorization") == Some("Bearer secret-token")));
}

#[test]
fn filters_and_orders_of_a_list_are_asked_of_the_server() {
    let server = Server::start(|_, _| answer(200, &json!({"items": []})));
    for (arguments, line) in [
        (
            &[
                "vps",
                "list",
                "--tenant",
                "acme",
                "--state",
                "crashed,unknown",
                "--q",
                "web 1",
                "--sort",
                "-name",
            ][..],
            "/api/vps-servers?limit=1000&tenant=acme&state=crashed%2Cunknown&q=web+1&sort=-name",
        ),
        (
            &["host", "list", "--label", "disk=nvme,rack", "--cordoned", "true"],
            "/api/hosts?limit=1000&cordoned=true&label=disk%3Dnvme%2Crack",
        ),
        (&["operation", "list", "--kind", "create", "--limit", "5"], "/api/operations?limit=5&kind=create"),
        (&["alert", "list", "--severity", "critical"], "/api/alerts?limit=1000&severity=critical"),
        (&["image", "list", "--source", "added"], "/api/images?limit=1000&source=added"),
        (&["tenant", "list", "--external-id", "7"], "/api/tenants?limit=1000&external_id=7"),
        (&["token", "list", "--role", "owner"], "/api/tokens?limit=1000&role=owner"),
        (
            &["vps", "snapshot", "list", "web", "--sort", "name"],
            "/api/vps-servers/web/snapshots?limit=1000&sort=name",
        ),
    ] {
        let outcome = run(&server.url, arguments);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert_eq!(
            server.lines().last().unwrap().replace("web%201", "web+1"),
            format!("GET {line}"),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_limit_stops_early_and_a_cursor_that_stands_still_is_an_error() {
    let server =
        Server::start(|_, _| answer(200, &json!({"items": [vps("a"), vps("b")], "next_cursor": "same"})));
    let limited = run(&server.url, &["vps", "list", "--limit", "3", "-o", "json"]);
    assert_eq!(limited.code, Some(0), "{}", limited.stderr);
    assert_eq!(serde_json::from_str::<Value>(&limited.stdout).unwrap().as_array().unwrap().len(), 3);
    let endless = run(&server.url, &["vps", "list"]);
    assert_eq!((endless.code, endless.stdout.as_str()), (Some(1), ""));
    assert!(endless.stderr.contains("does not end"), "{}", endless.stderr);
}

#[test]
fn a_mutation_goes_by_id_and_keeps_its_key_over_retries() {
    let server = Server::start(|request, before| match (request.line.starts_with("GET "), before) {
        (true, _) => answer(200, &vps("web")),
        (false, 1) => problem(503, "Not now", "starting; try again", None),
        (false, _) => answer(202, &accepted()),
    });
    let outcome = run(&server.url, &["vps", "start", "web"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let start = format!("POST /api/vps-servers/{VPS}/start");
    assert_eq!(server.lines(), ["GET /api/vps-servers/web".to_owned(), start.clone(), start]);
    let key = |request: &Request| request.header("idempotency-key").map(str::to_owned);
    let requests = server.requests();
    assert!(key(&requests[0]).is_none() && key(&requests[1]).is_some());
    assert_eq!(key(&requests[1]), key(&requests[2]));
    let again = run(&server.url, &["vps", "start", VPS]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_ne!(key(server.requests().last().unwrap()), key(&requests[1]), "another command, another key");
}

#[test]
fn every_command_asks_for_what_it_says() {
    let cases: [(&[&str], &str, &str); 10] = [
        (&["vps", "start", VPS, "--plan", VPS], "POST /api/vps-servers/ID/start?plan=ID", ""),
        (&["vps", "stop", VPS], "POST /api/vps-servers/ID/stop", r#"{"force":false}"#),
        (&["vps", "restart", VPS], "POST /api/vps-servers/ID/restart", ""),
        (&["vps", "delete", VPS], "DELETE /api/vps-servers/ID", ""),
        (&["vps", "undelete", VPS], "POST /api/vps-servers/ID/undelete", ""),
        (&["vps", "purge", VPS, "--yes"], "POST /api/vps-servers/ID/purge", ""),
        (&["vps", "hold", VPS], "POST /api/vps-servers/ID/hold", r#"{"hold":true}"#),
        (&["vps", "unhold", VPS], "POST /api/vps-servers/ID/hold", r#"{"hold":false}"#),
        (
            &["vps", "create", "web", "--region", "us-east", "--size", "small"],
            "POST /api/vps-servers",
            r#"{"name":"web","region":"us-east","size":"small","guest_shutdown":"stay_off"}"#,
        ),
        (
            &["vps", "create", "web", "--region", "r", "--size", "s", "--ssh-key", "ssh-ed25519 A a"],
            "POST /api/vps-servers",
            r#"{"name":"web","region":"r","size":"s","ssh_keys":["ssh-ed25519 A a"],"guest_shutdown":"stay_off"}"#,
        ),
    ];
    for (arguments, line, body) in cases {
        let server = fleet(&["succeeded"]);
        let outcome = run(&server.url, arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
        let last = server.requests().pop().unwrap();
        assert_eq!(
            (last.line.replace(VPS, "ID").as_str(), last.body.as_str()),
            (line, body),
            "{arguments:?}"
        );
    }
}

#[test]
fn waiting_tells_progress_on_stderr_and_data_on_stdout() {
    let server = fleet(&["pending", "running", "succeeded"]);
    let outcome = run(&server.url, &["vps", "start", "web", "--wait"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stdout.starts_with("NAME") && outcome.stdout.contains("web   running"),
        "{}",
        outcome.stdout
    );
    assert_eq!(
        outcome.stderr,
        "start web: pending: step pending\nstart web: running: step running\nstart web: succeeded: step succeeded\n"
    );
}

#[test]
fn an_operation_that_fails_fails_the_command() {
    let server = fleet(&["running", "failed"]);
    let outcome = run(&server.url, &["vps", "start", "web", "--wait", "-o", "json"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(serde_json::from_str::<Value>(&outcome.stdout).unwrap()["operation"]["state"], "failed");
    assert!(
        outcome.stderr.contains("the operation `start` failed: no room; free some"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains(&format!("chomctl operation show {OPERATION}")), "{}", outcome.stderr);
}

#[test]
fn a_wait_that_is_over_says_how_to_go_on() {
    let server = fleet(&["running"]);
    let outcome = run(&server.url, &["vps", "start", "web", "--wait", "--timeout", "1s"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("did not end within 1s"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(&format!("chomctl operation wait {OPERATION}")), "{}", outcome.stderr);
}

#[test]
fn a_server_that_restarts_meanwhile_is_waited_for() {
    let server = Server::start(|request, before| match (request.line.starts_with("GET /api/op"), before) {
        (true, 1..5) => problem(503, "Not now", "starting; try again", None),
        (true, _) => answer(200, &operation("succeeded")),
        (false, 0) => answer(202, &accepted()),
        (false, _) => answer(200, &vps("web")),
    });
    let outcome = run(&server.url, &["vps", "start", VPS, "--wait"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("start web: pending: Not now"), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_taken_back_needs_a_yes() {
    for arguments in [["vps", "purge", "web"], ["host", "forget", "web"], ["host", "revoke", "web"]] {
        let server = Server::start(|request, _| match request.line.as_str() {
            "GET /api/vps-servers/web" => answer(200, &vps("web")),
            "GET /api/hosts/web" => answer(200, &host()),
            _ => panic!("nothing may be changed: {}", request.line),
        });
        for input in [false, true] {
            let mut arguments = arguments.to_vec();
            arguments.extend(input.then_some("--no-input"));
            let outcome = run(&server.url, &arguments);
            assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
            assert!(outcome.stderr.contains("add --yes"), "{}", outcome.stderr);
        }
        assert!(server.lines().iter().all(|line| line.starts_with("GET ")));
    }
}

fn host() -> Value {
    json!({
        "id": HOST, "name": "web", "region": "us-east", "state": "connected", "seen_at": null, "age_seconds": 1,
        "cordoned": false, "hostname": "h", "agent_version": "0.1.0", "os": "Debian", "engines": [],
        "capacity": {"cores": 1, "cores_used": 0, "memory_bytes": 1, "memory_used_bytes": 0, "disk_bytes": 1,
                     "disk_used_bytes": 0},
        "usage": {"at": null, "cpu_ratio": null, "load1": null, "memory_ratio": null, "swap_ratio": null,
                  "disk_ratio": null, "inodes_ratio": null},
        "vps_count": 2, "foreign": [], "orphans": [], "problems": [], "up_to_date": true,
        "certificate_expires_at": null, "revision": 1
    })
}

#[test]
fn hosts_are_asked_for_what_the_command_says() {
    let cases: [(&[&str], &str, &str); 8] = [
        (&["host", "cordon", "web"], "POST /api/hosts/ID/cordon", r#"{"cordoned":true}"#),
        (&["host", "uncordon", "web"], "POST /api/hosts/ID/cordon", r#"{"cordoned":false}"#),
        (&["host", "forget", "web", "-y"], "POST /api/hosts/ID/forget", r#"{"release_addresses":false}"#),
        (
            &["host", "forget", "web", "-y", "--release-addresses"],
            "POST /api/hosts/ID/forget",
            r#"{"release_addresses":true}"#,
        ),
        (&["host", "revoke", "web", "--yes"], "POST /api/hosts/ID/revoke", ""),
        (&["host", "allow-destroys", "web"], "POST /api/hosts/ID/allow-destroys", ""),
        (&["host", "ledger", "web", "--adopt"], "POST /api/hosts/ID/ledger", r#"{"choice":"adopt_ledger"}"#),
        (&["host", "ledger", "web", "--keep"], "POST /api/hosts/ID/ledger", r#"{"choice":"keep_rows"}"#),
    ];
    for (arguments, line, body) in cases {
        let server = Server::start(|_, _| answer(200, &host()));
        let outcome = run(&server.url, arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
        let last = server.requests().pop().unwrap();
        assert_eq!(
            (last.line.replace(HOST, "ID").as_str(), last.body.as_str()),
            (line, body),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_new_host_gets_one_line_to_paste_and_a_lost_key_another() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /api/hosts/web" => answer(200, &host()),
        _ => answer(
            201,
            &json!({"host": HOST, "enrolment": VPS, "command": "chom-agent enrol CODE", "join_code": "CODE",
                    "expires_at": "2999-01-01T00:00:00Z"}),
        ),
    });
    let added = run(&server.url, &["host", "add", "web", "--region", "us-east"]);
    assert_eq!((added.code, added.stdout.as_str()), (Some(0), "chom-agent enrol CODE\n"), "{}", added.stderr);
    let again = run(&server.url, &["host", "add", "web", "--replace-key"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let bodies: Vec<String> =
        server.requests().into_iter().map(|r| r.body).filter(|b| !b.is_empty()).collect();
    let replaced = format!(r#"{{"name":"web","region":"us-east","host":"{HOST}"}}"#);
    assert_eq!(bodies, [r#"{"name":"web","region":"us-east"}"#.to_owned(), replaced]);
}

#[test]
fn a_refusal_is_told_with_its_place_and_ends_with_one() {
    let server = Server::start(|_, _| {
        problem(422, "No such region", "there is no region `mars`; known are: us-east", Some("/region"))
    });
    let outcome = run(&server.url, &["vps", "create", "web", "--region", "mars", "--size", "small"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        outcome.stderr,
        "error: No such region: there is no region `mars`; known are: us-east\n  where: /region\n"
    );
    assert_eq!(server.lines().len(), 1, "a refusal is not asked for again");
}

#[test]
fn an_answer_that_is_not_chom_s_is_said_to_be_strange() {
    let server = Server::start(|_, before| match before {
        0 => answer(200, &json!({"unexpected": true})),
        _ => answer(500, &json!("no problem document")),
    });
    for _ in 0..2 {
        let outcome = run(&server.url, &["operation", "show", OPERATION]);
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stderr.contains("does not understand"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&server.url), "{}", outcome.stderr);
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(|_, _| answer(200, &vps("web")));
    let target = elsewhere.url.clone();
    let server = Server::start(move |_, _| redirect(&target));
    let outcome = run(&server.url, &["vps", "show", "web"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_server_that_is_away_is_named() {
    // A port that was just free: bound, then let go.
    let url = format!("http://{}", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let outcome = run(&url, &["host", "list"]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains(&format!("cannot reach {url}: io: Connection refused")),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_mail_password_comes_from_stdin_and_is_not_printed() {
    let view = json!({
        "host": "mail", "port": 587, "security": "starttls", "username": "u", "password_set": true, "from": "f@x",
        "to": ["t@x"], "ca_set": false, "hello": null, "revision": 1
    });
    let server = Server::start(move |_, _| answer(200, &view));
    let arguments =
        ["smtp", "configure", "--host", "mail", "--username", "u", "--password-stdin", "--from", "f@x"];
    let outcome = run_with_input(&server.url, &[&arguments[..], &["--to", "t@x"]].concat(), "pass word\n");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let [_, sent] = server.requests().try_into().unwrap();
    assert_eq!(sent.header("if-match"), Some("\"1\""), "it overwrites what it has read, and nothing newer");
    let sent: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(sent["password"], "pass word");
    assert!(!outcome.stdout.contains("pass word") && !outcome.stderr.contains("pass word"));
}

#[test]
fn a_test_mail_that_misses_somebody_fails() {
    let tested = json!({"delivered": false, "outcomes": [
        {"recipient": "a@x", "delivered": true, "answer": "250 ok"},
        {"recipient": "b@x", "delivered": false, "answer": "550 no such user"}]});
    let server = Server::start(move |_, _| answer(200, &tested));
    let outcome = run(&server.url, &["smtp", "test", "--to", "a@x", "--to", "b@x"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("550 no such user"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("did not reach 1 of 2 recipients"), "{}", outcome.stderr);
    assert_eq!(server.requests()[0].body, r#"{"to":["a@x","b@x"]}"#);
}

#[test]
fn a_broken_event_stream_goes_on_after_the_last_event() {
    let event = |id: &str, name: &str| {
        format!(
            "id: {id}\ndata: {{\"type\":\"host\",\"id\":\"{HOST}\",\"name\":\"{name}\",\"message\":\"seen\"}}\n\n"
        )
    };
    let server = Server::start(move |_, before| match before {
        0 => events(&(event("7.1", "a") + &event("7.2", "b"))),
        1 => events(&event("7.3", "c")),
        _ => problem(401, "Not allowed", "the token is not valid", None),
    });
    let outcome = run(&server.url, &["events", "--follow"]);
    assert_eq!(outcome.code, Some(1));
    assert_eq!(outcome.stdout, "host a: seen\nhost b: seen\nhost c: seen\n");
    let resumed: Vec<_> =
        server.requests().iter().map(|r| r.header("last-event-id").map(str::to_owned)).collect();
    assert_eq!(resumed, [None, Some("7.2".to_owned()), Some("7.3".to_owned())]);
}

#[test]
fn a_watched_list_prints_rows_and_changes_and_takes_a_broken_connection_up() {
    let data = |id: &str, change: Value| format!("id: {id}\ndata: {change}\n\n");
    let (first, later) = (vps("a"), vps("b"));
    let server = Server::start(move |_, before| match before {
        0 => events(&format!(
            "data: {}\n\n{}",
            json!({"type": "row", "row": first}),
            data("7.1", json!({"type": "synced"}))
        )),
        1 => events(
            &(data("7.2", json!({"type": "changed", "row": later}))
                + &data("7.3", json!({"type": "gone", "id": VPS}))),
        ),
        _ => problem(401, "Not allowed", "the token is not valid", None),
    });
    let outcome = run(&server.url, &["vps", "list", "--watch", "--tenant", "acme"]);
    assert_eq!(outcome.code, Some(1));
    let names: Vec<&str> = outcome.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["NAME", "a", "b", "gone:"], "{}", outcome.stdout);
    assert!(server.lines().iter().all(|line| line == "GET /api/vps-servers?tenant=acme&watch=true"));
    let resumed: Vec<_> =
        server.requests().iter().map(|r| r.header("last-event-id").map(str::to_owned)).collect();
    assert_eq!(resumed, [None, Some("7.1".to_owned()), Some("7.3".to_owned())]);
}

#[test]
fn metrics_are_asked_for_with_their_options() {
    let view = json!({"from": "a", "until": "b", "step_seconds": 30, "series": []});
    let server = Server::start(move |_, _| answer(200, &view));
    let outcome = run(&server.url, &["host", "metrics", "h1", "--series", "load1", "--step", "60"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "nothing was measured in this time\n"));
    run(&server.url, &["vps", "metrics", VPS]);
    assert_eq!(
        server.lines(),
        [
            "GET /api/hosts/h1/metrics?series=load1&step=60".to_owned(),
            format!("GET /api/vps-servers/{VPS}/metrics")
        ]
    );
}

#[test]
fn colours_are_for_terminals() {
    let server = fleet(&["succeeded"]);
    let outcome = run(&server.url, &["vps", "show", "web"]);
    assert!(outcome.stdout.contains("running") && !outcome.stdout.contains('\u{1b}'), "{}", outcome.stdout);
}

const WEBHOOK: &str = "0190f6d2-8f3e-7cc0-9d4c-00000000beef";

fn webhook() -> Value {
    json!({
        "id": WEBHOOK, "name": "billing", "tenant": null, "url": "https://billing.example/", "kinds": ["operations", "quota"],
        "enabled": true, "created_at": "2026-01-01T00:00:00Z", "waiting": 2, "waiting_since": "2026-01-01T00:00:00Z",
        "problem": "cannot connect to `billing.example`", "dropped": 0, "dropped_at": null, "old_secret_until": null, "revision": 7
    })
}

#[test]
fn a_webhook_is_found_by_its_name_and_its_secret_stands_alone() {
    let server = Server::start(|request, _| match request.line.as_str() {
        "GET /api/webhooks?limit=1000" => answer(200, &json!({"items": [webhook()]})),
        "POST /api/webhooks" => answer(201, &json!({"webhook": webhook(), "secret": "whsec_abc"})),
        line if line.ends_with("/replay") => answer(200, &json!({"deliveries": 3})),
        line if line.ends_with("/test") => answer(
            200,
            &json!({"id": OPERATION, "delivered": false,
                    "attempt": {"at": "2026-01-01T00:00:00Z", "duration_ms": 4, "status": 500, "answer": "no"}}),
        ),
        line if line.starts_with("POST ") => answer(200, &json!({"webhook": webhook()})),
        _ => problem(404, "No such thing", "there is none", None),
    });
    let made = run(
        &server.url,
        &[
            "webhook",
            "create",
            "billing",
            "--url",
            "https://billing.example/",
            "--kind",
            "operations",
            "--kind",
            "quota",
        ],
    );
    assert_eq!((made.code, made.stdout.as_str()), (Some(0), "whsec_abc\n"), "{}", made.stderr);
    assert_eq!(
        serde_json::from_str::<Value>(&server.requests()[0].body).unwrap(),
        json!({"name": "billing", "url": "https://billing.example/", "kinds": ["operations", "quota"]})
    );
    let listed = run(&server.url, &["webhook", "list"]);
    assert!(
        listed.stdout.contains("failing") && listed.stdout.contains("operations, quota"),
        "{}",
        listed.stdout
    );
    let disabled = run(&server.url, &["webhook", "update", "billing", "--disable"]);
    assert_eq!(disabled.code, Some(0), "{}", disabled.stderr);
    let sent = server.requests().pop().unwrap();
    assert_eq!(sent.line, format!("POST /api/webhooks/{WEBHOOK}"));
    assert_eq!(
        serde_json::from_str::<Value>(&sent.body).unwrap(),
        json!({"enabled": false, "new_secret": false})
    );
    let replayed = run(&server.url, &["webhook", "replay", WEBHOOK, "--since", "2026-01-01T00:00:00Z"]);
    assert_eq!(replayed.stdout, "3 deliveries are sent again\n", "{}", replayed.stderr);
    let tested = run(&server.url, &["webhook", "test", "billing"]);
    assert!(
        tested.code == Some(1) && tested.stdout.contains("500 no"),
        "{} {}",
        tested.stdout,
        tested.stderr
    );
    let nobody = run(&server.url, &["webhook", "show", "nobody"]);
    assert!(nobody.code == Some(2) && nobody.stderr.contains("chomctl webhook list"), "{}", nobody.stderr);
}

#[test]
fn many_are_looked_at_and_confirmed_before_they_get_an_order() {
    let many = || {
        Server::start(|request, _| match request.line.as_str() {
            "POST /api/vps-servers/actions?dry_run=true" => {
                answer(200, &json!({"action": "stop", "count": 3, "names": ["a", "b"]}))
            }
            "POST /api/vps-servers/actions" => answer(202, &operation("pending")),
            _ => problem(404, "No such thing", "there is none", None),
        })
    };
    let arguments = ["vps", "stop", "--all", "--host", "h1", "-l", "state=running,name=web-*", "--force"];
    let server = many();
    let outcome = run(&server.url, &[&arguments[..], &["--dry-run"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("a, b and 1 more"), "{}", outcome.stdout);
    assert_eq!(server.lines().len(), 1, "a dry run does nothing");
    let server = many();
    let outcome = run(&server.url, &arguments);
    assert_eq!(
        (outcome.code, server.lines().len()),
        (Some(2), 1),
        "nobody could be asked: {}",
        outcome.stderr
    );
    let server = many();
    let outcome = run(&server.url, &[&arguments[..], &["--yes"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let sent: Value = serde_json::from_str(&server.requests()[1].body).unwrap();
    assert_eq!(
        sent,
        json!({"action": "stop", "parameters": {"force": true}, "expected_count": 3,
            "selector": {"all": true, "host": "h1", "state": "running", "name_prefix": "web-"}})
    );
    for wrong in
        [&["vps", "stop"][..], &["vps", "stop", "web", "--all"], &["vps", "stop", "-l", "colour=red"]]
    {
        assert_eq!(run(&many().url, wrong).code, Some(2), "{wrong:?}");
    }
}
