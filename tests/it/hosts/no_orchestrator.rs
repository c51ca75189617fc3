//! The orchestrator is gone for a minute, and the host loses its power meanwhile: it brings its VPSs up again from its own
//! ledger, and what it measured arrives afterwards.

use std::time::{Duration, Instant};

use chom_protocol::api::hosts::HostState;
use chom_protocol::vps::VpsState;
use chom_tests::fleet::LATER;
use chom_tests::hosts::{Site, SiteOptions};
use chom_tests::wait::{holds_for, now, wait_for};

/// As long as the issue says.
const OUTAGE: Duration = Duration::from_secs(60);

#[test]
fn a_host_that_reboots_without_the_orchestrator_runs_its_vps_again_and_reports_later_what_it_missed() {
    let mut site = Site::start("alone", &SiteOptions::default());
    let runs = site.create_and_greet("runs").id;
    let off = site.create_and_greet("off").id;
    site.act(off, "stop");

    let (gone_at, gone_since) = (now(), Instant::now());
    site.orchestrator.kill_9();
    let qemu = site.host.qemu_pid(runs);
    holds_for("the VPS", Duration::from_secs(5), || match site.host.qemu_pid(runs) {
        pid if pid == qemu => Ok(()),
        other => Err(format!("QEMU is {other}")),
    });
    site.host.kill();
    site.host.start();
    site.host.greets(runs, 2);
    assert_eq!(site.host.virsh_state(off).as_deref(), Some("shut off"), "what was off stays off");
    while gone_since.elapsed() < OUTAGE {
        site.host.greets(runs, 2);
        chom_tests::wait::pass(Duration::from_secs(1));
    }
    let back_at = now();
    site.orchestrator.run();
    site.api().host_becomes(site.host.id, HostState::Connected, LATER);
    site.becomes(runs, VpsState::Running);
    site.becomes(off, VpsState::Stopped);
    assert_eq!(site.host.console(runs).matches("hello from").count(), 2, "its return started nothing again");

    // One sample each second of the outage but for the reboot; those of its first half count as kept back.
    let text = |path: &str| {
        let (_, body) = site.api().ask(chom_tests::api::Method::Get, path, None, &[]).unwrap();
        String::from_utf8(body).unwrap()
    };
    wait_for("the samples of the outage", LATER, || {
        let metrics = text("/metrics");
        let late: f64 = metrics
            .lines()
            .find_map(|line| line.strip_prefix("chom_samples_backfilled_total "))
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| metrics.clone())?;
        if late >= 10.0 {
            Ok(())
        } else {
            Err(format!("{late} samples, outage {} to {}", gone_at.0, back_at.0))
        }
    });
}
