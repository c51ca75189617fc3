//! One order on many VPSs: chosen, looked at, confirmed, given, and waited for.

use chom_protocol::api::bulk::{BulkAction, BulkOrder, BulkPreview, VpsSelector};
use chom_protocol::api::operations::OperationView;
use serde_json::{Value, json};

use super::PATH;
use super::order::{Target, Way};
use crate::confirm::{Confirmation, confirm};
use crate::error::Failure;
use crate::operation;
use crate::output::Details;
use crate::session::{Reference, Session};
use crate::shell::eprint_line;

/// Which VPS, or which ones, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Targets {
    /// Its name or id
    #[arg(required_unless_present_any = ["all", "selector", "on_host", "in_state"])]
    vps: Option<Reference>,
    /// All VPSs that nothing else leaves out
    #[arg(long, conflicts_with = "vps", help_heading = "Many at once")]
    all: bool,
    /// Those that fit: tenant=, host=, region=, state=, size=, image= or name=PREFIX; comma-separated
    #[arg(
        long,
        short = 'l',
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        conflicts_with = "vps",
        help_heading = "Many at once"
    )]
    selector: Vec<String>,
    /// Those on this host
    #[arg(
        long = "on-host",
        alias = "host",
        value_name = "HOST",
        conflicts_with = "vps",
        help_heading = "Many at once"
    )]
    on_host: Option<String>,
    /// Those that are in this state, such as running or stopped
    #[arg(
        long = "in-state",
        alias = "state",
        value_name = "STATE",
        conflicts_with = "vps",
        help_heading = "Many at once"
    )]
    in_state: Option<String>,
    #[command(flatten)]
    pub(super) confirmation: Confirmation,
    #[command(flatten)]
    way: Way,
}

impl Targets {
    /// The one VPS that was named; none: there were many, and they have their order.
    ///
    /// # Errors
    /// When the many cannot be chosen, or the order was refused or failed.
    pub(super) fn one_or_many(
        self,
        session: &Session,
        action: BulkAction,
        parameters: Option<Value>,
    ) -> Result<Option<Target>, Failure> {
        if let Some(vps) = self.vps {
            return Ok(Some(Target { vps, way: self.way }));
        }
        let pairs = self.selector.iter().map(String::as_str);
        let more = [("host", &self.on_host), ("state", &self.in_state)];
        let more = more.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        let selector = selector(self.all, pairs, more)?;
        let order = BulkOrder { action, parameters, selector, expected_count: None };
        many(session, order, self.confirmation, &self.way).map(|()| None)
    }
}

/// Reads what was said of which VPSs.
fn selector<'a>(
    all: bool,
    pairs: impl Iterator<Item = &'a str>,
    more: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<VpsSelector, Failure> {
    let known = "tenant, host, region, state, size, image and name";
    let mut said = json!({ "all": all });
    let pairs = pairs.map(|pair| pair.split_once('=').ok_or(pair));
    for pair in pairs.chain(more.map(Ok)) {
        let (key, value) = pair.map_err(|pair| {
            Failure::usage(format!("`{pair}` is no KEY=VALUE"), format!("the keys are {known}"))
        })?;
        let field = match key {
            "tenant" | "host" | "region" | "state" | "size" | "image" => key,
            "name" => "name_prefix",
            other => {
                return Err(Failure::usage(
                    format!("VPSs are not chosen by `{other}`"),
                    format!("the keys are {known}"),
                ));
            }
        };
        let value = if key == "name" { value.trim_end_matches('*') } else { value };
        said[field] = value.into();
    }
    serde_json::from_value(said)
        .map_err(|error| Failure::usage(error.to_string(), format!("the keys are {known}")))
}

fn many(
    session: &Session,
    mut order: BulkOrder,
    confirmation: Confirmation,
    way: &Way,
) -> Result<(), Failure> {
    let client = session.client()?;
    let path = format!("{PATH}/actions");
    let preview: BulkPreview = client.post(&format!("{path}?dry_run=true"), &order)?;
    if way.dry_run {
        return session.screen.show(&preview, |view| {
            let mut details = Details::default();
            details.line("Does", preview.action.name());
            details.line("VPSs", preview.count);
            details.line("First", named(&preview));
            details.render(view)
        });
    }
    let consequence =
        format!("`{}` is given to {} VPSs: {}.", preview.action.name(), preview.count, named(&preview));
    confirm(confirmation, session.no_input(), &consequence)?;
    // What was confirmed, and no other number of VPSs.
    order.expected_count = Some(preview.count);
    let operation: OperationView = client.post(&path, &order)?;
    if !way.wait.wait {
        session.screen.show(&operation, |view| operation::details(&operation, view))?;
        if session.for_people() {
            let id = operation.id;
            eprint_line(&format!(
                "begun; see chomctl operation wait {id}, items {id}, cancel {id}, resume {id}"
            ));
        }
        return Ok(());
    }
    let what = format!("{} VPSs", preview.count);
    let ended = operation::wait(&client, operation, &what, way.wait.timeout)?;
    session.screen.show(&ended, |view| operation::details(&ended, view))?;
    operation::outcome(&ended)
}

fn named(preview: &BulkPreview) -> String {
    let names: Vec<&str> = preview.names.iter().map(|name| name.as_str()).collect();
    let more = usize::try_from(preview.count).unwrap_or(usize::MAX).saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if names.is_empty() { "none".to_owned() } else { format!("{}{more}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_read_and_what_it_is_not_is_named() {
        let read = |pairs: &[&'static str]| {
            let selector = selector(false, pairs.iter().copied(), [("state", "running")].into_iter());
            selector
                .map(|selector| serde_json::to_string(&selector).unwrap())
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            read(&["tenant=acme", "name=web-*"]),
            Ok(r#"{"tenant":"acme","state":"running","name_prefix":"web-"}"#.to_owned())
        );
        for (pair, said) in
            [("tenant", "no KEY=VALUE"), ("colour=red", "not chosen by `colour`"), ("size=A_B", "A_B")]
        {
            let error = read(&[pair]);
            assert!(error.as_ref().is_err_and(|error| error.contains(said)), "{error:?}");
        }
    }
}
