//! Hosts: invited, cordoned, forgotten, revoked. A host that is put out never takes its VPSs' rows or addresses with it.

use chom_certs::enrol::TOKEN_LIFE_SECONDS;
use chom_certs::{EnrolmentToken, JoinCode};
use chom_protocol::api::events::Event;
use chom_protocol::api::hosts::{
    AddHost, ChangeLabels, ForgetHost, HostAdded, HostLimits, HostView, LABELS_MAX, Labels, SetCordon,
};
use chom_protocol::{EnrolmentId, HostId};

use crate::clock::rfc3339;
use crate::fleet::catalogue::Catalogue;
use crate::fleet::error::ErrorKind;
use crate::fleet::network;
use crate::fleet::rows::{EnrolmentRow, HostRow, HostStanding, PrefetchRow};
use crate::fleet::state::State;
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, check_revision, view};

/// Seconds for which an admin's order lifts a host's cap on destroys.
pub const DESTROYS_ALLOWED_SECONDS: u64 = 3600;

impl Fleet {
    /// Invites a host, or gives one a new token whose key was lost. The token is shown once.
    ///
    /// # Errors
    /// When the region is unknown, the name is taken, or the host to give a new key to is not there.
    pub async fn add_host(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: AddHost,
    ) -> Result<Done<HostAdded>, FleetError> {
        check_region(self.catalogue(), &request)?;
        let token = EnrolmentToken::generate().map_err(|error| internal(&error))?;
        let hash = token.hash();
        let fingerprint = self.authorities().serving().fingerprint();
        let code = JoinCode::new(self.catalogue().link_addresses.clone(), fingerprint, token)
            .map_err(|error| internal(&error))?;
        self.mutate(caller, mark, move |decision, _| {
            let host = invite(decision, &request)?;
            let id = EnrolmentId::new(decision.new_id());
            let expires_at = decision.now.plus_seconds(TOKEN_LIFE_SECONDS);
            decision.put(EnrolmentRow { id, host, token: hash, expires_at, used_by: None })?;
            decision.audit("host.add", host)?;
            Ok(HostAdded {
                host,
                enrolment: id,
                command: code.command(),
                join_code: code.to_string(),
                expires_at: rfc3339(expires_at),
            })
        })
        .await
    }

    /// Sets or clears a host's cordon.
    ///
    /// # Errors
    /// When there is no such host, or `If-Match` names another revision.
    pub async fn cordon(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
        request: SetCordon,
    ) -> Result<Done<HostView>, FleetError> {
        let action = if request.cordoned { "host.cordon" } else { "host.uncordon" };
        self.change_host(caller, mark, host, action, move |_, row| {
            row.cordoned = request.cordoned;
            Ok(())
        })
        .await
    }

    /// Changes a host's labels. VPSs that are on it stay.
    ///
    /// # Errors
    /// When there is no such host, or it would have too many labels.
    pub async fn label_host(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
        request: ChangeLabels,
    ) -> Result<Done<HostView>, FleetError> {
        self.change_host(caller, mark, host, "host.label", move |_, row| {
            row.labels.retain(|key, _| !request.remove.contains(key));
            row.labels.extend(request.set);
            check_labels("/set", &row.labels)
        })
        .await
    }

    /// Sets how much of a host may be promised. VPSs that are on it stay, also when they are more than that now.
    ///
    /// # Errors
    /// When there is no such host, or a limit is nothing.
    pub async fn limit_host(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
        limits: HostLimits,
    ) -> Result<Done<HostView>, FleetError> {
        for (at, value) in
            [("/cores_per_core", limits.cores_per_core), ("/memory_percent", limits.memory_percent)]
        {
            if value == Some(0) {
                return Err(FleetError::invalid(
                    at,
                    "nothing could be promised; give at least 1, or cordon the host",
                ));
            }
        }
        self.change_host(caller, mark, host, "host.limit", move |_, row| {
            row.limits = limits;
            Ok(())
        })
        .await
    }

    /// Puts a host out of the fleet; if it returns it may only report. Its VPSs' rows stay, and so do their addresses
    /// unless asked otherwise.
    ///
    /// # Errors
    /// When there is no such host, or `If-Match` names another revision.
    pub async fn forget_host(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
        request: ForgetHost,
    ) -> Result<Done<HostView>, FleetError> {
        self.change_host(caller, mark, host, "host.forget", move |decision, row| {
            if row.standing != HostStanding::Revoked {
                row.standing = HostStanding::Forgotten;
            }
            // Nothing more is asked of it, and no image is kept for its sake.
            decision.delete::<PrefetchRow>(&host);
            if request.release_addresses {
                network::release_host(decision, host)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes a host's certificate open nothing from now on; open connections end at once.
    ///
    /// # Errors
    /// When there is no such host, or `If-Match` names another revision.
    pub async fn revoke_host(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
    ) -> Result<Done<HostView>, FleetError> {
        self.change_host(caller, mark, host, "host.revoke", move |decision, row| {
            row.standing = HostStanding::Revoked;
            decision.delete::<PrefetchRow>(&host);
            Ok(())
        })
        .await
    }

    /// Lifts a host's cap on destroys for an hour.
    ///
    /// # Errors
    /// When there is no such host, or `If-Match` names another revision.
    pub async fn allow_destroys(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
    ) -> Result<Done<HostView>, FleetError> {
        self.change_host(caller, mark, host, "host.allow-destroys", |decision, row| {
            row.destroys_allowed_until = Some(decision.now.plus_seconds(DESTROYS_ALLOWED_SECONDS));
            Ok(())
        })
        .await
    }

    /// Shuts a host out of being managed: two machines use its key.
    ///
    /// # Errors
    /// When there is no such host.
    pub async fn quarantine(&self, host: HostId) -> Result<(), FleetError> {
        self.decide("chom".into(), move |decision| {
            let mut row = host_row(&decision.state, host)?.clone();
            if row.standing != HostStanding::Member {
                return Ok(());
            }
            row.standing = HostStanding::Quarantined;
            tell(decision, &row, "quarantined: two machines use its key");
            decision.put(row)?;
            decision.raise(host)?;
            decision.audit("host.quarantine", host)
        })
        .await
        .map(|((), _)| ())
    }

    async fn change_host(
        &self,
        caller: &Caller,
        mark: RequestMark,
        host: HostId,
        action: &'static str,
        change: impl FnOnce(&mut Decision, &mut HostRow) -> Result<(), FleetError> + Send + 'static,
    ) -> Result<Done<HostView>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let mut row = host_row(&decision.state, host)?.clone();
            if let Some(stored) = decision.state.hosts.get(&host) {
                check_revision(mark, stored.revision)?;
            }
            change(decision, &mut row)?;
            tell(decision, &row, action.trim_start_matches("host."));
            decision.put(row)?;
            // Everything about a host that its session or its agent must hear of goes with a new generation.
            decision.raise(host)?;
            decision.audit(action, host)?;
            let observation = fleet.observations().of(host);
            let row = host_row(&decision.state, host)?;
            Ok(view::host(&decision.state, fleet.catalogue(), row, observation.as_deref(), decision.now))
        })
        .await
    }
}

/// Refuses more labels than a host has.
pub(super) fn check_labels(location: &'static str, labels: &Labels) -> Result<(), FleetError> {
    if labels.len() <= LABELS_MAX {
        return Ok(());
    }
    let detail = format!("{} labels; a host has at most {LABELS_MAX}", labels.len());
    Err(FleetError::invalid(location, detail))
}

/// The row of a host.
///
/// # Errors
/// When there is none.
pub(super) fn host_row(state: &State, host: HostId) -> Result<&HostRow, FleetError> {
    state.get::<HostRow>(&host).ok_or_else(|| FleetError::not_found("host", host))
}

fn check_region(catalogue: &Catalogue, request: &AddHost) -> Result<(), FleetError> {
    if catalogue.regions.contains(&request.region) {
        return Ok(());
    }
    Err(unknown("/region", "region", &request.region, catalogue.regions.iter()))
}

/// The error of a name that is not in the catalogue, with what there is.
pub(super) fn unknown<'a>(
    location: &'static str,
    kind: &str,
    name: &chom_protocol::Name,
    known: impl Iterator<Item = &'a chom_protocol::Name>,
) -> FleetError {
    let known: Vec<&str> = known.map(|name| name.as_str()).collect();
    let known = if known.is_empty() {
        "none is configured".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    FleetError::invalid(location, format!("there is no {kind} `{name}`; {known}"))
}

fn internal(error: &dyn std::error::Error) -> FleetError {
    FleetError::internal(error.to_string())
}

fn invite(decision: &mut Decision, request: &AddHost) -> Result<HostId, FleetError> {
    if let Some(host) = request.host {
        let row = host_row(&decision.state, host)?;
        if row.standing == HostStanding::Revoked {
            return Err(FleetError::conflict(format!(
                "host `{}` was revoked; add it anew, without naming its old id",
                row.name
            )));
        }
        return Ok(host);
    }
    if decision.state.host_named(&request.name).is_some() {
        return Err(FleetError::Refused {
            kind: ErrorKind::Conflict,
            detail: format!("a host named `{}` is in the fleet already; choose another name", request.name),
            location: Some("/name"),
        });
    }
    let host = HostId::new(decision.new_id());
    let row = HostRow {
        id: host,
        name: request.name.clone(),
        region: request.region.clone(),
        standing: HostStanding::Invited,
        cordoned: false,
        labels: Labels::new(),
        limits: HostLimits::default(),
        epoch: decision.epoch(),
        number: 1,
        certificate: None,
        destroys_allowed_until: None,
        added_at: decision.now,
    };
    tell(decision, &row, "invited");
    decision.put(row)?;
    Ok(host)
}

/// Tells the event stream something of a host.
pub(super) fn tell(decision: &mut Decision, row: &HostRow, message: &str) {
    decision.tell(Event::Host { id: row.id, name: row.name.clone(), message: message.to_owned() });
}
