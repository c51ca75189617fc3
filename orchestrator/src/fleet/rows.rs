//! What is stored: one type for each kind of row, its folder and its id. Values change shape only with a higher schema
//! number and an upgrade. Nothing here decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use chom_certs::{Fingerprint, Serial, TokenHash};
use chom_protocol::api::audit::{AuditResult, ChainEnd};
use chom_protocol::api::bulk::BulkAction;
use chom_protocol::api::hosts::{HostLimits, Labels};
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::tenants::Quota;
use chom_protocol::api::tokens::Role;
use chom_protocol::audit::BEGINNING;
use chom_protocol::host::HostStatus;
use chom_protocol::job::Job;
use chom_protocol::vps::{
    Engine, ImageFormat, ImageReference, Power, Sha256, Suspension, SuspensionReason, VpsSpec, VpsStatus,
};
use chom_protocol::{
    Bytes, EnrolmentId, HostId, JobId, Name, OperationId, SnapshotId, TokenId, UnixMillis, UserId, VpsId,
};
use serde::{Deserialize, Serialize};

use crate::store::seal::Sealed;

/// Where a host is in its life with the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStanding {
    /// Added; not enrolled yet.
    Invited,
    /// Part of the fleet.
    Member,
    /// Two machines use its key.
    Quarantined,
    /// Put out; may only report.
    Forgotten,
    /// Put out; its certificate opens nothing.
    Revoked,
}

/// The certificate that a host has now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// Its number.
    pub serial: Serial,
    /// The number of the CA that signed it.
    pub authority: u64,
    /// Of which key.
    pub key: Fingerprint,
    /// When it expires.
    pub not_after: UnixMillis,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its id.
    pub id: HostId,
    /// Its name in the fleet.
    pub name: Name,
    /// Where it stands.
    pub region: Name,
    /// Where it is in its life.
    pub standing: HostStanding,
    /// Whether it takes no new VPSs.
    pub cordoned: bool,
    /// What it is told apart by.
    pub labels: Labels,
    /// How much of it may be promised, where that is not as for the fleet.
    pub limits: HostLimits,
    /// The epoch that its desired state may be issued in; behind the store's after a restore, until what the host knows
    /// was compared.
    pub epoch: u64,
    /// The number of its generation: rises with every change of its desired state.
    pub number: u64,
    /// The certificate that it has now.
    pub certificate: Option<HostCertificate>,
    /// Until when the agent's cap on destroys is lifted.
    pub destroys_allowed_until: Option<UnixMillis>,
    /// When it was added.
    pub added_at: UnixMillis,
}

/// A single-use token with which one host may enrol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRow {
    /// Its id.
    pub id: EnrolmentId,
    /// The host that it makes.
    pub host: HostId,
    /// Hash of the token.
    pub token: TokenHash,
    /// When it expires.
    pub expires_at: UnixMillis,
    /// The key that enrolled with it.
    pub used_by: Option<Fingerprint>,
}

/// That a VPS was deleted and is kept for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// When it was deleted.
    pub deleted_at: UnixMillis,
    /// When it will be purged.
    pub purge_at: UnixMillis,
}

/// A VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsRow {
    /// As its host gets it.
    pub spec: VpsSpec,
    /// Where.
    pub region: Name,
    /// The size it was made with.
    pub size: Name,
    /// Its host.
    pub host: HostId,
    /// Its network.
    pub network: Name,
    /// The group of its tenant of which no two stand on one host.
    pub anti_affinity: Option<Name>,
    /// Set while it is deleted but kept.
    pub retention: Option<Retention>,
    /// Set once the order to remove it for good was given: the number of the host's generation that first carried it.
    /// The host has a tombstone until a pass that knew of it reports the VPS gone.
    pub purging: Option<u64>,
    /// Why it is suspended; `spec` has what follows from all of it.
    pub suspensions: BTreeMap<SuspensionReason, Suspended>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// What another system calls it.
    pub external_id: Option<String>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStage {
    /// The order to take it was given.
    Taking,
    /// Its host said that it was taken.
    Ready,
    /// The order to remove it was given.
    Deleting,
}

/// A snapshot of a VPS's disk. It goes with its VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// Its id.
    pub id: SnapshotId,
    /// Its name, unique within the VPS.
    pub name: Name,
    /// Of which VPS.
    pub vps: VpsId,
    /// How far it is.
    pub stage: SnapshotStage,
    /// Size of the disk when it was asked for.
    pub size: Bytes,
    /// The number of the host's generation from which on a report without it means that it is missing.
    pub number: u64,
    /// When it was asked for.
    pub created_at: UnixMillis,
}

/// One reason for which a VPS is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// What it asks for.
    pub mode: Suspension,
    /// Since when.
    pub since: UnixMillis,
}

/// That a name is taken within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsNameRow {
    /// Whose.
    pub tenant: Name,
    /// The name.
    pub name: Name,
    /// By which VPS.
    pub vps: VpsId,
}

/// A document that agents fetch, base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRow {
    /// Its digest.
    pub sha256: Sha256,
    /// Its bytes, base64 (RFC 4648).
    pub base64: String,
}

/// What an operation waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// The VPS runs, with this start counted.
    Running {
        /// The `start_count` that the host must have acted on.
        start_count: u64,
    },
    /// The VPS is off.
    Off,
    /// The VPS is on and halted.
    Paused,
    /// The VPS's disk is of this build.
    Rebuilt {
        /// The `build` that the host must report.
        build: u64,
        /// The `start_count` that it must have acted on; none if it stays off.
        start_count: Option<u64>,
    },
    /// The VPS is off its host, or was never there.
    Gone,
    /// The host has taken the new desired state.
    Accepted,
    /// The host has taken the new desired state and has nothing left to do for the VPS, but for what waits for its next
    /// start.
    Settled,
    /// A job's result.
    Job {
        /// Which.
        job: JobId,
    },
    /// The orchestrator has fetched an image into the catalogue.
    Fetched {
        /// Which.
        image: Name,
    },
    /// Each of many VPSs has been given an order, and what came of it is known.
    Bulk {
        /// The tenant whose caller gave it; none: a caller of the fleet.
        tenant: Option<Name>,
    },
}

/// What an operation that can be taken back goes back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// On, paused or off.
    pub power: Power,
    /// Whether it was held.
    pub hold: bool,
    /// Its name.
    pub name: Name,
    /// Its size.
    pub size: Name,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory: Bytes,
}

/// One line of an operation's trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: UnixMillis,
    /// What happened.
    pub message: String,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: String,
    /// Whose VPS.
    pub tenant: Name,
    /// Which VPS; none where it is about no VPS.
    pub vps: Option<VpsId>,
    /// On which host; none where the orchestrator does it.
    pub host: Option<HostId>,
    /// How far it is.
    pub state: OperationState,
    /// What it waits for.
    pub goal: Goal,
    /// The number of the host's generation that carries it.
    pub number: u64,
    /// What it goes back to when it is cancelled; none: it cannot be, or has ended.
    pub undo: Option<Undo>,
    /// Its trail.
    pub steps: Vec<Step>,
    /// Why it failed, or what it waits for.
    pub problem: Option<String>,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// When it ends at the latest.
    pub deadline: UnixMillis,
    /// When it ended.
    pub finished_at: Option<UnixMillis>,
}

/// An order on many VPSs. Its operation has the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkRow {
    /// Its operation.
    pub id: OperationId,
    /// Who gave it: each VPS's part is theirs in the audit trail.
    pub actor: String,
    /// What.
    pub action: BulkAction,
    /// Its words, JSON.
    pub parameters: Option<String>,
}

/// One VPS of an order on many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkItem {
    /// Which.
    pub vps: VpsId,
    /// Its name when it was chosen.
    pub name: Name,
    /// The operation on it; none: it was not begun with, or could not be.
    pub operation: Option<OperationId>,
    /// Why it could not be begun with.
    pub problem: Option<String>,
}

/// Some of the VPSs of an order on many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkChunkRow {
    /// Of which order.
    pub bulk: OperationId,
    /// Which part of its list, from 0.
    pub number: u32,
    /// The VPSs, in order.
    pub items: Vec<BulkItem>,
}

/// A job in a host's desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// The host that does it.
    pub host: HostId,
    /// What it does.
    pub job: Job,
    /// The operation that waits for it.
    pub operation: OperationId,
}

/// An image that was added; its file is in the state folder, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Its name.
    pub name: Name,
    /// Which version of what is in it.
    pub version: Option<String>,
    /// The engine that runs it.
    pub engine: Engine,
    /// Its layout.
    pub format: ImageFormat,
    /// Its content.
    pub sha256: Sha256,
    /// Size of the file.
    pub size: Bytes,
    /// Smallest disk that it fits on.
    pub minimum_disk: Bytes,
    /// The user that cloud-init makes in it.
    pub default_user: Option<String>,
    /// When it was added.
    pub added_at: UnixMillis,
}

/// An image that the orchestrator is fetching, or is going to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFetchRow {
    /// What it will be called.
    pub name: Name,
    /// Which version of what is in it.
    pub version: Option<String>,
    /// The engine that runs it.
    pub engine: Engine,
    /// Its layout.
    pub format: ImageFormat,
    /// Where it is.
    pub url: String,
    /// Its content.
    pub sha256: Sha256,
    /// Smallest disk that it fits on, where that was said.
    pub minimum_disk: Option<Bytes>,
    /// The user that cloud-init makes in it.
    pub default_user: Option<String>,
    /// The operation that it is.
    pub operation: OperationId,
}

/// The images that a host is to have before a VPS needs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchRow {
    /// Which host.
    pub host: HostId,
    /// Which images.
    pub images: BTreeMap<Name, Prefetched>,
}

/// An image that a host is to have before a VPS needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefetched {
    /// As the host gets it.
    pub image: ImageReference,
    /// Since when.
    pub since: UnixMillis,
}

/// An SSH key of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKeyRow {
    /// Whose.
    pub tenant: Name,
    /// What it is called.
    pub name: Name,
    /// The key, one line.
    pub key: String,
    /// When it was added.
    pub created_at: UnixMillis,
}

/// An API token; only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Its id.
    pub id: TokenId,
    /// What it is called in the audit trail.
    pub name: Name,
    /// SHA-256 of the token.
    pub hash: Sha256,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it expires.
    pub expires_at: Option<UnixMillis>,
    /// What its holder may do.
    pub role: Role,
    /// In which tenant; none: in the fleet.
    pub tenant: Option<Name>,
    /// With which VPS alone.
    pub vps: Option<VpsId>,
    /// When it was last used, a few minutes late.
    pub last_used_at: Option<UnixMillis>,
    /// Whose session it is; none: an API token that was made for no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Its name.
    pub name: Name,
    /// How much it may have.
    pub quota: Quota,
    /// What another system calls it.
    pub external_id: Option<String>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was deleted; the row keeps its name from being given again.
    pub deleted_at: Option<UnixMillis>,
}

/// The answer to a mutation, kept so that the same request with the same key gets it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRow {
    /// SHA-256 of caller and key.
    pub id: Sha256,
    /// SHA-256 of method, path and body.
    pub request: Sha256,
    /// The answer, JSON; sealed, because some answers hold what is shown once.
    pub answer: Sealed,
    /// When it may be forgotten.
    pub expires_at: UnixMillis,
}

/// Who did what to which row. Stays in the store until it stands in the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Counts up.
    pub sequence: u64,
    /// When.
    pub at: UnixMillis,
    /// Who: a token's name, or `chom` itself.
    pub actor: String,
    /// What, such as `vps.create`.
    pub action: String,
    /// To which row.
    pub target: String,
    /// With which token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The tenant of that token; none: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_tenant: Option<Name>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tenants whose rows it is about, and who are shown it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tenants: BTreeSet<Name>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "is_done")]
    pub result: AuditResult,
    /// How often.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u64,
    /// The operation that it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What became of the rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Changed>,
    /// How many more were changed.
    #[serde(default, skip_serializing_if = "is_none_left")]
    pub changes_left_out: u32,
}

/// What became of a row, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its place in the store.
    pub row: String,
    /// Whose it is; none: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// Those of its fields that were other before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

const fn once() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
const fn is_once(times: &u64) -> bool {
    *times == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_done(result: &AuditResult) -> bool {
    *result == AuditResult::Done
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
const fn is_none_left(count: &u32) -> bool {
    *count == 0
}

/// How far the audit log is; there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHeadRow {
    /// The newest entry in it.
    pub last: ChainEnd,
    /// The first entry of the segment that this one stands in; names its file.
    pub segment: u64,
    /// Where its line ends in that file.
    pub segment_bytes: u64,
    /// The newest entry that was dropped for its age.
    pub dropped: ChainEnd,
}

impl Default for AuditHeadRow {
    fn default() -> Self {
        let beginning = ChainEnd { sequence: 0, hash: BEGINNING };
        Self { last: beginning, segment: 1, segment_bytes: 0, dropped: beginning }
    }
}

/// A host as last seen, kept so that a restarted orchestrator knows what was there and how long ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRow {
    /// Which host.
    pub host: HostId,
    /// When it was seen, by the orchestrator's clock.
    pub seen_at: UnixMillis,
    /// What was seen, without its VPSs; none: it connected and said nothing yet.
    pub status: Option<HostStatus>,
}

/// A VPS as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedVpsRow {
    /// Which VPS.
    pub vps: VpsId,
    /// On which host.
    pub host: HostId,
    /// What was seen.
    pub status: VpsStatus,
}

/// A CA of the fleet. All are trusted; of those that may sign, the newest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRow {
    /// Counts up with each rotation.
    pub number: u64,
    /// When it was made, and announced to the agents.
    pub announced_at: UnixMillis,
    /// Since when it may sign; none: it is only announced.
    pub signs_since: Option<UnixMillis>,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, sealed.
    pub sealed_key: Sealed,
}
