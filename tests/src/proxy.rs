//! A bad network between agents and orchestrator: passes UDP on, and cuts, delays, drops, duplicates and reorders as told.
//! What happens to a packet is decided purely, from a seed; the rest only carries it out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::seed::Chance;

/// Client addresses at once; each takes a socket. Every dial of an agent comes from a new one.
const FLOWS_MAX: usize = 2048;
/// Packets on their way at once; more are dropped, as a network does.
const PACKETS_MAX: usize = 20_000;
/// Largest UDP packet.
const PACKET_BYTES_MAX: usize = 65_535;

/// What goes wrong. The default is a good network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing passes, either way.
    pub cut: bool,
    /// Every packet takes so long.
    pub delay: Duration,
    /// And up to so much longer, each its own: packets overtake each other.
    pub jitter: Duration,
    /// So many of a hundred are lost.
    pub drop_percent: u8,
    /// So many of a hundred come twice.
    pub duplicate_percent: u8,
    /// So many of a hundred are held back by [`Faults::reorder_delay`], so that later ones come first.
    pub reorder_percent: u8,
    /// For how long.
    pub reorder_delay: Duration,
}

/// When the copies of a packet come out: none, one, or two. Pure.
#[must_use]
pub fn fate(faults: &Faults, chance: &mut Chance) -> Vec<Duration> {
    if faults.cut || chance.percent(faults.drop_percent) {
        return Vec::new();
    }
    let copies = if chance.percent(faults.duplicate_percent) { 2 } else { 1 };
    let mut copy = || {
        let held = if chance.percent(faults.reorder_percent) { faults.reorder_delay } else { Duration::ZERO };
        chance.between(faults.delay, faults.delay + faults.jitter) + held
    };
    (0..copies).map(|_| copy()).collect()
}

#[derive(Debug)]
struct Shared {
    faults: Mutex<(Faults, Chance)>,
    listen: UdpSocket,
    target: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A running proxy; ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `listen` and passes on to `target`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(listen: SocketAddr, target: SocketAddr, chance: Chance) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listen = runtime.block_on(UdpSocket::bind(listen)).unwrap();
        let shared = Arc::new(Shared {
            faults: Mutex::new((Faults::default(), chance)),
            listen,
            target,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || runtime.block_on(from_clients(own)));
        Self { shared, thread: Some(thread) }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: the socket is open.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.listen.local_addr().unwrap()
    }

    /// What goes wrong from now on.
    pub fn set(&self, faults: Faults) {
        self.shared.faults().0 = faults;
    }

    /// Nothing passes from now on.
    pub fn cut(&self) {
        self.shared.faults().0.cut = true;
    }

    /// A good network again.
    pub fn heal(&self) {
        self.set(Faults::default());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, (Faults, Chance)> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a packet's fate out.
    async fn pass(self: &Arc<Self>, packet: &[u8], way: &Way) {
        let times = {
            let mut guard = self.faults();
            let (faults, chance) = &mut *guard;
            fate(faults, chance)
        };
        for time in times {
            if time.is_zero() {
                way.send(packet).await;
            } else if self.tasks.len() < PACKETS_MAX {
                let (stop, way, packet) = (self.stop.clone(), way.clone(), packet.to_vec());
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(time) => way.send(&packet).await,
                    }
                });
            }
        }
    }
}

/// Where a packet comes out.
#[derive(Debug, Clone)]
enum Way {
    /// At the target, from the socket of one client.
    In(Arc<UdpSocket>),
    /// At a client, from the address that it dialled.
    Out(Arc<Shared>, SocketAddr),
}

impl Way {
    async fn send(&self, packet: &[u8]) {
        // A target that is not there answers with an error; to the sender that is a lost packet.
        let _ = match self {
            Self::In(socket) => socket.send(packet).await,
            Self::Out(shared, client) => shared.listen.send_to(packet, *client).await,
        };
    }
}

async fn from_clients(shared: Arc<Shared>) {
    let mut flows: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let (size, client) = tokio::select! {
            () = shared.stop.cancelled() => break,
            received = shared.listen.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(_) => continue,
            },
        };
        if !flows.contains_key(&client) {
            assert!(flows.len() < FLOWS_MAX, "more dials than one test makes");
            let socket = Arc::new(UdpSocket::bind((unspecified(shared.target), 0)).await.unwrap());
            socket.connect(shared.target).await.unwrap();
            drop(shared.tasks.spawn(to_client(Arc::clone(&shared), Arc::clone(&socket), client)));
            flows.insert(client, socket);
        }
        shared.pass(&buffer[..size], &Way::In(Arc::clone(&flows[&client]))).await;
    }
    shared.tasks.close();
    shared.tasks.wait().await;
}

fn unspecified(target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

async fn to_client(shared: Arc<Shared>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let way = Way::Out(Arc::clone(&shared), client);
    loop {
        let received = tokio::select! {
            () = shared.stop.cancelled() => return,
            received = socket.recv(&mut buffer) => received,
        };
        // An error says that nobody listens at the target just now: the client finds that out by silence.
        if let Ok(size) = received {
            shared.pass(&buffer[..size], &way).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(faults: Faults, packets: usize) -> Vec<Vec<Duration>> {
        let mut chance = Chance::of(7);
        (0..packets).map(|_| fate(&faults, &mut chance)).collect()
    }

    #[test]
    fn a_good_network_passes_each_packet_once_and_at_once() {
        assert!(fates(Faults::default(), 100).iter().all(|copies| *copies == [Duration::ZERO]));
    }

    #[test]
    fn a_cut_network_passes_nothing() {
        assert!(fates(Faults { cut: true, ..Faults::default() }, 100).iter().all(Vec::is_empty));
    }

    #[test]
    fn faults_come_about_as_often_as_told() {
        let faults = Faults {
            drop_percent: 20,
            duplicate_percent: 10,
            reorder_percent: 30,
            reorder_delay: Duration::from_millis(50),
            ..Faults::default()
        };
        let fates = fates(faults, 10_000);
        let count = |what: fn(&Vec<Duration>) -> bool| fates.iter().filter(|copies| what(copies)).count();
        assert!((1800..2200).contains(&count(Vec::is_empty)));
        assert!((700..900).contains(&count(|copies| copies.len() == 2)));
        assert!(count(|copies| copies.iter().any(|time| !time.is_zero())) > 2000);
    }

    #[test]
    fn packets_pass_both_ways_until_the_network_is_cut_and_again_when_it_heals() {
        let target = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&target, &client] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), target.local_addr().unwrap(), Chance::of(1));
        let mut buffer = [0; 16];
        let mut passes = || {
            client.send_to(b"ping", proxy.address()).unwrap();
            let Ok((_, from)) = target.recv_from(&mut buffer) else { return false };
            target.send_to(b"pong", from).unwrap();
            client.recv_from(&mut buffer).is_ok_and(|(size, _)| &buffer[..size] == b"pong")
        };
        assert!(passes());
        proxy.cut();
        assert!(!passes());
        proxy.heal();
        assert!(passes());
    }
}
