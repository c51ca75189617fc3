//! What to do with one desired VPS. Pure.

use chom_protocol::helper::ObservedGuest;
use chom_protocol::host::HostSpec;
use chom_protocol::job::JobOutcome;
use chom_protocol::vps::{Engine, GuestShutdown, Power, Sha256, VpsSpec, VpsState};
use chom_protocol::{Bytes, JobId, UnixMillis, VpsId};

use super::{
    Action, Answer, BlobState, Input, LOOK_SECONDS, RESTART_PAUSE_SECONDS, RESTART_SECONDS_MAX,
    SHUTDOWN_REPEAT_SECONDS,
};
use crate::reconcile::memory::{JobMemory, Mode, VpsMemory};

/// What to do with a VPS and what to say of it.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) state: VpsState,
    pub(super) action: Option<Action>,
    pub(super) problem: Option<String>,
    pub(super) progress: Option<String>,
    pub(super) wake_at: Option<UnixMillis>,
}

impl Verdict {
    pub(super) fn quiet(state: VpsState) -> Self {
        Self { state, action: None, problem: None, progress: None, wake_at: None }
    }

    pub(super) fn problem(self, problem: impl Into<String>) -> Self {
        Self { problem: Some(problem.into()), ..self }
    }

    /// With a problem, unless something is done or said already.
    fn or_problem(self, problem: &str) -> Self {
        let is_quiet = self.action.is_none() && self.problem.is_none() && self.progress.is_none();
        if is_quiet { self.problem(problem) } else { self }
    }

    pub(super) fn progress(self, progress: impl Into<String>) -> Self {
        Self { progress: Some(progress.into()), ..self }
    }

    pub(super) fn act(self, action: Action) -> Self {
        let doing = action.vps().map(|_| action.doing().to_owned());
        let progress = self.progress.or(doing);
        Self { action: Some(action), progress, ..self }
    }

    pub(super) fn wake(self, at: UnixMillis) -> Self {
        Self { wake_at: Some(at), ..self }
    }
}

/// One VPS under consideration.
pub(super) struct Case<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) desired: &'a HostSpec,
    pub(super) want: &'a VpsSpec,
    pub(super) memory: &'a VpsMemory,
    /// The job it is in the hands of; begun in this very pass if memory does not know it.
    job: Option<JobId>,
}

/// What to say of a VPS whose engine is on this host and does not say what it does; none when the engine is not here, or
/// says it.
pub(super) fn unseen(input: &Input<'_>, id: VpsId, engine: Engine) -> Option<Verdict> {
    let look = input.looks.get(&engine).filter(|look| look.answer != Answer::Given)?;
    let shown = input.memory.shown.get(&id).map(|(state, _)| *state);
    let verdict = match look.answer {
        // Until it is clear that it does not answer, what was seen last is shown.
        Answer::Awaited => Verdict::quiet(shown.unwrap_or(VpsState::Unknown))
            .progress(format!("waiting for {engine} to say what it does")),
        Answer::Given | Answer::Failed => {
            let problem = look.engine.problem.clone();
            let unsaid = || format!("{engine} could not say what it does");
            Verdict::quiet(VpsState::Unknown).problem(problem.unwrap_or_else(unsaid))
        }
    };
    Some(match input.work.busy.get(&id) {
        Some(doing) => verdict.progress(*doing),
        None => verdict,
    })
}

pub(super) fn decide(
    input: &Input<'_>,
    desired: &HostSpec,
    want: &VpsSpec,
    guest: Option<&ObservedGuest>,
    job: Option<JobId>,
) -> Verdict {
    if let Some(unseen) = unseen(input, want.id, want.engine) {
        return unseen;
    }
    let blank = VpsMemory::default();
    let memory = input.memory.vps.get(&want.id).unwrap_or(&blank);
    let case = Case { input, desired, want, memory, job };
    let shown = case.shown_state(guest);
    let quiet = Verdict::quiet(shown);
    if let Some(doing) = input.work.busy.get(&want.id) {
        return quiet.progress(*doing);
    }
    if want.hold {
        return quiet.progress("on hold: nothing is changed");
    }
    if !input.looks.contains_key(&want.engine) {
        let engines: Vec<String> = input.looks.keys().map(ToString::to_string).collect();
        let has = if engines.is_empty() { "no engine".to_owned() } else { engines.join(" and ") };
        return quiet
            .problem(format!("this host has {has}, the VPS wants {}; move it elsewhere", want.engine));
    }
    if let Mode::Hold { .. } = input.terms.mode {
        return case.held(guest, quiet);
    }
    let placement = guest.map_or(memory.placement, |guest| guest.placement.max(memory.placement));
    if placement > want.placement {
        let problem = format!(
            "placement {placement} of this VPS is here, an older one ({}) is wanted; nothing is changed",
            want.placement
        );
        return quiet.problem(problem);
    }
    let mut verdict = match guest {
        None if want.retained => quiet,
        None => case.make(quiet),
        Some(guest) if guest.placement < want.placement => case.outdated(guest, quiet),
        Some(guest) => case.present(guest, quiet),
    };
    if let Some(failure) = input.work.failures.get(&want.id)
        && verdict.action.as_ref().is_some_and(|action| action.vps().is_some())
    {
        verdict.problem = Some(failure.problem.clone());
        if input.terms.now < failure.retry_at {
            verdict.action = None;
            verdict.progress = None;
            verdict.wake_at = Some(failure.retry_at);
        }
    }
    verdict
}

/// Whether a guest holds its disk and memory.
pub(super) fn is_on(state: VpsState) -> bool {
    matches!(state, VpsState::Running | VpsState::Paused)
}

impl Case<'_> {
    pub(super) fn now(&self) -> UnixMillis {
        self.input.terms.now
    }

    fn shown_state(&self, guest: Option<&ObservedGuest>) -> VpsState {
        match guest.map(|guest| guest.state) {
            None if self.want.retained || self.want.hold || self.input.terms.mode != Mode::Managed => {
                VpsState::Absent
            }
            None => VpsState::Preparing,
            // Whether the guest did it by itself is for memory to say: the engine cannot know who asked.
            Some(VpsState::Stopped | VpsState::StoppedByGuest) if self.memory.off_by_guest => {
                VpsState::StoppedByGuest
            }
            Some(VpsState::StoppedByGuest) => VpsState::Stopped,
            Some(state) => state,
        }
    }

    /// The orchestrator was restored: all stays as it is. What ran before the host rebooted stays a running VPS.
    fn held(&self, guest: Option<&ObservedGuest>, quiet: Verdict) -> Verdict {
        let rebooted = self.memory.running_in.is_some_and(|boot| boot != self.input.terms.boot);
        match guest {
            Some(guest)
                if !is_on(guest.state)
                    && guest.placement == self.want.placement
                    && guest.build == self.want.build
                    && self.want.wants_running()
                    && rebooted =>
            {
                self.start(quiet, None)
            }
            _ => quiet,
        }
    }

    fn make(&self, quiet: Verdict) -> Verdict {
        let prepare = Action::Prepare { vps: self.want.id, placement: self.want.placement };
        match self.blobs(&quiet) {
            Some(waiting) => waiting,
            None if self.want.adopted.is_some() && quiet.state == VpsState::Preparing => {
                quiet.progress("adopting").act(prepare)
            }
            None => quiet.act(prepare),
        }
    }

    /// What is still missing before `Prepare`; none when all is there.
    fn blobs(&self, quiet: &Verdict) -> Option<Verdict> {
        let images =
            self.want.images().map(|image| (image.sha256, image.size, format!("image {}", image.name)));
        let user_data = self.want.user_data.map(|blob| (blob.sha256, blob.size, "user data".to_owned()));
        images.chain(user_data).find_map(|(sha256, size, what)| self.blob(quiet.state, sha256, size, what))
    }

    fn blob(&self, state: VpsState, sha256: Sha256, size: Bytes, what: String) -> Option<Verdict> {
        let waiting = Verdict::quiet(state);
        match self.input.work.blobs.get(&sha256) {
            Some(BlobState::Ready) => None,
            Some(BlobState::Fetching { percent }) => {
                let look_at = self.now().plus_seconds(LOOK_SECONDS);
                Some(waiting.progress(format!("{what} {percent} %")).wake(look_at))
            }
            Some(BlobState::Failed(failure)) if self.now() < failure.retry_at => {
                Some(waiting.problem(failure.problem.clone()).wake(failure.retry_at))
            }
            Some(BlobState::Failed(failure)) => {
                let problem = failure.problem.clone();
                Some(waiting.problem(problem).act(Action::Fetch { sha256, size, what }))
            }
            None => Some(waiting.progress(format!("{what} 0 %")).act(Action::Fetch { sha256, size, what })),
        }
    }

    /// The guest that is here is of an older placement: its disk is old. It must not run, and it is not overwritten.
    fn outdated(&self, guest: &ObservedGuest, quiet: Verdict) -> Verdict {
        let problem = format!(
            "an older placement ({}) of this VPS is here, placement {} is wanted; it is kept off and its disk is \
             kept: remove it by hand or move the VPS elsewhere",
            guest.placement, self.want.placement
        );
        let quiet = quiet.problem(problem);
        if is_on(guest.state) { self.stop(quiet) } else { quiet }
    }

    fn present(&self, guest: &ObservedGuest, quiet: Verdict) -> Verdict {
        let on = is_on(guest.state);
        if guest.state == VpsState::Unknown {
            return quiet.problem("the engine cannot say what this guest does; the next look may tell");
        }
        if guest.build != self.want.build && !self.want.retained {
            return self.rebuild(guest, quiet);
        }
        if let Some((job, kind)) = self.job.and_then(|id| Some((id, &self.desired.jobs.get(&id)?.kind))) {
            let blank = Verdict::quiet(quiet.state);
            match self.snapshot_job(job, kind, guest, blank) {
                Some(verdict) => return verdict,
                // One that is to be paused meanwhile comes up first.
                None if self.want.wanted_power() != Power::Stopped => return self.restart(job, guest, quiet),
                None => {}
            }
        }
        match (self.want.wanted_power(), on) {
            (Power::Stopped, true) => self.stop(quiet),
            (Power::Running | Power::Paused, true) if self.memory.stopping.is_some() => self.stop(quiet),
            (Power::Stopped, false) => self.redefine(guest, quiet),
            (Power::Running, true) if self.memory.rescue != self.rescue() => {
                // What it boots from next is made ready while it still runs.
                let ready = self.redefine(guest, Verdict::quiet(quiet.state));
                let waits = ready.action.is_some() || ready.progress.is_some() || ready.problem.is_some();
                let why = match self.want.rescue {
                    Some(_) => "shutting down to boot the rescue image",
                    None => "shutting down to boot from its own disk again",
                };
                if waits { ready } else { self.stop(quiet.progress(why)) }
            }
            (Power::Running, true) if guest.state == VpsState::Paused => self.resume(quiet),
            (Power::Paused, true) if guest.state == VpsState::Running => {
                quiet.act(Action::Pause { vps: self.want.id })
            }
            (Power::Running | Power::Paused, true) => self.redefine(guest, quiet),
            // An order to start is still to be carried out: it is paused once it runs.
            (Power::Paused, false) if self.want.start_count > self.memory.start_count => {
                self.redefine_first(guest, quiet.state).unwrap_or_else(|| self.start(quiet, None))
            }
            (Power::Paused, false) => self.redefine(guest, quiet).or_problem(
                "it was paused and has gone off since, with its memory: start it, or stop it to leave it off",
            ),
            (Power::Running, false) => {
                self.redefine_first(guest, quiet.state).unwrap_or_else(|| self.switch_on(guest, quiet))
            }
        }
    }

    /// The image that it should have been switched on with.
    fn rescue(&self) -> Option<Sha256> {
        self.want.rescue.as_ref().map(|image| image.sha256)
    }

    /// What is paused against the wish was paused by hand, or by the engine for want of disk space: only an admin's word
    /// lets it go on.
    fn resume(&self, quiet: Verdict) -> Verdict {
        let ordered = self.want.start_count > self.memory.start_count;
        // An order that was begun and of which nothing came: the engine failed, or the agent ended in it.
        let begun = self.memory.started_at.is_some() && self.memory.running_in.is_none();
        if ordered || begun {
            return self.start(quiet, None);
        }
        quiet.problem("it is paused, by hand or for lack of disk space; resume it once that is mended")
    }

    /// Makes another disk in place of the present one. The image comes first, so that the guest is off for a moment only.
    fn rebuild(&self, guest: &ObservedGuest, quiet: Verdict) -> Verdict {
        if guest.build > self.want.build {
            return quiet.problem(format!(
                "build {} of this VPS is here, an older one ({}) is wanted; nothing is changed",
                guest.build, self.want.build
            ));
        }
        match self.blobs(&quiet) {
            Some(waiting) => waiting,
            None if is_on(guest.state) => self.stop(quiet),
            None => self.make(quiet.progress("rebuilding")),
        }
    }

    /// Takes a changed definition over, and takes back what was changed by hand; a running guest takes it at its next
    /// start.
    fn redefine(&self, guest: &ObservedGuest, quiet: Verdict) -> Verdict {
        if self.want.retained {
            return quiet;
        }
        let wanted = self.input.work.definitions.get(&self.want.id);
        match (wanted, &guest.definition) {
            (Some(wanted), Some(found)) if wanted != found => self.make(quiet),
            _ if guest.changed_by_hand => {
                self.make(quiet.progress("its definition was changed by hand and is put right"))
            }
            _ => quiet,
        }
    }

    /// What is to be taken over before the guest is switched on; none when it can be.
    fn redefine_first(&self, guest: &ObservedGuest, state: VpsState) -> Option<Verdict> {
        let redefined = self.redefine(guest, Verdict::quiet(state));
        let waits = redefined.action.is_some() || redefined.progress.is_some() || redefined.problem.is_some();
        waits.then_some(redefined)
    }

    fn switch_on(&self, guest: &ObservedGuest, quiet: Verdict) -> Verdict {
        let asked = self.want.start_count > self.memory.start_count;
        let crashed = guest.state == VpsState::Crashed;
        let restarts = self.want.guest_shutdown == GuestShutdown::Restart;
        if asked {
            return self.start(quiet, None);
        }
        if self.memory.off_by_guest && !restarts {
            return quiet;
        }
        let by_itself = self.memory.off_by_guest || crashed;
        if let (true, Some(at)) = (by_itself, self.memory.started_at) {
            let again_at = at.plus_seconds(RESTART_PAUSE_SECONDS);
            if self.now() < again_at && self.now() >= at {
                return quiet.progress("starting again after a pause").wake(again_at);
            }
        }
        self.start(quiet, None)
    }

    pub(super) fn start(&self, quiet: Verdict, job: Option<JobId>) -> Verdict {
        if self.input.terms.may_have_moved {
            return quiet.progress("waiting for word from the orchestrator that it was not moved elsewhere");
        }
        if let Some(problem) = &self.input.work.network {
            return quiet.problem(problem.clone());
        }
        quiet.act(Action::Start { vps: self.want.id, job })
    }

    pub(super) fn stop(&self, quiet: Verdict) -> Verdict {
        let (vps, now) = (self.want.id, self.now());
        let grace =
            u64::from(self.want.stop_grace_seconds.unwrap_or(self.desired.settings.stop_grace_seconds));
        let Some(stopping) = self.memory.stopping else {
            return quiet.act(if grace == 0 { Action::PowerOff { vps } } else { Action::Shutdown { vps } });
        };
        let forced_at = stopping.since.plus_seconds(grace);
        // A clock that stepped back must not prolong the grace for ever.
        if now >= forced_at || now < stopping.since {
            return quiet.act(Action::PowerOff { vps });
        }
        let again_at = stopping.asked_at.plus_seconds(SHUTDOWN_REPEAT_SECONDS);
        if now >= again_at {
            return quiet.act(Action::Shutdown { vps });
        }
        quiet.progress("shutting down").wake(again_at.min(forced_at).min(now.plus_seconds(LOOK_SECONDS)))
    }

    fn restart(&self, job: JobId, guest: &ObservedGuest, quiet: Verdict) -> Verdict {
        let on = is_on(guest.state);
        let (since, starting) = match self.input.memory.jobs.get(&job) {
            Some(JobMemory::Starting { since }) => (*since, true),
            Some(JobMemory::Stopping { since } | JobMemory::Working { since }) => (*since, false),
            Some(JobMemory::Finished { .. }) => return quiet,
            None => (self.now(), false),
        };
        let grace = u64::from(self.desired.settings.stop_grace_seconds);
        let over_at = since.plus_seconds(grace + RESTART_SECONDS_MAX);
        if on && starting {
            return quiet.act(Action::FinishJob { job, outcome: JobOutcome::Done });
        }
        if self.now() > over_at {
            let why = self.input.work.failures.get(&self.want.id).map(|failure| failure.problem.clone());
            let problem = why.unwrap_or_else(|| "it did not end in time; look at the VPS's state".to_owned());
            return quiet.act(Action::FinishJob { job, outcome: JobOutcome::Failed { problem } });
        }
        if on {
            return self.stop(quiet);
        }
        self.redefine_first(guest, quiet.state).unwrap_or_else(|| self.start(quiet, Some(job)))
    }
}
