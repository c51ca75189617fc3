//! What a create would do, said without doing it: the plan of the same decision, with placement in words. That no host has
//! room is an answer, with why.

use chom_protocol::HostId;
use chom_protocol::api::plans::{HostNotTaken, VpsPlan};
use chom_protocol::api::vps_servers::CreateVps;

use crate::clock;
use crate::fleet::rows::HostRow;
use crate::fleet::state::State;
use crate::fleet::vps::create::{choose, for_caller, wish};
use crate::fleet::{Caller, Decision, ErrorKind, Fleet, FleetError, RequestMark, room};
use crate::placement::Explanation;

impl Fleet {
    /// Plans a create: where it would go and why, and what would be done. Nothing is reserved.
    ///
    /// # Errors
    /// When the request breaks a rule or the name is taken. That no host has room is an answer.
    pub async fn plan_create(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: CreateVps,
    ) -> Result<VpsPlan, FleetError> {
        let wanted = for_caller(caller, request.clone())?;
        let chosen = choose(self, &wanted)?;
        let state = self.state();
        let explained = {
            let decision = Decision::begin(&state, clock::now(), caller.name.clone());
            let of = |image| room::explained(self, &decision, &wish(&wanted, &chosen.size, image));
            let all = chosen.images.iter().map(of);
            all.reduce(|tried, next| if tried.taken.is_some() { tried } else { next })
        };
        let explained = explained
            .ok_or_else(|| FleetError::invalid("/image", "name an image; no default is configured"))?;
        match self.create_vps(caller, mark, request).await {
            Ok(done) => {
                let plan = done.plan.ok_or_else(|| FleetError::internal("a dry run made no plan"))?;
                let (why, place) = placed(&state, explained, caller.sees_hosts());
                let VpsPlan { not_taken, not_taken_count, .. } = place;
                // The ranking of the last moment may have chosen another host than a look at all of them now.
                let why = if place.host == plan.host { why } else { plan.why.clone() };
                Ok(VpsPlan { why, not_taken, not_taken_count, ..*plan })
            }
            Err(error) if error.kind() == ErrorKind::NoCapacity => {
                let (_, place) = placed(&state, explained, caller.sees_hosts());
                Ok(VpsPlan { host: None, host_name: None, why: error.to_string(), ..place })
            }
            Err(error) => Err(error),
        }
    }
}

/// Why a create goes where it goes; the rest of the plan is empty. Tenants are not told of hosts.
fn placed(state: &State, explained: Explanation, sees_hosts: bool) -> (String, VpsPlan) {
    let Explanation { taken, not_taken, not_taken_count } = explained;
    let named = |host: HostId| state.get::<HostRow>(&host).map(|row| row.name.clone());
    let other = |(host, reason)| Some(HostNotTaken { host, name: named(host)?, reason });
    let (host, why) = taken.map_or((None, String::new()), |(host, why)| (Some(host), why));
    let why = if sees_hosts { why } else { "there is room for it".to_owned() };
    let host = host.filter(|_| sees_hosts);
    let not_taken = if sees_hosts { not_taken } else { Vec::new() };
    let plan = VpsPlan {
        id: None,
        action: "create".to_owned(),
        vps: None,
        host,
        host_name: host.and_then(named),
        why: String::new(),
        addresses: Vec::new(),
        steps: Vec::new(),
        downtime: "none: it is new".to_owned(),
        quota_after: None,
        depends_on: Vec::new(),
        expires_at: None,
        not_taken: not_taken.into_iter().filter_map(other).collect(),
        not_taken_count: if sees_hosts { u32::try_from(not_taken_count).unwrap_or(u32::MAX) } else { 0 },
    };
    (why, plan)
}
