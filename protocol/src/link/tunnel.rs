//! Tunnels: streams that the orchestrator opens inside the agent's connection, each to one VPS. The first frame says what
//! for, the agent answers with one frame; a console's and a screen's bytes then follow raw, both ways, until either side
//! ends the stream.
//!
//! | orchestrator says | agent answers | then |
//! |---|---|---|
//! | `Console` | `Opened` or `Refused` | what the terminal says and hears |
//! | `Resize` | `Done` or `Refused` | |
//! | `Vnc` | `Opened` or `Refused` | the RFB protocol (RFC 6143) |
//! | `SetPassword` | `Done` or `Refused` | |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{TunnelId, VpsId};

/// Tunnels of one host at once: what agent and orchestrator both allow.
pub const TUNNELS_PER_HOST_MAX: usize = 16;
/// Longest name of a user: as useradd(8) has it.
pub const USER_BYTES_MAX: usize = 32;
/// Longest password that is set; made ones have 20 characters.
pub const PASSWORD_BYTES_MAX: usize = 128;
/// Most columns or rows of a terminal; a wall of screens has fewer.
pub const TERMINAL_CELLS_MAX: u16 = 2000;

/// A text that is shown and logged nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text from being shown.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

/// How large somebody's terminal is, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns, at least 1.
    pub columns: u16,
    /// Rows, at least 1.
    pub rows: u16,
}

impl Default for TerminalSize {
    /// What terminals have been since the VT100.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

impl TerminalSize {
    /// The size with each side within what the wire takes.
    #[must_use]
    pub fn clamped(self) -> Self {
        let side = |cells: u16| cells.clamp(1, TERMINAL_CELLS_MAX);
        Self { columns: side(self.columns), rows: side(self.rows) }
    }
}

/// What a tunnel is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelRequest {
    /// The serial console of a VM, a shell in a container.
    Console {
        /// Names it for `Resize`.
        tunnel: TunnelId,
        /// Whose.
        vps: VpsId,
        /// The terminal it is shown on.
        size: TerminalSize,
    },
    /// The terminal of an open console has another size now.
    Resize {
        /// Which console.
        tunnel: TunnelId,
        /// Its size.
        size: TerminalSize,
    },
    /// The screen of a VM.
    Vnc {
        /// Whose.
        vps: VpsId,
    },
    /// Sets the password of a user inside the guest.
    SetPassword {
        /// Whose.
        vps: VpsId,
        /// Of which user.
        user: String,
        /// To what.
        password: Secret,
    },
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelReply {
    /// Raw bytes follow.
    Opened,
    /// It is done.
    Done,
    /// It is not.
    Refused {
        /// What was wrong and what to do.
        problem: String,
        /// Whether the same may go through later without anybody's help.
        retryable: bool,
    },
}

/// Whether a text names a user as useradd(8) takes them, so that it can stand on a command line.
#[must_use]
pub fn is_user(text: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = |c: char| first(c) || c.is_ascii_digit() || c == '-';
    text.len() <= USER_BYTES_MAX && text.starts_with(first) && text.chars().all(rest)
}
