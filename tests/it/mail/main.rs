//! Mail against a real server that misbehaves: every fault a mail server has, one recipient at a time.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod outbox;

use std::sync::Arc;
use std::time::Duration;

use chom_certs::Authority;
use chom_orchestrator::notify::mail::{Limits, Mail, Mailer, Phase, SendError, Server};
use chom_protocol::UnixMillis;
use chom_protocol::api::smtp::SmtpSecurity;
use chom_tests::smtp::{Break, Fault, Login, Options, Protection, SmtpServer, Step};
use chom_tests::wait::now;
use rustls::ServerConfig;

/// Short, so that a stalled server is a short test; nothing here asserts how short.
const LIMITS: Limits = Limits { phase: Duration::from_millis(500), total: Duration::from_secs(5) };

/// A CA, and a server's TLS for `names` by it.
fn tls(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let authority = Authority::create(&"mail".parse().unwrap(), now()).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = authority.sign_server(&names, now()).unwrap();
    let config = chom_certs::tls::https_server_config(&certificate).unwrap();
    (authority.certificate_pem(), Arc::new(config))
}

fn client(server: &SmtpServer) -> Server {
    Server {
        host: "127.0.0.1".to_owned(),
        port: server.address().port(),
        security: SmtpSecurity::None,
        credentials: None,
        ca_pem: None,
        hello: Some("chom.example.com".to_owned()),
        limits: LIMITS,
    }
}

fn mail(to: &str) -> Mail {
    Mail {
        from: "CHOM <chom@example.com>".to_owned(),
        to: to.to_owned(),
        message_id: "<1@example.com>".to_owned(),
        thread: None,
        date: UnixMillis(1_700_000_000_000),
        subject: "[FIRING:1] HostUnreachable us-east".to_owned(),
        body: "host h1 is gone\n.\n..two dots\nünïcode\n".to_owned(),
    }
}

async fn send(client: Server, to: &str) -> Result<String, SendError> {
    Mailer::new(client)?.send(&mail(to)).await
}

fn words(outcome: Result<String, SendError>) -> String {
    outcome.map_or_else(|error| error.to_string(), |answer| panic!("it was taken: {answer}"))
}

#[tokio::test]
async fn a_mail_arrives_whole_in_one_transaction() {
    let server = SmtpServer::start(Options::default());
    let answer = send(client(&server), "a@example.com").await.unwrap();
    assert_eq!(answer, "250 2.0.0 taken");
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    assert_eq!(
        (mails[0].from.as_str(), mails[0].to.as_slice()),
        ("chom@example.com", &["a@example.com".to_owned()][..])
    );
    assert_eq!(mails[0].hello, "chom.example.com");
    assert_eq!(mails[0].header("Message-ID").as_deref(), Some("<1@example.com>"));
    assert_eq!(mails[0].header("Subject").as_deref(), Some("[FIRING:1] HostUnreachable us-east"));
    assert!(mails[0].text.contains("\n.\n") && mails[0].text.contains("\n..two dots"), "{}", mails[0].text);
    assert!(mails[0].header("Content-Type").unwrap().contains("utf-8"));
}

#[tokio::test]
async fn starttls_and_implicit_tls_with_a_ca_of_its_own_and_both_logins() {
    let (ca, config) = tls(&["127.0.0.1"]);
    for (protection, security) in [
        (Protection::Starttls(Arc::clone(&config)), SmtpSecurity::Starttls),
        (Protection::Tls(Arc::clone(&config)), SmtpSecurity::Tls),
    ] {
        for (mechanisms, prompts) in
            [("PLAIN LOGIN", ("", "")), ("LOGIN", ("VXNlcm5hbWU6 your name, please", "what's the word?"))]
        {
            let mut login = Login::new("chom", "hunter2", mechanisms);
            login.prompts = (prompts.0.to_owned(), prompts.1.to_owned());
            let server = SmtpServer::start(Options {
                protection: protection.clone(),
                login: Some(login),
                ..Options::default()
            });
            let credentials = Some(("chom".to_owned(), "hunter2".to_owned()));
            let client = Server { security, credentials, ca_pem: Some(ca.clone()), ..client(&server) };
            send(client, "a@example.com").await.unwrap();
            let mails = server.mails();
            assert!(mails[0].tls && mails[0].user.as_deref() == Some("chom"), "{security:?} {mechanisms}");
        }
    }
}

#[tokio::test]
async fn a_wrong_setting_is_told_with_the_setting_to_change() {
    let (ca, config) = tls(&["127.0.0.1"]);
    let (_, other_name) = tls(&["mail.example.com"]);
    let implicit =
        SmtpServer::start(Options { protection: Protection::Tls(Arc::clone(&config)), ..Options::default() });
    let starttls =
        SmtpServer::start(Options { protection: Protection::Starttls(config), ..Options::default() });
    let plain = SmtpServer::start(Options::default());

    let said = words(send(Server { security: SmtpSecurity::Starttls, ..client(&implicit) }, "a@x.org").await);
    assert!(said.contains("set `security` to `tls`"), "STARTTLS to a TLS port: {said}");
    let said = words(send(Server { security: SmtpSecurity::Tls, ..client(&starttls) }, "a@x.org").await);
    assert!(said.contains("set `security` to `starttls`"), "TLS to a STARTTLS port: {said}");
    let said = words(send(Server { security: SmtpSecurity::Starttls, ..client(&plain) }, "a@x.org").await);
    assert!(said.contains("offers no STARTTLS; nothing was sent"), "it fails closed: {said}");
    for security in [SmtpSecurity::Starttls, SmtpSecurity::Tls] {
        let server = if security == SmtpSecurity::Tls { &implicit } else { &starttls };
        let said = words(send(Server { security, ..client(server) }, "a@x.org").await);
        assert!(said.contains("give its CA as `ca_pem`"), "an unknown CA, {security:?}: {said}");
    }
    let (other_ca, _) = tls(&["x"]);
    let wrong = Server { security: SmtpSecurity::Tls, ca_pem: Some(other_ca), ..client(&implicit) };
    let said = words(send(wrong, "a@x.org").await);
    assert!(said.contains("not signed by the CA in `ca_pem`"), "{said}");
    let named = SmtpServer::start(Options { protection: Protection::Tls(other_name), ..Options::default() });
    let said = words(send(Server { security: SmtpSecurity::Tls, ..client(&named) }, "a@x.org").await);
    assert!(said.contains("`ca_pem`") || said.contains("not for `127.0.0.1`"), "{said}");
    let clear = words(send(Server { ca_pem: Some(ca), ..client(&starttls) }, "a@x.org").await);
    assert!(clear.contains("530"), "{clear}");
    assert!(implicit.mails().is_empty() && starttls.mails().is_empty() && plain.mails().is_empty());
}

#[tokio::test]
async fn a_refused_login_is_told_and_tried_again() {
    let login = Some(Login::new("chom", "right", "PLAIN"));
    let server = SmtpServer::start(Options { login, ..Options::default() });
    let wrong = Server { credentials: Some(("chom".into(), "wrong".into())), ..client(&server) };
    let error = send(wrong, "a@example.com").await.unwrap_err();
    assert!(!error.is_permanent(), "an admin can mend it");
    let said = error.to_string();
    assert!(said.contains("535 5.7.8 authentication failed") && said.contains("check `username`"), "{said}");
    assert!(!said.contains("wrong"), "the password is not shown: {said}");
    let said = words(send(client(&server), "a@example.com").await);
    assert!(said.contains("set `username` and `password`"), "{said}");
    let odd =
        SmtpServer::start(Options { login: Some(Login::new("a", "b", "CRAM-MD5")), ..Options::default() });
    let said =
        words(send(Server { credentials: Some(("a".into(), "b".into())), ..client(&odd) }, "a@x.org").await);
    assert!(said.contains("offers no login that we know"), "{said}");
}

#[tokio::test]
async fn a_fault_at_any_step_ends_in_time_and_says_where() {
    let steps = [
        (Step::Greeting, Phase::Greeting),
        (Step::Hello, Phase::Greeting),
        (Step::Sender, Phase::Sender),
        (Step::Recipient, Phase::Recipient),
        (Step::Data, Phase::Data),
        (Step::Content, Phase::Content),
    ];
    for (step, phase) in steps {
        let permanent_here = !matches!(step, Step::Greeting | Step::Hello);
        for (how, permanent) in [
            (Break::Stall, false),
            (Break::HangUp, false),
            (Break::Answer("421 4.3.2 going down".to_owned()), false),
            (Break::Answer("451 4.3.0 later".to_owned()), false),
            (Break::Answer("554 5.7.1 never".to_owned()), permanent_here),
        ] {
            let faults = vec![Fault::always(step, how.clone())];
            let server = SmtpServer::start(Options { faults, ..Options::default() });
            let error = send(client(&server), "a@example.com").await.unwrap_err();
            assert_eq!(error.is_permanent(), permanent, "{step:?} {how:?}: {error}");
            match (&how, &error) {
                (Break::Stall, SendError::Late { phase: found, .. })
                | (Break::HangUp, SendError::Broken { phase: found, .. }) => assert_eq!(*found, phase),
                (Break::Answer(said), SendError::Refused { phase: found, answer, .. }) => {
                    assert_eq!((*found, answer), (phase, said), "the server's own words");
                }
                _ => panic!("{step:?} {how:?}: {error:?}"),
            }
            assert!(server.mails().is_empty());
        }
    }
}

#[tokio::test]
async fn one_bad_recipient_is_nobody_elses_matter() {
    let refused = Fault::always(Step::Recipient, Break::Answer("550 5.1.1 no such user".to_owned()));
    let stalled = Fault::always(Step::Recipient, Break::Stall);
    let faults = vec![refused.only("bad@example.com"), stalled.only("slow@example.com")];
    let server = SmtpServer::start(Options { faults, ..Options::default() });
    let mailer = Mailer::new(client(&server)).unwrap();
    let [bad, slow, good] = ["bad@example.com", "slow@example.com", "good@example.com"].map(mail);
    let (bad, slow, good) = tokio::join!(mailer.send(&bad), mailer.send(&slow), mailer.send(&good));
    assert!(bad.unwrap_err().is_permanent());
    assert!(!slow.unwrap_err().is_permanent());
    assert!(good.is_ok());
    assert_eq!(server.stop().len(), 1);
}

#[tokio::test]
async fn a_greylisting_server_takes_the_second_try_with_the_same_message_id() {
    let server = SmtpServer::start(Options { greylist: true, ..Options::default() });
    let error = send(client(&server), "a@example.com").await.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains("451 4.7.1"), "{error}");
    send(client(&server), "a@example.com").await.unwrap();
    assert_eq!(server.mails()[0].header("Message-ID").as_deref(), Some("<1@example.com>"));
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_and_found_again_when_it_is_back() {
    let server = SmtpServer::start(Options::default());
    let (address, client) = (server.address(), client(&server));
    drop(server);
    let error = send(client.clone(), "a@example.com").await.unwrap_err();
    assert!(matches!(error, SendError::Broken { phase: Phase::Connect, .. }), "{error}");
    let server = SmtpServer::start_on(address, Options::default()).unwrap();
    send(client, "a@example.com").await.unwrap();
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn when_the_answer_is_lost_the_second_copy_has_the_same_message_id() {
    let faults = vec![Fault::always(Step::Content, Break::TakeAndHangUp).times(1)];
    let server = SmtpServer::start(Options { faults, ..Options::default() });
    assert!(!send(client(&server), "a@example.com").await.unwrap_err().is_permanent());
    send(client(&server), "a@example.com").await.unwrap();
    let ids: Vec<_> = server.mails().iter().map(|mail| mail.header("Message-ID")).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "so that readers' programs can tell");
}
