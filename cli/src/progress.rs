//! How far things are, on standard error: one line that is rewritten on a terminal, plain lines elsewhere.
//! Trouble with standard error is no reason to fail, so it is passed over.

use std::io::{self, IsTerminal, Write};

use crate::output::plain;

/// Back to the line's begin, and clear to its end (ECMA-48).
const REWRITE: &str = "\r\u{1b}[K";

/// No wrapping at the terminal's edge (DECAWM off) and back: a wrapped line could not be rewritten.
const CUT: (&str, &str) = ("\u{1b}[?7l", "\u{1b}[?7h");

/// A progress display.
pub(crate) struct Progress<W: Write> {
    out: W,
    terminal: bool,
    /// The last plain line: the same one is not told twice.
    told: String,
    /// Whether the cursor stands behind a line that is not ended.
    open: bool,
}

impl Progress<io::Stderr> {
    /// On standard error.
    pub(crate) fn stderr() -> Self {
        let terminal =
            io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self::new(io::stderr(), terminal)
    }
}

impl<W: Write> Progress<W> {
    /// On any output.
    pub(crate) fn new(out: W, terminal: bool) -> Self {
        Self { out, terminal, told: String::new(), open: false }
    }

    /// Tells how it stands. `elapsed` is shown on a terminal only, where it counts up in place.
    pub(crate) fn tell(&mut self, line: &str, elapsed: &str) {
        let line = plain(line);
        if self.terminal {
            let _ = self.out.write_all(format!("{REWRITE}{}({elapsed}) {line}{}", CUT.0, CUT.1).as_bytes());
            self.open = true;
        } else if line != self.told {
            let _ = writeln!(self.out, "{line}");
        }
        self.told = line;
        let _ = self.out.flush();
    }

    /// Takes the line away, so that what comes next begins on a clean one.
    pub(crate) fn clear(&mut self) {
        if self.open {
            let _ = write!(self.out, "{REWRITE}");
            let _ = self.out.flush();
            self.open = false;
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(terminal: bool) -> String {
        let mut bytes = Vec::new();
        let mut progress = Progress::new(&mut bytes, terminal);
        for (line, elapsed) in [("pending", "0s"), ("pending", "1s"), ("running: boots", "2s")] {
            progress.tell(line, elapsed);
        }
        drop(progress);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_terminal_has_one_line_that_is_rewritten_and_taken_away() {
        assert_eq!(
            told(true),
            ["(0s) pending", "(1s) pending", "(2s) running: boots"]
                .map(|line| format!("{REWRITE}{}{line}{}", CUT.0, CUT.1))
                .concat()
                + REWRITE
        );
    }

    #[test]
    fn a_log_has_a_line_for_each_change() {
        assert_eq!(told(false), "pending\nrunning: boots\n");
    }
}
