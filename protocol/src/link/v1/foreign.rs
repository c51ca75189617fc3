//! Guests that CHOM did not make, on the wire. FROZEN: see `v1`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::list::List;
use super::network::Attachment;
use super::spec::{Engine, twin};
use super::status::VpsState;
use super::value::{self, Id, TEXT_BYTES_MAX, line};
use crate::foreign::{self, GUEST_CARDS_MAX, GUEST_DISKS_MAX};
use crate::id::VpsId;
use crate::link::codec::DecodeError;
use crate::units::Bytes;
use crate::vps;

/// Longest path and name of an interface that is told: paths of files have up to 4096 bytes (PATH_MAX), but no disk is
/// named by one, and a status has room for a thousand guests.
const PATH_BYTES_MAX: usize = 512;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ForeignGuest {
    engine: Engine,
    name: String,
    state: VpsState,
    hardware: Option<Box<Hardware>>,
}

impl ForeignGuest {
    /// The guest with texts of at most so many bytes; with none at all, without what it is made of.
    pub(super) fn new(guest: &vps::ForeignGuest, text_bytes_max: usize) -> Self {
        let vps::ForeignGuest { engine, name, state, hardware } = guest;
        let hardware = hardware.as_deref().filter(|_| text_bytes_max > 0);
        Self {
            engine: (*engine).into(),
            name: line(name, TEXT_BYTES_MAX),
            state: (*state).into(),
            hardware: hardware.map(|hardware| Box::new(Hardware::new(hardware, text_bytes_max))),
        }
    }
}

impl TryFrom<ForeignGuest> for vps::ForeignGuest {
    type Error = DecodeError;

    fn try_from(guest: ForeignGuest) -> Result<Self, DecodeError> {
        let ForeignGuest { engine, name, state, hardware } = guest;
        Ok(Self {
            engine: engine.into(),
            name: line(&name, TEXT_BYTES_MAX),
            state: state.into(),
            hardware: hardware.map(|hardware| (*hardware).try_into().map(Box::new)).transpose()?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Hardware {
    id: Id,
    cores: Option<u32>,
    memory: Option<u64>,
    disks: List<Disk, GUEST_DISKS_MAX>,
    cards: List<Card, GUEST_CARDS_MAX>,
    obstacle: Option<String>,
}

impl Hardware {
    fn new(hardware: &foreign::Hardware, text_bytes_max: usize) -> Self {
        let foreign::Hardware { id, cores, memory, disks, cards, obstacle } = hardware;
        Self {
            id: id.uuid().into_bytes(),
            cores: *cores,
            memory: memory.map(|Bytes(bytes)| bytes),
            disks: disks.iter().take(GUEST_DISKS_MAX).map(Disk::from).collect(),
            cards: cards.iter().take(GUEST_CARDS_MAX).map(Card::from).collect(),
            obstacle: obstacle.as_ref().map(|obstacle| line(obstacle, text_bytes_max)),
        }
    }
}

impl TryFrom<Hardware> for foreign::Hardware {
    type Error = DecodeError;

    fn try_from(hardware: Hardware) -> Result<Self, DecodeError> {
        let Hardware { id, cores, memory, disks, cards, obstacle } = hardware;
        Ok(Self {
            id: VpsId::new(Uuid::from_bytes(id)),
            cores,
            memory: memory.map(Bytes),
            disks: disks.0.into_iter().map(Into::into).collect(),
            cards: cards.0.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            obstacle: obstacle.map(|obstacle| line(&obstacle, TEXT_BYTES_MAX)),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Disk {
    path: String,
    kind: DiskKind,
    size: Option<u64>,
    device: String,
}

impl From<&foreign::GuestDisk> for Disk {
    fn from(disk: &foreign::GuestDisk) -> Self {
        let foreign::GuestDisk { path, kind, size, device } = disk;
        Self {
            path: line(path, PATH_BYTES_MAX),
            kind: (*kind).into(),
            size: size.map(|Bytes(bytes)| bytes),
            device: line(device, value::SHORT_BYTES_MAX),
        }
    }
}

impl From<Disk> for foreign::GuestDisk {
    fn from(disk: Disk) -> Self {
        let Disk { path, kind, size, device } = disk;
        Self {
            path: line(&path, PATH_BYTES_MAX),
            kind: kind.into(),
            size: size.map(Bytes),
            device: line(&device, value::SHORT_BYTES_MAX),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Card {
    mac: [u8; 6],
    attachment: Option<Attachment>,
    on: String,
}

impl From<&foreign::GuestCard> for Card {
    fn from(card: &foreign::GuestCard) -> Self {
        let foreign::GuestCard { mac, attachment, on } = card;
        Self {
            mac: *mac,
            attachment: attachment.as_ref().map(Into::into),
            on: line(on, value::SHORT_BYTES_MAX),
        }
    }
}

impl TryFrom<Card> for foreign::GuestCard {
    type Error = DecodeError;

    fn try_from(card: Card) -> Result<Self, DecodeError> {
        let Card { mac, attachment, on } = card;
        Ok(Self {
            mac,
            attachment: attachment.map(TryInto::try_into).transpose()?,
            on: line(&on, value::SHORT_BYTES_MAX),
        })
    }
}

/// What a VPS's spec has of the guest that it was adopted as.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Adopted {
    guest: String,
    disks: List<Disk, GUEST_DISKS_MAX>,
}

impl From<&foreign::Adopted> for Adopted {
    fn from(adopted: &foreign::Adopted) -> Self {
        let foreign::Adopted { guest, disks } = adopted;
        Self { guest: guest.clone(), disks: disks.iter().map(Disk::from).collect() }
    }
}

impl From<Adopted> for foreign::Adopted {
    fn from(adopted: Adopted) -> Self {
        let Adopted { guest, disks } = adopted;
        Self { guest, disks: disks.0.into_iter().map(Into::into).collect() }
    }
}

// The order of the variants is their number on the wire: add at the end only.
twin! {
    DiskKind = foreign::DiskKind { Qcow2, Raw, Block, Pool, Other }
}
