//! What to do for a job that takes, restores or removes a snapshot, and which snapshots nobody needs any more. Pure.
//!
//! Taking and removing are done once the engine shows them so. Restoring cannot be seen, so memory says when it was done;
//! until the guest is switched on again it may be done twice without harm, which is what follows a crash.

use chom_protocol::JobId;
use chom_protocol::helper::ObservedGuest;
use chom_protocol::host::HostSpec;
use chom_protocol::job::{JobKind, JobOutcome};

use super::verdict::{Case, Verdict, is_on};
use super::{Action, Answer, Change, Input, LOOK_SECONDS, Plan, snapshots_of};
use crate::driver::snapshot::SnapshotName;
use crate::reconcile::memory::{JobMemory, Mode};

/// A job with a snapshot that does not succeed is given up after this long beyond the grace to stop: the driver's own
/// limits are 10 minutes, so that this leaves room for a second try.
const SNAPSHOT_SECONDS_MAX: u64 = 1500;

impl Case<'_> {
    /// Goes on with a job about a snapshot; none when the job is over or about something else.
    pub(super) fn snapshot_job(
        &self,
        job: JobId,
        kind: &JobKind,
        guest: &ObservedGuest,
        quiet: Verdict,
    ) -> Option<Verdict> {
        let (snapshot, change) = match *kind {
            JobKind::Restart { .. } => return None,
            JobKind::TakeSnapshot { snapshot, .. } => (snapshot, Change::Take),
            JobKind::RestoreSnapshot { snapshot, .. } => (snapshot, Change::Restore),
            JobKind::DeleteSnapshot { snapshot, .. } => (snapshot, Change::Delete),
        };
        let name = SnapshotName::Kept(snapshot);
        let (since, tried, restored) = match self.input.memory.jobs.get(&job) {
            Some(JobMemory::Finished { .. }) => return None,
            Some(JobMemory::Starting { since }) => (*since, true, true),
            Some(JobMemory::Working { since }) => (*since, true, false),
            Some(JobMemory::Stopping { since }) => (*since, false, false),
            None => (self.now(), false, false),
        };
        let end = |outcome| Some(Verdict::quiet(quiet.state).act(Action::FinishJob { job, outcome }));
        let failed = |problem: String| end(JobOutcome::Failed { problem });
        let found = snapshots_of(self.input, self.want.id).map(|snapshots| snapshots.has(name));
        let on = is_on(guest.state);
        match (change, found) {
            (Change::Take, Some(true)) | (Change::Delete, Some(false)) => return end(JobOutcome::Done),
            (Change::Restore, _) if restored && (on || !self.want.wants_running()) => {
                return end(JobOutcome::Done);
            }
            (Change::Restore, Some(false)) if !restored => {
                return failed(
                    "this host has no such snapshot of the VPS: it was removed by hand; nothing was changed"
                        .to_owned(),
                );
            }
            _ => {}
        }
        let failure = self.input.work.failures.get(&self.want.id);
        let grace = u64::from(self.desired.settings.stop_grace_seconds);
        let over = self.now() > since.plus_seconds(grace + SNAPSHOT_SECONDS_MAX);
        if over || (tried && failure.is_some_and(|failure| failure.lasting)) {
            let why = failure.map(|failure| failure.problem.clone());
            return failed(
                why.unwrap_or_else(|| "it did not end in time; look at the VPS's state".to_owned()),
            );
        }
        if restored {
            return Some(self.start(quiet, Some(job)));
        }
        if change == Change::Restore && on {
            return Some(self.stop(quiet.progress("shutting down to restore a snapshot")));
        }
        if found.is_none() {
            let look_at = self.now().plus_seconds(LOOK_SECONDS);
            return Some(quiet.problem("its disk cannot be read: see the agent's journal").wake(look_at));
        }
        Some(quiet.act(Action::Snapshot { vps: self.want.id, job: Some(job), change, name }))
    }
}

/// Removes what was taken for copies that are made or not wanted any more, of VPSs that nothing else is done to.
pub(super) fn plan_cleaning(input: &Input<'_>, desired: &HostSpec, plan: &mut Plan) {
    if input.terms.mode != Mode::Managed {
        return;
    }
    let seen = input.looks.values().filter(|look| look.answer == Answer::Given);
    for (&vps, snapshots) in seen.clone().flat_map(|look| &look.snapshots) {
        let idle = !input.work.busy.contains_key(&vps)
            && input.work.failures.get(&vps).is_none_or(|failure| input.terms.now >= failure.retry_at)
            && !plan.actions.iter().any(|action| action.vps() == Some(vps));
        if !idle || desired.vps.get(&vps).is_none_or(|want| want.hold) {
            continue;
        }
        let made = |clone| seen.clone().any(|look| look.guests.iter().any(|guest| guest.vps == Some(clone)));
        let needed = |clone| {
            let source = desired.vps.get(&clone).and_then(|want| want.source);
            source.is_some_and(|source| source.vps == vps)
                && (!made(clone) || input.work.busy.contains_key(&clone))
        };
        if let Some(&clone) = snapshots.for_clones.iter().find(|&&clone| !needed(clone)) {
            let name = SnapshotName::ForClone(clone);
            plan.actions.push(Action::Snapshot { vps, job: None, change: Change::Delete, name });
        }
    }
}
