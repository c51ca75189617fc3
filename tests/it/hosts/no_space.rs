//! The file system that holds the disks is full: the admin is told what to do, and it goes on by itself when there is room.

use chom_protocol::vps::VpsState;
use chom_tests::fleet::SOON;
use chom_tests::hosts::{BOOT, Site, SiteOptions};
use chom_tests::wait::wait_for;

#[test]
fn a_full_disk_is_named_as_the_problem_and_the_vps_is_made_once_there_is_room() {
    // Room for one VPS, on a file system of its own.
    let prepare =
        "mkdir -p /var/lib/chom-agent && mount -t tmpfs -o size=320m,mode=700 tmpfs /var/lib/chom-agent";
    let site = Site::start("full", &SiteOptions { prepare, ..SiteOptions::default() });
    let (api, host) = (site.api(), &site.host);
    // All but a little: what the agent must remember still fits, an image does not.
    host.sh("dd if=/dev/zero of=/var/lib/chom-agent/filler bs=1M 2>/dev/null; truncate -s -4M /var/lib/chom-agent/filler");
    let accepted = api.create("crowded", None).unwrap_or_else(|failure| panic!("{failure}"));
    let vps = accepted.vps.id;
    let problem = wait_for("the problem to be told", SOON, || {
        let row = api.vps(vps).map_err(|failure| failure.to_string())?;
        row.observed.problem.clone().ok_or_else(|| format!("{row:?}"))
    });
    assert!(problem.to_lowercase().contains("no space"), "it says what is wrong: {problem}");
    // The VPS shows what its host said at once; the operation follows with the commit.
    let operation = wait_for("the operation to say what it waits for", SOON, || {
        let row = api.operation(accepted.operation.id).map_err(|failure| failure.to_string())?;
        if row.problem.is_some() { Ok(row) } else { Err(format!("{row:?}")) }
    });
    assert!(!operation.state.is_final(), "it is not given up: {operation:?}");

    host.sh("rm /var/lib/chom-agent/filler");
    let ended = api.ended(accepted.operation.id, BOOT);
    assert_eq!(ended.state, chom_protocol::api::operations::OperationState::Succeeded, "{ended:?}");
    assert_eq!(site.becomes(vps, VpsState::Running).observed.problem, None);
    host.greets(vps, 1);
}
