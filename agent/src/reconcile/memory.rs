//! What the agent itself must remember, beside what was ordered: what it acted on, and what it saw. Pure: changes by
//! functions of (memory, what happened, now); `ledger` keeps it on disk.

use std::collections::BTreeMap;

use chom_protocol::helper::ObservedGuest;
use chom_protocol::host::HostSpec;
use chom_protocol::job::JobKind;
use chom_protocol::vps::{Power, Sha256, VpsState, VpsStatuses};
use chom_protocol::{BootId, Generation, JobId, UnixMillis, VpsId};
use serde::{Deserialize, Serialize};

use super::plan::{Action, Change};

/// Finished jobs are remembered longer than any export of the orchestrator is kept, so that a restored one that asks
/// again is told what became of them instead of being obeyed twice.
const FINISHED_JOBS_KEPT_SECONDS: u64 = 30 * 24 * 60 * 60;
/// Most finished jobs remembered: one a minute for a week.
const FINISHED_JOBS_MAX: usize = 10_000;
/// The span that the cap on destroys counts over.
pub(crate) const HOUR_SECONDS: u64 = 60 * 60;

/// Everything remembered. On disk as JSON: fields may be added with a default, never removed or changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Of each VPS that was ever worked on here, until it is destroyed.
    pub vps: BTreeMap<VpsId, VpsMemory>,
    /// Jobs that were begun.
    pub jobs: BTreeMap<JobId, JobMemory>,
    /// When removals were begun that count against the cap; a repeated one counts once.
    pub destroys: BTreeMap<VpsId, UnixMillis>,
    /// The boot in which starts were last allowed.
    pub boot: Option<BootId>,
    /// What was last shown of each VPS, and since when.
    pub shown: BTreeMap<VpsId, (VpsState, UnixMillis)>,
}

/// What is remembered of a VPS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsMemory {
    /// The newest placement worked on.
    pub placement: u64,
    /// The `start_count` acted on.
    pub start_count: u64,
    /// The boot in which it was last seen on, unless it was stopped as asked since.
    pub running_in: Option<BootId>,
    /// It powered itself off, and stays off until an admin starts it.
    pub off_by_guest: bool,
    /// It was asked to shut down.
    pub stopping: Option<Stopping>,
    /// When it was last switched on by the agent.
    pub started_at: Option<UnixMillis>,
    /// The rescue image that it was last switched on with.
    #[serde(default)]
    pub rescue: Option<Sha256>,
}

/// A shutdown under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Since when.
    pub since: UnixMillis,
    /// When it was last asked.
    pub asked_at: UnixMillis,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobMemory {
    /// A restart or a restore of a snapshot: the guest is being stopped.
    Stopping {
        /// Since when the job runs.
        since: UnixMillis,
    },
    /// A snapshot is being taken, restored or removed: the engine may have done it, or part of it.
    Working {
        /// Since when the job runs.
        since: UnixMillis,
    },
    /// A restart: it was off and is being started. A restore: the disk is what it was.
    Starting {
        /// Since when the job runs.
        since: UnixMillis,
    },
    /// Over; its result is in the spool or was acknowledged.
    Finished {
        /// When.
        at: UnixMillis,
    },
}

impl JobMemory {
    /// Whether it is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }
}

impl Memory {
    /// Learns from what the engine has. `guests` are those of CHOM; none when the engine could not say.
    pub fn learn(
        &mut self,
        desired: Option<&HostSpec>,
        guests: &BTreeMap<VpsId, ObservedGuest>,
        boot: BootId,
        now: UnixMillis,
    ) {
        for (&id, guest) in guests {
            let Some(want) = desired.and_then(|desired| desired.vps.get(&id)) else { continue };
            let restarting = self.restarting(desired, id);
            let memory = self.vps.entry(id).or_default();
            memory.placement = memory.placement.max(guest.placement);
            if want.hold {
                // Who repairs it by hand may switch it as they like; afterwards it is as desired again.
                memory.running_in = (guest.state == VpsState::Running).then_some(boot);
                continue;
            }
            match (guest.state, want.wanted_power() != Power::Stopped) {
                (VpsState::Running | VpsState::Paused, _) => {
                    memory.off_by_guest = false;
                    if guest.state == VpsState::Running {
                        memory.running_in = Some(boot);
                    }
                    // One that runs with something else than it should boot has not been started as asked.
                    let rescue = want.rescue.as_ref().map(|image| image.sha256);
                    // One that is paused has not followed an order to start.
                    let follows = guest.state == VpsState::Running && want.wants_running();
                    if follows
                        && memory.stopping.is_none()
                        && guest.build >= want.build
                        && memory.rescue == rescue
                    {
                        memory.start_count = memory.start_count.max(want.start_count);
                    }
                }
                (VpsState::Stopped | VpsState::StoppedByGuest | VpsState::Crashed, false) => {
                    memory.forget_run();
                    memory.start_count = memory.start_count.max(want.start_count);
                }
                (VpsState::Stopped | VpsState::StoppedByGuest, true) => {
                    if memory.stopping.is_some() || restarting {
                        memory.forget_run();
                    } else if memory.running_in == Some(boot) {
                        memory.running_in = None;
                        memory.off_by_guest = true;
                    }
                }
                (VpsState::Crashed, true) => memory.stopping = None,
                (VpsState::Preparing | VpsState::Absent | VpsState::Unknown, _) => {}
            }
        }
        self.prune(desired, now);
    }

    fn restarting(&self, desired: Option<&HostSpec>, vps: VpsId) -> bool {
        let jobs = desired.into_iter().flat_map(|desired| &desired.jobs);
        jobs.filter(|(_, job)| {
            let stops = matches!(job.kind, JobKind::Restart { .. } | JobKind::RestoreSnapshot { .. });
            stops && job.kind.vps() == vps
        })
        .any(|(id, _)| self.jobs.get(id).is_some_and(|job| !job.is_finished()))
    }

    fn prune(&mut self, desired: Option<&HostSpec>, now: UnixMillis) {
        self.destroys.retain(|_, at| now.seconds_since(*at) < HOUR_SECONDS);
        let wanted = |id: &JobId| desired.is_some_and(|desired| desired.jobs.contains_key(id));
        self.jobs.retain(|id, job| match job {
            JobMemory::Finished { at } => wanted(id) || now.seconds_since(*at) < FINISHED_JOBS_KEPT_SECONDS,
            JobMemory::Stopping { .. } | JobMemory::Working { .. } | JobMemory::Starting { .. } => true,
        });
        // Ids sort by age (UUID version 7): the oldest go first.
        while self.jobs.len() > FINISHED_JOBS_MAX {
            let oldest = self.jobs.iter().find(|(id, job)| job.is_finished() && !wanted(id));
            let Some(oldest) = oldest.map(|(&id, _)| id) else { break };
            self.jobs.remove(&oldest);
        }
    }

    /// Remembers what is shown, and since when, of what is still named.
    pub fn show(&mut self, statuses: &VpsStatuses) {
        self.shown = statuses.iter().map(|(&id, status)| (id, (status.state, status.since))).collect();
    }

    /// Marks that an action is about to be done. On disk before it is.
    pub fn begin(&mut self, action: &Action, desired: Option<&HostSpec>, now: UnixMillis) {
        match *action {
            Action::Fetch { .. } | Action::Pause { .. } => {}
            Action::Prepare { vps, placement } => self.vps.entry(vps).or_default().placement = placement,
            Action::Start { vps, job } => {
                let memory = self.vps.entry(vps).or_default();
                let want = desired.and_then(|desired| desired.vps.get(&vps));
                let start_count = want.map_or(0, |want| want.start_count);
                memory.start_count = memory.start_count.max(start_count);
                memory.forget_run();
                memory.started_at = Some(now);
                memory.rescue = want.and_then(|want| want.rescue.as_ref().map(|image| image.sha256));
                if let Some(job) = job {
                    let since = self.job_since(job, now);
                    self.jobs.insert(job, JobMemory::Starting { since });
                }
            }
            Action::Shutdown { vps } => {
                let memory = self.vps.entry(vps).or_default();
                let since = memory.stopping.map_or(now, |stopping| stopping.since);
                memory.stopping = Some(Stopping { since, asked_at: now });
            }
            Action::PowerOff { vps } => {
                let memory = self.vps.entry(vps).or_default();
                memory.stopping.get_or_insert(Stopping { since: now, asked_at: now });
            }
            Action::Destroy { vps, counts } => {
                if counts {
                    self.destroys.entry(vps).or_insert(now);
                }
            }
            Action::BeginJob { job } => {
                self.jobs.insert(job, JobMemory::Stopping { since: now });
            }
            Action::Snapshot { job, .. } => {
                if let Some(job) = job {
                    let since = self.job_since(job, now);
                    self.jobs.insert(job, JobMemory::Working { since });
                }
            }
            // Its result goes to the spool first.
            Action::FinishJob { .. } => {}
        }
    }

    /// Marks that an action was done.
    pub fn done(&mut self, action: &Action, boot: BootId, now: UnixMillis) {
        match *action {
            Action::Start { vps, .. } => {
                self.vps.entry(vps).or_default().running_in = Some(boot);
            }
            Action::Destroy { vps, .. } => {
                self.vps.remove(&vps);
            }
            Action::FinishJob { job, .. } => {
                self.jobs.insert(job, JobMemory::Finished { at: now });
            }
            Action::Snapshot { job: Some(job), change: Change::Restore, .. } => {
                let since = self.job_since(job, now);
                self.jobs.insert(job, JobMemory::Starting { since });
            }
            Action::Fetch { .. }
            | Action::Prepare { .. }
            | Action::Pause { .. }
            | Action::Shutdown { .. }
            | Action::PowerOff { .. }
            | Action::Snapshot { .. }
            | Action::BeginJob { .. } => {}
        }
    }

    fn job_since(&self, job: JobId, now: UnixMillis) -> UnixMillis {
        match self.jobs.get(&job) {
            Some(
                JobMemory::Stopping { since } | JobMemory::Working { since } | JobMemory::Starting { since },
            ) => *since,
            Some(JobMemory::Finished { .. }) | None => now,
        }
    }
}

impl VpsMemory {
    fn forget_run(&mut self) {
        self.running_in = None;
        self.off_by_guest = false;
        self.stopping = None;
    }
}

/// What the orchestrator last let this host do. Kept on disk: a host that was forgotten stays so after a reboot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Reconcile.
    #[default]
    Managed,
    /// Keep VPSs as they are until something newer than this comes.
    Hold {
        /// What was on disk when the hold began.
        since: Generation,
    },
    /// Report, change nothing.
    ReportOnly,
}
