//! Rows as a release stored them: every later release must read them. `orchestrator/golden/rows/KIND.vSCHEMA.json` holds one
//! of each kind; files are never changed. A new kind or schema gets its file by `CHOM_WRITE_GOLDEN=1 cargo test golden`,
//! which writes only what does not exist.

use std::path::PathBuf;

use chom_protocol::api::alerts::{AlertState, DeliveryState, Severity};
use chom_protocol::{AlertId, NotificationId};

use super::*;
use crate::alerts::rows::{AlertRow, Group, GroupRow, Rule, Subject};
use crate::fleet::state::State;
use crate::fleet::tokens;
use crate::notify::rows::{Delivery, NotificationRow, SmtpRow};
use crate::store::{Key, Record, Revision};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/rows")
}

/// A fleet in which there is a row of each kind.
async fn full() -> World {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let mark = RequestMark { idempotency: Some(("k".to_owned(), Sha256::of(b"r"))), if_match: None };
    let mut wanted = request("a", "eu-west");
    wanted.user_data = Some("#cloud-config\n".to_owned());
    wanted.ssh_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 you@example".to_owned()];
    let vps = world.fleet.create_vps(&caller(), mark, wanted).await.unwrap().value.vps.id;
    world.converge(host).await;
    world.act(vps, Action::Restart).await.unwrap();
    let rest = move |decision: &mut crate::fleet::Decision| {
        let at = decision.now;
        let (_, token) = tokens::create(name("admin"), TokenId::new(decision.new_id()), at).unwrap();
        decision.put(token)?;
        let subject =
            Subject { rule: Rule::HostUnreachable, host: Some(host), vps: Some(vps), label: "/".to_owned() };
        let id = AlertId::new(decision.new_id());
        let group = Group { rule: Rule::HostUnreachable, region: Some(name("eu-west")) };
        decision.put(AlertRow {
            id,
            subject,
            region: Some(name("eu-west")),
            severity: Severity::Critical,
            summary: "host `h` was not seen".to_owned(),
            state: AlertState::Resolved,
            since: at,
            firing_since: Some(at),
            resolved_at: Some(at),
            last_seen: at,
        })?;
        decision.put(GroupRow {
            group: group.clone(),
            next_flush_at: at,
            last_sent_at: Some(at),
            last_sent_firing: true,
            thread: Some("<1@example>".to_owned()),
        })?;
        decision.put(notification(NotificationId::new(decision.new_id()), group, id, at))?;
        decision.put(SmtpRow {
            host: "mail.example".to_owned(),
            port: 587,
            security: Default::default(),
            username: Some("chom".to_owned()),
            sealed_password: None,
            from: "chom@example".to_owned(),
            to: vec!["admin@example".to_owned()],
            ca_pem: None,
            hello: Some("orchestrator.example".to_owned()),
        })
    };
    world.fleet.decide("test".into(), rest).await.unwrap();
    world
}

fn delivery() -> Delivery {
    Delivery {
        recipient: "admin@example".to_owned(),
        state: DeliveryState::Waiting,
        attempts: 1,
        last_answer: Some("451 later".to_owned()),
        next_attempt_at: Some(UnixMillis(1)),
    }
}

fn notification(id: NotificationId, group: Group, alert: AlertId, at: UnixMillis) -> NotificationRow {
    NotificationRow {
        id,
        message_id: "<2@example>".to_owned(),
        thread: Some("<1@example>".to_owned()),
        group,
        firing: vec![alert],
        resolved: vec![],
        firing_count: 1,
        resolved_count: 0,
        created_at: at,
        deliveries: vec![delivery()],
    }
}

#[tokio::test]
async fn rows_of_every_release_are_read_and_mean_what_they_meant() {
    let write = std::env::var_os("CHOM_WRITE_GOLDEN").is_some();
    if write {
        std::fs::create_dir_all(folder()).unwrap();
        for (kind, key, value) in full().await.fleet.state().dump() {
            let file = folder().join(format!("{kind}.v1.json"));
            if !file.exists() {
                std::fs::write(file, format!("{key}\n{value}\n")).unwrap();
            }
        }
    }
    let mut state = State::default();
    let mut stored = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (key, value) = text.trim_end().split_once('\n').unwrap();
        let key: Key = key.parse().unwrap();
        let (mod_revision, create_revision) = (Revision(1), Revision(1));
        let record = Record { key: key.clone(), value: value.into(), mod_revision, create_revision };
        state.load(&record).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stored.insert(key, value.to_owned());
    }
    let dumped = state.dump();
    for kind in State::KINDS {
        assert!(dumped.iter().any(|(dumped, _, _)| dumped == kind), "no golden row of kind `{kind}`");
    }
    for (_, key, value) in dumped {
        assert_eq!(stored[&key], value.as_ref(), "{key}");
    }
}
