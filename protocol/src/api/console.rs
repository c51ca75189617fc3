//! Consoles, screens and passwords of VPSs in the API. A console's WebSocket (RFC 6455) carries the terminal's bytes in binary
//! messages, both ways, and these notes and orders as JSON in text messages.

use serde::{Deserialize, Serialize};

use crate::id::VpsId;

/// What the server says beside the terminal's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ConsoleNote {
    /// Whether what this viewer types is taken. First, and whenever it changes.
    Role {
        /// It is; of several viewers one writes, the others watch.
        writer: bool,
        /// How many look on, this one included.
        viewers: u32,
    },
    /// This viewer was too slow: something of the output is missing here.
    Missed,
    /// It is over.
    End {
        /// Why.
        reason: String,
    },
}

/// What a viewer says beside what it types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConsoleOrder {
    /// The viewer's terminal has another size. Only the writer's counts.
    Resize {
        /// In cells.
        columns: u16,
        /// In cells.
        rows: u16,
    },
}

/// Opens the console or the screen of one VPS, once, within a minute: for browsers, which cannot send a token with a
/// WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsoleTicket {
    /// The ticket, for `?ticket=`.
    pub ticket: String,
    /// Until when it is good, RFC 3339.
    pub expires_at: String,
    /// The path of the console with it.
    pub console: String,
    /// The path of the screen with it.
    pub vnc: String,
}

/// Asks for a new password inside a VPS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ResetPassword {
    /// Of which user; `root` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A new password. It is in this one answer and nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PasswordReset {
    /// In which VPS.
    pub vps: VpsId,
    /// Of which user.
    pub user: String,
    /// The password; none in the answer to a repeated request, because it is shown once.
    pub password: Option<String>,
}

impl std::fmt::Debug for PasswordReset {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vps, user, password: _ } = self;
        write!(out, "PasswordReset {{ {vps}, {user} }}")
    }
}
