//! Whether a host can be seen, and what can be said of the VPSs on it. Pure. Unknown is a value: a host that cannot be
//! seen never turns a VPS off.

use chom_protocol::UnixMillis;
use chom_protocol::api::hosts::HostState;
use chom_protocol::vps::VpsState;

use crate::fleet::observed::Observation;
use crate::fleet::rows::{HostRow, HostStanding};

/// Whether a host was seen lately enough to believe what it said last.
#[must_use]
pub fn is_seen(observation: Option<&Observation>, unreachable_after_seconds: u64, now: UnixMillis) -> bool {
    observation.is_some_and(|seen| now.millis_since(seen.seen_at) < unreachable_after_seconds * 1000)
}

/// What the API says of a host.
#[must_use]
pub fn host_state(
    row: &HostRow,
    epoch: u64,
    observation: Option<&Observation>,
    unreachable_after_seconds: u64,
    now: UnixMillis,
) -> HostState {
    match row.standing {
        HostStanding::Invited => HostState::Invited,
        HostStanding::Quarantined => HostState::Quarantined,
        HostStanding::Forgotten => HostState::Forgotten,
        HostStanding::Revoked => HostState::Revoked,
        HostStanding::Member if row.epoch != epoch => HostState::Held,
        HostStanding::Member if is_seen(observation, unreachable_after_seconds, now) => HostState::Connected,
        HostStanding::Member => HostState::Unreachable,
    }
}

/// What can be said of a VPS: what its host said, if the host is seen; otherwise unknown.
#[must_use]
pub fn vps_state(last: VpsState, host_seen: bool) -> VpsState {
    if host_seen { last } else { VpsState::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unseen_host_makes_its_vps_unknown_and_never_off() {
        for last in [VpsState::Running, VpsState::Stopped, VpsState::StoppedByGuest, VpsState::Absent] {
            assert_eq!(vps_state(last, false), VpsState::Unknown);
            assert_eq!(vps_state(last, true), last);
        }
    }

    #[test]
    fn a_host_is_seen_until_the_limit_and_not_after() {
        let at = |seen_at| Observation { seen_at: UnixMillis(seen_at), ..Observation::default() };
        let now = UnixMillis(100_000);
        assert!(is_seen(Some(&at(55_001)), 45, now));
        assert!(!is_seen(Some(&at(55_000)), 45, now));
        assert!(is_seen(Some(&at(200_000)), 45, now), "a clock that stepped back hides nobody");
        assert!(!is_seen(None, 45, now));
    }
}
