//! What stands in an entry, and what of it whom is shown.

use expect_test::expect;
use serde_json::json;

use super::*;
use crate::fleet::RequestMark;
use crate::fleet::rows::SshKeyRow;
use crate::fleet::tests::{World, caller, name, request};
use crate::fleet::vps::Action;

fn of_tenant(tenant: &str) -> Caller {
    let tenant = Some(name(tenant));
    Caller { role: chom_protocol::api::tokens::Role::Owner, tenant, name: "olga".into(), ..caller() }
}

/// The newest entry.
fn last(world: &World) -> AuditRow {
    world.fleet.state().audit.get_max().unwrap().1.row.as_ref().clone()
}

#[test]
fn every_kind_of_row_has_its_line() {
    for kind in State::KINDS {
        let lines = KINDS.iter().filter(|(known, _)| known == kind).count();
        assert_eq!(
            lines, 1,
            "say in KINDS what of rows of kind `{kind}` the audit trail shows; never a secret"
        );
    }
}

#[tokio::test]
async fn no_field_that_is_shown_is_named_like_a_secret() {
    let world = crate::fleet::tests::golden::full().await;
    for (kind, key, value) in world.fleet.state().dump() {
        let value: Value = serde_json::from_str(&value).unwrap();
        let Shown::Without(hidden) = shown(kind) else { continue };
        for field in
            value["data"].as_object().unwrap().keys().filter(|field| !hidden.contains(&field.as_str()))
        {
            let is_secret = ["secret", "password", "sealed", "hash", "token", "key_"]
                .iter()
                .any(|part| field.contains(part));
            assert!(!is_secret, "`{field}` of {key}");
        }
    }
}

#[test]
fn only_what_differs_is_kept() {
    let check =
        |old: Value, new: Value, expected: Option<(Value, Value)>| assert_eq!(differing(old, new), expected);
    check(json!({"a": 1, "b": {"c": 2, "d": [1, 2]}}), json!({"a": 1, "b": {"c": 2, "d": [1, 2]}}), None);
    check(
        json!({"a": 1, "b": {"c": 2, "d": [1, 2]}, "gone": true}),
        json!({"a": 1, "b": {"c": 3, "d": [1]}, "new": null}),
        Some((
            json!({"b": {"c": 2, "d": [1, 2]}, "gone": true}),
            json!({"b": {"c": 3, "d": [1]}, "new": null}),
        )),
    );
    check(json!({"a": {}}), json!({"a": null}), Some((json!({"a": {}}), json!({"a": null}))));
}

#[tokio::test]
async fn an_entry_says_who_what_whose_from_where_and_why() {
    let world = World::new().await;
    world.host("h", "eu-west", 10).await;
    let origin = Origin { address: Some("192.0.2.7".parse().unwrap()), reason: Some("ticket 42".into()) };
    let asker = Caller { origin, ..caller() };
    let mut wanted = request("a", "eu-west");
    wanted.user_data = Some("#cloud-config\npassword: hunter2\n".to_owned());
    let vps = world.fleet.create_vps(&asker, RequestMark::default(), wanted).await.unwrap().value.vps.id;
    let entry = last(&world);
    assert_eq!((entry.action.as_str(), entry.target.as_str()), ("vps.create", vps.to_string().as_str()));
    assert_eq!(
        (entry.actor.as_str(), entry.token, entry.address),
        ("admin", Some(asker.token), asker.origin.address)
    );
    assert_eq!(entry.reason.as_deref(), Some("ticket 42"));
    assert_eq!(entry.tenants, [Name::default_tenant()].into());
    assert!(entry.operation.is_some());
    let row = entry.changes.iter().find(|change| change.row == format!("vps/{vps}")).unwrap();
    assert!(row.before.is_none());
    assert_eq!(row.after.as_ref().unwrap()["spec"]["cores"], 1);
    assert!(
        !format!("{entry:?}").contains("hunter2"),
        "what a guest is told at its start is not for the trail"
    );

    world.fleet.act(&asker, RequestMark::default(), vps, Action::Stop).await.unwrap();
    let entry = last(&world);
    let change = entry.changes.iter().find(|change| change.row.starts_with("vps/")).unwrap();
    expect![[r#"({"spec":{"power":"running"}}, {"spec":{"power":"stopped"}})"#]].assert_eq(&format!(
        "({}, {})",
        change.before.as_ref().unwrap(),
        change.after.as_ref().unwrap()
    ));
    let sequences: Vec<u64> = world.fleet.state().audit.keys().copied().collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_tenant_is_shown_what_is_its_own_and_not_where_it_stands() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let create = chom_protocol::api::tenants::CreateTenant {
        name: name("acme"),
        quota: Default::default(),
        external_id: None,
    };
    world.fleet.create_tenant(&caller(), RequestMark::default(), create).await.unwrap();
    let (own, foreign) = (of_tenant("acme"), of_tenant("globex"));
    let made = world.fleet.create_vps(&own, RequestMark::default(), request("a", "eu-west")).await.unwrap();
    let entry = last(&world);
    assert!(view(&foreign, &entry).is_none());
    let shown = view(&own, &entry).unwrap();
    assert_eq!((shown.actor.as_str(), shown.token), ("olga", Some(own.token)));
    let text = serde_json::to_string(&shown).unwrap();
    assert!(!text.contains(&host.to_string()), "its host is shown: {text}");
    assert!(text.contains("\"cores\":1"), "{text}");

    let asker = Caller {
        origin: Origin { address: Some("192.0.2.7".parse().unwrap()), reason: Some("unpaid".into()) },
        ..caller()
    };
    world.fleet.act(&asker, RequestMark::default(), made.value.vps.id, Action::Stop).await.unwrap();
    let shown = view(&own, &last(&world)).unwrap();
    let text = serde_json::to_string(&shown).unwrap();
    assert_eq!((shown.actor.as_str(), shown.token, shown.address), (PROVIDER, None, None));
    assert!(!text.contains("unpaid") && !text.contains("admin"), "{text}");
    assert_eq!(view(&caller(), &last(&world)).unwrap().reason.as_deref(), Some("unpaid"));
    let of_fleet =
        world.fleet.state().audit.values().filter(|stored| stored.row.action.starts_with("host.")).count();
    assert!(of_fleet >= 2, "added and enrolled");
    let to_tenant = world.fleet.state().audit.values().filter_map(|stored| view(&own, &stored.row)).count();
    assert_eq!(to_tenant, 3, "made, created, stopped");
}

#[tokio::test]
async fn an_entry_is_bounded() {
    let world = World::new().await;
    let long = "x".repeat(20_000);
    let change = move |decision: &mut crate::fleet::Decision| {
        for number in 0..40_u32 {
            let key = format!("{number} {long}");
            let created_at = decision.now;
            decision.put(SshKeyRow {
                tenant: name("default"),
                name: name(&format!("k{number}")),
                key,
                created_at,
            })?;
        }
        decision.audit("ssh-key.add", "é".repeat(1000))
    };
    world.fleet.decide("test".into(), change).await.unwrap();
    let entry = last(&world);
    assert_eq!((entry.changes.len(), entry.changes_left_out), (CHANGES_MAX, 40 - CHANGES_MAX as u32));
    assert!(entry.changes.iter().all(|change| change.after.is_none()), "too long to be kept");
    assert_eq!(entry.target.chars().count(), TARGET_CHARACTERS_MAX + 1);
    let text = serde_json::to_string(&entry).unwrap();
    assert!(text.len() < 16 * 1024, "{}", text.len());
}

#[tokio::test]
async fn refused_requests_are_written_with_who_made_them() {
    let world = World::new().await;
    let denial = |action, is_told| crate::fleet::Denial {
        action,
        target: "GET /api/hosts".to_owned(),
        actor: Some("olga".into()),
        token: Some(caller().token),
        tenant: Some(name("acme")),
        address: Some("192.0.2.7".parse().unwrap()),
        is_told,
    };
    for _ in 0..3 {
        world.fleet.note_denial(denial("request.forbidden", true));
    }
    world.fleet.note_denial(denial("request.foreign", false));
    world.fleet.write_denials(crate::clock::now(), false).await.unwrap();
    let state = world.fleet.state();
    let own = of_tenant("acme");
    let of =
        |action: &str| state.audit.values().find(|stored| stored.row.action == action).unwrap().row.clone();
    let forbidden = of("request.forbidden");
    assert_eq!((forbidden.times, forbidden.result), (3, AuditResult::Denied));
    assert_eq!(view(&own, &forbidden).unwrap().actor, "olga");
    assert!(view(&own, &of("request.foreign")).is_none(), "it would learn that the row is there");
    assert_eq!(view(&caller(), &of("request.foreign")).unwrap().actor, "olga");
}
