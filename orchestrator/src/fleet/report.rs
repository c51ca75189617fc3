//! What hosts report: kept in memory at once, and stored where a restarted orchestrator or an operation needs it. A report
//! never changes desired state, except that a purged VPS that is gone takes its rows along.

use std::sync::Arc;

use chom_certs::Serial;
use chom_protocol::api::events::Event;
use chom_protocol::host::{HostSpec, HostStatus};
use chom_protocol::job::JobResult;
use chom_protocol::vps::{Sha256, VpsState, VpsStatus};
use chom_protocol::{Generation, HostId, InstanceId, VpsId};

use crate::clock;
use crate::fleet::rows::{
    HostRow, HostStanding, JobRow, ObservedRow, ObservedVpsRow, OperationRow, PrefetchRow, VpsRow,
};
use crate::fleet::state::State;
use crate::fleet::{Decision, Fleet, FleetError, operations, snapshots, vps};

/// VPSs whose news one commit takes; the rest goes with those that follow. A VPS takes up to 6 of a commit's 128 changes.
const VPS_PER_COMMIT_MAX: usize = 12;
/// Rows that go with the VPSs that one commit takes away; with the rest of that commit well within its 128 changes.
const GONE_ROWS_PER_COMMIT_MAX: usize = 64;
/// Rows of a VPS besides its snapshots: itself, its name, addresses, what was seen of it, its user data, what it had.
const ROWS_OF_A_VPS: usize = 7;
/// Results that one commit takes: each changes up to three rows.
const RESULTS_PER_COMMIT_MAX: usize = 32;
/// Strangers and problems of a host that are stored; the newest report in memory has them all.
const LIST_STORED_MAX: usize = 64;

impl Fleet {
    /// What the host should have; none while it may not be given orders.
    #[must_use]
    pub fn spec(&self, host: HostId) -> Option<HostSpec> {
        let state = self.state();
        let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
        let row = state.get::<HostRow>(&host).filter(|row| vps::is_managed(row, epoch))?;
        Some(compose(&state, row, epoch, self.catalogue().agent.clone()))
    }

    /// A host gave a sign of life.
    pub fn seen(&self, host: HostId) {
        self.observations().change(host, |observation| observation.seen_at = clock::now());
    }

    /// A host took a desired state, durably.
    pub fn accepted(&self, host: HostId, generation: Generation) {
        self.observations().change(host, |observation| {
            observation.seen_at = clock::now();
            observation.accepted = generation;
            observation.refusal = None;
        });
    }

    /// A host will not take a desired state.
    pub fn refused(&self, host: HostId, generation: Generation, problem: &str) {
        tracing::error!(%host, %generation, problem, "a host refuses its desired state");
        let refusal = format!("it refuses desired state {generation}: {problem}");
        self.observations().change(host, |observation| observation.refusal = Some(refusal));
    }

    /// An agent connected with this certificate.
    pub fn connected(&self, host: HostId, instance: InstanceId, shown: &Serial) {
        self.observations().change(host, |observation| {
            observation.instance = Some(instance);
            observation.shown = Some(shown.clone());
            observation.trusts = None;
            observation.seen_at = clock::now();
        });
    }

    /// A host keeps the CAs of this digest on its disk.
    pub fn kept_bundle(&self, host: HostId, ca_bundle: Sha256) {
        self.observations().change(host, |observation| observation.trusts = Some(ca_bundle));
    }

    /// An agent's connection ended; a newer one may be there already.
    ///
    /// # Errors
    /// When the time it was last seen could not be stored.
    pub async fn disconnected(&self, host: HostId, instance: InstanceId) -> Result<(), FleetError> {
        let mut was_newest = false;
        self.observations().change(host, |observation| {
            was_newest = observation.instance == Some(instance);
            if was_newest {
                observation.instance = None;
            }
        });
        if was_newest { self.store_seen(vec![host]).await } else { Ok(()) }
    }

    /// Stores when hosts were last seen.
    pub(super) async fn store_seen(&self, hosts: Vec<HostId>) -> Result<(), FleetError> {
        let observations = self.observations().snapshot();
        let change = move |decision: &mut Decision| {
            for host in hosts {
                let Some(seen) = observations.get(&host).map(|seen| seen.seen_at) else { continue };
                let status = decision.state.get::<ObservedRow>(&host).and_then(|row| row.status.clone());
                decision.put(ObservedRow { host, seen_at: seen, status })?;
            }
            Ok(())
        };
        self.decide("chom".into(), change).await.map(|((), _)| ())
    }

    /// The host as its agent sees it now.
    ///
    /// # Errors
    /// When what follows from it could not be stored.
    pub async fn observe(&self, host: HostId, status: HostStatus) -> Result<(), FleetError> {
        let status = Arc::new(status);
        self.observations().change(host, |observation| {
            observation.seen_at = clock::now();
            observation.accepted = status.accepted;
            observation.status = Some(Arc::clone(&status));
        });
        // A commit takes some of it; no more of them than the most that could be news.
        for _ in 0..=status.vps.len() / VPS_PER_COMMIT_MAX {
            if !has_news(&self.state(), host, &status) {
                return Ok(());
            }
            let status = Arc::clone(&status);
            self.decide("chom".into(), move |decision| take(decision, host, &status)).await?;
        }
        Ok(())
    }

    /// Results of jobs; durable when this returns. A result of a job that is not known (any more) is taken as well:
    /// nobody waits for it.
    ///
    /// # Errors
    /// When they could not be stored; the agent keeps them and sends them again.
    pub async fn results(&self, host: HostId, results: Vec<JobResult>) -> Result<(), FleetError> {
        for chunk in results.chunks(RESULTS_PER_COMMIT_MAX) {
            let chunk = chunk.to_vec();
            self.decide("chom".into(), move |decision| {
                for result in &chunk {
                    let Some(job) = decision.state.get::<JobRow>(&(host, result.job)).cloned() else {
                        continue;
                    };
                    decision.delete::<JobRow>(&(host, job.id));
                    let number = decision.raise(host)?;
                    snapshots::settle(decision, &job, number, &result.outcome)?;
                    let operation = decision.state.get::<OperationRow>(&job.operation).cloned();
                    if let Some(row) = operation.filter(|row| !row.state.is_final()) {
                        operations::finish_job(decision, row, &result.outcome)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// A document that agents fetch.
    #[must_use]
    pub fn blob(&self, sha256: chom_protocol::vps::Sha256) -> Option<Vec<u8>> {
        let state = self.state();
        let row = state.get::<crate::fleet::rows::BlobRow>(&sha256)?;
        data_encoding::BASE64.decode(row.base64.as_bytes()).ok()
    }
}

/// A host's desired state, from its rows.
fn compose(
    state: &State,
    row: &HostRow,
    epoch: u64,
    mut settings: chom_protocol::host::AgentSettings,
) -> HostSpec {
    settings.destroys_allowed_until = row.destroys_allowed_until;
    let mut spec = HostSpec {
        host: row.id,
        generation: Generation { epoch, number: row.number },
        settings,
        vps: Default::default(),
        tombstones: Default::default(),
        jobs: Default::default(),
        prefetch: Default::default(),
    };
    for vps in state.vps_on(row.id) {
        if vps.purging.is_some() {
            let tombstone = chom_protocol::vps::Tombstone {
                placement: vps.spec.placement,
                engine: vps.spec.engine,
                // The cap on destroys lets go what is young because little is lost by it. What was adopted is old.
                created_at: match vps.spec.adopted {
                    Some(_) => chom_protocol::UnixMillis(0),
                    None => vps.created_at,
                },
            };
            spec.tombstones.insert(vps.spec.id, tombstone);
        } else {
            spec.vps.insert(vps.spec.id, vps.spec.clone());
        }
    }
    if let Some(row) = state.get::<PrefetchRow>(&row.id) {
        spec.prefetch = row.images.iter().map(|(name, one)| (name.clone(), one.image.clone())).collect();
    }
    spec.jobs = state.jobs_of(row.id).map(|row| (row.id, row.job.clone())).collect();
    spec
}

/// Whether anything follows from a report. Cheap: it runs for every report.
fn has_news(state: &State, host: HostId, status: &HostStatus) -> bool {
    !operations::progress(state, status, host, clock::now()).is_empty()
        || gone(state, host, status).next().is_some()
        || changed(state, host, status).next().is_some()
        || state.get::<ObservedRow>(&host).and_then(|row| row.status.as_ref()) != Some(&stored_form(status))
}

fn take(decision: &mut Decision, host: HostId, status: &HostStatus) -> Result<(), FleetError> {
    let Some(row) = decision.state.get::<HostRow>(&host).cloned() else { return Ok(()) };
    // A host that is out of the fleet is shown as it is, and moves nothing.
    if row.standing == HostStanding::Member && row.epoch == decision.epoch() {
        let progressed = operations::progress(&decision.state, status, host, decision.now);
        for operation in progressed.into_iter().take(VPS_PER_COMMIT_MAX) {
            operations::tell(decision, &operation);
            decision.put(operation)?;
        }
        // A row goes only after its operation has ended: once the VPS is out of desired state no report names it any more,
        // and nothing would end the operation but its deadline.
        let is_over = |row: &&VpsRow| !decision.state.operation_of_vps.contains_key(&row.spec.id);
        let mut left = GONE_ROWS_PER_COMMIT_MAX;
        let fits = |row: &&VpsRow| {
            let rows = ROWS_OF_A_VPS + decision.state.snapshots_of(row.spec.id).count();
            left.checked_sub(rows).inspect(|rest| left = *rest).is_some()
        };
        let gone: Vec<VpsRow> =
            gone(&decision.state, host, status).filter(is_over).take_while(fits).cloned().collect();
        for row in &gone {
            vps::remove(decision, row, true)?;
        }
    }
    let changed: Vec<(VpsId, VpsStatus)> = changed(&decision.state, host, status)
        .take(VPS_PER_COMMIT_MAX)
        .map(|(id, status)| (id, stored_vps_form(status)))
        .collect();
    for (id, status) in changed {
        tell_state(decision, id, &status);
        decision.put(ObservedVpsRow { vps: id, host, status })?;
    }
    let stored = stored_form(status);
    if decision.state.get::<ObservedRow>(&host).and_then(|row| row.status.as_ref()) != Some(&stored) {
        decision.put(ObservedRow { host, seen_at: decision.now, status: Some(stored) })?;
    }
    Ok(())
}

/// VPSs of a host whose purge was carried out: only a pass that knew of the tombstone can say so.
fn gone<'a>(state: &'a State, host: HostId, status: &'a HostStatus) -> impl Iterator<Item = &'a VpsRow> {
    let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
    let knew = move |row: &VpsRow| {
        row.purging.is_some_and(|number| status.reconciled >= Generation { epoch, number })
    };
    let absent =
        |row: &VpsRow| status.vps.get(&row.spec.id).is_some_and(|seen| seen.state == VpsState::Absent);
    state.vps_on(host).filter(move |row| knew(row) && absent(row))
}

/// VPSs of a host whose state is not the stored one.
fn changed<'a>(
    state: &'a State,
    host: HostId,
    status: &'a HostStatus,
) -> impl Iterator<Item = (VpsId, &'a VpsStatus)> {
    let mine = move |id: &VpsId| state.get::<VpsRow>(id).is_some_and(|row| row.host == host);
    let same = |id: &VpsId, seen: &VpsStatus| {
        state.get::<ObservedVpsRow>(id).is_some_and(|row| row.status == stored_vps_form(seen))
    };
    status.vps.iter().filter(move |(id, seen)| mine(id) && !same(id, seen)).map(|(id, seen)| (*id, seen))
}

/// What of a VPS's status is worth storing.
fn stored_vps_form(status: &VpsStatus) -> VpsStatus {
    VpsStatus { progress: None, traffic: None, guest: None, ..status.clone() }
}

/// What of a host's status is worth storing: not its VPSs, which have rows of their own, and nothing that changes all the time.
fn stored_form(status: &HostStatus) -> HostStatus {
    let mut stored = HostStatus { vps: Default::default(), ..status.clone() };
    stored.observed_at = chom_protocol::UnixMillis(0);
    stored.accepted = Generation::default();
    stored.reconciled = Generation::default();
    stored.inventory.disk_free = chom_protocol::Bytes(0);
    stored.foreign.truncate(LIST_STORED_MAX);
    stored.orphans.truncate(LIST_STORED_MAX);
    stored.destroys_waiting.truncate(LIST_STORED_MAX);
    stored.problems.truncate(LIST_STORED_MAX);
    stored
}

fn tell_state(decision: &mut Decision, id: VpsId, status: &VpsStatus) {
    let before = decision.state.get::<ObservedVpsRow>(&id).map(|row| row.status.state);
    if before == Some(status.state) {
        return;
    }
    if let Some(row) = decision.state.get::<VpsRow>(&id) {
        let (name, tenant) = (row.spec.name.clone(), row.spec.tenant.clone());
        let message = format!("is {:?}", status.state).to_lowercase();
        decision.tell(Event::Vps { id, name, tenant, message });
    }
}
