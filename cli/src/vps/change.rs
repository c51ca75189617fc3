//! VPSs changed in what they are: stopped with a grace, resized, rebuilt, renamed, suspended.

use std::path::PathBuf;

use chom_protocol::api::bulk::BulkAction;
use chom_protocol::api::tenants::SetExternalId;
use chom_protocol::api::vps_servers::{
    RebuildVps, RenameVps, ResizeVps, StopVps, SuspendVps, UnsuspendVps, VpsView,
};
use chom_protocol::vps::{Suspension, SuspensionReason};
use chom_protocol::{Bytes, Name};
use serde::Serialize;

use super::bulk::Targets;
use super::order::order;
use super::{Target, by_id, path, ssh_keys, user_data};
use crate::confirm::confirm;
use crate::error::Failure;
use crate::session::{Reference, Session};

/// How to stop.
#[derive(Debug, clap::Args)]
pub(crate) struct StopOptions {
    #[command(flatten)]
    targets: Targets,
    /// Take its power away at once, without asking the guest
    #[arg(long, conflicts_with = "grace")]
    force: bool,
    /// Seconds it is given to shut down before it is forced
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u32>,
}

/// What size to give.
#[derive(Debug, clap::Args)]
pub(crate) struct ResizeOptions {
    #[command(flatten)]
    targets: Targets,
    /// A size of the catalogue (chomctl size list)
    #[arg(long)]
    size: Option<Name>,
    /// Virtual processors
    #[arg(long)]
    cores: Option<u32>,
    /// Memory, such as 512M or 4G
    #[arg(long, value_parser = parse_bytes)]
    memory: Option<Bytes>,
    /// Disk, such as 20G; it never shrinks
    #[arg(long, value_parser = parse_bytes)]
    disk: Option<Bytes>,
    /// Restart it for what cannot change while it runs; else that waits for its next start
    #[arg(long)]
    restart: bool,
}

/// What another system calls it.
#[derive(Debug, clap::Args)]
pub(crate) struct ExternalIdOptions {
    /// Its name or id
    vps: Reference,
    /// What another system calls it; nothing any more where absent
    external_id: Option<String>,
}

/// From what to make it anew.
#[derive(Debug, clap::Args)]
pub(crate) struct RebuildOptions {
    #[command(flatten)]
    targets: Targets,
    /// From what (chomctl image list); its present image where absent
    #[arg(long)]
    image: Option<Name>,
    /// A public SSH key in place of the present ones; may be given several times
    #[arg(long = "ssh-key", value_name = "KEY")]
    ssh_keys: Vec<String>,
    /// A file of public SSH keys, one line each; may be given several times
    #[arg(long = "ssh-key-file", value_name = "FILE")]
    ssh_key_files: Vec<PathBuf>,
    /// cloud-init user data in place of the present one
    #[arg(long, value_name = "FILE")]
    user_data_file: Option<PathBuf>,
}

/// What to call it.
#[derive(Debug, clap::Args)]
pub(crate) struct RenameOptions {
    #[command(flatten)]
    target: Target,
    /// Its new name, also the guest's host name from its next start on
    #[arg(value_name = "NEW_NAME")]
    name: Name,
}

/// Why, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct SuspendOptions {
    #[command(flatten)]
    targets: Targets,
    /// Why
    #[arg(long, value_enum)]
    reason: Reason,
    /// What becomes of it meanwhile
    #[arg(long, value_enum, default_value = "stopped")]
    mode: Mode,
}

/// Which reason ends.
#[derive(Debug, clap::Args)]
pub(crate) struct UnsuspendOptions {
    #[command(flatten)]
    targets: Targets,
    /// Which reason
    #[arg(long, value_enum)]
    reason: Reason,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Reason {
    /// It was not paid for
    Billing,
    /// It harms others
    Abuse,
    /// An admin's own reason
    Admin,
}

impl From<Reason> for SuspensionReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Billing => Self::Billing,
            Reason::Abuse => Self::Abuse,
            Reason::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// Off
    Stopped,
    /// On, cut off from its network
    Isolated,
}

/// Reads `512M`, `20G` or a number of bytes; units are powers of 1024.
pub(super) fn parse_bytes(text: &str) -> Result<Bytes, String> {
    let (number, unit_bytes) = match text.strip_suffix(['K', 'M', 'G', 'T']) {
        Some(number) if text.ends_with('K') => (number, 1 << 10),
        Some(number) if text.ends_with('M') => (number, 1 << 20),
        Some(number) if text.ends_with('G') => (number, 1 << 30),
        Some(number) => (number, 1 << 40),
        None => (text, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_bytes));
    bytes.map(Bytes).ok_or_else(|| "write a size such as 512M or 20G".to_owned())
}

pub(super) fn stop(session: &Session, options: StopOptions) -> Result<(), Failure> {
    let StopOptions { targets, force, grace } = options;
    given(session, targets, BulkAction::Stop, &StopVps { force, grace_seconds: grace })
}

pub(super) fn resize(session: &Session, options: ResizeOptions) -> Result<(), Failure> {
    let ResizeOptions { targets, size, cores, memory, disk, restart } = options;
    let request = ResizeVps { size, cores, memory_bytes: memory, disk_bytes: disk, restart };
    given(session, targets, BulkAction::Resize, &request)
}

pub(super) fn rebuild(session: &Session, options: RebuildOptions) -> Result<(), Failure> {
    let confirmation = options.targets.confirmation;
    let keys = ssh_keys(options.ssh_keys, &options.ssh_key_files)?;
    let request = RebuildVps {
        image: options.image,
        ssh_keys: (!keys.is_empty()).then_some(keys),
        user_data: user_data(options.user_data_file.as_ref())?,
    };
    let (targets, confirmation) = (options.targets, confirmation);
    let words = to_value(&request)?;
    let Some(target) = targets.one_or_many(session, BulkAction::Rebuild, Some(words))? else { return Ok(()) };
    let client = session.client()?;
    let vps: VpsView = client.get(&path(&target.vps))?;
    let consequence = format!("What is on the disk of the VPS `{}` ({}) will be lost.", vps.name, vps.id);
    if !target.way.dry_run {
        confirm(confirmation, session.no_input(), &consequence)?;
    }
    order(session, &target, "rebuild", &request)
}

pub(super) fn rename(session: &Session, options: RenameOptions) -> Result<(), Failure> {
    let RenameOptions { target, name } = options;
    order(session, &target, "rename", &RenameVps { name })
}

pub(super) fn external_id(session: &Session, options: ExternalIdOptions) -> Result<(), Failure> {
    let ExternalIdOptions { vps, external_id } = options;
    let client = session.client()?;
    let path = format!("{}/external-id", by_id(&client, &vps)?);
    let shown: VpsView = client.post(&path, &SetExternalId { external_id })?;
    session.screen.show(&shown, |view| super::render::details(&shown, &[], view))
}

pub(super) fn suspend(session: &Session, options: SuspendOptions) -> Result<(), Failure> {
    let SuspendOptions { targets, reason, mode } = options;
    let mode = match mode {
        Mode::Stopped => Suspension::Stopped,
        Mode::Isolated => Suspension::Isolated,
    };
    given(session, targets, BulkAction::Suspend, &SuspendVps { reason: reason.into(), mode })
}

pub(super) fn unsuspend(session: &Session, options: UnsuspendOptions) -> Result<(), Failure> {
    let UnsuspendOptions { targets, reason } = options;
    given(session, targets, BulkAction::Unsuspend, &UnsuspendVps { reason: reason.into() })
}

/// An order with words, to one or to many.
fn given(
    session: &Session,
    targets: Targets,
    action: BulkAction,
    request: &impl Serialize,
) -> Result<(), Failure> {
    match targets.one_or_many(session, action, Some(to_value(request)?))? {
        Some(target) => order(session, &target, action.name(), request),
        None => Ok(()),
    }
}

fn to_value(request: &impl Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(request)
        .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_with_its_unit_and_nothing_else_is() {
        assert_eq!(parse_bytes("512M"), Ok(Bytes::mib(512)));
        assert_eq!(parse_bytes("20G"), Ok(Bytes::gib(20)));
        assert_eq!(parse_bytes("4096"), Ok(Bytes(4096)));
        for bad in ["", "G", "-1", "1.5G", "9999999999T", "20GB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
