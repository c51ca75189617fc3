//! One order on many VPSs: the VPSs are chosen and written down with one operation, and begun with one after the other. That
//! a VPS was begun with is written in the commit that gives it its order: whatever dies in between, each is touched once.

use chom_protocol::api::bulk::{
    BULK_ITEMS_MAX, BULK_NAMES_MAX, BulkAction, BulkCounts, BulkItemState, BulkItemView, BulkOrder,
    BulkPreview,
};
use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::{OperationId, UnixMillis};

use crate::clock;
use crate::fleet::rows::{BulkChunkRow, BulkItem, BulkRow, Goal, HostRow, OperationRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::vps::orders::Order;
use crate::fleet::{
    Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, operations, selector, tenants, view,
};
use crate::health;
use crate::permission;

mod schedule;
mod work;

/// VPSs in one row: with the longest words of why they failed, half of what one stored value may have.
const ITEMS_PER_CHUNK: usize = 50;
/// Orders on many that are under way at once, of one tenant or of the fleet's own callers: each looks at its VPSs twice a
/// second.
const OPEN_PER_TENANT_MAX: usize = 8;
/// The same of all.
const OPEN_MAX: usize = 64;
/// Longest words of an order: they are stored with it.
const WORDS_BYTES_MAX: usize = 32 * 1024;

impl Fleet {
    /// Says which VPSs an order would be about.
    ///
    /// # Errors
    /// When the order contradicts itself, or the caller may not give it.
    pub fn preview_bulk(&self, caller: &Caller, request: &BulkOrder) -> Result<BulkPreview, FleetError> {
        judge(caller, request)?;
        let chosen = choose(self, &self.state(), caller, request)?;
        Ok(BulkPreview {
            action: request.action,
            count: u32::try_from(chosen.len()).unwrap_or(u32::MAX),
            names: chosen.into_iter().take(BULK_NAMES_MAX).map(|item| item.name).collect(),
        })
    }

    /// Orders something of many VPSs: those that the selector means now.
    ///
    /// # Errors
    /// As [`Self::preview_bulk`]; and when there are none, too many, or another number than was expected.
    pub async fn order_many(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: BulkOrder,
    ) -> Result<Done<OperationView>, FleetError> {
        judge(caller, &request)?;
        let (fleet, caller_) = (self.clone(), caller.clone());
        self.mutate(caller, mark, move |decision, _| begin(&fleet, decision, &caller_, request)).await
    }

    /// Goes on with an order on many that was cancelled or ran out of time: with those that were not begun with.
    ///
    /// # Errors
    /// When there is no such operation, it is under way, or nothing of it is left.
    pub async fn resume_operation(
        &self,
        caller: &Caller,
        mark: RequestMark,
        operation: OperationId,
    ) -> Result<Done<OperationView>, FleetError> {
        let (fleet, caller_) = (self.clone(), caller.clone());
        self.mutate(caller, mark, move |decision, _| {
            let row = decision.state.get::<OperationRow>(&operation).cloned();
            let mut row = row.ok_or_else(|| FleetError::not_found("operation", operation))?;
            let bulk = decision.state.get::<BulkRow>(&operation).cloned().ok_or_else(|| {
                FleetError::conflict(format!(
                    "operation {operation} (`{}`) is not an order on many VPSs; give the order again instead",
                    row.kind
                ))
            })?;
            may(&caller_, bulk.action)?;
            if !row.state.is_final() {
                return Err(FleetError::conflict(format!(
                    "operation {operation} is under way; it goes on by itself"
                )));
            }
            let counts = counts(&decision.state, operation);
            if counts.pending == 0 {
                return Err(FleetError::conflict(format!(
                    "nothing of operation {operation} is left: it was begun with all {} VPSs",
                    counts.count
                )));
            }
            not_too_many(&decision.state, &row)?;
            let message =
                format!("resumed by {}: {} of {} are left", decision.actor(), counts.pending, counts.count);
            row.state = OperationState::Running;
            (row.finished_at, row.problem) = (None, None);
            row.deadline = deadline(&fleet, decision.now, counts.pending);
            operations::push(&mut row, decision.now, message);
            operations::tell(decision, &row);
            decision.put(row.clone())?;
            decision.audit("operation.resume", operation)?;
            Ok(shown(decision, &row))
        })
        .await
    }

    /// The VPSs of an order on many, in order, from a place on.
    pub fn bulk_items<'a>(
        &self,
        state: &'a State,
        caller: &Caller,
        operation: OperationId,
        from: u32,
    ) -> impl Iterator<Item = BulkItemView> + use<'a> {
        let sees_hosts = caller.sees_hosts();
        items(state, operation).enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX)).map(
            move |(place, item)| {
                let (reached, problem) = outcome(state, item);
                BulkItemView {
                    place: u32::try_from(place).unwrap_or(u32::MAX),
                    vps: item.vps,
                    name: item.name.clone(),
                    host: state.get::<VpsRow>(&item.vps).map(|row| row.host).filter(|_| sees_hosts),
                    state: reached,
                    operation: item.operation,
                    problem,
                }
            },
        )
    }
}

/// What can be judged before the rows are looked at.
fn judge(caller: &Caller, request: &BulkOrder) -> Result<(), FleetError> {
    may(caller, request.action)?;
    let words = request.parameters.as_ref().map_or(0, |words| words.to_string().len());
    if words > WORDS_BYTES_MAX {
        return Err(FleetError::invalid(
            "/parameters",
            format!("{words} bytes; at most {WORDS_BYTES_MAX} are allowed"),
        ));
    }
    Order::read(request.action, request.parameters.as_ref())?;
    let selector = &request.selector;
    if !selector::says_which(selector) {
        return Err(FleetError::invalid(
            "/selector",
            "say which VPSs: by `tenant`, `host`, `region`, `state`, `size`, `image`, `name_prefix`, `ids`, or `all`",
        ));
    }
    if !caller.sees_hosts() && (selector.host.is_some() || !selector.host_labels.is_empty()) {
        return Err(FleetError::Refused {
            kind: ErrorKind::Forbidden,
            detail: "which hosts there are is not a tenant's to know; choose by region, state, size, image or name".to_owned(),
            location: Some("/selector/host"),
        });
    }
    match &selector.tenant {
        Some(tenant) if !caller.sees_tenant(tenant) => Err(tenants::unknown(tenant)),
        _ => Ok(()),
    }
}

/// Whether a caller may give this order to one VPS: then also to many.
fn may(caller: &Caller, action: BulkAction) -> Result<(), FleetError> {
    let forbidden = |detail: String| {
        Err(FleetError::Refused { kind: ErrorKind::Forbidden, detail, location: Some("Authorization") })
    };
    if caller.vps.is_some() {
        return forbidden("your token is for one VPS: give it the order itself".to_owned());
    }
    let route = match action {
        BulkAction::Hold | BulkAction::Unhold => "hold_vps".to_owned(),
        other => format!("{}_vps", other.name()),
    };
    match permission::of_route(&route).and_then(permission::Needs::permission) {
        Some(needed) if permission::may(caller.role, needed) => Ok(()),
        Some(needed) => forbidden(format!(
            "`{}` needs the permission `{needed}`, which the role `{}` of your token does not have",
            action.name(),
            caller.role
        )),
        None => Err(FleetError::internal(format!("`{route}` is missing from the table of permissions"))),
    }
}

/// The VPSs that a selector means, oldest first. A caller of a tenant means its own.
fn choose(
    fleet: &Fleet,
    state: &State,
    caller: &Caller,
    request: &BulkOrder,
) -> Result<Vec<BulkItem>, FleetError> {
    let BulkOrder { action, selector, .. } = request;
    let deleted = matches!(action, BulkAction::Undelete | BulkAction::Purge);
    let (observations, now) = (fleet.observations().snapshot(), clock::now());
    let seconds = fleet.catalogue().unreachable_after_seconds;
    let seen = |row: &VpsRow| {
        let observation = observations.get(&row.host).map(AsRef::as_ref);
        let status = observation.and_then(|seen| seen.status.as_ref()?.vps.get(&row.spec.id));
        let last = status.map_or(chom_protocol::vps::VpsState::Unknown, |vps| vps.state);
        health::vps_state(last, health::is_seen(observation, seconds, now))
    };
    let fits = |row: &&VpsRow| {
        caller.sees_vps(row)
            && row.purging.is_none()
            && row.retention.is_some() == deleted
            && selector::matches(selector, row, state.get::<HostRow>(&row.host), seen(row))
    };
    let all = state.vps.values().map(|stored| stored.row.as_ref()).filter(fits);
    let item = |row: &VpsRow| BulkItem {
        vps: row.spec.id,
        name: row.spec.name.clone(),
        operation: None,
        problem: None,
    };
    let chosen: Vec<BulkItem> = all.take(BULK_ITEMS_MAX + 1).map(item).collect();
    if chosen.len() > BULK_ITEMS_MAX {
        return Err(FleetError::invalid(
            "/selector",
            format!(
                "it means more than {BULK_ITEMS_MAX} VPSs, the most of one order; choose by host, region or tenant as well"
            ),
        ));
    }
    Ok(chosen)
}

fn begin(
    fleet: &Fleet,
    decision: &mut Decision,
    caller: &Caller,
    request: BulkOrder,
) -> Result<OperationView, FleetError> {
    let chosen = choose(fleet, &decision.state, caller, &request)?;
    let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    if let Some(expected) = request.expected_count.filter(|expected| *expected != count) {
        return Err(FleetError::Refused {
            kind: ErrorKind::Conflict,
            detail: format!(
                "the selector means {count} VPSs now, and {expected} were expected: look again with `?dry_run=true`"
            ),
            location: Some("/expected_count"),
        });
    }
    if count == 0 {
        return Err(FleetError::Refused {
            kind: ErrorKind::Conflict,
            detail: "the selector means no VPS".to_owned(),
            location: Some("/selector"),
        });
    }
    let goal = Goal::Bulk { tenant: caller.tenant.clone() };
    let kind = format!("bulk {}", request.action.name());
    let row = operations::begin_own(decision, &kind, goal, 0, format!("{count} VPSs were chosen"))?;
    let row = OperationRow { tenant: caller.home(), deadline: deadline(fleet, decision.now, count), ..row };
    not_too_many(&decision.state, &row)?;
    decision.put(row.clone())?;
    for (number, chunk) in (0_u32..).zip(chosen.chunks(ITEMS_PER_CHUNK)) {
        decision.put(BulkChunkRow { bulk: row.id, number, items: chunk.to_vec() })?;
    }
    decision.put(BulkRow {
        id: row.id,
        actor: decision.actor().to_owned(),
        action: request.action,
        parameters: request.parameters.map(|words| words.to_string()),
    })?;
    decision.audit(&format!("vps.bulk-{}", request.action.name()), row.id)?;
    Ok(shown(decision, &row))
}

fn shown(decision: &Decision, row: &OperationRow) -> OperationView {
    let bulk = Some(counts(&decision.state, row.id));
    view::operation_for(decision.sees_hosts, OperationView { bulk, ..view::operation(row) })
}

/// When it has ended at the latest: each wave by its operations' own deadlines, if all VPSs are on one host.
fn deadline(fleet: &Fleet, now: UnixMillis, count: u32) -> UnixMillis {
    let waves = u64::from(count) / schedule::UNDER_WAY_PER_HOST_MAX as u64 + 2;
    now.plus_seconds(fleet.catalogue().operation_seconds_max.saturating_mul(waves))
}

fn not_too_many(state: &State, new: &OperationRow) -> Result<(), FleetError> {
    let open =
        state.open_bulks.iter().filter(|id| **id != new.id).filter_map(|id| state.get::<OperationRow>(id));
    let (all, own) = open.fold((0, 0), |(all, own), row| (all + 1, own + usize::from(row.goal == new.goal)));
    if all < OPEN_MAX && own < OPEN_PER_TENANT_MAX {
        return Ok(());
    }
    Err(FleetError::conflict(format!(
        "{own} such orders are under way; wait for one of them, or cancel it (chomctl operation list)"
    )))
}

/// The VPSs of an order on many, in order.
fn items(state: &State, operation: OperationId) -> impl Iterator<Item = &BulkItem> {
    let chunks = state.bulk_chunks.range((operation, 0)..=(operation, u32::MAX));
    chunks.flat_map(|(_, stored)| stored.row.items.iter())
}

/// How far one VPS is, and why it was not done.
fn outcome(state: &State, item: &BulkItem) -> (BulkItemState, Option<String>) {
    let Some(id) = item.operation else {
        let reached = if item.problem.is_some() { BulkItemState::Failed } else { BulkItemState::Pending };
        return (reached, item.problem.clone());
    };
    // One that is not kept any more has ended long ago.
    let Some(row) = state.get::<OperationRow>(&id) else { return (BulkItemState::Succeeded, None) };
    match row.state {
        OperationState::Pending | OperationState::Running => (BulkItemState::Running, row.problem.clone()),
        OperationState::Succeeded => (BulkItemState::Succeeded, None),
        OperationState::Failed => (BulkItemState::Failed, row.problem.clone()),
        OperationState::Superseded => {
            (BulkItemState::Failed, Some("a newer order on the VPS took its place".to_owned()))
        }
        OperationState::Cancelled => (BulkItemState::Failed, Some("it was cancelled".to_owned())),
    }
}

/// How far an order on many is.
#[must_use]
pub fn counts(state: &State, operation: OperationId) -> BulkCounts {
    let mut counts = BulkCounts::default();
    for item in items(state, operation) {
        counts.count += 1;
        match outcome(state, item).0 {
            BulkItemState::Pending => counts.pending += 1,
            BulkItemState::Running => counts.running += 1,
            BulkItemState::Succeeded => counts.succeeded += 1,
            BulkItemState::Failed => counts.failed += 1,
        }
    }
    counts
}

impl BulkRow {
    /// The order with its words, as it was given.
    fn order(&self) -> Result<Order, FleetError> {
        let words = self.parameters.as_deref().map(serde_json::from_str).transpose();
        let words = words.map_err(|error| {
            FleetError::internal(format!("the words of order {} cannot be read: {error}", self.id))
        })?;
        Order::read(self.action, words.as_ref())
    }
}
