//! A VPS as the orchestrator wants it on a host, and as the agent last saw it there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::foreign::{Adopted, Hardware};
use crate::id::{Name, SnapshotId, VpsId};
use crate::network::{Attachment, Firewall, Rate, Traffic};
use crate::units::{Bytes, UnixMillis};

/// What runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Virtual machines by libvirt and QEMU.
    Libvirt,
    /// System containers by Incus.
    Incus,
    /// Guests that exist only in the agent's memory: simulation and tests, said so wherever they are shown.
    Fake,
}

impl Engine {
    /// Whether it makes guests from images of this layout.
    #[must_use]
    pub const fn takes(self, format: ImageFormat) -> bool {
        match self {
            Self::Libvirt => matches!(format, ImageFormat::Qcow2 | ImageFormat::Raw),
            Self::Incus => matches!(format, ImageFormat::IncusTarball),
            Self::Fake => true,
        }
    }

    /// The engine that images of a layout are for.
    #[must_use]
    pub const fn of(format: ImageFormat) -> Self {
        match format {
            ImageFormat::Qcow2 | ImageFormat::Raw | ImageFormat::Iso => Self::Libvirt,
            ImageFormat::IncusTarball => Self::Incus,
        }
    }
}

/// Why a text names no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no engine; there are libvirt (virtual machines), incus (containers) and fake")]
pub struct EngineError(String);

impl std::str::FromStr for Engine {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let all = [Self::Libvirt, Self::Incus, Self::Fake];
        let named = all.into_iter().find(|engine| engine.to_string() == text);
        named.ok_or_else(|| EngineError(text.chars().take(80).collect()))
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Libvirt => "libvirt",
            Self::Incus => "incus",
            Self::Fake => "fake",
        })
    }
}

/// What content a blob that agents fetch has, named by the SHA-256 of its bytes (FIPS 180-4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut out = [0; 32];
        out.copy_from_slice(digest.as_ref());
        Self(out)
    }
}

/// Why a text is no SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no SHA-256: expected 64 hexadecimal digits, as sha256sum(1) prints them")]
pub struct Sha256Error(String);

impl TryFrom<String> for Sha256 {
    type Error = Sha256Error;

    fn try_from(text: String) -> Result<Self, Sha256Error> {
        match data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|b| <[u8; 32]>::try_from(b).ok())
        {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(Sha256Error(text.chars().take(80).collect())),
        }
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

impl std::fmt::Display for Sha256 {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{self}")
    }
}

/// How an image's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// A bootable QEMU copy-on-write disk.
    Qcow2,
    /// A bootable raw disk.
    Raw,
    /// A unified image of Incus: one tar archive, compressed or not, with `metadata.yaml` and `rootfs/`.
    IncusTarball,
    /// A medium for a CD-ROM drive (ISO 9660): attached to VMs, never what a VPS is made from.
    Iso,
}

impl std::fmt::Display for ImageFormat {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::IncusTarball => "incus_tarball",
            Self::Iso => "iso",
        })
    }
}

/// An image that a host must have before a VPS of it can be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReference {
    /// Its name in the catalogue, for messages.
    pub name: Name,
    /// Its content.
    pub sha256: Sha256,
    /// Size of the file.
    pub size: Bytes,
    /// Its layout.
    pub format: ImageFormat,
}

/// A document that agents fetch by its digest, such as cloud-init user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobReference {
    /// Its content.
    pub sha256: Sha256,
    /// Its size.
    pub size: Bytes,
}

/// What a VPS's disk was first copied from, in place of its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneSource {
    /// The VPS, on the same host.
    pub vps: VpsId,
    /// Its disk as it was in this snapshot; as it is now where absent.
    pub snapshot: Option<SnapshotId>,
}

/// A medium in a VM's CD-ROM drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsoMedium {
    /// The medium, of format [`ImageFormat::Iso`].
    pub image: ImageReference,
    /// Whether the VM tries to boot from it before its disk.
    pub boot_first: bool,
}

/// Whether a VPS should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// On.
    Running,
    /// On, its processors halted.
    Paused,
    /// Off.
    Stopped,
}

/// What becomes of a VPS while it is suspended; its disk and addresses are kept either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Suspension {
    /// On, cut off from its network.
    Isolated,
    /// Off.
    Stopped,
}

/// Why a VPS is suspended. Several may hold at once; each ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SuspensionReason {
    /// It was not paid for.
    Billing,
    /// It harms others.
    Abuse,
    /// An admin's own reason.
    Admin,
}

impl std::fmt::Display for SuspensionReason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Billing => "billing",
            Self::Abuse => "abuse",
            Self::Admin => "admin",
        })
    }
}

/// What to do when a guest powers itself off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum GuestShutdown {
    /// It stays off and is shown so, without an alert.
    #[default]
    StayOff,
    /// It is started again.
    Restart,
}

/// A VPS's network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Hardware address, six bytes, locally administered.
    pub mac: [u8; 6],
    /// Where it is plugged in.
    pub attachment: Attachment,
    /// Addresses with the length of their prefix.
    pub addresses: Vec<AddressPrefix>,
    /// Prefixes that the network routes to it: it may send from them.
    pub routed: Vec<IpNet>,
    /// Where IPv4 packets for elsewhere go.
    pub gateway_v4: Option<Ipv4Addr>,
    /// Where IPv6 packets for elsewhere go.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Whether it may send only from its own addresses.
    pub spoof_guard: bool,
    /// What it may send and receive.
    pub firewall: Firewall,
    /// How fast.
    pub rate: Rate,
}

impl NetworkInterface {
    /// A card behind NAT that has no address yet; guarded, open, as fast as it can.
    #[must_use]
    pub fn bare(mac: [u8; 6]) -> Self {
        Self {
            mac,
            attachment: Attachment::Nat,
            addresses: Vec::new(),
            routed: Vec::new(),
            gateway_v4: None,
            gateway_v6: None,
            dns: Vec::new(),
            spoof_guard: true,
            firewall: Firewall::default(),
            rate: Rate::default(),
        }
    }
}

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressPrefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix: u8,
}

/// A VPS as it should be. The orchestrator is its only writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsSpec {
    /// Which VPS; also the guest's UUID in its engine.
    pub id: VpsId,
    /// Whose it is.
    pub tenant: Name,
    /// Its name, also the guest's host name.
    pub name: Name,
    /// Rises each time the VPS is placed on another host; an agent never runs an older placement.
    pub placement: u64,
    /// What runs it.
    pub engine: Engine,
    /// On or off.
    pub power: Power,
    /// What to do when it powers itself off.
    pub guest_shutdown: GuestShutdown,
    /// Do not touch it: somebody repairs it by hand.
    pub hold: bool,
    /// Deleted but kept: stopped, its disk, name and addresses held.
    pub retained: bool,
    /// Raised by each start that an admin asked for: a guest that powered itself off starts again only then.
    pub start_count: u64,
    /// Raised by each rebuild: a guest of an older build is made anew from the image, under the same id.
    pub build: u64,
    /// Suspended: what is left of it meanwhile. The reasons are the orchestrator's.
    pub suspension: Option<Suspension>,
    /// Seconds it is given to shut down before it is forced, by the last order to stop it; 0 is at once, none is the
    /// host's setting.
    pub stop_grace_seconds: Option<u32>,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory: Bytes,
    /// Size of its disk; disks never shrink.
    pub disk: Bytes,
    /// What its disk was first made from; none: it was adopted.
    pub image: Option<ImageReference>,
    /// Its network card.
    pub interface: NetworkInterface,
    /// Public keys for its default user, one line each as in authorized_keys (sshd(8)).
    pub ssh_keys: Vec<String>,
    /// cloud-init user data.
    pub user_data: Option<BlobReference>,
    /// What its disk is copied from when it is first made.
    pub source: Option<CloneSource>,
    /// It boots this image, on a disk that is thrown away afterwards, with its own disk as the second one.
    pub rescue: Option<ImageReference>,
    /// What is in its CD-ROM drive.
    pub iso: Option<IsoMedium>,
    /// The guest of its host that it was adopted as; nothing is made for it then.
    pub adopted: Option<Box<Adopted>>,
}

impl VpsSpec {
    /// What the guest should do now, all told.
    #[must_use]
    pub fn wanted_power(&self) -> Power {
        match self.suspension {
            _ if self.retained => Power::Stopped,
            Some(Suspension::Stopped) => Power::Stopped,
            Some(Suspension::Isolated) | None => self.power,
        }
    }

    /// Whether the guest should run now, all told.
    #[must_use]
    pub fn wants_running(&self) -> bool {
        self.wanted_power() == Power::Running
    }

    /// Whether the guest may reach its network.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.suspension.is_none()
    }

    /// Every image that the host must have for it.
    pub fn images(&self) -> impl Iterator<Item = &ImageReference> {
        let iso = self.iso.as_ref().map(|medium| &medium.image);
        [self.image.as_ref(), self.rescue.as_ref(), iso].into_iter().flatten()
    }

    /// About how much memory it takes; its SSH keys are most of it.
    pub(crate) fn memory_bytes(&self) -> usize {
        let keys = self.ssh_keys.iter().map(|key| size_of::<String>() + key.len());
        let adopted = self.adopted.as_ref().map_or(0, |adopted| adopted.memory_bytes());
        let rules = size_of_val(self.interface.firewall.rules.as_slice());
        size_of::<Self>() + keys.sum::<usize>() + rules + adopted
    }
}

/// The order to remove a VPS for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Which placement of it; a newer one on this host is left alone.
    pub placement: u64,
    /// What runs its guest.
    pub engine: Engine,
    /// When the VPS was made: the cap on destroys exempts those younger than an hour.
    pub created_at: UnixMillis,
}

/// What a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VpsState {
    /// Its image or disk is being prepared.
    Preparing,
    /// On.
    Running,
    /// On, its processors halted.
    Paused,
    /// Off, as asked.
    Stopped,
    /// Off because the guest itself powered off.
    StoppedByGuest,
    /// Off because its engine or its processor failed.
    Crashed,
    /// Not on this host.
    Absent,
    /// The engine could not say.
    Unknown,
}

/// A VPS as the agent last saw it. The agent is its only writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsStatus {
    /// What it does.
    pub state: VpsState,
    /// Which placement the guest is of.
    pub placement: u64,
    /// The `start_count` that the agent has acted on.
    pub start_count: u64,
    /// Which build its disk is of.
    pub build: u64,
    /// It runs with what it was started with: a part of what is wanted waits for its next start.
    pub restart_needed: bool,
    /// Since when it has been in this state, by the host's clock.
    pub since: UnixMillis,
    /// What keeps it from its desired state, in words for an admin: what was wrong, and what to do.
    pub problem: Option<String>,
    /// How far the current work on it is, such as `image 40 %`.
    pub progress: Option<String>,
    /// What went over its card; none: not counted yet.
    pub traffic: Option<Traffic>,
    /// The snapshots of it that its engine has, in order of id; none where the engine could not say.
    pub snapshots: Option<Vec<SnapshotStatus>>,
    /// What is known from inside it; none while nobody inside answers.
    /// Boxed: most statuses have none, and a status may have 10,000 VPSs.
    pub guest: Option<Box<GuestFacts>>,
}

/// A snapshot as the engine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Which.
    pub id: SnapshotId,
    /// When it was taken, by the host's clock.
    pub taken_at: UnixMillis,
    /// Size that the disk had then; none where the engine cannot say.
    pub disk: Option<Bytes>,
}

/// What a guest says of itself, by its agent or its engine. It says what it likes: for people, never for decisions.
/// What it does not say is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// When it said so, by the host's clock.
    pub seen_at: UnixMillis,
    /// Its own host name.
    pub hostname: Option<String>,
    /// Its operating system, as it calls itself.
    pub os: Option<String>,
    /// Its kernel's release.
    pub kernel: Option<String>,
    /// The addresses of its network cards, its own loopback left out.
    pub addresses: Option<Vec<IpAddr>>,
    /// Its mounted file systems.
    pub file_systems: Option<Vec<GuestFileSystem>>,
}

/// A file system mounted inside a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFileSystem {
    /// Where.
    pub mount: String,
    /// What kind, such as `ext4`.
    pub kind: String,
    /// Its size.
    pub size: Option<Bytes>,
    /// How much of it is in use.
    pub used: Option<Bytes>,
}

/// Addresses of one guest that are kept; a card has a few.
pub const GUEST_ADDRESSES_MAX: usize = 16;
/// File systems of one guest that are kept, so that a status of many guests fits into its frame.
pub const GUEST_FILE_SYSTEMS_MAX: usize = 16;

/// A guest on the host that CHOM did not make: reported, never touched unless it is adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignGuest {
    /// Its engine.
    pub engine: Engine,
    /// Its name there.
    pub name: String,
    /// What it does.
    pub state: VpsState,
    /// What it is made of; none where its engine could not say.
    pub hardware: Option<Box<Hardware>>,
}

/// What became of the VPSs and orders of one host, in order of id.
pub type VpsStatuses = BTreeMap<VpsId, VpsStatus>;
