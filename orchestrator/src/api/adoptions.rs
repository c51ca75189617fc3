//! Foreign guests become VPSs where they stand: one in a request, planned as many as a file has.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chom_protocol::api::adoption::{AdoptPlan, AdoptPlans, AdoptVps, PlanAdoptions};
use chom_protocol::api::vps_servers::VpsAccepted;

use crate::api::problem::ApiError;
use crate::api::request::{Mutation, Plannable};
use crate::api::{App, answer};
use crate::fleet::Caller;

/// Adopts a guest that CHOM did not make: it becomes a VPS where it stands, without a restart.
#[utoipa::path(post, path = "/api/adoptions", tag = "VPSs", operation_id = "adopt_vps", request_body = AdoptVps,
    params(("dry_run" = Option<bool>, Query, description = "Say what it would become, and do nothing.")),
    responses((status = 202, description = "It will be adopted.", body = VpsAccepted),
        (status = 200, description = "What would be done (`dry_run`).", body = AdoptPlan)))]
pub(super) async fn adopt(
    State(app): State<App>,
    caller: Caller,
    request: Plannable<AdoptVps>,
) -> Result<Response, ApiError> {
    if request.dry_run {
        return Ok(answer::row(&app.fleet.plan_adoption(&caller, request.body)));
    }
    let done = app.fleet.adopt_vps(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Says of several guests what each would become, and does nothing: what one takes is taken for those after it.
#[utoipa::path(post, path = "/api/adoptions/plan", tag = "VPSs", operation_id = "plan_adoptions",
    request_body = PlanAdoptions,
    responses((status = 200, description = "What would be done.", body = AdoptPlans)))]
pub(super) async fn plan(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<PlanAdoptions>,
) -> Result<Response, ApiError> {
    let plans = app.fleet.plan_adoptions(&caller, request.body.guests)?;
    Ok(answer::row(&AdoptPlans { plans }))
}
