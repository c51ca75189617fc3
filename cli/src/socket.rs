//! A WebSocket to the orchestrator (RFC 6455), with the trust and the token of every other request. One thread reads and
//! writes: what would block says so.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::http::{Request, Uri, header};
use tungstenite::{HandshakeError, WebSocket};

use crate::error::Failure;

/// As for every other connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The handshake waits until the console is open on the host: the API answers within 30 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(40);
/// Largest error document that is read.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

/// Plain to this machine itself, TLS to all others.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// Where to connect, and whom to trust there.
pub(crate) struct Peer<'a> {
    /// `https://host[:port]`.
    pub(crate) server: &'a str,
    /// The value of `Authorization`.
    pub(crate) authorization: &'a str,
    /// PEM of the only CA to trust; the system's where absent.
    pub(crate) ca: Option<&'a [u8]>,
}

/// Opens a WebSocket; it does not block from then on.
///
/// # Errors
/// No connection, no trust, or the server says no.
pub(crate) fn open(peer: &Peer<'_>, path: &str) -> Result<WebSocket<Stream>, Failure> {
    let failed = |source: io::Error| Failure::Socket { server: peer.server.to_owned(), source };
    let strange = |what: String| Failure::Answer { server: peer.server.to_owned(), status: None, what };
    let uri: Uri =
        peer.server.parse().map_err(|_| strange("the server's address cannot be read".to_owned()))?;
    let is_plain = uri.scheme_str() == Some("http");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
    let stream = connect(&host, port, is_plain, peer.ca).map_err(failed)?;
    let scheme = if is_plain { "ws" } else { "wss" };
    let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let request = Request::builder()
        .uri(format!("{scheme}://{authority}{path}"))
        .header(header::HOST, &authority)
        .header(header::AUTHORIZATION, peer.authorization)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, tungstenite::handshake::client::generate_key())
        .body(())
        .map_err(|error| strange(error.to_string()))?;
    let (socket, _) = tungstenite::client(request, stream).map_err(|error| match error {
        HandshakeError::Failure(tungstenite::Error::Http(answer)) => refusal(peer.server, &answer),
        HandshakeError::Failure(tungstenite::Error::Io(error)) => failed(error),
        HandshakeError::Failure(error) => strange(error.to_string()),
        HandshakeError::Interrupted(_) => failed(io::ErrorKind::TimedOut.into()),
    })?;
    socket.get_ref().tcp().set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

fn refusal(server: &str, answer: &tungstenite::http::Response<Option<Vec<u8>>>) -> Failure {
    let status = answer.status().as_u16();
    let body = answer.body().as_deref().unwrap_or_default();
    match serde_json::from_slice(&body[..body.len().min(PROBLEM_BYTES_MAX)]) {
        Ok(problem) => Failure::Problem { server: server.to_owned(), problem: Box::new(problem) },
        Err(_) => Failure::Answer {
            server: server.to_owned(),
            status: Some(status),
            what: format!("HTTP status {status} where a WebSocket was to open"),
        },
    }
}

fn connect(host: &str, port: u16, is_plain: bool, ca: Option<&[u8]>) -> io::Result<Stream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        let tcp = match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(tcp) => tcp,
            Err(error) => {
                last = error;
                continue;
            }
        };
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        if is_plain {
            return Ok(Stream::Plain(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(tls(ca)?), name).map_err(io::Error::other)?;
        return Ok(Stream::Tls(Box::new(StreamOwned::new(connection, tcp))));
    }
    Err(last)
}

/// TLS 1.3 with ring, HTTP/1.1: what a WebSocket needs.
fn tls(ca: Option<&[u8]>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
