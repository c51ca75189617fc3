//! When alerts begin, fire and resolve. Pure: the same facts, rows and time give the same transitions. A condition that
//! cannot be judged changes nothing: it neither fires nor resolves.

use std::collections::BTreeMap;

use chom_protocol::api::alerts::{AlertState, Severity};
use chom_protocol::{AlertId, HostId, Name, UnixMillis};

use super::facts::{Facts, HostFacts, WatchedCertificate};
use super::rows::{AlertRow, Group, Rule, Subject};
use crate::clock::rfc3339;

/// Hosts that went within so long of each other went at once.
const AT_ONCE_SECONDS: u64 = 60;
/// A share of fewer hosts says nothing: one of two is one host.
const FLEET_HOSTS_MIN: usize = 3;
/// How often an open alert's row is written anew although nothing happened: for `last_seen` and the figures in its summary.
const SEEN_STORED_EVERY_SECONDS: u64 = 60;
const DAY_MILLIS: u64 = 24 * 3600 * 1000;

/// A level and the lower one at which it clears, so that a value on the edge does not flap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Fires from here on.
    pub fire: f64,
    /// Clears below.
    pub clear: f64,
}

/// When rules fire.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSettings {
    /// A condition must hold for so long before it fires.
    pub for_seconds: u64,
    /// Share of a file system in use.
    pub disk: Threshold,
    /// Share of inodes in use.
    pub inodes: Threshold,
    /// Share of memory in use.
    pub memory: Threshold,
    /// A certificate with fewer days left was not renewed in time.
    pub certificate_days: u64,
    /// This share of the fleet out of sight at once is one cause.
    pub fleet_share: f64,
}

/// What happens to an alert.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Transition {
    /// A new one; its id is given when it is stored.
    Open(Draft),
    /// One that exists.
    Change(AlertRow),
    /// It never fired and is over: as if it had not been.
    Drop(AlertId),
}

/// A new alert.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) subject: Subject,
    pub(crate) condition: Condition,
    pub(crate) since: UnixMillis,
    pub(crate) firing: bool,
}

impl Draft {
    /// Its row.
    pub(crate) fn into_row(self, id: AlertId) -> AlertRow {
        let Self { subject, condition, since, firing } = self;
        let Condition { region, severity, summary, for_seconds: _, inhibited: _ } = condition;
        AlertRow {
            id,
            subject,
            region,
            severity,
            summary,
            state: if firing { AlertState::Firing } else { AlertState::Pending },
            since,
            firing_since: firing.then_some(since),
            resolved_at: None,
            last_seen: since,
        }
    }
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) region: Option<Name>,
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    /// How long it must hold.
    pub(crate) for_seconds: u64,
    /// Told by another alert: it may not begin to fire now.
    pub(crate) inhibited: bool,
}

/// What can be said of a subject.
enum Verdict {
    Holds(Condition),
    /// Between the two levels: what is stays.
    Between,
    Unknown,
}

type Verdicts = BTreeMap<Subject, Verdict>;

/// What should happen to alerts now. `told` says when a group was last told: what resolved and comes back before anybody
/// heard of it goes on as the same alert.
pub(crate) fn evaluate<'r>(
    settings: &RuleSettings,
    facts: &Facts<'_>,
    existing: impl Iterator<Item = &'r AlertRow>,
    told: &dyn Fn(&Group) -> Option<UnixMillis>,
    now: UnixMillis,
) -> Vec<Transition> {
    let mut newest: BTreeMap<&Subject, &AlertRow> = BTreeMap::new();
    for row in existing {
        // Ids sort by age: the last one of a subject is its present one.
        let entry = newest.entry(&row.subject).or_insert(row);
        if row.state != AlertState::Resolved || entry.state == AlertState::Resolved {
            *entry = row;
        }
    }
    // Hosts come back one after another: those that are still away when the alert of the fleet ends get the time that any
    // outage gets before each is told of on its own.
    let fleet_over = newest.values().filter(|row| row.subject.rule == Rule::FleetUnreachable);
    let fleet_over = fleet_over.map(|row| row.resolved_at.unwrap_or(now)).max();
    let mut verdicts = judge(settings, facts, now);
    let mut transitions = Vec::new();
    for (subject, row) in newest {
        let told = told(&row.group());
        let now = after(told, now);
        transitions.extend(match verdicts.remove(subject) {
            Some(Verdict::Holds(mut condition)) => {
                if subject.rule == Rule::HostUnreachable {
                    let waits = |at: UnixMillis| now.millis_since(at) < condition.for_seconds * 1000;
                    condition.inhibited |= fleet_over.is_some_and(waits);
                }
                hold(row, condition, told, now)
            }
            Some(Verdict::Between) => seen(row, row.summary.clone(), row.severity, now),
            Some(Verdict::Unknown) => None,
            None if is_blind(facts, subject) => None,
            None => over(row, now),
        });
    }
    for (subject, verdict) in verdicts {
        if let Verdict::Holds(condition) = verdict {
            let told = told(&Group { rule: subject.rule, region: condition.region.clone() });
            transitions.push(Transition::Open(open(subject, condition, after(told, now))));
        }
    }
    transitions
}

/// A clock that stepped back must not make news look old.
fn after(told: Option<UnixMillis>, now: UnixMillis) -> UnixMillis {
    told.map_or(now, |at| now.max(UnixMillis(at.0 + 1)))
}

fn open(subject: Subject, condition: Condition, now: UnixMillis) -> Draft {
    let firing = condition.for_seconds == 0 && !condition.inhibited;
    Draft { subject, condition, since: now, firing }
}

/// A known subject whose condition holds.
fn hold(
    row: &AlertRow,
    condition: Condition,
    told: Option<UnixMillis>,
    now: UnixMillis,
) -> Option<Transition> {
    // Told as firing, and nobody heard that it had resolved.
    let untold = row.resolved_at.is_some_and(|at| told.is_some_and(|told| told < at));
    if row.state == AlertState::Resolved && !untold {
        return Some(Transition::Open(open(row.subject.clone(), condition, now)));
    }
    let Condition { region: _, severity, summary, for_seconds, inhibited } = condition;
    let since = if row.state == AlertState::Resolved { now } else { row.since };
    let due = now.millis_since(since) >= for_seconds * 1000 && !inhibited;
    let row = AlertRow { since, ..row.clone() };
    let (state, firing_since, resolved_at) = match row.state {
        AlertState::Resolved | AlertState::Pending if due => {
            (AlertState::Firing, row.firing_since.filter(|_| untold).or(Some(now)), None)
        }
        AlertState::Resolved => (AlertState::Pending, row.firing_since, row.resolved_at),
        AlertState::Pending | AlertState::Firing => return seen(&row, summary, severity, now),
    };
    let last_seen = now;
    Some(Transition::Change(AlertRow {
        severity,
        summary,
        state,
        firing_since,
        resolved_at,
        last_seen,
        ..row
    }))
}

fn seen(row: &AlertRow, summary: String, severity: Severity, now: UnixMillis) -> Option<Transition> {
    let open = row.state != AlertState::Resolved;
    let stale = now.seconds_since(row.last_seen) >= SEEN_STORED_EVERY_SECONDS;
    let worse = severity > row.severity;
    (open && (stale || worse))
        .then(|| Transition::Change(AlertRow { severity, summary, last_seen: now, ..row.clone() }))
}

/// An alert whose condition is known not to hold.
fn over(row: &AlertRow, now: UnixMillis) -> Option<Transition> {
    match row.state {
        AlertState::Resolved => None,
        AlertState::Pending if row.resolved_at.is_some() => {
            Some(Transition::Change(AlertRow { state: AlertState::Resolved, ..row.clone() }))
        }
        AlertState::Pending => Some(Transition::Drop(row.id)),
        AlertState::Firing => {
            let state = AlertState::Resolved;
            let row = AlertRow { state, resolved_at: Some(now), last_seen: now, ..row.clone() };
            Some(Transition::Change(row))
        }
    }
}

/// All that holds or cannot be said. What is missing is known to be well.
fn judge(settings: &RuleSettings, facts: &Facts<'_>, now: UnixMillis) -> Verdicts {
    let mut verdicts = Verdicts::new();
    let fleet_gone = judge_fleet(settings, facts, now, &mut verdicts);
    for (id, host) in &facts.hosts {
        judge_sight(settings, facts.in_grace, fleet_gone, *id, host, &mut verdicts);
        judge_standing(settings, *id, host, now, &mut verdicts);
        judge_levels(settings, *id, host, &mut verdicts);
        for (vps, of_vps) in &host.vps {
            let subject = Subject { vps: Some(*vps), ..of_host(Rule::VpsNotAsDesired, *id) };
            let verdict = match &of_vps.problem {
                None => Verdict::Unknown,
                Some(problem) => {
                    let advice = format!("see `chomctl vps show {}`, and the agent's log there", of_vps.name);
                    let what = format!("VPS {} on host {} {problem}; {advice}", of_vps.name, host.name);
                    warn(settings, host, what)
                }
            };
            verdicts.insert(subject, verdict);
        }
    }
    for certificate in &facts.certificates {
        judge_certificate(settings, certificate, now, &mut verdicts);
    }
    verdicts
}

fn of_host(rule: Rule, host: HostId) -> Subject {
    Subject { rule, host: Some(host), vps: None, label: String::new() }
}

fn warn(settings: &RuleSettings, host: &HostFacts<'_>, summary: String) -> Verdict {
    Verdict::Holds(Condition {
        region: Some(host.region.clone()),
        severity: Severity::Warning,
        summary,
        for_seconds: settings.for_seconds,
        inhibited: false,
    })
}

/// Much of the fleet gone at once is one alert. Gives whether it is so, or was said to be so by nobody who could know.
fn judge_fleet(settings: &RuleSettings, facts: &Facts<'_>, now: UnixMillis, out: &mut Verdicts) -> bool {
    let subject = Subject { rule: Rule::FleetUnreachable, host: None, vps: None, label: String::new() };
    let once_seen = facts.hosts.values().filter(|host| !host.quarantined && host.seen_at.is_some());
    let total = once_seen.clone().count();
    let mut gone: Vec<UnixMillis> =
        once_seen.filter(|host| !host.seen).filter_map(|host| host.seen_at).collect();
    gone.sort_unstable();
    if facts.in_grace {
        // Who has not come back yet says nothing; only a fleet that is back in sight does.
        if !gone.is_empty() {
            out.insert(subject, Verdict::Unknown);
        }
        return false;
    }
    if total < FLEET_HOSTS_MIN {
        return false;
    }
    #[expect(clippy::cast_precision_loss, reason = "hosts are counted in thousands")]
    let is_share = |count: usize| count as f64 >= settings.fleet_share * total as f64;
    let at_once = gone.iter().enumerate().any(|(first, at)| {
        let last = gone.partition_point(|other| *other <= at.plus_seconds(AT_ONCE_SECONDS));
        is_share(last - first)
    });
    if at_once {
        let since = gone.last().map_or(0, |last| now.seconds_since(*last));
        let summary = format!(
            "{} of {total} hosts went out of sight within {AT_ONCE_SECONDS} s of each other (the last {since} s ago): \
             look at this orchestrator's own network first; VPSs keep running, their state is unknown",
            gone.len()
        );
        let (severity, for_seconds) = (Severity::Critical, settings.for_seconds);
        let condition = Condition { region: None, severity, summary, for_seconds, inhibited: false };
        out.insert(subject, Verdict::Holds(condition));
    }
    at_once
}

/// Whether a host is in sight.
fn judge_sight(
    settings: &RuleSettings,
    in_grace: bool,
    fleet_gone: bool,
    id: HostId,
    host: &HostFacts<'_>,
    out: &mut Verdicts,
) {
    // One that never connected is invited, not lost.
    let Some(seen_at) = host.seen_at else { return };
    if !host.seen && !host.quarantined {
        let verdict = if in_grace {
            Verdict::Unknown
        } else {
            let summary = format!(
                "host {} has given no sign of life since {}: check its power, its network and `systemctl status chom-agent` on it; \
                 its VPSs may well run, their state is unknown",
                host.name,
                rfc3339(seen_at)
            );
            Verdict::Holds(Condition {
                region: Some(host.region.clone()),
                severity: Severity::Critical,
                summary,
                for_seconds: settings.for_seconds,
                inhibited: fleet_gone,
            })
        };
        out.insert(of_host(Rule::HostUnreachable, id), verdict);
    }
}

/// What the rows say of a host, seen or not.
fn judge_standing(
    settings: &RuleSettings,
    id: HostId,
    host: &HostFacts<'_>,
    now: UnixMillis,
    out: &mut Verdicts,
) {
    let at_once = |severity, summary| {
        let region = Some(host.region.clone());
        Verdict::Holds(Condition { region, severity, summary, for_seconds: 0, inhibited: false })
    };
    if host.quarantined {
        let summary = format!(
            "two machines use the key of host {}: it may only report until you have found the copy; \
             then revoke the host and enrol the right machine anew",
            host.name
        );
        out.insert(of_host(Rule::HostQuarantined, id), at_once(Severity::Critical, summary));
    }
    let end = host.certificate_not_after.filter(|end| ends_soon(settings, *end, now));
    if let Some(end) = end {
        let summary = format!(
            "the certificate of host {} {}; it was not renewed: see that its agent runs and reaches this orchestrator",
            host.name,
            ends(end, now)
        );
        let severity = if end <= now { Severity::Critical } else { Severity::Warning };
        out.insert(of_host(Rule::CertificateExpiring, id), at_once(severity, summary));
    }
    for (vps, summary) in &host.over_quota {
        let subject = Subject { vps: Some(*vps), ..of_host(Rule::TrafficQuota, id) };
        out.insert(subject, at_once(Severity::Warning, summary.clone()));
    }
    let subject = of_host(Rule::DestroysWaiting, id);
    match host.destroys_waiting {
        Some(0) => {}
        None => {
            out.insert(subject, Verdict::Unknown);
        }
        Some(count) => {
            let summary = format!(
                "{count} removals wait on host {}: its cap on destroys is reached; if they are right, lift it for an hour with \
                 `chomctl host allow-destroys {}`",
                host.name, host.name
            );
            out.insert(subject, warn(settings, host, summary));
        }
    }
}

fn ends_soon(settings: &RuleSettings, end: UnixMillis, now: UnixMillis) -> bool {
    end.0.saturating_sub(now.0) < settings.certificate_days * DAY_MILLIS
}

fn ends(end: UnixMillis, now: UnixMillis) -> String {
    if end <= now {
        format!("ended at {}", rfc3339(end))
    } else {
        format!("ends in {} days, at {}", (end.0 - now.0) / DAY_MILLIS, rfc3339(end))
    }
}

fn judge_certificate(
    settings: &RuleSettings,
    certificate: &WatchedCertificate,
    now: UnixMillis,
    out: &mut Verdicts,
) {
    let WatchedCertificate { name, not_after } = certificate;
    if !ends_soon(settings, *not_after, now) {
        return;
    }
    let subject = Subject { rule: Rule::CertificateExpiring, host: None, vps: None, label: name.clone() };
    let severity = if *not_after <= now { Severity::Critical } else { Severity::Warning };
    let summary = format!("the {name} {}: replace it before", ends(*not_after, now));
    let condition = Condition { region: None, severity, summary, for_seconds: 0, inhibited: false };
    out.insert(subject, Verdict::Holds(condition));
}

/// What its readings say of a host.
fn judge_levels(settings: &RuleSettings, id: HostId, host: &HostFacts<'_>, out: &mut Verdicts) {
    let Some(levels) = host.levels else { return };
    let name = host.name;
    let mut judge =
        |rule, label: &str, ratio: Option<f64>, threshold: Threshold, what: &str, advice: &str| {
            let subject = Subject { label: label.to_owned(), ..of_host(rule, id) };
            let verdict = match ratio {
                None => Verdict::Unknown,
                Some(ratio) if ratio >= threshold.fire => {
                    let (percent, place) = (ratio * 100.0, if label.is_empty() { "" } else { " of " });
                    warn(
                        settings,
                        host,
                        format!("host {name} uses {percent:.0} % {what}{place}{label}; {advice}"),
                    )
                }
                Some(ratio) if ratio >= threshold.clear => Verdict::Between,
                Some(_) => return,
            };
            out.insert(subject, verdict);
        };
    let advice = "move VPSs away, or add memory";
    judge(Rule::MemoryNearlyFull, "", levels.memory_ratio, settings.memory, "of its memory", advice);
    for (mount, level) in &levels.file_systems {
        let advice = "make room or enlarge it: VPSs stop when their disks cannot grow";
        judge(Rule::DiskNearlyFull, mount, level.disk_ratio, settings.disk, "of the space", advice);
        let advice = "remove small files or move them elsewhere";
        judge(Rule::InodesNearlyFull, mount, level.inodes_ratio, settings.inodes, "of the inodes", advice);
    }
}

/// Whether nothing can be said of a subject now.
fn is_blind(facts: &Facts<'_>, subject: &Subject) -> bool {
    let Some(host) = subject.host.and_then(|id| facts.hosts.get(&id)) else { return false };
    match subject.rule {
        Rule::DiskNearlyFull | Rule::InodesNearlyFull | Rule::MemoryNearlyFull => host.levels.is_none(),
        Rule::VpsNotAsDesired | Rule::DestroysWaiting => !host.seen,
        Rule::FleetUnreachable
        | Rule::HostUnreachable
        | Rule::HostQuarantined
        | Rule::CertificateExpiring
        | Rule::TrafficQuota => false,
    }
}

#[cfg(test)]
mod tests;
