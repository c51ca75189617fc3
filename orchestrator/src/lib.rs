//! CHOM: the orchestrator.

pub mod alerts;
pub mod api;
pub mod audit;
pub mod clock;
pub mod config;
pub mod console;
pub mod dial;
mod durable_file;
pub mod export;
pub mod fleet;
pub mod health;
pub mod history;
pub mod images;
pub mod init;
pub mod limits;
pub mod notify;
mod password;
pub mod permission;
pub mod placement;
pub mod prometheus;
pub mod run;
pub mod session;
pub mod store;
pub mod usage;
pub mod user_data;

/// An error and its causes in one line, for the log and for whoever called the program.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
