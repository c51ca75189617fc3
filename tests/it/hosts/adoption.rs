//! Guests that somebody made by hand, in both engines: listed, untouched for as long as nobody asks, adopted where they
//! stand, then managed as every VPS is. Looked at with `virsh`, `incus` and `nft`.

use std::path::Path;

use chom_protocol::api::adoption::AdoptPlans;
use chom_protocol::api::hosts::HostView;
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::network::port_name;
use chom_protocol::vps::VpsState;
use chom_tests::fleet::SOON;
use chom_tests::hosts::{BOOT, RealHost, Site, SiteOptions, greeting};
use chom_tests::process::{program, run};
use chom_tests::wait::{wait_for, wait_until};
use serde_json::json;

const MIB: u64 = 1 << 20;
const FOLDER: &str = "/srv/by-hand";
/// A bridge of the host's own, which CHOM did not make either.
const BRIDGE: &str =
    "ip link add br-lan type bridge && ip address add 192.0.2.1/24 dev br-lan && ip link set br-lan up";
/// The pools' lowest free address is not the guests'.
const MACHINE: &str = "192.0.2.77";
const CONTAINER: &str = "192.0.2.78";

/// A host with guests that were made by hand.
struct Scene {
    site: Site,
}

impl Scene {
    fn host(&self) -> &RealHost {
        &self.site.host
    }

    fn virsh(&self, words: &str) -> String {
        self.host().sh(&format!("virsh -q -c qemu:///system {words}"))
    }

    /// Defines a machine on the bridge, with a disk of its own and a console that is written down.
    fn define(&self, name: &str, disk: &str, mac: &str) {
        let domain = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><bios useserial='yes'/></os><features><acpi/></features>\
             <cpu mode='maximum'/><devices>{disk}<interface type='bridge'><mac address='{mac}'/>\
             <source bridge='br-lan'/><model type='virtio'/></interface>\
             <serial type='pty'><log file='{FOLDER}/{name}.log' append='on'/><target port='0'/></serial>\
             </devices></domain>"
        );
        self.host().sh(&format!("echo \"{domain}\" >/tmp/{name}.xml"));
        self.virsh(&format!("define /tmp/{name}.xml"));
    }

    fn qcow2(&self, name: &str) -> String {
        let file = format!("{FOLDER}/{name}.qcow2");
        self.host().sh(&format!("cp {FOLDER}/image {file} && qemu-img resize -q -f qcow2 {file} 256M"));
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{file}'/>\
             <target dev='vda' bus='virtio'/></disk>"
        )
    }

    fn machine_pid(&self) -> String {
        self.host().sh("pgrep -f '^[^ ]*qemu-system[^ ]* .*guest=vm101[,]'").trim().to_owned()
    }

    fn container_pid(&self) -> i64 {
        let state = self.host().sh("incus query /1.0/instances/ct7/state");
        serde_json::from_str::<serde_json::Value>(&state).unwrap()["pid"].as_i64().unwrap()
    }

    /// All that tells whether anybody touched them.
    fn traces(&self) -> String {
        self.host().sh(&format!(
            "pgrep -f '[g]uest=vm101'; for d in vm101 spare; do virsh -q -c qemu:///system dumpxml --inactive $d; done; \
             incus config show ct7; incus query /1.0/instances/ct7/state | grep '\"pid\"'; sha256sum {FOLDER}/spare.img"
        ))
    }

    fn machine_greets(&self, boot: u32) {
        greeting(boot, || self.host().try_sh(&format!("cat {FOLDER}/vm101.log")).stdout);
    }

    fn shown(&self) -> HostView {
        self.site.api().host(self.host().id).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn foreign(&self) -> Vec<String> {
        let mut names: Vec<String> = self.shown().foreign.into_iter().map(|guest| guest.name).collect();
        names.sort();
        names
    }

    fn becomes_foreign(&self, names: &[&str]) {
        wait_for("the guests made by hand to be listed", SOON, || {
            let foreign = self.foreign();
            if foreign == names { Ok(()) } else { Err(format!("{foreign:?}")) }
        });
    }

    /// Runs chomctl as an admin would.
    fn chomctl(&self, words: &[&str]) -> chom_tests::process::Said {
        let api = self.site.api();
        let variables = [
            format!("CHOM_SERVER={}", api.server),
            format!("CHOM_TOKEN={}", api.token),
            format!("CHOM_CA_FILE={}", self.site.orchestrator.state().join("ca.pem").display()),
            "NO_PROXY=*".to_owned(),
        ];
        let chomctl = program("chomctl");
        let words = variables
            .iter()
            .map(String::as_str)
            .chain([chomctl.to_str().unwrap()])
            .chain(words.iter().copied());
        run(Path::new("env"), words)
    }

    fn vps(&self, name: &str) -> VpsView {
        self.site.api().get(&format!("/api/vps-servers/{name}")).unwrap_or_else(|failure| panic!("{failure}"))
    }

    fn order(&self, vps: &VpsView, verb: &str, body: &serde_json::Value) {
        println!("{verb} {}", vps.name);
        let path = format!("/api/vps-servers/{}/{verb}", vps.id);
        let accepted: VpsAccepted =
            self.site.api().post(&path, body).unwrap_or_else(|failure| panic!("{verb}: {failure}"));
        self.site.done(&accepted);
    }

    fn refused(&self, path: &str, body: &serde_json::Value, text: &str) {
        let answer: Result<VpsAccepted, _> = self.site.api().post(path, body);
        let Err(failure) = answer else { panic!("{path} {body} was not refused") };
        assert!(failure.to_string().contains(text), "{path} {body}: {failure}");
    }
}

fn start() -> Scene {
    let site =
        Site::start("byhand", &SiteOptions { containers: true, prepare: BRIDGE, ..SiteOptions::default() });
    let scene = Scene { site };
    let host = scene.host();
    host.sh(&format!("mkdir -p {FOLDER}"));
    host.push(&chom_tests::hosts::machine_image(), &format!("{FOLDER}/image"));
    host.push(&chom_tests::hosts::container_image(), "/tmp/container.tar.gz");
    scene.define("vm101", &scene.qcow2("vm101"), "52:54:00:aa:00:01");
    scene.virsh("start vm101");
    host.sh(&format!("truncate -s 32M {FOLDER}/spare.img"));
    let raw = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{FOLDER}/spare.img'/>\
         <target dev='sda' bus='sata'/></disk>"
    );
    scene.define("spare", &raw, "52:54:00:aa:00:02");
    host.sh("incus image import /tmp/container.tar.gz --alias hello >/dev/null && incus init hello ct7 && \
         incus config device add ct7 eth0 nic nictype=bridged parent=br-lan && incus start ct7");
    scene
}

#[test]
fn guests_made_by_hand_are_listed_left_alone_adopted_where_they_stand_and_managed() {
    let scene = start();
    scene.becomes_foreign(&["ct7", "spare", "vm101"]);
    scene.machine_greets(1);
    untouched_for_as_long_as_nobody_asks(&scene);
    judged_before_anything_is_done(&scene);
    adopted_where_they_stand(&scene);
    machine_is_managed(&scene);
    container_is_managed(&scene);
    one_that_vanished_is_said_and_can_be_purged(&scene);
}

fn untouched_for_as_long_as_nobody_asks(scene: &Scene) {
    let before = scene.traces();
    for round in 0..3 {
        if round == 1 {
            scene.host().sh("systemctl restart chom-agent");
        }
        let was = scene.host().agent_status().map(|status| status["status"]["observed_at"].clone());
        // A pass of its own for each round: the host's generation rises.
        let cordon = json!({ "cordoned": round % 2 == 0 });
        let path = format!("/api/hosts/{}/cordon", scene.host().id);
        let _: HostView = scene.site.api().post(&path, &cordon).unwrap_or_else(|failure| panic!("{failure}"));
        wait_until("another pass", SOON, || {
            let status = scene.host().agent_status();
            status.is_some_and(|status| Some(status["status"]["observed_at"].clone()) != was)
        });
    }
    assert_eq!(scene.traces(), before, "what nobody asked for was touched");
    scene.becomes_foreign(&["ct7", "spare", "vm101"]);
}

/// Every line of a file is judged with what the lines before it would take, and nothing is done.
fn judged_before_anything_is_done(scene: &Scene) {
    let before = scene.traces();
    let on_host = |guest: &str, more: serde_json::Value| {
        let mut line = json!({ "host": "byhand", "guest": guest });
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    scene.refused("/api/adoptions", &on_host("vm101", json!({})), "make one (`chomctl network create`)");
    let network = json!({ "name": "lan", "region": "us-east", "kind": "bridge", "bridge": "br-lan" });
    let api = scene.site.api();
    let _: serde_json::Value =
        api.post("/api/networks", &network).unwrap_or_else(|failure| panic!("{failure}"));
    let pool = json!({ "prefix": "192.0.2.0/24", "gateway": "192.0.2.1",
        "reserved": [{ "first": "192.0.2.70", "last": "192.0.2.79" }] });
    let _: serde_json::Value =
        api.post("/api/networks/lan/pools", &pool).unwrap_or_else(|failure| panic!("{failure}"));
    let guests = json!({ "guests": [
        on_host("vm101", json!({ "addresses": [MACHINE] })),
        on_host("spare", json!({ "addresses": [MACHINE] })),
        on_host("spare", json!({ "addresses": ["192.0.2.1"] })),
        on_host("spare", json!({ "name": "vm101" })),
        on_host("spare", json!({ "engine": "incus" })),
        on_host("ct7", json!({})),
        on_host("ct7", json!({ "cores": 1, "memory_bytes": 64 * MIB, "disk_bytes": 64 * MIB, "addresses": ["198.51.100.9"] })),
        on_host("vm101", json!({})),
    ] });
    let AdoptPlans { plans } =
        api.post("/api/adoptions/plan", &guests).unwrap_or_else(|failure| panic!("{failure}"));
    let said: Vec<String> =
        plans.iter().map(|plan| plan.problem.clone().unwrap_or_else(|| plan.notes.join("; "))).collect();
    for (said, expected) in said.iter().zip([
        "from 192.0.2.77",
        "held by VPS `vm101`",
        "is the gateway",
        "named `vm101` exists already",
        "has no foreign guest `spare`",
        "sets no limit",
        "outside every pool",
        "is VPS `vm101` of tenant `default` already",
    ]) {
        assert!(said.contains(expected), "{said}: no {expected}");
    }
    let sizes =
        |at: usize| plans[at].vps.as_ref().map(|vps| (vps.cores, vps.memory_bytes.0, vps.disk_bytes.0));
    assert_eq!((sizes(0), sizes(6)), (Some((1, 192 * MIB, 256 * MIB)), Some((1, 64 * MIB, 64 * MIB))));
    assert_eq!(scene.traces(), before, "a plan did something");
}

fn adopted_where_they_stand(scene: &Scene) {
    let (machine, container) = (scene.machine_pid(), scene.container_pid());
    let file = std::env::temp_dir().join(format!("chom-adopt-{}.toml", std::process::id()));
    std::fs::write(
        &file,
        format!(
            "[[guest]]\nhost = 'byhand'\nguest = 'vm101'\nname = 'web'\naddresses = ['{MACHINE}']\nexternal_id = 'panel-1'\n\
             [[guest]]\nhost = 'byhand'\nguest = 'ct7'\naddresses = ['{CONTAINER}']\ncores = 1\nmemory = '64M'\ndisk = '64M'\n\
             [[guest]]\nhost = 'byhand'\nguest = 'nobody'\n[[guest]]\nhost = 'byhand'\nguest = 'spare'\n"
        ),
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let plan = scene.chomctl(&["vps", "adopt", "-f", path, "--dry-run"]);
    println!("{}{}", plan.stdout, plan.stderr);
    assert!(
        plan.code == Some(1) && plan.stdout.contains("3 of 4 can be adopted; nothing was done"),
        "{plan:?}"
    );
    assert_eq!(scene.foreign(), ["ct7", "spare", "vm101"]);
    let done = scene.chomctl(&["vps", "adopt", "-f", path, "--wait"]);
    println!("{}{}", done.stdout, done.stderr);
    std::fs::remove_file(&file).unwrap();
    assert!(done.code == Some(1) && done.stdout.contains("no foreign guest `nobody`"), "{done:?}");
    assert_eq!(done.stdout.matches("becomes VPS").count(), 3, "{done:?}");

    assert_eq!((scene.machine_pid(), scene.container_pid()), (machine, container), "they were restarted");
    let uptime = scene.host().try_sh("cat /srv/by-hand/vm101.log").stdout.matches(" boot=").count();
    assert_eq!(uptime, 1, "it booted again");
    wait_until("nothing to be foreign", SOON, || scene.foreign().is_empty());
    let web = scene.vps("web");
    assert_eq!(
        (web.observed.state, web.image, web.external_id.as_deref()),
        (VpsState::Running, None, Some("panel-1"))
    );
    assert_eq!(web.id.to_string(), scene.virsh("domuuid vm101").trim(), "its id is its own");
    assert_eq!(
        (web.addresses[0].to_string().as_str(), web.adopted.unwrap().guest.as_str()),
        (MACHINE, "vm101")
    );
    assert_eq!(scene.vps("spare").observed.state, VpsState::Stopped);

    // The guard holds for what the cards are called while they run.
    let rules = scene.host().sh("nft list table bridge chom");
    let machine_port = scene.virsh("domiflist vm101").split_whitespace().next().unwrap().to_owned();
    let container_port = scene.host().sh("incus config get ct7 volatile.eth0.host_name").trim().to_owned();
    for port in [&machine_port, &container_port, &port_name(web.id)] {
        assert!(rules.contains(&format!("\"{port}\" : jump")), "{port} is not guarded:\n{rules}");
    }
    assert!(rules.contains(MACHINE) && rules.contains(CONTAINER), "{rules}");
    let on_host = json!({ "host": "byhand", "guest": "vm101" });
    scene.refused("/api/adoptions", &on_host, "is VPS `web` of tenant `default` already");
}

fn machine_is_managed(scene: &Scene) {
    let (site, host) = (&scene.site, scene.host());
    let web = scene.vps("web");
    let pid = scene.machine_pid();
    let at = format!("/api/vps-servers/{}", web.id);
    scene.refused(&format!("{at}/rebuild"), &json!({}), "was adopted");
    scene.refused(&format!("{at}/clone"), &json!({ "name": "copy" }), "was adopted");
    let spare = scene.vps("spare");
    scene.refused(
        &format!("/api/vps-servers/{}/snapshots", spare.id),
        &json!({ "name": "s" }),
        "only qcow2 files",
    );

    scene.order(&web, "rename", &json!({ "name": "shop" }));
    scene.order(&web, "pause", &json!({}));
    assert_eq!(scene.virsh("domstate vm101").trim(), "paused");
    scene.order(&web, "resume", &json!({}));
    let isolated = json!({ "reason": "abuse", "mode": "isolated" });
    scene.order(&web, "suspend", &isolated);
    let cable = || scene.virsh("dumpxml vm101").contains("<link state='down'/>");
    assert!(cable(), "its cable is in");
    scene.order(&web, "unsuspend", &json!({ "reason": "abuse" }));
    assert!(!cable());

    let taken: serde_json::Value = site
        .api()
        .post(&format!("{at}/snapshots"), &json!({ "name": "before" }))
        .unwrap_or_else(|failure| panic!("{failure}"));
    let operation = serde_json::from_value(taken["operation"]["id"].clone()).unwrap();
    assert_eq!(site.api().ended(operation, BOOT).state, OperationState::Succeeded);
    assert!(host.sh(&format!("qemu-img snapshot -U -l {FOLDER}/vm101.qcow2")).contains("chom-"));

    scene.order(&web, "resize", &json!({ "disk_bytes": 300 * MIB, "memory_bytes": 256 * MIB, "cores": 2 }));
    let info = host.sh(&format!("qemu-img info -U --output=json {FOLDER}/vm101.qcow2"));
    assert!(info.contains(&(300 * MIB).to_string()), "{info}");
    assert_eq!(scene.machine_pid(), pid, "nothing so far needed a restart");
    assert!(site.api().vps(web.id).unwrap().observed.restart_needed);

    site.act(web.id, "restart");
    scene.machine_greets(2);
    assert_ne!(scene.machine_pid(), pid);
    let kept = scene.virsh("dominfo vm101");
    assert!(kept.contains("CPU(s):         2") && kept.contains("262144 KiB"), "{kept}");
    assert!(scene.virsh("domiflist vm101").contains(&port_name(web.id)), "its card has CHOM's name");
    site.act(web.id, "stop");
    assert_eq!(scene.virsh("domstate vm101").trim(), "shut off");
    site.act(web.id, "start");
    scene.machine_greets(3);
    site.act(web.id, "delete");
    assert_eq!(scene.virsh("domstate vm101").trim(), "shut off");
    site.act(web.id, "undelete");
    scene.machine_greets(4);
    for vps in [web.id, spare.id] {
        site.act(vps, "delete");
        site.act(vps, "purge");
    }
    assert_eq!(scene.virsh("list --all --name").trim(), "", "their definitions are gone");
    let left = host.sh(&format!("cd {FOLDER} && ls; ls /var/lib/chom-agent/vps"));
    assert!(!left.contains("vm101.qcow2") && !left.contains("spare.img"), "a disk is left: {left}");
    assert!(left.contains("image"), "what was not adopted is gone: {left}");
}

fn container_is_managed(scene: &Scene) {
    let (site, host) = (&scene.site, scene.host());
    let ct7 = scene.vps("ct7");
    let state = || host.sh("incus list -f csv -c ns").trim().to_owned();
    scene.order(&ct7, "pause", &json!({}));
    assert_eq!(state(), "ct7,FROZEN");
    scene.order(&ct7, "resume", &json!({}));
    scene.order(&ct7, "resize", &json!({ "memory_bytes": 128 * MIB }));
    assert_eq!(host.sh("incus config get ct7 limits.memory").trim(), (128 * MIB).to_string());
    let before = scene.container_pid();
    site.act(ct7.id, "stop");
    assert_eq!(state(), "ct7,STOPPED");
    site.act(ct7.id, "start");
    assert_ne!(scene.container_pid(), before);
    assert_eq!(host.sh("incus config device get ct7 eth0 host_name").trim(), port_name(ct7.id));
    host.sh("incus copy --instance-only ct7 copy");
    scene.becomes_foreign(&["copy"]);
    site.act(ct7.id, "delete");
    site.act(ct7.id, "purge");
    assert_eq!(state(), "copy,STOPPED", "it is gone, and its copy is nobody's");
}

fn one_that_vanished_is_said_and_can_be_purged(scene: &Scene) {
    scene.define("gone", "", "52:54:00:aa:00:03");
    scene.becomes_foreign(&["copy", "gone"]);
    scene.host().sh("systemctl stop chom-agent");
    scene.virsh("undefine gone");
    let body = json!({ "host": "byhand", "guest": "gone", "disk_bytes": MIB });
    let accepted: VpsAccepted =
        scene.site.api().post("/api/adoptions", &body).unwrap_or_else(|failure| panic!("{failure}"));
    scene.host().sh("systemctl start chom-agent");
    wait_for("the host to say that it is gone", SOON, || {
        let shown = scene.site.api().vps(accepted.vps.id).map_err(|failure| failure.to_string())?;
        let problem = shown.observed.problem.unwrap_or_default();
        if problem.contains("was removed") { Ok(()) } else { Err(problem) }
    });
    scene.site.act(accepted.vps.id, "delete");
    scene.site.act(accepted.vps.id, "purge");
    assert_eq!(scene.site.api().vps(accepted.vps.id).unwrap_err().status(), 404);
}
