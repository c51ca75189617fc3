//! Why an orchestrator closes a connection, as the application error code of QUIC's CONNECTION_CLOSE (RFC 9000, section
//! 19.19). The numbers are frozen. The reason that goes along is for a person; agents go by the code alone.

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// What was asked for is done: the end of an enrolment.
    Done = 0,
    /// The orchestrator goes down or is restarted: dial again, with jitter.
    Shutdown = 1,
    /// The peer broke the rules of the link: dial again, with a long pause.
    Protocol = 2,
    /// The peer took too long over something: dial again.
    Slow = 3,
    /// The certificate is missing, not the fleet's, or its host is unknown: only enrolment helps.
    Identity = 4,
    /// The host was revoked: its certificate opens nothing any more.
    Revoked = 5,
    /// A newer session of the same host took over. If that was not this agent's own: another machine has its key.
    Replaced = 6,
    /// Two machines use the host's key; neither is managed any more.
    Cloned = 7,
    /// What the host may do has changed: dial again at once to hear what.
    Standing = 8,
    /// More connections than the orchestrator takes: dial again later.
    Busy = 9,
}

impl Close {
    /// Every reason, in order of its number.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::Shutdown,
        Self::Protocol,
        Self::Slow,
        Self::Identity,
        Self::Revoked,
        Self::Replaced,
        Self::Cloned,
        Self::Standing,
        Self::Busy,
    ];

    /// Its number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The reason of a number; none for one that a newer orchestrator sent.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|close| u64::from(close.code()) == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_found_by_its_number() {
        for (number, close) in (0..).zip(Close::ALL) {
            assert_eq!((close.code(), Close::from_code(u64::from(number))), (number, Some(close)));
        }
        assert_eq!(Close::from_code(10), None);
    }
}
