//! Certificates while everything runs: the fleet's CA is rotated under live agents, an operator's certificate of the API is
//! replaced, and what an answer showed once is kept nowhere in clear.

use std::fs;
use std::path::Path;

use chom_certs::{Authority, CaBundle, Identity, peer_identity};
use chom_protocol::UnixMillis;
use chom_protocol::api::authorities::{AuthorityState, AuthorityView};
use chom_protocol::api::hosts::{HostAdded, HostState};
use chom_tests::agent::Agent;
use chom_tests::api::{Api, Failure, Method};
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::{Options, Orchestrator};
use chom_tests::wait::wait_for;
use serde_json::json;

fn authorities(api: &Api) -> Vec<AuthorityView> {
    api.list("/api/authorities").unwrap_or_else(|failure| panic!("{failure}"))
}

fn retire(api: &Api, number: u64) -> Result<AuthorityView, Failure> {
    api.post(&format!("/api/authorities/{number}/retire"), &json!({}))
}

/// Whether the certificate on the agent's disk was signed by this CA.
fn is_signed_by(agent: &Agent, ca_pem: &str) -> bool {
    let identity = Identity::load(&agent.identity()).unwrap();
    let certificate = identity.certificate_der().to_vec().into();
    let now = UnixMillis(identity.certificate().not_before.0 + 1);
    peer_identity(&[certificate], &CaBundle::from_pem(ca_pem).unwrap(), now).is_ok()
}

fn signed_by(agent: &Agent, ca: &AuthorityView) {
    wait_for("a certificate of the new CA", LATER, || {
        if is_signed_by(agent, &ca.certificate_pem) { Ok(()) } else { Err(agent.log()) }
    });
}

#[test]
fn a_rotation_under_live_agents_loses_nobody_also_not_who_was_away() {
    let mut fleet = Fleet::start(Options::default(), 3);
    let api = fleet.api().clone();
    for place in 0..3 {
        let _ = api.create(&format!("vps-{place}"), None).unwrap_or_else(|failure| panic!("{failure}"));
    }
    fleet.settled(SOON);
    let away = fleet.hosts[2].id;
    fleet.hosts[2].agent.kill_9();
    api.host_becomes(away, HostState::Unreachable, LATER);

    let announced: AuthorityView = api.call(Method::Post, "/api/authorities", None, None).unwrap();
    assert_eq!((announced.number, announced.state), (2, AuthorityState::Announced));
    let signing = wait_for("the new CA to sign", LATER, || {
        let all = authorities(&api);
        let new = all.iter().find(|ca| ca.number == 2 && ca.state == AuthorityState::Signing).cloned();
        new.ok_or(format!("{all:?}"))
    });
    for host in &fleet.hosts[..2] {
        signed_by(&host.agent, &signing);
        api.host_becomes(host.id, HostState::Connected, LATER);
    }
    // Its code names the old CA, which the link still shows; its certificate is of the new one.
    let newcomer = fleet.add("newcomer").id;
    assert!(is_signed_by(&fleet.hosts[3].agent, &signing.certificate_pem));
    api.host_becomes(newcomer, HostState::Connected, LATER);

    let refused = retire(&api, 1).unwrap_err();
    assert_eq!(refused.status(), 409, "{refused}");
    assert!(refused.to_string().contains("host-2"), "{refused}");
    fleet.hosts[2].agent.run();
    api.host_becomes(away, HostState::Connected, LATER);
    signed_by(&fleet.hosts[2].agent, &signing);
    wait_for("the old CA to be needed by nobody", LATER, || {
        retire(&api, 1).map(|_| ()).map_err(|failure| failure.to_string())
    });

    // The API shows a certificate of the new CA, and the file for its callers has that CA alone.
    let orchestrator = &mut fleet.orchestrator;
    let (server, token, ca) = (api.server.clone(), api.token.clone(), orchestrator.state().join("ca.pem"));
    let api = wait_for("the API by the new CA alone", LATER, || {
        let api = Api::new(server.clone(), token.clone(), &ca);
        let all: Vec<AuthorityView> = api.list("/api/authorities").map_err(|failure| failure.to_string())?;
        let alone = fs::read_to_string(&ca).unwrap() == signing.certificate_pem && all.len() == 1;
        if alone { Ok(api) } else { Err(format!("{all:?}")) }
    });
    // Everybody finds back by the new CA alone.
    for host in &mut fleet.hosts {
        host.agent.restart();
    }
    for host in &fleet.hosts {
        wait_for("an agent that restarted to be connected", LATER, || {
            let view = api.host(host.id).map_err(|failure| failure.to_string())?;
            let trusted = fs::read_to_string(host.agent.identity().join("ca-bundle.pem")).unwrap();
            let well = view.state == HostState::Connected && trusted == signing.certificate_pem;
            if well { Ok(()) } else { Err(format!("{view:?}\n{trusted}\n{}", host.agent.log())) }
        });
    }
    let running = fleet.hosts.iter().map(|host| host.agent.guests().len()).sum::<usize>();
    assert_eq!(running, 3);
}

/// A CA of the operator's own, and a certificate of it for the API in these files; gives the CA's file.
fn operators_certificate(folder: &Path, name: &str, options: &Options) -> std::path::PathBuf {
    let now = chom_tests::wait::now();
    let authority = Authority::create(&name.parse().unwrap(), now).unwrap();
    let certificate = authority.sign_server(&[options.address.to_string()], now).unwrap();
    fs::write(folder.join("api.pem"), certificate.chain_pem()).unwrap();
    fs::write(folder.join("api.key"), certificate.key_pem().reveal()).unwrap();
    let ca = folder.join(format!("{name}.pem"));
    fs::write(&ca, authority.certificate_pem()).unwrap();
    ca
}

fn answers(orchestrator: &Orchestrator, ca: &Path) {
    let known = orchestrator.api();
    wait_for("the API by an operator's certificate", SOON, || {
        let api = Api::new(known.server.clone(), known.token.clone(), ca);
        let answer = api.ask(Method::Get, "/readyz", None, &[]);
        if matches!(answer, Ok((200, _))) { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

#[test]
fn an_operators_certificate_is_replaced_without_a_restart_and_a_broken_one_is_not_taken() {
    let options = Options::default();
    let mut orchestrator = Orchestrator::set_up(options.clone());
    let folder = orchestrator.folder().to_owned();
    let first = operators_certificate(&folder, "first", &options);
    let mut config = fs::read_to_string(orchestrator.config()).unwrap();
    config += &format!(
        "\n[api_certificate]\nchain = {:?}\nkey = {:?}\n",
        folder.join("api.pem"),
        folder.join("api.key")
    );
    fs::write(orchestrator.config(), config).unwrap();
    orchestrator.launch();
    answers(&orchestrator, &first);

    let second = operators_certificate(&folder, "second", &options);
    answers(&orchestrator, &second);
    fs::write(folder.join("api.key"), "no key").unwrap();
    wait_for("a word on the broken key", SOON, || {
        let log = orchestrator.log();
        if log.contains("the earlier one stays in use") { Ok(()) } else { Err(log) }
    });
    answers(&orchestrator, &second);
    let third = operators_certificate(&folder, "third", &options);
    answers(&orchestrator, &third);
}

#[test]
fn a_join_code_is_neither_in_an_export_nor_in_the_store() {
    let mut orchestrator = Orchestrator::start(Options::default());
    let body = json!({"name": "secret", "region": "us-east"});
    let ask =
        |api: &Api| api.call::<HostAdded>(Method::Post, "/api/hosts", Some(&body), Some("once")).unwrap();
    let added = ask(orchestrator.api());
    orchestrator.stop();
    let export = zstd::stream::decode_all(fs::File::open(orchestrator.export()).unwrap()).unwrap();
    let token = added.join_code.rsplit('/').next().unwrap().as_bytes().to_vec();
    let holds = |bytes: &[u8]| bytes.windows(token.len()).any(|window| window == token);
    assert!(!holds(&export), "the export shows the join code");
    for entry in fs::read_dir(orchestrator.state().join("store")).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            !path.is_file() || !holds(&fs::read(&path).unwrap()),
            "{} shows the join code",
            path.display()
        );
    }
    orchestrator.run();
    assert_eq!(ask(orchestrator.api()).join_code, added.join_code, "the same answer under the same key");
}
