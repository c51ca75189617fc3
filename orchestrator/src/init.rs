//! Making a new fleet: folders, master key, store, CA, the first API token. All or nothing where it counts: the store gets
//! its first rows in one commit. Refuses to touch what is there.

use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chom_certs::Fingerprint;
use chom_protocol::api::tokens::Role;
use chom_protocol::api::users::Password;
use chom_protocol::{Name, TokenId, UserName};
use uuid::Uuid;

use crate::clock;
use crate::config::Config;
use crate::durable_file::DurableFile;
use crate::fleet::authority::{Authorities, AuthoritiesError};
use crate::fleet::rows::{AuthorityRow, TokenRow};
use crate::fleet::state::Table;
use crate::fleet::tokens;
use crate::store::seal::{CREDENTIAL, MasterKey, MasterKeyError};
use crate::store::{
    Commit, CommitError, Meta, ReadError, RecordError, encode,
    sled::{self, OpenError},
};

/// The CA's certificate for whoever calls the API, in the state folder.
pub const CA_FILE: &str = "ca.pem";

/// Why no fleet was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one.
    #[error("there is a fleet in `{}` already; start it with `chom-orchestrator run`. To begin anew, move that folder away first", folder.display())]
    Exists {
        /// The store's folder.
        folder: PathBuf,
    },
    /// A folder or file cannot be made.
    #[error("cannot make `{}`", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The master key.
    #[error("there is no usable master key")]
    MasterKey(#[from] MasterKeyError),
    /// The store.
    #[error("cannot open the store")]
    Open(#[from] OpenError),
    /// Looking whether it is empty.
    #[error("cannot read the store")]
    Read(#[from] ReadError),
    /// The CA.
    #[error("cannot make the fleet's CA")]
    Authority(#[from] AuthoritiesError),
    /// The token.
    #[error("the system gives no random bytes for a token")]
    Random,
    /// A row.
    #[error("cannot write the first rows")]
    Record(#[from] RecordError),
    /// The commit.
    #[error("cannot store the first rows")]
    Commit(#[from] CommitError),
}

/// What was made.
pub struct Made {
    /// The first API token, shown once.
    pub token: String,
    /// The CA's fingerprint.
    pub fingerprint: Fingerprint,
    state_directory: PathBuf,
    master_key: MasterKeySource,
}

/// Where the master key is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterKeySource {
    /// systemd gave it.
    Credential,
    /// It was in this file.
    File(PathBuf),
    /// It was made, in this file.
    Made(PathBuf),
}

impl Made {
    /// Says what to do next; the token alone goes to standard output, so that scripts can catch it.
    pub fn print(&self) {
        let mut text = format!(
            "The fleet is made. Its CA has the fingerprint {}\nand stands in {} for whoever calls the API.\n",
            self.fingerprint,
            self.state_directory.join(CA_FILE).display()
        );
        if let MasterKeySource::Made(path) = &self.master_key {
            text += &format!(
                "\nKEEP A COPY OF THE MASTER KEY OFFLINE, NOW: {}\nSecrets in the store and in every export are sealed under it. \
                 Without it no export brings the fleet back.\n",
                path.display()
            );
        }
        text += "\nThe API token of `admin` follows. It is shown this once and kept nowhere:";
        eprintln!("{text}");
        println!("{}", self.token);
    }
}

/// Makes a new fleet.
///
/// # Errors
/// When there is one already, or something cannot be made; what was made until then is used by the next try.
pub async fn init(config: &Config) -> Result<Made, InitError> {
    let folder = config.store_directory();
    for path in [&config.state_directory, &config.export_directory] {
        make_folder(path)?;
    }
    let store =
        sled::open(&sled::Options { folder: folder.clone(), exports: config.export_directory.clone() })?;
    // An empty store is what an interrupted try leaves.
    if store.get(&Meta::key()).await?.is_some() {
        return Err(InitError::Exists { folder });
    }
    let (master, source) = master_key(config)?;
    let now = clock::now();
    let mut authority = Authorities::create(&config.fleet_name, 1, &master, now)?;
    authority.signs_since = Some(now);
    let (token, row) = tokens::create(admin(), Role::Admin, TokenId::new(Uuid::now_v7()), now)
        .map_err(|_| InitError::Random)?;
    let ca_file = config.state_directory.join(CA_FILE);
    write_ca_file(&ca_file, &authority.certificate)
        .map_err(|source| InitError::Make { path: ca_file, source })?;
    let fingerprint = fingerprint(&authority);
    let commit = Commit::new()
        .if_absent(Meta::key())
        .put(Meta::key(), encode(&Meta::new(Uuid::now_v7().to_string(), now))?)
        .put(TokenRow::key(&row.id), encode(&row)?)
        .put(AuthorityRow::key(&authority.number), encode(&authority)?);
    store.commit(commit).await?;
    Ok(Made { token, fingerprint, state_directory: config.state_directory.clone(), master_key: source })
}

/// Why no token was made for whoever lost all of them.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The store.
    #[error("cannot open the store; stop the orchestrator first (`systemctl stop chom-orchestrator`)")]
    Open(#[from] OpenError),
    /// The token, or the password.
    #[error("nothing was reset")]
    Reset(#[from] tokens::ResetError),
}

/// Makes a new admin's token in a store that is not in use.
///
/// # Errors
/// When it is in use, holds no fleet, or takes no commit.
pub async fn reset_admin(config: &Config) -> Result<String, AdminError> {
    let store = sled::open(&crate::export::options(config))?;
    Ok(tokens::reset_admin(store.as_ref(), clock::now()).await?)
}

/// Gives a user a new password in a store that is not in use, and lets it sign in again.
///
/// # Errors
/// When it is in use, or there is no such user.
pub async fn reset_user(
    config: &Config,
    tenant: Option<&Name>,
    user: &UserName,
) -> Result<Password, AdminError> {
    let store = sled::open(&crate::export::options(config))?;
    Ok(tokens::reset_user(store.as_ref(), tenant, user, clock::now()).await?)
}

/// The master key, from systemd or the configured file.
///
/// # Errors
/// When neither is there or it is no key.
pub fn load_master_key(config: &Config) -> Result<(MasterKey, MasterKeySource), MasterKeyError> {
    match credentials() {
        Some(folder) => Ok((MasterKey::from_credentials(&folder)?, MasterKeySource::Credential)),
        None => {
            let path = config.master_key.clone();
            Ok((MasterKey::from_file(&path)?, MasterKeySource::File(path)))
        }
    }
}

fn master_key(config: &Config) -> Result<(MasterKey, MasterKeySource), InitError> {
    if credentials().is_some() || config.master_key.exists() {
        return Ok(load_master_key(config)?);
    }
    if let Some(parent) = config.master_key.parent() {
        make_folder(parent)?;
    }
    let key = MasterKey::create(&config.master_key)?;
    Ok((key, MasterKeySource::Made(config.master_key.clone())))
}

/// Where systemd put credentials, if the master key is among them (systemd.exec(5), `LoadCredential=`).
fn credentials() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    folder.join(CREDENTIAL).exists().then_some(folder)
}

fn make_folder(path: &Path) -> Result<(), InitError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| InitError::Make { path: path.to_owned(), source })
}

/// Writes the certificates that whoever calls the API has to trust, in PEM.
///
/// # Errors
/// When the disk fails.
pub fn write_ca_file(path: &Path, pem: &str) -> std::io::Result<()> {
    let mut file = DurableFile::create(path)?;
    file.write_all(pem.as_bytes())?;
    file.publish()
}

fn fingerprint(authority: &AuthorityRow) -> Fingerprint {
    let bundle = chom_certs::CaBundle::from_pem(&authority.certificate);
    let first = bundle.ok().and_then(|bundle| bundle.fingerprints().first().copied());
    // A certificate just made is read back without fail; the digest of nothing would be told apart by any host.
    first.unwrap_or_else(|| Fingerprint::of(&[]))
}

#[expect(clippy::expect_used, reason = "a literal that every test of init parses")]
fn admin() -> Name {
    "admin".parse().expect("a legal name")
}

#[cfg(test)]
mod tests;
