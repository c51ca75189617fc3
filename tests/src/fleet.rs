//! An orchestrator with hosts that are enrolled, connected and able to run VPSs: where most tests begin.

use std::time::Duration;

use chom_protocol::HostId;
use chom_protocol::api::hosts::HostState;
use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::vps::VpsState;

use crate::agent::Agent;
use crate::api::Api;
use crate::orchestrator::{Options, Orchestrator};
use crate::wait::wait_for;

/// What takes a second on an idle machine is done by then on one that compiles at the same time.
pub const SOON: Duration = Duration::from_secs(60);
/// An agent pauses up to a minute before it dials again, and then has work to do.
pub const LATER: Duration = Duration::from_secs(150);

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its agent.
    pub agent: Agent,
}

/// An orchestrator and its hosts.
#[derive(Debug)]
pub struct Fleet {
    /// The hosts; dropped before the orchestrator, so that its log stands last.
    pub hosts: Vec<Host>,
    /// The orchestrator.
    pub orchestrator: Orchestrator,
}

impl Fleet {
    /// So many hosts, all usable.
    ///
    /// # Panics
    /// When they do not become usable in time.
    #[must_use]
    pub fn start(options: Options, hosts: usize) -> Self {
        let mut fleet = Self { hosts: Vec::new(), orchestrator: Orchestrator::start(options) };
        for place in 0..hosts {
            fleet.add(&format!("host-{place}"));
        }
        fleet.all_usable();
        fleet
    }

    /// Enrols and starts one more.
    ///
    /// # Panics
    /// When it cannot be enrolled.
    pub fn add(&mut self, name: &str) -> &mut Host {
        let added = self.api().add_host(name, "us-east").unwrap_or_else(|failure| panic!("{failure}"));
        let mut agent = Agent::new();
        let _ = agent.enrol(&added.join_code).well("chom-agent enrol");
        agent.run();
        self.hosts.push(Host { id: added.host, agent });
        self.hosts.last_mut().unwrap()
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.orchestrator.api()
    }

    /// Waits until every host can take VPSs.
    ///
    /// # Panics
    /// When one cannot in time.
    pub fn all_usable(&self) {
        for host in &self.hosts {
            usable(self.api(), host.id, SOON);
        }
    }

    /// Waits until every VPS on hosts of the fleet is as desired, and gives all of them.
    ///
    /// # Panics
    /// When one is not in time.
    pub fn settled(&self, deadline: Duration) -> Vec<VpsView> {
        wait_for("desired to equal observed", deadline, || {
            let all: Vec<VpsView> =
                self.api().list("/api/vps-servers").map_err(|failure| failure.to_string())?;
            match all.iter().find(|vps| !is_as_desired(vps)) {
                None => Ok(all),
                Some(vps) => Err(format!("{vps:?}")),
            }
        })
    }
}

/// Waits until a host is connected and has an engine that works.
///
/// # Panics
/// When it is not in time.
pub fn usable(api: &Api, host: HostId, deadline: Duration) {
    wait_for(&format!("host {host} to be usable"), deadline, || {
        let row = api.host(host).map_err(|failure| failure.to_string())?;
        let works = row.engines.iter().any(|engine| engine.problem.is_none());
        if row.state == HostState::Connected && works { Ok(()) } else { Err(format!("{row:?}")) }
    });
}

/// Whether a VPS is observed as it is desired.
#[must_use]
pub fn is_as_desired(vps: &VpsView) -> bool {
    use chom_protocol::vps::Power;
    if vps.purging {
        return false; // it is on its way out
    }
    match (vps.desired, vps.observed.state) {
        (Power::Running, VpsState::Running) | (Power::Paused, VpsState::Paused) => true,
        (Power::Stopped, VpsState::Stopped | VpsState::StoppedByGuest) => true,
        // Deleted before its host ever made it.
        (Power::Stopped, VpsState::Absent) => vps.deleted_at.is_some(),
        _ => false,
    }
}
