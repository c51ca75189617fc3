//! The rules of the fleet's trust, tested from outside: what is signed, what is kept on disk, and what whole TLS
//! handshakes (in memory) let through. One binary; no sockets, no waits, no wall clock.
#![expect(clippy::unwrap_used, reason = "tests")]

mod authority;
mod fixture;
mod handshake;
mod identity;
mod server;
