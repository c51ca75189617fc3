//! libvirt's errors in words for an admin: what it said, and what to do. Pure.

use chom_protocol::VpsId;
use chom_protocol::helper::HelperReply;
use virt::error::{Error, ErrorNumber};

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// libvirt refused or failed.
    #[error("{doing}: libvirt says: {}{}", said.message(), advice(said))]
    Libvirt {
        /// What was being done.
        doing: String,
        /// What libvirt said.
        said: Error,
    },
    /// QEMU refused or failed.
    #[error("{doing}: QEMU says: {said}{}", advice_on(said))]
    Qemu {
        /// What was being done.
        doing: String,
        /// What QEMU said.
        said: String,
    },
    /// The guest was not made by CHOM.
    #[error(
        "the guest `{name}` has the id of a VPS but not CHOM's mark, so it is left alone: rename or remove it with virsh, \
         or adopt it"
    )]
    Foreign {
        /// Its name in libvirt.
        name: String,
    },
    /// The agent inside the guest did not do it.
    #[error("cannot {doing} in VPS {vps}: {}: libvirt says: {}", why(said), said.message())]
    Guest {
        /// Whose guest.
        vps: VpsId,
        /// What was asked.
        doing: &'static str,
        /// What libvirt said.
        said: Error,
    },
    /// It must be on for that.
    #[error("VPS {vps} is off: start it first")]
    Off {
        /// Which.
        vps: VpsId,
    },
    /// The request does not fit what is there.
    #[error("{0}")]
    State(String),
}

impl Problem {
    /// A failure of libvirt while `doing` something.
    pub(crate) fn libvirt(doing: impl Into<String>) -> impl FnOnce(Error) -> Self {
        move |said| Self::Libvirt { doing: doing.into(), said }
    }

    /// A failure of libvirt, or of the agent in the guest, while that was asked to be `doing` something.
    pub(crate) fn guest(vps: VpsId, doing: &'static str) -> impl FnOnce(Error) -> Self {
        move |said| Self::Guest { vps, doing, said }
    }

    /// Whether the same request may go through later without anybody's help.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Libvirt { said, .. } => !matches!(
                said.code().known(),
                Some(
                    ErrorNumber::XmlError
                        | ErrorNumber::XmlDetail
                        | ErrorNumber::XmlInvalidSchema
                        | ErrorNumber::ConfigUnsupported
                        | ErrorNumber::InvalidArg
                        | ErrorNumber::NoSupport
                )
            ),
            Self::Foreign { .. } | Self::Guest { .. } | Self::Off { .. } => false,
            Self::State(_) | Self::Qemu { .. } => true,
        }
    }

    /// The reply that carries it.
    pub(crate) fn reply(&self) -> HelperReply {
        HelperReply::Failed { problem: self.to_string(), retryable: self.is_retryable() }
    }
}

/// What of the guest's side is missing, and what to do.
fn why(error: &Error) -> &'static str {
    match crate::guest::is_silent(error) {
        true => {
            "no agent answers inside it: install and start qemu-guest-agent there, or boot the VPS into rescue"
        }
        false => "the agent inside it refused; look at its log there, or boot the VPS into rescue",
    }
}

/// What to do about it, where that is known; begins with its own separator.
fn advice(error: &Error) -> &'static str {
    match (advice_on(error.message()), error.code().known()) {
        ("", Some(ErrorNumber::NoConnect)) => "; is libvirtd running? see `systemctl status libvirtd`",
        ("", Some(ErrorNumber::AuthFailed | ErrorNumber::AuthUnavailable | ErrorNumber::AccessDenied)) => {
            "; the agent must be allowed to manage qemu:///system: run it as root"
        }
        ("", Some(ErrorNumber::NoNetwork)) => "; see `virsh net-list --all`",
        ("", Some(ErrorNumber::ConfigUnsupported)) => {
            "; see `virsh domcapabilities` for what this QEMU offers"
        }
        (known, _) => known,
    }
}

/// The same, by words alone.
fn advice_on(message: &str) -> &'static str {
    let any = |needles: &[&str]| needles.iter().any(|needle| message.contains(needle));
    if any(&["Failed to connect socket", "Connection refused", "End of file while reading", "Broken pipe"]) {
        return "; is libvirtd running? see `systemctl status libvirtd` and its journal";
    }
    if any(&["Permission denied", "Could not open", "authentication"]) {
        return "; the VPS and image folders must be searchable by the user that runs QEMU (libvirt-qemu), and the agent must \
                run as root";
    }
    if any(&["No space left"]) {
        return "; make room on the file system that holds the VPSs";
    }
    if any(&["dnsmasq"]) {
        return "; install the package dnsmasq-base";
    }
    if any(&["already in use by interface", "already exists and is not"]) {
        return "; another network has that bridge or those addresses: see `virsh net-list --all` and `ip address`";
    }
    ""
}

/// An error and all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
