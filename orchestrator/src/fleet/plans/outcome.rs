//! What a decision would do to a VPS, in words: read off the rows that it would have written. Pure.

use std::net::IpAddr;

use chom_protocol::job::JobKind;
use chom_protocol::vps::{Power, Suspension};
use chom_protocol::{HostId, Name, VpsId};

use crate::fleet::Decision;
use crate::fleet::rows::{Goal, JobRow, OperationRow, VpsRow};
use crate::fleet::state::State;

/// What comes out of a decision, as far as a plan promises it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The operation's kind.
    pub(super) action: String,
    /// The VPS; none: it is made.
    pub(super) vps: Option<VpsId>,
    /// Whose.
    pub(super) tenant: Name,
    /// Where it stands.
    pub(super) host: HostId,
    /// What it is made from.
    pub(super) image: Option<Name>,
    /// Its addresses then.
    pub(super) addresses: Vec<IpAddr>,
    /// What is done.
    pub(super) steps: Vec<String>,
    /// How long it is down.
    pub(super) downtime: String,
}

impl Outcome {
    /// What a decision that was made on `before` would do; none where it is about no VPS.
    pub(super) fn of(before: &State, decision: &Decision) -> Option<Self> {
        let after = &decision.state;
        let operation = after.get::<OperationRow>(&decision.operation?)?;
        let id = operation.vps?;
        let was = before.get::<VpsRow>(&id);
        let row = after.get::<VpsRow>(&id).or(was)?;
        let job = match operation.goal {
            Goal::Job { job } => after.get::<JobRow>(&(row.host, job)).map(|row| &row.job.kind),
            _ => None,
        };
        let mut steps = match was {
            None => made(after, row),
            Some(was) => changed(was, row),
        };
        steps.extend(job.map(job_words).map(str::to_owned));
        // What the operation's trail says besides its beginning.
        steps.extend(operation.steps.iter().skip(1).map(|step| step.message.clone()));
        if steps.is_empty() {
            steps.push("nothing of it changes".to_owned());
        }
        Some(Self {
            action: operation.kind.clone(),
            vps: was.map(|_| id),
            tenant: row.spec.tenant.clone(),
            host: row.host,
            image: row.spec.image.as_ref().map(|image| image.name.clone()),
            addresses: row.spec.interface.addresses.iter().map(|own| own.address).collect(),
            steps,
            downtime: downtime(was, row, job).to_owned(),
        })
    }

    /// How another outcome differs, in words.
    pub(super) fn otherwise(&self, now: &Self) -> Vec<String> {
        let mut said = Vec::new();
        let list = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if self.host != now.host {
            said.push("another host would take it".to_owned());
        }
        if self.addresses != now.addresses {
            said.push(format!("it would have {} and not {}", list(&now.addresses), list(&self.addresses)));
        }
        let rest =
            |one: &Self| (one.action.clone(), one.image.clone(), one.steps.clone(), one.downtime.clone());
        if rest(self) != rest(now) {
            said.push(format!("now it would be: {}; downtime: {}", now.steps.join(", "), now.downtime));
        }
        said
    }
}

/// The operation under way whose place it takes.
pub(super) fn superseded(before: &State, outcome: &Outcome) -> Option<String> {
    let open = before.operation_of_vps.get(&outcome.vps?)?;
    let open = before.get::<OperationRow>(open)?;
    Some(format!("operation {} (`{}`), which is under way, is superseded", open.id, open.kind))
}

fn made(state: &State, row: &VpsRow) -> Vec<String> {
    let spec = &row.spec;
    let mut steps = Vec::new();
    match (&spec.source, &spec.image) {
        (Some(source), _) => {
            let name = state.get::<VpsRow>(&source.vps).map(|row| row.spec.name.to_string());
            let from = if source.snapshot.is_some() { "a snapshot of it" } else { "what is on it now" };
            steps.push(format!("the host copies the disk of VPS `{}`: {from}", name.unwrap_or_default()));
        }
        (None, Some(image)) => {
            steps.push(format!("the host fetches image `{}` ({}), unless it has it", image.name, image.size));
            steps.push(format!("it makes a disk of {} from it", spec.disk));
        }
        (None, None) => {}
    }
    steps.push(format!("it starts the VPS with {} cores and {} of memory", spec.cores, spec.memory));
    steps
}

fn changed(was: &VpsRow, row: &VpsRow) -> Vec<String> {
    let (old, new) = (&was.spec, &row.spec);
    let mut steps = Vec::new();
    let mut say = |when: bool, what: String| {
        if when {
            steps.push(what);
        }
    };
    say(
        was.purging.is_none() && row.purging.is_some(),
        "its host removes it and its disk for good; its name and addresses are free then".to_owned(),
    );
    if let (None, Some(kept)) = (was.retention, row.retention) {
        let seconds = kept.purge_at.seconds_since(kept.deleted_at);
        say(true, format!("it is shut down, and kept for {seconds} s before it is purged"));
    }
    say(
        was.retention.is_some() && row.retention.is_none(),
        "it is brought back with its disk, name and addresses".to_owned(),
    );
    say(old.name != new.name, format!("it is called `{}`; the guest takes that at its next start", new.name));
    say(old.cores != new.cores, format!("it has {} cores (now {})", new.cores, old.cores));
    say(old.memory != new.memory, format!("it has {} of memory (now {})", new.memory, old.memory));
    say(old.disk != new.disk, format!("its disk grows to {} (now {})", new.disk, old.disk));
    if old.build != new.build {
        let image =
            new.image.as_ref().map_or_else(String::new, |image| format!(" from image `{}`", image.name));
        say(true, format!("its disk is made anew{image}: what is on it is lost"));
    }
    say(was.suspensions != row.suspensions, suspension(row));
    say(
        old.hold != new.hold,
        if new.hold { "it is left alone from now on" } else { "it is reconciled again" }.to_owned(),
    );
    let rescue = new.rescue.as_ref().map(|image| format!("it boots the rescue image `{}`", image.name));
    say(
        old.rescue != new.rescue && old.build == new.build,
        rescue.unwrap_or_else(|| "it boots from its own disk".to_owned()),
    );
    let medium = new.iso.as_ref().map(|iso| format!("`{}` is put into its CD-ROM drive", iso.image.name));
    say(old.iso != new.iso, medium.unwrap_or_else(|| "its CD-ROM drive is emptied".to_owned()));
    say(old.interface != new.interface, "its card changes: addresses, firewall, guard or rates".to_owned());
    say(old.power != new.power || old.stop_grace_seconds != new.stop_grace_seconds, power(was, row));
    let starts = old.start_count != new.start_count && old.power == new.power;
    say(starts && old.wants_running(), "it runs, or is started again".to_owned());
    say(starts && !old.wants_running(), "it is started".to_owned());
    steps
}

fn power(was: &VpsRow, row: &VpsRow) -> String {
    match (row.spec.power, row.spec.stop_grace_seconds) {
        (Power::Running, _) if was.spec.power == Power::Paused => "its processors go on".to_owned(),
        (Power::Running, _) => "it is started".to_owned(),
        (Power::Paused, _) => "its processors are halted; it keeps its memory".to_owned(),
        (Power::Stopped, Some(0)) => "its power is taken away at once".to_owned(),
        (Power::Stopped, Some(seconds)) => {
            format!("it is shut down gracefully, and forced off after {seconds} s")
        }
        (Power::Stopped, None) => {
            "it is shut down gracefully, and forced off after its host's grace".to_owned()
        }
    }
}

fn suspension(row: &VpsRow) -> String {
    let reasons: Vec<String> = row.suspensions.keys().map(ToString::to_string).collect();
    match row.spec.suspension {
        None => "it is suspended for nothing any more".to_owned(),
        Some(Suspension::Stopped) => format!("it is off, suspended for {}", reasons.join(", ")),
        Some(Suspension::Isolated) => format!("it is cut off from its network for {}", reasons.join(", ")),
    }
}

const fn job_words(job: &JobKind) -> &'static str {
    match job {
        JobKind::Restart { .. } => "it is shut down and started again",
        JobKind::TakeSnapshot { .. } => "a snapshot of its disk is taken",
        JobKind::DeleteSnapshot { .. } => "the snapshot is removed",
        JobKind::RestoreSnapshot { .. } => {
            "its disk becomes what it was in the snapshot; what came later is lost"
        }
    }
}

fn downtime(was: Option<&VpsRow>, row: &VpsRow, job: Option<&JobKind>) -> &'static str {
    let Some(was) = was else { return "none: it is new" };
    let up = |row: &VpsRow| row.spec.wants_running() && row.purging.is_none();
    match (up(was), up(row)) {
        (false, _) => "none: it is not to run now",
        (true, false) if row.spec.suspension == Some(Suspension::Stopped) => "for as long as it is suspended",
        (true, false) if row.spec.power == Power::Paused => "until it is resumed",
        (true, false) => "from then on, until it is started",
        (true, true) if was.spec.build != row.spec.build => "until its new disk is made and has booted",
        (true, true) if was.spec.rescue != row.spec.rescue => "a restart",
        (true, true) => match job {
            Some(JobKind::Restart { .. }) => "a restart",
            Some(JobKind::RestoreSnapshot { .. }) => "a restart, and the time that its disk takes",
            Some(JobKind::TakeSnapshot { .. } | JobKind::DeleteSnapshot { .. }) | None => "none",
        },
    }
}
