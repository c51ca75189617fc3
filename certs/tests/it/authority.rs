//! What the authority signs and what it refuses.

use chom_certs::authority::{AUTHORITY_LIFE_SECONDS, CLOCK_SKEW_SECONDS, HOST_LIFE_SECONDS, request_key};
use chom_certs::{
    Authority, AuthorityError, CertificateError, HostCertificate, HostKey, PeerError, peer_identity,
};
use chom_protocol::UnixMillis;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fixture::{DAY_SECONDS, Host, NOW, after_days, authority, bundle, host};

fn request() -> Vec<u8> {
    HostKey::load_or_create(tempfile::tempdir().unwrap().path()).unwrap().csr_der().unwrap()
}

#[test]
fn an_authority_survives_its_pem() {
    let made = authority();
    let (certificate, key) = made.to_pem();
    let read = Authority::from_pem(&certificate, key.reveal()).unwrap();
    assert_eq!(read.fingerprint(), made.fingerprint());
    let signed = read.sign_host(&request(), host(1), NOW).unwrap();
    assert!(peer_identity(&[signed.der.into()], &bundle(&[&made]), NOW).is_ok());
}

#[test]
fn the_key_of_another_authority_is_refused() {
    let (one, other) = (authority(), authority());
    let error = Authority::from_pem(&one.certificate_pem(), other.to_pem().1.reveal()).unwrap_err();
    assert!(matches!(error, AuthorityError::Mismatch), "{error}");
    let both = format!("{}{}", one.certificate_pem(), other.certificate_pem());
    let error = Authority::from_pem(&both, other.to_pem().1.reveal()).unwrap_err();
    assert!(matches!(error, AuthorityError::Count { count: 2 }), "{error}");
}

#[test]
fn an_authority_never_shows_its_key_when_debugged() {
    let authority = authority();
    let shown = format!("{authority:?}");
    let (_, key) = authority.to_pem();
    assert!(key.reveal().lines().filter(|line| !line.starts_with('-')).all(|line| !shown.contains(line)));
}

#[test]
fn a_host_certificate_is_for_thirty_days_for_clients_and_names_the_host_alone() {
    let csr = request();
    let signed = authority().sign_host(&csr, host(7), NOW).unwrap();
    let read = HostCertificate::read(&signed.der).unwrap();
    assert_eq!(read.host, host(7));
    assert_eq!(read.serial, signed.serial);
    assert_eq!(read.not_after, NOW.plus_seconds(HOST_LIFE_SECONDS));
    assert_eq!(read.not_before, UnixMillis(NOW.0 - CLOCK_SKEW_SECONDS * 1000));
    assert_eq!(read.key_fingerprint, request_key(&csr).unwrap());
    assert_eq!(signed.key_fingerprint, read.key_fingerprint);
    let (_, certificate) = X509Certificate::from_der(&signed.der).unwrap();
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(!certificate.is_ca());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn the_host_comes_from_the_caller_and_never_from_the_request() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, host(666).to_string());
    let lie = format!("chom:host:{}", host(666));
    params.subject_alt_names = vec![
        SanType::URI(lie.as_str().try_into().unwrap()),
        SanType::DnsName(chom_certs::SERVER_NAME.try_into().unwrap()),
    ];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let signed = authority().sign_host(csr.der(), host(7), NOW).unwrap();
    assert_eq!(HostCertificate::read(&signed.der).unwrap().host, host(7));
    let (_, certificate) = X509Certificate::from_der(&signed.der).unwrap();
    let shown = format!("{} {:?}", certificate.subject(), certificate.subject_alternative_name());
    assert!(!shown.contains(&host(666).to_string()) && !shown.contains(chom_certs::SERVER_NAME), "{shown}");
    assert!(!certificate.is_ca() && !certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
}

#[test]
fn a_request_with_a_forged_signature_is_refused() {
    let authority = authority();
    let good = request();
    // The public key of another request, the signature of the first: whoever sends it does not hold the key.
    let other = request();
    let key = |csr: &[u8]| csr.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap() + 1;
    let mut forged = good.clone();
    forged[key(&good)..key(&good) + 65].copy_from_slice(&other[key(&other)..key(&other) + 65]);
    let error = authority.sign_host(&forged, host(1), NOW).unwrap_err();
    assert!(matches!(error, AuthorityError::RequestSignature), "{error}");
}

#[test]
fn only_requests_for_p256_keys_are_signed() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        let error = authority().sign_host(csr.der(), host(1), NOW).unwrap_err();
        assert!(matches!(error, AuthorityError::RequestKey), "{algorithm:?}: {error}");
    }
}

#[test]
fn what_is_no_request_is_refused() {
    let good = request();
    let long = [good.clone(), vec![0; 4096]].concat();
    let trailing = [good.clone(), vec![0]].concat();
    for bytes in [&[][..], b"hello", &good[..good.len() - 1], &trailing, &long] {
        let error = authority().sign_host(bytes, host(1), NOW).unwrap_err();
        assert!(matches!(error, AuthorityError::Request), "{error}");
    }
}

#[test]
fn every_certificate_has_a_serial_of_its_own_even_for_the_same_key() {
    let authority = authority();
    let csr = request();
    let serials: std::collections::BTreeSet<_> =
        (0..20).map(|_| authority.sign_host(&csr, host(1), NOW).unwrap().serial).collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn no_certificate_outlives_its_authority_and_an_expired_one_signs_nothing() {
    let authority = authority();
    let end = NOW.plus_seconds(AUTHORITY_LIFE_SECONDS);
    assert_eq!(authority.not_after(), end);
    let late = UnixMillis(end.0 - DAY_SECONDS * 1000);
    assert_eq!(authority.sign_host(&request(), host(1), late).unwrap().not_after, end);
    assert_eq!(authority.sign_server(&[], late).unwrap().validity().unwrap().1, end);
    let error = authority.sign_host(&request(), host(1), end).unwrap_err();
    assert!(matches!(error, AuthorityError::Expired), "{error}");
}

#[test]
fn a_certificate_of_another_fleet_is_nobody() {
    let (mine, other) = (authority(), authority());
    let stranger = Host::enrol(&other, 1);
    let error = peer_identity(&stranger.chain(), &bundle(&[&mine]), NOW).unwrap_err();
    assert!(matches!(error, PeerError::Untrusted(_)), "{error}");
    assert!(matches!(peer_identity(&[], &bundle(&[&mine]), NOW), Err(PeerError::None)));
}

#[test]
fn a_server_or_authority_certificate_is_no_host() {
    let authority = authority();
    let server = authority.sign_server(&[], NOW).unwrap();
    let chain = chom_certs::CaBundle::from_pem(&server.chain_pem());
    assert!(chain.is_err(), "a server's certificate must not be taken for a CA");
    let error =
        peer_identity(&[authority.certificate_der().into()], &bundle(&[&authority]), NOW).unwrap_err();
    assert!(matches!(error, PeerError::Certificate(CertificateError::Hosts { count: 0 })), "{error}");
}

#[test]
fn an_expired_certificate_is_recognised_and_renewable_for_ninety_days_and_not_after() {
    let authority = authority();
    let agent = Host::enrol(&authority, 1);
    let csr = agent.identity.csr_der().unwrap();
    for (day, expired) in [(0, false), (30, false), (31, true), (120, true)] {
        let peer = agent.peer(after_days(day));
        assert_eq!(peer.expired, expired, "day {day}");
        let renewed = authority.renew_host(&csr, &peer, after_days(day)).unwrap();
        assert_eq!(renewed.not_after, after_days(day + 30));
        assert_eq!(renewed.key_fingerprint, peer.key_fingerprint);
        assert_ne!(renewed.serial, peer.serial);
    }
    let last = agent.peer(after_days(120));
    let error = authority.renew_host(&csr, &last, after_days(121)).unwrap_err();
    assert!(matches!(error, AuthorityError::RenewalLate), "{error}");
    let error = peer_identity(&agent.chain(), agent.identity.bundle(), after_days(121)).unwrap_err();
    assert!(matches!(error, PeerError::Lapsed { .. }), "{error}");
    let before = UnixMillis(NOW.0 - 2 * CLOCK_SKEW_SECONDS * 1000);
    let error = peer_identity(&agent.chain(), agent.identity.bundle(), before).unwrap_err();
    assert!(matches!(error, PeerError::Untrusted(_)), "{error}");
}

#[test]
fn a_renewal_needs_the_same_key() {
    let authority = authority();
    let agent = Host::enrol(&authority, 1);
    let error = authority.renew_host(&request(), &agent.peer(NOW), NOW).unwrap_err();
    assert!(matches!(error, AuthorityError::RenewalKey), "{error}");
}
