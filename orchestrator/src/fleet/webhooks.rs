//! Webhooks: made, changed, deleted, and what is kept of their deliveries sent again.

use std::collections::BTreeSet;

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::api::webhooks::{
    AttemptView, CreateWebhook, ReplayWebhook, UpdateWebhook, WEBHOOK_URL_BYTES_MAX, WebhookDeliveryView,
    WebhookKind, WebhookMade, WebhookReplayed, WebhookView,
};
use chom_protocol::{Name, UnixMillis, WebhookId};
use ring::rand::SecureRandom;

use crate::clock::{parse_rfc3339, rfc3339};
use crate::fleet::state::{State, Table};
use crate::fleet::{
    Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision, tenants,
};
use crate::notify::webhook::post::Policy;
use crate::notify::webhook::rows::{Attempt, Content, DeliveryRow, OldSecret, WebhookRow};
use crate::notify::webhook::signature::{SECRET_BYTES, secret_text};
use crate::store::seal::Sealed;

/// Most webhooks; each has its share of what may wait (see `notify::webhook::queue`).
const WEBHOOKS_MAX: usize = 500;
/// Most webhooks of one tenant, so that no tenant takes the others' share.
const WEBHOOKS_PER_TENANT_MAX: usize = 10;
/// How long deliveries are signed with a replaced secret as well.
const OLD_SECRET_SECONDS: u64 = 24 * 3600;
/// Deliveries that one replay sends again: as many as one commit takes.
const REPLAYED_MAX: usize = 100;

impl Fleet {
    /// Makes a webhook. The answer shows its secret, and nothing does again.
    ///
    /// # Errors
    /// When it cannot be as it is asked for.
    pub async fn create_webhook(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: CreateWebhook,
    ) -> Result<Done<WebhookMade>, FleetError> {
        let fleet = self.clone();
        let own = caller.clone();
        self.mutate(caller, mark, move |decision, _| {
            let CreateWebhook { name, url, kinds, tenant } = request;
            let tenant = match &tenant {
                None => own.tenant.clone(),
                wanted => Some(own.tenant_of(wanted.as_ref())?),
            };
            tenant.iter().try_for_each(|tenant| tenants::check(&decision.state, tenant))?;
            let url = fleet.check_webhook(&url, &kinds, tenant.as_ref())?;
            check_room(&decision.state, tenant.as_ref(), &name)?;
            let id = WebhookId::new(decision.new_id());
            let (secret, text) = fleet.new_secret(id)?;
            let row = WebhookRow {
                id,
                name,
                tenant,
                url,
                kinds,
                enabled: true,
                secret,
                old_secret: None,
                created_at: decision.now,
                dropped: 0,
                dropped_at: None,
            };
            decision.put(row.clone())?;
            decision.audit("webhook.create", id)?;
            Ok(WebhookMade { webhook: view(&decision.state, &row), secret: Some(text) })
        })
        .await
    }

    /// Changes a webhook.
    ///
    /// # Errors
    /// When there is none, it cannot be as it is asked for, or `If-Match` names another revision.
    pub async fn update_webhook(
        &self,
        caller: &Caller,
        mark: RequestMark,
        id: WebhookId,
        request: UpdateWebhook,
    ) -> Result<Done<WebhookMade>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let row = found(decision, mark, id)?;
            let UpdateWebhook { url, kinds, enabled, new_secret } = request;
            let kinds = kinds.unwrap_or_else(|| row.kinds.clone());
            let url = fleet.check_webhook(url.as_deref().unwrap_or(&row.url), &kinds, row.tenant.as_ref())?;
            let enabled = enabled.unwrap_or(row.enabled);
            let mut row = WebhookRow { url, kinds, enabled, ..row };
            let mut text = None;
            if new_secret {
                let (secret, shown) = fleet.new_secret(id)?;
                let until = decision.now.plus_seconds(OLD_SECRET_SECONDS);
                row.old_secret =
                    Some(OldSecret { secret: std::mem::replace(&mut row.secret, secret), until });
                text = Some(shown);
            }
            decision.put(row.clone())?;
            decision.audit("webhook.update", id)?;
            Ok(WebhookMade { webhook: view(&decision.state, &row), secret: text })
        })
        .await
    }

    /// Deletes a webhook, with what waits for it.
    ///
    /// # Errors
    /// When there is none, or `If-Match` names another revision.
    pub async fn delete_webhook(
        &self,
        caller: &Caller,
        mark: RequestMark,
        id: WebhookId,
    ) -> Result<Done<WebhookView>, FleetError> {
        self.mutate(caller, mark, move |decision, mark| {
            let row = found(decision, mark, id)?;
            let shown = view(&decision.state, &row);
            // Its queue may be longer than a commit; the courier takes it away.
            decision.delete::<WebhookRow>(&id);
            decision.audit("webhook.delete", id)?;
            Ok(shown)
        })
        .await
    }

    /// Sends again what is kept of a webhook's deliveries.
    ///
    /// # Errors
    /// When there is no such webhook or delivery.
    pub async fn replay_webhook(
        &self,
        caller: &Caller,
        mark: RequestMark,
        id: WebhookId,
        request: ReplayWebhook,
    ) -> Result<Done<WebhookReplayed>, FleetError> {
        let since = request.since.as_deref().map(|text| {
            parse_rfc3339(text).ok_or_else(|| {
                FleetError::invalid(
                    "/since",
                    "this is no time; write it as in RFC 3339, such as 2027-01-31T12:00:00Z",
                )
            })
        });
        let since = since.transpose()?;
        if since.is_some() == request.delivery.is_some() {
            return Err(FleetError::invalid("/since", "say either which `delivery`, or `since` when"));
        }
        self.mutate(caller, mark, move |decision, mark| {
            found(decision, mark, id)?;
            let asked = |row: &&DeliveryRow| match (since, request.delivery) {
                (Some(since), _) => row.event.at >= since && row.state != DeliveryState::Waiting,
                (None, delivery) => Some(row.event.id) == delivery,
            };
            let mut asked: Vec<DeliveryRow> = decision.state.queue_of(id).filter(asked).cloned().collect();
            if let (None, Some(delivery)) = (asked.first(), request.delivery) {
                return Err(FleetError::Refused {
                    kind: ErrorKind::Invalid,
                    detail: format!("this webhook has no delivery `{delivery}` that is still kept"),
                    location: Some("/delivery"),
                });
            }
            let rest = asked.split_off(asked.len().min(REPLAYED_MAX));
            let more_since = rest.first().map(|row| rfc3339(row.event.at));
            let deliveries = asked.len() as u64;
            for mut row in asked {
                let queued_at = decision.now;
                if let Content::Usage { after, .. } = &mut row.event.content {
                    *after = None;
                }
                decision.put(DeliveryRow {
                    state: DeliveryState::Waiting,
                    queued_at,
                    attempts: 0,
                    next_attempt_at: None,
                    ..row
                })?;
            }
            decision.audit("webhook.replay", id)?;
            Ok(WebhookReplayed { deliveries, more_since })
        })
        .await
    }

    /// A webhook.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn webhook_view(&self, id: WebhookId) -> Result<WebhookView, FleetError> {
        let state = self.state();
        let row = state.get::<WebhookRow>(&id).ok_or_else(|| FleetError::not_found("webhook", id))?;
        Ok(view(&state, row))
    }

    fn check_webhook(
        &self,
        url: &str,
        kinds: &BTreeSet<WebhookKind>,
        tenant: Option<&Name>,
    ) -> Result<String, FleetError> {
        if url.len() > WEBHOOK_URL_BYTES_MAX {
            let what =
                format!("the URL has {} bytes; at most {WEBHOOK_URL_BYTES_MAX} are allowed", url.len());
            return Err(FleetError::invalid("/url", what));
        }
        if kinds.is_empty() {
            return Err(FleetError::invalid("/kinds", "name at least one kind of events"));
        }
        if tenant.is_some() && kinds.contains(&WebhookKind::Alerts) {
            return Err(FleetError::invalid(
                "/kinds",
                "alerts are the fleet's; a tenant's webhook is told of operations, quota and usage",
            ));
        }
        let policy = Policy { networks: self.catalogue().webhook_networks.clone() };
        let url = policy.check(url, tenant.is_some()).map_err(|what| FleetError::invalid("/url", what))?;
        Ok(url.to_string())
    }

    fn new_secret(&self, id: WebhookId) -> Result<(Sealed, String), FleetError> {
        let mut bytes = [0; SECRET_BYTES];
        let random = ring::rand::SystemRandom::new().fill(&mut bytes);
        random.map_err(|_| FleetError::internal("the system gives no random bytes for a secret"))?;
        let sealed = self.0.master.seal(&WebhookRow::key(&id), &bytes);
        let sealed = sealed.map_err(|error| FleetError::internal(error.to_string()))?;
        Ok((sealed, secret_text(&bytes)))
    }
}

fn found(decision: &Decision, mark: &RequestMark, id: WebhookId) -> Result<WebhookRow, FleetError> {
    let stored = decision.state.webhooks.get(&id).ok_or_else(|| FleetError::not_found("webhook", id))?;
    check_revision(mark, stored.revision)?;
    Ok(stored.row.as_ref().clone())
}

fn check_room(state: &State, tenant: Option<&Name>, name: &Name) -> Result<(), FleetError> {
    let beside = || state.webhooks.values().filter(|stored| stored.row.tenant.as_ref() == tenant);
    if beside().any(|stored| stored.row.name == *name) {
        return Err(FleetError::Refused {
            kind: ErrorKind::Conflict,
            detail: format!("there is a webhook `{name}` already; choose another name"),
            location: Some("/name"),
        });
    }
    if tenant.is_some() && beside().count() >= WEBHOOKS_PER_TENANT_MAX {
        let what = format!("there are {WEBHOOKS_PER_TENANT_MAX} webhooks, as many as a tenant can have");
        return Err(FleetError::conflict(what));
    }
    if state.webhooks.len() >= WEBHOOKS_MAX {
        return Err(FleetError::conflict(
            "there are as many webhooks in the fleet as can be; ask its operator",
        ));
    }
    Ok(())
}

/// A webhook as the API shows it.
#[must_use]
pub fn view(state: &State, row: &WebhookRow) -> WebhookView {
    let waiting = || state.queue_of(row.id).filter(|row| row.state == DeliveryState::Waiting);
    let tried = waiting().find_map(|row| row.last.as_ref());
    let problem = tried.map(|Attempt { status, answer, .. }| match status {
        Some(status) => format!("status {status}: {answer}").trim_end_matches([':', ' ']).to_owned(),
        None => answer.clone(),
    });
    WebhookView {
        id: row.id,
        name: row.name.clone(),
        tenant: row.tenant.clone(),
        url: row.url.clone(),
        kinds: row.kinds.clone(),
        enabled: row.enabled,
        created_at: rfc3339(row.created_at),
        waiting: waiting().count() as u64,
        waiting_since: waiting().next().map(|row| rfc3339(row.queued_at)),
        problem,
        dropped: row.dropped,
        dropped_at: row.dropped_at.map(rfc3339),
        old_secret_until: row.old_secret.as_ref().map(|old| rfc3339(old.until)),
        revision: state.webhooks.get(&row.id).map_or(0, |stored| stored.revision.0),
    }
}

/// A try as the API shows it.
pub(crate) fn attempt_view(attempt: &Attempt) -> AttemptView {
    let Attempt { at, duration_ms, status, answer } = attempt.clone();
    AttemptView { at: rfc3339(at), duration_ms, status, answer }
}

/// A delivery as the API shows it.
#[must_use]
pub fn delivery_view(row: &DeliveryRow, now: UnixMillis) -> WebhookDeliveryView {
    WebhookDeliveryView {
        id: row.event.id,
        event: row.event.name.clone(),
        resource: row.event.resource.clone(),
        vps: row.event.vps,
        state: row.state,
        created_at: rfc3339(row.event.at),
        attempts: row.attempts,
        last_attempt: row.last.as_ref().map(attempt_view),
        next_attempt_at: row.next_attempt_at.filter(|at| *at > now).map(rfc3339),
    }
}
