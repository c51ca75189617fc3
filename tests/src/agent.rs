//! The real agent, as a process with a folder of its own and guests that exist only in a file there.

use std::fs;
use std::path::{Path, PathBuf};

use chom_agent::driver::Driver as _;
use chom_agent::driver::fake::{FAULTS_EXTENSION, FakeDriver, FakeGuest, HISTORY_EXTENSION};
use chom_agent::ledger::Ledger;
use chom_certs::Identity;
use chom_protocol::{BootId, VpsId};
use tempfile::TempDir;

use crate::process::{Process, Said, program, run};

/// A host that booted waits for word only so long; the product waits two minutes.
const MOVED_GRACE_SECONDS: u32 = 3;

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    /// Dropped before its folder: it shows its log when a test fails.
    process: Option<Process>,
    folder: TempDir,
    state: PathBuf,
}

impl Agent {
    /// A folder with a configuration, for a host that is not enrolled yet.
    ///
    /// # Panics
    /// When the folder cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("chom-agent-").tempdir().unwrap();
        let state = folder.path().join("state");
        let agent = Self { process: None, folder, state };
        agent.configure();
        agent
    }

    /// The same with its state elsewhere, such as on a disk that can become full.
    ///
    /// # Panics
    /// When the folder cannot be made.
    #[must_use]
    pub fn with_state(state: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("chom-agent-").tempdir().unwrap();
        let agent = Self { process: None, folder, state };
        agent.configure();
        agent
    }

    fn configure(&self) {
        let text = format!(
            "state_directory = {:?}\nruntime_directory = {:?}\nengines = [\"fake\"]\n\
             moved_grace_seconds = {MOVED_GRACE_SECONDS}\n",
            self.state(),
            self.folder.path().join("run")
        );
        fs::write(self.config(), text).unwrap();
    }

    /// Another machine with everything that this one has on its disk.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        copy_folder(&self.state(), &copy.state());
        copy
    }

    /// Enrols by a join code, as an admin does.
    #[must_use]
    pub fn enrol(&self, code: &str) -> Said {
        let config = self.config();
        run(&program("chom-agent"), [Path::new("--config"), &config, Path::new("enrol"), Path::new(code)])
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it runs already.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let config = self.config();
        let arguments = [Path::new("--config"), &config, Path::new("run")];
        let log = self.folder.path().join("agent.log");
        self.process = Some(Process::start(&program("chom-agent"), arguments, &log));
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// What `chom-agent status` says.
    #[must_use]
    pub fn status(&self) -> Said {
        let config = self.config();
        run(&program("chom-agent"), [Path::new("--config"), &config, Path::new("status")])
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_9(&mut self) {
        self.process.take().unwrap().kill_9();
    }

    /// kill -9 and a new start.
    pub fn restart(&mut self) {
        self.kill_9();
        self.run();
    }

    /// Asks it to end and waits.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub fn stop(&mut self) {
        let status = self.process.take().unwrap().stop();
        assert!(status.success(), "the agent ended with {status}:\n{}", self.log());
    }

    /// The running process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// What it and its earlier runs said.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("agent.log")).unwrap_or_default())
            .into_owned()
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// Where it keeps what must not be lost.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// Where its key and certificate are.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.state().join("identity")
    }

    /// The guests that exist on it, by what its engine's own file says.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    pub fn guests(&self) -> Vec<(VpsId, FakeGuest)> {
        let engine = FakeDriver::in_file(self.engine_file()).unwrap();
        let world = engine.world();
        world.guests.iter().map(|(&id, guest)| (id, guest.clone())).collect()
    }

    /// What disks were made and destroyed on it over its whole life: `made` or `destroyed`, and of which VPS.
    ///
    /// # Panics
    /// When a line cannot be read.
    #[must_use]
    pub fn history(&self) -> Vec<(String, VpsId)> {
        let path = self.engine_file().with_extension(HISTORY_EXTENSION);
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let (what, vps) = line.split_once(' ').unwrap();
            (what.to_owned(), vps.parse().unwrap())
        };
        text.lines().map(line).collect()
    }

    /// The machine lost its power and has it again: no guest runs, and it is another boot than the agent remembers. Only
    /// while the agent is down.
    ///
    /// # Panics
    /// When the agent runs, or its files cannot be read and written.
    pub fn power_fails(&self) {
        assert!(self.process.is_none(), "the agent holds the engine's file");
        let engine = FakeDriver::in_file(self.engine_file()).unwrap();
        let ids: Vec<VpsId> = engine.world().guests.keys().copied().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for id in ids {
            runtime.block_on(engine.power_off(id)).unwrap();
        }
        // A process cannot have a boot of its own; that what is remembered is of another one comes to the same.
        let host = Identity::load(&self.identity()).unwrap().host();
        let (ledger, mut memory) = Ledger::open(&self.state(), host).unwrap();
        let earlier = BootId::new(uuid::Uuid::new_v4());
        memory.boot = Some(earlier);
        for vps in memory.vps.values_mut() {
            vps.running_in = vps.running_in.map(|_| earlier);
        }
        ledger.save_memory(&memory).unwrap();
    }

    /// A guest powers itself off. Only while the agent is down: its engine holds the file.
    ///
    /// # Panics
    /// When the agent runs, or there is no such guest.
    pub fn guest_powers_off(&self, vps: VpsId) {
        assert!(self.process.is_none(), "the agent holds the engine's file");
        let engine = FakeDriver::in_file(self.engine_file()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // What the engine shows is the same whoever asked the guest.
        runtime.block_on(engine.shutdown(vps)).unwrap();
    }

    /// Lets a call of its engine go wrong: `start fails`, `start hangs`, `start breaks`; nothing ends that.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn engine_goes_wrong(&self, how: Option<&str>) {
        let path = self.engine_file().with_extension(FAULTS_EXTENSION);
        match how {
            Some(how) => fs::write(path, how).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }

    /// The file of the fake engine.
    #[must_use]
    pub fn engine_file(&self) -> PathBuf {
        self.state().join("fake-guests.json")
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self::new()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy_folder(&entry.path(), &target),
            kind if kind.is_file() => {
                fs::copy(entry.path(), target).unwrap();
            }
            _ => {}
        }
    }
}
