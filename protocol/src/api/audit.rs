//! The audit trail as the API shows it: who did what to which row, from where, with which token, and why.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::{Name, OperationId, TokenId};
use crate::vps::Sha256;

/// The header in which a request says why it is made.
pub const REASON_HEADER: &str = "x-chom-reason";
/// Most characters of a reason; a sentence and a ticket's number.
pub const REASON_CHARACTERS_MAX: usize = 300;

/// What is wrong with a reason; none if nothing is.
#[must_use]
pub fn reason_problem(text: &str) -> Option<String> {
    let fits = (1..=REASON_CHARACTERS_MAX).contains(&text.chars().count());
    (!fits || text.chars().any(char::is_control) || text.trim() != text).then(|| {
        format!("a reason has 1 to {REASON_CHARACTERS_MAX} characters, none of them a control character, and no blanks around it")
    })
}

/// How it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuditResult {
    /// It was done, and is durable.
    #[default]
    Done,
    /// It was refused for want of a good token, of a permission, or because the row is another tenant's.
    Denied,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditChange {
    /// Its kind and id, such as `vps/0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e`.
    pub row: String,
    /// Those of its fields that were other before; absent for a row that was made, or whose content is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What they are now; absent for a row that was removed, or whose content is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

/// An entry of the audit trail. A tenant is shown what was done to its rows; of what the fleet's own people and tokens did
/// it is not told who, from where and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number; counts up without a gap. A tenant sees only some of them.
    pub sequence: u64,
    /// When, RFC 3339.
    pub at: String,
    /// Who: the name of a token, `chom` for the orchestrator itself, `provider` for the fleet's people (where a tenant reads).
    pub actor: String,
    /// With which token.
    pub token: Option<TokenId>,
    /// From which address.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// What, such as `vps.stop`; the part before the dot is the kind of row.
    pub action: String,
    /// To which row; for what was denied, the method and path that were asked for.
    pub target: String,
    /// The tenants whose rows it is about.
    pub tenants: BTreeSet<Name>,
    /// Why, in the words of the header `X-Chom-Reason`.
    pub reason: Option<String>,
    /// How it ended.
    pub result: AuditResult,
    /// How often; more than once only for denied requests, which are counted by token and address.
    pub times: u64,
    /// The operation that it began.
    pub operation: Option<OperationId>,
    /// What became of the rows, without secrets.
    pub changes: Vec<AuditChange>,
    /// How many more rows were changed than there was room to note.
    pub changes_left_out: u32,
}

/// A place in the chain of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChainEnd {
    /// The number of an entry.
    pub sequence: u64,
    /// Its hash.
    pub hash: Sha256,
}

/// A piece of the audit log as it stands on disk, oldest first, with what the store says of both of its ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditChain {
    /// The entry before the oldest one that is kept.
    pub before: ChainEnd,
    /// The newest entry.
    pub last: ChainEnd,
    /// The lines. The hash of one is the SHA-256 of the hash before it, a newline, and the text of its `entry`.
    pub lines: Vec<String>,
    /// `?cursor=` of the next piece; none on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
