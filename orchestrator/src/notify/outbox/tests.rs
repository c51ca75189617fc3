//! What is due and what becomes of it, without a server.

use chom_protocol::AlertId;
use uuid::Uuid;

use super::*;
use crate::alerts::rows::{Group, Rule};
use crate::notify::mail::Phase;

const DAY: u64 = 24 * 3600;

fn notification(number: u128, recipients: &[&str], created_at: u64) -> NotificationRow {
    let waiting = |recipient: &&str| Delivery {
        recipient: (*recipient).to_owned(),
        state: DeliveryState::Waiting,
        attempts: 0,
        last_answer: None,
        next_attempt_at: Some(UnixMillis(created_at * 1000)),
    };
    NotificationRow {
        id: NotificationId::new(Uuid::from_u128(number)),
        message_id: format!("<{number}@example.com>"),
        thread: None,
        group: Group { rule: Rule::HostUnreachable, region: None },
        firing: vec![AlertId::new(Uuid::from_u128(1))],
        resolved: Vec::new(),
        firing_count: 1,
        resolved_count: 0,
        created_at: UnixMillis(created_at * 1000),
        deliveries: recipients.iter().map(waiting).collect(),
    }
}

fn state(rows: impl IntoIterator<Item = NotificationRow>) -> State {
    let mut state = State::default();
    for row in rows {
        state.insert(row, Revision(1));
    }
    state
}

fn refused(code: u16) -> Result<String, SendError> {
    let (server, phase) = ("mail:25".to_owned(), Phase::Recipient);
    Err(SendError::Refused { server, phase, code, answer: format!("{code} no"), advice: String::new() })
}

fn try_once(outcome: &Result<String, SendError>, at: u64) -> Delivery {
    let row = notification(1, &["a@example.com"], 0);
    after(&row, &row.deliveries[0], outcome, UnixMillis(at * 1000))
}

#[test]
fn what_a_try_says_decides_what_becomes_of_a_delivery() {
    let late = Err(SendError::Late { server: "m".into(), phase: Phase::Data, advice: String::new() });
    let login = Err(SendError::Refused {
        server: "m".into(),
        phase: Phase::Auth,
        code: 535,
        answer: "535 no".into(),
        advice: String::new(),
    });
    for (outcome, at, expected) in [
        (Ok("250 ok".to_owned()), 0, DeliveryState::Delivered),
        (refused(550), 0, DeliveryState::GivenUp),
        (refused(450), 0, DeliveryState::Waiting),
        (refused(421), 0, DeliveryState::Waiting),
        (refused(530), 0, DeliveryState::Waiting),
        (login, 0, DeliveryState::Waiting),
        (late.clone(), 0, DeliveryState::Waiting),
        (late.clone(), 3 * DAY - 1, DeliveryState::Waiting),
        (late, 3 * DAY, DeliveryState::GivenUp),
        (refused(450), 3 * DAY, DeliveryState::GivenUp),
    ] {
        let delivery = try_once(&outcome, at);
        assert_eq!(delivery.state, expected, "{outcome:?} at {at}");
        assert_eq!(delivery.next_attempt_at.is_some(), expected == DeliveryState::Waiting);
        assert_eq!(delivery.attempts, 1);
    }
    let given_up = try_once(&refused(550), 0).last_answer.unwrap();
    assert!(given_up.contains("550 no"), "the server's words are shown: {given_up}");
}

#[test]
fn waits_double_up_to_an_hour_and_are_spread() {
    for attempts in 1..40 {
        let whole = (BACKOFF_SECONDS << (attempts - 1).min(20)).min(BACKOFF_SECONDS_MAX) * 1000;
        let wait = backoff_millis("<1@x>", "a@x", attempts);
        assert!((whole / 2..=whole).contains(&wait), "{attempts}: {wait}");
    }
    assert_ne!(backoff_millis("<1@x>", "a@x", 5), backoff_millis("<1@x>", "b@x", 5));
}

#[test]
fn one_delivery_for_each_recipient_at_a_time_the_oldest_first() {
    let state = state([notification(1, &["a@x", "b@x"], 0), notification(2, &["a@x", "c@x"], 0)]);
    let found = due(&state, &BTreeSet::from(["b@x".to_owned()]), UnixMillis(0));
    let found: Vec<(u128, usize)> =
        found.into_iter().map(|(id, place)| (id.uuid().as_u128(), place)).collect();
    assert_eq!(found, [(1, 0), (2, 1)], "b is busy; a gets its older one");
}

#[test]
fn a_delivery_waits_for_its_time_but_not_for_a_clock_that_was_set_back() {
    let mut row = notification(1, &["a@x"], 0);
    row.deliveries[0].next_attempt_at = Some(UnixMillis(100_000));
    let state = state([row]);
    let count = |now| due(&state, &BTreeSet::new(), UnixMillis(now)).len();
    assert_eq!((count(99_999), count(100_000)), (0, 1));
    let mut row = notification(1, &["a@x"], 0);
    row.deliveries[0].next_attempt_at = Some(UnixMillis(10_000_000_000));
    assert_eq!(due(&self::state([row]), &BTreeSet::new(), UnixMillis(0)).len(), 1);
}

#[test]
fn transactions_at_once_are_bounded() {
    let recipients: Vec<String> = (0..50).map(|n| format!("a{n}@x")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let state = state([notification(1, &recipients, 0)]);
    assert_eq!(due(&state, &BTreeSet::new(), UnixMillis(0)).len(), TRANSACTIONS_MAX);
}

#[test]
fn done_notifications_are_kept_for_a_while_and_waiting_ones_until_done() {
    let mut done = notification(1, &["a@x"], 0);
    done.deliveries[0].state = DeliveryState::Delivered;
    let state = state([done, notification(2, &["a@x"], 0)]);
    assert_eq!(expired(&state, UnixMillis(29 * DAY * 1000), 8).len(), 0);
    let expired = expired(&state, UnixMillis(31 * DAY * 1000), 8);
    assert_eq!(expired, [NotificationId::new(Uuid::from_u128(1))]);
}

#[test]
fn more_done_ones_than_are_kept_go_the_oldest_first() {
    let all = (0..DONE_KEPT_MAX as u128 + 3).map(|number| {
        let mut row = notification(number, &["a@x"], 0);
        row.deliveries[0].state = DeliveryState::GivenUp;
        row
    });
    let expired = expired(&state(all), UnixMillis(0), 8);
    assert_eq!(expired.iter().map(|id| id.uuid().as_u128()).collect::<Vec<_>>(), [0, 1, 2]);
}
