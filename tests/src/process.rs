//! A program under test: found among what was built, started with its output in a file, killed hard, asked to end. Its
//! output is printed when the test fails.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::{wait_for, wait_until};

/// Names the folder of the programs, where they are not beside the tests.
const FOLDER_VARIABLE: &str = "CHOM_PROGRAMS";
/// A command that is not a server ends by then, on a machine that compiles at the same time.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// A killed process is gone by then.
const GONE_DEADLINE: Duration = Duration::from_secs(20);
/// Of each log, so much is printed when a test fails.
const TAIL_BYTES: u64 = 12 * 1024;

/// The path of a program of ours.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let folders: Vec<PathBuf> = match std::env::var_os(FOLDER_VARIABLE) {
        Some(folder) => vec![folder.into()],
        // target/debug/deps/<test> and target/debug/<bin> both have the programs at target/debug.
        None => std::env::current_exe().unwrap().ancestors().skip(1).take(2).map(Path::to_owned).collect(),
    };
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("`{name}` is not in {folders:?}: run `packaging/build.sh` first, or set {FOLDER_VARIABLE}")
    })
}

/// What a command that ended said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Said {
    /// Its standard output, if it went well.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn well(self, what: &str) -> String {
        assert_eq!(self.code, Some(0), "{what} failed:\n{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub fn run<A: AsRef<OsStr>>(path: &Path, arguments: impl IntoIterator<Item = A>) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut child = Guard(command.spawn().unwrap_or_else(|error| panic!("cannot run {path:?}: {error}")));
    let status = wait_for(&format!("the end of {path:?}"), COMMAND_DEADLINE, || {
        child.0.try_wait().unwrap().ok_or_else(|| text(&err))
    });
    Said { code: status.code(), stdout: text(&out), stderr: text(&err) }
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Kills what it holds when the test lets go of it.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that runs until it is ended.
#[derive(Debug)]
pub struct Process {
    child: Guard,
    log: PathBuf,
    name: String,
}

impl Process {
    /// Starts it; its output goes to the end of `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(path: &Path, arguments: impl IntoIterator<Item = A>, log: &Path) -> Self {
        let output = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(path);
        command.args(arguments).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info,chom_agent=debug,chom_orchestrator=debug");
        }
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {path:?}: {error}"));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { child: Guard(child), log: log.to_owned(), name }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill_9(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let (name, child) = (self.name.clone(), &mut self.child.0);
        let mut ended = None;
        wait_until(&format!("{name} to end when asked"), GONE_DEADLINE, || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn ended(mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child.0;
        let what = format!("{} to end by itself", self.name);
        wait_for(&what, deadline, || child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()))
    }

    /// Everything it and its earlier runs said.
    #[must_use]
    pub fn log(&self) -> String {
        text(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show(&self.log);
        }
    }
}

/// Prints the end of a log.
pub fn show(log: &Path) {
    let mut tail = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let length = file.metadata().map_or(0, |file| file.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)));
        let _ = file.read_to_end(&mut tail);
    }
    println!("---- the end of {}\n{}----", log.display(), String::from_utf8_lossy(&tail));
}
