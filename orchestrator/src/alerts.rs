//! Alerts.
pub(crate) mod facts;
pub(crate) mod grouping;
pub mod rows;
pub(crate) mod rules;
