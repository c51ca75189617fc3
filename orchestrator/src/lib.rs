//! CHOM: the orchestrator.

pub mod clock;
pub mod config;
mod durable_file;
pub mod fleet;
pub mod health;
pub mod history;
pub mod placement;
pub mod store;
pub mod supervise;
