//! kill -9 of the orchestrator at random moments while clients create, change and delete: what was acknowledged is there,
//! nothing is there by half, and every operation ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chom_protocol::api::Problem;
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::Power;
use chom_protocol::{OperationId, VpsId};
use chom_tests::api::{Api, Failure, insist};
use chom_tests::export::Rows;
use chom_tests::fleet::{Fleet, LATER};
use chom_tests::orchestrator::Options;
use chom_tests::seed::{Chance, long, rounds};
use chom_tests::wait::{pass, wait_until};

const CLIENTS: usize = 8;
const VPS_PER_CLIENT_MAX: usize = 6;
/// Through a kill and a start, on a machine that compiles at the same time.
const ANSWER_DEADLINE: Duration = Duration::from_secs(90);

/// What was acknowledged of a VPS last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acknowledged {
    power: Power,
    deleted: bool,
}

impl Acknowledged {
    fn check(&self, view: &VpsView) {
        let desired = if self.deleted { Power::Stopped } else { self.power };
        assert_eq!(view.desired, desired, "{view:?} is not what was acknowledged: {self:?}");
        assert_eq!(
            view.deleted_at.is_some(),
            self.deleted,
            "{view:?} is not what was acknowledged: {self:?}"
        );
    }

    /// What may be asked of it.
    fn actions(&self) -> &'static [&'static str] {
        match (self.deleted, self.power) {
            (true, _) => &["undelete", "purge"],
            (false, Power::Running) => &["start", "stop", "stop", "restart", "pause", "delete"],
            (false, Power::Paused) => &["pause", "resume", "stop", "delete"],
            (false, Power::Stopped) => &["start", "stop", "delete"],
        }
    }

    fn after(&self, action: &str) -> Option<Self> {
        let Self { power, deleted } = *self;
        Some(match action {
            "pause" => Self { power: Power::Paused, deleted },
            "start" | "resume" => Self { power: Power::Running, deleted },
            "stop" => Self { power: Power::Stopped, deleted },
            "restart" => Self { power, deleted },
            "delete" => Self { power, deleted: true },
            // What was paused has lost its memory meanwhile: it runs.
            "undelete" if power == Power::Paused => Self { power: Power::Running, deleted: false },
            "undelete" => Self { power, deleted: false },
            _ => return None,
        })
    }
}

/// One client and what it was told.
struct Client {
    number: usize,
    api: Api,
    chance: Chance,
    vps: BTreeMap<VpsId, Acknowledged>,
    purged: BTreeSet<VpsId>,
    operations: BTreeSet<OperationId>,
    requests: usize,
    /// The last answer with its key: the same request must get it again.
    last: Option<(String, String, VpsAccepted)>,
}

impl Client {
    fn new(number: usize, api: Api, chance: Chance) -> Self {
        let (vps, purged, operations) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { number, api, chance, vps, purged, operations, requests: 0, last: None }
    }

    fn ask(
        &self,
        what: &str,
        ask: impl FnMut() -> Result<VpsAccepted, Failure>,
    ) -> Result<VpsAccepted, Box<Problem>> {
        insist(&format!("client {}'s {what}", self.number), ANSWER_DEADLINE, ask)
    }

    fn step(&mut self) {
        self.requests += 1;
        let key = format!("client-{}-request-{}", self.number, self.requests);
        let known: Vec<VpsId> = self.vps.keys().copied().collect();
        if known.len() < 2 || (known.len() < VPS_PER_CLIENT_MAX && self.chance.percent(40)) {
            return self.create(&key);
        }
        let vps = *self.chance.pick(&known);
        self.look(vps);
        let before = self.vps[&vps].clone();
        let action = *self.chance.pick(before.actions());
        let accepted = self.ask(action, || self.api.act(vps, action, Some(&key)));
        let accepted = accepted.unwrap_or_else(|problem| panic!("{action} of {before:?}: {problem:?}"));
        self.operations.insert(accepted.operation.id);
        match before.after(action) {
            Some(after) => {
                after.check(&accepted.vps);
                self.vps.insert(vps, after);
            }
            None => {
                self.vps.remove(&vps);
                self.purged.insert(vps);
            }
        }
        self.last = Some((key, action.to_owned(), accepted));
    }

    fn create(&mut self, key: &str) {
        let name = format!("c{}-{}", self.number, self.requests);
        let accepted = self.ask("create", || self.api.create(&name, Some(key)));
        match accepted {
            Ok(accepted) => {
                let made = Acknowledged { power: Power::Running, deleted: false };
                made.check(&accepted.vps);
                assert_eq!(accepted.vps.name.as_str(), name);
                self.operations.insert(accepted.operation.id);
                self.vps.insert(accepted.vps.id, made);
            }
            // After a start no host can be given anything until it has reported.
            Err(problem) => assert_eq!(problem.kind, "/problems/no-capacity", "{problem:?}"),
        }
    }

    /// What was acknowledged can be read, whatever happened since.
    fn look(&self, vps: VpsId) {
        let what = format!("client {}'s look", self.number);
        let view = insist(&what, ANSWER_DEADLINE, || self.api.vps(vps));
        let view = view.unwrap_or_else(|problem| panic!("an acknowledged VPS is missing: {problem:?}"));
        self.vps[&vps].check(&view);
    }

    /// The same request under the same key is answered as before and changes nothing.
    fn repeat_last(&self) {
        let Some((key, action, first)) = &self.last else { return };
        let again = self.api.act(first.vps.id, action, Some(key)).unwrap();
        assert_eq!(again.operation.id, first.operation.id, "a repeated request was carried out again");
    }
}

#[test]
fn no_acknowledged_write_is_lost_and_none_is_there_by_half_when_the_orchestrator_is_killed() {
    let mut chance = Chance::for_test("orchestrator killed");
    let mut fleet = Fleet::start(Options::default(), 3);
    let stop = AtomicBool::new(false);
    let kills = rounds(100, 10);
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut client = Client::new(number, fleet.api().clone(), chance.split());
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        client.step();
                    }
                    client
                })
            })
            .collect();
        for round in 0..kills {
            pass(chance.between(Duration::from_millis(50), Duration::from_millis(1500)));
            fleet.orchestrator.kill_9();
            if round % 3 == 2 {
                // Also while it starts.
                fleet.orchestrator.launch();
                pass(chance.between(Duration::ZERO, Duration::from_millis(400)));
                fleet.orchestrator.kill_9();
            }
            fleet.orchestrator.run();
        }
        pass(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        running.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let requests: usize = clients.iter().map(|client| client.requests).sum();
    let operations: BTreeSet<OperationId> =
        clients.iter().flat_map(|client| client.operations.iter().copied()).collect();
    println!("{kills} kills, {requests} requests, {} operations", operations.len());
    assert!(operations.len() > kills, "the clients got hardly anything done");
    for client in &clients {
        client.repeat_last();
    }
    if !long() {
        // Agents pause longer the more often they were sent away; begun anew they dial at once.
        for host in &mut fleet.hosts {
            host.agent.restart();
        }
    }
    check_through_the_api(&fleet, &clients, &operations);
    fleet.orchestrator.stop();
    let rows = Rows::read(&fleet.orchestrator.export());
    let wanted: BTreeSet<String> =
        clients.iter().flat_map(|client| client.vps.keys()).map(ToString::to_string).collect();
    check_rows(&rows, &wanted);
}

fn check_through_the_api(fleet: &Fleet, clients: &[Client], operations: &BTreeSet<OperationId>) {
    let api = fleet.api();
    for operation in operations {
        let _ = api.ended(*operation, LATER);
    }
    let views: BTreeMap<VpsId, VpsView> =
        fleet.settled(LATER).into_iter().map(|view| (view.id, view)).collect();
    for client in clients {
        for (id, acknowledged) in &client.vps {
            let view = views.get(id).unwrap_or_else(|| panic!("acknowledged VPS {id} is missing"));
            acknowledged.check(view);
        }
        for id in &client.purged {
            wait_until("a purged VPS to be gone", LATER, || {
                api.vps(*id).is_err_and(|failure| failure.status() == 404)
            });
        }
    }
    let expected: usize = clients.iter().map(|client| client.vps.len()).sum();
    assert_eq!(views.len(), expected, "there are VPSs that nobody was told of");
    let names: BTreeSet<_> = views.values().map(|view| &view.name).collect();
    assert_eq!(names.len(), views.len(), "two VPSs have one name");
    let addresses: BTreeSet<_> = views.values().map(|view| (view.host, &view.addresses)).collect();
    assert_eq!(addresses.len(), views.len(), "two VPSs have one address");
}

/// Every VPS has its name and its address, every name and address its VPS, and nothing waits for ever.
fn check_rows(rows: &Rows, wanted: &BTreeSet<String>) {
    println!("rows: {:?}", rows.kinds());
    let ids = |kind: &str, pointer: &str| -> BTreeSet<String> {
        let id = |row: &serde_json::Value| row.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        rows.of(kind).map(id).collect()
    };
    assert_eq!(&ids("vps", "/spec/id"), wanted, "rows of VPSs");
    assert_eq!(&ids("vps-name", "/vps"), wanted, "names");
    assert_eq!(&ids("address", "/vps"), wanted, "addresses");
    for kind in ["vps-name", "address"] {
        assert_eq!(rows.of(kind).count(), wanted.len(), "one VPS has two rows of kind {kind}");
    }
    for operation in rows.of("operation") {
        let state = operation["state"].as_str().unwrap();
        assert!(["succeeded", "failed", "superseded"].contains(&state), "{operation}");
        assert!(operation["finished_at"].is_u64(), "{operation}");
    }
    assert_eq!(rows.of("job").count(), 0, "a job outlived its operation");
}
