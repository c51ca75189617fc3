//! What crosses the link, and what happens when it breaks.

use std::time::Duration;

use chom_agent::agent::StartError;
use chom_agent::clock;
use chom_agent::config::Config;
use chom_agent::enrol::enrol;
use chom_certs::{EnrolmentToken, Identity, JoinCode};
use chom_protocol::link::{Close, Standing};
use chom_protocol::vps::{Power, Sha256, VpsSpec, VpsState};
use chom_protocol::{Generation, HostId, UnixMillis};
use uuid::Uuid;

use crate::host::{Host, IMAGE, status, stop, vps};
use crate::orchestrator::{Orchestrator, wait};

#[tokio::test]
async fn a_host_enrols_with_its_code_and_a_wrong_fingerprint_is_refused() {
    let orchestrator = Orchestrator::start();
    let folder = tempfile::tempdir().unwrap();
    let config = Config { state_directory: folder.path().to_owned(), ..Config::default() };
    let host = HostId::new(Uuid::new_v4());
    orchestrator.told().host = Some(host);
    let address = vec![orchestrator.address.to_string()];
    let stranger = chom_certs::Fingerprint::of(b"another CA");
    let token = || EnrolmentToken::generate().unwrap();
    let wrong = JoinCode::new(address.clone(), stranger, token()).unwrap();
    let error = enrol(&config, &wrong.to_string()).await.unwrap_err();
    let text = chom_agent::chain::Chain(&error).to_string();
    assert!(text.contains("CA is not the one of the enrolment code"), "{text}");
    assert!(orchestrator.told().enrolled.is_empty(), "the token went to a stranger");
    let right = JoinCode::new(address, orchestrator.authority.fingerprint(), token()).unwrap();
    assert_eq!(enrol(&config, &right.to_string()).await.unwrap(), host);
    assert_eq!(Identity::load(&folder.path().join("identity")).unwrap().host(), host);
}

#[tokio::test]
async fn a_desired_state_is_on_disk_when_it_is_acknowledged() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    // Larger than a frame, so that it comes in parts.
    let keys = vec!["ssh-ed25519 ".to_owned() + &"A".repeat(4000); 20];
    let many = (1..40).map(|number| VpsSpec { power: Power::Stopped, ssh_keys: keys.clone(), ..vps(number) });
    let spec = host.spec(many);
    orchestrator.want(spec.clone());
    let agent = host.start();
    wait("the acknowledgement", || orchestrator.told().accepted == ["1.1"]).await;
    let text = std::fs::read_to_string(host.folder.path().join("ledger.json")).unwrap();
    assert!(text.contains(&vps(39).id.to_string()));
    assert_eq!(agent.desired().borrow().spec.as_deref(), Some(&spec));
    stop(agent).await;
}

#[tokio::test]
async fn older_and_changed_desired_states_are_refused() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    let (old, spec) = (host.spec([]), host.spec([vps(1)]));
    orchestrator.want(spec.clone());
    let agent = host.start();
    wait("the acknowledgement", || orchestrator.told().accepted.len() == 1).await;
    orchestrator.want(old);
    wait("a refusal", || orchestrator.told().refused.len() == 1).await;
    orchestrator.want(chom_protocol::host::HostSpec { vps: Default::default(), ..spec.clone() });
    wait("a refusal", || orchestrator.told().refused.len() == 2).await;
    let refused = orchestrator.told().refused.clone();
    assert!(refused[0].contains("older") && refused[1].contains("other content"), "{refused:?}");
    assert_eq!(agent.desired().borrow().spec.as_deref(), Some(&spec));
    stop(agent).await;
}

#[tokio::test]
async fn samples_of_an_outage_arrive_afterwards_with_their_own_times_and_numbers() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.want(host.spec([vps(1)]));
    let agent = host.start();
    wait("the VPS to run", || host.runs(vps(1).id)).await;
    wait("a sample", || !orchestrator.told().samples.is_empty()).await;
    orchestrator.vanish().await;
    let gone_at = clock::now();
    let seen = orchestrator.told().samples.len();
    tokio::time::sleep(Duration::from_secs(3)).await; // samples of an outage need an outage
    let back_at = clock::now();
    orchestrator.listen();
    wait("samples of the outage", || {
        let told = orchestrator.told();
        let missed = told.samples[seen..].iter().filter(|sample| sample.at > gone_at && sample.at < back_at);
        missed.count() >= 2
    })
    .await;
    let numbers: Vec<u64> = orchestrator.told().samples.iter().map(|sample| sample.sequence).collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, (0..sorted.len() as u64).collect::<Vec<_>>(), "none is missing: {numbers:?}");
    assert!(host.runs(vps(1).id));
    stop(agent).await;
}

#[tokio::test]
async fn a_result_is_kept_until_it_is_acknowledged() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.told().refuse_results = true;
    let job = chom_protocol::JobId::new(Uuid::from_u128(7));
    let mut spec = host.spec([vps(1)]);
    orchestrator.want(spec.clone());
    let agent = host.start();
    wait("the VPS to run", || host.runs(vps(1).id)).await;
    spec.generation.number = 100;
    let kind = chom_protocol::job::JobKind::Restart { vps: vps(1).id };
    let deadline = clock::now().plus_seconds(600);
    spec.jobs.insert(job, chom_protocol::job::Job { kind, deadline });
    orchestrator.want(spec);
    wait("the restart", || host.starts(vps(1).id) == Some(2)).await;
    let spool = host.folder.path().join("spool/results");
    wait("the result on disk", || std::fs::read_dir(&spool).unwrap().count() > 0).await;
    stop(agent).await;
    orchestrator.told().refuse_results = false;
    let agent = host.start();
    wait("the result", || orchestrator.told().results.iter().any(|result| result.job == job)).await;
    wait("it to be forgotten", || std::fs::read_dir(&spool).unwrap().count() == 0).await;
    assert_eq!(host.starts(vps(1).id), Some(2), "a finished job never runs again");
    stop(agent).await;
}

#[tokio::test]
async fn an_image_that_broke_off_is_resumed_and_a_wrong_one_is_named_and_removed() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.told().cut_after = Some(100_000);
    let mut wrong = vps(2);
    let announced = Sha256::of(b"what was announced");
    wrong.image.as_mut().unwrap().sha256 = announced;
    orchestrator.told().blobs.insert(announced, IMAGE.to_vec());
    orchestrator.want(host.spec([vps(1)]));
    let agent = host.start();
    wait("the VPS to run", || host.runs(vps(1).id)).await;
    assert_eq!(orchestrator.told().fetches, [0, 100_000]);
    assert_eq!(std::fs::read(host.images().join(Sha256::of(IMAGE).to_string())).unwrap(), IMAGE);
    orchestrator.want(host.spec([vps(1), wrong.clone()]));
    let told = status(&agent, "the wrong image to be named", |status| {
        status.vps.get(&wrong.id).is_some_and(|vps| vps.problem.is_some())
    })
    .await;
    let problem = told.vps[&wrong.id].problem.clone().unwrap();
    for word in ["image tiny", &announced.to_string(), &Sha256::of(IMAGE).to_string()] {
        assert!(problem.contains(word), "{problem}");
    }
    assert_eq!(std::fs::read_dir(host.images()).unwrap().count(), 1, "the damaged file is gone");
    stop(agent).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_over_the_link_also_when_it_has_expired() {
    let orchestrator = Orchestrator::start();
    let days_ago = |days: u64| UnixMillis(clock::now().0 - days * 86_400_000);
    for (age, standing) in [(25, Standing::Managed), (40, Standing::RenewOnly)] {
        let host = Host::enrolled(&orchestrator, days_ago(age));
        let before = orchestrator.told().renewals;
        orchestrator.told().hellos.clear();
        orchestrator.told().standing = standing;
        let agent = host.start();
        wait("a second greeting", || orchestrator.told().hellos.len() >= 2).await;
        assert_eq!(orchestrator.told().renewals, before + 1);
        let identity = Identity::load(&host.folder.path().join("identity")).unwrap();
        assert!(identity.certificate().not_after > clock::now().plus_seconds(29 * 86_400));
        stop(agent).await;
    }
}

#[tokio::test]
async fn after_a_restore_the_ledger_is_uploaded_and_held_until_something_newer_comes() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    let spec = host.spec([vps(1)]);
    orchestrator.want(spec.clone());
    let agent = host.start();
    wait("the VPS to run", || host.runs(vps(1).id)).await;
    orchestrator.told().standing = Standing::Hold;
    orchestrator.close(Close::Standing);
    wait("the ledger", || orchestrator.told().ledgers.len() == 1).await;
    assert_eq!(orchestrator.told().ledgers[0], spec);
    host.driver.world().guests.get_mut(&vps(1).id).unwrap().state = VpsState::Crashed;
    status(&agent, "two looks", |status| status.vps.values().any(|vps| vps.state == VpsState::Crashed)).await;
    assert_eq!(host.starts(vps(1).id), Some(1), "held: nothing is changed");
    let newer = Generation { epoch: 2, number: 1 };
    let off = VpsSpec { power: Power::Stopped, ..vps(1) };
    orchestrator.want(chom_protocol::host::HostSpec { generation: newer, ..host.spec([off, vps(2)]) });
    wait("the new order", || host.runs(vps(2).id)).await;
    stop(agent).await;
}

#[tokio::test]
async fn a_forgotten_host_reports_orphans_and_changes_nothing_even_alone() {
    let orchestrator = Orchestrator::start();
    let mut host = Host::new(&orchestrator);
    orchestrator.want(host.spec([vps(1)]));
    let agent = host.start();
    wait("the VPS to run", || host.runs(vps(1).id)).await;
    orchestrator.told().standing = Standing::ReportOnly;
    orchestrator.close(Close::Standing);
    status(&agent, "orphans", |status| status.orphans == [vps(1).id] && status.vps.is_empty()).await;
    stop(agent).await;
    orchestrator.vanish().await;
    host.driver.world().guests.get_mut(&vps(1).id).unwrap().state = VpsState::Crashed;
    let agent = host.start();
    status(&agent, "orphans", |status| status.orphans == [vps(1).id]).await;
    assert_eq!(host.starts(vps(1).id), Some(1));
    stop(agent).await;
}

#[tokio::test]
async fn an_orchestrator_that_restarts_is_found_again() {
    let orchestrator = Orchestrator::start();
    let host = Host::new(&orchestrator);
    let agent = host.start();
    for round in 1..=3 {
        wait("a greeting", || orchestrator.told().hellos.len() >= round).await;
        orchestrator.vanish().await;
        orchestrator.listen();
    }
    let instances: std::collections::BTreeSet<_> =
        orchestrator.told().hellos.iter().map(|hello| hello.instance).collect();
    assert_eq!(instances.len(), 1, "one run, one instance");
    stop(agent).await;
}

#[tokio::test]
async fn two_agents_never_share_a_folder() {
    let orchestrator = Orchestrator::start();
    let host = Host::new(&orchestrator);
    let agent = host.start();
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.start()));
    assert!(again.is_err(), "{:?}", StartError::Running { folder: host.images() });
    stop(agent).await;
    stop(host.start()).await;
}
