//! A new VPS from a request: judged by itself, then placed, addressed and written in one commit.

use std::collections::BTreeMap;

use chom_protocol::api::vps_servers::{CreateVps, USER_DATA_BYTES_MAX, VpsAccepted};
use chom_protocol::vps::{ImageFormat, Power, VpsSpec};
use chom_protocol::{HostId, Name, VpsId};

use super::{check_name, enter, keep_blob};
use crate::fleet::catalogue::{Image, Size};
use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::{check_labels, unknown};
use crate::fleet::rows::VpsRow;
use crate::fleet::state::State;
use crate::fleet::{
    Caller, Decision, Done, Fleet, FleetError, RequestMark, external_ids, network, room, ssh_keys, tenants,
};
use crate::placement::Wish;
use crate::user_data;

impl Fleet {
    /// Creates a VPS: finds a host and an address, and lets the host's agent make it.
    ///
    /// # Errors
    /// When the request breaks a rule, the name is taken, or no host has room.
    pub async fn create_vps(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: CreateVps,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        let request = for_caller(caller, request)?;
        let chosen = choose(self, &request)?;
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| create(&fleet, decision, request, &chosen)).await
    }
}

/// The catalogue's rows that a request names.
pub(in crate::fleet) struct Chosen {
    pub(in crate::fleet) size: Size,
    /// The first that a host has room for is taken.
    pub(in crate::fleet) images: Vec<Image>,
}

/// The request with the tenant that it is for.
pub(in crate::fleet) fn for_caller(caller: &Caller, request: CreateVps) -> Result<CreateVps, FleetError> {
    if !caller.sees_hosts() && !request.host_labels.is_empty() {
        return Err(FleetError::Refused {
            kind: ErrorKind::Forbidden,
            detail: "which hosts there are is not a tenant's to choose; name a region only".to_owned(),
            location: Some("/host_labels"),
        });
    }
    let tenant = caller.tenant_of(request.tenant.as_ref())?;
    Ok(CreateVps { tenant: Some(tenant), ..request })
}

fn tenant_of(request: &CreateVps) -> Name {
    request.tenant.clone().unwrap_or_else(Name::default_tenant)
}

/// What a create asks of its host.
pub(in crate::fleet) fn wish(request: &CreateVps, size: &Size, image: &Image) -> Wish {
    let group = request.anti_affinity.clone();
    Wish {
        region: request.region.clone(),
        engine: image.engine,
        labels: request.host_labels.clone(),
        group: group.map(|group| (tenant_of(request), group)),
        cores: size.cores,
        memory: size.memory,
        disk: size.disk,
    }
}

/// Judges a request by itself, and finds what it names.
pub(in crate::fleet) fn choose(fleet: &Fleet, request: &CreateVps) -> Result<Chosen, FleetError> {
    let catalogue = fleet.catalogue();
    if !catalogue.regions.contains(&request.region) {
        return Err(unknown("/region", "region", &request.region, catalogue.regions.iter()));
    }
    let Some(size) = catalogue.sizes.get(&request.size).copied() else {
        return Err(unknown("/size", "size", &request.size, catalogue.sizes.keys()));
    };
    let images = images(fleet, &fleet.state(), request)?;
    if let Some(medium) = images.iter().find(|image| image.reference.format == ImageFormat::Iso) {
        return Err(FleetError::invalid(
            "/image",
            format!(
                "`{}` is a CD-ROM: a VPS is made from a disk image and can have it attached (`chomctl vps iso`)",
                medium.reference.name
            ),
        ));
    }
    if let Some(image) = images.iter().find(|image| image.minimum_disk > size.disk) {
        return Err(FleetError::invalid(
            "/size",
            format!(
                "image `{}` needs a disk of {}; size `{}` has {}",
                image.reference.name, image.minimum_disk, request.size, size.disk
            ),
        ));
    }
    check_labels("/host_labels", &request.host_labels)?;
    ssh_keys::check_all("/ssh_keys", &request.ssh_keys)?;
    check_user_data(request.user_data.as_deref())?;
    Ok(Chosen { size, images })
}

/// The images that a request can be made from, each with the engine that it would be made in.
pub(in crate::fleet) fn images(
    fleet: &Fleet,
    state: &State,
    request: &CreateVps,
) -> Result<Vec<Image>, FleetError> {
    if let Some(name) = &request.image {
        let image = fleet.known_image(state, name)?;
        let (engine, format) = (request.engine.unwrap_or(image.engine), image.reference.format);
        if !engine.takes(format) {
            let what = format!(
                "image `{name}` has format `{format}`, which {engine} cannot run; choose another image"
            );
            return Err(FleetError::invalid("/engine", what));
        }
        return Ok(vec![Image { engine, ..image }]);
    }
    let catalogue = fleet.catalogue();
    let defaults = catalogue.default_images.iter().filter_map(|name| catalogue.images.get(name));
    let fit = defaults.filter(|image| request.engine.is_none_or(|engine| engine == image.engine));
    let images: Vec<Image> = fit.cloned().collect();
    match request.engine {
        _ if !images.is_empty() => Ok(images),
        None => Err(FleetError::invalid("/image", "name an image; no default is configured")),
        Some(engine) => Err(FleetError::invalid(
            "/image",
            format!("name an image; no default is configured for {engine}"),
        )),
    }
}

pub(super) fn check_user_data(user_data: Option<&str>) -> Result<(), FleetError> {
    let Some(text) = user_data else { return Ok(()) };
    if text.len() > USER_DATA_BYTES_MAX {
        return Err(FleetError::invalid(
            "/user_data",
            format!("user data of {} bytes; at most {USER_DATA_BYTES_MAX} are allowed", text.len()),
        ));
    }
    user_data::check(text).map_err(|mistake| FleetError::invalid("/user_data", mistake.to_string()))
}

pub(in crate::fleet) fn create(
    fleet: &Fleet,
    decision: &mut Decision,
    request: CreateVps,
    chosen: &Chosen,
) -> Result<VpsAccepted, FleetError> {
    let tenant = tenant_of(&request);
    tenants::check(&decision.state, &tenant)?;
    check_name(decision, &tenant, &request.name)?;
    external_ids::check(request.external_id.as_deref())?;
    external_ids::check_vps(&decision.state, &tenant, request.external_id.as_deref(), None)?;
    // They were looked up before this decision's turn.
    if let Some(image) = chosen.images.iter().find(|image| {
        fleet.image(&decision.state, &image.reference.name).map(|now| now.reference).as_ref()
            != Some(&image.reference)
    }) {
        return Err(FleetError::conflict(format!(
            "image `{}` was just removed or replaced; choose again",
            image.reference.name
        )));
    }
    let network = network::choose(&decision.state, &request.region, request.network.as_ref())?;
    let size = &chosen.size;
    let (image, host) = place_one_of(fleet, decision, &request, chosen)?;
    let ssh_keys = ssh_keys::resolve(&decision.state, &tenant, &request)?;
    let id = VpsId::new(decision.new_id());
    let wanted = network::Wanted { vps: id, host, network: &network };
    let interface = network::plug_in(decision, &wanted)?;
    let user_data = request.user_data.map(|text| keep_blob(decision, &text)).transpose()?;
    let spec = VpsSpec {
        id,
        tenant,
        name: request.name,
        placement: 1,
        engine: image.engine,
        power: Power::Running,
        guest_shutdown: request.guest_shutdown,
        hold: false,
        retained: false,
        start_count: 1,
        build: 0,
        suspension: None,
        stop_grace_seconds: None,
        cores: size.cores,
        memory: size.memory,
        disk: size.disk,
        image: Some(image.reference.clone()),
        interface,
        ssh_keys,
        user_data,
        source: None,
        rescue: None,
        iso: None,
        adopted: None,
    };
    let row = VpsRow {
        spec,
        region: request.region,
        size: request.size,
        host,
        network: network.name,
        anti_affinity: request.anti_affinity,
        retention: None,
        purging: None,
        suspensions: BTreeMap::new(),
        created_at: decision.now,
        external_id: request.external_id,
    };
    enter(fleet, decision, &row, "create")
}

/// The first of the images that a host has room for, and the host.
fn place_one_of<'a>(
    fleet: &Fleet,
    decision: &Decision,
    request: &CreateVps,
    chosen: &'a Chosen,
) -> Result<(&'a Image, HostId), FleetError> {
    let mut reasons = Vec::new();
    for image in &chosen.images {
        match room::find_host(fleet, decision, &wish(request, &chosen.size, image)) {
            Ok(host) => return Ok((image, host)),
            Err(none) => reasons.push(none.to_string()),
        }
    }
    reasons.dedup();
    let detail = reasons.join("; ");
    Err(FleetError::Refused { kind: ErrorKind::NoCapacity, detail, location: Some("/region") })
}
