//! What guests say of themselves, asked seldom and one at a time, so that a guest without an agent, or with one that hangs,
//! costs nothing. When to ask is decided purely; what was said is for the status, and for nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::host::{HostSpec, HostStatus};
use chom_protocol::vps::{GuestFacts, VpsState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock;
use crate::driver::engines::Engines;
use crate::driver::{Driver, DriverError};
use crate::ledger::Ledger;

/// How old facts become: disks fill in hours, not in minutes.
const AGAIN: Duration = Duration::from_secs(300);
/// A guest that booted a moment ago answers soon; one that never does is asked ever less, up to the last.
const SILENT_MIN: Duration = Duration::from_secs(15);
/// See [`SILENT_MIN`].
const SILENT_MAX: Duration = Duration::from_secs(900);
/// Between two guests: other requests to their engine get their turn.
const SPACING: Duration = Duration::from_millis(250);
/// How soon a new guest is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is known of all guests.
pub(crate) type Facts = BTreeMap<VpsId, GuestFacts>;

/// When to ask whom. Pure: times are arguments.
#[derive(Debug, Default)]
struct Schedule(BTreeMap<VpsId, (Instant, u32)>);

impl Schedule {
    /// Only those that run are asked; a new one soon.
    fn keep(&mut self, running: &[VpsId], now: Instant) {
        self.0.retain(|id, _| running.contains(id));
        for id in running {
            self.0.entry(*id).or_insert((now + SILENT_MIN, 0));
        }
    }

    /// Whose turn it is: the one that waits longest.
    fn due(&self, now: Instant) -> Option<VpsId> {
        let due = self.0.iter().filter(|(_, (at, _))| *at <= now);
        due.min_by_key(|(_, (at, _))| *at).map(|(id, _)| *id)
    }

    /// How it went.
    fn asked(&mut self, id: VpsId, answered: bool, now: Instant) {
        let Some((at, silences)) = self.0.get_mut(&id) else { return };
        if answered {
            (*at, *silences) = (now + AGAIN, 0);
        } else {
            *at = now + SILENT_MIN.saturating_mul(1 << (*silences).min(16)).min(SILENT_MAX);
            *silences = silences.saturating_add(1);
        }
    }
}

/// All that asking works with.
pub(crate) struct Asking<D> {
    pub(crate) engines: Engines<D>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) status: watch::Receiver<Option<Arc<HostStatus>>>,
    pub(crate) facts: watch::Sender<Facts>,
}

/// Asks until asked to stop.
pub(crate) async fn run<D: Driver>(asking: Asking<D>, stop: CancellationToken) {
    let mut schedule = Schedule::default();
    loop {
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            pause = turn(&asking, &mut schedule) => pause,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(Instant::now() + pause) => {}
        }
    }
}

/// Asks at most one guest; gives how long the next one can wait.
async fn turn<D: Driver>(asking: &Asking<D>, schedule: &mut Schedule) -> Duration {
    let running = running(asking.status.borrow().as_deref());
    schedule.keep(&running, Instant::now());
    asking.facts.send_if_modified(|facts| {
        let before = facts.len();
        facts.retain(|id, _| running.contains(id));
        facts.len() != before
    });
    let Some(id) = schedule.due(Instant::now()) else { return LOOK_EVERY };
    let answered = match driver(asking, id) {
        Some(driver) => driver.facts(id).await,
        // Nobody manages it any more, while it still runs: the others have their turn.
        None => Err(DriverError::lasting("it is not this host's to ask")),
    };
    schedule.asked(id, answered.is_ok(), Instant::now());
    match answered {
        Ok(said) => {
            let said = GuestFacts { seen_at: clock::now(), ..said };
            asking.facts.send_modify(|facts| {
                facts.insert(id, said);
            });
        }
        Err(error) => {
            debug!(vps = %id, %error, "nobody inside answers");
            asking.facts.send_if_modified(|facts| facts.remove(&id).is_some());
        }
    }
    SPACING
}

fn driver<D: Driver>(asking: &Asking<D>, id: VpsId) -> Option<Arc<D>> {
    let spec = asking.ledger.desired().spec?;
    let engine = HostSpec::engine_of(&spec, id)?;
    asking.engines.get(engine).cloned()
}

fn running(status: Option<&HostStatus>) -> Vec<VpsId> {
    let vps = status.into_iter().flat_map(|status| &status.vps);
    vps.filter(|(_, vps)| vps.state == VpsState::Running).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> VpsId {
        VpsId::new(Uuid::from_u128(number))
    }

    /// When a guest is asked, in seconds since it ran, if it answers as told.
    fn asked_at(answers: &[bool]) -> Vec<u64> {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        let mut at = Vec::new();
        schedule.keep(&[id(1)], start);
        for answer in answers {
            let (when, _) = schedule.0[&id(1)];
            assert_eq!(schedule.due(when - Duration::from_secs(1)), None);
            assert_eq!(schedule.due(when), Some(id(1)));
            schedule.asked(id(1), *answer, when);
            at.push((when - start).as_secs());
        }
        at
    }

    #[test]
    fn a_guest_that_answers_is_asked_each_five_minutes_and_a_silent_one_ever_less() {
        assert_eq!(asked_at(&[true; 3]), [15, 315, 615]);
        assert_eq!(asked_at(&[false; 9]), [15, 30, 60, 120, 240, 480, 960, 1860, 2760]);
        assert_eq!(asked_at(&[false, false, true, false, false]), [15, 30, 60, 360, 375]);
    }

    #[test]
    fn guests_that_went_off_are_not_asked_and_the_longest_waiting_is_first() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.keep(&[id(2)], start);
        schedule.keep(&[id(1), id(2)], start + Duration::from_secs(1));
        let late = start + Duration::from_secs(100);
        assert_eq!(schedule.due(late), Some(id(2)));
        schedule.keep(&[id(1)], late);
        assert_eq!(schedule.due(late), Some(id(1)));
    }
}
