//! A server for one test: answers what the test says, over plain HTTP or TLS, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A client that is silent for that long is not one of ours.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and path with query, such as `GET /api/hosts?limit=1`.
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
pub(crate) struct Answer {
    status: u16,
    kind: &'static str,
    more: String,
    body: String,
}

pub(crate) fn json(status: u16, value: &serde_json::Value) -> Answer {
    Answer { status, kind: "application/json", more: String::new(), body: value.to_string() }
}

pub(crate) fn problem(status: u16, title: &str, detail: &str, location: Option<&str>) -> Answer {
    let value = serde_json::json!({
        "type": "/problems/test", "title": title, "status": status, "detail": detail, "location": location
    });
    Answer { kind: "application/problem+json", ..json(status, &value) }
}

pub(crate) fn events(text: &str) -> Answer {
    Answer { status: 200, kind: "text/event-stream", more: String::new(), body: text.to_owned() }
}

pub(crate) fn redirect(to: &str) -> Answer {
    Answer { status: 307, kind: "text/plain", more: format!("Location: {to}\r\n"), body: String::new() }
}

/// A running server; it ends with the process.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Plain HTTP. The handler gets the request and how many came before it.
    pub(crate) fn start(handler: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Self {
        Self::serve("http", handler, |stream| Box::new(stream))
    }

    /// TLS with that configuration.
    pub(crate) fn start_tls(
        config: Arc<rustls::ServerConfig>,
        handler: impl Fn(&Request, usize) -> Answer + Send + 'static,
    ) -> Self {
        Self::serve("https", handler, move |stream| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            Box::new(rustls::StreamOwned::new(connection, stream))
        })
    }

    fn serve(
        scheme: &str,
        handler: impl Fn(&Request, usize) -> Answer + Send + 'static,
        wrap: impl Fn(TcpStream) -> Box<dyn ReadWrite> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let remembered = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
                let mut stream = wrap(stream);
                let Some(request) = read(&mut *stream) else { continue };
                let before = remembered.lock().unwrap().len();
                remembered.lock().unwrap().push(request.clone());
                answer(&mut *stream, &handler(&request, before));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }
}

pub(crate) trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// None when the client went away, as one does that trusts nobody here.
fn read(stream: &mut dyn ReadWrite) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut text = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&count| count > 0).map(|_| line.trim_end().to_owned())
    };
    let first = text()?;
    let line = first.trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let header = text()?;
        match header.split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut request = Request { line, headers, body: String::new() };
    let length: u64 = request.header("content-length").map_or(0, |text| text.parse().unwrap());
    reader.take(length).read_to_string(&mut request.body).ok()?;
    Some(request)
}

fn answer(stream: &mut dyn ReadWrite, answer: &Answer) {
    let Answer { status, kind, more, body } = answer;
    // A stream has no length: it ends when the connection does.
    let length = match *kind {
        "text/event-stream" => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n{length}{more}\r\n");
    // A client that has seen enough may be gone already.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    let _ = stream.flush();
}
