//! Decides what to do next on this host, and what to say of it. Pure: same input, same plan; no I/O, no clock.
//!
//! At most one action for each VPS in a plan. What an action needs first (an image, a mark on disk) is an action of its
//! own; the next pass goes on from what it then observes. Absence never destroys: only a tombstone does.

mod prefetch;
mod snapshots;
mod tombstones;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chom_protocol::helper::ObservedGuest;
use chom_protocol::host::{EngineStatus, HostSpec, PrefetchState};
use chom_protocol::job::{JobKind, JobOutcome};
use chom_protocol::vps::{Engine, ForeignGuest, Power, Sha256, VpsState, VpsStatus, VpsStatuses};
use chom_protocol::{BootId, Bytes, JobId, Name, UnixMillis, VpsId};

use super::memory::{HOUR_SECONDS, Memory, Mode};
use crate::driver::snapshot::{SnapshotName, Snapshots};

/// A guest that crashed, or powered itself off against its policy, is started again this long after its last start at
/// the earliest, so that one that fails at once does not keep the host busy.
pub const RESTART_PAUSE_SECONDS: u64 = 30;
/// A guest that is still booting misses the first request to shut down (ACPI): it is asked again this often.
pub const SHUTDOWN_REPEAT_SECONDS: u64 = 10;
/// While a guest shuts down or a blob comes, it is looked at so often.
pub const LOOK_SECONDS: u64 = 1;
/// A restart whose start does not succeed is given up after this long beyond the grace to stop.
pub const RESTART_SECONDS_MAX: u64 = 600;
/// VPSs younger than this may be destroyed without counting: a mistake on them loses little.
pub const YOUNG_SECONDS: u64 = HOUR_SECONDS;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Get a blob into the cache.
    Fetch {
        /// Which.
        sha256: Sha256,
        /// Its size.
        size: Bytes,
        /// What it is, for messages.
        what: String,
    },
    /// Disk, seed and definition; another disk in place of one of an older build.
    Prepare {
        /// Which.
        vps: VpsId,
        /// Of which placement.
        placement: u64,
    },
    /// Switch on.
    Start {
        /// Which.
        vps: VpsId,
        /// The restart this belongs to.
        job: Option<JobId>,
    },
    /// Halt its processors.
    Pause {
        /// Which.
        vps: VpsId,
    },
    /// Ask to shut down.
    Shutdown {
        /// Which.
        vps: VpsId,
    },
    /// Take the power away.
    PowerOff {
        /// Which.
        vps: VpsId,
    },
    /// Change a snapshot, or the disk to what it was in one.
    Snapshot {
        /// Of which VPS.
        vps: VpsId,
        /// The job this belongs to.
        job: Option<JobId>,
        /// What to do.
        change: Change,
        /// With which.
        name: SnapshotName,
    },
    /// Remove for good.
    Destroy {
        /// Which.
        vps: VpsId,
        /// Whether the cap on destroys counts it.
        counts: bool,
    },
    /// Mark a job as begun.
    BeginJob {
        /// Which.
        job: JobId,
    },
    /// Report how a job ended.
    FinishJob {
        /// Which.
        job: JobId,
        /// How.
        outcome: JobOutcome,
    },
}

/// What is done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is taken.
    Take,
    /// The disk becomes what it was.
    Restore,
    /// It is removed.
    Delete,
}

impl Action {
    /// The VPS whose engine work this is; none for marks and fetches.
    #[must_use]
    pub fn vps(&self) -> Option<VpsId> {
        match *self {
            Self::Prepare { vps, .. }
            | Self::Start { vps, .. }
            | Self::Pause { vps }
            | Self::Shutdown { vps }
            | Self::PowerOff { vps }
            | Self::Snapshot { vps, .. }
            | Self::Destroy { vps, .. } => Some(vps),
            Self::Fetch { .. } | Self::BeginJob { .. } | Self::FinishJob { .. } => None,
        }
    }

    /// What is being done, for the status.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        match self {
            Self::Fetch { .. } => "fetching",
            Self::Prepare { .. } => "preparing",
            Self::Start { .. } => "starting",
            Self::Pause { .. } => "pausing",
            Self::Shutdown { .. } => "shutting down",
            Self::PowerOff { .. } => "powering off",
            Self::Snapshot { change: Change::Take, .. } => "taking a snapshot",
            Self::Snapshot { change: Change::Restore, .. } => "restoring a snapshot",
            Self::Snapshot { change: Change::Delete, .. } => "removing a snapshot",
            Self::Destroy { .. } => "removing",
            Self::BeginJob { .. } | Self::FinishJob { .. } => "noting",
        }
    }
}

/// An action that failed, and when it may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was wrong.
    pub problem: String,
    /// How often in a row.
    pub count: u32,
    /// It will not go through until somebody changes something; tried again all the same, at long intervals.
    pub lasting: bool,
    /// Not before.
    pub retry_at: UnixMillis,
}

/// Where a blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobState {
    /// In the cache, verified.
    Ready,
    /// On its way.
    Fetching {
        /// So much of it, in percent.
        percent: u8,
    },
    /// It did not come.
    Failed(Failure),
}

/// What is going on right now; not on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// VPSs that an action is at work on.
    pub busy: BTreeMap<VpsId, &'static str>,
    /// VPSs whose last action failed.
    pub failures: BTreeMap<VpsId, Failure>,
    /// Blobs; those not named are not there.
    pub blobs: BTreeMap<Sha256, BlobState>,
    /// What the engine would show as the definition of each desired VPS.
    pub definitions: BTreeMap<VpsId, Sha256>,
    /// Why the guests' cards are not guarded as they should be.
    pub network: Option<String>,
}

impl Work {
    /// How many VPSs of an engine are worked on.
    #[must_use]
    pub fn busy_with(&self, desired: Option<&HostSpec>, engine: Engine) -> usize {
        self.busy.keys().filter(|id| engine_of(desired, **id).is_none_or(|of| of == engine)).count()
    }
}

/// What a pass knows of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The engine itself; its problem says why it gave no answer.
    pub engine: EngineStatus,
    /// Every guest of it, foreign ones included; of the last answer while another is awaited, none when it failed.
    pub guests: Vec<ObservedGuest>,
    /// The snapshots of our guests, as old as the guests are; a guest that is missing here is one whose snapshots cannot
    /// be told.
    pub snapshots: BTreeMap<VpsId, Snapshots>,
    /// Whether this is what is there now.
    pub answer: Answer,
}

/// What came of asking an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It said what is there now.
    Given,
    /// It is slow: nothing is done with its VPSs until it answers, and they are shown as before.
    Awaited,
    /// It could not say, or did not in time: its VPSs are unknown.
    Failed,
}

/// The engines of the host.
pub type Looks = BTreeMap<Engine, Look>;

/// The terms of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What the host may do.
    pub mode: Mode,
    /// The host has just booted and nobody has said yet whether its VPSs were moved.
    pub may_have_moved: bool,
    /// The cap on destroys.
    pub destroys_per_hour: u32,
    /// This boot.
    pub boot: BootId,
    /// Now.
    pub now: UnixMillis,
}

/// All that a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What should be; none before anything was accepted.
    pub desired: Option<&'a HostSpec>,
    /// What is.
    pub looks: &'a Looks,
    /// What is remembered, [`Memory::learn`] done.
    pub memory: &'a Memory,
    /// What is going on.
    pub work: &'a Work,
    /// The terms.
    pub terms: Terms,
}

/// What to do and what to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order; those of different VPSs do not depend on each other. `BeginJob` comes before what the job does.
    pub actions: Vec<Action>,
    /// Of every desired VPS and every tombstone.
    pub statuses: VpsStatuses,
    /// Our guests that nobody names.
    pub orphans: Vec<VpsId>,
    /// Guests that are not ours.
    pub foreign: Vec<ForeignGuest>,
    /// Tombstones that the cap holds back.
    pub destroys_waiting: Vec<VpsId>,
    /// Of every image to have here before a VPS needs it.
    pub prefetch: BTreeMap<Name, PrefetchState>,
    /// Plan again then, at the latest.
    pub wake_at: Option<UnixMillis>,
}

impl Plan {
    fn wake(&mut self, at: UnixMillis) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Our guests that are seen now, by VPS; of a VPS that is named only the guest in its own engine.
#[must_use]
pub fn our_guests(desired: Option<&HostSpec>, looks: &Looks) -> BTreeMap<VpsId, ObservedGuest> {
    let seen = looks.iter().filter(|(_, look)| look.answer == Answer::Given);
    let guests = seen.flat_map(|(engine, look)| look.guests.iter().map(move |guest| (*engine, guest)));
    let ours = guests.filter_map(|(engine, guest)| Some((guest.vps?, engine, guest)));
    let belongs = |id, engine| engine_of(desired, id).is_none_or(|wanted| wanted == engine);
    ours.filter(|(id, engine, _)| belongs(*id, *engine)).map(|(id, _, guest)| (id, guest.clone())).collect()
}

/// The snapshots of a VPS, as far as its engine can tell.
fn snapshots_of<'a>(input: &'a Input<'_>, id: VpsId) -> Option<&'a Snapshots> {
    let engine = engine_of(input.desired, id)?;
    input.looks.get(&engine)?.snapshots.get(&id)
}

fn engine_of(desired: Option<&HostSpec>, id: VpsId) -> Option<Engine> {
    desired.and_then(|desired| desired.engine_of(id))
}

/// What is there beside what should be: foreign guests, and ours that nobody names or that are in another engine than
/// they belong into.
fn strangers(desired: Option<&HostSpec>, looks: &Looks, plan: &mut Plan) {
    let mut orphans = BTreeSet::new();
    for (&engine, look) in looks {
        for guest in &look.guests {
            match guest.vps {
                None => {
                    let (name, state) = (guest.name.clone(), guest.state);
                    let hardware = guest.hardware.clone();
                    plan.foreign.push(ForeignGuest { engine, name, state, hardware });
                }
                Some(id) if engine_of(desired, id) != Some(engine) => {
                    orphans.insert(id);
                }
                Some(_) => {}
            }
        }
    }
    plan.orphans = orphans.into_iter().collect();
}

/// Decides; touches nothing.
#[must_use]
pub fn plan(input: &Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let desired = match (input.desired, input.terms.mode) {
        (Some(desired), Mode::Managed | Mode::Hold { .. }) => desired,
        (None, _) | (_, Mode::ReportOnly) => {
            strangers(None, input.looks, &mut plan);
            return plan;
        }
    };
    strangers(input.desired, input.looks, &mut plan);
    let guests = our_guests(input.desired, input.looks);
    let jobs = plan_jobs(input, desired, &guests, &mut plan);
    for (&id, want) in &desired.vps {
        let verdict = verdict::decide(input, desired, want, guests.get(&id), jobs.get(&id).copied());
        let verdict::Verdict { state, action, problem, progress, wake_at } = verdict;
        if let Some(at) = wake_at {
            plan.wake(at);
        }
        if let Some(action) = action
            && !plan.actions.contains(&action)
        {
            plan.actions.push(action);
        }
        let status = status_of(input, id, guests.get(&id), state);
        plan.statuses.insert(id, VpsStatus { problem, progress, ..status });
    }
    tombstones::plan(input, desired, &guests, &mut plan);
    snapshots::plan_cleaning(input, desired, &mut plan);
    prefetch::plan(input, desired, &mut plan);
    plan
}

fn since(memory: &Memory, id: VpsId, state: VpsState, now: UnixMillis) -> UnixMillis {
    match memory.shown.get(&id) {
        Some((shown, since)) if *shown == state => *since,
        _ => now,
    }
}

fn status_of(input: &Input<'_>, id: VpsId, guest: Option<&ObservedGuest>, state: VpsState) -> VpsStatus {
    let remembered = input.memory.vps.get(&id);
    VpsStatus {
        state,
        placement: guest
            .map_or_else(|| remembered.map_or(0, |memory| memory.placement), |guest| guest.placement),
        start_count: remembered.map_or(0, |memory| memory.start_count),
        build: guest.map_or(0, |guest| guest.build),
        restart_needed: guest.is_some_and(|guest| verdict::is_on(guest.state) && guest.restart_needed),
        since: since(input.memory, id, state, input.terms.now),
        problem: None,
        progress: None,
        traffic: None,
        snapshots: snapshots_of(input, id).map(|snapshots| snapshots.kept.clone()),
        guest: None,
    }
}

/// Begins and ends jobs, and says which one each VPS is in the hands of.
fn plan_jobs(
    input: &Input<'_>,
    desired: &HostSpec,
    guests: &BTreeMap<VpsId, ObservedGuest>,
    plan: &mut Plan,
) -> BTreeMap<VpsId, JobId> {
    let mut at_work = BTreeMap::new();
    if input.terms.mode != Mode::Managed {
        return at_work;
    }
    for (&id, job) in &desired.jobs {
        let vps = job.kind.vps();
        let begun = match input.memory.jobs.get(&id) {
            Some(memory) if memory.is_finished() => continue,
            begun => begun.is_some(),
        };
        if at_work.contains_key(&vps) || input.work.busy.contains_key(&vps) {
            continue; // one after the other
        }
        let late = !begun && input.terms.now > job.deadline;
        let engine = desired.engine_of(vps).and_then(|engine| input.looks.get(&engine));
        if !late && engine.is_some_and(|look| look.answer != Answer::Given) {
            continue; // whether it can be done is not known now
        }
        let refused = match desired.vps.get(&vps) {
            _ if late => Some("it could not be begun before its deadline; ask again".to_owned()),
            None => Some(format!("VPS {vps} is not on this host")),
            Some(want) if want.hold => Some("the VPS is on hold; take it off hold and ask again".to_owned()),
            Some(want) if !want.wants_running() && matches!(job.kind, JobKind::Restart { .. }) => {
                Some(match want.wanted_power() {
                    Power::Paused => "the VPS is to be paused; resume it first".to_owned(),
                    _ => "the VPS is to be stopped; start it instead".to_owned(),
                })
            }
            Some(want) => match guests.get(&vps) {
                None if begun => None,
                Some(guest) if guest.placement >= want.placement => None,
                _ => Some("the VPS is not made yet; wait until it runs and ask again".to_owned()),
            },
        };
        if let Some(problem) = refused {
            plan.actions.push(Action::FinishJob { job: id, outcome: JobOutcome::Failed { problem } });
            continue;
        }
        if !begun {
            plan.actions.push(Action::BeginJob { job: id });
        }
        at_work.insert(vps, id);
    }
    at_work
}
