//! A VPS's whole life, by the one call of the manual and then through the API; and the guest next to it that is not ours.

use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::VpsState;
use chom_tests::hosts::{RealHost, Site, SiteOptions};
use chom_tests::process::run;
use chom_tests::wait::wait_for;

/// A guest that somebody defined by hand, with a disk of its own.
const FOREIGN: &str = "<domain type='qemu'><name>by-hand</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='file'><driver name='qemu' type='raw'/>\
    <source file='/srv/by-hand.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>";

#[test]
fn the_call_of_the_manual_makes_a_vps_and_it_can_be_stopped_started_restarted_deleted_undeleted_and_purged() {
    let site = Site::start("life", &SiteOptions::default());
    let host = &site.host;
    host.sh(&format!(
        "echo precious >/srv/by-hand.img && truncate -s 1M /srv/by-hand.img && echo \"{FOREIGN}\" >/tmp/f.xml && \
         virsh -q -c qemu:///system define /tmp/f.xml && virsh -q -c qemu:///system start by-hand"
    ));
    // A slip of the hand on a host that is enrolled changes nothing.
    let slip = site.api().add_host("slip", "us-east").unwrap();
    let said = host.try_sh(&format!("chom-agent enrol {}", slip.join_code));
    assert!(said.code == Some(1) && said.stderr.contains(&host.id.to_string()), "{said:?}");
    let by_hand = || {
        host.sh("pgrep -f [g]uest=by-hand; sha256sum /srv/by-hand.img; virsh -q dumpxml --inactive by-hand")
    };
    let before = by_hand();

    let vps = by_curl(&site);
    assert_eq!(host.virsh_state(vps).as_deref(), Some("running"));
    let greeting = host.greets(vps, 1);
    let address = site.api().vps(vps).unwrap().addresses[0];
    assert!(
        greeting.contains("hello from test-vps ") && greeting.contains(&format!("address={address}")),
        "{greeting}"
    );

    let foreign = wait_for("the guest made by hand to be listed", chom_tests::fleet::SOON, || {
        let foreign = site.api().host(host.id).map_err(|failure| failure.to_string())?.foreign;
        if foreign.is_empty() { Err("none is".to_owned()) } else { Ok(foreign) }
    });
    assert_eq!(foreign.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>(), ["by-hand"]);

    site.act(vps, "stop");
    assert_eq!(host.virsh_state(vps).as_deref(), Some("shut off"));
    assert!(host.console(vps).contains("powering off (power button)"), "it was asked, not forced");
    assert_eq!(site.becomes(vps, VpsState::Stopped).observed.problem, None);

    site.act(vps, "start");
    assert_eq!(host.virsh_state(vps).as_deref(), Some("running"));
    host.greets(vps, 2);
    let pid = host.qemu_pid(vps);

    site.act(vps, "restart");
    host.greets(vps, 3);
    assert_ne!(host.qemu_pid(vps), pid, "a restart is off and on");

    site.act(vps, "delete");
    assert_eq!(host.virsh_state(vps).as_deref(), Some("shut off"), "deleted is kept, off");
    host.sh(&format!("qemu-img check -q {}/disk.qcow2", RealHost::folder(vps)));

    site.act(vps, "undelete");
    host.greets(vps, 4);

    site.act(vps, "delete");
    site.act(vps, "purge");
    assert_eq!(host.virsh_state(vps), None);
    assert_eq!(host.sh("ls /var/lib/chom-agent/vps").trim(), "", "its folder is gone");
    assert_eq!(site.api().vps(vps).unwrap_err().status(), 404);

    assert_eq!(by_hand(), before, "what CHOM did not make was not touched");
}

/// The call as the manual has it, by curl itself.
fn by_curl(site: &Site) -> chom_protocol::VpsId {
    let server = site.api().server.trim_start_matches("https://").to_owned();
    let ca = site.orchestrator.state().join("ca.pem");
    let call = r#"curl -X POST https://$HOST/api/vps-servers -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"name":"test-vps","region":"us-east","size":"small"}'"#;
    let variables = [
        format!("CURL_CA_BUNDLE={}", ca.display()),
        format!("HOST={server}"),
        format!("TOKEN={}", site.api().token),
        "NO_PROXY=*".to_owned(),
    ];
    let words = variables.iter().map(String::as_str).chain(["sh", "-c", call]);
    let printed = run(std::path::Path::new("env"), words).well("curl");
    let accepted: VpsAccepted =
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    site.done(&accepted);
    accepted.vps.id
}
