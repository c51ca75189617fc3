//! What was measured lately of a host or a VPS: a line for each series, with what it was over time in one word of bars.

use chom_protocol::api::metrics::{MetricsView, SeriesKind};

use crate::client::Client;
use crate::error::Failure;
use crate::output::{Cell, Table, View};
use crate::session::Session;

/// From low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Where nothing is known.
const UNKNOWN: char = '·';

/// What to show.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct MetricsOptions {
    /// Only these metrics, such as load1,memory_available_bytes
    #[arg(long, value_name = "METRICS")]
    series: Option<String>,
    /// Begin at this time, such as 2026-11-23T04:00:00Z; ten minutes ago where absent
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// End at this time; now where absent
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Seconds of one step
    #[arg(long, value_name = "SECONDS")]
    step: Option<String>,
}

/// Shows the metrics of what is at a path.
pub(crate) fn show(
    session: &Session,
    client: &Client,
    path: &str,
    options: &MetricsOptions,
) -> Result<(), Failure> {
    let MetricsOptions { series, from, until, step } = options;
    let all = [("series", series), ("from", from), ("until", until), ("step", step)];
    let query: Vec<(&str, &str)> =
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let metrics: MetricsView = client.get_where(&format!("{path}/metrics"), &query)?;
    session.screen.show(&metrics, |view| table(&metrics, view))
}

fn table(metrics: &MetricsView, view: &View) -> String {
    let mut table = Table::new(&["METRIC", "LABEL", "LEAST", "MOST", "LAST", "OVER TIME"]);
    for series in &metrics.series {
        let known = || series.values.iter().flatten().copied();
        let (least, most) = (known().reduce(f64::min), known().reduce(f64::max));
        let unit = match series.kind {
            SeriesKind::Level => "",
            SeriesKind::PerSecond => "/s",
        };
        let cell = |value: Option<f64>| Cell::from(value.map_or("-".to_owned(), |value| short(value) + unit));
        table.row(vec![
            Cell::from(&series.metric),
            Cell::from(&series.label),
            cell(least),
            cell(most),
            cell(series.values.last().copied().flatten()),
            Cell::from(bars(&series.values, least.unwrap_or_default(), most.unwrap_or_default())),
        ]);
    }
    table.render(view, "nothing was measured in this time")
}

/// A number to three figures or so: `1.25`, `340`, `12.4M`.
fn short(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(size, _)| value.abs() >= *size) {
        Some((size, unit)) => format!("{:.1}{unit}", value / size),
        None if value.abs() >= 100.0 => format!("{value:.0}"),
        None => format!("{value:.2}"),
    }
}

fn bars(values: &[Option<f64>], least: f64, most: f64) -> String {
    let bar = |value: &Option<f64>| match value {
        None => UNKNOWN,
        Some(value) => {
            let share = if most > least { (value - least) / (most - least) } else { 0.0 };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a place among eight"
            )]
            let place = (share * 7.0).round() as usize;
            BARS.get(place).copied().unwrap_or(UNKNOWN)
        }
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use chom_protocol::api::metrics::SeriesView;
    use expect_test::expect;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn a_series_is_a_line_and_what_is_unknown_is_a_dot() {
        let series = |metric: &str, kind, values: &[Option<f64>]| SeriesView {
            metric: metric.to_owned(),
            label: String::new(),
            kind,
            values: values.to_vec(),
        };
        let metrics = MetricsView {
            from: String::new(),
            until: String::new(),
            step_seconds: 30,
            series: vec![
                series("load1", SeriesKind::Level, &[Some(0.0), Some(1.5), None, Some(3.0)]),
                series("cpu_seconds_total", SeriesKind::PerSecond, &[Some(1_250_000.0), None]),
                series("uptime_seconds", SeriesKind::Level, &[None, None]),
            ],
        };
        expect![[r#"
            METRIC             LABEL  LEAST   MOST    LAST  OVER TIME
            load1                     0.00    3.00    3.00  ▁▅·█
            cpu_seconds_total         1.2M/s  1.2M/s  -     ▁·
            uptime_seconds            -       -       -     ··
        "#]]
        .assert_eq(&table(&metrics, &test_view(false)));
    }
}
