//! The real orchestrator, as a process with folders and addresses of its own and short timers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::api::{Api, Method};
use crate::export::Rows;
use crate::process::{Process, Said, program, run, show};
use crate::wait::wait_for;

/// A start reads the store and makes certificates: under a second, on a machine that does nothing else.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// The ports that the product has too; each orchestrator has a loopback address of its own instead.
const API_PORT: u16 = 8443;
const LINK_PORT: u16 = 8440;

/// What differs from test to test. The defaults are short, so that minutes pass in seconds.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; ports 8443 (TCP) and 8440 (UDP).
    pub address: Ipv4Addr,
    /// Seconds without a connection's sign of life after which it is over.
    pub idle_seconds: u32,
    /// Seconds without a sign of life after which a host is unreachable.
    pub unreachable_seconds: u32,
    /// Seconds after a start in which nothing fires for want of hosts.
    pub grace_seconds: u32,
    /// Seconds for which a condition must hold before it fires.
    pub for_seconds: u32,
    /// Seconds between an agent's reports.
    pub report_seconds: u32,
    /// Whether agents reach it through something else: it then listens for them one port higher than where they dial.
    pub behind_proxy: bool,
    /// Image file; a small made-up one if none is given.
    pub image: Option<PathBuf>,
    /// The file of a CD-ROM, listed as `installer`.
    pub iso: Option<PathBuf>,
    /// The engine of the image.
    pub engine: &'static str,
    /// A second image, for containers.
    pub container: Option<PathBuf>,
    /// Where the store is; in the orchestrator's own folder if none is given.
    pub state: Option<PathBuf>,
    /// Memory of the size `small`.
    pub memory_mib: u64,
    /// Disk of it.
    pub disk_mib: u64,
    /// Seconds that a guest has to shut down.
    pub stop_grace_seconds: u32,
    /// Seconds of an hour of usage.
    pub usage_hour_seconds: u32,
    /// Wrong passwords after which a name is locked.
    pub sign_in_failures_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: own_address(),
            idle_seconds: 3,
            unreachable_seconds: 4,
            grace_seconds: 5,
            for_seconds: 1,
            report_seconds: 1,
            behind_proxy: false,
            image: None,
            iso: None,
            engine: "fake",
            container: None,
            state: None,
            memory_mib: 64,
            disk_mib: 64,
            stop_grace_seconds: 2,
            usage_hour_seconds: 3600,
            sign_in_failures_max: 10,
        }
    }
}

/// A loopback address that no other orchestrator of this run or of another has, so that fixed ports never collide.
///
/// # Panics
/// After 250 orchestrators.
#[must_use]
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(own < 251, "no loopback addresses are left");
    Ipv4Addr::new(127, 128 | high & 0x7f, low, own)
}

/// An orchestrator that was set up, running or not.
#[derive(Debug)]
pub struct Orchestrator {
    /// Dropped before its folder: it shows its log when a test fails.
    process: Option<Process>,
    folder: TempDir,
    options: Options,
    api: Api,
}

impl Orchestrator {
    /// Sets one up (`init`), and starts it.
    ///
    /// # Panics
    /// When it cannot be set up or does not become ready.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let mut orchestrator = Self::set_up(options);
        orchestrator.run();
        orchestrator
    }

    /// Sets one up and leaves it down.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[must_use]
    pub fn set_up(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("chom-orchestrator-").tempdir().unwrap();
        let config = write_config(folder.path(), &options);
        let printed = run(&program("chom-orchestrator"), [Path::new("--config"), &config, Path::new("init")])
            .well("chom-orchestrator init");
        let token = printed.split_whitespace().find(|word| word.starts_with("chom-api-"));
        let token = token.unwrap_or_else(|| panic!("init printed no token: {printed}")).to_owned();
        let server = format!("https://{}:{API_PORT}", options.address);
        let api = Api::new(server, token, &state_folder(folder.path(), &options).join("ca.pem"));
        Self { folder, options, process: None, api }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already or does not become ready.
    pub fn run(&mut self) {
        self.launch();
        self.ready();
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// When it runs already.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let config = self.config();
        let arguments = [Path::new("--config"), &config, Path::new("run")];
        self.process = Some(Process::start(&program("chom-orchestrator"), arguments, &self.log_file()));
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn ready(&mut self) {
        let (api, process) = (self.api.clone(), self.process.as_mut().unwrap());
        let log = self.folder.path().join("orchestrator.log");
        wait_for("the orchestrator to be ready", READY_DEADLINE, || {
            if !process.runs() {
                show(&log);
                panic!("the orchestrator ended instead of becoming ready");
            }
            match api.ask(Method::Get, "/readyz", None, &[]) {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_9(&mut self) {
        self.process.take().unwrap().kill_9();
    }

    /// Asks it to end and waits; it must end well.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(&mut self) {
        let status = self.process.take().unwrap().stop();
        if !status.success() {
            show(&self.log_file());
        }
        assert!(status.success(), "the orchestrator ended with {status}");
    }

    /// kill -9 and a new start.
    pub fn restart(&mut self) {
        self.kill_9();
        self.run();
    }

    /// Lets go of a process that ended by itself.
    pub fn gone(&mut self) {
        self.process = None;
    }

    /// The running process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Runs another command of the program on its configuration, such as `export`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Said {
        let config = self.config();
        let mut arguments = vec!["--config", config.to_str().unwrap()];
        arguments.extend_from_slice(words);
        run(&program("chom-orchestrator"), arguments)
    }

    /// Runs chomctl as its administrator.
    #[must_use]
    pub fn chomctl(&self, words: &[&str]) -> Said {
        run(Path::new("env"), self.chomctl_words(words))
    }

    /// Starts chomctl as its administrator, to run until it is dropped; what it prints goes to the end of `log`.
    #[must_use]
    pub fn chomctl_that_stays(&self, words: &[&str], log: &Path) -> Process {
        Process::start(Path::new("env"), self.chomctl_words(words), log)
    }

    fn chomctl_words(&self, words: &[&str]) -> Vec<String> {
        let (chomctl, ca) = (program("chomctl"), self.state().join("ca.pem"));
        let before = [
            format!("CHOM_SERVER={}", self.api.server),
            format!("CHOM_TOKEN={}", self.api.token),
            format!("CHOM_CA_FILE={}", ca.display()),
            chomctl.display().to_string(),
        ];
        before.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Exports the store of an orchestrator that is down, and gives the file.
    ///
    /// # Panics
    /// When it cannot be exported.
    #[must_use]
    pub fn export(&self) -> PathBuf {
        assert!(self.process.is_none(), "only one process may open the store");
        let _ = self.command(&["export"]).well("chom-orchestrator export");
        let mut exports: Vec<PathBuf> = fs::read_dir(self.folder.path().join("exports"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "zst"))
            .collect();
        exports.sort();
        exports.pop().unwrap()
    }

    /// The audit trail of an orchestrator that is down, the oldest entry first: what stands in the log, and what is on its way
    /// there in the store.
    ///
    /// # Panics
    /// When it cannot be read, or an entry stands there twice with two contents.
    #[must_use]
    pub fn audit(&self) -> Vec<Value> {
        let number = |entry: &Value| entry["sequence"].as_u64().unwrap();
        let mut entries: BTreeMap<u64, Value> =
            Rows::read(&self.export()).of("audit").map(|entry| (number(entry), entry.clone())).collect();
        for file in self.audit_files() {
            for line in fs::read_to_string(file).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let entry = line["entry"]["data"].clone();
                let before = entries.insert(number(&entry), entry.clone());
                assert!(
                    before.is_none_or(|before| before == entry),
                    "two entries have the number of {entry}"
                );
            }
        }
        entries.into_values().collect()
    }

    /// The files of the audit log, the oldest first.
    ///
    /// # Panics
    /// When there is no folder of them.
    #[must_use]
    pub fn audit_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.state().join("audit")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Moves the store away and restores an export in its place.
    ///
    /// # Panics
    /// When it runs, or the export cannot be restored.
    pub fn restore(&self, export: &Path) {
        assert!(self.process.is_none(), "only one process may open the store");
        let store = self.state().join("store");
        let away = (1..).map(|n| self.state().join(format!("store.{n}"))).find(|path| !path.exists());
        fs::rename(store, away.unwrap()).unwrap();
        let _ = self.command(&["restore", export.to_str().unwrap()]).well("chom-orchestrator restore");
    }

    /// Its API, with the administrator's token.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What it and its earlier runs said.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Where agents are listened to.
    #[must_use]
    pub fn link_address(&self) -> SocketAddr {
        link_address(&self.options)
    }

    /// Where agents dial.
    #[must_use]
    pub fn public_address(&self) -> SocketAddr {
        (self.options.address, LINK_PORT).into()
    }

    /// Its own folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state_folder(self.folder.path(), &self.options)
    }

    /// The image that VPSs are made from.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.options.image.clone().unwrap_or_else(|| self.folder.path().join("image.raw"))
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("orchestrator.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("orchestrator.log")
    }
}

fn state_folder(folder: &Path, options: &Options) -> PathBuf {
    options.state.clone().unwrap_or_else(|| folder.join("state"))
}

fn link_address(options: &Options) -> SocketAddr {
    (options.address, LINK_PORT + u16::from(options.behind_proxy)).into()
}

fn write_config(folder: &Path, options: &Options) -> PathBuf {
    let Options { address, engine, image, .. } = options;
    let image = image.clone().unwrap_or_else(|| {
        let made_up = folder.join("image.raw");
        fs::write(&made_up, vec![0x5a; 64 * 1024]).unwrap();
        made_up
    });
    let state = state_folder(folder, options);
    let mut text = format!(
        "state_directory = {state:?}\nexport_directory = {:?}\nmaster_key = {:?}\n\
         listen_api = \"{address}:{API_PORT}\"\nlisten_link = \"{}\"\npublic_addresses = [\"{address}:{LINK_PORT}\"]\n\
         image_fetch_networks = [\"127.0.0.0/8\"]\nregions = [\"us-east\", \"eu-west\"]\nunreachable_after_seconds = {}\ngrace_seconds = {}\n\n\
         [link]\nidle_timeout_seconds = {}\n\n[limits]\nsign_in_failures_max = {}\n\n\
         [agent]\nreport_interval_seconds = {}\nreconcile_interval_seconds = 2\nstop_grace_seconds = {}\n\n\
         [overcommit]\ncores_per_core = 1000\ndisk_reserved_mib = 0\n\n\
         [webhooks]\nnetworks = [\"127.0.0.0/8\"]\nretry_first_seconds = 1\nretry_longest_seconds = 2\n\n\
         [usage]\nhour_seconds = {}\nclose_after_seconds = 1\n\n\
         [alerts]\ndisk_ratio = 0.99\ndisk_clear_ratio = 0.98\nfor_seconds = {}\ngroup_wait_seconds = 0\ngroup_interval_seconds = 1\n\n",
        folder.join("exports"),
        folder.join("master.key"),
        link_address(options),
        options.unreachable_seconds,
        options.grace_seconds,
        options.idle_seconds,
        options.sign_in_failures_max,
        options.report_seconds,
        options.stop_grace_seconds,
        options.usage_hour_seconds,
        options.for_seconds,
    );
    let (memory, disk) = (options.memory_mib, options.disk_mib);
    let format =
        if image.extension().is_some_and(|extension| extension == "qcow2") { "qcow2" } else { "raw" };
    write!(
        text,
        "[[size]]\nname = \"small\"\ncores = 1\nmemory_mib = {memory}\ndisk_mib = {disk}\n\n\
         [[image]]\nname = \"hello\"\nfile = {image:?}\nengine = \"{engine}\"\nformat = \"{format}\"\n\
         minimum_disk_mib = 1\ndefault = true\n"
    )
    .unwrap();
    if let Some(iso) = &options.iso {
        write!(
            text,
            "\n[[image]]\nname = \"installer\"\nfile = {iso:?}\nengine = \"{engine}\"\nformat = \"iso\"\n"
        )
        .unwrap();
    }
    if let Some(container) = &options.container {
        write!(
            text,
            "\n[[image]]\nname = \"hello-container\"\nfile = {container:?}\nformat = \"incus_tarball\"\ndefault = true\n"
        )
        .unwrap();
    }
    let config = folder.join("orchestrator.toml");
    fs::write(&config, text).unwrap();
    config
}
