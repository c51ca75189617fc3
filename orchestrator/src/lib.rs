//! CHOM: the orchestrator.

mod durable_file;
pub mod store;
