//! The audit log: entries in the order of their commits, chained by their hashes, in files of their own beside the store.
//! `keeper` moves them there from the store's rows, `log` writes the files, `read` reads them, `check` verifies them on the spot. What stands in an entry is
//! decided in `fleet/audit.rs`, what a chain is in `chom_protocol::audit`.

pub mod check;
pub mod keeper;
pub mod log;
pub mod read;

pub use keeper::Keeper;
pub use log::AuditLog;
