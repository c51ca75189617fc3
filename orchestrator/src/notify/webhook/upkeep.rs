//! Keeps the queues within their bounds: gives up what waits for too long, drops what is too much, forgets what is done. All
//! that is lost is counted at its webhook and said in the log. Level-triggered: each pass looks anew, one commit at a time.

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::{UnixMillis, WebhookId};

use super::courier::{Courier, DELIVERIES_PER_COMMIT_MAX};
use super::queue::{Excess, GIVE_UP_SECONDS, excess};
use super::rows::{DeliveryRow, WebhookRow};
use crate::clock;
use crate::fleet::state::State;
use crate::fleet::{Decision, FleetError};

/// Queues that one pass tidies.
const QUEUES_PER_PASS_MAX: usize = 8;

impl Courier {
    /// One pass.
    pub(super) async fn tidy(&self) -> Result<(), FleetError> {
        let now = clock::now();
        for webhook in untidy(&self.fleet().state(), now) {
            self.fleet().decide("chom".into(), move |decision| tidy(decision, webhook)).await?;
        }
        Ok(())
    }
}

/// Queues that have something in them which should not be there, those of webhooks that are gone included.
fn untidy(state: &State, now: UnixMillis) -> Vec<WebhookId> {
    let mut found: Vec<WebhookId> = Vec::new();
    let mut next = state.deliveries.keys().next().map(|(webhook, _)| *webhook);
    while let Some(webhook) = next.filter(|_| found.len() < QUEUES_PER_PASS_MAX) {
        let gone = !state.webhooks.contains_key(&webhook);
        if gone
            || excess(&state.queue_of(webhook).collect::<Vec<_>>(), state.webhooks.len(), now)
                != Excess::default()
        {
            found.push(webhook);
        }
        next = state.deliveries.range((webhook, u64::MAX)..).next().map(|((webhook, _), _)| *webhook);
    }
    found
}

fn tidy(decision: &mut Decision, webhook: WebhookId) -> Result<(), FleetError> {
    let bound = DELIVERIES_PER_COMMIT_MAX;
    let Some(row) = decision.state.get::<WebhookRow>(&webhook).cloned() else {
        let gone: Vec<u64> = decision.state.queue_of(webhook).map(|row| row.sequence).take(bound).collect();
        gone.into_iter().for_each(|sequence| decision.delete::<DeliveryRow>(&(webhook, sequence)));
        return Ok(());
    };
    let webhooks = decision.state.webhooks.len();
    let queue: Vec<&DeliveryRow> = decision.state.queue_of(webhook).collect();
    let Excess { given_up, dropped, forgotten } = excess(&queue, webhooks, decision.now);
    let mut lost = 0;
    for sequence in given_up.into_iter().take(bound / 2) {
        let Some(delivery) = decision.state.get::<DeliveryRow>(&(webhook, sequence)).cloned() else {
            continue;
        };
        lost += 1;
        decision.put(DeliveryRow { state: DeliveryState::GivenUp, next_attempt_at: None, ..delivery })?;
    }
    for sequence in dropped.into_iter().take(bound / 2) {
        lost += 1;
        decision.delete::<DeliveryRow>(&(webhook, sequence));
    }
    for sequence in forgotten.into_iter().take(bound / 2) {
        decision.delete::<DeliveryRow>(&(webhook, sequence));
    }
    if lost > 0 {
        tracing::error!(
            %webhook, name = %row.name, lost,
            "deliveries of a webhook are given up: they waited for {} days, or too many wait",
            GIVE_UP_SECONDS / (24 * 3600)
        );
        let now = decision.now;
        decision.put(WebhookRow {
            dropped: row.dropped.saturating_add(lost),
            dropped_at: Some(now),
            ..row
        })?;
    }
    Ok(())
}
