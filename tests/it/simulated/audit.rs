//! The audit trail over kills of the orchestrator and over hands on its files.

use std::fs;

use chom_protocol::api::audit::AuditEntry;
use chom_tests::api::Method;
use chom_tests::fleet::SOON;
use chom_tests::orchestrator::{Options, Orchestrator};
use chom_tests::process::Said;
use chom_tests::wait::wait_for;
use serde_json::json;

const ROUNDS: usize = 4;
const CHANGES_PER_ROUND: usize = 12;

fn make(orchestrator: &Orchestrator, tenant: &str) {
    let _: serde_json::Value =
        orchestrator.api().call(Method::Post, "/api/tenants", Some(&json!({"name": tenant})), None).unwrap();
}

fn verify(orchestrator: &Orchestrator, more: &[&str]) -> Said {
    orchestrator.chomctl(&[["audit", "verify"].as_slice(), more].concat())
}

/// Waits until the log has an entry about a tenant, and gives all of its lines.
fn logged(orchestrator: &Orchestrator, tenant: &str) -> Vec<String> {
    wait_for("the last change to be in the log", SOON, || {
        let lines = orchestrator.chomctl(&["audit", "export"]).well("chomctl audit export");
        if lines.contains(&format!(r#""target":"{tenant}""#)) {
            Ok(lines.lines().map(str::to_owned).collect())
        } else {
            Err(format!("{} lines", lines.lines().count()))
        }
    })
}

/// The place of an entry's line in the log, and its number.
fn line_of(lines: &[String], tenant: &str) -> (usize, u64) {
    let place = lines.iter().position(|line| line.contains(&format!(r#""target":"{tenant}""#))).unwrap();
    let line: serde_json::Value = serde_json::from_str(&lines[place]).unwrap();
    (place, line["entry"]["data"]["sequence"].as_u64().unwrap())
}

#[test]
fn no_entry_is_lost_or_doubled_by_kills_and_no_byte_is_changed_unseen() {
    let mut orchestrator = Orchestrator::start(Options::default());
    for round in 0..ROUNDS {
        // Killed while entries are on their way from the store into the log: some are there, some are not.
        for change in 0..CHANGES_PER_ROUND {
            make(&orchestrator, &format!("t{round}-{change}"));
        }
        orchestrator.restart();
    }
    let reason = ["tenant", "create", "last", "--reason", "Kündigung, ticket 7"];
    let _ = orchestrator.chomctl(&reason).well("chomctl tenant create");
    let lines = logged(&orchestrator, "last");
    let said = verify(&orchestrator, &[]).well("chomctl audit verify");
    let end = said.lines().last().unwrap().to_owned();
    let known = verify(&orchestrator, &["--known", &end]).well("chomctl audit verify --known");
    assert!(known.contains(&end), "{known}");

    let list = ["audit", "list", "--action", "tenant.create", "--limit", "1000", "-o", "json"];
    let entries = orchestrator.chomctl(&list).well("chomctl audit list");
    let entries: Vec<AuditEntry> = serde_json::from_str(&entries).unwrap();
    let targets: Vec<String> = entries.iter().rev().map(|entry| entry.target.clone()).collect();
    let mut expected: Vec<String> = (0..ROUNDS)
        .flat_map(|round| (0..CHANGES_PER_ROUND).map(move |change| format!("t{round}-{change}")))
        .collect();
    expected.push("last".to_owned());
    assert_eq!(targets, expected, "each once, in order");
    let newest = &entries[0];
    assert_eq!((newest.actor.as_str(), newest.reason.as_deref()), ("admin", Some("Kündigung, ticket 7")));
    assert!(
        newest.address.is_some_and(|address| address.is_loopback()) && newest.token.is_some(),
        "{newest:?}"
    );
    assert_eq!(newest.changes[0].row, "tenants/last");

    // One byte, somewhere in the middle: in the words of an entry, nothing that would not be JSON any more.
    orchestrator.stop();
    let said = orchestrator.command(&["audit", "verify"]).well("chom-orchestrator audit verify");
    assert!(said.contains("none changed\n"), "{said}");
    let file = orchestrator.audit_files().remove(0);
    let good = fs::read(&file).unwrap();
    let (_, number) = line_of(&lines, "t1-7");
    let at = good.windows(4).position(|bytes| bytes == b"t1-7").unwrap();
    let mut bad = good.clone();
    bad[at + 3] = b'8';
    fs::write(&file, &bad).unwrap();
    let said = orchestrator.command(&["audit", "verify"]);
    assert!(
        said.code == Some(1) && said.stdout.starts_with(&format!("entry {number} was changed")),
        "{said:?}"
    );
    orchestrator.run();
    let said = verify(&orchestrator, &[]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    assert_eq!(
        said.stdout.lines().next(),
        Some(format!("entry {number} was changed: its hash is not that of what stands there").as_str())
    );
    assert!(said.stderr.contains("the audit log was changed"), "{}", said.stderr);

    // The log as it was, without its end.
    orchestrator.stop();
    let (place, number) = line_of(&lines, "t3-2");
    let kept: usize = lines[..place].iter().map(|line| line.len() + 1).sum();
    fs::write(&file, &good[..kept]).unwrap();
    orchestrator.run();
    make(&orchestrator, "after");
    logged(&orchestrator, "after");
    let said = verify(&orchestrator, &[]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.starts_with(&format!("the entries {number} to ")), "{}", said.stdout);
    assert!(said.stdout.contains("are missing"), "{}", said.stdout);
}
