//! Hosts: the commands. How they look is in `host/render.rs`.

use chom_protocol::Name;
use chom_protocol::api::hosts::{
    AddHost, ForgetHost, HostAdded, HostView, LedgerChoice, LedgerView, ResolveLedger, SetCordon,
};
use clap::Subcommand;

use crate::client::Client;
use crate::confirm::{Confirmation, confirm};
use crate::error::Failure;
use crate::filters::HostFilters;
use crate::metrics;
use crate::session::{Reference, Session};
use crate::shell::eprint_line;
use crate::watch::{self, Watched};

pub(crate) mod limits;
mod render;

/// Where hosts are in the API.
const PATH: &str = "/api/hosts";

/// `chomctl host`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Adds a host: prints the line to paste there
    Add {
        /// Its name in the fleet
        name: Name,
        /// Where it stands
        #[arg(long, required_unless_present = "replace_key")]
        region: Option<Name>,
        /// The host is there already and has lost its key: give it a new one
        #[arg(long, conflicts_with = "region")]
        replace_key: bool,
    },
    /// Lists hosts
    List(Watched<HostFilters>),
    /// Shows what was measured lately of a host
    Metrics {
        /// Its name or id
        host: Reference,
        #[command(flatten)]
        options: metrics::MetricsOptions,
    },
    /// Shows a host
    Show {
        /// Its name or id
        host: Reference,
    },
    /// Places no new VPSs on a host
    Cordon {
        /// Its name or id
        host: Reference,
    },
    /// Places new VPSs on a host again
    Uncordon {
        /// Its name or id
        host: Reference,
    },
    /// Sets and takes away labels: disk=nvme, rack=a1, rack-
    Label {
        /// Its name or id
        host: Reference,
        /// `key=value` sets, `key-` takes away
        #[arg(required = true)]
        labels: Vec<String>,
    },
    /// Sets how much of a host may be promised; what is not given stays
    Limit {
        /// Its name or id
        host: Reference,
        #[command(flatten)]
        limits: limits::LimitOptions,
    },
    /// Puts a host out of the fleet; if it returns it may only report
    Forget {
        /// Its name or id
        host: Reference,
        /// Free the addresses of its VPSs too; only when the machine is certainly off
        #[arg(long)]
        release_addresses: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Makes a host's certificate open nothing any more, at once
    Revoke {
        /// Its name or id
        host: Reference,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Shows what a host knows that a restored orchestrator does not; or decides what becomes of it
    Ledger {
        /// Its name or id
        host: Reference,
        /// Take what the host has
        #[arg(long)]
        adopt: bool,
        /// Keep the orchestrator's rows; what only the host knows is left alone there
        #[arg(long, conflicts_with = "adopt")]
        keep: bool,
    },
    /// Lifts a host's cap on destroys for an hour
    AllowDestroys {
        /// Its name or id
        host: Reference,
    },
}

/// Runs `chomctl host`.
pub(crate) fn run(session: &Session, command: HostCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let changed: HostView = match command {
        HostCommand::Add { name, region, replace_key } => {
            return add(session, &client, name, region, replace_key);
        }
        HostCommand::List(filters) => {
            return watch::list(session, &client, PATH, &filters, render::table);
        }
        HostCommand::Metrics { host, options } => {
            return metrics::show(session, &client, &path(&host), &options);
        }
        HostCommand::Show { host } => {
            let host: HostView = client.get(&path(&host))?;
            return session.screen.show(&host, |view| render::details(&host, view));
        }
        HostCommand::Ledger { host, adopt: false, keep: false } => {
            let ledger: LedgerView = client.get(&format!("{}/ledger", by_id(&client, &host)?))?;
            return session.screen.show(&ledger, |view| render::ledger(&ledger, view));
        }
        HostCommand::Ledger { host, adopt, keep: _ } => {
            let choice = if adopt { LedgerChoice::AdoptLedger } else { LedgerChoice::KeepRows };
            client.post(&format!("{}/ledger", by_id(&client, &host)?), &ResolveLedger { choice })?
        }
        HostCommand::Cordon { host } => set_cordon(&client, &host, true)?,
        HostCommand::Uncordon { host } => set_cordon(&client, &host, false)?,
        HostCommand::Label { host, labels } => {
            let request = limits::labels(&labels)?;
            let row: HostView = client.get(&path(&host))?;
            client.overwrite(&format!("{PATH}/{}/labels", row.id), &request, row.revision)?
        }
        HostCommand::Limit { host, limits } => {
            let row: HostView = client.get(&path(&host))?;
            client.overwrite(&format!("{PATH}/{}/limits", row.id), &limits.over(row.limits), row.revision)?
        }
        HostCommand::AllowDestroys { host } => {
            client.act(&format!("{}/allow-destroys", by_id(&client, &host)?))?
        }
        HostCommand::Forget { host, release_addresses, confirmation } => {
            let row: HostView = client.get(&path(&host))?;
            let released = if release_addresses {
                " Their addresses are given to others: if the machine still runs, two guests will have the same one."
            } else {
                ""
            };
            let consequence = format!(
                "This puts the host `{}` ({}) with its {} VPSs out of the fleet; if it returns it may only report.{released}",
                row.name, row.id, row.vps_count
            );
            confirm(confirmation, session.no_input(), &consequence)?;
            client.post(&format!("{PATH}/{}/forget", row.id), &ForgetHost { release_addresses })?
        }
        HostCommand::Revoke { host, confirmation } => {
            let row: HostView = client.get(&path(&host))?;
            let consequence = format!(
                "This revokes the certificate of the host `{}` ({}): it is cut off at once and needs a new key to return.",
                row.name, row.id
            );
            confirm(confirmation, session.no_input(), &consequence)?;
            client.act(&format!("{PATH}/{}/revoke", row.id))?
        }
    };
    session.screen.show(&changed, |view| render::table(std::slice::from_ref(&changed), view))
}

fn add(
    session: &Session,
    client: &Client,
    name: Name,
    region: Option<Name>,
    replace_key: bool,
) -> Result<(), Failure> {
    let request = match region {
        Some(region) if !replace_key => AddHost { name, region, host: None },
        _ => {
            let host: HostView = client.get(&path(&Reference::Name(name)))?;
            AddHost { name: host.name, region: host.region, host: Some(host.id) }
        }
    };
    let added: HostAdded = client.post(PATH, &request)?;
    if session.for_people() {
        eprint_line(&format!(
            "Paste this line on the host, as root. It works once, until {}:",
            moment_ahead(&added.expires_at, session)
        ));
    }
    session.screen.show(&added, |_| format!("{}\n", crate::output::plain(&added.command)))
}

fn moment_ahead(time: &str, session: &Session) -> String {
    format!("{time} (for {})", crate::output::until(time, session.screen.view.now))
}

fn set_cordon(client: &Client, host: &Reference, cordoned: bool) -> Result<HostView, Failure> {
    client.post(&format!("{}/cordon", by_id(client, host)?), &SetCordon { cordoned })
}

fn path(host: &Reference) -> String {
    format!("{PATH}/{host}")
}

/// The path by id: a name may be given to another host between two tries of a mutation, an id never.
fn by_id(client: &Client, host: &Reference) -> Result<String, Failure> {
    match host {
        Reference::Id(_) => Ok(path(host)),
        Reference::Name(_) => client.get::<HostView>(&path(host)).map(|row| format!("{PATH}/{}", row.id)),
    }
}
