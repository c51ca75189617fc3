//! System containers by Incus, on a host that has libvirt too: a whole life through the API, and both engines at once.

use chom_protocol::vps::VpsState;
use chom_tests::fleet::{LATER, SOON, usable};
use chom_tests::hosts::{BOOT, Site, SiteOptions};
use chom_tests::wait::{wait_for, wait_until};

/// A container that somebody made by hand.
const FOREIGN: &str = "incus init --empty by-hand";

#[test]
fn a_container_lives_beside_a_machine_and_neither_engine_holds_up_the_other() {
    let site = Site::start("both", &SiteOptions { containers: true, ..SiteOptions::default() });
    let (api, host) = (site.api(), &site.host);
    host.sh(FOREIGN);
    let machine = api.create("machine", None).unwrap_or_else(|failure| panic!("{failure}")).vps.id;
    let vps = site.create_container("box").id;
    assert_eq!(host.incus_state(vps).as_deref(), Some("RUNNING"));
    let greeting = host.container_greets(vps, 1);
    let address = api.vps(vps).unwrap().addresses[0];
    assert!(
        greeting.contains("hello from box ") && greeting.contains(&format!("address={address}")),
        "{greeting}"
    );
    host.sh(&format!("ping -c 1 -W 5 {address}"));
    let state = host.incus(vps, "/state");
    assert_eq!(state["memory"]["total"].as_u64(), Some(192 << 20), "{state}");
    assert_eq!(host.sh(&format!("incus exec {} -- nproc", chom_tests::hosts::guest_name(vps))).trim(), "1");

    let shown = api.host(host.id).unwrap();
    let engines: Vec<String> = shown.engines.iter().map(|engine| engine.engine.to_string()).collect();
    assert_eq!(engines, ["libvirt", "incus"], "{shown:?}");
    assert!(
        shown.engines.iter().all(|engine| !engine.version.is_empty() && engine.problem.is_none()),
        "{shown:?}"
    );
    assert_eq!(shown.foreign.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>(), ["by-hand"]);

    nothing_is_asked_of_one_container_at_rest(&site, vps);
    site.act(vps, "stop");
    assert_eq!(host.incus_state(vps).as_deref(), Some("STOPPED"));
    assert_eq!(site.becomes(vps, VpsState::Stopped).observed.problem, None);
    site.act(vps, "start");
    host.container_greets(vps, 2);
    site.act(vps, "restart");
    host.container_greets(vps, 3);
    engines_and_agent_come_and_go(&site, vps, machine);

    site.act(vps, "delete");
    assert_eq!(host.incus_state(vps).as_deref(), Some("STOPPED"), "deleted is kept, off");
    site.act(vps, "undelete");
    host.container_greets(vps, 5);
    site.act(vps, "delete");
    site.act(vps, "purge");
    assert_eq!(host.incus_state(vps), None);
    assert_eq!(
        host.sh("incus list -f csv -c ns").trim(),
        "by-hand,STOPPED",
        "what is not ours was not touched"
    );
    assert_eq!(host.virsh_state(machine).as_deref(), Some("running"));
}

/// What Incus itself says that it is asked, over some passes and reports: of all of them at once, never of one. What the guest
/// says of itself is asked of one, each five minutes: just before this.
fn nothing_is_asked_of_one_container_at_rest(site: &Site, vps: chom_protocol::VpsId) {
    site.api().vps_becomes(vps, "known from inside", BOOT, |row| row.observed.guest.is_some());
    let heard = site.host.sh("timeout 20 incus monitor --pretty --type=logging --loglevel=debug || true");
    let asked: Vec<&str> = heard.lines().filter(|line| line.contains("/1.0/instances")).collect();
    assert!(asked.iter().any(|line| line.contains("recursion=1")), "the agent looked: {heard}");
    let of_one: Vec<&&str> = asked.iter().filter(|line| line.contains("/1.0/instances/")).collect();
    assert!(of_one.is_empty(), "{of_one:?}");
}

fn engines_and_agent_come_and_go(site: &Site, vps: chom_protocol::VpsId, machine: chom_protocol::VpsId) {
    let host = &site.host;
    host.greets(machine, 1);
    let (container, qemu) = (host.container_pid(vps), host.qemu_pid(machine));
    let agent = host.agent_pid();
    host.sh(&format!("kill -9 {agent}"));
    wait_until("systemd to start the agent anew", SOON, || {
        let again = host.unit("MainPID");
        again != "0" && again != agent.to_string()
    });
    host.sh("systemctl restart incus");
    usable(site.api(), host.id, SOON);
    assert_eq!(site.becomes(vps, VpsState::Running).observed.problem, None);
    assert_eq!((host.container_pid(vps), host.qemu_pid(machine)), (container, qemu), "a VPS was touched");

    // libvirt hangs: its machine is told of as before, and the container obeys.
    host.sh("systemctl kill -s STOP libvirtd");
    site.act(vps, "stop");
    assert_eq!(host.incus_state(vps).as_deref(), Some("STOPPED"));
    host.sh("systemctl kill -s CONT libvirtd");
    wait_for("both engines to answer", LATER, || {
        let shown = site.api().host(host.id).map_err(|failure| failure.to_string())?;
        match shown.engines.iter().all(|engine| engine.problem.is_none()) {
            true => Ok(()),
            false => Err(format!("{:?}", shown.engines)),
        }
    });
    site.becomes(machine, VpsState::Running);
    site.act(vps, "start");
    assert_eq!(host.qemu_pid(machine), qemu);
}
