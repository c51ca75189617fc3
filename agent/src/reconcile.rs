//! The reconciler: observes, plans, acts; the next pass is the retry.

pub mod memory;
pub mod plan;
