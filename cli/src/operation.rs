//! Operations: list, show, and waiting for their end.

use std::time::{Duration, Instant};

use chom_protocol::OperationId;
use chom_protocol::api::bulk::{BulkCounts, BulkItemState, BulkItemView};
use chom_protocol::api::operations::{OperationState, OperationView};
use clap::Subcommand;

use crate::client::Client;
use crate::clock;
use crate::error::Failure;
use crate::filters::OperationFilters;
use crate::output::{Cell, Details, Table, Tone, View, age, moment, span, until};
use crate::progress::Progress;
use crate::session::{ListOptions, Session};
use crate::watch::{self, Watched};

/// How often an operation is asked about at first: what is quick is seen quickly.
const POLL_PAUSE: Duration = Duration::from_millis(200);
/// How often after that; a hundred waiting admins are a hundred cheap reads a second.
const POLL_PAUSE_LATER: Duration = Duration::from_secs(1);
/// When "at first" is over.
const POLL_LATER_AFTER: Duration = Duration::from_secs(10);

/// `chomctl operation`.
#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// Lists operations
    List(Watched<OperationFilters>),
    /// Shows an operation and its trail
    Show {
        /// Its id
        id: OperationId,
    },
    /// Takes an operation back where that is safe
    Cancel {
        /// Its id
        id: OperationId,
    },
    /// Goes on with an order on many VPSs that was cancelled: with those that were not begun with
    Resume {
        /// Its id
        id: OperationId,
    },
    /// Lists the VPSs of an order on many, each with what came of it
    Items {
        /// Its id
        id: OperationId,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Waits until an operation has ended; fails if it failed
    Wait {
        /// Its id
        id: OperationId,
        #[command(flatten)]
        timeout: Timeout,
    },
}

/// How long to wait.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Timeout {
    /// Stop waiting after that long; the operation goes on
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_time)]
    timeout: Duration,
}

/// Whether and how long a mutation is waited for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct WaitOptions {
    /// Wait until it is done
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop waiting after that long; the operation goes on
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_time, requires = "wait")]
    pub(crate) timeout: Duration,
}

/// Reads `90`, `90s`, `15m` or `2h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit_seconds) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) => (number, 1),
        None => (text, 1),
    };
    match number.parse::<u32>() {
        Ok(count) if count > 0 => Ok(Duration::from_secs(u64::from(count) * unit_seconds)),
        _ => Err("write a time such as 90s, 15m or 2h".to_owned()),
    }
}

/// Runs `chomctl operation`.
pub(crate) fn run(session: &Session, command: OperationCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let operation = match command {
        OperationCommand::List(filters) => {
            return watch::list(session, &client, "/api/operations", &filters, table);
        }
        OperationCommand::Show { id } => client.get(&path(id))?,
        OperationCommand::Cancel { id } => client.act(&format!("{}/cancel", path(id)))?,
        OperationCommand::Resume { id } => client.act(&format!("{}/resume", path(id)))?,
        OperationCommand::Items { id, list } => {
            let items: Vec<BulkItemView> = client.list(&format!("{}/items", path(id)), list.limit)?;
            return session.screen.show(&items, |view| items_table(&items, view));
        }
        OperationCommand::Wait { id, timeout } => {
            let operation: OperationView = client.get(&path(id))?;
            let operation = wait(&client, operation, "", timeout.timeout)?;
            session.screen.show(&operation, |view| details(&operation, view))?;
            return outcome(&operation);
        }
    };
    session.screen.show(&operation, |view| details(&operation, view))
}

fn path(id: OperationId) -> String {
    format!("/api/operations/{id}")
}

/// Waits until the operation has ended, telling how far it is; `what` is what it works on. A server that is away
/// meanwhile is asked again until the time is over.
///
/// # Errors
/// The time is over, or the server refuses to answer. An operation that failed is no error here: see [`outcome`].
pub(crate) fn wait(
    client: &Client,
    mut operation: OperationView,
    what: &str,
    timeout: Duration,
) -> Result<OperationView, Failure> {
    let began = Instant::now();
    let mut progress = Progress::stderr();
    let mut trouble = None;
    while !operation.state.is_final() {
        let elapsed = began.elapsed();
        progress.tell(&line(&operation, what, trouble.as_deref()), &span(elapsed.as_secs()));
        if elapsed >= timeout {
            return Err(Failure::Waited {
                id: operation.id.to_string(),
                kind: operation.kind,
                waited: span(timeout.as_secs()),
            });
        }
        let pause = if elapsed < POLL_LATER_AFTER { POLL_PAUSE } else { POLL_PAUSE_LATER };
        clock::pause(pause.min(timeout.saturating_sub(elapsed)));
        match client.get(&path(operation.id)) {
            Ok(newer) => (operation, trouble) = (newer, None),
            Err(failure) if failure.is_away() => trouble = Some(failure.to_string()),
            Err(failure) => return Err(failure),
        }
    }
    progress.tell(&line(&operation, what, None), &span(began.elapsed().as_secs()));
    Ok(operation)
}

/// One line on how far it is.
fn line(operation: &OperationView, what: &str, trouble: Option<&str>) -> String {
    let (state, _) = state(operation.state);
    let gap = if what.is_empty() { "" } else { " " };
    let mut line = format!("{}{gap}{what}: {state}", operation.kind);
    if let Some(BulkCounts { count, running, succeeded, failed, .. }) = operation.bulk {
        line.push_str(&format!(": {succeeded} of {count} done, {running} under way, {failed} failed"));
    }
    let now = operation.problem.as_deref().or(operation.steps.last().map(|step| step.message.as_str()));
    if let Some(now) = trouble.or(now) {
        line.push_str(": ");
        line.push_str(now);
    }
    line
}

/// Whether an operation that has ended did what it was to do.
///
/// # Errors
/// It failed, or another took its place.
pub(crate) fn outcome(operation: &OperationView) -> Result<(), Failure> {
    let outcome = match operation.state {
        OperationState::Succeeded | OperationState::Pending | OperationState::Running => return Ok(()),
        OperationState::Failed => match &operation.problem {
            Some(problem) => format!("failed: {problem}"),
            None => "failed".to_owned(),
        },
        OperationState::Cancelled => "was cancelled".to_owned(),
        OperationState::Superseded => "was not finished: a later operation took its place".to_owned(),
    };
    Err(Failure::Operation { id: operation.id.to_string(), kind: operation.kind.clone(), outcome })
}

/// An operation's state, and what that means.
pub(crate) const fn state(state: OperationState) -> (&'static str, Tone) {
    match state {
        OperationState::Pending => ("pending", Tone::Warn),
        OperationState::Running => ("running", Tone::Warn),
        OperationState::Succeeded => ("succeeded", Tone::Good),
        OperationState::Failed => ("failed", Tone::Bad),
        OperationState::Superseded => ("superseded", Tone::Plain),
        OperationState::Cancelled => ("cancelled", Tone::Plain),
    }
}

fn took(operation: &OperationView, view: &View) -> String {
    match &operation.finished_at {
        Some(finished) => format!("{} ago", age(finished, view.now)),
        None => "-".to_owned(),
    }
}

fn table(operations: &[OperationView], view: &View) -> String {
    let wide = ["ID", "KIND", "STATE", "ASKED", "ENDED", "VPS", "HOST", "PROBLEM"];
    let narrow = ["ID", "KIND", "STATE", "ASKED", "ENDED", "PROBLEM"];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    let id = |id: Option<String>| Cell::from(id.unwrap_or_else(|| "-".to_owned()));
    for operation in operations {
        let (word, tone) = state(operation.state);
        let mut row = vec![
            Cell::from(operation.id),
            Cell::from(&operation.kind),
            Cell::new(word, tone),
            Cell::from(format!("{} ago", age(&operation.created_at, view.now))),
            Cell::from(took(operation, view)),
        ];
        if view.wide {
            row.push(id(operation.vps.map(|id| id.to_string())));
            row.push(id(operation.host.map(|id| id.to_string())));
        }
        row.push(Cell::from(operation.problem.as_deref().unwrap_or_default()));
        table.row(row);
    }
    table.render(view, "no operations")
}

fn items_table(items: &[BulkItemView], view: &View) -> String {
    let mut table = Table::new(&["VPS", "STATE", "OPERATION", "PROBLEM"]);
    for item in items {
        let (word, tone) = match item.state {
            BulkItemState::Pending => ("pending", Tone::Plain),
            BulkItemState::Running => ("running", Tone::Warn),
            BulkItemState::Succeeded => ("succeeded", Tone::Good),
            BulkItemState::Failed => ("failed", Tone::Bad),
        };
        table.row(vec![
            Cell::from(&item.name),
            Cell::new(word, tone),
            Cell::from(item.operation.map_or_else(|| "-".to_owned(), |id| id.to_string())),
            Cell::from(item.problem.as_deref().unwrap_or_default()),
        ]);
    }
    table.render(view, "no VPSs: this is not an order on many")
}

/// All of an operation.
pub(crate) fn details(operation: &OperationView, view: &View) -> String {
    let mut details = Details::default();
    let (word, tone) = state(operation.state);
    details.line("Operation", operation.id);
    details.line("Kind", &operation.kind);
    details.line("State", Cell::new(word, tone));
    details.line("Problem", Cell::new(operation.problem.as_deref().unwrap_or_default(), Tone::Bad));
    details.line("Tenant", &operation.tenant);
    if let Some(BulkCounts { count, pending, running, succeeded, failed }) = operation.bulk {
        details.line(
            "VPSs",
            format!(
                "{count}: {succeeded} done, {running} under way, {pending} not begun with, {failed} failed"
            ),
        );
    }
    details.line("VPS", operation.vps.map(|id| id.to_string()).unwrap_or_default());
    details.line("Host", operation.host.map(|id| id.to_string()).unwrap_or_default());
    details.line("Asked", moment(&operation.created_at, view.now));
    match &operation.finished_at {
        Some(finished) => details.line("Ended", moment(finished, view.now)),
        None => details.line("Ends within", until(&operation.deadline, view.now)),
    }
    details.lines("Trail", operation.steps.iter().map(|step| format!("{}  {}", step.at, step.message)));
    details.render(view)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::output::test_view;

    fn operation(state: &str) -> OperationView {
        serde_json::from_value(serde_json::json!({
            "id": "0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e", "kind": "create", "tenant": "default",
            "vps": "0190f6d2-8f3e-7cc0-9d4c-000000000001", "host": null, "state": state,
            "steps": [{"at": "2026-11-23T11:59:00Z", "message": "placed on host-1"},
                      {"at": "2026-11-23T11:59:01Z", "message": "image 40 %"}],
            "problem": if state == "failed" { Some("no room on the disk; free some") } else { None },
            "created_at": "2026-11-23T11:59:00Z", "deadline": "2026-11-23T12:09:00Z",
            "finished_at": if state == "running" { None } else { Some("2026-11-23T11:59:30Z") },
        }))
        .unwrap()
    }

    #[test]
    fn times_to_wait_are_written_with_a_unit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "0", "0s", "-1s", "1d", "1.5h", "99999999999s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn progress_says_what_is_done_and_how_far_it_is() {
        assert_eq!(line(&operation("running"), "web", None), "create web: running: image 40 %");
        assert_eq!(
            line(&operation("running"), "", Some("cannot reach x")),
            "create: running: cannot reach x"
        );
    }

    #[test]
    fn only_success_is_success() {
        assert!(outcome(&operation("succeeded")).is_ok());
        assert_eq!(
            outcome(&operation("failed")).unwrap_err().to_string(),
            "the operation `create` failed: no room on the disk; free some"
        );
        assert!(outcome(&operation("superseded")).is_err());
    }

    #[test]
    fn a_list_has_a_line_each() {
        expect![[r#"
            ID                                    KIND    STATE    ASKED      ENDED    PROBLEM
            0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e  create  running  1m00s ago  -
            0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e  create  failed   1m00s ago  30s ago  no room on the disk; free some
        "#]]
        .assert_eq(&table(&[operation("running"), operation("failed")], &test_view(false)));
    }

    #[test]
    fn the_details_end_with_the_trail() {
        expect![[r#"
            Operation:    0190f6d2-8f3e-7cc0-9d4c-1f2a3b4c5d6e
            Kind:         create
            State:        running
            Tenant:       default
            VPS:          0190f6d2-8f3e-7cc0-9d4c-000000000001
            Asked:        2026-11-23T11:59:00Z (1m00s ago)
            Ends within:  9m00s
            Trail:        2026-11-23T11:59:00Z  placed on host-1
                          2026-11-23T11:59:01Z  image 40 %
        "#]]
        .assert_eq(&details(&operation("running"), &test_view(false)));
    }
}
