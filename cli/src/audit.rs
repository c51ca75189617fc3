//! The audit trail: who did what, its log as a file, and whether the log is as the orchestrator wrote it. The hashes are
//! checked here, not by the server that is asked for them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chom_protocol::Name;
use chom_protocol::api::PAGE_ROWS_MAX;
use chom_protocol::api::audit::{AuditChain, AuditEntry, AuditResult, ChainEnd};
use chom_protocol::audit::{Checker, Fault, Line};
use chom_protocol::vps::Sha256;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::client::Client;
use crate::error::Failure;
use crate::output::{Cell, Table, Tone, View, age, write_out};
use crate::session::Session;

const PATH: &str = "/api/audit";
const CHAIN_PATH: &str = "/api/audit/chain";
/// Longest line of a file; the orchestrator writes none above 64 KiB.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Faults that are listed; where there are more, the log is not what it was in any case.
const FAULTS_SHOWN_MAX: usize = 20;

/// `chomctl audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Lists entries, the newest first
    List {
        #[command(flatten)]
        wanted: Wanted,
        /// Print at most so many entries
        #[arg(long, value_name = "ROWS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Prints the whole log, the oldest entry first, as lines of JSON with the hashes that chain them
    Export,
    /// Checks that nothing in the log was changed, removed or put in
    Verify {
        /// Check a file that `audit export` printed instead of what the server has
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The end that was printed when it was last checked: it must still be in the log
        #[arg(long, value_name = "NUMBER:HASH", value_parser = end)]
        known: Option<ChainEnd>,
    },
}

/// Which entries.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Only what this actor did: the name of a token, or `chom`
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, such as `vps.stop`, or all on a kind of row, such as `vps`
    #[arg(long)]
    action: Option<String>,
    /// Only what was done to this row: its id or name
    #[arg(long)]
    target: Option<String>,
    /// Only what is about this tenant's rows
    #[arg(long)]
    tenant: Option<Name>,
    /// Only requests that were refused
    #[arg(long)]
    denied: bool,
    /// Only from this time on, RFC 3339
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only before this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Wanted {
    fn filters(self) -> Vec<(&'static str, String)> {
        let Self { actor, action, target, tenant, denied, from, until } = self;
        let all = [
            ("actor", actor),
            ("action", action),
            ("target", target),
            ("tenant", tenant.map(|name| name.to_string())),
            ("result", denied.then(|| "denied".to_owned())),
            ("from", from),
            ("until", until),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

fn end(text: &str) -> Result<ChainEnd, String> {
    let parsed = text.split_once(':').and_then(|(sequence, hash)| {
        Some(ChainEnd { sequence: sequence.parse().ok()?, hash: Sha256::try_from(hash.to_owned()).ok()? })
    });
    parsed.ok_or_else(|| "an end is NUMBER:HASH, as `chomctl audit verify` prints it".to_owned())
}

/// Runs `chomctl audit`.
pub(crate) fn run(session: &Session, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::List { wanted, limit } => {
            let entries: Vec<AuditEntry> =
                session.client()?.list_where(PATH, &wanted.filters(), Some(limit))?;
            session.screen.show(&entries, |view| table(&entries, view))
        }
        AuditCommand::Export => pieces(&session.client()?, |piece| {
            piece.lines.iter().try_for_each(|line| write_out(&format!("{line}\n")))
        })
        .map(|_| ()),
        AuditCommand::Verify { file, known } => {
            let mut check = Check { known, ..Check::default() };
            match file {
                Some(path) => check.file(&path)?,
                None => check.server(&session.client()?)?,
            }
            let verdict = check.verdict();
            session.screen.show(&verdict, |_| verdict.text())?;
            match verdict.faults.is_empty() {
                true => Ok(()),
                false => Err(Failure::Altered { faults: verdict.fault_count }),
            }
        }
    }
}

/// Reads the log piece by piece, and gives the last piece.
fn pieces(
    client: &Client,
    mut take: impl FnMut(&AuditChain) -> Result<(), Failure>,
) -> Result<AuditChain, Failure> {
    let limit = PAGE_ROWS_MAX.to_string();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let piece: AuditChain = client.get_where(CHAIN_PATH, &query)?;
        take(&piece)?;
        if piece.next_cursor.is_none() {
            return Ok(piece);
        }
        if piece.next_cursor == cursor {
            return Err(client.strange(None, "the audit log does not end"));
        }
        cursor.clone_from(&piece.next_cursor);
    }
}

/// A log being checked.
#[derive(Default)]
struct Check {
    checker: Option<Checker>,
    last: Option<ChainEnd>,
    known: Option<ChainEnd>,
    is_known_seen: bool,
    faults: Vec<String>,
    fault_count: usize,
}

impl Check {
    fn fault(&mut self, fault: &Fault) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_SHOWN_MAX {
            self.faults.push(fault.to_string());
        }
    }

    fn line(&mut self, text: &str) {
        let checker = self.checker.get_or_insert_with(|| Checker::from_first(text));
        if let Err(fault) = checker.take(text) {
            self.fault(&fault);
        }
        let Some(line) = Line::read(text) else { return };
        self.last = Some(ChainEnd { sequence: line.sequence, hash: line.hash });
        self.is_known_seen |= self.last == self.known;
    }

    fn server(&mut self, client: &Client) -> Result<(), Failure> {
        let last = pieces(client, |piece| {
            let before = piece.before;
            self.checker.get_or_insert_with(|| Checker::after(before.sequence, before.hash));
            // Entries before that were dropped for their age.
            self.is_known_seen |= self.known.is_some_and(|known| known.sequence <= before.sequence);
            piece.lines.iter().for_each(|line| self.line(line));
            Ok(())
        })?;
        let ChainEnd { sequence, hash } = last.last;
        if let Some(fault) = self.checker.as_ref().and_then(|checker| checker.end(sequence, &hash).err()) {
            self.fault(&fault);
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), Failure> {
        let failed =
            |source| Failure::File { what: "an audit log from", path: path.display().to_string(), source };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        loop {
            let mut line = Vec::new();
            let limited = &mut std::io::Read::take(&mut file, LINE_BYTES_MAX);
            limited.read_until(b'\n', &mut line).map_err(failed)?;
            if line.is_empty() {
                return Ok(());
            }
            self.line(&String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)));
        }
    }

    fn verdict(mut self) -> Verdict {
        if let Some(known) = self.known.filter(|_| !self.is_known_seen) {
            self.fault(&Fault::OtherEnd { sequence: known.sequence });
        }
        let Self { checker, last, faults, fault_count, .. } = self;
        Verdict { entries: checker.map_or(0, |checker| checker.entries()), last, faults, fault_count }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
struct Verdict {
    entries: u64,
    last: Option<ChainEnd>,
    faults: Vec<String>,
    fault_count: usize,
}

impl Verdict {
    fn text(&self) -> String {
        let mut text: String = self.faults.iter().map(|fault| format!("{fault}\n")).collect();
        if self.fault_count > self.faults.len() {
            text += &format!("and {} more\n", self.fault_count - self.faults.len());
        }
        match (&self.last, self.fault_count) {
            (Some(ChainEnd { sequence, hash }), 0) => {
                text += &format!(
                    "{} entries, none changed; keep this end for the next check:\n{sequence}:{hash}\n",
                    self.entries
                );
            }
            (None, 0) => text += "the log has no entries yet\n",
            (_, _) => {}
        }
        text
    }
}

fn table(entries: &[AuditEntry], view: &View) -> String {
    let narrow = ["NUMBER", "WHEN", "WHO", "FROM", "ACTION", "TARGET", "RESULT", "REASON"];
    let wide = [
        "NUMBER", "WHEN", "WHO", "FROM", "ACTION", "TARGET", "RESULT", "REASON", "TENANTS", "TOKEN",
        "CHANGED",
    ];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for entry in entries {
        let (result, tone) = match (entry.result, entry.times) {
            (AuditResult::Done, _) => ("done".to_owned(), Tone::Plain),
            (AuditResult::Denied, 1) => ("denied".to_owned(), Tone::Warn),
            (AuditResult::Denied, times) => (format!("denied x{times}"), Tone::Warn),
        };
        let mut row = vec![
            Cell::from(entry.sequence),
            Cell::from(if view.wide {
                entry.at.clone()
            } else {
                format!("{} ago", age(&entry.at, view.now))
            }),
            Cell::from(&entry.actor),
            Cell::from(or_none(entry.address.map(|address| address.to_string()))),
            Cell::from(&entry.action),
            Cell::from(&entry.target),
            Cell::new(result, tone),
            Cell::from(or_none(entry.reason.clone())),
        ];
        if view.wide {
            let tenants: Vec<&str> = entry.tenants.iter().map(Name::as_str).collect();
            let rows: Vec<&str> = entry.changes.iter().map(|change| change.row.as_str()).collect();
            row.push(Cell::from(if tenants.is_empty() { "-".to_owned() } else { tenants.join(",") }));
            row.push(Cell::from(or_none(entry.token.map(|token| token.to_string()))));
            row.push(Cell::from(if rows.is_empty() { "-".to_owned() } else { rows.join(",") }));
        }
        table.row(row);
    }
    table.render(view, "no entries")
}
