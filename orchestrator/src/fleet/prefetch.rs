//! Images that hosts are to have before a VPS needs them: part of their desired state until it is taken back. Commits of some
//! hosts each: what a crash leaves undone is done when it is asked for again.

use chom_protocol::api::catalogue::{PrefetchChanged, PrefetchImage, PrefetchView, PrefetchWord};
use chom_protocol::host::PrefetchState;
use chom_protocol::{HostId, Name};

use crate::clock::{self, rfc3339};
use crate::fleet::hosts::unknown;
use crate::fleet::rows::{HostRow, HostStanding, PrefetchRow, Prefetched};
use crate::fleet::state::State;
use crate::fleet::{Caller, Decision, Fleet, FleetError};
use crate::health;

/// Images that one host is to have; their rows are one.
const PREFETCHES_PER_HOST_MAX: usize = 64;
/// Two rows change with each host, and a commit has 128 changes at most.
const HOSTS_PER_COMMIT_MAX: usize = 50;

impl Fleet {
    /// Has hosts get an image before a VPS needs it, and keep it; or takes that back (`wanted`).
    ///
    /// # Errors
    /// When there is no such image, region or host, or a host is to have too many already.
    pub async fn prefetch(
        &self,
        caller: &Caller,
        name: Name,
        request: PrefetchImage,
        wanted: bool,
    ) -> Result<PrefetchChanged, FleetError> {
        let hosts = self.named_hosts(request)?;
        let mut changed = 0;
        for chunk in hosts.chunks(HOSTS_PER_COMMIT_MAX) {
            let (fleet, name, chunk) = (self.clone(), name.clone(), chunk.to_vec());
            let change = move |decision: &mut Decision| {
                let image = fleet.image(&decision.state, &name);
                let image = image.ok_or_else(|| FleetError::not_found("image", &name))?;
                let mut changed = 0;
                for host in chunk {
                    let one = Prefetched { image: image.reference.clone(), since: decision.now };
                    changed += u32::from(set(decision, host, &name, wanted.then_some(one))?);
                }
                if changed > 0 {
                    decision.audit(if wanted { "image.prefetch" } else { "image.unprefetch" }, &name)?;
                }
                Ok(changed)
            };
            changed += self.decide_for(caller, change).await?.0;
        }
        Ok(PrefetchChanged { hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX), changed })
    }

    /// The hosts that a request names, each once.
    fn named_hosts(&self, request: PrefetchImage) -> Result<Vec<HostId>, FleetError> {
        let PrefetchImage { mut hosts, region } = request;
        let state = self.state();
        if let Some(unknown) =
            hosts.iter().find(|id| state.get::<HostRow>(id).is_none_or(|row| !is_in_fleet(row)))
        {
            return Err(FleetError::invalid("/hosts", format!("there is no host `{unknown}` in the fleet")));
        }
        if let Some(region) = region {
            if !self.catalogue().regions.contains(&region) {
                return Err(unknown("/region", "region", &region, self.catalogue().regions.iter()));
            }
            let rows = state.hosts.values().map(|stored| stored.row.as_ref());
            hosts.extend(rows.filter(|row| row.region == region && is_in_fleet(row)).map(|row| row.id));
        } else if hosts.is_empty() {
            return Err(FleetError::invalid("/hosts", "name hosts or a region"));
        }
        hosts.sort_unstable();
        hosts.dedup();
        Ok(hosts)
    }

    /// How far each host is that is to have an image, by host.
    #[must_use]
    pub fn prefetch_views(&self, name: &Name) -> Vec<PrefetchView> {
        let (state, observations, now) = (self.state(), self.observations().snapshot(), clock::now());
        let rows = state.prefetches.values().map(|stored| stored.row.as_ref());
        rows.filter_map(|row| Some((row.host, row.images.get(name)?)))
            .map(|(host, one)| {
                let observation = observations.get(&host).map(AsRef::as_ref);
                let seen = health::is_seen(observation, self.catalogue().unreachable_after_seconds, now);
                let status = observation.and_then(|observation| observation.status.as_ref());
                let (state_word, percent, problem) =
                    match status.filter(|_| seen).map(|status| status.prefetch.get(name)) {
                        None => (PrefetchWord::Unknown, None, None),
                        Some(None | Some(PrefetchState::Waiting)) => (PrefetchWord::Waiting, None, None),
                        Some(Some(PrefetchState::Fetching { percent })) => {
                            (PrefetchWord::Fetching, Some(*percent), None)
                        }
                        Some(Some(PrefetchState::Ready)) => (PrefetchWord::Ready, None, None),
                        Some(Some(PrefetchState::Failed { problem })) => {
                            (PrefetchWord::Failed, None, Some(problem.clone()))
                        }
                    };
                PrefetchView {
                    host,
                    host_name: state.get::<HostRow>(&host).map(|row| row.name.clone()),
                    state: state_word,
                    percent,
                    problem,
                    since: rfc3339(one.since),
                }
            })
            .collect()
    }
}

const fn is_in_fleet(row: &HostRow) -> bool {
    matches!(row.standing, HostStanding::Invited | HostStanding::Member | HostStanding::Quarantined)
}

/// Writes that a host is to have an image, or is not; whether that is anything new.
fn set(
    decision: &mut Decision,
    host: HostId,
    name: &Name,
    wanted: Option<Prefetched>,
) -> Result<bool, FleetError> {
    let row = decision.state.get::<PrefetchRow>(&host).cloned();
    let mut row = row.unwrap_or_else(|| PrefetchRow { host, images: Default::default() });
    match (row.images.get(name), wanted) {
        (Some(had), Some(one)) if had.image == one.image => return Ok(false),
        (None, None) => return Ok(false),
        (had, Some(one)) => {
            if had.is_none() && row.images.len() >= PREFETCHES_PER_HOST_MAX {
                let host_name = host_name(&decision.state, host);
                return Err(FleetError::conflict(format!(
                    "host `{host_name}` is to have {PREFETCHES_PER_HOST_MAX} images ready already; take one back first"
                )));
            }
            row.images.insert(name.clone(), one);
        }
        (Some(_), None) => {
            row.images.remove(name);
        }
    }
    decision.raise(host)?;
    match row.images.is_empty() {
        true => decision.delete::<PrefetchRow>(&host),
        false => decision.put(row)?,
    }
    Ok(true)
}

fn host_name(state: &State, host: HostId) -> String {
    state.get::<HostRow>(&host).map_or_else(|| host.to_string(), |row| row.name.to_string())
}
