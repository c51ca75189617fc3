//! What CHOM must withstand, shown on simulated hosts: the real programs as processes, over the real link, with guests
//! that exist only in a file. Every test prints its seed where there is chance in it, and every wait has a deadline.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their own helpers too")]

mod agent_killed;
mod alerts;
mod audit;
mod bad_input;
mod billing;
mod certificates;
mod console;
mod fetched_image;
mod forgotten;
mod hostile;
mod identity;
mod many;
mod mutations;
mod operations;
mod orchestrator_killed;
mod outage;
mod partition;
mod people;
mod restored;
mod watched;
mod webhooks;
