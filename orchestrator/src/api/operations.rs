//! Operations: how far changes are.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chom_protocol::api::operations::{OperationState, OperationView};
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::{HostId, Name, OperationId, VpsId};

use crate::api::list::{Chosen, Given, Key, List, Parameter, Part, Place, Query, Rows, Sight, is_among};
use crate::api::problem::ApiError;
use crate::api::request::{Order, RowId};
use crate::api::vps_list::HostKey;
use crate::api::{App, answer, watch};
use crate::clock;
use crate::fleet::events::Touched;
use crate::fleet::rows::{Goal, OperationRow, VpsRow};
use crate::fleet::{Caller, FleetError, bulk, view};

/// Which operations are asked for.
pub(super) struct OperationList {
    vps: Option<VpsId>,
    host: Option<HostKey>,
    states: Vec<OperationState>,
    kinds: Vec<String>,
    tenant: Option<Name>,
}

impl List for OperationList {
    const NAME: &'static str = "operations";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "vps", about: "Only about this VPS, by id." },
        Parameter { name: "host", about: "Only on this host, by id or name; not for a tenant's tokens." },
        Parameter { name: "state", about: "Only in one of these states: `failed`, or `pending,running`." },
        Parameter { name: "kind", about: "Only of one of these kinds: `create`, or `start,stop`." },
        Parameter { name: "tenant", about: "Only about VPSs of this tenant." },
    ];
    const OF_FLEET: &'static [&'static str] = &["host"];
    // Their ids are made in order of time.
    const SORTS: &'static [&'static str] = &["created_at"];
    const IS_WATCHED: bool = true;

    fn read(given: &Given) -> Result<Self, ApiError> {
        let kinds =
            given.text("kind").map(|text| text.split(',').map(|kind| kind.trim().to_owned()).collect());
        Ok(Self {
            vps: given.one("vps")?,
            host: HostKey::read(given)?,
            states: given.words("state")?,
            kinds: kinds.unwrap_or_default(),
            tenant: given.one("tenant")?,
        })
    }
}

impl OperationList {
    fn fits(&self, sight: &Sight, host: Option<HostId>, row: &OperationRow) -> bool {
        sight.caller.sees_operation(row)
            && self.vps.is_none_or(|vps| row.vps == Some(vps))
            && host.is_none_or(|host| row.host == Some(host))
            && is_among(&self.states, || row.state)
            && (self.kinds.is_empty() || self.kinds.contains(&row.kind))
            && self.tenant.as_ref().is_none_or(|tenant| *tenant == row.tenant)
    }
}

impl Rows for OperationList {
    type Id = OperationId;
    type View = OperationView;

    fn part(
        &self,
        sight: &Sight,
        part: &Part<OperationId>,
    ) -> Result<Chosen<OperationView, OperationId>, ApiError> {
        let (state, caller) = (sight.state.as_ref(), &sight.caller);
        let host = self.host.as_ref().map(|host| host.id(sight));
        let bounds = part.bounds(part.start_id());
        // A tenant's callers are answered from their tenant's rows alone: what others do takes them no time.
        let is_own = |vps: &VpsId| {
            caller.tenant.is_none() || state.get::<VpsRow>(vps).is_some_and(|row| caller.sees_vps(row))
        };
        let vps = caller.vps.or(self.vps).filter(is_own);
        let tenant = caller.tenant.as_ref().or(self.tenant.as_ref());
        let ids: Box<dyn Iterator<Item = OperationId>> = match (vps, tenant) {
            (Some(vps), _) => {
                let within = move |id: &OperationId| std::ops::RangeBounds::contains(&bounds, id);
                part.directed(state.operations_about(vps).filter(within))
            }
            (None, Some(tenant)) => {
                let own = state.operations_of_tenant.get(tenant);
                part.directed(own.into_iter().flat_map(move |ids| ids.range(bounds)).copied())
            }
            (None, None) => part.directed(state.operations.range(bounds).map(|(id, _)| *id)),
        };
        let rows = ids.filter_map(|id| state.get::<OperationRow>(&id));
        let place = |row: &&OperationRow| Place { key: Key::Nothing, id: row.id };
        Ok(part.walk(rows, |row| self.fits(sight, host, row), place).map(|row| shown(sight, row)))
    }

    fn row(&self, sight: &Sight, id: OperationId) -> Option<OperationView> {
        let host = self.host.as_ref().map(|host| host.id(sight));
        let row = sight.state.get::<OperationRow>(&id).filter(|row| self.fits(sight, host, row))?;
        Some(shown(sight, row))
    }

    fn id(view: &OperationView) -> OperationId {
        view.id
    }

    fn concerned(sight: &Sight, touched: &Touched) -> Vec<OperationId> {
        match touched {
            Touched::Operation(id, ..) => vec![*id],
            // An operation that waits for a host says that it is out of sight.
            Touched::Sight(host) => {
                let open = sight.state.open_operations.range((*host, OperationId::new(uuid::Uuid::nil()))..);
                let ids = open.take_while(|(of, _)| of == host).map(|(_, id)| *id);
                ids.filter(|id| {
                    sight.state.get::<OperationRow>(id).is_some_and(|row| sight.caller.sees_operation(row))
                })
                .collect()
            }
            Touched::Vps(..) | Touched::Host(_) | Touched::Alert(_) => Vec::new(),
        }
    }
}

/// An operation as the caller is shown it.
fn shown(sight: &Sight, row: &OperationRow) -> OperationView {
    let observation = row.host.and_then(|host| sight.observations.get(&host)).map(AsRef::as_ref);
    let shown = view::operation_now(sight.app.fleet.catalogue(), row, observation, sight.now);
    view::operation_for(sight.caller.sees_hosts(), shown)
}

/// Lists the operations, oldest first.
#[utoipa::path(get, path = "/api/operations", tag = "operations", operation_id = "list_operations", params(PageQuery),
    responses((status = 200, description = "A page of operations.", body = Page<OperationView>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Query<OperationList>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    watch::answer(app, caller, query, &headers)
}

/// Shows an operation.
#[utoipa::path(get, path = "/api/operations/{operation}", tag = "operations", operation_id = "show_operation",
    params(("operation" = OperationId, Path, description = "Its id.")),
    responses((status = 200, description = "The operation.", body = OperationView)))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    RowId(id): RowId<OperationId>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let row = state.get::<OperationRow>(&id).ok_or_else(|| FleetError::not_found("operation", id))?;
    let observation = row.host.and_then(|host| app.fleet.observations().of(host));
    let (catalogue, now) = (app.fleet.catalogue(), clock::now());
    let mut shown = view::operation_now(catalogue, row, observation.as_deref(), now);
    if let Goal::Bulk { .. } = row.goal {
        shown.bulk = Some(bulk::counts(&state, id));
    }
    Ok(answer::row(&view::operation_for(caller.sees_hosts(), shown)))
}

/// Takes an operation back where that is safe: the VPS is wanted as it was before.
#[utoipa::path(post, path = "/api/operations/{operation}/cancel", tag = "operations", operation_id = "cancel_operation",
    params(("operation" = OperationId, Path, description = "Its id.")),
    responses((status = 200, description = "It was taken back.", body = OperationView)))]
pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    RowId(operation): RowId<OperationId>,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.cancel_operation(&caller, order.mark, operation).await?;
    Ok(answer::done(StatusCode::OK, &done))
}
