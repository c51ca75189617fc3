//! What is told together, and when: Alertmanager's group_wait, group_interval and repeat_interval, with its order of
//! questions. Pure; its memory is the group's row. A group without anybody to tell is never counted as told.

use chom_protocol::api::alerts::AlertState;
use chom_protocol::{AlertId, UnixMillis};

use super::rows::{AlertRow, Group, GroupRow};

/// Alerts that one notification names; the rest is only counted, and is in the API. Their ids are within a stored value.
pub(crate) const ALERTS_PER_NOTIFICATION_MAX: usize = 200;

/// When groups are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSettings {
    /// What comes together within this time is told together.
    pub group_wait_seconds: u64,
    /// Between looks at one group.
    pub group_interval_seconds: u64,
    /// Between notifications of what still fires.
    pub repeat_interval_seconds: u64,
}

/// What a group has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// What fires.
    pub(crate) firing: Vec<AlertId>,
    /// What was told as firing and is over.
    pub(crate) resolved: Vec<AlertId>,
    /// How many fire in all.
    pub(crate) firing_count: usize,
    /// How many are over in all.
    pub(crate) resolved_count: usize,
}

/// What becomes of a group that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flush {
    /// What to tell now.
    pub(crate) news: Option<News>,
    /// Its row from now on; none: it is over.
    pub(crate) row: Option<GroupRow>,
}

/// A group that begins.
pub(crate) fn begin(settings: GroupSettings, group: Group, now: UnixMillis) -> GroupRow {
    GroupRow {
        group,
        next_flush_at: now.plus_seconds(settings.group_wait_seconds),
        last_sent_at: None,
        last_sent_firing: false,
        thread: None,
    }
}

/// Whether it is time to look at a group. A time further off than any interval is a clock that was set back.
pub(crate) fn is_due(settings: GroupSettings, row: &GroupRow, now: UnixMillis) -> bool {
    let longest = settings.group_wait_seconds.max(settings.group_interval_seconds);
    row.next_flush_at <= now || row.next_flush_at > now.plus_seconds(longest)
}

/// Looks at a group that is due. `alerts` are all of its alerts, in order of age; `reachable` says whether anybody can be
/// told.
pub(crate) fn flush<'r>(
    settings: GroupSettings,
    row: &GroupRow,
    alerts: impl Iterator<Item = &'r AlertRow>,
    reachable: bool,
    now: UnixMillis,
) -> Flush {
    let last = row.last_sent_at;
    let up_to = |at: Option<UnixMillis>| at.is_some_and(|at| last.is_some_and(|last| at <= last));
    let (mut firing, mut resolved, mut newly_firing) = (Vec::new(), Vec::new(), false);
    for alert in alerts {
        let was_told = up_to(alert.firing_since);
        match alert.state {
            AlertState::Firing => {
                newly_firing |= !was_told;
                firing.push(alert.id);
            }
            // Pending again after it resolved is over, too, until it fires.
            AlertState::Resolved | AlertState::Pending => {
                if was_told && alert.resolved_at.is_some() && !up_to(alert.resolved_at) {
                    resolved.push(alert.id);
                }
            }
        }
    }
    let told = needs_telling(settings, row, newly_firing, firing.len(), resolved.len(), now);
    if told && !reachable {
        // Nobody can be told: it stays due.
        return Flush { news: None, row: Some(row.clone()) };
    }
    let over = firing.is_empty() && (told || !row.last_sent_firing);
    let row = (!over).then(|| GroupRow {
        next_flush_at: now.plus_seconds(settings.group_interval_seconds),
        last_sent_at: if told { Some(last.map_or(now, |last| now.max(last))) } else { last },
        last_sent_firing: if told { !firing.is_empty() } else { row.last_sent_firing },
        ..row.clone()
    });
    let news = told.then(|| {
        let (firing_count, resolved_count) = (firing.len(), resolved.len());
        firing.truncate(ALERTS_PER_NOTIFICATION_MAX);
        resolved.truncate(ALERTS_PER_NOTIFICATION_MAX);
        News { firing, resolved, firing_count, resolved_count }
    });
    Flush { news, row }
}

/// Alertmanager's questions, in its order.
fn needs_telling(
    settings: GroupSettings,
    row: &GroupRow,
    newly_firing: bool,
    firing: usize,
    resolved: usize,
    now: UnixMillis,
) -> bool {
    match row.last_sent_at {
        None => firing > 0,
        Some(_) if newly_firing => true,
        Some(_) if firing == 0 => row.last_sent_firing,
        Some(_) if resolved > 0 => true,
        Some(last) => now.millis_since(last) >= settings.repeat_interval_seconds * 1000,
    }
}

#[cfg(test)]
mod tests;
