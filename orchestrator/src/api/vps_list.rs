//! The list of VPSs: its filters, its orders, and which of the orders in memory finds a page soonest. A tenant's callers are
//! answered from their tenant's rows alone, so that neither a page's length nor its time tells of others.

use std::ops::Bound;

use chom_protocol::api::vps_servers::VpsView;
use chom_protocol::vps::{Engine, VpsState};
use chom_protocol::{HostId, Name, UnixMillis, VpsId};
use imbl::OrdSet;

use crate::api::list::{
    Chosen, Given, Key, List, Parameter, Part, Place, Rows, SORTED_MAX, Sight, bad_cursor, is_among,
};
use crate::api::problem::ApiError;
use crate::fleet::events::Touched;
use crate::fleet::rows::VpsRow;
use crate::fleet::view;

/// A host by its id or its name in the fleet.
pub(super) enum HostKey {
    Id(HostId),
    Name(Name),
}

impl HostKey {
    /// Reads the filter `host`.
    pub(super) fn read(given: &Given) -> Result<Option<Self>, ApiError> {
        match given.text("host").map(str::parse) {
            Some(Ok(id)) => Ok(Some(Self::Id(id))),
            _ => Ok(given.one::<Name>("host")?.map(Self::Name)),
        }
    }

    /// Which host that is; none has the nil id.
    pub(super) fn id(&self, sight: &Sight) -> HostId {
        match self {
            Self::Id(id) => *id,
            Self::Name(name) => {
                let named = sight.state.host_named(name).map(|row| row.id);
                named.unwrap_or_else(|| HostId::new(uuid::Uuid::nil()))
            }
        }
    }
}

/// Which VPSs are asked for.
pub(super) struct VpsList {
    tenant: Option<Name>,
    region: Option<Name>,
    host: Option<HostKey>,
    states: Vec<VpsState>,
    size: Option<Name>,
    image: Option<Name>,
    engines: Vec<Engine>,
    external_id: Option<String>,
    needle: Option<String>,
    deleted: Option<bool>,
}

impl List for VpsList {
    const NAME: &'static str = "vps-servers";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "tenant", about: "Only of this tenant." },
        Parameter { name: "region", about: "Only in this region." },
        Parameter { name: "host", about: "Only on this host, by id or name; not for a tenant's tokens." },
        Parameter {
            name: "state",
            about: "Only in one of these states, as `observed.state` shows them: `running`, or `crashed,unknown`.",
        },
        Parameter { name: "size", about: "Only of this size." },
        Parameter { name: "image", about: "Only made from this image." },
        Parameter { name: "engine", about: "Only run by one of these: `libvirt`, `incus`." },
        Parameter { name: "external_id", about: "Only what another system calls by exactly this." },
        Parameter { name: "q", about: "Only with this text in their name, an address or their external id." },
        Parameter {
            name: "deleted",
            about: "`true`: only deleted ones that are still kept; `false`: none of them.",
        },
    ];
    const OF_FLEET: &'static [&'static str] = &["host"];
    const SORTS: &'static [&'static str] = &["id", "name", "created_at"];
    const IS_WATCHED: bool = true;

    fn read(given: &Given) -> Result<Self, ApiError> {
        Ok(Self {
            tenant: given.one("tenant")?,
            region: given.one("region")?,
            host: HostKey::read(given)?,
            states: given.words("state")?,
            size: given.one("size")?,
            image: given.one("image")?,
            engines: given.words("engine")?,
            external_id: given.text("external_id").map(str::to_owned),
            needle: given.needle("q"),
            deleted: given.yes_no("deleted")?,
        })
    }
}

impl VpsList {
    /// Whether a row is there for the caller and is asked for. What is cheap to look at comes first.
    fn fits(&self, sight: &Sight, host: Option<HostId>, row: &VpsRow) -> bool {
        let is = |wanted: &Option<Name>, found: &Name| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let Sight { caller, observations, now, .. } = sight;
        caller.sees_vps(row)
            && is(&self.tenant, &row.spec.tenant)
            && is(&self.region, &row.region)
            && is(&self.size, &row.size)
            && host.is_none_or(|host| host == row.host)
            && is_among(&self.engines, || row.spec.engine)
            && self.deleted.is_none_or(|deleted| deleted == row.retention.is_some())
            && self
                .image
                .as_ref()
                .is_none_or(|wanted| row.spec.image.as_ref().is_some_and(|image| image.name == *wanted))
            && self.external_id.as_ref().is_none_or(|wanted| row.external_id.as_ref() == Some(wanted))
            && self.needle.as_ref().is_none_or(|needle| has(row, needle))
            && is_among(&self.states, || {
                let observation = observations.get(&row.host).map(AsRef::as_ref);
                view::vps_state(sight.app.fleet.catalogue(), row, observation, *now)
            })
    }

    /// The smallest set of ids in memory that all of them are in; none: any row may be.
    fn set<'a>(&self, sight: &'a Sight, host: Option<HostId>) -> Option<Candidates<'a>> {
        let state = &sight.state;
        if let Some(own) = sight.caller.vps {
            return Some(Candidates::One(state.vps.contains_key(&own).then_some(own)));
        }
        let tenant = sight.caller.tenant.as_ref().or(self.tenant.as_ref());
        let sets = [
            host.map(|host| state.vps_of_host.get(&host)),
            tenant.map(|tenant| state.vps_of_tenant.get(tenant)),
            // A region may be large where a tenant is small, and must not be looked through for a tenant's caller.
            self.region
                .as_ref()
                .filter(|_| sight.caller.tenant.is_none())
                .map(|region| state.vps_of_region.get(region)),
        ];
        let smallest = sets.into_iter().flatten().min_by_key(|set| set.map_or(0, |set| set.len()));
        smallest.map(|set| set.map_or(Candidates::One(None), Candidates::Set))
    }

    fn rows<'a>(
        &self,
        sight: &'a Sight,
        host: Option<HostId>,
        part: &Part<VpsId>,
    ) -> Result<Chosen<&'a VpsRow, VpsId>, ApiError> {
        let state = sight.state.as_ref();
        let by = part.sort.by;
        let fits = |row: &&VpsRow| self.fits(sight, host, row);
        let place = |row: &&'a VpsRow| place(by, row);
        let row = |id: &VpsId| state.get::<VpsRow>(id);
        let set = self.set(sight, host);
        if by == "id" {
            let bounds = part.bounds(part.start_id());
            return Ok(match &set {
                Some(set) => part.walk(set.directed(part, bounds).filter_map(|id| row(&id)), fits, place),
                None => {
                    let rows = state.vps.range(bounds).map(|(_, stored)| stored.row.as_ref());
                    part.walk(part.directed(rows), fits, place)
                }
            });
        }
        if let Some(set) = set.filter(|set| sight.caller.tenant.is_some() || set.len() <= SORTED_MAX) {
            return Ok(part.select(set.all().filter_map(|id| row(&id)).filter(fits), place));
        }
        let ids: Box<dyn Iterator<Item = VpsId> + 'a> = match (by, &part.from) {
            ("name", from) => {
                let from = from.as_ref().map(|from| match &from.key {
                    Key::Text(name) => {
                        name.parse::<Name>().map(|name| (name, from.id)).map_err(|_| bad_cursor())
                    }
                    _ => Err(bad_cursor()),
                });
                let ids = state.vps_by_name.range(part.bounds(from.transpose()?));
                part.directed(ids.map(|(_, id)| *id))
            }
            (_, from) => {
                let from = from.as_ref().map(|from| match from.key {
                    Key::Number(at) => Ok((UnixMillis(at), from.id)),
                    _ => Err(bad_cursor()),
                });
                let ids = state.vps_by_age.range(part.bounds(from.transpose()?));
                part.directed(ids.map(|(_, id)| *id))
            }
        };
        Ok(part.walk(ids.filter_map(|id| row(&id)), fits, place))
    }
}

impl Rows for VpsList {
    type Id = VpsId;
    type View = VpsView;

    fn part(&self, sight: &Sight, part: &Part<VpsId>) -> Result<Chosen<VpsView, VpsId>, ApiError> {
        let host = self.host.as_ref().map(|host| host.id(sight));
        Ok(self.rows(sight, host, part)?.map(|row| shown(sight, row)))
    }

    fn row(&self, sight: &Sight, id: VpsId) -> Option<VpsView> {
        let host = self.host.as_ref().map(|host| host.id(sight));
        let row = sight.state.get::<VpsRow>(&id).filter(|row| self.fits(sight, host, row))?;
        Some(shown(sight, row))
    }

    fn id(view: &VpsView) -> VpsId {
        view.id
    }

    fn concerned(sight: &Sight, touched: &Touched) -> Vec<VpsId> {
        match touched {
            Touched::Vps(id, _) => vec![*id],
            // Of a VPS whose host is out of sight nothing is known.
            Touched::Sight(host) => {
                let all = sight.state.vps_on(*host).filter(|row| sight.caller.sees_vps(row));
                all.map(|row| row.spec.id).collect()
            }
            Touched::Host(_) | Touched::Operation(..) | Touched::Alert(_) => Vec::new(),
        }
    }
}

/// A VPS as the caller is shown it.
fn shown(sight: &Sight, row: &VpsRow) -> VpsView {
    let observation = sight.observations.get(&row.host).map(AsRef::as_ref);
    let shown = view::vps(&sight.state, sight.app.fleet.catalogue(), row, observation, sight.now);
    view::vps_for(sight.caller.sees_hosts(), shown)
}

/// Where ids are.
enum Candidates<'a> {
    One(Option<VpsId>),
    Set(&'a OrdSet<VpsId>),
}

impl<'a> Candidates<'a> {
    fn len(&self) -> usize {
        match self {
            Self::One(id) => usize::from(id.is_some()),
            Self::Set(ids) => ids.len(),
        }
    }

    fn all(&self) -> Box<dyn Iterator<Item = VpsId> + 'a> {
        match self {
            Self::One(id) => Box::new((*id).into_iter()),
            Self::Set(ids) => Box::new(ids.iter().copied()),
        }
    }

    fn directed(
        &self,
        part: &Part<VpsId>,
        bounds: (Bound<VpsId>, Bound<VpsId>),
    ) -> Box<dyn Iterator<Item = VpsId> + 'a> {
        match self {
            Self::One(id) => {
                let within = move |id: &VpsId| std::ops::RangeBounds::contains(&bounds, id);
                Box::new((*id).filter(within).into_iter())
            }
            Self::Set(ids) => part.directed(ids.range(bounds).copied()),
        }
    }
}

fn place<'a>(by: &str, row: &'a VpsRow) -> Place<'a, VpsId> {
    let key = match by {
        "name" => Key::text(&row.spec.name),
        "created_at" => Key::time(row.created_at),
        _ => Key::Nothing,
    };
    Place { key, id: row.spec.id }
}

/// Whether a text stands in what a VPS is called or reached by.
fn has(row: &VpsRow, needle: &str) -> bool {
    row.spec.name.as_str().contains(needle)
        || row.external_id.as_ref().is_some_and(|id| id.to_lowercase().contains(needle))
        || (needle.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':'))
            && row.spec.interface.addresses.iter().any(|held| held.address.to_string().contains(needle)))
}
