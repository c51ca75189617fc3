//! API tokens: made, listed, revoked. A token itself is printed once, when it is made.

use chom_protocol::api::tokens::{CreateToken, Role, TokenMade, TokenView};
use chom_protocol::{Name, TokenId, VpsId};
use clap::{Subcommand, ValueEnum};

use crate::error::Failure;
use crate::filters::{Filters, TokenFilters};
use crate::output::{Cell, Table, View, age};
use crate::session::Session;

/// Where tokens are in the API.
const PATH: &str = "/api/tokens";

/// `chomctl token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it; it is shown this once and kept nowhere
    Create {
        /// What it is called in lists and in the audit trail
        name: Name,
        /// What its holder may do
        #[arg(long)]
        role: RoleWord,
        /// In which tenant, with the roles owner, member and viewer
        #[arg(long)]
        tenant: Option<Name>,
        /// With which VPS alone: its id
        #[arg(long)]
        vps: Option<VpsId>,
        /// When it ends, such as 2027-01-31T12:00:00Z
        #[arg(long)]
        expires_at: Option<String>,
    },
    /// Lists tokens
    List(TokenFilters),
    /// Revokes a token: it opens nothing from now on
    Revoke {
        /// Its id
        token: TokenId,
    },
}

/// A role as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleWord {
    /// Everything
    Admin,
    /// Runs the fleet
    Operator,
    /// Reads everything
    Auditor,
    /// Everything of one tenant
    Owner,
    /// What one tenant has, but not its tokens
    Member,
    /// Reads what one tenant has
    Viewer,
}

impl From<RoleWord> for Role {
    fn from(word: RoleWord) -> Self {
        match word {
            RoleWord::Admin => Self::Admin,
            RoleWord::Operator => Self::Operator,
            RoleWord::Auditor => Self::Auditor,
            RoleWord::Owner => Self::Owner,
            RoleWord::Member => Self::Member,
            RoleWord::Viewer => Self::Viewer,
        }
    }
}

/// Runs `chomctl token`.
pub(crate) fn run(session: &Session, command: TokenCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let shown: TokenView = match command {
        TokenCommand::List(filters) => {
            let all: Vec<TokenView> = filters.rows(&client, PATH)?;
            return session.screen.show(&all, |view| table(&all, view));
        }
        TokenCommand::Create { name, role, tenant, vps, expires_at } => {
            let request = CreateToken { name, role: role.into(), tenant, vps, expires_at };
            let made: TokenMade = client.post(PATH, &request)?;
            // Alone on its line, so that scripts can catch it.
            return session.screen.show(&made, |_| format!("{}\n", made.secret));
        }
        TokenCommand::Revoke { token } => client.delete(&format!("{PATH}/{token}"))?,
    };
    session.screen.show(&shown, |view| table(std::slice::from_ref(&shown), view))
}

fn table(all: &[TokenView], view: &View) -> String {
    let mut table = Table::new(&["ID", "NAME", "USER", "ROLE", "TENANT", "ONLY VPS", "USED", "ENDS"]);
    for token in all {
        let used = token.last_used_at.as_ref();
        table.row(vec![
            Cell::from(token.id.to_string()),
            Cell::from(&token.name),
            Cell::from(token.user.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            Cell::from(token.role.to_string()),
            Cell::from(token.tenant.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            Cell::from(token.vps.map_or_else(|| "-".to_owned(), |id| id.to_string())),
            Cell::from(used.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at, view.now)))),
            Cell::from(token.expires_at.clone().unwrap_or_else(|| "never".to_owned())),
        ]);
    }
    table.render(view, "no tokens")
}
