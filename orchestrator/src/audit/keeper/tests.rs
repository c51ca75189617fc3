//! The way from the store to the log.

use super::*;
use crate::fleet::tests::{World, caller, name};
use chom_protocol::api::tenants::CreateTenant;
use chom_protocol::audit::Checker;

async fn tenant(world: &World, tenant: &str) {
    let request = CreateTenant { name: name(tenant), quota: Default::default(), external_id: None };
    world.fleet.create_tenant(&caller(), Default::default(), request).await.unwrap();
}

async fn keeper(world: &World) -> Keeper {
    let log = Arc::new(AuditLog::open(&world.folder.path().join("audit")).unwrap());
    Keeper::start(world.fleet.clone(), log, 400).await.unwrap()
}

/// The tenants that entries of the log name, in order; the chain must be whole.
fn targets(keeper: &Keeper) -> Vec<String> {
    let head = keeper.fleet.state().audit_head();
    let (lines, next) = keeper.log.lines(&head, None, 1000).unwrap();
    assert!(next.is_none());
    let mut checker = Checker::after(head.dropped.sequence, head.dropped.hash);
    lines.iter().for_each(|line| checker.take(line).unwrap());
    checker.end(head.last.sequence, &head.last.hash).unwrap();
    let found = keeper
        .log
        .newest_first(&head, u64::MAX, Default::default(), 1000, |row| Some(row.target.clone()))
        .unwrap();
    found.items.into_iter().rev().collect()
}

#[tokio::test]
async fn entries_move_in_order_and_numbers_go_on_behind_them() {
    let world = World::new().await;
    let keeper = keeper(&world).await;
    for number in 0..250 {
        tenant(&world, &format!("a{number}")).await;
    }
    keeper.pass().await.unwrap();
    assert!(world.fleet.state().audit.is_empty(), "memory keeps none of them");
    let expected: Vec<String> = (0..250).map(|number| format!("a{number}")).collect();
    assert_eq!(targets(&keeper), expected);
    tenant(&world, "later").await;
    assert_eq!(world.fleet.state().audit.keys().copied().collect::<Vec<_>>(), [251]);
    keeper.pass().await.unwrap();
    assert_eq!(targets(&keeper).len(), 251);
}

#[tokio::test]
async fn a_crash_at_any_point_neither_loses_nor_doubles_an_entry() {
    let world = World::new().await;
    let first = keeper(&world).await;
    tenant(&world, "a").await;
    first.pass().await.unwrap();
    tenant(&world, "b").await;
    tenant(&world, "c").await;
    // Killed after the files were written and before the store knew: the next one finds rows and lines.
    let state = world.fleet.state();
    let rows: Vec<Arc<AuditRow>> = state.audit.values().map(|stored| Arc::clone(&stored.row)).collect();
    first.log.append(&state.audit_head(), &rows).unwrap();
    drop(first);
    let world = world.restart().await;
    let second = keeper(&world).await;
    assert!(world.fleet.state().audit.is_empty());
    tenant(&world, "d").await;
    second.pass().await.unwrap();
    assert_eq!(targets(&second), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_store_that_is_older_than_the_log_takes_it_over() {
    let world = World::new().await;
    let first = keeper(&world).await;
    tenant(&world, "a").await;
    let before = world.fleet.state();
    tenant(&world, "b").await;
    first.pass().await.unwrap();
    // The store as it was: entry 1 a row, no head; and a new entry that takes the number that `b` has in the log.
    let (row, old) = (before.audit.get(&1).unwrap().row.as_ref().clone(), world.fleet.state().audit_head());
    let undo = move |decision: &mut Decision| {
        decision.put(AuditRow { sequence: 2, target: "c".to_owned(), ..row.clone() })?;
        decision.put(row)?;
        decision.put(AuditHeadRow::default())
    };
    world.fleet.decide("test".into(), undo).await.unwrap();
    drop(first);
    let second = keeper(&world).await;
    assert_eq!(world.fleet.state().audit_head(), old);
    second.pass().await.unwrap();
    assert_eq!(targets(&second), ["a", "b", "c"]);
}
