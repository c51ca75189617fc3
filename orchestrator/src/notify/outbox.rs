//! The outbox: what is due, what becomes of it after a try, and the task that empties it. A try's result is stored before
//! the next one of the same delivery. A kill between the server's acceptance and that commit makes at most one more copy
//! of a mail, with the same Message-ID; a kill anywhere else makes none and loses none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::vps::Sha256;
use chom_protocol::{NotificationId, UnixMillis};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Notifier;
use super::mail::{Mail, Mailer, SendError};
use super::render::render;
use super::rows::{Delivery, NotificationRow, SmtpRow, THE_SERVER};
use crate::alerts::grouping::News;
use crate::alerts::rows::{AlertRow, GroupRow};
use crate::clock;
use crate::fleet::state::State;
use crate::fleet::{Decision, FleetError};
use crate::store::Revision;

/// Between looks at the outbox: what a mail may wait for besides its server.
const PASS: Duration = Duration::from_millis(500);
/// Transactions under way at once, each for another recipient: a stalled one holds one place.
const TRANSACTIONS_MAX: usize = 16;
/// First wait after a failed try; doubles each time.
const BACKOFF_SECONDS: u64 = 5;
/// Longest wait between tries.
const BACKOFF_SECONDS_MAX: u64 = 3600;
/// A mail that did not get through for so long is given up: longer than a weekend.
const GIVE_UP_SECONDS: u64 = 3 * 24 * 3600;
/// Notifications that are kept to be looked at, at most, once they are done: about 2 KiB each.
const DONE_KEPT_MAX: usize = 1000;
/// How long they are kept.
const DONE_KEPT_SECONDS: u64 = 30 * 24 * 3600;
/// Undelivered notifications that may wait; more are dropped, the oldest first, and said so in the log.
const WAITING_MAX: usize = 2000;

/// Writes a notification of a group into the outbox. The group's first mail becomes its thread.
pub(crate) fn write(
    decision: &mut Decision,
    smtp: &SmtpRow,
    group: &mut GroupRow,
    news: News,
) -> Result<(), FleetError> {
    let id = NotificationId::new(decision.new_id());
    let domain = super::mail::domain(&smtp.from).unwrap_or_else(|| "chom.invalid".to_owned());
    let message_id = format!("<{id}@{domain}>");
    let waiting = |recipient: &String| Delivery {
        recipient: recipient.clone(),
        state: DeliveryState::Waiting,
        attempts: 0,
        last_answer: None,
        next_attempt_at: Some(decision.now),
    };
    let News { firing, resolved, firing_count, resolved_count } = news;
    let row = NotificationRow {
        id,
        message_id: message_id.clone(),
        thread: group.thread.clone(),
        group: group.group.clone(),
        firing,
        resolved,
        firing_count,
        resolved_count,
        created_at: decision.now,
        deliveries: smtp.to.iter().map(waiting).collect(),
    };
    group.thread.get_or_insert(message_id);
    decision.put(row)
}

/// Notifications that need not be kept any more, at most `count`.
pub(crate) fn expired(state: &State, now: UnixMillis, count: usize) -> Vec<NotificationId> {
    let rows = || state.notifications.values().map(|stored| stored.row.as_ref());
    let done = rows().filter(|row| row.is_done()).count();
    let waiting = state.notifications.len() - done;
    let (mut done_over, mut waiting_over) =
        (done.saturating_sub(DONE_KEPT_MAX), waiting.saturating_sub(WAITING_MAX));
    // In order of id, which is that of age.
    let expired = rows().filter(|row| {
        let over = if row.is_done() { &mut done_over } else { &mut waiting_over };
        let too_many = *over > 0;
        *over = over.saturating_sub(1);
        too_many || (row.is_done() && now.seconds_since(row.created_at) >= DONE_KEPT_SECONDS)
    });
    expired.map(|row| row.id).take(count).collect()
}

/// A delivery: which notification, which of its recipients.
type Place = (NotificationId, usize);

/// What is due, the oldest first, at most one delivery for each recipient and none for those in `busy`.
fn due(state: &State, busy: &BTreeSet<String>, now: UnixMillis) -> Vec<Place> {
    let mut taken = busy.clone();
    let mut due = Vec::new();
    for stored in state.notifications.values() {
        for (place, delivery) in stored.row.deliveries.iter().enumerate() {
            let is_due = delivery.state == DeliveryState::Waiting
                && delivery.next_attempt_at.is_none_or(|at| at <= now || is_far(at, now));
            if is_due && taken.len() < TRANSACTIONS_MAX && !taken.contains(&delivery.recipient) {
                taken.insert(delivery.recipient.clone());
                due.push((stored.row.id, place));
            }
        }
    }
    due
}

/// Further off than any backoff: the clock was set back.
fn is_far(at: UnixMillis, now: UnixMillis) -> bool {
    at > now.plus_seconds(BACKOFF_SECONDS_MAX)
}

/// A delivery after a try.
fn after(
    row: &NotificationRow,
    delivery: &Delivery,
    outcome: &Result<String, SendError>,
    now: UnixMillis,
) -> Delivery {
    let attempts = delivery.attempts.saturating_add(1);
    let (state, answer, next) = match outcome {
        Ok(answer) => (DeliveryState::Delivered, answer.clone(), None),
        Err(error) if error.is_permanent() => (DeliveryState::GivenUp, error.to_string(), None),
        Err(error) if now.seconds_since(row.created_at) >= GIVE_UP_SECONDS => {
            let days = GIVE_UP_SECONDS / (24 * 3600);
            (
                DeliveryState::GivenUp,
                format!("given up after {days} days and {attempts} tries: {error}"),
                None,
            )
        }
        Err(error) => {
            let wait = backoff_millis(&row.message_id, &delivery.recipient, attempts);
            (DeliveryState::Waiting, error.to_string(), Some(UnixMillis(now.0 + wait)))
        }
    };
    Delivery {
        recipient: delivery.recipient.clone(),
        state,
        attempts,
        last_answer: Some(answer),
        next_attempt_at: next,
    }
}

/// Exponential, and spread over the upper half, so that what failed together does not come back together.
fn backoff_millis(message_id: &str, recipient: &str, attempts: u32) -> u64 {
    let doublings = attempts.saturating_sub(1).min(20);
    let whole = (BACKOFF_SECONDS << doublings).min(BACKOFF_SECONDS_MAX) * 1000;
    let digest = Sha256::of(format!("{message_id} {recipient} {attempts}").as_bytes());
    let share = digest.0.iter().take(4).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    whole / 2 + (((whole / 2) * share) >> 32)
}

/// The mail of a delivery, as alerts are now.
pub(super) fn mail(state: &State, smtp: &SmtpRow, row: &NotificationRow, recipient: &str) -> Mail {
    let rendered = render(row, |id| state.get::<AlertRow>(id));
    Mail {
        from: smtp.from.clone(),
        to: recipient.to_owned(),
        message_id: row.message_id.clone(),
        thread: row.thread.clone(),
        date: row.created_at,
        subject: rendered.subject,
        body: rendered.body,
    }
}

impl Notifier {
    /// Empties the outbox until stopped. Transactions under way are then left: they are tried again after the next start.
    pub async fn deliver(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PASS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut busy = BTreeSet::new();
        let mut under_way = FuturesUnordered::new();
        let mut mailer = Cached::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(recipient) = under_way.next(), if !under_way.is_empty() => { // cancel-safe
                    busy.remove(&recipient);
                }
                _ = ticks.tick() => {}
            }
            let (state, now) = (self.fleet().state(), clock::now());
            let places = due(&state, &busy, now);
            if places.is_empty() {
                continue;
            }
            let Some(stored) = state.smtp.get(&THE_SERVER) else { continue };
            let ready = mailer.of(self, &stored.row, stored.revision);
            for (id, place) in places {
                let Some(row) = state.get::<NotificationRow>(&id) else { continue };
                let Some(delivery) = row.deliveries.get(place) else { continue };
                busy.insert(delivery.recipient.clone());
                let mail = mail(&state, &stored.row, row, &delivery.recipient);
                under_way.push(self.attempt(ready.clone(), id, mail));
            }
        }
    }

    /// One try, and its result stored. Gives the recipient.
    async fn attempt(
        &self,
        mailer: Result<Arc<Mailer>, SendError>,
        id: NotificationId,
        mail: Mail,
    ) -> String {
        let outcome = match mailer {
            Ok(mailer) => mailer.send(&mail).await,
            Err(error) => Err(error),
        };
        say(id, &mail.to, &outcome);
        let recipient = mail.to;
        let stored = {
            let recipient = recipient.clone();
            self.fleet()
                .decide("chom".into(), move |decision| record(decision, id, &recipient, &outcome))
                .await
        };
        if let Err(error) = stored {
            tracing::error!(notification = %id, %error, "cannot store how a delivery went; it may be sent once more");
        }
        recipient
    }
}

fn say(notification: NotificationId, recipient: &str, outcome: &Result<String, SendError>) {
    match outcome {
        Ok(answer) => tracing::info!(%notification, recipient, answer, "mail delivered"),
        Err(error) if error.is_permanent() => {
            tracing::error!(%notification, recipient, %error, "mail refused for good");
        }
        Err(error) => {
            tracing::warn!(%notification, recipient, %error, "mail not delivered; tried again later");
        }
    }
}

fn record(
    decision: &mut Decision,
    id: NotificationId,
    recipient: &str,
    outcome: &Result<String, SendError>,
) -> Result<(), FleetError> {
    let Some(row) = decision.state.get::<NotificationRow>(&id) else { return Ok(()) };
    let mut changed = row.clone();
    let waits = |delivery: &&mut Delivery| {
        delivery.recipient == recipient && delivery.state == DeliveryState::Waiting
    };
    let Some(delivery) = changed.deliveries.iter_mut().find(waits) else { return Ok(()) };
    *delivery = after(row, delivery, outcome, decision.now);
    decision.put(changed)
}

/// The mailer of the settings as they are.
#[derive(Default)]
struct Cached {
    revision: Option<Revision>,
    mailer: Option<Result<Arc<Mailer>, SendError>>,
}

impl Cached {
    fn of(
        &mut self,
        notifier: &Notifier,
        row: &SmtpRow,
        revision: Revision,
    ) -> Result<Arc<Mailer>, SendError> {
        if self.revision != Some(revision) {
            self.mailer = None;
            self.revision = Some(revision);
        }
        self.mailer.get_or_insert_with(|| notifier.mailer(row).map(Arc::new)).clone()
    }
}

#[cfg(test)]
mod tests;
