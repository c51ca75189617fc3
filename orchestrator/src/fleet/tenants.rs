//! Tenants: made, limited, deleted. A name that was ever given is never given again, so that what is still kept of a deleted
//! tenant (operations, the audit trail) is nobody else's.

use chom_protocol::Name;
use chom_protocol::api::tenants::{CreateTenant, Quota, SetQuota, TenantView};

use crate::clock::rfc3339;
use crate::fleet::rows::{SshKeyRow, TenantRow};
use crate::fleet::state::{State, Table};
use crate::fleet::{
    Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision, external_ids, quota,
};

/// Most tenants, deleted ones included; about 300 bytes each in memory.
const TENANTS_MAX: usize = 100_000;

impl Fleet {
    /// Makes a tenant.
    ///
    /// # Errors
    /// When its name or its external id is taken.
    pub async fn create_tenant(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: CreateTenant,
    ) -> Result<Done<TenantView>, FleetError> {
        let CreateTenant { name, quota, external_id } = request;
        external_ids::check(external_id.as_deref())?;
        self.mutate(caller, mark, move |decision, _| {
            let taken = |location, detail| FleetError::Refused {
                kind: ErrorKind::Conflict,
                detail,
                location: Some(location),
            };
            let found = decision.state.get::<TenantRow>(&name);
            if found.is_some_and(|row| row.deleted_at.is_some()) {
                let detail =
                    format!("a tenant `{name}` was deleted; its name is not given again, choose another");
                return Err(taken("/name", detail));
            }
            if found.is_some() || name == Name::default_tenant() {
                return Err(taken(
                    "/name",
                    format!("there is a tenant `{name}` already; choose another name"),
                ));
            }
            if decision.state.tenants.len() >= TENANTS_MAX {
                return Err(FleetError::conflict(format!(
                    "there are {TENANTS_MAX} tenants, as many as can be"
                )));
            }
            external_ids::check_tenants(&decision.state, external_id.as_deref(), &name)?;
            decision.audit("tenant.create", &name)?;
            let row = TenantRow {
                name: name.clone(),
                quota,
                external_id,
                created_at: decision.now,
                deleted_at: None,
            };
            decision.put(row)?;
            shown(&decision.state, &name)
        })
        .await
    }

    /// Sets how much a tenant may have. What it has already stays.
    ///
    /// # Errors
    /// When there is no such tenant, or `If-Match` names another revision.
    pub async fn set_quota(
        &self,
        caller: &Caller,
        mark: RequestMark,
        tenant: Name,
        request: SetQuota,
    ) -> Result<Done<TenantView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            let row = found(decision, mark, &tenant)?;
            decision.audit("tenant.quota", &tenant)?;
            decision.put(TenantRow { quota: request.quota, ..row })?;
            shown(&decision.state, &tenant)
        })
        .await
    }

    /// Deletes a tenant that has nothing left.
    ///
    /// # Errors
    /// When there is no such tenant, it still has rows, or `If-Match` names another revision.
    pub async fn delete_tenant(
        &self,
        caller: &Caller,
        mark: RequestMark,
        tenant: Name,
    ) -> Result<Done<TenantView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            let row = found(decision, mark, &tenant)?;
            if tenant == Name::default_tenant() {
                return Err(FleetError::conflict(
                    "this tenant cannot be deleted: what names no tenant belongs to it",
                ));
            }
            refuse_owner(&decision.state, &tenant)?;
            let shown = shown(&decision.state, &tenant)?;
            decision.audit("tenant.delete", &tenant)?;
            decision.put(TenantRow { deleted_at: Some(decision.now), ..row })?;
            Ok(shown)
        })
        .await
    }

    /// A tenant.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn tenant_view(&self, tenant: &Name) -> Result<TenantView, FleetError> {
        shown(&self.state(), tenant)
    }
}

/// A tenant that is there. The default one always is, with a row or without.
#[must_use]
pub fn get(state: &State, tenant: &Name) -> Option<TenantRow> {
    let row = state.get::<TenantRow>(tenant).filter(|row| row.deleted_at.is_none()).cloned();
    row.or_else(|| (*tenant == Name::default_tenant()).then(default_row))
}

/// All of them, by name.
#[must_use]
pub fn all(state: &State) -> Vec<Name> {
    let mut all: Vec<Name> = state
        .tenants
        .values()
        .map(|stored| stored.row.as_ref())
        .filter(|row| row.deleted_at.is_none())
        .map(|row| row.name.clone())
        .collect();
    if let Err(place) = all.binary_search(&Name::default_tenant()) {
        all.insert(place, Name::default_tenant());
    }
    all
}

/// Refuses a request that names a tenant that is not there.
///
/// # Errors
/// When there is none of this name.
pub(crate) fn check(state: &State, tenant: &Name) -> Result<(), FleetError> {
    match get(state, tenant) {
        Some(_) => Ok(()),
        None => Err(unknown(tenant)),
    }
}

/// The error of a request that names a tenant that is not there, or not the caller's.
pub(super) fn unknown(tenant: &Name) -> FleetError {
    FleetError::invalid("/tenant", format!("there is no tenant `{tenant}`"))
}

fn default_row() -> TenantRow {
    TenantRow {
        name: Name::default_tenant(),
        quota: Quota::default(),
        external_id: None,
        created_at: chom_protocol::UnixMillis(0),
        deleted_at: None,
    }
}

pub(super) fn found(decision: &Decision, mark: &RequestMark, tenant: &Name) -> Result<TenantRow, FleetError> {
    let row = get(&decision.state, tenant).ok_or_else(|| FleetError::not_found("tenant", tenant))?;
    if let Some(stored) = decision.state.tenants.get(tenant) {
        check_revision(mark, stored.revision)?;
    }
    Ok(row)
}

/// What is left of a tenant would be nobody's.
fn refuse_owner(state: &State, tenant: &Name) -> Result<(), FleetError> {
    let vps = state.vps_of_tenant.get(tenant).map_or(0, |ids| ids.len());
    let keys = SshKeyRow::rows(state).values().filter(|stored| stored.row.tenant == *tenant).count();
    let tokens = state.tokens.values().filter(|stored| stored.row.tenant.as_ref() == Some(tenant)).count();
    let webhooks =
        state.webhooks.values().filter(|stored| stored.row.tenant.as_ref() == Some(tenant)).count();
    let users = state.users.values().filter(|stored| stored.row.tenant.as_ref() == Some(tenant)).count();
    if vps + keys + tokens + webhooks + users == 0 {
        return Ok(());
    }
    Err(FleetError::conflict(format!(
        "tenant `{tenant}` still has {vps} VPSs (deleted ones that are kept included), {keys} SSH keys, {users} users, {tokens} tokens and \
         {webhooks} webhooks; remove them first"
    )))
}

pub(super) fn shown(state: &State, tenant: &Name) -> Result<TenantView, FleetError> {
    let row = get(state, tenant).ok_or_else(|| FleetError::not_found("tenant", tenant))?;
    Ok(TenantView {
        used: quota::used(state, tenant),
        name: row.name,
        quota: row.quota,
        external_id: row.external_id,
        created_at: rfc3339(row.created_at),
        revision: state.tenants.get(tenant).map_or(0, |stored| stored.revision.0),
    })
}
