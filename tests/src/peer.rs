//! One bare connection of the link: a peer that greets properly or not at all, sends what it likes, and says how it was
//! closed. Shares the product's TLS configurations and frames, none of its agent.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chom_certs::{ALPN_ENROL, ALPN_LINK, Identity, SERVER_NAME};
use chom_protocol::link::codec::{HEADER_BYTES, decode, encode, payload_length};
use chom_protocol::link::{Close, Hello, ToAgent, ToOrchestrator};
use chom_protocol::{BootId, Generation, InstanceId};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// An answer or a close is here by then.
const DEADLINE: Duration = Duration::from_secs(20);

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The orchestrator closed it, with this reason.
    Closed(Option<Close>, String),
    /// It broke in another way.
    Broken(String),
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Closed(
                Close::from_code(close.error_code.into_inner()),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Peer {
    runtime: Runtime,
    connection: Connection,
    /// Keeps the socket open.
    _endpoint: Endpoint,
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    /// What we say.
    pub send: SendStream,
    /// What we hear.
    pub receive: RecvStream,
}

impl Peer {
    /// Connects with the identity in an agent's folder.
    ///
    /// # Errors
    /// When the handshake fails.
    ///
    /// # Panics
    /// When the identity cannot be read.
    pub fn connect(to: SocketAddr, identity: &Path) -> Result<Self, End> {
        let identity = Identity::load(identity).unwrap();
        Self::dial(to, chom_certs::client_config(&identity).unwrap())
    }

    /// Connects without a certificate, and claims to speak the link.
    ///
    /// # Errors
    /// When the handshake fails.
    ///
    /// # Panics
    /// When TLS cannot be set up.
    pub fn connect_bare(to: SocketAddr, authority: chom_certs::Fingerprint) -> Result<Self, End> {
        let mut tls = chom_certs::enrol_client_config(authority).unwrap();
        tls.alpn_protocols = vec![ALPN_LINK.to_vec()];
        Self::dial(to, tls)
    }

    /// Connects as a host that wants to enrol.
    ///
    /// # Errors
    /// When the handshake fails.
    ///
    /// # Panics
    /// When TLS cannot be set up.
    pub fn connect_to_enrol(to: SocketAddr, authority: chom_certs::Fingerprint) -> Result<Self, End> {
        let tls = chom_certs::enrol_client_config(authority).unwrap();
        assert_eq!(tls.alpn_protocols, [ALPN_ENROL.to_vec()]);
        Self::dial(to, tls)
    }

    fn dial(to: SocketAddr, tls: rustls::ClientConfig) -> Result<Self, End> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let (endpoint, connected) = runtime.block_on(async {
            let endpoint = Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
            let connecting = endpoint.connect_with(config, to, SERVER_NAME).unwrap();
            let connected = timeout(DEADLINE, connecting).await.expect("a handshake ends in time");
            (endpoint, connected)
        });
        Ok(Self { connection: connected?, runtime, _endpoint: endpoint })
    }

    /// A Hello of the host whose identity is in this folder.
    ///
    /// # Panics
    /// When the identity cannot be read.
    #[must_use]
    pub fn greeting(identity: &Path, instance: InstanceId) -> Hello {
        Hello {
            host: Identity::load(identity).unwrap().host(),
            instance,
            boot: BootId::new(uuid::Uuid::new_v4()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            accepted: Generation::default(),
        }
    }

    /// Greets, and gives the control stream and the answer.
    ///
    /// # Errors
    /// When the orchestrator closes the connection instead.
    pub fn greet(&self, hello: Hello) -> Result<(Stream, ToAgent), End> {
        let mut stream = self.open()?;
        self.say(&mut stream, &encode(&ToOrchestrator::Hello(hello)).unwrap())?;
        let answer = self.hear(&mut stream)?;
        Ok((stream, answer))
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When the connection is closed.
    ///
    /// # Panics
    /// When the orchestrator allows no stream in time.
    pub fn open(&self) -> Result<Stream, End> {
        let opened = self.runtime.block_on(async { timeout(DEADLINE, self.connection.open_bi()).await });
        let (send, receive) = opened.expect("a stream is allowed in time")?;
        Ok(Stream { send, receive })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection or the stream is closed.
    pub fn say(&self, stream: &mut Stream, bytes: &[u8]) -> Result<(), End> {
        let sent = self.runtime.block_on(async { timeout(DEADLINE, stream.send.write_all(bytes)).await });
        sent.expect("bytes are taken in time").map_err(|error| match error {
            quinn::WriteError::ConnectionLost(error) => error.into(),
            other => End::Broken(other.to_string()),
        })
    }

    /// Ends what we say on a stream.
    pub fn finish(&self, stream: &mut Stream) {
        let _runtime = self.runtime.enter();
        let _ = stream.send.finish();
    }

    /// One frame.
    ///
    /// # Errors
    /// When the connection or the stream is closed instead.
    ///
    /// # Panics
    /// When nothing comes in time, or it is no frame.
    pub fn hear(&self, stream: &mut Stream) -> Result<ToAgent, End> {
        let broken = |error| match error {
            quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => error.into(),
            other => End::Broken(other.to_string()),
        };
        let frame = self.runtime.block_on(async {
            timeout(DEADLINE, async {
                let mut header = [0; HEADER_BYTES];
                stream.receive.read_exact(&mut header).await?;
                let mut payload = vec![0; payload_length::<ToAgent>(header).unwrap()];
                stream.receive.read_exact(&mut payload).await?;
                Ok(payload)
            })
            .await
        });
        let payload = frame.expect("an answer comes in time").map_err(broken)?;
        Ok(decode(&payload).unwrap())
    }

    /// Waits until the connection is closed; how, and how long that took.
    ///
    /// # Panics
    /// When it is not closed in time.
    #[must_use]
    pub fn closed(&self) -> (End, Duration) {
        let started = Instant::now();
        let closed = self.runtime.block_on(async { timeout(DEADLINE, self.connection.closed()).await });
        (closed.expect("the connection is closed in time").into(), started.elapsed())
    }

    /// Whether the connection is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }
}
