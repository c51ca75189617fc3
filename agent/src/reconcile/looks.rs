//! Looks at the engines side by side, each under its own deadline. A pass waits a little for all of them and goes on
//! without those that are slow: what they say comes with a later pass. Decides nothing about VPSs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::vps::Engine;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, warn};

use super::BEAT;
use super::plan::{Answer, Look, Looks};
use crate::driver::engines::Engines;
use crate::driver::{Driver, DriverError, Observed};
use crate::health::Heartbeat;

/// An engine that takes longer is not there; the libvirt driver's own limit is 60 s.
const LOOK_SECONDS_MAX: u64 = 65;
/// A pass waits so long for an engine that has not answered since the agent started: libvirt tries QEMU out for 10 s.
const FIRST_PATIENCE: Duration = Duration::from_secs(15);
/// And so long for one that answered last time: it takes milliseconds, on a host under load a second.
const PATIENCE: Duration = Duration::from_secs(3);

type Arrival = (Engine, Result<Observed, DriverError>);

/// The engines, and what is known of each.
pub(super) struct LookingGlass<D> {
    engines: Engines<D>,
    known: BTreeMap<Engine, Known>,
    tasks: JoinSet<Arrival>,
}

#[derive(Debug)]
struct Known {
    look: Look,
    asked: Option<Asked>,
    /// Came since the last pass.
    is_fresh: bool,
}

/// A look under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// Something was done with the engine meanwhile: what it says may be of before.
    is_outdated: bool,
}

impl Known {
    /// Until when a pass waits for it. One that gave no answer last time is not waited for: it is heard when it is back.
    fn waited_for_until(&self) -> Option<Instant> {
        let asked = self.asked?;
        match self.look.answer {
            Answer::Given => Some(asked.at + PATIENCE),
            Answer::Awaited => Some(asked.at + FIRST_PATIENCE),
            Answer::Failed => None,
        }
    }
}

impl<D: Driver> LookingGlass<D> {
    pub(super) fn new(engines: Engines<D>) -> Self {
        let unasked = |driver: &D| Known {
            look: Look {
                engine: driver.unasked(),
                guests: Vec::new(),
                snapshots: BTreeMap::new(),
                answer: Answer::Awaited,
            },
            asked: None,
            is_fresh: false,
        };
        let known = engines.iter().map(|(engine, driver)| (engine, unasked(driver))).collect();
        Self { engines, known, tasks: JoinSet::new() }
    }

    pub(super) fn engines(&self) -> &Engines<D> {
        &self.engines
    }

    /// Looks at every engine; what came of an earlier look counts as this one's.
    pub(super) async fn look(&mut self, heartbeat: &Heartbeat) -> Looks {
        self.ask();
        while let Some(until) = self.known.values().filter_map(Known::waited_for_until).max() {
            heartbeat.beat();
            match timeout_at(until.min(Instant::now() + BEAT), self.tasks.join_next()).await {
                Ok(Some(arrived)) => self.take(arrived),
                Ok(None) => break,
                Err(_) if Instant::now() >= until => break,
                Err(_) => {}
            }
        }
        let mut looks = Looks::new();
        for (&engine, known) in &mut self.known {
            let mut look = known.look.clone();
            // What was said earlier is of earlier.
            if !std::mem::take(&mut known.is_fresh) && look.answer == Answer::Given {
                look.answer = Answer::Awaited;
            }
            looks.insert(engine, look);
        }
        looks
    }

    /// Resolves when an engine that was slow has answered. Cancel-safe.
    pub(super) async fn answered(&mut self) {
        match self.tasks.join_next().await {
            Some(arrived) => self.take(arrived),
            None => std::future::pending().await,
        }
    }

    /// Something was done with an engine: a look that is under way may have missed it.
    pub(super) fn outdate(&mut self, engine: Engine) {
        let known = self.known.get_mut(&engine);
        if let Some(asked) = known.and_then(|known| known.asked.as_mut()) {
            asked.is_outdated = true;
        }
    }

    fn ask(&mut self) {
        for (engine, driver) in self.engines.iter() {
            let Some(known) = self.known.get_mut(&engine) else { continue };
            if known.asked.is_some() || known.is_fresh {
                continue;
            }
            known.asked = Some(Asked { at: Instant::now(), is_outdated: false });
            let driver = Arc::clone(driver);
            self.tasks.spawn(async move {
                let late = || {
                    DriverError::passing(format!(
                        "{engine} did not answer within {LOOK_SECONDS_MAX} s; look at it on this host"
                    ))
                };
                let looked = timeout(Duration::from_secs(LOOK_SECONDS_MAX), driver.observe()).await;
                (engine, looked.unwrap_or_else(|_| Err(late())))
            });
        }
    }

    fn take(&mut self, arrived: Result<Arrival, JoinError>) {
        let (engine, looked) = match arrived {
            Ok(arrival) => arrival,
            // A panic of a driver: which one cannot be told any more, so all are asked again.
            Err(error) => {
                error!(%error, "a look at an engine panicked");
                self.tasks.abort_all();
                self.known.values_mut().for_each(|known| known.asked = None);
                return;
            }
        };
        let Some(known) = self.known.get_mut(&engine) else { return };
        let is_outdated = known.asked.take().is_none_or(|asked| asked.is_outdated);
        match looked {
            Ok(_) if is_outdated => {}
            Ok(Observed { engine, guests, snapshots }) => {
                known.look = Look { engine, guests, snapshots, answer: Answer::Given };
                known.is_fresh = true;
            }
            Err(problem) => {
                warn!(%engine, error = %problem, "cannot observe an engine; the next pass retries");
                let look = &mut known.look;
                look.engine.version.clear();
                look.engine.problem = Some(problem.problem);
                (look.guests, look.answer) = (Vec::new(), Answer::Failed);
                look.snapshots.clear();
                known.is_fresh = true;
            }
        }
    }
}
