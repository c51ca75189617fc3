//! Whether a writer is well, for whoever asks whether changes can be taken: nobody has to wait for the disk to learn that
//! it is slow. Pure but for its lock; the time is given.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::commit::{CommitError, StoreFailure};

/// A group of commits takes milliseconds; a disk that takes so long for one is not there.
const WRITE_SECONDS_MAX: Duration = Duration::from_secs(2);

/// What a writer is at.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<State>);

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Idle,
    Writing(Instant),
    Failed(Arc<StoreFailure>),
}

impl Pulse {
    /// A write begins.
    pub(super) fn begin(&self, now: Instant) {
        *self.state() = State::Writing(now);
    }

    /// It ended; a failure stays.
    pub(super) fn end(&self, failure: Option<Arc<StoreFailure>>) {
        *self.state() = failure.map_or(State::Idle, State::Failed);
    }

    /// Whether commits are taken.
    pub(super) fn check(&self, now: Instant) -> Result<(), CommitError> {
        match &*self.state() {
            State::Failed(source) => Err(CommitError::Failed { source: Arc::clone(source) }),
            State::Writing(since) if now.saturating_duration_since(*since) > WRITE_SECONDS_MAX => {
                let seconds = now.saturating_duration_since(*since).as_secs();
                Err(CommitError::Stalled { seconds })
            }
            State::Idle | State::Writing(_) => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // One assignment cannot be half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_ready_until_a_write_hangs_or_fails() {
        let (pulse, began) = (Pulse::default(), Instant::now());
        let check =
            |seconds| pulse.check(began + Duration::from_secs(seconds)).map_err(|error| error.to_string());
        assert_eq!(check(100), Ok(()), "idle");
        pulse.begin(began);
        assert_eq!(check(2), Ok(()), "a write may take its time");
        assert!(check(7).unwrap_err().contains("for 7 s"), "{:?}", check(7));
        pulse.end(None);
        assert_eq!(check(7), Ok(()), "it ended after all");
        let source = std::io::Error::other("no space left");
        pulse.begin(began);
        pulse.end(Some(Arc::new(StoreFailure { step: "sync", place: "there".to_owned(), source })));
        assert!(check(0).unwrap_err().contains("restart the orchestrator"), "{:?}", check(0));
    }
}
