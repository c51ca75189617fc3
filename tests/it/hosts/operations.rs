//! Every operation on a VPS, for real and through the HTTPS API, checked with the engine's own tools: first each by itself,
//! then with the agent killed in the middle of it.

use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::{Power, VpsState};
use chom_tests::api::Failure;
use chom_tests::fleet::{SOON, is_as_desired};
use chom_tests::hosts::{BOOT, RealHost, Site, SiteOptions, guest_name};
use chom_tests::seed::{Chance, rounds};
use chom_tests::wait::{pass, wait_for, wait_until};
use serde_json::{Value, json};

/// Actions take between a hundredth of a second and three.
const KILL_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(2500));
/// systemd waits longer from one kill to the next; not here, where only the agent is tested.
const RESTARTS_AT_ONCE: &str = "mkdir -p /etc/systemd/system/chom-agent.service.d && \
    printf '[Service]\\nRestartSteps=0\\n' >/etc/systemd/system/chom-agent.service.d/test.conf && systemctl daemon-reload";
const MIB: u64 = 1 << 20;

/// A VPS that walks through the table.
struct Walk {
    site: Site,
    vps: VpsId,
}

impl Walk {
    fn start(name: &str) -> Self {
        let site = Site::start(name, &SiteOptions { prepare: RESTARTS_AT_ONCE, ..SiteOptions::default() });
        let vps = site.create_and_greet("walker").id;
        Self { site, vps }
    }

    fn host(&self) -> &RealHost {
        &self.site.host
    }

    fn ask(&self, verb: &str, body: &Value) -> Result<VpsAccepted, Failure> {
        match verb {
            "delete" => self.site.api().act(self.vps, verb, None),
            _ => self.site.api().post(&format!("/api/vps-servers/{}/{verb}", self.vps), body),
        }
    }

    fn order(&self, verb: &str, body: &Value) -> VpsAccepted {
        self.ask(verb, body).unwrap_or_else(|failure| panic!("{verb}: {failure}"))
    }

    /// Orders it and waits until it is done.
    fn done(&self, verb: &str, body: &Value) {
        println!("{verb} {body}");
        self.site.done(&self.order(verb, body));
    }

    fn shown(&self) -> VpsView {
        self.site.api().vps(self.vps).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn virsh(&self, words: &str) -> String {
        self.host().sh(&format!("virsh -q -c qemu:///system {words}"))
    }

    /// What `virsh list` says.
    fn state(&self) -> String {
        self.host().virsh_state(self.vps).unwrap_or_default()
    }

    /// A figure of `virsh dominfo`.
    fn info(&self, key: &str) -> String {
        let all = self.virsh(&format!("dominfo {}", guest_name(self.vps)));
        let line = all.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.trim_start_matches(key).trim_start_matches(':').trim().to_owned()
    }

    /// `up` or `down`, as libvirt has the card's cable.
    fn cable(&self) -> String {
        let guest = guest_name(self.vps);
        let link = self.virsh(&format!(
            "domif-getlink {guest} $(virsh -q -c qemu:///system domiflist {guest} | awk '{{print $5}}')"
        ));
        link.split_whitespace().last().unwrap_or_default().to_owned()
    }

    /// The VPS's disks, by file name.
    fn disks(&self) -> String {
        self.host().sh(&format!("cd {} && ls disk*", RealHost::folder(self.vps))).trim().to_owned()
    }

    /// How large the guest sees its disk, as qemu-img says.
    fn disk_bytes(&self) -> u64 {
        let image = format!("{}/{}", RealHost::folder(self.vps), self.disks());
        let info = self.host().sh(&format!("qemu-img info -U --output=json {image}"));
        let info: Value = serde_json::from_str(&info).unwrap();
        info["virtual-size"].as_u64().unwrap()
    }

    fn refused(&self, verb: &str, body: &Value, status: u16, text: &str) {
        let Err(failure) = self.ask(verb, body) else { panic!("{verb} was not refused") };
        assert_eq!(failure.status(), status, "{verb}: {failure}");
        assert!(failure.to_string().contains(text), "{verb}: {failure}");
    }
}

#[test]
fn every_operation_does_what_it_says() {
    let walk = Walk::start("walk");
    paused_and_resumed(&walk);
    resized_and_renamed(&walk);
    suspended(&walk);
    stopped_by_force_and_started(&walk);
    repaired_when_changed_by_hand(&walk);
    taken_back(&walk);
    rebuilt(&walk);
    deleted_undeleted_and_purged(&walk);
}

fn paused_and_resumed(walk: &Walk) {
    walk.done("pause", &json!({}));
    assert_eq!(walk.state(), "paused");
    assert_eq!(walk.shown().desired, Power::Paused);
    walk.done("resume", &json!({}));
    assert_eq!(walk.state(), "running");

    // Paused by hand it is said, and only an order lets it go on.
    walk.virsh(&format!("suspend {}", guest_name(walk.vps)));
    let shown = walk.site.becomes(walk.vps, VpsState::Paused);
    assert_eq!(shown.desired, Power::Running);
    walk.done("start", &json!({}));
    assert_eq!(walk.state(), "running");
}

fn resized_and_renamed(walk: &Walk) {
    let before = walk.host().qemu_pid(walk.vps);
    walk.refused("resize", &json!({"disk_bytes": 100 * MIB}), 422, "never shrink");
    walk.refused("resize", &json!({"memory_bytes": 1_u64 << 45}), 409, "memory");
    walk.done("resize", &json!({"disk_bytes": 300 * MIB}));
    assert_eq!(walk.disk_bytes(), 300 * MIB);
    let seen = walk.virsh(&format!("domblkinfo {} vda", guest_name(walk.vps)));
    assert!(seen.contains(&(300 * MIB).to_string()), "the guest sees it: {seen}");
    assert_eq!(walk.host().qemu_pid(walk.vps), before, "it grew while it ran");

    walk.done("rename", &json!({"name": "renamed"}));
    assert!(walk.shown().observed.restart_needed, "its host name waits for its next start");
    walk.done("resize", &json!({"cores": 2, "memory_bytes": 224 * MIB, "restart": true}));
    let greeting = walk.host().greets(walk.vps, 2);
    assert!(greeting.contains("hello from renamed "), "{greeting}");
    assert_eq!((walk.info("CPU(s)"), walk.info("Max memory")), ("2".to_owned(), "229376 KiB".to_owned()));
    assert_ne!(walk.host().qemu_pid(walk.vps), before);
    walk.site
        .api()
        .vps_becomes(walk.vps, "without need of a restart", SOON, |row| !row.observed.restart_needed);
}

fn suspended(walk: &Walk) {
    let isolated = json!({"reason": "abuse", "mode": "isolated"});
    walk.done("suspend", &isolated);
    assert_eq!((walk.state().as_str(), walk.cable().as_str()), ("running", "down"));
    walk.done("suspend", &json!({"reason": "billing", "mode": "stopped"}));
    assert_eq!(walk.state(), "shut off");
    for verb in ["start", "restart", "rebuild"] {
        walk.refused(verb, &json!({}), 409, "suspended (billing, abuse)");
    }
    walk.host().sh("systemctl restart chom-agent");
    chom_tests::fleet::usable(walk.site.api(), walk.host().id, SOON);
    assert_eq!(walk.state(), "shut off", "it is held across a restart of the agent");
    walk.done("unsuspend", &json!({"reason": "billing"}));
    walk.host().greets(walk.vps, 3);
    assert_eq!((walk.state().as_str(), walk.cable().as_str()), ("running", "down"), "still for abuse");
    walk.done("unsuspend", &json!({"reason": "abuse"}));
    assert_eq!(walk.cable(), "up");
}

fn stopped_by_force_and_started(walk: &Walk) {
    let asked = || walk.host().console(walk.vps).matches("powering off").count();
    let before = asked();
    walk.done("stop", &json!({"force": true}));
    assert_eq!((walk.state().as_str(), asked()), ("shut off", before), "it was not asked");
    walk.done("stop", &json!({}));
    walk.done("start", &json!({}));
    walk.host().greets(walk.vps, 4);
    walk.done("restart", &json!({}));
    walk.host().greets(walk.vps, 5);
}

fn repaired_when_changed_by_hand(walk: &Walk) {
    let guest = guest_name(walk.vps);
    let inactive = || walk.virsh(&format!("dumpxml --inactive {guest} | grep -v '<chom:guest'"));
    let before = inactive();
    let pid = walk.host().qemu_pid(walk.vps);
    walk.host().sh(&format!(
        "virsh -q -c qemu:///system dumpxml --inactive {guest} | sed 's/>2<\\/vcpu>/>1<\\/vcpu>/' >/tmp/hand.xml && \
         virsh -q -c qemu:///system define /tmp/hand.xml"
    ));
    wait_for("the change by hand to be taken back", SOON, || {
        let now = inactive();
        if now == before { Ok(()) } else { Err(now) }
    });
    assert_eq!(walk.host().qemu_pid(walk.vps), pid);
}

fn taken_back(walk: &Walk) {
    // On hold nothing is done: the order waits, and can be taken back.
    walk.done("hold", &json!({"hold": true}));
    walk.refused("stop", &json!({}), 409, "on hold");
    walk.done("hold", &json!({"hold": false}));
    let stop = walk.order("stop", &json!({"grace_seconds": 600}));
    let path = format!("/api/operations/{}/cancel", stop.operation.id);
    let cancelled: chom_protocol::api::operations::OperationView =
        walk.site.api().post(&path, &json!({})).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(cancelled.state, OperationState::Cancelled);
    walk.site.api().vps_becomes(walk.vps, "as desired", BOOT, is_as_desired);
    assert_eq!(walk.state(), "running");
}

fn rebuilt(walk: &Walk) {
    let before = walk.shown();
    walk.done("rebuild", &json!({}));
    assert_eq!(walk.disks(), "disk-1.qcow2", "the old disk is gone");
    wait_until("the new disk's first boot to greet", BOOT, || {
        walk.host().console(walk.vps).matches("hello from renamed boot=1 ").count() == 1
    });
    let after = walk.shown();
    assert_eq!((after.addresses, after.id, after.name), (before.addresses, before.id, before.name));
    assert_eq!(walk.disk_bytes(), 300 * MIB);
}

fn deleted_undeleted_and_purged(walk: &Walk) {
    walk.done("delete", &json!({}));
    assert_eq!(walk.state(), "shut off");
    walk.refused("resize", &json!({"cores": 1}), 409, "undelete");
    walk.done("undelete", &json!({}));
    assert_eq!(walk.state(), "running");
    walk.done("delete", &json!({}));
    walk.done("purge", &json!({}));
    assert_eq!(walk.host().virsh_state(walk.vps), None);
    walk.refused("start", &json!({}), 404, "no VPS");
}

/// What may be ordered of a VPS that is wanted so; nothing here waits for a guest that has not booted yet.
fn orders(power: Power, deleted: bool, suspended: bool) -> Vec<(&'static str, Value)> {
    let nothing = json!({});
    if deleted {
        return vec![("undelete", nothing)];
    }
    if suspended {
        return vec![("unsuspend", json!({"reason": "admin"}))];
    }
    let mut all = vec![
        ("stop", json!({"force": true})),
        ("rebuild", nothing.clone()),
        ("suspend", json!({"reason": "admin", "mode": "isolated"})),
        ("delete", nothing.clone()),
    ];
    match power {
        Power::Running => all.extend([("pause", nothing.clone()), ("restart", nothing)]),
        Power::Paused => all.extend([("resume", nothing)]),
        Power::Stopped => all.extend([("start", nothing)]),
    }
    all
}

#[test]
fn an_operation_ends_as_asked_or_leaves_the_vps_as_it_was_when_the_agent_is_killed_in_it() {
    let mut chance = Chance::for_test("operations");
    let walk = Walk::start("torn");
    let (api, host) = (walk.site.api(), walk.host());
    let mut disk = 256 * MIB;
    // Five times each of a dozen orders; every run a part of that, drawn.
    for round in 0..rounds(60, 6) {
        let before = walk.shown();
        let mut all = orders(before.desired, before.deleted_at.is_some(), !before.suspensions.is_empty());
        if before.deleted_at.is_none() {
            all.push(("rename", json!({"name": format!("round-{round}")})));
            all.push(("resize", json!({"disk_bytes": disk + MIB})));
        }
        let (verb, body) = chance.pick(&all).clone();
        println!("{round}: {verb} {body}");
        let accepted = walk.order(verb, &body);
        pass(chance.between(KILL_AFTER.0, KILL_AFTER.1));
        let pid = host.agent_pid();
        host.sh(&format!("kill -9 {pid}"));
        wait_until("systemd to start the agent anew", SOON, || {
            let again = host.unit("MainPID");
            again != "0" && again != pid.to_string()
        });
        let ended = api.ended(accepted.operation.id, BOOT);
        assert_eq!(ended.state, OperationState::Succeeded, "{verb}: {ended:?}\n{}", host.agent_log());
        api.vps_becomes(walk.vps, "as desired", BOOT, is_as_desired);
        if verb == "resize" {
            disk += MIB;
        }
        assert_eq!(walk.disks().lines().count(), 1, "one disk, and it is whole");
        assert_eq!(walk.disk_bytes(), disk);
        let state = match walk.shown().desired {
            Power::Running => "running",
            Power::Paused => "paused",
            Power::Stopped => "shut off",
        };
        assert_eq!(walk.state(), state, "{verb}");
    }
}
