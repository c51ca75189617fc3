//! What other systems call tenants and VPSs: unique among all tenants, and among the VPSs of one tenant.

use chom_protocol::api::tenants::{EXTERNAL_ID_CHARACTERS_MAX, SetExternalId, TenantView};
use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::{Name, VpsId};

use crate::fleet::rows::{TenantRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{Caller, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision, tenants, view};

impl Fleet {
    /// Says what another system calls a tenant.
    ///
    /// # Errors
    /// When there is no such tenant, another one is called so, or `If-Match` names another revision.
    pub async fn set_tenant_external_id(
        &self,
        caller: &Caller,
        mark: RequestMark,
        tenant: Name,
        request: SetExternalId,
    ) -> Result<Done<TenantView>, FleetError> {
        let id = request.external_id;
        check(id.as_deref())?;
        self.mutate(caller, mark, move |decision, mark| {
            let row = tenants::found(decision, mark, &tenant)?;
            check_tenants(&decision.state, id.as_deref(), &tenant)?;
            decision.audit("tenant.external-id", &tenant)?;
            decision.put(TenantRow { external_id: id, ..row })?;
            tenants::shown(&decision.state, &tenant)
        })
        .await
    }

    /// Says what another system calls a VPS.
    ///
    /// # Errors
    /// When there is no such VPS, another one of its tenant is called so, or `If-Match` names another revision.
    pub async fn set_vps_external_id(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: SetExternalId,
    ) -> Result<Done<VpsView>, FleetError> {
        let id = request.external_id;
        check(id.as_deref())?;
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let stored = decision.state.vps.get(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
            check_revision(mark, stored.revision)?;
            let row = stored.row.as_ref().clone();
            check_vps(&decision.state, &row.spec.tenant, id.as_deref(), Some(vps))?;
            decision.audit("vps.external-id", vps)?;
            let row = VpsRow { external_id: id, ..row };
            decision.put(row.clone())?;
            let observation = fleet.observations().of(row.host);
            let shown =
                view::vps(&decision.state, fleet.catalogue(), &row, observation.as_deref(), decision.now);
            Ok(view::vps_for(decision.sees_hosts, shown))
        })
        .await
    }
}

/// Refuses a text that is no external id.
///
/// # Errors
/// When it is empty, too long, or has a control character.
pub(super) fn check(id: Option<&str>) -> Result<(), FleetError> {
    let fits = |text: &str| {
        !text.is_empty()
            && text.chars().count() <= EXTERNAL_ID_CHARACTERS_MAX
            && !text.chars().any(char::is_control)
    };
    if id.is_none_or(fits) {
        return Ok(());
    }
    Err(FleetError::invalid(
        "/external_id",
        format!(
            "an external id has 1 to {EXTERNAL_ID_CHARACTERS_MAX} characters, none of them a control character"
        ),
    ))
}

/// Refuses what another tenant is called.
///
/// # Errors
/// When one is.
pub(super) fn check_tenants(state: &State, id: Option<&str>, own: &Name) -> Result<(), FleetError> {
    let mut all = state.tenants.values().map(|stored| stored.row.as_ref());
    match all.find(|row| id.is_some() && row.external_id.as_deref() == id && row.name != *own) {
        Some(other) => Err(taken(format!("tenant `{}` has this external id already", other.name))),
        None => Ok(()),
    }
}

/// Refuses what another VPS of the tenant is called.
///
/// # Errors
/// When one is.
pub(super) fn check_vps(
    state: &State,
    tenant: &Name,
    id: Option<&str>,
    own: Option<VpsId>,
) -> Result<(), FleetError> {
    if id.is_none() {
        return Ok(());
    }
    let all = state.vps_of_tenant.get(tenant).into_iter().flatten().filter(|vps| Some(**vps) != own);
    let mut rows = all.filter_map(|vps| state.get::<VpsRow>(vps));
    match rows.find(|row| row.external_id.as_deref() == id) {
        Some(other) => Err(taken(format!(
            "VPS `{}` has this external id already (perhaps deleted and kept)",
            other.spec.name
        ))),
        None => Ok(()),
    }
}

fn taken(detail: String) -> FleetError {
    FleetError::Refused { kind: ErrorKind::Conflict, detail, location: Some("/external_id") }
}
