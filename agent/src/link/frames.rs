//! Frames on a QUIC stream, each under a deadline. Holds one frame at a time and nothing else.

use std::time::Duration;

use chom_protocol::link::codec::{self, DecodeError, EncodeError, HEADER_BYTES, Message};
use chom_protocol::link::{ToAgent, ToOrchestrator};
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

/// A frame that was begun, or an answer that is due, comes within this time, or the orchestrator is as good as gone.
pub(super) const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(30);

/// Why a stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Nothing came in time.
    #[error("the orchestrator did not answer within {} s", ANSWER_SECONDS_MAX.as_secs())]
    Slow,
    /// The stream ended where an answer was due.
    #[error("the orchestrator ended the stream without an answer")]
    Ended,
    /// The connection or the stream broke.
    #[error("the stream broke while reading")]
    Read(#[source] ReadExactError),
    /// The connection or the stream broke.
    #[error("the stream broke while writing")]
    Write(#[source] WriteError),
    /// What came is no message.
    #[error("what the orchestrator sent cannot be understood")]
    Decode(#[source] DecodeError),
    /// What should go is too much.
    #[error("the message cannot be sent")]
    Encode(#[source] EncodeError),
    /// A message that does not belong here.
    #[error("the orchestrator sent something that does not belong on the {stream} stream")]
    Unexpected {
        /// Which stream.
        stream: &'static str,
    },
    /// The orchestrator says no.
    #[error("the orchestrator says: {problem}")]
    Problem {
        /// In its words.
        problem: String,
    },
}

/// Sends one message.
pub(crate) async fn send(stream: &mut SendStream, message: &impl Message) -> Result<(), FrameError> {
    let frame = codec::encode(message).map_err(FrameError::Encode)?;
    match timeout(ANSWER_SECONDS_MAX, stream.write_all(&frame)).await {
        Ok(written) => written.map_err(FrameError::Write),
        Err(_) => Err(FrameError::Slow),
    }
}

/// The next message, however long it takes to begin; none where the stream ends. Not cancel-safe.
pub(super) async fn wait<M: Message>(stream: &mut RecvStream) -> Result<Option<M>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    match stream.read_exact(&mut header).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(FrameError::Read(error)),
    }
    let length = codec::payload_length::<M>(header).map_err(FrameError::Decode)?;
    let mut payload = vec![0; length];
    match timeout(ANSWER_SECONDS_MAX, stream.read_exact(&mut payload)).await {
        Ok(read) => read.map_err(FrameError::Read)?,
        Err(_) => return Err(FrameError::Slow),
    }
    codec::decode(&payload).map(Some).map_err(FrameError::Decode)
}

/// The next message, which is an answer.
pub(super) async fn answer(stream: &mut RecvStream) -> Result<ToAgent, FrameError> {
    due(stream).await
}

/// The next message, which is due.
pub(crate) async fn due<M: Message>(stream: &mut RecvStream) -> Result<M, FrameError> {
    match timeout(ANSWER_SECONDS_MAX, wait(stream)).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(FrameError::Ended),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(FrameError::Slow),
    }
}

/// Sends one message on a stream of its own and hears that it is kept.
pub(super) async fn report(
    connection: &quinn::Connection,
    message: &ToOrchestrator,
    stream: &'static str,
    priority: i32,
) -> Result<(), super::LinkError> {
    let opening = timeout(ANSWER_SECONDS_MAX, connection.open_bi()).await;
    let (mut out, mut back) = opening.map_err(|_| FrameError::Slow)??;
    let _ = out.set_priority(priority); // fails only on a stream that is closed, and then so does the next line
    send(&mut out, message).await?;
    let _ = out.finish();
    let answered = answer(&mut back).await?;
    // Read to its end: a stream that is dropped before is told to stop, which costs both sides a packet with every report.
    match timeout(ANSWER_SECONDS_MAX, wait::<ToAgent>(&mut back)).await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(_))) => return Err(FrameError::Unexpected { stream }.into()),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(FrameError::Slow.into()),
    }
    match answered {
        ToAgent::Acknowledged => Ok(()),
        ToAgent::Problem { problem } => Err(FrameError::Problem { problem }.into()),
        _ => Err(FrameError::Unexpected { stream }.into()),
    }
}
