//! Lists that can be watched: `--watch` prints the rows, then each as it changes, until interrupted.

use chom_protocol::api::watch::Change;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::Failure;
use crate::filters::Filters;
use crate::output::{Format, View, write_out};
use crate::session::Session;
use crate::shell::eprint_line;
use crate::stream;

/// Which rows, and whether to stay.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Watched<F: clap::Args> {
    #[command(flatten)]
    filters: F,
    /// Print each row again as it changes, until interrupted; JSON and YAML have one document for each change
    #[arg(long, conflicts_with = "limit")]
    watch: bool,
}

/// Prints a list, or follows it.
pub(crate) fn list<T: Serialize + DeserializeOwned, F: Filters + clap::Args>(
    session: &Session,
    client: &Client,
    path: &str,
    options: &Watched<F>,
    table: impl Fn(&[T], &View) -> String,
) -> Result<(), Failure> {
    if !options.watch {
        let rows: Vec<T> = options.filters.rows(client, path)?;
        return session.screen.show(&rows, |view| table(&rows, view));
    }
    let mut query = options.filters.pairs();
    query.push(("watch", "true".to_owned()));
    let mut rows = Vec::new();
    stream::follow(client, path, &query, None, |change: Change<T>| {
        if let Change::Refused { problem } = change {
            return Err(client.strange(Some(problem.status), problem.detail));
        }
        match session.screen.format {
            Format::Table | Format::Wide => write_out(&text(change, &mut rows, &session.screen.view, &table)),
            // One line each, so that a program can read the stream line by line.
            Format::Json => {
                let json = serde_json::to_string(&change)
                    .map_err(|error| Failure::Format { format: "JSON", reason: error.to_string() })?;
                write_out(&format!("{json}\n"))
            }
            Format::Yaml => {
                write_out("---\n")?;
                session.screen.show(&change, |_| String::new())
            }
        }
    })
}

/// What people read of a change: all rows together once they are there, then a line for each.
fn text<T>(
    change: Change<T>,
    rows: &mut Vec<T>,
    view: &View,
    table: &impl Fn(&[T], &View) -> String,
) -> String {
    match change {
        Change::Row { row } => {
            rows.push(row);
            String::new()
        }
        Change::Synced => table(&std::mem::take(rows), view),
        Change::Changed { row } => {
            let one = table(&[row], view);
            one.split_once('\n').map_or(String::new(), |(_headings, line)| line.to_owned())
        }
        Change::Gone { id } => format!("gone: {id}\n"),
        Change::Reset => {
            rows.clear();
            eprint_line("changes were missed: all rows follow");
            String::new()
        }
        Change::Refused { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::test_view;

    #[test]
    fn the_rows_come_as_one_table_and_each_change_as_a_line() {
        let table = |rows: &[u8], _: &View| {
            rows.iter().fold("HEAD\n".to_owned(), |text, row| format!("{text}{row}\n"))
        };
        let (mut rows, view) = (Vec::new(), test_view(false));
        let mut told = |change| text(change, &mut rows, &view, &table);
        assert_eq!(told(Change::Row { row: 1 }) + &told(Change::Row { row: 2 }), "");
        assert_eq!(told(Change::Synced), "HEAD\n1\n2\n");
        assert_eq!(told(Change::Changed { row: 3 }), "3\n");
        assert_eq!(told(Change::Gone { id: "4".to_owned() }), "gone: 4\n");
        assert_eq!(told(Change::Reset) + &told(Change::Row { row: 5 }) + &told(Change::Synced), "HEAD\n5\n");
    }
}
