//! The cable between a host and the orchestrator is pulled: nothing is claimed that cannot be seen, nothing waits for the
//! host, and what was ordered meanwhile is carried out when it is back.

use std::path::Path;
use std::time::{Duration, Instant};

use chom_protocol::api::alerts::AlertView;
use chom_protocol::api::hosts::HostState;
use chom_protocol::vps::VpsState;
use chom_tests::fleet::{LATER, SOON};
use chom_tests::hosts::{Site, SiteOptions};
use chom_tests::process::{Process, program};
use chom_tests::wait::{pass, wait_for, wait_until};
use serde_json::{Value, json};

/// Lists are answered by then, whatever hosts do; the promise is 20 ms, on a machine that does nothing else.
const FAST: Duration = Duration::from_millis(500);
/// Long enough that a second mail of the same outage would have come: notifications of a group are 1 s apart here.
const SECOND_MAIL: Duration = Duration::from_secs(6);

/// Subjects of the mails that arrived, oldest first.
fn subjects(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let subject = |path: &std::path::PathBuf| {
        let mail = std::fs::read_to_string(path).unwrap_or_default().replace("\r\n ", " ");
        mail.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned))
    };
    files.iter().filter_map(subject).collect()
}

#[test]
fn a_cut_host_makes_its_vps_unknown_with_one_mail_and_a_delete_meanwhile_is_carried_out_when_it_is_back() {
    let site = Site::start("cut", &SiteOptions::default());
    let (api, host) = (site.api(), &site.host);
    let mails = site.orchestrator.folder().join("mails");
    std::fs::create_dir(&mails).unwrap();
    let address = site.orchestrator.link_address().ip();
    let _mail_server = Process::start(
        &program("chom-mail-sink"),
        ["--listen", &format!("{address}:2525"), "--dir", mails.to_str().unwrap()],
        &site.orchestrator.folder().join("mail.log"),
    );
    let smtp = json!({"host": address, "port": 2525, "security": "none", "from": "chom@example.org", "to": ["admin@example.org"]});
    let _: Value =
        api.post("/api/alertmanager/smtp/configure", &smtp).unwrap_or_else(|failure| panic!("{failure}"));
    let keeps = site.create_and_greet("keeps").id;
    let goes = site.create_and_greet("goes").id;
    let (keeps_pid, goes_pid) = (host.qemu_pid(keeps), host.qemu_pid(goes));

    host.cut();
    api.host_becomes(host.id, HostState::Unreachable, SOON);
    wait_for("the mail about the host", SOON, || match subjects(&mails).as_slice() {
        [one] if one.contains("FIRING") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for vps in [keeps, goes] {
        let seen = api.vps(vps).unwrap().observed;
        assert_eq!((seen.state, seen.last_state), (VpsState::Unknown, VpsState::Running));
        assert!(seen.age_seconds.is_some_and(|age| age >= 4), "with its age: {seen:?}");
    }
    for list in ["/api/vps-servers", "/api/hosts", "/api/alerts", "/api/operations"] {
        let asked = Instant::now();
        let _: Vec<Value> = api.list(list).unwrap();
        assert!(asked.elapsed() < FAST, "{list} took {:?}", asked.elapsed());
    }
    let deleted = api.act(goes, "delete", None).unwrap_or_else(|failure| panic!("{failure}"));
    pass(SECOND_MAIL);
    assert_eq!(subjects(&mails).len(), 1, "one outage is one mail: {:?}", subjects(&mails));
    let waiting = api.operation(deleted.operation.id).unwrap();
    assert!(!waiting.state.is_final(), "it waits for the host: {waiting:?}");
    assert!(
        waiting.problem.as_deref().is_some_and(|problem| problem.contains("its host has not been seen")),
        "and says so: {waiting:?}"
    );
    assert_eq!(
        (host.qemu_pid(keeps), host.qemu_pid(goes)),
        (keeps_pid, goes_pid),
        "a host alone changes nothing"
    );

    host.heal();
    let ended = api.ended(deleted.operation.id, LATER);
    assert_eq!(ended.state, chom_protocol::api::operations::OperationState::Succeeded, "{ended:?}");
    assert_eq!(host.virsh_state(goes).as_deref(), Some("shut off"));
    site.becomes(keeps, VpsState::Running);
    assert_eq!(host.qemu_pid(keeps), keeps_pid);
    wait_until("the mail that it is over", LATER, || {
        subjects(&mails).iter().any(|subject| subject.contains("RESOLVED"))
    });
    pass(SECOND_MAIL);
    let alerts: Vec<AlertView> = api.list("/api/alerts").unwrap();
    assert_eq!(subjects(&mails).len(), 2, "{:?}\n{alerts:?}", subjects(&mails));
}
