//! Another size for a VPS on its own host. The host's room is checked in the commit that takes it; disks only grow.

use chom_protocol::api::vps_servers::{ResizeVps, VpsAccepted};
use chom_protocol::vps::Engine;
use chom_protocol::{Bytes, Name, VpsId};

use super::{Action, restart};
use crate::fleet::catalogue::{Catalogue, Size};
use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::{host_row, unknown};
use crate::fleet::rows::{Goal, VpsRow};
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, room};

/// Smallest memory of a VPS: below it no Linux of today boots.
const MEMORY_MIN: Bytes = Bytes::mib(32);
/// Most virtual processors of a VPS: what QEMU's q35 machine takes.
const CORES_MAX: u32 = 288;

impl Fleet {
    /// Gives a VPS another size.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, the size breaks a rule, or its host has no room for it.
    pub async fn resize_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: ResizeVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.order(caller, mark, vps, Action::Resize, move |fleet, decision, row| {
            resize(fleet, decision, row, &request)
        })
        .await
    }
}

pub(super) fn resize(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &mut VpsRow,
    request: &ResizeVps,
) -> Result<Goal, FleetError> {
    let Size { cores, memory, disk } = wanted(fleet.catalogue(), row, request)?;
    check_disk(row, disk)?;
    check_room(fleet, decision, row, (cores, memory, disk))?;
    let before = row.clone();
    row.size = name(fleet.catalogue(), row, request, Size { cores, memory, disk })?;
    (row.spec.cores, row.spec.memory, row.spec.disk) = (cores, memory, disk);
    if request.restart && waits_for_start(&before, row) {
        return restart(fleet.catalogue(), decision, row);
    }
    Ok(Goal::Settled)
}

/// Refuses to grow a disk that CHOM did not make and cannot grow.
fn check_disk(row: &VpsRow, wanted: Bytes) -> Result<(), FleetError> {
    let disk = row.spec.adopted.as_ref().and_then(|adopted| adopted.disk());
    match disk.filter(|disk| wanted > row.spec.disk && super::super::adopt::stays(disk)) {
        Some(disk) => Err(FleetError::invalid(
            "/disk_bytes",
            format!(
                "the disk of VPS `{}` is a {} ({}), which CHOM does not grow: grow it by hand (`lvextend`, then \
                 `virsh blockresize`)",
                row.spec.name, disk.kind, disk.path
            ),
        )),
        None => Ok(()),
    }
}

/// What the trail says of a change that a running guest does not take up.
pub(super) const WAITS: &str =
    "cores and memory change at its next start: it is off for a moment then; restart it when that suits";

/// Whether cores or memory change that a running guest takes up at its next start only.
pub(super) fn waits_for_start(before: &VpsRow, after: &VpsRow) -> bool {
    let engine_needs_it = match after.spec.engine {
        Engine::Libvirt | Engine::Fake => true,
        // Its limits are changed while it runs.
        Engine::Incus => false,
    };
    let changed = (before.spec.cores, before.spec.memory) != (after.spec.cores, after.spec.memory);
    engine_needs_it && changed && after.spec.wants_running()
}

fn wanted(catalogue: &Catalogue, row: &VpsRow, request: &ResizeVps) -> Result<Size, FleetError> {
    let ResizeVps { size, cores, memory_bytes, disk_bytes, restart: _ } = request;
    if size.is_none() && cores.is_none() && memory_bytes.is_none() && disk_bytes.is_none() {
        return Err(FleetError::invalid("/size", "name a size, or give cores, memory_bytes or disk_bytes"));
    }
    let named = match size {
        None => Size { cores: row.spec.cores, memory: row.spec.memory, disk: row.spec.disk },
        Some(name) => *catalogue
            .sizes
            .get(name)
            .ok_or_else(|| unknown("/size", "size", name, catalogue.sizes.keys()))?,
    };
    let wanted = Size {
        cores: cores.unwrap_or(named.cores),
        memory: memory_bytes.unwrap_or(named.memory),
        disk: disk_bytes.unwrap_or(named.disk),
    };
    if !(1..=CORES_MAX).contains(&wanted.cores) {
        return Err(FleetError::invalid(
            "/cores",
            format!("{} cores; a VPS has from 1 to {CORES_MAX}", wanted.cores),
        ));
    }
    if wanted.memory < MEMORY_MIN {
        return Err(FleetError::invalid(
            "/memory_bytes",
            format!("{} of memory; a VPS has at least {MEMORY_MIN}", wanted.memory),
        ));
    }
    if wanted.disk < row.spec.disk {
        let location = if disk_bytes.is_some() { "/disk_bytes" } else { "/size" };
        return Err(FleetError::invalid(
            location,
            format!(
                "its disk has {}, and {} are wanted: disks never shrink; give disk_bytes of at least {} to keep it",
                row.spec.disk, wanted.disk, row.spec.disk.0
            ),
        ));
    }
    Ok(wanted)
}

/// What the size is called from now on.
fn name(catalogue: &Catalogue, row: &VpsRow, request: &ResizeVps, is: Size) -> Result<Name, FleetError> {
    let named = |name: &Name| catalogue.sizes.get(name) == Some(&is);
    let known = request.size.iter().chain([&row.size]).find(|name| named(name)).cloned();
    match known.or_else(|| catalogue.sizes.keys().find(|name| named(name)).cloned()) {
        Some(name) => Ok(name),
        None => {
            let parsed = "custom".parse();
            parsed.map_err(|error: chom_protocol::id::NameError| FleetError::conflict(error.to_string()))
        }
    }
}

/// Refuses cores, memory and disk that the VPS's host has no room for.
pub(in crate::fleet) fn check_room(
    fleet: &Fleet,
    decision: &Decision,
    row: &VpsRow,
    (cores, memory, disk): (u32, Bytes, Bytes),
) -> Result<(), FleetError> {
    let spec = &row.spec;
    let wish = room::more(
        row,
        cores.saturating_sub(spec.cores),
        Bytes(memory.0.saturating_sub(spec.memory.0)),
        Bytes(disk.0.saturating_sub(spec.disk.0)),
    );
    if (wish.cores, wish.memory, wish.disk) == (0, Bytes(0), Bytes(0)) {
        return Ok(());
    }
    let host = host_row(&decision.state, row.host)?;
    let observation = fleet.observations().of(row.host);
    let held = decision.state.held.get(&row.host).copied();
    let has = room::candidate(fleet, decision, &wish, host, observation.as_deref(), held);
    let fits = has.as_ref().is_some_and(|has| {
        has.cores_free >= wish.cores && has.memory_free >= wish.memory && has.disk_free >= wish.disk
    });
    if fits {
        return Ok(());
    }
    let room = has.map_or_else(
        || "no room".to_owned(),
        |has| format!("{} cores, {} memory and {} disk free", has.cores_free, has.memory_free, has.disk_free),
    );
    Err(FleetError::Refused {
        kind: ErrorKind::NoCapacity,
        detail: format!(
            "host `{}` has {room}; VPS `{}` would need {} cores, {} memory and {} disk more: choose less, or make room there",
            host.name, spec.name, wish.cores, wish.memory, wish.disk
        ),
        location: Some("/size"),
    })
}
