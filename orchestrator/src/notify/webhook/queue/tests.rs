//! What is due when, and that nothing is lost or overtaken whatever the receiver does.

use std::collections::BTreeMap;

use chom_protocol::api::webhooks::WebhookKind;
use chom_protocol::{DeliveryId, VpsId, WebhookId};
use uuid::Uuid;

use super::*;
use crate::notify::webhook::rows::{Content, HookEvent};

const BACKOFF: Backoff = Backoff { first_seconds: 5, longest_seconds: 3600 };

fn row(sequence: u64, resource: &str) -> DeliveryRow {
    let event = HookEvent {
        id: DeliveryId::new(Uuid::from_u128(sequence.into())),
        at: UnixMillis(0),
        kind: WebhookKind::Operations,
        name: "operation.running".to_owned(),
        tenant: None,
        vps: None,
        resource: resource.to_owned(),
        content: Content::Body("{}".to_owned()),
    };
    DeliveryRow {
        webhook: WebhookId::new(Uuid::nil()),
        sequence,
        event,
        state: DeliveryState::Waiting,
        queued_at: UnixMillis(0),
        attempts: 0,
        next_attempt_at: None,
        last: None,
    }
}

fn outcome(verdict: Verdict, at: UnixMillis) -> Outcome {
    let attempt = Attempt { at, duration_ms: 0, status: None, answer: String::new() };
    Outcome { attempt, verdict, retry_after_seconds: None }
}

fn sequences(rows: &[DeliveryRow], receiver: Receiver, busy: &[u64], now: u64) -> Vec<u64> {
    let busy = busy.iter().copied().collect();
    due(rows.iter(), receiver, &busy, BACKOFF, UnixMillis(now)).iter().map(|row| row.sequence).collect()
}

#[test]
fn the_oldest_of_each_resource_is_due_and_holds_only_its_own() {
    let mut rows = vec![row(1, "a"), row(2, "a"), row(3, "b"), row(4, "c"), row(5, "c")];
    let fine = Receiver::default();
    assert_eq!(sequences(&rows, fine, &[], 0), [1, 3, 4]);
    assert_eq!(sequences(&rows, fine, &[1, 4], 0), [3], "what is under way holds its resource");
    rows[0].next_attempt_at = Some(UnixMillis(1000));
    assert_eq!(sequences(&rows, fine, &[], 999), [3, 4], "so does what waits for its next try");
    assert_eq!(sequences(&rows, fine, &[], 1000), [1, 3, 4]);
    rows[0].state = DeliveryState::GivenUp;
    assert_eq!(sequences(&rows, fine, &[], 0), [2, 3, 4]);
    // The clock was set back by more than any wait.
    rows[1].next_attempt_at = Some(UnixMillis(10 * 3600 * 1000));
    assert_eq!(sequences(&rows, fine, &[], 0), [2, 3, 4]);
}

#[test]
fn a_receiver_that_is_away_is_asked_one_thing_at_a_time_and_all_goes_out_once_it_is_back() {
    let rows: Vec<DeliveryRow> = (1..=9).map(|number| row(number, &number.to_string())).collect();
    let away = receiver_after(Receiver::default(), "a", &outcome(Verdict::Absent, UnixMillis(0)), BACKOFF);
    assert!(away.failures == 1 && (2500..=5000).contains(&away.until.0), "{away:?}");
    assert_eq!(sequences(&rows, away, &[], 0), Vec::<u64>::new());
    assert_eq!(sequences(&rows, away, &[], 5000), [1]);
    assert_eq!(sequences(&rows, away, &[1], 5000), Vec::<u64>::new());
    let tried = after(&rows[0], &outcome(Verdict::Absent, UnixMillis(5000)), None, BACKOFF);
    assert_eq!((tried.attempts, tried.next_attempt_at), (1, None), "it is the receiver that is waited for");
    let back = receiver_after(away, "a", &outcome(Verdict::Taken, UnixMillis(5000)), BACKOFF);
    assert_eq!(sequences(&rows, back, &[], 5000), [1, 2, 3, 4], "as many as one receiver gets at once");
}

#[test]
fn usage_is_done_once_its_last_records_were_taken() {
    let mut row = row(1, "usage");
    row.event.content = Content::Usage { hour: 7, after: None };
    let taken = outcome(Verdict::Taken, UnixMillis(0));
    let place = |number| Some(("a".parse().unwrap(), VpsId::new(Uuid::from_u128(number))));
    let part = after(&row, &taken, place(1), BACKOFF);
    let expected = Content::Usage { hour: 7, after: place(1) };
    assert_eq!((part.state, &part.event.content), (DeliveryState::Waiting, &expected));
    let refused = after(&part, &outcome(Verdict::Refused, UnixMillis(0)), place(2), BACKOFF);
    assert_eq!(refused.event.content, part.event.content, "what was not taken comes again");
    assert_eq!(after(&part, &taken, None, BACKOFF).state, DeliveryState::Delivered);
}

#[test]
fn waits_double_up_to_the_longest_and_differ() {
    let wait = |seed: &str, tries| BACKOFF.wait_millis(seed, tries);
    for (tries, whole) in
        [(1, 5_000), (2, 10_000), (3, 20_000), (10, 2_560_000), (11, 3_600_000), (400, 3_600_000)]
    {
        let found = wait("a", tries);
        assert!((whole / 2..=whole).contains(&found), "{tries}: {found}");
    }
    let all: BTreeSet<u64> = (0..50).map(|number| wait(&number.to_string(), 5)).collect();
    assert!(all.len() > 40, "{all:?}");
    let asked = Outcome { retry_after_seconds: Some(60), ..outcome(Verdict::Absent, UnixMillis(0)) };
    assert_eq!(receiver_after(Receiver::default(), "a", &asked, BACKOFF).until, UnixMillis(60_000));
    let greedy = Outcome { retry_after_seconds: Some(u64::MAX), ..asked };
    assert_eq!(receiver_after(Receiver::default(), "a", &greedy, BACKOFF).until, UnixMillis(3_600_000));
}

#[test]
fn what_is_too_old_is_given_up_and_what_is_too_much_goes_oldest_first() {
    for webhooks in [1, 2, 100, 500] {
        let (waiting, done) = room(webhooks);
        assert!(webhooks * (waiting + done) <= DELIVERIES_MAX && done > 0, "{webhooks}");
    }
    let (waiting_max, done_max) = room(500);
    let mut rows: Vec<DeliveryRow> = (0..waiting_max as u64 + 2).map(|number| row(number, "a")).collect();
    let found = |rows: &[DeliveryRow], now| excess(&rows.iter().collect::<Vec<_>>(), 500, UnixMillis(now));
    assert_eq!(found(&rows, 0), Excess { dropped: vec![0, 1], ..Excess::default() });
    rows.truncate(2);
    assert_eq!(found(&rows, GIVE_UP_SECONDS * 1000 - 1), Excess::default());
    assert_eq!(found(&rows, GIVE_UP_SECONDS * 1000).given_up, [0, 1]);
    let mut done: Vec<DeliveryRow> = (0..done_max as u64 + 1).map(|number| row(number, "a")).collect();
    done.iter_mut().for_each(|row| row.state = DeliveryState::Delivered);
    assert_eq!(found(&done, 0), Excess { forgotten: vec![0], ..Excess::default() });
    assert_eq!(found(&done[..1], DONE_KEPT_SECONDS * 1000).forgotten, [0]);
}

proptest::proptest! {
    /// Whatever the receiver answers, and wherever we are killed between its answer and our commit: every event arrives, and
    /// of one resource none before the one that happened before it.
    #[test]
    fn every_event_arrives_in_the_order_of_its_resource(
        resources in proptest::collection::vec(0_u8..4, 1..20),
        answers in proptest::collection::vec((0_u8..4, 0_usize..4), 0..60),
    ) {
        let mut rows: Vec<DeliveryRow> =
            (1..).zip(&resources).map(|(sequence, resource)| row(sequence, &resource.to_string())).collect();
        let (mut now, mut receiver) = (UnixMillis(0), Receiver::default());
        let mut arrived: Vec<u64> = Vec::new();
        let mut answers = answers.into_iter();
        for _ in 0..2000 {
            let picked = due(rows.iter(), receiver, &BTreeSet::new(), BACKOFF, now);
            let Some((answer, which)) = (!picked.is_empty()).then(|| answers.next().unwrap_or((0, 0))) else {
                if rows.iter().all(|row| row.state == DeliveryState::Delivered) {
                    break;
                }
                now = now.plus_seconds(600);
                continue;
            };
            let sequence = picked[which % picked.len()].sequence;
            let place = usize::try_from(sequence).unwrap() - 1;
            let verdict = [Verdict::Taken, Verdict::Refused, Verdict::Absent, Verdict::Taken][usize::from(answer)];
            if verdict == Verdict::Taken {
                arrived.push(sequence);
            }
            if answer == 3 {
                // Killed before it was stored: the receiver forgets what it knew of us, we what it said.
                receiver = Receiver::default();
                continue;
            }
            let outcome = outcome(verdict, now);
            rows[place] = after(&rows[place], &outcome, None, BACKOFF);
            receiver = receiver_after(receiver, "a", &outcome, BACKOFF);
        }
        let mut once: Vec<u64> = Vec::new();
        arrived.iter().for_each(|sequence| if !once.contains(sequence) { once.push(*sequence) });
        proptest::prop_assert_eq!(once.len(), rows.len());
        let mut of_resource: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        for sequence in once {
            of_resource.entry(resources[usize::try_from(sequence).unwrap() - 1]).or_default().push(sequence);
        }
        for order in of_resource.values() {
            proptest::prop_assert!(order.is_sorted(), "{order:?}");
        }
    }
}
