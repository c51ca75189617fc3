//! Carries orders on many VPSs out. Level-triggered: each look compares what was begun with what has ended, begins with the
//! next ones, and ends the operation when nothing is left. A restart goes on where it was.

use std::time::Duration;

use chom_protocol::api::bulk::BulkItemState;
use chom_protocol::api::operations::OperationState;
use chom_protocol::{HostId, OperationId};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::schedule::{self, Stage};
use super::{Order, counts, items, outcome};
use crate::fleet::rows::{BulkChunkRow, BulkItem, BulkRow, OperationRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{Decision, Fleet, FleetError, RequestMark, operations, quota};

/// Between looks: how long a place stays empty after an operation ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// VPSs that one commit begins with: each takes up to 8 of its 128 changes.
const BEGUN_PER_COMMIT_MAX: usize = 12;
/// Rows of orders that are not kept any more, that one commit takes away.
const FORGOTTEN_PER_COMMIT_MAX: usize = 100;
/// Longest words that are kept of why a VPS was not begun with.
const PROBLEM_CHARACTERS_MAX: usize = 400;

impl Fleet {
    /// Carries orders on many VPSs out until stopped.
    pub async fn carry_out_bulk(&self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            if let Err(error) = self.look_at_bulk().await {
                tracing::error!(error = %error, "cannot go on with orders on many VPSs; the next look tries again");
            }
        }
    }

    /// One look: as much as may be under way is begun with.
    pub(in crate::fleet) async fn look_at_bulk(&self) -> Result<(), FleetError> {
        let open: Vec<OperationId> = self.state().open_bulks.iter().copied().collect();
        for id in open {
            for _ in 0..schedule::UNDER_WAY_MAX.div_ceil(BEGUN_PER_COMMIT_MAX) {
                let state = self.state();
                if next(&state, id).is_empty() && !is_over(&state, id) {
                    break;
                }
                let Some(bulk) = state.get::<BulkRow>(&id).cloned() else { break };
                let fleet = self.clone();
                self.decide(bulk.actor.as_str().into(), move |decision| go_on(&fleet, decision, &bulk))
                    .await?;
            }
        }
        self.forget_bulk().await
    }

    /// Takes the VPSs of orders away whose operation is not kept any more.
    async fn forget_bulk(&self) -> Result<(), FleetError> {
        let state = self.state();
        let gone = state.bulks.keys().find(|id| state.get::<OperationRow>(id).is_none()).copied();
        let Some(id) = gone else { return Ok(()) };
        let forget = move |decision: &mut Decision| {
            let range = (id, 0)..=(id, u32::MAX);
            let chunks = decision.state.bulk_chunks.range(range).map(|(key, _)| *key);
            let chunks: Vec<_> = chunks.take(FORGOTTEN_PER_COMMIT_MAX).collect();
            chunks.iter().for_each(|key| decision.delete::<BulkChunkRow>(key));
            if chunks.len() < FORGOTTEN_PER_COMMIT_MAX {
                decision.delete::<BulkRow>(&id);
            }
            Ok(())
        };
        self.decide("chom".into(), forget).await.map(|((), _)| ())
    }
}

/// The places of the VPSs to begin with now.
fn next(state: &State, id: OperationId) -> Vec<usize> {
    let stage = |item: &BulkItem| match outcome(state, item).0 {
        BulkItemState::Pending => Stage::Waiting,
        BulkItemState::Running => Stage::UnderWay,
        BulkItemState::Succeeded | BulkItemState::Failed => Stage::Ended,
    };
    // One that is gone meanwhile has no host: it is begun with, and says why it fails.
    let host =
        |item: &BulkItem| state.get::<VpsRow>(&item.vps).map_or(HostId::new(Uuid::nil()), |row| row.host);
    let all: Vec<(HostId, Stage)> = items(state, id).map(|item| (host(item), stage(item))).collect();
    schedule::next(&all, BEGUN_PER_COMMIT_MAX)
}

fn is_over(state: &State, id: OperationId) -> bool {
    let counts = counts(state, id);
    counts.pending == 0 && counts.running == 0
}

/// Begins with the next VPSs, or ends the operation.
fn go_on(fleet: &Fleet, decision: &mut Decision, bulk: &BulkRow) -> Result<(), FleetError> {
    let row = decision.state.get::<OperationRow>(&bulk.id).cloned();
    // It may have been cancelled since it was looked at.
    let Some(mut row) = row.filter(|row| !row.state.is_final()) else { return Ok(()) };
    if is_over(&decision.state, bulk.id) {
        return end(decision, row);
    }
    let order = bulk.order()?;
    let places = next(&decision.state, bulk.id);
    let mut chunks: Vec<BulkChunkRow> = Vec::new();
    for place in places {
        let number = u32::try_from(place / super::ITEMS_PER_CHUNK).unwrap_or(u32::MAX);
        let at = match chunks.iter().position(|chunk| chunk.number == number) {
            Some(at) => at,
            None => {
                let Some(chunk) = decision.state.get::<BulkChunkRow>(&(bulk.id, number)).cloned() else {
                    continue;
                };
                chunks.push(chunk);
                chunks.len() - 1
            }
        };
        let item = chunks.get_mut(at).and_then(|chunk| chunk.items.get_mut(place % super::ITEMS_PER_CHUNK));
        if let Some(item) = item {
            touch(fleet, decision, &order, item)?;
        }
    }
    for chunk in chunks {
        decision.put(chunk)?;
    }
    if row.state == OperationState::Pending {
        row.state = OperationState::Running;
        operations::push(&mut row, decision.now, "begun with the first ones".to_owned());
        operations::tell(decision, &row);
        decision.put(row)?;
    }
    Ok(())
}

/// Gives one VPS its order, or notes why that cannot be.
fn touch(
    fleet: &Fleet,
    decision: &mut Decision,
    order: &Order,
    item: &mut BulkItem,
) -> Result<(), FleetError> {
    let before = decision.state.clone();
    let given = decision.attempt(|decision| {
        decision.operation = None;
        let given = order.clone().give(fleet, decision, &RequestMark::default(), item.vps)?;
        quota::check(&before, &decision.state, &given.vps.tenant)?;
        Ok(given)
    });
    match given {
        Ok(given) => item.operation = Some(given.operation.id),
        Err(error @ FleetError::Refused { .. }) => {
            // A tenant reads it, and is not told of hosts.
            item.problem =
                Some(error.without_hosts().to_string().chars().take(PROBLEM_CHARACTERS_MAX).collect());
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn end(decision: &mut Decision, row: OperationRow) -> Result<(), FleetError> {
    let counts = counts(&decision.state, row.id);
    if counts.failed == 0 {
        return operations::finish(decision, row, &format!("all {} are done", counts.count)).map(drop);
    }
    let problem = format!(
        "{} of {} were not done; see which and why with `chomctl operation items {}`",
        counts.failed, counts.count, row.id
    );
    operations::fail(decision, row, problem)
}
