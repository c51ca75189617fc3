//! Copies of VPSs: a new VPS whose disk begins as another's. It is made on that one's host, where its disk is.

use chom_protocol::api::hosts::Labels;
use chom_protocol::api::snapshots::CloneVps;
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::{CloneSource, NetworkInterface, Power, VpsSpec};
use chom_protocol::{SnapshotId, VpsId};

use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::host_row;
use crate::fleet::rows::VpsRow;
use crate::fleet::snapshots::{ready, usable};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, network, room, vps};
use crate::placement::{Wish, place};

impl Fleet {
    /// Makes a new VPS from another's disk, as it is now or as it was in a snapshot.
    ///
    /// # Errors
    /// When there is no such VPS or snapshot, its state does not allow it, the name is taken, or its host has no room.
    pub async fn clone_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        source: VpsId,
        request: CloneVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let row = usable(decision, mark, source)?;
            copy(&fleet, decision, row, request)
        })
        .await
    }
}

fn copy(
    fleet: &Fleet,
    decision: &mut Decision,
    source: VpsRow,
    request: CloneVps,
) -> Result<VpsAccepted, FleetError> {
    let CloneVps { name, snapshot } = request;
    vps::not_adopted(&source, "copies are made of disks that CHOM made")?;
    vps::check_name(decision, &source.spec.tenant, &name)?;
    if let Some(snapshot) = snapshot {
        check_snapshot(decision, &source, snapshot)?;
    }
    check_room(fleet, decision, &source)?;
    let id = VpsId::new(decision.new_id());
    let network = network::choose(&decision.state, &source.region, Some(&source.network))?;
    let wanted = network::Wanted { vps: id, host: source.host, network: &network };
    let card = network::plug_in(decision, &wanted)?;
    // What belongs to the one machine is new: id, name, card, addresses, and by them the seed. What it is made like stays.
    let NetworkInterface { spoof_guard, firewall, rate, .. } = source.spec.interface.clone();
    let spec = VpsSpec {
        id,
        name,
        placement: 1,
        power: Power::Running,
        start_count: 1,
        interface: NetworkInterface { spoof_guard, firewall, rate, ..card },
        source: Some(CloneSource { vps: source.spec.id, snapshot }),
        rescue: None,
        iso: None,
        ..source.spec
    };
    // It stands beside its source, which a group forbids: so it is in none.
    let row = VpsRow { spec, created_at: decision.now, anti_affinity: None, external_id: None, ..source };
    vps::enter(fleet, decision, &row, "clone")
}

fn check_snapshot(decision: &Decision, source: &VpsRow, snapshot: SnapshotId) -> Result<(), FleetError> {
    ready(decision, source.spec.id, snapshot).map(drop)
}

/// Whether the source's host can take another one like it.
fn check_room(fleet: &Fleet, decision: &Decision, source: &VpsRow) -> Result<(), FleetError> {
    let spec = &source.spec;
    let wish = Wish {
        region: source.region.clone(),
        engine: spec.engine,
        // It stands where its source stands, whatever that host is called.
        labels: Labels::new(),
        group: None,
        cores: spec.cores,
        memory: spec.memory,
        disk: spec.disk,
    };
    let observation = fleet.observations().of(source.host);
    let held = decision.state.held.get(&source.host).copied();
    let host = host_row(&decision.state, source.host)?;
    let candidate = room::candidate(fleet, decision, &wish, host, observation.as_deref(), held);
    place(&wish, candidate).map(drop).map_err(|none| FleetError::Refused {
        kind: ErrorKind::NoCapacity,
        detail: format!("a copy is made on its source's host, `{}`: {none}", host.name),
        location: None,
    })
}
