//! libvirtd restarts, its helper is killed or hangs: a pass fails, the next ones work, and VPSs keep running.

use chom_protocol::vps::VpsState;
use chom_tests::fleet::{SOON, usable};
use chom_tests::hosts::{Site, SiteOptions};
use chom_tests::wait::wait_for;
use serde_json::json;

#[test]
fn a_restart_of_libvirtd_and_kill_9_of_the_helper_cost_a_pass_and_no_vps() {
    let site = Site::start("engine", &SiteOptions::default());
    let host = &site.host;
    let vps = site.create_and_greet("steady").id;
    let (qemu, agent) = (host.qemu_pid(vps), host.agent_pid());
    let helper = || host.sh("pgrep -f ^/usr/libexec/chom/chom-agent-libvirt").trim().to_owned();

    for trouble in [
        "systemctl restart libvirtd",
        "pkill -9 -f ^/usr/libexec/chom/chom-agent-libvirt",
        "systemctl kill -s KILL libvirtd",
    ] {
        host.sh(trouble);
        // Work that comes right then is done all the same.
        for hold in [true, false] {
            let path = format!("/api/vps-servers/{vps}/hold");
            let accepted = site.api().post(&path, &json!({ "hold": hold }));
            site.done(&accepted.unwrap_or_else(|failure| panic!("{failure}")));
        }
        usable(site.api(), host.id, SOON);
        assert_eq!(site.becomes(vps, VpsState::Running).observed.problem, None, "{trouble}");
        assert_eq!(host.qemu_pid(vps), qemu, "{trouble} touched a VPS");
        assert_eq!(host.agent_pid(), agent, "{trouble} cost the agent");
        wait_for("one helper", SOON, || {
            let pids = helper();
            if pids.lines().count() == 1 { Ok(()) } else { Err(pids) }
        });
    }
    site.act(vps, "stop");
    site.act(vps, "start");
    host.greets(vps, 2);
}
