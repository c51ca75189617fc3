//! The reconciler: observes, plans, acts; wake-ups carry nothing, the next pass is the retry. One hanging action never keeps
//! other VPSs or the status waiting: actions are tasks, at most a few at once, each under a deadline.

mod execute;
mod looks;
pub mod memory;
pub mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use chom_protocol::host::{HostSpec, HostStatus, Inventory};
use chom_protocol::job::{JobOutcome, JobResult};
use chom_protocol::vps::{Sha256, VpsState};
use chom_protocol::{BootId, JobId, UnixMillis, VpsId};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::chain::Chain;
use crate::clock;
use crate::driver::Driver;
use crate::driver::engines::Engines;
use crate::facts::Facts;
use crate::health::{Heartbeat, Troubles};
use crate::image::{ImageCache, ImageError, Wanted};
use crate::ledger::{Desired, Ledger};
use crate::link::{Blobs, Contact};
use crate::network::Network;
use crate::shelf::Shelves;
use execute::{Done, Finished};
use looks::LookingGlass;
use memory::{Memory, Mode};
use plan::{Action, Answer, BlobState, Failure, Input, Looks, Plan, Terms, Work};

/// Work of one engine at once: more would only make a host's disk seek. Of each by itself: one that hangs holds up no
/// other.
const ACTIONS_MAX: usize = 4;
/// Fetches at once; with the other lanes they stay within the streams of a connection.
const FETCHES_MAX: usize = 2;
/// The loop shows that it turns at least this often.
const BEAT: Duration = Duration::from_secs(5);
/// Passes are never closer than this, whatever asks for them.
const PASS_MS_MIN: u64 = 20;
/// An engine that gave no answer is asked again after this long.
const SILENT_LOOK_SECONDS: u64 = 10;
/// First pause after a failed action; doubles up to the last.
const RETRY_SECONDS_MIN: u64 = 2;
/// Last pause after failed actions.
const RETRY_SECONDS_MAX: u64 = 300;
/// After a contact the newest desired state has had this long to come, before a host that booted starts what it has.
const SETTLE: Duration = Duration::from_secs(2);

/// All that the reconciler works with.
pub(crate) struct Parts<D> {
    pub(crate) engines: Engines<D>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) memory: Memory,
    pub(crate) network: Network,
    pub(crate) shelves: Arc<Shelves>,
    pub(crate) images: ImageCache,
    pub(crate) contact: watch::Receiver<Contact>,
    pub(crate) inventory: watch::Receiver<Inventory>,
    pub(crate) facts: watch::Receiver<Facts>,
    pub(crate) status: watch::Sender<Option<Arc<HostStatus>>>,
    pub(crate) troubles: Troubles,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) boot: BootId,
    pub(crate) destroys_per_hour: u32,
    pub(crate) moved_grace: Duration,
}

pub(crate) struct Reconciler<D> {
    parts: Parts<D>,
    glass: LookingGlass<D>,
    saved: Memory,
    work: Work,
    fetches: BTreeMap<Sha256, Arc<AtomicU8>>,
    blob_failures: BTreeMap<Sha256, Failure>,
    tasks: JoinSet<Finished>,
    planned_for: Option<Arc<HostSpec>>,
    began: Instant,
}

impl<D: Driver> Reconciler<D> {
    pub(crate) fn new(parts: Parts<D>) -> Self {
        Self {
            saved: parts.memory.clone(),
            glass: LookingGlass::new(parts.engines.clone()),
            parts,
            work: Work::default(),
            fetches: BTreeMap::new(),
            blob_failures: BTreeMap::new(),
            tasks: JoinSet::new(),
            planned_for: None,
            began: Instant::now(),
        }
    }

    /// Turns until asked to stop. Actions under way are dropped then; they are idempotent, and the next run goes on.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (mut desired, mut contact) = (self.parts.ledger.watch(), self.parts.contact.clone());
        loop {
            desired.mark_unchanged();
            contact.mark_unchanged();
            let pause = tokio::select! {
                () = stop.cancelled() => return,
                pause = self.pass() => pause,
            };
            let next_at = Instant::now() + pause.max(Duration::from_millis(PASS_MS_MIN));
            loop {
                self.parts.heartbeat.beat();
                tokio::select! { // every arm is cancel-safe
                    () = stop.cancelled() => return,
                    changed = desired.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    changed = contact.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    Some(finished) = self.tasks.join_next() => {
                        self.finish(finished);
                        break;
                    }
                    () = self.glass.answered() => break,
                    () = sleep_until(next_at) => break,
                    () = tokio::time::sleep(BEAT) => if self.parts.network.is_disturbed().await { break },
                }
            }
        }
    }

    /// One pass; gives how long the next one can wait.
    async fn pass(&mut self) -> Duration {
        while let Some(finished) = self.tasks.try_join_next() {
            self.finish(finished);
        }
        let desired = self.parts.ledger.desired();
        self.notice_changes(&desired);
        let looks = self.glass.look(&self.parts.heartbeat).await;
        self.guard(&desired, &looks).await;
        let now = clock::now();
        let interval =
            desired.spec.as_ref().map_or(30, |spec| spec.settings.reconcile_interval_seconds.max(1));
        let interval = Duration::from_secs(u64::from(interval));
        let may_have_moved = self.may_have_moved(&desired);
        if !may_have_moved {
            self.parts.memory.boot = Some(self.parts.boot);
        }
        let spec = desired.spec.as_deref();
        let guests = plan::our_guests(spec, &looks);
        self.parts.memory.learn(spec, &guests, self.parts.boot, now);
        self.look_at_blobs(spec);
        let terms = Terms {
            mode: desired.mode,
            may_have_moved,
            destroys_per_hour: self.parts.destroys_per_hour,
            boot: self.parts.boot,
            now,
        };
        let memory = self.parts.memory.clone();
        let input = Input { desired: spec, looks: &looks, memory: &memory, work: &self.work, terms };
        let plan = plan::plan(&input);
        self.parts.memory.show(&plan.statuses);
        let again = self.act(&plan, spec, now).await;
        let is_silent = looks.values().any(|look| look.answer == Answer::Failed);
        self.publish(&desired, plan.clone(), looks, now);
        if again {
            return Duration::ZERO;
        }
        let wake = plan.wake_at.map(|at| Duration::from_millis(at.millis_since(now)));
        let settle = may_have_moved.then_some(SETTLE);
        let retry = is_silent.then_some(Duration::from_secs(SILENT_LOOK_SECONDS));
        [wake, settle, retry].into_iter().flatten().fold(interval, Duration::min)
    }

    /// Before anything is planned: a guest is started only behind its rules.
    async fn guard(&mut self, desired: &Desired, looks: &Looks) {
        let spec = desired.spec.as_deref().filter(|_| desired.mode != Mode::ReportOnly);
        let all_said = looks.values().all(|look| look.answer == Answer::Given);
        let guests = looks.values().flat_map(|look| &look.guests);
        let guests = guests.filter_map(|guest| Some((guest.vps?, guest.port.clone())));
        let guests: Option<BTreeMap<VpsId, Option<String>>> = all_said.then(|| guests.collect());
        {
            let mut keeping = std::pin::pin!(self.parts.network.keep(spec, guests.as_ref()));
            loop {
                self.parts.heartbeat.beat();
                tokio::select! { // cancel-safe: the future stays
                    () = &mut keeping => break,
                    () = tokio::time::sleep(BEAT) => {}
                }
            }
        }
        self.work.network = self.parts.network.problem().map(str::to_owned);
        match &self.work.network {
            None => self.parts.troubles.clear("network"),
            Some(problem) => self.parts.troubles.set("network", problem.clone()),
        }
    }

    /// What changed for a VPS is tried at once, whatever failed before.
    fn notice_changes(&mut self, desired: &Desired) {
        let (old, new) = (self.planned_for.take(), desired.spec.clone());
        if old.as_ref().map(|old| old.generation) != new.as_ref().map(|new| new.generation) {
            let spec = |spec: &Option<Arc<HostSpec>>, id: &VpsId| {
                spec.as_ref().and_then(|spec| spec.vps.get(id).cloned())
            };
            self.work.failures.retain(|id, _| spec(&old, id) == spec(&new, id));
            self.blob_failures.clear();
        }
        self.planned_for = new;
    }

    /// Right after a boot of the host, until somebody who would know has been heard, or the grace is over.
    fn may_have_moved(&self, desired: &Desired) -> bool {
        let new_boot = self.parts.memory.boot != Some(self.parts.boot);
        let settled =
            self.parts.contact.borrow().first_at.is_some_and(|first_at| first_at.elapsed() >= SETTLE);
        new_boot && desired.spec.is_some() && !settled && self.began.elapsed() < self.parts.moved_grace
    }

    fn look_at_blobs(&mut self, spec: Option<&HostSpec>) {
        let mut blobs = BTreeMap::new();
        let mut definitions = BTreeMap::new();
        let prefetched = spec.into_iter().flat_map(|spec| spec.prefetch.values().map(|image| image.sha256));
        for sha256 in prefetched {
            blobs.extend(self.blob(sha256).map(|state| (sha256, state)));
        }
        for (&id, want) in spec.into_iter().flat_map(|spec| &spec.vps) {
            let driver = self.glass.engines().get(want.engine);
            definitions.extend(driver.and_then(|driver| driver.definition(want)).map(|digest| (id, digest)));
            let user_data = want.user_data.map(|blob| blob.sha256);
            for sha256 in want.images().map(|image| image.sha256).chain(user_data) {
                if !blobs.contains_key(&sha256) {
                    blobs.extend(self.blob(sha256).map(|state| (sha256, state)));
                }
            }
        }
        (self.work.blobs, self.work.definitions) = (blobs, definitions);
    }

    /// Where a blob is; none where nothing of it was done yet.
    fn blob(&self, sha256: Sha256) -> Option<BlobState> {
        if let Some(percent) = self.fetches.get(&sha256) {
            Some(BlobState::Fetching { percent: percent.load(Ordering::Relaxed) })
        } else if self.parts.images.has(sha256) {
            Some(BlobState::Ready)
        } else {
            self.blob_failures.get(&sha256).cloned().map(BlobState::Failed)
        }
    }

    /// Marks, then acts. Says whether the next pass should come at once.
    async fn act(&mut self, plan: &Plan, spec: Option<&HostSpec>, now: UnixMillis) -> bool {
        let (mut chosen, mut at_work) = (Vec::new(), BTreeMap::new());
        let mut again = false;
        for action in &plan.actions {
            match action {
                Action::FinishJob { job, outcome } => {
                    again |= self.finish_job(*job, outcome, spec, now).await;
                }
                Action::BeginJob { .. } => self.parts.memory.begin(action, spec, now),
                Action::Fetch { sha256, size, what } => {
                    let wanted = Wanted { sha256: *sha256, size: size.0, what: what.clone() };
                    self.fetch(wanted);
                }
                Action::Prepare { vps, .. }
                | Action::Start { vps, .. }
                | Action::Pause { vps }
                | Action::Shutdown { vps }
                | Action::PowerOff { vps }
                | Action::Snapshot { vps, .. }
                | Action::Destroy { vps, .. } => {
                    let Some(engine) = spec.and_then(|spec| spec.engine_of(*vps)) else { continue };
                    let at_work = at_work.entry(engine).or_insert_with(|| self.work.busy_with(spec, engine));
                    if *at_work < ACTIONS_MAX {
                        *at_work += 1;
                        self.parts.memory.begin(action, spec, now);
                        chosen.push((action.clone(), *vps, engine));
                    }
                }
            }
        }
        if !self.save().await {
            return false; // nothing is begun that is not marked
        }
        for (action, vps, engine) in chosen {
            let Some(driver) = self.glass.engines().get(engine).cloned() else { continue };
            info!(%vps, %engine, action = action.doing(), "acting");
            self.work.busy.insert(vps, action.doing());
            let spec = spec.and_then(|spec| spec.vps.get(&vps)).cloned();
            let images = self.parts.images.clone();
            let work = execute::engine(driver, images, spec, action, vps);
            self.tasks.spawn(async move { Finished::Engine(engine, work.await) });
        }
        again
    }

    /// A job's result is on disk before the job counts as over: a crash in between sends it twice, never not at all.
    async fn finish_job(
        &mut self,
        job: JobId,
        outcome: &JobOutcome,
        spec: Option<&HostSpec>,
        now: UnixMillis,
    ) -> bool {
        let generation = spec.map(|spec| spec.generation).unwrap_or_default();
        let result = JobResult { job, outcome: outcome.clone(), finished_at: now, generation };
        let shelves = Arc::clone(&self.parts.shelves);
        match spawn_blocking(move || shelves.put_result(result)).await {
            Ok(Ok(())) => {
                self.parts.troubles.clear("results");
                let action = Action::FinishJob { job, outcome: outcome.clone() };
                self.parts.memory.done(&action, self.parts.boot, now);
                true
            }
            Ok(Err(error)) => {
                error!(%job, error = %Chain(&error), "cannot keep the result of a job");
                self.parts.troubles.set("results", format!("results of jobs: {}", Chain(&error)));
                false
            }
            Err(_) => false, // the runtime is shutting down
        }
    }

    fn fetch(&mut self, wanted: Wanted) {
        if self.fetches.len() >= FETCHES_MAX || self.fetches.contains_key(&wanted.sha256) {
            return;
        }
        info!(what = wanted.what, sha256 = %wanted.sha256, "fetching");
        let percent = Arc::new(AtomicU8::new(0));
        self.fetches.insert(wanted.sha256, Arc::clone(&percent));
        let blobs = Blobs(self.parts.contact.clone());
        self.tasks.spawn(execute::blob(self.parts.images.clone(), blobs, wanted, percent));
    }

    async fn save(&mut self) -> bool {
        if self.parts.memory == self.saved {
            return true;
        }
        let (ledger, memory) = (Arc::clone(&self.parts.ledger), self.parts.memory.clone());
        let saved = spawn_blocking(move || ledger.save_memory(&memory).map(|()| memory)).await;
        match saved {
            Ok(Ok(memory)) => {
                self.saved = memory;
                self.parts.troubles.clear("memory");
                true
            }
            Ok(Err(error)) => {
                error!(error = %Chain(&error), "nothing is changed while it cannot be remembered");
                let problem = format!("nothing is changed on this host: {}", Chain(&error));
                self.parts.troubles.set("memory", problem);
                self.parts.memory = self.saved.clone();
                false
            }
            Err(_) => false, // the runtime is shutting down
        }
    }

    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let now = clock::now();
        match finished {
            Ok(Finished::Engine(engine, Done { action, vps, outcome })) => {
                self.work.busy.remove(&vps);
                self.glass.outdate(engine);
                match outcome {
                    Ok(()) => {
                        self.work.failures.remove(&vps);
                        self.parts.memory.done(&action, self.parts.boot, now);
                    }
                    Err(error) => {
                        warn!(%vps, action = action.doing(), %error, "failed; a later pass retries");
                        let before = self.work.failures.get(&vps).map_or(0, |failure| failure.count);
                        let problem = format!("{}: {}", action.doing(), error.problem);
                        self.work.failures.insert(vps, failure(problem, before, error.retryable, now));
                    }
                }
            }
            Ok(Finished::Blob(sha256, outcome)) => {
                self.fetches.remove(&sha256);
                match outcome {
                    Ok(()) => {
                        self.blob_failures.remove(&sha256);
                    }
                    Err(error) => {
                        warn!(%sha256, error = %error.problem(), "not fetched; a later pass retries");
                        // What broke off is resumed soon, as often as it takes.
                        let resumes = matches!(error, ImageError::Short { .. } | ImageError::Link { .. });
                        let before = self.blob_failures.get(&sha256).filter(|_| !resumes);
                        let before = before.map_or(0, |failure| failure.count);
                        self.blob_failures.insert(sha256, failure(error.problem(), before, true, now));
                    }
                }
            }
            // A panic of a driver: its VPS cannot be told any more, so all are looked at anew.
            Err(error) => {
                error!(%error, "an action panicked");
                self.work.busy.clear();
                self.fetches.clear();
                self.tasks.abort_all();
            }
        }
    }

    fn publish(&self, desired: &Desired, mut plan: Plan, looks: Looks, now: UnixMillis) {
        for (id, doing) in &self.work.busy {
            if let Some(status) = plan.statuses.get_mut(id) {
                status.progress.get_or_insert_with(|| (*doing).to_owned());
            }
        }
        for (id, said) in self.parts.facts.borrow().iter() {
            if let Some(status) = plan.statuses.get_mut(id).filter(|vps| vps.state == VpsState::Running) {
                status.guest = Some(Box::new(said.clone()));
            }
        }
        let generation = desired.generation();
        for (id, status) in &mut plan.statuses {
            status.traffic = self.parts.network.traffic(*id);
        }
        let status = HostStatus {
            boot: self.parts.boot,
            observed_at: now,
            accepted: self.parts.ledger.desired().generation(),
            reconciled: generation,
            inventory: self.parts.inventory.borrow().clone(),
            engines: looks.into_values().map(|look| look.engine).collect(),
            vps: plan.statuses,
            foreign: plan.foreign,
            orphans: plan.orphans,
            destroys_waiting: plan.destroys_waiting,
            problems: self.parts.troubles.all(),
            prefetch: plan.prefetch,
        };
        self.parts.status.send_if_modified(|shown| {
            // Time and traffic alone are no news; the next regular report brings them.
            let is_news = shown.as_ref().is_none_or(|shown| {
                let mut timeless = HostStatus {
                    observed_at: now,
                    inventory: status.inventory.clone(),
                    ..HostStatus::clone(shown)
                };
                for (id, vps) in &mut timeless.vps {
                    vps.traffic = status.vps.get(id).and_then(|vps| vps.traffic);
                }
                timeless != status
            });
            *shown = Some(Arc::new(status));
            is_news
        });
    }
}

fn failure(problem: String, before: u32, retryable: bool, now: UnixMillis) -> Failure {
    let count = before.saturating_add(1);
    let seconds = match retryable {
        true => (RETRY_SECONDS_MIN << before.min(16)).min(RETRY_SECONDS_MAX),
        false => RETRY_SECONDS_MAX,
    };
    Failure { problem, count, lasting: !retryable, retry_at: now.plus_seconds(seconds) }
}
