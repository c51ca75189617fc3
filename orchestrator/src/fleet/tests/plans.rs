//! Plans: what is done is what was planned, and a plan of a world that moved is refused with what moved.

use chom_protocol::PlanId;
use chom_protocol::api::hosts::{HostLimits, SetCordon};
use chom_protocol::api::plans::VpsPlan;
use chom_protocol::api::snapshots::CloneVps;
use chom_protocol::api::tenants::{CreateTenant, Quota, SetQuota};
use chom_protocol::api::vps_servers::{RebuildVps, RenameVps, ResizeVps, SuspendVps};
use chom_protocol::vps::{Suspension, SuspensionReason};

use super::*;
use crate::fleet::{ErrorKind, Planning};

/// Something that is asked for, as often as one likes.
#[derive(Debug, Clone)]
enum Ask {
    Create(&'static str),
    Clone(&'static str),
    Act(Action),
    Resize(u32),
    Rename(&'static str),
    Rebuild,
    Suspend,
}

impl Ask {
    async fn send(
        &self,
        world: &World,
        vps: VpsId,
        planning: Planning,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let (fleet, caller) = (&world.fleet, caller());
        let mark = RequestMark { planning, ..RequestMark::default() };
        match self.clone() {
            Self::Create(text) => fleet.create_vps(&caller, mark, request(text, "eu-west")).await,
            Self::Clone(text) => {
                fleet.clone_vps(&caller, mark, vps, CloneVps { name: name(text), snapshot: None }).await
            }
            Self::Act(action) => fleet.act(&caller, mark, vps, action).await,
            Self::Resize(cores) => {
                let request = ResizeVps { cores: Some(cores), ..ResizeVps::default() };
                fleet.resize_vps(&caller, mark, vps, request).await
            }
            Self::Rename(text) => fleet.rename_vps(&caller, mark, vps, RenameVps { name: name(text) }).await,
            Self::Rebuild => fleet.rebuild_vps(&caller, mark, vps, RebuildVps::default()).await,
            Self::Suspend => {
                let request = SuspendVps { reason: SuspensionReason::Billing, mode: Suspension::Stopped };
                fleet.suspend_vps(&caller, mark, vps, request).await
            }
        }
    }

    async fn plan(&self, world: &World, vps: VpsId) -> Result<VpsPlan, FleetError> {
        let done = self.send(world, vps, Planning::DryRun { request: digest() }).await?;
        Ok(*done.plan.unwrap())
    }

    async fn apply(&self, world: &World, vps: VpsId, plan: PlanId) -> Result<VpsAccepted, FleetError> {
        self.send(world, vps, Planning::Apply { plan, request: digest() }).await.map(|done| done.value)
    }
}

fn digest() -> Sha256 {
    Sha256::of(b"the same request")
}

fn rendered(plan: &VpsPlan) -> String {
    let from: Vec<String> = plan.depends_on.iter().map(|row| format!("{} {}", row.kind, row.name)).collect();
    format!(
        "{}: {}\n  down: {}; from: {}\n",
        plan.action,
        plan.steps.join("; "),
        plan.downtime,
        from.join(", ")
    )
}

#[tokio::test]
async fn what_is_done_is_what_was_planned_and_a_plan_does_nothing() {
    let world = World::new().await;
    let hosts = [world.host("one", "eu-west", 9).await, world.host("two", "eu-west", 9).await];
    let vps = world.create("web", "eu-west").await.unwrap().value.vps.id;
    let all = [
        Ask::Create("new"),
        Ask::Clone("copy"),
        Ask::Act(Action::Stop),
        Ask::Act(Action::Start),
        Ask::Act(Action::Restart),
        Ask::Act(Action::Pause),
        Ask::Act(Action::Resume),
        Ask::Resize(3),
        Ask::Rename("www"),
        Ask::Rebuild,
        Ask::Act(Action::Hold),
        Ask::Act(Action::Unhold),
        Ask::Suspend,
        Ask::Act(Action::Delete),
        Ask::Act(Action::Undelete),
        Ask::Act(Action::Delete),
        Ask::Act(Action::Purge),
    ];
    let mut said = String::new();
    for ask in all {
        for host in hosts {
            world.converge(host).await;
        }
        let before = world.fleet.state();
        let plan = ask.plan(&world, vps).await.unwrap_or_else(|error| panic!("{ask:?}: {error}"));
        assert_eq!(world.fleet.state().revision, before.revision, "{ask:?} did something");
        let open = before.operation_of_vps.get(&vps).map(ToString::to_string).unwrap_or_default();
        said += &rendered(&plan).replace(&open, if open.is_empty() { "" } else { "O" });
        let done =
            ask.apply(&world, vps, plan.id.unwrap()).await.unwrap_or_else(|error| panic!("{ask:?}: {error}"));
        assert_eq!((done.vps.host, &done.vps.addresses), (plan.host, &plan.addresses), "{ask:?}");
        assert_eq!(done.operation.kind, plan.action);
        let quota = plan.quota_after.unwrap();
        assert_eq!(quota.used, crate::fleet::quota::used(&world.fleet.state(), &quota.tenant), "{ask:?}");
        let again = ask.apply(&world, vps, plan.id.unwrap()).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::PlanMoved, "{ask:?} was done twice: {again}");
    }
    expect_test::expect![[r#"
        create: the host fetches image `hello` (20 MiB), unless it has it; it makes a disk of 1 GiB from it; it starts the VPS with 1 cores and 256 MiB of memory
          down: none: it is new; from: host two, image hello, network nat, tenant default
        clone: the host copies the disk of VPS `web`: what is on it now; it starts the VPS with 1 cores and 256 MiB of memory
          down: none: it is new; from: VPS web, host one, network nat, tenant default
        stop: it is shut down gracefully, and forced off after its host's grace
          down: from then on, until it is started; from: VPS web, host one
        start: it is started
          down: none: it is not to run now; from: VPS web, host one
        restart: it is shut down and started again
          down: a restart; from: VPS web, host one
        pause: its processors are halted; it keeps its memory; operation O (`restart`), which is under way, is superseded
          down: until it is resumed; from: VPS web, host one
        resume: its processors go on
          down: none: it is not to run now; from: VPS web, host one
        resize: it has 3 cores (now 1); cores and memory change at its next start: it is off for a moment then; restart it when that suits
          down: none; from: VPS web, host one, tenant default
        rename: it is called `www`; the guest takes that at its next start
          down: none; from: VPS web, host one
        rebuild: its disk is made anew from image `hello`: what is on it is lost; it runs, or is started again
          down: until its new disk is made and has booted; from: VPS www, host one, image hello
        hold: it is left alone from now on
          down: none; from: VPS www, host one
        unhold: it is reconciled again
          down: none; from: VPS www, host one
        suspend: it is off, suspended for billing
          down: for as long as it is suspended; from: VPS www, host one
        delete: it is shut down, and kept for 3600 s before it is purged
          down: none: it is not to run now; from: VPS www, host one, tenant default
        undelete: it is brought back with its disk, name and addresses
          down: none: it is not to run now; from: VPS www, host one, tenant default
        delete: it is shut down, and kept for 3600 s before it is purged
          down: none: it is not to run now; from: VPS www, host one, tenant default
        purge: its host removes it and its disk for good; its name and addresses are free then
          down: none: it is not to run now; from: VPS www, host one
    "#]].assert_eq(&said);
    world.end().await;
}

/// What comes of a plan when something was done in between.
async fn after<F: Future<Output = ()>>(
    ask: Ask,
    meanwhile: impl FnOnce(Arc<World>, VpsId, HostId) -> F,
) -> Result<String, String> {
    let world = Arc::new(World::new().await);
    let host = world.host("h1", "eu-west", 3).await;
    let vps = world.create("web", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let plan = ask.plan(&world, vps).await.unwrap();
    meanwhile(Arc::clone(&world), vps, host).await;
    let applied = ask.apply(&world, vps, plan.id.unwrap()).await;
    Arc::into_inner(world).unwrap().end().await;
    match applied {
        Ok(done) => Ok(done.operation.kind),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PlanMoved, "{error}");
            Err(error.to_string().replace(&plan.id.unwrap().to_string(), "P"))
        }
    }
}

#[tokio::test]
async fn a_plan_is_refused_with_what_moved_and_only_then() {
    let stop = || Ask::Act(Action::Stop);
    let said = [
        after(stop(), |world, vps, _| async move { drop(world.act(vps, Action::Stop).await.unwrap()) }).await,
        after(stop(), |world, vps, _| async move { drop(world.act(vps, Action::Delete).await.unwrap()) })
            .await,
        after(stop(), |world, _, _| async move { drop(world.create("b", "eu-west").await.unwrap()) }).await,
        after(Ask::Resize(60), |world, vps, _| async move {
            drop(Ask::Resize(2).send(&world, vps, Planning::None).await.unwrap());
        })
        .await,
        after(Ask::Create("new"), |world, _, _| async move {
            drop(world.create("b", "eu-west").await.unwrap());
        })
        .await,
        after(Ask::Create("new"), |world, _, _| async move {
            for text in ["b", "c"] {
                world.create(text, "eu-west").await.unwrap();
            }
        })
        .await,
        after(Ask::Create("new"), |world, _, host| async move {
            let request = SetCordon { cordoned: true };
            drop(world.fleet.cordon(&caller(), RequestMark::default(), host, request).await.unwrap());
        })
        .await,
        after(Ask::Create("new"), |world, _, host| async move {
            let limits = HostLimits { cores_reserved: Some(60), ..HostLimits::default() };
            drop(world.fleet.limit_host(&caller(), RequestMark::default(), host, limits).await.unwrap());
        })
        .await,
        after(Ask::Create("new"), |world, _, host| async move {
            // Another host is emptier now: the plan keeps its own.
            world.host("empty", "eu-west", 100).await;
            world.converge(host).await;
        })
        .await,
    ];
    let said: Vec<String> = said.into_iter().map(|one| format!("{one:?}\n")).collect();
    expect_test::expect![[r#"
        Err("plan `P` is not true any more: VPS `web` is now stopped (revision 5, now 7); look again with `?dry_run=true`")
        Err("plan `P` is not true any more: VPS `web` is now deleted and is now stopped (revision 5, now 7); look again with `?dry_run=true`")
        Ok("stop")
        Err("plan `P` is not true any more: VPS `web` now has 2 cores, 256 MiB of memory and 1 GiB of disk (revision 5, now 7); host `h1` has 1 cores less free (510 left); look again with `?dry_run=true`")
        Err("plan `P` is not true any more: host `h1` has 1 cores less free (510 left); host `h1` has 256 MiB of memory less free (256 MiB left); host `h1` has 1 GiB of disk less free (998 GiB left); address 10.155.0.11 is not free any more; look again with `?dry_run=true`")
        Err("plan `P` is not true any more: host `h1` has 2 cores less free (509 left); host `h1` has 512 MiB of memory less free (0 B left); host `h1` has 2 GiB of disk less free (997 GiB left); no host in region `eu-west` can take it: 1 with too little memory left; look again with `?dry_run=true`")
        Err("plan `P` is not true any more: host `h1` is cordoned now; no host in region `eu-west` can take it: 1 cordoned; look again with `?dry_run=true`")
        Ok("create")
        Ok("create")
    "#]].assert_eq(&said.concat());
}

#[tokio::test]
async fn a_plan_is_its_owners_for_its_request_until_a_restart() {
    let world = World::new().await;
    world.host("h1", "eu-west", 3).await;
    let vps = world.create("web", "eu-west").await.unwrap().value.vps.id;
    let ask = Ask::Act(Action::Stop);
    let plan = ask.plan(&world, vps).await.unwrap().id.unwrap();
    let apply = |caller: Caller, request: &'static [u8]| {
        let planning = Planning::Apply { plan, request: Sha256::of(request) };
        let mark = RequestMark { planning, ..RequestMark::default() };
        let fleet = world.fleet.clone();
        async move { fleet.act(&caller, mark, vps, Action::Stop).await }
    };
    let other = Caller { token: TokenId::new(Uuid::from_u128(8)), ..caller() };
    let refused = apply(other, b"the same request").await.unwrap_err();
    assert!(refused.to_string().contains("there is no plan"), "{refused}");
    let refused = apply(caller(), b"another request").await.unwrap_err();
    assert_eq!((refused.kind(), refused.location()), (ErrorKind::Invalid, Some("plan")));
    // Only so many are kept, the newest ones.
    for _ in 0..31 {
        ask.plan(&world, vps).await.unwrap();
    }
    apply(caller(), b"the same request").await.unwrap();
    for _ in 0..32 {
        ask.plan(&world, vps).await.unwrap();
    }
    let refused = apply(caller(), b"the same request").await.unwrap_err();
    assert!(refused.to_string().contains("there is no plan"), "{refused}");
    let plan = ask.plan(&world, vps).await.unwrap().id.unwrap();
    let world = world.restart().await;
    let refused = ask.apply(&world, vps, plan).await.unwrap_err();
    assert!(refused.to_string().contains("when the orchestrator is restarted"), "{refused}");
    world.end().await;
}

#[tokio::test]
async fn a_plan_counts_the_quota_and_is_untrue_when_that_was_changed() {
    let world = World::new().await;
    world.host("h1", "eu-west", 9).await;
    let acme = CreateTenant { name: name("acme"), quota: Quota::default(), external_id: None };
    world.fleet.create_tenant(&caller(), RequestMark::default(), acme).await.unwrap();
    let wanted = || CreateVps { tenant: Some(name("acme")), ..request("web", "eu-west") };
    let quota = |vps: u64| SetQuota { quota: Quota { vps: Some(vps), ..Quota::default() } };
    let mark = |planning| RequestMark { planning, ..RequestMark::default() };
    let dry = || mark(Planning::DryRun { request: digest() });
    world.fleet.set_quota(&caller(), RequestMark::default(), name("acme"), quota(1)).await.unwrap();
    let plan = world.fleet.plan_create(&caller(), dry(), wanted()).await.unwrap();
    assert_eq!(plan.quota_after.as_ref().map(|after| (after.used.vps, after.quota.vps)), Some((1, Some(1))));
    world.fleet.set_quota(&caller(), RequestMark::default(), name("acme"), quota(0)).await.unwrap();
    let apply = mark(Planning::Apply { plan: plan.id.unwrap(), request: digest() });
    let refused = world.fleet.create_vps(&caller(), apply, wanted()).await.unwrap_err().to_string();
    assert!(refused.contains("the quota of tenant `acme` was changed"), "{refused}");
    let refused = world.fleet.plan_create(&caller(), dry(), wanted()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OverQuota);
    world.end().await;
}
