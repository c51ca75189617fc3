//! The one task that takes mutations in turn, decides each on the newest state (also not yet durable), and pipelines their
//! commits. An answer leaves only when its commit is durable and the published state has it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use chom_protocol::api::events::Event;
use chom_protocol::{HostId, UnixMillis};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::fleet::decision::{Decided, Decision};
use crate::fleet::error::FleetError;
use crate::fleet::events::{ChangeRing, EventRing, Touched};
use crate::fleet::state::State;
use crate::store::record::RecordError;
use crate::store::{CommitError, EVERYTHING, ReadError, Revision, Store};

/// Mutations that may wait for the decider: at 5,000 a second about a fifth of a second of work.
pub(super) const QUEUE_MUTATIONS_MAX: usize = 1024;
/// Commits under way at once: two full groups of the store's writer.
pub(super) const PIPELINE_COMMITS_MAX: usize = 512;

/// Why the state could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store cannot be read.
    #[error("cannot read the store")]
    Read(#[from] ReadError),
    /// A row cannot be decoded.
    #[error("cannot load the store")]
    Record(#[from] RecordError),
    /// A row of an older schema could not be rewritten.
    #[error("cannot rewrite a row of an older schema")]
    Rewrite(#[source] CommitError),
    /// The fleet's CA.
    #[error("the fleet's CA cannot be used")]
    Authorities(#[from] crate::fleet::authority::AuthoritiesError),
    /// Not a store of ours, or an empty one.
    #[error("the store holds no fleet: make one with `chom-orchestrator init`, or restore an export")]
    Empty,
}

/// A mutation with its type taken away.
pub(super) trait Mutation: Send {
    fn actor(&self) -> Arc<str>;
    fn decide(&mut self, decision: &mut Decision) -> Result<(), FleetError>;
    fn answer(self: Box<Self>, outcome: Result<Revision, FleetError>);
}

/// What readers see, and how they hear of changes.
pub(super) struct Published {
    pub(super) state: ArcSwap<State>,
    pub(super) events: EventRing,
    pub(super) changes: ChangeRing,
    hosts: Mutex<BTreeMap<HostId, watch::Sender<Revision>>>,
}

impl Published {
    pub(super) fn new(state: State, started_at: UnixMillis) -> Self {
        let (events, changes) = (EventRing::new(started_at), ChangeRing::new(started_at));
        Self { state: ArcSwap::from_pointee(state), events, changes, hosts: Mutex::default() }
    }

    /// Hears when a host's desired state changes, and of nothing else.
    pub(super) fn host_changes(&self, host: HostId) -> watch::Receiver<Revision> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(host).or_insert_with(|| watch::Sender::new(Revision(0))).subscribe()
    }

    fn publish(&self, pending: &Pending) {
        self.state.store(Arc::clone(&pending.after));
        {
            let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            for sender in pending.hosts.iter().filter_map(|host| hosts.get(host)) {
                sender.send_replace(pending.after.revision);
            }
        }
        self.changes.push(pending.touched.iter().cloned());
        self.events.push(pending.events.iter().cloned());
    }
}

struct Pending {
    after: Arc<State>,
    hosts: Vec<HostId>,
    events: Vec<Event>,
    touched: BTreeSet<Touched>,
    mutation: Box<dyn Mutation>,
    /// None: nothing to store, only to wait for what was decided before.
    commit: Option<BoxFuture<'static, Result<Revision, CommitError>>>,
}

/// The task's own side.
pub(super) struct Decider {
    store: Arc<dyn Store>,
    queue: mpsc::Receiver<Box<dyn Mutation>>,
    published: Arc<Published>,
    ahead: Arc<State>,
    pending: VecDeque<Pending>,
    /// A commit failed: what was decided after it is void, and nothing new is decided before all of it is answered.
    failed: Option<CommitError>,
}

/// Everything in the store; rows of an older schema are written anew.
pub(super) async fn load(store: &dyn Store) -> Result<State, LoadError> {
    let (revision, records) = store.list(&EVERYTHING).await?;
    let mut state = State::default();
    let mut outdated = Vec::new();
    // Each text goes as soon as its row is made: all of them beside all rows would be twice the memory.
    for record in records {
        outdated.extend(state.load(&record)?.map(|(key, value)| (key, value, record.mod_revision)));
    }
    state.revision = revision;
    if state.meta.is_none() {
        return Err(LoadError::Empty);
    }
    if outdated.is_empty() {
        return Ok(state);
    }
    for (key, value, revision) in outdated {
        let commit = crate::store::Commit::new().if_revision(key.clone(), revision).put(key, value);
        store.commit(commit).await.map_err(LoadError::Rewrite)?;
    }
    // Revisions moved: read the rows as they are now.
    Box::pin(load(store)).await
}

impl Decider {
    pub(super) fn new(
        store: Arc<dyn Store>,
        published: Arc<Published>,
        queue: mpsc::Receiver<Box<dyn Mutation>>,
    ) -> Self {
        let ahead = published.state.load_full();
        Self { store, queue, published, ahead, pending: VecDeque::new(), failed: None }
    }

    /// Runs until stopped and every mutation that was taken is answered.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.answer_ready();
            let room = self.pending.len() < PIPELINE_COMMITS_MAX && self.failed.is_none();
            tokio::select! {
                biased;
                outcome = front(&mut self.pending) => self.settle(outcome), // cancel-safe: the future stays in the queue
                taken = self.queue.recv(), if room => match taken { // cancel-safe
                    Some(mutation) => self.take(mutation),
                    None if self.pending.is_empty() => return,
                    None => self.drain().await,
                },
                () = stop.cancelled() => {
                    self.queue.close();
                    self.drain().await;
                }
            }
            if self.queue.is_closed() && self.queue.is_empty() && self.pending.is_empty() {
                return;
            }
        }
    }

    fn take(&mut self, mut mutation: Box<dyn Mutation>) {
        let mut decision = Decision::begin(&self.ahead, clock::now(), mutation.actor());
        if let Err(error) = mutation.decide(&mut decision).and_then(|()| decision.complete(&self.ahead)) {
            mutation.answer(Err(error));
            return;
        }
        let Decided { after, commit, hosts, events, touched } = match decision.finish() {
            Ok(decided) => decided,
            Err(error) => return mutation.answer(Err(error)),
        };
        if commit.puts.is_empty() && commit.deletes.is_empty() {
            let (after, commit) = (Arc::clone(&self.ahead), None);
            let hosts = hosts.into_iter().collect();
            self.pending.push_back(Pending { after, hosts, events, touched, mutation, commit });
            return;
        }
        if let Err(error) = commit.check() {
            mutation.answer(Err(FleetError::Store(error)));
            return;
        }
        self.ahead = Arc::new(after);
        let commit = Some(self.store.commit(commit));
        let (after, hosts) = (Arc::clone(&self.ahead), hosts.into_iter().collect());
        self.pending.push_back(Pending { after, hosts, events, touched, mutation, commit });
    }

    /// Answers what needs no commit of its own and has nothing before it.
    fn answer_ready(&mut self) {
        while self.pending.front().is_some_and(|first| first.commit.is_none()) {
            let Some(first) = self.pending.pop_front() else { return };
            let revision = self.published.state.load().revision;
            first.mutation.answer(match &self.failed {
                Some(error) => Err(FleetError::Store(error.clone())),
                None => Ok(revision),
            });
        }
        if self.pending.is_empty() && self.failed.take().is_some() {
            self.ahead = self.published.state.load_full();
        }
    }

    fn settle(&mut self, outcome: Result<Revision, CommitError>) {
        let Some(first) = self.pending.pop_front() else { return };
        match (outcome, &self.failed) {
            (Ok(revision), None) => {
                self.published.publish(&first);
                first.mutation.answer(Ok(revision));
            }
            (Ok(_), Some(error)) => first.mutation.answer(Err(FleetError::Store(error.clone()))),
            (Err(error), _) => {
                first.mutation.answer(Err(FleetError::Store(error.clone())));
                self.failed = Some(error);
            }
        }
    }

    async fn drain(&mut self) {
        while let Ok(mutation) = self.queue.try_recv() {
            mutation.answer(Err(FleetError::Closed));
        }
        while !self.pending.is_empty() {
            self.answer_ready();
            if !self.pending.is_empty() {
                let outcome = front(&mut self.pending).await;
                self.settle(outcome);
            }
        }
    }
}

/// The outcome of the oldest commit; for ever pending when there is none.
async fn front(pending: &mut VecDeque<Pending>) -> Result<Revision, CommitError> {
    match pending.front_mut().and_then(|first| first.commit.as_mut()) {
        Some(commit) => Pin::new(commit).await,
        None => std::future::pending().await,
    }
}

/// A mutation of a known type.
pub(super) struct Typed<T, F> {
    pub(super) actor: Arc<str>,
    pub(super) decide: Option<F>,
    pub(super) value: Option<T>,
    pub(super) reply: oneshot::Sender<Result<(T, Revision), FleetError>>,
}

impl<T, F> Mutation for Typed<T, F>
where
    T: Send,
    F: FnOnce(&mut Decision) -> Result<T, FleetError> + Send,
{
    fn actor(&self) -> Arc<str> {
        Arc::clone(&self.actor)
    }

    fn decide(&mut self, decision: &mut Decision) -> Result<(), FleetError> {
        let Some(decide) = self.decide.take() else { return Err(FleetError::Closed) };
        self.value = Some(decide(decision)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<Revision, FleetError>) {
        let answer = match (outcome, self.value) {
            (Ok(revision), Some(value)) => Ok((value, revision)),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(FleetError::Closed),
        };
        // The asker may have gone; the change stands all the same.
        let _ = self.reply.send(answer);
    }
}
