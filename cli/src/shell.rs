//! Commands about chomctl itself: contexts, completion, version. None of them asks a server.

use std::path::PathBuf;

use chom_protocol::Name;
use clap::{CommandFactory, Subcommand};
use serde::Serialize;

use crate::arguments::Arguments;
use crate::context;
use crate::error::Failure;
use crate::output::{Cell, Table, write_out, yes_no};
use crate::session::{Session, read_bounded};

/// A token on standard input; they have some forty characters.
const TOKEN_BYTES_MAX: usize = 4096;

/// `chomctl context`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Adds a context, or replaces the one of that name; the first one is chosen at once. Without a token, `chomctl login` gets one
    Add {
        /// What to call it
        name: Name,
        /// Address of the orchestrator's API, such as https://HOST:PORT
        #[arg(long, value_name = "URL")]
        server: String,
        #[command(flatten)]
        token: Option<TokenSource>,
        /// The only CA to trust for this server (PEM); the system's CAs where absent
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
    /// Chooses the context that is asked from now on
    Use {
        /// Which
        name: Name,
    },
    /// Lists the contexts
    List,
    /// Removes a context and its token
    Remove {
        /// Which
        name: Name,
    },
}

/// Where the token comes from; never from the command line, which other users of the machine can see.
#[derive(Debug, clap::Args)]
#[group(required = false, multiple = false)]
pub(crate) struct TokenSource {
    /// Read the API token from this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read the API token from standard input
    #[arg(long)]
    token_stdin: bool,
}

#[derive(Serialize)]
struct ContextRow {
    name: Name,
    server: String,
    own_ca: bool,
    current: bool,
}

/// Runs `chomctl context`.
pub(crate) fn context(session: &Session, command: ContextCommand) -> Result<(), Failure> {
    let environment = &session.environment;
    match command {
        ContextCommand::Add { name, server, token, ca_file } => {
            let token = match token {
                None => None,
                Some(TokenSource { token_file: Some(path), .. }) => Some(context::read_token(&path)?),
                Some(TokenSource { token_file: None, .. }) => {
                    let failed = |source| Failure::File {
                        what: "the token from",
                        path: "standard input".to_owned(),
                        source,
                    };
                    Some(read_bounded(std::io::stdin(), TOKEN_BYTES_MAX).map_err(failed)?)
                }
            };
            let config = context::add(environment, &name, &server, token.as_deref(), ca_file.as_deref())?;
            if config.current.as_ref() != Some(&name) {
                eprint_line(&format!("added; choose it with: chomctl context use {name}"));
            }
            Ok(())
        }
        ContextCommand::Use { name } => Ok(context::choose(environment, &name)?),
        ContextCommand::Remove { name } => Ok(context::remove(environment, &name)?),
        ContextCommand::List => {
            let config = context::all(environment)?;
            let rows: Vec<ContextRow> = config
                .contexts
                .into_iter()
                .map(|(name, context)| ContextRow {
                    current: config.current.as_ref() == Some(&name),
                    name,
                    server: context.server,
                    own_ca: context.ca_file.is_some(),
                })
                .collect();
            session.screen.show(&rows, |view| {
                let mut table = Table::new(&["NAME", "SERVER", "OWN CA", "CURRENT"]);
                for row in &rows {
                    let current = if row.current { "*" } else { "" };
                    table.row(vec![
                        Cell::from(&row.name),
                        Cell::from(&row.server),
                        Cell::from(yes_no(row.own_ca)),
                        Cell::from(current),
                    ]);
                }
                table.render(view, "no contexts yet: chomctl context add --help")
            })
        }
    }
}

/// `chomctl completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArguments {
    /// Of which shell
    #[arg(value_enum)]
    shell: CompletionShell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// Prints a completion script.
pub(crate) fn completion(arguments: &CompletionArguments) -> Result<(), Failure> {
    let shell = match arguments.shell {
        CompletionShell::Bash => clap_complete::Shell::Bash,
        CompletionShell::Zsh => clap_complete::Shell::Zsh,
        CompletionShell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "chomctl", &mut script);
    write_out(&String::from_utf8_lossy(&script))
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Prints the version.
pub(crate) fn version(session: &Session) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    session.screen.show(&version, |_| format!("chomctl {}\n", version.version))
}

/// A line on standard error; trouble with it is passed over.
pub(crate) fn eprint_line(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{}", crate::output::plain(line));
}
