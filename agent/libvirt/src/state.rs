//! What libvirt's domain state and its reason mean for a VPS. Pure.
//!
//! The reason is libvirt's memory, not a record: after a restart of libvirtd a domain that is off has no reason any
//! more and shows as `Stopped`. A guest that follows the agent's own request to shut down shows as `StoppedByGuest`
//! too; only the agent knows what it asked.

use chom_protocol::vps::VpsState;
use virt::sys;

/// The state of a VPS, of `virDomainGetState`'s state and reason.
pub(crate) fn vps_state(state: u32, reason: u32) -> VpsState {
    match state {
        // A guest that is shutting down still holds its disk and memory: it runs until it is off.
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED | sys::VIR_DOMAIN_SHUTDOWN => VpsState::Running,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => VpsState::Paused,
        sys::VIR_DOMAIN_CRASHED => VpsState::Crashed,
        sys::VIR_DOMAIN_SHUTOFF => match reason {
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => VpsState::StoppedByGuest,
            // DAEMON: libvirtd gave the domain up because it could not reach its QEMU any more.
            sys::VIR_DOMAIN_SHUTOFF_CRASHED
            | sys::VIR_DOMAIN_SHUTOFF_FAILED
            | sys::VIR_DOMAIN_SHUTOFF_DAEMON => VpsState::Crashed,
            // UNKNOWN: defined and never started, or started before libvirtd's last restart.
            _ => VpsState::Stopped,
        },
        _ => VpsState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_tells_who_switched_a_guest_off() {
        for (state, reason, expected) in [
            (sys::VIR_DOMAIN_NOSTATE, 0, VpsState::Unknown),
            (sys::VIR_DOMAIN_RUNNING, 1, VpsState::Running),
            (sys::VIR_DOMAIN_BLOCKED, 0, VpsState::Running),
            (sys::VIR_DOMAIN_PAUSED, 1, VpsState::Paused),
            (sys::VIR_DOMAIN_SHUTDOWN, 0, VpsState::Running),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_UNKNOWN, VpsState::Stopped),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN, VpsState::StoppedByGuest),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DESTROYED, VpsState::Stopped),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_CRASHED, VpsState::Crashed),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_SAVED, VpsState::Stopped),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_FAILED, VpsState::Crashed),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DAEMON, VpsState::Crashed),
            (sys::VIR_DOMAIN_CRASHED, 0, VpsState::Crashed),
            (sys::VIR_DOMAIN_PMSUSPENDED, 0, VpsState::Paused),
            (99, 0, VpsState::Unknown),
        ] {
            assert_eq!(vps_state(state, reason), expected, "state {state} reason {reason}");
        }
    }
}
