//! Consoles and new passwords over the whole way: a WebSocket to the orchestrator, a stream inside the agent's connection, the
//! fake engine that echoes.

use std::path::Path;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::console::{ConsoleTicket, PasswordReset};
use chom_protocol::api::hosts::HostState;
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_tests::api::Method;
use chom_tests::export::Rows;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::socket::Socket;
use chom_tests::wait::{holds_for, wait_for};
use serde_json::json;

/// A fleet with one VPS that runs.
fn fleet() -> (Fleet, VpsId) {
    let fleet = Fleet::start(Options::default(), 1);
    let vps = fleet.api().create("one", None).unwrap().vps.id;
    fleet.settled(SOON);
    (fleet, vps)
}

fn path(vps: VpsId, rest: &str) -> String {
    format!("/api/vps-servers/{vps}/{rest}")
}

fn open(fleet: &Fleet, path: &str) -> Socket {
    Socket::open(fleet.api(), path, true).unwrap_or_else(|(status, body)| panic!("{status}: {body}"))
}

#[test]
fn two_viewers_see_the_same_console_and_one_of_them_writes() {
    let (mut fleet, vps) = fleet();
    let mut first = open(&fleet, &path(vps, "console?columns=132&rows=50"));
    first.hears(&format!("fake console of {vps}, 132x50"), SOON);
    first.until("the first to write", SOON, |socket| socket.writes() == Some(true));
    first.say(b"hello\r");
    first.hears("hello\r", SOON);

    let mut second = open(&fleet, &path(vps, "console"));
    second.hears("hello\r", SOON);
    second.until("the second to watch", SOON, |socket| socket.writes() == Some(false));
    second.say(b"not mine to say");
    first.say(b"to both");
    second.hears("to both", SOON);
    first.hears("to both", SOON);
    holds_for("what a watcher types to go nowhere", Duration::from_secs(1), || {
        first.look();
        match String::from_utf8_lossy(&first.heard).contains("not mine") {
            false => Ok(()),
            true => Err("it was taken".to_owned()),
        }
    });

    let mut third = open(&fleet, &path(vps, "console?take=true"));
    third.until("the third to write", SOON, |socket| socket.writes() == Some(true));
    first.until("the first to watch", SOON, |socket| socket.writes() == Some(false));
    third.say(b"mine now");
    first.hears("mine now", SOON);
    drop(third);
    first.until("the first to write again", SOON, |socket| socket.writes() == Some(true));
    drop(first);
    second.until("the second to write at last", SOON, |socket| socket.writes() == Some(true));

    // The agent goes: whoever looks hears why, at once.
    fleet.hosts[0].agent.kill_9();
    second.until("the end", SOON, |socket| socket.ended.is_some());
    let reason = second.reason().unwrap().to_owned();
    assert!(reason.contains("the connection to the host broke"), "{reason}");
    let refused = Socket::open(fleet.api(), &path(vps, "console"), true).unwrap_err();
    assert!(refused.0 == 503 && refused.1.contains("not connected"), "{refused:?}");

    // It is back: so is the console, and every look was noted.
    fleet.hosts[0].agent.run();
    fleet.api().host_becomes(fleet.hosts[0].id, HostState::Connected, LATER);
    let mut again = wait_for("the console to open again", LATER, || {
        Socket::open(fleet.api(), &path(vps, "console"), true).map_err(|refusal| format!("{refusal:?}"))
    });
    again.hears("fake console", SOON);
    drop(again);
    fleet.orchestrator.stop();
    let entries = fleet.orchestrator.audit();
    let of = |action: &str| {
        let noted = entries.iter().filter(|row| row["action"] == action);
        noted.filter_map(|row| row["target"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(of("vps.console-open"), vec![vps.to_string(); 4]);
    let closed = of("vps.console-close");
    assert_eq!(closed.len(), 4, "{closed:?}");
    assert!(closed.iter().all(|target| target.starts_with(&format!("{vps} after "))), "{closed:?}");
}

#[test]
fn a_ticket_opens_one_look_and_bad_requests_say_what_is_wrong() {
    let (fleet, vps) = fleet();
    let api = fleet.api();
    let ticket: ConsoleTicket = api.call(Method::Post, &path(vps, "console-token"), None, None).unwrap();
    let mut screen =
        Socket::open(api, &ticket.vnc, false).unwrap_or_else(|(status, body)| panic!("{status}: {body}"));
    screen.hears("RFB 003.008\n", SOON);
    let refuse = |path: &str, with_token: bool| Socket::open(api, path, with_token).unwrap_err();
    let (status, body) = refuse(&ticket.vnc, false);
    assert!(status == 401 && body.contains("was used"), "{status} {body}");
    assert_eq!(refuse(&path(vps, "console"), false).0, 401);
    let (status, body) = refuse(&path(vps, "console?colour=red"), true);
    assert!(status == 400 && body.contains("columns"), "{status} {body}");
    let unknown = VpsId::new(uuid::Uuid::from_u128(7));
    assert_eq!(refuse(&path(unknown, "console"), true).0, 404);
    // A plain request is told what to do.
    let (status, body) = api.ask(Method::Get, &path(vps, "console"), None, &[]).unwrap();
    assert!(status == 400 && String::from_utf8_lossy(&body).contains("WebSocket"), "{status}");
    let stopped = api.act(vps, "stop", None).unwrap();
    let _ = api.ended(stopped.operation.id, SOON);
    let (status, body) = refuse(&path(vps, "console"), true);
    assert!(status == 409 && body.contains("start it first"), "{status} {body}");
    let _ = api.act(vps, "delete", None).unwrap();
    let (status, body) = refuse(&path(vps, "console"), true);
    assert!(status == 409 && body.contains("deleted"), "{status} {body}");
}

#[test]
fn a_suspended_vps_has_no_console_and_open_ones_end() {
    let (mut fleet, vps) = fleet();
    let api = fleet.api().clone();
    let change = |action: &str, body: serde_json::Value| {
        let _: VpsAccepted = api.call(Method::Post, &path(vps, action), Some(&body), None).unwrap();
    };
    let mut console = open(&fleet, &path(vps, "console"));
    console.hears("fake console", SOON);
    let mut screen = open(&fleet, &path(vps, "vnc"));
    screen.hears("RFB", SOON);
    let ticket: ConsoleTicket = api.call(Method::Post, &path(vps, "console-token"), None, None).unwrap();
    change("suspend", json!({"reason": "abuse", "mode": "isolated"}));
    change("suspend", json!({"reason": "billing", "mode": "isolated"}));
    for socket in [&mut console, &mut screen] {
        socket.until("the end", SOON, |socket| socket.ended.is_some());
        let reason = socket.reason().unwrap();
        assert!(reason.contains("is suspended (") && reason.contains("abuse"), "{reason}");
    }
    for (path, with_token) in [(path(vps, "console"), true), (path(vps, "vnc"), true), (ticket.vnc, false)] {
        let (status, body) = Socket::open(&api, &path, with_token).unwrap_err();
        assert!(status == 409 && body.contains("is suspended ("), "{path}: {status} {body}");
    }
    for action in ["console-token", "reset-password", "start", "restart", "rebuild"] {
        let refused = api.call::<serde_json::Value>(Method::Post, &path(vps, action), Some(&json!({})), None);
        let refused = refused.unwrap_err();
        assert!(
            refused.status() == 409 && refused.to_string().contains("is suspended ("),
            "{action}: {refused}"
        );
    }
    change("unsuspend", json!({"reason": "billing"}));
    let (status, _) = Socket::open(&api, &path(vps, "console"), true).unwrap_err();
    assert_eq!(status, 409, "one of two suspensions is left");
    change("unsuspend", json!({"reason": "abuse"}));
    open(&fleet, &path(vps, "console")).hears("fake console", SOON);

    fleet.orchestrator.stop();
    let entries = fleet.orchestrator.audit();
    let count = |action: &str| entries.iter().filter(|row| row["action"] == action).count();
    assert_eq!((count("vps.console-open"), count("vps.console-close")), (2, 2));
    assert_eq!((count("vps.screen-open"), count("vps.screen-close")), (1, 1));
    assert_eq!(count("vps.reset-password"), 0, "what was refused was not done");
}

#[test]
fn a_viewer_that_never_reads_costs_a_bounded_amount_and_holds_up_nobody() {
    let (mut fleet, vps) = fleet();
    let mut writer = open(&fleet, &path(vps, "console"));
    writer.hears("fake console", SOON);
    let _sleeper = open(&fleet, &path(vps, "console?view=true"));
    let before = resident_bytes(fleet.orchestrator.process().pid());
    let page = vec![b'x'; 16 * 1024];
    for round in 0..600_u32 {
        writer.say(&page);
        let mark = format!("<{round}>");
        writer.say(mark.as_bytes());
        writer.hears(&mark, SOON);
        writer.heard.clear();
    }
    let grown = resident_bytes(fleet.orchestrator.process().pid()).saturating_sub(before);
    assert!(grown < 5 << 20, "9 MB of output that nobody reads cost {grown} bytes");
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_new_password_is_shown_once_and_is_kept_nowhere() {
    let (mut fleet, vps) = fleet();
    let api = fleet.api().clone();
    let reset = |key: &str| -> PasswordReset {
        api.call(Method::Post, &path(vps, "reset-password"), Some(&json!({})), Some(key)).unwrap()
    };
    let first = reset("one");
    let password = first.password.clone().unwrap();
    assert_eq!((first.user.as_str(), password.len()), ("root", 20));
    assert_eq!(reset("one").password, None, "the same request again gets no password");
    assert_ne!(reset("two").password.unwrap(), password);
    let wrong = json!({"user": "root; rm -rf /"});
    let refused = api.call::<PasswordReset>(Method::Post, &path(vps, "reset-password"), Some(&wrong), None);
    assert_eq!(refused.unwrap_err().status(), 422);

    // A reset that was not done leaves its key free.
    let stopped = api.act(vps, "stop", None).unwrap();
    let _ = api.ended(stopped.operation.id, SOON);
    for _ in 0..2 {
        let refused = api.call::<PasswordReset>(
            Method::Post,
            &path(vps, "reset-password"),
            Some(&json!({})),
            Some("three"),
        );
        assert_eq!(refused.unwrap_err().status(), 409);
    }

    fleet.orchestrator.stop();
    fleet.hosts[0].agent.stop();
    let export = fleet.orchestrator.export();
    let mut places = vec![
        fleet.orchestrator.folder().to_owned(),
        fleet.hosts[0].agent.config().parent().unwrap().to_owned(),
    ];
    places.push(export.parent().unwrap().to_owned());
    let mut files = 0;
    for place in places {
        files += search(&place, password.as_bytes());
    }
    assert!(files > 10, "only {files} files were searched");
    let dump = format!("{:?}", Rows::read(&export));
    assert!(!dump.contains(&password));
}

/// Fails when a file below a folder has the bytes in it; gives how many files there are.
fn search(folder: &Path, bytes: &[u8]) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files += search(&entry.path(), bytes);
        } else if entry.file_type().unwrap().is_file() {
            let content = std::fs::read(entry.path()).unwrap();
            let found = content.windows(bytes.len()).any(|window| window == bytes);
            assert!(!found, "the password is in {}", entry.path().display());
            files += 1;
        }
    }
    files
}
