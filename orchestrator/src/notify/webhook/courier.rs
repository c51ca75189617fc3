//! The task that spreads the journal over the queues and empties them. A try's result is stored before the next one of the
//! same delivery: a kill between the receiver's answer and that commit makes one more try under the same id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::WebhookId;
use chom_protocol::api::alerts::DeliveryState;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::event::hears;
use super::post::{Letter, Poster};
use super::queue::{self, Backoff, Outcome, PER_WEBHOOK_MAX, Receiver};
use super::rows::{Content, DeliveryRow, HookEvent, JournalRow, WebhookRow};
use crate::clock;
use crate::fleet::state::{State, Table};
use crate::fleet::{Decision, Fleet, FleetError};
use crate::usage::Accountant;
use crate::usage::archive::RecordKey;

/// Between looks at the queues: what an event may wait for besides its receiver.
const PASS: Duration = Duration::from_millis(250);
/// Posts under way at once to all receivers: a stalled one holds its own few.
const POSTS_MAX: usize = 64;
/// Deliveries that one commit writes; well within a commit's 128 changes and its bytes.
pub(super) const DELIVERIES_PER_COMMIT_MAX: usize = 64;
/// Commits of one pass, so that a storm does not hold up mutations; the next pass goes on.
const COMMITS_PER_PASS_MAX: usize = 16;
/// Events of one row of the journal together: half of what a value may have.
const JOURNAL_ROW_BYTES_MAX: usize = 32 * 1024;
/// What is stored of an event besides its body: ids, names, its resource.
const EVENT_BYTES_BESIDES_BODY: usize = 512;
/// Between looks at whether queues are too long or too old.
const TIDY_EVERY: Duration = Duration::from_secs(10);
/// Rows of the journal. They are spread within a second; so many mean that nothing spreads them.
const JOURNAL_ROWS_MAX: usize = 20_000;

/// The rows of the journal for what one decision tells.
pub(crate) fn journal(state: &State, events: Vec<HookEvent>) -> Vec<JournalRow> {
    let mut rows: Vec<JournalRow> = Vec::new();
    let mut bytes = usize::MAX;
    let mut sequence = state.journal.get_max().map_or(1, |(last, _)| last + 1);
    if !events.is_empty() && state.journal.len() >= JOURNAL_ROWS_MAX {
        tracing::error!(
            events = events.len(),
            "webhooks are not told of these events: {JOURNAL_ROWS_MAX} rows of the journal wait already"
        );
        return rows;
    }
    for event in events {
        let body = match &event.content {
            Content::Body(body) => body.len(),
            Content::Usage { .. } => 0,
        };
        let size = body + EVENT_BYTES_BESIDES_BODY;
        if bytes.saturating_add(size) > JOURNAL_ROW_BYTES_MAX {
            rows.push(JournalRow { sequence, events: Vec::new(), spread_to: None });
            (bytes, sequence) = (0, sequence + 1);
        }
        bytes += size;
        if let Some(row) = rows.last_mut() {
            row.events.push(event);
        }
    }
    rows
}

/// Spreads the oldest row of the journal over the queues, as far as one commit goes. Gives whether more is left.
fn spread(decision: &mut Decision) -> Result<bool, FleetError> {
    let Some((_, stored)) = decision.state.journal.get_min().cloned() else { return Ok(false) };
    let mut row = stored.row.as_ref().clone();
    let webhooks: Vec<Arc<WebhookRow>> =
        decision.state.webhooks.values().map(|stored| Arc::clone(&stored.row)).collect();
    let mut left = DELIVERIES_PER_COMMIT_MAX;
    while let Some(event) = row.events.first() {
        let behind = |webhook: &&Arc<WebhookRow>| row.spread_to.is_none_or(|last| webhook.id > last);
        let heard: Vec<_> = webhooks.iter().filter(behind).filter(|webhook| hears(webhook, event)).collect();
        for webhook in heard.iter().take(left) {
            let sequence = decision.state.queue_of(webhook.id).next_back().map_or(1, |row| row.sequence + 1);
            decision.put(DeliveryRow {
                webhook: webhook.id,
                sequence,
                event: event.clone(),
                state: DeliveryState::Waiting,
                queued_at: decision.now,
                attempts: 0,
                next_attempt_at: None,
                last: None,
            })?;
        }
        if heard.len() > left {
            row.spread_to = left
                .checked_sub(1)
                .and_then(|place| heard.get(place))
                .map(|webhook| webhook.id)
                .or(row.spread_to);
            decision.put(row)?;
            return Ok(true);
        }
        left -= heard.len();
        row.events.remove(0);
        row.spread_to = None;
    }
    decision.delete::<JournalRow>(&row.sequence);
    Ok(!decision.state.journal.is_empty())
}

/// Tells webhooks. Clones are handles to the same.
#[derive(Clone)]
pub struct Courier(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    poster: Poster,
    accountant: Accountant,
    backoff: Backoff,
}

impl Courier {
    /// For one fleet; `accountant` has the usage that is told.
    #[must_use]
    pub fn new(fleet: Fleet, poster: Poster, accountant: Accountant, backoff: Backoff) -> Self {
        Self(Arc::new(Inner { fleet, poster, accountant, backoff }))
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// Spreads and posts until stopped. Posts under way are then left: they are tried again after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PASS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut busy: BTreeMap<WebhookId, BTreeSet<u64>> = BTreeMap::new();
        let mut receivers: BTreeMap<WebhookId, Receiver> = BTreeMap::new();
        let mut under_way = FuturesUnordered::new();
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((webhook, sequence, outcome)) = under_way.next(), if !under_way.is_empty() => { // cancel-safe
                    ended(webhook, sequence, &outcome, &mut busy, &mut receivers, self.0.backoff);
                }
                _ = ticks.tick() => said(self.spread_all().await),
                _ = tidy.tick() => said(self.tidy().await),
            }
            let (state, now) = (self.fleet().state(), clock::now());
            receivers.retain(|webhook, _| state.webhooks.contains_key(webhook));
            for stored in state.webhooks.values().filter(|stored| stored.row.enabled) {
                let row = &stored.row;
                let of_row = busy.entry(row.id).or_default();
                let receiver = receivers.get(&row.id).copied().unwrap_or_default();
                let due = queue::due(state.queue_of(row.id), receiver, of_row, self.0.backoff, now);
                for delivery in due.into_iter().take(POSTS_MAX.saturating_sub(under_way.len())) {
                    of_row.insert(delivery.sequence);
                    under_way.push(self.clone().attempt(Arc::clone(row), delivery.clone()));
                }
            }
            busy.retain(|_, sequences| !sequences.is_empty());
        }
    }

    async fn spread_all(&self) -> Result<(), FleetError> {
        for _ in 0..COMMITS_PER_PASS_MAX {
            if self.fleet().state().journal.is_empty() {
                break;
            }
            self.fleet().decide("chom".into(), spread).await?;
        }
        Ok(())
    }

    /// One try, and its result stored.
    async fn attempt(self, webhook: Arc<WebhookRow>, row: DeliveryRow) -> (WebhookId, u64, Outcome) {
        let (outcome, left) = match self.told(&webhook, &row.event).await {
            Ok(Told { id, body, left }) => match self.letter(&webhook, id, body) {
                Ok(letter) => (self.0.poster.post(&letter).await, left),
                Err(problem) => (Outcome::not_sent(clock::now(), problem), None),
            },
            Err(Silence::Nothing) => (Outcome::nothing_to_send(clock::now()), None),
            Err(Silence::Problem(problem)) => (Outcome::not_sent(clock::now(), problem), None),
        };
        self.store(&row, &outcome, left).await;
        (webhook.id, row.sequence, outcome)
    }

    /// What a webhook is told of an event now.
    async fn told(&self, webhook: &WebhookRow, event: &HookEvent) -> Result<Told, Silence> {
        let (hour, after) = match &event.content {
            Content::Body(body) => {
                return Ok(Told { id: event.id.to_string(), body: body.clone(), left: None });
            }
            Content::Usage { hour, after } => (*hour, after.clone()),
        };
        let part = self.0.accountant.post(hour, after, webhook.tenant.clone()).await;
        let part = part.map_err(|error| Silence::Problem(crate::chain(&error)))?;
        // The VPS of the first record: the same in every try, and after a replay.
        let Some(first) = part.records.first() else { return Err(Silence::Nothing) };
        let id = format!("{}-{}", event.id, first.vps);
        let data = serde_json::json!({ "hour": first.hour, "records": part.records });
        Ok(Told { id, body: super::event::body(&event.name, event.at, &data), left: part.next })
    }

    async fn store(&self, row: &DeliveryRow, outcome: &Outcome, left: Option<RecordKey>) {
        let (key, tried) = (row.id(), row.clone());
        let (backoff, outcome) = (self.0.backoff, outcome.clone());
        let change = move |decision: &mut Decision| {
            let Some(now) = decision.state.get::<DeliveryRow>(&key) else { return Ok(()) };
            // Sent again or given up meanwhile: that stands.
            if now.state != DeliveryState::Waiting
                || now.event != tried.event
                || now.queued_at != tried.queued_at
            {
                return Ok(());
            }
            let after = queue::after(now, &outcome, left, backoff);
            decision.put(after)
        };
        if let Err(error) = self.fleet().decide("chom".into(), change).await {
            tracing::error!(webhook = %row.webhook, %error, "cannot store how a delivery went; it may be sent once more");
        }
    }

    /// A body with what it takes to be verified.
    fn letter(&self, webhook: &WebhookRow, id: String, body: String) -> Result<Letter, String> {
        let key = WebhookRow::key(&webhook.id);
        let open = |sealed| self.fleet().master().open(&key, sealed).map_err(|error| error.to_string());
        let mut secrets = vec![open(&webhook.secret)?];
        let old = webhook.old_secret.as_ref().filter(|old| old.until > clock::now());
        secrets.extend(old.map(|old| open(&old.secret)).transpose()?);
        Ok(Letter { url: webhook.url.clone(), of_tenant: webhook.tenant.is_some(), id, secrets, body })
    }

    /// Posts an event that is in no queue, now.
    ///
    /// # Errors
    /// When its secret does not open.
    pub(crate) async fn test(
        &self,
        webhook: &WebhookRow,
        id: chom_protocol::DeliveryId,
    ) -> Result<Outcome, String> {
        let data = serde_json::json!({ "webhook": webhook.id, "name": webhook.name });
        let body = super::event::body("webhook.test", clock::now(), &data);
        Ok(self.0.poster.post(&self.letter(webhook, id.to_string(), body)?).await)
    }
}

/// What a webhook is told: `webhook-id`, body, and of usage behind which record it goes on.
struct Told {
    id: String,
    body: String,
    left: Option<RecordKey>,
}

/// Why it is told nothing.
enum Silence {
    Nothing,
    Problem(String),
}

fn said(outcome: Result<(), FleetError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "cannot keep the queues of webhooks; the next pass tries again");
    }
}

/// A try is over: its place is free, and its receiver is there or is not.
fn ended(
    webhook: WebhookId,
    sequence: u64,
    outcome: &Outcome,
    busy: &mut BTreeMap<WebhookId, BTreeSet<u64>>,
    receivers: &mut BTreeMap<WebhookId, Receiver>,
    backoff: Backoff,
) {
    if let Some(sequences) = busy.get_mut(&webhook) {
        sequences.remove(&sequence);
    }
    let before = receivers.get(&webhook).copied().unwrap_or_default();
    let after = queue::receiver_after(before, &webhook.to_string(), outcome, backoff);
    if before.failures == 0 && after.failures > 0 {
        let problem = &outcome.attempt.answer;
        tracing::warn!(%webhook, problem, "the receiver of a webhook does not answer; tried again later");
    }
    receivers.insert(webhook, after);
}

const _: () = assert!(PER_WEBHOOK_MAX <= POSTS_MAX);

#[cfg(test)]
mod tests;
