//! A VPS as an instance of Incus, and instances as Incus tells of them. Pure.

use std::collections::BTreeMap;

use chom_protocol::VpsId;
use chom_protocol::helper::{GuestDefinition, ObservedGuest};
use chom_protocol::network::{Attachment, port_name};
use chom_protocol::sample::{Metric, Point};
use chom_protocol::vps::{CloneSource, Sha256, VpsSpec, VpsState};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::adopted::{self, Expanded};
use super::network::BRIDGE;
use crate::driver::seed::Seed;
use crate::driver::snapshot::SnapshotName;

/// Raised when the same spec makes another instance, so that instances are redefined after an upgrade.
const LAYOUT: u32 = 2;
/// Nanoseconds of a second, as Incus counts processor time.
const NANOSECONDS: f64 = 1e9;
/// The instance's root file system and its card.
pub(super) const ROOT: &str = "root";
const CARD: &str = "eth0";

/// The instance of a VPS: what it is configured with, but for the pool that its disk is in.
#[derive(Debug)]
pub(super) struct Definition {
    config: BTreeMap<&'static str, String>,
    disk_bytes: u64,
    card: Device,
    digest: Sha256,
}

/// A device as Incus keeps it: everything is text.
type Device = BTreeMap<String, String>;

impl Definition {
    /// `user_data` is its own, as fetched; none where nobody wrote any.
    pub(super) fn new(spec: &VpsSpec, user_data: Option<&[u8]>) -> Self {
        let seed = Seed::of(spec);
        let user_data = match user_data {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => seed.default_user_data.clone(),
        };
        let digest = digest(spec);
        let config = [
            // Whether it runs is for the agent to say, also after the host booted.
            ("boot.autostart", "false".to_owned()),
            ("limits.cpu", spec.cores.to_string()),
            ("limits.memory", spec.memory.0.to_string()),
            // An instance's name is its id; to itself it is called what its tenant called it. A name is letters, digits
            // and hyphens.
            ("raw.lxc", format!("lxc.uts.name = {}", spec.name)),
            ("user.meta-data", seed.meta_data),
            ("cloud-init.network-config", seed.network_config),
            ("cloud-init.user-data", user_data),
            ("user.chom.id", spec.id.to_string()),
            ("user.chom.placement", spec.placement.to_string()),
            ("user.chom.build", spec.build.to_string()),
            ("user.chom.definition", digest.to_string()),
        ];
        Self { config: config.into(), disk_bytes: spec.disk.0, card: card(spec), digest }
    }

    pub(super) fn digest(&self) -> Sha256 {
        self.digest
    }

    /// The request that makes it under a name.
    pub(super) fn create(&self, spec: &VpsSpec, name: &str, pool: &str) -> Value {
        let source = match spec.source {
            None => {
                json!({ "type": "image", "fingerprint": spec.image.as_ref().map(|image| image.sha256.to_string()) })
            }
            Some(CloneSource { vps, snapshot }) => {
                let snapshot = snapshot.map_or(SnapshotName::ForClone(spec.id), SnapshotName::Kept);
                let from = format!("{}/{snapshot}", GuestDefinition::guest_name(vps));
                json!({ "type": "copy", "source": from, "instance_only": true })
            }
        };
        let mut request = self.update(pool);
        request["name"] = name.into();
        request["type"] = "container".into();
        request["profiles"] = json!([]);
        request["source"] = source;
        request
    }

    /// The request that changes one that is there; its disk stays in its pool.
    pub(super) fn update(&self, pool: &str) -> Value {
        let size = self.disk_bytes.to_string();
        let root: Device = [("type", "disk"), ("path", "/"), ("pool", pool), ("size", &size)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let mut config = self.config.clone();
        let given = GUARDED.map(|key| self.config.get(key).map(String::as_str));
        config.insert(GIVEN, fingerprint(given, Some(&root), Some(&self.card)));
        json!({ "config": config, "devices": { ROOT: root, CARD: self.card } })
    }
}

/// The keys whose change by hand is seen, beside the disk and the card.
const GUARDED: [&str; 4] = ["boot.autostart", "limits.cpu", "limits.memory", "raw.lxc"];
/// The mark that tells what it was given.
const GIVEN: &str = "user.chom.given";

/// Stands for what somebody could change by hand.
fn fingerprint(guarded: [Option<&str>; 4], root: Option<&Device>, card: Option<&Device>) -> String {
    Sha256::of(format!("{guarded:?} {root:?} {card:?}").as_bytes()).to_string()
}

/// What a container is called that is to take another one's place.
pub(super) fn successor_name(vps: VpsId) -> String {
    format!("{}-new", GuestDefinition::guest_name(vps))
}

/// The network card. The host's end has a name of its own, so that the agent's rules for it stand before the guest starts.
fn card(spec: &VpsSpec) -> Device {
    let mac = spec.interface.mac.map(|byte| format!("{byte:02x}")).join(":");
    let (parent, vlan) = match &spec.interface.attachment {
        Attachment::Nat => (BRIDGE.to_owned(), None),
        Attachment::Bridge { name, vlan } => (name.to_string(), *vlan),
    };
    let keys = [
        ("type", "nic".to_owned()),
        ("nictype", "bridged".to_owned()),
        ("name", CARD.to_owned()),
        ("hwaddr", mac),
        ("host_name", port_name(spec.id)),
        ("parent", parent),
    ];
    let vlan = vlan.map(|tag| ("vlan", tag.to_string()));
    keys.into_iter().chain(vlan).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Everything that makes the instance what it is.
pub(super) fn digest(spec: &VpsSpec) -> Sha256 {
    let seed = Seed::of(spec);
    let VpsSpec { id, placement, build, cores, memory, disk, .. } = spec;
    Sha256::of(
        format!(
            "{LAYOUT} {id} {placement} {build} {} {cores} {} {} {:?} {}",
            spec.name,
            memory.0,
            disk.0,
            card(spec),
            seed.file_name()
        )
        .as_bytes(),
    )
}

/// An instance as Incus tells of it, as far as it matters here; what the rest is never costs memory.
#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    name: String,
    #[serde(default)]
    status: String,
    #[serde(default, deserialize_with = "marks")]
    config: Marks,
    #[serde(default, deserialize_with = "or_nothing")]
    devices: Devices,
    /// With what its profiles say.
    #[serde(default, deserialize_with = "or_nothing")]
    expanded_config: Expanded,
    #[serde(default, deserialize_with = "or_nothing")]
    expanded_devices: adopted::Devices,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    ephemeral: bool,
    /// Only in answers that were asked for it.
    state: Option<State>,
}

#[derive(Debug, Default, Deserialize)]
struct Marks {
    #[serde(rename = "user.chom.id")]
    id: Option<String>,
    #[serde(rename = "user.chom.placement")]
    placement: Option<String>,
    #[serde(rename = "user.chom.build")]
    build: Option<String>,
    #[serde(rename = "user.chom.given")]
    given: Option<String>,
    #[serde(rename = "boot.autostart")]
    autostart: Option<String>,
    #[serde(rename = "limits.cpu")]
    cores: Option<String>,
    #[serde(rename = "limits.memory")]
    memory: Option<String>,
    #[serde(rename = "raw.lxc")]
    raw: Option<String>,
    #[serde(rename = "user.chom.definition")]
    definition: Option<String>,
    /// Its own name, where it was adopted.
    #[serde(rename = "user.chom.adopted")]
    adopted: Option<String>,
    /// The device that is the card which is guarded, where it was adopted.
    #[serde(rename = "user.chom.card")]
    card: Option<String>,
    #[serde(rename = "volatile.apply_template")]
    unpacked: Option<String>,
    #[serde(rename = "volatile.last_state.power")]
    last_power: Option<String>,
    /// There were none at all: Incus could not tell of it.
    #[serde(skip)]
    untold: bool,
}

fn or_nothing<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(told: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(told)?.unwrap_or_default())
}

fn marks<'de, D: Deserializer<'de>>(told: D) -> Result<Marks, D::Error> {
    let marks = Option::deserialize(told)?;
    Ok(marks.unwrap_or_else(|| Marks { untold: true, ..Marks::default() }))
}

#[derive(Debug, Default, Deserialize)]
struct Devices {
    root: Option<Device>,
    eth0: Option<Device>,
}

#[derive(Debug, Deserialize)]
struct State {
    cpu: Option<CpuState>,
    memory: Option<Usage>,
    disk: Option<BTreeMap<String, Usage>>,
    network: Option<BTreeMap<String, NetworkState>>,
}

#[derive(Debug, Deserialize)]
struct CpuState {
    #[serde(default)]
    usage: f64,
}

#[derive(Debug, Deserialize)]
struct Usage {
    #[serde(default)]
    usage: f64,
}

#[derive(Debug, Deserialize)]
struct NetworkState {
    counters: Counters,
}

#[derive(Debug, Deserialize)]
struct Counters {
    bytes_received: f64,
    bytes_sent: f64,
}

impl Instance {
    /// The VPS that it is of; none: it is foreign. A copy that somebody made by hand has the marks and another name than
    /// they say.
    pub(super) fn vps(&self) -> Option<VpsId> {
        let id: VpsId = self.config.id.as_deref()?.parse().ok()?;
        let adopted = self.config.adopted.as_ref() == Some(&self.name);
        (adopted || self.name == GuestDefinition::guest_name(id)).then_some(id)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Of one that goes or changes while it is listed Incus may tell the name alone.
    pub(super) fn is_untold(&self) -> bool {
        self.config.untold
    }

    /// It was adopted, and is known by its own name.
    pub(super) fn is_adopted(&self) -> bool {
        self.config.adopted.as_ref() == Some(&self.name)
    }

    /// The device that is the card which is guarded, of one that was adopted.
    pub(super) fn card(&self) -> Option<&str> {
        self.config.card.as_deref().filter(|_| self.is_adopted())
    }

    /// What it is made of, its profiles' part included.
    pub(super) fn expanded(&self) -> (&Expanded, &adopted::Devices) {
        (&self.expanded_config, &self.expanded_devices)
    }

    /// Why it cannot be adopted as it is.
    fn obstacle(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "virtual-machine" => Some("it is a virtual machine; of Incus CHOM runs containers only"),
            _ if self.ephemeral => Some("it is ephemeral: Incus would remove it once it is off"),
            _ => None,
        }
    }

    /// Whether it is being made to take the place of a VPS's container.
    pub(super) fn is_successor(&self) -> bool {
        let of: Option<VpsId> = self.config.id.as_ref().and_then(|text| text.parse().ok());
        of.is_some_and(|vps| self.name == successor_name(vps))
    }

    /// Somebody gave it another configuration than CHOM did.
    pub(super) fn is_changed_by_hand(&self) -> bool {
        let Marks { autostart, cores, memory, raw, given, .. } = &self.config;
        let is = [autostart, cores, memory, raw].map(Option::as_deref);
        let Devices { root, eth0 } = &self.devices;
        given.as_ref().is_some_and(|given| *given != fingerprint(is, root.as_ref(), eth0.as_ref()))
    }

    /// Incus ended while it was made: its disk is not whole, and it was never started.
    pub(super) fn is_half_made(&self) -> bool {
        self.config.unpacked.is_none() && self.config.last_power.is_none()
    }

    /// The digest of what it was last defined from; of nothing, where that was not finished.
    pub(super) fn definition(&self) -> Sha256 {
        let whole = self.config.definition.clone().filter(|_| self.is_adopted() || !self.is_half_made());
        whole.and_then(|text| Sha256::try_from(text).ok()).unwrap_or(Sha256([0; 32]))
    }

    /// Which build its disk is of.
    pub(super) fn build(&self) -> u64 {
        self.config.build.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The pool that its disk is in.
    pub(super) fn pool(&self) -> Option<&str> {
        let own = self.devices.root.as_ref().and_then(|root| root.get("pool")).map(String::as_str);
        own.or_else(|| adopted::pool(&self.expanded_devices).filter(|_| self.is_adopted()))
    }

    /// Whether it is on the network behind NAT.
    pub(super) fn is_behind_nat(&self) -> bool {
        self.devices.eth0.as_ref().is_some_and(|card| card.get("parent").is_some_and(|name| name == BRIDGE))
    }

    pub(super) fn state(&self) -> VpsState {
        match self.status.as_str() {
            // On its way down or up its processes are there.
            "Running" | "Starting" | "Stopping" | "Thawed" | "Freezing" | "Aborting" => VpsState::Running,
            "Frozen" => VpsState::Paused,
            "Stopped" => VpsState::Stopped,
            _ => VpsState::Unknown,
        }
    }

    pub(super) fn observed(self) -> ObservedGuest {
        let vps = self.vps();
        let placement = self.config.placement.as_ref().filter(|_| vps.is_some());
        let hardware = match vps {
            Some(_) => None,
            None => self.expanded_config.hardware(&self.expanded_devices, self.obstacle()),
        };
        let port = self.card().and_then(|card| self.expanded_config.port(card));
        ObservedGuest {
            vps,
            placement: placement.and_then(|text| text.parse().ok()).unwrap_or(0),
            build: vps.map_or(0, |_| self.build()),
            changed_by_hand: vps.is_some() && self.is_changed_by_hand(),
            // Its limits hold at once.
            restart_needed: false,
            definition: vps.map(|_| self.definition()),
            hardware: hardware.map(Box::new),
            port: port.filter(|_| self.state() != VpsState::Stopped),
            state: self.state(),
            name: self.name,
        }
    }

    /// What it was measured to use, if it is ours and runs.
    pub(super) fn points(&self) -> Vec<Point> {
        let (Some(vps), Some(state)) = (self.vps(), &self.state) else { return Vec::new() };
        if self.state() != VpsState::Running {
            return Vec::new();
        }
        let mut points = Vec::new();
        let mut push = |metric, label: &str, value: Option<f64>| {
            if let Some(value) = value {
                points.push(Point { metric, vps: Some(vps), label: label.to_owned(), value });
            }
        };
        push(Metric::VpsCpuSeconds, "", state.cpu.as_ref().map(|cpu| cpu.usage / NANOSECONDS));
        push(Metric::VpsMemory, "", state.memory.as_ref().map(|memory| memory.usage));
        // Not every pool can say it.
        let disk = state.disk.as_ref().and_then(|disks| disks.get(ROOT));
        push(Metric::VpsDiskAllocated, ROOT, disk.map(|disk| disk.usage));
        let card = state.network.as_ref().and_then(|cards| cards.get(CARD)).map(|card| &card.counters);
        push(Metric::VpsNetworkReceivedBytes, "net0", card.map(|card| card.bytes_received));
        push(Metric::VpsNetworkSentBytes, "net0", card.map(|card| card.bytes_sent));
        points
    }
}

#[cfg(test)]
mod tests;
