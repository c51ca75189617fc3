//! Frames that no peer of ours sends, over a real connection with a good certificate: the peer is told and let go, and
//! everybody else is served on.

use std::net::SocketAddr;
use std::path::Path;

use chom_protocol::host::{HostStatus, Inventory};
use chom_protocol::link::codec::{FRAME_BYTES_MAX, HEADER_BYTES, MAGIC, VERSION, encode};
use chom_protocol::link::{Close, ToOrchestrator};
use chom_protocol::sample::{Metric, Point, Sample};
use chom_protocol::{BootId, Generation, InstanceId, UnixMillis};
use chom_tests::agent::Agent;
use chom_tests::api::Method;
use chom_tests::fleet::{Fleet, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::peer::{End, Peer};
use chom_tests::seed::{Chance, rounds};

fn header(magic: [u8; 2], version: u8, kind: u8, length: u32) -> Vec<u8> {
    let [m0, m1] = magic;
    let [l0, l1, l2, l3] = length.to_be_bytes();
    vec![m0, m1, version, kind, l0, l1, l2, l3]
}

fn good_messages(chance: &mut Chance) -> Vec<Vec<u8>> {
    let boot = BootId::new(uuid::Uuid::from_u128(chance.number().into()));
    let point = Point { metric: Metric::Load1, vps: None, label: "x".repeat(20), value: 0.5 };
    let status = HostStatus {
        prefetch: Default::default(),
        boot,
        observed_at: UnixMillis(1),
        accepted: Generation::default(),
        reconciled: Generation::default(),
        inventory: Inventory::default(),
        engines: Vec::new(),
        vps: Default::default(),
        foreign: Vec::new(),
        orphans: Vec::new(),
        destroys_waiting: Vec::new(),
        problems: vec!["a problem".to_owned()],
    };
    let sample = Sample { boot, sequence: chance.number(), at: UnixMillis(1), points: vec![point; 5] };
    [
        ToOrchestrator::Status(Box::new(status)),
        ToOrchestrator::Samples(vec![sample]),
        ToOrchestrator::Pull { have: Generation::default() },
        ToOrchestrator::Results(Vec::new()),
        ToOrchestrator::Renew { csr: chance.bytes(300) },
    ]
    .iter()
    .map(|message| encode(message).unwrap())
    .collect()
}

/// Bytes that are wrong in one way or another; some of them are right by chance.
fn hostile(chance: &mut Chance) -> Vec<u8> {
    let messages = good_messages(chance);
    let mut frame = chance.pick(&messages).clone();
    match chance.below(9) {
        0 => {
            let count = usize::try_from(chance.below(2000)).unwrap();
            chance.bytes(count)
        }
        1 => {
            let mut bytes = header(MAGIC, VERSION, 1, u32::MAX);
            bytes.extend(chance.bytes(100));
            bytes
        }
        2 => header(MAGIC, VERSION, 1, u32::try_from(FRAME_BYTES_MAX).unwrap()),
        3 => {
            frame.truncate(usize::try_from(chance.below(frame.len() as u64)).unwrap());
            frame
        }
        4 => {
            for _ in 0..=chance.below(8) {
                let place = usize::try_from(chance.below(frame.len() as u64)).unwrap();
                frame[place] ^= 1 << chance.below(8);
            }
            frame
        }
        5 => {
            // A good header around any payload: the decoder itself is what is hit.
            let count = usize::try_from(chance.below(4000)).unwrap();
            let mut bytes = header(MAGIC, VERSION, 1, u32::try_from(count).unwrap());
            bytes.extend(chance.bytes(count));
            bytes
        }
        6 => {
            // Trailing bytes within the frame.
            let extra = u32::try_from(frame.len() - HEADER_BYTES + 3).unwrap();
            let mut bytes = header(MAGIC, VERSION, 1, extra);
            bytes.extend_from_slice(&frame[HEADER_BYTES..]);
            bytes.extend([0, 0, 0]);
            bytes
        }
        7 => {
            // Any variant with the greatest length that fits a varint.
            let mut bytes = header(MAGIC, VERSION, 1, 10);
            bytes.push(u8::try_from(chance.below(16)).unwrap());
            bytes.push(253);
            bytes.extend(u64::MAX.to_le_bytes());
            bytes
        }
        _ => [frame.clone(), frame].concat(),
    }
}

/// One connection that behaves badly, after a good greeting or instead of it.
fn attack(to: SocketAddr, identity: &Path, instance: InstanceId, chance: &mut Chance) {
    let Ok(peer) = Peer::connect(to, identity) else { return };
    let greeted = chance.percent(75);
    let _control = if greeted {
        match peer.greet(Peer::greeting(identity, instance)) {
            Ok((mut control, _)) => {
                if chance.percent(30) {
                    let _ = peer.say(&mut control, &hostile(chance));
                }
                Some(control)
            }
            Err(_) => None,
        }
    } else {
        None
    };
    for _ in 0..=chance.below(3) {
        let Ok(mut stream) = peer.open() else { return };
        if peer.say(&mut stream, &hostile(chance)).is_err() {
            return;
        }
        if chance.percent(50) {
            peer.finish(&mut stream);
        }
    }
}

#[test]
fn hostile_frames_leave_the_orchestrator_serving_everybody_else() {
    let mut chance = Chance::for_test("hostile frames");
    let mut fleet = Fleet::start(Options::default(), 1);
    let added = fleet.api().add_host("hostile", "eu-west").unwrap();
    let hostile = Agent::new();
    let _ = hostile.enrol(&added.join_code).well("chom-agent enrol");
    let (address, identity) = (fleet.orchestrator.link_address(), hostile.identity());
    let instance = InstanceId::new(uuid::Uuid::new_v4());
    for _ in 0..rounds(2000, 200) {
        attack(address, &identity, instance, &mut chance);
    }
    let (status, _) = fleet.api().ask(Method::Get, "/healthz", None, &[]).unwrap();
    assert_eq!(status, 200);
    assert!(fleet.orchestrator.process().runs());
    let said = fleet.orchestrator.log();
    assert!(!said.contains("panicked"), "a frame made the orchestrator panic");
    let accepted = fleet.api().create("served", None).unwrap();
    let ended = fleet.api().ended(accepted.operation.id, SOON);
    assert_eq!(ended.state, chom_protocol::api::operations::OperationState::Succeeded, "{ended:?}");
}

#[test]
fn an_agent_of_an_unknown_version_is_told_so() {
    let fleet = Fleet::start(Options::default(), 0);
    let added = fleet.api().add_host("newer", "us-east").unwrap();
    let agent = Agent::new();
    let _ = agent.enrol(&added.join_code).well("chom-agent enrol");
    let peer = Peer::connect(fleet.orchestrator.link_address(), &agent.identity()).unwrap();
    let mut stream = peer.open().unwrap();
    let instance = InstanceId::new(uuid::Uuid::new_v4());
    let hello = ToOrchestrator::Hello(Peer::greeting(&agent.identity(), instance));
    let mut frame = encode(&hello).unwrap();
    frame[2] = VERSION + 1;
    peer.say(&mut stream, &frame).unwrap();
    let (end, _) = peer.closed();
    let End::Closed(Some(Close::Protocol), reason) = end else { panic!("{end:?}") };
    assert!(reason.contains("version 2") && reason.contains("upgrade"), "{reason}");
}
