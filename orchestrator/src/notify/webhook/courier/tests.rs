//! That events are in the commit of what caused them, and in the queues of those that hear them, also after a restart.

use std::collections::BTreeSet;

use chom_protocol::Name;
use chom_protocol::api::tenants::CreateTenant;
use chom_protocol::api::tokens::Role;
use chom_protocol::api::webhooks::{CreateWebhook, WebhookKind};

use super::*;
use crate::fleet::tests::{World, caller, name, request};
use crate::fleet::{Caller, RequestMark};

async fn webhook(world: &World, title: &str, tenant: Option<Name>) -> WebhookId {
    let kinds = BTreeSet::from([WebhookKind::Operations]);
    let request = CreateWebhook { name: name(title), url: "https://hook.invalid/".to_owned(), kinds, tenant };
    let made = world.fleet.create_webhook(&caller(), RequestMark::default(), request).await.unwrap();
    made.value.webhook.id
}

async fn spread_all(world: &World) {
    while world.fleet.decide("test".into(), spread).await.unwrap().0 {}
}

fn told(world: &World, webhook: WebhookId) -> Vec<String> {
    world.fleet.state().queue_of(webhook).map(|row| row.event.name.clone()).collect()
}

#[tokio::test]
async fn events_survive_a_restart_before_they_are_spread_and_reach_only_those_that_hear_them() {
    let world = World::new().await;
    let host = world.host("h1", "us-east", 10).await;
    world.create("unheard", "us-east").await.unwrap();
    assert!(world.fleet.state().journal.is_empty(), "nobody listens yet");
    for title in ["acme", "other"] {
        let (name, quota) = (name(title), Default::default());
        let request = CreateTenant { name, quota, external_id: None };
        world.fleet.create_tenant(&caller(), RequestMark::default(), request).await.unwrap();
    }
    let fleets = webhook(&world, "all", None).await;
    let (own, foreign) =
        (webhook(&world, "own", Some(name("acme"))).await, webhook(&world, "own", Some(name("other"))).await);
    let owner = Caller { role: Role::Owner, tenant: Some(name("acme")), ..caller() };
    world.fleet.create_vps(&owner, RequestMark::default(), request("web", "us-east")).await.unwrap();
    let world = world.restart().await;
    assert_eq!(world.fleet.state().journal.len(), 1, "it is in the commit of the operation");
    spread_all(&world).await;
    spread_all(&world).await;
    assert_eq!(told(&world, own), ["operation.pending"]);
    world.converge(host).await;
    spread_all(&world).await;
    assert_eq!(told(&world, own), ["operation.pending", "operation.succeeded"]);
    assert_eq!(told(&world, foreign), Vec::<String>::new());
    let state = world.fleet.state();
    let ids = |webhook| state.queue_of(webhook).map(|row| row.event.id).collect::<BTreeSet<_>>();
    assert!(ids(fleets).is_superset(&ids(own)), "one event has one id for all");
    let body = state.queue_of(own).next_back().map(|row| row.event.content.clone());
    let Some(Content::Body(body)) = body else { panic!("{body:?}") };
    assert!(!body.contains(&host.to_string()), "a tenant is told of no host: {body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["type"], &body["data"]["name"]), (&"operation.succeeded".into(), &"web".into()));
}

#[tokio::test]
async fn an_event_that_many_hear_is_spread_in_several_commits_to_each_once() {
    let world = World::new().await;
    world.host("h1", "us-east", 10).await;
    let count = DELIVERIES_PER_COMMIT_MAX + 5;
    for number in 0..count {
        webhook(&world, &format!("w{number}"), None).await;
    }
    world.create("web", "us-east").await.unwrap();
    let (more, _) = world.fleet.decide("test".into(), spread).await.unwrap();
    assert!(more && world.fleet.state().deliveries.len() == DELIVERIES_PER_COMMIT_MAX);
    spread_all(&world).await;
    let state = world.fleet.state();
    assert_eq!((state.deliveries.len(), state.journal.len()), (count, 0));
    assert!(state.webhooks.keys().all(|webhook| state.queue_of(*webhook).count() == 1));
}
