//! Foreign guests become VPSs where they stand. Everything is judged before anything is written: what the host says of the
//! guest, what the request adds to that, and what others hold. The host's agent then takes the guest on.

use std::collections::BTreeMap;

use chom_protocol::api::adoption::{ADOPTIONS_MAX, AdoptPlan, AdoptVps};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::foreign::{Adopted, DiskKind, GuestDisk, Hardware};
use chom_protocol::helper::GuestDefinition;
use chom_protocol::vps::{Engine, ForeignGuest, GuestShutdown, Power, VpsSpec, VpsState};
use chom_protocol::{Bytes, Name};

use crate::clock;
use crate::fleet::catalogue::{Catalogue, Size};
use crate::fleet::hosts::host_row;
use crate::fleet::rows::{Goal, HostRow, VpsRow};
use crate::fleet::{
    Caller, Decision, Done, Fleet, FleetError, RequestMark, external_ids, network, tenants, vps,
};
use crate::health;

/// The figures of a VPS that are no size of the catalogue.
const CUSTOM: &str = "custom";
/// Foreign guests that a message names; a host may have hundreds.
const NAMED_MAX: usize = 8;

impl Fleet {
    /// Makes a foreign guest a VPS.
    ///
    /// # Errors
    /// When there is no such guest, it cannot be adopted, or what it would take is taken.
    pub async fn adopt_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: AdoptVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| {
            adopt(&fleet, decision, &request).map(|(accepted, _)| accepted)
        })
        .await
    }

    /// Plans an adoption. Nothing is reserved; that the guest cannot be adopted is an answer.
    pub fn plan_adoption(&self, caller: &Caller, request: AdoptVps) -> AdoptPlan {
        plan(self, &mut Decision::begin(&self.state(), clock::now(), caller.name.clone()), request)
    }

    /// Plans adoptions, one after the other: each finds taken what those before it would take.
    ///
    /// # Errors
    /// When there are too many.
    pub fn plan_adoptions(
        &self,
        caller: &Caller,
        requests: Vec<AdoptVps>,
    ) -> Result<Vec<AdoptPlan>, FleetError> {
        if requests.len() > ADOPTIONS_MAX {
            return Err(FleetError::invalid(
                "/guests",
                format!("{} guests; at most {ADOPTIONS_MAX} are planned in one request", requests.len()),
            ));
        }
        let mut decision = Decision::begin(&self.state(), clock::now(), caller.name.clone());
        Ok(requests.into_iter().map(|request| plan(self, &mut decision, request)).collect())
    }
}

fn plan(fleet: &Fleet, decision: &mut Decision, request: AdoptVps) -> AdoptPlan {
    let (vps, problem, notes) = match adopt(fleet, decision, &request) {
        Ok((accepted, notes)) => (Some(accepted.vps), None, notes),
        Err(error) => (None, Some(error.to_string()), Vec::new()),
    };
    // Each has an operation of its own.
    decision.operation = None;
    AdoptPlan { host: request.host, guest: request.guest, vps, problem, notes }
}

/// Writes nothing unless all of it can be done.
fn adopt(
    fleet: &Fleet,
    decision: &mut Decision,
    request: &AdoptVps,
) -> Result<(VpsAccepted, Vec<String>), FleetError> {
    let host = find_host(fleet, decision, &request.host)?;
    let guest = find_guest(fleet, decision, &host, request)?;
    let hardware = adoptable(&guest, &host)?;
    check_id(decision, &host, &guest, hardware)?;
    let tenant = request.tenant.clone().unwrap_or_else(Name::default_tenant);
    tenants::check(&decision.state, &tenant)?;
    let name = name(request, &guest)?;
    vps::check_name(decision, &tenant, &name)?;
    external_ids::check(request.external_id.as_deref())?;
    external_ids::check_vps(&decision.state, &tenant, request.external_id.as_deref(), None)?;
    let figures = figures(request, hardware)?;
    let card = network::adopt::Card {
        vps: hardware.id,
        host: &host,
        cards: &hardware.cards,
        network: request.network.as_ref(),
        mac: request.mac.as_deref(),
        addresses: &request.addresses,
        spoof_guard: request.spoof_guard,
    };
    let plugged = network::adopt::judge(decision, &card)?;
    let mut notes = notes(&guest, hardware);
    notes.extend(plugged.notes);
    notes.extend(crowded(fleet, decision, &host, figures));
    let spec = VpsSpec {
        id: hardware.id,
        tenant,
        name,
        placement: 1,
        engine: guest.engine,
        power: power(&guest)?,
        guest_shutdown: GuestShutdown::StayOff,
        hold: false,
        retained: false,
        start_count: 1,
        build: 0,
        suspension: None,
        stop_grace_seconds: None,
        cores: figures.cores,
        memory: figures.memory,
        disk: figures.disk,
        image: None,
        interface: plugged.interface,
        ssh_keys: Vec::new(),
        user_data: None,
        source: None,
        rescue: None,
        iso: None,
        adopted: Some(Box::new(Adopted { guest: guest.name.clone(), disks: hardware.disks.clone() })),
    };
    let row = VpsRow {
        spec,
        region: host.region.clone(),
        size: size(fleet.catalogue(), figures)?,
        host: host.id,
        network: plugged.network,
        anti_affinity: None,
        retention: None,
        purging: None,
        suspensions: BTreeMap::new(),
        created_at: decision.now,
        external_id: request.external_id.clone(),
    };
    plugged.held.into_iter().try_for_each(|address| decision.put(address))?;
    let accepted = vps::enter_for(fleet, decision, &row, "adopt", Goal::Settled)?;
    Ok((accepted, notes))
}

fn find_host(fleet: &Fleet, decision: &Decision, which: &Name) -> Result<HostRow, FleetError> {
    let by_id = which.as_str().parse().ok().and_then(|id| host_row(&decision.state, id).ok());
    let rows = || decision.state.hosts.values().map(|stored| stored.row.as_ref());
    let found = by_id.or_else(|| rows().find(|row| row.name == *which));
    let Some(row) = found else {
        return Err(FleetError::invalid(
            "/host",
            format!("there is no host `{which}`; see `chomctl host list`"),
        ));
    };
    if !vps::is_managed(row, decision.epoch()) {
        return Err(FleetError::conflict(format!(
            "host `{}` takes no orders now: it is not enrolled, put out of the fleet, or waits after a restore; see \
             `chomctl host show {}`",
            row.name, row.name
        )));
    }
    let observation = fleet.observations().of(row.id);
    if !health::is_seen(observation.as_deref(), fleet.catalogue().unreachable_after_seconds, decision.now) {
        return Err(FleetError::conflict(format!(
            "host `{}` is not seen now, so it is not known which guests it has; ask again when it is back",
            row.name
        )));
    }
    Ok(row.clone())
}

/// The guest as its host listed it last.
fn find_guest(
    fleet: &Fleet,
    decision: &Decision,
    host: &HostRow,
    request: &AdoptVps,
) -> Result<ForeignGuest, FleetError> {
    let observation = fleet.observations().of(host.id);
    let status = observation.as_ref().and_then(|seen| seen.status.as_ref());
    let foreign = status.map(|status| status.foreign.as_slice()).unwrap_or_default();
    let of_engine = |guest: &&ForeignGuest| request.engine.is_none_or(|engine| engine == guest.engine);
    let found: Vec<&ForeignGuest> =
        foreign.iter().filter(|guest| guest.name == request.guest).filter(of_engine).collect();
    match found.as_slice() {
        [guest] => return Ok((*guest).clone()),
        [] => {}
        several => {
            let engines: Vec<String> = several.iter().map(|guest| guest.engine.to_string()).collect();
            return Err(FleetError::invalid(
                "/engine",
                format!(
                    "host `{}` has a guest `{}` in {}: name its engine",
                    host.name,
                    shown(&request.guest),
                    engines.join(" and in ")
                ),
            ));
        }
    }
    let is_it = |row: &&VpsRow| {
        let engine = request.engine.is_none_or(|engine| engine == row.spec.engine);
        let adopted = row.spec.adopted.as_ref().map(|adopted| adopted.guest.as_str());
        engine && adopted.unwrap_or(&GuestDefinition::guest_name(row.spec.id)) == request.guest
    };
    if let Some(row) = decision.state.vps_on(host.id).find(is_it) {
        return Err(FleetError::conflict(format!(
            "the guest `{}` of host `{}` is VPS `{}` of tenant `{}` already",
            shown(&request.guest),
            host.name,
            row.spec.name,
            row.spec.tenant
        )));
    }
    let engines = status.map(|status| status.engines.as_slice()).unwrap_or_default();
    if let Some(silent) = engines.iter().find(|engine| engine.problem.is_some()) {
        return Err(FleetError::conflict(format!(
            "host `{}` lists no guest `{}`, and its {} does not answer now; ask again when it does",
            host.name,
            shown(&request.guest),
            silent.engine
        )));
    }
    let mut names: Vec<&str> = foreign.iter().map(|guest| guest.name.as_str()).take(NAMED_MAX).collect();
    if foreign.len() > NAMED_MAX {
        names.push("…");
    }
    let has = if names.is_empty() { "no foreign guest".to_owned() } else { names.join(", ") };
    Err(FleetError::invalid(
        "/guest",
        format!("host `{}` has no foreign guest `{}`; it has: {has}", host.name, shown(&request.guest)),
    ))
}

/// What a guest is made of, if nothing stands against its adoption.
fn adoptable<'a>(guest: &'a ForeignGuest, host: &HostRow) -> Result<&'a Hardware, FleetError> {
    let hardware = guest.hardware.as_deref().ok_or_else(|| {
        FleetError::conflict(format!(
            "host `{}` could not say what the guest `{}` is made of; look at {} there",
            host.name,
            shown(&guest.name),
            guest.engine
        ))
    })?;
    match &hardware.obstacle {
        Some(obstacle) => {
            Err(FleetError::conflict(format!("the guest `{}`: {obstacle}", shown(&guest.name))))
        }
        None => Ok(hardware),
    }
}

/// Its host lists it for a moment longer, and people copy definitions with the id in them.
fn check_id(
    decision: &Decision,
    host: &HostRow,
    guest: &ForeignGuest,
    hardware: &Hardware,
) -> Result<(), FleetError> {
    let Some(row) = decision.state.get::<VpsRow>(&hardware.id) else { return Ok(()) };
    let is_it = row.host == host.id && row.spec.adopted.as_ref().is_some_and(|own| own.guest == guest.name);
    let (vps, tenant) = (&row.spec.name, &row.spec.tenant);
    Err(FleetError::conflict(match is_it {
        true => format!("the guest `{}` is VPS `{vps}` of tenant `{tenant}` already", shown(&guest.name)),
        false => format!(
            "the guest `{}` has the id {} of VPS `{vps}` of tenant `{tenant}`: it is a copy of it; give the copy an id of \
             its own",
            shown(&guest.name),
            hardware.id
        ),
    }))
}

/// As it is now, so that nothing happens to it.
fn power(guest: &ForeignGuest) -> Result<Power, FleetError> {
    match guest.state {
        VpsState::Running => Ok(Power::Running),
        VpsState::Paused => Ok(Power::Paused),
        VpsState::Stopped | VpsState::StoppedByGuest | VpsState::Crashed => Ok(Power::Stopped),
        VpsState::Preparing | VpsState::Absent | VpsState::Unknown => Err(FleetError::conflict(format!(
            "it cannot be told whether the guest `{}` is on; ask again in a moment",
            shown(&guest.name)
        ))),
    }
}

fn name(request: &AdoptVps, guest: &ForeignGuest) -> Result<Name, FleetError> {
    match &request.name {
        Some(name) => Ok(name.clone()),
        None => guest.name.parse().map_err(|error: chom_protocol::id::NameError| {
            FleetError::invalid("/name", format!("{error}; give it a name as a VPS (`name`)"))
        }),
    }
}

/// Cores, memory and disk: as the engine has them, and as the request says where it has no limit.
fn figures(request: &AdoptVps, hardware: &Hardware) -> Result<Size, FleetError> {
    let disk = hardware.disks.first().and_then(|disk| disk.size);
    let cores = one(("cores", "/cores"), hardware.cores, request.cores)?;
    let memory = one(("memory_bytes", "/memory_bytes"), hardware.memory, request.memory_bytes)?;
    Ok(Size { cores, memory, disk: one(("disk_bytes", "/disk_bytes"), disk, request.disk_bytes)? })
}

fn one<T: PartialEq + std::fmt::Display>(
    (field, location): (&str, &'static str),
    has: Option<T>,
    said: Option<T>,
) -> Result<T, FleetError> {
    match (has, said) {
        (Some(has), Some(said)) if has != said => Err(FleetError::invalid(
            location,
            format!(
                "its engine says {has}, not {said}: leave `{field}` out; it can be resized once it is adopted"
            ),
        )),
        (Some(value), _) | (None, Some(value)) => Ok(value),
        (None, None) => Err(FleetError::invalid(
            location,
            format!(
                "its engine sets no limit here, or cannot tell it: say with how much it counts (`{field}`)"
            ),
        )),
    }
}

fn size(catalogue: &Catalogue, figures: Size) -> Result<Name, FleetError> {
    let named = catalogue.sizes.iter().find(|(_, size)| **size == figures).map(|(name, _)| name.clone());
    let custom = || {
        CUSTOM.parse().map_err(|error: chom_protocol::id::NameError| FleetError::conflict(error.to_string()))
    };
    named.map_or_else(custom, Ok)
}

/// What is to be known of a guest that is adopted.
fn notes(guest: &ForeignGuest, hardware: &Hardware) -> Vec<String> {
    let mut notes = Vec::new();
    let mut disks = hardware.disks.iter();
    let own = disks.next();
    if guest.engine == Engine::Libvirt {
        match own {
            Some(disk) if disk.kind == DiskKind::Qcow2 => {}
            Some(disk) => notes.push(format!("its disk {} is a {}: no snapshots", disk.path, disk.kind)),
            None => notes.push("it has no disk".to_owned()),
        }
    }
    let left = hardware.disks.iter().filter(|disk| stays(disk)).map(|disk| disk.path.as_str());
    let left: Vec<&str> = left.collect();
    if !left.is_empty() {
        notes.push(format!("a purge leaves {}: CHOM removes files only", left.join(", ")));
    }
    let others: Vec<&str> = disks.map(|disk| disk.path.as_str()).collect();
    if !others.is_empty() {
        notes.push(format!("beside its disk it has {}, which goes with it", others.join(", ")));
    }
    notes
}

/// Whether a purge leaves a disk: what is no file may be anybody's, and only its owner knows how it is to be freed.
pub(super) fn stays(disk: &GuestDisk) -> bool {
    matches!(disk.kind, DiskKind::Block | DiskKind::Other)
}

/// It runs there whether it is counted or not: that there is no room is said and stops nothing.
fn crowded(fleet: &Fleet, decision: &Decision, host: &HostRow, figures: Size) -> Option<String> {
    let observation = fleet.observations().of(host.id)?;
    let inventory = &observation.status.as_ref()?.inventory;
    let (cores, memory, disk) = fleet.catalogue().overcommit.promisable(&host.limits, inventory);
    let held = decision.state.held.get(&host.id).copied().unwrap_or_default();
    let over = held.cores + figures.cores > cores
        || Bytes(held.memory.0 + figures.memory.0) > memory
        || Bytes(held.disk.0 + figures.disk.0) > disk;
    over.then(|| {
        format!(
            "host `{}` then has promised more than it may: it gets no new VPSs until there is room",
            host.name
        )
    })
}

/// A text of a request as messages show it.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
