//! What a create would do, said without doing it: the same decision on a copy of the state that is thrown away, and
//! placement in words.

use chom_protocol::HostId;
use chom_protocol::api::vps_servers::{CreatePlan, CreateVps, HostNotTaken};

use crate::clock;
use crate::fleet::catalogue::{Image, Size};
use crate::fleet::rows::HostRow;
use crate::fleet::state::State;
use crate::fleet::vps::create::{choose, create, for_caller, wish};
use crate::fleet::{Caller, Decision, ErrorKind, Fleet, FleetError, quota, room};
use crate::placement::Explanation;

impl Fleet {
    /// Plans a create: where it would go and why, and what would be done. Nothing is reserved.
    ///
    /// # Errors
    /// When the request breaks a rule or the name is taken. That no host has room is an answer.
    pub fn plan_create(&self, caller: &Caller, request: CreateVps) -> Result<CreatePlan, FleetError> {
        let request = for_caller(caller, request)?;
        let tenant = request.tenant.clone().unwrap_or_else(|| caller.home());
        let chosen = choose(self, &request)?;
        let state = self.state();
        let mut decision = Decision::begin(&state, clock::now(), caller.name.clone());
        let explained = chosen
            .images
            .iter()
            .map(|image| (image, room::explained(self, &decision, &wish(&request, &chosen.size, image))))
            .reduce(|tried, next| if tried.1.taken.is_some() { tried } else { next });
        let (image, explained) = explained
            .ok_or_else(|| FleetError::invalid("/image", "name an image; no default is configured"))?;
        let created = create(self, &mut decision, request, &chosen);
        let planned = match created {
            Ok(accepted) => quota::check(&state, &decision.state, &tenant).map(|()| CreatePlan {
                addresses: accepted.vps.addresses,
                steps: steps(&chosen.size, image),
                ..plan(&state, explained, None)
            }),
            Err(error) if error.kind() == ErrorKind::NoCapacity => {
                Ok(plan(&state, explained, Some(error.to_string())))
            }
            Err(error) => Err(error),
        };
        planned.map(|planned| if caller.sees_hosts() { planned } else { without_hosts(planned) })
    }
}

/// The plan for a tenant, who is not told of hosts.
fn without_hosts(plan: CreatePlan) -> CreatePlan {
    let why = if plan.host.is_some() { "there is room for it" } else { "there is no room for it now" };
    CreatePlan {
        host: None,
        host_name: None,
        why: why.to_owned(),
        not_taken: Vec::new(),
        not_taken_count: 0,
        ..plan
    }
}

fn plan(state: &State, explained: Explanation, none: Option<String>) -> CreatePlan {
    let Explanation { taken, not_taken, not_taken_count } = explained;
    // A host with room may have no address left: then nothing is taken after all.
    let (host, why) = match (taken, none) {
        (_, Some(none)) => (None, none),
        (Some((host, why)), None) => (Some(host), why),
        (None, None) => (None, String::new()),
    };
    let named = |host: HostId| state.get::<HostRow>(&host).map(|row| row.name.clone());
    let other = |(host, reason)| Some(HostNotTaken { host, name: named(host)?, reason });
    CreatePlan {
        host,
        host_name: host.and_then(named),
        why,
        addresses: Vec::new(),
        steps: Vec::new(),
        downtime: "none: it is new".to_owned(),
        not_taken: not_taken.into_iter().filter_map(other).collect(),
        not_taken_count: u32::try_from(not_taken_count).unwrap_or(u32::MAX),
    }
}

fn steps(size: &Size, image: &Image) -> Vec<String> {
    let (name, bytes) = (&image.reference.name, image.reference.size);
    vec![
        format!("the host fetches image `{name}` ({bytes}), unless it has it"),
        format!("it makes a disk of {} from it", size.disk),
        format!("it starts the VPS with {} cores and {} of memory", size.cores, size.memory),
    ]
}
