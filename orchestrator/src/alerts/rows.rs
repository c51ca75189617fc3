//! What is stored of alerts: one row for each alert and one for each group that is told of together. Nothing here decides.

use std::fmt;

use chom_protocol::api::alerts::{AlertState, Severity};
use chom_protocol::vps::Sha256;
use chom_protocol::{AlertId, HostId, Name, UnixMillis, VpsId};
use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($($(#[$meta:meta])* $rule:ident;)*) => {
        /// Which condition an alert is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Rule { $($(#[$meta])* $rule,)* }

        impl Rule {
            /// Its name, as the API and mails show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => stringify!($rule),)* }
            }
        }
    };
}

rules! {
    /// Much of the fleet went out of sight at once: more likely our own uplink than the hosts.
    FleetUnreachable;
    /// A host gave no sign of life.
    HostUnreachable;
    /// Two machines use one host's key.
    HostQuarantined;
    /// A file system has little room.
    DiskNearlyFull;
    /// A file system has few inodes.
    InodesNearlyFull;
    /// A host has little memory.
    MemoryNearlyFull;
    /// A VPS is not what it should be.
    VpsNotAsDesired;
    /// Removals wait for the cap on destroys.
    DestroysWaiting;
    /// A certificate ends soon.
    CertificateExpiring;
    /// A VPS used up its traffic of this month.
    TrafficQuota;
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What an alert is about. Two alerts of one subject are never open at the same time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// The condition.
    pub rule: Rule,
    /// Of which host.
    pub host: Option<HostId>,
    /// Of which VPS.
    pub vps: Option<VpsId>,
    /// What tells several of one host apart, such as a mount point; empty where there is one only.
    pub label: String,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRow {
    /// Its id.
    pub id: AlertId,
    /// What it is about.
    pub subject: Subject,
    /// Where that stands; none for what belongs to no region.
    pub region: Option<Name>,
    /// How bad.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub summary: String,
    /// Where it is in its life.
    pub state: AlertState,
    /// Since when its condition holds. `for` counts from here, across restarts.
    pub since: UnixMillis,
    /// Since when it fires. Kept when it comes back before anybody was told that it had resolved.
    pub firing_since: Option<UnixMillis>,
    /// When it resolved.
    pub resolved_at: Option<UnixMillis>,
    /// When its condition was last judged on fresh facts; stored once a minute.
    pub last_seen: UnixMillis,
}

impl AlertRow {
    /// The group in which it is told.
    #[must_use]
    pub fn group(&self) -> Group {
        Group { rule: self.subject.rule, region: self.region.clone() }
    }
}

/// What is told together: one cause in one region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// The condition.
    pub rule: Rule,
    /// Where.
    pub region: Option<Name>,
}

impl Group {
    /// Its id in the store.
    #[must_use]
    pub fn id(&self) -> Sha256 {
        Sha256::of(self.to_string().as_bytes())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.region {
            Some(region) => write!(out, "{} {region}", self.rule),
            None => self.rule.fmt(out),
        }
    }
}

/// A group that has something to tell, or told something that is not over. Gone once all was told as resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Which.
    pub group: Group,
    /// When it is looked at next: `group_wait` after it began, then each `group_interval`.
    pub next_flush_at: UnixMillis,
    /// When it was last told. What fired up to then was told as firing, what resolved up to then as resolved.
    pub last_sent_at: Option<UnixMillis>,
    /// Whether anything fired in what was told last.
    pub last_sent_firing: bool,
    /// Message-ID of its first mail, which all later ones answer.
    pub thread: Option<String>,
}
