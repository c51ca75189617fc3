//! What needs no server: the mail's bytes, and what settings are refused. Servers and their faults are in the tests crate.

use expect_test::expect;

use super::*;

fn mail(subject: &str) -> Mail {
    Mail {
        from: "CHOM <chom@example.com>".to_owned(),
        to: "admin@example.com".to_owned(),
        message_id: "<1@example.com>".to_owned(),
        thread: Some("<0@example.com>".to_owned()),
        date: UnixMillis(1_700_000_000_000),
        subject: subject.to_owned(),
        body: "host h1 is gone\n.\nend\n".to_owned(),
    }
}

fn bytes(mail: &Mail) -> String {
    let content = content(mail, mailbox(&mail.from).unwrap(), mailbox(&mail.to).unwrap()).unwrap();
    String::from_utf8(content).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_mail_has_what_threads_it_and_stops_automatic_replies() {
    expect![[r#"
        From: CHOM <chom@example.com>
        To: admin@example.com
        Subject: [FIRING:1] HostUnreachable us-east
        Message-ID: <1@example.com>
        Date: Tue, 14 Nov 2023 22:13:20 +0000
        Auto-Submitted: auto-generated
        In-Reply-To: <0@example.com>
        References: <0@example.com>
        MIME-Version: 1.0
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 7bit

        host h1 is gone
        .
        end

    "#]]
    .assert_eq(&bytes(&mail("[FIRING:1] HostUnreachable us-east")));
}

#[test]
fn a_line_break_in_a_subject_makes_no_header() {
    let text = bytes(&mail("a\r\nBcc: evil@example.com"));
    assert!(!text.lines().any(|line| line.starts_with("Bcc")), "{text}");
}

#[test]
fn a_mailbox_is_checked() {
    for good in ["a@example.com", "Admins <a@example.com>", "a+b@example.com", "a@localhost"] {
        assert_eq!(check_mailbox(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "a",
        "a@",
        "@b",
        "a@b@c",
        "a b@example.com",
        "a@exa mple.com",
        "ä@example.com",
        "a@ä.example",
        "a@b\r\nX: y",
    ] {
        assert!(check_mailbox(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_password_is_not_printed() {
    let server = Server {
        host: "mail.example.com".to_owned(),
        port: 587,
        security: SmtpSecurity::Starttls,
        credentials: Some(("u".to_owned(), "hunter2".to_owned())),
        ca_pem: None,
        hello: None,
        limits: Limits::default(),
    };
    assert!(!format!("{server:?}").contains("hunter2"));
}
