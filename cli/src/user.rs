//! People who sign in: made, listed, given roles and passwords, disabled, deleted.

use chom_protocol::api::users::{ChangePassword, CreateUser, SetUserPassword, SetUserRole, UserView};
use chom_protocol::{Name, UserId, UserName};
use clap::{Args, Subcommand};

use crate::client::Client;
use crate::confirm::{Confirmation, confirm};
use crate::error::Failure;
use crate::output::{Cell, Table, Tone, View, age};
use crate::password::PasswordSource;
use crate::session::{ListOptions, Session};
use crate::token::RoleWord;

/// Where users are in the API.
const PATH: &str = "/api/users";

/// `chomctl user`.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Makes a user, who can sign in at once
    Create {
        /// What it signs in with: a name or a mail address
        name: UserName,
        /// What it may do
        #[arg(long)]
        role: RoleWord,
        /// In which tenant, with the roles owner, member and viewer; your own where absent
        #[arg(long)]
        tenant: Option<Name>,
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Lists users
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Shows a user
    Show {
        #[command(flatten)]
        user: Which,
    },
    /// Changes what a user may do, at once and in its open sessions too
    SetRole {
        #[command(flatten)]
        user: Which,
        /// What it may do from now on
        #[arg(long)]
        role: RoleWord,
    },
    /// Lets a user sign in no more; its sessions end
    Disable {
        #[command(flatten)]
        user: Which,
    },
    /// Lets a user sign in again, also one that is locked out after wrong passwords
    Enable {
        #[command(flatten)]
        user: Which,
    },
    /// Deletes a user; its sessions end
    Delete {
        #[command(flatten)]
        user: Which,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Changes your own password, which needs the old one, or gives another user a new one
    SetPassword {
        /// Whose: its name or id; your own where absent
        user: Option<String>,
        /// The tenant of the user of that name, where several have one
        #[arg(long, requires = "user")]
        tenant: Option<Name>,
        #[command(flatten)]
        password: PasswordSource,
    },
}

/// Which user.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its name or id
    user: String,
    /// The tenant of the user of that name, where several have one
    #[arg(long)]
    tenant: Option<Name>,
}

impl Which {
    /// Its path: changes take no names.
    fn path(&self, client: &Client) -> Result<String, Failure> {
        if let Ok(id) = self.user.parse::<UserId>() {
            return Ok(format!("{PATH}/{id}"));
        }
        let name: UserName =
            self.user.parse().map_err(|error: chom_protocol::user_name::UserNameError| {
                Failure::usage(error.to_string(), "give a user's name or id")
            })?;
        let all: Vec<UserView> = client.list_where(PATH, &[("name", name.to_string())], None)?;
        let wanted = |user: &&UserView| self.tenant.is_none() || user.tenant == self.tenant;
        let found: Vec<&UserView> = all.iter().filter(wanted).collect();
        match found.as_slice() {
            [user] => Ok(format!("{PATH}/{}", user.id)),
            [] => Err(Failure::usage(
                format!("there is no user `{name}`"),
                "see who there is with `chomctl user list`",
            )),
            several => {
                let of = |user: &&UserView| tenant_of(user);
                let tenants: Vec<String> = several.iter().map(of).collect();
                Err(Failure::usage(
                    format!("there are several users `{name}`, in these tenants: {}", tenants.join(", ")),
                    "add --tenant, or give the id",
                ))
            }
        }
    }
}

/// Runs `chomctl user`.
pub(crate) fn run(session: &Session, command: UserCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let shown: UserView = match command {
        UserCommand::List { list } => {
            let all: Vec<UserView> = client.list(PATH, list.limit)?;
            return session.screen.show(&all, |view| table(&all, view));
        }
        UserCommand::Create { name, role, tenant, password } => {
            let password = password.read_new(session)?;
            client.post(PATH, &CreateUser { name, role: role.into(), tenant, password })?
        }
        UserCommand::Show { user } => client.get(&user.path(&client)?)?,
        UserCommand::SetRole { user, role } => {
            client.post(&format!("{}/role", user.path(&client)?), &SetUserRole { role: role.into() })?
        }
        UserCommand::Disable { user } => client.act(&format!("{}/disable", user.path(&client)?))?,
        UserCommand::Enable { user } => client.act(&format!("{}/enable", user.path(&client)?))?,
        UserCommand::Delete { user, confirmation } => {
            let path = user.path(&client)?;
            let consequence = format!("The user `{}` is deleted and its sessions end.", user.user);
            confirm(confirmation, session.no_input(), &consequence)?;
            client.delete(&path)?
        }
        UserCommand::SetPassword { user: None, password, .. } => {
            let (old, new) = password.read_change(session)?;
            client.post("/api/whoami/password", &ChangePassword { old, new })?
        }
        UserCommand::SetPassword { user: Some(user), tenant, password } => {
            let path = Which { user, tenant }.path(&client)?;
            let password = password.read_new(session)?;
            client.post(&format!("{path}/password"), &SetUserPassword { password })?
        }
    };
    session.screen.show(&shown, |view| table(std::slice::from_ref(&shown), view))
}

fn tenant_of(user: &UserView) -> String {
    user.tenant.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn table(all: &[UserView], view: &View) -> String {
    let mut table = Table::new(&["ID", "NAME", "ROLE", "TENANT", "STATE", "SESSIONS", "SIGNED IN"]);
    for user in all {
        let state = match (&user.disabled_at, &user.locked_until) {
            (Some(_), _) => Cell::new("disabled", Tone::Bad),
            (None, Some(until)) => Cell::new(format!("locked until {until}"), Tone::Warn),
            (None, None) => Cell::new("enabled", Tone::Good),
        };
        let signed_in = user.signed_in_at.as_ref();
        table.row(vec![
            Cell::from(user.id.to_string()),
            Cell::from(&user.name),
            Cell::from(user.role.to_string()),
            Cell::from(tenant_of(user)),
            state,
            Cell::from(user.sessions),
            Cell::from(
                signed_in.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at, view.now))),
            ),
        ]);
    }
    table.render(view, "no users")
}
