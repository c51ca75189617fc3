//! Plans: a dry run decides like the change itself, on a copy of the state that is thrown away, and what it would have
//! written is told. Applied, the same decision is made again with the plan's host and addresses; when it would come out
//! otherwise, it is refused with what moved. Plans live in memory: nothing of them is stored.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chom_protocol::api::plans::{PLAN_SECONDS, QuotaAfter, VpsPlan};
use chom_protocol::vps::Sha256;
use chom_protocol::{HostId, PlanId, TokenId, UnixMillis};

use crate::clock::rfc3339;
use crate::fleet::rows::HostRow;
use crate::fleet::state::State;
use crate::fleet::{Caller, Decision, ErrorKind, Fleet, FleetError, quota, tenants};

mod basis;
mod outcome;

use basis::Basis;
use outcome::Outcome;

/// Plans of one token that are kept: a screen of them; the oldest makes room.
const PLANS_PER_TOKEN_MAX: usize = 32;
/// Plans that are kept at all, a few KiB each.
const PLANS_MAX: usize = 4096;

/// What a request wants of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Planning {
    /// Nothing: do it.
    #[default]
    None,
    /// Only say what would be done (`?dry_run=true`).
    DryRun {
        /// SHA-256 of method, path and body.
        request: Sha256,
    },
    /// Do it as a plan said (`?plan=`).
    Apply {
        /// Which.
        plan: PlanId,
        /// SHA-256 of method, path and body.
        request: Sha256,
    },
}

/// What a decision that applies a plan may choose.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    /// The host of what is made.
    pub(super) host: HostId,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
}

/// A plan that can be applied.
#[derive(Debug)]
struct Kept {
    owner: TokenId,
    request: Sha256,
    expires_at: UnixMillis,
    outcome: Outcome,
    basis: Basis,
}

/// The plans that can be applied.
#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<BTreeMap<PlanId, Arc<Kept>>>);

impl Plans {
    fn keep(&self, id: PlanId, kept: Kept, now: UnixMillis) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, plan| plan.expires_at > now);
        // Ids are in order of age.
        let own: Vec<PlanId> =
            all.iter().filter(|(_, plan)| plan.owner == kept.owner).map(|(id, _)| *id).collect();
        if own.len() >= PLANS_PER_TOKEN_MAX {
            own.first().map(|oldest| all.remove(oldest));
        } else if all.len() >= PLANS_MAX {
            all.pop_first();
        }
        all.insert(id, Arc::new(kept));
    }

    /// A plan of this token for this request. A plan is its owner's alone: to others it does not exist.
    fn find(
        &self,
        owner: TokenId,
        id: PlanId,
        request: Sha256,
        now: UnixMillis,
    ) -> Result<Arc<Kept>, FleetError> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(&id).filter(|plan| plan.owner == owner && plan.expires_at > now);
        let found = found.cloned().ok_or_else(|| {
            refused(format!(
                "there is no plan `{id}` of yours: plans are kept for {PLAN_SECONDS} s and forgotten when the orchestrator is \
                 restarted; make a new one with `?dry_run=true`"
            ))
        })?;
        if found.request != request {
            return Err(FleetError::invalid(
                "plan",
                "this plan was made for another request: use it on the same path with the same body",
            ));
        }
        Ok(found)
    }
}

fn refused(detail: String) -> FleetError {
    FleetError::Refused { kind: ErrorKind::PlanMoved, detail, location: Some("plan") }
}

impl Fleet {
    /// The plan of a decision that was made on `before` and is thrown away.
    ///
    /// # Errors
    /// When the decision is about no VPS.
    pub(super) fn plan_of(
        &self,
        caller: &Caller,
        request: Sha256,
        before: &State,
        decision: &Decision,
    ) -> Result<VpsPlan, FleetError> {
        let outcome = Outcome::of(before, decision)
            .ok_or_else(|| FleetError::internal("this change is about no VPS and cannot be planned"))?;
        let basis = Basis::of(self, before, decision, &outcome);
        let id = PlanId::new(decision.new_id());
        let expires_at = decision.now.plus_seconds(PLAN_SECONDS);
        let sees_hosts = caller.sees_hosts();
        let host = before.get::<HostRow>(&outcome.host).filter(|_| sees_hosts);
        let mut steps = outcome.steps.clone();
        steps.extend(outcome::superseded(before, &outcome));
        let plan = VpsPlan {
            id: Some(id),
            action: outcome.action.clone(),
            vps: outcome.vps,
            host: host.map(|row| row.id),
            host_name: host.map(|row| row.name.clone()),
            why: if outcome.vps.is_some() {
                "it stays on its host"
            } else {
                "it is made where there is room"
            }
            .to_owned(),
            addresses: outcome.addresses.clone(),
            steps,
            downtime: outcome.downtime.clone(),
            quota_after: tenants::get(&decision.state, &outcome.tenant).map(|row| QuotaAfter {
                tenant: row.name,
                used: quota::used(&decision.state, &outcome.tenant),
                quota: row.quota,
            }),
            depends_on: basis.rows(sees_hosts),
            expires_at: Some(rfc3339(expires_at)),
            not_taken: Vec::new(),
            not_taken_count: 0,
        };
        self.0.plans.keep(
            id,
            Kept { owner: caller.token, request, expires_at, outcome, basis },
            decision.now,
        );
        Ok(plan)
    }

    /// Decides as a plan said, or refuses with what moved.
    ///
    /// # Errors
    /// When there is no such plan, the world has moved so that it is not true any more, or `decide` says so.
    pub(super) fn apply_plan<T>(
        &self,
        owner: TokenId,
        (plan, request): (PlanId, Sha256),
        decision: &mut Decision,
        decide: impl FnOnce(&mut Decision) -> Result<T, FleetError>,
    ) -> Result<T, FleetError> {
        let kept = self.0.plans.find(owner, plan, request, decision.now)?;
        let not_true = |moved: Vec<String>| {
            refused(format!(
                "plan `{plan}` is not true any more: {}; look again with `?dry_run=true`",
                moved.join("; ")
            ))
        };
        let moved = kept.basis.moved(self, decision);
        if moved.iter().any(|moved| moved.decides) {
            return Err(not_true(moved.into_iter().map(|moved| moved.what).collect()));
        }
        let before = decision.state.clone();
        if kept.outcome.vps.is_none() {
            decision.pinned =
                Some(Pinned { host: kept.outcome.host, addresses: kept.outcome.addresses.clone() });
        }
        let words = |last: Vec<String>| moved.iter().map(|moved| moved.what.clone()).chain(last).collect();
        let value = decide(decision).map_err(|error| match error.kind() {
            // What is wrong with the request itself, or with us.
            ErrorKind::Stale | ErrorKind::Unconditional | ErrorKind::Unauthorised | ErrorKind::Internal => {
                error
            }
            _ if decision.sees_hosts => not_true(words(vec![error.to_string()])),
            _ => not_true(words(vec![error.without_hosts().to_string()])),
        })?;
        let otherwise = match Outcome::of(&before, decision) {
            Some(now) => kept.outcome.otherwise(&now),
            None => vec!["nothing would be done now".to_owned()],
        };
        if otherwise.is_empty() { Ok(value) } else { Err(not_true(words(otherwise))) }
    }
}
