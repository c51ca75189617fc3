//! The calls of `docs/billing.md`, read from that page and run word for word against a real orchestrator, which is killed on
//! the way; and the usage records that come of it, pulled and pushed: each exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chom_protocol::api::usage::UsageRecord;
use chom_tests::api::{Api, Method};
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::receiver::{Answer, Arrived, Receiver, free_address};
use chom_tests::wait::wait_for;
use serde_json::Value;

/// One call of the page.
#[derive(Debug)]
struct Call {
    method: Method,
    path: String,
    key: Option<String>,
    body: Option<String>,
    status: u16,
    answer: Value,
}

/// The blocks of a kind of code, in pairs of call and answer.
fn calls(page: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut blocks = page.split("```").skip(1).step_by(2);
    while let Some(block) = blocks.next() {
        let Some(asked) = block.strip_prefix("http\n") else { panic!("no call: {block}") };
        let answer = blocks.next().and_then(|block| block.strip_prefix("json\n"));
        let answer = answer.unwrap_or_else(|| panic!("no answer to: {asked}"));
        let (head, body) = asked.split_once("\n\n").unwrap_or((asked, ""));
        let mut lines = head.lines();
        let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
        let key = lines.find_map(|line| line.strip_prefix("Idempotency-Key: "));
        let (status, answer) = answer.split_once(' ').unwrap();
        calls.push(Call {
            method: match method {
                "GET" => Method::Get,
                "POST" => Method::Post,
                "DELETE" => Method::Delete,
                other => panic!("{other}"),
            },
            path: path.to_owned(),
            key: key.map(str::to_owned),
            body: (!body.trim().is_empty()).then(|| body.trim().to_owned()),
            status: status.parse().unwrap(),
            answer: serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}")),
        });
    }
    calls
}

/// Whether an answer has what the page promises; `…` is anything.
fn has(found: &Value, promised: &Value) -> bool {
    match (found, promised) {
        (_, Value::String(text)) if text == "…" => !found.is_null(),
        (Value::Object(found), Value::Object(promised)) => {
            promised.iter().all(|(key, promised)| found.get(key).is_some_and(|found| has(found, promised)))
        }
        (Value::Array(found), Value::Array(promised)) => {
            (promised.is_empty() == found.is_empty())
                && promised.iter().all(|promised| found.iter().any(|found| has(found, promised)))
        }
        _ => found == promised,
    }
}

fn ask(api: &Api, call: &Call, ids: &BTreeMap<&str, String>) -> Result<Value, String> {
    let path =
        ids.iter().fold(call.path.clone(), |path, (name, id)| path.replace(&format!("{{{name}}}"), id));
    let headers: Vec<(&str, &str)> = call.key.iter().map(|key| ("Idempotency-Key", key.as_str())).collect();
    let body = call.body.as_ref().map(|body| body.as_bytes());
    let (status, answer) =
        api.ask(call.method, &path, body, &headers).map_err(|failure| failure.to_string())?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    if status == call.status && has(&answer, &call.answer) {
        Ok(answer)
    } else {
        Err(format!("{path}: {status} {answer}\npromised: {} {}", call.status, call.answer))
    }
}

/// The records in what arrived, each post once.
fn pushed(arrived: &[Arrived]) -> Vec<UsageRecord> {
    let mut seen = BTreeSet::new();
    let once = arrived.iter().filter(|arrived| seen.insert(arrived.id.clone()));
    once.flat_map(|arrived| {
        let records = arrived.body["data"]["records"].clone();
        serde_json::from_value::<Vec<UsageRecord>>(records).unwrap()
    })
    .collect()
}

#[test]
fn the_calls_of_the_page_do_what_it_says_and_usage_is_told_once_though_the_orchestrator_is_killed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/billing.md");
    let calls = calls(&std::fs::read_to_string(page).unwrap());
    assert!(calls.len() > 15, "{calls:?}");
    let mut fleet = Fleet::start(Options { usage_hour_seconds: 2, ..Options::default() }, 1);
    let address = free_address();
    let url = format!("http://{address}/hook");
    let words = ["webhook", "create", "billing", "--url", &url, "--kind", "usage"];
    let secret = fleet.orchestrator.chomctl(&words).well("chomctl webhook create");
    let mut ids: BTreeMap<&str, String> = BTreeMap::new();
    for (place, call) in calls.iter().enumerate() {
        let api = fleet.api().clone();
        // An operation takes its time, and so does the end of an hour.
        let answer = if call.method == Method::Get {
            wait_for("the answer that the page promises", LATER, || ask(&api, call, &ids))
        } else {
            let first = ask(&api, call, &ids).unwrap_or_else(|error| panic!("{error}"));
            if place % 9 == 1 {
                fleet.orchestrator.restart();
            }
            // The same call with the same key has the same answer and is done once; a password is shown once.
            let again = ask(&fleet.api().clone(), call, &ids);
            assert!(again.is_ok() || call.path.contains("password"), "{again:?}");
            first
        };
        for (name, at) in [("vps", "/vps/id"), ("operation", "/operation/id")] {
            if let Some(id) = answer.pointer(at).and_then(Value::as_str) {
                ids.insert(name, id.to_owned());
            }
        }
    }

    // Nobody was there to be told all the while.
    let receiver = Receiver::start(address, secret.trim(), |_| Answer::Take);
    fleet.orchestrator.restart();
    let vps = &ids["vps"];
    let pull = |fleet: &Fleet| -> Vec<UsageRecord> {
        let text = fleet.orchestrator.chomctl(&["usage", "list", "--tenant", "acme", "-o", "json"]);
        serde_json::from_str(&text.well("chomctl usage list")).unwrap()
    };
    // Hours are closed in order: once there is one of what was made after all that, it has all its records.
    let after = wait_for("its host to be seen again", LATER, || {
        fleet.api().create("after", None).map_err(|failure| failure.to_string())
    });
    let after = after.vps.id.to_string();
    wait_for("all its hours to be closed", LATER, || {
        let text = fleet.orchestrator.chomctl(&["usage", "list", "--vps", &after]).well("chomctl usage list");
        if text.contains("after") { Ok(()) } else { Err(text) }
    });
    let pulled = pull(&fleet);
    fleet.orchestrator.restart();
    assert_eq!(pull(&fleet), pulled, "records never change");
    let distinct: BTreeSet<&String> = pulled.iter().map(|record| &record.id).collect();
    assert_eq!(distinct.len(), pulled.len(), "{pulled:?}");
    assert!(pulled.is_sorted_by_key(|record| &record.hour));
    assert!(pulled.iter().all(|record| record.vps.to_string() == *vps && record.seconds <= 2), "{pulled:?}");
    assert!(pulled.iter().any(|record| record.cores == 2), "it was resized: {pulled:?}");
    assert!(pulled.iter().any(|record| record.external_id.as_deref() == Some("service-1b")));
    let hours: Vec<&str> = pulled.iter().map(|record| record.hour.as_str()).collect();
    assert_eq!(hours.iter().collect::<BTreeSet<_>>().len(), hours.len(), "one record an hour: {hours:?}");
    let told = wait_for("what was pulled to be pushed", SOON, || {
        let mut told = pushed(&receiver.arrived());
        told.retain(|record| record.vps.to_string() == *vps);
        if told.len() >= pulled.len() { Ok(told) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(told, pulled, "the same records, each once, in order");
    let text =
        fleet.orchestrator.chomctl(&["usage", "list", "--vps", vps, "--csv"]).well("chomctl usage list");
    assert_eq!(text.lines().count(), pulled.len() + 1, "{text}");
}
