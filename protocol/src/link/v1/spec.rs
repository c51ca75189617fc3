//! Desired state on the wire. FROZEN: see `v1`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::foreign::Adopted;
use super::list::List;
use super::network::Interface;
use super::value::{self, Id, Within, bad};
use crate::api::vps_servers::check_ssh_key;
use crate::host;
use crate::id::{HostId, JobId, SnapshotId, VpsId};
use crate::job;
use crate::link::codec::DecodeError;
use crate::link::{self, SPEC_ITEMS_MAX};
use crate::units::{Bytes, UnixMillis};
use crate::vps::{self, Sha256};

/// A bound of memory, not of the product (the API has that).
const SSH_KEYS_MAX: usize = 256;
const ITEMS_MAX: usize = SPEC_ITEMS_MAX as usize;

/// Longest pause between reports or passes; a host that is silent for longer than a day is not managed.
const INTERVAL_SECONDS_MAX: u32 = 24 * 60 * 60;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SpecBegin {
    host: Id,
    generation: value::Generation,
    settings: AgentSettings,
    items: u32,
}

impl From<&link::SpecBegin> for SpecBegin {
    fn from(begin: &link::SpecBegin) -> Self {
        let link::SpecBegin { host, generation, settings, items } = begin;
        Self {
            host: host.uuid().into_bytes(),
            generation: (*generation).into(),
            settings: settings.into(),
            items: *items,
        }
    }
}

impl TryFrom<SpecBegin> for link::SpecBegin {
    type Error = DecodeError;

    fn try_from(begin: SpecBegin) -> Result<Self, DecodeError> {
        let SpecBegin { host, generation, settings, items } = begin;
        Ok(Self {
            host: HostId::new(Uuid::from_bytes(host)),
            generation: generation.into(),
            settings: host::AgentSettings::try_from(settings).within("settings")?,
            items,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct AgentSettings {
    report_interval_seconds: u32,
    reconcile_interval_seconds: u32,
    stop_grace_seconds: u32,
    destroys_allowed_until: Option<u64>,
}

impl From<&host::AgentSettings> for AgentSettings {
    fn from(settings: &host::AgentSettings) -> Self {
        let host::AgentSettings {
            report_interval_seconds,
            reconcile_interval_seconds,
            stop_grace_seconds,
            destroys_allowed_until,
        } = settings;
        Self {
            report_interval_seconds: *report_interval_seconds,
            reconcile_interval_seconds: *reconcile_interval_seconds,
            stop_grace_seconds: *stop_grace_seconds,
            destroys_allowed_until: destroys_allowed_until.map(|UnixMillis(millis)| millis),
        }
    }
}

impl TryFrom<AgentSettings> for host::AgentSettings {
    type Error = DecodeError;

    fn try_from(settings: AgentSettings) -> Result<Self, DecodeError> {
        let AgentSettings {
            report_interval_seconds,
            reconcile_interval_seconds,
            stop_grace_seconds,
            destroys_allowed_until,
        } = settings;
        Ok(Self {
            report_interval_seconds: interval("report_interval_seconds", report_interval_seconds)?,
            reconcile_interval_seconds: interval("reconcile_interval_seconds", reconcile_interval_seconds)?,
            stop_grace_seconds,
            destroys_allowed_until: destroys_allowed_until.map(UnixMillis),
        })
    }
}

/// A pause between rounds; none at all would keep the agent busy for ever.
fn interval(field: &str, seconds: u32) -> Result<u32, DecodeError> {
    if (1..=INTERVAL_SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(bad(field, format_args!("{seconds} is not between 1 and {INTERVAL_SECONDS_MAX}")))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SpecPart {
    vps: List<Vps, ITEMS_MAX>,
    tombstones: List<(Id, Tombstone), ITEMS_MAX>,
    jobs: List<(Id, Job), ITEMS_MAX>,
    prefetch: List<Image, ITEMS_MAX>,
}

impl From<&link::SpecPart> for SpecPart {
    fn from(part: &link::SpecPart) -> Self {
        let link::SpecPart { vps, tombstones, jobs, prefetch } = part;
        Self {
            vps: vps.iter().map(Vps::from).collect(),
            tombstones: tombstones.iter().map(|(id, t)| tombstone_item(*id, t)).collect(),
            jobs: jobs.iter().map(|(id, job)| job_item(*id, job)).collect(),
            prefetch: prefetch.iter().map(Image::from).collect(),
        }
    }
}

pub(super) fn tombstone_item(id: VpsId, tombstone: &vps::Tombstone) -> (Id, Tombstone) {
    (id.uuid().into_bytes(), Tombstone::from(tombstone))
}

pub(super) fn job_item(id: JobId, job: &job::Job) -> (Id, Job) {
    (id.uuid().into_bytes(), Job::from(job))
}

impl TryFrom<SpecPart> for link::SpecPart {
    type Error = DecodeError;

    fn try_from(part: SpecPart) -> Result<Self, DecodeError> {
        let SpecPart { vps, tombstones, jobs, prefetch } = part;
        // Not collected: a collection of results cannot know how many will come, and grows to twice the room.
        let mut specs = Vec::with_capacity(vps.0.len());
        for vps in vps.0 {
            let id = VpsId::new(Uuid::from_bytes(vps.id));
            specs.push(vps::VpsSpec::try_from(vps).within(format_args!("VPS {id}"))?);
        }
        Ok(Self {
            vps: specs,
            tombstones: tombstones
                .0
                .into_iter()
                .map(|(id, tombstone)| (VpsId::new(Uuid::from_bytes(id)), tombstone.into()))
                .collect(),
            jobs: jobs
                .0
                .into_iter()
                .map(|(id, job)| (JobId::new(Uuid::from_bytes(id)), job.into()))
                .collect(),
            prefetch: prefetch
                .0
                .into_iter()
                .map(vps::ImageReference::try_from)
                .collect::<Result<_, DecodeError>>()
                .within("prefetch")?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tombstone {
    placement: u64,
    engine: Engine,
    created_at: u64,
}

impl From<&vps::Tombstone> for Tombstone {
    fn from(tombstone: &vps::Tombstone) -> Self {
        let vps::Tombstone { placement, engine, created_at } = tombstone;
        Self { placement: *placement, engine: (*engine).into(), created_at: created_at.0 }
    }
}

impl From<Tombstone> for vps::Tombstone {
    fn from(tombstone: Tombstone) -> Self {
        let Tombstone { placement, engine, created_at } = tombstone;
        Self { placement, engine: engine.into(), created_at: UnixMillis(created_at) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    kind: JobKind,
    deadline: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum JobKind {
    Restart { vps: Id },
    TakeSnapshot { vps: Id, snapshot: Id },
    RestoreSnapshot { vps: Id, snapshot: Id },
    DeleteSnapshot { vps: Id, snapshot: Id },
}

impl From<&job::Job> for Job {
    fn from(job: &job::Job) -> Self {
        let job::Job { kind, deadline } = job;
        let (vps, bytes) =
            (kind.vps().uuid().into_bytes(), |snapshot: &SnapshotId| snapshot.uuid().into_bytes());
        let kind = match kind {
            job::JobKind::Restart { vps: _ } => JobKind::Restart { vps },
            job::JobKind::TakeSnapshot { vps: _, snapshot } => {
                JobKind::TakeSnapshot { vps, snapshot: bytes(snapshot) }
            }
            job::JobKind::RestoreSnapshot { vps: _, snapshot } => {
                JobKind::RestoreSnapshot { vps, snapshot: bytes(snapshot) }
            }
            job::JobKind::DeleteSnapshot { vps: _, snapshot } => {
                JobKind::DeleteSnapshot { vps, snapshot: bytes(snapshot) }
            }
        };
        Self { kind, deadline: deadline.0 }
    }
}

impl From<Job> for job::Job {
    fn from(job: Job) -> Self {
        let Job { kind, deadline } = job;
        let of = |vps| VpsId::new(Uuid::from_bytes(vps));
        let kind = match kind {
            JobKind::Restart { vps } => job::JobKind::Restart { vps: of(vps) },
            JobKind::TakeSnapshot { vps, snapshot } => {
                job::JobKind::TakeSnapshot { vps: of(vps), snapshot: snapshot_id(snapshot) }
            }
            JobKind::RestoreSnapshot { vps, snapshot } => {
                job::JobKind::RestoreSnapshot { vps: of(vps), snapshot: snapshot_id(snapshot) }
            }
            JobKind::DeleteSnapshot { vps, snapshot } => {
                job::JobKind::DeleteSnapshot { vps: of(vps), snapshot: snapshot_id(snapshot) }
            }
        };
        Self { kind, deadline: UnixMillis(deadline) }
    }
}

pub(super) fn snapshot_id(id: Id) -> SnapshotId {
    SnapshotId::new(Uuid::from_bytes(id))
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Vps {
    id: Id,
    tenant: String,
    name: String,
    placement: u64,
    engine: Engine,
    power: Power,
    guest_shutdown: GuestShutdown,
    hold: bool,
    retained: bool,
    start_count: u64,
    build: u64,
    suspension: Option<Suspension>,
    stop_grace_seconds: Option<u32>,
    cores: u32,
    memory: u64,
    disk: u64,
    image: Option<Image>,
    interface: Interface,
    ssh_keys: List<String, SSH_KEYS_MAX>,
    user_data: Option<Blob>,
    // Boxed: few have them, and a frame may bring thousands of VPSs. The bytes are the same.
    source: Option<Box<CloneSource>>,
    rescue: Option<Box<Image>>,
    iso: Option<Box<IsoMedium>>,
    adopted: Option<Box<Adopted>>,
}

impl From<&vps::VpsSpec> for Vps {
    fn from(spec: &vps::VpsSpec) -> Self {
        let vps::VpsSpec {
            id,
            tenant,
            name,
            placement,
            engine,
            power,
            guest_shutdown,
            hold,
            retained,
            start_count,
            build,
            suspension,
            stop_grace_seconds,
            cores,
            memory,
            disk,
            image,
            interface,
            ssh_keys,
            user_data,
            source,
            rescue,
            iso,
            adopted,
        } = spec;
        Self {
            id: id.uuid().into_bytes(),
            tenant: tenant.as_str().to_owned(),
            name: name.as_str().to_owned(),
            placement: *placement,
            engine: (*engine).into(),
            power: (*power).into(),
            guest_shutdown: (*guest_shutdown).into(),
            hold: *hold,
            retained: *retained,
            start_count: *start_count,
            build: *build,
            suspension: suspension.map(Into::into),
            stop_grace_seconds: *stop_grace_seconds,
            cores: *cores,
            memory: memory.0,
            disk: disk.0,
            image: image.as_ref().map(Image::from),
            interface: interface.into(),
            ssh_keys: ssh_keys.iter().cloned().collect(),
            user_data: user_data.as_ref().map(Blob::from),
            source: source.as_ref().map(|source| Box::new(source.into())),
            rescue: rescue.as_ref().map(|image| Box::new(image.into())),
            iso: iso.as_ref().map(|medium| Box::new(medium.into())),
            adopted: adopted.as_ref().map(|adopted| Box::new((&**adopted).into())),
        }
    }
}

impl TryFrom<Vps> for vps::VpsSpec {
    type Error = DecodeError;

    fn try_from(spec: Vps) -> Result<Self, DecodeError> {
        let Vps {
            id,
            tenant,
            name,
            placement,
            engine,
            power,
            guest_shutdown,
            hold,
            retained,
            start_count,
            build,
            suspension,
            stop_grace_seconds,
            cores,
            memory,
            disk,
            image,
            interface,
            ssh_keys: List(ssh_keys),
            user_data,
            source,
            rescue,
            iso,
            adopted,
        } = spec;
        for key in &ssh_keys {
            check_ssh_key(key).map_err(|error| bad("ssh_keys", error))?;
        }
        Ok(Self {
            id: VpsId::new(Uuid::from_bytes(id)),
            tenant: value::name("tenant", tenant)?,
            name: value::name("name", name)?,
            placement,
            engine: engine.into(),
            power: power.into(),
            guest_shutdown: guest_shutdown.into(),
            hold,
            retained,
            start_count,
            build,
            suspension: suspension.map(Into::into),
            stop_grace_seconds,
            cores,
            memory: Bytes(memory),
            disk: Bytes(disk),
            image: image.map(vps::ImageReference::try_from).transpose().within("image")?,
            interface: vps::NetworkInterface::try_from(interface).within("interface")?,
            ssh_keys,
            user_data: user_data.map(Into::into),
            source: source.map(|source| (*source).into()),
            rescue: rescue.map(|image| vps::ImageReference::try_from(*image)).transpose().within("rescue")?,
            iso: iso.map(|medium| vps::IsoMedium::try_from(*medium)).transpose().within("iso")?,
            adopted: adopted.map(|adopted| Box::new((*adopted).into())),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct CloneSource {
    vps: Id,
    snapshot: Option<Id>,
}

impl From<&vps::CloneSource> for CloneSource {
    fn from(source: &vps::CloneSource) -> Self {
        let vps::CloneSource { vps, snapshot } = source;
        Self { vps: vps.uuid().into_bytes(), snapshot: snapshot.map(|id| id.uuid().into_bytes()) }
    }
}

impl From<CloneSource> for vps::CloneSource {
    fn from(source: CloneSource) -> Self {
        let CloneSource { vps, snapshot } = source;
        Self { vps: VpsId::new(Uuid::from_bytes(vps)), snapshot: snapshot.map(snapshot_id) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct IsoMedium {
    image: Image,
    boot_first: bool,
}

impl From<&vps::IsoMedium> for IsoMedium {
    fn from(medium: &vps::IsoMedium) -> Self {
        let vps::IsoMedium { image, boot_first } = medium;
        Self { image: image.into(), boot_first: *boot_first }
    }
}

impl TryFrom<IsoMedium> for vps::IsoMedium {
    type Error = DecodeError;

    fn try_from(medium: IsoMedium) -> Result<Self, DecodeError> {
        let IsoMedium { image, boot_first } = medium;
        Ok(Self { image: image.try_into()?, boot_first })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Image {
    name: String,
    sha256: [u8; 32],
    size: u64,
    format: ImageFormat,
}

impl From<&vps::ImageReference> for Image {
    fn from(image: &vps::ImageReference) -> Self {
        let vps::ImageReference { name, sha256, size, format } = image;
        Self { name: name.as_str().to_owned(), sha256: sha256.0, size: size.0, format: (*format).into() }
    }
}

impl TryFrom<Image> for vps::ImageReference {
    type Error = DecodeError;

    fn try_from(image: Image) -> Result<Self, DecodeError> {
        let Image { name, sha256, size, format } = image;
        Ok(Self {
            name: value::name("name", name)?,
            sha256: Sha256(sha256),
            size: Bytes(size),
            format: format.into(),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Blob {
    sha256: [u8; 32],
    size: u64,
}

impl From<&vps::BlobReference> for Blob {
    fn from(blob: &vps::BlobReference) -> Self {
        let vps::BlobReference { sha256, size } = blob;
        Self { sha256: sha256.0, size: size.0 }
    }
}

impl From<Blob> for vps::BlobReference {
    fn from(blob: Blob) -> Self {
        let Blob { sha256, size } = blob;
        Self { sha256: Sha256(sha256), size: Bytes(size) }
    }
}

/// An enum of the wire and its twin in the domain: the same variants, each named once in both directions.
macro_rules! twin {
    ($($wire:ident = $domain:path { $($variant:ident),* })*) => {$(
        #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
        pub(super) enum $wire { $($variant),* }

        impl From<$domain> for $wire {
            fn from(domain: $domain) -> Self {
                use $domain as Domain;
                match domain { $(Domain::$variant => Self::$variant),* }
            }
        }

        impl From<$wire> for $domain {
            fn from(wire: $wire) -> Self {
                match wire { $($wire::$variant => Self::$variant),* }
            }
        }
    )*};
}
pub(super) use twin;

// The order of the variants is their number on the wire: add at the end only.
twin! {
    Engine = vps::Engine { Libvirt, Fake, Incus }
    Power = vps::Power { Running, Stopped, Paused }
    Suspension = vps::Suspension { Isolated, Stopped }
    GuestShutdown = vps::GuestShutdown { StayOff, Restart }
    ImageFormat = vps::ImageFormat { Qcow2, Raw, IncusTarball, Iso }
}
