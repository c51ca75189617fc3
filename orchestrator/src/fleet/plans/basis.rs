//! What a plan was made from, and what of it has moved since, in words. Decides nothing by itself but that a VPS, an image,
//! a pool or a quota that changed makes a plan untrue. A host may be busier, as long as the plan still holds: then its
//! changes only say why it does not.

use std::collections::BTreeMap;

use chom_protocol::api::plans::PlannedFrom;
use chom_protocol::api::tenants::Quota;
use chom_protocol::vps::{ImageReference, Power};
use chom_protocol::{Bytes, HostId, Name, SnapshotId, VpsId};

use super::outcome::Outcome;
use crate::fleet::network::{self, rows::PoolRow};
use crate::fleet::rows::{HostRow, SnapshotStage, VpsRow};
use crate::fleet::state::{State, Stored};
use crate::fleet::{Decision, Fleet, quota, room, tenants};
use crate::store::Revision;

/// The rows that a plan was made from.
#[derive(Debug)]
pub(super) struct Basis {
    vps: Vec<Stored<VpsRow>>,
    snapshots: BTreeMap<(VpsId, SnapshotId), (Name, SnapshotStage)>,
    host: Option<(Stored<HostRow>, Room)>,
    image: Option<(ImageReference, Revision)>,
    network: Option<(Name, Revision, Vec<PoolRow>)>,
    quota: Option<(Name, Revision, Quota)>,
}

/// What a host may still promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    closed: Option<&'static str>,
    cores: u32,
    memory: Bytes,
    disk: Bytes,
}

/// Something that moved.
pub(super) struct Moved {
    /// What, in words.
    pub(super) what: String,
    /// Whether the plan is untrue for it.
    pub(super) decides: bool,
}

impl Basis {
    /// What a decision was made from.
    pub(super) fn of(fleet: &Fleet, before: &State, decision: &Decision, outcome: &Outcome) -> Self {
        let after = &decision.state;
        let made = decision.operation.and_then(|id| after.get::<crate::fleet::rows::OperationRow>(&id)?.vps);
        let row = made.and_then(|id| after.get::<VpsRow>(&id).or_else(|| before.get::<VpsRow>(&id)));
        let was = outcome.vps.and_then(|id| before.vps.get(&id)).cloned();
        let source = row.and_then(|row| row.spec.source).filter(|_| was.is_none());
        let source = source.and_then(|source| before.vps.get(&source.vps)).cloned();
        let is_new = was.is_none();
        let builds = row.zip(was.as_ref()).is_some_and(|(row, was)| row.spec.build != was.row.spec.build);
        let image = row.filter(|row| (is_new && row.spec.source.is_none()) || builds);
        let rewired =
            row.zip(was.as_ref()).is_some_and(|(row, was)| row.spec.interface != was.row.spec.interface);
        let network = row.filter(|_| is_new || rewired).map(|row| &row.network);
        let counts = quota::used(before, &outcome.tenant) != quota::used(after, &outcome.tenant);
        let vps: Vec<_> = was.into_iter().chain(source).collect();
        Self {
            snapshots: snapshots(before, &vps),
            vps,
            host: before.hosts.get(&outcome.host).cloned().zip(room_of(
                fleet,
                decision,
                before,
                outcome.host,
            )),
            image: image
                .and_then(|row| row.spec.image.clone())
                .map(|image| (image.clone(), image_revision(before, &image.name))),
            network: network
                .map(|name| (name.clone(), network_revision(before, name), network::pools(before, name))),
            quota: tenants::get(before, &outcome.tenant)
                .filter(|_| counts)
                .map(|row| (row.name.clone(), tenant_revision(before, &row.name), row.quota)),
        }
    }

    /// As a plan shows them.
    pub(super) fn rows(&self, sees_hosts: bool) -> Vec<PlannedFrom> {
        let row = |kind: &str, name: &Name, revision: Revision| PlannedFrom {
            kind: kind.to_owned(),
            name: name.to_string(),
            revision: revision.0,
        };
        let mut rows: Vec<PlannedFrom> =
            self.vps.iter().map(|stored| row("VPS", &stored.row.spec.name, stored.revision)).collect();
        if let Some((host, _)) = self.host.as_ref().filter(|_| sees_hosts) {
            rows.push(row("host", &host.row.name, host.revision));
        }
        rows.extend(self.image.iter().map(|(image, revision)| row("image", &image.name, *revision)));
        rows.extend(self.network.iter().map(|(name, revision, _)| row("network", name, *revision)));
        rows.extend(self.quota.iter().map(|(tenant, revision, _)| row("tenant", tenant, *revision)));
        rows
    }

    /// What of it has moved, as of a decision that is about to be made.
    pub(super) fn moved(&self, fleet: &Fleet, decision: &Decision) -> Vec<Moved> {
        let state = &decision.state;
        let mut all = Vec::new();
        let mut say = |decides: bool, what: String| all.push(Moved { what, decides });
        for was in &self.vps {
            match state.vps.get(&was.row.spec.id) {
                Some(now) if now.revision == was.revision => {}
                now => say(true, vps_words(was, now)),
            }
        }
        let now = snapshots(state, &self.vps);
        for (key, (name, _)) in now.iter().filter(|(key, _)| !self.snapshots.contains_key(key)) {
            say(true, format!("snapshot `{name}` ({}) was taken since", key.1));
        }
        for (key, (name, stage)) in &self.snapshots {
            match now.get(key) {
                None => say(true, format!("snapshot `{name}` is gone")),
                Some((_, now)) if now != stage => {
                    say(true, format!("snapshot `{name}` is now {}", word(*now)))
                }
                Some(_) => {}
            }
        }
        if let Some((image, _)) = &self.image {
            match fleet.image(state, &image.name).map(|now| now.reference) {
                Some(now) if now == *image => {}
                Some(_) => say(true, format!("image `{}` was replaced", image.name)),
                None => say(true, format!("image `{}` was removed", image.name)),
            }
        }
        if let Some((name, _, pools)) =
            self.network.as_ref().filter(|(name, _, pools)| network::pools(state, name) != *pools)
        {
            say(true, format!("the pools of network `{name}` were changed (it had {})", pools.len()));
        }
        if let Some((tenant, _, quota)) = &self.quota {
            match tenants::get(state, tenant).map(|row| row.quota) {
                Some(now) if now == *quota => {}
                Some(_) => say(true, format!("the quota of tenant `{tenant}` was changed")),
                None => say(true, format!("tenant `{tenant}` was deleted")),
            }
        }
        if let Some((host, room)) = self.host.as_ref().filter(|_| decision.sees_hosts) {
            let now = room_of(fleet, decision, state, host.row.id);
            for what in host_words(*room, now) {
                say(false, format!("host `{}` {what}", host.row.name));
            }
        }
        all
    }
}

fn snapshots(state: &State, of: &[Stored<VpsRow>]) -> BTreeMap<(VpsId, SnapshotId), (Name, SnapshotStage)> {
    let all = of.iter().flat_map(|stored| state.snapshots_of(stored.row.spec.id));
    all.map(|row| ((row.vps, row.id), (row.name.clone(), row.stage))).collect()
}

const fn word(stage: SnapshotStage) -> &'static str {
    match stage {
        SnapshotStage::Taking => "being taken",
        SnapshotStage::Ready => "ready",
        SnapshotStage::Deleting => "being removed",
    }
}

fn room_of(fleet: &Fleet, decision: &Decision, state: &State, host: HostId) -> Option<Room> {
    let row = state.get::<HostRow>(&host)?;
    let observation = fleet.observations().of(host);
    let wish = room::nothing(&row.region);
    let held = state.held.get(&host).copied();
    let candidate = room::candidate(fleet, decision, &wish, row, observation.as_deref(), held)?;
    Some(Room {
        closed: candidate.closed,
        cores: candidate.cores_free,
        memory: candidate.memory_free,
        disk: candidate.disk_free,
    })
}

fn host_words(was: Room, now: Option<Room>) -> Vec<String> {
    let Some(now) = now else { return vec!["is out of the fleet".to_owned()] };
    let mut words = Vec::new();
    if let Some(closed) = now.closed.filter(|_| now.closed != was.closed) {
        words.push(format!("is {closed} now"));
    }
    if now.cores < was.cores {
        words.push(format!("has {} cores less free ({} left)", was.cores - now.cores, now.cores));
    }
    if now.memory < was.memory {
        let less = Bytes(was.memory.0 - now.memory.0);
        words.push(format!("has {less} of memory less free ({} left)", now.memory));
    }
    if now.disk < was.disk {
        words.push(format!("has {} of disk less free ({} left)", Bytes(was.disk.0 - now.disk.0), now.disk));
    }
    words
}

fn vps_words(was: &Stored<VpsRow>, now: Option<&Stored<VpsRow>>) -> String {
    let name = &was.row.spec.name;
    let Some(now) = now else { return format!("VPS `{name}` is gone") };
    let (old, new) = (was.row.as_ref(), now.row.as_ref());
    let mut words = Vec::new();
    let mut say = |when: bool, what: String| {
        if when {
            words.push(what);
        }
    };
    say(old.purging.is_none() && new.purging.is_some(), "is being purged".to_owned());
    say(old.retention.is_none() && new.retention.is_some(), "is now deleted".to_owned());
    say(old.retention.is_some() && new.retention.is_none(), "was brought back".to_owned());
    let power = match new.spec.wanted_power() {
        Power::Running => "running",
        Power::Paused => "paused",
        Power::Stopped => "stopped",
    };
    say(old.spec.wanted_power() != new.spec.wanted_power(), format!("is now {power}"));
    say(old.spec.name != new.spec.name, format!("is now called `{}`", new.spec.name));
    let size = |row: &VpsRow| (row.spec.cores, row.spec.memory, row.spec.disk);
    let (cores, memory, disk) = size(new);
    say(size(old) != size(new), format!("now has {cores} cores, {memory} of memory and {disk} of disk"));
    say(old.spec.build != new.spec.build, "was rebuilt".to_owned());
    say(old.suspensions != new.suspensions, "is suspended otherwise now".to_owned());
    say(
        old.spec.hold != new.spec.hold,
        if new.spec.hold { "is on hold now" } else { "is not on hold any more" }.to_owned(),
    );
    say(old.spec.interface != new.spec.interface, "has another card or addresses now".to_owned());
    say(old.host != new.host, "is on another host now".to_owned());
    if words.is_empty() {
        words.push("was changed".to_owned());
    }
    format!("VPS `{name}` {} (revision {}, now {})", words.join(" and "), was.revision, now.revision)
}

fn image_revision(state: &State, name: &Name) -> Revision {
    state.images.get(name).map(|stored| stored.revision).unwrap_or_default()
}

fn network_revision(state: &State, name: &Name) -> Revision {
    state.networks.get(name).map(|stored| stored.revision).unwrap_or_default()
}

fn tenant_revision(state: &State, name: &Name) -> Revision {
    state.tenants.get(name).map(|stored| stored.revision).unwrap_or_default()
}
