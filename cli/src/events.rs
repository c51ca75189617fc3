//! The event stream: what changes, as it happens, until interrupted.

use chom_protocol::api::events::Event;

use crate::error::Failure;
use crate::output::{Format, plain, write_out};
use crate::session::Session;
use crate::stream;

/// `chomctl events`.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArguments {
    /// Print events as they happen, until interrupted; JSON and YAML have one document for each
    #[arg(long, required = true)]
    follow: bool,
    /// Begin after the event with this id
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Only of these types, such as vps or operation,alert
    #[arg(long, value_name = "TYPES")]
    kind: Option<String>,
    /// Only about this VPS, by id
    #[arg(long, value_name = "ID")]
    vps: Option<String>,
    /// Only about this host and what stands on it, by id
    #[arg(long, value_name = "ID")]
    host: Option<String>,
    /// Only about this tenant's VPSs
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

/// Follows the stream. Ends with an error only; the first connection must come about.
pub(crate) fn run(session: &Session, arguments: &EventsArguments) -> Result<(), Failure> {
    let filters = [
        ("kind", &arguments.kind),
        ("vps", &arguments.vps),
        ("host", &arguments.host),
        ("tenant", &arguments.tenant),
    ];
    let query: Vec<(&str, String)> =
        filters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
    let last = arguments.after.clone();
    stream::follow(&session.client()?, "/api/events", &query, last, |event| print(session, &event))
}

fn print(session: &Session, event: &Event) -> Result<(), Failure> {
    match session.screen.format {
        Format::Table | Format::Wide => write_out(&format!("{}\n", line(event))),
        // One line each, so that a program can read the stream line by line.
        Format::Json => {
            let json = serde_json::to_string(event)
                .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() })?;
            write_out(&format!("{json}\n"))
        }
        Format::Yaml => {
            write_out("---\n")?;
            session.screen.show(event, |_| String::new())
        }
    }
}

/// An event as people read it.
pub(crate) fn line(event: &Event) -> String {
    plain(&match event {
        Event::Reset => "events were missed: read the lists again".to_owned(),
        Event::Vps { name, message, .. } => format!("vps {name}: {message}"),
        Event::Host { name, message, .. } => format!("host {name}: {message}"),
        Event::Operation { id, message, .. } => format!("operation {id}: {message}"),
        Event::Alert { id, message } => format!("alert {id}: {message}"),
    })
}
