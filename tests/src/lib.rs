//! CHOM's test harness: starts the real programs on this machine, breaks them and the network between them on purpose, and
//! looks at what they say through their own doors. Nothing here is linked into a program that is shipped.
//!
//! ```text
//! fleet ─► orchestrator, agent   real processes with folders of their own      wait   conditions with deadlines
//!     └──► api                   the admin API, typed                          seed   chance that can be repeated
//! smtp    a mail server that refuses, stalls, greylists        receiver   the same for webhooks
//! proxy   bad network, UDP       peer   one bare connection of the link, well-behaved or hostile
//! hosts   real machines (fleet/fleet.sh) with systemd, libvirt and QEMU beside an orchestrator
//! simulation   thousands of agents in one process
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "this crate is test code: it fails by panicking, starts programs, sleeps between looks, and reads the clock"
)]

pub mod agent;
pub mod api;
pub mod export;
pub mod fleet;
pub mod hosts;
pub mod orchestrator;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod register;
pub mod seed;
pub mod simulation;
pub mod smtp;
pub mod socket;
pub mod wait;
