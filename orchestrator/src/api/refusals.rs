//! Answers that hyper gives by itself, below every service, to what it cannot read as a request: a status, and nothing else.
//! They leave here as answers like others, with security headers and a problem document. Knows no route. (HTTP/2 refuses
//! with a stream's error, which has no place for either.)

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::api::envelope::SECURITY_HEADERS;
use crate::api::problem::{ApiError, Kind, MEDIA_TYPE};

/// A connection on which they are replaced.
pub(super) struct Whole<S> {
    inner: S,
    /// What is still to be written of such an answer.
    rest: Bytes,
}

impl<S> Whole<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, rest: Bytes::new() }
    }
}

/// The status of an answer that no handler made: theirs all have the security headers.
fn bare_refusal(written: &[u8]) -> Option<StatusCode> {
    let code = written.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = StatusCode::from_bytes(code).ok().filter(StatusCode::is_client_error)?;
    let text = std::str::from_utf8(written).ok()?;
    let ours = SECURITY_HEADERS.iter().any(|(name, _)| text.contains(name.as_str()));
    (text.ends_with("\r\n\r\n") && !ours).then_some(status)
}

fn answer(status: StatusCode) -> Bytes {
    let error = match status {
        StatusCode::BAD_REQUEST => ApiError::new(Kind::Malformed, "this cannot be read as an HTTP request"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ApiError::new(Kind::Other(status), "the headers or the path are too large; send less")
        }
        other => ApiError::new(Kind::Other(other), "this cannot be read as an HTTP request"),
    };
    let body = serde_json::to_string(&error.into_problem()).unwrap_or_default();
    let security: String =
        SECURITY_HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let media_type = String::from_utf8_lossy(MEDIA_TYPE.as_bytes()).into_owned();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n{security}connection: close\r\n\r\n{body}"
    )
    .into()
}

impl<S: AsyncWrite + Unpin> Whole<S> {
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            drop(self.rest.split_to(written));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Whole<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(context))?;
        match bare_refusal(bytes) {
            // Written by what comes next: hyper flushes and shuts down behind it.
            Some(status) => {
                self.rest = answer(status);
                Poll::Ready(Ok(bytes.len()))
            }
            None => Pin::new(&mut self.inner).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [only] => self.poll_write(context, only),
            more => {
                ready!(self.poll_rest(context))?;
                Pin::new(&mut self.inner).poll_write_vectored(context, more)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Whole<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}
