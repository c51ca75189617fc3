//! Who may connect: revoked hosts, copied keys, killed agents, and join codes that are not good.

use std::time::{Duration, Instant};

use chom_protocol::api::hosts::{HostAdded, HostState, HostView};
use chom_protocol::link::{Close, Standing, ToAgent};
use chom_protocol::{InstanceId, UnixMillis};
use chom_tests::agent::Agent;
use chom_tests::api::{Api, Method};
use chom_tests::export;
use chom_tests::fleet::{Fleet, Host, LATER, SOON};
use chom_tests::orchestrator::{Options, Orchestrator};
use chom_tests::peer::{End, Peer};
use chom_tests::wait::{now, wait_for};

/// A host that is enrolled; its agent was never started.
fn enrolled(orchestrator: &Orchestrator, name: &str) -> Host {
    let added = orchestrator.api().add_host(name, "us-east").unwrap();
    let agent = Agent::new();
    let _ = agent.enrol(&added.join_code).well("chom-agent enrol");
    Host { id: added.host, agent }
}

fn revoke(api: &Api, host: &Host) -> HostView {
    api.call(Method::Post, &format!("/api/hosts/{}/revoke", host.id), None, None).unwrap()
}

#[test]
fn revoking_a_host_closes_its_connection_and_refuses_the_next() {
    let orchestrator = Orchestrator::start(Options::default());
    let host = enrolled(&orchestrator, "revoked");
    let (address, folder) = (orchestrator.link_address(), host.agent.identity());
    let peer = Peer::connect(address, &folder).unwrap();
    let instance = InstanceId::new(uuid::Uuid::new_v4());
    let (_control, answer) = peer.greet(Peer::greeting(&folder, instance)).unwrap();
    assert!(matches!(answer, ToAgent::Welcome { standing: Standing::Managed, .. }), "{answer:?}");

    let asked = Instant::now();
    assert_eq!(revoke(orchestrator.api(), &host).state, HostState::Revoked);
    let (end, _) = peer.closed();
    println!("revoked and closed {} ms after the order was sent", asked.elapsed().as_millis());
    assert!(matches!(end, End::Closed(Some(Close::Revoked), _)), "{end:?}");

    let end = match Peer::connect(address, &folder) {
        Err(end) => end,
        Ok(again) => again.closed().0,
    };
    assert!(matches!(end, End::Closed(Some(Close::Revoked), _)), "{end:?}");
}

#[test]
fn a_revoked_agent_stays_out_and_its_guests_run_on() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let vps = fleet.api().create("runs-on", None).unwrap().vps.id;
    fleet.settled(SOON);
    revoke(fleet.api(), &fleet.hosts[0]);
    let host = &mut fleet.hosts[0];
    wait_for("the agent to say that it was revoked", SOON, || {
        let said = host.agent.log();
        if said.contains("revoked") { Ok(()) } else { Err("nothing of the kind".to_owned()) }
    });
    host.agent.restart();
    let view = fleet.orchestrator.api().host(host.id).unwrap();
    assert_eq!(view.state, HostState::Revoked);
    let runs = |guests: Vec<_>| {
        guests.iter().any(|(id, guest): &(_, chom_agent::driver::fake::FakeGuest)| {
            *id == vps && guest.state == chom_protocol::vps::VpsState::Running
        })
    };
    assert!(runs(host.agent.guests()));
}

#[test]
fn a_copied_key_is_told_apart_from_a_restart() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let (api, id) = (fleet.api().clone(), fleet.hosts[0].id);
    // An agent that is killed reconnects at once, however often.
    for _ in 0..4 {
        let restarted = Instant::now();
        fleet.hosts[0].agent.restart();
        wait_for("the killed agent to be connected again", SOON, || {
            let host = api.host(id).map_err(|failure| failure.to_string())?;
            assert_ne!(host.state, HostState::Quarantined, "a killed agent was taken for a clone");
            let seen_since = host.age_seconds.is_some_and(|age| age + 1 < restarted.elapsed().as_secs());
            if host.state == HostState::Connected && seen_since { Ok(()) } else { Err(format!("{host:?}")) }
        });
    }
    // A second machine with everything that the first has on its disk.
    let mut clone = fleet.hosts[0].agent.copy();
    clone.run();
    api.host_becomes(id, HostState::Quarantined, LATER);
    wait_for("the alert about the copied key", SOON, || {
        let firing = api.firing("HostQuarantined").map_err(|failure| failure.to_string())?;
        if firing.len() == 1 { Ok(()) } else { Err(format!("{firing:?}")) }
    });
    let refused = api.create("nowhere", None).unwrap_err();
    assert_eq!(refused.status(), 409, "a quarantined host was given a VPS: {refused}");
}

#[test]
fn a_join_code_works_once_and_only_with_its_own_authority() {
    let orchestrator = Orchestrator::start(Options::default());
    let api = orchestrator.api();
    let code = api.add_host("joins", "us-east").unwrap().join_code;
    let parts: Vec<&str> = code.split('/').collect();
    let [addresses, fingerprint, token] = parts[..] else { panic!("{code}") };

    let agent = Agent::new();
    let flipped: String = fingerprint.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    let said = agent.enrol(&format!("{addresses}/{flipped}/{token}"));
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("fingerprint") && said.stderr.contains("host add"), "{}", said.stderr);
    let said = agent.enrol(&format!("{addresses}/{fingerprint}/chom-enrol-{}", "0".repeat(64)));
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("token"), "{}", said.stderr);
    let said = agent.enrol("half a code");
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("enrolment code"), "{}", said.stderr);

    // None of that spent the token.
    let _ = agent.enrol(&code).well("chom-agent enrol");
    let second = Agent::new();
    let said = second.enrol(&code);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("used") && said.stderr.contains("host add"), "{}", said.stderr);
    // Nor does a failed try leave a half-enrolled host behind.
    let said = second.enrol(&api.add_host("joins-too", "us-east").unwrap().join_code);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn a_join_code_that_lay_about_for_its_hour_is_worthless_and_says_so() {
    let mut orchestrator = Orchestrator::start(Options::default());
    let [late, timely] = ["late", "timely"].map(|name| orchestrator.api().add_host(name, "us-east").unwrap());
    orchestrator.stop();
    // The hour passes in the store alone: of one code, so that the other shows what the hour does.
    let over = UnixMillis(now().0 - 1000);
    let aged = export::changed(&orchestrator.export(), |kind, row| {
        if kind == "enrolment" && row["host"] == late.host.to_string() {
            row["expires_at"] = over.0.into();
        }
    });
    orchestrator.restore(&aged);
    orchestrator.run();

    let agent = Agent::new();
    let said = agent.enrol(&late.join_code);
    assert_ne!(said.code, Some(0));
    assert!(said.stderr.contains("expired") && said.stderr.contains("host add"), "{}", said.stderr);
    assert_eq!(orchestrator.api().host(late.host).unwrap().state, HostState::Invited);
    let _ = agent.enrol(&timely.join_code).well("chom-agent enrol in time, after a failed try");
    // A new code for the same host.
    let body = serde_json::json!({"name": "late", "region": "us-east", "host": late.host});
    let again: HostAdded = orchestrator.api().call(Method::Post, "/api/hosts", Some(&body), None).unwrap();
    assert_eq!(again.host, late.host);
    let _ = Agent::new().enrol(&again.join_code).well("chom-agent enrol with a new code");
}

#[test]
fn a_peer_without_a_certificate_gets_nowhere() {
    let orchestrator = Orchestrator::start(Options::default());
    let code = orchestrator.api().add_host("bare", "us-east").unwrap().join_code;
    let code: chom_certs::JoinCode = code.parse().unwrap();
    let end = match Peer::connect_bare(orchestrator.link_address(), *code.fingerprint()) {
        Err(end) => end,
        Ok(peer) => peer.closed().0,
    };
    assert!(matches!(end, End::Closed(Some(Close::Identity), _)), "{end:?}");
    chom_tests::wait::pass(Duration::ZERO);
}
