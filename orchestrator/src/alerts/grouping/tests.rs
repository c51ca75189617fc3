//! Each line of Alertmanager's truth table, and its timers, as a test.

use chom_protocol::api::alerts::Severity;
use expect_test::{Expect, expect};
use uuid::Uuid;

use super::super::rows::{Rule, Subject};
use super::*;

const SETTINGS: GroupSettings =
    GroupSettings { group_wait_seconds: 30, group_interval_seconds: 300, repeat_interval_seconds: 4 * 3600 };

fn at(seconds: u64) -> UnixMillis {
    UnixMillis(seconds * 1000)
}

/// `3F60`: alert 3 fires since second 60. `3R60-90`: it fired then and resolved at 90. `3P60-90`: and is pending again.
fn alert(text: &str) -> AlertRow {
    let kind = text.find(['F', 'R', 'P']).unwrap();
    let (number, times) = (text[..kind].parse().unwrap(), &text[kind + 1..]);
    let (since, resolved) = times.split_once('-').map_or((times, None), |(a, b)| (a, Some(b)));
    let since = at(since.parse().unwrap());
    AlertRow {
        id: AlertId::new(Uuid::from_u128(number)),
        subject: Subject { rule: Rule::HostUnreachable, host: None, vps: None, label: number.to_string() },
        region: None,
        severity: Severity::Critical,
        summary: String::new(),
        state: match &text[kind..=kind] {
            "F" => AlertState::Firing,
            "R" => AlertState::Resolved,
            _ => AlertState::Pending,
        },
        since,
        firing_since: Some(since),
        resolved_at: resolved.map(|seconds| at(seconds.parse().unwrap())),
        last_seen: since,
    }
}

fn group(sent: Option<(u64, bool)>) -> GroupRow {
    GroupRow {
        group: Group { rule: Rule::HostUnreachable, region: None },
        next_flush_at: at(0),
        last_sent_at: sent.map(|(seconds, _)| at(seconds)),
        last_sent_firing: sent.is_some_and(|(_, firing)| firing),
        thread: None,
    }
}

/// What is told of alerts at a time, after what was last sent when, with firing ones or not.
fn check(sent: Option<(u64, bool)>, alerts: &str, now: u64, expected: Expect) {
    let alerts: Vec<AlertRow> = alerts.split_whitespace().map(alert).collect();
    let flush = flush(SETTINGS, &group(sent), alerts.iter(), true, at(now));
    let ids =
        |ids: &[AlertId]| ids.iter().map(|id| id.uuid().as_u128().to_string()).collect::<Vec<_>>().join(" ");
    let news = flush.news.map_or("nothing".to_owned(), |news| {
        format!("firing [{}] resolved [{}]", ids(&news.firing), ids(&news.resolved))
    });
    let row = match flush.row {
        None => "over".to_owned(),
        Some(row) => format!("next at {}", row.next_flush_at.0 / 1000),
    };
    expected.assert_eq(&format!("{news}, {row}"));
}

#[test]
fn nothing_sent_yet_and_something_fires_sends() {
    check(None, "1F60 2F61", 90, expect!["firing [1 2] resolved [], next at 390"]);
}

#[test]
fn nothing_sent_yet_and_nothing_fires_sends_nothing() {
    check(None, "1R60-80", 90, expect!["nothing, over"]);
}

#[test]
fn resolved_before_group_wait_is_not_told_even_beside_one_that_fires() {
    check(None, "1R60-80 2F70", 90, expect!["firing [2] resolved [], next at 390"]);
}

#[test]
fn a_newly_firing_alert_sends() {
    check(Some((90, true)), "1F60 2F100", 390, expect!["firing [1 2] resolved [], next at 690"]);
}

#[test]
fn nothing_firing_sends_if_the_last_mail_had_firing_ones() {
    check(Some((90, true)), "1R60-100", 390, expect!["firing [] resolved [1], over"]);
}

#[test]
fn nothing_firing_sends_nothing_if_the_last_mail_had_none() {
    check(Some((90, false)), "1R60-80", 390, expect!["nothing, over"]);
}

#[test]
fn a_newly_resolved_alert_sends_while_others_fire() {
    check(Some((90, true)), "1R60-100 2F60", 390, expect!["firing [2] resolved [1], next at 690"]);
}

#[test]
fn nothing_new_sends_nothing_before_the_repeat_interval() {
    check(Some((90, true)), "1F60", 390, expect!["nothing, next at 690"]);
    check(Some((90, true)), "1F60", 14_489, expect!["nothing, next at 14789"]);
}

#[test]
fn the_repeat_interval_sends_again() {
    check(Some((90, true)), "1F60", 14_490, expect!["firing [1] resolved [], next at 14790"]);
}

#[test]
fn what_resolved_and_was_told_is_not_told_again() {
    check(Some((390, true)), "1R60-100 2F60", 690, expect!["nothing, next at 990"]);
}

#[test]
fn what_fired_and_resolved_between_looks_is_told_to_nobody() {
    check(Some((90, true)), "1F60 2R100-200", 390, expect!["nothing, next at 690"]);
}

#[test]
fn pending_again_is_resolved_until_it_fires() {
    check(Some((90, true)), "1P60-100", 390, expect!["firing [] resolved [1], over"]);
    check(Some((90, true)), "1F60", 391, expect!["nothing, next at 691"]);
}

#[test]
fn a_group_begins_with_its_wait_and_is_looked_at_each_interval() {
    let row = begin(SETTINGS, Group { rule: Rule::HostUnreachable, region: None }, at(60));
    assert!(!is_due(SETTINGS, &row, at(89)));
    assert!(is_due(SETTINGS, &row, at(90)));
    let none = GroupSettings { group_wait_seconds: 0, ..SETTINGS };
    let row = begin(none, row.group, at(60));
    assert!(is_due(none, &row, at(60)), "the demonstration waits for nobody");
}

#[test]
fn a_clock_that_was_set_back_by_an_hour_does_not_silence_a_group_for_an_hour() {
    let row = GroupRow { next_flush_at: at(7200), ..group(None) };
    assert!(is_due(SETTINGS, &row, at(3600)));
    assert!(!is_due(SETTINGS, &row, at(7000)));
}

#[test]
fn with_nobody_to_tell_it_stays_due_and_counts_as_untold() {
    let alerts = [alert("1F60")];
    let before = group(None);
    let told = flush(SETTINGS, &before, alerts.iter(), false, at(90));
    assert_eq!(told, Flush { news: None, row: Some(before) });
}

#[test]
fn a_notification_names_a_bounded_number_and_counts_all() {
    let alerts: Vec<AlertRow> = (1..=1000).map(|number| alert(&format!("{number}F60"))).collect();
    let news = flush(SETTINGS, &group(None), alerts.iter(), true, at(90)).news.unwrap();
    assert_eq!((news.firing.len(), news.firing_count), (ALERTS_PER_NOTIFICATION_MAX, 1000));
}
