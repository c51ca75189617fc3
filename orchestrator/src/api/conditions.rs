//! What a change may or must say besides its body: `If-Match`, and whether it can be planned. One table, which the extractors
//! ask and the OpenAPI document is written from. Knows no row.

use std::collections::BTreeMap;

use axum::extract::MatchedPath;
use axum::http::Method;
use axum::http::request::Parts;
use utoipa::openapi::OpenApi;

use crate::api::document;

/// What becomes of `If-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// There is no row with a revision: it is refused, because it was meant to hold something back.
    Refused,
    /// It is taken.
    Taken,
    /// It must be there, once the row is: the change overwrites what somebody else may have changed.
    Required,
}

/// What a change may or must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) if_match: IfMatch,
    /// Whether it takes `?dry_run=true` and `?plan=`.
    pub(super) plan: bool,
}

const NONE: Conditions = Conditions { if_match: IfMatch::Refused, plan: false };
const TAKES: Conditions = Conditions { if_match: IfMatch::Taken, plan: false };
const NEEDS: Conditions = Conditions { if_match: IfMatch::Required, plan: false };
const NEW_VPS: Conditions = Conditions { if_match: IfMatch::Refused, plan: true };
const ORDER: Conditions = Conditions { if_match: IfMatch::Taken, plan: true };
const OVERWRITE: Conditions = Conditions { if_match: IfMatch::Required, plan: true };

/// Every route that changes something, by its operation id in the OpenAPI document.
const CHANGES: &[(&str, Conditions)] = &[
    ("add_image", NONE),
    ("fetch_image", NONE),
    ("remove_image", TAKES),
    ("prefetch_image", NONE),
    ("unprefetch_image", NONE),
    ("add_ssh_key", NONE),
    ("remove_ssh_key", TAKES),
    ("create_tenant", NONE),
    ("set_quota", NEEDS),
    ("set_tenant_external_id", TAKES),
    ("delete_tenant", TAKES),
    ("create_token", NONE),
    ("revoke_token", NONE),
    ("sign_in", NONE),
    ("sign_out", NONE),
    ("change_password", TAKES),
    ("create_user", NONE),
    ("set_user_role", TAKES),
    ("set_user_password", TAKES),
    ("disable_user", TAKES),
    ("enable_user", TAKES),
    ("delete_user", TAKES),
    ("add_host", NONE),
    ("cordon_host", TAKES),
    ("label_host", NEEDS),
    ("limit_host", NEEDS),
    ("forget_host", TAKES),
    ("revoke_host", TAKES),
    ("resolve_ledger", NONE),
    ("allow_destroys", TAKES),
    ("create_vps", NEW_VPS),
    ("start_vps", ORDER),
    ("stop_vps", ORDER),
    ("restart_vps", ORDER),
    ("pause_vps", ORDER),
    ("resume_vps", ORDER),
    ("resize_vps", ORDER),
    ("rebuild_vps", ORDER),
    ("rename_vps", ORDER),
    ("delete_vps", ORDER),
    ("undelete_vps", ORDER),
    ("purge_vps", ORDER),
    ("clone_vps", ORDER),
    ("rescue_vps", ORDER),
    ("unrescue_vps", ORDER),
    ("attach_iso", ORDER),
    ("detach_iso", ORDER),
    ("console_token", NONE),
    ("reset_password", TAKES),
    ("adopt_vps", NONE),
    ("plan_adoptions", NONE),
    ("hold_vps", ORDER),
    ("suspend_vps", ORDER),
    ("unsuspend_vps", ORDER),
    ("change_vps_network", OVERWRITE),
    ("change_vps_addresses", ORDER),
    ("take_snapshot", ORDER),
    ("delete_snapshot", ORDER),
    ("restore_snapshot", ORDER),
    ("create_network", NONE),
    ("delete_network", TAKES),
    ("put_pool", TAKES),
    ("remove_pool", TAKES),
    ("set_vps_external_id", TAKES),
    ("cancel_operation", NONE),
    ("resume_operation", NONE),
    ("order_many", NONE),
    ("configure_smtp", NEEDS),
    ("test_smtp", NONE),
    ("create_webhook", NONE),
    ("update_webhook", TAKES),
    ("delete_webhook", TAKES),
    ("test_webhook", NONE),
    ("replay_webhook", NONE),
    ("rotate_authority", NONE),
    ("retire_authority", TAKES),
];

/// What a route may or must say, by its operation id; none: it changes nothing, or the table does not know it.
pub(super) fn of_route(operation_id: &str) -> Option<Conditions> {
    CHANGES.iter().find(|(id, _)| *id == operation_id).map(|(_, conditions)| *conditions)
}

/// The same by method and pattern, for requests.
#[derive(Default)]
pub(super) struct Book(BTreeMap<(Method, String), Conditions>);

impl Book {
    pub(super) fn of(document: &OpenApi) -> Self {
        let mut book = BTreeMap::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in document::operations(item) {
                let conditions = operation.operation_id.as_deref().and_then(of_route);
                conditions.map(|conditions| book.insert((method, path.clone()), conditions));
            }
        }
        Self(book)
    }

    /// What the route of a request says; a route that is not in the table takes nothing.
    pub(super) fn of_request(&self, parts: &Parts) -> Conditions {
        let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        self.0.get(&(parts.method.clone(), path.to_owned())).copied().unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_that_changes_something_is_in_the_table_once() {
        let document = crate::api::document();
        let mut found: Vec<String> = Vec::new();
        for item in document.paths.paths.values() {
            let changes = document::operations(item).filter(|(method, _)| *method != Method::GET);
            found.extend(changes.filter_map(|(_, operation)| operation.operation_id.clone()));
        }
        found.sort_unstable();
        let mut known: Vec<&str> = CHANGES.iter().map(|(id, _)| *id).collect();
        known.sort_unstable();
        assert_eq!(found, known, "a change that is not in the table takes neither If-Match nor a plan");
    }
}
