//! CHOM's agent: makes one host what its desired state says, and reports on it. No global state: one process can run
//! one agent or thousands.

pub mod clock;
pub mod collect;
pub mod driver;
pub mod durable;
pub mod reconcile;
