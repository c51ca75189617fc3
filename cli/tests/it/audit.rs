//! `chomctl audit`: what is asked, and what is made of chains that are whole and that are not.

use chom_protocol::audit::{BEGINNING, line};
use serde_json::{Value, json};

use crate::run;
use crate::server::{Answer, Server, json as answer};

/// Lines of a log, the numbers and hashes of which are right.
fn log(count: u64) -> Vec<(String, String)> {
    let mut previous = BEGINNING;
    let lines = (1..=count).map(|sequence| {
        let entry =
            json!({"kind": "audit", "schema": 1, "data": {"sequence": sequence, "action": "vps.stop"}});
        let (line, hash) = line(&previous, &entry.to_string());
        previous = hash;
        (line, hash.to_string())
    });
    lines.collect()
}

/// A server that gives these lines in two pieces.
fn chain(lines: Vec<String>, last: u64, hash: String) -> Server {
    Server::start(move |request, _| -> Answer {
        let half = lines.len() / 2;
        let is_second = request.line.contains("cursor=next");
        let (lines, next) = if is_second { (&lines[half..], None) } else { (&lines[..half], Some("next")) };
        let before = json!({"sequence": 0, "hash": BEGINNING});
        answer(
            200,
            &json!({"before": before, "last": {"sequence": last, "hash": hash}, "lines": lines, "next_cursor": next}),
        )
    })
}

#[test]
fn a_whole_log_is_verified_from_server_and_file_and_an_end_can_be_kept() {
    let all = log(5);
    let lines: Vec<String> = all.iter().map(|(line, _)| line.clone()).collect();
    let (third, last) = (format!("3:{}", all[2].1), format!("5:{}", all[4].1));
    let server = chain(lines.clone(), 5, all[4].1.clone());
    let outcome = run(&server.url, &["audit", "verify"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(
        outcome.stdout,
        format!("5 entries, none changed; keep this end for the next check:\n{last}\n")
    );
    assert_eq!(
        server.lines(),
        ["GET /api/audit/chain?limit=1000", "GET /api/audit/chain?limit=1000&cursor=next"]
    );
    assert_eq!(run(&server.url, &["audit", "verify", "--known", &third]).code, Some(0));
    let other = format!("3:{}", all[3].1);
    let outcome = run(&server.url, &["audit", "verify", "--known", &other]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.starts_with("the last entry, 3, is not the one"), "{}", outcome.stdout);
    assert_eq!(run(&server.url, &["audit", "verify", "--known", "three"]).code, Some(2));

    let exported = run(&server.url, &["audit", "export"]).stdout;
    assert_eq!(exported, lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(&server.url, &["audit", "verify", "--file", file.to_str().unwrap(), "-o", "json"])
    };
    assert_eq!(check(&exported).code, Some(0));
    let outcome = check(&exported.replacen("vps.stop", "vps.stoq", 1));
    let verdict: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((outcome.code, &verdict["fault_count"]), (Some(1), &json!(1)));
    assert_eq!(verdict["faults"][0], "entry 1 was changed: its hash is not that of what stands there");
}

#[test]
fn a_log_that_was_changed_or_cut_fails_and_names_what() {
    let all = log(6);
    let lines: Vec<String> = all.iter().map(|(line, _)| line.clone()).collect();
    let last = all[5].1.clone();
    let mut changed = lines.clone();
    changed[3] = changed[3].replace("vps.stop", "vps.halt");
    let outcome = run(&chain(changed, 6, last.clone()).url, &["audit", "verify"]);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (Some(1), "entry 4 was changed: its hash is not that of what stands there\n")
    );
    assert!(outcome.stderr.contains("error: the audit log was changed: 1 faults"), "{}", outcome.stderr);
    let outcome = run(&chain(lines[..4].to_vec(), 6, last).url, &["audit", "verify"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), "the entries 5 to 6 are missing\n"));
}

#[test]
fn a_reason_goes_with_every_change_and_a_bad_one_is_refused_before() {
    let tenant = json!({"name": "acme", "quota": {}, "used": {"vps": 0, "cores": 0, "memory_bytes": 0, "disk_bytes": 0, "addresses": 0, "snapshots": 0},
                        "created_at": "2026-01-01T00:00:00Z", "revision": 1});
    let server = Server::start(move |_, _| answer(201, &tenant));
    let outcome = run(&server.url, &["tenant", "create", "acme", "--reason", "ticket 7"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(server.requests()[0].header("x-chom-reason"), Some("ticket 7"));
    assert_eq!(run(&server.url, &["tenant", "delete", "acme", "--reason", "a\nb"]).code, Some(2));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn entries_are_listed_with_filters() {
    let entry = json!({
        "sequence": 7, "at": "2026-01-01T00:00:00Z", "actor": "unknown", "token": null, "address": "192.0.2.7",
        "action": "request.unauthorised", "target": "GET /api/hosts", "tenants": [], "reason": null, "result": "denied",
        "times": 12, "operation": null, "changes": [], "changes_left_out": 0
    });
    let server = Server::start(move |_, _| answer(200, &json!({"items": [entry]})));
    let words =
        ["audit", "list", "--denied", "--tenant", "acme", "--from", "2026-01-01T00:00:00Z", "-o", "wide"];
    let outcome = run(&server.url, &words);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(
        server.lines(),
        ["GET /api/audit?limit=100&tenant=acme&result=denied&from=2026-01-01T00%3A00%3A00Z"]
    );
    for part in ["192.0.2.7", "request.unauthorised", "denied x12", "2026-01-01T00:00:00Z"] {
        assert!(outcome.stdout.contains(part), "{part} in:\n{}", outcome.stdout);
    }
}
