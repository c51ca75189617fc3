//! Peers that break the rules: their connection is closed with the reason, and nobody else notices.

use chom_protocol::Generation;
use chom_protocol::link::codec::{FRAME_BYTES_MAX, encode};
use chom_protocol::link::{Close, SpecPart, ToAgent, ToOrchestrator};

use super::fixture::{World, say, status, within};

fn header(magic: &[u8; 2], version: u8, kind: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [magic.as_slice(), &[version, kind], &length].concat()
}

#[tokio::test]
async fn a_stream_that_is_not_ours_ends_its_connection_only() {
    let world = World::new().await;
    let (_good_host, good) = world.agent("good").await;
    let bad = world.host("bad").await;
    let mut trailing = encode(&ToOrchestrator::Samples(Vec::new())).unwrap();
    trailing.push(0);
    trailing[7] += 1;
    let foreign = encode(&ToAgent::Acknowledged).unwrap();
    let misplaced = encode(&ToOrchestrator::LedgerPart(SpecPart::default())).unwrap();
    let accepted = encode(&ToOrchestrator::Accepted { generation: Generation::default() }).unwrap();
    let cases: [(&str, Vec<u8>); 11] = [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an unknown version", header(b"CH", 99, 1, 0)),
        ("an answer for a question", foreign),
        ("a frame that is too large", header(b"CH", 1, 1, FRAME_BYTES_MAX + 1)),
        ("an empty payload", header(b"CH", 1, 1, 0)),
        ("bytes behind the message", trailing),
        ("noise", [header(b"CH", 1, 1, 64), vec![0xff; 64]].concat()),
        ("a frame that is cut off", [header(b"CH", 1, 1, 64), vec![0; 3]].concat()),
        ("nothing at all", Vec::new()),
        ("a message of another stream", misplaced),
        ("an answer to nothing", accepted),
    ];
    for (case, bytes) in cases {
        let agent = world.connect(&bad, 1).await.unwrap();
        let (mut send, _receive) = within(agent.connection.open_bi()).await.unwrap();
        within(send.write_all(&bytes)).await.unwrap();
        send.finish().unwrap();
        assert_eq!(agent.closed().await, Some(Close::Protocol), "{case}");
        good.report(status()).await;
    }
}

#[tokio::test]
async fn the_first_word_must_be_hello() {
    let world = World::new().await;
    let host = world.host("a").await;
    let connection = world.dial(chom_certs::client_config(&host.identity).unwrap()).await.unwrap();
    let (mut send, _receive) = within(connection.open_bi()).await.unwrap();
    say(&mut send, &ToOrchestrator::Samples(Vec::new())).await;
    let closed = within(connection.closed()).await;
    assert_eq!(super::fixture::close_of(&closed), Some(Close::Protocol));
}

#[tokio::test]
async fn a_ledger_that_nobody_began_ends_the_connection() {
    let world = World::new().await;
    let (_host, mut agent) = world.agent("a").await;
    say(&mut agent.control.0, &ToOrchestrator::LedgerPart(SpecPart::default())).await;
    assert_eq!(agent.closed().await, Some(Close::Protocol));
}

#[tokio::test]
async fn a_request_given_up_by_the_agent_is_no_offence() {
    let world = World::new().await;
    let (_host, agent) = world.agent("a").await;
    let (mut send, _receive) = within(agent.connection.open_bi()).await.unwrap();
    within(send.write_all(&header(b"CH", 1, 1, 1000))).await.unwrap();
    send.reset(1_u8.into()).unwrap();
    agent.report(status()).await;
    assert!(agent.connection.close_reason().is_none());
}

#[tokio::test]
async fn streams_are_bounded_and_the_place_of_an_ended_one_is_free_again() {
    let world = World::new().await;
    let (_host, agent) = world.agent("a").await;
    let mut held = Vec::new();
    // Control is one of the eight.
    for _ in 0..7 {
        let (mut send, receive) = within(agent.connection.open_bi()).await.unwrap();
        within(send.write_all(&header(b"CH", 1, 1, 1000))).await.unwrap();
        held.push((send, receive));
    }
    let mut ninth = std::pin::pin!(agent.connection.open_bi());
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut ninth).await;
    assert!(early.is_err(), "a ninth stream was let in");
    for (mut send, _receive) in held {
        send.reset(1_u8.into()).unwrap();
    }
    within(ninth).await.unwrap();
}
