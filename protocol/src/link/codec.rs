//! Frames: an 8-byte header (magic `CH`, version, kind, payload length, big-endian) and a bincode payload. Pure: bytes in,
//! values out. Nothing is allocated for a length that was not checked first, trailing bytes are an error, and every
//! decode has a limit (bincode without one aborts on hostile lengths).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest payload. A status of 500 VPSs is about 100 KiB; a desired state goes in parts.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// bincode's limit while a payload is read. It counts each integer at its full width, not at the bytes it took, so a
/// payload that fits a frame can count for eight times as much (a small u64 takes one byte): with the size of a frame as
/// the limit, a full frame of ours was refused by its reader.
const DECODE_LIMIT_BYTES: usize = 8 * FRAME_BYTES_MAX;
/// Size of the header.
pub const HEADER_BYTES: usize = 8;
/// What every frame begins with.
pub const MAGIC: [u8; 2] = *b"CH";
/// The version of the frame and of the messages in it.
pub const VERSION: u8 = 1;

/// What a frame carries, so that a stream that was crossed is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Agent to orchestrator.
    ToOrchestrator = 1,
    /// Orchestrator to agent.
    ToAgent = 2,
    /// Agent to helper.
    HelperRequest = 3,
    /// Helper to agent.
    HelperReply = 4,
    /// Orchestrator to agent, first on a tunnel.
    TunnelRequest = 5,
    /// Agent to orchestrator, its answer there.
    TunnelReply = 6,
}

/// What can be framed.
pub trait Message: Sized {
    /// The kind of frame it travels in.
    const KIND: FrameKind;

    /// Its bytes.
    fn to_payload(&self) -> Result<Vec<u8>, EncodeError>;

    /// The value of `payload`, all of it.
    fn from_payload(payload: &[u8]) -> Result<Self, DecodeError>;
}

/// Why a value cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It cannot be written as bincode.
    #[error("cannot encode the message")]
    Value(#[source] bincode::error::EncodeError),
    /// It is larger than a frame.
    #[error("the message has {bytes} bytes; a frame carries at most {FRAME_BYTES_MAX}")]
    Large {
        /// Its size.
        bytes: usize,
    },
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not our frames.
    #[error(
        "the frame begins with {found:02x?} instead of {MAGIC:02x?}: the peer does not speak CHOM's protocol"
    )]
    Magic {
        /// What it begins with.
        found: [u8; 2],
    },
    /// A version we do not know.
    #[error("the frame is of version {found}; this release speaks version {VERSION}: upgrade the older side")]
    Version {
        /// Its version.
        found: u8,
    },
    /// A message of another direction.
    #[error("the frame is of kind {found}; expected {expected:?}")]
    Kind {
        /// Its kind.
        found: u8,
        /// What belongs here.
        expected: FrameKind,
    },
    /// Larger than allowed.
    #[error("the frame announces {bytes} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    Large {
        /// As announced.
        bytes: usize,
    },
    /// The payload is not what it should be.
    #[error("the payload is malformed")]
    Value(#[source] bincode::error::DecodeError),
    /// The payload has more bytes than the value.
    #[error("{extra} bytes follow the message in its frame")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A value that no peer of ours sends.
    #[error("the message has a bad value: {0}")]
    Bad(String),
}

/// The whole frame of a message.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let payload = message.to_payload()?;
    let Some(length) = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= FRAME_BYTES_MAX) else {
        return Err(EncodeError::Large { bytes: payload.len() });
    };
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&MAGIC);
    frame.push(VERSION);
    frame.push(M::KIND as u8);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// Checks a header and gives the length of the payload that follows, which is then safe to allocate.
pub fn payload_length<M: Message>(header: [u8; HEADER_BYTES]) -> Result<usize, DecodeError> {
    let [m0, m1, version, kind, l0, l1, l2, l3] = header;
    if [m0, m1] != MAGIC {
        return Err(DecodeError::Magic { found: [m0, m1] });
    }
    if version != VERSION {
        return Err(DecodeError::Version { found: version });
    }
    if kind != M::KIND as u8 {
        return Err(DecodeError::Kind { found: kind, expected: M::KIND });
    }
    let bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(DecodeError::Large { bytes });
    }
    Ok(bytes)
}

/// The message of a payload.
pub fn decode<M: Message>(payload: &[u8]) -> Result<M, DecodeError> {
    if payload.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::Large { bytes: payload.len() });
    }
    M::from_payload(payload)
}

/// bincode as every payload has it.
pub(crate) fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(EncodeError::Value)
}

/// The value of all of `bytes`, within the limit.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let config = bincode::config::standard().with_limit::<DECODE_LIMIT_BYTES>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config).map_err(DecodeError::Value)?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(DecodeError::Trailing { extra }),
    }
}
