//! Bytes that no peer of ours sends: whatever comes, decoding ends with a value or an error, and with little memory.

use std::fmt::Debug;

use chom_protocol::helper::{HelperReply, HelperRequest};
use chom_protocol::host::HostSpec;
use chom_protocol::link::codec::{DecodeError, FRAME_BYTES_MAX, Message, decode, encode};
use chom_protocol::link::tunnel::{Secret, TerminalSize, TunnelReply, TunnelRequest};
use chom_protocol::link::v1::spec_parts;
use chom_protocol::link::{FleetInfo, SpecBegin, SpecPart, Standing, ToAgent, ToOrchestrator};
use chom_protocol::sample::{Metric, Point, Sample};
use chom_protocol::vps::VpsSpec;
use chom_protocol::{BootId, TunnelId, UnixMillis};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::counting::peak_bytes;
use super::every::{
    crowded_status, every_helper_reply, every_helper_request, every_to_agent, every_to_orchestrator,
    every_tunnel_reply, every_tunnel_request, host_spec, job_id, plain_vps, vps_id,
};

/// Most memory that one payload may cost while it is decoded: sixteen frames.
const DECODE_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;

/// A length as bincode writes it, with each width: what is announced and never comes.
const HOSTILE_LENGTHS: [u64; 8] =
    [250, 0xffff, 0x1_0000, 1 << 20, u32::MAX as u64, 1 << 46, i64::MAX as u64, u64::MAX];

/// Something done to valid bytes.
#[derive(Debug, Clone)]
enum Mutation {
    FlipBit { at: prop::sample::Index, bit: u8 },
    Truncate { to: prop::sample::Index },
    Overwrite { at: prop::sample::Index, with: u8 },
    Length { at: prop::sample::Index, length: u64 },
    Insert { at: prop::sample::Index, bytes: Vec<u8> },
    Append { bytes: Vec<u8> },
    Repeat { from: prop::sample::Index },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let bytes = || prop::collection::vec(any::<u8>(), 1..64);
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Mutation::FlipBit { at, bit }),
        at().prop_map(|to| Mutation::Truncate { to }),
        (at(), any::<u8>()).prop_map(|(at, with)| Mutation::Overwrite { at, with }),
        (at(), prop::sample::select(&HOSTILE_LENGTHS[..]))
            .prop_map(|(at, length)| Mutation::Length { at, length }),
        (at(), bytes()).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        bytes().prop_map(|bytes| Mutation::Append { bytes }),
        at().prop_map(|from| Mutation::Repeat { from }),
    ]
}

/// bincode's variable-length integers: a byte up to 250, else a mark and two, four or eight bytes.
fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=250 => vec![value as u8],
        251..=0xffff => [&[251][..], &(value as u16).to_le_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[252][..], &(value as u32).to_le_bytes()].concat(),
        _ => [&[253][..], &value.to_le_bytes()].concat(),
    }
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: &prop::sample::Index, bytes: &[u8]| at.index(bytes.len() + 1);
    match mutation {
        Mutation::FlipBit { at, bit } if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Mutation::Overwrite { at, with } if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *with;
        }
        Mutation::Length { at, length } if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes.splice(at..=at, varint(*length));
        }
        Mutation::FlipBit { .. } | Mutation::Overwrite { .. } | Mutation::Length { .. } => {}
        Mutation::Truncate { to } => bytes.truncate(place(to, bytes)),
        Mutation::Insert { at, bytes: more } => {
            let at = place(at, bytes);
            bytes.splice(at..at, more.iter().copied());
        }
        Mutation::Append { bytes: more } => bytes.extend(more),
        Mutation::Repeat { from } => {
            let tail = bytes[place(from, bytes)..].to_vec();
            bytes.extend(tail);
        }
    }
}

/// Decodes within the memory that is allowed; gives the value if there is one.
fn decode_frugally<M: Message>(payload: &[u8]) -> Option<M> {
    let (decoded, bytes) = peak_bytes(|| decode::<M>(payload));
    assert!(bytes <= DECODE_BYTES_MAX, "{} bytes of payload cost {bytes} bytes of memory", payload.len());
    decoded.ok()
}

/// A value that was taken in can be sent on, and means the same there.
fn decode_and_send_on<M: Message + PartialEq + Debug>(payload: &[u8]) {
    if let Some(message) = decode_frugally::<M>(payload) {
        let again = encode(&message).unwrap();
        assert_eq!(decode_frugally::<M>(&again[8..]).unwrap(), message);
    }
}

fn payloads<M: Message>(messages: &[M]) -> Vec<Vec<u8>> {
    messages.iter().map(|message| message.to_payload().unwrap()).collect()
}

/// The same cases on every run.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x0C40_0001),
        failure_persistence: None,
        ..Default::default()
    }
}

fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(valid), prop::collection::vec(mutation(), 1..4)).prop_map(
        |(mut bytes, mutations)| {
            mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
            bytes
        },
    )
}

fn to_orchestrator() -> Vec<ToOrchestrator> {
    every_to_orchestrator().into_iter().map(|(_, message)| message).collect()
}

fn to_agent() -> Vec<ToAgent> {
    every_to_agent().into_iter().map(|(_, message)| message).collect()
}

fn tunnel_requests() -> Vec<TunnelRequest> {
    every_tunnel_request().into_iter().map(|(_, message)| message).collect()
}

fn tunnel_replies() -> Vec<TunnelReply> {
    every_tunnel_reply().into_iter().map(|(_, message)| message).collect()
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn mutated_messages_to_the_orchestrator_end_well(bytes in mutated(payloads(&to_orchestrator()))) {
        decode_and_send_on::<ToOrchestrator>(&bytes);
    }

    #[test]
    fn mutated_messages_to_the_agent_end_well(bytes in mutated(payloads(&to_agent()))) {
        decode_and_send_on::<ToAgent>(&bytes);
    }

    #[test]
    fn mutated_helper_messages_end_well(
        request in mutated(payloads(&every_helper_request())),
        reply in mutated(payloads(&every_helper_reply())),
    ) {
        decode_frugally::<HelperRequest>(&request);
        decode_frugally::<HelperReply>(&reply);
    }

    #[test]
    fn mutated_first_frames_of_tunnels_end_well(
        request in mutated(payloads(&tunnel_requests())),
        reply in mutated(payloads(&tunnel_replies())),
    ) {
        decode_and_send_on::<TunnelRequest>(&request);
        decode_and_send_on::<TunnelReply>(&reply);
    }

    #[test]
    fn random_bytes_end_well(variant in 0..32u8, bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let bytes = [&[variant][..], &bytes].concat();
        decode_and_send_on::<ToOrchestrator>(&bytes);
        decode_and_send_on::<ToAgent>(&bytes);
        decode_frugally::<HelperRequest>(&bytes);
        decode_frugally::<HelperReply>(&bytes);
        decode_and_send_on::<TunnelRequest>(&bytes);
        decode_and_send_on::<TunnelReply>(&bytes);
    }
}

/// Every truncation and every hostile length at every place, not only those that chance finds.
fn walk<M: Message + Debug>(valid: &[Vec<u8>]) {
    for payload in valid {
        for at in 0..payload.len() {
            let cut = decode_frugally::<M>(&payload[..at]);
            assert!(cut.is_none(), "{at} bytes of {payload:02x?} were taken for {cut:?}");
            for length in HOSTILE_LENGTHS {
                let mut bytes = payload.clone();
                bytes.splice(at..=at, varint(length));
                // Then nothing, or as much as a frame can bring.
                decode_frugally::<M>(&bytes[..=at + varint(length).len() - 1]);
                decode_frugally::<M>(&bytes);
            }
        }
        let mut longer = payload.clone();
        longer.push(0);
        assert!(matches!(decode::<M>(&longer), Err(DecodeError::Trailing { extra: 1 })), "{longer:02x?}");
    }
}

#[test]
fn truncations_trailing_bytes_and_hostile_lengths_at_every_place_are_refused_cheaply() {
    walk::<ToOrchestrator>(&payloads(&to_orchestrator()));
    walk::<ToAgent>(&payloads(&to_agent()));
    walk::<HelperRequest>(&payloads(&every_helper_request()));
    walk::<HelperReply>(&payloads(&every_helper_reply()));
    walk::<TunnelRequest>(&payloads(&tunnel_requests()));
    walk::<TunnelReply>(&payloads(&tunnel_replies()));
}

#[test]
fn a_frame_full_of_the_smallest_things_costs_little_memory() {
    // Each variant's number, then one list that fills the frame with zeros or ones.
    for variant in 0..16u8 {
        for length in [256_u64, 10_000, 16 * 1024, 64 * 1024, 1 << 20] {
            for fill in [0, 1] {
                let mut payload = [vec![variant], varint(length)].concat();
                payload.resize(FRAME_BYTES_MAX, fill);
                decode_frugally::<ToOrchestrator>(&payload);
                decode_frugally::<ToAgent>(&payload);
            }
        }
    }
    let point = Point { metric: Metric::Load1, vps: None, label: String::new(), value: 1.0 };
    let sample = Sample {
        boot: BootId::new(job_id(1).uuid()),
        sequence: 1,
        at: UnixMillis(1),
        points: vec![point; 16 * 1024],
    };
    let fullest = [
        ToOrchestrator::Samples(vec![sample; 5]),
        ToOrchestrator::Status(Box::new(crowded_status(10_000, "x"))),
        ToOrchestrator::LedgerPart(SpecPart { vps: vec![plain_vps(1); 7_000], ..SpecPart::default() }),
    ];
    for message in fullest {
        let payload = message.to_payload().unwrap();
        assert!(payload.len() > FRAME_BYTES_MAX / 4, "{} bytes are no full frame", payload.len());
        assert!(decode_frugally::<ToOrchestrator>(&payload).is_some(), "what was sent is not taken");
    }
}

#[test]
fn a_status_too_large_for_a_frame_loses_words_and_no_facts() {
    let status = crowded_status(10_000, &"the engine said a lot. ".repeat(100));
    let frame = encode(&ToOrchestrator::Status(Box::new(status.clone()))).unwrap();
    let ToOrchestrator::Status(arrived) = decode(&frame[8..]).unwrap() else { panic!("no status") };
    assert_eq!(arrived.vps.len(), status.vps.len());
    assert!(
        arrived.vps.values().zip(status.vps.values()).all(|(a, s)| a.state == s.state && a.problem.is_some())
    );
}

/// The error of what should never have been sent.
fn refusal<M: Message + Debug>(message: &M) -> String {
    match decode::<M>(&message.to_payload().unwrap()) {
        Err(DecodeError::Bad(why)) => why,
        other => panic!("taken: {other:?}"),
    }
}

fn refused_vps(change: impl FnOnce(&mut VpsSpec)) -> String {
    let mut vps = plain_vps(7);
    change(&mut vps);
    refusal(&ToAgent::SpecPart(SpecPart { vps: vec![vps], ..SpecPart::default() }))
}

fn refused_begin(change: impl FnOnce(&mut HostSpec)) -> String {
    let mut spec = host_spec();
    change(&mut spec);
    let (begin, _, _): (SpecBegin, _, _) = spec_parts(&spec);
    refusal(&ToAgent::SpecBegin(begin))
}

fn refused_fleet(orchestrators: &[&str], ca_bundle: &[&[u8]]) -> String {
    let orchestrators = orchestrators.iter().map(|&address| address.to_owned()).collect();
    let ca_bundle = ca_bundle.iter().map(|&der| der.to_vec()).collect();
    refusal(&ToAgent::Welcome { standing: Standing::Managed, fleet: FleetInfo { orchestrators, ca_bundle } })
}

#[test]
fn a_bad_value_is_refused_by_the_name_of_its_field() {
    let ca: &[&[u8]] = &[&[0x30]];
    let prefix = |address: &str, prefix| chom_protocol::vps::AddressPrefix {
        address: address.parse().unwrap(),
        prefix,
    };
    let said = [
        refused_vps(|vps| vps.interface.mac = [1, 0, 0, 0, 0, 1]),
        refused_vps(|vps| vps.interface.mac = [0; 6]),
        refused_vps(|vps| vps.interface.addresses = vec![prefix("10.0.0.1", 33)]),
        refused_vps(|vps| vps.interface.addresses = vec![prefix("fd00::1", 129)]),
        refused_vps(|vps| vps.interface.addresses = vec![prefix("224.0.0.1", 24)]),
        refused_vps(|vps| vps.interface.gateway_v4 = Some("0.0.0.0".parse().unwrap())),
        refused_vps(|vps| vps.interface.routed = vec!["10.0.0.1/24".parse().unwrap()]),
        refused_vps(|vps| {
            let ports = vec![chom_protocol::network::PortRange::new(22, 22).unwrap()];
            vps.interface.firewall.rules = vec![chom_protocol::network::FirewallRule {
                direction: chom_protocol::network::Direction::In,
                protocol: chom_protocol::network::TransportProtocol::Any,
                ports,
                peer: None,
                action: chom_protocol::network::FirewallAction::Drop,
            }];
        }),
        refused_vps(|vps| vps.interface.dns = vec!["ff02::1".parse().unwrap()]),
        refused_vps(|vps| vps.ssh_keys = vec!["ssh-ed25519 A\nruncmd: [evil]".to_owned()]),
        refused_vps(|vps| vps.ssh_keys = vec!["k".repeat(8193)]),
        refused_begin(|spec| spec.settings.report_interval_seconds = 0),
        refused_begin(|spec| spec.settings.reconcile_interval_seconds = u32::MAX),
        refused_fleet(&["no-port"], ca),
        refused_fleet(&["host:0"], ca),
        refused_fleet(&["host name:1"], ca),
        refused_fleet(&["host:1"], &[]),
        refused_fleet(&["host:1"], &[&[]]),
        refusal(&ToOrchestrator::Renew { csr: vec![] }),
        refusal(&ToOrchestrator::Enrol { token: "t".repeat(1025), csr: vec![0x30], hostname: String::new() }),
    ];
    let said = said.join("\n").replace(&vps_id(7).to_string(), "7");
    expect_test::expect![[r#"
        SpecPart: VPS 7: interface: mac: [01, 00, 00, 00, 00, 01] is not the address of one card
        SpecPart: VPS 7: interface: mac: [00, 00, 00, 00, 00, 00] is not the address of one card
        SpecPart: VPS 7: interface: addresses: 10.0.0.1/33 has a prefix of more than 32 bits
        SpecPart: VPS 7: interface: addresses: fd00::1/129 has a prefix of more than 128 bits
        SpecPart: VPS 7: interface: addresses: 224.0.0.1 is not the address of one machine
        SpecPart: VPS 7: interface: gateway: 0.0.0.0 is not the address of one machine
        SpecPart: VPS 7: interface: routed: 10.0.0.1/24 has bits set beyond its length
        SpecPart: VPS 7: interface: firewall: rules: rule 1 names ports; only tcp and udp have ports: name one of them as its protocol
        SpecPart: VPS 7: interface: dns: ff02::1 is not the address of one machine
        SpecPart: VPS 7: ssh_keys: the SSH key has a line break or control character in it; give one line for each key
        SpecPart: VPS 7: ssh_keys: the SSH key has 8193 bytes; at most 8192 are allowed
        SpecBegin: settings: report_interval_seconds: 0 is not between 1 and 86400
        SpecBegin: settings: reconcile_interval_seconds: 4294967295 is not between 1 and 86400
        Welcome: orchestrators: `no-port` is no address of the form host:port
        Welcome: orchestrators: `host:0` is no address of the form host:port
        Welcome: orchestrators: `host name:1` is no address of the form host:port
        Welcome: ca_bundle: no CA at all: a host that kept this could trust no orchestrator again
        Welcome: ca_bundle: empty
        Renew: csr: empty
        Enrol: token: 1025 bytes; at most 1024 are allowed"#]].assert_eq(&said);
}

#[test]
fn a_tunnel_takes_only_names_and_passwords_that_can_stand_on_one_line_and_shows_neither() {
    let password = |user: &str, text: &str| TunnelRequest::SetPassword {
        vps: vps_id(1),
        user: user.to_owned(),
        password: Secret::new(text.to_owned()),
    };
    let console = |columns| TunnelRequest::Console {
        tunnel: TunnelId::new(job_id(1).uuid()),
        vps: vps_id(1),
        size: TerminalSize { columns, rows: 24 },
    };
    let said = [
        refusal(&password("root:x", "good")),
        refusal(&password("-rf", "good")),
        refusal(&password("", "good")),
        refusal(&password("root", "two\nroot:lines")),
        refusal(&password("root", "")),
        refusal(&password("root", &"p".repeat(129))),
        refusal(&console(0)),
        refusal(&console(2001)),
    ];
    expect_test::expect![[r#"
        SetPassword: user: `root:x` is no name of a user (useradd(8))
        SetPassword: user: `-rf` is no name of a user (useradd(8))
        SetPassword: user: `` is no name of a user (useradd(8))
        SetPassword: password: not 1 to 128 visible ASCII characters
        SetPassword: password: not 1 to 128 visible ASCII characters
        SetPassword: password: not 1 to 128 visible ASCII characters
        size: 0x24 is no terminal of 1 to 2000 cells
        size: 2001x24 is no terminal of 1 to 2000 cells"#]]
    .assert_eq(&said.join("\n"));
    assert!(!format!("{:?}", password("root", "hunter2")).contains("hunter2"));
}

#[test]
fn a_name_that_is_no_host_name_is_refused() {
    let part = SpecPart { vps: vec![plain_vps(7)], ..SpecPart::default() };
    let mut payload = ToAgent::SpecPart(part).to_payload().unwrap();
    let at = payload.windows(5).position(|bytes| bytes == b"vps-7").unwrap();
    payload[at + 3] = b'/';
    let error = decode::<ToAgent>(&payload).unwrap_err().to_string();
    assert!(error.contains("name: the name `vps/7` has `/` in it"), "{error}");
}
