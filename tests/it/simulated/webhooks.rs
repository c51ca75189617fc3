//! Webhooks: a receiver that is away, refuses, or loses its answers gets every event once by id and in the order of its
//! resource, also when the orchestrator is killed on the way. The waits are of seconds here; the schedule of hours is in
//! `notify/webhook/queue`, on paper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use chom_protocol::VpsId;
use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::webhooks::{WebhookDeliveryView, WebhookReplayed, WebhookTested, WebhookView};
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::receiver::{Answer, Arrived, Receiver, free_address};
use chom_tests::wait::wait_for;
use serde_json::json;

/// What arrived of each VPS, each event once, in the order in which it first came.
fn by_vps(arrived: &[Arrived]) -> BTreeMap<String, Vec<(String, String)>> {
    let (mut seen, mut found) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
    for Arrived { id, body } in arrived {
        if seen.insert(id) {
            let text = |key: &str| body["data"][key].as_str().unwrap_or_default().to_owned();
            found.entry(text("vps")).or_default().push((text("kind"), text("state")));
        }
    }
    found
}

/// The states that each operation of a VPS went through, in order; `running` is passed over where one report does it all.
fn is_whole(events: &[(String, String)], kinds: &[&str]) -> bool {
    let without_running = events.iter().filter(|(_, state)| state != "running");
    let expected = kinds.iter().flat_map(|kind| [(*kind, "pending"), (*kind, "succeeded")]);
    without_running.map(|(kind, state)| (kind.as_str(), state.as_str())).eq(expected)
}

#[test]
fn a_receiver_that_was_away_gets_every_event_once_by_id_and_in_order_though_the_orchestrator_is_killed() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let address = free_address();
    let url = format!("http://{address}/hook");
    let words = ["webhook", "create", "billing", "--url", &url, "--kind", "operations"];
    let secret = fleet.orchestrator.chomctl(&words).well("chomctl webhook create");
    let secret = secret.trim();
    let tested = fleet.orchestrator.chomctl(&["webhook", "test", "billing", "-o", "json"]);
    assert_eq!(tested.code, Some(1), "{tested:?}");
    let failed: WebhookTested = serde_json::from_str(&tested.stdout).unwrap();
    assert!(!failed.delivered && failed.attempt.answer.contains("cannot connect"), "{failed:?}");

    // Nobody is there, and the orchestrator is killed while events wait, and again.
    let api = fleet.api().clone();
    let mut all: Vec<VpsId> = Vec::new();
    for number in 0..3 {
        let made = api.create(&format!("v{number}"), None).unwrap();
        assert_eq!(api.ended(made.operation.id, LATER).state, OperationState::Succeeded);
        all.push(made.vps.id);
        fleet.orchestrator.restart();
    }
    for (vps, verb) in all.iter().flat_map(|vps| [(*vps, "stop"), (*vps, "start")]) {
        let accepted = api.act(vps, verb, None).unwrap();
        assert_eq!(api.ended(accepted.operation.id, LATER).state, OperationState::Succeeded);
    }
    let shown = |fleet: &Fleet| -> WebhookView {
        let text = fleet.orchestrator.chomctl(&["webhook", "show", "billing", "-o", "json"]);
        serde_json::from_str(&text.well("chomctl webhook show")).unwrap()
    };
    wait_for("the receiver's absence to be shown", SOON, || {
        let shown = shown(&fleet);
        let told = shown.problem.as_deref().is_some_and(|problem| problem.contains("cannot connect"));
        if told && shown.waiting >= 18 { Ok(()) } else { Err(format!("{shown:?}")) }
    });

    // It comes, minds the first VPS at first, and loses its answers now and then.
    let (first, count) = (all[0].to_string(), Mutex::new(0));
    let receiver = Receiver::start(address, secret, move |arrived| {
        let mut count = count.lock().unwrap();
        *count += 1;
        match *count {
            ..12 if arrived.body["data"]["vps"] == first.as_str() => Answer::Refuse(500),
            number if number % 5 == 0 => Answer::TakeAndHangUp,
            _ => Answer::Take,
        }
    });
    fleet.orchestrator.restart();
    let kinds = ["create", "stop", "start"];
    let arrived = wait_for("every event", LATER, || {
        let found = by_vps(&receiver.arrived());
        let is_all = all.iter().all(|vps| found.get(&vps.to_string()).is_some_and(|of| is_whole(of, &kinds)));
        if is_all { Ok(receiver.arrived()) } else { Err(format!("{found:?}")) }
    });
    let list = |fleet: &Fleet| -> Vec<WebhookDeliveryView> {
        let text = fleet.orchestrator.chomctl(&["webhook", "deliveries", "billing", "-o", "json"]);
        serde_json::from_str(&text.well("chomctl webhook deliveries")).unwrap()
    };
    let log = wait_for("the log to say so", SOON, || {
        let log = list(&fleet);
        let done = log.iter().all(|delivery| delivery.state == DeliveryState::Delivered);
        if done { Ok(log) } else { Err(format!("{log:?}")) }
    });
    let ids: BTreeSet<&str> = arrived.iter().map(|arrived| arrived.id.as_str()).collect();
    assert_eq!(log.len(), ids.len(), "what is in the log is what arrived");
    assert!(shown(&fleet).waiting == 0 && shown(&fleet).dropped == 0);

    // Again on request: under the same ids.
    let last = log[0].id.to_string();
    let before = receiver.arrived().len();
    let text =
        fleet.orchestrator.chomctl(&["webhook", "replay", "billing", "--delivery", &last, "-o", "json"]);
    let replayed: WebhookReplayed = serde_json::from_str(&text.well("chomctl webhook replay")).unwrap();
    assert_eq!(replayed.deliveries, 1);
    wait_for("it to come again", SOON, || {
        let arrived = receiver.arrived();
        let again = arrived[before..].iter().any(|arrived| arrived.id == last);
        if again { Ok(()) } else { Err(format!("{} arrived", arrived.len())) }
    });
    let tested = fleet.orchestrator.chomctl(&["webhook", "test", "billing"]);
    assert!(tested.code == Some(0) || tested.stdout.contains("broke off"), "{tested:?}");
}

#[test]
fn a_tenants_webhook_hears_of_its_own_vps_alone_and_a_new_secret_takes_over() {
    let fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    let _: serde_json::Value = api.post("/api/tenants", &json!({"name": "acme"})).unwrap();
    let made: serde_json::Value =
        api.post("/api/tokens", &json!({"name": "boss", "role": "owner", "tenant": "acme"})).unwrap();
    let owner = api.with_token(made["secret"].as_str().unwrap());
    let address = free_address();
    let body = json!({"name": "own", "url": format!("http://{address}/"), "kinds": ["operations"]});
    let hook: serde_json::Value = owner.post("/api/webhooks", &body).unwrap();
    let path = format!("/api/webhooks/{}", hook["webhook"]["id"].as_str().unwrap());
    let receiver = Receiver::start(address, hook["secret"].as_str().unwrap(), |_| Answer::Take);
    let foreign = api.create("foreign", None).unwrap();
    let body = json!({"name": "mine", "region": "us-east", "size": "small"});
    let mine: chom_protocol::api::vps_servers::VpsAccepted = owner.post("/api/vps-servers", &body).unwrap();
    assert_eq!(api.ended(foreign.operation.id, LATER).state, OperationState::Succeeded);
    let heard = |receiver: &Receiver, kinds: &[&str]| {
        wait_for("its own events", SOON, || {
            let found = by_vps(&receiver.arrived());
            let only = found.len() == 1;
            match found.get(&mine.vps.id.to_string()) {
                Some(events) if only && is_whole(events, kinds) => Ok(()),
                _ => Err(format!("{found:?}")),
            }
        });
    };
    heard(&receiver, &["create"]);
    // Both secrets verify for a day; then only the new one does, which a receiver that has only that shows now.
    let changed: serde_json::Value = owner.post(&path, &json!({"new_secret": true})).unwrap();
    let stop = |verb: &str| {
        let accepted: chom_protocol::api::vps_servers::VpsAccepted =
            owner.post(&format!("/api/vps-servers/{}/{verb}", mine.vps.id), &json!({})).unwrap();
        assert_eq!(api.ended(accepted.operation.id, LATER).state, OperationState::Succeeded);
    };
    stop("stop");
    heard(&receiver, &["create", "stop"]);
    drop(receiver);
    let receiver = Receiver::start(address, changed["secret"].as_str().unwrap(), |_| Answer::Take);
    stop("start");
    heard(&receiver, &["start"]);
}
