//! Rows as a release stored them: every later release must read them. `orchestrator/golden/rows/KIND.vSCHEMA.json` holds one
//! of each kind; files are never changed. A new kind or schema gets its file by `CHOM_WRITE_GOLDEN=1 cargo test golden`,
//! which writes only what does not exist.

use std::collections::BTreeSet;
use std::path::PathBuf;

use chom_protocol::api::alerts::{AlertState, DeliveryState, Severity};
use chom_protocol::api::audit::ChainEnd;
use chom_protocol::api::bulk::BulkAction;
use chom_protocol::api::networks::{AddressRange, CreateNetwork, NetworkKind, PutPool, TrafficQuota};
use chom_protocol::api::tenants::Quota;
use chom_protocol::api::tokens::Role;
use chom_protocol::api::webhooks::{CreateWebhook, UpdateWebhook, WebhookKind};
use chom_protocol::network::Traffic;
use chom_protocol::{AlertId, DeliveryId, NotificationId, UserId};

use super::*;
use crate::alerts::rows::{AlertRow, Group, GroupRow, Rule, Subject};
use crate::fleet::network::rows::{FormerAddressRow, Month, MonthRow, TrafficRow};
use crate::fleet::rows::{
    AuditHeadRow, BulkChunkRow, BulkItem, BulkRow, ImageFetchRow, ImageRow, PrefetchRow, Prefetched,
    SshKeyRow, TenantRow, TokenRow,
};
use crate::fleet::state::State;
use crate::fleet::tokens;
use crate::fleet::users::rows::{SignInLockRow, UserRow, sign_in_id};
use crate::notify::rows::{Delivery, NotificationRow, SmtpRow};
use crate::notify::webhook::rows::{Attempt, Content, DeliveryRow, HookEvent, JournalRow};
use crate::store::{Key, Record, Revision};
use crate::usage::note;
use crate::usage::rows::{ClosingRow, HeldRow, HourTraffic};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/rows")
}

/// A fleet in which there is a row of each kind.
pub(crate) async fn full() -> World {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let mark =
        RequestMark { idempotency: Some(("k".to_owned(), Sha256::of(b"r"))), ..RequestMark::default() };
    let mut wanted = request("a", "eu-west");
    wanted.user_data = Some("#cloud-config\n".to_owned());
    wanted.ssh_keys = vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 you@example".to_owned()];
    let vps = world.fleet.create_vps(&caller(), mark, wanted).await.unwrap().value.vps.id;
    let lan = CreateNetwork {
        name: name("lan"),
        region: name("eu-west"),
        kind: NetworkKind::Bridge,
        bridge: Some("br0".parse().unwrap()),
        vlan: Some(100.try_into().unwrap()),
        default: false,
    };
    world.fleet.create_network(&caller(), RequestMark::default(), lan).await.unwrap();
    let pool = PutPool {
        prefix: "2001:db8::/64".parse().unwrap(),
        gateway: "fe80::1".parse().unwrap(),
        dns: vec!["2001:db8::53".parse().unwrap()],
        reserved: vec![AddressRange {
            first: "2001:db8::2".parse().unwrap(),
            last: "2001:db8::f".parse().unwrap(),
        }],
        given_bits: None,
    };
    world.fleet.put_pool(&caller(), RequestMark::default(), name("lan"), pool).await.unwrap();
    world.converge(host).await;
    world.act(vps, Action::Restart).await.unwrap();
    let snapshot = chom_protocol::api::snapshots::TakeSnapshot { name: name("before") };
    world.fleet.take_snapshot(&caller(), RequestMark::default(), vps, snapshot).await.unwrap();
    let webhook = CreateWebhook {
        name: name("billing"),
        url: "https://billing.example/".to_owned(),
        kinds: BTreeSet::from(WebhookKind::ALL),
        tenant: None,
    };
    let made = world.fleet.create_webhook(&caller(), RequestMark::default(), webhook).await.unwrap();
    let hook = made.value.webhook.id;
    let new_secret = UpdateWebhook { new_secret: true, ..UpdateWebhook::default() };
    world.fleet.update_webhook(&caller(), RequestMark::default(), hook, new_secret).await.unwrap();
    let rest = move |decision: &mut crate::fleet::Decision| {
        let at = decision.now;
        let held = decision.state.addresses.values().next().unwrap().row.as_ref().clone();
        decision.put(FormerAddressRow { row: held, until: at })?;
        let counted = Traffic { in_bytes: 7, out_bytes: 5 };
        decision.put(TrafficRow {
            vps,
            host,
            counted,
            counted_at: at,
            hours: vec![HourTraffic { hour: 8, traffic: counted }],
            months: vec![MonthRow { month: Month { year: 2026, month: 11 }, traffic: counted }],
            quota: TrafficQuota { soft_bytes: Some(100), hard_bytes: Some(200), throttle_bits: Some(64_000) },
        })?;
        let last = ChainEnd { sequence: 7, hash: Sha256::of(b"line") };
        let dropped = ChainEnd { sequence: 2, hash: Sha256::of(b"dropped") };
        decision.put(AuditHeadRow { last, segment: 3, segment_bytes: 1234, dropped })?;
        let bulk = OperationId::new(decision.new_id());
        let item = |operation, problem: Option<&str>| BulkItem {
            vps,
            name: name("a"),
            operation,
            problem: problem.map(str::to_owned),
        };
        decision.put(BulkRow {
            id: bulk,
            actor: "admin".to_owned(),
            action: BulkAction::Stop,
            parameters: Some("{\"force\":true}".to_owned()),
        })?;
        let items = vec![item(Some(bulk), None), item(None, Some("VPS `a` is on hold")), item(None, None)];
        decision.put(BulkChunkRow { bulk, number: 0, items })?;
        let (_, token) =
            tokens::create(name("admin"), Role::Admin, TokenId::new(decision.new_id()), at).unwrap();
        decision.put(TokenRow {
            tenant: Some(name("acme")),
            vps: Some(vps),
            last_used_at: Some(at),
            ..token
        })?;
        let quota = Quota { vps: Some(10), memory_bytes: Some(Bytes::gib(8)), ..Quota::default() };
        let external_id = Some("customer-7".to_owned());
        decision.put(TenantRow {
            name: name("acme"),
            quota,
            external_id,
            created_at: at,
            deleted_at: Some(at),
        })?;
        let (user, anna) = (UserId::new(decision.new_id()), "anna@example.com".parse().unwrap());
        let (salt, hash) = ("c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        let password = format!("\"$argon2id$v=19$m=19456,t=2,p=1${salt}${hash}\"");
        decision.put(SignInLockRow { id: sign_in_id(Some(&name("acme")), &anna), until: at })?;
        decision.put(UserRow {
            id: user,
            name: anna,
            role: Role::Owner,
            tenant: Some(name("acme")),
            password: serde_json::from_str(&password).unwrap(),
            created_at: at,
            changed_at: at,
            disabled_at: Some(at),
            signed_in_at: Some(at),
        })?;
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 you@example".to_owned();
        decision.put(SshKeyRow { tenant: name("default"), name: name("laptop"), key, created_at: at })?;
        decision.put(ImageRow {
            name: name("debian-13"),
            version: Some("13.2".to_owned()),
            engine: Engine::Libvirt,
            format: ImageFormat::Qcow2,
            sha256: Sha256::of(b"debian"),
            size: Bytes::mib(300),
            minimum_disk: Bytes::gib(2),
            default_user: Some("debian".to_owned()),
            added_at: at,
        })?;
        decision.put(ImageFetchRow {
            name: name("debian-14"),
            version: Some("14.0".to_owned()),
            engine: Engine::Libvirt,
            format: ImageFormat::Qcow2,
            url: "https://images.example/debian-14.qcow2".to_owned(),
            sha256: Sha256::of(b"debian-14"),
            minimum_disk: Some(Bytes::gib(3)),
            default_user: Some("debian".to_owned()),
            operation: OperationId::new(decision.new_id()),
        })?;
        let image = chom_protocol::vps::ImageReference {
            name: name("debian-13"),
            sha256: Sha256::of(b"debian"),
            size: Bytes::mib(300),
            format: ImageFormat::Qcow2,
        };
        let images = [(name("debian-13"), Prefetched { image, since: at })].into();
        decision.put(PrefetchRow { host, images })?;
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
        let event = HookEvent {
            id: DeliveryId::new(decision.new_id()),
            at,
            kind: WebhookKind::Operations,
            name: "operation.succeeded".to_owned(),
            tenant: Some(name("default")),
            vps: Some(vps),
            resource: format!("vps:{vps}"),
            content: Content::Body("{}".to_owned()),
        };
        decision.put(JournalRow { sequence: 1, events: vec![event.clone()], spread_to: Some(hook) })?;
        decision.put(ClosingRow { hour_seconds: 3600, frozen: 8, closed: 7 })?;
        let holding = note::holding(&decision.state, vps).unwrap();
        let hours = vec![HourTraffic { hour: 8, traffic: counted }];
        decision.put(HeldRow { vps, until: at, holding, gone: Some(hours.clone()) })?;
        let last = Attempt { at, duration_ms: 5, status: Some(500), answer: "no".to_owned() };
        decision.put(DeliveryRow {
            webhook: hook,
            sequence: 1,
            event,
            state: DeliveryState::Waiting,
            queued_at: at,
            attempts: 1,
            next_attempt_at: Some(at),
            last: Some(last),
        })?;
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
