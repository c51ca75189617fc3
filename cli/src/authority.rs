//! The fleet's CAs: listed, rotated, retired.

use chom_protocol::Name;
use chom_protocol::api::authorities::{AuthorityState, AuthorityView, RetireAuthority};
use clap::Subcommand;

use crate::confirm::{Confirmation, confirm};
use crate::error::Failure;
use crate::output::{Cell, Table, Tone, View, age};
use crate::session::{ListOptions, Session};

/// Where CAs are in the API.
const PATH: &str = "/api/authorities";

/// `chomctl authority`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Lists the CAs that the fleet trusts
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Makes a new CA; it signs once the connected hosts trust it, and asks them for new certificates
    Rotate,
    /// Trusts an old CA no longer
    Retire {
        /// Its number
        number: u64,
        /// Although hosts may need it still: they have to be enrolled anew
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Prints the certificates of all CAs that are trusted, PEM: for --ca-file, before the oldest is retired
    Bundle,
}

/// Runs `chomctl authority`.
pub(crate) fn run(session: &Session, command: AuthorityCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let changed: AuthorityView = match command {
        AuthorityCommand::List { list } => {
            let all: Vec<AuthorityView> = client.list(PATH, list.limit)?;
            return session.screen.show(&all, |view| table(&all, view));
        }
        AuthorityCommand::Bundle => {
            let all: Vec<AuthorityView> = client.list(PATH, None)?;
            let pem: Vec<&str> = all.iter().map(|authority| authority.certificate_pem.as_str()).collect();
            return session.screen.show(&all, |_| pem.concat());
        }
        AuthorityCommand::Rotate => client.act(PATH)?,
        AuthorityCommand::Retire { number, force, confirmation } => {
            let consequence = format!(
                "This ends the trust in CA {number}. Programs that call the API and know only this CA need the newer ones \
                 first (`chomctl authority bundle`)."
            );
            confirm(confirmation, session.no_input(), &consequence)?;
            client.post(&format!("{PATH}/{number}/retire"), &RetireAuthority { force })?
        }
    };
    session.screen.show(&changed, |view| table(std::slice::from_ref(&changed), view))
}

const fn state(state: AuthorityState) -> (&'static str, Tone) {
    match state {
        AuthorityState::Announced => ("announced", Tone::Warn),
        AuthorityState::Signing => ("signing", Tone::Good),
        AuthorityState::Trusted => ("trusted", Tone::Plain),
        AuthorityState::Retired => ("retired", Tone::Plain),
    }
}

fn table(all: &[AuthorityView], view: &View) -> String {
    let narrow = ["NUMBER", "STATE", "MADE", "WAITS FOR", "NEEDED BY"];
    let wide = ["NUMBER", "STATE", "MADE", "WAITS FOR", "NEEDED BY", "FINGERPRINT"];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for authority in all {
        let (word, tone) = state(authority.state);
        let mut row = vec![
            Cell::from(authority.number),
            Cell::new(word, tone),
            Cell::from(format!("{} ago", age(&authority.announced_at, view.now))),
            Cell::from(hosts(&authority.waits_for, authority.waits_for_count)),
            Cell::from(hosts(&authority.needed_by, authority.needed_by_count)),
        ];
        if view.wide {
            row.push(Cell::from(&authority.fingerprint));
        }
        table.row(row);
    }
    table.render(view, "no CAs")
}

/// Some hosts by name, and how many more.
fn hosts(names: &[Name], count: u32) -> String {
    const NAMES_SHOWN_MAX: usize = 3;
    if count == 0 {
        return "-".to_owned();
    }
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN_MAX).map(Name::as_str).collect();
    let more = count.saturating_sub(u32::try_from(shown.len()).unwrap_or(u32::MAX));
    let more = if more == 0 { String::new() } else { format!(" +{more}") };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn a_rotation_says_whom_it_waits_for() {
        let authority = |number: u64, state: &str, waits: &[&str], needed: usize| {
            let names = ["h1", "h2", "h3", "h4"];
            json!({"number": number, "state": state, "fingerprint": "ab:cd", "announced_at": "2026-11-23T11:59:00Z",
                   "signs_since": null, "waits_for": waits, "waits_for_count": waits.len(),
                   "needed_by": names[..needed.min(4)], "needed_by_count": needed,
                   "certificate_pem": "", "revision": 7})
        };
        let all: Vec<AuthorityView> = serde_json::from_value(json!([
            authority(1, "trusted", &[], 9),
            authority(2, "signing", &[], 0),
            authority(3, "announced", &["h1"], 0)
        ]))
        .unwrap();
        expect![[r#"
            NUMBER  STATE      MADE       WAITS FOR  NEEDED BY
            1       trusted    1m00s ago  -          h1, h2, h3 +6
            2       signing    1m00s ago  -          -
            3       announced  1m00s ago  h1         -
        "#]]
        .assert_eq(&table(&all, &test_view(false)));
    }
}
