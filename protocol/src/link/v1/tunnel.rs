//! Tunnels' first frames on the wire. FROZEN: see `v1`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::value::{Id, TEXT_BYTES_MAX, bad, line};
use crate::id::{TunnelId, VpsId};
use crate::link::codec::DecodeError;
use crate::link::tunnel::{self, PASSWORD_BYTES_MAX, Secret, TERMINAL_CELLS_MAX, is_user};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct TerminalSize {
    columns: u16,
    rows: u16,
}

impl From<tunnel::TerminalSize> for TerminalSize {
    fn from(size: tunnel::TerminalSize) -> Self {
        let tunnel::TerminalSize { columns, rows } = size;
        Self { columns, rows }
    }
}

impl TryFrom<TerminalSize> for tunnel::TerminalSize {
    type Error = DecodeError;

    fn try_from(size: TerminalSize) -> Result<Self, DecodeError> {
        let TerminalSize { columns, rows } = size;
        let size = Self { columns, rows };
        if size == size.clamped() {
            return Ok(size);
        }
        Err(bad("size", format_args!("{columns}x{rows} is no terminal of 1 to {TERMINAL_CELLS_MAX} cells")))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum TunnelRequest {
    Console { tunnel: Id, vps: Id, size: TerminalSize },
    Resize { tunnel: Id, size: TerminalSize },
    Vnc { vps: Id },
    SetPassword { vps: Id, user: String, password: Secret },
}

impl From<&tunnel::TunnelRequest> for TunnelRequest {
    fn from(request: &tunnel::TunnelRequest) -> Self {
        use tunnel::TunnelRequest as Domain;
        let id = |vps: &VpsId| vps.uuid().into_bytes();
        match request {
            Domain::Console { tunnel, vps, size } => {
                Self::Console { tunnel: tunnel.uuid().into_bytes(), vps: id(vps), size: (*size).into() }
            }
            Domain::Resize { tunnel, size } => {
                Self::Resize { tunnel: tunnel.uuid().into_bytes(), size: (*size).into() }
            }
            Domain::Vnc { vps } => Self::Vnc { vps: id(vps) },
            Domain::SetPassword { vps, user, password } => {
                Self::SetPassword { vps: id(vps), user: user.clone(), password: password.clone() }
            }
        }
    }
}

impl TryFrom<TunnelRequest> for tunnel::TunnelRequest {
    type Error = DecodeError;

    fn try_from(request: TunnelRequest) -> Result<Self, DecodeError> {
        use TunnelRequest as Wire;
        let id = |vps: Id| VpsId::new(Uuid::from_bytes(vps));
        let tunnel_id = |tunnel: Id| TunnelId::new(Uuid::from_bytes(tunnel));
        Ok(match request {
            Wire::Console { tunnel, vps, size } => {
                Self::Console { tunnel: tunnel_id(tunnel), vps: id(vps), size: size.try_into()? }
            }
            Wire::Resize { tunnel, size } => {
                Self::Resize { tunnel: tunnel_id(tunnel), size: size.try_into()? }
            }
            Wire::Vnc { vps } => Self::Vnc { vps: id(vps) },
            Wire::SetPassword { vps, user, password } => {
                Self::SetPassword { vps: id(vps), user: checked_user(user)?, password: checked(password)? }
            }
        })
    }
}

fn checked_user(user: String) -> Result<String, DecodeError> {
    if is_user(&user) {
        return Ok(user);
    }
    Err(bad("SetPassword: user", format_args!("`{}` is no name of a user (useradd(8))", line(&user, 64))))
}

/// One line of printable ASCII, as chpasswd(8) reads it. What it is, no message says.
fn checked(password: Secret) -> Result<Secret, DecodeError> {
    let text = password.reveal();
    let fits = (1..=PASSWORD_BYTES_MAX).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(password);
    }
    Err(bad("SetPassword: password", format_args!("not 1 to {PASSWORD_BYTES_MAX} visible ASCII characters")))
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum TunnelReply {
    Opened,
    Done,
    Refused { problem: String, retryable: bool },
}

impl From<&tunnel::TunnelReply> for TunnelReply {
    fn from(reply: &tunnel::TunnelReply) -> Self {
        use tunnel::TunnelReply as Domain;
        match reply {
            Domain::Opened => Self::Opened,
            Domain::Done => Self::Done,
            Domain::Refused { problem, retryable } => {
                Self::Refused { problem: line(problem, TEXT_BYTES_MAX), retryable: *retryable }
            }
        }
    }
}

impl From<TunnelReply> for tunnel::TunnelReply {
    fn from(reply: TunnelReply) -> Self {
        use TunnelReply as Wire;
        match reply {
            Wire::Opened => Self::Opened,
            Wire::Done => Self::Done,
            Wire::Refused { problem, retryable } => {
                Self::Refused { problem: line(&problem, TEXT_BYTES_MAX), retryable }
            }
        }
    }
}
