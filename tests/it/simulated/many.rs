//! A larger fleet: agents in this process, with the product's own link, ledger, spool and reconciler.

use std::time::Instant;

use chom_tests::fleet::{Fleet, LATER};
use chom_tests::orchestrator::Options;
use chom_tests::seed::rounds;
use chom_tests::simulation::{Simulation, enrol};
use chom_tests::wait::wait_for;

#[test]
fn a_whole_fleet_enrols_takes_orders_and_comes_back_after_a_restart() {
    let hosts = rounds(1000, 100);
    // Not as hurried as elsewhere: a report a second from each is more than a debug build takes from a thousand.
    let times =
        Options { report_seconds: 5, idle_seconds: 15, unreachable_seconds: 20, ..Options::default() };
    let mut fleet = Fleet::start(times, 0);
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
    for n in 0..hosts {
        // A host takes VPSs once it has reported.
        wait_for("room for a VPS", LATER, || {
            api.create(&format!("v{n}"), None).map_err(|failure| failure.to_string())
        });
    }
    fleet.settled(LATER);
    let guests = || simulation.hosts.iter().map(|host| host.engine.world().guests.len()).sum::<usize>();
    assert_eq!(guests(), hosts);

    fleet.orchestrator.restart();
    println!("connected again in {:?}", runtime.block_on(simulation.all_connected(2, LATER)));
    assert_eq!(fleet.settled(LATER).len(), hosts);
    assert_eq!(guests(), hosts, "nothing was made anew");
    runtime.block_on(simulation.stop()).unwrap();
}
