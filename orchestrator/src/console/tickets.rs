//! Tickets: one VPS, one use, one minute. Kept in memory as digests, so that nothing here opens anything. Pure: times and
//! randomness are arguments.

use std::collections::BTreeMap;

use chom_protocol::vps::Sha256;
use chom_protocol::{UnixMillis, VpsId};

use crate::fleet::Caller;

/// How long a ticket is good: the time to open a page.
pub(super) const TICKET_SECONDS: u64 = 60;
/// Tickets that wait to be used; more within a minute are refused.
const TICKETS_MAX: usize = 1024;

struct Ticket {
    vps: VpsId,
    caller: Caller,
    expires_at: UnixMillis,
}

/// Tickets that were given out and not used yet.
#[derive(Default)]
pub(super) struct Tickets(BTreeMap<Sha256, Ticket>);

impl Tickets {
    /// Takes note of a ticket; gives when it expires, or nothing when too many wait.
    pub(super) fn issue(
        &mut self,
        text: &str,
        vps: VpsId,
        caller: Caller,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        self.0.retain(|_, ticket| ticket.expires_at > now);
        if self.0.len() >= TICKETS_MAX {
            return None;
        }
        let expires_at = now.plus_seconds(TICKET_SECONDS);
        self.0.insert(Sha256::of(text.as_bytes()), Ticket { vps, caller, expires_at });
        Some(expires_at)
    }

    /// Uses a ticket up. A ticket for another VPS is worth nothing here and stays good there.
    pub(super) fn redeem(&mut self, text: &str, vps: VpsId, now: UnixMillis) -> Option<Caller> {
        let digest = Sha256::of(text.as_bytes());
        let fits = |ticket: &Ticket| ticket.vps == vps && ticket.expires_at > now;
        if !self.0.get(&digest).is_some_and(fits) {
            return None;
        }
        self.0.remove(&digest).map(|ticket| ticket.caller)
    }
}

#[cfg(test)]
mod tests {
    use chom_protocol::TokenId;
    use chom_protocol::api::tokens::Role;
    use uuid::Uuid;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn vps(number: u128) -> VpsId {
        VpsId::new(Uuid::from_u128(number))
    }

    fn caller() -> Caller {
        Caller {
            name: "admin".into(),
            token: TokenId::new(Uuid::from_u128(1)),
            role: Role::Admin,
            tenant: None,
            vps: None,
            origin: Default::default(),
        }
    }

    #[test]
    fn a_ticket_opens_one_vps_once_within_its_minute() {
        let mut tickets = Tickets::default();
        let end = tickets.issue("t", vps(1), caller(), NOW).unwrap();
        assert_eq!(end, NOW.plus_seconds(60));
        assert!(tickets.redeem("other", vps(1), NOW).is_none());
        assert!(tickets.redeem("t", vps(2), NOW).is_none(), "another VPS");
        assert!(tickets.redeem("t", vps(1), end).is_none(), "too late");
        assert!(tickets.redeem("t", vps(1), NOW).is_some());
        assert!(tickets.redeem("t", vps(1), NOW).is_none(), "a second time");
    }

    #[test]
    fn tickets_that_nobody_uses_do_not_pile_up() {
        let mut tickets = Tickets::default();
        for number in 0..TICKETS_MAX {
            assert!(tickets.issue(&number.to_string(), vps(1), caller(), NOW).is_some());
        }
        assert!(tickets.issue("one more", vps(1), caller(), NOW).is_none());
        assert!(tickets.issue("later", vps(1), caller(), NOW.plus_seconds(61)).is_some());
        assert_eq!(tickets.0.len(), 1);
    }
}
