//! ◆ The queue of a webhook: what is due, what becomes of a delivery after a try, what is kept and what is dropped. A resource's
//! deliveries go out in order, each after the one before it was taken or given up; other resources do not wait for it.

use std::collections::BTreeSet;

use chom_protocol::UnixMillis;
use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::vps::Sha256;

use super::rows::{Attempt, Content, DeliveryRow};
use crate::usage::archive::RecordKey;

/// Deliveries under way to one receiver at once: a slow one is not asked more of.
pub(crate) const PER_WEBHOOK_MAX: usize = 4;
/// A delivery that was not taken for so long is given up: longer than a weekend.
pub(crate) const GIVE_UP_SECONDS: u64 = 3 * 24 * 3600;
/// How long a delivery can be looked up and sent again once it is done.
pub(crate) const DONE_KEPT_SECONDS: u64 = 7 * 24 * 3600;
/// Deliveries that are kept in all queues together: about 2.5 KiB each in memory, 125 MB.
pub(crate) const DELIVERIES_MAX: usize = 50_000;
/// Deliveries that may wait for one webhook.
pub(crate) const WAITING_MAX: usize = 10_000;
/// Deliveries of one webhook that are kept once they are done.
pub(crate) const DONE_MAX: usize = 500;
/// Share of [`DELIVERIES_MAX`] that is for what is done: one in so many.
const DONE_SHARE: usize = 4;

/// How long is waited after tries in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first; doubles each time.
    pub first_seconds: u64,
    /// At most.
    pub longest_seconds: u64,
}

impl Backoff {
    /// The wait after so many tries: exponential, spread over the upper half, so that what failed together does not come
    /// back together. `seed` tells what waits from what else does.
    pub(crate) fn wait_millis(self, seed: &str, tries: u32) -> u64 {
        let doublings = tries.saturating_sub(1).min(20);
        let whole = (self.first_seconds << doublings).min(self.longest_seconds) * 1000;
        let digest = Sha256::of(format!("{seed} {tries}").as_bytes());
        let share = digest.0.iter().take(4).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        whole / 2 + (((whole / 2) * share) >> 32)
    }
}

/// How a receiver as a whole is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// Tries in a row that no receiver answered.
    pub(crate) failures: u32,
    /// It is left alone until then.
    pub(crate) until: UnixMillis,
}

/// What is due of one queue: the oldest delivery of each resource whose time has come. While nobody answers, one at a time.
pub(crate) fn due<'a>(
    queue: impl Iterator<Item = &'a DeliveryRow>,
    receiver: Receiver,
    busy: &BTreeSet<u64>,
    backoff: Backoff,
    now: UnixMillis,
) -> Vec<&'a DeliveryRow> {
    let far = now.plus_seconds(backoff.longest_seconds);
    // Further off than any wait: the clock was set back.
    let has_come = |at: UnixMillis| at <= now || at > far;
    let room = if receiver.failures > 0 { 1 } else { PER_WEBHOOK_MAX }.saturating_sub(busy.len());
    if room == 0 || !has_come(receiver.until) {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut due = Vec::new();
    for row in queue.filter(|row| row.state == DeliveryState::Waiting) {
        if due.len() == room {
            break;
        }
        let is_first = seen.insert(row.event.resource.as_str());
        if is_first && !busy.contains(&row.sequence) && row.next_attempt_at.is_none_or(has_come) {
            due.push(row);
        }
    }
    due
}

/// What a receiver made of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It took it: a status from 200 to 299.
    Taken,
    /// It was there and did not take it.
    Refused,
    /// It was not there, or wants to be left alone: nothing else is taken now either.
    Absent,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// As it is shown.
    pub(crate) attempt: Attempt,
    /// What it means.
    pub(crate) verdict: Verdict,
    /// For how long the receiver asks to be left alone (`Retry-After`).
    pub(crate) retry_after_seconds: Option<u64>,
}

impl Outcome {
    /// Nothing was sent: what is in the way is ours, and in the way of all that waits with it.
    pub(crate) fn not_sent(at: UnixMillis, problem: String) -> Self {
        let attempt = Attempt { at, duration_ms: 0, status: None, answer: problem };
        Self { attempt, verdict: Verdict::Absent, retry_after_seconds: None }
    }

    /// There is nothing to send, and so nothing to wait for.
    pub(crate) fn nothing_to_send(at: UnixMillis) -> Self {
        let answer = "nothing to send: there are no records".to_owned();
        Self {
            attempt: Attempt { at, duration_ms: 0, status: None, answer },
            verdict: Verdict::Taken,
            retry_after_seconds: None,
        }
    }

    /// When the next try may be after a wait of so long, or of as long as the receiver asks for.
    fn again(&self, wait_millis: u64, backoff: Backoff) -> UnixMillis {
        let asked = self.retry_after_seconds.unwrap_or_default().min(backoff.longest_seconds) * 1000;
        UnixMillis(self.attempt.at.0 + self.attempt.duration_ms + wait_millis.max(asked))
    }
}

/// A delivery after a try. `left` says of usage behind which record those are that were not sent yet.
pub(crate) fn after(
    row: &DeliveryRow,
    outcome: &Outcome,
    left: Option<RecordKey>,
    backoff: Backoff,
) -> DeliveryRow {
    let mut new = row.clone();
    new.attempts = row.attempts.saturating_add(1);
    new.last = Some(outcome.attempt.clone());
    new.next_attempt_at = None;
    match outcome.verdict {
        Verdict::Taken => match (&mut new.event.content, left) {
            (Content::Usage { after, .. }, left @ Some(_)) => *after = left,
            (Content::Usage { .. } | Content::Body(_), _) => new.state = DeliveryState::Delivered,
        },
        Verdict::Refused => {
            let wait = backoff.wait_millis(&row.event.id.to_string(), new.attempts);
            new.next_attempt_at = Some(outcome.again(wait, backoff));
        }
        // It is the receiver that is waited for.
        Verdict::Absent => {}
    }
    new
}

/// The receiver after a try.
pub(crate) fn receiver_after(
    receiver: Receiver,
    seed: &str,
    outcome: &Outcome,
    backoff: Backoff,
) -> Receiver {
    if outcome.verdict != Verdict::Absent {
        return Receiver::default();
    }
    let failures = receiver.failures.saturating_add(1);
    Receiver { failures, until: outcome.again(backoff.wait_millis(seed, failures), backoff) }
}

/// How many deliveries of one of so many webhooks may wait, and how many that are done are kept.
pub(crate) fn room(webhooks: usize) -> (usize, usize) {
    let share = DELIVERIES_MAX / webhooks.max(1);
    let done = (share / DONE_SHARE).min(DONE_MAX);
    ((share - done).min(WAITING_MAX), done)
}

/// What is to be taken out of a queue: the oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Waiting for too long: given up, and kept to be looked at.
    pub(crate) given_up: Vec<u64>,
    /// Too many wait: gone.
    pub(crate) dropped: Vec<u64>,
    /// Done, and not kept any longer.
    pub(crate) forgotten: Vec<u64>,
}

/// What is too old or too much in a queue.
pub(crate) fn excess(queue: &[&DeliveryRow], webhooks: usize, now: UnixMillis) -> Excess {
    let (waiting_max, done_max) = room(webhooks);
    let is_waiting = |row: &&&DeliveryRow| row.state == DeliveryState::Waiting;
    let waiting = queue.iter().filter(is_waiting).count();
    let done = queue.len() - waiting;
    let (mut waiting_over, mut done_over) =
        (waiting.saturating_sub(waiting_max), done.saturating_sub(done_max));
    let mut excess = Excess::default();
    for row in queue {
        let (is_waiting, age) = (is_waiting(&row), now.seconds_since(row.queued_at));
        let over = if is_waiting { &mut waiting_over } else { &mut done_over };
        if *over > 0 {
            *over -= 1;
            if is_waiting { &mut excess.dropped } else { &mut excess.forgotten }.push(row.sequence);
        } else if is_waiting && age >= GIVE_UP_SECONDS {
            excess.given_up.push(row.sequence);
        } else if !is_waiting && age >= DONE_KEPT_SECONDS {
            excess.forgotten.push(row.sequence);
        }
    }
    excess
}

#[cfg(test)]
mod tests;
