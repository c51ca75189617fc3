//! Servers' certificates and the HTTPS configuration.

use chom_certs::server::ServerCertificateError;
use chom_certs::{
    AuthorityError, BundleError, CaBundle, SERVER_NAME, ServerCertificate, TlsError, https_server_config,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::fixture::{Host, NOW, authority, bundle, server};

#[test]
fn a_server_certificate_names_what_was_asked_for_and_the_fixed_name() {
    let authority = authority();
    let names = ["orch.example.com", "192.0.2.1", "2001:db8::1", SERVER_NAME].map(str::to_owned);
    let pem = authority.sign_server(&names, NOW).unwrap().chain_pem();
    let blocks = pem::parse_many(pem).unwrap();
    let (_, leaf) = X509Certificate::from_der(blocks[0].contents()).unwrap();
    let (mut dns, mut addresses) = (Vec::new(), 0);
    for name in &leaf.subject_alternative_name().unwrap().unwrap().value.general_names {
        match name {
            GeneralName::DNSName(name) => dns.push(*name),
            GeneralName::IPAddress(_) => addresses += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((dns, addresses), (vec!["orch.example.com", SERVER_NAME], 2));
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert_eq!(blocks[1].contents(), authority.certificate_der());
}

#[test]
fn what_is_no_name_gets_no_certificate() {
    for bad in ["", "a b", "https://orch", "orch:7443", "*"] {
        let error = authority().sign_server(&[bad.to_owned()], NOW).unwrap_err();
        assert!(matches!(&error, AuthorityError::ServerName { name } if name == bad), "{bad}: {error}");
    }
    let many = vec!["orch".to_owned(); 33];
    assert!(matches!(authority().sign_server(&many, NOW), Err(AuthorityError::ServerNames { count: 33 })));
}

#[test]
fn an_operators_certificate_is_read_from_pem() {
    let own = server(&authority(), NOW);
    let read = ServerCertificate::from_pem(&own.chain_pem(), own.key_pem().reveal()).unwrap();
    assert_eq!(read.validity().unwrap(), own.validity().unwrap());
    let config = https_server_config(&read).unwrap();
    assert_eq!(config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn an_operators_mistakes_are_told_apart() {
    let (one, other) = (server(&authority(), NOW), server(&authority(), NOW));
    let (chain, key) = (one.chain_pem(), one.key_pem());
    let empty = ServerCertificate::from_pem("", key.reveal()).unwrap_err();
    assert!(matches!(empty, ServerCertificateError::Empty), "{empty}");
    let swapped = ServerCertificate::from_pem(key.reveal(), &chain).unwrap_err();
    assert!(matches!(swapped, ServerCertificateError::Empty), "{swapped}");
    let no_key = ServerCertificate::from_pem(&chain, "hello").unwrap_err();
    assert!(matches!(no_key, ServerCertificateError::Key(_)), "{no_key}");
    let damaged = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let damaged = ServerCertificate::from_pem(damaged, key.reveal()).unwrap_err();
    assert!(matches!(damaged, ServerCertificateError::Certificate { position: 1, .. }), "{damaged}");
    let mixed = ServerCertificate::from_pem(&chain, other.key_pem().reveal()).unwrap();
    let mixed = https_server_config(&mixed).unwrap_err();
    assert!(matches!(mixed, TlsError::ServerCertificate(_)), "{mixed}");
}

#[test]
fn a_bundle_survives_its_pem_and_holds_only_authorities() {
    let (old, new) = (authority(), authority());
    let both = bundle(&[&old, &new, &old]);
    assert_eq!(both.fingerprints(), [old.fingerprint(), new.fingerprint()]);
    assert!(both.contains(&new.fingerprint()) && !bundle(&[&old]).contains(&new.fingerprint()));
    assert_eq!(CaBundle::from_pem(&both.to_pem()).unwrap(), both);
    let agent = Host::enrol(&old, 1);
    let error = CaBundle::new([agent.identity.certificate_der()]).unwrap_err();
    assert!(matches!(error, BundleError::NotAuthority { position: 1 }), "{error}");
    let error = CaBundle::from_pem(old.to_pem().1.reveal()).unwrap_err();
    assert!(matches!(error, BundleError::Tag { .. }), "{error}");
    assert!(matches!(CaBundle::from_pem("hello"), Err(BundleError::Empty)));
    let many: Vec<_> = (0..5).map(|_| authority()).collect();
    let many = CaBundle::new(many.iter().map(chom_certs::Authority::certificate_der)).unwrap_err();
    assert!(matches!(many, BundleError::Many { count: 5 }), "{many}");
}
