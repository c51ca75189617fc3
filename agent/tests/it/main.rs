//! The agent as a whole, in one process with an orchestrator that does as the tests say: over real QUIC on loopback, with
//! real files, and guests of the fake driver. Waits on conditions with a deadline; asserts no time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests, and the helpers that only tests call"
)]

mod host;
mod link;
mod orchestrator;
mod outage;
mod reconcile;
