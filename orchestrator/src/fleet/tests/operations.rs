//! Orders beyond on and off: what they change, what refuses them, and what takes them back.

use chom_protocol::api::operations::OperationState;
use chom_protocol::api::vps_servers::{
    RebuildVps, RenameVps, ResizeVps, StopVps, SuspendVps, UnsuspendVps, VpsView,
};
use chom_protocol::job::{JobOutcome, JobResult};
use chom_protocol::vps::{Suspension, SuspensionReason};

use super::*;
use crate::fleet::ErrorKind;
use crate::fleet::rows::{Goal, VpsRow};

impl World {
    async fn resize(&self, vps: VpsId, request: ResizeVps) -> Result<VpsAccepted, FleetError> {
        self.fleet.resize_vps(&caller(), RequestMark::default(), vps, request).await.map(|done| done.value)
    }

    async fn rebuild(&self, vps: VpsId, request: RebuildVps) -> Result<VpsAccepted, FleetError> {
        self.fleet.rebuild_vps(&caller(), RequestMark::default(), vps, request).await.map(|done| done.value)
    }

    async fn rename(&self, vps: VpsId, to: &str) -> Result<VpsAccepted, FleetError> {
        let request = RenameVps { name: name(to) };
        self.fleet.rename_vps(&caller(), RequestMark::default(), vps, request).await.map(|done| done.value)
    }

    async fn suspend(&self, vps: VpsId, reason: SuspensionReason, mode: Suspension) -> VpsAccepted {
        let request = SuspendVps { reason, mode };
        self.fleet.suspend_vps(&caller(), RequestMark::default(), vps, request).await.unwrap().value
    }

    async fn unsuspend(&self, vps: VpsId, reason: SuspensionReason) -> Result<VpsAccepted, FleetError> {
        let request = UnsuspendVps { reason };
        self.fleet.unsuspend_vps(&caller(), RequestMark::default(), vps, request).await.map(|done| done.value)
    }

    async fn cancel(&self, operation: OperationId) -> Result<OperationState, FleetError> {
        let done = self.fleet.cancel_operation(&caller(), RequestMark::default(), operation).await?;
        Ok(done.value.state)
    }

    fn row(&self, vps: VpsId) -> VpsRow {
        self.fleet.state().get::<VpsRow>(&vps).unwrap().clone()
    }

    /// The host does as ordered, and the operation has succeeded then.
    async fn carried_out(&self, host: HostId, accepted: &VpsAccepted) {
        self.converge(host).await;
        let row = self.operation(accepted.operation.id);
        assert_eq!(row.state, OperationState::Succeeded, "{row:?}");
    }

    /// Why an operation cannot be cancelled.
    async fn refusal(&self, accepted: &VpsAccepted) -> String {
        let error = self.cancel(accepted.operation.id).await.unwrap_err();
        format!("{}\n", error.to_string().replace(&accepted.operation.id.to_string(), "ID"))
    }

    fn ended(&self, accepted: &VpsAccepted) -> OperationState {
        self.operation(accepted.operation.id).state
    }
}

/// A fleet with one host and one VPS that runs.
async fn running(room: u64) -> (World, HostId, VpsId) {
    let world = World::new().await;
    let host = world.host("h", "eu-west", room).await;
    let id = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    (world, host, id)
}

fn memory(mebibytes: u64) -> ResizeVps {
    ResizeVps { memory_bytes: Some(Bytes::mib(mebibytes)), ..ResizeVps::default() }
}

#[tokio::test]
async fn every_order_ends_when_its_host_has_done_it() {
    let (world, host, id) = running(10).await;
    let stop = StopVps { force: false, grace_seconds: Some(5) };
    let orders = [
        world.act(id, Action::Pause).await.unwrap(),
        world.act(id, Action::Resume).await.unwrap(),
        world.resize(id, memory(512)).await.unwrap(),
        world.rename(id, "b").await.unwrap(),
        world.rebuild(id, RebuildVps::default()).await.unwrap(),
        world.suspend(id, SuspensionReason::Abuse, Suspension::Isolated).await,
        world.unsuspend(id, SuspensionReason::Abuse).await.unwrap(),
        world.fleet.stop_vps(&caller(), RequestMark::default(), id, stop).await.unwrap().value,
    ];
    // All but the last were superseded: each names what took its place.
    for pair in orders.windows(2) {
        let row = world.operation(pair[0].operation.id);
        assert_eq!(row.state, OperationState::Superseded, "{row:?}");
        assert!(row.steps.last().unwrap().message.contains(&pair[1].operation.id.to_string()), "{row:?}");
    }
    world.converge(host).await;
    assert_eq!(world.ended(&orders[7]), OperationState::Succeeded);
    let spec = world.row(id).spec;
    assert_eq!((spec.memory, spec.build, spec.stop_grace_seconds), (Bytes::mib(512), 1, Some(5)));

    for action in [Action::Start, Action::Pause, Action::Resume] {
        let accepted = world.act(id, action).await.unwrap();
        world.carried_out(host, &accepted).await;
    }
    let resized = world.resize(id, memory(768)).await.unwrap();
    world.carried_out(host, &resized).await;
    let rebuilt = world.rebuild(id, RebuildVps::default()).await.unwrap();
    world.carried_out(host, &rebuilt).await;
    let renamed = world.rename(id, "c").await.unwrap();
    world.carried_out(host, &renamed).await;
    let suspended = world.suspend(id, SuspensionReason::Admin, Suspension::Stopped).await;
    world.carried_out(host, &suspended).await;
    let unsuspended = world.unsuspend(id, SuspensionReason::Admin).await.unwrap();
    world.carried_out(host, &unsuspended).await;
}

#[tokio::test]
async fn a_resize_takes_no_more_than_its_host_has_and_never_shrinks_a_disk() {
    let (world, host, id) = running(3).await;
    let mut said = String::new();
    let mut refuse = |outcome: Result<VpsAccepted, FleetError>| {
        let error = outcome.unwrap_err();
        said.push_str(&format!("{:?} {}: {error}\n", error.kind(), error.location().unwrap_or_default()));
    };
    refuse(world.resize(id, ResizeVps::default()).await);
    refuse(world.resize(id, ResizeVps { size: Some(name("vast")), ..ResizeVps::default() }).await);
    refuse(world.resize(id, ResizeVps { cores: Some(0), ..ResizeVps::default() }).await);
    refuse(world.resize(id, memory(1)).await);
    refuse(world.resize(id, ResizeVps { disk_bytes: Some(Bytes::mib(100)), ..ResizeVps::default() }).await);
    refuse(world.resize(id, memory(1024)).await);
    refuse(world.resize(id, ResizeVps { disk_bytes: Some(Bytes::gib(5000)), ..ResizeVps::default() }).await);
    expect_test::expect![[r#"
        Invalid /size: name a size, or give cores, memory_bytes or disk_bytes
        Invalid /size: there is no size `vast`; there are: small
        Invalid /cores: 0 cores; a VPS has from 1 to 288
        Invalid /memory_bytes: 1 MiB of memory; a VPS has at least 32 MiB
        Invalid /disk_bytes: its disk has 1 GiB, and 100 MiB are wanted: disks never shrink; give disk_bytes of at least 1073741824 to keep it
        NoCapacity /size: host `h` has 511 cores, 512 MiB memory and 999 GiB disk free; VPS `a` would need 0 cores, 768 MiB memory and 0 B disk more: choose less, or make room there
        NoCapacity /size: host `h` has 511 cores, 512 MiB memory and 999 GiB disk free; VPS `a` would need 0 cores, 0 B memory and 4.8 TiB disk more: choose less, or make room there
    "#]]
    .assert_eq(&said);
    assert_eq!(world.fleet.state().held[&host].memory, Bytes::mib(256), "refused orders hold nothing");

    world.resize(id, memory(512)).await.unwrap();
    assert_eq!(world.fleet.state().held[&host].memory, Bytes::mib(512));
    assert_eq!(world.row(id).size, name("custom"));
    assert!(world.create("b", "eu-west").await.is_ok(), "what is left can be had");
    assert_eq!(world.create("c", "eu-west").await.unwrap_err().kind(), ErrorKind::NoCapacity);
    world.resize(id, ResizeVps { size: Some(name("small")), ..ResizeVps::default() }).await.unwrap();
    assert_eq!(world.row(id).size, name("small"));
    assert!(world.create("c", "eu-west").await.is_ok(), "and what was given back");
}

#[tokio::test]
async fn a_resize_that_may_restart_does_and_one_that_may_not_says_what_waits() {
    let (world, host, id) = running(10).await;
    let accepted = world.resize(id, ResizeVps { restart: true, ..memory(512) }).await.unwrap();
    let Goal::Job { job } = world.operation(accepted.operation.id).goal else { panic!("no restart") };
    let result = JobResult {
        job,
        outcome: JobOutcome::Done,
        finished_at: clock::now(),
        generation: Generation::default(),
    };
    world.fleet.results(host, vec![result]).await.unwrap();
    assert_eq!(world.ended(&accepted), OperationState::Succeeded);

    let accepted = world.resize(id, memory(768)).await.unwrap();
    let spec = world.fleet.spec(host).unwrap();
    let mut status = world.status_of(host);
    (status.accepted, status.reconciled) = (spec.generation, spec.generation);
    let waits = VpsStatus { restart_needed: true, ..seen(VpsState::Running, 1) };
    let busy = VpsStatus { progress: Some("preparing".to_owned()), ..waits.clone() };
    status.vps = [(id, busy)].into();
    world.fleet.observe(host, status.clone()).await.unwrap();
    assert_eq!(world.ended(&accepted), OperationState::Running);
    status.vps = [(id, waits)].into();
    world.fleet.observe(host, status).await.unwrap();
    let row = world.operation(accepted.operation.id);
    assert_eq!(row.state, OperationState::Succeeded);
    assert!(row.steps.last().unwrap().message.contains("next start"), "{row:?}");
}

#[tokio::test]
async fn reasons_to_suspend_overlap_and_end_apart_and_wake_ups_are_refused_meanwhile() {
    let (world, host, id) = running(10).await;
    world.suspend(id, SuspensionReason::Abuse, Suspension::Isolated).await;
    assert_eq!(world.row(id).spec.suspension, Some(Suspension::Isolated));
    assert!(world.row(id).spec.wants_running());
    world.suspend(id, SuspensionReason::Billing, Suspension::Stopped).await;
    assert!(!world.row(id).spec.wants_running());
    world.converge(host).await;
    for action in [Action::Start, Action::Restart, Action::Resume] {
        let error = world.act(id, action).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("suspended (billing, abuse)"), "{error}");
    }
    assert_eq!(world.rebuild(id, RebuildVps::default()).await.unwrap_err().kind(), ErrorKind::Conflict);
    world.resize(id, memory(512)).await.expect("an admin may resize it");
    // Deleted and back, it is still suspended.
    world.act(id, Action::Delete).await.unwrap();
    world.act(id, Action::Undelete).await.unwrap();
    assert!(!world.row(id).spec.wants_running());

    world.unsuspend(id, SuspensionReason::Billing).await.unwrap();
    assert_eq!(world.row(id).spec.suspension, Some(Suspension::Isolated));
    assert!(world.row(id).spec.wants_running(), "it is on again, still cut off");
    assert_eq!(world.act(id, Action::Start).await.unwrap_err().kind(), ErrorKind::Conflict);
    let last: VpsView = world.unsuspend(id, SuspensionReason::Abuse).await.unwrap().vps;
    assert_eq!((last.suspensions, world.row(id).spec.suspension), (vec![], None));
    let error = world.unsuspend(id, SuspensionReason::Abuse).await.unwrap_err();
    assert!(error.to_string().contains("not suspended for abuse"), "{error}");
}

#[tokio::test]
async fn a_name_is_taken_and_freed_in_one_commit() {
    let (world, _, id) = running(10).await;
    world.create("b", "eu-west").await.unwrap();
    assert_eq!(world.rename(id, "b").await.unwrap_err().location(), Some("/name"));
    world.rename(id, "c").await.unwrap();
    world.create("a", "eu-west").await.expect("its old name is free");
    assert_eq!(world.create("c", "eu-west").await.unwrap_err().location(), Some("/name"));
}

#[tokio::test]
async fn a_rebuild_keeps_id_name_and_address_and_forgets_old_user_data() {
    let (world, host, id) = running(10).await;
    let before = world.row(id);
    let data = |text: &str| RebuildVps { user_data: Some(text.to_owned()), ..RebuildVps::default() };
    world.rebuild(id, data("#cloud-config\n# one\n")).await.unwrap();
    world.rebuild(id, data("#cloud-config\n# two\n")).await.unwrap();
    let after = world.row(id);
    assert_eq!(after.spec.build, 2);
    assert_eq!((after.spec.interface, after.spec.name), (before.spec.interface, before.spec.name));
    assert_eq!(world.fleet.state().blobs.len(), 1);
    for wrong in [
        RebuildVps { image: Some(name("none")), ..RebuildVps::default() },
        RebuildVps { ssh_keys: Some(vec!["nonsense".to_owned()]), ..RebuildVps::default() },
        data("no cloud-config"),
    ] {
        assert_eq!(world.rebuild(id, wrong).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let error = world.act(id, Action::Restart).await.unwrap_err();
    assert!(error.to_string().contains("`rebuild`) is under way"), "{error}");
    // A report of the old build does not end it.
    let spec = world.fleet.spec(host).unwrap();
    let mut status = world.status_of(host);
    (status.accepted, status.reconciled) = (spec.generation, spec.generation);
    status.vps = [(id, VpsStatus { build: 1, ..seen(VpsState::Running, 9) })].into();
    world.fleet.observe(host, status).await.unwrap();
    assert_eq!(world.fleet.state().operation_of_vps.len(), 1);
    world.converge(host).await;
    assert!(world.fleet.state().operation_of_vps.is_empty());
    world.act(id, Action::Restart).await.expect("it is over");
}

#[tokio::test]
async fn an_operation_is_taken_back_where_that_is_safe_and_refused_with_what_to_do_where_not() {
    let (world, host, id) = running(10).await;
    let before = world.row(id).spec;

    let stop = world.act(id, Action::Stop).await.unwrap();
    assert_eq!(world.cancel(stop.operation.id).await.unwrap(), OperationState::Cancelled);
    assert!(world.row(id).spec.wants_running());
    let renamed = world.rename(id, "b").await.unwrap();
    world.cancel(renamed.operation.id).await.unwrap();
    assert_eq!(world.row(id).spec.name, before.name);
    let resized = world.resize(id, ResizeVps { cores: Some(4), ..memory(512) }).await.unwrap();
    world.cancel(resized.operation.id).await.unwrap();
    let after = world.row(id);
    assert_eq!((after.spec.cores, after.spec.memory, after.size), (1, before.memory, name("small")));
    let paused = world.act(id, Action::Pause).await.unwrap();
    world.converge(host).await;
    let error = world.cancel(paused.operation.id).await.unwrap_err();
    assert!(error.to_string().contains("has ended already"), "{error}");
    let resumed = world.act(id, Action::Resume).await.unwrap();
    world.cancel(resumed.operation.id).await.unwrap();
    assert_eq!(world.row(id).spec.power, Power::Paused);
    world.act(id, Action::Start).await.unwrap();
    world.converge(host).await;
    let restart = world.act(id, Action::Restart).await.unwrap();
    world.cancel(restart.operation.id).await.unwrap();
    assert!(world.fleet.state().jobs.is_empty());

    let grown = ResizeVps { disk_bytes: Some(Bytes::gib(2)), ..ResizeVps::default() };
    let mut said = world.refusal(&world.resize(id, grown).await.unwrap()).await;
    said += &world.refusal(&world.suspend(id, SuspensionReason::Admin, Suspension::Isolated).await).await;
    said += &world.refusal(&world.unsuspend(id, SuspensionReason::Admin).await.unwrap()).await;
    said += &world.refusal(&world.rebuild(id, RebuildVps::default()).await.unwrap()).await;
    said += &world.refusal(&world.act(id, Action::Delete).await.unwrap()).await;
    said += &world.refusal(&world.act(id, Action::Purge).await.unwrap()).await;
    expect_test::expect![[r#"
        operation ID (`resize`) cannot be cancelled: its disk may have grown already, and disks never shrink; resize it again instead
        operation ID (`suspend`) cannot be cancelled: unsuspend the VPS instead
        operation ID (`unsuspend`) cannot be cancelled: suspend the VPS again instead
        operation ID (`rebuild`) cannot be cancelled: its host may have removed the old disk already; rebuild it from another image instead
        operation ID (`delete`) cannot be cancelled: undelete the VPS instead
        operation ID (`purge`) cannot be cancelled: its host may have removed it already
    "#]]
    .assert_eq(&said);
    let nobody = OperationId::new(Uuid::from_u128(1));
    assert_eq!(world.cancel(nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
}
