//! The orchestrator is gone for ten minutes. Their time is simulated: every wait of the agent is the product's own and takes
//! no time here; only the clock that its samples are dated by is the test's.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chom_agent::measure::Probe;
use chom_protocol::host::{AgentSettings, HostSpec, Inventory};
use chom_protocol::sample::{Point, Sample};
use chom_protocol::vps::{Power, VpsSpec, VpsState};
use chom_protocol::{BootId, UnixMillis};
use tokio::net::UdpSocket;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, advance, pause, sleep_until};

use crate::host::{Host, stop, vps};
use crate::orchestrator::{Orchestrator, wait};

const OUTAGE: Duration = Duration::from_secs(600);
/// The longest pause between two dials and what a dial may take, with a round of retransmissions to spare.
const SILENCE_MAX: Duration = Duration::from_secs(60 + 10 + 4);
/// Every dial of a silent orchestrator takes ten seconds, whatever chance says of the pauses; an agent was begun twice.
const DIALS_MAX: usize = 600 / 10 + 2;

/// Dates samples by the simulated time.
struct Clock(Instant);

impl Clock {
    fn at(&self, moment: Instant) -> UnixMillis {
        UnixMillis(1_000_000 + u64::try_from((moment - self.0).as_millis()).unwrap())
    }
}

impl Probe for Clock {
    fn sample(&mut self, boot: BootId, sequence: u64, _now: UnixMillis, points: Vec<Point>) -> Sample {
        Sample { boot, sequence, at: self.at(Instant::now()), points }
    }

    fn inventory(&mut self) -> Inventory {
        Inventory::default()
    }
}

/// Hears dials and answers none: when each packet came, and from which port.
#[derive(Clone, Default)]
struct Deaf(Arc<Mutex<Vec<(Instant, u16)>>>);

impl Deaf {
    async fn listen(&self, address: std::net::SocketAddr) -> tokio::task::JoinHandle<()> {
        let (socket, heard) = (UdpSocket::bind(address).await.unwrap(), Arc::clone(&self.0));
        tokio::spawn(async move {
            let mut packet = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut packet).await {
                heard.lock().unwrap().push((Instant::now(), from.port()));
            }
        })
    }

    fn check(&self, from: Instant, to: Instant) {
        let heard = self.0.lock().unwrap();
        let moments: Vec<Instant> =
            std::iter::once(from).chain(heard.iter().map(|(at, _)| *at)).chain([to]).collect();
        let silence = moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        let mut ports: Vec<u16> = heard.iter().map(|(_, port)| *port).collect();
        ports.dedup();
        println!("{} dials, the longest silence {} s", ports.len(), silence.as_secs());
        assert!(silence <= SILENCE_MAX, "an agent that gives up for {silence:?} is late afterwards");
        assert!(ports.len() <= DIALS_MAX, "{} dials of an orchestrator that is gone", ports.len());
    }
}

/// What the product uses; the other tests hurry.
fn at_usual_pace(spec: HostSpec) -> HostSpec {
    HostSpec { settings: AgentSettings::default(), ..spec }
}

/// Waits with simulated time going on ten times as fast as real time, which packets need.
async fn meet(what: &str, mut is_so: impl FnMut() -> bool) {
    // While something blocks, simulated time does not go on by itself.
    let (end, held) = std::sync::mpsc::sync_channel::<()>(0);
    let hold = spawn_blocking(move || held.recv());
    for _ in 0..20_000 {
        if is_so() {
            drop(end);
            let _ = hold.await.unwrap();
            return;
        }
        advance(Duration::from_millis(30)).await;
        let (breath, wakes) = std::sync::mpsc::sync_channel::<()>(0);
        spawn_blocking(move || wakes.recv_timeout(Duration::from_millis(3))).await.unwrap().unwrap_err();
        drop(breath);
    }
    panic!("waited in vain for {what}");
}

#[tokio::test]
async fn ten_minutes_without_orchestrator_cost_neither_a_vps_nor_a_sample() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    let (on, off) = (vps(1), VpsSpec { power: Power::Stopped, ..vps(2) });
    let (on_id, off_id) = (on.id, off.id);
    orchestrator.want(at_usual_pace(host.spec([on, off])));
    let began = Instant::now();
    let agent = host.start_with(Box::new(Clock(began)));
    let made = |host: &Host| host.runs(on_id) && host.driver.world().guests.contains_key(&off_id);
    wait("both VPSs", || made(&host)).await;
    wait("a sample", || !orchestrator.told().samples.is_empty()).await;

    orchestrator.vanish().await;
    let deaf = Deaf::default();
    let listening = deaf.listen(orchestrator.address).await;
    pause();
    let gone = Instant::now();
    let minute = |number: u64| sleep_until(gone + Duration::from_secs(60 * number));

    minute(2).await;
    host.driver.world().guests.get_mut(&off_id).unwrap().state = VpsState::Running;
    minute(4).await;
    assert!(
        host.runs(on_id) && !host.runs(off_id),
        "what is to be off was switched on by hand and stayed so"
    );

    // The host loses its power and has it again: all it knows is its ledger.
    stop(agent).await;
    host.driver.world().reboot();
    host.boot = chom_agent::boot::simulated();
    let agent = host.start_with(Box::new(Clock(began)));
    sleep_until(gone + Duration::from_secs(4 * 60) + host.moved_grace - Duration::from_secs(5)).await;
    assert!(!host.runs(on_id), "it may have been moved elsewhere");
    minute(7).await;
    assert!(host.runs(on_id) && !host.runs(off_id), "the ledger alone brings it back");

    sleep_until(gone + OUTAGE).await;
    let back = Instant::now();
    listening.abort();
    let _ = listening.await;
    deaf.check(gone, back);
    assert!(host.runs(on_id) && !host.runs(off_id));
    let seen = orchestrator.told().samples.len();
    orchestrator.listen();
    let (clock, interval) = (Clock(began), u64::from(AgentSettings::default().report_interval_seconds));
    let last = clock.at(back);
    meet("a sample of after the outage", || {
        orchestrator.told().samples[seen..].iter().any(|sample| sample.at > last)
    })
    .await;

    let late: Vec<Sample> =
        orchestrator.told().samples[seen..].iter().filter(|sample| sample.at <= last).cloned().collect();
    let expected = OUTAGE.as_secs() / interval;
    assert!(late.len() as u64 >= expected - 1, "{} of {expected} came", late.len());
    for pair in late.windows(2) {
        let [before, after] = pair else { unreachable!() };
        let apart = after.at.millis_since(before.at);
        match before.boot == after.boot {
            true => {
                assert_eq!(after.sequence, before.sequence + 1, "{pair:?}");
                assert!(apart.abs_diff(interval * 1000) < 1000, "{pair:?}");
            }
            false => assert!(apart < (interval + 1) * 1000 && after.sequence == 0, "{pair:?}"),
        }
    }
    stop(agent).await;
}
