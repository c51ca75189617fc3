//! After a restore the store may be older than what hosts were told since. Each host holds still and uploads its ledger;
//! where they differ an admin says which is right. Nothing is destroyed here.

use std::collections::BTreeSet;
use std::sync::Arc;

use chom_protocol::api::hosts::{HostView, LedgerChoice, LedgerDifference, LedgerView, ResolveLedger};
use chom_protocol::host::HostSpec;
use chom_protocol::vps::VpsSpec;
use chom_protocol::{HostId, Name, VpsId};

use crate::fleet::hosts::host_row;
use crate::fleet::rows::{HostRow, HostStanding, Retention, VpsNameRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, network, view, vps};

/// Differences that are shown; the rest is counted.
const DIFFERENCES_SHOWN_MAX: usize = 500;
/// VPSs whose rows one adoption writes: a VPS takes up to 4 of a commit's 128 changes. The rest needs another word.
const ADOPTED_PER_COMMIT_MAX: usize = 30;

impl Fleet {
    /// A host uploaded its ledger. If it is what the store has, the host is managed again at once.
    ///
    /// # Errors
    /// When that could not be stored.
    pub async fn ledger(&self, host: HostId, ledger: HostSpec) -> Result<(), FleetError> {
        let ledger = Arc::new(ledger);
        self.observations().change(host, |observation| observation.ledger = Some(Arc::clone(&ledger)));
        let equal = |state: &State| differences(state, host, &ledger).is_empty();
        if !equal(&self.state()) {
            return Ok(());
        }
        let ledger = Arc::clone(&ledger);
        let change = move |decision: &mut Decision| {
            if differences(&decision.state, host, &ledger).is_empty() {
                reissue(decision, host, &ledger)
            } else {
                Ok(())
            }
        };
        self.decide("chom".into(), change).await.map(|((), _)| ())
    }

    /// A host's ledger beside the store's rows.
    ///
    /// # Errors
    /// When there is no such host, or it has uploaded none.
    pub fn ledger_view(&self, host: HostId) -> Result<LedgerView, FleetError> {
        let state = self.state();
        host_row(&state, host)?;
        let ledger = self.uploaded(host)?;
        let mut differences = differences(&state, host, &ledger);
        differences.truncate(DIFFERENCES_SHOWN_MAX);
        Ok(LedgerView { host, ledger: ledger.generation, differences })
    }

    fn uploaded(&self, host: HostId) -> Result<Arc<HostSpec>, FleetError> {
        let observation = self.observations().of(host);
        observation.and_then(|seen| seen.ledger.clone()).ok_or_else(|| {
            FleetError::conflict("this host has uploaded no ledger: only a held host does, once it connects")
        })
    }

    /// An admin's word on the differences.
    ///
    /// # Errors
    /// When there is no such host, it is not held, or it has uploaded nothing.
    pub async fn resolve_ledger(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
        request: ResolveLedger,
    ) -> Result<Done<HostView>, FleetError> {
        let ledger = self.uploaded(host)?;
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| {
            let row = host_row(&decision.state, host)?;
            if row.standing != HostStanding::Member || row.epoch == decision.epoch() {
                return Err(FleetError::conflict(format!(
                    "host `{}` is not held; nothing is to be resolved",
                    row.name
                )));
            }
            match request.choice {
                LedgerChoice::KeepRows => {}
                LedgerChoice::AdoptLedger => adopt(decision, host, &ledger)?,
            }
            reissue(decision, host, &ledger)?;
            decision.audit("host.ledger", host)?;
            let row = host_row(&decision.state, host)?;
            let observation = fleet.observations().of(host);
            Ok(view::host(&decision.state, fleet.catalogue(), row, observation.as_deref(), decision.now))
        })
        .await
    }
}

/// Issues a host's desired state in the present epoch from now on.
fn reissue(decision: &mut Decision, host: HostId, ledger: &HostSpec) -> Result<(), FleetError> {
    let mut row = host_row(&decision.state, host)?.clone();
    row.epoch = decision.epoch();
    row.number = row.number.max(ledger.generation.number);
    decision.put(row)?;
    decision.raise(host).map(|_| ())
}

/// What a host's ledger and the store's rows disagree on. Pure.
fn differences(state: &State, host: HostId, ledger: &HostSpec) -> Vec<LedgerDifference> {
    let rows: BTreeSet<VpsId> = state.vps_on(host).map(|row| row.spec.id).collect();
    let known: BTreeSet<VpsId> = ledger.vps.keys().chain(ledger.tombstones.keys()).copied().collect();
    let mut all = Vec::new();
    for id in rows.union(&known) {
        let (row, theirs) = (state.get::<VpsRow>(id), ledger.vps.get(id));
        let name = row.map(|row| &row.spec.name).or(theirs.map(|spec| &spec.name));
        let name = name.cloned().unwrap_or_else(Name::default_tenant);
        let difference = match (row, theirs) {
            (Some(row), _) if row.host != host => "it was moved to this host after the export".to_owned(),
            (Some(row), None) if row.purging.is_none() => "it was purged after the export".to_owned(),
            (Some(row), Some(_)) if row.purging.is_some() => {
                "its purge was ordered before the export".to_owned()
            }
            (Some(row), Some(spec)) => match changes(&row.spec, spec) {
                changes if changes.is_empty() => continue,
                changes => format!("changed after the export: {}", changes.join(", ")),
            },
            (None, Some(_)) => "it was made after the export".to_owned(),
            (Some(_), None) | (None, None) => continue,
        };
        all.push(LedgerDifference { vps: *id, name, difference });
    }
    all
}

fn changes(ours: &VpsSpec, theirs: &VpsSpec) -> Vec<String> {
    let mut changes = Vec::new();
    let mut compare = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            changes.push(format!("{what} {ours} here, {theirs} there"));
        }
    };
    compare(
        "power",
        format!("{:?}", ours.power).to_lowercase(),
        format!("{:?}", theirs.power).to_lowercase(),
    );
    compare("deleted", ours.retained.to_string(), theirs.retained.to_string());
    compare("hold", ours.hold.to_string(), theirs.hold.to_string());
    compare("placement", ours.placement.to_string(), theirs.placement.to_string());
    let addresses = |spec: &VpsSpec| {
        let all: Vec<String> = spec.interface.addresses.iter().map(|own| own.address.to_string()).collect();
        all.join(" ")
    };
    compare("addresses", addresses(ours), addresses(theirs));
    compare("starts", ours.start_count.to_string(), theirs.start_count.to_string());
    changes
}

/// Makes the rows what the ledger says.
fn adopt(decision: &mut Decision, host: HostId, ledger: &HostSpec) -> Result<(), FleetError> {
    let rows: Vec<VpsRow> = decision.state.vps_on(host).cloned().collect();
    let mut left = ADOPTED_PER_COMMIT_MAX;
    for row in rows {
        match ledger.vps.get(&row.spec.id) {
            None if !ledger.tombstones.contains_key(&row.spec.id) && row.purging.is_none() => {
                spend(&mut left)?;
                for _ in decision.state.snapshots_of(row.spec.id) {
                    spend(&mut left)?;
                }
                vps::remove(decision, &row, true)?;
            }
            Some(spec) if *spec != row.spec => {
                spend(&mut left)?;
                let retention = spec.retained.then(|| row.retention.unwrap_or(retained_now(decision)));
                let row = VpsRow { spec: spec.clone(), retention, ..row };
                network::settle(decision, &row)?;
                decision.put(row)?;
            }
            None | Some(_) => {}
        }
    }
    for spec in ledger.vps.values() {
        if decision.state.vps.contains_key(&spec.id) {
            continue;
        }
        spend(&mut left)?;
        bring_in(decision, host, spec)?;
    }
    Ok(())
}

fn spend(left: &mut usize) -> Result<(), FleetError> {
    *left = left.checked_sub(1).ok_or_else(|| {
        FleetError::conflict(format!(
            "more than {ADOPTED_PER_COMMIT_MAX} VPSs differ; restore a newer export, or keep the rows and adopt the orphans"
        ))
    })?;
    Ok(())
}

fn retained_now(decision: &Decision) -> Retention {
    // When it was deleted is not in the ledger: a whole week from now errs on the safe side.
    Retention { deleted_at: decision.now, purge_at: decision.now.plus_seconds(7 * 24 * 3600) }
}

/// Writes the rows of a VPS that only the host knows.
fn bring_in(decision: &mut Decision, host: HostId, spec: &VpsSpec) -> Result<(), FleetError> {
    let host_row: HostRow = host_row(&decision.state, host)?.clone();
    let name = (spec.tenant.clone(), spec.name.clone());
    if decision.state.vps_names.contains_key(&name) {
        return Err(FleetError::conflict(format!(
            "the ledger has a VPS `{}`, and another VPS has that name now; purge or delete that one first",
            spec.name
        )));
    }
    decision.put(VpsNameRow { tenant: spec.tenant.clone(), name: spec.name.clone(), vps: spec.id })?;
    let retention = spec.retained.then(|| retained_now(decision));
    let row = VpsRow {
        spec: spec.clone(),
        network: network::of_card(&decision.state, &host_row.region, &spec.interface)?,
        region: host_row.region,
        size: "adopted"
            .parse()
            .map_err(|error: chom_protocol::id::NameError| FleetError::conflict(error.to_string()))?,
        host,
        anti_affinity: None,
        retention,
        purging: None,
        suspensions: Default::default(),
        created_at: decision.now,
        external_id: None,
    };
    network::settle(decision, &row)?;
    decision.put(row)
}
