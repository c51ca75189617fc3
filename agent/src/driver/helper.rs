//! The agent's end of a helper process: starts it, speaks the driver contract with it, and kills it when it hangs or
//! talks nonsense. A hang or crash of a helper is one failed request; the next one starts another, not faster than a
//! growing pause allows.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::time::Duration;

use chom_protocol::helper::{HELPER_VERSION, HelperReply, HelperRequest};
use chom_protocol::link::codec::{self, DecodeError, EncodeError, HEADER_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::command::{self, CommandError};

/// Hello needs no engine: a helper that does not answer at once is broken.
const HELLO_SECONDS_MAX: u64 = 10;
/// Pause after the first failure; doubles with each further one.
const PAUSE_SECONDS_MIN: u64 = 1;
/// Longest pause: shorter than two passes of the reconciler.
const PAUSE_SECONDS_MAX: u64 = 30;

/// Why a helper did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It could not be started.
    #[error("the helper cannot be started")]
    Start(#[source] CommandError),
    /// No socket could be made for it.
    #[error("cannot make a socket for the helper")]
    Socket(#[source] std::io::Error),
    /// It failed a moment ago.
    #[error("the helper failed {failures} times in a row; it is started again in {seconds} s")]
    Pause {
        /// Failures in a row.
        failures: u32,
        /// Until the next try.
        seconds: u64,
    },
    /// It did not answer in time, and was killed.
    #[error(
        "the helper did not answer {request} within {seconds} s and was ended; the engine may hang: see `systemctl status libvirtd`"
    )]
    Deadline {
        /// What it was asked.
        request: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// It ended or closed its socket.
    #[error("the helper ended while it was asked {request}; its last words are in the agent's journal")]
    Gone {
        /// What it was asked.
        request: &'static str,
        /// How that was noticed.
        #[source]
        source: std::io::Error,
    },
    /// What is asked cannot be written.
    #[error("the request cannot be sent")]
    Encode(#[source] EncodeError),
    /// What it answered cannot be read.
    #[error("the helper's answer cannot be read; install agent and helper of one release")]
    Decode(#[source] DecodeError),
    /// It answered something else than asked.
    #[error("the helper gave an answer that does not belong to {request}")]
    Unexpected {
        /// What it was asked.
        request: &'static str,
    },
    /// The helper says that it could not be done.
    #[error("{problem}")]
    Failed {
        /// What was wrong and what to do.
        problem: String,
        /// Whether the same may go through later.
        retryable: bool,
    },
}

impl HelperError {
    /// Whether trying again may help.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Failed { retryable, .. } => *retryable,
            Self::Start(_)
            | Self::Socket(_)
            | Self::Pause { .. }
            | Self::Deadline { .. }
            | Self::Gone { .. }
            | Self::Decode(_)
            | Self::Unexpected { .. } => true,
            Self::Encode(_) => false,
        }
    }
}

/// A helper program, running or not.
#[derive(Debug)]
pub(crate) struct Helper {
    program: PathBuf,
    package: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: Option<Live>,
    failures: u32,
    not_before: Option<Instant>,
}

/// A helper that runs. Dropping it kills it.
#[derive(Debug)]
struct Live {
    child: Child,
    stream: UnixStream,
}

impl Helper {
    /// A helper that is started at its first use.
    pub(crate) fn new(program: PathBuf, package: &'static str) -> Self {
        Self { program, package, state: Mutex::default() }
    }

    /// Asks one thing and waits for its answer, in turn with others. `Failed` comes back as an error.
    ///
    /// A future that is dropped half-way ends the helper: its socket would be out of step.
    pub(crate) async fn request(
        &self,
        request: &HelperRequest,
        deadline: Duration,
    ) -> Result<HelperReply, HelperError> {
        let mut state = self.state.lock().await;
        let mut live = match state.live.take() {
            Some(live) => live,
            None => self.start(&mut state).await?,
        };
        match exchange(&mut live, request, deadline).await {
            Ok(reply) => {
                state.failures = 0;
                state.live = Some(live);
                match reply {
                    HelperReply::Failed { problem, retryable } => {
                        Err(HelperError::Failed { problem, retryable })
                    }
                    reply => Ok(reply),
                }
            }
            Err(error) => {
                // Nothing was sent, so the helper is as good as before.
                if matches!(error, HelperError::Encode(_)) {
                    state.live = Some(live);
                    return Err(error);
                }
                end(live).await;
                state.failed();
                Err(error)
            }
        }
    }

    async fn start(&self, state: &mut State) -> Result<Live, HelperError> {
        let now = Instant::now();
        if let Some(wait) = state.not_before.and_then(|moment| moment.checked_duration_since(now)) {
            let seconds = wait.as_secs() + 1;
            return Err(HelperError::Pause { failures: state.failures, seconds });
        }
        // Counted as failed until it answered: a future dropped in between must not start helpers without a pause.
        state.failed();
        let mut live = self.spawn()?;
        let hello = HelperRequest::Hello { version: HELPER_VERSION.to_owned() };
        let outcome = exchange(&mut live, &hello, Duration::from_secs(HELLO_SECONDS_MAX)).await;
        let error = match outcome {
            Ok(HelperReply::Ready { version }) if version == HELPER_VERSION => {
                info!(program = %self.program.display(), %version, "helper started");
                return Ok(live);
            }
            Ok(HelperReply::Failed { problem, retryable }) => HelperError::Failed { problem, retryable },
            Ok(_) => HelperError::Unexpected { request: "Hello" },
            Err(error) => error,
        };
        end(live).await;
        Err(error)
    }

    fn spawn(&self) -> Result<Live, HelperError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(HelperError::Socket)?;
        ours.set_nonblocking(true).map_err(HelperError::Socket)?;
        let stream = UnixStream::from_std(ours).map_err(HelperError::Socket)?;
        let child =
            command::spawn_helper(&self.program, self.package, theirs.into()).map_err(HelperError::Start)?;
        Ok(Live { child, stream })
    }
}

impl State {
    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause(self.failures));
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doubled = PAUSE_SECONDS_MIN.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(doubled.clamp(PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX))
}

/// Kills a helper and waits for it, so that no zombie stays.
async fn end(mut live: Live) {
    if let Err(error) = live.child.kill().await {
        warn!(%error, "a helper could not be ended");
    }
}

async fn exchange(
    live: &mut Live,
    request: &HelperRequest,
    deadline: Duration,
) -> Result<HelperReply, HelperError> {
    let name = name(request);
    let frame = codec::encode(request).map_err(HelperError::Encode)?;
    let gone = |source| HelperError::Gone { request: name, source };
    let work = async {
        live.stream.write_all(&frame).await.map_err(gone)?;
        let mut header = [0; HEADER_BYTES];
        live.stream.read_exact(&mut header).await.map_err(gone)?;
        let length = codec::payload_length::<HelperReply>(header).map_err(HelperError::Decode)?;
        let mut payload = vec![0; length];
        live.stream.read_exact(&mut payload).await.map_err(gone)?;
        codec::decode(&payload).map_err(HelperError::Decode)
    };
    let seconds = deadline.as_secs();
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or(Err(HelperError::Deadline { request: name, seconds }))
}

/// What a request is called in messages.
pub(crate) fn name(request: &HelperRequest) -> &'static str {
    match request {
        HelperRequest::Hello { .. } => "Hello",
        HelperRequest::Observe => "Observe",
        HelperRequest::Define(_) => "Define",
        HelperRequest::Adopt(_) => "Adopt",
        HelperRequest::Start { .. } => "Start",
        HelperRequest::Pause { .. } => "Pause",
        HelperRequest::GrowDisk { .. } => "GrowDisk",
        HelperRequest::Shutdown { .. } => "Shutdown",
        HelperRequest::PowerOff { .. } => "PowerOff",
        HelperRequest::Undefine { .. } => "Undefine",
        HelperRequest::Snapshot { .. } => "Snapshot",
        HelperRequest::Sockets { .. } => "Sockets",
        HelperRequest::Facts { .. } => "Facts",
        HelperRequest::SetPassword { .. } => "SetPassword",
        HelperRequest::Measure => "Measure",
        HelperRequest::Network => "Network",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECONDS: Duration = Duration::from_secs(20);

    /// A helper that is a shell script; `$HELLO` is a file with the frame of a right answer to Hello, `$DONE` with Done.
    fn scripted(folder: &std::path::Path, body: &str) -> Helper {
        let frame = |name: &str, reply: &HelperReply| {
            let path = folder.join(name);
            std::fs::write(&path, codec::encode(reply).unwrap()).unwrap();
            path.display().to_string()
        };
        let hello = frame("hello", &HelperReply::Ready { version: HELPER_VERSION.to_owned() });
        let done = frame("done", &HelperReply::Done);
        let program = folder.join("helper.sh");
        let script = format!("#!/bin/sh\nHELLO={hello}\nDONE={done}\nFOLDER={}\n{body}\n", folder.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Helper::new(program, "chom-none")
    }

    async fn measure(helper: &Helper, deadline: Duration) -> Result<HelperReply, HelperError> {
        helper.request(&HelperRequest::Measure, deadline).await
    }

    #[tokio::test]
    async fn a_helper_is_started_once_and_answers_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let helper = scripted(
            folder.path(),
            "echo started >>$FOLDER/starts; cat $HELLO >&0; cat $DONE >&0; cat $DONE >&0; exec sleep 600",
        );
        for _ in 0..2 {
            assert_eq!(measure(&helper, SECONDS).await.unwrap(), HelperReply::Done);
        }
        assert_eq!(std::fs::read_to_string(folder.path().join("starts")).unwrap(), "started\n");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended_and_the_next_request_waits_its_pause() {
        let folder = tempfile::tempdir().unwrap();
        let helper = scripted(folder.path(), "echo $$ >$FOLDER/pid; cat $HELLO >&0; exec sleep 600");
        let error = measure(&helper, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, HelperError::Deadline { request: "Measure", .. }), "{error}");
        let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
        let error = measure(&helper, SECONDS).await.unwrap_err();
        assert!(matches!(error, HelperError::Pause { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_crashed_is_started_again_after_its_pause() {
        let folder = tempfile::tempdir().unwrap();
        let once = "cat $HELLO >&0; [ -e $FOLDER/again ] || { touch $FOLDER/again; exit 1; }; cat $DONE >&0; exec sleep 600";
        let helper = scripted(folder.path(), once);
        assert!(matches!(measure(&helper, SECONDS).await, Err(HelperError::Gone { .. })));
        let end = Instant::now() + SECONDS;
        let reply = loop {
            match measure(&helper, SECONDS).await {
                Err(HelperError::Pause { .. }) if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => break other,
            }
        };
        assert_eq!(reply.unwrap(), HelperReply::Done);
    }

    #[tokio::test]
    async fn a_dropped_request_ends_the_helper_so_that_answers_cannot_be_mixed_up() {
        let folder = tempfile::tempdir().unwrap();
        let helper = scripted(folder.path(), "cat $HELLO >&0; exec sleep 600");
        let dropped = tokio::time::timeout(Duration::from_millis(300), measure(&helper, SECONDS)).await;
        assert!(dropped.is_err());
        assert!(helper.state.lock().await.live.is_none());
    }

    #[tokio::test]
    async fn nonsense_is_an_error_and_a_missing_helper_names_its_package() {
        let folder = tempfile::tempdir().unwrap();
        let helper = scripted(folder.path(), "echo 'HTTP/1.1 400 Bad Request' >&0; exec sleep 600");
        assert!(matches!(measure(&helper, SECONDS).await, Err(HelperError::Decode(_))));
        let missing = Helper::new("/nonexistent/helper".into(), "chom-none");
        match measure(&missing, SECONDS).await {
            Err(HelperError::Start(error)) => assert!(error.to_string().contains("chom-none"), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let seconds: Vec<u64> = [1, 2, 3, 5, 6, 64, 99].map(|n| pause(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 16, 30, 30, 30]);
    }
}
