//! CHOM: the orchestrator.

pub mod clock;
pub mod config;
mod durable_file;
pub mod history;
pub mod store;
pub mod supervise;
