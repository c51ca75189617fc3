//! One order on many VPSs: chosen by a selector, begun one after the other, with a result for each.

use serde::{Deserialize, Serialize};

use crate::api::hosts::Labels;
use crate::id::{HostId, Name, OperationId, VpsId};
use crate::vps::VpsState;

/// Most VPSs of one order: their list is written in one commit.
pub const BULK_ITEMS_MAX: usize = 5000;
/// VPSs that a preview names.
pub const BULK_NAMES_MAX: usize = 20;

/// What can be ordered of many VPSs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// Switch them on.
    Start,
    /// Switch them off.
    Stop,
    /// Switch them off and on.
    Restart,
    /// Halt their processors.
    Pause,
    /// Let them go on.
    Resume,
    /// Give them another size.
    Resize,
    /// Make them anew from an image.
    Rebuild,
    /// Suspend them for a reason.
    Suspend,
    /// End a reason.
    Unsuspend,
    /// Delete them, kept for a while.
    Delete,
    /// Bring them back.
    Undelete,
    /// Remove them for good.
    Purge,
    /// Stop reconciling them.
    Hold,
    /// Reconcile them again.
    Unhold,
}

impl BulkAction {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Pause,
        Self::Resume,
        Self::Resize,
        Self::Rebuild,
        Self::Suspend,
        Self::Unsuspend,
        Self::Delete,
        Self::Undelete,
        Self::Purge,
        Self::Hold,
        Self::Unhold,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Resize => "resize",
            Self::Rebuild => "rebuild",
            Self::Suspend => "suspend",
            Self::Unsuspend => "unsuspend",
            Self::Delete => "delete",
            Self::Undelete => "undelete",
            Self::Purge => "purge",
            Self::Hold => "hold",
            Self::Unhold => "unhold",
        }
    }
}

/// Which VPSs: those that fit everything that is said. Deleted ones are taken by `undelete` and `purge` alone, which take no
/// others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct VpsSelector {
    /// All that the rest does not leave out; must be said where nothing else is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// One of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<VpsId>,
    /// Of this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// On this host, by its id or name. Not a tenant's to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// On hosts with all of these labels. Not a tenant's to say.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub host_labels: Labels,
    /// In this region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<Name>,
    /// In this state, as far as can be seen now; `unknown` is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<VpsState>,
    /// Of this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Name>,
    /// Made from this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Whose name begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
}

/// Orders something of many VPSs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkOrder {
    /// What.
    pub action: BulkAction,
    /// What the same order on one VPS says in its body; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub parameters: Option<serde_json::Value>,
    /// Of which.
    pub selector: VpsSelector,
    /// How many these are, as a preview said: with another number nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_count: Option<u32>,
}

/// What an order would be about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BulkPreview {
    /// What.
    pub action: BulkAction,
    /// How many VPSs.
    pub count: u32,
    /// The first of them, by age.
    pub names: Vec<Name>,
}

/// How far an order on many VPSs is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BulkCounts {
    /// How many VPSs it is about.
    pub count: u32,
    /// Not begun with.
    pub pending: u32,
    /// Begun and not ended.
    pub running: u32,
    /// Done.
    pub succeeded: u32,
    /// Ended without success.
    pub failed: u32,
}

/// How far one of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BulkItemState {
    /// Not begun with.
    Pending,
    /// Begun and not ended.
    Running,
    /// Done.
    Succeeded,
    /// Ended without success; `problem` says why.
    Failed,
}

/// One VPS of an order on many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BulkItemView {
    /// Its place in the order, from 0.
    pub place: u32,
    /// Which.
    pub vps: VpsId,
    /// Its name when it was chosen.
    pub name: Name,
    /// Its host; tenants are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// How far it is.
    pub state: BulkItemState,
    /// The operation on it, once it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
