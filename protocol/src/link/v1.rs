//! Version 1 of the messages on the wire: types of its own, so that the domain's types can change without changing a
//! byte that a peer of another release reads.
//!
//! FROZEN with the first package. A wire type is never edited: no field is added, removed, retyped or moved, no variant
//! renumbered (bincode has no field names, and an old peer refuses what it does not expect). What is new comes as a new
//! variant at the end of `ToOrchestrator` or `ToAgent`, sent only to peers whose version knows it. Every conversion
//! takes its source apart field by field, so that a new field of the domain does not compile until somebody decided how
//! it crosses. `protocol/golden/v1` holds the bytes that every release must read (how
//! to add to them: `tests/wire/golden.rs`).
//!
//! What comes in is judged here, once: `DecodeError::Bad` names the field. What goes out is shortened where it is text for
//! people, and never otherwise.

mod foreign;
mod list;
mod message;
mod network;
mod sample;
mod spec;
mod status;
mod tunnel;
mod value;

use bincode::enc::write::{SizeWriter, Writer};
use serde::Serialize;

use crate::api::vps_servers::{SSH_KEY_BYTES_MAX, SSH_KEYS_MAX};
use crate::helper::{HelperReply, HelperRequest};
use crate::host::HostSpec;
use crate::link::codec::{
    DecodeError, EncodeError, FRAME_BYTES_MAX, FrameKind, Message, from_bytes, to_bytes,
};
use crate::link::tunnel::{TunnelReply, TunnelRequest};
use crate::link::{SpecBegin, SpecPart, ToAgent, ToOrchestrator};
use crate::vps::Sha256;

/// Target size of one part of a desired state: a quarter of a frame, so that few parts are needed and an agent holds
/// little beside what it assembles. A part is larger only if it is a single VPS.
pub const SPEC_PART_BYTES: usize = 256 * 1024;

// A single VPS of the API's limits fits into a frame: its keys, and 64 KiB for all the rest of it.
const _: () = assert!(SSH_KEYS_MAX * (SSH_KEY_BYTES_MAX + 3) + 64 * 1024 <= FRAME_BYTES_MAX);
const _: () = assert!(SPEC_PART_BYTES + PART_OVERHEAD_BYTES <= FRAME_BYTES_MAX);

/// What a part has besides its items: the message's number and three lengths, at their longest.
const PART_OVERHEAD_BYTES: usize = 5 + 3 * 9;

impl Message for ToOrchestrator {
    const KIND: FrameKind = FrameKind::ToOrchestrator;

    fn to_payload(&self) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = 0;
        for text_bytes_max in status::TEXT_BYTES_TRIES {
            let payload = to_bytes(&message::ToOrchestrator::new(self, text_bytes_max))?;
            bytes = payload.len();
            if bytes <= FRAME_BYTES_MAX {
                return Ok(payload);
            }
            if !matches!(self, Self::Status(_)) {
                break; // nothing else has texts that may go
            }
        }
        Err(EncodeError::Large { bytes })
    }

    fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
        from_bytes::<message::ToOrchestrator>(payload)?.try_into()
    }
}

impl Message for ToAgent {
    const KIND: FrameKind = FrameKind::ToAgent;

    fn to_payload(&self) -> Result<Vec<u8>, EncodeError> {
        to_bytes(&message::ToAgent::from(self))
    }

    fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
        from_bytes::<message::ToAgent>(payload)?.try_into()
    }
}

impl Message for TunnelRequest {
    const KIND: FrameKind = FrameKind::TunnelRequest;

    fn to_payload(&self) -> Result<Vec<u8>, EncodeError> {
        to_bytes(&tunnel::TunnelRequest::from(self))
    }

    fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
        from_bytes::<tunnel::TunnelRequest>(payload)?.try_into()
    }
}

impl Message for TunnelReply {
    const KIND: FrameKind = FrameKind::TunnelReply;

    fn to_payload(&self) -> Result<Vec<u8>, EncodeError> {
        to_bytes(&tunnel::TunnelReply::from(self))
    }

    fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
        from_bytes::<tunnel::TunnelReply>(payload).map(Into::into)
    }
}

/// The helper contract is not frozen: both sides are of one release, and `Hello` refuses any other.
macro_rules! of_one_release {
    ($($message:ty => $kind:ident;)*) => {$(
        impl Message for $message {
            const KIND: FrameKind = FrameKind::$kind;

            fn to_payload(&self) -> Result<Vec<u8>, EncodeError> {
                to_bytes(self)
            }

            fn from_payload(payload: &[u8]) -> Result<Self, DecodeError> {
                from_bytes(payload)
            }
        }
    )*};
}

of_one_release! {
    HelperRequest => HelperRequest;
    HelperReply => HelperReply;
}

/// Digest of a whole desired state, the same on both sides: the SHA-256 of its v1 `SpecBegin`, the numbers of its VPSs,
/// tombstones, jobs and images to prefetch, and then each of them in order of id or name.
#[must_use]
pub fn spec_digest(spec: &HostSpec) -> Sha256 {
    let HostSpec { host: _, generation: _, settings: _, vps, tombstones, jobs, prefetch } = spec;
    let mut digest = DigestWriter(ring::digest::Context::new(&ring::digest::SHA256));
    write(&spec::SpecBegin::from(&begin(spec)), &mut digest);
    let counts = [vps.len(), tombstones.len(), jobs.len(), prefetch.len()];
    write(&counts.map(|count| count as u64), &mut digest);
    vps.values().for_each(|vps| write(&spec::Vps::from(vps), &mut digest));
    tombstones.iter().for_each(|(&id, t)| write(&spec::tombstone_item(id, t), &mut digest));
    jobs.iter().for_each(|(&id, job)| write(&spec::job_item(id, job), &mut digest));
    prefetch.values().for_each(|image| write(&spec::Image::from(image), &mut digest));
    let mut out = [0; 32];
    out.copy_from_slice(digest.0.finish().as_ref());
    Sha256(out)
}

/// A desired state in parts, each small enough for a frame, and the digest of the whole.
///
/// A single VPS that is larger than a frame alone (the API's limits forbid it) makes a part that `codec::encode` refuses.
#[must_use]
pub fn spec_parts(spec: &HostSpec) -> (SpecBegin, Vec<SpecPart>, Sha256) {
    let mut parts = Parts::default();
    for vps in spec.vps.values() {
        parts.room_for(size(&spec::Vps::from(vps))).vps.push(vps.clone());
    }
    for (&id, &tombstone) in &spec.tombstones {
        let bytes = size(&spec::tombstone_item(id, &tombstone));
        parts.room_for(bytes).tombstones.push((id, tombstone));
    }
    for (&id, job) in &spec.jobs {
        parts.room_for(size(&spec::job_item(id, job))).jobs.push((id, job.clone()));
    }
    for image in spec.prefetch.values() {
        parts.room_for(size(&spec::Image::from(image))).prefetch.push(image.clone());
    }
    (begin(spec), parts.finish(), spec_digest(spec))
}

fn begin(spec: &HostSpec) -> SpecBegin {
    let HostSpec { host, generation, settings, vps, tombstones, jobs, prefetch } = spec;
    let items = vps.len() + tombstones.len() + jobs.len() + prefetch.len();
    SpecBegin {
        host: *host,
        generation: *generation,
        settings: settings.clone(),
        items: u32::try_from(items).unwrap_or(u32::MAX),
    }
}

/// Parts as they fill.
#[derive(Default)]
struct Parts {
    full: Vec<SpecPart>,
    filling: SpecPart,
    filling_bytes: usize,
}

impl Parts {
    /// The part that an item of this size goes into.
    fn room_for(&mut self, item_bytes: usize) -> &mut SpecPart {
        if self.filling_bytes > 0 && self.filling_bytes + item_bytes > SPEC_PART_BYTES {
            self.full.push(std::mem::take(&mut self.filling));
            self.filling_bytes = 0;
        }
        self.filling_bytes += item_bytes;
        &mut self.filling
    }

    /// All of them; at least one, empty where there is no item.
    fn finish(mut self) -> Vec<SpecPart> {
        self.full.push(self.filling);
        self.full
    }
}

/// How many bytes a wire value takes.
fn size<T: Serialize>(value: &T) -> usize {
    let mut size = SizeWriter::default();
    write(value, &mut size);
    size.bytes_written
}

/// Writes a wire value to where writing cannot fail.
#[expect(
    clippy::expect_used,
    reason = "bincode fails to encode only where its writer fails, a sequence has no length, or a Serialize of ours \
              says so: these writers take everything, and the v1 spec types are plain structs, enums and vectors"
)]
fn write<T: Serialize, W: Writer>(value: &T, to: &mut W) {
    bincode::serde::encode_into_writer(value, to, bincode::config::standard())
        .expect("v1 spec types can always be encoded");
}

/// A digest that bincode can write into; it takes everything.
struct DigestWriter(ring::digest::Context);

impl Writer for DigestWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.update(bytes);
        Ok(())
    }
}
