//! A container from inside: its shell console, new passwords, what is known of it, and that all of this is refused while it is
//! suspended. Checked with `incus exec` and the container's own files.

use std::path::Path;

use chom_protocol::VpsId;
use chom_protocol::api::console::{ConsoleTicket, PasswordReset};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_tests::api::{Failure, Method};
use chom_tests::fleet::{LATER, SOON};
use chom_tests::hosts::{BOOT, Site, SiteOptions, guest_name};
use chom_tests::process::run;
use chom_tests::socket::Socket;
use chom_tests::wait::{wait_for, wait_until};
use serde_json::{Value, json};

use super::console::{answers, open};

fn reset(site: &Site, vps: VpsId, body: &Value) -> Result<PasswordReset, Failure> {
    site.api().call(Method::Post, &format!("/api/vps-servers/{vps}/reset-password"), Some(body), None)
}

/// What runs in a container.
fn processes(site: &Site, vps: VpsId) -> String {
    site.host.sh(&format!("incus exec {} -- ps -o args", guest_name(vps)))
}

#[test]
fn a_containers_shell_password_and_facts_and_nothing_of_it_while_suspended() {
    let site = Site::start("shell", &SiteOptions { containers: true, ..SiteOptions::default() });
    let (api, host) = (site.api(), &site.host);
    let vps = site.create_container("typed").id;

    a_shell_of_the_viewers_size_that_leaves_nothing_behind(&site, vps);
    passwords(&site, vps);
    facts(&site, vps);

    let screen = Socket::open(api, &format!("/api/vps-servers/{vps}/vnc"), true).unwrap_err();
    assert!(screen.0 == 409 && screen.1.contains("has no screen"), "{screen:?}");
    site.act(vps, "pause");
    let frozen = Socket::open(api, &format!("/api/vps-servers/{vps}/console"), true).unwrap_err();
    assert!(frozen.0 == 409 && frozen.1.contains("resume it first"), "{frozen:?}");
    site.act(vps, "resume");

    let mut console = open(&site, vps);
    answers(&mut console, 60);
    let change = |action: &str, body: Value| {
        let path = format!("/api/vps-servers/{vps}/{action}");
        let accepted: VpsAccepted = api.call(Method::Post, &path, Some(&body), None).unwrap();
        site.done(&accepted);
    };
    change("suspend", json!({"reason": "abuse", "mode": "isolated"}));
    console.until("the end of a console of a suspended VPS", SOON, |socket| socket.ended.is_some());
    let reason = console.reason().unwrap().to_owned();
    assert!(reason.contains("is suspended (abuse)") && reason.contains("unsuspend"), "{reason}");
    let refused = Socket::open(api, &format!("/api/vps-servers/{vps}/console"), true).unwrap_err();
    assert!(refused.0 == 409 && refused.1.contains("is suspended (abuse)"), "{refused:?}");
    let refused = reset(&site, vps, &json!({})).unwrap_err();
    assert!(refused.status() == 409 && refused.to_string().contains("is suspended (abuse)"), "{refused}");
    assert_eq!(host.incus_state(vps).as_deref(), Some("RUNNING"), "it is cut off, not stopped");
    change("unsuspend", json!({"reason": "abuse"}));
    answers(&mut open(&site, vps), 70);
}

fn a_shell_of_the_viewers_size_that_leaves_nothing_behind(site: &Site, vps: VpsId) {
    let path = format!("/api/vps-servers/{vps}/console?columns=132&rows=50");
    let mut console = wait_for("the console to open", LATER, || {
        Socket::open(site.api(), &path, true).map_err(|refusal| format!("{refusal:?}"))
    });
    answers(&mut console, 41);
    console.say(b"stty size\r");
    console.hears("50 132", SOON);
    console.order(r#"{"type":"resize","columns":100,"rows":40}"#);
    wait_for("the shell to hear of the new size", SOON, || {
        console.say(b"stty size\r");
        while console.look() {}
        match String::from_utf8_lossy(&console.heard).contains("40 100") {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&console.heard).into_owned()),
        }
    });
    // A large paste comes through whole, there and back.
    console.heard.clear();
    console.say(b"stty -echo; wc -c <<end\r");
    for _ in 0..200 {
        console.say(&[[b'x'; 99].as_slice(), b"\r"].concat());
    }
    console.say(b"end\r");
    console.hears("20000", SOON);

    assert!(processes(site, vps).contains("sh -l"), "{}", processes(site, vps));
    drop(console);
    wait_until("the shell to end with its viewer", SOON, || !processes(site, vps).contains("sh -l"));

    let mut console = open(site, vps);
    answers(&mut console, 50);
    console.say(b"exit\r");
    console.until("the end of the console", SOON, |socket| socket.ended.is_some());
    assert!(console.reason().unwrap().contains("the guest's console ended"), "{:?}", console.reason());
}

fn passwords(site: &Site, vps: VpsId) {
    let password = reset(site, vps, &json!({})).unwrap().password.unwrap();
    let shadow = site.host.sh(&format!("incus exec {} -- cat /etc/shadow", guest_name(vps)));
    let stored = shadow.lines().find_map(|line| line.strip_prefix("root:")?.split(':').next()).unwrap();
    let made = run(Path::new("perl"), ["-e", "print crypt($ARGV[0], $ARGV[1])", &password, stored]);
    assert_eq!(made.stdout.trim(), stored, "the container knows another password");
    assert!(!site.host.agent_log().contains(&password), "the password is in the agent's log");

    let refused = reset(site, vps, &json!({"user": "nobody-here"})).unwrap_err();
    assert_eq!(refused.status(), 409, "{refused}");
    let words = refused.to_string();
    assert!(words.contains("does not exist") && words.contains("on its console"), "{words}");
    let ticket: ConsoleTicket =
        site.api().call(Method::Post, &format!("/api/vps-servers/{vps}/console-token"), None, None).unwrap();
    let mut console = Socket::open(site.api(), &ticket.console, false).unwrap();
    answers(&mut console, 30);
}

fn facts(site: &Site, vps: VpsId) {
    let row = site.api().vps_becomes(vps, "known from inside", BOOT, |row| row.observed.guest.is_some());
    let guest = row.observed.guest.unwrap();
    assert_eq!((guest.hostname.as_deref(), guest.os.as_deref()), (Some("typed"), Some("CHOM hello")));
    assert!(guest.kernel.is_some());
    assert!(guest.addresses.as_ref().unwrap().contains(&row.addresses[0]), "{guest:?}");
    // The pool of these hosts is a folder, which has no use of its own: unknown, and not zero.
    let systems = guest.file_systems.unwrap_or_default();
    assert!(systems.iter().all(|system| system.used_bytes != Some(chom_protocol::Bytes(0))), "{systems:?}");
}
