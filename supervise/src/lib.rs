//! The one place of agent and orchestrator that spawns tasks, so that shutdown can ask all of them to end and wait for them,
//! and so that a task that ends unasked ends the whole: systemd then starts it anew, in a known state. Decides nothing else.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// Owns tasks. Clones are handles to the same set.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: Arc<OnceLock<&'static str>>,
}

/// Why the set of tasks did not end as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuperviseError {
    /// A service ended though nobody asked it to, or it panicked.
    #[error("the task `{name}` ended unasked; what it reported stands above in the log")]
    Ended {
        /// Which.
        name: &'static str,
    },
    /// Not all tasks ended in time.
    #[error("{tasks} tasks did not end within {} s of being asked to", grace.as_secs())]
    Late {
        /// How many were left.
        tasks: usize,
        /// How long they had.
        grace: Duration,
    },
}

impl Supervisor {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when tasks should end: on shutdown, and when a service ended unasked.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Spawns a task that should run until [`Supervisor::stop`] is cancelled. If it ends before, or panics, everything is
    /// asked to end.
    pub fn service(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guard = Guard { name, supervisor: self.clone() };
        self.spawn(async move {
            let _guard = guard; // dropped at the end, also of a panic
            task.await;
        });
    }

    /// Spawns a task that ends by itself (one connection, one delivery). It must bound its own life.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // The handle is not needed: the tracker waits, and services report their end themselves.
        drop(self.tracker.spawn(task));
    }

    /// How many tasks run.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tracker.len()
    }

    /// Asks all tasks to end and waits for them, at most `grace`.
    ///
    /// # Errors
    /// When a service had ended unasked, or tasks are left after `grace`.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), SuperviseError> {
        self.stop.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(grace, self.tracker.wait()).await;
        match (self.failed.get(), ended) {
            (Some(&name), _) => Err(SuperviseError::Ended { name }),
            (None, Err(_)) => Err(SuperviseError::Late { tasks: self.tracker.len(), grace }),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// Does work that takes milliseconds without a pause where it holds up nobody: a task that did it itself would keep all that
/// wait for its thread. Dropping the future does not end the work.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => found,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime goes down, and whoever waits here with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Notices the end of a service, whichever way it ends.
struct Guard {
    name: &'static str,
    supervisor: Supervisor,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.supervisor.stop.is_cancelled() {
            error!(task = self.name, "a task ended unasked; stopping");
            // The first to fail is the one to report.
            let _ = self.supervisor.failed.set(self.name);
            self.supervisor.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn tasks_end_when_asked() {
        let tasks = Supervisor::new();
        let stop = tasks.stop();
        tasks.service("waits", async move { stop.cancelled().await });
        tasks.spawn(async {});
        assert_eq!(tasks.shutdown(GRACE).await, Ok(()));
        assert_eq!(tasks.tasks(), 0);
    }

    #[tokio::test]
    async fn a_service_that_ends_unasked_stops_everything() {
        let tasks = Supervisor::new();
        let stop = tasks.stop();
        tasks.service("stays", async move { stop.cancelled().await });
        tasks.service("goes", async {});
        tasks.stop().cancelled().await;
        assert_eq!(tasks.shutdown(GRACE).await, Err(SuperviseError::Ended { name: "goes" }));
    }

    #[tokio::test]
    async fn a_service_that_panics_stops_everything() {
        let tasks = Supervisor::new();
        tasks.service("breaks", async { panic!("on purpose") });
        tasks.stop().cancelled().await;
        assert_eq!(tasks.shutdown(GRACE).await, Err(SuperviseError::Ended { name: "breaks" }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_not_waited_for_for_ever() {
        let tasks = Supervisor::new();
        tasks.spawn(std::future::pending());
        assert_eq!(tasks.shutdown(GRACE).await, Err(SuperviseError::Late { tasks: 1, grace: GRACE }));
    }
}
