//! A mail server of our own (RFC 5321) that takes mails and breaks on purpose: refuses, stalls, greylists, hangs up, at the
//! step and for the recipient that a test names. Runs on a thread of its own, so that any test can use it.

mod session;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use session::Session;

/// How connections are protected.
#[derive(Clone, Default)]
pub enum Protection {
    /// In the clear.
    #[default]
    None,
    /// Offers STARTTLS, and takes no login or mail before.
    Starttls(Arc<ServerConfig>),
    /// TLS from the first byte.
    Tls(Arc<ServerConfig>),
}

/// Who may log in; nobody else may send.
#[derive(Debug, Clone)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// As EHLO shows them, such as `PLAIN LOGIN`.
    pub mechanisms: String,
    /// What LOGIN asks for user name and password with.
    pub prompts: (String, String),
}

impl Login {
    /// With the usual prompts.
    #[must_use]
    pub fn new(user: &str, password: &str, mechanisms: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            mechanisms: mechanisms.to_owned(),
            prompts: ("Username:".to_owned(), "Password:".to_owned()),
        }
    }
}

/// A step at which the server can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// After the connection.
    Greeting,
    /// EHLO.
    Hello,
    /// STARTTLS.
    Starttls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// After the mail's last line.
    Content,
}

/// How it breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// Says this instead.
    Answer(String),
    /// Says nothing, and keeps the connection.
    Stall,
    /// Hangs up.
    HangUp,
    /// Takes the mail, then hangs up without saying so. Only at [`Step::Content`].
    TakeAndHangUp,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// At which step.
    pub step: Step,
    /// For which recipient only; steps before RCPT TO know none.
    pub recipient: Option<String>,
    /// What then happens.
    pub how: Break,
    /// How many times; then all is well.
    pub times: usize,
}

impl Fault {
    /// Each time, for everybody.
    #[must_use]
    pub fn always(step: Step, how: Break) -> Self {
        Self { step, recipient: None, how, times: usize::MAX }
    }

    /// For one recipient only.
    #[must_use]
    pub fn only(self, recipient: &str) -> Self {
        Self { recipient: Some(recipient.to_owned()), ..self }
    }

    /// A number of times.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }
}

/// How a server is.
#[derive(Clone, Default)]
pub struct Options {
    /// Its TLS.
    pub protection: Protection,
    /// Who may log in; nobody needs to where absent.
    pub login: Option<Login>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Refuses the first try of each recipient (4xx) and takes the next.
    pub greylist: bool,
    /// Where each mail is put as a file.
    pub folder: Option<PathBuf>,
    /// Whether each mail is printed.
    pub print: bool,
}

/// A mail that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The name in EHLO.
    pub hello: String,
    /// Who logged in.
    pub user: Option<String>,
    /// Whether TLS protected it.
    pub tls: bool,
    /// MAIL FROM.
    pub from: String,
    /// Each RCPT TO of the transaction.
    pub to: Vec<String>,
    /// Headers and body, lines ended by `\n`.
    pub text: String,
}

impl Received {
    /// A header's value, folded lines joined.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.text.split("\n\n").next()?.replace("\n ", " ").replace("\n\t", " ");
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

#[derive(Default)]
struct Kept {
    mails: Vec<Received>,
    faults: Vec<Fault>,
    greylisted: BTreeSet<String>,
    connections: usize,
}

/// A running server. Ends when dropped.
pub struct SmtpServer {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl SmtpServer {
    /// Starts on a free port of loopback.
    #[must_use]
    pub fn start(options: Options) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), options).unwrap()
    }

    /// Starts on an address.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub fn start_on(address: SocketAddr, options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Takes the address of a server that was stopped, too: SO_REUSEADDR is set.
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let kept = Arc::new(Mutex::new(Kept { faults: options.faults.clone(), ..Kept::default() }));
        let stop = CancellationToken::new();
        let thread = {
            let (kept, stop) = (Arc::clone(&kept), stop.clone());
            std::thread::spawn(move || {
                runtime.block_on(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = accept(listener, Arc::new(options), kept) => {}
                    }
                });
                // Dropping the runtime hangs up on everybody.
            })
        };
        Ok(Self { address, kept, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that was taken, in order.
    #[must_use]
    pub fn mails(&self) -> Vec<Received> {
        self.kept.lock().unwrap().mails.clone()
    }

    /// What was taken for one recipient.
    #[must_use]
    pub fn mails_to(&self, recipient: &str) -> Vec<Received> {
        self.mails().into_iter().filter(|mail| mail.to.iter().any(|to| to == recipient)).collect()
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.kept.lock().unwrap().connections
    }

    /// Breaks otherwise from now on.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.kept.lock().unwrap().faults = faults;
    }

    /// Ends it, hanging up on everybody; gives what it took.
    #[must_use]
    pub fn stop(mut self) -> Vec<Received> {
        self.end();
        self.mails()
    }

    /// Waits until the thread ends, which it does not unless stopped.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.end();
    }
}

async fn accept(listener: TcpListener, options: Arc<Options>, kept: Arc<Mutex<Kept>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let session = Session::new(Arc::clone(&options), Arc::clone(&kept));
        kept.lock().unwrap().connections += 1;
        tokio::spawn(async move {
            // A client that breaks off is its own business.
            let _ = session.serve(stream).await;
        });
    }
}
