//! Frames on QUIC streams: nothing is allocated for a length that was not checked, and a frame that has begun must end in
//! time. Reading can be cancelled at any moment and goes on where it was.

use std::time::Duration;

use crate::chain;
use chom_protocol::link::Close;
use chom_protocol::link::codec::{DecodeError, EncodeError, HEADER_BYTES, decode, encode, payload_length};
use chom_protocol::link::{ToAgent, ToOrchestrator};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, timeout, timeout_at};

/// A frame that has begun ends within this time: a megabyte at 300 kbit/s.
pub(super) const FRAME_SECONDS_MAX: Duration = Duration::from_secs(30);
/// A peer takes what it is sent within this time.
pub(super) const WRITE_SECONDS_MAX: Duration = Duration::from_secs(30);

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the frame is malformed")]
    Decode(#[from] DecodeError),
    #[error("the answer cannot be framed")]
    Encode(#[from] EncodeError),
    #[error("the stream ended within a frame")]
    Cut,
    #[error("the stream goes on behind its one request")]
    More,
    #[error("a frame did not arrive within {} s", FRAME_SECONDS_MAX.as_secs())]
    SlowRead,
    #[error("an answer was not taken within {} s", WRITE_SECONDS_MAX.as_secs())]
    SlowWrite,
    #[error("the stream cannot be read")]
    Read(#[from] ReadError),
    #[error("the stream cannot be written")]
    Write(#[from] WriteError),
}

impl FrameError {
    /// How the connection is to be closed for it; none when only this stream is over, or the connection is anyway.
    pub(super) const fn close(&self) -> Option<Close> {
        match self {
            Self::Decode(_) | Self::Cut | Self::More => Some(Close::Protocol),
            Self::SlowRead | Self::SlowWrite => Some(Close::Slow),
            Self::Encode(_) | Self::Read(_) | Self::Write(_) => None,
        }
    }
}

/// Reads frames from one stream.
pub(super) struct FrameReader {
    stream: RecvStream,
    header: [u8; HEADER_BYTES],
    payload: Vec<u8>,
    /// Bytes of header and payload that are there.
    filled: usize,
    deadline: Option<Instant>,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, header: [0; HEADER_BYTES], payload: Vec::new(), filled: 0, deadline: None }
    }

    /// The next message; none when the peer ended the stream. Waits for it without limit, but not for the rest of it.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<ToOrchestrator>, FrameError> {
        loop {
            if self.filled >= HEADER_BYTES && self.filled == HEADER_BYTES + self.payload.len() {
                (self.filled, self.deadline) = (0, None);
                return Ok(Some(decode(&std::mem::take(&mut self.payload))?));
            }
            let rest = match self.filled.checked_sub(HEADER_BYTES) {
                None => &mut self.header[self.filled..],
                Some(filled) => &mut self.payload[filled..],
            };
            let read = self.stream.read(rest);
            let count = match self.deadline {
                None => read.await?,
                Some(deadline) => timeout_at(deadline, read).await.map_err(|_| FrameError::SlowRead)??,
            };
            let Some(count) = count else {
                return if self.filled == 0 { Ok(None) } else { Err(FrameError::Cut) };
            };
            self.filled += count;
            self.deadline.get_or_insert_with(|| Instant::now() + FRAME_SECONDS_MAX);
            if self.filled == HEADER_BYTES {
                self.payload = vec![0; payload_length::<ToOrchestrator>(self.header)?];
            }
        }
    }

    /// The first message of a stream, which must come in time too.
    pub(super) async fn first(&mut self) -> Result<Option<ToOrchestrator>, FrameError> {
        self.deadline = Some(Instant::now() + FRAME_SECONDS_MAX);
        self.next().await
    }

    /// Hears the end of a stream whose one request is answered. One that is dropped before is told to stop, also when nothing
    /// more is to come: a packet for each side, with every report.
    pub(super) async fn end(&mut self) -> Result<(), FrameError> {
        match timeout(FRAME_SECONDS_MAX, self.stream.read(&mut [0])).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(_))) => Err(FrameError::More),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(FrameError::SlowRead),
        }
    }
}

/// Sends a message. Fails when the peer does not take it in time.
pub(super) async fn send(stream: &mut SendStream, message: &ToAgent) -> Result<(), FrameError> {
    send_bytes(stream, &encode(message)?).await
}

/// Sends bytes. Fails when the peer does not take them in time.
pub(super) async fn send_bytes(stream: &mut SendStream, bytes: &[u8]) -> Result<(), FrameError> {
    timeout(WRITE_SECONDS_MAX, stream.write_all(bytes)).await.map_err(|_| FrameError::SlowWrite)??;
    Ok(())
}

/// Sends the one answer of a stream and ends it.
pub(super) async fn answer(mut stream: SendStream, message: &ToAgent) -> Result<(), FrameError> {
    send(&mut stream, message).await?;
    // Fails only on a stream that was ended before, which this one was not.
    let _ = stream.finish();
    Ok(())
}

/// The answer to what cannot be done.
pub(super) fn problem(error: &dyn std::error::Error) -> ToAgent {
    ToAgent::Problem { problem: chain(error) }
}
