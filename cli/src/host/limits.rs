//! Labels and limits of a host, as the command line names them.

use chom_protocol::Bytes;
use chom_protocol::api::hosts::{ChangeLabels, HostLimits, Labels};

use crate::error::Failure;

/// How much of a host may be promised.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitOptions {
    /// Cores promised for each real one
    #[arg(long, value_name = "CORES")]
    cores_per_core: Option<u32>,
    /// Memory promised for 100 bytes of real memory
    #[arg(long, value_name = "PERCENT")]
    memory_percent: Option<u32>,
    /// Real cores that are not for VPSs
    #[arg(long, value_name = "CORES")]
    reserve_cores: Option<u32>,
    /// Memory that is not for VPSs
    #[arg(long, value_name = "MIB")]
    reserve_memory_mib: Option<u64>,
    /// Disk that is not for VPSs
    #[arg(long, value_name = "MIB")]
    reserve_disk_mib: Option<u64>,
    /// Begin from the fleet's limits instead of the host's own
    #[arg(long)]
    reset: bool,
}

impl LimitOptions {
    /// These over those that the host has.
    pub(super) fn over(&self, own: HostLimits) -> HostLimits {
        let old = if self.reset { HostLimits::default() } else { own };
        HostLimits {
            cores_per_core: self.cores_per_core.or(old.cores_per_core),
            memory_percent: self.memory_percent.or(old.memory_percent),
            cores_reserved: self.reserve_cores.or(old.cores_reserved),
            memory_reserved_bytes: self.reserve_memory_mib.map(Bytes::mib).or(old.memory_reserved_bytes),
            disk_reserved_bytes: self.reserve_disk_mib.map(Bytes::mib).or(old.disk_reserved_bytes),
        }
    }
}

/// `key=value` sets, `key-` takes away.
pub(super) fn labels(words: &[String]) -> Result<ChangeLabels, Failure> {
    let mut change = ChangeLabels::default();
    for word in words {
        match (word.split_once('='), word.strip_suffix('-')) {
            (Some(_), _) => {
                let (key, value) = label(word)?;
                change.set.insert(key, value);
            }
            (None, Some(key)) => {
                change.remove.push(key.parse().map_err(|error| wrong(word, &error))?);
            }
            (None, None) => {
                return Err(Failure::usage(
                    format!("`{word}` is no label"),
                    "write key=value to set one, key- to take one away",
                ));
            }
        }
    }
    Ok(change)
}

/// One `key=value`.
pub(crate) fn label(word: &str) -> Result<(chom_protocol::Name, chom_protocol::Name), Failure> {
    let Some((key, value)) = word.split_once('=') else {
        return Err(Failure::usage(format!("`{word}` is no label"), "write key=value"));
    };
    let named = |text: &str| text.parse().map_err(|error| wrong(word, &error));
    Ok((named(key)?, named(value)?))
}

/// Labels that a host must have.
pub(crate) fn wanted(words: &[String]) -> Result<Labels, Failure> {
    words.iter().map(|word| label(word)).collect()
}

fn wrong(word: &str, error: &chom_protocol::id::NameError) -> Failure {
    Failure::usage(format!("`{word}`: {error}"), "write key=value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_taken_away_and_nothing_else_is_one() {
        let read = |words: &[&str]| labels(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let change = read(&["disk=nvme", "rack-", "row=b-2"]).unwrap();
        let set: Vec<String> = change.set.iter().map(|(key, value)| format!("{key} {value}")).collect();
        assert_eq!(set, ["disk nvme", "row b-2"]);
        assert_eq!(change.remove.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["rack"]);
        for wrong in ["disk", "Disk=nvme", "disk=", "=a"] {
            assert!(read(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_that_are_not_given_stay_unless_reset() {
        let own = HostLimits { cores_per_core: Some(2), memory_percent: Some(120), ..HostLimits::default() };
        let mut options = LimitOptions {
            cores_per_core: Some(4),
            memory_percent: None,
            reserve_cores: None,
            reserve_memory_mib: Some(1024),
            reserve_disk_mib: None,
            reset: false,
        };
        let expected =
            HostLimits { cores_per_core: Some(4), memory_reserved_bytes: Some(Bytes::gib(1)), ..own };
        assert_eq!(options.over(own), expected);
        options.reset = true;
        assert_eq!(options.over(own), HostLimits { memory_percent: None, ..expected });
    }
}
