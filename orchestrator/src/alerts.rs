//! Alerts: looks at the fleet every second, and writes what follows — rows of alerts and of mails — in one commit. Each pass
//! looks anew; the next pass is the retry. What fires, resolves and is told is decided purely, in `rules` and `grouping`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::api::alerts::{AlertState, AlertView};
use chom_protocol::api::events::Event;
use chom_protocol::{AlertId, HostId, UnixMillis};
use chom_supervise::aside;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::api::InUse;
use crate::clock::{self, rfc3339};
use crate::config::Config;
use crate::fleet::observed::Snapshot;
use crate::fleet::state::State;
use crate::fleet::{Decision, Fleet, FleetError};
use crate::history::History;
use crate::notify::outbox;
use crate::notify::rows::{NotificationRow, SmtpRow, THE_SERVER};
use crate::notify::webhook::event::Telling;

pub(crate) mod facts;
pub(crate) mod grouping;
pub mod rows;
pub(crate) mod rules;

pub use facts::WatchedCertificate;
pub use grouping::GroupSettings;
pub use rules::{RuleSettings, Threshold};

use facts::{AllLevels, Facts, Sources};
use rows::{AlertRow, Group, GroupRow};
use rules::Transition;

/// Between looks at the fleet: what an alert may be late by.
const PASS: Duration = Duration::from_secs(1);
/// Alerts that one commit changes, groups that it tells of (two changes each and one for a new one) and old rows that it
/// drops: all together within a commit's 128 changes.
const ALERTS_PER_COMMIT_MAX: usize = 72;
/// Rows of the journal that they fill: what each tells takes up to 6 KiB, and goes out twice when it is about a quota.
const JOURNAL_ROWS_PER_COMMIT_MAX: usize = 20;
const GROUPS_PER_COMMIT_MAX: usize = 10;
const DROPPED_PER_COMMIT_MAX: usize = 16;
const _: () = assert!(
    ALERTS_PER_COMMIT_MAX + JOURNAL_ROWS_PER_COMMIT_MAX + 2 * GROUPS_PER_COMMIT_MAX + DROPPED_PER_COMMIT_MAX
        <= 128
);
/// Commits of one pass, so that a storm does not hold up mutations; the next pass goes on.
const COMMITS_PER_PASS_MAX: usize = 32;
/// How long a resolved alert can be looked up; longer than its mail is tried.
const RESOLVED_KEPT_SECONDS: u64 = 7 * 24 * 3600;
/// Resolved alerts that are kept at most; about 1 KiB each.
const RESOLVED_KEPT_MAX: usize = 5000;

/// What alerting goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertingSettings {
    /// When rules fire.
    pub rules: RuleSettings,
    /// When groups are told.
    pub groups: GroupSettings,
    /// After a start, nothing fires or resolves for want of reconnected hosts for so long.
    pub grace_seconds: u64,
}

impl AlertingSettings {
    /// As configured.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let alerts = &config.alerts;
        Self {
            rules: RuleSettings {
                for_seconds: alerts.for_seconds.into(),
                disk: Threshold { fire: alerts.disk_ratio, clear: alerts.disk_clear_ratio },
                inodes: Threshold { fire: alerts.inodes_ratio, clear: alerts.inodes_clear_ratio },
                memory: Threshold { fire: alerts.memory_ratio, clear: alerts.memory_clear_ratio },
                certificate_days: alerts.certificate_days.into(),
                fleet_share: alerts.fleet_share_ratio,
            },
            groups: GroupSettings {
                group_wait_seconds: alerts.group_wait_seconds.into(),
                group_interval_seconds: alerts.group_interval_seconds.into(),
                repeat_interval_seconds: alerts.repeat_interval_seconds.into(),
            },
            grace_seconds: config.grace_seconds.into(),
        }
    }
}

/// Watches a fleet. Clones are handles to the same.
#[derive(Clone)]
pub struct Alerting {
    fleet: Fleet,
    history: Arc<History>,
    settings: Arc<AlertingSettings>,
    /// Of the API, watched besides those of hosts and of the fleet's CA.
    certificate: Option<watch::Receiver<Arc<InUse>>>,
}

/// Everything a pass looks at besides rows.
#[derive(Clone)]
struct Seen {
    observations: Snapshot,
    levels: Arc<AllLevels>,
    certificates: Vec<WatchedCertificate>,
}

impl Alerting {
    /// For one fleet; the API's certificate is watched besides those of hosts and the fleet's CA.
    #[must_use]
    pub fn new(
        fleet: Fleet,
        history: Arc<History>,
        settings: AlertingSettings,
        certificate: Option<watch::Receiver<Arc<InUse>>>,
    ) -> Self {
        Self { fleet, history, settings: Arc::new(settings), certificate }
    }

    /// Watches until stopped.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PASS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.pass().await {
                tracing::error!(%error, "cannot store what alerts follow; the next pass tries again");
            }
        }
    }

    /// One look, and what follows.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn pass(&self) -> Result<(), FleetError> {
        for _ in 0..COMMITS_PER_PASS_MAX {
            let alerting = self.clone();
            let Some(seen) = aside(move || alerting.look_for_work()).await else { return Ok(()) };
            let alerting = self.clone();
            // Decided anew on the newest state: what was found on the snapshot was only the reason to ask.
            let decide = move |decision: &mut Decision| {
                let work = Work::find(&alerting, &decision.state, &seen, decision.now);
                work.carry_out(&alerting, decision)
            };
            let (more, _) = self.fleet.decide("chom".into(), decide).await?;
            if !more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What was seen, if anything follows from it.
    fn look_for_work(&self) -> Option<Seen> {
        let (state, now) = (self.fleet.state(), clock::now());
        let seen = self.look(&state, now);
        let is_idle = Work::find(self, &state, &seen, now).is_empty();
        (!is_idle).then_some(seen)
    }

    fn look(&self, state: &State, now: UnixMillis) -> Seen {
        let of_host = |id: &HostId| Some((*id, self.history.levels(*id, now)?));
        let levels = state.hosts.keys().filter_map(of_host).collect();
        let watched = |name: &str, not_after| WatchedCertificate { name: name.to_owned(), not_after };
        let of_api = self.certificate.as_ref().map(|in_use| in_use.borrow().not_after);
        let mut certificates: Vec<_> =
            of_api.into_iter().map(|end| watched("certificate of the API", end)).collect();
        let end = self.fleet.authorities().serving().not_after();
        certificates.push(watched("certificate of the fleet's CA", end));
        Seen { observations: self.fleet.observations().snapshot(), levels: Arc::new(levels), certificates }
    }

    fn facts<'a>(&self, state: &'a State, seen: &'a Seen, now: UnixMillis) -> Facts<'a> {
        let sources = Sources {
            state,
            observations: &seen.observations,
            levels: &seen.levels,
            certificates: seen.certificates.clone(),
            unreachable_after_seconds: self.fleet.catalogue().unreachable_after_seconds,
            started_at: self.fleet.started_at(),
            grace_seconds: self.settings.grace_seconds,
        };
        Facts::gather(sources, now)
    }
}

/// What is to be done.
struct Work {
    transitions: Vec<Transition>,
    /// Groups that begin, or that are due.
    groups: bool,
    dropped: Vec<AlertId>,
    expired: Vec<chom_protocol::NotificationId>,
}

impl Work {
    fn find(alerting: &Alerting, state: &State, seen: &Seen, now: UnixMillis) -> Self {
        let facts = alerting.facts(state, seen, now);
        let told = |group: &Group| state.get::<GroupRow>(&group.id()).and_then(|row| row.last_sent_at);
        let existing = state.alerts.values().map(|stored| stored.row.as_ref());
        let transitions = rules::evaluate(&alerting.settings.rules, &facts, existing, &told, now);
        Self {
            transitions,
            groups: groups_to_look_at(alerting.settings.groups, state, now).next().is_some(),
            dropped: forgettable(state, now),
            expired: outbox::expired(state, now, DROPPED_PER_COMMIT_MAX / 2),
        }
    }

    fn is_empty(&self) -> bool {
        let Self { transitions, groups, dropped, expired } = self;
        transitions.is_empty() && !groups && dropped.is_empty() && expired.is_empty()
    }

    /// Does at most one commit of it; gives whether more is left.
    fn carry_out(self, alerting: &Alerting, decision: &mut Decision) -> Result<bool, FleetError> {
        let Self { transitions, groups: _, dropped, expired } = self;
        let more = transitions.len() > ALERTS_PER_COMMIT_MAX;
        for transition in transitions.into_iter().take(ALERTS_PER_COMMIT_MAX) {
            apply(decision, transition)?;
        }
        for id in dropped {
            decision.delete::<AlertRow>(&id);
        }
        for id in expired {
            decision.delete::<NotificationRow>(&id);
        }
        // All that changes together is told together.
        Ok(more || tell_groups(alerting.settings.groups, decision)?)
    }
}

fn apply(decision: &mut Decision, transition: Transition) -> Result<(), FleetError> {
    let row = match transition {
        Transition::Drop(id) => {
            decision.delete::<AlertRow>(&id);
            return Ok(());
        }
        Transition::Open(draft) => draft.into_row(AlertId::new(decision.new_id())),
        Transition::Change(row) => row,
    };
    let before = decision.state.get::<AlertRow>(&row.id).map(|before| before.state);
    let what = match row.state {
        _ if before == Some(row.state) => None,
        AlertState::Firing => Some("fires"),
        AlertState::Resolved if before == Some(AlertState::Firing) => Some("is over"),
        AlertState::Pending | AlertState::Resolved => None,
    };
    if let Some(what) = what {
        tracing::warn!(alert = %row.id, rule = %row.subject.rule, summary = %row.summary, "an alert {what}");
        let message = format!("{} {what}: {}", row.subject.rule, row.summary);
        decision.tell(Event::Alert { id: row.id, message });
        for telling in Telling::alert(&decision.state, &row) {
            decision.tell_webhooks(telling);
        }
    }
    decision.put(row)
}

/// Groups that are due, and those that begin: alerts of theirs fire.
fn groups_to_look_at(
    settings: GroupSettings,
    state: &State,
    now: UnixMillis,
) -> impl Iterator<Item = GroupRow> {
    let firing = state.alerts.values().filter(|stored| stored.row.state == AlertState::Firing);
    let mut new: BTreeMap<Group, ()> = firing.map(|stored| (stored.row.group(), ())).collect();
    new.retain(|group, ()| !state.alert_groups.contains_key(&group.id()));
    let new = new.into_keys().map(move |group| grouping::begin(settings, group, now));
    let known = state.alert_groups.values().map(|stored| stored.row.as_ref());
    let unreachable = !state.smtp.contains_key(&THE_SERVER);
    let due = known.filter(move |row| {
        // With nobody to tell, a group that fires stays due for ever: nothing is to be done about it.
        grouping::is_due(settings, row, now) && !(unreachable && idles(settings, state, row, now))
    });
    new.chain(due.cloned().collect::<Vec<_>>())
}

/// Whether looking at a group changes nothing.
fn idles(settings: GroupSettings, state: &State, row: &GroupRow, now: UnixMillis) -> bool {
    let flush = grouping::flush(settings, row, alerts_of(state, &row.group), false, now);
    flush.news.is_none() && flush.row.as_ref() == Some(row)
}

fn alerts_of<'a>(state: &'a State, group: &'a Group) -> impl Iterator<Item = &'a AlertRow> {
    let rows = state.alerts.values().map(|stored| stored.row.as_ref());
    rows.filter(|row| row.subject.rule == group.rule && row.region == group.region)
}

/// Looks at groups and writes what they tell into the outbox; gives whether more are left.
fn tell_groups(settings: GroupSettings, decision: &mut Decision) -> Result<bool, FleetError> {
    let now = decision.now;
    let mut groups: Vec<GroupRow> = groups_to_look_at(settings, &decision.state, now).collect();
    let more = groups.len() > GROUPS_PER_COMMIT_MAX;
    groups.truncate(GROUPS_PER_COMMIT_MAX);
    for group in groups {
        let id = group.group.id();
        if !grouping::is_due(settings, &group, now) {
            decision.put(group)?;
            continue;
        }
        let smtp = decision.state.get::<SmtpRow>(&THE_SERVER).cloned();
        let alerts: Vec<AlertRow> = alerts_of(&decision.state, &group.group).cloned().collect();
        let flush = grouping::flush(settings, &group, alerts.iter(), smtp.is_some(), now);
        let mut after = flush.row;
        if let (Some(smtp), Some(news)) = (smtp, flush.news) {
            let mut thread = after.clone().unwrap_or(group);
            outbox::write(decision, &smtp, &mut thread, news)?;
            after = after.map(|_| thread);
        }
        match after {
            Some(row) => decision.put(row)?,
            None => decision.delete::<GroupRow>(&id),
        }
    }
    Ok(more)
}

/// Resolved alerts that need not be kept any more.
fn forgettable(state: &State, now: UnixMillis) -> Vec<AlertId> {
    let resolved = || {
        let rows = state.alerts.values().map(|stored| stored.row.as_ref());
        rows.filter(|row| row.state == AlertState::Resolved)
    };
    let mut over = resolved().count().saturating_sub(RESOLVED_KEPT_MAX);
    // In order of id, which is that of age.
    let forgettable = resolved().filter(|row| {
        let too_many = over > 0;
        over = over.saturating_sub(1);
        too_many || row.resolved_at.is_some_and(|at| now.seconds_since(at) >= RESOLVED_KEPT_SECONDS)
    });
    forgettable.map(|row| row.id).take(DROPPED_PER_COMMIT_MAX / 2).collect()
}

/// Alerts as the API shows them.
pub struct AlertViews {
    notified: BTreeMap<AlertId, UnixMillis>,
}

impl AlertViews {
    /// Prepares views of one state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let mut notified = BTreeMap::new();
        // In order of age: the newest stays.
        for stored in state.notifications.values() {
            let row = stored.row.as_ref();
            notified.extend(row.firing.iter().chain(&row.resolved).map(|id| (*id, row.created_at)));
        }
        Self { notified }
    }

    /// An alert.
    #[must_use]
    pub fn view(&self, row: &AlertRow) -> AlertView {
        AlertView {
            id: row.id,
            rule: row.subject.rule.name().to_owned(),
            severity: row.severity,
            state: row.state,
            host: row.subject.host,
            vps: row.subject.vps,
            summary: row.summary.clone(),
            since: rfc3339(row.since),
            firing_since: row.firing_since.map(rfc3339),
            resolved_at: row.resolved_at.map(rfc3339),
            last_seen: rfc3339(row.last_seen),
            last_notified: self.notified.get(&row.id).copied().map(rfc3339),
        }
    }
}

#[cfg(test)]
mod tests;
