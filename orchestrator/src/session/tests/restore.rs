//! After a restore: hosts hold still, upload what they know, and are told again.

use chom_protocol::link::v1::spec_parts;
use chom_protocol::link::{Standing, ToAgent, ToOrchestrator};

use super::fixture::{World, read, read_spec, say, status, within};
use crate::{clock, export, store};

#[tokio::test]
async fn a_restored_orchestrator_has_hosts_upload_their_ledger_and_hold_until_it_knows() {
    let world = World::new().await;
    let (host, agent) = world.agent("a").await;
    agent.report(status()).await;
    world.create("a").await;
    let old = world.running.fleet.spec(host.id).unwrap();
    let exports = &world.config.export_directory;
    let file = store::export::export(world.running.store.as_ref(), exports, clock::now()).await.unwrap();
    let World { running, config, folder, .. } = world;
    within(running.stop()).await.unwrap();
    std::fs::remove_dir_all(config.store_directory()).unwrap();
    export::restore(&config, &file).unwrap();

    let world = World::start(folder).await;
    let mut agent = world.connect(&host, 2).await.unwrap();
    assert_eq!(agent.standing, Standing::Hold);
    assert_eq!(within(read(&mut agent.control.1)).await, Some(ToAgent::LedgerWanted));
    let (mut send, mut receive) = within(agent.connection.open_bi()).await.unwrap();
    say(&mut send, &ToOrchestrator::Pull { have: old.generation }).await;
    assert!(world.running.fleet.spec(host.id).is_none(), "nothing is issued while the host is held");
    let (begin, parts, digest) = spec_parts(&old);
    say(&mut agent.control.0, &ToOrchestrator::LedgerBegin(begin)).await;
    for part in parts {
        say(&mut agent.control.0, &ToOrchestrator::LedgerPart(part)).await;
    }
    say(&mut agent.control.0, &ToOrchestrator::LedgerEnd { digest }).await;
    // It is what the store has: the host is told again at once, in the new epoch, over the pull that waits.
    let new = read_spec(&mut receive).await;
    assert!(new.generation.epoch > old.generation.epoch, "{} {}", old.generation, new.generation);
    assert_eq!(new.vps, old.vps);
}
