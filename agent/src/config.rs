//! The configuration file of the agent: everything in it is optional, unknown keys are refused. Opens nothing that the file
//! names.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chom_protocol::vps::Engine;
use serde::Deserialize;

use crate::agent::Settings;
use crate::driver::acceleration::AccelerationChoice;

/// Where the file is unless told otherwise; a missing one there is an empty one.
pub const DEFAULT_PATH: &str = "/etc/chom/agent.toml";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read `{}`; make it readable, or leave out --config to run with defaults", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content.
    #[error("`{}` cannot be used; correct the line that is shown", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A path that depends on where the agent was started.
    #[error("`{key}` in `{}` is `{}`; write an absolute path", path.display(), value.display())]
    Relative {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it says.
        value: PathBuf,
    },
    /// A number out of range.
    #[error("`{key}` in `{}` is {value}; write a number up to {max}", path.display())]
    Number {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it says.
        value: u64,
        /// The largest allowed.
        max: u64,
    },
}

/// Longest wait after a boot: a host that waits longer is a host that is off.
const MOVED_GRACE_SECONDS_MAX: u64 = 3600;

/// Everything that the file may say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Identity, ledger, memory, spools.
    pub state_directory: PathBuf,
    /// What `chom-agent status` reads.
    pub runtime_directory: PathBuf,
    /// Disks and seeds of VPSs; `vps` in the state directory unless given.
    pub vps_directory: Option<PathBuf>,
    /// Verified images; `images` in the state directory unless given.
    pub image_directory: Option<PathBuf>,
    /// What runs guests; unless given, every engine that is found: libvirt by its helper, Incus by its socket.
    pub engines: Option<BTreeSet<Engine>>,
    /// The libvirt helper.
    pub helper: PathBuf,
    /// Incus' socket.
    pub incus_socket: PathBuf,
    /// VPSs older than an hour that may be removed in an hour.
    pub destroys_per_hour: u32,
    /// After a boot of the host, VPSs are started without word from the orchestrator only after so long.
    pub moved_grace_seconds: u64,
    /// How guests' processors are made.
    pub acceleration: AccelerationChoice,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_directory: PathBuf::from("/var/lib/chom-agent"),
            runtime_directory: PathBuf::from("/run/chom-agent"),
            vps_directory: None,
            image_directory: None,
            engines: None,
            helper: PathBuf::from("/usr/libexec/chom/chom-agent-libvirt"),
            incus_socket: PathBuf::from("/var/lib/incus/unix.socket"),
            destroys_per_hour: 5,
            moved_grace_seconds: 120,
            acceleration: AccelerationChoice::Auto,
        }
    }
}

impl Config {
    /// Reads the file; without a path the usual one, which may be missing.
    ///
    /// # Errors
    /// When it cannot be read or says what cannot be.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// Reads the text of the file `path`.
    ///
    /// # Errors
    /// When it says what cannot be.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let folders = [
            ("state_directory", Some(&config.state_directory)),
            ("runtime_directory", Some(&config.runtime_directory)),
            ("vps_directory", config.vps_directory.as_ref()),
            ("image_directory", config.image_directory.as_ref()),
            ("helper", Some(&config.helper)),
            ("incus_socket", Some(&config.incus_socket)),
        ];
        for (key, value) in folders {
            if let Some(value) = value.filter(|value| !value.is_absolute()) {
                return Err(ConfigError::Relative { path: path.to_owned(), key, value: value.clone() });
            }
        }
        let (value, max) = (config.moved_grace_seconds, MOVED_GRACE_SECONDS_MAX);
        if value > max {
            return Err(ConfigError::Number {
                path: path.to_owned(),
                key: "moved_grace_seconds",
                value,
                max,
            });
        }
        Ok(config)
    }

    /// Where the host's key and certificate are.
    #[must_use]
    pub fn identity_directory(&self) -> PathBuf {
        self.state_directory.join("identity")
    }

    /// Where VPSs' files are.
    #[must_use]
    pub fn vps_directory(&self) -> PathBuf {
        self.vps_directory.clone().unwrap_or_else(|| self.state_directory.join("vps"))
    }

    /// What the agent itself needs of it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let images = self.image_directory.clone();
        Settings {
            state_directory: self.state_directory.clone(),
            image_directory: images.unwrap_or_else(|| self.state_directory.join("images")),
            vps_directory: self.vps_directory(),
            destroys_per_hour: self.destroys_per_hour,
            moved_grace: Duration::from_secs(self.moved_grace_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::chain::Chain;

    fn refused(text: &str, expected: &Expect) {
        let error = Config::parse(text, Path::new("/etc/chom/agent.toml")).unwrap_err();
        expected.assert_eq(&Chain(&error).to_string());
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("", Path::new("x")).unwrap(), Config::default());
    }

    #[test]
    fn every_key_can_be_given() {
        let text = r#"
            state_directory = "/a"
            runtime_directory = "/b"
            vps_directory = "/c"
            image_directory = "/d"
            engines = ["fake", "incus"]
            helper = "/e"
            incus_socket = "/f"
            destroys_per_hour = 1
            moved_grace_seconds = 0
            acceleration = "tcg"
        "#;
        let config = Config::parse(text, Path::new("x")).unwrap();
        assert_eq!(config.engines, Some([Engine::Incus, Engine::Fake].into()));
        assert_eq!(config.acceleration, AccelerationChoice::Tcg);
        assert_eq!(config.vps_directory(), Path::new("/c"));
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_what_to_do() {
        refused(
            "state_directory = \"/a\"\nstate_dir = \"/b\"\n",
            &expect![[r#"
            `/etc/chom/agent.toml` cannot be used; correct the line that is shown: TOML parse error at line 2, column 1
              |
            2 | state_dir = "/b"
              | ^^^^^^^^^
            unknown field `state_dir`, expected one of `state_directory`, `runtime_directory`, `vps_directory`, `image_directory`, `engines`, `helper`, `incus_socket`, `destroys_per_hour`, `moved_grace_seconds`, `acceleration`
        "#]],
        );
        refused(
            "engines = [\"kvm\"]\n",
            &expect![[r#"
            `/etc/chom/agent.toml` cannot be used; correct the line that is shown: TOML parse error at line 1, column 12
              |
            1 | engines = ["kvm"]
              |            ^^^^^
            unknown variant `kvm`, expected one of `libvirt`, `incus`, `fake`
        "#]],
        );
        refused(
            "vps_directory = \"vps\"\n",
            &expect!["`vps_directory` in `/etc/chom/agent.toml` is `vps`; write an absolute path"],
        );
        refused(
            "moved_grace_seconds = 4000\n",
            &expect!["`moved_grace_seconds` in `/etc/chom/agent.toml` is 4000; write a number up to 3600"],
        );
    }
}
