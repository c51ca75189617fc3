//! What was measured lately of a host or a VPS, at regular moments.

use serde::{Deserialize, Serialize};

/// Moments of one answer at most.
pub const METRIC_MOMENTS_MAX: usize = 500;

/// How the values of a series are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SeriesKind {
    /// The value itself.
    Level,
    /// By how much a counter rose each second.
    PerSecond,
}

/// One series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeriesView {
    /// What is measured, such as `memory_available_bytes`.
    pub metric: String,
    /// Which of several: a device, mount point, interface or mode; empty where there is one only.
    pub label: String,
    /// How its values are to be read.
    pub kind: SeriesKind,
    /// The mean of each step, oldest first; `null` where nothing is known, which is not zero.
    pub values: Vec<Option<f64>>,
}

/// What was measured between two moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricsView {
    /// When the first step begins, RFC 3339.
    pub from: String,
    /// When the last step ends, RFC 3339.
    pub until: String,
    /// How long a step is.
    pub step_seconds: u64,
    /// The series, by metric and label.
    pub series: Vec<SeriesView>,
}

/// Query parameters of metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct MetricsQuery {
    /// Begin at this moment, RFC 3339; ten minutes before `until` where absent.
    #[serde(default)]
    pub from: Option<String>,
    /// End at this moment, RFC 3339; now where absent.
    #[serde(default)]
    pub until: Option<String>,
    /// Seconds of one step; at most 500 steps fit between the two.
    #[serde(default)]
    pub step: Option<u64>,
    /// Only these metrics, with commas between them: `load1,memory_available_bytes`.
    #[serde(default)]
    pub series: Option<String>,
}
