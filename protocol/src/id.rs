//! Typed identifiers. An id names one thing for ever; it is never reused and says nothing about the thing.
//!
//! Ids are made by the orchestrator's edge (UUID version 7, RFC 9562, so that they sort by age) and passed into
//! decisions as arguments; nothing in this crate makes one from a clock.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind} id: expected a UUID such as 0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e")]
pub struct IdError {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// What was given.
    pub text: String,
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, format = "uuid"))]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// What this kind of id is called in messages.
            pub const KIND: &'static str = $kind;

            /// Wraps a UUID.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError { kind: $kind, text: text.to_owned() })
            }
        }
    };
}

id!(
    /// A machine that runs the agent.
    HostId, "host"
);
id!(
    /// A VM or system container that a tenant rents. Also the engine's own UUID of the guest.
    VpsId, "VPS"
);
id!(
    /// What an API mutation returns: its progress, steps and outcome.
    OperationId, "operation"
);
id!(
    /// What a dry run said would be done, to be applied as it was said.
    PlanId, "plan"
);
id!(
    /// A one-shot task inside desired state, started once.
    JobId, "job"
);
id!(
    /// One snapshot of a VPS's disk; also its mark in the engine.
    SnapshotId, "snapshot"
);
id!(
    /// One alert: a cause that fires and resolves.
    AlertId, "alert"
);
id!(
    /// One notification in the outbox.
    NotificationId, "notification"
);
id!(
    /// One single-use enrolment token.
    EnrolmentId, "enrolment"
);
id!(
    /// One API token.
    TokenId, "token"
);
id!(
    /// One webhook.
    WebhookId, "webhook"
);
id!(
    /// One event as webhooks tell it; the same for all that hear of it and for every try (`webhook-id`).
    DeliveryId, "delivery"
);
id!(
    /// One person who signs in with a password.
    UserId, "user"
);
id!(
    /// One boot of a host (`/proc/sys/kernel/random/boot_id`, random(4)).
    BootId, "boot"
);
id!(
    /// One console that the orchestrator opened on a host.
    TunnelId, "tunnel"
);
id!(
    /// One run of an agent process; tells a restarted agent from a clone.
    InstanceId, "agent instance"
);

/// A name as hosts have them: one RFC 1123 label (letters, digits, inner hyphens; at most 63 characters).
///
/// VPSs, tenants, regions, sizes and images are named this way, so a name is always a legal host name.
/// Cheap to clone: the orchestrator's snapshots do it all the time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String, example = "test-vps"))]
#[serde(try_from = "String")]
pub struct Name(Arc<str>);

/// Longest label, RFC 1035 section 2.3.4.
pub const NAME_CHARACTERS_MAX: usize = 63;

/// Why a text is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must have at least one character")]
    Empty,
    /// Longer than a label may be.
    #[error("the name `{name}…` has {characters} characters; at most {NAME_CHARACTERS_MAX} are allowed")]
    Long {
        /// Its first characters.
        name: String,
        /// Its length.
        characters: usize,
    },
    /// A character that no host name has.
    #[error(
        "the name `{name}` has `{character}` in it; use lower-case letters, digits and hyphens (RFC 1123)"
    )]
    Character {
        /// The name.
        name: String,
        /// The first character at fault.
        character: char,
    },
    /// A hyphen at an end.
    #[error(
        "the name `{name}` begins or ends with a hyphen; begin and end with a letter or digit (RFC 1123)"
    )]
    Hyphen {
        /// The name.
        name: String,
    },
}

impl Name {
    /// The tenant every row belongs to until tenants are made.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self("default".into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        let characters = name.chars().count();
        if characters == 0 {
            return Err(NameError::Empty);
        }
        if characters > NAME_CHARACTERS_MAX {
            return Err(NameError::Long { name: name.chars().take(16).collect(), characters });
        }
        let odd = |c: &char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-');
        if let Some(character) = name.chars().find(odd) {
            return Err(NameError::Character { name, character });
        }
        if name.starts_with('-') || name.ends_with('-') {
            return Err(NameError::Hyphen { name });
        }
        Ok(Self(name.into()))
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_label_of_a_host_name() {
        for good in ["a", "test-vps", "0", "x1-2", &"a".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", &"a".repeat(64), "../etc"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_error_names_the_kind_and_the_text() {
        let error = "7".parse::<VpsId>().unwrap_err();
        assert!(error.to_string().contains("VPS") && error.to_string().contains("`7`"), "{error}");
    }
}
