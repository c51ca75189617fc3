//! Changes that meet each other: answers that are lost, clients that fight over one row, plans of a world that moved, and one
//! order on many VPSs that is cut short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use chom_protocol::api::bulk::{BulkCounts, BulkItemState, BulkItemView};
use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::api::plans::VpsPlan;
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::VpsState;
use chom_protocol::{OperationId, VpsId};
use chom_tests::api::{Api, Failure, Method, insist};
use chom_tests::fleet::{Fleet, LATER};
use chom_tests::orchestrator::Options;
use chom_tests::register::{Answer, Seen, one_by_one};
use chom_tests::seed::Chance;
use chom_tests::wait::{pass, wait_for, wait_until};
use serde_json::json;

use crate::many::{runtime, simulated};

#[test]
fn a_client_that_loses_every_second_answer_and_repeats_makes_each_vps_once_also_when_the_orchestrator_is_killed()
 {
    const CLIENTS: usize = 4;
    const EACH: usize = 12;
    let mut chance = Chance::for_test("lost answers");
    let mut fleet = Fleet::start(Options::default(), 3);
    let make = |api: Api, client: usize| {
        (0..EACH)
            .map(move |n| {
                let (name, key) = (format!("c{client}-{n}"), format!("key-{client}-{n}"));
                let ask = || {
                    insist("a create", LATER, || match api.create(&name, Some(&key)) {
                        // After a start a host can be given nothing until it has reported.
                        Err(Failure::Refused(problem)) if problem.kind == "/problems/no-capacity" => {
                            Err(Failure::Silent(problem.detail))
                        }
                        other => other,
                    })
                    .unwrap_or_else(|problem| panic!("{problem:?}"))
                };
                // The answer is lost, and the same is asked again.
                let lost = (n % 2 == 1).then(&ask);
                let told = ask();
                assert!(lost.is_none_or(|lost| lost == told), "the same request was answered otherwise");
                told.vps.id
            })
            .collect::<Vec<VpsId>>()
    };
    let told: Vec<VpsId> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let api = fleet.api().clone();
                scope.spawn(move || make(api, client))
            })
            .collect();
        for _ in 0..3 {
            pass(chance.between(Duration::from_millis(100), Duration::from_millis(700)));
            fleet.orchestrator.kill_9();
            fleet.orchestrator.run();
        }
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let all: Vec<VpsView> = fleet.api().list("/api/vps-servers").unwrap();
    let ids: BTreeSet<VpsId> = all.iter().map(|vps| vps.id).collect();
    assert_eq!((all.len(), ids), (CLIENTS * EACH, told.into_iter().collect()));
}

#[test]
fn fifty_clients_that_fight_over_one_vps_see_what_could_have_happened_one_by_one() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 6;
    let fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api();
    let vps = api.create("first", None).unwrap().vps.id;
    let first = api.vps(vps).unwrap();
    let (began, start) = (Instant::now(), Barrier::new(CLIENTS));
    let moment = || u64::try_from(began.elapsed().as_nanos()).unwrap();
    let fight = |client: usize| {
        let mut history = Vec::new();
        let api = api.clone();
        start.wait();
        for round in 0..ROUNDS {
            let asked = moment();
            let row = api.vps(vps).unwrap();
            let seen = Seen::Read { revision: row.revision, value: row.name.to_string() };
            history.push(Answer { asked, told: moment(), seen });
            let value = format!("c{client}-{round}");
            let (body, tag) = (json!({"name": value}).to_string(), format!("\"{}\"", row.revision));
            let asked = moment();
            let path = format!("/api/vps-servers/{vps}/rename");
            let (status, answer) =
                api.ask(Method::Post, &path, Some(body.as_bytes()), &[("If-Match", &tag)]).unwrap();
            let told = moment();
            let over = row.revision;
            let seen = match status {
                202 => {
                    let accepted: VpsAccepted = serde_json::from_slice(&answer).unwrap();
                    assert_eq!(accepted.vps.name.as_str(), value);
                    Seen::Written { over, revision: accepted.vps.revision, value }
                }
                412 => Seen::Stale { over },
                other => panic!("{other}: {}", String::from_utf8_lossy(&answer)),
            };
            history.push(Answer { asked, told, seen });
        }
        history
    };
    let history: Vec<Answer> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || fight(client))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let of = |kind: fn(&Seen) -> bool| history.iter().filter(|answer| kind(&answer.seen)).count();
    let (written, stale) =
        (of(|seen| matches!(seen, Seen::Written { .. })), of(|seen| matches!(seen, Seen::Stale { .. })));
    println!("{written} written, {stale} stale");
    assert!(written > 0 && stale > 0, "they did not meet: {written} written, {stale} stale");
    one_by_one((first.revision, first.name.as_str()), &history).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn a_plan_is_done_as_it_said_or_refused_with_what_moved_and_a_restart_forgets_it() {
    let mut fleet = Fleet::start(Options::default(), 2);
    let api = fleet.api().clone();
    let body = |name: &str| json!({"name": name, "region": "us-east", "size": "small"});
    let plan = |name: &str| -> VpsPlan { api.post("/api/vps-servers?dry_run=true", &body(name)).unwrap() };
    let apply = |name: &str, plan: &VpsPlan| -> Result<VpsAccepted, Failure> {
        api.post(&format!("/api/vps-servers?plan={}", plan.id.unwrap()), &body(name))
    };
    let kept = plan("kept");
    let made = apply("kept", &kept).unwrap();
    assert_eq!((made.vps.host, &made.vps.addresses), (kept.host, &kept.addresses));
    // Its host and its address are another one's meanwhile.
    let late = plan("late");
    let others = (0..2).map(|n| api.create(&format!("other-{n}"), None).unwrap());
    assert!(
        others.into_iter().any(|other| other.vps.host == late.host && other.vps.addresses == late.addresses)
    );
    let refused = apply("late", &late).unwrap_err().to_string();
    assert!(refused.contains("is not free any more") && refused.contains("less free"), "{refused}");
    let path = format!("/api/vps-servers/{}", made.vps.id);
    let stop: VpsPlan = api.post(&format!("{path}/stop?dry_run=true"), &json!({})).unwrap();
    let _: VpsAccepted = api.post(&format!("{path}/stop"), &json!({})).unwrap();
    let stopped: Result<VpsAccepted, Failure> =
        api.post(&format!("{path}/stop?plan={}", stop.id.unwrap()), &json!({}));
    let refused = stopped.unwrap_err().to_string();
    assert!(refused.contains("VPS `kept` is now stopped"), "{refused}");
    let forgotten = plan("forgotten");
    fleet.orchestrator.restart();
    let refused = apply("forgotten", &forgotten).unwrap_err().to_string();
    assert!(refused.contains("forgotten when the orchestrator is restarted"), "{refused}");
}

#[test]
fn a_stop_of_five_hundred_that_is_cancelled_half_way_and_resumed_touches_each_once() {
    const HOSTS: usize = 20;
    const VPS: usize = 500;
    let times = Options { idle_seconds: 15, unreachable_seconds: 20, ..Options::default() };
    let mut fleet = Fleet::start(times, 0);
    let api = fleet.api().clone();
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let simulation = simulated(&fleet, HOSTS, folder.path(), &runtime);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let api = api.clone();
            scope.spawn(move || {
                for n in (part..VPS).step_by(4) {
                    wait_for("room for a VPS", LATER, || {
                        api.create(&format!("v{n}"), None).map_err(|failure| failure.to_string())
                    });
                }
            });
        }
    });
    fleet.settled(LATER);
    println!("{VPS} VPSs run after {:?}", begin.elapsed());
    let stop = json!({"action": "stop", "selector": {"state": "running"}, "parameters": {"grace_seconds": 5}, "expected_count": VPS});
    let begun: OperationView = api.post("/api/vps-servers/actions", &stop).unwrap();
    let counts = |api: &Api, id: OperationId| -> BulkCounts { api.operation(id).unwrap().bulk.unwrap() };
    wait_until("a part of them to be off", LATER, || counts(&api, begun.id).succeeded >= 60);
    let _: OperationView = api.post(&format!("/api/operations/{}/cancel", begun.id), &json!({})).unwrap();
    wait_until("those under way to end", LATER, || counts(&api, begun.id).running == 0);
    let half = counts(&api, begun.id);
    println!("cancelled at {half:?}");
    assert!(half.pending > 0 && half.failed == 0 && half.succeeded + half.pending == 500, "{half:?}");
    let _: OperationView = api.post(&format!("/api/operations/{}/resume", begun.id), &json!({})).unwrap();
    wait_until("more of them to be off", LATER, || counts(&api, begun.id).succeeded > half.succeeded);
    fleet.orchestrator.kill_9();
    fleet.orchestrator.run();
    let ended = api.ended(begun.id, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    let items: Vec<BulkItemView> = api.list(&format!("/api/operations/{}/items", begun.id)).unwrap();
    assert!(items.len() == VPS && items.iter().all(|item| item.state == BulkItemState::Succeeded));
    let mut touched: BTreeMap<VpsId, usize> = BTreeMap::new();
    let operations: Vec<OperationView> = api.list("/api/operations").unwrap();
    for operation in operations.iter().filter(|operation| operation.kind == "stop") {
        *touched.entry(operation.vps.unwrap()).or_default() += 1;
    }
    assert!(touched.len() == VPS && touched.values().all(|count| *count == 1), "{touched:?}");
    let all = fleet.settled(LATER);
    assert!(all.iter().all(|vps| vps.observed.state == VpsState::Stopped));
    runtime.block_on(simulation.stop()).unwrap();
}
