//! What settings are refused, and where the error points.

use super::*;

fn settings() -> ConfigureSmtp {
    ConfigureSmtp {
        host: "mail.example.com".to_owned(),
        port: None,
        security: SmtpSecurity::Starttls,
        username: None,
        password: None,
        from: "chom@example.com".to_owned(),
        to: vec!["admin@example.com".to_owned()],
        ca_pem: None,
        hello: None,
    }
}

#[test]
fn a_wrong_setting_is_refused_with_its_place() {
    type Change = fn(&mut ConfigureSmtp);
    let cases: [(&str, Change); 14] = [
        ("/host", |s| s.host = String::new()),
        ("/host", |s| s.host = "mail example".to_owned()),
        ("/host", |s| s.host = "mail\r\n".to_owned()),
        ("/port", |s| s.port = Some(0)),
        ("/username", |s| s.password = Some("x".to_owned())),
        ("/username", |s| s.username = Some("a\nb".to_owned())),
        ("/from", |s| s.from = "nobody".to_owned()),
        ("/to", |s| s.to = Vec::new()),
        ("/to", |s| s.to.push("nobody".to_owned())),
        ("/to", |s| s.to.push("admin@example.com".to_owned())),
        ("/to", |s| s.to = (0..21).map(|n| format!("a{n}@example.com")).collect()),
        ("/ca_pem", |s| s.ca_pem = Some("no certificate".to_owned())),
        ("/hello", |s| s.hello = Some("a b".to_owned())),
        ("/security", |s| {
            (s.security, s.username, s.password) =
                (SmtpSecurity::None, Some("u".to_owned()), Some("p".to_owned()));
        }),
    ];
    assert!(check(&settings()).is_ok());
    for (location, change) in cases {
        let mut request = settings();
        change(&mut request);
        let error = check(&request).unwrap_err();
        assert_eq!(error.location(), Some(location), "{error}");
    }
}

#[test]
fn a_password_in_the_clear_stays_on_this_machine() {
    for host in ["localhost", "127.0.0.1", "::1"] {
        let clear = ConfigureSmtp {
            host: host.to_owned(),
            security: SmtpSecurity::None,
            username: Some("u".to_owned()),
            password: Some("p".to_owned()),
            ..settings()
        };
        assert!(check(&clear).is_ok(), "{host}");
    }
}
