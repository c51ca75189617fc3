//! Alerts and mails on a real store: what is written together, and what a restart changes.

use std::time::Instant;

use chom_protocol::api::smtp::{ConfigureSmtp, SmtpSecurity};
use chom_protocol::vps::VpsState;

use super::*;
use crate::fleet::RequestMark;
use crate::fleet::catalogue::Catalogue;
use crate::fleet::rows::{HostRow, HostStanding};
use crate::fleet::tests::{World, caller, catalogue, open};
use crate::notify::Notifier;
use crate::store::Revision;
use crate::store::seal::MasterKey;

fn settings(grace_seconds: u64) -> AlertingSettings {
    let level = Threshold { fire: 0.9, clear: 0.8 };
    AlertingSettings {
        rules: RuleSettings {
            for_seconds: 0,
            disk: level,
            inodes: level,
            memory: level,
            certificate_days: 7,
            fleet_share: 0.5,
        },
        groups: GroupSettings {
            group_wait_seconds: 0,
            group_interval_seconds: 0,
            repeat_interval_seconds: 4 * 3600,
        },
        grace_seconds,
    }
}

fn alerting(world: &World, grace_seconds: u64) -> Alerting {
    Alerting::new(world.fleet.clone(), Arc::default(), settings(grace_seconds), None)
}

/// A host is in sight for so long.
fn sight(seconds: u64) -> Catalogue {
    Catalogue { unreachable_after_seconds: seconds, ..catalogue() }
}

async fn restart(world: World, catalogue: Catalogue) -> World {
    let folder = world.end().await;
    let store = open(&folder);
    World::start(folder, store, catalogue).await
}

async fn configure(world: &World) {
    let master = MasterKey::from_file(&world.folder.path().join("master-key")).unwrap();
    let notifier = Notifier::new(world.fleet.clone(), Arc::new(master));
    let request = ConfigureSmtp {
        host: "127.0.0.1".to_owned(),
        port: Some(2525),
        security: SmtpSecurity::None,
        username: Some("u".to_owned()),
        password: Some("hunter2".to_owned()),
        from: "chom@example.com".to_owned(),
        to: vec!["a@example.com".to_owned(), "b@example.com".to_owned()],
        ca_pem: None,
        hello: None,
    };
    let view = notifier.smtp_configure(&caller(), RequestMark::default(), request).await.unwrap().value;
    assert!(view.password_set);
    assert!(!serde_json::to_string(&view).unwrap().contains("hunter2"));
    let stored = serde_json::to_string(world.fleet.state().get::<SmtpRow>(&THE_SERVER).unwrap()).unwrap();
    assert!(!stored.contains("hunter2"), "the password is sealed");
}

fn alerts(world: &World) -> Vec<AlertRow> {
    world.fleet.state().alerts.values().map(|stored| stored.row.as_ref().clone()).collect()
}

fn notifications(world: &World) -> Vec<NotificationRow> {
    world.fleet.state().notifications.values().map(|stored| stored.row.as_ref().clone()).collect()
}

#[tokio::test]
async fn an_alert_and_its_mail_are_one_commit_and_the_end_answers_the_beginning() {
    let world = World::new().await;
    world.host("h1", "us-east", 4).await;
    configure(&world).await;
    let world = restart(world, sight(0)).await;
    alerting(&world, 0).pass().await.unwrap();
    let state = world.fleet.state();
    let (alert, notification) =
        (state.alerts.values().next().unwrap(), state.notifications.values().next().unwrap());
    assert_eq!(alert.row.state, AlertState::Firing);
    assert_eq!(alert.revision, notification.revision, "written in one commit");
    assert_eq!(notification.row.firing, [alert.row.id]);
    let to: Vec<&str> = notification.row.deliveries.iter().map(|one| one.recipient.as_str()).collect();
    assert_eq!(to, ["a@example.com", "b@example.com"]);
    drop(state);

    let before = notifications(&world);
    alerting(&world, 0).pass().await.unwrap();
    assert_eq!(notifications(&world), before, "told once");

    // A restart: nothing is seen yet, so nothing is said.
    let world = restart(world, sight(3600)).await;
    alerting(&world, 3600).pass().await.unwrap();
    assert_eq!((alerts(&world).len(), notifications(&world).len()), (1, 1));
    assert_eq!(alerts(&world)[0].state, AlertState::Firing);
    let host = alerts(&world)[0].subject.host.unwrap();
    world.fleet.seen(host);
    alerting(&world, 3600).pass().await.unwrap();
    assert_eq!(alerts(&world)[0].state, AlertState::Resolved);
    let both = notifications(&world);
    let [first, last] = both.as_slice() else { panic!("{both:?}") };
    assert_eq!(last.thread.as_ref(), Some(&first.message_id));
    assert_ne!(last.message_id, first.message_id);
    assert_eq!((last.firing_count, last.resolved_count), (0, 1));
    assert!(world.fleet.state().alert_groups.is_empty(), "the next outage begins a thread of its own");
    let view = AlertViews::of(&world.fleet.state()).view(&alerts(&world)[0]);
    assert!(view.last_notified.is_some());
    world.end().await;
}

#[tokio::test]
async fn what_fires_before_a_mail_server_is_set_is_told_once_it_is() {
    let world = World::new().await;
    world.host("h1", "us-east", 4).await;
    let world = restart(world, sight(0)).await;
    alerting(&world, 0).pass().await.unwrap();
    let revision = world.fleet.state().revision;
    alerting(&world, 0).pass().await.unwrap();
    assert_eq!(world.fleet.state().revision, revision, "waiting for it writes nothing");
    assert_eq!((alerts(&world).len(), notifications(&world).len()), (1, 0));
    configure(&world).await;
    alerting(&world, 0).pass().await.unwrap();
    assert_eq!(notifications(&world).len(), 1);
    world.end().await;
}

#[tokio::test]
async fn more_alerts_than_a_commit_takes_are_all_written_and_told() {
    let world = World::new().await;
    let template = world.host("h0", "us-east", 4).await;
    configure(&world).await;
    let row = world.fleet.state().get::<HostRow>(&template).unwrap().clone();
    for chunk in (0..300_u128).collect::<Vec<_>>().chunks(50) {
        let (chunk, row) = (chunk.to_vec(), row.clone());
        let add = move |decision: &mut Decision| {
            for number in chunk {
                let id = HostId::new(uuid::Uuid::from_u128(number));
                let standing = HostStanding::Quarantined;
                decision.put(HostRow { id, standing, ..row.clone() })?;
            }
            Ok(())
        };
        world.fleet.decide("test".into(), add).await.unwrap();
    }
    alerting(&world, 0).pass().await.unwrap();
    assert_eq!(alerts(&world).len(), 300);
    let told: usize = notifications(&world).iter().map(|row| row.firing_count).max().unwrap();
    assert!(told > 0, "{told}");
    alerting(&world, 0).pass().await.unwrap();
    assert_eq!(notifications(&world).last().unwrap().firing_count, 300);
    world.end().await;
}

/// Prints what a pass costs: 2,000 hosts, 20,000 VPSs, everything well.
#[tokio::test]
async fn a_pass_over_a_large_fleet_finds_nothing_to_do() {
    let world = World::new().await;
    let host = world.host("h0", "us-east", 4).await;
    let vps = world.create("v0", "us-east").await.unwrap().value.vps.id;
    world.converge(host).await;
    let mut state = State::clone(&world.fleet.state());
    let (host_row, vps_row) = (
        state.get::<HostRow>(&host).unwrap().clone(),
        state.get::<crate::fleet::rows::VpsRow>(&vps).unwrap().clone(),
    );
    let status = world.fleet.observations().of(host).unwrap().status.clone().unwrap();
    let vps_status = status.vps.values().next().unwrap().clone();
    assert_eq!(vps_status.state, VpsState::Running);
    let mut observations = Snapshot::new();
    let mut levels = AllLevels::new();
    for number in 0..2000_u128 {
        let id = HostId::new(uuid::Uuid::from_u128(number));
        state.insert(HostRow { id, ..host_row.clone() }, Revision(1));
        let mut status = status.as_ref().clone();
        status.vps.clear();
        for place in 0..10 {
            let mut row = vps_row.clone();
            row.spec.id = chom_protocol::VpsId::new(uuid::Uuid::from_u128(number * 10 + place));
            row.host = id;
            status.vps.insert(row.spec.id, vps_status.clone());
            state.insert(row, Revision(1));
        }
        let seen_at = clock::now().plus_seconds(1);
        let observation = crate::fleet::observed::Observation {
            seen_at,
            status: Some(Arc::new(status)),
            ..Default::default()
        };
        observations.insert(id, Arc::new(observation));
        let level = crate::history::FileSystemLevel { disk_ratio: Some(0.5), inodes_ratio: Some(0.5) };
        levels.insert(
            id,
            crate::history::Levels { memory_ratio: Some(0.5), file_systems: vec![("/".into(), level)] },
        );
    }
    let seen = Seen { observations, levels: Arc::new(levels), certificates: Vec::new() };
    let alerting = alerting(&world, 0);
    let begun = Instant::now();
    let work = Work::find(&alerting, &state, &seen, clock::now().plus_seconds(1));
    println!("a pass over {} hosts and {} VPSs: {:?}", state.hosts.len(), state.vps.len(), begun.elapsed());
    let odd: Vec<_> = work.transitions.iter().take(3).collect();
    assert!(work.transitions.len() <= 1 && !work.groups, "only h0, which nobody observed: {odd:?}");
    world.end().await;
}
