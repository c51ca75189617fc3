//! VPSs as the API shows and takes them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::api::adoption::AdoptedView;
use crate::api::guest::GuestView;
use crate::api::hosts::Labels;
use crate::api::operations::OperationView;
use crate::id::{HostId, Name, VpsId};
use crate::units::Bytes;
use crate::vps::{Engine, GuestShutdown, Power, Suspension, SuspensionReason, VpsState};

/// Longest user data: twice what the large clouds allow, and half of what one stored value may have.
pub const USER_DATA_BYTES_MAX: usize = 32 * 1024;
/// Most SSH keys of a VPS.
pub const SSH_KEYS_MAX: usize = 64;
/// All SSH keys of a VPS together; with the rest of its row they stay within one stored value.
pub const SSH_KEYS_BYTES_MAX: usize = 32 * 1024;
/// Longest line of an SSH key; sshd(8) takes as much, and an RSA key of 16,384 bits takes under 3 KiB.
pub const SSH_KEY_BYTES_MAX: usize = 8 * 1024;

/// Why a text is no SSH key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshKeyError {
    /// Longer than a key line is.
    #[error("the SSH key has {bytes} bytes; at most {SSH_KEY_BYTES_MAX} are allowed")]
    Long {
        /// Its length.
        bytes: usize,
    },
    /// Nothing in it.
    #[error("the SSH key is empty; give one line as in a `.pub` file of ssh-keygen(1)")]
    Empty,
    /// Something that is not in a line of text.
    #[error("the SSH key has a line break or control character in it; give one line for each key")]
    Control,
}

/// Whether a text can be a line of authorized_keys (sshd(8)). What the key is worth is for sshd to judge.
pub fn check_ssh_key(line: &str) -> Result<(), SshKeyError> {
    if line.len() > SSH_KEY_BYTES_MAX {
        return Err(SshKeyError::Long { bytes: line.len() });
    }
    if line.trim().is_empty() {
        return Err(SshKeyError::Empty);
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(SshKeyError::Control);
    }
    Ok(())
}

/// Asks for a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVps {
    /// Its name, unique within the tenant; also the guest's host name.
    pub name: Name,
    /// Where.
    pub region: Name,
    /// How large.
    pub size: Name,
    /// From what; the catalogue's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// What runs it: `libvirt` makes virtual machines, `incus` containers. Where absent, what its image is for; with no image
    /// either, that of the default image which a host has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// On which network; the region's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// Public keys for the default user, one line each, beside the tenant's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// Which of the tenant's keys it lets in; all of them where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_keys: Option<Vec<Name>>,
    /// cloud-init user data: a `#cloud-config` document or a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// What to do when the guest powers itself off.
    #[serde(default)]
    pub guest_shutdown: GuestShutdown,
    /// No two VPSs of the tenant with this name here stand on one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<Name>,
    /// Labels that its host must have.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub host_labels: Labels,
    /// Whose it is to be; the caller's own where absent, `default` for a caller of the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// What another system, such as a billing system, calls it; unique within its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// What a VPS is doing, as far as can be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObservedVps {
    /// What it does; `unknown` when its host cannot be seen.
    pub state: VpsState,
    /// What it did when its host was last seen.
    pub last_state: VpsState,
    /// When its host last reported it, RFC 3339; none: never.
    pub seen_at: Option<String>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// What keeps it from its desired state, and what to do.
    pub problem: Option<String>,
    /// How far current work on it is.
    pub progress: Option<String>,
    /// A part of what is wanted waits for its next start.
    pub restart_needed: bool,
    /// What is known from inside it; `null` while nobody inside answers, or its host cannot be seen.
    #[serde(default)]
    pub guest: Option<GuestView>,
}

/// A VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VpsView {
    /// Its id.
    pub id: VpsId,
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub tenant: Name,
    /// Where.
    pub region: Name,
    /// Its size.
    pub size: Name,
    /// Its image; one that was adopted has none.
    pub image: Option<Name>,
    /// Its host; tenants are not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Its engine.
    pub engine: Engine,
    /// Virtual processors.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: Bytes,
    /// Disk.
    pub disk_bytes: Bytes,
    /// Its network.
    pub network: Name,
    /// Its addresses.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// On, paused or off, as wanted.
    pub desired: Power,
    /// Why it is suspended, if it is.
    pub suspensions: Vec<SuspensionView>,
    /// What it does.
    pub observed: ObservedVps,
    /// What to do when the guest powers itself off.
    pub guest_shutdown: GuestShutdown,
    /// The group of which no two stand on one host.
    #[serde(default)]
    pub anti_affinity: Option<Name>,
    /// Whether reconciling it is stopped.
    pub hold: bool,
    /// The image that it boots in rescue mode, its own disk being the second one; none: it boots from its own disk.
    pub rescue: Option<Name>,
    /// What is in its CD-ROM drive.
    pub iso: Option<Name>,
    /// When it was deleted, RFC 3339; it is kept until `purge_at`.
    pub deleted_at: Option<String>,
    /// When it will be removed for good, RFC 3339.
    pub purge_at: Option<String>,
    /// Whether it is being removed for good now.
    pub purging: bool,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Its revision, for `If-Match`.
    pub revision: u64,
    /// The guest that it was adopted as; none: CHOM made it.
    #[serde(default)]
    pub adopted: Option<AdoptedView>,
    /// What another system calls it.
    #[serde(default)]
    pub external_id: Option<String>,
}

/// Answer to a mutation of a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VpsAccepted {
    /// The VPS as it is wanted now.
    pub vps: VpsView,
    /// The operation to wait for.
    pub operation: OperationView,
}

/// Sets or clears the hold on a VPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetHold {
    /// Whether to stop reconciling it.
    pub hold: bool,
}

/// One reason for which a VPS is suspended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SuspensionView {
    /// Which.
    pub reason: SuspensionReason,
    /// What it asks for; the strictest of all reasons holds.
    pub mode: Suspension,
    /// Since when, RFC 3339.
    pub since: String,
}

/// Longest grace that can be asked for: a database server that writes its caches takes minutes.
pub const STOP_GRACE_SECONDS_MAX: u32 = 3600;

/// Switches a VPS off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct StopVps {
    /// Take its power away at once, without asking the guest.
    pub force: bool,
    /// Seconds it is given to shut down before it is forced; the host's setting where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u32>,
}

/// Gives a VPS another size: a named one, single figures, or both, where the figures go before the name's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ResizeVps {
    /// A size of the catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Name>,
    /// Virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
    /// Disk; it never shrinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<Bytes>,
    /// Whether it may be restarted now for what cannot change while it runs; else that waits for its next start.
    pub restart: bool,
}

/// Makes a VPS anew from an image, under the same id, name and addresses. What is on its disk is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RebuildVps {
    /// From what; its present image where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// Public keys in place of the present ones, one line each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_keys: Option<Vec<String>>,
    /// cloud-init user data in place of the present one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
}

/// Gives a VPS another name; the guest takes it at its next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RenameVps {
    /// The new name, unique within the tenant.
    pub name: Name,
}

/// Suspends a VPS for a reason; a reason that holds already takes the new mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SuspendVps {
    /// Why.
    pub reason: SuspensionReason,
    /// What becomes of it meanwhile.
    pub mode: Suspension,
}

/// Ends one reason for which a VPS is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UnsuspendVps {
    /// Which.
    pub reason: SuspensionReason,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body becomes, as the API reads it: with the path of what is wrong.
    fn read(body: &str) -> String {
        let mut json = serde_json::Deserializer::from_str(body);
        match serde_path_to_error::deserialize::<_, CreateVps>(&mut json) {
            Ok(request) => format!("{request:?}\n{}", serde_json::to_string(&request).unwrap()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_call_of_the_manual_is_understood() {
        expect_test::expect![[r#"
            CreateVps { name: Name("test-vps"), region: Name("us-east"), size: Name("small"), image: None, engine: None, network: None, ssh_keys: [], tenant_keys: None, user_data: None, guest_shutdown: StayOff, anti_affinity: None, host_labels: {}, tenant: None, external_id: None }
            {"name":"test-vps","region":"us-east","size":"small","guest_shutdown":"stay_off"}"#]]
            .assert_eq(&read(r#"{"name":"test-vps","region":"us-east","size":"small"}"#));
    }

    #[test]
    fn a_mistake_in_the_body_is_named_with_its_field() {
        let said = [
            r#"{"name":"test-vps","region":"us-east","size":"small","colour":"red"}"#,
            r#"{"name":7,"region":"us-east","size":"small"}"#,
            r#"{"name":"Test_VPS","region":"us-east","size":"small"}"#,
            r#"{"name":"test-vps","region":["us-east"],"size":"small"}"#,
            r#"{"name":"test-vps","region":"us-east"}"#,
            r#"{"name":"test-vps","region":"us-east","size":"small","ssh_keys":["a",1]}"#,
            r#"{"name":"test-vps","region":"us-east","size":"small","guest_shutdown":"explode"}"#,
            r#"{"name":"test-vps""#,
        ];
        expect_test::expect![[r#"
            colour: unknown field `colour`, expected one of `name`, `region`, `size`, `image`, `engine`, `network`, `ssh_keys`, `tenant_keys`, `user_data`, `guest_shutdown`, `anti_affinity`, `host_labels`, `tenant`, `external_id` at line 1 column 61
            name: invalid type: integer `7`, expected a string at line 1 column 9
            name: the name `Test_VPS` has `T` in it; use lower-case letters, digits and hyphens (RFC 1123) at line 1 column 18
            region: invalid type: sequence, expected a string at line 1 column 28
            missing field `size` at line 1 column 38
            ssh_keys[1]: invalid type: integer `1`, expected a string at line 1 column 70
            guest_shutdown: unknown variant `explode`, expected `stay_off` or `restart` at line 1 column 79
            EOF while parsing an object at line 1 column 18"#]].assert_eq(&said.map(read).join("\n"));
    }

    #[test]
    fn an_ssh_key_is_one_line_of_text() {
        assert_eq!(check_ssh_key("ssh-ed25519 AAAA\tadmin@example.org"), Ok(()));
        assert_eq!(check_ssh_key(&"k".repeat(SSH_KEY_BYTES_MAX)), Ok(()));
        assert_eq!(check_ssh_key(&"k".repeat(SSH_KEY_BYTES_MAX + 1)), Err(SshKeyError::Long { bytes: 8193 }));
        assert_eq!(check_ssh_key(" "), Err(SshKeyError::Empty));
        assert_eq!(check_ssh_key("ssh-ed25519 A\nssh-ed25519 B"), Err(SshKeyError::Control));
    }
}
