//! Answers of handlers: a view as JSON, written straight to bytes, with the headers that go with it.

use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chom_protocol::api::Page;
use chom_protocol::api::hosts::{HostAdded, HostView};
use chom_protocol::api::networks::{NetworkView, VpsNetworkView};
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use serde::Serialize;

use crate::api::problem::{ApiError, Kind};
use crate::fleet::Done;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A view that stands for one row, or for what became of it.
pub(super) trait Row: Serialize {
    /// The row's revision, where it has one.
    fn revision(&self) -> Option<u64> {
        None
    }

    /// Where to look next, where that is somewhere else.
    fn location(&self) -> Option<String> {
        None
    }
}

impl Row for HostView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::tenants::TenantView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::users::UserView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::users::SignedIn {}
impl Row for chom_protocol::api::users::WhoAmI {}
impl Row for chom_protocol::api::tokens::TokenMade {}
impl Row for chom_protocol::api::tokens::TokenView {}

impl Row for HostAdded {
    fn location(&self) -> Option<String> {
        Some(format!("/api/hosts/{}", self.host))
    }
}

impl Row for chom_protocol::api::authorities::AuthorityView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::ssh_keys::SshKeyView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::catalogue::ImageView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for VpsView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for VpsAccepted {
    fn revision(&self) -> Option<u64> {
        Some(self.vps.revision)
    }

    fn location(&self) -> Option<String> {
        Some(format!("/api/operations/{}", self.operation.id))
    }
}

impl Row for chom_protocol::api::snapshots::SnapshotAccepted {
    fn location(&self) -> Option<String> {
        Some(format!("/api/operations/{}", self.operation.id))
    }
}

impl Row for chom_protocol::api::smtp::SmtpView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::webhooks::WebhookView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::webhooks::WebhookMade {
    fn revision(&self) -> Option<u64> {
        Some(self.webhook.revision)
    }

    fn location(&self) -> Option<String> {
        Some(format!("/api/webhooks/{}", self.webhook.id))
    }
}

impl Row for chom_protocol::api::webhooks::WebhookReplayed {}
impl Row for chom_protocol::api::webhooks::WebhookTested {}

impl Row for NetworkView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }

    fn location(&self) -> Option<String> {
        Some(format!("/api/networks/{}", self.name))
    }
}

impl Row for VpsNetworkView {
    fn revision(&self) -> Option<u64> {
        Some(self.revision)
    }
}

impl Row for chom_protocol::api::audit::AuditChain {}
impl Row for chom_protocol::api::plans::VpsPlan {}
impl Row for chom_protocol::api::bulk::BulkPreview {}
impl Row for chom_protocol::api::adoption::AdoptPlan {}
impl Row for chom_protocol::api::adoption::AdoptPlans {}
impl Row for chom_protocol::api::hosts::LedgerView {}
impl Row for chom_protocol::api::metrics::MetricsView {}
impl Row for chom_protocol::api::smtp::SmtpTested {}
impl Row for chom_protocol::api::operations::OperationView {}
impl Row for chom_protocol::api::catalogue::PrefetchChanged {}

/// The answer to a read of one row.
pub(super) fn row<T: Row>(view: &T) -> Response {
    write(StatusCode::OK, view)
}

/// The answer to what makes something new each time, also when the request comes again.
pub(super) fn made<T: Row>(view: &T) -> Response {
    write(StatusCode::CREATED, view)
}

/// The answer to a read of a list.
pub(super) fn page<T: Serialize>(page: &Page<T>) -> Response {
    json(StatusCode::OK, page)
}

/// The answer to a mutation, the same again when it is replayed.
pub(super) fn done<T: Row>(status: StatusCode, done: &Done<T>) -> Response {
    if let Some(plan) = &done.plan {
        return row(plan.as_ref());
    }
    let mut response = write(status, &done.value);
    let headers = response.headers_mut();
    if let Some(location) = done.value.location().and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(LOCATION, location);
    }
    if done.replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

fn write<T: Row>(status: StatusCode, view: &T) -> Response {
    let mut response = json(status, view);
    if let Some(tag) =
        view.revision().and_then(|revision| HeaderValue::from_str(&format!("\"{revision}\"")).ok())
    {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Bytes reserved for an answer: one row fits.
const ANSWER_BYTES_USUAL: usize = 1024;

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES_USUAL);
    match serde_json::to_writer(&mut bytes, value) {
        Ok(()) => {
            (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response()
        }
        Err(error) => ApiError::new(Kind::Internal, format!("the answer cannot be written as JSON: {error}"))
            .into_response(),
    }
}
