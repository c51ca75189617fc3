//! A guest that powers itself off: it stays off and is shown so, unless its policy says otherwise.

use std::time::Duration;

use chom_protocol::api::alerts::AlertView;
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::{Power, VpsState};
use chom_tests::hosts::{BOOT, Site, SiteOptions};
use chom_tests::wait::holds_for;
use serde_json::json;

/// Passes of the reconciler come every 2 s here, and an alert would fire after 1 s.
const SEVERAL_PASSES: Duration = Duration::from_secs(8);

fn create(site: &Site, name: &str, policy: &str) -> VpsAccepted {
    let body = json!({
        "name": name, "region": "us-east", "size": "small", "guest_shutdown": policy,
        "user_data": "#cloud-config\n#chom-hello: poweroff-after=1\n",
    });
    site.api().post("/api/vps-servers", &body).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_guest_that_powers_itself_off_stays_off_without_an_alert_or_comes_back_if_its_policy_says_so() {
    let site = Site::start("off", &SiteOptions::default());
    let (api, host) = (site.api(), &site.host);
    let stays = create(&site, "stays-off", "stay_off").vps.id;
    let returns = create(&site, "comes-back", "restart").vps.id;
    host.greets(stays, 1);

    let shown = site.becomes(stays, VpsState::StoppedByGuest);
    assert_eq!((shown.desired, shown.observed.problem), (Power::Running, None));
    assert_eq!(host.virsh_state(stays).as_deref(), Some("shut off"));
    holds_for("it stays off, without an alert", SEVERAL_PASSES, || {
        let row = api.vps(stays).map_err(|failure| failure.to_string())?;
        let alerts: Vec<AlertView> = api.list("/api/alerts").map_err(|failure| failure.to_string())?;
        let about: Vec<&AlertView> = alerts.iter().filter(|alert| alert.vps == Some(stays)).collect();
        match (row.observed.state, about.as_slice()) {
            (VpsState::StoppedByGuest, []) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(host.console(stays).matches("hello from").count(), 1);

    host.greets(returns, 2);

    // An admin's start is what brings the other one back.
    let started = api.act(stays, "start", None).unwrap_or_else(|failure| panic!("{failure}"));
    let _ = api.ended(started.operation.id, BOOT);
    host.greets(stays, 2);
}
