//! A VPS's life as desired state and operations tell it.

use chom_protocol::api::hosts::{ForgetHost, HostState, SetCordon};
use chom_protocol::api::operations::OperationState;
use chom_protocol::job::{JobOutcome, JobResult};

use super::*;
use crate::fleet::ErrorKind;
use crate::fleet::view;

#[tokio::test]
async fn create_start_stop_delete_undelete_purge_reach_their_goals() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let created = world.create("a", "eu-west").await.unwrap().value;
    let id = created.vps.id;
    assert_eq!(world.operation(created.operation.id).state, OperationState::Pending);
    world.converge(host).await;
    assert_eq!(world.operation(created.operation.id).state, OperationState::Succeeded);
    for action in
        [Action::Stop, Action::Start, Action::Delete, Action::Undelete, Action::Delete, Action::Purge]
    {
        let done = world.act(id, action).await.unwrap();
        world.converge(host).await;
        let row = world.operation(done.operation.id);
        if action == Action::Purge {
            assert!(world.fleet.state().vps.is_empty(), "gone with its rows");
            assert!(world.fleet.state().addresses.is_empty() && world.fleet.state().vps_names.is_empty());
        }
        assert_eq!(row.state, OperationState::Succeeded, "{action:?}: {row:?}");
    }
    assert!(
        world.fleet.spec(host).unwrap().tombstones.is_empty(),
        "the tombstone is dropped once reported gone"
    );
}

#[tokio::test]
async fn a_purge_counts_only_when_a_pass_that_knew_of_it_says_absent() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let id = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.act(id, Action::Delete).await.unwrap();
    let old = world.fleet.spec(host).unwrap().generation;
    world.act(id, Action::Purge).await.unwrap();
    let mut status = world.status_of(host);
    (status.accepted, status.reconciled) = (old, old);
    status.vps = [(id, seen(VpsState::Absent, 0))].into();
    world.fleet.observe(host, status).await.unwrap();
    assert_eq!(world.fleet.state().addresses.len(), 1, "its address is still held");
    world.converge(host).await;
    assert!(world.fleet.state().addresses.is_empty());
}

#[tokio::test]
async fn every_purge_ends_when_one_report_tells_of_more_than_a_commit_takes() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 100).await;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(world.create(&format!("v{n}"), "eu-west").await.unwrap().value.vps.id);
    }
    for id in &ids {
        world.act(*id, Action::Delete).await.unwrap();
    }
    let mut operations = Vec::new();
    // The order of operations is not that of VPSs.
    for id in ids.iter().rev() {
        operations.push(world.act(*id, Action::Purge).await.unwrap().operation.id);
    }
    for _ in 0..5 {
        world.converge(host).await;
    }
    assert!(world.fleet.state().vps.is_empty());
    for id in operations {
        assert_eq!(world.operation(id).state, OperationState::Succeeded);
    }
}

#[tokio::test]
async fn a_newer_operation_takes_the_place_of_the_open_one() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let created = world.create("a", "eu-west").await.unwrap().value;
    let restarted = world.act(created.vps.id, Action::Restart).await.unwrap();
    assert_eq!(world.operation(created.operation.id).state, OperationState::Superseded);
    assert_eq!(world.fleet.spec(host).unwrap().jobs.len(), 1);
    world.act(created.vps.id, Action::Stop).await.unwrap();
    assert_eq!(world.operation(restarted.operation.id).state, OperationState::Superseded);
    assert!(world.fleet.spec(host).unwrap().jobs.is_empty(), "a superseded job leaves desired state");
}

#[tokio::test]
async fn a_jobs_result_ends_its_operation_and_a_repeat_is_taken_and_changes_nothing() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let id = world.create("a", "eu-west").await.unwrap().value.vps.id;
    let restarted = world.act(id, Action::Restart).await.unwrap();
    let spec = world.fleet.spec(host).unwrap();
    let job = *spec.jobs.keys().next().unwrap();
    let problem = "the guest does not start".to_owned();
    let result = JobResult {
        job,
        outcome: JobOutcome::Failed { problem: problem.clone() },
        finished_at: UnixMillis(1),
        generation: spec.generation,
    };
    world.fleet.results(host, vec![result.clone()]).await.unwrap();
    let row = world.operation(restarted.operation.id);
    assert_eq!((row.state, row.problem), (OperationState::Failed, Some(problem)));
    let revision = world.fleet.state().revision;
    world.fleet.results(host, vec![result]).await.unwrap();
    assert_eq!(world.fleet.state().revision, revision);
}

#[tokio::test]
async fn what_a_host_says_of_other_hosts_vps_is_not_believed() {
    let world = World::new().await;
    let host = world.host("h1", "eu-west", 10).await;
    let created = world.create("a", "eu-west").await.unwrap().value;
    let other = world.host("h2", "us-east", 10).await;
    let mut status = world.status_of(other);
    let far = Generation { epoch: u64::MAX, number: u64::MAX };
    (status.accepted, status.reconciled) = (far, far);
    status.vps = [(created.vps.id, seen(VpsState::Running, 1))].into();
    world.fleet.observe(other, status).await.unwrap();
    assert_eq!(world.operation(created.operation.id).state, OperationState::Pending);
    assert!(world.fleet.state().observed_vps.is_empty());
    world.converge(host).await;
    assert_eq!(world.operation(created.operation.id).state, OperationState::Succeeded);
}

#[tokio::test]
async fn deleting_holds_name_address_and_disk_and_gives_cores_and_memory_back() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 1).await;
    let id = world.create("a", "eu-west").await.unwrap().value.vps.id;
    assert_eq!(world.create("b", "eu-west").await.unwrap_err().kind(), ErrorKind::NoCapacity);
    world.act(id, Action::Delete).await.unwrap();
    let held = world.fleet.state().held[&host];
    assert_eq!((held.cores, held.memory, held.disk), (0, Bytes(0), Bytes::gib(1)));
    assert_eq!(world.create("a", "eu-west").await.unwrap_err().location(), Some("/name"));
    world.create("b", "eu-west").await.expect("room again");
    let error = world.act(id, Action::Undelete).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoCapacity, "somebody else has the room now: {error}");
}

#[tokio::test]
async fn wrong_states_are_refused_with_what_to_do() {
    let world = World::new().await;
    world.host("h", "eu-west", 10).await;
    let id = world.create("a", "eu-west").await.unwrap().value.vps.id;
    let mut said = String::new();
    let mut refuse = |what: &str, outcome: Result<VpsAccepted, FleetError>| {
        said.push_str(&format!("{what}: {}\n", outcome.unwrap_err()));
    };
    refuse("purge", world.act(id, Action::Purge).await);
    refuse("undelete", world.act(id, Action::Undelete).await);
    world.act(id, Action::Hold).await.unwrap();
    refuse("start on hold", world.act(id, Action::Start).await);
    world.act(id, Action::Unhold).await.unwrap();
    world.act(id, Action::Stop).await.unwrap();
    refuse("restart of a stopped one", world.act(id, Action::Restart).await);
    world.act(id, Action::Delete).await.unwrap();
    refuse("delete again", world.act(id, Action::Delete).await);
    refuse("start", world.act(id, Action::Start).await);
    world.act(id, Action::Purge).await.unwrap();
    refuse("undelete while purging", world.act(id, Action::Undelete).await);
    expect_test::expect![[r#"
        purge: VPS `a` is not deleted; delete it first, then purge
        undelete: VPS `a` is not deleted
        start on hold: VPS `a` is on hold; end it with `chomctl vps unhold a`
        restart of a stopped one: VPS `a` is to be off; start it with `chomctl vps start a`
        delete again: VPS `a` is deleted; bring it back with `chomctl vps undelete a`
        start: VPS `a` is deleted; bring it back with `chomctl vps undelete a`
        undelete while purging: VPS `a` is being purged; nothing else can be done to it
    "#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn a_forgotten_host_may_only_report_and_its_vps_are_orphans_whose_addresses_stay_held() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let id = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let forget = ForgetHost { release_addresses: false };
    world.fleet.forget_host(&caller(), RequestMark::default(), host, forget).await.unwrap();
    assert_eq!(world.standing(host).unwrap(), Standing::ReportOnly);
    assert_eq!(world.fleet.spec(host), None, "nothing is ordered of it");
    let mut status = world.status_of(host);
    status.vps = [(id, seen(VpsState::Running, 1))].into();
    world.fleet.observe(host, status).await.unwrap();
    let (state, observation) = (world.fleet.state(), world.fleet.observations().of(host));
    let row = state.get::<HostRow>(&host).unwrap();
    let shown = view::host(&state, world.fleet.catalogue(), row, observation.as_deref(), clock::now());
    assert_eq!((shown.state, shown.orphans.len()), (HostState::Forgotten, 1));
    // Deleting and purging work all the same: a dead host blocks nothing.
    world.act(id, Action::Delete).await.unwrap();
    let purged = world.act(id, Action::Purge).await.unwrap();
    assert_eq!(purged.operation.state, OperationState::Succeeded);
    let state = world.fleet.state();
    assert!(state.vps.is_empty());
    assert_eq!(state.addresses.len(), 1, "the machine may still use it");
}

#[tokio::test]
async fn a_revoked_host_is_let_in_no_more_and_a_cordoned_one_takes_nothing_new() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let cordon = SetCordon { cordoned: true };
    world.fleet.cordon(&caller(), RequestMark::default(), host, cordon).await.unwrap();
    let error = world.create("a", "eu-west").await.unwrap_err();
    assert!(error.to_string().contains("1 cordoned"), "{error}");
    assert_eq!(world.standing(host).unwrap(), Standing::Managed);
    world.fleet.revoke_host(&caller(), RequestMark::default(), host).await.unwrap();
    assert_eq!(world.standing(host).unwrap_err().kind(), ErrorKind::Unauthorised);
}
