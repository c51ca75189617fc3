//! The bytes of version 1, which every later release must read and this one must write.
//!
//! `protocol/golden/v1` holds one frame for each message, in hexadecimal. A new message: add it at the end of its list in
//! `every.rs`, run the tests with `CHOM_WRITE_GOLDEN=1`, which writes files that are not there and touches no other, and
//! commit the new file. A file that is there is never changed or removed: where it no longer passes, the wire was broken.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use chom_protocol::link::codec::{
    DecodeError, FRAME_BYTES_MAX, HEADER_BYTES, Message, decode, encode, payload_length,
};

use super::every::{every_to_agent, every_to_orchestrator, every_tunnel_reply, every_tunnel_request};

const BYTES_PER_LINE: usize = 32;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join("v1")
}

fn to_text(frame: &[u8]) -> String {
    frame.chunks(BYTES_PER_LINE).map(|line| data_encoding::HEXLOWER.encode(line) + "\n").collect()
}

fn from_text(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

fn check<M: Message + PartialEq + Debug>(direction: &str, name: &str, message: &M) {
    let path = folder().join(format!("{direction}.{name}.hex"));
    if std::env::var_os("CHOM_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, to_text(&encode(message).unwrap())).unwrap();
    }
    let shown = path.display();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{shown}: {error}: a new message? run this test with CHOM_WRITE_GOLDEN=1 and commit the file")
    });
    let golden = from_text(&text);
    let (header, payload) = golden.split_first_chunk::<HEADER_BYTES>().unwrap();
    assert_eq!(payload_length::<M>(*header).unwrap(), payload.len(), "{shown}");
    assert_eq!(
        &decode::<M>(payload).unwrap(),
        message,
        "{shown} is read as something else: the wire was broken"
    );
    assert_eq!(
        to_text(&encode(message).unwrap()),
        text,
        "{shown} is written as something else: the wire was broken"
    );
}

#[test]
fn golden_bytes_are_read_and_written_by_this_release() {
    for (name, message) in every_to_orchestrator() {
        check("to-orchestrator", name, &message);
    }
    for (name, message) in every_to_agent() {
        check("to-agent", name, &message);
    }
    for (name, message) in every_tunnel_request() {
        check("tunnel-request", name, &message);
    }
    for (name, message) in every_tunnel_reply() {
        check("tunnel-reply", name, &message);
    }
}

#[test]
fn every_golden_file_belongs_to_a_message() {
    let names = |direction: &str, names: Vec<&'static str>| {
        names.into_iter().map(|name| format!("{direction}.{name}.hex")).collect::<Vec<_>>()
    };
    let known: BTreeSet<_> = [
        names("to-orchestrator", every_to_orchestrator().into_iter().map(|(name, _)| name).collect()),
        names("to-agent", every_to_agent().into_iter().map(|(name, _)| name).collect()),
        names("tunnel-request", every_tunnel_request().into_iter().map(|(name, _)| name).collect()),
        names("tunnel-reply", every_tunnel_reply().into_iter().map(|(name, _)| name).collect()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let files: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, known, "golden files stay for ever, and so do their messages");
}

/// The first byte of a payload is the number of its variant.
fn every_variant_is_golden<M: Message + Debug>(messages: &[M]) {
    let numbers: BTreeSet<u8> = messages.iter().map(|message| message.to_payload().unwrap()[0]).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u8), "{numbers:?}");
    let next = numbers.len() as u8;
    let error = decode::<M>(&[next]).unwrap_err();
    let DecodeError::Value(bincode::error::DecodeError::OtherString(text)) = &error else {
        panic!("{error:?}: variant {next} exists and has no golden file")
    };
    assert!(text.contains("variant"), "{text}");
}

#[test]
fn every_variant_has_its_golden_file() {
    every_variant_is_golden(
        &every_to_orchestrator().into_iter().map(|(_, message)| message).collect::<Vec<_>>(),
    );
    every_variant_is_golden(&every_to_agent().into_iter().map(|(_, message)| message).collect::<Vec<_>>());
    every_variant_is_golden(
        &every_tunnel_request().into_iter().map(|(_, message)| message).collect::<Vec<_>>(),
    );
    every_variant_is_golden(
        &every_tunnel_reply().into_iter().map(|(_, message)| message).collect::<Vec<_>>(),
    );
}

#[test]
fn a_frame_of_another_protocol_version_direction_or_size_is_refused_by_its_header() {
    use chom_protocol::link::ToAgent;
    let good = [b'C', b'H', 1, 2, 0, 0, 0, 1];
    assert_eq!(payload_length::<ToAgent>(good).unwrap(), 1);
    let with = |at: usize, byte: u8| {
        let mut header = good;
        header[at] = byte;
        payload_length::<ToAgent>(header).unwrap_err()
    };
    assert!(matches!(with(0, b'X'), DecodeError::Magic { .. }));
    assert!(matches!(with(2, 2), DecodeError::Version { found: 2 }));
    assert!(matches!(with(3, 1), DecodeError::Kind { found: 1, .. }));
    assert!(matches!(with(4, 0xff), DecodeError::Large { .. }));
    let large = vec![0; FRAME_BYTES_MAX + 1];
    assert!(matches!(decode::<ToAgent>(&large).unwrap_err(), DecodeError::Large { .. }));
}
