//! The network between hosts and orchestrator fails. What cannot be seen is unknown, with its age; nothing waits for it,
//! and orders are carried out when it is back.

use std::time::{Duration, Instant};

use chom_protocol::api::hosts::{HostState, HostView};
use chom_protocol::api::operations::OperationState;
use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::vps::VpsState;
use chom_tests::fleet::{Fleet, LATER, SOON};
use chom_tests::orchestrator::{Options, Orchestrator};
use chom_tests::proxy::{Faults, Proxy};
use chom_tests::seed::Chance;
use chom_tests::smtp::Received;
use chom_tests::wait::{holds_for, wait_for};

use crate::alerts::{mail_for, mails, one_mail};

/// An orchestrator that agents reach only through a bad network.
fn behind_proxy(hosts: usize, chance: &mut Chance) -> (Fleet, Proxy) {
    let options = Options { behind_proxy: true, ..Options::default() };
    let orchestrator = Orchestrator::start(options);
    let proxy = Proxy::start(orchestrator.public_address(), orchestrator.link_address(), chance.split());
    let mut fleet = Fleet { hosts: Vec::new(), orchestrator };
    for place in 0..hosts {
        fleet.add(&format!("host-{place}"));
    }
    fleet.all_usable();
    (fleet, proxy)
}

#[test]
fn a_host_that_is_cut_off_makes_its_vps_unknown_and_orders_wait_for_its_return() {
    let mut chance = Chance::for_test("partition");
    let (fleet, network) = behind_proxy(1, &mut chance);
    let (api, host) = (fleet.api(), fleet.hosts[0].id);
    let ids: Vec<_> = ["kept", "deleted"].iter().map(|name| api.create(name, None).unwrap().vps.id).collect();
    let [kept, deleted] = ids[..] else { unreachable!() };
    fleet.settled(SOON);
    let server = mail_for(api);

    network.cut();
    for id in [kept, deleted] {
        let unknown = |vps: &VpsView| vps.observed.state == VpsState::Unknown;
        let view = api.vps_becomes(id, "unknown", SOON, unknown);
        assert_eq!(view.observed.last_state, VpsState::Running);
        assert!(view.observed.age_seconds.is_some() && view.observed.seen_at.is_some(), "{view:?}");
    }
    assert_eq!(api.host(host).unwrap().state, HostState::Unreachable);
    wait_for("the alert about the lost host", SOON, || {
        let firing = api.firing("HostUnreachable").map_err(|failure| failure.to_string())?;
        if firing.len() == 1 { Ok(()) } else { Err(format!("{firing:?}")) }
    });
    let told = one_mail(&server, &["FIRING", "HostUnreachable"]);
    let slowest = (0..50)
        .map(|_| {
            let asked = Instant::now();
            let _: Vec<HostView> = api.list("/api/hosts").unwrap();
            let _: Vec<VpsView> = api.list("/api/vps-servers").unwrap();
            asked.elapsed()
        })
        .max();
    println!("two lists while a host is cut off: {slowest:?} at most");
    let ordered = api.act(deleted, "delete", None).unwrap().operation;
    assert_eq!(ordered.state, OperationState::Pending);
    holds_for(
        "nothing to be taken for resolved or done while the host is unseen",
        Duration::from_secs(5),
        || {
            let firing = api.firing("HostUnreachable").map_err(|failure| failure.to_string())?;
            let operation = api.operation(ordered.id).map_err(|failure| failure.to_string())?;
            let vps = api.vps(kept).map_err(|failure| failure.to_string())?;
            let still = firing.len() == 1
                && server.mails().len() == 1
                && operation.state == OperationState::Pending
                && vps.observed.state == VpsState::Unknown;
            if still { Ok(()) } else { Err(format!("{firing:?} {operation:?} {vps:?}")) }
        },
    );

    network.heal();
    let ended = api.ended(ordered.id, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    let views = fleet.settled(LATER);
    assert_eq!(views.len(), 2);
    let resolved = one_mail(&server, &["RESOLVED", "HostUnreachable"]);
    assert_eq!(mails(&server, &["HostUnreachable"]).len(), 2, "one mail each");
    let thread = |mail: &Received| mail.header("References").or_else(|| mail.header("In-Reply-To"));
    let (first, thread) = (told.header("Message-ID").unwrap(), thread(&resolved));
    println!("firing {first}, of {:?}; resolved in {thread:?}", told.header("References"));
    let common = told.header("References").unwrap_or(first);
    assert!(thread.is_some_and(|thread| thread.contains(&common)), "both mails are in one thread");
}

#[test]
fn a_network_that_loses_doubles_and_reorders_packets_only_delays() {
    let mut chance = Chance::for_test("bad network");
    let (fleet, network) = behind_proxy(2, &mut chance);
    network.set(Faults {
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(20),
        drop_percent: 10,
        duplicate_percent: 10,
        reorder_percent: 10,
        reorder_delay: Duration::from_millis(60),
        ..Faults::default()
    });
    let api = fleet.api();
    let ids: Vec<_> = (0..4).map(|n| api.create(&format!("v{n}"), None).unwrap().vps.id).collect();
    fleet.settled(LATER);
    for (id, action) in ids.iter().zip(["stop", "restart", "delete"]) {
        let accepted = api.act(*id, action, None).unwrap();
        let ended = api.ended(accepted.operation.id, LATER);
        assert_eq!(ended.state, OperationState::Succeeded, "{action}: {ended:?}");
    }
    for host in &fleet.hosts {
        let (history, guests) = (host.agent.history(), host.agent.guests());
        assert_eq!(history.len(), guests.len(), "each disk is made once: {history:?}");
        for (id, guest) in guests {
            assert!(guest.starts <= 2, "VPS {id} was started {} times", guest.starts);
        }
    }
}
