//! VPSs: the commands. How they look is in `vps/render.rs`.

use std::path::PathBuf;

use chom_protocol::Name;
use chom_protocol::api::bulk::BulkAction;
use chom_protocol::api::console::{PasswordReset, ResetPassword};
use chom_protocol::api::hosts::HostView;
use chom_protocol::api::vps_servers::{
    CreateVps, SSH_KEYS_MAX, SetHold, USER_DATA_BYTES_MAX, VpsAccepted, VpsView,
};
use chom_protocol::vps::{Engine, GuestShutdown};
use clap::Subcommand;

use crate::client::Client;
use crate::confirm::confirm;
use crate::error::Failure;
use crate::filters::VpsFilters;
use crate::metrics;
use crate::operation::{self, WaitOptions};
use crate::session::{Reference, Session, read_text};
use crate::shell::eprint_line;
use crate::watch::{self, Watched};

mod adopt;
mod bulk;
mod change;
mod console;
mod network;
mod order;
mod render;
mod snapshot;

use bulk::Targets;
pub(crate) use order::Target;
use order::{Nothing, Verb, Way};

use change::{RebuildOptions, RenameOptions, ResizeOptions, StopOptions, SuspendOptions, UnsuspendOptions};

/// Where VPSs are in the API.
const PATH: &str = "/api/vps-servers";
/// Largest file of public keys; the longest key in use is about 700 characters.
const SSH_KEY_FILE_BYTES_MAX: usize = 64 * 1024;

/// `chomctl vps`.
#[derive(Debug, Subcommand)]
pub(crate) enum VpsCommand {
    /// Creates a VPS and starts it
    Create(Box<CreateOptions>),
    /// Makes VPSs of guests that CHOM did not make, where they stand, without a restart
    Adopt(Box<adopt::AdoptOptions>),
    /// Lists VPSs
    List(Box<Watched<VpsFilters>>),
    /// Shows what was measured lately of a VPS
    Metrics {
        /// Its name or id
        vps: Reference,
        #[command(flatten)]
        options: metrics::MetricsOptions,
    },
    /// Shows a VPS
    Show {
        /// Its name or id
        vps: Reference,
    },
    /// Starts a VPS
    Start(Targets),
    /// Shuts a VPS down; it is forced off when it does not
    Stop(StopOptions),
    /// Restarts a VPS
    Restart(Targets),
    /// Halts a VPS's processors; it keeps its memory
    Pause(Targets),
    /// Lets a paused VPS go on
    Resume(Targets),
    /// Gives a VPS another size; its disk only grows
    Resize(ResizeOptions),
    /// Makes a VPS anew from an image; what is on its disk is lost
    Rebuild(RebuildOptions),
    /// Gives a VPS another name
    Rename(RenameOptions),
    /// Says what another system, such as a billing system, calls a VPS
    ExternalId(change::ExternalIdOptions),
    /// Suspends a VPS for a reason
    Suspend(SuspendOptions),
    /// Ends one reason for which a VPS is suspended
    Unsuspend(UnsuspendOptions),
    /// Deletes a VPS; it is kept for a while and can be undeleted
    Delete(Targets),
    /// Brings a deleted VPS back
    Undelete(Targets),
    /// Removes a deleted VPS for good
    Purge(Targets),
    /// Opens the console of a VPS: the serial line of a VM, a shell in a container
    Console {
        /// Its name or id
        vps: Reference,
        #[command(flatten)]
        options: console::ConsoleOptions,
    },
    /// Sets a new password inside a VPS and prints it, once
    ResetPassword {
        /// Its name or id
        vps: Reference,
        /// Of which user
        #[arg(long, default_value = "root")]
        user: String,
    },
    /// Takes, lists, restores and removes snapshots of a VPS's disk
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Makes a new VPS from another's disk, on the same host
    Clone(snapshot::CloneOptions),
    /// Boots a VPS from a rescue image, its own disk attached as the second one
    Rescue(snapshot::RescueOptions),
    /// Boots a VPS from its own disk again
    Unrescue(Target),
    /// Changes what is in a VPS's CD-ROM drive
    #[command(subcommand)]
    Iso(snapshot::IsoCommand),
    /// Stops reconciling a VPS, while somebody repairs it by hand
    Hold(Targets),
    /// Reconciles a VPS again
    Unhold(Targets),
    #[command(flatten)]
    Network(network::VpsNetworkCommand),
}

/// What to create.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateOptions {
    /// Its name, also the guest's host name
    name: Name,
    /// Where (chomctl region list)
    #[arg(long)]
    region: Name,
    /// How large (chomctl size list)
    #[arg(long)]
    size: Name,
    /// From what (chomctl image list); the catalogue's default where absent
    #[arg(long)]
    image: Option<Name>,
    /// What runs it: libvirt (virtual machines) or incus (containers); what its image is for where absent
    #[arg(long)]
    engine: Option<Engine>,
    /// On which network (chomctl network list); the region's default where absent
    #[arg(long)]
    network: Option<Name>,
    /// A public SSH key for the default user; may be given several times
    #[arg(long = "ssh-key", value_name = "KEY")]
    ssh_keys: Vec<String>,
    /// A file of public SSH keys, one line each; may be given several times
    #[arg(long = "ssh-key-file", value_name = "FILE")]
    ssh_key_files: Vec<PathBuf>,
    /// One of the tenant's keys (chomctl key list), instead of all of them; may be given several times
    #[arg(long = "key", value_name = "NAME")]
    tenant_keys: Vec<Name>,
    /// cloud-init user data: a #cloud-config document or a script
    #[arg(long, value_name = "FILE")]
    user_data_file: Option<PathBuf>,
    /// What to do when the guest powers itself off
    #[arg(long, value_enum, default_value = "stay-off")]
    guest_shutdown: AfterShutdown,
    /// No two VPSs of this group stand on one host
    #[arg(long, value_name = "GROUP")]
    anti_affinity: Option<Name>,
    /// A label that its host must have; may be given several times
    #[arg(long = "host-label", value_name = "KEY=VALUE")]
    host_labels: Vec<String>,
    /// For which tenant; your token's own where absent
    #[arg(long)]
    tenant: Option<Name>,
    /// What another system, such as a billing system, calls it; unique within its tenant
    #[arg(long)]
    external_id: Option<String>,
    #[command(flatten)]
    way: Way,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum AfterShutdown {
    /// It stays off
    StayOff,
    /// It is started again
    Restart,
}

impl CreateOptions {
    fn request(self) -> Result<(CreateVps, Way), Failure> {
        let ssh_keys = ssh_keys(self.ssh_keys, &self.ssh_key_files)?;
        let user_data = user_data(self.user_data_file.as_ref())?;
        let guest_shutdown = match self.guest_shutdown {
            AfterShutdown::StayOff => GuestShutdown::StayOff,
            AfterShutdown::Restart => GuestShutdown::Restart,
        };
        let (name, region, size, image, engine, network) =
            (self.name, self.region, self.size, self.image, self.engine, self.network);
        let host_labels = crate::host::limits::wanted(&self.host_labels)?;
        let anti_affinity = self.anti_affinity;
        let request = CreateVps {
            name,
            region,
            size,
            image,
            engine,
            network,
            ssh_keys,
            tenant_keys: (!self.tenant_keys.is_empty()).then_some(self.tenant_keys),
            user_data,
            guest_shutdown,
            anti_affinity,
            host_labels,
            tenant: self.tenant,
            external_id: self.external_id,
        };
        Ok((request, self.way))
    }
}

fn ssh_keys(mut keys: Vec<String>, files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    for file in files {
        let text = read_text("SSH keys from", file, SSH_KEY_FILE_BYTES_MAX)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        keys.extend(lines.map(str::to_owned));
    }
    if keys.len() > SSH_KEYS_MAX {
        let what = format!("{} SSH keys were given", keys.len());
        return Err(Failure::usage(what, format!("give at most {SSH_KEYS_MAX}")));
    }
    Ok(keys)
}

fn user_data(file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    file.map(|file| read_text("user data from", file, USER_DATA_BYTES_MAX)).transpose()
}

/// Runs `chomctl vps`.
pub(crate) fn run(session: &Session, command: VpsCommand) -> Result<(), Failure> {
    match command {
        VpsCommand::Create(options) => {
            let (request, way) = options.request()?;
            order::give(session, &session.client()?, PATH, &Verb::Post(&request), &way)
        }
        VpsCommand::Adopt(options) => adopt::run(session, *options),
        VpsCommand::List(filters) => {
            let client = session.client()?;
            let hosts = if session.screen.view.wide { host_names(&client) } else { Vec::new() };
            watch::list(session, &client, PATH, &filters, |rows, view| render::table(rows, &hosts, view))
        }
        VpsCommand::Metrics { vps, options } => {
            let client = session.client()?;
            metrics::show(session, &client, &path(&vps), &options)
        }
        VpsCommand::Show { vps } => {
            let client = session.client()?;
            let row: VpsView = client.get(&path(&vps))?;
            let hosts = match session.for_people() {
                true => row
                    .host
                    .and_then(|host| client.get(&format!("/api/hosts/{host}")).ok())
                    .into_iter()
                    .collect(),
                false => Vec::new(),
            };
            session.screen.show(&row, |view| render::details(&row, &hosts, view))
        }
        VpsCommand::Start(targets) => act(session, targets, BulkAction::Start),
        VpsCommand::Stop(options) => change::stop(session, options),
        VpsCommand::Restart(targets) => act(session, targets, BulkAction::Restart),
        VpsCommand::Pause(targets) => act(session, targets, BulkAction::Pause),
        VpsCommand::Resume(targets) => act(session, targets, BulkAction::Resume),
        VpsCommand::Resize(options) => change::resize(session, options),
        VpsCommand::Rebuild(options) => change::rebuild(session, options),
        VpsCommand::Rename(options) => change::rename(session, options),
        VpsCommand::ExternalId(options) => change::external_id(session, options),
        VpsCommand::Suspend(options) => change::suspend(session, options),
        VpsCommand::Unsuspend(options) => change::unsuspend(session, options),
        VpsCommand::Undelete(targets) => act(session, targets, BulkAction::Undelete),
        VpsCommand::Delete(targets) => match targets.one_or_many(session, BulkAction::Delete, None)? {
            Some(target) => order::delete(session, &target, ""),
            None => Ok(()),
        },
        VpsCommand::Purge(targets) => purge(session, targets),
        VpsCommand::Console { vps, options } => {
            let client = session.client()?;
            let row: VpsView = client.get(&path(&vps))?;
            console::run(&client, row.id, row.name.as_str(), options)
        }
        VpsCommand::ResetPassword { vps, user } => reset_password(session, &vps, user),
        VpsCommand::Snapshot(command) => snapshot::run(session, command),
        VpsCommand::Clone(options) => snapshot::clone(session, options),
        VpsCommand::Rescue(options) => snapshot::rescue(session, options),
        VpsCommand::Unrescue(target) => order::act(session, &target, "unrescue"),
        VpsCommand::Iso(command) => snapshot::iso(session, command),
        VpsCommand::Hold(target) => hold(session, target, true),
        VpsCommand::Unhold(target) => hold(session, target, false),
        VpsCommand::Network(command) => network::run(session, command),
    }
}

fn act(session: &Session, targets: Targets, action: BulkAction) -> Result<(), Failure> {
    match targets.one_or_many(session, action, None)? {
        Some(target) => order::act(session, &target, action.name()),
        None => Ok(()),
    }
}

fn hold(session: &Session, targets: Targets, hold: bool) -> Result<(), Failure> {
    let action = if hold { BulkAction::Hold } else { BulkAction::Unhold };
    match targets.one_or_many(session, action, None)? {
        Some(target) => order::order(session, &target, "hold", &SetHold { hold }),
        None => Ok(()),
    }
}

fn purge(session: &Session, targets: Targets) -> Result<(), Failure> {
    let confirmation = targets.confirmation;
    let Some(target) = targets.one_or_many(session, BulkAction::Purge, None)? else { return Ok(()) };
    let client = session.client()?;
    let vps: VpsView = client.get(&path(&target.vps))?;
    let consequence = format!("This removes the VPS `{}` ({}) and its disk for good.", vps.name, vps.id);
    if !target.way.dry_run {
        confirm(confirmation, session.no_input(), &consequence)?;
    }
    order::give::<Nothing>(session, &client, &format!("{PATH}/{}/purge", vps.id), &Verb::Act, &target.way)
}

fn reset_password(session: &Session, vps: &Reference, user: String) -> Result<(), Failure> {
    let client = session.client()?;
    let request = ResetPassword { user: Some(user) };
    let reset: PasswordReset = client.post(&format!("{}/reset-password", by_id(&client, vps)?), &request)?;
    if reset.password.is_none() {
        let reason = "the password was set, and its answer was lost on the way; reset it again".to_owned();
        return Err(client.strange(None, reason));
    }
    session.screen.show(&reset, |_| {
        let password = reset.password.as_deref().unwrap_or_default();
        format!("user:     {}\npassword: {password}\n", reset.user)
    })
}

fn path(vps: &Reference) -> String {
    format!("{PATH}/{vps}")
}

/// The path by id: a name may be given to another VPS between two tries of a mutation, an id never.
fn by_id(client: &Client, vps: &Reference) -> Result<String, Failure> {
    match vps {
        Reference::Id(_) => Ok(path(vps)),
        Reference::Name(_) => client.get::<VpsView>(&path(vps)).map(|row| format!("{PATH}/{}", row.id)),
    }
}

/// Waits if asked to, and prints what came of it.
fn finish(
    session: &Session,
    client: &Client,
    mut accepted: VpsAccepted,
    wait: WaitOptions,
) -> Result<(), Failure> {
    if !wait.wait {
        session.screen.show(&accepted, |view| render::accepted(&accepted, view))?;
        if session.for_people() && !accepted.operation.state.is_final() {
            eprint_line(&format!("accepted; wait for it: chomctl operation wait {}", accepted.operation.id));
        }
        return operation::outcome(&accepted.operation);
    }
    accepted.operation =
        operation::wait(client, accepted.operation, accepted.vps.name.as_str(), wait.timeout)?;
    // A purged VPS is gone: its last view stays.
    let gone = match client.get::<VpsView>(&format!("{PATH}/{}", accepted.vps.id)) {
        Ok(vps) => {
            accepted.vps = vps;
            false
        }
        Err(failure) if failure.is_not_found() => true,
        Err(failure) => return Err(failure),
    };
    session.screen.show(&accepted, |view| match gone {
        true => render::accepted(&accepted, view),
        false => render::table(std::slice::from_ref(&accepted.vps), &[], view),
    })?;
    operation::outcome(&accepted.operation)
}

/// Hosts, for their names; without them ids are shown, so trouble with them is passed over.
fn host_names(client: &Client) -> Vec<HostView> {
    client.list("/api/hosts", None).unwrap_or_default()
}
