//! What was measured lately of a host or a VPS, from the recent samples in memory. What is not known is null.

use axum::extract::{Query, State};
use axum::response::Response;
use chom_protocol::api::metrics::{METRIC_MOMENTS_MAX, MetricsQuery, MetricsView, SeriesKind, SeriesView};
use chom_protocol::sample::{Metric, MetricKind};
use chom_protocol::{HostId, UnixMillis, VpsId};

use crate::api::problem::{ApiError, Kind, shown};
use crate::api::request::RowKey;
use crate::api::{App, answer, hosts, vps_servers};
use crate::clock::{self, parse_rfc3339, rfc3339};
use crate::fleet::Caller;
use crate::history::{Chart, Steps};

/// What is shown where no beginning is asked for: about as much as is kept.
const SPAN_SECONDS_DEFAULT: u64 = 600;
/// A step where none is asked for: two reports at the usual pace, so that one that is late makes no hole.
const STEP_SECONDS_DEFAULT: u64 = 30;
/// Series of one answer: about 60 KiB with a usual span.
const SERIES_MAX: usize = 200;

/// Shows what was measured lately of a VPS. Minutes are kept; a Prometheus keeps the rest.
#[utoipa::path(get, path = "/api/vps-servers/{vps}/metrics", tag = "VPSs", operation_id = "vps_metrics",
    params(("vps" = String, Path, description = "Its id, or its name."), MetricsQuery),
    responses((status = 200, description = "The series.", body = MetricsView)))]
pub(super) async fn of_vps(
    State(app): State<App>,
    caller: Caller,
    key: RowKey<VpsId>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = vps_servers::named(&state, &caller, &key)?;
    charts(&app, row.host, Some(row.spec.id), &query)
}

/// Shows what was measured lately of a host. Minutes are kept; a Prometheus keeps the rest.
#[utoipa::path(get, path = "/api/hosts/{host}/metrics", tag = "hosts", operation_id = "host_metrics",
    params(("host" = String, Path, description = "Its id, or its name in the fleet."), MetricsQuery),
    responses((status = 200, description = "The series.", body = MetricsView)))]
pub(super) async fn of_host(
    State(app): State<App>,
    _: Caller,
    key: RowKey<HostId>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let host = hosts::named(&app.fleet.state(), &key)?.id;
    charts(&app, host, None, &query)
}

fn charts(
    app: &App,
    host: HostId,
    vps: Option<VpsId>,
    query: &[(String, String)],
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(query, clock::now())?;
    let charts = app.history.charts(host, vps, &wanted.metrics, wanted.steps);
    if charts.len() > SERIES_MAX {
        let detail = format!(
            "these are {} series; name some of their metrics, for at most {SERIES_MAX}",
            charts.len()
        );
        return Err(ApiError::new(Kind::Malformed, detail).at("series"));
    }
    let Steps { from, step_millis, count } = wanted.steps;
    let series = |chart: Chart| SeriesView {
        metric: chart.metric.name().to_owned(),
        label: chart.label.into_string(),
        kind: match chart.metric.kind() {
            MetricKind::Gauge => SeriesKind::Level,
            MetricKind::Counter => SeriesKind::PerSecond,
        },
        values: chart.means,
    };
    Ok(answer::row(&MetricsView {
        from: rfc3339(from),
        until: rfc3339(UnixMillis(from.0 + step_millis * count as u64)),
        step_seconds: step_millis / 1000,
        series: charts.into_iter().map(series).collect(),
    }))
}

/// What is asked for.
#[derive(Debug)]
struct Wanted {
    steps: Steps,
    metrics: Vec<Metric>,
}

impl Wanted {
    fn read(query: &[(String, String)], now: UnixMillis) -> Result<Self, ApiError> {
        let refused = |name: &str, detail: String| ApiError::new(Kind::Malformed, detail).at(name);
        let (mut from, mut until, mut step, mut metrics) = (None, now, STEP_SECONDS_DEFAULT, Vec::new());
        for (name, value) in query {
            let time = || {
                parse_rfc3339(value).ok_or_else(|| {
                    let detail = format!(
                        "`{}` is no time; write it as in RFC 3339, such as 2026-11-23T04:00:00Z",
                        shown(value)
                    );
                    refused(name, detail)
                })
            };
            match name.as_str() {
                "from" => from = Some(time()?),
                "until" => until = time()?,
                "step" => {
                    step = value
                        .parse()
                        .ok()
                        .filter(|step| (1..=SPAN_SECONDS_DEFAULT).contains(step))
                        .ok_or_else(|| {
                            let detail = format!(
                                "`{}` is no step; give a number of seconds from 1 to {SPAN_SECONDS_DEFAULT}",
                                shown(value)
                            );
                            refused("step", detail)
                        })?;
                }
                "series" => {
                    for name in value.split(',').map(str::trim) {
                        let named = Metric::ALL.iter().filter(|metric| metric.name() == name);
                        let before = metrics.len();
                        metrics.extend(named);
                        if metrics.len() == before {
                            let all: std::collections::BTreeSet<&str> =
                                Metric::ALL.iter().map(|metric| metric.name()).collect();
                            let all: Vec<&str> = all.into_iter().collect();
                            let detail =
                                format!("there is no metric `{}`; there are {}", shown(name), all.join(", "));
                            return Err(refused("series", detail));
                        }
                    }
                }
                other => {
                    let detail = format!(
                        "metrics know no parameter `{}`; they take `from`, `until`, `step` and `series`",
                        shown(other)
                    );
                    return Err(refused(&shown(other), detail));
                }
            }
        }
        let from = from.unwrap_or(UnixMillis(until.0.saturating_sub(SPAN_SECONDS_DEFAULT * 1000)));
        if from >= until {
            return Err(refused("from", "`from` is not before `until`".to_owned()));
        }
        let step_millis = step * 1000;
        let count = usize::try_from((until.0 - from.0).div_ceil(step_millis)).unwrap_or(usize::MAX);
        if count > METRIC_MOMENTS_MAX {
            let detail = format!(
                "these are {count} steps; ask for at most {METRIC_MOMENTS_MAX}: a longer step, or a shorter time"
            );
            return Err(refused("step", detail));
        }
        Ok(Self { steps: Steps { from, step_millis, count }, metrics })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<Wanted, String> {
        let query: Vec<(String, String)> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wanted::read(&query, UnixMillis(1_000_000_000))
            .map_err(|error| error.into_problem().location.unwrap_or_default())
    }

    #[test]
    fn a_span_is_cut_into_a_bounded_number_of_steps() {
        let usual = read(&[]).unwrap();
        assert_eq!(usual.steps, Steps { from: UnixMillis(999_400_000), step_millis: 30_000, count: 20 });
        let asked = [("from", "1970-01-12T13:46:00Z"), ("until", "1970-01-12T13:46:31Z"), ("step", "15")];
        assert_eq!(read(&asked).unwrap().steps.count, 3, "the last step is whole");
        assert_eq!(
            read(&[("series", "load1, cpu_seconds_total")]).unwrap().metrics.len(),
            3,
            "of hosts and VPSs"
        );
        for (query, location) in [
            (&[("from", "1970-01-01T00:00:00Z")][..], "step"),
            (&[("from", "1970-01-12T13:46:40Z")], "from"),
            (&[("until", "noon")], "until"),
            (&[("step", "0")], "step"),
            (&[("series", "load1,joy")], "series"),
            (&[("colour", "red")], "colour"),
        ] {
            assert_eq!(read(query).unwrap_err(), location, "{query:?}");
        }
    }
}
