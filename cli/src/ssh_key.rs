//! A tenant's SSH keys: VPSs that are made from now on let them in.

use std::path::PathBuf;

use chom_protocol::Name;
use chom_protocol::api::ssh_keys::{AddSshKey, SshKeyView};
use chom_protocol::api::vps_servers::SSH_KEY_BYTES_MAX;
use clap::Subcommand;

use crate::error::Failure;
use crate::output::{Cell, Table, View, age};
use crate::session::{ListOptions, Session, read_text};

/// Where keys are in the API.
const PATH: &str = "/api/ssh-keys";

/// `chomctl key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Adds an SSH key; VPSs that are made from now on let it in
    Add {
        /// What it is called
        name: Name,
        /// A .pub file of ssh-keygen(1)
        file: PathBuf,
    },
    /// Lists SSH keys
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Removes an SSH key; VPSs that have it keep it
    Remove {
        /// Its name
        name: Name,
    },
}

/// Runs `chomctl key`.
pub(crate) fn run(session: &Session, command: KeyCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let changed: SshKeyView = match command {
        KeyCommand::List { list } => {
            let keys: Vec<SshKeyView> = client.list(PATH, list.limit)?;
            return session.screen.show(&keys, |view| table(&keys, view));
        }
        KeyCommand::Add { name, file } => {
            let key = read_text("an SSH key from", &file, SSH_KEY_BYTES_MAX)?.trim().to_owned();
            client.post(PATH, &AddSshKey { name, key })?
        }
        KeyCommand::Remove { name } => client.delete(&format!("{PATH}/{name}"))?,
    };
    session.screen.show(&changed, |view| table(std::slice::from_ref(&changed), view))
}

fn table(keys: &[SshKeyView], view: &View) -> String {
    let mut table = Table::new(&["NAME", "FINGERPRINT", "ADDED"]);
    for key in keys {
        table.row(vec![
            Cell::from(&key.name),
            Cell::from(&key.fingerprint),
            Cell::from(format!("{} ago", age(&key.created_at, view.now))),
        ]);
    }
    table.render(view, "no keys")
}
