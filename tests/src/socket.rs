//! A WebSocket client for the API's consoles and screens: says and hears bytes and notes, each wait with a deadline.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::api::console::ConsoleNote;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::http::{Request, Uri, header};
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::api::Api;
use crate::wait::wait_for;

/// A look at the socket takes at most so long.
const LOOK: Duration = Duration::from_millis(50);
/// Messages looked at before the deadline is looked at again.
const LOOKS_MAX: usize = 1000;
/// How long the other side's turn is, where one thread serves both.
const TURN: Duration = Duration::from_millis(5);
/// The handshake waits for a host.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// One open WebSocket.
#[derive(Debug)]
pub struct Socket {
    inner: WebSocket<StreamOwned<ClientConnection, TcpStream>>,
    /// All bytes that came and were not taken.
    pub heard: Vec<u8>,
    /// All notes that came.
    pub notes: Vec<ConsoleNote>,
    /// Why it ended, once it has.
    pub ended: Option<String>,
}

impl Socket {
    /// Opens one, with the API's token or without any.
    ///
    /// # Errors
    /// The status and the body of a refusal.
    ///
    /// # Panics
    /// When there is no connection at all.
    pub fn open(api: &Api, path: &str, with_token: bool) -> Result<Self, (u16, String)> {
        let uri: Uri = api.server.parse().unwrap();
        let (host, port) = (uri.host().unwrap().to_owned(), uri.port_u16().unwrap());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&api.ca) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(tls.with_root_certificates(roots).with_no_client_auth());
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).unwrap();
        let tcp = TcpStream::connect((host.as_str(), port)).unwrap();
        tcp.set_read_timeout(Some(HANDSHAKE)).unwrap();
        let stream = StreamOwned::new(ClientConnection::new(tls, name).unwrap(), tcp);
        let mut request = Request::builder()
            .uri(format!("wss://{host}:{port}{path}"))
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, tungstenite::handshake::client::generate_key());
        if with_token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", api.token));
        }
        match tungstenite::client(request.body(()).unwrap(), stream) {
            Ok((inner, _)) => {
                inner.get_ref().sock.set_read_timeout(Some(LOOK)).unwrap();
                Ok(Self { inner, heard: Vec::new(), notes: Vec::new(), ended: None })
            }
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                let body = answer.body().as_deref().unwrap_or_default();
                Err((answer.status().as_u16(), String::from_utf8_lossy(body).into_owned()))
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When it cannot.
    pub fn say(&mut self, bytes: &[u8]) {
        self.inner.send(Message::Binary(bytes.to_vec().into())).unwrap();
    }

    /// Sends a text.
    ///
    /// # Panics
    /// When it cannot.
    pub fn order(&mut self, text: &str) {
        self.inner.send(Message::Text(text.to_owned().into())).unwrap();
    }

    /// Looks at the next thing that came, if there is one soon; whether there was.
    pub fn look(&mut self) -> bool {
        match self.inner.read() {
            Ok(Message::Binary(bytes)) => self.heard.extend_from_slice(&bytes),
            Ok(Message::Text(text)) => self.notes.extend(serde_json::from_str::<ConsoleNote>(text.as_str())),
            Ok(Message::Close(frame)) => {
                self.ended = Some(frame.map(|frame| frame.reason.to_string()).unwrap_or_default());
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                return false;
            }
            Err(error) => {
                self.ended.get_or_insert_with(|| error.to_string());
                return false;
            }
        }
        true
    }

    /// Listens until something holds.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn until(&mut self, what: &str, deadline: Duration, holds: impl Fn(&Self) -> bool) {
        wait_for(what, deadline, || {
            // All that is there at once: `wait_for` sleeps between two looks, and a page is many messages.
            for _ in 0..LOOKS_MAX {
                let came = self.look();
                if holds(self) {
                    return Ok(());
                }
                if !came {
                    break;
                }
            }
            let heard = String::from_utf8_lossy(&self.heard[self.heard.len().saturating_sub(2000)..]);
            Err(format!("heard `{heard}`, notes {:?}, ended {:?}", self.notes, self.ended))
        });
    }

    /// Listens until a text was heard.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn hears(&mut self, text: &str, deadline: Duration) {
        self.until(&format!("`{text}`"), deadline, |socket| {
            socket.heard.windows(text.len()).any(|window| window == text.as_bytes())
        });
    }

    /// Lets the first program that connects to `listener` speak over it as over TCP, until either side ends.
    ///
    /// # Panics
    /// When no program comes.
    pub fn lend(mut self, listener: &TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let mut client = wait_for("a program to connect", HANDSHAKE, || {
            listener.accept().map(|(client, _)| client).map_err(|error| error.to_string())
        });
        client.set_nonblocking(false).unwrap();
        client.set_read_timeout(Some(TURN)).unwrap();
        let mut bytes = [0; 4096];
        while self.ended.is_none() {
            while self.look() {}
            if client.write_all(&std::mem::take(&mut self.heard)).is_err() {
                return;
            }
            match client.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => self.say(&bytes[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(_) => return,
            }
        }
    }

    /// Whether the last word on its role was that it writes.
    #[must_use]
    pub fn writes(&self) -> Option<bool> {
        let mut roles = self.notes.iter().rev().filter_map(|note| match note {
            ConsoleNote::Role { writer, .. } => Some(*writer),
            _ => None,
        });
        roles.next()
    }

    /// The reason of the end, in its note or its close frame.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        let noted = self.notes.iter().rev().find_map(|note| match note {
            ConsoleNote::End { reason } => Some(reason.as_str()),
            _ => None,
        });
        noted.or(self.ended.as_deref())
    }
}
