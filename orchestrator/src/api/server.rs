//! The HTTPS listener: TLS, HTTP/1.1 and HTTP/2, with a bound on everything that a peer may hold or delay. It knows no route.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use chom_supervise::Supervisor;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::api::certificate::InUse;
use crate::api::limits::AnswerMemory;
use crate::api::paced::Answers;
use crate::api::refusals::Whole;
use crate::api::slots::Slots;
use crate::limits::party;

/// Connections at once, each up to about 100 KiB: more wait in the kernel's queue. Three quarters may be event streams.
const CONNECTIONS_MAX: usize = 2048;
/// Of one address, so that the others have some; an office has fewer. This machine itself is not counted: a proxy may be on it.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
/// Requests at once on one HTTP/2 connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// All headers of a request together.
const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// A peer that does not finish the TLS handshake by then is not waited for.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// The same for the headers of a request (HTTP/1.1).
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// A connection without a request for this long, and at most twice as long, is closed.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// A peer that acknowledges nothing for this long is gone.
const PEER_DEADLINE: Duration = Duration::from_secs(60);
/// Requests under way may end for so long when the orchestrator goes down.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: most often file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener.
    #[error("the API's listener has no address")]
    Listener(#[source] io::Error),
}

/// Serves until the supervisor's stop is cancelled; then takes no new connections and lets requests under way end.
///
/// # Errors
/// When the listener is none.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    certificate: watch::Receiver<Arc<InUse>>,
    tasks: &Supervisor,
) -> Result<(), ServeError> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shares = Slots::new(CONNECTIONS_PER_ADDRESS_MAX, usize::MAX);
    let stop = tasks.stop();
    let address = listener.local_addr().map_err(ServeError::Listener)?;
    info!(%address, "the API is served");
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // cancel-safe: a permit that was not taken is given back
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, address, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection to the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(share) = party(address.ip()).map(|party| shares.take(party, 1)).transpose() else {
            debug!(%address, "this address has as many connections as one may have; another is closed");
            continue;
        };
        let tls = TlsAcceptor::from(Arc::clone(&certificate.borrow().tls));
        let connection = connection(stream, address, tls, router.clone(), tasks.clone());
        tasks.spawn(async move {
            let _held = (permit, share);
            connection.await;
        });
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, Option<tokio::sync::OwnedSemaphorePermit>)> {
    let permit = Arc::clone(room).acquire_owned().await.ok(); // never closed
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(PEER_DEADLINE))?;
    Ok((stream, address, permit))
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    router: Router,
    tasks: Supervisor,
) {
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream));
    let stream = tokio::select! {
        () = tasks.stop().cancelled_owned() => return,
        outcome = handshake => match outcome {
            Ok(Ok(stream)) => stream,
            // Scanners and clients that do not trust the CA: nothing that an admin should be told.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if let Err(error) = serve_requests(stream, address, router, tasks).await {
        debug!(%error, "a connection to the API ended");
    }
}

/// Serves until the peer leaves, is idle for too long, or the orchestrator stops.
async fn serve_requests(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    router: Router,
    tasks: Supervisor,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (activity, answers, stop) = (Activity::default(), Answers::default(), tasks.stop());
    let builder = builder(&stream, tasks);
    let service = {
        let (activity, answers) = (activity.clone(), answers.clone());
        let router = TowerToHyperService::new(router);
        service_fn(move |mut request: Request<Incoming>| {
            let held = activity.begin();
            request.extensions_mut().insert(ConnectInfo(address));
            let (answer, answers) = (router.call(request), answers.clone());
            async move {
                answer.await.map(|mut response| {
                    let memory = response.extensions_mut().remove::<AnswerMemory>();
                    response.map(|body| answers.pace(body, (held, memory)))
                })
            }
        })
    };
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(Whole::new(stream)), service));
    tokio::select! {
        ended = serving.as_mut() => return ended,
        () = stop.cancelled() => {}
        () = activity.idle() => {}
        // Whoever reads nothing would not read the end of it either.
        () = answers.unread() => return Ok(()),
    }
    serving.as_mut().graceful_shutdown();
    tokio::time::timeout(DRAIN_DEADLINE, serving).await?
}

/// ALPN has said which HTTP it is, so that nothing has to be guessed from the first bytes.
fn builder(stream: &TlsStream<TcpStream>, tasks: Supervisor) -> Builder<Tasks> {
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut builder = Builder::new(Tasks(tasks));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_BYTES_MAX);
    if is_h2 { builder.http2_only() } else { builder.http1_only() }
}

/// Lets hyper spawn the requests of an HTTP/2 connection where shutdown waits for them.
#[derive(Clone)]
struct Tasks(Supervisor);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// Whether a connection is in use.
#[derive(Clone, Default)]
struct Activity {
    begun: Arc<AtomicU64>,
    under_way: Arc<AtomicU64>,
}

impl Activity {
    fn begin(&self) -> Held {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(&self.under_way))
    }

    /// Waits until no request was begun for [`IDLE_DEADLINE`] and none is under way.
    async fn idle(&self) {
        loop {
            let before = self.begun.load(Ordering::Relaxed);
            tokio::time::sleep(IDLE_DEADLINE).await;
            if self.under_way.load(Ordering::Relaxed) == 0 && self.begun.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// A request under way, until its answer is written or given up.
struct Held(Arc<AtomicU64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
