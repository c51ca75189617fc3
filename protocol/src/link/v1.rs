//! Version 1 of the messages on the wire.

use crate::helper::{HelperReply, HelperRequest};
use crate::host::HostSpec;
use crate::link::codec::{DecodeError, EncodeError, FrameKind, Message, from_bytes, to_bytes};
use crate::link::{SpecBegin, SpecPart, ToAgent, ToOrchestrator};
use crate::vps::Sha256;

/// Target size of one part of a desired state: a quarter of a frame, so that one VPS more never overflows it.
pub const SPEC_PART_BYTES: usize = 256 * 1024;

macro_rules! plain {
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

plain! {
    ToOrchestrator => ToOrchestrator;
    ToAgent => ToAgent;
    HelperRequest => HelperRequest;
    HelperReply => HelperReply;
}

/// Digest of a whole desired state, the same on both sides.
#[must_use]
pub fn spec_digest(spec: &HostSpec) -> Sha256 {
    Sha256::of(&to_bytes(spec).unwrap_or_default())
}

/// A desired state in parts, each small enough for a frame, and the digest of the whole.
#[must_use]
pub fn spec_parts(spec: &HostSpec) -> (SpecBegin, Vec<SpecPart>, Sha256) {
    let items = spec.vps.len() + spec.tombstones.len() + spec.jobs.len();
    let begin = SpecBegin {
        host: spec.host,
        generation: spec.generation,
        settings: spec.settings.clone(),
        items: u32::try_from(items).unwrap_or(u32::MAX),
    };
    let mut parts = vec![SpecPart::default()];
    let mut bytes = 0;
    let mut part_for = |size: usize, parts: &mut Vec<SpecPart>| {
        bytes += size;
        if bytes > SPEC_PART_BYTES {
            bytes = size;
            parts.push(SpecPart::default());
        }
    };
    for vps in spec.vps.values() {
        part_for(to_bytes(vps).map_or(0, |b| b.len()), &mut parts);
        if let Some(part) = parts.last_mut() {
            part.vps.push(vps.clone());
        }
    }
    for (&id, &tombstone) in &spec.tombstones {
        part_for(64, &mut parts);
        if let Some(part) = parts.last_mut() {
            part.tombstones.push((id, tombstone));
        }
    }
    for (&id, job) in &spec.jobs {
        part_for(64, &mut parts);
        if let Some(part) = parts.last_mut() {
            part.jobs.push((id, job.clone()));
        }
    }
    (begin, parts, spec_digest(spec))
}
