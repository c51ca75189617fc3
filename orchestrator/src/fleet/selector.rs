//! Which VPSs a selector means. Pure: looks at one VPS, its host, and what is seen of it.

use chom_protocol::api::bulk::VpsSelector;
use chom_protocol::vps::VpsState;

use crate::fleet::rows::{HostRow, VpsRow};

/// Whether a VPS fits everything that a selector says. `seen` is what it does as far as can be seen now.
#[must_use]
pub fn matches(selector: &VpsSelector, row: &VpsRow, host: Option<&HostRow>, seen: VpsState) -> bool {
    let VpsSelector {
        all: _,
        ids,
        tenant,
        host: named,
        host_labels,
        region,
        state,
        size,
        image,
        name_prefix,
    } = selector;
    let spec = &row.spec;
    let is = |wanted: &Option<chom_protocol::Name>, own: &chom_protocol::Name| {
        wanted.as_ref().is_none_or(|wanted| wanted == own)
    };
    let on = |named: &String| {
        row.host.to_string() == *named || host.is_some_and(|host| host.name.as_str() == named.as_str())
    };
    let labelled = || {
        host.is_some_and(|host| host_labels.iter().all(|(key, value)| host.labels.get(key) == Some(value)))
    };
    (ids.is_empty() || ids.contains(&spec.id))
        && is(tenant, &spec.tenant)
        && is(region, &row.region)
        && is(size, &row.size)
        && image.as_ref().is_none_or(|image| spec.image.as_ref().is_some_and(|own| own.name == *image))
        && name_prefix.as_ref().is_none_or(|prefix| spec.name.as_str().starts_with(prefix.as_str()))
        && named.as_ref().is_none_or(on)
        && (host_labels.is_empty() || labelled())
        && state.is_none_or(|state| state == seen)
}

/// Whether a selector says which VPSs at all.
#[must_use]
pub fn says_which(selector: &VpsSelector) -> bool {
    selector.all || *selector != VpsSelector::default()
}
