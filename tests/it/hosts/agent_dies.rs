//! Nothing that happens to the agent touches the VPSs: kill -9 in the middle of work, an upgrade, a hang.

use std::time::Duration;

use chom_protocol::vps::{Power, VpsState};
use chom_tests::fleet::SOON;
use chom_tests::hosts::{Site, SiteOptions, guest_name};
use chom_tests::seed::{Chance, rounds};
use chom_tests::wait::{pass, wait_for, wait_until};

/// Between two kills: actions take between a hundredth of a second and three.
const KILL_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(1500));

#[test]
fn kill_9_of_the_agent_at_random_moments_during_changes_stops_no_vps_and_makes_nothing_twice() {
    let mut chance = Chance::for_test("agent_dies");
    let site = Site::start("killed", &SiteOptions::default());
    let (api, host) = (site.api(), &site.host);
    let steady = site.create_and_greet("steady").id;
    let steady_pid = host.qemu_pid(steady);
    let mut changing = Vec::new();
    for round in 0..rounds(50, 5) {
        // Each kind of change in turn: made, stopped, started, restarted, deleted, purged.
        let change = if changing.len() < 2 { 0 } else { round % 6 };
        let target = changing.first().copied();
        let accepted = match (change, target) {
            (1, Some(vps)) => api.act(vps, "stop", None),
            (2, Some(vps)) => api.act(vps, "start", None),
            (3, Some(vps)) => api.act(vps, "restart", None),
            (4, Some(vps)) => api.act(vps, "delete", None),
            (5, Some(vps)) => api.act(vps, "purge", None),
            _ => api.create(&format!("round-{round}"), None),
        };
        let accepted = accepted.unwrap_or_else(|failure| panic!("round {round}: {failure}"));
        match change {
            1..=4 => {}
            5 => {
                changing.remove(0);
            }
            _ => changing.push(accepted.vps.id),
        }
        pass(chance.between(KILL_AFTER.0, KILL_AFTER.1));
        let pid = host.agent_pid();
        host.sh(&format!("kill -9 {pid}"));
        wait_until("systemd to start the agent anew", SOON, || {
            let again = host.unit("MainPID");
            again != "0" && again != pid.to_string()
        });
        assert_eq!(host.qemu_pid(steady), steady_pid, "round {round}: a VPS was touched");
    }
    // Every change ended, and what is there is what should be, once.
    for operation in api.list::<chom_protocol::api::operations::OperationView>("/api/operations").unwrap() {
        let ended = api.ended(operation.id, chom_tests::hosts::BOOT);
        assert_ne!(ended.state, chom_protocol::api::operations::OperationState::Failed, "{ended:?}");
    }
    let desired = wait_for("desired to equal observed", SOON, || {
        let all: Vec<chom_protocol::api::vps_servers::VpsView> =
            api.list("/api/vps-servers").map_err(|failure| failure.to_string())?;
        match all.iter().find(|row| !chom_tests::fleet::is_as_desired(row)) {
            Some(row) => Err(format!("{row:?}")),
            None => Ok(all),
        }
    });
    let mut expected: Vec<(String, String)> = desired
        .iter()
        .map(|row| {
            let state = if row.desired == Power::Running { "running" } else { "shut off" };
            (guest_name(row.id), state.to_owned())
        })
        .collect();
    expected.sort();
    let mut guests = host.guests();
    guests.sort();
    assert_eq!(guests, expected, "libvirt has each VPS once, as desired");
    let folders = host.sh("ls /var/lib/chom-agent/vps");
    assert_eq!(folders.split_whitespace().count(), desired.len(), "{folders}");
    for row in desired.iter().filter(|row| row.desired == Power::Running) {
        let _ = host.qemu_pid(row.id); // it has exactly one
    }
}

#[test]
fn a_restart_an_upgrade_and_a_hang_of_the_agent_leave_vps_running() {
    let site = Site::start("upgraded", &SiteOptions::default());
    let host = &site.host;
    assert_eq!(host.unit("ActiveState"), "active", "the unit is ready (Type=notify)");
    let vps = site.create_and_greet("steady").id;
    let (qemu, mut agent) = (host.qemu_pid(vps), host.agent_pid());
    let mut comes_back = |what: &str| {
        wait_until(&format!("the agent after {what}"), SOON, || {
            let pid = host.unit("MainPID");
            pid != "0" && pid != agent.to_string() && host.unit("ActiveState") == "active"
        });
        agent = host.agent_pid();
        chom_tests::fleet::usable(site.api(), host.id, SOON);
        site.becomes(vps, VpsState::Running);
        assert_eq!(host.qemu_pid(vps), qemu, "{what} touched a VPS");
    };

    host.sh("systemctl restart chom-agent");
    comes_back("a restart");

    // As dpkg does: the new files are renamed into place while the old ones run, then the unit is restarted.
    for (name, target) in [
        ("chom-agent", "/usr/bin/chom-agent"),
        ("chom-agent-libvirt", "/usr/libexec/chom/chom-agent-libvirt"),
    ] {
        host.push(&chom_tests::process::program(name), target);
    }
    host.sh("systemctl restart chom-agent");
    comes_back("an upgrade");

    host.sh("mkdir -p /run/systemd/system/chom-agent.service.d && \
         printf '[Service]\\nWatchdogSec=6\\n' >/run/systemd/system/chom-agent.service.d/test.conf && \
         systemctl daemon-reload && systemctl restart chom-agent");
    comes_back("a restart with a watchdog");
    let restarts: u32 = host.unit("NRestarts").parse().unwrap();
    host.sh(&format!("kill -STOP {}", host.agent_pid()));
    comes_back("a hang");
    assert_eq!(host.unit("NRestarts").parse::<u32>().unwrap(), restarts + 1, "systemd's watchdog did it");

    host.sh("systemctl stop chom-agent");
    assert_eq!(host.virsh_state(vps).as_deref(), Some("running"));
    assert_eq!(host.qemu_pid(vps), qemu);
    host.sh("systemctl start chom-agent");
    comes_back("a stop and a start");
}
