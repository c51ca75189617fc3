//! Notifications: the mails that alerts led to, and how each recipient's went.

use chom_protocol::api::alerts::{DeliveryState, NotificationView};
use clap::Subcommand;

use crate::error::Failure;
use crate::output::{Cell, Table, Tone, View, age, until};
use crate::session::{ListOptions, Session};

/// `chomctl notification`.
#[derive(Debug, Subcommand)]
pub(crate) enum NotificationCommand {
    /// Lists notifications, a line for each recipient
    List {
        #[command(flatten)]
        list: ListOptions,
    },
}

/// Runs `chomctl notification`.
pub(crate) fn run(session: &Session, command: NotificationCommand) -> Result<(), Failure> {
    let NotificationCommand::List { list } = command;
    let notifications: Vec<NotificationView> = session.client()?.list("/api/notifications", list.limit)?;
    session.screen.show(&notifications, |view| table(&notifications, view))
}

const fn state(state: DeliveryState) -> (&'static str, Tone) {
    match state {
        DeliveryState::Waiting => ("waiting", Tone::Warn),
        DeliveryState::Delivered => ("delivered", Tone::Good),
        DeliveryState::GivenUp => ("given up", Tone::Bad),
    }
}

fn table(notifications: &[NotificationView], view: &View) -> String {
    let narrow = ["WRITTEN", "RECIPIENT", "STATE", "TRIES", "NEXT TRY", "LAST ANSWER"];
    let wide =
        ["WRITTEN", "RECIPIENT", "STATE", "TRIES", "NEXT TRY", "LAST ANSWER", "ALERTS", "ID", "MESSAGE ID"];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for notification in notifications {
        for delivery in &notification.deliveries {
            let (word, tone) = state(delivery.state);
            let next = delivery.next_attempt_at.as_ref();
            let mut row = vec![
                Cell::from(format!("{} ago", age(&notification.created_at, view.now))),
                Cell::from(&delivery.recipient),
                Cell::new(word, tone),
                Cell::from(delivery.attempts),
                Cell::from(next.map_or_else(|| "-".to_owned(), |at| format!("in {}", until(at, view.now)))),
                Cell::from(delivery.last_answer.as_deref().unwrap_or("-")),
            ];
            if view.wide {
                row.push(Cell::from(notification.alerts.len()));
                row.push(Cell::from(notification.id));
                row.push(Cell::from(&notification.message_id));
            }
            table.row(row);
        }
    }
    table.render(view, "no notifications")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn each_recipient_has_a_line_of_its_own() {
        let notification: NotificationView = serde_json::from_value(json!({
            "id": "0190f6d2-8f3e-7cc0-9d4c-0000000000b1", "message_id": "<1@chom>", "alerts": [],
            "created_at": "2026-11-23T11:59:00Z",
            "deliveries": [
                {"recipient": "a@example", "state": "delivered", "attempts": 1, "last_answer": "250 ok",
                 "next_attempt_at": null},
                {"recipient": "b@example", "state": "waiting", "attempts": 2, "last_answer": "451 later",
                 "next_attempt_at": "2026-11-23T12:00:30Z"},
                {"recipient": "c@example", "state": "given_up", "attempts": 1, "last_answer": null,
                 "next_attempt_at": null},
            ]
        }))
        .unwrap();
        expect![[r#"
            WRITTEN    RECIPIENT  STATE      TRIES  NEXT TRY  LAST ANSWER
            1m00s ago  a@example  delivered  1      -         250 ok
            1m00s ago  b@example  waiting    2      in 30s    451 later
            1m00s ago  c@example  given up   1      -         -
        "#]]
        .assert_eq(&table(&[notification], &test_view(false)));
    }
}
