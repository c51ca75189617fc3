//! `chomctl vps console`: this terminal becomes the VPS's. Whatever ends it, the terminal is given back as it was.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use chom_protocol::VpsId;
use chom_protocol::api::console::{ConsoleNote, ConsoleOrder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tungstenite::{Bytes, Message, WebSocket};

use crate::client::Client;
use crate::error::Failure;
use crate::shell::eprint_line;
use crate::socket::Stream;

/// Ctrl-], as telnet(1) and virsh(1) have it.
const CTRL_BRACKET: u8 = 0x1d;
/// How often the terminal's size is looked at, without anything else to do.
const LOOK_MS: u16 = 500;
/// Read at once of what is typed.
const TYPED_BYTES_MAX: usize = 4096;

/// Options of `chomctl vps console`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ConsoleOptions {
    /// Write at once, whoever writes now
    #[arg(long, conflicts_with = "view")]
    take: bool,
    /// Only watch
    #[arg(long)]
    view: bool,
}

/// Gives the terminal back as it was, also after an error or a panic.
struct Raw(Termios);

impl Raw {
    /// Makes standard input raw; none where it is no terminal.
    fn begin() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing more can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0);
    }
}

/// What typed bytes mean: `~.` at the beginning of a line and Ctrl-] leave, `~~` is one `~`. Pure.
#[derive(Debug)]
struct Escape {
    at_line_start: bool,
    held: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self { at_line_start: true, held: false }
    }
}

impl Escape {
    /// What of `typed` goes to the VPS, and whether to leave after it.
    fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte == CTRL_BRACKET {
                return (out, true);
            }
            if std::mem::take(&mut self.held) {
                match byte {
                    b'.' => return (out, true),
                    b'~' => {}
                    _ => out.push(b'~'),
                }
            } else if byte == b'~' && self.at_line_start {
                self.held = true;
                self.at_line_start = false;
                continue;
            }
            out.push(byte);
            self.at_line_start = matches!(byte, b'\r' | b'\n');
        }
        (out, false)
    }
}

/// The size of the terminal that standard output is.
fn size() -> Option<(u16, u16)> {
    let (terminal_size::Width(columns), terminal_size::Height(rows)) = terminal_size::terminal_size()?;
    (columns > 0 && rows > 0).then_some((columns, rows))
}

/// What asks chomctl to end, as something that can be waited for: the terminal is given back then too.
fn signals() -> io::Result<SignalFd> {
    let mut asked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        asked.add(signal);
    }
    asked.thread_block()?;
    Ok(SignalFd::new(&asked)?)
}

/// A line about the console, on a terminal that is raw.
fn tell(line: &str) {
    let _ = write!(io::stderr(), "\r\n[{line}]\r\n"); // whoever cannot read it need not
}

/// Runs until either side ends it.
pub(super) fn run(client: &Client, vps: VpsId, name: &str, options: ConsoleOptions) -> Result<(), Failure> {
    let ConsoleOptions { take, view } = options;
    let (columns, rows) = size().unwrap_or((80, 24));
    let path =
        format!("/api/vps-servers/{vps}/console?columns={columns}&rows={rows}&take={take}&view={view}");
    let mut socket = client.socket(&path)?;
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        eprint_line(&format!(
            "the console of `{name}`; leave it with ~. at the beginning of a line, or Ctrl-]"
        ));
    }
    let ended = {
        let signals = signals().map_err(Failure::Terminal)?;
        let _raw = Raw::begin().map_err(Failure::Terminal)?;
        talk(&mut socket, &signals, is_terminal)
    };
    // Whoever is gone needs no goodbye.
    let _ = socket.close(None);
    let _ = socket.flush();
    match ended? {
        None => Ok(()),
        Some(reason) => {
            eprint_line("");
            Err(Failure::Console { reason })
        }
    }
}

/// Passes bytes on; gives why the other side ended it, or nothing where this one did.
fn talk(
    socket: &mut WebSocket<Stream>,
    signals: &SignalFd,
    is_terminal: bool,
) -> Result<Option<String>, Failure> {
    let (mut escape, mut shown) = (Escape::default(), size());
    let (mut stdin_open, mut wants_to_write) = (true, false);
    loop {
        if let Some(reason) = hear(socket, is_terminal)? {
            return Ok(Some(reason));
        }
        let waited = wait(socket, signals, stdin_open && !wants_to_write, wants_to_write)?;
        if waited == Waited::Asked {
            return Ok(None);
        }
        wants_to_write = !flushed(socket.flush())?;
        if waited == Waited::Typed {
            let mut bytes = [0; TYPED_BYTES_MAX];
            // Not through the standard library's buffer, which poll(2) does not see.
            let count = nix::unistd::read(io::stdin().as_fd(), &mut bytes);
            let count = count.map_err(|error| Failure::Terminal(error.into()))?;
            stdin_open = count > 0;
            let (out, leave) = match is_terminal {
                true => escape.pass(&bytes[..count]),
                false => (bytes[..count].to_vec(), false),
            };
            if !out.is_empty() {
                wants_to_write = !flushed(socket.send(Message::Binary(Bytes::from(out))))?;
            }
            if leave {
                return Ok(None);
            }
        }
        let now = size();
        if now != shown {
            shown = now;
            if let Some((columns, rows)) = now {
                let order = ConsoleOrder::Resize { columns, rows };
                // Numbers alone always have a JSON text.
                let text = serde_json::to_string(&order).unwrap_or_default();
                wants_to_write = !flushed(socket.send(Message::Text(text.into())))?;
            }
        }
    }
}

/// Whether all was written, or some waits.
fn flushed(outcome: Result<(), tungstenite::Error>) -> Result<bool, Failure> {
    match outcome {
        Ok(()) => Ok(true),
        Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        // Reading says why.
        Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => Ok(true),
        Err(error) => Err(broken(&error)),
    }
}

fn broken(error: &tungstenite::Error) -> Failure {
    Failure::Console { reason: format!("the connection to the orchestrator broke: {error}") }
}

/// Shows what came; gives the reason once it is over.
fn hear(socket: &mut WebSocket<Stream>, is_terminal: bool) -> Result<Option<String>, Failure> {
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => {
                let mut out = io::stdout().lock();
                out.write_all(&bytes).and_then(|()| out.flush()).map_err(Failure::Output)?;
            }
            Ok(Message::Text(text)) => match serde_json::from_str(text.as_str()) {
                Ok(ConsoleNote::End { reason }) => return Ok(Some(reason)),
                Ok(ConsoleNote::Role { writer: false, .. }) if is_terminal => {
                    tell("you are watching: another one writes, or you came with --view");
                }
                Ok(ConsoleNote::Missed) => tell("some output is missing here"),
                Ok(ConsoleNote::Role { .. }) | Err(_) => {}
            },
            Ok(Message::Close(frame)) => {
                let reason = frame.map(|frame| frame.reason.to_string()).filter(|reason| !reason.is_empty());
                return Ok(Some(reason.unwrap_or_else(|| "the orchestrator closed it".to_owned())));
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(None);
            }
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                return Ok(Some("the orchestrator closed it".to_owned()));
            }
            Err(error) => return Err(broken(&error)),
        }
    }
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    /// Something was typed.
    Typed,
    /// Somebody asks chomctl to end.
    Asked,
    /// Look at the socket and the terminal.
    Other,
}

/// Waits for something to do.
fn wait(
    socket: &WebSocket<Stream>,
    signals: &SignalFd,
    listen: bool,
    write: bool,
) -> Result<Waited, Failure> {
    let stdin = io::stdin();
    let mut interest = PollFlags::POLLIN;
    if write {
        interest |= PollFlags::POLLOUT;
    }
    let mut polled = vec![
        PollFd::new(socket.get_ref().as_fd(), interest),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    if listen {
        polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
    }
    match poll(&mut polled, PollTimeout::from(LOOK_MS)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(Failure::Terminal(error.into())),
    }
    let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(match (polled.get(1).is_some_and(ready), polled.get(2).is_some_and(ready)) {
        (true, _) => Waited::Asked,
        (false, true) => Waited::Typed,
        (false, false) => Waited::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes to the VPS of what is typed in pieces, with `!` where it leaves.
    fn typed(pieces: &[&str]) -> String {
        let mut escape = Escape::default();
        let mut out = String::new();
        for piece in pieces {
            let (bytes, leave) = escape.pass(piece.as_bytes());
            out.push_str(&String::from_utf8(bytes).unwrap());
            if leave {
                out.push('!');
                break;
            }
        }
        out
    }

    #[test]
    fn a_tilde_and_a_dot_at_the_beginning_of_a_line_leave() {
        assert_eq!(typed(&["~."]), "!");
        assert_eq!(typed(&["ls\r~."]), "ls\r!");
        assert_eq!(typed(&["ls\r", "~", ".", "rest"]), "ls\r!");
        assert_eq!(typed(&["ls ~.x"]), "ls ~.x", "in the middle of a line it is text");
        assert_eq!(typed(&["~/bin\r"]), "~/bin\r");
        assert_eq!(typed(&["~~.\r"]), "~.\r", "two are one");
        assert_eq!(typed(&["~", "\r", "~."]), "~\r!");
    }

    #[test]
    fn control_and_bracket_leave_anywhere() {
        assert_eq!(typed(&["vi x\u{1d}y"]), "vi x!");
    }
}
