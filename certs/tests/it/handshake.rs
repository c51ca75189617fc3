//! Whole TLS handshakes between the configurations, in memory: who gets in, who does not, and that nothing is resumed.

use std::sync::Arc;
use std::time::Duration;

use chom_certs::{
    ALPN_ENROL, ALPN_LINK, Authority, CaBundle, Fingerprint, SERVER_NAME, ServerCertificate, client_config,
    enrol_client_config, https_server_config, peer_identity, server_config,
};
use chom_protocol::UnixMillis;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, Error, HandshakeKind, ServerConfig,
    ServerConnection,
};

use crate::fixture::{Host, NOW, after_days, authority, bundle, server};

/// rustls's clock, stopped.
#[derive(Debug)]
struct At(UnixMillis);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.0)))
    }
}

fn server_at(server: &ServerCertificate, bundle: &CaBundle, now: UnixMillis) -> Arc<ServerConfig> {
    let mut config = server_config(server, bundle).unwrap();
    config.time_provider = Arc::new(At(now));
    Arc::new(config)
}

fn client_at(mut config: ClientConfig, now: UnixMillis) -> Arc<ClientConfig> {
    config.time_provider = Arc::new(At(now));
    Arc::new(config)
}

fn link(agent: &Host, now: UnixMillis) -> Arc<ClientConfig> {
    client_at(client_config(&agent.identity).unwrap(), now)
}

fn enrolment(fingerprint: Fingerprint) -> Arc<ClientConfig> {
    client_at(enrol_client_config(fingerprint).unwrap(), NOW)
}

/// Carries what `from` wants to say to `to`, and lets `to` think about it.
fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

/// Either side's refusal.
#[derive(Debug, PartialEq)]
enum Refused {
    ByClient(Error),
    ByServer(Error),
}

/// A handshake, and whatever either side has to say after it (tickets, for one).
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Refused> {
    let dialled = ServerName::try_from("192.0.2.77").unwrap();
    let mut client = Connection::Client(ClientConnection::new(Arc::clone(client), dialled).unwrap());
    let mut server = Connection::Server(ServerConnection::new(Arc::clone(server)).unwrap());
    for _ in 0..10 {
        carry(&mut client, &mut server).map_err(Refused::ByServer)?;
        carry(&mut server, &mut client).map_err(Refused::ByClient)?;
    }
    match (client, server) {
        (Connection::Client(client), Connection::Server(server)) => {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            Ok((client, server))
        }
        _ => unreachable!(),
    }
}

fn refusal(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Refused {
    shake(client, server).err().unwrap()
}

#[test]
fn an_enrolled_host_gets_in_and_is_known_by_its_certificate() {
    let authority = authority();
    let agent = Host::enrol(&authority, 7);
    let trusted = bundle(&[&authority]);
    let listening = server_at(&server(&authority, NOW), &trusted, NOW);
    let (client, server) = shake(&link(&agent, NOW), &listening).unwrap();
    assert_eq!(server.alpn_protocol(), Some(ALPN_LINK));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let peer = peer_identity(server.peer_certificates().unwrap(), &trusted, NOW).unwrap();
    assert_eq!(peer, agent.peer(NOW));
    assert!(!peer.expired);
}

#[test]
fn enrolment_needs_no_client_certificate_and_agrees_on_its_own_protocol() {
    let authority = authority();
    let listening = server_at(&server(&authority, NOW), &bundle(&[&authority]), NOW);
    let (_, server) = shake(&enrolment(authority.fingerprint()), &listening).unwrap();
    assert_eq!(server.alpn_protocol(), Some(ALPN_ENROL));
    assert!(server.peer_certificates().is_none());
}

#[test]
fn enrolment_refuses_a_server_whose_authority_is_not_the_pinned_one() {
    let (mine, other) = (authority(), authority());
    let listening = server_at(&server(&other, NOW), &bundle(&[&other]), NOW);
    match refusal(&enrolment(mine.fingerprint()), &listening) {
        Refused::ByClient(error) => {
            let text = error.to_string();
            assert!(
                text.contains(&mine.fingerprint().to_string()) && text.contains("another fleet"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn enrolment_refuses_a_server_that_only_shows_the_pinned_authority_but_was_not_signed_by_it() {
    let (mine, impostor) = (authority(), authority());
    // The impostor's leaf and key, with the real CA's certificate (which is public) in the chain.
    let fake = server(&impostor, NOW);
    let leaf = fake.chain_pem().replace(&impostor.certificate_pem(), &mine.certificate_pem());
    let fake = ServerCertificate::from_pem(&leaf, fake.key_pem().reveal()).unwrap();
    let listening = server_at(&fake, &bundle(&[&impostor]), NOW);
    let refused = refusal(&enrolment(mine.fingerprint()), &listening);
    assert!(matches!(refused, Refused::ByClient(Error::InvalidCertificate(_))), "{refused:?}");
}

#[test]
fn the_link_refuses_a_server_of_another_authority() {
    let (mine, other) = (authority(), authority());
    let agent = Host::enrol(&mine, 1);
    let listening = server_at(&server(&other, NOW), &bundle(&[&other]), NOW);
    let refused = refusal(&link(&agent, NOW), &listening);
    assert!(matches!(refused, Refused::ByClient(Error::InvalidCertificate(_))), "{refused:?}");
}

#[test]
fn the_server_refuses_a_host_of_another_authority() {
    let (mine, other) = (authority(), authority());
    let mut agent = Host::enrol(&other, 1);
    agent.identity.replace_bundle(bundle(&[&mine, &other])).unwrap();
    let listening = server_at(&server(&mine, NOW), &bundle(&[&mine]), NOW);
    let refused = refusal(&link(&agent, NOW), &listening);
    assert!(matches!(refused, Refused::ByServer(Error::InvalidCertificate(_))), "{refused:?}");
}

#[test]
fn a_host_cannot_pose_as_the_orchestrator() {
    let authority = authority();
    let (agent, thief) = (Host::enrol(&authority, 1), Host::enrol(&authority, 2));
    let read = |name| std::fs::read_to_string(thief.folder.path().join(name)).unwrap();
    let (certificate, key) = (read("certificate.pem"), read("key.pem"));
    let posing = ServerCertificate::from_pem(&(certificate + &authority.certificate_pem()), &key).unwrap();
    let listening = server_at(&posing, &bundle(&[&authority]), NOW);
    for client in [link(&agent, NOW), enrolment(authority.fingerprint())] {
        let refused = refusal(&client, &listening);
        assert!(matches!(refused, Refused::ByClient(Error::InvalidCertificate(_))), "{refused:?}");
    }
}

#[test]
fn agents_accept_the_fixed_name_alone_even_from_their_own_authority() {
    let authority = authority();
    let (certificate, key) = authority.to_pem();
    let key = rcgen::KeyPair::from_pem(key.reveal()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&certificate, key).unwrap();
    for (name, good) in [(SERVER_NAME, true), ("mail.example.com", false)] {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let own = rcgen::KeyPair::generate().unwrap();
        let chain = params.signed_by(&own, &issuer).unwrap().pem() + &certificate;
        let made = ServerCertificate::from_pem(&chain, &own.serialize_pem()).unwrap();
        let listening = server_at(&made, &bundle(&[&authority]), NOW);
        for client in [link(&Host::enrol(&authority, 1), NOW), enrolment(authority.fingerprint())] {
            assert_eq!(shake(&client, &listening).is_ok(), good, "{name}");
        }
    }
}

#[test]
fn an_expired_server_is_refused() {
    let authority = authority();
    let listening = server_at(&server(&authority, NOW), &bundle(&[&authority]), NOW);
    let agent = Host::enrol(&authority, 1);
    let refused = refusal(&link(&agent, after_days(398)), &listening);
    let expired = |error: &CertificateError| matches!(error, CertificateError::ExpiredContext { .. });
    assert!(
        matches!(&refused, Refused::ByClient(Error::InvalidCertificate(error)) if expired(error)),
        "{refused:?}"
    );
}

#[test]
fn an_expired_host_gets_in_for_ninety_days_and_is_recognised() {
    let authority = authority();
    let agent = Host::enrol(&authority, 1);
    let trusted = bundle(&[&authority]);
    for day in [31, 75, 120] {
        let now = after_days(day);
        let listening = server_at(&server(&authority, now), &trusted, now);
        let (_, server) = shake(&link(&agent, now), &listening).unwrap();
        assert!(peer_identity(server.peer_certificates().unwrap(), &trusted, now).unwrap().expired);
    }
    let now = after_days(121);
    let listening = server_at(&server(&authority, now), &trusted, now);
    let refused = refusal(&link(&agent, now), &listening);
    assert_eq!(refused, Refused::ByServer(CertificateError::Expired.into()));
}

#[test]
fn while_the_authority_is_rotated_servers_and_hosts_of_both_get_on() {
    let (old, new) = (authority(), authority());
    let both = bundle(&[&old, &new]);
    let agents = [&old, &new].map(|authority| {
        let mut agent = Host::enrol(authority, 1);
        agent.identity.replace_bundle(both.clone()).unwrap();
        agent
    });
    for signer in [&old, &new] {
        let listening = server_at(&server(signer, NOW), &both, NOW);
        for agent in &agents {
            assert!(shake(&link(agent, NOW), &listening).is_ok());
        }
    }
    // An agent that was not told of the new CA is why it is announced before it signs.
    let listening = server_at(&server(&new, NOW), &both, NOW);
    assert!(matches!(refusal(&link(&Host::enrol(&old, 2), NOW), &listening), Refused::ByClient(_)));
}

#[test]
fn nothing_is_resumed_and_no_ticket_is_issued() {
    let authority = authority();
    let listening = server_at(&server(&authority, NOW), &bundle(&[&authority]), NOW);
    let config = link(&Host::enrol(&authority, 1), NOW);
    for _ in 0..3 {
        let (client, server) = shake(&config, &listening).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
    // Even a client that would like to.
    let mut eager = client_config(&Host::enrol(&authority, 2).identity).unwrap();
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    eager.enable_early_data = true;
    let eager = client_at(eager, NOW);
    for _ in 0..2 {
        let (client, server) = shake(&eager, &listening).unwrap();
        assert_eq!(
            (client.tls13_tickets_received(), server.handshake_kind()),
            (0, Some(HandshakeKind::Full))
        );
    }
}

/// A client that knows nothing newer than TLS 1.2 and trusts anything the authority signed.
fn old_client(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate_der().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    client_at(config, NOW)
}

#[test]
fn tls_1_2_is_refused_everywhere() {
    let authority = authority();
    let certificate = server(&authority, NOW);
    let listening = server_at(&certificate, &bundle(&[&authority]), NOW);
    let https = Arc::new(https_server_config(&certificate).unwrap());
    for server in [listening, https] {
        let refused = refusal(&old_client(&authority), &server);
        assert!(matches!(refused, Refused::ByServer(Error::PeerIncompatible(_))), "{refused:?}");
    }
    // And our client does not go down to it either.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = pem::parse_many(certificate.chain_pem()).unwrap();
    let chain = chain.into_iter().map(|block| block.into_contents().into()).collect();
    let key = pem::parse(certificate.key_pem().reveal()).unwrap().into_contents();
    let old_server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls::pki_types::PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let refused = refusal(&enrolment(authority.fingerprint()), &Arc::new(old_server));
    assert!(matches!(refused, Refused::ByServer(_)), "{refused:?}");
}

#[test]
fn a_client_of_an_unknown_protocol_is_refused() {
    let authority = authority();
    let listening = server_at(&server(&authority, NOW), &bundle(&[&authority]), NOW);
    let mut config = enrol_client_config(authority.fingerprint()).unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let refused = refusal(&client_at(config, NOW), &listening);
    assert_eq!(refused, Refused::ByServer(Error::NoApplicationProtocol));
}

#[test]
fn the_api_is_verified_by_any_of_its_names() {
    let authority = authority();
    let mut config = https_server_config(&server(&authority, NOW)).unwrap();
    config.time_provider = Arc::new(At(NOW));
    let config = Arc::new(config);
    for (name, good) in
        [("orch.example.com", true), ("192.0.2.1", true), (SERVER_NAME, true), ("other.example.com", false)]
    {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate_der().into()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let browser = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let dialled = ServerName::try_from(name).unwrap();
        let mut client = Connection::Client(ClientConnection::new(client_at(browser, NOW), dialled).unwrap());
        let mut server = Connection::Server(ServerConnection::new(Arc::clone(&config)).unwrap());
        carry(&mut client, &mut server).unwrap();
        assert_eq!(carry(&mut server, &mut client).is_ok(), good, "{name}");
    }
}

#[test]
fn quic_takes_the_configurations() {
    let authority = authority();
    let agent = Host::enrol(&authority, 1);
    let server = server_config(&server(&authority, NOW), &bundle(&[&authority])).unwrap();
    assert!(quinn::crypto::rustls::QuicServerConfig::try_from(server).is_ok());
    for client in
        [client_config(&agent.identity).unwrap(), enrol_client_config(authority.fingerprint()).unwrap()]
    {
        assert!(quinn::crypto::rustls::QuicClientConfig::try_from(client).is_ok());
    }
}
