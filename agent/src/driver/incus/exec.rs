//! Programs inside a container that runs: a shell on a terminal for its console, a program that is fed a text. By Incus'
//! exec, whose streams are WebSockets on its unix socket; Incus kills the program of a stream that breaks off, so that what
//! is dropped here leaves nothing behind.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use chom_protocol::link::tunnel::{Secret, TerminalSize};
use futures_util::{SinkExt, StreamExt};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::api::{IncusApi, IncusError, Stream};

/// Root's login shell, with the comfort of bash where there is one.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "exec \"$(command -v bash || echo /bin/sh)\" -l"];
/// What viewers' terminals all understand; which ones they are, nobody says.
const TERMINAL: &str = "xterm";
/// Read at once of what is typed; also what waits on the way to either side.
const CHUNK_BYTES: usize = 8 * 1024;
/// Kept of what a program says of its failure: a line or two.
const SAID_BYTES_MAX: usize = 512;
/// Incus begins a program as soon as it is asked to.
const BEGIN_SECONDS_MAX: u64 = 10;
/// Setting a password takes its program a moment; the tunnel gives all of it 25 s.
const END_SECONDS_MAX: u64 = 20;

/// The names of a program's streams, each with the secret that opens it.
#[derive(Debug, Deserialize)]
struct Streams {
    fds: Descriptors,
}

#[derive(Debug, Deserialize)]
struct Descriptors {
    #[serde(rename = "0")]
    input: String,
    #[serde(rename = "1", default)]
    output: String,
    #[serde(rename = "2", default)]
    errors: String,
    #[serde(default)]
    control: String,
}

/// How a program ended.
#[derive(Debug, Deserialize)]
struct Exit {
    #[serde(rename = "return")]
    code: i32,
}

/// A shell on a terminal. Dropping it ends the shell.
#[derive(Debug)]
pub(super) struct Shell {
    near: DuplexStream,
    _pump: JoinSet<()>,
}

impl AsyncRead for Shell {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(context, buffer)
    }
}

impl AsyncWrite for Shell {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(context)
    }
}

/// Opens a shell in the instance at `path`, on a terminal that has `size`, now and later.
pub(super) async fn shell(
    api: &IncusApi,
    path: &str,
    mut size: watch::Receiver<TerminalSize>,
) -> Result<Shell, IncusError> {
    let TerminalSize { columns, rows } = *size.borrow_and_update();
    let request = json!({
        "command": SHELL, "interactive": true, "wait-for-websocket": true,
        "width": columns, "height": rows, "environment": { "TERM": TERMINAL },
    });
    let (operation, Streams { fds }) =
        api.begin_with(&format!("{path}/exec"), &request, BEGIN_SECONDS_MAX).await?;
    // The shell begins with its terminal, so that what is said to `control` is heard from the first moment.
    let control = api.stream(&operation, &fds.control).await?;
    let terminal = api.stream(&operation, &fds.input).await?;
    let (near, far) = tokio::io::duplex(CHUNK_BYTES);
    let mut pump = JoinSet::new();
    pump.spawn(pass(terminal, control, far, size));
    Ok(Shell { near, _pump: pump })
}

/// Passes bytes and sizes on until either side ends.
async fn pass(terminal: Stream, control: Stream, far: DuplexStream, mut size: watch::Receiver<TerminalSize>) {
    let (mut to_shell, mut from_shell) = terminal.split();
    let (mut orders, mut unsaid) = control.split();
    let (mut typed, mut said) = tokio::io::split(far);
    let outward = async {
        while let Some(Ok(message)) = from_shell.next().await {
            match message {
                Message::Binary(bytes) if said.write_all(&bytes).await.is_ok() => {}
                Message::Ping(_) | Message::Pong(_) => {}
                // An empty text is how Incus says that the program ended.
                Message::Binary(_) | Message::Text(_) | Message::Close(_) | Message::Frame(_) => return,
            }
        }
    };
    let inward = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = typed.read(&mut chunk).await {
            let bytes = Bytes::copy_from_slice(&chunk[..count]);
            if to_shell.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
    };
    let sizes = async {
        while size.changed().await.is_ok() {
            let TerminalSize { columns, rows } = *size.borrow_and_update();
            let args = json!({ "width": columns.to_string(), "height": rows.to_string() });
            let order = json!({ "command": "window-resize", "args": args }).to_string();
            if orders.send(Message::text(order)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    // Nothing is said there, but pings are answered while somebody reads.
    let pings = async {
        while let Some(Ok(_)) = unsaid.next().await {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
        () = sizes => {}
        () = pings => {}
    }
}

/// Why a password was not set.
#[derive(Debug)]
pub(super) enum Unset {
    /// Incus could not do it.
    Incus(IncusError),
    /// The program in the container said no.
    Said {
        /// How it ended.
        code: i32,
        /// Its words, the password left out.
        words: String,
    },
}

impl From<IncusError> for Unset {
    fn from(error: IncusError) -> Self {
        Self::Incus(error)
    }
}

/// Sets a user's password by chpasswd(8) in the instance at `path`: it reads it, so that it stands on no command line.
pub(super) async fn set_password(
    api: &IncusApi,
    path: &str,
    user: &str,
    password: &Secret,
) -> Result<(), Unset> {
    let request = json!({ "command": ["chpasswd"], "interactive": false, "wait-for-websocket": true });
    let (operation, Streams { fds }) =
        api.begin_with(&format!("{path}/exec"), &request, BEGIN_SECONDS_MAX).await?;
    let _control = api.stream(&operation, &fds.control).await?;
    let output = api.stream(&operation, &fds.output).await?;
    let errors = api.stream(&operation, &fds.errors).await?;
    let mut input = api.stream(&operation, &fds.input).await?;
    let line = format!("{user}:{}\n", password.reveal());
    // What cannot be written any more, the program did not want: how it ends says why.
    let _ = input.send(Message::binary(line)).await;
    let _ = input.send(Message::text("")).await; // the end of its input
    let (_, words) = tokio::join!(words(output), words(errors));
    let Exit { code } = api.end(&operation, END_SECONDS_MAX).await?;
    if code == 0 {
        return Ok(());
    }
    // A program of the tenant's may say anything, also what it read.
    Err(Unset::Said { code, words: words.replace(password.reveal(), "…") })
}

/// The beginning of what a program says; reads on to its end.
async fn words(mut stream: Stream) -> String {
    let mut said = Vec::new();
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(bytes) => {
                let room = SAID_BYTES_MAX.saturating_sub(said.len()).min(bytes.len());
                said.extend_from_slice(&bytes[..room]);
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Text(_) | Message::Close(_) | Message::Frame(_) => break,
        }
    }
    String::from_utf8_lossy(&said).trim().to_owned()
}
