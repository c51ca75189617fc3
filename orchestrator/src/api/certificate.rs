//! The API's certificate while it is in use: one of the fleet's CA, made anew before it ends and when the CAs change; or an
//! operator's, read again when its files change. One that cannot be used is said, and the earlier one stays.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chom_certs::renew::two_thirds;
use chom_certs::{
    AuthorityError, CertificateError, ServerCertificate, ServerCertificateError, TlsError,
    https_server_config,
};
use chom_protocol::UnixMillis;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{self, Config};
use crate::fleet::Fleet;
use crate::{chain, clock, init};

/// How often an operator's files are read: two small files, and a new certificate is in use before anybody misses it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest file that is read; a chain of four certificates has 8 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum ApiCertificateError {
    /// An operator's file.
    #[error("cannot read `{}`, which `api_certificate` in the configuration names", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What is in the files.
    #[error("the files that `api_certificate` in the configuration names cannot be used")]
    Certificate(#[from] ServerCertificateError),
    /// The fleet's CA did not sign it.
    #[error("cannot make the API's certificate")]
    Authority(#[source] AuthorityError),
    /// When it ends.
    #[error("the API's certificate cannot be read")]
    Validity(#[source] CertificateError),
    /// TLS.
    #[error("the API's certificate cannot be used")]
    Tls(#[source] TlsError),
}

/// A certificate in use.
#[derive(Debug)]
pub struct InUse {
    /// For new connections.
    pub tls: Arc<ServerConfig>,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
}

impl InUse {
    /// Takes a certificate into use.
    ///
    /// # Errors
    /// When it cannot be read, or its key is another's.
    pub fn new(certificate: &ServerCertificate) -> Result<Self, ApiCertificateError> {
        let (not_before, not_after) = certificate.validity().map_err(ApiCertificateError::Validity)?;
        let tls = Arc::new(https_server_config(certificate).map_err(ApiCertificateError::Tls)?);
        Ok(Self { tls, not_before, not_after })
    }
}

/// Where certificates come from.
enum Source {
    /// The fleet's CA.
    Fleet { names: Vec<String>, ca_file: PathBuf },
    /// An operator's files, and what was in them when they were last taken or refused.
    Files { files: config::ApiCertificate, tried: Result<Texts, String> },
}

type Texts = (String, String);

/// Keeps the API's certificate.
pub struct CertificateKeeper {
    source: Source,
    fleet: Fleet,
    in_use: watch::Sender<Arc<InUse>>,
}

impl CertificateKeeper {
    /// The operator's certificate if the configuration names one, else one of the fleet's CA for the same names as the
    /// link's and for this machine itself.
    ///
    /// # Errors
    /// When it cannot be made or used.
    pub fn new(config: &Config, fleet: Fleet) -> Result<Self, ApiCertificateError> {
        let (source, certificate) = match &config.api_certificate {
            Some(files) => {
                let texts = read(files)?;
                let certificate = ServerCertificate::from_pem(&texts.0, &texts.1)?;
                (Source::Files { files: files.clone(), tried: Ok(texts) }, certificate)
            }
            None => {
                let mut names = config.server_names();
                names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
                let ca_file = config.state_directory.join(init::CA_FILE);
                let certificate = sign(&fleet, &names)?;
                (Source::Fleet { names, ca_file }, certificate)
            }
        };
        let in_use = watch::Sender::new(Arc::new(InUse::new(&certificate)?));
        Ok(Self { source, fleet, in_use })
    }

    /// The certificate in use, now and later.
    #[must_use]
    pub fn in_use(&self) -> watch::Receiver<Arc<InUse>> {
        self.in_use.subscribe()
    }

    /// Keeps it until stopped.
    pub async fn keep(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut authorities = self.fleet.authority_changes();
        self.write_ca_file();
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                changed = authorities.changed() => match changed { // cancel-safe
                    Ok(()) => true,
                    Err(_) => return, // the fleet is gone: everything stops
                },
            };
            match self.next(changed, clock::now()).await {
                Ok(None) => {}
                Ok(Some(certificate)) => {
                    let until = clock::rfc3339(certificate.not_after);
                    info!(until, "the API has a new certificate");
                    self.in_use.send_replace(Arc::new(certificate));
                }
                Err(error) => {
                    let error = chain(&error);
                    error!(error, "the API's new certificate cannot be used; the earlier one stays in use");
                }
            }
            if changed {
                self.write_ca_file();
            }
        }
    }

    /// The next certificate, if it is time for one.
    async fn next(&mut self, changed: bool, now: UnixMillis) -> Result<Option<InUse>, ApiCertificateError> {
        match &mut self.source {
            Source::Fleet { names, .. } => {
                let (not_before, not_after) = {
                    let in_use = self.in_use.borrow();
                    (in_use.not_before, in_use.not_after)
                };
                if !changed && now < two_thirds(not_before, not_after) {
                    return Ok(None);
                }
                InUse::new(&sign(&self.fleet, names)?).map(Some)
            }
            Source::Files { files, tried } => {
                let from = files.clone();
                // Fails only when the orchestrator is going down.
                let Ok(found) = spawn_blocking(move || read(&from)).await else { return Ok(None) };
                let seen = found.as_ref().map(Clone::clone).map_err(|error| chain(error));
                if seen == *tried {
                    return Ok(None); // taken or refused already, and said
                }
                *tried = seen;
                let (certificates, key) = found?;
                InUse::new(&ServerCertificate::from_pem(&certificates, &key)?).map(Some)
            }
        }
    }

    /// For whoever calls the API: all CAs that are trusted, so that nobody is lost when the oldest is retired.
    fn write_ca_file(&self) {
        let Source::Fleet { ca_file, .. } = &self.source else { return };
        let pem = self.fleet.authorities().bundle().to_pem();
        if let Err(error) = init::write_ca_file(ca_file, &pem) {
            error!(path = %ca_file.display(), %error, "cannot write the fleet's CAs for those who call the API");
        }
    }
}

fn sign(fleet: &Fleet, names: &[String]) -> Result<ServerCertificate, ApiCertificateError> {
    let authorities = fleet.authorities();
    authorities.serving().sign_server(names, clock::now()).map_err(ApiCertificateError::Authority)
}

/// Chain and key, as they are in the operator's files.
fn read(files: &config::ApiCertificate) -> Result<Texts, ApiCertificateError> {
    let text = |path: &Path| {
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|source| ApiCertificateError::File { path: path.to_owned(), source });
        read.map(|_| text)
    };
    Ok((text(&files.chain)?, text(&files.key)?))
}
