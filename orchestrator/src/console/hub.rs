//! One open console: one tunnel to its host, any number of viewers. What the guest says goes to all of them and waits for
//! none: a viewer that does not read misses something, and holds a bounded amount.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use chom_protocol::link::tunnel::TerminalSize;
use chom_protocol::{HostId, TunnelId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::seats::{Seat, Seats};
use crate::session::Tunnel;

/// Read at once of a guest's output.
const CHUNK_BYTES_MAX: usize = 4 * 1024;
/// Chunks that wait for the slowest viewer; together with their size at most 512 KiB for a console.
const CHUNKS_MAX: usize = 128;
/// What was said last, shown to who comes later: two screens full.
const RECENT_BYTES_MAX: usize = 8 * 1024;
/// Typed and not yet taken by the guest, in messages of at most `INPUT_BYTES_MAX`.
const INPUTS_MAX: usize = 16;
/// A guest that takes nothing of what is typed for so long hangs.
const INPUT_SECONDS_MAX: Duration = Duration::from_secs(30);
/// A console on which nothing was said or typed for so long is closed: it may stand open on a screen that nobody watches.
pub(super) const IDLE: Duration = Duration::from_secs(30 * 60);
/// Viewers of one console: a class in front of it.
const VIEWERS_MAX: usize = 16;

/// One console.
pub(super) struct Hub {
    pub(super) host: HostId,
    pub(super) tunnel: TunnelId,
    pub(super) size: watch::Sender<TerminalSize>,
    shared: Mutex<Shared>,
    output: broadcast::Sender<Bytes>,
    input: mpsc::Sender<Bytes>,
    /// Rises when somebody came or went.
    changes: watch::Sender<u64>,
    reason: OnceLock<String>,
    ended: CancellationToken,
}

#[derive(Default)]
struct Shared {
    seats: Seats,
    recent: Vec<u8>,
}

/// One viewer of a console; leaves it when dropped.
pub struct Viewer {
    hub: Arc<Hub>,
    seat: Seat,
    output: broadcast::Receiver<Bytes>,
    changes: watch::Receiver<u64>,
}

/// What happens on a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// The guest said something.
    Said(Bytes),
    /// It said something that this viewer was too slow for.
    Missed,
    /// Somebody came or went.
    Changed,
    /// It is over.
    Ended,
}

impl Hub {
    pub(super) fn new(host: HostId, tunnel: TunnelId, size: TerminalSize) -> (Self, mpsc::Receiver<Bytes>) {
        let (input, typed) = mpsc::channel(INPUTS_MAX);
        let hub = Self {
            host,
            tunnel,
            size: watch::Sender::new(size),
            shared: Mutex::default(),
            output: broadcast::Sender::new(CHUNKS_MAX),
            input,
            changes: watch::Sender::new(0),
            reason: OnceLock::new(),
            ended: CancellationToken::new(),
        };
        (hub, typed)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets somebody in, with what was said last. None: it is over, or full.
    pub(super) fn join(self: &Arc<Self>, writes: bool, take: bool) -> Option<(Viewer, Vec<u8>)> {
        let mut shared = self.shared();
        if self.ended.is_cancelled() || shared.seats.count() >= VIEWERS_MAX {
            return None;
        }
        let seat = shared.seats.join(writes, take);
        let recent = shared.recent.clone();
        // Under the lock, so that no chunk is between what was said and what comes.
        let output = self.output.subscribe();
        drop(shared);
        self.changes.send_modify(|change| *change += 1);
        let changes = self.changes.subscribe();
        Some((Viewer { hub: Arc::clone(self), seat, output, changes }, recent))
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_cancelled()
    }

    fn say(&self, chunk: Bytes) {
        let mut shared = self.shared();
        shared.recent.extend_from_slice(&chunk);
        let surplus = shared.recent.len().saturating_sub(RECENT_BYTES_MAX);
        shared.recent.drain(..surplus);
        let _ = self.output.send(chunk); // fails only when nobody listens
    }

    /// Passes everything on until the guest's side ends, the last viewer leaves, or it is idle.
    pub(super) async fn pump(
        &self,
        tunnel: Tunnel,
        mut typed: mpsc::Receiver<Bytes>,
        stop: CancellationToken,
    ) {
        let Tunnel { mut out, mut back, .. } = tunnel;
        let said_at = watch::Sender::new(Instant::now());
        let outward = async {
            loop {
                match back.read_chunk(CHUNK_BYTES_MAX, true).await {
                    Ok(Some(chunk)) => {
                        said_at.send_replace(Instant::now());
                        self.say(chunk.bytes);
                    }
                    Ok(None) => return "the guest's console ended; the VPS may have been switched off",
                    Err(_) => {
                        return "the connection to the host broke; open the console again when it is back";
                    }
                }
            }
        };
        let inward = async {
            while let Some(bytes) = typed.recv().await {
                said_at.send_replace(Instant::now());
                if !matches!(timeout(INPUT_SECONDS_MAX, out.write_all(&bytes)).await, Ok(Ok(()))) {
                    return "the guest takes nothing of what is typed";
                }
            }
            "nobody looks any more"
        };
        let reason = tokio::select! {
            () = stop.cancelled() => "the orchestrator is going down; open the console again in a moment",
            reason = outward => reason,
            reason = inward => reason,
            () = idle(said_at.subscribe()) => "nothing was said or typed for 30 minutes",
            () = self.deserted() => "nobody looks any more",
        };
        self.end(reason);
    }

    pub(super) fn end(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned()); // the first reason is the one
        self.ended.cancel();
    }

    /// Waits until the last viewer left; the first has yet to come.
    async fn deserted(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if *changes.borrow() > 0 && self.shared().seats.count() == 0 {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Waits until nothing happened for [`IDLE`].
async fn idle(said_at: watch::Receiver<Instant>) {
    loop {
        let due = *said_at.borrow() + IDLE;
        if Instant::now() >= due {
            return;
        }
        sleep_until(due).await;
    }
}

impl Viewer {
    /// Whether what this viewer types is taken, and how many look on.
    #[must_use]
    pub fn role(&self) -> (bool, u32) {
        let shared = self.hub.shared();
        let viewers = u32::try_from(shared.seats.count()).unwrap_or(u32::MAX);
        (shared.seats.writer() == Some(self.seat), viewers)
    }

    /// Waits for the next thing. Cancel-safe. What was said goes before the end.
    pub async fn next(&mut self) -> Happened {
        tokio::select! { // every arm is cancel-safe
            biased;
            said = self.output.recv() => match said {
                Ok(chunk) => Happened::Said(chunk),
                Err(broadcast::error::RecvError::Lagged(_)) => Happened::Missed,
                Err(broadcast::error::RecvError::Closed) => Happened::Ended,
            },
            () = self.hub.ended.cancelled() => Happened::Ended,
            changed = self.changes.changed() => match changed {
                Ok(()) => Happened::Changed,
                Err(_) => Happened::Ended,
            },
        }
    }

    /// Room for one more thing typed. Cancel-safe; none when it is over.
    pub async fn room(&self) -> Option<mpsc::Permit<'_, Bytes>> {
        self.hub.input.reserve().await.ok()
    }

    /// The terminal has another size.
    pub fn resize(&self, size: TerminalSize) {
        if self.role().0 {
            self.hub.size.send_if_modified(|old| std::mem::replace(old, size) != size);
        }
    }

    /// Why it is over.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.hub.reason.get().map_or("the console was closed", String::as_str)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.shared().seats.leave(self.seat);
        self.hub.changes.send_modify(|change| *change += 1);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn hub() -> Arc<Hub> {
        let host = HostId::new(Uuid::from_u128(1));
        let (hub, _) = Hub::new(host, TunnelId::new(Uuid::from_u128(2)), TerminalSize::default());
        Arc::new(hub)
    }

    #[tokio::test]
    async fn a_viewer_that_never_reads_holds_a_bounded_amount_and_keeps_nobody_waiting() {
        let hub = hub();
        let (mut sleeps, _) = hub.join(true, false).unwrap();
        let (mut reads, _) = hub.join(false, false).unwrap();
        for number in 0..10_000_u32 {
            hub.say(Bytes::from(vec![number.to_be_bytes()[3]; CHUNK_BYTES_MAX]));
            match reads.next().await {
                Happened::Said(chunk) => assert_eq!(chunk[0], number.to_be_bytes()[3]),
                other => panic!("{other:?} at {number}"),
            }
        }
        assert!(hub.output.len() <= CHUNKS_MAX, "{} chunks wait", hub.output.len());
        assert_eq!(sleeps.next().await, Happened::Missed);
        assert!(matches!(sleeps.next().await, Happened::Said(_)), "then it goes on with what is left");
    }

    #[tokio::test]
    async fn who_comes_later_sees_what_was_said_last_and_then_what_comes() {
        let hub = hub();
        hub.say(Bytes::from(vec![b'x'; RECENT_BYTES_MAX]));
        hub.say(Bytes::from_static(b"login: "));
        let (mut viewer, recent) = hub.join(true, false).unwrap();
        assert_eq!(recent.len(), RECENT_BYTES_MAX);
        assert!(recent.ends_with(b"xlogin: "));
        hub.say(Bytes::from_static(b"root"));
        hub.end("over");
        assert_eq!(viewer.next().await, Happened::Said(Bytes::from_static(b"root")));
        assert_eq!((viewer.next().await, viewer.reason()), (Happened::Ended, "over"));
        assert!(hub.join(true, false).is_none(), "nobody comes to a console that is over");
    }

    #[tokio::test]
    async fn a_console_takes_so_many_viewers() {
        let hub = hub();
        let viewers: Vec<_> = std::iter::from_fn(|| hub.join(true, false)).take(100).collect();
        assert_eq!(viewers.len(), VIEWERS_MAX);
        assert_eq!(viewers[3].0.role(), (false, 16));
        assert_eq!(viewers[0].0.role(), (true, 16));
        drop(viewers);
        hub.deserted().await;
    }
}
