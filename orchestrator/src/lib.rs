//! CHOM: the orchestrator.

pub mod config;
mod durable_file;
pub mod store;
pub mod supervise;
