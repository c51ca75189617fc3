//! Snapshots, copies, rescue mode and CD-ROMs on a real host: one VM through the whole story, what is claimed checked with
//! qemu-img and virsh inside the host; and the same with the agent killed in the middle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chom_protocol::api::operations::OperationState;
use chom_protocol::api::snapshots::{SnapshotAccepted, SnapshotState, SnapshotView};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::VpsState;
use chom_protocol::{SnapshotId, VpsId};
use chom_tests::api::Method;
use chom_tests::fleet::SOON;
use chom_tests::hosts::{BOOT, RealHost, Site, SiteOptions, guest_name};
use chom_tests::seed::{Chance, rounds};
use chom_tests::wait::{pass, wait_for, wait_until};
use serde_json::json;

/// Where tests write on a disk that no guest has open: behind the partitions of the tiny image.
const MARK_AT: &str = "120M 64k";
/// Between two kills: `qemu-img` and QEMU take between a hundredth of a second and a few.
const KILL_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(400));

/// What a VPS's disk has, and what is in it, as its host's own tools see it.
struct Disk<'a> {
    host: &'a RealHost,
    vps: VpsId,
}

impl Disk<'_> {
    fn path(&self) -> String {
        format!("{}/disk.qcow2", RealHost::folder(self.vps))
    }

    /// The names of its snapshots, whoever made them.
    fn snapshots(&self) -> Vec<String> {
        let listed = self.host.sh(&format!("qemu-img snapshot -U -l {}", self.path()));
        let rows = listed.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        rows.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect()
    }

    fn is_sound(&self) {
        self.host.sh(&format!("qemu-img check {}", self.path()));
    }

    fn write(&self, mark: u8) {
        self.host.sh(&format!("qemu-io -c 'write -P {mark} {MARK_AT}' {}", self.path()));
    }

    fn has(&self, mark: u8) -> bool {
        let read = format!("qemu-io -r -c 'read -P {mark} {MARK_AT}' {}", self.path());
        !self.host.sh(&read).contains("verification failed")
    }
}

fn path(vps: VpsId) -> String {
    format!("/api/vps-servers/{vps}")
}

fn take(site: &Site, vps: VpsId, name: &str) -> SnapshotAccepted {
    let accepted: SnapshotAccepted =
        site.api().post(&format!("{}/snapshots", path(vps)), &json!({"name": name})).unwrap();
    accepted
}

fn restore(site: &Site, vps: VpsId, snapshot: SnapshotId) -> VpsAccepted {
    site.api().call(Method::Post, &format!("{}/snapshots/{snapshot}/restore", path(vps)), None, None).unwrap()
}

fn remove(site: &Site, vps: VpsId, snapshot: SnapshotId) -> VpsAccepted {
    site.api().call(Method::Delete, &format!("{}/snapshots/{snapshot}", path(vps)), None, None).unwrap()
}

fn ends_well(site: &Site, operation: chom_protocol::OperationId) {
    let ended = site.api().ended(operation, BOOT);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}\n{}", site.host.agent_log());
}

fn states(site: &Site, vps: VpsId) -> Vec<SnapshotState> {
    let rows: Vec<SnapshotView> = site.api().list(&format!("{}/snapshots", path(vps))).unwrap();
    rows.iter().map(|row| row.state).collect()
}

/// How often the console greeted from this boot.
fn greetings(host: &RealHost, vps: VpsId, boot: u32) -> usize {
    host.console(vps).matches(&format!(" boot={boot} ")).count()
}

fn greets_again(host: &RealHost, vps: VpsId, boot: u32, times: usize) {
    wait_until(&format!("greeting {times} of boot {boot}"), BOOT, || greetings(host, vps, boot) >= times);
}

/// A CD-ROM that boots (El Torito, no emulation) and says so on the serial port: a descriptor that points to a catalogue
/// that points to one sector of code.
fn bootable_iso(folder: &Path) -> PathBuf {
    const SECTOR: usize = 2048;
    let mut iso = vec![0; 64 * SECTOR];
    let mut put = |sector: usize, at: usize, bytes: &[u8]| {
        let at = sector * SECTOR + at;
        iso[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &19_u32.to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    put(19, 0, &[1]);
    put(19, 0x1c, &[0xaa, 0x55, 0x55, 0xaa]);
    put(19, 0x20, &[0x88, 0]);
    put(19, 0x26, &4_u16.to_le_bytes());
    put(19, 0x28, &20_u32.to_le_bytes());
    // xor ax,ax; mov ds,ax; mov si,0x7c20; mov dx,0x3f8; next: lodsb; test al,al; jz stop; out dx,al; jmp next;
    // stop: hlt; jmp stop
    put(
        20,
        0,
        &[
            0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x20, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee,
            0xeb, 0xf8, 0xf4, 0xeb, 0xfd,
        ],
    );
    put(20, 0x20, b"\r\nchom-iso: booted from the CD-ROM\r\n\0");
    let path = folder.join("installer.iso");
    std::fs::write(&path, iso).unwrap();
    path
}

#[test]
fn a_vm_is_snapshotted_restored_copied_rescued_and_boots_from_a_cd() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(
        "snaps",
        &SiteOptions { iso: Some(bootable_iso(folder.path())), ..SiteOptions::default() },
    );
    let (api, host) = (site.api(), &site.host);
    let vps = site.create_and_greet("a").id;
    let disk = Disk { host, vps };
    let pid = host.qemu_pid(vps);

    // Taken while it runs; then it boots once more, which its disk counts.
    let before = take(&site, vps, "before");
    ends_well(&site, before.operation.id);
    assert_eq!(disk.snapshots(), [format!("chom-{}", before.snapshot.id)]);
    assert_eq!((host.qemu_pid(vps), states(&site, vps)), (pid, vec![SnapshotState::Ready]));
    site.act(vps, "restart");
    greets_again(host, vps, 2, 1);
    // Restored: it is off and on, and counts from where it was.
    let restored = restore(&site, vps, before.snapshot.id);
    ends_well(&site, restored.operation.id);
    greets_again(host, vps, 2, 2);
    assert_eq!(greetings(host, vps, 3), 0);

    copied_while_it_runs(&site, &disk);
    rescued_and_back(&site, vps);
    boots_from_a_cd(&site, vps);

    // While it is off: taken, removed by hand, both cleared away, and the file is sound.
    site.act(vps, "stop");
    let second = take(&site, vps, "second");
    ends_well(&site, second.operation.id);
    assert_eq!(disk.snapshots().len(), 2);
    host.sh(&format!("qemu-img snapshot -d chom-{} {}", second.snapshot.id, disk.path()));
    wait_for("the missing snapshot to be shown", SOON, || match states(&site, vps) {
        seen if seen == [SnapshotState::Ready, SnapshotState::Missing] => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
    let missing = restore(&site, vps, second.snapshot.id);
    let ended = api.ended(missing.operation.id, BOOT);
    assert!(ended.problem.as_deref().unwrap_or_default().contains("removed by hand"), "{ended:?}");
    for snapshot in [before.snapshot.id, second.snapshot.id] {
        ends_well(&site, remove(&site, vps, snapshot).operation.id);
    }
    assert!(disk.snapshots().is_empty() && states(&site, vps).is_empty());
    disk.is_sound();

    site.act(vps, "delete");
    site.act(vps, "purge");
    host.sh(&format!("! ls -d {}", RealHost::folder(vps)));
}

fn copied_while_it_runs(site: &Site, disk: &Disk<'_>) {
    let (api, host) = (site.api(), disk.host);
    let kept = disk.snapshots();
    let copy: VpsAccepted = api.post(&format!("{}/clone", path(disk.vps)), &json!({"name": "b"})).unwrap();
    site.done(&copy);
    let greeting = host.greets(copy.vps.id, 3);
    let address = copy.vps.addresses[0];
    assert!(greeting.contains("hello from b ") && greeting.contains(&address.to_string()), "{greeting}");
    assert_ne!(Some(&address), api.vps(disk.vps).unwrap().addresses.first());
    wait_for("what was taken for the copy to go", SOON, || match disk.snapshots() {
        now if now == kept => Ok(()),
        now => Err(format!("{now:?}")),
    });
    for action in ["delete", "purge"] {
        site.act(copy.vps.id, action);
    }
}

fn rescued_and_back(site: &Site, vps: VpsId) {
    let (api, host) = (site.api(), &site.host);
    let pid = host.qemu_pid(vps);
    let rescued: VpsAccepted = api.post(&format!("{}/rescue", path(vps)), &json!({})).unwrap();
    site.done(&rescued);
    assert_ne!(host.qemu_pid(vps), pid, "it was booted anew");
    let disks = || host.sh(&format!("virsh -q -c qemu:///system domblklist {}", guest_name(vps)));
    let place = |listed: &str, file: &str| listed.lines().position(|line| line.contains(file));
    let listed = disks();
    assert_eq!((place(&listed, "/rescue-"), place(&listed, "/disk.qcow2")), (Some(0), Some(1)), "{listed}");
    site.becomes(vps, VpsState::Running);
    let back: VpsAccepted = api.act(vps, "unrescue", None).unwrap();
    site.done(&back);
    let listed = disks();
    assert_eq!((place(&listed, "/rescue-"), place(&listed, "/disk.qcow2")), (None, Some(0)), "{listed}");
    assert_eq!(host.sh(&format!("ls {} | grep -c rescue || true", RealHost::folder(vps))).trim(), "0");
}

fn boots_from_a_cd(site: &Site, vps: VpsId) {
    let (api, host) = (site.api(), &site.host);
    let drive = || {
        let listed = host.sh(&format!("virsh -q -c qemu:///system domblklist {}", guest_name(vps)));
        listed.lines().find(|line| line.contains("sda")).unwrap_or_default().to_owned()
    };
    assert!(drive().ends_with('-'), "{}", drive());
    let pid = host.qemu_pid(vps);
    let medium = json!({"image": "installer", "boot_first": true});
    let attached: VpsAccepted = api.post(&format!("{}/iso", path(vps)), &medium).unwrap();
    site.done(&attached);
    assert!(drive().contains("/images/"), "{}", drive());
    assert_eq!(host.qemu_pid(vps), pid, "it keeps running");
    site.act(vps, "restart");
    wait_until("the CD-ROM to boot", BOOT, || host.console(vps).contains("chom-iso: booted from the CD-ROM"));
    let detached: VpsAccepted = api.call(Method::Delete, &format!("{}/iso", path(vps)), None, None).unwrap();
    site.done(&detached);
    assert!(drive().ends_with('-'), "{}", drive());
}

#[test]
fn kill_9_of_the_agent_during_snapshot_work_leaves_it_done_once_or_not_at_all() {
    let mut chance = Chance::for_test("snapshots");
    let site = Site::start("snapkill", &SiteOptions::default());
    let host = &site.host;
    let vps = site.create_and_greet("a").id;
    let disk = Disk { host, vps };
    let mut killed = |operation: chom_protocol::OperationId| {
        pass(chance.between(KILL_AFTER.0, KILL_AFTER.1));
        let pid = host.agent_pid();
        host.sh(&format!("kill -9 {pid}"));
        wait_until("systemd to start the agent anew", SOON, || {
            let again = host.unit("MainPID");
            again != "0" && again != pid.to_string()
        });
        ends_well(&site, operation);
    };
    // While it runs, QEMU does it.
    let running = take(&site, vps, "running");
    killed(running.operation.id);
    assert_eq!(disk.snapshots(), [format!("chom-{}", running.snapshot.id)]);
    killed(remove(&site, vps, running.snapshot.id).operation.id);
    assert!(disk.snapshots().is_empty());
    site.act(vps, "stop");
    for round in 0..rounds(5, 1) {
        disk.write(1);
        let taken = take(&site, vps, &format!("round-{round}"));
        killed(taken.operation.id);
        assert_eq!(disk.snapshots(), [format!("chom-{}", taken.snapshot.id)], "round {round}: taken once");
        disk.write(2);
        killed(restore(&site, vps, taken.snapshot.id).operation.id);
        assert!(disk.has(1), "round {round}: the old content is back");
        disk.write(3);
        killed(remove(&site, vps, taken.snapshot.id).operation.id);
        assert!(disk.snapshots().is_empty() && disk.has(3), "round {round}: removing it changes no content");
        disk.is_sound();
    }
    // Copied from while it is off, the agent killed in the middle: one copy, and nothing left behind.
    let copy: VpsAccepted = site.api().post(&format!("{}/clone", path(vps)), &json!({"name": "b"})).unwrap();
    killed(copy.operation.id);
    host.greets(copy.vps.id, 2);
    wait_until("what was taken for the copy to go", SOON, || disk.snapshots().is_empty());
    let left = host.sh(&format!("ls {} {}", RealHost::folder(vps), RealHost::folder(copy.vps.id)));
    assert!(!left.contains(".new") && !left.contains("disk.changing"), "{left}");
    disk.is_sound();
}
