//! The consoles of a real VM: typed into over the API, watched on its screen by a VNC client, through the death of its agent
//! and the loss of its network; and what is said where nobody inside the guest answers.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::api::console::{ConsoleTicket, PasswordReset};
use chom_protocol::api::hosts::HostState;
use chom_tests::api::Method;
use chom_tests::fleet::{LATER, SOON};
use chom_tests::hosts::{BOOT, Site, SiteOptions};
use chom_tests::process::{program, run};
use chom_tests::socket::Socket;
use chom_tests::wait::wait_for;
use serde_json::json;

pub(super) fn open(site: &Site, vps: VpsId) -> Socket {
    let path = format!("/api/vps-servers/{vps}/console");
    wait_for("the console to open", LATER, || {
        Socket::open(site.api(), &path, true).map_err(|refusal| format!("{refusal:?}"))
    })
}

/// Types a sum that only a shell can answer, until it does: what is typed while the shell starts may be lost.
pub(super) fn answers(socket: &mut Socket, sum: u32) {
    let typed = format!("echo $(({sum}+1))-answered\r");
    let answer = format!("{}-answered", sum + 1);
    wait_for("the shell on the console to answer", BOOT, || {
        socket.say(typed.as_bytes());
        for _ in 0..40 {
            socket.look();
            if String::from_utf8_lossy(&socket.heard).contains(&answer) {
                return Ok(());
            }
        }
        Err(String::from_utf8_lossy(&socket.heard).into_owned())
    });
}

/// The part of the RFB protocol (RFC 6143, version 3.8) that reads a whole screen without compression: its pixels.
fn screen(socket: &mut Socket) -> Vec<u32> {
    let take = |socket: &mut Socket, count: usize| -> Vec<u8> {
        socket.until(&format!("{count} bytes of the screen"), SOON, |socket| socket.heard.len() >= count);
        socket.heard.drain(..count).collect()
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
    assert_eq!(take(socket, 12), b"RFB 003.008\n");
    socket.say(b"RFB 003.008\n");
    let kinds = take(socket, 1)[0];
    assert!(take(socket, kinds.into()).contains(&1), "it wants a password of its own");
    socket.say(&[1]);
    assert_eq!(take(socket, 4), [0; 4]);
    socket.say(&[1]); // shared
    let init = take(socket, 24);
    let (width, height, bits) = (number(&init[..2]), number(&init[2..4]), init[4]);
    assert_eq!(bits, 32, "bits of a pixel");
    let _name = take(socket, number(&init[20..24]));
    socket.say(&[2, 0, 0, 1, 0, 0, 0, 0]); // raw only
    let mut whole = vec![3, 0, 0, 0, 0, 0];
    whole.extend_from_slice(&init[..4]);
    socket.say(&whole);
    let mut pixels = Vec::new();
    while pixels.len() < width * height {
        let update = take(socket, 4);
        assert_eq!(update[0], 0, "an update of the screen");
        for _ in 0..number(&update[2..4]) {
            let rectangle = take(socket, 12);
            let count = number(&rectangle[4..6]) * number(&rectangle[6..8]);
            let raw = take(socket, count * 4);
            pixels.extend(raw.chunks(4).map(|pixel| u32::from_le_bytes(pixel.try_into().unwrap())));
        }
    }
    pixels
}

/// What a VNC client of Debian's sees, over another ticket.
fn a_real_client_shows_the_screen(site: &Site, vps: VpsId) {
    let path = format!("/api/vps-servers/{vps}/console-token");
    let ticket: ConsoleTicket = site.api().call(Method::Post, &path, None, None).unwrap();
    let socket = Socket::open(site.api(), &ticket.vnc, false).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("127.0.0.1::{}", listener.local_addr().unwrap().port());
    let lent = std::thread::spawn(move || socket.lend(&listener));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
    let (taken, plain) = (file("screen.jpg"), file("screen.ppm"));
    let said = run(Path::new("vncsnapshot"), ["-quality", "100", &server, &taken]);
    assert_eq!(said.code, Some(0), "{said:?}");
    lent.join().unwrap();
    let said = run(Path::new("djpeg"), ["-pnm", "-outfile", &plain, &taken]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let picture = std::fs::read(&plain).unwrap();
    let mut lines = picture.splitn(4, |byte| *byte == b'\n');
    let (kind, size, depth) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
    assert_eq!((kind, depth), (b"P6".as_slice(), b"255".as_slice()));
    let pixels: Vec<u32> = lines
        .next()
        .unwrap()
        .chunks(3)
        .map(|pixel| pixel.iter().map(|&colour| u32::from(colour)).sum())
        .collect();
    // JPEG is not exact: only what differs clearly from the background counts, as letters do.
    let drawn = pixels.iter().filter(|pixel| pixel.abs_diff(pixels[0]) > 200).count();
    let size = String::from_utf8_lossy(size);
    assert!(drawn > 500, "{drawn} of {} pixels of a screen of {size} are drawn on", pixels.len());
}

#[test]
fn a_vms_console_is_typed_into_its_screen_is_seen_and_both_end_well_when_agent_or_network_go() {
    let site = Site::start("console", &SiteOptions::default());
    let (api, host) = (site.api(), &site.host);
    let vps = site.create_and_greet("typed").id;
    let qemu = host.qemu_pid(vps);

    let mut console = open(&site, vps);
    answers(&mut console, 41);
    assert!(host.console(vps).contains("42-answered"), "the console's log has it too");

    // By chomctl, from a pipe.
    let typed = format!(
        "{{ sleep 1; printf 'echo $((70+7))-by-chomctl\\r'; sleep 3; }} | CHOM_SERVER={} CHOM_TOKEN={} CHOM_CA_FILE={} timeout 20 {} vps console typed --take",
        api.server,
        api.token,
        site.orchestrator.state().join("ca.pem").display(),
        program("chomctl").display(),
    );
    let said = run(Path::new("sh"), ["-c", &typed]);
    assert!(said.stdout.contains("77-by-chomctl"), "{said:?}");

    let ticket: ConsoleTicket =
        api.call(Method::Post, &format!("/api/vps-servers/{vps}/console-token"), None, None).unwrap();
    let mut vnc = Socket::open(api, &ticket.vnc, false).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let pixels = screen(&mut vnc);
    let first = pixels[0];
    assert!(pixels.iter().any(|pixel| *pixel != first), "{} pixels, all {first:x}", pixels.len());

    a_real_client_shows_the_screen(&site, vps);

    // Nobody inside answers: said, with the way out, and unknown rather than empty.
    let path = format!("/api/vps-servers/{vps}/reset-password");
    let refused = api.call::<PasswordReset>(Method::Post, &path, Some(&json!({})), None).unwrap_err();
    assert!(refused.status() == 409 && refused.to_string().contains("rescue"), "{refused}");
    assert_eq!(api.vps(vps).unwrap().observed.guest, None);

    host.sh("systemctl restart chom-agent");
    for (what, socket) in [("console", &mut console), ("screen", &mut vnc)] {
        socket.until(&format!("the end of the {what}"), SOON, |socket| socket.ended.is_some());
        let reason = socket.reason().unwrap();
        assert!(reason.contains("the connection to the host broke"), "{what}: {reason}");
    }
    api.host_becomes(host.id, HostState::Connected, LATER);
    let mut console = open(&site, vps);
    answers(&mut console, 50);

    host.cut();
    console.until("the end of the console", SOON, |socket| socket.ended.is_some());
    let reason = console.reason().unwrap().to_owned();
    assert!(reason.contains("the connection to the host broke"), "{reason}");
    let asked = std::time::Instant::now();
    let refused = Socket::open(api, &format!("/api/vps-servers/{vps}/console"), true).unwrap_err();
    assert!(refused.0 == 503 && refused.1.contains("not connected"), "{refused:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "it waited {:?} for a host that is away",
        asked.elapsed()
    );
    host.heal();
    let mut console = open(&site, vps);
    answers(&mut console, 60);
    assert_eq!(host.qemu_pid(vps), qemu, "the guest ran on through all of it");
}
