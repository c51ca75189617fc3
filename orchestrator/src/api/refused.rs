//! What a request says of itself for the audit trail (where it comes from, why it is made), and the note of one that was
//! refused: for want of a good token, of a permission, or because the row is another tenant's. Refuses nothing by itself.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use chom_protocol::api::audit::{REASON_HEADER, reason_problem};
use chom_protocol::vps::Sha256;

use crate::api::App;
use crate::api::problem::{ApiError, Kind, shown};
use crate::api::request::only;
use crate::fleet::Denial;
use crate::fleet::audit::Origin;
use crate::fleet::rows::TokenRow;

const REASON: HeaderName = HeaderName::from_static(REASON_HEADER);

/// Marks the answer to a request for a row that is there, and another tenant's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Foreign;

/// The client's address. Of a socket that takes both, IPv4 peers have mapped addresses (RFC 4291 section 2.5.5.2).
fn address(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical())
}

/// Where a request comes from that has no token to be let in with.
impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self { address: address(&parts.extensions), reason: None })
    }
}

/// Where a request comes from, and why it is made.
///
/// # Errors
/// When its reason is none.
pub(super) fn origin(request: &Request) -> Result<Origin, ApiError> {
    let address = address(request.extensions());
    let reason = only(request.headers(), &REASON)?.map(|bytes| {
        let bad = |what: String| ApiError::new(Kind::Malformed, what).at("X-Chom-Reason");
        let text = std::str::from_utf8(bytes).map_err(|_| bad("the reason is no UTF-8 text".to_owned()))?;
        reason_problem(text).map_or_else(|| Ok(Arc::from(text)), |what| Err(bad(what)))
    });
    Ok(Origin { address, reason: reason.transpose()? })
}

/// A request before it is known whether it is refused: what costs nothing to keep of it.
pub(super) struct Attempt {
    method: Method,
    uri: Uri,
    address: Option<IpAddr>,
    credentials: Option<HeaderValue>,
}

impl Attempt {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            address: address(request.extensions()),
            credentials: request.headers().get(AUTHORIZATION).cloned(),
        }
    }

    /// Notes it, if this answer refuses it.
    pub(super) fn note_refusal(self, app: &App, response: &Response) {
        let is_foreign = response.extensions().get::<Foreign>().is_some();
        let action = match response.status() {
            // Without credentials nobody tried anything: browsers and probes ask so.
            StatusCode::UNAUTHORIZED if self.credentials.is_some() => "request.unauthorised",
            StatusCode::FORBIDDEN => "request.forbidden",
            StatusCode::NOT_FOUND if is_foreign => "request.foreign",
            _ => return,
        };
        let state = app.fleet.state();
        let token = self.credentials.as_ref().and_then(|value| value.to_str().ok()?.split(' ').next_back());
        let id = token.and_then(|token| state.token_of_hash.get(&Sha256::of(token.as_bytes())));
        let row = id.and_then(|id| state.get::<TokenRow>(id));
        app.fleet.note_denial(Denial {
            action,
            // The query may have a ticket in it.
            target: format!("{} {}", shown(self.method.as_str()), self.uri.path()),
            actor: row.map(|row| row.name.as_str().into()),
            token: row.map(|row| row.id),
            tenant: row.and_then(|row| row.tenant.clone()),
            address: self.address,
            is_told: !is_foreign,
        });
    }
}
