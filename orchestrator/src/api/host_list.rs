//! The list of hosts: its filters and orders. A fleet has some ten thousand, so all but the order by id is sorted for each page.

use chom_protocol::api::hosts::{HostState, HostView};
use chom_protocol::{HostId, Name};

use crate::api::list::{Chosen, Given, Key, List, Parameter, Part, Place, Rows, Sight, is_among};
use crate::api::problem::{ApiError, Kind, shown};
use crate::fleet::events::Touched;
use crate::fleet::rows::HostRow;
use crate::fleet::view;
use crate::health;

/// Which hosts are asked for.
pub(super) struct HostList {
    region: Option<Name>,
    states: Vec<HostState>,
    cordoned: Option<bool>,
    labels: Vec<(Name, Option<Name>)>,
    needle: Option<String>,
}

impl List for HostList {
    const NAME: &'static str = "hosts";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "region", about: "Only in this region." },
        Parameter {
            name: "state",
            about: "Only in one of these states: `connected`, or `unreachable,held`.",
        },
        Parameter { name: "cordoned", about: "Only cordoned ones, or only others." },
        Parameter {
            name: "label",
            about: "Only with all of these labels: `disk=nvme`, or `disk=nvme,rack`, where `rack` is any value.",
        },
        Parameter { name: "q", about: "Only with this text in their name or host name." },
    ];
    const SORTS: &'static [&'static str] = &["id", "name", "created_at"];
    const IS_WATCHED: bool = true;

    fn read(given: &Given) -> Result<Self, ApiError> {
        let label = |text: &str| {
            let (key, value) = match text.trim().split_once('=') {
                Some((key, value)) => (key.parse(), Some(value.parse()).transpose()),
                None => (text.trim().parse(), Ok(None)),
            };
            key.and_then(|key| value.map(|value| (key, value))).map_err(
                |error: chom_protocol::id::NameError| {
                    let detail = format!("`{}` is no label such as `disk=nvme`: {error}", shown(text));
                    ApiError::new(Kind::Malformed, detail).at("label")
                },
            )
        };
        Ok(Self {
            region: given.one("region")?,
            states: given.words("state")?,
            cordoned: given.yes_no("cordoned")?,
            labels: given
                .text("label")
                .map_or(Ok(Vec::new()), |text| text.split(',').map(label).collect())?,
            needle: given.needle("q"),
        })
    }
}

impl HostList {
    fn fits(&self, sight: &Sight, row: &HostRow) -> bool {
        let observation = || sight.observations.get(&row.id).map(AsRef::as_ref);
        let has = |needle: &String| {
            let status = observation().and_then(|seen| seen.status.as_ref());
            row.name.as_str().contains(needle)
                || status.is_some_and(|status| status.inventory.hostname.to_lowercase().contains(needle))
        };
        self.region.as_ref().is_none_or(|region| *region == row.region)
            && self.cordoned.is_none_or(|cordoned| cordoned == row.cordoned)
            && self.labels.iter().all(|(key, value)| {
                row.labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            })
            && self.needle.as_ref().is_none_or(has)
            && is_among(&self.states, || {
                let epoch = sight.state.meta.as_ref().map_or(0, |meta| meta.epoch);
                let limit = sight.app.fleet.catalogue().unreachable_after_seconds;
                health::host_state(row, epoch, observation(), limit, sight.now)
            })
    }
}

impl Rows for HostList {
    type Id = HostId;
    type View = HostView;

    fn part(&self, sight: &Sight, part: &Part<HostId>) -> Result<Chosen<HostView, HostId>, ApiError> {
        let fits = |row: &&HostRow| self.fits(sight, row);
        let place = place(part.sort.by);
        let chosen = if part.sort.by == "id" {
            let rows = sight.state.hosts.range(part.bounds(part.start_id()));
            part.walk(part.directed(rows.map(|(_, stored)| stored.row.as_ref())), fits, place)
        } else {
            part.select(sight.state.hosts.values().map(|stored| stored.row.as_ref()).filter(fits), place)
        };
        Ok(chosen.map(|row| shown_host(sight, row)))
    }

    fn row(&self, sight: &Sight, id: HostId) -> Option<HostView> {
        let row = sight.state.get::<HostRow>(&id).filter(|row| self.fits(sight, row))?;
        Some(shown_host(sight, row))
    }

    fn id(view: &HostView) -> HostId {
        view.id
    }

    fn concerned(_: &Sight, touched: &Touched) -> Vec<HostId> {
        match touched {
            Touched::Host(id) | Touched::Sight(id) => vec![*id],
            Touched::Vps(..) | Touched::Operation(..) | Touched::Alert(_) => Vec::new(),
        }
    }
}

/// A host as it is shown.
fn shown_host(sight: &Sight, row: &HostRow) -> HostView {
    let observation = sight.observations.get(&row.id).map(AsRef::as_ref);
    let shown = view::host(&sight.state, sight.app.fleet.catalogue(), row, observation, sight.now);
    HostView { usage: sight.app.history.usage(row.id, sight.now), ..shown }
}

fn place<'a>(by: &'static str) -> impl Fn(&&'a HostRow) -> Place<'a, HostId> {
    move |row| {
        let key = match by {
            "name" => Key::text(&row.name),
            "created_at" => Key::time(row.added_at),
            _ => Key::Nothing,
        };
        Place { key, id: row.id }
    }
}
