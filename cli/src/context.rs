//! Contexts: which server, with which token, trusting whom. Kept in files of mode 0600 that are replaced whole.
//! Nothing here talks to a server.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use chom_protocol::Name;
use serde::{Deserialize, Serialize};

/// Longest token file; a token is some forty characters.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Largest CA file; the system's own bundle is about 220 KiB.
const CA_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest config file, a few hundred bytes for each context.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What is wrong with contexts or their files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error("neither $XDG_CONFIG_HOME nor $HOME is set, so there is no place for contexts")]
    NoHome,
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` has a mistake", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("cannot write the contexts as TOML")]
    Write(#[source] Box<toml::ser::Error>),
    #[error("`{}` may be read by others (mode {mode:03o}): a token in it is no secret", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("there is no context `{name}`")]
    Unknown { name: String, known: String },
    #[error("no context is chosen, so chomctl does not know which server to ask")]
    NoneChosen { known: String },
    #[error("$CHOM_SERVER is set without $CHOM_TOKEN; the token of a context is not sent to another server")]
    NoToken,
    #[error("the context `{name}` has no token")]
    NotSignedIn { name: String },
    #[error("$CHOM_SERVER or $CHOM_TOKEN is set, so there is no context to keep a session in")]
    NoPlace,
    #[error("the token {place} is empty, or has characters that no token has")]
    Token { place: String },
    #[error("`{url}` is no server address: {reason}")]
    Server { url: String, reason: &'static str },
    #[error("`{url}` is plain HTTP to another machine: everyone on the way could read the token")]
    Insecure { url: String },
    #[error("`{}` holds no certificate", path.display())]
    NoCertificate { path: PathBuf },
}

impl ContextError {
    /// What to do about it.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::NoHome => "set HOME, or CHOM_SERVER, CHOM_TOKEN and CHOM_CA_FILE".to_owned(),
            Self::Io { .. } => "check that the path exists and belongs to you".to_owned(),
            Self::Config { .. } | Self::Write(_) => {
                "correct it by hand, or remove it and add the contexts again".to_owned()
            }
            Self::Exposed { path, .. } => {
                format!("chmod 600 {}; if others may have read it, get a new token", path.display())
            }
            Self::Unknown { known, .. } | Self::NoneChosen { known } if known.is_empty() => {
                "add one: chomctl context add NAME --server https://HOST:PORT --token-file FILE [--ca-file FILE]"
                    .to_owned()
            }
            Self::Unknown { known, .. } => format!("known contexts: {known}"),
            Self::NoneChosen { known } => format!("choose one of {known}: chomctl context use NAME"),
            Self::NoToken => "set CHOM_TOKEN too, or unset CHOM_SERVER".to_owned(),
            Self::NotSignedIn { .. } => {
                "sign in with `chomctl login NAME`, or add the context again with --token-file".to_owned()
            }
            Self::NoPlace => "unset them, or name a context with --context".to_owned(),
            Self::Token { .. } => "give the token alone, on one line, as the orchestrator printed it".to_owned(),
            Self::Server { .. } => "write it as https://HOST or https://HOST:PORT".to_owned(),
            Self::Insecure { .. } => "use https://; http:// is only for loopback addresses".to_owned(),
            Self::NoCertificate { .. } => "name a file of PEM certificates (BEGIN CERTIFICATE)".to_owned(),
        }
    }
}

/// One context as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Address of the orchestrator's API.
    pub(crate) server: String,
    /// File of its token, relative to the config's folder.
    pub(crate) token_file: PathBuf,
    /// File of the only CA to trust, relative to the config's folder; the system's roots where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// All contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<Name>,
    /// All of them.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<Name, Context>,
}

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) server: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) config_home: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
}

impl Environment {
    /// Reads the process's environment; empty values count as unset.
    pub(crate) fn read() -> Self {
        let text = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let path = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self {
            server: text("CHOM_SERVER"),
            token: text("CHOM_TOKEN"),
            ca_file: path("CHOM_CA_FILE"),
            config_home: path("XDG_CONFIG_HOME").filter(|p| p.is_absolute()),
            home: path("HOME"),
        }
    }

    /// Where contexts are kept (XDG Base Directory Specification).
    fn folder(&self) -> Result<PathBuf, ContextError> {
        let base = self.config_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        Ok(base.ok_or(ContextError::NoHome)?.join("chom"))
    }
}

/// Whom to ask, with what, trusting whom.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Address without a slash at its end.
    pub(crate) server: String,
    /// Bearer token; empty where one is to be got by signing in.
    pub(crate) token: String,
    /// The only CA to trust, where one is given: its file and its PEM text.
    pub(crate) ca: Option<(PathBuf, Vec<u8>)>,
}

/// Decides whom to ask. A `--context` on the command line wins over the environment, that over the chosen context.
///
/// # Errors
/// No context is chosen or known; a file cannot be read, or others can read it; the address or token is none.
pub(crate) fn target(environment: &Environment, wanted: Option<&Name>) -> Result<Target, ContextError> {
    let nothing = Environment::default();
    let overrides = if wanted.is_some() { &nothing } else { environment };
    if let Some(server) = &overrides.server {
        let token = overrides.token.clone().ok_or(ContextError::NoToken)?;
        let ca = overrides.ca_file.as_deref().map(read_ca).transpose()?;
        return Ok(Target {
            server: server_address(server)?,
            token: token_text(&token, "in $CHOM_TOKEN")?,
            ca,
        });
    }
    let folder = environment.folder()?;
    let (name, context) = &find(&folder, wanted)?;
    let token = match &overrides.token {
        Some(token) => token_text(token, "in $CHOM_TOKEN")?,
        None => {
            let kept = read_secret(&folder.join(&context.token_file))?;
            kept.ok_or_else(|| ContextError::NotSignedIn { name: name.to_string() })?
        }
    };
    let own_ca = context.ca_file.as_ref().map(|file| folder.join(file));
    let ca = overrides.ca_file.clone().or(own_ca).as_deref().map(read_ca).transpose()?;
    Ok(Target { server: server_address(&context.server)?, token, ca })
}

fn find(folder: &Path, wanted: Option<&Name>) -> Result<(Name, Context), ContextError> {
    let mut config = load(folder)?;
    let known = config.contexts.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let Some(name) = wanted.or(config.current.as_ref()).cloned() else {
        return Err(ContextError::NoneChosen { known });
    };
    match config.contexts.remove(&name) {
        Some(context) => Ok((name, context)),
        None => Err(ContextError::Unknown { name: name.to_string(), known }),
    }
}

/// Where somebody signs in, and where the token that comes of it is kept.
pub(crate) struct Place {
    /// The server; nobody has a token yet.
    pub(crate) target: Target,
    token_file: PathBuf,
}

/// Decides where to sign in. It is a context: a session in the environment would be gone with the shell.
///
/// # Errors
/// As [`target`]; or the environment says with what to ask.
pub(crate) fn place(environment: &Environment, wanted: Option<&Name>) -> Result<Place, ContextError> {
    if wanted.is_none() && (environment.server.is_some() || environment.token.is_some()) {
        return Err(ContextError::NoPlace);
    }
    let folder = environment.folder()?;
    let (_, context) = find(&folder, wanted)?;
    let own_ca = context.ca_file.as_ref().map(|file| folder.join(file));
    let overridden = environment.ca_file.clone().filter(|_| wanted.is_none());
    let ca = overridden.or(own_ca).as_deref().map(read_ca).transpose()?;
    let target = Target { server: server_address(&context.server)?, token: String::new(), ca };
    Ok(Place { target, token_file: folder.join(&context.token_file) })
}

/// Keeps the token of a session in its context.
///
/// # Errors
/// The server gave none, or the file cannot be written.
pub(crate) fn keep_token(place: &Place, token: &str) -> Result<(), ContextError> {
    let token = token_text(token, "that the server gave")?;
    replace(&place.token_file, format!("{token}\n").as_bytes())
}

/// Forgets the token of a context; the context stays.
///
/// # Errors
/// The file cannot be removed.
pub(crate) fn drop_token(place: &Place) -> Result<(), ContextError> {
    remove_file(&place.token_file)
}

fn remove_file(path: &Path) -> Result<(), ContextError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ContextError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Adds a context, or replaces the one of that name; the first one becomes the chosen one.
///
/// # Errors
/// The address, token or CA is none; a file cannot be read or written.
pub(crate) fn add(
    environment: &Environment,
    name: &Name,
    server: &str,
    token: Option<&str>,
    ca_file: Option<&Path>,
) -> Result<Config, ContextError> {
    let server = server_address(server)?;
    let token = token.map(|token| token_text(token, "given")).transpose()?;
    let ca = ca_file.map(read_ca).transpose()?;
    let folder = environment.folder()?;
    let mut config = load(&folder)?;
    let token_file = PathBuf::from("tokens").join(name.as_str());
    match token {
        Some(token) => replace(&folder.join(&token_file), format!("{token}\n").as_bytes())?,
        // That of a context of the same name was for another server, perhaps.
        None => remove_file(&folder.join(&token_file))?,
    }
    // A copy of its own: the file given may be on a stick, or in a folder that is gone tomorrow.
    let ca_copy = match &ca {
        Some((_, pem)) => {
            let file = PathBuf::from("ca").join(format!("{name}.pem"));
            replace(&folder.join(&file), pem)?;
            Some(file)
        }
        None => None,
    };
    config.contexts.insert(name.clone(), Context { server, token_file, ca_file: ca_copy });
    config.current.get_or_insert_with(|| name.clone());
    save(&folder, &config)?;
    Ok(config)
}

/// Chooses a context.
///
/// # Errors
/// There is none of that name, or a file cannot be read or written.
pub(crate) fn choose(environment: &Environment, name: &Name) -> Result<(), ContextError> {
    let folder = environment.folder()?;
    let mut config = load(&folder)?;
    if !config.contexts.contains_key(name) {
        let known = config.contexts.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        return Err(ContextError::Unknown { name: name.to_string(), known });
    }
    config.current = Some(name.clone());
    save(&folder, &config)
}

/// Forgets a context and removes its token.
///
/// # Errors
/// There is none of that name, or a file cannot be removed or written.
pub(crate) fn remove(environment: &Environment, name: &Name) -> Result<(), ContextError> {
    let folder = environment.folder()?;
    let mut config = load(&folder)?;
    let Some(context) = config.contexts.remove(name) else {
        let known = config.contexts.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        return Err(ContextError::Unknown { name: name.to_string(), known });
    };
    if config.current.as_ref() == Some(name) {
        config.current = None;
    }
    save(&folder, &config)?;
    for file in [Some(context.token_file), context.ca_file].into_iter().flatten() {
        remove_file(&folder.join(file))?;
    }
    Ok(())
}

/// All contexts; none where no file is there yet.
///
/// # Errors
/// The file cannot be read or has a mistake.
pub(crate) fn all(environment: &Environment) -> Result<Config, ContextError> {
    load(&environment.folder()?)
}

fn load(folder: &Path) -> Result<Config, ContextError> {
    let path = folder.join("config.toml");
    let text = match read(&path, CONFIG_BYTES_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(ContextError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Config::default());
        }
        Err(error) => return Err(error),
    };
    toml::from_str(&text).map_err(|source| ContextError::Config { path, source: Box::new(source) })
}

fn save(folder: &Path, config: &Config) -> Result<(), ContextError> {
    let text = toml::to_string(config).map_err(|source| ContextError::Write(Box::new(source)))?;
    replace(&folder.join("config.toml"), text.as_bytes())
}

fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, ContextError> {
    let failed = |source| ContextError::Io { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit_bytes + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit_bytes {
        return Err(failed(io::Error::other(format!("it is larger than {limit_bytes} bytes"))));
    }
    Ok(bytes)
}

/// A token that chomctl keeps, if it does; refused when others may read it.
fn read_secret(path: &Path) -> Result<Option<String>, ContextError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ContextError::Io { action: "read", path: path.to_owned(), source }),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ContextError::Exposed { path: path.to_owned(), mode });
    }
    read_token(path).map(Some)
}

/// A token from a file that somebody names.
///
/// # Errors
/// The file cannot be read or holds no token.
pub(crate) fn read_token(path: &Path) -> Result<String, ContextError> {
    let bytes = read(path, TOKEN_BYTES_MAX)?;
    token_text(&String::from_utf8_lossy(&bytes), &format!("in `{}`", path.display()))
}

fn token_text(text: &str, place: &str) -> Result<String, ContextError> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ContextError::Token { place: place.to_owned() });
    }
    Ok(token.to_owned())
}

fn read_ca(path: &Path) -> Result<(PathBuf, Vec<u8>), ContextError> {
    let pem = read(path, CA_BYTES_MAX)?;
    let has_one =
        ureq::tls::parse_pem(&pem).any(|item| matches!(item, Ok(ureq::tls::PemItem::Certificate(_))));
    if !has_one {
        return Err(ContextError::NoCertificate { path: path.to_owned() });
    }
    Ok((path.to_owned(), pem))
}

/// Checks and normalises a server's address: `https://HOST[:PORT]`; plain `http://` only to this machine.
fn server_address(url: &str) -> Result<String, ContextError> {
    let wrong = |reason| ContextError::Server { url: url.to_owned(), reason };
    let uri: ureq::http::Uri = url.parse().map_err(|_| wrong("it cannot be read as a URL"))?;
    let authority = uri.authority().ok_or_else(|| wrong("it has no scheme or no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("it has a user name in it"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("it has a path after the host"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(format!("https://{authority}")),
        Some("http") if is_loopback(authority.host()) => Ok(format!("http://{authority}")),
        Some("http") => Err(ContextError::Insecure { url: url.to_owned() }),
        _ => Err(wrong("it does not begin with https://")),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Replaces a file whole, readable by its owner alone: written beside it, synced, renamed, the folder synced.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), ContextError> {
    let failed = |source| ContextError::Io { action: "write", path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(name);
    let written = write_beside(&beside, path, bytes);
    if written.is_err() {
        // What is left beside it would hold a secret for nothing.
        let _ = std::fs::remove_file(&beside);
    }
    written.and_then(|()| File::open(folder)?.sync_all()).map_err(failed)
}

#[expect(clippy::disallowed_methods, reason = "this is chomctl's one function that replaces files durably")]
fn write_beside(beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
