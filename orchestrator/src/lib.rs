//! CHOM: the orchestrator.

pub mod store;
