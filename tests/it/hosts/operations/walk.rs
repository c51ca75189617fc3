//! A VPS that walks through the table, of either engine: what is ordered goes through the API, what is claimed is checked
//! with the engine's own tools inside the host.

use std::cell::Cell;

use chom_protocol::VpsId;
use chom_protocol::api::snapshots::{SnapshotAccepted, SnapshotView};
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::Engine;
use chom_tests::api::{Api, Failure, Method};
use chom_tests::hosts::{RealHost, Site, SiteOptions, guest_name};
use serde_json::{Value, json};

pub(super) const MIB: u64 = 1 << 20;

/// What an engine is asked by its own tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    Running,
    Paused,
    Off,
    /// It has no such guest.
    Gone,
}

/// A VPS that walks through the table.
pub(super) struct Walk {
    pub(super) site: Site,
    pub(super) engine: Engine,
    pub(super) vps: VpsId,
    /// Which boot of its disk it greeted from last.
    boots: Cell<u32>,
}

impl Walk {
    pub(super) fn start(engine: Engine, name: &str) -> Self {
        let containers = engine == Engine::Incus;
        let site = Site::start(name, &SiteOptions { containers, ..SiteOptions::default() });
        let vps = match engine {
            Engine::Incus => site.create_container("walker"),
            _ => site.create_and_greet("walker"),
        };
        Self { site, engine, vps: vps.id, boots: Cell::new(1) }
    }

    pub(super) fn host(&self) -> &RealHost {
        &self.site.host
    }

    pub(super) fn api(&self) -> &Api {
        self.site.api()
    }

    pub(super) fn ask(&self, verb: &str, body: &Value) -> Result<VpsAccepted, Failure> {
        let path = format!("/api/vps-servers/{}", self.vps);
        match verb {
            "delete" => self.api().act(self.vps, verb, None),
            "delete snapshot" => {
                let path = format!("{path}/snapshots/{}", body["id"].as_str().unwrap());
                self.api().call(Method::Delete, &path, None, None)
            }
            "restore snapshot" => self
                .api()
                .post(&format!("{path}/snapshots/{}/restore", body["id"].as_str().unwrap()), &json!({})),
            "snapshot" => {
                let taken: SnapshotAccepted = self.api().post(&format!("{path}/snapshots"), body)?;
                Ok(VpsAccepted { vps: self.shown(), operation: taken.operation })
            }
            _ => self.api().post(&format!("{path}/{verb}"), body),
        }
    }

    pub(super) fn order(&self, verb: &str, body: &Value) -> VpsAccepted {
        self.ask(verb, body).unwrap_or_else(|failure| panic!("{verb}: {failure}"))
    }

    /// Orders it and waits until it is done.
    pub(super) fn done(&self, verb: &str, body: &Value) -> VpsAccepted {
        println!("{} {verb} {body}", self.engine);
        let accepted = self.order(verb, body);
        self.site.done(&accepted);
        accepted
    }

    pub(super) fn refused(&self, verb: &str, body: &Value, status: u16, text: &str) {
        let Err(failure) = self.ask(verb, body) else { panic!("{verb} was not refused") };
        assert_eq!(failure.status(), status, "{verb}: {failure}");
        assert!(failure.to_string().contains(text), "{verb}: {failure}");
    }

    pub(super) fn shown(&self) -> VpsView {
        self.api().vps(self.vps).unwrap_or_else(|failure| panic!("{failure}"))
    }

    pub(super) fn snapshots(&self) -> Vec<SnapshotView> {
        self.api()
            .list(&format!("/api/vps-servers/{}/snapshots", self.vps))
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The snapshots of its disk, as the engine's tools list them.
    pub(super) fn snapshots_there(&self) -> usize {
        let guest = guest_name(self.vps);
        let listed = match self.engine {
            Engine::Incus => self.host().sh(&format!("incus snapshot list {guest} -f csv")),
            _ => {
                let all = self.host().sh(&format!("qemu-img snapshot -U -l {}", self.disk()));
                all.lines()
                    .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
                    .collect::<Vec<_>>()
                    .join("\n")
            }
        };
        listed.lines().filter(|line| !line.trim().is_empty()).count()
    }

    pub(super) fn virsh(&self, words: &str) -> String {
        self.host().sh(&format!("virsh -q -c qemu:///system {words}"))
    }

    pub(super) fn does(&self, vps: VpsId) -> Does {
        let state = match self.engine {
            Engine::Incus => self.host().incus_state(vps),
            _ => self.host().virsh_state(vps),
        };
        match state.as_deref() {
            Some("running" | "RUNNING") => Does::Running,
            Some("paused" | "FROZEN") => Does::Paused,
            Some("shut off" | "STOPPED") => Does::Off,
            None => Does::Gone,
            Some(other) => panic!("the engine says `{other}`"),
        }
    }

    pub(super) fn is(&self, does: Does) {
        assert_eq!(self.does(self.vps), does);
    }

    /// kill -9 of the engine's daemon, not of its guests. Its unit starts it anew, or the next question does.
    pub(super) fn kill_engine(&self) {
        let (unit, socket) = match self.engine {
            Engine::Incus => ("incus", "incus.socket"),
            _ => ("libvirtd", "libvirtd.socket"),
        };
        // Not waited for: killed while a container goes down, Incus starts for a minute, for the container's hooks wait
        // for Incus and Incus for them. The operation's deadline holds for both.
        self.host().sh(&format!(
            "systemctl kill --kill-whom=main -s KILL {unit}; systemctl start --no-block {socket} {unit}"
        ));
    }

    /// Whether the engine's own tool gets an answer.
    pub(super) fn engine_answers(&self) -> bool {
        let asked = match self.engine {
            Engine::Incus => "timeout 10 incus list",
            _ => "timeout 10 virsh -q -c qemu:///system list",
        };
        self.host().try_sh(asked).code == Some(0)
    }

    /// Halts it behind CHOM's back.
    pub(super) fn pause_by_hand(&self) {
        let guest = guest_name(self.vps);
        match self.engine {
            Engine::Incus => drop(self.host().sh(&format!("incus pause {guest}"))),
            _ => drop(self.virsh(&format!("suspend {guest}"))),
        }
    }

    /// Gives it another number of processors behind CHOM's back.
    pub(super) fn set_cores_by_hand(&self, from: u32, to: u32) {
        let guest = guest_name(self.vps);
        match self.engine {
            Engine::Incus => drop(self.host().sh(&format!("incus config set {guest} limits.cpu {to}"))),
            _ => drop(self.host().sh(&format!(
                "virsh -q -c qemu:///system dumpxml --inactive {guest} | sed 's/>{from}<\\/vcpu>/>{to}<\\/vcpu>/' \
                 >/tmp/hand.xml && virsh -q -c qemu:///system define /tmp/hand.xml"
            ))),
        }
    }

    /// How many processors it has when it is next started.
    pub(super) fn cores(&self) -> u32 {
        let guest = guest_name(self.vps);
        let said = match self.engine {
            Engine::Incus => self.host().sh(&format!("incus config get {guest} limits.cpu")),
            _ => self.virsh(&format!("vcpucount {guest} --maximum --config")),
        };
        said.trim().parse().unwrap()
    }

    /// How much memory it has, in bytes.
    pub(super) fn memory(&self) -> u64 {
        if self.engine == Engine::Incus {
            return self.host().incus(self.vps, "/state")["memory"]["total"].as_u64().unwrap();
        }
        let all = self.virsh(&format!("dominfo {}", guest_name(self.vps)));
        let line = all.lines().find(|line| line.starts_with("Max memory")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The process that it is, of the host's.
    pub(super) fn process(&self) -> i64 {
        match self.engine {
            Engine::Incus => self.host().container_pid(self.vps),
            _ => i64::from(self.host().qemu_pid(self.vps)),
        }
    }

    /// Everything on the host that is a disk of it, by name.
    pub(super) fn disks(&self) -> Vec<String> {
        let name = guest_name(self.vps);
        let all = match self.engine {
            Engine::Incus => self.host().sh(&format!("incus list -f csv -c n | grep {name}")),
            _ => self.host().sh(&format!("cd {} && ls disk*", RealHost::folder(self.vps))),
        };
        all.lines().map(str::to_owned).collect()
    }

    fn disk(&self) -> String {
        format!("{}/{}", RealHost::folder(self.vps), self.disks()[0])
    }

    /// How large its disk is, as the engine's tools say.
    pub(super) fn disk_bytes(&self) -> u64 {
        if self.engine == Engine::Incus {
            let size = self.host().sh(&format!("incus config device get {} root size", guest_name(self.vps)));
            return size.trim().parse().unwrap();
        }
        let info = self.host().sh(&format!("qemu-img info -U --output=json {}", self.disk()));
        let info: Value = serde_json::from_str(&info).unwrap();
        info["virtual-size"].as_u64().unwrap()
    }

    /// Whether its host reaches it at its address.
    pub(super) fn answers(&self) -> bool {
        let address = self.shown().addresses[0];
        self.host().try_sh(&format!("ping -c 1 -W 2 {address}")).code == Some(0)
    }

    /// Waits until it greets from the next boot of its disk.
    pub(super) fn boots(&self) -> String {
        self.boots_as(self.boots.get() + 1)
    }

    /// Waits until it greets from this boot of its disk.
    pub(super) fn boots_as(&self, boot: u32) -> String {
        self.boots.set(boot);
        self.greets(self.vps, boot)
    }

    pub(super) fn boot(&self) -> u32 {
        self.boots.get()
    }

    pub(super) fn greets(&self, vps: VpsId, boot: u32) -> String {
        match self.engine {
            Engine::Incus => self.host().container_greets(vps, boot),
            _ => self.host().greets(vps, boot),
        }
    }
}
