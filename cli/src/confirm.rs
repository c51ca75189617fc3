//! Asking before what cannot be taken back. Without a terminal nobody can answer, so it is refused, never assumed.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::Failure;

/// Whether to ask.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Confirmation {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// Asks on the terminal; `consequence` says what will happen.
///
/// # Errors
/// The answer is no, or nobody can be asked.
pub(crate) fn confirm(confirmation: Confirmation, no_input: bool, consequence: &str) -> Result<(), Failure> {
    if confirmation.yes {
        return Ok(());
    }
    if no_input || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let why = if no_input { "--no-input forbids to ask" } else { "there is no terminal to ask on" };
        return Err(Failure::usage(
            format!("{} {why}", crate::output::plain(consequence)),
            "add --yes if that is what you want",
        ));
    }
    let _ = write!(io::stderr(), "{} Go on? [y/N] ", crate::output::plain(consequence));
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Declined),
    }
}
