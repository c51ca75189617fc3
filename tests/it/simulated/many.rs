//! A larger fleet: agents in this process, with the product's own link, ledger, spool and reconciler.

use std::collections::BTreeSet;
use std::time::Instant;

use chom_tests::fleet::{Fleet, LATER};
use chom_tests::orchestrator::Options;
use chom_tests::seed::rounds;
use chom_tests::simulation::{Simulation, enrol};

#[test]
fn a_whole_fleet_enrols_takes_orders_and_comes_back_after_a_restart() {
    let hosts = rounds(1000, 100);
    let mut fleet = Fleet::start(Options::default(), 0);
    let api = fleet.api().clone();
    let added = (0..hosts).map(|n| api.add_host(&format!("host-{n}"), "us-east").unwrap().join_code);
    let codes: Vec<String> = added.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let folders = runtime.block_on(enrol(folder.path(), codes));
    println!("{hosts} hosts enrolled in {:?}", started.elapsed());
    let simulation = {
        let _runtime = runtime.enter();
        Simulation::start(&folders)
    };
    println!("connected in {:?}", runtime.block_on(simulation.all_connected(1, LATER)));
    let everywhere: BTreeSet<_> = chom_tests::wait::wait_for("a VPS on every host", LATER, || {
        let placed: Vec<chom_protocol::api::vps_servers::VpsView> =
            api.list("/api/vps-servers").map_err(|failure| failure.to_string())?;
        let hosts_used: BTreeSet<_> = placed.iter().map(|vps| vps.host).collect();
        if hosts_used.len() == hosts {
            return Ok(hosts_used);
        }
        // Each goes to the host that has fewest.
        let made = api.create(&format!("v{}", placed.len()), None).map(|_| ());
        Err(format!("{} of {hosts} hosts have one; {made:?}", hosts_used.len()))
    });
    assert_eq!(everywhere, simulation.ids().into_iter().collect());
    fleet.settled(LATER);

    fleet.orchestrator.restart();
    println!("connected again in {:?}", runtime.block_on(simulation.all_connected(2, LATER)));
    assert_eq!(fleet.settled(LATER).len(), hosts);
    runtime.block_on(simulation.stop()).unwrap();
}
