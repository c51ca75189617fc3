//! The text of mails. Pure. Whatever stands in a row, a subject is one line.

use std::fmt::Write;

use chom_protocol::AlertId;
use chom_protocol::api::alerts::{AlertState, Severity};

use super::rows::NotificationRow;
use crate::alerts::rows::AlertRow;
use crate::clock::rfc3339;

/// Alerts that one mail describes; the rest is counted. About 40 KiB of text.
const DESCRIBED_MAX: usize = 100;
/// Longest subject: what mail programs show.
const SUBJECT_CHARACTERS_MAX: usize = 150;

/// A mail's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) subject: String,
    pub(crate) body: String,
}

/// A notification as a mail; `alert` finds the alerts that it refers to, as they are now.
pub(crate) fn render<'r>(
    row: &NotificationRow,
    alert: impl Fn(&AlertId) -> Option<&'r AlertRow>,
) -> Rendered {
    let status = match row.firing_count {
        0 => "RESOLVED".to_owned(),
        count => format!("FIRING:{count}"),
    };
    let mut body = String::new();
    let mut left = DESCRIBED_MAX;
    let mut list = |title: &str, ids: &[AlertId], count: usize, firing: bool| {
        if count == 0 {
            return;
        }
        line(&mut body, &format!("{title}: {count}\n"));
        let described = ids.iter().take(left);
        let mut shown = 0;
        for id in described {
            shown += 1;
            line(&mut body, &describe(id, alert(id), firing));
        }
        left -= shown;
        if count > shown {
            line(&mut body, &format!("and {} more: `chomctl alert list` shows all.\n", count - shown));
        }
    };
    list("FIRING", &row.firing, row.firing_count, true);
    list("RESOLVED", &row.resolved, row.resolved_count, false);
    line(
        &mut body,
        &format!(
            "-- \nCHOM told of this at {}; `chomctl alert list` shows what is now.",
            rfc3339(row.created_at)
        ),
    );
    Rendered { subject: one_line(&format!("[{status}] {}", row.group)), body }
}

fn describe(id: &AlertId, row: Option<&AlertRow>, firing: bool) -> String {
    let Some(row) = row else { return format!("* alert {id}, of which nothing is kept any more\n") };
    let severity = match row.severity {
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    let mut text = format!("* {}\n", one_paragraph(&row.summary));
    if let Some(since) = row.firing_since {
        // Writing into a string cannot fail.
        let _ = write!(text, "  {severity}, since {}", rfc3339(since));
    }
    match (row.state, row.resolved_at) {
        (AlertState::Resolved, Some(at)) if firing => {
            let _ = write!(text, "; over since {}", rfc3339(at));
        }
        (_, Some(at)) if !firing => {
            let _ = write!(text, ", over since {}", rfc3339(at));
        }
        _ => {}
    }
    let _ = write!(text, "\n  alert {id}\n");
    text
}

fn line(body: &mut String, text: &str) {
    body.push_str(text);
    body.push('\n');
}

/// One line without control characters: what follows a line break in a header would be a header.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SUBJECT_CHARACTERS_MAX).collect()
}

fn one_paragraph(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use chom_protocol::{Name, NotificationId, UnixMillis};
    use expect_test::{Expect, expect};
    use uuid::Uuid;

    use super::*;
    use crate::alerts::rows::{Group, Rule, Subject};

    fn alert(number: u128, summary: &str, resolved: bool) -> AlertRow {
        AlertRow {
            id: AlertId::new(Uuid::from_u128(number)),
            subject: Subject { rule: Rule::HostUnreachable, host: None, vps: None, label: String::new() },
            region: "us-east".parse::<Name>().ok(),
            severity: Severity::Critical,
            summary: summary.to_owned(),
            state: if resolved { AlertState::Resolved } else { AlertState::Firing },
            since: UnixMillis(1_700_000_000_000),
            firing_since: Some(UnixMillis(1_700_000_060_000)),
            resolved_at: resolved.then_some(UnixMillis(1_700_000_600_000)),
            last_seen: UnixMillis(1_700_000_060_000),
        }
    }

    fn check(firing: &[AlertRow], resolved: &[AlertRow], expected: Expect) {
        let ids = |rows: &[AlertRow]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
        let row = NotificationRow {
            id: NotificationId::new(Uuid::from_u128(9)),
            message_id: "<9@example.com>".to_owned(),
            thread: None,
            group: Group { rule: Rule::HostUnreachable, region: "us-east".parse().ok() },
            firing: ids(firing),
            resolved: ids(resolved),
            firing_count: firing.len(),
            resolved_count: resolved.len(),
            created_at: UnixMillis(1_700_000_660_000),
            deliveries: Vec::new(),
        };
        let Rendered { subject, body } =
            render(&row, |id| firing.iter().chain(resolved).find(|row| row.id == *id));
        expected.assert_eq(&format!("Subject: {subject}\n\n{body}"));
    }

    #[test]
    fn a_firing_mail_says_what_since_when_and_what_to_do() {
        let gone = "host h1 has given no sign of life since then: check its power";
        check(
            &[alert(1, gone, false), alert(2, "host h2 is gone", false)],
            &[],
            expect![[r#"
            Subject: [FIRING:2] HostUnreachable us-east

            FIRING: 2

            * host h1 has given no sign of life since then: check its power
              critical, since 2023-11-14T22:14:20Z
              alert 00000000-0000-0000-0000-000000000001

            * host h2 is gone
              critical, since 2023-11-14T22:14:20Z
              alert 00000000-0000-0000-0000-000000000002

            -- 
            CHOM told of this at 2023-11-14T22:24:20Z; `chomctl alert list` shows what is now.
        "#]],
        );
    }

    #[test]
    fn a_resolved_mail_says_since_when_it_is_over() {
        check(
            &[],
            &[alert(1, "host h1 is gone", true)],
            expect![[r#"
            Subject: [RESOLVED] HostUnreachable us-east

            RESOLVED: 1

            * host h1 is gone
              critical, since 2023-11-14T22:14:20Z, over since 2023-11-14T22:23:20Z
              alert 00000000-0000-0000-0000-000000000001

            -- 
            CHOM told of this at 2023-11-14T22:24:20Z; `chomctl alert list` shows what is now.
        "#]],
        );
    }

    #[test]
    fn a_mail_can_tell_both_and_what_changed_before_it_was_sent() {
        check(
            &[alert(1, "host h1 is gone", true)],
            &[alert(2, "host h2 is gone", true)],
            expect![[r#"
            Subject: [FIRING:1] HostUnreachable us-east

            FIRING: 1

            * host h1 is gone
              critical, since 2023-11-14T22:14:20Z; over since 2023-11-14T22:23:20Z
              alert 00000000-0000-0000-0000-000000000001

            RESOLVED: 1

            * host h2 is gone
              critical, since 2023-11-14T22:14:20Z, over since 2023-11-14T22:23:20Z
              alert 00000000-0000-0000-0000-000000000002

            -- 
            CHOM told of this at 2023-11-14T22:24:20Z; `chomctl alert list` shows what is now.
        "#]],
        );
    }

    #[test]
    fn nothing_in_a_row_makes_a_header() {
        assert_eq!(one_line("a\r\nBcc: evil@example.com\u{85}\u{0}"), "a  Bcc: evil@example.com  ");
        let summary = "host\r\n.\r\nMAIL FROM:<x>";
        check(
            &[alert(1, summary, false)],
            &[],
            expect![[r#"
            Subject: [FIRING:1] HostUnreachable us-east

            FIRING: 1

            * host  .  MAIL FROM:<x>
              critical, since 2023-11-14T22:14:20Z
              alert 00000000-0000-0000-0000-000000000001

            -- 
            CHOM told of this at 2023-11-14T22:24:20Z; `chomctl alert list` shows what is now.
        "#]],
        );
    }

    #[test]
    fn many_alerts_make_a_bounded_mail() {
        let all: Vec<AlertRow> = (0..500).map(|number| alert(number, &"x".repeat(300), false)).collect();
        let row = NotificationRow {
            id: NotificationId::new(Uuid::from_u128(9)),
            message_id: String::new(),
            thread: None,
            group: Group { rule: Rule::HostUnreachable, region: None },
            firing: all.iter().map(|row| row.id).collect(),
            resolved: Vec::new(),
            firing_count: 500,
            resolved_count: 0,
            created_at: UnixMillis(0),
            deliveries: Vec::new(),
        };
        let Rendered { subject, body } = render(&row, |id| all.iter().find(|row| row.id == *id));
        assert_eq!(subject, "[FIRING:500] HostUnreachable");
        assert!(body.len() < 64 * 1024 && body.contains("and 400 more"));
    }
}
