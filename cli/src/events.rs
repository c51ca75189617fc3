//! The event stream: what changes, as it happens, until interrupted. A lost connection is taken up where it broke.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use chom_protocol::api::events::Event;

use crate::clock;
use crate::error::Failure;
use crate::output::{Format, plain, write_out};
use crate::session::Session;
use crate::shell::eprint_line;

/// Longest line of the stream; an event is a few hundred bytes.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// First wait before connecting again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait: a person watches.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(15);

/// `chomctl events`.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArguments {
    /// Print events as they happen, until interrupted; JSON and YAML have one document for each
    #[arg(long, required = true)]
    follow: bool,
    /// Begin after the event with this id
    #[arg(long, value_name = "ID", value_parser = event_id)]
    after: Option<String>,
}

fn event_id(text: &str) -> Result<String, String> {
    match text.split_once('.') {
        Some((epoch, sequence)) if epoch.parse::<u64>().is_ok() && sequence.parse::<u64>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("an event's id is EPOCH.SEQUENCE, such as 1795392000.42".to_owned()),
    }
}

/// Follows the stream. Ends with an error only; the first connection must come about.
pub(crate) fn run(session: &Session, arguments: &EventsArguments) -> Result<(), Failure> {
    let client = session.client()?;
    let mut last_id = arguments.after.clone();
    let mut connected_before = false;
    let mut pause = RECONNECT_PAUSE;
    loop {
        let broke = match client.stream("/api/events", last_id.as_deref()) {
            Ok(stream) => {
                connected_before = true;
                let before = last_id.clone();
                let broke = read(stream, &mut last_id, &mut |event| print(session, event))?;
                if last_id != before {
                    pause = RECONNECT_PAUSE;
                }
                broke
            }
            Err(failure) if connected_before && failure.is_away() => failure.to_string(),
            Err(failure) => return Err(failure),
        };
        eprint_line(&format!("the event stream broke ({broke}); connecting again in {}s", pause.as_secs()));
        clock::pause(pause);
        pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
    }
}

/// Reads events until the stream breaks, and says why it did. Keeps `last_id` at the newest event handled.
///
/// # Errors
/// What `handle` says.
fn read(
    stream: impl Read,
    last_id: &mut Option<String>,
    handle: &mut impl FnMut(&Event) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let mut stream = BufReader::new(stream);
    let mut id = None;
    let mut data = String::new();
    loop {
        let mut line = Vec::new();
        match stream.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return Ok("the server ended it".to_owned()),
            Err(error) => return Ok(error.to_string()),
            Ok(_) if !line.ends_with(b"\n") => return Ok("it was cut off, or a line is too long".to_owned()),
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\n', '\r']);
        // Field names and the blank line as in the WHATWG HTML standard, section 9.2.6.
        if line.is_empty() {
            if !data.is_empty() {
                match serde_json::from_str(&data) {
                    Ok(event) => handle(&event)?,
                    // A newer server may know more kinds of events.
                    Err(_) => eprint_line("passed over an event that this chomctl does not know"),
                }
                data.clear();
            }
            if let Some(id) = id.take() {
                *last_id = Some(id);
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if !data.is_empty() {
                    data.push('\n');
                }
                data.push_str(value);
            }
            "id" => id = Some(value.to_owned()),
            _ => {} // comments, and fields that nobody needs here
        }
        if data.len() > usize::try_from(LINE_BYTES_MAX).unwrap_or(usize::MAX) {
            return Ok("an event is too long".to_owned());
        }
    }
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

fn line(event: &Event) -> String {
    plain(&match event {
        Event::Reset => "events were missed: read the lists again".to_owned(),
        Event::Vps { name, message, .. } => format!("vps {name}: {message}"),
        Event::Host { name, message, .. } => format!("host {name}: {message}"),
        Event::Operation { id, message, .. } => format!("operation {id}: {message}"),
        Event::Alert { id, message } => format!("alert {id}: {message}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handled(text: &str) -> (Vec<String>, Option<String>, String) {
        let (mut lines, mut last_id) = (Vec::new(), None);
        let broke = read(text.as_bytes(), &mut last_id, &mut |event| {
            lines.push(line(event));
            Ok(())
        })
        .unwrap();
        (lines, last_id, broke)
    }

    const HOST: &str =
        r#"{"type":"host","id":"0190f6d2-8f3e-7cc0-9d4c-0000000000aa","name":"h1","message":"connected"}"#;

    #[test]
    fn events_come_in_order_and_the_last_whole_one_is_where_to_go_on() {
        let text = format!(
            ": hello\n\nid: 5.1\nevent: x\ndata: {HOST}\n\nid: 5.2\r\ndata: {{\"type\":\"reset\"}}\r\n\r\nid: 5.3\ndata: {HOST}\n"
        );
        let (lines, last_id, _) = handled(&text);
        assert_eq!(lines, ["host h1: connected", "events were missed: read the lists again"]);
        assert_eq!(last_id.as_deref(), Some("5.2"), "5.3 was never complete");
    }

    #[test]
    fn an_unknown_event_is_passed_over() {
        let (lines, last_id, _) = handled("id: 1.1\ndata: {\"type\":\"comet\"}\n\n");
        assert!(lines.is_empty());
        assert_eq!(last_id.as_deref(), Some("1.1"));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let (_, _, broke) = handled(&"x".repeat(200 * 1024));
        assert!(broke.contains("too long"), "{broke}");
    }

    #[test]
    fn an_event_id_has_an_epoch_and_a_sequence() {
        assert!(event_id("17.4").is_ok());
        for bad in ["", "17", "a.b", "1.2.3", "1.\n2"] {
            assert!(event_id(bad).is_err(), "{bad}");
        }
    }
}
