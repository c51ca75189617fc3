//! The orchestrator's own metrics, in the text format of OpenMetrics 1.0. What stands in memory is counted when asked for;
//! only requests are counted as they happen.

use std::fmt;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use chom_protocol::api::hosts::HostState;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::clock;
use crate::fleet::Fleet;
use crate::health;
use crate::history::{Arrived, History};

/// Upper ends of the request times, in seconds: around the promised 20 ms and 100 ms.
const REQUEST_SECONDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 30.0];

/// Requests of the API. Clones are handles to the same counts.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<Vec<(&'static str, String)>, Counter>,
    seconds: Family<Vec<(&'static str, String)>, Histogram>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
        }
    }
}

impl HttpMetrics {
    /// Counts an answer. `route` is the pattern, of which there are few; never the path, which a caller chooses.
    pub fn note(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let route = route.unwrap_or("none").to_owned();
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "DELETE" | "PUT" | "PATCH" | "OPTIONS") => known,
            _ => "other",
        };
        let labels = vec![
            ("method", method.to_owned()),
            ("route", route.clone()),
            ("status", status.as_str().to_owned()),
        ];
        self.requests.get_or_create(&labels).inc();
        self.seconds.get_or_create(&vec![("route", route)]).observe(took.as_secs_f64());
    }
}

/// What is counted when asked for.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    revision: u64,
    events: u64,
    hosts: Vec<(HostState, u64)>,
    sessions: u64,
    vps: u64,
    open_operations: u64,
    streams: u64,
    history_bytes: u64,
    samples: Arrived,
}

impl Snapshot {
    /// Counts.
    #[must_use]
    pub fn take(fleet: &Fleet, history: &History, streams: usize) -> Self {
        let (state, observations) = (fleet.state(), fleet.observations().snapshot());
        let (limit, now) = (fleet.catalogue().unreachable_after_seconds, clock::now());
        let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
        let mut hosts = ALL_HOST_STATES.map(|state| (state, 0));
        for stored in state.hosts.values() {
            let row = stored.row.as_ref();
            let observation = observations.get(&row.id).map(AsRef::as_ref);
            let found = health::host_state(row, epoch, observation, limit, now);
            if let Some((_, count)) = hosts.iter_mut().find(|(state, _)| *state == found) {
                *count += 1;
            }
        }
        Self {
            revision: state.revision.0,
            events: fleet.events().end().sequence.saturating_sub(1),
            hosts: hosts.to_vec(),
            sessions: observations.values().filter(|seen| seen.instance.is_some()).count() as u64,
            vps: state.vps.len() as u64,
            open_operations: (state.open_operations.len() + state.image_fetches.len()) as u64,
            streams: streams as u64,
            history_bytes: history.bytes() as u64,
            samples: history.arrived(),
        }
    }
}

const ALL_HOST_STATES: [HostState; 7] = [
    HostState::Invited,
    HostState::Connected,
    HostState::Unreachable,
    HostState::Quarantined,
    HostState::Held,
    HostState::Forgotten,
    HostState::Revoked,
];

const fn label(state: HostState) -> &'static str {
    match state {
        HostState::Invited => "invited",
        HostState::Connected => "connected",
        HostState::Unreachable => "unreachable",
        HostState::Quarantined => "quarantined",
        HostState::Held => "held",
        HostState::Forgotten => "forgotten",
        HostState::Revoked => "revoked",
    }
}

/// All metrics as text.
///
/// # Errors
/// Never in practice: text is written to memory.
pub fn render(http: &HttpMetrics, snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut all = Registry::with_prefix("chom");
    let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let build = Family::<Vec<(&str, &str)>, Gauge>::default();
    build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION"))]).set(1);
    all.register("build_info", "The running release", build);
    all.register(
        "store_commits",
        "Commits of the store since it was made",
        ConstCounter::new(snapshot.revision),
    );
    all.register("events", "Events told to watchers since the start", ConstCounter::new(snapshot.events));
    let hosts = Family::<Vec<(&str, &str)>, Gauge>::default();
    for (state, count) in &snapshot.hosts {
        hosts.get_or_create(&vec![("state", label(*state))]).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    all.register("hosts", "Hosts by state", hosts);
    all.register("sessions", "Agents that are connected", gauge(snapshot.sessions));
    all.register("vps", "VPSs, deleted ones that are kept included", gauge(snapshot.vps));
    all.register("operations_open", "Operations that have not ended", gauge(snapshot.open_operations));
    all.register("event_streams", "Event streams that are open", gauge(snapshot.streams));
    let bytes = gauge(snapshot.history_bytes);
    all.register_with_unit("history", "Memory of recent samples", Unit::Bytes, bytes);
    all.register("samples", "Samples that arrived since the start.", ConstCounter::new(snapshot.samples.all));
    all.register(
        "samples_backfilled",
        "Those of them that an outage had kept back.",
        ConstCounter::new(snapshot.samples.backfilled),
    );
    all.register("http_requests", "Answers of the API", http.requests.clone());
    all.register_with_unit("http_request", "Time until an answer began", Unit::Seconds, http.seconds.clone());
    // The encoder ends each help text with a full stop.
    let mut text = String::new();
    encode(&mut text, &all)?;
    Ok(text)
}
