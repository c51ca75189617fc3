//! Alerts: what is wrong in the fleet.

use chom_protocol::api::alerts::{AlertState, AlertView, Severity};
use clap::Subcommand;

use crate::error::Failure;
use crate::filters::AlertFilters;
use crate::output::{Cell, Table, Tone, View, age, word};
use crate::session::Session;
use crate::watch::{self, Watched};

/// `chomctl alert`.
#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// Lists alerts
    List(Watched<AlertFilters>),
}

/// Runs `chomctl alert`.
pub(crate) fn run(session: &Session, command: AlertCommand) -> Result<(), Failure> {
    let AlertCommand::List(filters) = command;
    watch::list(session, &session.client()?, "/api/alerts", &filters, table)
}

const fn state(alert: &AlertView) -> (&'static str, Tone) {
    match (alert.state, alert.severity) {
        (AlertState::Pending, _) => ("pending", Tone::Plain),
        (AlertState::Firing, Severity::Warning) => ("firing", Tone::Warn),
        (AlertState::Firing, Severity::Critical) => ("firing", Tone::Bad),
        (AlertState::Resolved, _) => ("resolved", Tone::Good),
    }
}

fn since(alert: &AlertView, view: &View) -> String {
    let time = match alert.state {
        AlertState::Pending => &alert.since,
        AlertState::Firing => alert.firing_since.as_ref().unwrap_or(&alert.since),
        AlertState::Resolved => alert.resolved_at.as_ref().unwrap_or(&alert.last_seen),
    };
    age(time, view.now)
}

fn table(alerts: &[AlertView], view: &View) -> String {
    let narrow = ["RULE", "SEVERITY", "STATE", "FOR", "SUMMARY"];
    let wide = ["RULE", "SEVERITY", "STATE", "FOR", "SUMMARY", "JUDGED", "MAILED", "ID", "HOST", "VPS"];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for alert in alerts {
        let (text, tone) = state(alert);
        let mut row = vec![
            Cell::from(&alert.rule),
            Cell::from(word(&alert.severity)),
            Cell::new(text, tone),
            Cell::from(since(alert, view)),
            Cell::from(&alert.summary),
        ];
        if view.wide {
            let none = || "-".to_owned();
            let ago = |time: &String| format!("{} ago", age(time, view.now));
            row.push(Cell::from(ago(&alert.last_seen)));
            row.push(Cell::from(alert.last_notified.as_ref().map_or_else(none, ago)));
            row.push(Cell::from(alert.id));
            row.push(Cell::from(alert.host.map_or_else(none, |id| id.to_string())));
            row.push(Cell::from(alert.vps.map_or_else(none, |id| id.to_string())));
        }
        table.row(row);
    }
    table.render(view, "no alerts")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    fn alert(state: &str) -> AlertView {
        serde_json::from_value(json!({
            "id": "0190f6d2-8f3e-7cc0-9d4c-0000000000a1", "rule": "HostUnreachable", "severity": "critical",
            "state": state, "host": "0190f6d2-8f3e-7cc0-9d4c-0000000000aa", "vps": null,
            "summary": "host-1 is away", "since": "2026-11-23T11:50:00Z", "firing_since": "2026-11-23T11:56:48Z",
            "resolved_at": "2026-11-23T11:59:18Z", "last_seen": "2026-11-23T11:59:59Z", "last_notified": null
        }))
        .unwrap()
    }

    #[test]
    fn an_alert_says_for_how_long_it_is_in_its_state() {
        expect![[r#"
            RULE             SEVERITY  STATE     FOR     SUMMARY
            HostUnreachable  critical  pending   10m00s  host-1 is away
            HostUnreachable  critical  firing    3m12s   host-1 is away
            HostUnreachable  critical  resolved  42s     host-1 is away
        "#]]
        .assert_eq(&table(&[alert("pending"), alert("firing"), alert("resolved")], &test_view(false)));
    }

    #[test]
    fn a_wide_list_says_when_it_was_judged_and_mailed() {
        expect![[r#"
            RULE             SEVERITY  STATE   FOR    SUMMARY         JUDGED  MAILED  ID                                    HOST                                  VPS
            HostUnreachable  critical  firing  3m12s  host-1 is away  1s ago  -       0190f6d2-8f3e-7cc0-9d4c-0000000000a1  0190f6d2-8f3e-7cc0-9d4c-0000000000aa  -
        "#]]
        .assert_eq(&table(&[alert("firing")], &test_view(true)));
    }
}
