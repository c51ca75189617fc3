//! Fetching from a server that does what each test wants of it, over real sockets.

use std::sync::Mutex;

use chom_certs::{Authority, https_server_config};
use chom_protocol::vps::{ImageFormat, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock;
use crate::dial::{Stream, tls_trusting};
use crate::images::ImageFolder;

const WHOLE: &[u8] = b"0123456789";
/// Everything is here, and nothing takes long.
const SHORT: Limits = Limits {
    connect: Duration::from_secs(5),
    answer: Duration::from_millis(300),
    silence: Duration::from_millis(300),
    pace: Duration::from_millis(600),
    pace_bytes: 100,
    pause: Duration::from_millis(1),
    size_max: 1000,
};

/// What the server does with a request.
type Answer = Vec<Piece>;

enum Piece {
    Send(Vec<u8>),
    /// A byte again and again, for as long as somebody listens.
    Drip,
    /// Nothing, for as long as somebody listens.
    Silence,
}

fn send(text: &str) -> Answer {
    vec![Piece::Send(text.as_bytes().to_vec())]
}

fn whole() -> Answer {
    send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")
}

/// Breaks off after half of it.
fn half() -> Answer {
    send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234")
}

fn sent_on(to: &str) -> Answer {
    send(&format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"))
}

/// What came of a fetch: what was received, and the requests that it took.
struct Fetched {
    result: Result<Vec<u8>, FetchError>,
    requests: Vec<String>,
    _folder: TempDir,
}

impl Fetched {
    fn words(&self) -> String {
        match &self.result {
            Ok(bytes) => format!("{} bytes", bytes.len()),
            Err(error) => crate::chain(error),
        }
    }
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

/// Serves by a script: the answer to each request by its number.
async fn serve(tls: Option<TlsAcceptor>, script: impl Fn(usize) -> Answer + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (mut tasks, heard) = (JoinSet::new(), Arc::clone(&requests));
    let scheme = if tls.is_some() { "https" } else { "http" };
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream: Box<dyn Stream> = match &tls {
                None => Box::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => {
                        heard.lock().unwrap().push("no TLS".to_owned());
                        continue;
                    }
                },
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let number = {
                let mut heard = heard.lock().unwrap();
                heard.push(String::from_utf8(head).unwrap());
                heard.len()
            };
            for piece in script(number) {
                // Who is refused closes early.
                let _ = match piece {
                    Piece::Send(bytes) => stream.write_all(&bytes).await,
                    Piece::Drip => {
                        while stream.write_all(b"x").await.is_ok() {
                            sleep(Duration::from_millis(50)).await;
                        }
                        Ok(())
                    }
                    Piece::Silence => stream.read_u8().await.map(|_| ()),
                };
            }
            let _ = stream.shutdown().await;
        }
    });
    Server { url: format!("{scheme}://localhost:{port}/image.raw"), requests, _tasks: tasks }
}

fn client(networks: &[&str], roots: rustls::RootCertStore) -> Client {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    Client::new(tls_trusting(roots), networks, SHORT)
}

async fn fetch(client: &Client, server: Server) -> Fetched {
    let folder = tempfile::tempdir().unwrap();
    let images = ImageFolder::new(folder.path());
    images.take_rows(std::iter::empty()).unwrap();
    let mut incoming = images.receive().await.unwrap();
    let (told, _) = watch::channel(Progress::default());
    let fetched = client.fetch(&check_url(&server.url).unwrap(), &mut incoming, &told).await;
    let result = match fetched {
        Ok(()) => {
            let name = "image".parse().unwrap();
            let received = incoming.finish(&images, &name, ImageFormat::Raw, None).await.unwrap();
            let bytes =
                std::fs::read(folder.path().join("images").join(received.sha256.to_string())).unwrap();
            assert_eq!(received.sha256, Sha256::of(&bytes), "what was added up is what was written");
            Ok(bytes)
        }
        Err(error) => Err(error),
    };
    let requests = server.requests.lock().unwrap().clone();
    Fetched { result, requests, _folder: folder }
}

/// Fetches by HTTP from this machine.
async fn fetched(script: impl Fn(usize) -> Answer + Send + 'static) -> Fetched {
    let server = serve(None, script).await;
    fetch(&client(&["127.0.0.0/8", "::1/128"], rustls::RootCertStore::empty()), server).await
}

fn range(request: &str) -> Option<&str> {
    request.lines().find_map(|line| line.strip_prefix("range: "))
}

#[tokio::test]
async fn all_of_it_comes_by_length_or_in_chunks_and_through_redirects() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n";
    for (name, fetched) in [
        ("length", fetched(|_| whole()).await),
        ("chunks", fetched(move |_| send(chunked)).await),
        ("redirect", fetched(|n| if n == 1 { sent_on("../elsewhere?a=b") } else { whole() }).await),
    ] {
        assert_eq!(fetched.result.as_deref().unwrap(), WHOLE, "{name}");
        let first = &fetched.requests[0];
        assert!(first.starts_with("GET /image.raw HTTP/1.1\r\n"), "{first}");
        assert!(
            first.contains("\r\nhost: localhost:") && first.contains("accept-encoding: identity"),
            "{first}"
        );
        assert!(fetched.requests.get(1).is_none_or(|second| second.starts_with("GET /elsewhere?a=b ")));
    }
}

#[tokio::test]
async fn what_broke_off_is_gone_on_with_where_the_server_can_and_begun_anew_where_not() {
    let rest =
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n56789";
    let other =
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/10\r\nContent-Length: 5\r\n\r\n01234";
    let not_satisfiable = "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n";
    for (name, fetched, ranges) in [
        ("part", fetched(move |n| if n == 1 { half() } else { send(rest) }).await, 1),
        ("no parts", fetched(|n| if n == 1 { half() } else { whole() }).await, 1),
        (
            "another part",
            fetched(move |n| match n {
                1 => half(),
                2 => send(other),
                _ => whole(),
            })
            .await,
            1,
        ),
        (
            "no such part",
            fetched(move |n| match n {
                1 => half(),
                2 => send(not_satisfiable),
                _ => whole(),
            })
            .await,
            1,
        ),
        ("busy", fetched(|n| if n < 4 { send("HTTP/1.1 503 Busy\r\n\r\n") } else { whole() }).await, 0),
    ] {
        assert_eq!(fetched.result.as_deref().unwrap(), WHOLE, "{name}: {}", fetched.words());
        let asked: Vec<&str> = fetched.requests.iter().filter_map(|request| range(request)).collect();
        assert_eq!(asked, vec!["bytes=5-"; ranges], "{name}");
    }
}

#[tokio::test]
async fn what_cannot_be_had_ends_with_the_reason_at_once_or_after_five_fruitless_attempts() {
    let many = |head: &'static str| move |_: usize| send(head);
    let large = "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n";
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n{0}\r\n3e8\r\n{0}\r\n",
        "x".repeat(1000)
    );
    let silent =
        || vec![Piece::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec()), Piece::Silence];
    let slow = || vec![Piece::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n".to_vec()), Piece::Drip];
    for (fetched, says, requests) in [
        (fetched(many("HTTP/1.1 404 Not Found\r\n\r\n")).await, "status 404 Not Found; check the URL", 1),
        (fetched(many("HTTP/1.1 403 Forbidden\r\n\r\n")).await, "status 403", 1),
        (fetched(many(large)).await, "more than 1000 B", 1),
        (fetched(move |_| send(&endless)).await, "more than 1000 B", 1),
        (
            fetched(many("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx")).await,
            "packed as `gzip`",
            1,
        ),
        (fetched(|_| sent_on("/again")).await, "sent on more than 5 times", 6),
        (fetched(|_| sent_on("file:///etc/passwd")).await, "`file:`", 1),
        (
            fetched(|_| sent_on("http://169.254.169.254/latest")).await,
            "169.254.169.254 is no public address",
            1,
        ),
        (fetched(many("HTTP/1.1 302 Found\r\n\r\n")).await, "does not say where", 1),
        (fetched(many("HTTP/1.1 500 Trouble\r\n\r\n")).await, "status 500", 5),
        (fetched(many("what is this?\r\n\r\n")).await, "broke off", 5),
        (fetched(|_| vec![Piece::Silence]).await, "nothing came from `localhost`", 5),
        (fetched(move |_| silent()).await, "nothing came from `localhost`", 5),
    ] {
        assert!(fetched.words().contains(says), "{}", fetched.words());
        assert_eq!(fetched.requests.len(), requests, "{}", fetched.words());
    }
    // What drips brings something each time, and is too slow all the same: each attempt goes on from where it was.
    let fetched = fetched(move |n| if n == 1 { slow() } else { send("HTTP/1.1 404 Gone\r\n\r\n") }).await;
    assert_eq!(fetched.requests.len(), 2, "{}", fetched.words());
    assert!(range(&fetched.requests[1]).is_some());
}

#[tokio::test]
async fn only_who_is_trusted_and_may_be_spoken_to_is_fetched_from() {
    let authority = Authority::create(&"test".parse().unwrap(), clock::now()).unwrap();
    let certificate = authority.sign_server(&["localhost".to_owned()], clock::now()).unwrap();
    let acceptor = || Some(TlsAcceptor::from(Arc::new(https_server_config(&certificate).unwrap())));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate_der().to_vec().into()).unwrap();
    let here = ["127.0.0.0/8", "::1/128"];

    let trusted = fetch(&client(&here, roots.clone()), serve(acceptor(), |_| whole()).await).await;
    assert_eq!(trusted.result.as_deref().unwrap(), WHOLE);
    let nobody = client(&here, rustls::RootCertStore::empty());
    let unknown = fetch(&nobody, serve(acceptor(), |_| whole()).await).await;
    assert!(unknown.words().contains("by a CA that this system trusts"), "{}", unknown.words());
    assert!(unknown.requests.len() <= 1, "not tried again: {:?}", unknown.requests);
    let forbidden = fetch(&client(&[], roots), serve(acceptor(), |_| whole()).await).await;
    assert!(forbidden.words().contains("image_fetch_networks"), "{}", forbidden.words());
    assert!(forbidden.requests.is_empty(), "it is not even connected to");
}
