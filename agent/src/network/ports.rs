//! The guests' cards that this host knows, and what went over each so far. Pure: changes by functions of (ports, what was
//! seen); the parent keeps them on disk. A card is known for as long as its guest is here, whoever still names it, so that
//! no guest loses its guard for a lost word; what counts only rises, whatever becomes of the kernel's counters.

use std::collections::BTreeMap;

use chom_protocol::VpsId;
use chom_protocol::host::HostSpec;
use chom_protocol::network::{BridgeName, Traffic};
use chom_protocol::vps::{Engine, NetworkInterface};
use serde::{Deserialize, Serialize};

use super::loaded::Loaded;
use super::rules::Card;

/// Every card. On disk as JSON: fields may be added with a default, never removed or changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports(BTreeMap<VpsId, Port>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Port {
    interface: NetworkInterface,
    cut_off: bool,
    /// What the host's end of the card is called now, of a guest that CHOM did not name it for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<BridgeName>,
    /// What the kernel's counters showed last.
    counted: Traffic,
    /// What went since the card was first known.
    total: Traffic,
}

impl Ports {
    /// Takes over what is desired, and forgets cards whose guests are gone. `guests` are those that the engines have, and
    /// what the host's end of the card of some is called; none when they could not all say.
    pub(super) fn learn(&mut self, spec: &HostSpec, guests: Option<&BTreeMap<VpsId, Option<String>>>) {
        // What a fake engine runs has no card.
        for (&id, want) in spec.vps.iter().filter(|(_, want)| want.engine != Engine::Fake) {
            let known = self.0.get(&id);
            if want.hold && known.is_some() {
                continue; // somebody is at work on it by hand
            }
            let (counted, total) = known.map_or_else(Default::default, |port| (port.counted, port.total));
            let name = match guests {
                Some(guests) => guests.get(&id).cloned().flatten().and_then(|name| name.parse().ok()),
                None => known.and_then(|port| port.name.clone()),
            };
            let cut_off = !want.is_connected();
            let interface = want.interface.clone();
            self.0.insert(id, Port { interface, cut_off, name, counted, total });
        }
        if let Some(guests) = guests {
            let named = |id: &VpsId| spec.vps.contains_key(id) || spec.tombstones.contains_key(id);
            self.0.retain(|id, _| named(id) || guests.contains_key(id));
        }
    }

    /// Counts what went since the last look. A counter that is not there was lost with the table, or is not made yet: the
    /// next one begins at zero.
    pub(super) fn count(&mut self, loaded: &Loaded) {
        for (&id, port) in &mut self.0 {
            let now = loaded.counted(id).unwrap_or_default();
            if loaded.counted(id).is_some() {
                port.total = port.total.plus(now.since(port.counted));
            }
            port.counted = now;
        }
    }

    /// What went over a card so far.
    pub(super) fn traffic(&self, vps: VpsId) -> Option<Traffic> {
        self.0.get(&vps).map(|port| port.total)
    }

    /// All of them, to be guarded.
    pub(super) fn cards(&self) -> BTreeMap<VpsId, Card<'_>> {
        self.0
            .iter()
            .map(|(&id, port)| {
                let name = port.name.as_ref().map(BridgeName::as_str);
                (id, Card { interface: &port.interface, cut_off: port.cut_off, name })
            })
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::rules;

    const VPS: &str = "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e";

    fn ports() -> Ports {
        let port = Port {
            interface: NetworkInterface::bare([2; 6]),
            cut_off: false,
            name: None,
            counted: Traffic::default(),
            total: Traffic::default(),
        };
        Ports([(VPS.parse().unwrap(), port)].into())
    }

    fn shows(in_bytes: u64) -> Loaded {
        let suffix = rules::suffix(VPS.parse().unwrap());
        let counter = |direction, bytes| {
            format!("\tcounter {direction}-{suffix} {{\n\t\tpackets 0 bytes {bytes}\n\t}}\n")
        };
        Loaded::parse(&format!("{}{}", counter("in", in_bytes), counter("out", 0)))
    }

    #[derive(Debug, Clone)]
    enum Event {
        Traffic(u64),
        Look,
        /// The table is flushed; the next look puts it back.
        Flush,
        /// The agent ends and begins again with what is on disk.
        Restart,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (0_u64..1000).prop_map(Event::Traffic),
            Just(Event::Look),
            Just(Event::Flush),
            Just(Event::Restart),
        ];
        prop::collection::vec(event, 0..40)
    }

    proptest! {
        /// Nothing is counted twice; lost is only what went between the last look and a flush.
        #[test]
        fn what_was_seen_before_a_flush_is_counted_once(events in events()) {
            let vps: VpsId = VPS.parse().unwrap();
            let (mut ports, mut disk) = (ports(), ports());
            let (mut kernel, mut unseen, mut expected) = (Some(0), 0, 0);
            for event in events {
                match event {
                    Event::Traffic(bytes) => if let Some(kernel) = &mut kernel {
                        *kernel += bytes;
                        unseen += bytes;
                    },
                    Event::Look => {
                        ports.count(&kernel.map_or_else(Loaded::default, shows));
                        disk = ports.clone();
                        expected += unseen;
                        unseen = 0;
                        kernel.get_or_insert(0);
                    }
                    Event::Flush => (kernel, unseen) = (None, 0),
                    Event::Restart => ports = disk.clone(),
                }
            }
            ports.count(&kernel.map_or_else(Loaded::default, shows));
            expected += unseen;
            prop_assert_eq!(ports.traffic(vps), Some(Traffic { in_bytes: expected, out_bytes: 0 }));
        }
    }
}
