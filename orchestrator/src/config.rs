//! The configuration file of the orchestrator: read once at start, checked whole, unknown keys refused. Says what was
//! wrong, where, and what to do. Opens nothing that the file names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use chom_certs::join::is_address;
use chom_protocol::Name;
use chom_protocol::host::AgentSettings;
use chom_protocol::vps::{Engine, ImageFormat};
use ipnet::IpNet;
use serde::Deserialize;

use crate::notify::webhook::queue::Backoff;
use crate::usage::UsageSettings;

/// Where the file is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/chom/orchestrator.toml";
/// Longest file that is read: a thousand images are about 200 KiB.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Everything that the file says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the store and the cache of image digests are; only the orchestrator may read it.
    #[serde(default = "default_state_directory")]
    pub state_directory: PathBuf,
    /// Where exports go; better on another disk.
    #[serde(default = "default_export_directory")]
    pub export_directory: PathBuf,
    /// The master key's file, used when systemd gives no credential `master-key`.
    #[serde(default = "default_master_key")]
    pub master_key: PathBuf,
    /// Name of the fleet, in its CA's certificate.
    #[serde(default = "default_fleet_name")]
    pub fleet_name: Name,
    /// Where the API listens (TCP).
    #[serde(default = "default_listen_api")]
    pub listen_api: SocketAddr,
    /// Where agents are listened to (UDP).
    #[serde(default = "default_listen_link")]
    pub listen_link: SocketAddr,
    /// `host:port` of this orchestrator as agents dial it, in the order to try; the hosts are also names in its certificate.
    pub public_addresses: Vec<String>,
    /// Where hosts can stand.
    pub regions: Vec<Name>,
    /// Days for which a deleted VPS is kept.
    #[serde(default = "default_retention_days")]
    pub retention_days: u32,
    /// Days for which entries of the audit log are kept.
    #[serde(default = "default_audit_days")]
    pub audit_days: u32,
    /// A host not heard of for so long is unreachable.
    #[serde(default = "default_unreachable_after_seconds")]
    pub unreachable_after_seconds: u32,
    /// After a start, nothing fires or resolves for want of reconnected hosts for so long.
    #[serde(default = "default_grace_seconds")]
    pub grace_seconds: u32,
    /// An operation that is not done after so long ends as failed.
    #[serde(default = "default_operation_seconds_max")]
    pub operation_seconds_max: u32,
    /// Time between exports.
    #[serde(default = "default_export_interval_seconds")]
    pub export_interval_seconds: u32,
    /// Networks beside the public Internet that images may be fetched from, such as that of a mirror of one's own.
    #[serde(default)]
    pub image_fetch_networks: Vec<IpNet>,
    /// An operator's own certificate for the API.
    #[serde(default)]
    pub api_certificate: Option<ApiCertificate>,
    /// The agents' connections.
    #[serde(default)]
    pub link: LinkSettings,
    /// How much callers of the API may ask.
    #[serde(default)]
    pub limits: LimitSettings,
    /// How agents should behave.
    #[serde(default)]
    pub agent: AgentTimes,
    /// When alerts fire and are told.
    #[serde(default)]
    pub alerts: AlertSettings,
    /// Whom webhooks tell, and how often it is tried.
    #[serde(default)]
    pub webhooks: WebhookSettings,
    /// Usage records.
    #[serde(default)]
    pub usage: UsageTimes,
    /// How much of a host may be promised to VPSs.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// What a VPS can be as large as.
    #[serde(default, rename = "size")]
    pub sizes: Vec<Size>,
    /// What a VPS can be made from.
    #[serde(default, rename = "image")]
    pub images: Vec<Image>,
}

/// Files of an operator's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiCertificate {
    /// The chain, PEM, the server's own certificate first.
    pub chain: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// The agents' connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkSettings {
    /// A connection on which nothing came for so long is over. Agents send something every 15 s at the latest.
    pub idle_timeout_seconds: u32,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self { idle_timeout_seconds: 60 }
    }
}

/// How much callers of the API may ask; what is too much is answered with 429 and when to come again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Requests of one token on end. Of what this machine can answer a small part, and more than any page or script needs.
    pub token_requests_per_second: u32,
    /// And at once.
    pub token_burst: u32,
    /// Requests from one address on end, whatever they show; an office or a proxy has many tokens. This machine's own
    /// addresses are not counted.
    pub address_requests_per_second: u32,
    /// And at once.
    pub address_burst: u32,
    /// Wrong passwords after which nobody can sign in with a name.
    pub sign_in_failures_max: u32,
    /// For so long.
    pub sign_in_lock_seconds: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            token_requests_per_second: 500,
            token_burst: 1000,
            address_requests_per_second: 1000,
            address_burst: 2000,
            sign_in_failures_max: 10,
            sign_in_lock_seconds: 15 * 60,
        }
    }
}

/// How agents should behave; part of each host's desired state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentTimes {
    /// Between samples and between status reports without change.
    pub report_interval_seconds: u32,
    /// Between full passes of the reconciler.
    pub reconcile_interval_seconds: u32,
    /// What a guest is given to shut down before it is forced.
    pub stop_grace_seconds: u32,
}

impl Default for AgentTimes {
    fn default() -> Self {
        let AgentSettings {
            report_interval_seconds,
            reconcile_interval_seconds,
            stop_grace_seconds,
            destroys_allowed_until: _,
        } = AgentSettings::default();
        Self { report_interval_seconds, reconcile_interval_seconds, stop_grace_seconds }
    }
}

impl AgentTimes {
    /// As agents get it.
    #[must_use]
    pub fn settings(&self) -> AgentSettings {
        let Self { report_interval_seconds, reconcile_interval_seconds, stop_grace_seconds } = *self;
        AgentSettings {
            report_interval_seconds,
            reconcile_interval_seconds,
            stop_grace_seconds,
            destroys_allowed_until: None,
        }
    }
}

/// When alerts fire and are told. Times are named and meant as Alertmanager's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertSettings {
    /// A condition must hold for so long before it fires.
    pub for_seconds: u32,
    /// What comes together within this time is told together.
    pub group_wait_seconds: u32,
    /// Between notifications of one group that changed.
    pub group_interval_seconds: u32,
    /// Between notifications of what still fires.
    pub repeat_interval_seconds: u32,
    /// Share of a file system in use at which it fires.
    pub disk_ratio: f64,
    /// And below which it clears.
    pub disk_clear_ratio: f64,
    /// Share of inodes in use at which it fires.
    pub inodes_ratio: f64,
    /// And below which it clears.
    pub inodes_clear_ratio: f64,
    /// Share of memory in use at which it fires.
    pub memory_ratio: f64,
    /// And below which it clears.
    pub memory_clear_ratio: f64,
    /// A certificate that ends within so many days fires: two thirds of its life are over long before.
    pub certificate_days: u32,
    /// This share of the fleet unreachable at once is one alert, not one for each host.
    pub fleet_share_ratio: f64,
}

impl Default for AlertSettings {
    fn default() -> Self {
        Self {
            for_seconds: 60,
            group_wait_seconds: 30,
            group_interval_seconds: 300,
            repeat_interval_seconds: 4 * 60 * 60,
            disk_ratio: 0.90,
            disk_clear_ratio: 0.85,
            inodes_ratio: 0.90,
            inodes_clear_ratio: 0.85,
            memory_ratio: 0.95,
            memory_clear_ratio: 0.90,
            certificate_days: 7,
            fleet_share_ratio: 0.5,
        }
    }
}

/// Whom webhooks tell, and how often it is tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSettings {
    /// Networks beside the public Internet that webhooks of tenants may stand in, there by `http` too. Those of the fleet may
    /// stand anywhere.
    pub networks: Vec<IpNet>,
    /// The wait after a first try in vain; it doubles each time.
    pub retry_first_seconds: u32,
    /// The longest wait.
    pub retry_longest_seconds: u32,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self { networks: Vec::new(), retry_first_seconds: 5, retry_longest_seconds: 3600 }
    }
}

impl WebhookSettings {
    /// As the courier goes by it.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        Backoff {
            first_seconds: self.retry_first_seconds.into(),
            longest_seconds: self.retry_longest_seconds.into(),
        }
    }
}

/// Usage records.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageTimes {
    /// How long they are kept.
    pub kept_days: u32,
    /// How long after its end an hour is closed: traffic is taken over every five minutes.
    pub close_after_seconds: u32,
    /// Length of an hour, decided at the first start; another one is only for trying billing out.
    pub hour_seconds: u32,
}

impl Default for UsageTimes {
    fn default() -> Self {
        Self { kept_days: 400, close_after_seconds: 600, hour_seconds: 3600 }
    }
}

impl UsageTimes {
    /// As the accountant goes by them.
    #[must_use]
    pub fn settings(&self) -> UsageSettings {
        UsageSettings {
            hour_seconds: self.hour_seconds.into(),
            close_after_seconds: self.close_after_seconds.into(),
            kept_seconds: u64::from(self.kept_days) * 24 * 3600,
        }
    }
}

/// How much of a host may be promised to VPSs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overcommit {
    /// Cores promised for each real one.
    pub cores_per_core: u32,
    /// Memory promised for 100 bytes of real memory.
    pub memory_percent: u32,
    /// Real cores of each host that are not for VPSs.
    pub cores_reserved: u32,
    /// Memory of each host that is not for VPSs.
    pub memory_reserved_mib: u64,
    /// Disk of each host that is not for VPSs.
    pub disk_reserved_mib: u64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self {
            cores_per_core: 8,
            memory_percent: 100,
            cores_reserved: 0,
            memory_reserved_mib: 512,
            disk_reserved_mib: 2048,
        }
    }
}

/// A size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Its name.
    pub name: Name,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory_mib: u64,
    /// Disk.
    pub disk_mib: u64,
}

/// An image in the image folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its name.
    pub name: Name,
    /// The file.
    pub file: PathBuf,
    /// What runs it; where absent, what its format is for.
    #[serde(default)]
    pub engine: Option<Engine>,
    /// How its bytes are laid out.
    pub format: ImageFormat,
    /// Smallest disk that it fits on; its virtual size when not given.
    #[serde(default)]
    pub minimum_disk_mib: Option<u64>,
    /// Whether it is used when none is asked for; one for each engine may be.
    #[serde(default)]
    pub default: bool,
}

impl Image {
    /// What runs it.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine.unwrap_or(Engine::of(self.format))
    }
}

fn default_state_directory() -> PathBuf {
    "/var/lib/chom-orchestrator".into()
}
fn default_export_directory() -> PathBuf {
    "/var/lib/chom-orchestrator/exports".into()
}
fn default_master_key() -> PathBuf {
    "/etc/chom/master.key".into()
}
#[expect(clippy::expect_used, reason = "a literal that a test parses")]
fn default_fleet_name() -> Name {
    "chom".parse().expect("a legal name")
}
fn default_listen_api() -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, 8443).into()
}
fn default_listen_link() -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, 8440).into()
}
/// A year is what auditors ask for, and a month to look back at its end.
const fn default_audit_days() -> u32 {
    400
}

const fn default_retention_days() -> u32 {
    7
}
const fn default_unreachable_after_seconds() -> u32 {
    45
}
const fn default_grace_seconds() -> u32 {
    120
}
const fn default_operation_seconds_max() -> u32 {
    10 * 60
}
const fn default_export_interval_seconds() -> u32 {
    60 * 60
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is far larger than any configuration.
    #[error("the configuration `{}` has more than {CONFIG_BYTES_MAX} bytes; is it the right file?", path.display())]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// It is no TOML, or has a key we do not know or a value of the wrong type.
    #[error("the configuration `{}` has a mistake; an example is installed as /usr/share/doc/chom-orchestrator/orchestrator.toml", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("`{key}` in the configuration `{}`: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong with its value and what to do.
        problem: String,
    },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, has unknown keys, or a value that cannot be.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::Large { path: path.to_owned() });
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?, path)
    }

    /// Parses and checks a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        match check::first_problem(&config) {
            None => Ok(config),
            Some((key, problem)) => Err(ConfigError::Value { path: path.to_owned(), key, problem }),
        }
    }

    /// The names that the orchestrator's own certificates are for.
    #[must_use]
    pub fn server_names(&self) -> Vec<String> {
        let host = |address: &String| {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            host.trim_start_matches('[').trim_end_matches(']').to_owned()
        };
        let mut names: Vec<String> = self.public_addresses.iter().map(host).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Where the store is.
    #[must_use]
    pub fn store_directory(&self) -> PathBuf {
        self.state_directory.join("store")
    }
}

mod check;
#[cfg(test)]
mod tests;
