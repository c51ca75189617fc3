//! What is kept, in which order, and what is made of it.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const STALE_SECONDS: u64 = 60;
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn boot(number: u128) -> BootId {
    BootId::new(Uuid::from_u128(number))
}

fn point(metric: Metric, label: &str, value: f64) -> Point {
    Point { metric, vps: None, label: label.to_owned(), value }
}

fn sample(boot_number: u128, sequence: u64, seconds_ago: u64, points: Vec<Point>) -> Sample {
    Sample { boot: boot(boot_number), sequence, at: UnixMillis(NOW.0 - seconds_ago * 1000), points }
}

fn load(boot_number: u128, sequence: u64, seconds_ago: u64) -> Sample {
    sample(boot_number, sequence, seconds_ago, vec![point(Metric::Load1, "", sequence as f64)])
}

fn cpu(boot_number: u128, sequence: u64, seconds_ago: u64, user: f64, idle: f64) -> Sample {
    let points = vec![point(Metric::CpuSeconds, "user", user), point(Metric::CpuSeconds, "idle", idle)];
    sample(boot_number, sequence, seconds_ago, points)
}

fn history(samples: impl IntoIterator<Item = Sample>) -> HostHistory {
    let mut history = HostHistory::default();
    for sample in samples {
        history.record(sample, NOW, usize::MAX);
    }
    history
}

fn loads(history: &HostHistory) -> Vec<f64> {
    history.series(None, Metric::Load1, "").into_iter().map(|(_, value)| value).collect()
}

#[test]
fn a_repeated_sample_is_kept_once() {
    assert_eq!(loads(&history([load(1, 1, 30), load(1, 2, 15), load(1, 1, 30)])), [1.0, 2.0]);
}

#[test]
fn late_samples_come_where_they_belong() {
    assert_eq!(
        loads(&history([load(1, 5, 10), load(1, 1, 50), load(1, 3, 30), load(1, 2, 40)])),
        [1.0, 2.0, 3.0, 5.0]
    );
}

#[test]
fn samples_of_an_earlier_boot_come_before_those_of_a_later_one() {
    // Both boots count from 1: only the clock tells them apart.
    let history = history([load(2, 1, 10), load(2, 2, 5), load(1, 9, 60), load(1, 8, 70)]);
    assert_eq!(loads(&history), [8.0, 9.0, 1.0, 2.0]);
}

#[test]
fn within_a_boot_the_sequence_counts_even_when_the_clock_stepped_back() {
    assert_eq!(loads(&history([load(1, 1, 10), load(1, 2, 500), load(1, 3, 5)])), [1.0, 2.0, 3.0]);
}

#[test]
fn processor_use_is_the_share_between_two_samples() {
    let usage = history([cpu(1, 1, 15, 100.0, 900.0), cpu(1, 2, 0, 105.0, 915.0)]).usage(NOW, STALE_SECONDS);
    assert_eq!(usage.cpu_ratio, Some(0.25));
}

#[test]
fn a_counter_that_was_reset_gives_no_rate() {
    assert_eq!(
        history([cpu(1, 1, 15, 100.0, 900.0), cpu(1, 2, 0, 5.0, 915.0)]).usage(NOW, STALE_SECONDS).cpu_ratio,
        None
    );
}

#[test]
fn no_rate_is_taken_across_a_reboot() {
    assert_eq!(
        history([cpu(1, 7, 15, 100.0, 900.0), cpu(2, 1, 0, 105.0, 915.0)])
            .usage(NOW, STALE_SECONDS)
            .cpu_ratio,
        None
    );
}

#[test]
fn usage_is_that_of_the_fullest_file_system() {
    let points = vec![
        point(Metric::DiskTotal, "/", 100.0),
        point(Metric::DiskAvailable, "/", 60.0),
        point(Metric::DiskTotal, "/srv", 100.0),
        point(Metric::DiskAvailable, "/srv", 5.0),
        point(Metric::InodesTotal, "/", 10.0),
        point(Metric::InodesFree, "/", 9.0),
        point(Metric::MemoryTotal, "", 8.0),
        point(Metric::MemoryAvailable, "", 2.0),
        point(Metric::SwapTotal, "", 0.0),
        point(Metric::SwapFree, "", 0.0),
    ];
    let usage = history([sample(1, 1, 0, points)]).usage(NOW, STALE_SECONDS);
    assert_eq!(usage.disk_ratio, Some(0.95));
    assert!((usage.inodes_ratio.unwrap() - 0.1).abs() < 1e-9);
    assert_eq!(usage.memory_ratio, Some(0.75));
    assert_eq!(usage.swap_ratio, None, "no swap is no use of swap");
}

#[test]
fn what_was_not_heard_of_lately_is_unknown() {
    let history = history([load(1, 1, 0)]);
    assert_eq!(history.usage(NOW.plus_seconds(STALE_SECONDS), STALE_SECONDS).load1, Some(1.0));
    assert_eq!(history.usage(NOW.plus_seconds(STALE_SECONDS + 1), STALE_SECONDS), Usage::default());
    assert_eq!(history.latest(NOW.plus_seconds(STALE_SECONDS + 1), STALE_SECONDS), None);
}

#[test]
fn backfill_alone_says_nothing_of_now() {
    assert_eq!(history([load(1, 1, 2 * 60 * 60)]).usage(NOW, STALE_SECONDS), Usage::default());
}

#[test]
fn values_that_are_no_numbers_are_left_out() {
    let history = history([sample(1, 1, 0, vec![point(Metric::Load1, "", f64::INFINITY)])]);
    assert_eq!(history.latest(NOW, STALE_SECONDS).unwrap().1, []);
}

fn idle_host(sequence: u64) -> Sample {
    let label = |number: usize| format!("device-{number}");
    let points = (0..40).map(|n| point(Metric::DiskReadBytes, &label(n), sequence as f64)).collect();
    sample(1, sequence, 10_000 - sequence * 15, points)
}

#[test]
fn an_idle_host_keeps_to_its_bytes_and_still_some_minutes() {
    let history = history((0..600).map(idle_host));
    assert!(history.bytes() <= HOST_BYTES, "{}", history.bytes());
    assert!(history.rows.len() >= 10, "{}", history.rows.len());
    assert_eq!(history.rows.last().unwrap().sequence, 599);
}

#[test]
fn series_that_ended_are_dropped() {
    let passing =
        |n: u64| sample(1, n, 10_000 - n, vec![point(Metric::DiskReadBytes, &format!("vnet{n}"), 1.0)]);
    let history = history((0..2000).map(passing));
    assert!(history.table.len() <= ROWS_MAX + COMPACT_ROWS as usize, "{}", history.table.len());
}

#[test]
fn a_host_that_sends_endless_series_is_bounded() {
    let hostile = |n: u64| {
        let points = (0..20_000).map(|p| point(Metric::DiskReadBytes, &format!("{n}-{p}"), 1.0)).collect();
        sample(1, n, 100 - n, points)
    };
    let history = history((0..3).map(hostile));
    assert!(history.table.len() <= SERIES_MAX);
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    let mut small = HostHistory::default();
    small.record(sample(1, 1, 0, vec![point(Metric::DiskReadBytes, &long, 1.0)]), NOW, usize::MAX);
    assert!(small.table.is_empty());
}

#[test]
fn what_does_not_fit_into_memory_is_not_kept() {
    let mut history = HostHistory::default();
    history.record(idle_host(1), NOW, 100);
    assert_eq!(history.bytes(), 0);
}

proptest! {
    #[test]
    fn in_whichever_order_samples_of_a_boot_come_they_are_kept_in_order(
        order in Just((0..ROWS_MIN as u64).collect::<Vec<_>>()).prop_shuffle()
    ) {
        let history = history(order.iter().map(|n| load(1, *n, 100 - n)));
        prop_assert_eq!(loads(&history), (0..ROWS_MIN).map(|n| n as f64).collect::<Vec<_>>());
    }
}
