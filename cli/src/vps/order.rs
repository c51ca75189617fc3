//! An order on one VPS: given, only planned (`--dry-run`), or given as a plan said (`--plan`).

use chom_protocol::PlanId;
use chom_protocol::api::plans::VpsPlan;
use chom_protocol::api::vps_servers::VpsView;
use serde::Serialize;

use super::{PATH, by_id, finish, path, render};
use crate::client::Client;
use crate::error::Failure;
use crate::operation::WaitOptions;
use crate::session::{Reference, Session};
use crate::shell::eprint_line;

/// How an order is given.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Way {
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with_all = ["wait", "plan"])]
    pub(super) dry_run: bool,
    /// Do just what this plan of a dry run said, or nothing
    #[arg(long, value_name = "ID")]
    plan: Option<PlanId>,
    #[command(flatten)]
    pub(super) wait: WaitOptions,
}

impl Way {
    /// What stands behind the path.
    pub(super) fn query(&self) -> String {
        match (self.dry_run, self.plan) {
            (true, _) => "?dry_run=true".to_owned(),
            (false, Some(plan)) => format!("?plan={plan}"),
            (false, None) => String::new(),
        }
    }
}

/// Which VPS, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Its name or id
    pub(super) vps: Reference,
    #[command(flatten)]
    pub(super) way: Way,
}

/// What is sent.
pub(super) enum Verb<'b, B> {
    /// A POST with a body.
    Post(&'b B),
    /// A POST to overwrite the row that was read at this revision.
    Overwrite(&'b B, u64),
    /// A POST; its path says everything.
    Act,
    /// A DELETE.
    Delete,
}

/// A body that is never sent.
pub(super) type Nothing = ();

/// Gives an order, and waits if asked to.
pub(super) fn give<B: Serialize>(
    session: &Session,
    client: &Client,
    path: &str,
    verb: &Verb<'_, B>,
    way: &Way,
) -> Result<(), Failure> {
    let path = format!("{path}{}", way.query());
    if way.dry_run {
        let plan: VpsPlan = send(client, &path, verb)?;
        session.screen.show(&plan, |view| render::plan(&plan, view))?;
        if let Some(id) = plan.id.filter(|_| session.for_people()) {
            eprint_line(&format!("nothing was done; do just this within ten minutes with --plan {id}"));
        }
        return Ok(());
    }
    finish(session, client, send(client, &path, verb)?, way.wait)
}

fn send<B: Serialize, T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    verb: &Verb<'_, B>,
) -> Result<T, Failure> {
    match verb {
        Verb::Post(body) => client.post(path, body),
        Verb::Overwrite(body, revision) => client.overwrite(path, body, *revision),
        Verb::Act => client.act(path),
        Verb::Delete => client.delete(path),
    }
}

/// An order without words.
pub(super) fn act(session: &Session, target: &Target, action: &str) -> Result<(), Failure> {
    let client = session.client()?;
    let path = format!("{}/{action}", by_id(&client, &target.vps)?);
    give::<Nothing>(session, &client, &path, &Verb::Act, &target.way)
}

/// An order with a body.
pub(super) fn order(
    session: &Session,
    target: &Target,
    action: &str,
    request: &impl Serialize,
) -> Result<(), Failure> {
    let client = session.client()?;
    let path = format!("{}/{action}", by_id(&client, &target.vps)?);
    give(session, &client, &path, &Verb::Post(request), &target.way)
}

/// What overwrites a part of a VPS: of the revision that is read now.
pub(super) fn overwrite(
    session: &Session,
    target: &Target,
    what: &str,
    request: &impl Serialize,
) -> Result<(), Failure> {
    let client = session.client()?;
    let row: VpsView = client.get(&path(&target.vps))?;
    let path = format!("{PATH}/{}/{what}", row.id);
    give(session, &client, &path, &Verb::Overwrite(request, row.revision), &target.way)
}

/// A deletion of the VPS, or of something of it.
pub(super) fn delete(session: &Session, target: &Target, what: &str) -> Result<(), Failure> {
    let client = session.client()?;
    let path = format!("{}{what}", by_id(&client, &target.vps)?);
    give::<Nothing>(session, &client, &path, &Verb::Delete, &target.way)
}
