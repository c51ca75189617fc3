//! What a VPS may send and receive: its guard, firewall, rates and quota, as an admin wants them.

use chom_protocol::VpsId;
use chom_protocol::api::networks::{ChangeNetwork, RateLimits, TrafficQuota};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::network::{RATE_BITS_MAX, RATE_BITS_MIN};

use super::rows::TrafficRow;
use super::traffic;
use crate::fleet::rows::Goal;
use crate::fleet::vps::{accepted, changeable};
use crate::fleet::{Caller, Done, Fleet, FleetError, RequestMark, check_revision, operations};

impl Fleet {
    /// Changes what a VPS may send and receive.
    ///
    /// # Errors
    /// When there is no such VPS, or the request contradicts itself.
    pub async fn change_network(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: ChangeNetwork,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        check(&request)?;
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let stored = decision.state.vps.get(&vps).ok_or_else(|| FleetError::not_found("VPS", vps))?;
            check_revision(mark, stored.revision)?;
            let mut row = stored.row.as_ref().clone();
            changeable(decision, &row)?;
            let ChangeNetwork { spoof_guard, firewall, rate, quota } = request;
            let card = &mut row.spec.interface;
            card.spoof_guard = spoof_guard.unwrap_or(card.spoof_guard);
            if let Some(firewall) = firewall {
                card.firewall = firewall;
            }
            if let Some(RateLimits { in_bits, out_bits }) = rate {
                (card.rate.in_bits, card.rate.out_bits) = (in_bits, out_bits);
            }
            decision.put(row.clone())?;
            if let Some(quota) = quota {
                let counted = decision.state.get::<TrafficRow>(&vps).cloned();
                let counted = counted.unwrap_or_else(|| traffic::blank(vps, row.host, decision.now));
                decision.put(TrafficRow { quota, ..counted })?;
                let seen = fleet.observations().of(row.host);
                row = traffic::settle_traffic(decision, row, seen.as_deref())?;
            }
            decision.audit("vps.network", vps)?;
            let operation = operations::begin(fleet.catalogue(), decision, &row, "network", Goal::Accepted)?;
            Ok(accepted(&fleet, decision, &row, &operation))
        })
        .await
    }
}

fn check(request: &ChangeNetwork) -> Result<(), FleetError> {
    let ChangeNetwork { spoof_guard: _, firewall, rate, quota } = request;
    if let Some(firewall) = firewall {
        firewall.check().map_err(|error| FleetError::invalid("/firewall/rules", error.to_string()))?;
    }
    if let Some(RateLimits { in_bits, out_bits }) = rate {
        check_rate("/rate/in_bits", *in_bits)?;
        check_rate("/rate/out_bits", *out_bits)?;
    }
    let Some(TrafficQuota { soft_bytes, hard_bytes, throttle_bits }) = quota else { return Ok(()) };
    check_rate("/quota/throttle_bits", *throttle_bits)?;
    if hard_bytes.is_some() != throttle_bits.is_some() {
        return Err(FleetError::invalid(
            "/quota/throttle_bits",
            "a hard quota and the rate to throttle to belong together: give both, or neither",
        ));
    }
    if let (Some(soft), Some(hard)) = (soft_bytes, hard_bytes)
        && soft > hard
    {
        return Err(FleetError::invalid(
            "/quota/soft_bytes",
            format!("a soft quota of {soft} bytes is beyond the hard one of {hard}; it would never be told"),
        ));
    }
    Ok(())
}

fn check_rate(location: &'static str, bits: Option<u64>) -> Result<(), FleetError> {
    match bits {
        Some(bits) if !(RATE_BITS_MIN..=RATE_BITS_MAX).contains(&bits) => Err(FleetError::invalid(
            location,
            format!(
                "{bits} bits a second; a rate is between {RATE_BITS_MIN} and {RATE_BITS_MAX}, or absent for none"
            ),
        )),
        Some(_) | None => Ok(()),
    }
}
