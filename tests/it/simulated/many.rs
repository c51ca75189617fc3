//! A larger fleet: agents in this process, with the product's own link, ledger, spool and reconciler.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use chom_protocol::Bytes;
use chom_protocol::api::hosts::{HostLimits, HostView};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_tests::api::Failure;
use chom_tests::fleet::{Fleet, LATER};
use chom_tests::orchestrator::Options;
use chom_tests::seed::rounds;
use chom_tests::simulation::{Simulation, enrol, inventory};
use chom_tests::wait::wait_for;
use tokio::runtime::Runtime;

/// So many hosts that are enrolled, connected and reporting, in this process.
pub(crate) fn simulated(fleet: &Fleet, hosts: usize, folder: &Path, runtime: &Runtime) -> Simulation {
    let api = fleet.api();
    let added = (0..hosts).map(|n| api.add_host(&format!("host-{n}"), "us-east").unwrap().join_code);
    let codes: Vec<String> = added.collect();
    let started = Instant::now();
    let folders = runtime.block_on(enrol(folder, codes));
    println!("{hosts} hosts enrolled in {:?}", started.elapsed());
    let simulation = {
        let _runtime = runtime.enter();
        Simulation::start(&folders)
    };
    println!("connected in {:?}", runtime.block_on(simulation.all_connected(1, LATER)));
    simulation
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn agents_notice_a_killed_orchestrators_return_by_its_first_answer_and_not_by_silence() {
    // Silence would take five minutes, and an unanswered report half of one: more than the deadline below.
    let times = Options { idle_seconds: 300, ..Options::default() };
    let mut fleet = Fleet::start(times, 0);
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let simulation = simulated(&fleet, 20, folder.path(), &runtime);
    fleet.orchestrator.restart();
    println!(
        "connected again in {:?}",
        runtime.block_on(simulation.all_connected(2, Duration::from_secs(20)))
    );
    runtime.block_on(simulation.stop()).unwrap();
}

#[test]
fn a_whole_fleet_enrols_takes_orders_and_comes_back_after_a_restart() {
    let hosts = rounds(1000, 100);
    // Not as hurried as elsewhere: a report a second from each is more than a debug build takes from a thousand.
    let times =
        Options { report_seconds: 5, idle_seconds: 15, unreachable_seconds: 20, ..Options::default() };
    let mut fleet = Fleet::start(times, 0);
    let api = fleet.api().clone();
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let simulation = simulated(&fleet, hosts, folder.path(), &runtime);
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

#[test]
fn many_creates_at_once_share_no_address_or_name_and_fill_no_host_beyond_its_room() {
    const HOSTS: usize = 20;
    const PER_HOST: usize = 10;
    const ROOM: usize = HOSTS * PER_HOST;
    // More names than room, and each of some names by two.
    const NAMES: usize = ROOM + 10;
    const TWICE: usize = 10;
    let times =
        Options { report_seconds: 5, idle_seconds: 15, unreachable_seconds: 20, ..Options::default() };
    let memory_mib = times.memory_mib;
    let fleet = Fleet::start(times, 0);
    let api = fleet.api().clone();
    let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
    let simulation = simulated(&fleet, HOSTS, folder.path(), &runtime);
    let room = Bytes::mib(memory_mib * PER_HOST as u64);
    let reserved = Bytes(inventory().memory.0 - room.0);
    let limits = HostLimits { memory_reserved_bytes: Some(reserved), ..HostLimits::default() };
    for id in simulation.ids() {
        wait_for("a host with bounded room", LATER, || {
            let view: HostView = api
                .overwrite(&format!("/api/hosts/{id}/limits"), &limits)
                .map_err(|failure| failure.to_string())?;
            let seen = view.capacity.memory_promisable_bytes == room;
            if seen { Ok(()) } else { Err(format!("{view:?}")) }
        });
    }
    let start = Barrier::new(NAMES + TWICE);
    let answers: Vec<Result<VpsAccepted, Failure>> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let (api, start) = (api.clone(), &start);
            scope.spawn(move || {
                start.wait();
                api.create(&format!("v{}", n % NAMES), None)
            })
        };
        let asked: Vec<_> = (0..NAMES + TWICE).map(ask).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!(made.len(), ROOM, "{:?}", answers.iter().find_map(|answer| answer.as_ref().err()));
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(refused.iter().all(|failure| failure.status() == 409), "{refused:?}");
    let names: BTreeSet<_> = made.iter().map(|vps| vps.vps.name.clone()).collect();
    // Networks are the hosts' own: an address is one of a host.
    let addresses: BTreeSet<_> = made.iter().map(|vps| (vps.vps.host, vps.vps.addresses.clone())).collect();
    assert_eq!((names.len(), addresses.len()), (ROOM, ROOM));
    for id in simulation.ids() {
        let capacity = api.host(id).unwrap().capacity;
        assert_eq!(
            capacity.memory_used_bytes, capacity.memory_promisable_bytes,
            "each is full, and none more"
        );
    }
    fleet.settled(LATER);
    runtime.block_on(simulation.stop()).unwrap();
}
