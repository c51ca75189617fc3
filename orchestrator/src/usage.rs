//! What each VPS had in each hour, for billing. Changes are noted in the commit that makes them; an hour is closed some minutes
//! after its end: frozen by a commit, written into a file that never changes, and told by a second commit. So each record is
//! made once, whatever is killed in between and however the clock jumps.
//!
//! The records are in files and not in the store: a store is in memory, and 200,000 VPSs make 4.8 million records a day.

pub mod archive;
pub(crate) mod hour;
mod keep;
pub(crate) mod note;
pub mod rows;

pub use archive::Archive;
pub use keep::{Accountant, Place, Question, UsageSettings};

#[cfg(test)]
mod tests;
