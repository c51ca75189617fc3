//! Snapshots, copies, rescue mode and the CD-ROM drive: the commands.

use chom_protocol::api::snapshots::{
    AttachIso, CloneVps, Rescue, SnapshotAccepted, SnapshotState, SnapshotView, TakeSnapshot,
};
use chom_protocol::{Name, SnapshotId};
use clap::Subcommand;

use super::order::{Nothing, Verb, Way, delete, give, order};
use super::{Target, by_id};
use crate::client::Client;
use crate::confirm::{Confirmation, confirm};
use crate::error::Failure;
use crate::filters::{Filters, SnapshotFilters};
use crate::operation::{self, WaitOptions};
use crate::output::{Cell, Table, Tone, View, age};
use crate::session::{Reference, Session};
use crate::shell::eprint_line;

/// `chomctl vps snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Takes a snapshot of a VPS's disk; the VPS keeps running
    Create {
        /// The VPS's name or id
        vps: Reference,
        /// What to call the snapshot
        name: Name,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Lists the snapshots of a VPS
    List {
        /// The VPS's name or id
        vps: Reference,
        #[command(flatten)]
        filters: SnapshotFilters,
    },
    /// Makes a VPS's disk what it was; the VPS is shut down for it and started again
    Restore {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Removes a snapshot
    Delete(Which),
}

/// Which snapshot, and whether to wait.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The VPS's name or id
    vps: Reference,
    /// The snapshot's name or id
    snapshot: Reference,
    #[command(flatten)]
    way: Way,
}

/// `chomctl vps clone`.
#[derive(Debug, clap::Args)]
pub(crate) struct CloneOptions {
    /// The VPS to copy, by its name or id
    vps: Reference,
    /// The name of the new VPS
    name: Name,
    /// The disk as it was in this snapshot; as it is now where absent
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<Reference>,
    #[command(flatten)]
    way: Way,
}

/// `chomctl vps rescue`.
#[derive(Debug, clap::Args)]
pub(crate) struct RescueOptions {
    #[command(flatten)]
    target: Target,
    /// What to boot; a fresh copy of the VPS's own image where absent
    #[arg(long)]
    image: Option<Name>,
}

/// `chomctl vps iso`.
#[derive(Debug, Subcommand)]
pub(crate) enum IsoCommand {
    /// Puts a medium into the CD-ROM drive; a VPS that runs sees it at once
    Attach {
        /// The VPS's name or id
        vps: Reference,
        /// An image of format iso (chomctl image list)
        image: Name,
        /// Boot from it before the disk, at the next start
        #[arg(long)]
        boot_first: bool,
        #[command(flatten)]
        way: Way,
    },
    /// Takes the medium out
    Detach(Target),
}

/// Runs `chomctl vps snapshot`.
pub(super) fn run(session: &Session, command: SnapshotCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        SnapshotCommand::Create { vps, name, wait } => {
            let path = format!("{}/snapshots", by_id(&client, &vps)?);
            let accepted = client.post(&path, &TakeSnapshot { name })?;
            taken(session, &client, &path, accepted, wait)
        }
        SnapshotCommand::List { vps, filters } => {
            let rows: Vec<SnapshotView> =
                filters.rows(&client, &format!("{}/snapshots", super::path(&vps)))?;
            session.screen.show(&rows, |view| table(&rows, view))
        }
        SnapshotCommand::Restore { which, confirmation } => {
            let path = which.path(&client)?;
            let consequence = format!(
                "This makes the disk of VPS `{}` what it was in snapshot `{}`: what was written since is lost.",
                which.vps, which.snapshot
            );
            if !which.way.dry_run {
                confirm(confirmation, session.no_input(), &consequence)?;
            }
            give::<Nothing>(session, &client, &format!("{path}/restore"), &Verb::Act, &which.way)
        }
        SnapshotCommand::Delete(which) => {
            give::<Nothing>(session, &client, &which.path(&client)?, &Verb::Delete, &which.way)
        }
    }
}

/// Runs `chomctl vps clone`.
pub(super) fn clone(session: &Session, options: CloneOptions) -> Result<(), Failure> {
    let client = session.client()?;
    let vps = by_id(&client, &options.vps)?;
    let snapshot = options.snapshot.map(|snapshot| id_of(&client, &vps, &snapshot)).transpose()?;
    let request = CloneVps { name: options.name, snapshot };
    give(session, &client, &format!("{vps}/clone"), &Verb::Post(&request), &options.way)
}

/// Runs `chomctl vps rescue`.
pub(super) fn rescue(session: &Session, options: RescueOptions) -> Result<(), Failure> {
    order(session, &options.target, "rescue", &Rescue { image: options.image })
}

/// Runs `chomctl vps iso`.
pub(super) fn iso(session: &Session, command: IsoCommand) -> Result<(), Failure> {
    match command {
        IsoCommand::Attach { vps, image, boot_first, way } => {
            order(session, &Target { vps, way }, "iso", &AttachIso { image, boot_first })
        }
        IsoCommand::Detach(target) => delete(session, &target, "/iso"),
    }
}

impl Which {
    fn path(&self, client: &Client) -> Result<String, Failure> {
        let vps = by_id(client, &self.vps)?;
        let snapshot = id_of(client, &vps, &self.snapshot)?;
        Ok(format!("{vps}/snapshots/{snapshot}"))
    }
}

/// A snapshot's id: mutations take no names.
fn id_of(client: &Client, vps: &str, snapshot: &Reference) -> Result<SnapshotId, Failure> {
    let name = match snapshot {
        Reference::Id(id) => return Ok(SnapshotId::new(*id)),
        Reference::Name(name) => name,
    };
    let all: Vec<SnapshotView> = client.list(&format!("{vps}/snapshots"), None)?;
    let found = all.iter().find(|row| row.name.as_ref() == Some(name));
    found.map(|row| row.id).ok_or_else(|| {
        let advice = "see what there is with `chomctl vps snapshot list`";
        Failure::usage(format!("the VPS has no snapshot `{name}`"), advice.to_owned())
    })
}

fn taken(
    session: &Session,
    client: &Client,
    path: &str,
    mut accepted: SnapshotAccepted,
    wait: WaitOptions,
) -> Result<(), Failure> {
    if wait.wait {
        let name = accepted.snapshot.name.as_ref().map(ToString::to_string).unwrap_or_default();
        accepted.operation = operation::wait(client, accepted.operation, &name, wait.timeout)?;
        let all: Vec<SnapshotView> = client.list(path, None)?;
        if let Some(row) = all.into_iter().find(|row| row.id == accepted.snapshot.id) {
            accepted.snapshot = row;
        }
    } else if session.for_people() && !accepted.operation.state.is_final() {
        eprint_line(&format!("accepted; wait for it: chomctl operation wait {}", accepted.operation.id));
    }
    session.screen.show(&accepted, |view| table(std::slice::from_ref(&accepted.snapshot), view))?;
    operation::outcome(&accepted.operation)
}

fn table(rows: &[SnapshotView], view: &View) -> String {
    let mut table = Table::new(&["NAME", "STATE", "AGE", "DISK", "ID"]);
    for row in rows {
        let (word, tone) = match row.state {
            SnapshotState::Taking => ("taking", Tone::Warn),
            SnapshotState::Ready => ("ready", Tone::Good),
            SnapshotState::Deleting => ("deleting", Tone::Warn),
            SnapshotState::Missing => ("missing: removed by hand", Tone::Bad),
            SnapshotState::Unknown => ("unknown: not made by an order", Tone::Warn),
        };
        let at = row.taken_at.as_ref().or(row.created_at.as_ref());
        table.row(vec![
            Cell::from(row.name.as_ref().map(ToString::to_string).unwrap_or_default()),
            Cell::new(word, tone),
            Cell::from(at.map(|at| age(at, view.now)).unwrap_or_default()),
            Cell::from(row.disk_bytes.map(|disk| disk.to_string()).unwrap_or_default()),
            Cell::from(row.id),
        ]);
    }
    table.render(view, "no snapshots")
}
