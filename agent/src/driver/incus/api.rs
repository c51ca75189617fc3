//! Incus' REST API over its unix socket: one connection for each request, so that the agent holds none while nothing
//! happens. Knows envelopes, operations and errors; nothing of VPSs.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config, tungstenite};

/// Largest answer that is read: 1,000 instances with 32 KiB of user data each, which Incus tells twice.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A file is sent in pieces of this size.
const CHUNK_BYTES: usize = 64 * 1024;
/// Incus answers a question at once; it may have to be started first, which takes a second, on a busy host ten.
const ASK_SECONDS_MAX: u64 = 60;
/// Largest message of a program's stream: Incus sends what it reads at once, some KiB.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Incus waits 5 s for a program's streams.
const STREAM_SECONDS_MAX: u64 = 5;
/// What is left to Incus' own deadline, so that it is Incus that says what did not end.
const SLACK_SECONDS: u64 = 5;

/// Why Incus did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IncusError {
    /// It does not listen.
    #[error("cannot reach Incus at `{}`; see `systemctl status incus incus.socket`", socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It broke off.
    #[error("Incus broke off {path}; see `journalctl -u incus`")]
    Broken {
        /// What it was asked.
        path: String,
        #[source]
        source: hyper::Error,
    },
    /// What is to be sent cannot be read or written.
    #[error("cannot send `{path}` to Incus")]
    Send {
        /// What.
        path: String,
        #[source]
        source: io::Error,
    },
    /// A stream of a program did not open.
    #[error("Incus opened no stream of {operation}; see `journalctl -u incus`")]
    Stream {
        /// Of what.
        operation: String,
        #[source]
        source: Box<tungstenite::Error>,
    },
    /// It took too long.
    #[error("Incus did not answer {path} within {seconds} s; see `systemctl status incus`")]
    Late {
        /// What it was asked.
        path: String,
        /// How long it was given.
        seconds: u64,
    },
    /// It said something that is no answer.
    #[error("cannot understand Incus' answer to {path}; Incus 6.0 is what this release knows")]
    Answer {
        /// What it was asked.
        path: String,
        #[source]
        source: serde_json::Error,
    },
    /// More than any answer has.
    #[error("Incus' answer to {path} has more than {ANSWER_BYTES_MAX} bytes")]
    Large {
        /// What it was asked.
        path: String,
    },
    /// It said no.
    #[error("Incus says: {words}")]
    Refused {
        /// As an HTTP status.
        code: u16,
        /// Its words.
        words: String,
    },
    /// It began and did not succeed.
    #[error("Incus says: {words}")]
    Failed {
        /// Its words.
        words: String,
    },
    /// It was restarted, or the operation ended long ago.
    #[error("Incus no longer knows how its operation ended; the next look tells")]
    Forgotten,
}

impl IncusError {
    /// Whether what was asked about is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether Incus' words say so.
    pub(crate) fn says(&self, what: &str) -> bool {
        matches!(self, Self::Refused { words, .. } | Self::Failed { words } if words.contains(what))
    }

    /// Whether trying again may help without anybody's doing.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code != 400 && *code != 403,
            Self::Large { .. } => false,
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Send { .. }
            | Self::Stream { .. }
            | Self::Late { .. }
            | Self::Answer { .. }
            | Self::Failed { .. }
            | Self::Forgotten => true,
        }
    }
}

/// What is sent along.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A document; may be empty.
    Json(Bytes),
    /// A whole file, with the headers that tell Incus about it.
    File { file: File, left: u64, headers: Vec<(&'static str, String)> },
}

impl Payload {
    /// Nothing.
    pub(crate) fn none() -> Self {
        Self::Json(Bytes::new())
    }

    /// A document.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::Json(value.to_string().into())
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Json(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Json(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::File { left: 0, .. } => Poll::Ready(None),
            Self::File { file, left, .. } => {
                let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(*left).unwrap_or(CHUNK_BYTES))];
                let mut read = ReadBuf::new(&mut buffer);
                match Pin::new(file).poll_read(context, &mut read) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                    Poll::Ready(Ok(())) if read.filled().is_empty() => {
                        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter");
                        Poll::Ready(Some(Err(error)))
                    }
                    Poll::Ready(Ok(())) => {
                        let count = read.filled().len();
                        *left = left.saturating_sub(count as u64);
                        buffer.truncate(count);
                        Poll::Ready(Some(Ok(Frame::data(buffer.into()))))
                    }
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Json(bytes) => bytes.len() as u64,
            Self::File { left, .. } => *left,
        })
    }
}

/// What every answer comes in.
#[derive(Debug, Deserialize)]
struct Envelope<T> {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_code: u16,
    metadata: Option<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Sync,
    Async,
    Error,
}

/// How an operation stands, and what it says of itself.
#[derive(Debug, Deserialize)]
struct Operation<T> {
    status_code: u16,
    #[serde(default)]
    err: String,
    metadata: Option<T>,
}

/// Status codes of operations.
const RUNNING_CODES: std::ops::RangeInclusive<u16> = 100..=199;
const SUCCESS_CODE: u16 = 200;

/// A stream of a program.
pub(crate) type Stream = WebSocketStream<UnixStream>;

/// The API of one Incus.
#[derive(Debug)]
pub(crate) struct IncusApi {
    socket: PathBuf,
}

impl IncusApi {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for something that is there.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, IncusError> {
        let answer = self.ask(Method::GET, path, Payload::none(), ASK_SECONDS_MAX).await?;
        let Envelope { metadata, .. } = envelope::<T>(path, &answer)?;
        metadata.ok_or_else(|| missing(path))
    }

    /// Changes something and waits for its end; a dropped future leaves Incus at it.
    pub(crate) async fn act(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        seconds_max: u64,
    ) -> Result<(), IncusError> {
        match self.begin(method, path, payload, seconds_max).await? {
            Some(operation) => self.wait::<IgnoredAny>(&operation, seconds_max).await.map(drop),
            None => Ok(()),
        }
    }

    /// Waits for the end of an operation that says something then.
    pub(crate) async fn end<T: DeserializeOwned>(
        &self,
        operation: &str,
        seconds_max: u64,
    ) -> Result<T, IncusError> {
        self.wait(operation, seconds_max).await?.ok_or_else(|| missing(operation))
    }

    async fn wait<T: DeserializeOwned>(
        &self,
        operation: &str,
        seconds_max: u64,
    ) -> Result<Option<T>, IncusError> {
        let path = format!("{operation}/wait?timeout={seconds_max}");
        let waited = self.ask(Method::GET, &path, Payload::none(), seconds_max + SLACK_SECONDS).await?;
        let ended = match envelope::<Operation<T>>(&path, &waited) {
            Err(error) if error.is_not_found() => return Err(IncusError::Forgotten),
            ended => ended?.metadata.ok_or_else(|| missing(&path))?,
        };
        match ended.status_code {
            SUCCESS_CODE => Ok(ended.metadata),
            code if RUNNING_CODES.contains(&code) => Err(IncusError::Late { path, seconds: seconds_max }),
            _ => Err(IncusError::Failed { words: ended.err }),
        }
    }

    /// Asks for a change and does not wait for its end; gives the operation that goes on, if one does.
    pub(crate) async fn begin(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        seconds_max: u64,
    ) -> Result<Option<String>, IncusError> {
        let answer = self.ask(method, path, payload, seconds_max.max(ASK_SECONDS_MAX)).await?;
        let Envelope { kind, operation, .. } = envelope::<IgnoredAny>(path, &answer)?;
        Ok((kind == Kind::Async).then_some(operation))
    }

    /// Begins an operation that says at once what its streams are called; gives it too.
    pub(crate) async fn begin_with<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &serde_json::Value,
        seconds_max: u64,
    ) -> Result<(String, T), IncusError> {
        let answer = self.ask(Method::POST, path, Payload::json(request), seconds_max).await?;
        let Envelope { operation, metadata, .. } = envelope::<Operation<T>>(path, &answer)?;
        let said = metadata.and_then(|operation| operation.metadata).ok_or_else(|| missing(path))?;
        Ok((operation, said))
    }

    /// Opens a stream of an operation, by its secret.
    pub(crate) async fn stream(&self, operation: &str, secret: &str) -> Result<Stream, IncusError> {
        let connect = |source| IncusError::Connect { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let address = format!("ws://incus{operation}/websocket?secret={secret}");
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let opening = client_async_with_config(address, stream, Some(limits));
        match timeout(Duration::from_secs(STREAM_SECONDS_MAX), opening).await {
            Ok(Ok((stream, _))) => Ok(stream),
            Ok(Err(source)) => {
                Err(IncusError::Stream { operation: operation.to_owned(), source: Box::new(source) })
            }
            Err(_) => Err(IncusError::Late { path: operation.to_owned(), seconds: STREAM_SECONDS_MAX }),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        seconds: u64,
    ) -> Result<Vec<u8>, IncusError> {
        let asked = timeout(Duration::from_secs(seconds), self.exchange(method, path, payload)).await;
        asked.unwrap_or_else(|_| Err(IncusError::Late { path: path.to_owned(), seconds }))
    }

    async fn exchange(&self, method: Method, path: &str, payload: Payload) -> Result<Vec<u8>, IncusError> {
        let broken = |source| IncusError::Broken { path: path.to_owned(), source };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| IncusError::Connect { socket: self.socket.clone(), source })?;
        let mut request = Request::builder().method(method).uri(path).header("host", "incus");
        match &payload {
            Payload::Json(_) => request = request.header("content-type", "application/json"),
            Payload::File { headers, .. } => {
                request = request.header("content-type", "application/octet-stream");
                for (name, value) in headers {
                    request = request.header(*name, value);
                }
            }
        }
        let request = request
            .body(payload)
            .map_err(|error| IncusError::Send { path: path.to_owned(), source: io::Error::other(error) })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // The connection must be driven while it is spoken on; how it ends shows in the answer.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        let spoken = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            read(path, response).await
        };
        tokio::select! {
            answer = spoken => answer,
            never = driven => match never {},
        }
    }
}

async fn read(path: &str, response: Response<Incoming>) -> Result<Vec<u8>, IncusError> {
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|source| IncusError::Broken { path: path.to_owned(), source })?;
        if let Ok(data) = frame.into_data() {
            answer.extend_from_slice(&data);
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(IncusError::Large { path: path.to_owned() });
        }
    }
    Ok(answer)
}

fn envelope<T: DeserializeOwned>(path: &str, answer: &[u8]) -> Result<Envelope<T>, IncusError> {
    let understood = serde_json::from_slice(answer);
    let envelope: Envelope<T> =
        understood.map_err(|source| IncusError::Answer { path: path.to_owned(), source })?;
    if envelope.kind == Kind::Error {
        return Err(IncusError::Refused { code: envelope.error_code, words: envelope.error });
    }
    Ok(envelope)
}

fn missing(path: &str) -> IncusError {
    let source = serde::de::Error::missing_field("metadata");
    IncusError::Answer { path: path.to_owned(), source }
}
