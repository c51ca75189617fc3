//! Passwords: typed without being shown, or read from standard input; never from the command line, which other users of the
//! machine can see.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use chom_protocol::api::users::{PASSWORD_BYTES_MAX, Password};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::error::Failure;
use crate::session::{Session, read_bounded};

/// Where passwords come from.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PasswordSource {
    /// Read the password from standard input; where two are needed, the old one first, each on its line
    #[arg(long)]
    password_stdin: bool,
}

impl PasswordSource {
    /// One password for each prompt.
    ///
    /// # Errors
    /// Nobody can be asked, or there are not as many.
    pub(crate) fn read<const N: usize>(
        self,
        session: &Session,
        prompts: [&str; N],
    ) -> Result<[Password; N], Failure> {
        let mut given = if self.password_stdin { lines(N)? } else { asked(session, &prompts)? };
        let found = given.len();
        given.truncate(N);
        given.try_into().map_err(|_| {
            Failure::usage(
                format!("standard input has {found} passwords, not {N}"),
                "give each on its own line",
            )
        })
    }

    /// A new password: typed twice, so that no slip of a finger locks anybody out.
    ///
    /// # Errors
    /// As [`PasswordSource::read`]; or the two differ.
    pub(crate) fn read_new(self, session: &Session) -> Result<Password, Failure> {
        if self.password_stdin {
            return self.read(session, ["New password"]).map(|[password]| password);
        }
        let [password, again] = self.read(session, ["New password", "Again"])?;
        same(password, &again)
    }

    /// The old password and a new one.
    ///
    /// # Errors
    /// As [`PasswordSource::read_new`].
    pub(crate) fn read_change(self, session: &Session) -> Result<(Password, Password), Failure> {
        if self.password_stdin {
            return self.read(session, ["Old password", "New password"]).map(|[old, new]| (old, new));
        }
        let [old, new, again] = self.read(session, ["Old password", "New password", "Again"])?;
        Ok((old, same(new, &again)?))
    }
}

fn same(password: Password, again: &Password) -> Result<Password, Failure> {
    if password == *again {
        return Ok(password);
    }
    Err(Failure::usage("the two passwords differ", "type the same one twice"))
}

fn lines(wanted: usize) -> Result<Vec<Password>, Failure> {
    let failed =
        |source| Failure::File { what: "the password from", path: "standard input".to_owned(), source };
    let limit = (PASSWORD_BYTES_MAX + 2) * wanted;
    let text = read_bounded(io::stdin(), limit).map_err(failed)?;
    let all = text.lines().filter(|line| !line.is_empty());
    Ok(all.map(|line| Password(line.to_owned())).collect())
}

fn asked(session: &Session, prompts: &[&str]) -> Result<Vec<Password>, Failure> {
    if session.no_input() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let why = match session.no_input() {
            true => "--no-input forbids to ask for the password",
            false => "there is no terminal to ask for the password on",
        };
        return Err(Failure::usage(why, "use --password-stdin"));
    }
    let _quiet = Quiet::begin().map_err(Failure::Terminal)?;
    prompts.iter().map(|prompt| typed(prompt)).collect()
}

/// Gives the terminal back as it was, also after an error or a panic. Ctrl-C comes as a character meanwhile: ended by a
/// signal, chomctl would leave a terminal that shows nothing.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing more can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0);
    }
}

fn typed(prompt: &str) -> Result<Password, Failure> {
    let _ = write!(io::stderr(), "{prompt}: ");
    let _ = io::stderr().flush();
    let read = line(io::stdin().lock().bytes());
    let _ = writeln!(io::stderr());
    match read.map_err(Failure::Terminal)? {
        Some(text) if !text.is_empty() => Ok(Password(text)),
        Some(_) => Err(Failure::usage("the password is empty", "type one")),
        None => Err(Failure::Declined),
    }
}

/// A line as it is typed, corrections carried out; none when it is broken off (Ctrl-C, Ctrl-D).
fn line(keys: impl Iterator<Item = io::Result<u8>>) -> io::Result<Option<String>> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACE: u8 = 8;
    const CLEAR: u8 = 21;
    const DELETE: u8 = 127;
    let mut text = Vec::new();
    for key in keys {
        match key? {
            INTERRUPT | END => return Ok(None),
            b'\r' | b'\n' => return String::from_utf8(text).map(Some).map_err(io::Error::other),
            CLEAR => text.clear(),
            BACKSPACE | DELETE => {
                // A character of several bytes goes as a whole.
                while text.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            other if text.len() < PASSWORD_BYTES_MAX => text.push(other),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_corrected_and_can_be_broken_off() {
        let typed = |keys: &str| line(keys.bytes().map(Ok)).unwrap();
        assert_eq!(typed("secret\rrest").as_deref(), Some("secret"));
        assert_eq!(typed("sé\u{7f}ecrett\u{8}\n").as_deref(), Some("secret"));
        assert_eq!(typed("wrong\u{15}right\n").as_deref(), Some("right"));
        assert_eq!(typed("\u{7f}\n").as_deref(), Some(""));
        assert_eq!((typed("secre\u{3}t\n"), typed("sec\u{4}"), typed("no end")), (None, None, None));
    }
}
