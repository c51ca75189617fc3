//! Opens connections to URLs that callers of the API gave: images to fetch, webhooks to tell. Every name is looked up here and
//! only addresses that may be spoken to are, so that nobody looks about in the orchestrator's own network through it. Every
//! step has a deadline. Sends nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::images::reach::is_reachable;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("the name `{name}` cannot be looked up")]
    Name {
        /// Which.
        name: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address of the host may be spoken to.
    #[error("`{host}` is not spoken to: {problem}")]
    Forbidden {
        /// Which.
        host: String,
        /// Why, and what to do.
        problem: String,
    },
    /// No connection.
    #[error("cannot connect to `{host}`")]
    Connect {
        /// To whom.
        host: String,
        /// What the system said of the last address.
        #[source]
        source: io::Error,
    },
    /// No TLS.
    #[error("no TLS with `{host}`; is its certificate for this name, by a CA that this system trusts?")]
    Tls {
        /// With whom.
        host: String,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// The URL makes no connection.
    #[error("the URL makes no request: {problem}")]
    Url {
        /// Why.
        problem: String,
    },
}

impl DialError {
    /// Whether the next attempt may go better.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Name { .. } | Self::Connect { .. } => true,
            // A certificate that is not trusted is not trusted in a minute either; what broke off in between is.
            Self::Tls { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
            }
            Self::Forbidden { .. } | Self::Url { .. } => false,
        }
    }
}

/// A connection to whom it was dialled.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// To whom connections may be opened.
#[derive(Debug, Clone)]
pub struct Reach {
    /// The networks beside the public Internet; none: any address at all.
    pub networks: Option<Vec<IpNet>>,
    /// Whether the public Internet is open besides them.
    pub public: bool,
    /// The key of the configuration that names them.
    pub setting: &'static str,
}

impl Reach {
    /// Whether an address may be spoken to.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.networks.as_ref().is_none_or(|networks| match self.public {
            true => is_reachable(address, networks),
            false => networks.iter().any(|network| network.contains(&address.to_canonical())),
        })
    }

    /// Refuses a URL that names an address which may not be spoken to.
    ///
    /// # Errors
    /// Which, and what to do.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
            Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        if self.has(address) { Ok(()) } else { Err(self.forbidden(address)) }
    }

    fn forbidden(&self, address: IpAddr) -> String {
        let setting = self.setting;
        let why = if self.public { "is no public address" } else { "is not spoken to in the clear" };
        format!(
            "{address} {why}; an operator can add its network to `{setting}` in the orchestrator's \
             configuration if it may be spoken to"
        )
    }
}

/// Opens connections.
#[derive(Clone)]
pub struct Dialer {
    /// Whose certificates are trusted.
    pub tls: Arc<ClientConfig>,
    /// To whom.
    pub reach: Reach,
    /// Looking a name up; a connection to one address; TLS. SYN retransmits take 1, 3 and 7 s.
    pub step: Duration,
}

impl Dialer {
    /// A connection to the URL's host, by TLS where its scheme is `https`.
    ///
    /// # Errors
    /// When there is none, or may be none.
    pub(crate) async fn connect(&self, url: &Url) -> Result<Box<dyn Stream>, DialError> {
        let addresses = self.look_up(url).await?;
        let mut last = None;
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            match timeout(self.step, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.secure(url, stream).await,
                Ok(Err(source)) => last = Some(source),
                Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
            }
        }
        let source = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        Err(DialError::Connect { host: host(url), source })
    }

    /// The addresses of the URL's host that may be spoken to.
    async fn look_up(&self, url: &Url) -> Result<Vec<SocketAddr>, DialError> {
        let port = url.port_or_known_default().unwrap_or_default();
        let found: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(v4)) => vec![(v4, port).into()],
            Some(Host::Ipv6(v6)) => vec![(v6, port).into()],
            Some(Host::Domain(name)) => {
                let unknown = |source| DialError::Name { name: name.to_owned(), source };
                let found = timeout(self.step, lookup_host((name, port))).await;
                let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                found.map_err(unknown)?.collect()
            }
            None => Vec::new(),
        };
        let refused: Option<IpAddr> = found.first().map(SocketAddr::ip);
        let open: Vec<SocketAddr> =
            found.into_iter().filter(|address| self.reach.has(address.ip())).collect();
        match (open.is_empty(), refused) {
            (true, Some(address)) => {
                Err(DialError::Forbidden { host: host(url), problem: self.reach.forbidden(address) })
            }
            _ => Ok(open),
        }
    }

    async fn secure(&self, url: &Url, stream: TcpStream) -> Result<Box<dyn Stream>, DialError> {
        if url.scheme() != "https" {
            return Ok(Box::new(stream));
        }
        let name = match url.host() {
            Some(Host::Ipv4(v4)) => ServerName::from(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => ServerName::from(IpAddr::V6(v6)),
            Some(Host::Domain(name)) => ServerName::try_from(name.to_owned())
                .map_err(|error| DialError::Url { problem: error.to_string() })?,
            None => return Err(DialError::Url { problem: "it names no host".to_owned() }),
        };
        let shaken = timeout(self.step, TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream));
        match shaken.await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(source)) => Err(DialError::Tls { host: host(url), source }),
            Err(_) => Err(DialError::Connect { host: host(url), source: io::ErrorKind::TimedOut.into() }),
        }
    }
}

/// What is trusted unless told otherwise: the system's CAs.
#[must_use]
pub fn system_tls() -> ClientConfig {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read a CA certificate of the system; servers signed by it are not trusted");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    tls_trusting(roots)
}

/// A client's TLS that trusts these.
#[expect(clippy::expect_used, reason = "ring has the safe default versions; a test makes one")]
pub(crate) fn tls_trusting(roots: rustls::RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3 by ring")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}
