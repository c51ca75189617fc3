//! What is known from inside a container that runs: its addresses and its disk's use by Incus, its name and its system from
//! its own files. No process is started for it. A container says what it likes: everything is bounded, and what is not said
//! is unknown, never zero.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use chom_protocol::vps::{GUEST_ADDRESSES_MAX, GuestFacts, GuestFileSystem};
use chom_protocol::{Bytes, UnixMillis};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::Deserialize;

/// Read of a file inside; those that are looked at have some hundred bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// How a container is, as Incus says it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct GuestState {
    /// Its first process, as the host numbers it.
    #[serde(default)]
    pub(super) pid: i64,
    network: Option<BTreeMap<String, Card>>,
    disk: Option<BTreeMap<String, Disk>>,
}

#[derive(Debug, Deserialize)]
struct Card {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(default)]
    address: String,
}

/// Pools that cannot count say nothing, or zero.
#[derive(Debug, Deserialize)]
struct Disk {
    #[serde(default)]
    usage: i64,
    #[serde(default)]
    total: i64,
}

/// What a container's own files say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    hostname: Option<String>,
    os_release: Option<String>,
    kernel: Option<String>,
}

/// Reads a container's files through its first process. Nothing in there leads out, hangs or is large: no link leaves its
/// root, no mount of its own is entered, and only plain files are read. Blocks for as long as the disk does.
/// None: it went off meanwhile.
pub(super) fn read(pid: i64) -> Option<Files> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = (pid > 1).then(|| open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty()))?.ok()?;
    let file = |path: &str| inside(&root, path).ok();
    Some(Files {
        hostname: file("etc/hostname"),
        os_release: file("etc/os-release").or_else(|| file("usr/lib/os-release")),
        // The host's own, which it shares.
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").ok(),
    })
}

fn inside(root: &OwnedFd, path: &str) -> io::Result<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let resolve =
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let file = File::from(openat2(root, path, OpenHow::new().flags(flags).resolve(resolve))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The facts in it. Pure.
pub(super) fn facts(state: &GuestState, files: &Files) -> GuestFacts {
    let line = |text: &String| {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        first.map(str::to_owned)
    };
    GuestFacts {
        seen_at: UnixMillis(0), // the agent has a clock
        hostname: files.hostname.as_ref().and_then(line),
        os: files.os_release.as_deref().and_then(pretty_name),
        kernel: files.kernel.as_ref().and_then(line),
        addresses: state.network.as_ref().map(addresses),
        file_systems: state.disk.as_ref().and_then(|disks| disks.get(super::instance::ROOT)).and_then(root),
    }
}

/// What a system calls itself in os-release(5).
fn pretty_name(os_release: &str) -> Option<String> {
    let of = |key: &str| {
        let mut lines = os_release.lines();
        let value = lines.find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
        let bare = value.trim().trim_matches(['"', '\'']).trim();
        (!bare.is_empty()).then(|| bare.to_owned())
    };
    of("PRETTY_NAME").or_else(|| of("NAME"))
}

fn addresses(cards: &BTreeMap<String, Card>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in cards.values().flat_map(|card| &card.addresses) {
        let address = address.address.parse::<IpAddr>().ok();
        found.extend(address.filter(|address| !address.is_loopback() && !found.contains(address)));
    }
    found.truncate(GUEST_ADDRESSES_MAX);
    found
}

fn root(disk: &Disk) -> Option<Vec<GuestFileSystem>> {
    let bytes = |count: i64| u64::try_from(count).ok().filter(|count| *count > 0).map(Bytes);
    let (size, used) = (bytes(disk.total), bytes(disk.usage));
    // What kind it is, Incus does not say.
    let system = GuestFileSystem { mount: "/".to_owned(), kind: String::new(), size, used };
    (size.is_some() || used.is_some()).then(|| vec![system])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::{Value, json};

    use super::*;

    fn of(state: Value, files: &Files) -> GuestFacts {
        facts(&serde_json::from_value(state).unwrap(), files)
    }

    #[test]
    fn what_is_not_said_is_unknown_and_not_zero() {
        let unknown = GuestFacts::default();
        assert_eq!(of(json!({}), &Files::default()), unknown);
        let empty = Files {
            hostname: Some("\n# no name yet\n".to_owned()),
            os_release: Some("PRETTY_NAME=\"\"\nVERSION=1".to_owned()),
            kernel: None,
        };
        let zeros = json!({ "network": null, "disk": { "root": { "usage": 0, "total": -1 } } });
        assert_eq!(of(zeros, &empty), unknown);
        assert_eq!(of(json!({ "network": {} }), &empty).addresses, Some(vec![]), "no card, so no address");
    }

    #[test]
    fn what_is_said_is_shown_each_address_once() {
        let state = json!({
            "pid": 7,
            "network": {
                "eth0": { "addresses": [
                    { "family": "inet", "address": "10.0.0.7", "netmask": "24", "scope": "global" },
                    { "family": "inet6", "address": "fe80::1", "netmask": "64", "scope": "link" },
                    { "address": "<script>" }, { "address": "10.0.0.7" },
                ] },
                "lo": { "addresses": [{ "address": "127.0.0.1" }, { "address": "::1" }] },
            },
            "disk": { "root": { "usage": 4096, "total": 0 } },
        });
        let files = Files {
            hostname: Some("box\n".to_owned()),
            os_release: Some("NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n".to_owned()),
            kernel: Some("6.12.0\n".to_owned()),
        };
        let said = of(state, &files);
        assert_eq!(said.hostname.as_deref(), Some("box"));
        assert_eq!(said.os.as_deref(), Some("Debian GNU/Linux 13 (trixie)"));
        assert_eq!(said.kernel.as_deref(), Some("6.12.0"));
        let addresses: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(said.addresses, Some(addresses));
        let systems = said.file_systems.unwrap();
        assert_eq!((systems.len(), systems[0].size, systems[0].used), (1, None, Some(Bytes(4096))));
    }

    #[test]
    fn no_link_leads_out_of_a_container_and_only_plain_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(folder.path().join("secret"), "the host's").unwrap();
        std::fs::write(root.join("plain"), "its own").unwrap();
        symlink("/plain", root.join("etc/within")).unwrap();
        symlink("../../secret", root.join("etc/out")).unwrap();
        symlink(folder.path().join("secret"), root.join("etc/absolute")).unwrap();
        nix::unistd::mkfifo(&root.join("etc/pipe"), Mode::S_IRUSR).unwrap();
        std::fs::write(root.join("etc/large"), vec![b'x'; 1 << 20]).unwrap();
        let root = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(inside(&root, "etc/within").unwrap(), "its own");
        for bad in ["etc/out", "etc/absolute", "etc/pipe", "etc", "etc/nothing"] {
            assert!(inside(&root, bad).is_err(), "{bad}");
        }
        assert_eq!(inside(&root, "etc/large").unwrap().len() as u64, FILE_BYTES_MAX);
    }
}
