//! A receiver of webhooks that does what each test wants of it: is there or not, refuses, takes and says nothing. It verifies
//! what it gets as a library of Standard Webhooks would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use data_encoding::BASE64;
use ring::hmac;
use serde_json::Value;

/// Whoever says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);

/// Something that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// `webhook-id`.
    pub id: String,
    /// The body.
    pub body: Value,
}

/// What it does with what arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Takes it.
    Take,
    /// Answers with this status.
    Refuse(u16),
    /// Takes it and hangs up without a word.
    TakeAndHangUp,
}

type Behaviour = dyn Fn(&Arrived) -> Answer + Send + Sync;

/// A receiver that is there. Gone when dropped; its address can be taken again.
pub struct Receiver {
    address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An address that nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Receiver {
    /// Listens there. `secret` is what the webhook's making printed.
    ///
    /// # Panics
    /// When the address is taken, or the secret is none.
    #[must_use]
    pub fn start(
        address: SocketAddr,
        secret: &str,
        behaviour: impl Fn(&Arrived) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let secret = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let (arrived, stop) = (Arc::<Mutex<Vec<Arrived>>>::default(), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&arrived), Arc::clone(&stop));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (kept, secret, behaviour) = (Arc::clone(&kept), secret.clone(), Arc::clone(&behaviour));
                std::thread::spawn(move || serve(stream.unwrap(), &secret, &kept, &*behaviour));
            }
        });
        Self { address, arrived, stop, thread: Some(thread) }
    }

    /// What it took, in order; what it refused is not there.
    ///
    /// # Panics
    /// When a thread of it panicked.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it, so that it looks.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, secret: &[u8], arrived: &Mutex<Vec<Arrived>>, behaviour: &Behaviour) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut headers = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line != "\r\n" {
        headers.push(std::mem::take(&mut line));
    }
    let header = |name: &str| {
        let of_name = |line: &String| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        headers.iter().find_map(of_name).unwrap_or_default()
    };
    let Ok(length) = header("content-length").parse::<usize>() else { return };
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return; // killed in the middle of it
    }
    let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", &body].concat();
    let verifies = |text: &str| {
        let tag = text.strip_prefix("v1,").and_then(|text| BASE64.decode(text.as_bytes()).ok());
        tag.is_some_and(|tag| hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), &signed, &tag).is_ok())
    };
    let verified = header("webhook-signature").split(' ').any(verifies);
    let status = match serde_json::from_slice(&body) {
        Ok(body) if verified => {
            let found = Arrived { id, body };
            let answer = behaviour(&found);
            if !matches!(answer, Answer::Refuse(_)) {
                arrived.lock().unwrap().push(found);
            }
            match answer {
                Answer::Take => 200,
                Answer::Refuse(status) => status,
                Answer::TakeAndHangUp => return,
            }
        }
        _ => 401,
    };
    let _ = write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n");
}
