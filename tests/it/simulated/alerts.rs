//! Alerts of a whole fleet: what has one cause is told once, and what an owner did himself is told to nobody.

use std::time::Duration;

use chom_protocol::api::alerts::AlertView;
use chom_protocol::api::smtp::{ConfigureSmtp, SmtpSecurity, SmtpView};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::VpsState;
use chom_tests::api::Api;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::Options;
use chom_tests::smtp::{self, Received, SmtpServer};
use chom_tests::wait::{holds_for, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;

/// A mail server that takes everything, and the orchestrator told of it.
pub(crate) fn mail_for(api: &Api) -> SmtpServer {
    let server = SmtpServer::start(smtp::Options::default());
    let request = ConfigureSmtp {
        host: "127.0.0.1".to_owned(),
        port: Some(server.address().port()),
        security: SmtpSecurity::None,
        username: None,
        password: None,
        from: "chom@example.com".to_owned(),
        to: vec!["admin@example.com".to_owned()],
        ca_pem: None,
        hello: None,
    };
    let _: SmtpView = api.post("/api/alertmanager/smtp/configure", &request).unwrap();
    server
}

/// The mails whose subject has all of these words.
pub(crate) fn mails(server: &SmtpServer, words: &[&str]) -> Vec<Received> {
    let has = |mail: &Received| {
        let subject = mail.header("Subject").unwrap_or_default();
        words.iter().all(|word| subject.contains(word))
    };
    server.mails().into_iter().filter(has).collect()
}

/// Waits for exactly one such mail.
pub(crate) fn one_mail(server: &SmtpServer, words: &[&str]) -> Received {
    wait_for(&format!("one mail about {words:?}"), SOON, || match mails(server, words).as_slice() {
        [mail] => Ok(mail.clone()),
        others => Err(format!("{others:?} of {:?}", server.mails())),
    })
}

fn firing(api: &Api, rule: &str) -> Result<Vec<AlertView>, String> {
    api.firing(rule).map_err(|failure| failure.to_string())
}

#[test]
fn half_the_fleet_gone_at_once_is_one_alert_and_one_mail() {
    let options = Options { for_seconds: 3, ..Options::default() };
    let mut fleet = Fleet::start(options, 4);
    let api = fleet.api().clone();
    let server = mail_for(&api);
    for host in &mut fleet.hosts[..2] {
        host.agent.process().signal(Signal::SIGSTOP);
    }
    wait_for("the alert about the fleet", LATER, || match firing(&api, "FleetUnreachable")?.as_slice() {
        [_] => Ok(()),
        others => Err(format!("{others:?}")),
    });
    one_mail(&server, &["FIRING", "FleetUnreachable"]);
    holds_for("nothing to be told of single hosts", Duration::from_secs(5), || {
        let single = firing(&api, "HostUnreachable")?;
        let (fleet, all) = (firing(&api, "FleetUnreachable")?.len(), server.mails().len());
        if single.is_empty() && fleet == 1 && all == 1 {
            Ok(())
        } else {
            Err(format!("{single:?}, {all} mails"))
        }
    });
    for host in &mut fleet.hosts[..2] {
        host.agent.process().signal(Signal::SIGCONT);
    }
    one_mail(&server, &["RESOLVED", "FleetUnreachable"]);
    assert_eq!(server.mails().len(), 2, "{:?}", server.mails());
}

#[test]
fn a_guest_that_powers_itself_off_stays_off_without_an_alert_unless_its_policy_says_restart() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    let create = |name: &str, policy: &str| {
        let body = json!({"name": name, "region": "us-east", "size": "small", "guest_shutdown": policy});
        let accepted: VpsAccepted = api.post("/api/vps-servers", &body).unwrap();
        accepted.vps.id
    };
    let (stays, restarts) = (create("stays-off", "stay_off"), create("restarts", "restart"));
    fleet.settled(SOON);
    let agent = &mut fleet.hosts[0].agent;
    agent.kill_9();
    agent.guest_powers_off(stays);
    agent.guest_powers_off(restarts);
    agent.run();
    api.vps_becomes(stays, "off by its own doing", LATER, |vps| {
        vps.observed.state == VpsState::StoppedByGuest
    });
    api.vps_becomes(restarts, "running again", LATER, |vps| vps.observed.state == VpsState::Running);
    holds_for("it to stay off without an alert", Duration::from_secs(6), || {
        let alerts: Vec<AlertView> = api.list("/api/alerts").map_err(|failure| failure.to_string())?;
        let state = api.vps(stays).map_err(|failure| failure.to_string())?.observed.state;
        // The other one is off for a moment before it is started again, which this fleet's short times may tell of.
        let told = alerts.iter().any(|alert| alert.vps == Some(stays));
        if !told && state == VpsState::StoppedByGuest { Ok(()) } else { Err(format!("{state:?} {alerts:?}")) }
    });
    let started = api.act(stays, "start", None).unwrap();
    let _ = api.ended(started.operation.id, SOON);
    api.vps_becomes(stays, "running", SOON, |vps| vps.observed.state == VpsState::Running);
}
