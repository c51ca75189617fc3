//! A real host of the bench's own: a systemd machine of the test fleet beside an orchestrator on its subnet, enrolled and able
//! to run VPSs of one engine. It goes when the bench ends, well or not.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use chom_protocol::vps::Engine;
use chom_tests::hosts::INCUS_INIT;
use chom_tests::process::program;
use chom_tests::wait::{pass, wait_for};

use crate::client::Client;
use crate::world::{Shape, World};

const FLEET: &str = "bench";
const FLEET_NET: &str = "7";
const FLEET_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 7, 1);
pub(crate) const HOST: &str = "bench";
/// Booting a host, enrolling, KVM proven or not.
pub(crate) const USABLE_SECONDS_MAX: Duration = Duration::from_secs(120);
/// One change of a VPS.
const OPERATION_SECONDS_MAX: Duration = Duration::from_secs(120);

/// Why this machine cannot run hosts, if it cannot.
pub(crate) fn check() -> Result<(), String> {
    let check = fleet(&["check"]);
    if check.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&check.stderr).into_owned()) }
}

#[derive(Debug)]
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        let gone = fleet(&["down-all"]);
        if !gone.status.success() {
            eprintln!("cannot remove the bench's host: {}", String::from_utf8_lossy(&gone.stderr));
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet").join(name)
}

fn fleet(words: &[&str]) -> Output {
    let mut command = Command::new(script("fleet.sh"));
    command.args(words).env("CHOM_FLEET", FLEET).env("CHOM_FLEET_NET", FLEET_NET).stdin(Stdio::null());
    command.output().unwrap()
}

pub(crate) fn fleet_well(words: &[&str]) -> String {
    let output = fleet(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "fleet.sh {words:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs a program on the host, which must end well; gives what it printed.
pub(crate) fn on_host(words: &[&str]) -> String {
    fleet_well(&[&["exec", HOST], words].concat())
}

/// The host and its orchestrator.
pub(crate) struct RealHost {
    pub(crate) world: World,
    pub(crate) client: Client,
    pub(crate) address: String,
    _cleanup: Cleanup,
}

impl RealHost {
    /// Brings both up; `shape` says how often the agent reports and reconciles.
    pub(crate) fn up(engine: Engine, shape: Shape) -> Self {
        let cleanup = Cleanup;
        let (recipe, init) = match engine {
            Engine::Incus => ("container.sh", INCUS_INIT),
            _ => ("image.sh", "true"),
        };
        let image = Command::new(script(recipe)).output().unwrap();
        assert!(image.status.success(), "{recipe}: {}", String::from_utf8_lossy(&image.stderr));
        let image = PathBuf::from(String::from_utf8_lossy(&image.stdout).trim());
        fleet_well(&["net-up"]);
        let mut world = World::new(&Shape { address: FLEET_ADDRESS, image: Some((engine, image)), ..shape });
        world.start();
        let mut client = world.client();
        let address = fleet_well(&["up", HOST]);
        let programs = program("chom-agent");
        fleet_well(&["install-agent", HOST, programs.parent().unwrap().to_str().unwrap()]);
        // The other engine sleeps.
        let configure =
            format!("mkdir -p /etc/chom && echo 'engines = [\"{engine}\"]' >/etc/chom/agent.toml && {init}");
        on_host(&["sh", "-c", &configure]);
        let added =
            client.call("POST", "/api/hosts", Some(r#"{"name":"bench","region":"us-east"}"#)).unwrap().json();
        on_host(&["chom-agent", "enrol", added["join_code"].as_str().unwrap()]);
        on_host(&["systemctl", "enable", "--now", "--no-block", "chom-agent"]);
        wait_for("the host to be usable", USABLE_SECONDS_MAX, || {
            let page = client.call("GET", "/api/hosts", None).unwrap().json();
            let host = &page["items"][0];
            let engines = host["engines"].as_array().cloned().unwrap_or_default();
            let works = engines.iter().any(|engine| engine["problem"].is_null());
            if host["state"] == "connected" && works { Ok(()) } else { Err(host.to_string()) }
        });
        Self { world, client, address, _cleanup: cleanup }
    }

    /// Creates a VPS; gives its id and the time from the request to its operation's end.
    pub(crate) fn create(&mut self, name: &str) -> (String, Duration) {
        let began = Instant::now();
        let body = format!(r#"{{"name":"{name}","region":"us-east","size":"small"}}"#);
        let made = self.client.call("POST", "/api/vps-servers", Some(&body)).unwrap();
        assert_eq!(made.status, 202, "{}", String::from_utf8_lossy(&made.body));
        let made = made.json();
        self.await_operation(made["operation"]["id"].as_str().unwrap());
        (made["vps"]["id"].as_str().unwrap().to_owned(), began.elapsed())
    }

    /// Changes a VPS and waits for the end of it.
    pub(crate) fn order(&mut self, method: &str, path: &str) {
        let answer = self.client.call(method, path, None).unwrap();
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
        self.await_operation(answer.json()["operation"]["id"].as_str().unwrap());
    }

    /// Waits until an operation has succeeded.
    pub(crate) fn await_operation(&mut self, id: &str) {
        let deadline = Instant::now() + OPERATION_SECONDS_MAX;
        loop {
            let operation = self.client.call("GET", &format!("/api/operations/{id}"), None).unwrap().json();
            match operation["state"].as_str() {
                Some("succeeded") => return,
                Some("pending" | "running") if Instant::now() < deadline => pass(Duration::from_millis(5)),
                _ => panic!("{operation}"),
            }
        }
    }
}

/// The process on the host that has a name, of which the kernel keeps 15 characters.
pub(crate) fn pid_of(name: &str) -> String {
    on_host(&["pgrep", "-x", name]).lines().next().unwrap().to_owned()
}

/// Seconds of processor time that a process on the host has used.
pub(crate) fn cpu(pid: &str) -> f64 {
    crate::measure::cpu_seconds(&on_host(&["cat", &format!("/proc/{pid}/stat")]))
}
