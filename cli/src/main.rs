//! chomctl: CHOM's command line for admins. This file only parses, runs and turns the outcome into an exit code.

mod alert;
mod arguments;
mod audit;
mod authority;
mod catalogue;
mod client;
mod clock;
mod confirm;
mod context;
mod error;
mod events;
mod filters;
mod host;
mod login;
mod metrics;
mod network;
mod notification;
mod operation;
mod output;
mod password;
mod progress;
mod session;
mod shell;
mod smtp;
mod socket;
mod ssh_key;
mod stream;
mod tenant;
mod token;
mod usage;
mod user;
mod vps;
mod watch;
mod webhook;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

/// The command line was wrong: nothing was tried.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help that nobody reads to the end (`| head`) is no failure.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = std::io::stderr().write_all(error::report(&failure).as_bytes());
            if failure.is_usage() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}
