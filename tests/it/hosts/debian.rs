//! A real Debian cloud image, as an admin would use it: added to the catalogue with chomctl, booted with user data, a key and
//! a static address, worked in over SSH from its host, put back to what it was.

use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::catalogue::{ImageSource, ImageView};
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::snapshots::SnapshotAccepted;
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_tests::api::Method;
use chom_tests::hosts::{BOOT, RealHost, Site, SiteOptions, built};
use chom_tests::wait::wait_for;
use serde_json::json;

/// Without KVM Debian takes one to two minutes to its SSH server on an idle machine, and other tests may run beside it.
const DEBIAN_BOOT: Duration = Duration::from_secs(480);
/// Where the host keeps the key that the VPS is told to let in.
const KEY: &str = "/root/tenant-key";
/// What the tenant wants of the first boot. Only one host key, as making an RSA key takes long.
const USER_DATA: &str = "#cloud-config
ssh_genkeytypes: [ed25519]
users:
  - default
  - name: alice
    shell: /bin/bash
    sudo: ALL=(ALL) NOPASSWD:ALL
    ssh_authorized_keys: ['KEY']
write_files:
  - path: /srv/note
    content: |
      from user data
";

/// The guest of a VPS, reached as its tenant reaches it.
struct Guest<'a> {
    host: &'a RealHost,
    vps: VpsId,
    address: String,
}

impl Guest<'_> {
    /// Runs a script in it as one of its users; what it printed, or why not.
    fn try_ssh(&self, user: &str, script: &str) -> Result<String, String> {
        let options = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 -o LogLevel=ERROR \
            -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";
        let said = self
            .host
            .try_sh(&format!("timeout 50 ssh {options} -i {KEY} {user}@{} '{script}'", self.address));
        if said.code == Some(0) { Ok(said.stdout.trim().to_owned()) } else { Err(said.stderr) }
    }

    /// As [`Self::try_ssh`], of a guest that is up.
    fn ssh(&self, user: &str, script: &str) -> String {
        self.try_ssh(user, script).unwrap_or_else(|said| panic!("{script}: {said}\n{}", self.last_words()))
    }

    /// Waits until it lets somebody in and has done all that its seed says.
    fn is_up(&self, user: &str) {
        wait_for("Debian to let its tenant in", DEBIAN_BOOT, || {
            self.try_ssh(user, "true").map_err(|said| format!("{said}\n{}", self.last_words()))
        });
        wait_for("cloud-init to be done", DEBIAN_BOOT, || match self.try_ssh(user, "cloud-init status") {
            Ok(said) if said.contains("done") => Ok(()),
            Ok(said) | Err(said) => Err(said),
        });
    }

    fn last_words(&self) -> String {
        let console = self.host.console(self.vps);
        let lines: Vec<&str> = console.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_real_debian_boots_takes_its_user_data_is_reached_by_ssh_and_goes_back_to_a_snapshot() {
    let file = built("debian.sh");
    let site =
        Site::start("debian", &SiteOptions { memory_mib: 512, disk_mib: 3072, ..SiteOptions::default() });
    let (api, host) = (site.api(), &site.host);
    let added = site.orchestrator.chomctl(&[
        "image",
        "add",
        "debian-13",
        file.to_str().unwrap(),
        "--format",
        "qcow2",
        "--image-version",
        "13",
        "--default-user",
        "debian",
        "--output",
        "json",
    ]);
    let added: ImageView = serde_json::from_str(&added.well("chomctl image add")).unwrap();
    assert_eq!((added.source, added.default_user.as_deref()), (ImageSource::Added, Some("debian")));

    let key = host.sh(&format!("ssh-keygen -q -t ed25519 -N '' -f {KEY} && cat {KEY}.pub"));
    let key = key.trim();
    let body = json!({
        "name": "trixie", "region": "us-east", "size": "small", "image": "debian-13",
        "ssh_keys": [key], "user_data": USER_DATA.replace("KEY", key),
    });
    let created: VpsAccepted =
        api.post("/api/vps-servers", &body).unwrap_or_else(|failure| panic!("{failure}"));
    site.done(&created);
    let (vps, address) = (created.vps.id, created.vps.addresses[0].to_string());
    let guest = Guest { host, vps, address };
    guest.is_up("alice");

    // The user that only the user data name, the image's own user by the VPS's key, the name, the address, the disk.
    assert_eq!(
        guest.ssh("alice", "hostname && cat /srv/note && sudo id -un"),
        "trixie\nfrom user data\nroot"
    );
    assert_eq!(guest.ssh("debian", "id -un && . /etc/os-release && echo $ID"), "debian\ndebian");
    let cards = guest.ssh("alice", "ip -4 -oneline address show dev eth0 && ip -4 route");
    assert!(cards.contains(&format!("inet {}/", guest.address)), "{cards}");
    assert!(!cards.contains("dynamic") && cards.contains("default via"), "{cards}");
    let root_mib: u64 = guest.ssh("alice", "df -m --output=size / | tail -n 1").trim().parse().unwrap();
    assert!(root_mib > 2600, "its file system fills the disk of 3 GiB: {root_mib} MiB");

    let write = |text: &str| guest.ssh("alice", &format!("echo {text} >content && sync && cat content"));
    assert_eq!(write("old"), "old");
    let path = format!("/api/vps-servers/{vps}/snapshots");
    let taken: SnapshotAccepted = api.post(&path, &json!({"name": "before"})).unwrap();
    assert_eq!(api.ended(taken.operation.id, BOOT).state, OperationState::Succeeded);
    assert_eq!(write("new"), "new");
    let restore = format!("{path}/{}/restore", taken.snapshot.id);
    let restored: VpsAccepted = api.call(Method::Post, &restore, None, None).unwrap();
    site.done(&restored);
    guest.is_up("alice");
    assert_eq!(guest.ssh("alice", "cat content"), "old");
}
