//! Snapshots, copies, rescue mode and CD-ROM media as rows, jobs and operations tell them.

use chom_protocol::SnapshotId;
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::snapshots::{
    AttachIso, CloneVps, Rescue, SNAPSHOTS_PER_VPS_MAX, SnapshotAccepted, SnapshotState, TakeSnapshot,
};
use chom_protocol::job::{JobKind, JobOutcome, JobResult};
use chom_protocol::vps::{CloneSource, SnapshotStatus};

use super::*;
use crate::fleet::ErrorKind;

impl World {
    async fn take(&self, vps: VpsId, snapshot: &str) -> Result<SnapshotAccepted, FleetError> {
        let request = TakeSnapshot { name: name(snapshot) };
        let done = self.fleet.take_snapshot(&caller(), RequestMark::default(), vps, request).await;
        done.map(|done| done.value)
    }

    async fn restore(&self, vps: VpsId, snapshot: SnapshotId) -> Result<VpsAccepted, FleetError> {
        let done = self.fleet.restore_snapshot(&caller(), RequestMark::default(), vps, snapshot).await;
        done.map(|done| done.value)
    }

    async fn remove(&self, vps: VpsId, snapshot: SnapshotId) -> Result<VpsAccepted, FleetError> {
        let done = self.fleet.delete_snapshot(&caller(), RequestMark::default(), vps, snapshot).await;
        done.map(|done| done.value)
    }

    async fn copy(
        &self,
        vps: VpsId,
        to: &str,
        snapshot: Option<SnapshotId>,
    ) -> Result<VpsAccepted, FleetError> {
        let request = CloneVps { name: name(to), snapshot };
        let done = self.fleet.clone_vps(&caller(), RequestMark::default(), vps, request).await;
        done.map(|done| done.value)
    }

    /// The host ends its one job.
    async fn answers(&self, host: HostId, outcome: JobOutcome) {
        let spec = self.fleet.spec(host).unwrap();
        let job = *spec.jobs.keys().next().expect("a job is ordered");
        let result = JobResult { job, outcome, finished_at: UnixMillis(1), generation: spec.generation };
        self.fleet.results(host, vec![result]).await.unwrap();
    }

    /// The host reports which snapshots a VPS has, having seen all that is wanted.
    async fn shows(&self, host: HostId, vps: VpsId, snapshots: &[SnapshotId]) {
        let spec = self.fleet.spec(host).unwrap();
        let mut status = self.status_of(host);
        (status.accepted, status.reconciled) = (spec.generation, spec.generation);
        let taken = |id: &SnapshotId| SnapshotStatus { id: *id, taken_at: UnixMillis(5), disk: None };
        status.vps.entry(vps).or_insert(seen(VpsState::Running, 1)).snapshots =
            Some(snapshots.iter().map(taken).collect());
        self.fleet.observe(host, status).await.unwrap();
    }

    fn states(&self, vps: VpsId) -> Vec<SnapshotState> {
        self.fleet.snapshots(vps).unwrap().iter().map(|row| row.state).collect()
    }
}

fn failed() -> JobOutcome {
    JobOutcome::Failed { problem: "no space left".to_owned() }
}

#[tokio::test]
async fn a_snapshot_is_taken_restored_and_removed_by_jobs_of_its_host() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let taken = world.take(vps, "before").await.unwrap();
    let id = taken.snapshot.id;
    assert_eq!(world.states(vps), [SnapshotState::Taking]);
    let kinds: Vec<JobKind> =
        world.fleet.spec(host).unwrap().jobs.into_values().map(|job| job.kind).collect();
    assert_eq!(kinds, [JobKind::TakeSnapshot { vps, snapshot: id }]);
    assert!(world.restore(vps, id).await.is_err(), "not there yet");
    world.answers(host, JobOutcome::Done).await;
    assert_eq!(world.operation(taken.operation.id).state, OperationState::Succeeded);
    assert_eq!(
        world.states(vps),
        [SnapshotState::Ready],
        "what was reported before does not make it missing"
    );
    world.shows(host, vps, &[id]).await;
    assert_eq!(world.states(vps), [SnapshotState::Ready]);

    // One that is paused loses its memory by it, and runs on from its old disk.
    world.act(vps, Action::Pause).await.unwrap();
    let restored = world.restore(vps, id).await.unwrap();
    assert_eq!(restored.vps.desired, Power::Running);
    let steps = &world.operation(restored.operation.id).steps;
    assert!(steps.iter().any(|step| step.message.contains("shut down")), "{steps:?}");
    world.answers(host, JobOutcome::Done).await;
    assert_eq!(world.operation(restored.operation.id).state, OperationState::Succeeded);

    world.remove(vps, id).await.unwrap();
    assert_eq!(world.states(vps), [SnapshotState::Deleting]);
    world.answers(host, failed()).await;
    assert_eq!(world.states(vps), [SnapshotState::Ready], "not removed: it is still there");
    world.remove(vps, id).await.unwrap();
    world.answers(host, JobOutcome::Done).await;
    assert_eq!(world.states(vps), [], "what the host said before it was removed counts no more");
    world.shows(host, vps, &[]).await;
    assert_eq!(world.states(vps), []);
}

#[tokio::test]
async fn a_snapshot_that_could_not_be_taken_leaves_nothing() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps.id;
    let taken = world.take(vps, "before").await.unwrap();
    world.answers(host, failed()).await;
    assert_eq!(world.operation(taken.operation.id).problem.as_deref(), Some("no space left"));
    assert!(world.states(vps).is_empty() && world.fleet.spec(host).unwrap().jobs.is_empty());
}

#[tokio::test]
async fn what_was_removed_or_made_by_hand_is_shown_and_can_be_cleared() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let ours = world.take(vps, "ours").await.unwrap().snapshot.id;
    world.answers(host, JobOutcome::Done).await;
    let strange = SnapshotId::new(Uuid::from_u128(77));
    world.shows(host, vps, &[strange]).await;
    assert_eq!(world.states(vps), [SnapshotState::Missing, SnapshotState::Unknown]);
    for id in [ours, strange] {
        world.remove(vps, id).await.unwrap();
        world.answers(host, JobOutcome::Done).await;
    }
    world.shows(host, vps, &[]).await;
    assert_eq!(world.states(vps), []);
    assert_eq!(world.remove(vps, strange).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn there_is_a_quota_names_are_unique_and_all_of_it_goes_with_the_vps() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    for n in 0..SNAPSHOTS_PER_VPS_MAX {
        world.take(vps, &format!("s{n}")).await.unwrap();
        let busy = world.take(vps, "another").await.unwrap_err();
        assert!(n + 1 == SNAPSHOTS_PER_VPS_MAX || busy.to_string().contains("is under way"), "{busy}");
        world.answers(host, JobOutcome::Done).await;
        assert_eq!(world.take(vps, "s0").await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    let error = world.take(vps, "one-more").await.unwrap_err();
    assert!(error.to_string().contains("as many as it may have"), "{error}");
    world.act(vps, Action::Delete).await.unwrap();
    world.converge(host).await;
    assert_eq!(world.fleet.state().snapshots.len(), SNAPSHOTS_PER_VPS_MAX, "deleted is kept, snapshots too");
    world.act(vps, Action::Purge).await.unwrap();
    world.converge(host).await;
    assert!(world.fleet.state().snapshots.is_empty() && world.fleet.state().vps.is_empty());
}

#[tokio::test]
async fn a_job_with_a_snapshot_is_not_taken_back_and_only_what_must_go_through_does() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let taken = world.take(vps, "before").await.unwrap();
    for action in [Action::Start, Action::Stop, Action::Restart] {
        let error = world.act(vps, action).await.unwrap_err();
        assert!(error.to_string().contains(&taken.operation.id.to_string()), "{action:?}: {error}");
    }
    world.act(vps, Action::Delete).await.unwrap();
    assert_eq!(world.operation(taken.operation.id).state, OperationState::Superseded);
    assert_eq!(world.fleet.spec(host).unwrap().jobs.len(), 1, "the host sees it through");
    world.answers(host, JobOutcome::Done).await;
    assert_eq!(world.states(vps), [SnapshotState::Ready]);
    assert_eq!(world.operation(taken.operation.id).state, OperationState::Superseded, "what ended has ended");
}

#[tokio::test]
async fn a_copy_is_a_vps_of_its_own_on_the_same_host_made_from_the_disk_or_a_snapshot() {
    let world = World::new().await;
    world.host("h", "eu-west", 2).await;
    world.host("empty", "eu-west", 50).await;
    let source = world.create("a", "eu-west").await.unwrap().value.vps;
    // On whichever host it came to be.
    let host = source.host.unwrap();
    world.converge(host).await;
    let snapshot = world.take(source.id, "golden").await.unwrap().snapshot.id;
    assert!(world.copy(source.id, "b", Some(snapshot)).await.is_err(), "not taken yet");
    world.answers(host, JobOutcome::Done).await;
    let copy = world.copy(source.id, "b", Some(snapshot)).await.unwrap();
    let spec = world.fleet.spec(host).unwrap();
    let (from, to) = (&spec.vps[&source.id], &spec.vps[&copy.vps.id]);
    assert_eq!(to.source, Some(CloneSource { vps: source.id, snapshot: Some(snapshot) }));
    assert_ne!((from.id, &from.name, from.interface.mac), (to.id, &to.name, to.interface.mac));
    assert_ne!(from.interface.addresses, to.interface.addresses);
    assert_eq!((from.disk, from.memory, &from.image), (to.disk, to.memory, &to.image));
    let error = world.remove(source.id, snapshot).await.unwrap_err();
    assert!(error.to_string().contains("is being made from this snapshot"), "{error}");
    world.converge(host).await;
    assert_eq!(world.operation(copy.operation.id).state, OperationState::Succeeded);
    world.remove(source.id, snapshot).await.unwrap();
    assert_eq!(world.copy(source.id, "a", None).await.unwrap_err().location(), Some("/name"));
}

#[tokio::test]
async fn a_copy_goes_nowhere_else_when_its_host_is_full() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 1).await;
    let source = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    world.host("empty", "eu-west", 50).await;
    let error = world.copy(source, "b", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoCapacity);
    expect_test::expect!["a copy is made on its source's host, `h`: no host in region `eu-west` can take it: 1 with too little memory left"].assert_eq(&error.to_string());
}

#[tokio::test]
async fn rescue_mode_starts_it_anew_and_back_and_media_come_and_go() {
    let folder = World::new().await.end().await;
    let mut catalogue = catalogue();
    let mut medium = catalogue.images[&name("hello")].clone();
    (medium.reference.name, medium.reference.format) = (name("installer"), ImageFormat::Iso);
    catalogue.images.insert(name("installer"), medium);
    let store = open(&folder);
    let world = World::start(folder, store, catalogue).await;
    let host = world.host("h", "eu-west", 10).await;
    let vps = world.create("a", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let mark = RequestMark::default;
    let rescued = world.fleet.rescue(&caller(), mark(), vps, Rescue::default()).await.unwrap().value;
    assert_eq!(rescued.vps.rescue, Some(name("hello")), "its own image where none is named");
    world.shows(host, vps, &[]).await;
    assert_eq!(world.operation(rescued.operation.id).state, OperationState::Running, "not started anew yet");
    world.converge(host).await;
    assert_eq!(world.operation(rescued.operation.id).state, OperationState::Succeeded);
    let back = world.fleet.unrescue(&caller(), mark(), vps).await.unwrap().value;
    assert_eq!(back.vps.rescue, None);
    world.converge(host).await;
    assert_eq!(world.operation(back.operation.id).state, OperationState::Succeeded);
    let error = world.fleet.unrescue(&caller(), mark(), vps).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    let iso = |image: &str| AttachIso { image: name(image), boot_first: false };
    let error = world.fleet.attach_iso(&caller(), mark(), vps, iso("hello")).await.unwrap_err();
    assert!(error.to_string().contains("name an image of format `iso`"), "{error}");
    assert_eq!(world.fleet.detach_iso(&caller(), mark(), vps).await.unwrap_err().kind(), ErrorKind::Conflict);
    let attached = world.fleet.attach_iso(&caller(), mark(), vps, iso("installer")).await.unwrap().value;
    assert_eq!(attached.vps.iso, Some(name("installer")));
    world.converge(host).await;
    assert_eq!(world.operation(attached.operation.id).state, OperationState::Succeeded);
    world.fleet.detach_iso(&caller(), mark(), vps).await.unwrap();
    assert_eq!(world.fleet.spec(host).unwrap().vps[&vps].iso, None);
    let mut wrong = request("c", "eu-west");
    wrong.image = Some(name("installer"));
    let error = world.fleet.create_vps(&caller(), mark(), wrong).await.unwrap_err();
    assert!(error.to_string().contains("is a CD-ROM"), "{error}");
}
