//! The use cases: the one way to change what is stored. Each runs in the decider's turn, on the newest state, and becomes
//! one guarded commit. Reads are snapshots of memory and never wait for a host or a disk.

use std::sync::{Arc, Mutex};

use chom_protocol::api::events::Event;
use chom_protocol::api::plans::VpsPlan;
use chom_protocol::api::tokens::Role;
use chom_protocol::vps::Sha256;
use chom_protocol::{HostId, Name, UnixMillis, VpsId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::notify::webhook::rows::WebhookRow;
use crate::store::seal::{MasterKey, SealError};
use crate::store::{Revision, Store};

mod adopt;
pub mod audit;
pub mod authority;
pub mod bulk;
pub mod catalogue;
mod clone;
pub mod consoles;
mod decider;
pub mod decision;
mod denials;
pub mod error;
pub mod events;
mod external_ids;
pub mod hosts;
mod image_fetches;
mod images;
mod keeper;
pub mod ledger;
mod media;
pub mod network;
pub mod observed;
mod operations;
mod plans;
mod prefetch;
pub mod quota;
mod report;
pub(crate) mod room;
pub mod rotation;
pub mod rows;
pub mod selector;
pub mod sessions;
pub mod snapshots;
mod ssh_keys;
pub mod state;
pub mod tenants;
pub mod tokens;
pub mod users;
pub mod view;
pub mod vps;
mod vps_plan;
pub mod webhooks;

#[cfg(test)]
pub(crate) mod tests;

pub use decider::LoadError;
pub use decision::Decision;
pub use error::{ErrorKind, FleetError};

use audit::{Actor, Origin};
use authority::Authorities;
use catalogue::Catalogue;
use decider::{Decider, Mutation, Published, Typed};
pub use denials::Denial;
use events::{ChangeRing, EventRing};
use observed::{Observation, Observations};
pub use plans::Planning;
use rows::{Goal, IdempotencyRow, OperationRow, TokenRow, VpsRow};
use state::{State, Table};

/// How long the answer to an idempotency key is kept.
const IDEMPOTENCY_SECONDS: u64 = 24 * 3600;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's name, for the audit trail.
    pub name: Arc<str>,
    /// Keeps idempotency keys of different callers apart.
    pub token: chom_protocol::TokenId,
    /// What it may do.
    pub role: Role,
    /// The tenant whose rows alone it meets; none: a caller of the fleet, who meets all.
    pub tenant: Option<Name>,
    /// The VPS that alone it meets.
    pub vps: Option<VpsId>,
    /// Where its request comes from, for the audit trail.
    pub origin: Origin,
}

impl Caller {
    /// Whether a tenant's rows are there for it.
    #[must_use]
    pub fn sees_tenant(&self, tenant: &Name) -> bool {
        self.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    /// Whether a VPS is there for it.
    #[must_use]
    pub fn sees_vps(&self, row: &VpsRow) -> bool {
        self.sees_tenant(&row.spec.tenant) && self.vps.is_none_or(|own| own == row.spec.id)
    }

    /// Whether an operation is there for it.
    #[must_use]
    pub fn sees_operation(&self, row: &OperationRow) -> bool {
        // One that is about no VPS is the fleet's own.
        let of_own = |vps| self.sees_tenant(&row.tenant) && self.vps.is_none_or(|own| own == vps);
        match (&row.goal, row.vps) {
            _ if self.tenant.is_none() => true,
            (Goal::Bulk { tenant }, _) => self.vps.is_none() && *tenant == self.tenant,
            (_, vps) => vps.is_some_and(of_own),
        }
    }

    /// Whether a token is there for it.
    #[must_use]
    pub fn sees_token(&self, row: &TokenRow) -> bool {
        self.tenant.is_none() || self.tenant == row.tenant
    }

    /// Whether a webhook is there for it.
    #[must_use]
    pub fn sees_webhook(&self, row: &WebhookRow) -> bool {
        self.tenant.is_none() || self.tenant == row.tenant
    }

    /// Whether a user is there for it.
    #[must_use]
    pub fn sees_user(&self, row: &users::rows::UserRow) -> bool {
        self.tenant.is_none() || self.tenant == row.tenant
    }

    /// Whether an event is told to it: those of fleet rows only to callers of the fleet.
    #[must_use]
    pub fn hears(&self, state: &State, event: &Event) -> bool {
        match event {
            Event::Reset => true,
            Event::Vps { id, tenant, .. } => {
                self.sees_tenant(tenant) && self.vps.is_none_or(|own| own == *id)
            }
            Event::Operation { id, .. } => {
                self.tenant.is_none()
                    || state.get::<OperationRow>(id).is_some_and(|row| self.sees_operation(row))
            }
            Event::Host { .. } | Event::Alert { .. } => self.tenant.is_none(),
        }
    }

    /// The tenant of what it makes or names without saying whose.
    #[must_use]
    pub fn home(&self) -> Name {
        self.tenant.clone().unwrap_or_else(Name::default_tenant)
    }

    /// The tenant of what it makes.
    ///
    /// # Errors
    /// When it names one that is not its own.
    pub(crate) fn tenant_of(&self, wanted: Option<&Name>) -> Result<Name, FleetError> {
        match wanted {
            Some(other) if !self.sees_tenant(other) => Err(tenants::unknown(other)),
            Some(tenant) => Ok(tenant.clone()),
            None => Ok(self.home()),
        }
    }

    /// Whether it is told on which hosts things stand.
    #[must_use]
    pub const fn sees_hosts(&self) -> bool {
        self.tenant.is_none()
    }
}

/// What a request says about itself besides its body.
#[derive(Debug, Clone, Default)]
pub struct RequestMark {
    /// `Idempotency-Key`, and the SHA-256 of method, path and body.
    pub idempotency: Option<(String, Sha256)>,
    /// `If-Match`.
    pub if_match: Option<Revision>,
    /// Whether `If-Match` is missing where its route asks for one.
    pub unconditional: bool,
    /// Whether it is only to be planned, or done as planned.
    pub planning: Planning,
}

/// A mutation's answer.
#[derive(Debug, Clone)]
pub struct Done<T> {
    /// The answer.
    pub value: T,
    /// Whether it is the kept answer to an earlier request with the same key.
    pub replayed: bool,
    /// What would be done: then nothing was, and `value` is what would have been answered.
    pub plan: Option<Box<VpsPlan>>,
}

/// The handle that everything else holds.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<Box<dyn Mutation>>,
    published: Arc<Published>,
    observations: Observations,
    catalogue: Catalogue,
    master: Arc<MasterKey>,
    authorities: watch::Sender<Arc<Authorities>>,
    /// Which rows of CAs `authorities` was made of.
    followed: Mutex<rotation::Rows>,
    rankings: room::Rankings,
    plans: plans::Plans,
    token_uses: tokens::Uses,
    denials: denials::Denials,
    started_at: UnixMillis,
}

/// The decider's task, to be run until the end.
pub struct FleetTask(Decider);

impl FleetTask {
    /// Takes mutations until stopped; then answers all that were taken.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}

impl Fleet {
    /// Loads everything from the store.
    ///
    /// # Errors
    /// When the store cannot be read, holds no fleet, a row cannot be decoded, or the CA does not open under the master key.
    pub async fn load(
        store: Arc<dyn Store>,
        catalogue: Catalogue,
        master: Arc<MasterKey>,
        now: UnixMillis,
    ) -> Result<(Self, FleetTask), LoadError> {
        let state = decider::load(store.as_ref()).await?;
        let authorities = Arc::new(Authorities::open(&state, &master)?);
        let followed = Mutex::new(rotation::rows(&state));
        let observations = Observations::default();
        for stored in state.observed.values() {
            let row = stored.row.as_ref();
            observations.change(row.host, |observation: &mut Observation| {
                observation.seen_at = row.seen_at;
                observation.status = row.status.clone().map(|mut status| {
                    let of_host = |id: &chom_protocol::VpsId| {
                        state.observed_vps.get(id).map(|vps| (*id, vps.row.status.clone()))
                    };
                    status.vps =
                        state.vps_of_host.get(&row.host).into_iter().flatten().filter_map(of_host).collect();
                    Arc::new(status)
                });
            });
        }
        let (sender, queue) = mpsc::channel(decider::QUEUE_MUTATIONS_MAX);
        let published = Arc::new(Published::new(state, now));
        let task = FleetTask(Decider::new(store, Arc::clone(&published), queue));
        let inner = Inner {
            queue: sender,
            published,
            observations,
            catalogue,
            master,
            authorities: watch::Sender::new(authorities),
            followed,
            rankings: room::Rankings::default(),
            plans: plans::Plans::default(),
            token_uses: tokens::Uses::default(),
            denials: denials::Denials::default(),
            started_at: now,
        };
        Ok((Self(Arc::new(inner)), task))
    }

    /// Everything that is durable, as of now.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.0.published.state.load_full()
    }

    /// What agents reported last.
    #[must_use]
    pub fn observations(&self) -> &Observations {
        &self.0.observations
    }

    /// What VPSs are made of, and the rules.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.0.catalogue
    }

    /// What secrets in rows are sealed under.
    pub(crate) fn master(&self) -> &MasterKey {
        &self.0.master
    }

    /// The event stream.
    #[must_use]
    pub fn events(&self) -> &EventRing {
        &self.0.published.events
    }

    /// Which rows changed, for those who watch lists.
    #[must_use]
    pub fn changes(&self) -> &ChangeRing {
        &self.0.published.changes
    }

    /// When this orchestrator started: the beginning of the grace.
    #[must_use]
    pub fn started_at(&self) -> UnixMillis {
        self.0.started_at
    }

    /// Hears when a host's desired state or standing changes, and of nothing else.
    #[must_use]
    pub fn host_changes(&self, host: HostId) -> watch::Receiver<Revision> {
        self.0.published.host_changes(host)
    }

    /// Decides in turn and answers when it is durable.
    ///
    /// # Errors
    /// What `decide` says, or that the change could not be stored.
    pub async fn decide<T, F>(&self, actor: Arc<str>, decide: F) -> Result<(T, Revision), FleetError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Decision) -> Result<T, FleetError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let mutation = Typed { actor, decide: Some(decide), value: None, reply };
        self.0.queue.send(Box::new(mutation)).await.map_err(|_| FleetError::Closed)?;
        answer.await.map_err(|_| FleetError::Closed)?
    }

    /// The same for a caller, who stands in the audit trail with token, address and reason.
    ///
    /// # Errors
    /// As [`Fleet::decide`].
    pub async fn decide_for<T, F>(&self, caller: &Caller, decide: F) -> Result<(T, Revision), FleetError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Decision) -> Result<T, FleetError> + Send + 'static,
    {
        let actor = Actor::of(caller);
        let decide = move |decision: &mut Decision| {
            decision.actor = actor;
            decide(decision)
        };
        self.decide(Arc::clone(&caller.name), decide).await
    }

    /// A mutation that a caller asked for: applied once for each idempotency key.
    ///
    /// # Errors
    /// As [`Fleet::decide`]; and when the key was used for another request.
    pub async fn mutate<T, F>(
        &self,
        caller: &Caller,
        mark: RequestMark,
        decide: F,
    ) -> Result<Done<T>, FleetError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce(&mut Decision, &RequestMark) -> Result<T, FleetError> + Send + 'static,
    {
        let (token, master) = (caller.token, Arc::clone(&self.0.master));
        let sees_hosts = caller.sees_hosts();
        let decide = move |decision: &mut Decision, mark: &RequestMark| {
            let before = decision.state.clone();
            let value = decide(decision, mark)?;
            // Whatever makes a tenant's rows grow is an operation on a VPS of it.
            let operation = decision.operation.and_then(|id| decision.state.get::<OperationRow>(&id));
            operation.map_or(Ok(()), |row| quota::check(&before, &decision.state, &row.tenant))?;
            Ok(value)
        };
        let for_caller = |error: FleetError| if sees_hosts { error } else { error.without_hosts() };
        if let Planning::DryRun { request } = mark.planning {
            let before = self.state();
            let mut decision = Decision::begin(&before, clock::now(), Arc::clone(&caller.name));
            decision.sees_hosts = sees_hosts;
            let value = decide(&mut decision, &mark).map_err(for_caller)?;
            let plan = self.plan_of(caller, request, &before, &decision)?;
            return Ok(Done { value, replayed: false, plan: Some(Box::new(plan)) });
        }
        let fleet = self.clone();
        let decide = move |decision: &mut Decision, mark: &RequestMark| match mark.planning {
            Planning::Apply { plan, request } => {
                fleet.apply_plan(token, (plan, request), decision, |decision| decide(decision, mark))
            }
            Planning::None | Planning::DryRun { .. } => decide(decision, mark),
        };
        let outcome = self
            .decide_for(caller, move |decision| {
                decision.sees_hosts = sees_hosts;
                let Some((key, request)) = mark.idempotency.clone() else {
                    return decide(decision, &mark).map(|value| Done { value, replayed: false, plan: None });
                };
                let id = Sha256::of(format!("{token} {key}").as_bytes());
                if let Some(row) =
                    decision.state.get::<IdempotencyRow>(&id).filter(|row| row.expires_at > decision.now)
                {
                    return replay(&master, row, request);
                }
                let value = decide(decision, &mark)?;
                let answer = serde_json::to_vec(&value).map_err(|error| unreadable(&error))?;
                let answer =
                    master.seal(&IdempotencyRow::key(&id), &answer).map_err(|error| sealed(&error))?;
                let expires_at = decision.now.plus_seconds(IDEMPOTENCY_SECONDS);
                decision.put(IdempotencyRow { id, request, answer, expires_at })?;
                Ok(Done { value, replayed: false, plan: None })
            })
            .await;
        let (done, _) = outcome.map_err(for_caller)?;
        Ok(done)
    }
}

impl Fleet {
    /// Whether the answer to a request is kept, so that it would be given again and nothing be done.
    #[must_use]
    pub fn is_answered(&self, caller: &Caller, mark: &RequestMark, now: UnixMillis) -> bool {
        let id = |key: &str| Sha256::of(format!("{} {key}", caller.token).as_bytes());
        let row = mark.idempotency.as_ref().map(|(key, _)| id(key));
        row.is_some_and(|id| self.state().get::<IdempotencyRow>(&id).is_some_and(|row| row.expires_at > now))
    }
}

fn replay<T: DeserializeOwned>(
    master: &MasterKey,
    row: &IdempotencyRow,
    request: Sha256,
) -> Result<Done<T>, FleetError> {
    if row.request != request {
        return Err(FleetError::Refused {
            kind: ErrorKind::KeyReused,
            detail: "this idempotency key was used for another request; use a new key for each new request"
                .to_owned(),
            location: Some("Idempotency-Key"),
        });
    }
    let answer = master.open(&IdempotencyRow::key(&row.id), &row.answer).map_err(|error| sealed(&error))?;
    let value = serde_json::from_slice(&answer).map_err(|error| unreadable(&error))?;
    Ok(Done { value, replayed: true, plan: None })
}

fn sealed(error: &SealError) -> FleetError {
    FleetError::internal(format!("the answer to this key cannot be kept or read: {error}"))
}

fn unreadable(error: &serde_json::Error) -> FleetError {
    FleetError::Refused {
        kind: ErrorKind::Internal,
        detail: format!(
            "the kept answer to this key cannot be read ({error}); look the row up instead of repeating"
        ),
        location: Some("Idempotency-Key"),
    }
}

/// Refuses a mutation whose caller saw another revision of the row.
///
/// # Errors
/// When `If-Match` was given and names another revision, or is missing where the row is there and the route asks for one.
pub(crate) fn check_revision(mark: &RequestMark, found: Revision) -> Result<(), FleetError> {
    match mark.if_match {
        None if mark.unconditional && found > Revision(0) => Err(FleetError::Refused {
            kind: ErrorKind::Unconditional,
            detail: "this would overwrite what somebody else may have changed: read the row, and send its ETag as If-Match \
                     (or `*`, to overwrite whatever is there)"
                .to_owned(),
            location: Some("If-Match"),
        }),
        Some(wanted) if wanted != found => Err(FleetError::Refused {
            kind: ErrorKind::Stale,
            detail: format!(
                "If-Match names revision {wanted}; the row is at revision {found}: read it again and repeat"
            ),
            location: Some("If-Match"),
        }),
        _ => Ok(()),
    }
}
