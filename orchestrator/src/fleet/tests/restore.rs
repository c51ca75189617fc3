//! After a restore from an older export: a new epoch, hosts held until compared, nothing destroyed.

use chom_protocol::api::hosts::{LedgerChoice, ResolveLedger};

use super::*;
use crate::fleet::rows::VpsRow;
use crate::store::export;

async fn restored(world: World, export: &std::path::Path) -> World {
    let folder = world.end().await;
    std::fs::remove_dir_all(folder.path().join("store")).unwrap();
    // A second later at least: the epoch is a second.
    export::restore(export, &folder.path().join("store"), clock::now()).unwrap();
    let store = open(&folder);
    World::start(folder, store, catalogue()).await
}

async fn export_of(world: World) -> (World, std::path::PathBuf) {
    let folder = world.end().await;
    let store = open(&folder);
    let path = export::export(store.as_ref(), &folder.path().join("exports"), clock::now()).await.unwrap();
    drop(store);
    let store = open(&folder);
    (World::start(folder, store, catalogue()).await, path)
}

#[tokio::test]
async fn a_ledger_that_says_the_same_is_managed_again_at_once() {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    world.create("a", "eu-west").await.unwrap();
    let ledger = world.fleet.spec(host).unwrap();
    let (world, path) = export_of(world).await;
    let world = restored(world, &path).await;
    assert_eq!(world.standing(host).unwrap(), Standing::Hold);
    assert_eq!(world.fleet.spec(host), None);
    world.fleet.ledger(host, ledger.clone()).await.unwrap();
    assert_eq!(world.standing(host).unwrap(), Standing::Managed);
    let issued = world.fleet.spec(host).unwrap();
    assert!(issued.generation > ledger.generation, "{} > {}", issued.generation, ledger.generation);
    assert_eq!(issued.vps, ledger.vps);
}

/// Three changes after the export: one VPS stopped, one purged, one made.
async fn three_changes_later() -> (World, HostId, chom_protocol::host::HostSpec, [VpsId; 3]) {
    let world = World::new().await;
    let host = world.host("h", "eu-west", 10).await;
    let stopped = world.create("stopped", "eu-west").await.unwrap().value.vps.id;
    let purged = world.create("purged", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    world.act(purged, Action::Delete).await.unwrap();
    world.converge(host).await;
    let (world, path) = export_of(world).await;
    world.fleet.seen(host);
    world.act(stopped, Action::Stop).await.unwrap();
    world.act(purged, Action::Purge).await.unwrap();
    world.converge(host).await;
    let made = world.create("made", "eu-west").await.unwrap().value.vps.id;
    world.converge(host).await;
    let ledger = world.fleet.spec(host).unwrap();
    (restored(world, &path).await, host, ledger, [stopped, purged, made])
}

#[tokio::test]
async fn what_the_host_knows_better_is_listed_and_adopted_at_an_admins_word() {
    let (world, host, ledger, [stopped, purged, made]) = three_changes_later().await;
    world.fleet.ledger(host, ledger.clone()).await.unwrap();
    assert_eq!(world.standing(host).unwrap(), Standing::Hold, "nobody has said yet which is right");
    let listed: Vec<String> = world
        .fleet
        .ledger_view(host)
        .unwrap()
        .differences
        .into_iter()
        .map(|d| format!("{}: {}", d.name, d.difference))
        .collect();
    expect_test::expect![[r#"
        [
            "stopped: changed after the export: power running here, stopped there",
            "purged: it was purged after the export",
            "made: it was made after the export",
        ]
    "#]]
    .assert_debug_eq(&listed);
    let choice = ResolveLedger { choice: LedgerChoice::AdoptLedger };
    world.fleet.resolve_ledger(&caller(), RequestMark::default(), host, choice).await.unwrap();
    let issued = world.fleet.spec(host).unwrap();
    assert!(issued.generation > ledger.generation);
    assert_eq!(issued.vps, ledger.vps, "what ran goes on as it was");
    let state = world.fleet.state();
    assert!(state.get::<VpsRow>(&purged).is_none());
    assert_eq!(state.addresses.len(), 2);
    assert!(state.get::<VpsRow>(&made).is_some() && state.get::<VpsRow>(&stopped).is_some());
    world.converge(host).await;
}

#[tokio::test]
async fn keeping_the_rows_destroys_nothing_on_the_host() {
    let (world, host, ledger, [_, purged, made]) = three_changes_later().await;
    world.fleet.ledger(host, ledger.clone()).await.unwrap();
    let choice = ResolveLedger { choice: LedgerChoice::KeepRows };
    world.fleet.resolve_ledger(&caller(), RequestMark::default(), host, choice).await.unwrap();
    let issued = world.fleet.spec(host).unwrap();
    assert!(issued.tombstones.is_empty());
    assert!(!issued.vps.contains_key(&made), "left alone there as an orphan");
    assert!(issued.vps[&purged].retained, "it stays deleted");
}
