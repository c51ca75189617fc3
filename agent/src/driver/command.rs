//! Starts programs: the only file of the agent that does. Every program has a deadline, its output is bounded, and it
//! dies with whoever waits for it. What the output means is the callers' business.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Kept of each of a program's two outputs; the rest is read and thrown away, so that it never blocks. The rules of a
/// thousand guests' cards are 3 MB of text.
const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Shown of a failed program's standard error.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// A program that can be run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// What it is called, looked up in PATH.
    pub(crate) name: &'static str,
    /// The Debian package that has it.
    pub(crate) package: &'static str,
    /// How long it may take.
    pub(crate) deadline: Duration,
}

/// What a program left.
#[derive(Debug)]
pub(crate) struct Output {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it wrote, up to a bound.
    pub(crate) stdout: Vec<u8>,
    /// What it complained about, up to a bound.
    pub(crate) stderr: Vec<u8>,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("`{program}` is not installed: install the package {package}")]
    Missing {
        /// Which program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// It could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its output could not be read.
    #[error("cannot read what `{program}` says")]
    Read {
        /// Which program.
        program: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error(
        "`{program}` did not end within {seconds} s and was killed; is the disk or the machine overloaded?"
    )]
    Deadline {
        /// Which program.
        program: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// It said that it failed.
    #[error("`{program}` failed ({status}): {message}")]
    Failed {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        message: String,
    },
}

impl Program {
    /// Runs it to its end, whatever that is. Dropping the future kills it.
    pub(crate) async fn run(&self, arguments: &[OsString]) -> Result<Output, CommandError> {
        let mut child = spawn(Path::new(self.name), self.package, arguments, Stdio::null(), Stdio::piped())?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr, status) =
                tokio::try_join!(read_bounded(stdout), read_bounded(stderr), child.wait())?;
            Ok::<_, std::io::Error>(Output { status, stdout, stderr })
        };
        match tokio::time::timeout(self.deadline, work).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(source)) => Err(CommandError::Read { program: self.name, source }),
            Err(_) => {
                // Already sent by kill_on_drop; waiting for it as well leaves no zombie behind.
                let _ = child.kill().await;
                Err(CommandError::Deadline { program: self.name, seconds: self.deadline.as_secs() })
            }
        }
    }

    /// Runs it; anything but success is an error that quotes what it said. Gives its standard output.
    pub(crate) async fn succeed(&self, arguments: &[OsString]) -> Result<Vec<u8>, CommandError> {
        let output = self.run(arguments).await?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let message = said.trim().replace('\n', "; ");
        let skip = message.chars().count().saturating_sub(MESSAGE_CHARACTERS_MAX);
        let message = message.chars().skip(skip).collect();
        Err(CommandError::Failed { program: self.name, status: output.status, message })
    }
}

/// Starts a helper whose standard input is `socket`; its standard error is the agent's own (the journal). It is killed
/// when the child is dropped.
pub(crate) fn spawn_helper(
    program: &Path,
    package: &'static str,
    socket: OwnedFd,
) -> Result<Child, CommandError> {
    spawn(program, package, &[], Stdio::from(socket), Stdio::inherit())
}

fn spawn(
    program: &Path,
    package: &'static str,
    arguments: &[OsString],
    stdin: Stdio,
    stderr: Stdio,
) -> Result<Child, CommandError> {
    #[expect(clippy::disallowed_methods, reason = "this is the one file that starts programs")]
    let mut command = Command::new(program);
    command
        .args(arguments)
        // Messages are quoted to admins and looked at by tests: always in one language.
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(true);
    command.spawn().map_err(|source| {
        let program = program.display().to_string();
        match source.kind() {
            std::io::ErrorKind::NotFound => CommandError::Missing { program, package },
            _ => CommandError::Start { program, source },
        }
    })
}

/// Reads to the end and keeps the beginning.
async fn read_bounded(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else { return Ok(Vec::new()) };
    let mut kept = Vec::new();
    (&mut pipe).take(OUTPUT_BYTES_MAX).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program = Program { name: "sh", package: "dash", deadline: Duration::from_secs(20) };

    fn script(text: &str) -> [OsString; 2] {
        ["-c".into(), text.into()]
    }

    #[tokio::test]
    async fn output_and_status_come_back() {
        let output = SHELL.run(&script("echo out; echo err >&2; exit 67")).await.unwrap();
        assert_eq!(output.status.code(), Some(67));
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[tokio::test]
    async fn a_missing_program_names_its_package() {
        let missing = Program { name: "chom-no-such-program", package: "chom-none", ..SHELL };
        let error = missing.run(&[]).await.unwrap_err().to_string();
        assert!(error.contains("chom-no-such-program") && error.contains("install the package chom-none"));
    }

    #[tokio::test]
    async fn a_failure_quotes_what_the_program_said() {
        let error = SHELL.succeed(&script("echo no room >&2; exit 3")).await.unwrap_err().to_string();
        assert!(error.contains("no room") && error.contains('3'), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_at_its_deadline() {
        let short = Program { deadline: Duration::from_millis(200), ..SHELL };
        let error = short.run(&script("exec sleep 600")).await.unwrap_err();
        assert!(matches!(error, CommandError::Deadline { .. }), "{error}");
    }

    #[tokio::test]
    async fn endless_output_is_bounded_and_does_not_block_the_program() {
        let output = SHELL.run(&script("head -c 10000000 /dev/zero; echo done >&2")).await.unwrap();
        assert_eq!(output.stdout.len() as u64, OUTPUT_BYTES_MAX);
        assert_eq!(output.stderr, b"done\n");
    }
}
