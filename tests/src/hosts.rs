//! Real hosts: machines of the test fleet (`fleet/fleet.sh`) with systemd, libvirt and QEMU of their own, each beside an
//! orchestrator that listens on the same subnet. What is done inside a host goes through `fleet.sh exec`; what is done to
//! it is a power cut, a pulled cable, a reboot. All of it goes when the test ends, well or not.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::VpsState;
use chom_protocol::{HostId, VpsId};
use serde_json::{Value, json};

use crate::api::Api;
use crate::fleet::usable;
use crate::orchestrator::{Options, Orchestrator};
use crate::process::{Said, program, run};
use crate::wait::wait_for;

/// The third byte of the fleet's subnet: apart from the demo's and from one that somebody plays with. Runs of several
/// checkouts on one machine set `CHOM_TEST_NET`, each another, and do not wait for each other.
static NET: LazyLock<u8> = LazyLock::new(|| match std::env::var("CHOM_TEST_NET") {
    Ok(net) => net.parse().expect("CHOM_TEST_NET is a number from 0 to 255"),
    Err(_) => 5,
});
/// Orchestrators' addresses; hosts have those up to .210.
const ORCHESTRATOR_FIRST: u8 = 240;
/// Tests at once: most of one is waiting, and more guests than cores would only be slow.
const SITES_MAX: usize = 2;
/// An agent starts, libvirt tries out QEMU, KVM is tried: 10 s on an idle machine.
const USABLE: Duration = Duration::from_secs(120);
/// A guest that is translated boots in 10 s on an idle machine.
pub const BOOT: Duration = Duration::from_secs(120);

/// Which of the places for a test are taken, and the lock that keeps other runs of these tests away meanwhile.
struct Ground {
    taken: [bool; SITES_MAX],
    alone: Option<File>,
}

static GROUND: LazyLock<(Mutex<Ground>, Condvar)> =
    LazyLock::new(|| (Mutex::new(Ground { taken: [false; SITES_MAX], alone: None }), Condvar::new()));

/// A place for one test. The first one clears the ground of what a killed run left, the last one clears it again.
#[derive(Debug)]
struct Place(usize);

impl Place {
    fn take() -> Self {
        let (ground, freed) = &*GROUND;
        let mut ground = ground.lock().unwrap_or_else(PoisonError::into_inner);
        let place = loop {
            match ground.taken.iter().position(|taken| !taken) {
                Some(place) => break place,
                None => ground = freed.wait(ground).unwrap_or_else(PoisonError::into_inner),
            }
        };
        if ground.alone.is_none() {
            let lock =
                File::create(std::env::temp_dir().join(format!("chom-test-hosts-{}.lock", *NET))).unwrap();
            lock.lock().unwrap();
            ground.alone = Some(lock);
            let can = fleet(&["check"]);
            assert_eq!(can.code, Some(0), "real hosts cannot run here:\n{}", can.stderr);
            let _ = fleet(&["down-all"]).well("fleet.sh down-all");
            let _ = fleet(&["net-up"]).well("fleet.sh net-up");
            for place in 0..SITES_MAX {
                let prefix = format!("{}/24", orchestrator_address(place));
                let uplink = format!("chom{}", *NET);
                let _ =
                    run(Path::new("ip"), ["address", "add", &prefix, "dev", &uplink]).well("ip address add");
            }
        }
        ground.taken[place] = true;
        Self(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (ground, freed) = &*GROUND;
        let mut ground = ground.lock().unwrap_or_else(PoisonError::into_inner);
        ground.taken[self.0] = false;
        if ground.taken == [false; SITES_MAX] {
            let gone = fleet(&["down-all"]);
            if gone.code != Some(0) {
                println!("fleet.sh down-all: {}", gone.stderr);
            }
            ground.alone = None;
        }
        freed.notify_one();
    }
}

fn orchestrator_address(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, *NET, ORCHESTRATOR_FIRST + u8::try_from(place).unwrap())
}

/// Runs fleet.sh to its end.
fn fleet(words: &[&str]) -> Said {
    let script = script("fleet.sh");
    let (name, net) = (format!("CHOM_FLEET=it{}", *NET), format!("CHOM_FLEET_NET={}", *NET));
    run(Path::new("env"), [name.as_str(), &net, script.to_str().unwrap()].iter().chain(words))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet").join(name)
}

/// What a script of the fleet builds on its first use, outside of any deadline: it takes a minute, once.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let built = Command::new(script(name)).output().unwrap();
    assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).unwrap().trim().into()
}

/// The image of the tiny virtual machine that greets.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn machine_image() -> PathBuf {
    built("image.sh")
}

/// As [`machine_image`], of the container.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn container_image() -> PathBuf {
    built("container.sh")
}

/// What differs from test to test.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    /// Seconds that a host which booted waits for word from the orchestrator before it starts its VPSs.
    pub moved_grace_seconds: u32,
    /// Run inside each host before the agent is started, by sh.
    pub prepare: &'static str,
    /// The file of a CD-ROM, listed as `installer`.
    pub iso: Option<PathBuf>,
    /// Whether it runs containers too. Where not, its Incus sleeps.
    pub containers: bool,
    /// Memory of the size `small`.
    pub memory_mib: u64,
    /// Disk of it.
    pub disk_mib: u64,
}

/// Incus as after `incus admin init --minimal`, with the pool that works on any file system.
pub const INCUS_INIT: &str = "printf 'storage_pools: [{name: default, driver: dir}]\nprofiles: [{name: default, devices: \
    {root: {type: disk, path: /, pool: default}}}]\n' | incus admin init --preseed";

impl Default for SiteOptions {
    fn default() -> Self {
        Self {
            moved_grace_seconds: 5,
            prepare: "true",
            iso: None,
            containers: false,
            memory_mib: 192,
            disk_mib: 256,
        }
    }
}

/// One orchestrator and one real host, enrolled and able to run VPSs.
#[derive(Debug)]
pub struct Site {
    /// The host; dropped first, so that the orchestrator's log stands last.
    pub host: RealHost,
    /// The orchestrator.
    pub orchestrator: Orchestrator,
    _place: Place,
}

impl Site {
    /// Brings both up.
    ///
    /// # Panics
    /// When the machine cannot run hosts, or one of them does not come up in time.
    #[must_use]
    pub fn start(name: &str, options: &SiteOptions) -> Self {
        let _ = built("rootfs.sh");
        let (image, container) = (built("image.sh"), built("container.sh"));
        let place = Place::take();
        let orchestrator = Orchestrator::start(Options {
            address: orchestrator_address(place.0),
            image: Some(image),
            iso: options.iso.clone(),
            engine: "libvirt",
            container: Some(container),
            stop_grace_seconds: 20,
            memory_mib: options.memory_mib,
            disk_mib: options.disk_mib,
            ..Options::default()
        });
        let api = orchestrator.api();
        let added = api.add_host(name, "us-east").unwrap_or_else(|failure| panic!("{failure}"));
        let host = RealHost { name: name.to_owned(), id: added.host };
        let _ = fleet(&["up", name]).well("fleet.sh up");
        let programs = program("chom-agent");
        let _ = fleet(&["install-agent", name, programs.parent().unwrap().to_str().unwrap()])
            .well("fleet.sh install-agent");
        let (engines, init) = match options.containers {
            true => ("", INCUS_INIT),
            false => ("engines = [\"libvirt\"]", "true"),
        };
        host.sh(&format!(
            "mkdir -p /etc/chom && printf 'moved_grace_seconds = {}\n{engines}\n' >/etc/chom/agent.toml && {{ {}; }} && {{ {init}; }}",
            options.moved_grace_seconds, options.prepare
        ));
        host.sh(&format!("chom-agent enrol {}", added.join_code));
        host.sh("systemctl enable --now chom-agent");
        let site = Self { host, orchestrator, _place: place };
        usable(site.api(), site.host.id, USABLE);
        site
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.orchestrator.api()
    }

    /// Waits until an operation that was accepted has succeeded.
    ///
    /// # Panics
    /// When it does not.
    pub fn done(&self, accepted: &VpsAccepted) {
        let ended = self.api().ended(accepted.operation.id, BOOT);
        assert_eq!(
            ended.state,
            chom_protocol::api::operations::OperationState::Succeeded,
            "{ended:?}\n{}",
            self.host.agent_log()
        );
    }

    /// Creates a VPS and waits until its console greeted.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn create_and_greet(&self, name: &str) -> VpsView {
        let accepted = self.api().create(name, None).unwrap_or_else(|failure| panic!("{failure}"));
        self.done(&accepted);
        self.host.greets(accepted.vps.id, 1);
        accepted.vps
    }

    /// Creates a container and waits until its console greeted.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn create_container(&self, name: &str) -> VpsView {
        let body = json!({"name": name, "region": "us-east", "size": "small", "engine": "incus"});
        let accepted: VpsAccepted =
            self.api().post("/api/vps-servers", &body).unwrap_or_else(|failure| panic!("{failure}"));
        self.done(&accepted);
        self.host.container_greets(accepted.vps.id, 1);
        accepted.vps
    }

    /// Does something to a VPS through the API and waits until it is done.
    ///
    /// # Panics
    /// When it is refused or does not succeed.
    pub fn act(&self, vps: VpsId, action: &str) {
        let accepted =
            self.api().act(vps, action, None).unwrap_or_else(|failure| panic!("{action}: {failure}"));
        self.done(&accepted);
    }

    /// Waits until a VPS is seen in a state.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn becomes(&self, vps: VpsId, state: VpsState) -> VpsView {
        self.api().vps_becomes(vps, &format!("{state:?}"), BOOT, |row| row.observed.state == state)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- the agent of {}\n{}----", self.host.name, self.host.agent_log());
        }
    }
}

/// A host of the fleet.
#[derive(Debug)]
pub struct RealHost {
    name: String,
    /// Its id in the fleet.
    pub id: HostId,
}

impl RealHost {
    fn fleet(&self, action: &str) {
        let _ = fleet(&[action, &self.name]).well(&format!("fleet.sh {action} {}", self.name));
    }

    /// A power cut.
    ///
    /// # Panics
    /// When it cannot be done, as with everything here.
    pub fn kill(&self) {
        self.fleet("kill");
    }

    /// Power again; returns when it is up.
    pub fn start(&self) {
        self.fleet("start");
    }

    /// Pulls its cable, silently.
    pub fn cut(&self) {
        self.fleet("cut");
    }

    /// Plugs it in again.
    pub fn heal(&self) {
        self.fleet("heal");
    }

    /// Copies a file into it, by renaming.
    pub fn push(&self, source: &Path, target: &str) {
        let _ = fleet(&["push", &self.name, source.to_str().unwrap(), target]).well("fleet.sh push");
    }

    /// Runs a script in it, whatever comes of it.
    #[must_use]
    pub fn try_sh(&self, script: &str) -> Said {
        fleet(&["exec", &self.name, "sh", "-c", script])
    }

    /// Runs a script in it that must end well, and gives what it printed.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).well(script)
    }

    /// Its agent's journal.
    #[must_use]
    pub fn agent_log(&self) -> String {
        fleet(&["logs", &self.name, "chom-agent", "-n", "80", "-o", "short-precise"]).stdout
    }

    /// The guests that libvirt has, by name, with what `virsh list` says they do.
    ///
    /// # Panics
    /// When libvirt does not answer.
    #[must_use]
    pub fn guests(&self) -> Vec<(String, String)> {
        let listed = self.sh("virsh -q -c qemu:///system list --all");
        let row = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let name = words.next().unwrap_or_default().to_owned();
            (name, words.collect::<Vec<_>>().join(" "))
        };
        listed.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
    }

    /// What `virsh list` says that a VPS's guest does; none: there is none.
    #[must_use]
    pub fn virsh_state(&self, vps: VpsId) -> Option<String> {
        let name = guest_name(vps);
        self.guests().into_iter().find(|(guest, _)| *guest == name).map(|(_, state)| state)
    }

    /// The process id that QEMU has in the host for a VPS that runs.
    ///
    /// # Panics
    /// When it does not run exactly once.
    #[must_use]
    pub fn qemu_pid(&self, vps: VpsId) -> u32 {
        let found = self.sh(&format!("pgrep -f '^[^ ]*qemu-system[^ ]* .*guest={}[,]'", guest_name(vps)));
        let pids: Vec<&str> = found.split_whitespace().collect();
        assert_eq!(pids.len(), 1, "QEMU processes of {vps}: {pids:?}");
        pids[0].parse().unwrap()
    }

    /// Where the VPS's files are.
    #[must_use]
    pub fn folder(vps: VpsId) -> String {
        format!("/var/lib/chom-agent/vps/{vps}")
    }

    /// Everything the VPS's serial console ever said.
    #[must_use]
    pub fn console(&self, vps: VpsId) -> String {
        self.try_sh(&format!("cat {}/console.log", Self::folder(vps))).stdout
    }

    /// Waits until the VPS greeted from this boot of it.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn greets(&self, vps: VpsId, boot: u32) -> String {
        greeting(boot, || self.console(vps))
    }

    /// As [`Self::greets`], of a container.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn container_greets(&self, vps: VpsId, boot: u32) -> String {
        greeting(boot, || self.container_console(vps))
    }

    /// Everything the console of a container ever said. Each look at it empties liblxc's buffer into the file.
    #[must_use]
    pub fn container_console(&self, vps: VpsId) -> String {
        let name = guest_name(vps);
        let look =
            format!("incus console {name} --show-log >/dev/null; cat /var/log/incus/{name}/console.log");
        self.try_sh(&look).stdout
    }

    /// What `incus list` says that a VPS's container does; none: there is none.
    ///
    /// # Panics
    /// When Incus does not answer.
    #[must_use]
    pub fn incus_state(&self, vps: VpsId) -> Option<String> {
        let (listed, name) = (self.sh("incus list -f csv -c ns"), guest_name(vps));
        let row = listed.lines().find_map(|line| line.strip_prefix(&format!("{name},")))?;
        Some(row.to_owned())
    }

    /// What Incus' API says at a path below a VPS's container, such as `/state`.
    ///
    /// # Panics
    /// When it says nothing.
    #[must_use]
    pub fn incus(&self, vps: VpsId, path: &str) -> Value {
        serde_json::from_str(&self.sh(&format!("incus query /1.0/instances/{}{path}", guest_name(vps))))
            .unwrap()
    }

    /// The process id of a container's first process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn container_pid(&self, vps: VpsId) -> i64 {
        self.incus(vps, "/state")["pid"].as_i64().filter(|pid| *pid > 0).unwrap()
    }

    /// What `chom-agent status --json` says, if an agent runs.
    #[must_use]
    pub fn agent_status(&self) -> Option<Value> {
        let said = self.try_sh("chom-agent status --json");
        (said.code == Some(0)).then(|| serde_json::from_str(&said.stdout).ok()).flatten()
    }

    /// A property of the agent's unit, as systemd has it.
    #[must_use]
    pub fn unit(&self, property: &str) -> String {
        self.sh(&format!("systemctl show chom-agent --property={property} --value")).trim().to_owned()
    }

    /// The agent's process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn agent_pid(&self) -> u32 {
        let pid = self.unit("MainPID").parse().unwrap();
        assert_ne!(pid, 0, "the agent does not run:\n{}", self.agent_log());
        pid
    }
}

impl Drop for RealHost {
    fn drop(&mut self) {
        let gone = fleet(&["down", &self.name]);
        if gone.code != Some(0) {
            println!("fleet.sh down {}: {}", self.name, gone.stderr);
        }
    }
}

/// Waits until a console greeted from a boot.
///
/// # Panics
/// When it does not in time.
pub fn greeting(boot: u32, console: impl Fn() -> String) -> String {
    let wanted = format!(" boot={boot} ");
    wait_for(&format!("the greeting of boot {boot}"), BOOT, || {
        let console = console();
        let greeting = console.lines().rfind(|line| line.starts_with("chom-hello: hello from "));
        match greeting.filter(|line| line.contains(&wanted)) {
            Some(line) => Ok(line.to_owned()),
            None => Err(console),
        }
    })
}

/// The name that the guest of a VPS has in its engine.
#[must_use]
pub fn guest_name(vps: VpsId) -> String {
    chom_protocol::helper::GuestDefinition::guest_name(vps)
}
