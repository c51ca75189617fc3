//! CHOM's agent: makes one host what its desired state says, and reports on it. No global state: one process can run
//! one agent or thousands ([`agent::run`]).

pub mod agent;
pub mod boot;
pub mod chain;
pub mod clock;
pub mod collect;
pub mod config;
pub mod driver;
pub mod durable;
pub mod enrol;
mod facts;
pub mod health;
pub mod image;
pub mod ledger;
pub mod link;
pub mod measure;
mod network;
pub mod probe;
pub mod reconcile;
pub mod run;
pub mod shelf;
pub mod spool;
mod tunnel;
pub mod view;
