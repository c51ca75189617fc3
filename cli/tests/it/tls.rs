//! Trust: exactly the CA that was given, and errors that say which one that was and what to do.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use chom_certs::authority::Authority;
use chom_protocol::UnixMillis;
use serde_json::json;

use crate::server::{Server, json as answer};
use crate::{Outcome, chomctl, outcome};

#[expect(clippy::disallowed_methods, reason = "certificates must be valid at the time of the run")]
fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(u64::try_from(since.as_millis()).unwrap())
}

struct Fleet {
    home: tempfile::TempDir,
    ca: PathBuf,
    server: Server,
}

/// An orchestrator with a CA of its own, whose certificate is for `name` and was made at `made`.
fn fleet(name: &str, made: UnixMillis) -> Fleet {
    let authority = Authority::create(&"test".parse().unwrap(), now()).unwrap();
    let certificate = authority.sign_server(&[name.to_owned()], made).unwrap();
    let config = chom_certs::tls::https_server_config(&certificate).unwrap();
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, authority.certificate_pem()).unwrap();
    let server = Server::start_tls(Arc::new(config), |_, _| answer(200, &json!({"items": []})));
    Fleet { home, ca, server }
}

fn list(fleet: &Fleet, ca: Option<&PathBuf>) -> Outcome {
    let mut command = chomctl(fleet.home.path(), &["host", "list"]);
    command.env("CHOM_SERVER", &fleet.server.url).env("CHOM_TOKEN", "secret-token");
    if let Some(ca) = ca {
        command.env("CHOM_CA_FILE", ca);
    }
    outcome(command)
}

/// The run failed, and said nothing to the server.
fn refused(fleet: &Fleet, outcome: &Outcome, texts: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{}", outcome.stdout);
    for text in texts {
        assert!(outcome.stderr.contains(text), "`{text}` is missing in: {}", outcome.stderr);
    }
    assert!(outcome.stderr.contains(&fleet.server.url), "{}", outcome.stderr);
    assert!(fleet.server.requests().is_empty(), "the token left");
}

#[test]
fn the_ca_of_the_context_is_trusted() {
    let fleet = fleet("127.0.0.1", now());
    let ca = fleet.ca.to_str().unwrap();
    let token = fleet.home.path().join("token");
    std::fs::write(&token, "abc").unwrap();
    let arguments = ["context", "add", "own", "--server", &fleet.server.url, "--ca-file", ca, "--token-file"];
    let added = outcome(chomctl(fleet.home.path(), &[&arguments[..], &[token.to_str().unwrap()]].concat()));
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    // The context has copies of its own.
    std::fs::remove_file(&fleet.ca).unwrap();
    std::fs::remove_file(&token).unwrap();
    let listed = outcome(chomctl(fleet.home.path(), &["host", "list"]));
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert_eq!(fleet.server.requests()[0].header("authorization"), Some("Bearer abc"));
}

#[test]
fn another_fleets_ca_is_not_trusted() {
    let (fleet, other) = (fleet("127.0.0.1", now()), self::fleet("127.0.0.1", now()));
    let outcome = list(&fleet, Some(&other.ca));
    refused(
        &fleet,
        &outcome,
        &["unknown CA", other.ca.to_str().unwrap(), "add the context again with --ca-file"],
    );
}

#[test]
fn without_a_ca_the_system_s_roots_do_not_know_the_fleets() {
    let fleet = fleet("127.0.0.1", now());
    // Another CA for the system's, so that the test does not depend on what this machine trusts.
    let other = self::fleet("127.0.0.1", now());
    let mut command = chomctl(fleet.home.path(), &["host", "list"]);
    command.env("CHOM_SERVER", &fleet.server.url).env("CHOM_TOKEN", "t").env("SSL_CERT_FILE", &other.ca);
    refused(&fleet, &outcome(command), &["the system's CAs", "copy its CA certificate here", "--ca-file"]);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let fleet = fleet("chom.example", now());
    let outcome = list(&fleet, Some(&fleet.ca));
    refused(&fleet, &outcome, &["chom.example", "use a name or address that the server's certificate has"]);
}

#[test]
fn an_expired_certificate_is_refused() {
    let fleet = fleet("127.0.0.1", UnixMillis(1_000_000_000_000));
    let outcome = list(&fleet, Some(&fleet.ca));
    refused(&fleet, &outcome, &["check the clock of this machine"]);
}

#[test]
fn a_port_that_does_not_speak_tls_is_said_to_be_one() {
    let fleet = fleet("127.0.0.1", now());
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", plain.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let mut stream = stream.unwrap();
            // A client may be gone before it has read everything.
            let _ = stream
                .read(&mut [0; 4096])
                .and_then(|_| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let mut command = chomctl(fleet.home.path(), &["host", "list"]);
    command.env("CHOM_SERVER", &url).env("CHOM_TOKEN", "t").env("CHOM_CA_FILE", &fleet.ca);
    let outcome = outcome(command);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains(&format!("cannot trust {url}: it does not speak TLS")),
        "{}",
        outcome.stderr
    );
}
