//! Containers that CHOM did not make: what they are made of, and taking one on. It keeps its name, its profiles and its
//! devices; what is CHOM's is in its own configuration. Pure, but for `adopt` and `name_port`.

use std::collections::BTreeMap;
use std::fmt;

use chom_protocol::foreign::{DiskKind, GUEST_CARDS_MAX, GuestCard, GuestDisk, Hardware};
use chom_protocol::helper::GuestDefinition;
use chom_protocol::network::{Attachment, port_name};
use chom_protocol::vps::{Sha256, VpsSpec};
use chom_protocol::{Bytes, VpsId};
use hyper::Method;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::api::Payload;
use super::instance::Instance;
use super::network::BRIDGE;
use super::{IncusDriver, SWITCH_SECONDS_MAX, failed, path_of};
use crate::driver::DriverError;

/// What of an instance's configuration, its profiles' included, says what it is made of.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) cores: Option<u32>,
    pub(super) memory: Option<Bytes>,
    pub(super) uuid: Option<VpsId>,
    /// What Incus gave its cards, by `NAME.hwaddr` and `NAME.host_name`.
    cards: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Expanded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Expanded;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a configuration")
            }

            // The rest may be large, such as user data: it is passed over.
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Expanded, M::Error> {
                let mut expanded = Expanded::default();
                while let Some(key) = map.next_key::<String>()? {
                    let card = key.strip_prefix("volatile.");
                    let card = card.filter(|key| key.ends_with(".hwaddr") || key.ends_with(".host_name"));
                    match (key.as_str(), card) {
                        ("limits.cpu", _) => expanded.cores = count(&map.next_value::<String>()?),
                        ("limits.memory", _) => expanded.memory = bytes(&map.next_value::<String>()?),
                        ("volatile.uuid", _) => expanded.uuid = map.next_value::<String>()?.parse().ok(),
                        (_, Some(card)) => {
                            expanded.cards.insert(card.to_owned(), map.next_value()?);
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(expanded)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// A device, its profiles' included.
pub(super) type Devices = BTreeMap<String, Map<String, Value>>;

/// The pool that an instance's disk is in.
pub(super) fn pool(devices: &Devices) -> Option<&str> {
    devices.values().find(|device| text(device, "path") == Some("/")).and_then(|root| text(root, "pool"))
}

fn text<'a>(device: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    device.get(key).and_then(Value::as_str)
}

impl Expanded {
    /// What the host's end of a card is called now.
    pub(super) fn port(&self, card: &str) -> Option<String> {
        self.cards.get(&format!("{card}.host_name")).cloned()
    }

    /// What it is made of; none where Incus gave it no id.
    pub(super) fn hardware(&self, devices: &Devices, obstacle: Option<&str>) -> Option<Hardware> {
        let nics = devices.iter().filter(|(_, device)| text(device, "type") == Some("nic"));
        let mut cards: Vec<GuestCard> = nics.filter_map(|(name, device)| self.card(name, device)).collect();
        cards.truncate(GUEST_CARDS_MAX);
        let root = devices.iter().find(|(_, device)| text(device, "path") == Some("/"));
        let disk = root.map(|(name, device)| GuestDisk {
            path: text(device, "pool").unwrap_or_default().to_owned(),
            kind: DiskKind::Pool,
            size: text(device, "size").and_then(bytes),
            device: name.clone(),
        });
        Some(Hardware {
            id: self.uuid?,
            cores: self.cores,
            memory: self.memory,
            disks: disk.into_iter().collect(),
            cards,
            obstacle: obstacle.map(str::to_owned),
        })
    }

    fn card(&self, name: &str, device: &Map<String, Value>) -> Option<GuestCard> {
        let mac = text(device, "hwaddr").or(self.cards.get(&format!("{name}.hwaddr")).map(String::as_str));
        // Of a managed network the bridge has the network's name.
        let bridged = text(device, "nictype") == Some("bridged");
        let bridge = text(device, "network").or_else(|| text(device, "parent").filter(|_| bridged));
        let tag = text(device, "vlan").map(|tag| tag.parse::<u16>().ok().and_then(|tag| tag.try_into().ok()));
        let attachment = match (bridge, tag) {
            (Some(BRIDGE), None) => Some(Attachment::Nat),
            (Some(_), Some(None)) | (None, _) => None,
            (Some(bridge), tag) => {
                bridge.parse().ok().map(|name| Attachment::Bridge { name, vlan: tag.flatten() })
            }
        };
        let on = bridge.or(text(device, "parent")).or(text(device, "nictype")).unwrap_or(name);
        Some(GuestCard { mac: parse_mac(mac?)?, attachment, on: on.to_owned() })
    }

    /// The device that is the card with a hardware address.
    fn card_with(&self, devices: &Devices, mac: [u8; 6]) -> Option<String> {
        let has = |(name, device): &(&String, &Map<String, Value>)| {
            self.card(name, device).is_some_and(|card| card.mac == mac)
        };
        let nics = devices.iter().filter(|(_, device)| text(device, "type") == Some("nic"));
        nics.into_iter().find(has).map(|(name, _)| name.clone())
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// How many processors `limits.cpu` gives: a number, or a set such as `0-1,3`.
fn count(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1),
        None => part.parse::<u32>().ok().map(|_| 1),
    };
    text.split(',').map(part).try_fold(0_u32, |sum, count| sum.checked_add(count?))
}

/// A size as Incus takes them: a number of bytes, or with a unit. A share of the host is no size.
fn bytes(text: &str) -> Option<Bytes> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (kilo, kibi) = (1000_u64, 1024_u64);
    let unit = match unit {
        "" | "B" => 1,
        "kB" => kilo,
        "MB" => kilo.pow(2),
        "GB" => kilo.pow(3),
        "TB" => kilo.pow(4),
        "KiB" => kibi,
        "MiB" => kibi.pow(2),
        "GiB" => kibi.pow(3),
        "TiB" => kibi.pow(4),
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Bytes)
}

/// What stands for what CHOM says of an adopted container. Whether it reaches its network is the guard's to see to.
pub(super) fn digest(spec: &VpsSpec) -> Sha256 {
    let VpsSpec { id, placement, cores, memory, disk, .. } = spec;
    Sha256::of(format!("adopted 1 {id} {placement} {cores} {} {}", memory.0, disk.0).as_bytes())
}

/// The request that takes a container on; of one that was taken on before also what gives it another size.
fn update(spec: &VpsSpec, instance: &Instance, was_adopted: bool) -> Value {
    let mut config = json!({
        // Whether it runs is for the agent to say, also after the host booted.
        "boot.autostart": "false",
        "user.chom.id": spec.id.to_string(),
        "user.chom.placement": spec.placement.to_string(),
        "user.chom.build": "0",
        "user.chom.definition": digest(spec).to_string(),
        "user.chom.adopted": instance.name(),
    });
    let (expanded, devices) = instance.expanded();
    if let Some(card) = expanded.card_with(devices, spec.interface.mac) {
        config["user.chom.card"] = card.into();
    }
    if !was_adopted {
        return json!({ "config": config });
    }
    if expanded.cores != Some(spec.cores) {
        config["limits.cpu"] = spec.cores.to_string().into();
    }
    if expanded.memory != Some(spec.memory) {
        config["limits.memory"] = spec.memory.0.to_string().into();
    }
    let root = devices.iter().find(|(_, device)| text(device, "path") == Some("/"));
    let grows = |device: &Map<String, Value>| text(device, "size").and_then(bytes) < Some(spec.disk);
    match root.filter(|(_, device)| grows(device)) {
        Some((name, device)) => {
            let mut device = device.clone();
            device.insert("size".to_owned(), spec.disk.0.to_string().into());
            json!({ "config": config, "devices": { name: device } })
        }
        None => json!({ "config": config }),
    }
}

/// Takes a container on, or gives one that was taken on the size that the spec has now.
pub(super) async fn adopt(driver: &IncusDriver, spec: &VpsSpec) -> Result<(), DriverError> {
    let doing = || format!("cannot adopt the container of VPS {}", spec.id);
    let listed: Result<Vec<Instance>, _> = driver.api.get("/1.0/instances?recursion=1").await;
    let instances = listed.map_err(failed(doing()))?;
    let marked = instances.iter().find(|instance| instance.vps() == Some(spec.id));
    let found =
        marked.or_else(|| instances.iter().find(|instance| instance.expanded().0.uuid == Some(spec.id)));
    let Some(instance) = found else {
        return Err(DriverError::passing(format!(
            "Incus has no instance with the id {}: the one that was to be adopted was removed or made anew; delete and \
             purge this VPS",
            spec.id
        )));
    };
    if instance.name() == GuestDefinition::guest_name(spec.id) {
        return Err(DriverError::lasting(format!(
            "the container of VPS {} was made by CHOM: nothing is changed",
            spec.id
        )));
    }
    let request = Payload::json(&update(spec, instance, marked.is_some()));
    let path = path_of(instance.name());
    let changed = driver.api.act(Method::PATCH, &path, request, SWITCH_SECONDS_MAX).await;
    changed.map_err(failed(doing()))?;
    driver.remember_name(spec.id, instance.name());
    Ok(())
}

/// Gives the host's end of an adopted container's card CHOM's name, before it is switched on: while it runs Incus would take
/// the card out for it.
pub(super) async fn name_port(
    driver: &IncusDriver,
    vps: VpsId,
    instance: &Instance,
) -> Result<(), DriverError> {
    let (_, devices) = instance.expanded();
    let Some((name, device)) = instance.card().and_then(|card| devices.get_key_value(card)) else {
        return Ok(());
    };
    let port = port_name(vps);
    if text(device, "host_name") == Some(&port) {
        return Ok(());
    }
    let mut device = device.clone();
    device.insert("host_name".to_owned(), port.into());
    let request = Payload::json(&json!({ "devices": { name: device } }));
    let path = path_of(instance.name());
    let changed = driver.api.act(Method::PATCH, &path, request, SWITCH_SECONDS_MAX).await;
    changed.map_err(failed(format!("cannot name the card of VPS {vps}")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::driver::seed::tests::spec;

    const UUID: &str = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e";

    fn by_hand(config: Value) -> Instance {
        let mut expanded = json!({
            "limits.cpu": "0-1,3", "limits.memory": "1GiB", "volatile.uuid": UUID,
            "volatile.eth0.hwaddr": "10:66:6a:00:00:01", "volatile.eth0.host_name": "veth1",
            "cloud-init.user-data": "large",
        });
        expanded.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "name": "by-hand", "type": "container", "status": "Running",
            "config": config, "expanded_config": expanded,
            "expanded_devices": {
                "eth0": {"type": "nic", "network": "incusbr0", "name": "eth0"},
                "eth1": {"type": "nic", "nictype": "macvlan", "parent": "eno1", "hwaddr": "10:66:6a:00:00:02"},
                "root": {"type": "disk", "path": "/", "pool": "fast", "size": "10GB"},
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_a_container_is_made_of_and_how_it_is_taken_on() {
        let observed = by_hand(json!({})).observed();
        assert_eq!(observed.vps, None);
        let Hardware { id, cores, memory, disks, cards, obstacle } = *observed.hardware.unwrap();
        assert_eq!((id.to_string().as_str(), cores, memory), (UUID, Some(3), Some(Bytes::gib(1))));
        assert_eq!(
            (disks[0].path.as_str(), disks[0].size, obstacle),
            ("fast", Some(Bytes(10_000_000_000)), None)
        );
        let cards: Vec<String> =
            cards.iter().map(|card| format!("{} {:?}", card.on, card.attachment)).collect();
        assert_eq!(
            cards,
            [r#"incusbr0 Some(Bridge { name: BridgeName("incusbr0"), vlan: None })"#, "eno1 None"]
        );

        let mut spec = spec();
        spec.interface.mac = [0x10, 0x66, 0x6a, 0, 0, 1];
        (spec.cores, spec.memory, spec.disk) = (3, Bytes::gib(1), Bytes::gib(20));
        let shown = |was| serde_json::to_string_pretty(&update(&spec, &by_hand(json!({})), was)).unwrap();
        expect![[r#"
            {
              "config": {
                "boot.autostart": "false",
                "user.chom.adopted": "by-hand",
                "user.chom.build": "0",
                "user.chom.card": "eth0",
                "user.chom.definition": "2d67f8f547049f83b85dbbdead4cca0dcdd68d79312b1104442e040918e18775",
                "user.chom.id": "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e",
                "user.chom.placement": "1"
              }
            }"#]]
        .assert_eq(&shown(false));
        let later: Value = serde_json::from_str(&shown(true)).unwrap();
        assert_eq!(later["devices"]["root"]["size"], "21474836480");
        assert_eq!(
            (later["devices"]["root"]["pool"].as_str(), &later["config"]["limits.cpu"]),
            (Some("fast"), &Value::Null)
        );
    }

    #[test]
    fn an_adopted_one_is_known_by_its_own_name_and_a_copy_of_it_is_foreign() {
        let marks = |name: &str| {
            json!({"user.chom.id": UUID, "user.chom.adopted": name, "user.chom.card": "eth0",
                "user.chom.placement": "1", "user.chom.definition": digest(&spec()).to_string()})
        };
        let ours = by_hand(marks("by-hand")).observed();
        assert_eq!((ours.vps.unwrap().to_string().as_str(), ours.port.as_deref()), (UUID, Some("veth1")));
        assert_eq!((ours.definition, ours.hardware), (Some(digest(&spec())), None));
        assert_eq!(by_hand(marks("the-original")).observed().vps, None);
    }

    #[test]
    fn figures_are_read_as_incus_takes_them() {
        let counts = ["2", "0-3", "0,2-3", "", "x", "3-1"].map(count);
        assert_eq!(counts, [Some(2), Some(4), Some(3), None, None, None]);
        let sizes = ["512MiB", "1GB", "4096", "50%", "", "99999999999TiB"].map(bytes);
        assert_eq!(
            sizes,
            [Some(Bytes::mib(512)), Some(Bytes(1_000_000_000)), Some(Bytes(4096)), None, None, None]
        );
    }
}
