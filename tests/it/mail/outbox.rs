//! The outbox of the real orchestrator, with a real mail server: nobody waits for another's trouble, and a kill between an
//! alert and its mail loses nothing.

use std::fs;
use std::time::Duration;

use chom_protocol::api::alerts::{AlertView, DeliveryState, DeliveryView, NotificationView};
use chom_protocol::api::smtp::{ConfigureSmtp, SmtpSecurity, SmtpTested, SmtpView, TestSmtp};
use chom_tests::orchestrator::{Options as Setup, Orchestrator};
use chom_tests::smtp::{Break, Fault, Options, SmtpServer, Step};
use chom_tests::wait::{holds_for, wait_for};

/// A stalled transaction holds its recipient for half a minute, and is tried again soon after.
const DEADLINE: Duration = Duration::from_secs(120);

/// An orchestrator that finds its own certificates too old at once: two alerts, one mail, and no host needed.
fn orchestrator() -> Orchestrator {
    let orchestrator = Orchestrator::set_up(Setup::default());
    let config = fs::read_to_string(orchestrator.config()).unwrap();
    let config = config.replace("[alerts]\n", "[alerts]\ncertificate_days = 100000\n");
    fs::write(orchestrator.config(), config).unwrap();
    orchestrator
}

fn configure(orchestrator: &Orchestrator, port: u16, to: &[&str]) {
    let request = ConfigureSmtp {
        host: "127.0.0.1".to_owned(),
        port: Some(port),
        security: SmtpSecurity::None,
        username: None,
        password: None,
        from: "chom@example.com".to_owned(),
        to: to.iter().map(|to| (*to).to_owned()).collect(),
        ca_pem: None,
        hello: None,
    };
    let view: SmtpView =
        orchestrator.api().post("/api/alertmanager/smtp/configure", &request).expect("it is configured");
    let shown: SmtpView = orchestrator.api().get("/api/alertmanager/smtp/config").expect("it is shown");
    assert_eq!(view, shown);
}

fn notifications(orchestrator: &Orchestrator) -> Vec<NotificationView> {
    orchestrator.api().list("/api/notifications").expect("notifications are listed")
}

/// Waits until a recipient's delivery is as wanted.
fn delivery(orchestrator: &Orchestrator, to: &str, wanted: impl Fn(&DeliveryView) -> bool) -> DeliveryView {
    wait_for(&format!("the delivery to {to}"), DEADLINE, || {
        let all = notifications(orchestrator);
        let found = all.iter().flat_map(|one| &one.deliveries).find(|one| one.recipient == to);
        found.filter(|one| wanted(one)).cloned().ok_or_else(|| format!("{all:?}"))
    })
}

#[test]
fn recipients_that_are_refused_or_stalled_are_nobody_elses_matter() {
    let refused = Fault::always(Step::Recipient, Break::Answer("550 5.1.1 no such user".to_owned()));
    let stalled = Fault::always(Step::Recipient, Break::Stall);
    let busy = Fault::always(Step::Greeting, Break::Answer("421 4.3.2 going down".to_owned())).times(2);
    let faults = vec![refused.only("bad@example.com"), stalled.only("slow@example.com"), busy];
    let server = SmtpServer::start(Options { faults, ..Options::default() });
    let mut orchestrator = orchestrator();
    orchestrator.run();
    let to = ["bad@example.com", "slow@example.com", "good@example.com", "fine@example.com"];
    configure(&orchestrator, server.address().port(), &to);

    let delivered = |one: &DeliveryView| one.state == DeliveryState::Delivered;
    for good in ["good@example.com", "fine@example.com"] {
        delivery(&orchestrator, good, delivered);
    }
    let bad = delivery(&orchestrator, "bad@example.com", |one| one.state == DeliveryState::GivenUp);
    assert!(bad.last_answer.as_ref().is_some_and(|said| said.contains("550 5.1.1 no such user")), "{bad:?}");
    let slow = delivery(&orchestrator, "slow@example.com", |_| true);
    assert_eq!(slow.state, DeliveryState::Waiting);

    server.set_faults(Vec::new());
    delivery(&orchestrator, "slow@example.com", delivered);
    let all = notifications(&orchestrator);
    assert_eq!(all.len(), 1, "one mail for one cause");
    for to in ["slow@example.com", "good@example.com", "fine@example.com"] {
        let mails = server.mails_to(to);
        assert_eq!(mails.len(), 1, "{to} gets exactly one");
        assert_eq!(mails[0].to, [to], "in a transaction of its own");
        assert_eq!(mails[0].header("Message-ID").as_ref(), Some(&all[0].message_id));
        assert_eq!(mails[0].header("Subject").as_deref(), Some("[FIRING:2] CertificateExpiring"));
    }
    assert!(server.mails_to("bad@example.com").is_empty());
    let alerts: Vec<AlertView> = orchestrator.api().list("/api/alerts").expect("alerts are listed");
    assert!(alerts.len() == 2 && alerts.iter().all(|alert| alert.last_notified.is_some()), "{alerts:?}");
    orchestrator.stop();
}

#[test]
fn a_kill_between_an_alert_and_its_mail_loses_nothing() {
    let gone = SmtpServer::start(Options::default());
    let address = gone.address();
    drop(gone);
    let mut orchestrator = orchestrator();
    orchestrator.run();
    let to = ["a@example.com", "b@example.com", "c@example.com"];
    configure(&orchestrator, address.port(), &to);
    for to in to {
        let failed = delivery(&orchestrator, to, |one| one.attempts > 0);
        assert_eq!(failed.state, DeliveryState::Waiting, "{failed:?}");
    }
    let written = notifications(&orchestrator);
    orchestrator.kill_9();
    let server = SmtpServer::start_on(address, Options::default()).unwrap();
    orchestrator.run();
    for to in to {
        delivery(&orchestrator, to, |one| one.state == DeliveryState::Delivered);
    }
    holds_for("each has exactly one mail", Duration::from_secs(3), || {
        let counts = to.map(|to| server.mails_to(to).len());
        if counts == [1, 1, 1] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    let now = notifications(&orchestrator);
    assert_eq!((now.len(), &now[0].message_id), (1, &written[0].message_id), "the same mail, told once");
    orchestrator.stop();
}

#[test]
fn a_test_mail_says_for_each_recipient_how_it_went() {
    let refused = Fault::always(Step::Recipient, Break::Answer("550 5.1.1 no such user".to_owned()));
    let faults = vec![refused.only("bad@example.com")];
    let server = SmtpServer::start(Options { faults, ..Options::default() });
    let mut orchestrator = Orchestrator::start(Setup::default());
    configure(&orchestrator, server.address().port(), &["good@example.com", "bad@example.com"]);
    let request = TestSmtp::default();
    let tested: SmtpTested =
        orchestrator.api().post("/api/alertmanager/smtp/test", &request).expect("it is tried");
    let went: Vec<(&str, bool)> =
        tested.outcomes.iter().map(|one| (one.recipient.as_str(), one.delivered)).collect();
    assert_eq!(went, [("good@example.com", true), ("bad@example.com", false)]);
    assert!(!tested.delivered && tested.outcomes[1].answer.contains("550 5.1.1"), "{tested:?}");
    assert_eq!(server.mails().len(), 1);
    orchestrator.stop();
}
