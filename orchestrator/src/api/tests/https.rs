//! The listener itself: TLS, shutdown.

use std::time::Duration;

use chom_supervise::Supervisor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::api::{InUse, serve};

const PATIENCE: Duration = Duration::from_secs(20);

struct Served {
    api: Api,
    tasks: Supervisor,
    address: std::net::SocketAddr,
    certificate: watch::Sender<Arc<InUse>>,
    connector: TlsConnector,
}

async fn served() -> Served {
    let api = Api::new().await;
    let authorities = api.world.fleet.authorities();
    let certificate = authorities.signing().sign_server(&["localhost".to_owned()], clock::now()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authorities.signing().certificate_der().to_vec().into()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Supervisor::new();
    let (router, inner) = (api.router.clone(), tasks.clone());
    let (certificate, in_use) = watch::channel(Arc::new(InUse::new(&certificate).unwrap()));
    tasks.service("api", async move { serve(router, listener, in_use, &inner).await.unwrap() });
    Served { api, tasks, address, certificate, connector: TlsConnector::from(Arc::new(config)) }
}

impl Served {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    }

    fn request(&self, path: &str, more: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{more}\r\n",
            self.api.token
        )
    }
}

async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    // A peer that cuts without a TLS close is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .expect("the connection should end");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn the_api_answers_over_tls_by_the_fleets_own_ca() {
    let served = served().await;
    let mut stream = served.connect().await;
    let request = served.request("/api/sizes", "Connection: close\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
    assert!(answer.contains("\"name\":\"small\""), "{answer}");
    served.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_open_event_streams_and_takes_no_new_ones() {
    let served = served().await;
    let mut idle = served.connect().await;
    let mut stream = served.connect().await;
    stream.write_all(served.request("/api/events", "").as_bytes()).await.unwrap();
    let mut begun = [0; 15];
    stream.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");
    served.api.stop.stop().cancel();
    served.tasks.shutdown(PATIENCE).await.unwrap();
    read_to_end(&mut stream).await;
    read_to_end(&mut idle).await;
    assert!(TcpStream::connect(served.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_disturbs_nobody() {
    let served = served().await;
    let mut plain = TcpStream::connect(served.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut text)).await.expect("it is sent away");
    let mut stream = served.connect().await;
    stream.write_all(served.request("/healthz", "Connection: close\r\n").as_bytes()).await.unwrap();
    assert!(read_to_end(&mut stream).await.ends_with("ok\n"));
    served.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_though_the_client_sends_all_of_it_first() {
    let served = served().await;
    let mut stream = served.connect().await;
    let length = chom_protocol::api::BODY_BYTES_MAX * 2;
    let head = format!(
        "POST /api/hosts HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
        served.api.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; length]).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    served.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_answer_of_many_pieces_arrives_whole_with_its_length() {
    let served = served().await;
    let mut stream = served.connect().await;
    let request = served.request("/api/openapi.json", "Connection: close\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.len() > 64 * 1024, "{}", body.len());
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    serde_json::from_str::<Value>(body).unwrap();
    served.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_open_ones_go_on() {
    let served = served().await;
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut open = served.connect().await;
    let authorities = served.api.world.fleet.authorities();
    let next = authorities.signing().sign_server(&["localhost".to_owned()], clock::now()).unwrap();
    served.certificate.send_replace(Arc::new(InUse::new(&next).unwrap()));
    assert_ne!(shown(&served.connect().await), shown(&open));
    let request = served.request("/api/sizes", "Connection: close\r\n");
    open.write_all(request.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut open).await.starts_with("HTTP/1.1 200"));
    served.tasks.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_as_a_request_is_answered_like_any_other_error() {
    let served = served().await;
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    let after_a_good_one = format!("{}BROKEN\r\n\r\n", served.request("/healthz", ""));
    let table = [
        ("nonsense\r\n\r\n", 400, "/problems/malformed"),
        (after_a_good_one.as_str(), 400, "/problems/malformed"),
        (long.as_str(), 431, "/problems/other"),
    ];
    for (request, status, kind) in table {
        let mut stream = served.connect().await;
        // Who is refused early may be cut off while it still sends.
        let _ = stream.write_all(request.as_bytes()).await;
        let answers = read_to_end(&mut stream).await;
        let begin = answers.rfind("HTTP/1.1 ").unwrap_or_else(|| panic!("no answer to {request:.40}"));
        let (head, body) = answers[begin..].split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answers}");
        for (name, value) in SECURITY_HEADERS {
            assert!(head.contains(&format!("{name}: {value}")), "{answers}");
        }
        assert!(head.contains("content-type: application/problem+json"), "{answers}");
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.status, problem.kind.as_str()), (status, kind));
    }
    served.tasks.shutdown(PATIENCE).await.unwrap();
}
