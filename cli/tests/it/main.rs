//! chomctl as its users run it: the real program against a server of the test's own.

#![expect(clippy::unwrap_used, reason = "all of it is tests: what does not hold fails the test")]

mod audit;
mod commands;
mod itself;
mod people;
mod server;
mod tls;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program, with a home of its own and nothing of this process's environment that it would look at.
#[expect(
    clippy::disallowed_methods,
    reason = "the program under test; it ends by itself, its server being loopback"
)]
pub(crate) fn chomctl(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chomctl"));
    command.env_clear().env("XDG_CONFIG_HOME", home).args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn outcome(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A run against a server by the environment's settings.
pub(crate) fn run(url: &str, arguments: &[&str]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let mut command = chomctl(home.path(), arguments);
    command.env("CHOM_SERVER", url).env("CHOM_TOKEN", "secret-token");
    outcome(command)
}

/// A run that is given something on standard input.
pub(crate) fn run_with_input(url: &str, arguments: &[&str], input: &str) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let mut command = chomctl(home.path(), arguments);
    command.env("CHOM_SERVER", url).env("CHOM_TOKEN", "secret-token");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
