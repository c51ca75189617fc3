//! ◆ What webhooks are told: events made of rows, as they are when they happen, and who hears of which. A body names no host:
//! it is the same for the fleet and for a tenant.

use chom_protocol::api::alerts::AlertState;
use chom_protocol::api::webhooks::WebhookKind;
use chom_protocol::{DeliveryId, UnixMillis};
use serde_json::{Value, json};

use super::rows::{Content, HookEvent, WebhookRow};
use crate::alerts::rows::{AlertRow, Rule, Subject};
use crate::clock::rfc3339;
use crate::fleet::rows::{OperationRow, TenantRow, VpsRow};
use crate::fleet::state::State;

/// Longest text in a body: what is wrong is said at its beginning.
const TEXT_CHARACTERS_MAX: usize = 1000;

/// An event that is about to be told.
pub(crate) struct Telling {
    kind: WebhookKind,
    name: String,
    resource: String,
    about: About,
    data: Value,
}

#[derive(Default)]
struct About {
    tenant: Option<chom_protocol::Name>,
    vps: Option<chom_protocol::VpsId>,
}

/// Whether a webhook is told of an event.
pub(crate) fn hears(row: &WebhookRow, event: &HookEvent) -> bool {
    let is_own = match &row.tenant {
        None => true,
        // Alerts may speak of hosts.
        Some(tenant) => event.tenant.as_ref() == Some(tenant) && event.kind != WebhookKind::Alerts,
    };
    // What is a tenant's is cut out of it when it is sent.
    let is_usage = event.kind == WebhookKind::Usage;
    row.enabled && row.kinds.contains(&event.kind) && (is_own || is_usage)
}

/// The body of a delivery.
pub(crate) fn body(name: &str, at: UnixMillis, data: &Value) -> String {
    json!({ "type": name, "timestamp": rfc3339(at), "data": data }).to_string()
}

impl Telling {
    /// That an operation came to another state.
    pub(crate) fn operation(state: &State, row: &OperationRow) -> Self {
        let OperationRow { id, kind, tenant, vps, state: how, problem, created_at, finished_at, .. } = row;
        // Of the deleted the names are gone; what it was about is known by its id.
        let about = vps.and_then(|vps| state.get::<VpsRow>(&vps));
        let data = json!({
            "id": id, "kind": kind, "state": how, "tenant": tenant, "vps": vps,
            "name": about.map(|row| &row.spec.name),
            "external_id": about.and_then(|row| row.external_id.as_ref()),
            "tenant_external_id": state.get::<TenantRow>(tenant).and_then(|row| row.external_id.as_ref()),
            "problem": problem.as_deref().map(shortened),
            "created_at": rfc3339(*created_at), "finished_at": finished_at.map(rfc3339),
        });
        let how = data["state"].as_str().unwrap_or_default().to_owned();
        let resource = match vps {
            Some(vps) => format!("vps:{vps}"),
            None => format!("operation:{id}"),
        };
        // One that is about no VPS is the fleet's own.
        let about = About { tenant: vps.map(|_| tenant.clone()), vps: *vps };
        Self { kind: WebhookKind::Operations, name: format!("operation.{how}"), resource, about, data }
    }

    /// That an alert began to fire, or ended.
    pub(crate) fn alert(state: &State, row: &AlertRow) -> Vec<Self> {
        let AlertRow { id, subject, severity, summary, state: how, since, firing_since, resolved_at, .. } =
            row;
        let about = subject.vps.and_then(|vps| state.get::<VpsRow>(&vps));
        let data = json!({
            "id": id, "rule": subject.rule.name(), "severity": severity, "state": how, "host": subject.host,
            "vps": subject.vps, "name": about.map(|row| &row.spec.name),
            "tenant": about.map(|row| &row.spec.tenant),
            "external_id": about.and_then(|row| row.external_id.as_ref()),
            "summary": shortened(summary), "since": rfc3339(*since),
            "firing_since": firing_since.map(rfc3339), "resolved_at": resolved_at.map(rfc3339),
        });
        let is_over = *how == AlertState::Resolved;
        let name = if is_over { "alert.resolved" } else { "alert.firing" };
        let resource = format!("alert:{}", alert_resource(row));
        let mut all = vec![Self {
            kind: WebhookKind::Alerts,
            name: name.to_owned(),
            resource,
            about: About { tenant: about.map(|row| row.spec.tenant.clone()), vps: subject.vps },
            data: data.clone(),
        }];
        if let (Rule::TrafficQuota, Some(vps), Some(about)) = (subject.rule, subject.vps, about) {
            let mut data = data;
            // A tenant is told of its VPS and not of its host.
            if let Some(fields) = data.as_object_mut() {
                fields.remove("host");
            }
            let name = if is_over { "quota.cleared" } else { "quota.exceeded" };
            all.push(Self {
                kind: WebhookKind::Quota,
                name: name.to_owned(),
                resource: format!("quota:{vps}"),
                about: About { tenant: Some(about.spec.tenant.clone()), vps: Some(vps) },
                data,
            });
        }
        all
    }

    /// That the records of an hour are there.
    pub(crate) fn usage(id: DeliveryId, hour: u64, at: UnixMillis) -> HookEvent {
        HookEvent {
            id,
            at,
            kind: WebhookKind::Usage,
            name: "usage.hour".to_owned(),
            tenant: None,
            vps: None,
            resource: "usage".to_owned(),
            content: Content::Usage { hour, after: None },
        }
    }

    /// As it is written into the journal.
    pub(crate) fn event(self, id: DeliveryId, at: UnixMillis) -> HookEvent {
        let Self { kind, name, resource, about: About { tenant, vps }, data } = self;
        let content = Content::Body(body(&name, at, &data));
        HookEvent { id, at, kind, name, tenant, vps, resource, content }
    }
}

/// An alert that comes back about the same subject has another id; what it tells keeps its order all the same.
fn alert_resource(row: &AlertRow) -> String {
    let Subject { rule, host, vps, label } = &row.subject;
    let ids = [host.map(|id| id.to_string()), vps.map(|id| id.to_string()), Some(label.clone())];
    let ids: Vec<String> = ids.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    format!("{rule} {}", ids.join(" ")).trim_end().to_owned()
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(TEXT_CHARACTERS_MAX).map_or(text, |(end, _)| &text[..end])
}
