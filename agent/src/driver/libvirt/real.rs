//! A guest's whole life against a real libvirtd. Ignored by default: run as root on a host of the test fleet with
//! `CHOM_TEST_HELPER` (chom-agent-libvirt) and `CHOM_TEST_IMAGE` (the tiny image) set, and
//! `-- --ignored --nocapture driver::libvirt::real`.

use std::path::PathBuf;
use std::time::Duration;

use chom_protocol::Bytes;
use chom_protocol::sample::Metric;
use chom_protocol::vps::VpsState;
use tokio::time::Instant;

use super::super::acceleration::{AccelerationChoice, determine};
use super::super::command::Program;
use super::super::seed::tests::spec;
use super::*;

/// The translator boots the tiny guest in 5 to 20 s on two busy cores.
const BOOT: Duration = Duration::from_secs(120);
const SHELL: Program = Program { name: "sh", package: "dash", deadline: Duration::from_secs(120) };

async fn sh(script: &str) -> String {
    let output = SHELL.succeed(&["-c".into(), script.into()]).await.unwrap();
    String::from_utf8(output).unwrap()
}

fn setting(name: &str) -> PathBuf {
    std::env::var_os(name).unwrap_or_else(|| panic!("set {name}")).into()
}

async fn state(driver: &LibvirtDriver, vps: VpsId) -> Option<VpsState> {
    let observed = driver.observe().await.unwrap();
    observed.guests.into_iter().find(|guest| guest.vps == Some(vps)).map(|guest| guest.state)
}

async fn until(driver: &LibvirtDriver, vps: VpsId, wanted: VpsState) {
    let deadline = Instant::now() + BOOT;
    while state(driver, vps).await != Some(wanted) {
        assert!(Instant::now() < deadline, "never {wanted:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the console says `text` for the `times`-th time; the whole console in an error.
async fn says(driver: &LibvirtDriver, spec: &VpsSpec, text: &str, times: usize) -> String {
    let log = driver.disks.files(spec).console_log;
    let deadline = Instant::now() + BOOT;
    loop {
        let console = std::fs::read(&log).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        if console.matches(text).count() >= times {
            return console;
        }
        assert!(Instant::now() < deadline, "console {} never said {text}:\n{console}", log.display());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
#[ignore = "needs a real libvirtd; see the head of the file"]
async fn a_guest_lives_its_whole_life() {
    let folder = PathBuf::from("/var/lib/chom-test");
    std::fs::create_dir_all(&folder).unwrap();
    let kernel = sh("uname -r").await;
    let began = Instant::now();
    let verdict = determine(AccelerationChoice::Auto, &folder, kernel.trim()).await;
    println!("verdict {verdict:?} after {:?}", began.elapsed());
    let driver = LibvirtDriver::new(
        setting("CHOM_TEST_HELPER"),
        folder.join("vps"),
        ImageCache::new(folder.join("images")),
        verdict,
    );
    let image = setting("CHOM_TEST_IMAGE");
    let mut spec = VpsSpec { disk: Bytes::gib(2), ..spec() };
    let vps = spec.id;

    // Whatever an earlier run left.
    driver.power_off(vps).await.unwrap();
    driver.destroy(vps).await.unwrap();
    let began = Instant::now();
    println!("observed {:?} in {:?}", driver.observe().await.unwrap(), began.elapsed());
    assert_eq!(state(&driver, vps).await, None);
    assert!(driver.start(vps).await.is_err(), "there is nothing to start yet");

    for _ in 0..2 {
        driver.prepare(&spec, &image, None).await.unwrap();
    }
    let observed = driver.observe().await.unwrap();
    let guest = observed.guests.iter().find(|guest| guest.vps == Some(vps)).unwrap();
    assert_eq!((guest.state, guest.definition), (VpsState::Stopped, driver.definition(&spec)));
    assert_eq!(guest.placement, spec.placement);

    let began = Instant::now();
    driver.start(vps).await.unwrap();
    println!("started in {:?}", began.elapsed());
    driver.start(vps).await.unwrap();
    until(&driver, vps, VpsState::Running).await;
    let console = says(&driver, &spec, "chom-hello: hello from test-vps boot=1 address=10.155.0.7", 1).await;
    println!("greeted after {:?}", began.elapsed());
    println!("{}", console.lines().filter(|line| line.contains("chom-hello")).collect::<Vec<_>>().join("\n"));
    assert!(sh("virsh list --name").await.contains(&format!("chom-{vps}")));
    println!("{}", sh("ping -c1 -W5 10.155.0.7 2>&1 | tail -2; virsh net-list --all").await);

    measured(&driver, vps).await;
    a_running_guest_keeps_going_when_it_is_defined_anew(&driver, &mut spec, &image).await;
    a_helper_that_is_killed_costs_one_request(&driver, vps).await;
    a_restart_of_libvirtd_costs_nothing(&driver, vps).await;

    // Asked to shut down: to libvirt the guest went off by itself.
    driver.shutdown(vps).await.unwrap();
    until(&driver, vps, VpsState::StoppedByGuest).await;
    driver.shutdown(vps).await.unwrap();
    driver.power_off(vps).await.unwrap();
    assert_eq!(state(&driver, vps).await, Some(VpsState::StoppedByGuest));

    // Its disk is the same one, so it counts its second boot; then its power goes.
    driver.start(vps).await.unwrap();
    says(&driver, &spec, "chom-hello: hello from test-vps boot=2", 1).await;
    assert!(driver.destroy(vps).await.is_err(), "a running guest is not removed");
    driver.power_off(vps).await.unwrap();
    assert_eq!(state(&driver, vps).await, Some(VpsState::Stopped));

    // Its QEMU dies.
    driver.start(vps).await.unwrap();
    sh(&format!("kill -9 $(cat /run/libvirt/qemu/chom-{vps}.pid)")).await;
    until(&driver, vps, VpsState::Crashed).await;

    foreign_guests_are_seen_and_left_alone(&driver).await;

    for _ in 0..2 {
        driver.destroy(vps).await.unwrap();
    }
    assert_eq!(state(&driver, vps).await, None);
    assert!(!folder.join("vps").join(vps.to_string()).exists());
}

async fn measured(driver: &LibvirtDriver, vps: VpsId) {
    let began = Instant::now();
    let points = driver.measure().await.unwrap();
    println!("measured in {:?}", began.elapsed());
    for metric in [
        Metric::VpsCpuSeconds,
        Metric::VpsMemory,
        Metric::VpsDiskReadBytes,
        Metric::VpsDiskWrittenBytes,
        Metric::VpsDiskAllocated,
        Metric::VpsNetworkReceivedBytes,
        Metric::VpsNetworkSentBytes,
    ] {
        let point = points.iter().find(|point| point.metric == metric && point.vps == Some(vps));
        println!("{point:?}");
        assert!(point.is_some_and(|point| point.value > 0.0), "{metric:?}: {points:?}");
    }
}

async fn a_running_guest_keeps_going_when_it_is_defined_anew(
    driver: &LibvirtDriver,
    spec: &mut VpsSpec,
    image: &Path,
) {
    let before = sh(&format!("cat /run/libvirt/qemu/chom-{}.pid", spec.id)).await;
    spec.memory = Bytes::mib(256);
    spec.ssh_keys.push("ssh-ed25519 AAAAC3NzaC1lZDI1NTE6 other".to_owned());
    driver.prepare(spec, image, None).await.unwrap();
    let observed = driver.observe().await.unwrap();
    let guest = observed.guests.iter().find(|guest| guest.vps == Some(spec.id)).unwrap();
    assert_eq!((guest.state, guest.definition), (VpsState::Running, driver.definition(spec)));
    assert_eq!(before, sh(&format!("cat /run/libvirt/qemu/chom-{}.pid", spec.id)).await);
}

async fn a_helper_that_is_killed_costs_one_request(driver: &LibvirtDriver, vps: VpsId) {
    sh("kill -9 $(pidof chom-agent-libvirt)").await;
    let error = driver.observe().await.unwrap_err();
    println!("killed helper: {error}");
    assert!(error.retryable);
    let deadline = Instant::now() + BOOT;
    while driver.observe().await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(state(driver, vps).await, Some(VpsState::Running));
}

async fn a_restart_of_libvirtd_costs_nothing(driver: &LibvirtDriver, vps: VpsId) {
    sh("systemctl restart libvirtd").await;
    assert_eq!(state(driver, vps).await, Some(VpsState::Running));
    sh("systemctl stop libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket").await;
    let error = driver.observe().await.unwrap_err();
    println!("without libvirtd: {error}");
    assert!(error.retryable && error.problem.contains("systemctl status libvirtd"), "{error}");
    sh("systemctl start libvirtd.socket libvirtd.service").await;
    assert_eq!(state(driver, vps).await, Some(VpsState::Running));
}

async fn foreign_guests_are_seen_and_left_alone(driver: &LibvirtDriver) {
    let uuid: VpsId = "0190f6d2-8f3e-7cc0-9d4c-00000000f0e1".parse().unwrap();
    let define = format!(
        "echo \"<domain type='qemu'><name>theirs</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>\" >/tmp/theirs.xml && virsh define /tmp/theirs.xml"
    );
    sh(&define).await;
    let observed = driver.observe().await.unwrap();
    let guest = observed.guests.iter().find(|guest| guest.name == "theirs").unwrap();
    assert_eq!((guest.vps, guest.definition, guest.state), (None, None, VpsState::Stopped));
    for outcome in [
        driver.start(uuid).await,
        driver.shutdown(uuid).await,
        driver.power_off(uuid).await,
        driver.destroy(uuid).await,
    ] {
        let error = outcome.unwrap_err();
        assert!(!error.retryable && error.problem.contains("theirs"), "{error}");
    }
    assert!(sh("virsh list --all --name").await.contains("theirs"));
    sh("virsh undefine theirs").await;
}
