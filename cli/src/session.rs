//! What every command has at hand: the options that all share, the screen, and the server once it is asked.

use std::io::IsTerminal;
use std::path::Path;

use chom_protocol::Name;
use chom_protocol::api::audit::reason_problem;
use chom_protocol::id::NameError;
use uuid::Uuid;

use crate::client::Client;
use crate::clock;
use crate::context::{self, Environment};
use crate::error::Failure;
use crate::output::{Format, Screen, View};

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Shared {
    /// Ask the server of this context, whatever is chosen or in the environment
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<Name>,
    /// How to print data
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Why it is done, for the audit trail; goes with every change
    #[arg(long, global = true, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Option<String>,
    /// Never ask; refuse what would have to be asked
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
}

fn reason(text: &str) -> Result<String, String> {
    reason_problem(text).map_or_else(|| Ok(text.to_owned()), Err)
}

/// One run of chomctl.
pub(crate) struct Session {
    shared: Shared,
    /// The process's environment, as far as it matters.
    pub(crate) environment: Environment,
    /// Standard output.
    pub(crate) screen: Screen,
}

impl Session {
    /// Looks at the terminal, the clock and the environment, once.
    pub(crate) fn new(shared: Shared) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb;
        let view = View { wide: shared.output == Format::Wide, colour, now: clock::now() };
        let screen = Screen { format: shared.output, view };
        Self { shared, environment: Environment::read(), screen }
    }

    /// The server of the context.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let target = context::target(&self.environment, self.shared.context.as_ref())?;
        Client::new(target, self.shared.reason.as_deref())
    }

    /// The context that the command line names.
    pub(crate) const fn context(&self) -> Option<&Name> {
        self.shared.context.as_ref()
    }

    /// Whether asking is forbidden.
    pub(crate) const fn no_input(&self) -> bool {
        self.shared.no_input
    }

    /// Whether data goes to a person rather than a program.
    pub(crate) const fn for_people(&self) -> bool {
        matches!(self.screen.format, Format::Table | Format::Wide)
    }
}

/// What a command line names: an id or a name. Both are safe in a URL's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// By id.
    Id(Uuid),
    /// By name.
    Name(Name),
}

impl std::str::FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match Uuid::try_parse(text) {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(out),
            Self::Name(name) => name.fmt(out),
        }
    }
}

/// Options of every list.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ListOptions {
    /// Print at most so many rows; all where absent
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

/// Reads a text file that the command line names.
///
/// # Errors
/// It cannot be read, is no UTF-8, or is longer than `limit_bytes`.
pub(crate) fn read_text(what: &'static str, path: &Path, limit_bytes: usize) -> Result<String, Failure> {
    let failed = |source| Failure::File { what, path: path.display().to_string(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    read_bounded(file, limit_bytes).map_err(failed)
}

/// Reads text to its end, but no more than `limit_bytes`.
///
/// # Errors
/// It cannot be read, is no UTF-8, or is longer.
pub(crate) fn read_bounded(source: impl std::io::Read, limit_bytes: usize) -> std::io::Result<String> {
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(source, limit.saturating_add(1)), &mut text)?;
    if text.len() > limit_bytes {
        return Err(std::io::Error::other(format!("it is longer than {limit_bytes} bytes")));
    }
    Ok(text)
}
