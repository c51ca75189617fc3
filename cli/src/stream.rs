//! Streams of server-sent events, followed until interrupted: a lost connection is taken up where it broke. Knows not what is
//! streamed.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::clock;
use crate::error::Failure;
use crate::shell::eprint_line;

/// Longest line of a stream; a host with hundreds of guests that CHOM did not make is the longest row.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// First wait before connecting again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Longest wait: a person watches.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(15);

/// Follows a stream. Ends with an error only; the first connection must come about.
pub(crate) fn follow<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: &[(&str, String)],
    mut last_id: Option<String>,
    mut handle: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut connected_before = false;
    let mut pause = RECONNECT_PAUSE;
    loop {
        let broke = match client.stream(path, query, last_id.as_deref()) {
            Ok(stream) => {
                connected_before = true;
                let before = last_id.clone();
                let broke = read(stream, &mut last_id, &mut handle)?;
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
fn read<T: DeserializeOwned>(
    stream: impl Read,
    last_id: &mut Option<String>,
    handle: &mut impl FnMut(T) -> Result<(), Failure>,
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
                    Ok(event) => handle(event)?,
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

#[cfg(test)]
mod tests {
    use chom_protocol::api::events::Event;

    use super::*;

    fn handled(text: &str) -> (Vec<String>, Option<String>, String) {
        let (mut lines, mut last_id) = (Vec::new(), None);
        let broke = read(text.as_bytes(), &mut last_id, &mut |event: Event| {
            lines.push(crate::events::line(&event));
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
        let (_, _, broke) = handled(&"x".repeat(2 * 1024 * 1024));
        assert!(broke.contains("too long"), "{broke}");
    }
}
