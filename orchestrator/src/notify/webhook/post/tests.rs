//! What is sent over real sockets, and to whom nothing is.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::dial::tls_trusting;

fn poster(networks: &[&str]) -> Poster {
    let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
    Poster::new(tls_trusting(rustls::RootCertStore::empty()), Policy { networks })
}

fn letter(url: &str, of_tenant: bool) -> Letter {
    let (id, body) = ("msg".to_owned(), r#"{"a":1}"#.to_owned());
    Letter { url: url.to_owned(), of_tenant, id, secrets: vec![vec![7; 32]], body }
}

/// Takes one request and answers with this; gives what came.
#[expect(clippy::disallowed_methods, reason = "a server of the test")]
async fn server(answer: String) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut came = Vec::new();
        while !came.ends_with(br#"{"a":1}"#) {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "it broke off: {}", String::from_utf8_lossy(&came));
            came.extend_from_slice(&piece[..count]);
        }
        // Whoever has read enough goes away in the middle of it.
        let _ = stream.write_all(answer.as_bytes()).await;
        String::from_utf8(came).unwrap()
    });
    (url, task)
}

#[tokio::test]
async fn a_delivery_is_signed_over_what_arrives() {
    let (url, task) = server("HTTP/1.1 204 No Content\r\n\r\n".to_owned()).await;
    let outcome = poster(&[]).post(&letter(&url, false)).await;
    assert_eq!((outcome.verdict, outcome.attempt.status), (Verdict::Taken, Some(204)), "{outcome:?}");
    let came = task.await.unwrap();
    assert!(came.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{came}");
    let header = |name: &str| {
        let line =
            came.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {came}"));
        line.split_once(": ").unwrap().1.to_owned()
    };
    let seconds: u64 = header("webhook-timestamp").parse().unwrap();
    assert_eq!(header("webhook-id"), "msg");
    let expected = signature([[7; 32].as_slice()], "msg", seconds, r#"{"a":1}"#);
    assert_eq!(header("webhook-signature"), expected);
}

#[tokio::test]
async fn answers_mean_what_they_say_are_cut_short_and_lead_nowhere() {
    let long = "x".repeat(1_000_000);
    for (status, headers, body, verdict, says) in [
        ("200 OK", "", "fine", Verdict::Taken, "fine"),
        ("400 Bad Request", "", "what is this", Verdict::Refused, "what is this"),
        ("500 Internal Server Error", "", long.as_str(), Verdict::Refused, "xxx"),
        (
            "302 Found",
            "Location: http://127.0.0.1:1/\r\n",
            "",
            Verdict::Refused,
            "redirects are not followed",
        ),
        ("503 Service Unavailable", "Retry-After: 7\r\n", "", Verdict::Absent, ""),
    ] {
        let length = body.len();
        let (url, task) =
            server(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")).await;
        let outcome = poster(&[]).post(&letter(&url, false)).await;
        assert_eq!(outcome.verdict, verdict, "{status}: {outcome:?}");
        assert!(outcome.attempt.answer.contains(says), "{status}: {outcome:?}");
        assert!(outcome.attempt.answer.len() < 2 * ANSWER_BYTES_MAX, "{status}");
        assert_eq!(outcome.retry_after_seconds, (status.starts_with("503")).then_some(7));
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_tenants_webhook_reaches_no_private_address_by_any_way_of_writing_it() {
    let (url, task) = server(String::new()).await;
    let port = Url::parse(&url).unwrap().port().unwrap();
    for host in ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{port}/");
            let outcome = poster(&[]).post(&letter(&url, true)).await;
            assert_eq!(outcome.attempt.status, None, "{url}: {outcome:?}");
            let said = &outcome.attempt.answer;
            assert!(said.contains("webhooks.networks") || said.contains("`https://` only"), "{url}: {said}");
        }
    }
    // In the clear only within the networks that are opened.
    let outcome = poster(&["10.0.0.0/8"]).post(&letter("http://93.184.215.14/", true)).await;
    assert!(outcome.attempt.answer.contains("not spoken to in the clear"), "{outcome:?}");
    assert!(!task.is_finished(), "nobody came");
    task.abort();
}

#[test]
fn urls_that_cannot_be_are_refused_and_say_why() {
    let policy = Policy { networks: Vec::new() };
    for (url, of_tenant, says) in [
        ("file:///etc/passwd", false, "`file:`"),
        ("ftp://a/b", true, "`ftp:`"),
        ("/hook", false, "is no URL"),
        ("http://example.com/", true, "`https://` only"),
        ("https://me:secret@example.com/", false, "a user or password"),
        ("https://169.254.169.254/", true, "no public address"),
    ] {
        let said = policy.check(url, of_tenant).unwrap_err();
        assert!(said.contains(says) && !said.contains("secret"), "{url}: {said}");
    }
    for url in ["http://127.0.0.1:8080/hook", "https://example.com/", "http://hook.internal/"] {
        assert!(policy.check(url, false).is_ok(), "{url}");
    }
}
