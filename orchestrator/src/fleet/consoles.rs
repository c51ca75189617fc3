//! Consoles, screens and new passwords of VPSs: who may, on which host, and that it was done. What passes through them never
//! gets here.

use chom_protocol::api::console::PasswordReset;
use chom_protocol::link::tunnel::is_user;
use chom_protocol::vps::Sha256;
use chom_protocol::{HostId, VpsId};
use tokio::sync::watch;

use crate::clock;
use crate::fleet::rows::{HostRow, HostStanding, IdempotencyRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::vps::refuse_suspended;
use crate::fleet::{Caller, Done, Fleet, FleetError, RequestMark, check_revision};
use crate::health;
use crate::store::Revision;

/// The host of a VPS that somebody may look into now.
fn reachable(state: &State, vps: VpsId) -> Result<HostId, FleetError> {
    let row = state.get::<VpsRow>(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
    let name = &row.spec.name;
    if row.retention.is_some() || row.purging.is_some() {
        return Err(FleetError::conflict(format!("VPS `{name}` is deleted: it is off, and has no console")));
    }
    refuse_suspended(row)?;
    let host = state.get::<HostRow>(&row.host).ok_or_else(|| FleetError::not_found("host", row.host))?;
    if host.standing != HostStanding::Member {
        return Err(FleetError::conflict(format!(
            "the host of VPS `{name}` is not part of the fleet now; it has to be enrolled again"
        )));
    }
    Ok(row.host)
}

impl Fleet {
    /// The host to open a VPS's console on; none when it was not seen lately.
    ///
    /// # Errors
    /// When there is no such VPS, or it has no console in its present state.
    pub fn console_host(&self, vps: VpsId) -> Result<Option<HostId>, FleetError> {
        let host = reachable(&self.state(), vps)?;
        let observation = self.observations().of(host);
        let seconds = self.catalogue().unreachable_after_seconds;
        let seen = health::is_seen(observation.as_deref(), seconds, clock::now());
        Ok(seen.then_some(host))
    }

    /// Hears when what [`Self::console_host`] says of a VPS may be different.
    ///
    /// # Errors
    /// As [`Self::console_host`].
    pub fn console_news(&self, vps: VpsId) -> Result<watch::Receiver<Revision>, FleetError> {
        Ok(self.host_changes(reachable(&self.state(), vps)?))
    }

    /// Notes in the audit trail what somebody did that changed no row. Durable when this returns.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn note(
        &self,
        caller: &Caller,
        action: &'static str,
        target: String,
    ) -> Result<(), FleetError> {
        let noted = self.decide_for(caller, move |decision| decision.audit(action, target)).await;
        noted.map(|((), _)| ())
    }

    /// Begins a password reset: notes it, and that the key of the request is used. The answer holds no password, neither
    /// here nor in what is kept of it.
    ///
    /// # Errors
    /// When there is no such VPS, its state does not allow it, or the user's name is none.
    pub async fn begin_reset(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        user: String,
    ) -> Result<Done<PasswordReset>, FleetError> {
        if !is_user(&user) {
            let detail = "this is no name of a user; it has up to 32 lower-case letters, digits, `_` and `-`";
            return Err(FleetError::invalid("/user", detail));
        }
        self.mutate(caller, mark, move |decision, mark| {
            let stored =
                decision.state.vps.get(&vps).cloned().ok_or_else(|| FleetError::not_found("VPS", vps))?;
            check_revision(mark, stored.revision)?;
            reachable(&decision.state, vps)?;
            decision.audit("vps.reset-password", vps)?;
            Ok(PasswordReset { vps, user, password: None })
        })
        .await
    }

    /// Takes a reset back that was not done, so that the same request can be made again.
    ///
    /// # Errors
    /// When it could not be stored.
    pub async fn undo_reset(&self, caller: &Caller, mark: RequestMark, vps: VpsId) -> Result<(), FleetError> {
        let token = caller.token;
        let undone = self.decide_for(caller, move |decision| {
            if let Some((key, _)) = &mark.idempotency {
                decision.delete::<IdempotencyRow>(&Sha256::of(format!("{token} {key}").as_bytes()));
            }
            decision.audit("vps.reset-password-failed", vps)
        });
        undone.await.map(|((), _)| ())
    }
}
