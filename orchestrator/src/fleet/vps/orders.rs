//! Every order on a VPS that is there, with its words: given to one, or to each of many.

use chom_protocol::VpsId;
use chom_protocol::api::bulk::BulkAction;
use chom_protocol::api::vps_servers::{
    RebuildVps, ResizeVps, StopVps, SuspendVps, UnsuspendVps, VpsAccepted,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Action, apply, give, rebuild, resize, stop, suspend};
use crate::fleet::rows::{Goal, VpsRow};
use crate::fleet::{Decision, Fleet, FleetError, RequestMark};

/// An order and its words.
#[derive(Debug, Clone)]
pub(in crate::fleet) enum Order {
    /// One without words.
    Plain(Action),
    /// Switch it off.
    Stop(StopVps),
    /// Give it another size.
    Resize(ResizeVps),
    /// Make it anew.
    Rebuild(RebuildVps),
    /// Suspend it.
    Suspend(SuspendVps),
    /// End a reason.
    Unsuspend(UnsuspendVps),
}

impl Order {
    /// Reads the words of an order.
    ///
    /// # Errors
    /// When they are not those of this order.
    pub(in crate::fleet) fn read(action: BulkAction, words: Option<&Value>) -> Result<Self, FleetError> {
        Ok(match action {
            BulkAction::Stop => Self::Stop(parse(words)?),
            BulkAction::Resize => Self::Resize(parse(words)?),
            BulkAction::Rebuild => {
                let request = parse(words)?;
                rebuild::check(&request)?;
                Self::Rebuild(request)
            }
            BulkAction::Suspend => Self::Suspend(parse(words)?),
            BulkAction::Unsuspend => Self::Unsuspend(parse(words)?),
            BulkAction::Start => plain(Action::Start, words)?,
            BulkAction::Restart => plain(Action::Restart, words)?,
            BulkAction::Pause => plain(Action::Pause, words)?,
            BulkAction::Resume => plain(Action::Resume, words)?,
            BulkAction::Delete => plain(Action::Delete, words)?,
            BulkAction::Undelete => plain(Action::Undelete, words)?,
            BulkAction::Purge => plain(Action::Purge, words)?,
            BulkAction::Hold => plain(Action::Hold, words)?,
            BulkAction::Unhold => plain(Action::Unhold, words)?,
        })
    }

    const fn action(&self) -> Action {
        match self {
            Self::Plain(action) => *action,
            Self::Stop(_) => Action::Stop,
            Self::Resize(_) => Action::Resize,
            Self::Rebuild(_) => Action::Rebuild,
            Self::Suspend(_) => Action::Suspend,
            Self::Unsuspend(_) => Action::Unsuspend,
        }
    }

    /// Gives the order to a VPS.
    ///
    /// # Errors
    /// When there is no such VPS, or its state does not allow it.
    pub(in crate::fleet) fn give(
        self,
        fleet: &Fleet,
        decision: &mut Decision,
        mark: &RequestMark,
        vps: VpsId,
    ) -> Result<VpsAccepted, FleetError> {
        let action = self.action();
        give(fleet, decision, mark, vps, action, |fleet, decision, row| self.change(fleet, decision, row))
    }

    fn change(self, fleet: &Fleet, decision: &mut Decision, row: &mut VpsRow) -> Result<Goal, FleetError> {
        match self {
            Self::Plain(action) => apply(fleet, decision, row, action),
            Self::Stop(request) => stop::stop(row, request),
            Self::Resize(request) => resize::resize(fleet, decision, row, &request),
            Self::Rebuild(request) => rebuild::rebuild(fleet, decision, row, request),
            Self::Suspend(request) => Ok(suspend::suspend(decision, row, request)),
            Self::Unsuspend(request) => suspend::unsuspend(row, request),
        }
    }
}

fn plain(action: Action, words: Option<&Value>) -> Result<Order, FleetError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let Nothing {} = parse(words)?;
    Ok(Order::Plain(action))
}

fn parse<T: DeserializeOwned>(words: Option<&Value>) -> Result<T, FleetError> {
    let words = words.cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    T::deserialize(words).map_err(|error| FleetError::invalid("/parameters", error.to_string()))
}
