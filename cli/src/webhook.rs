//! Webhooks: made, changed, tested, deleted; their deliveries listed and sent again. A secret is printed once, when it is made.

use std::collections::BTreeSet;

use chom_protocol::api::alerts::DeliveryState;
use chom_protocol::api::webhooks::{
    AttemptView, CreateWebhook, ReplayWebhook, UpdateWebhook, WebhookDeliveryView, WebhookKind, WebhookMade,
    WebhookReplayed, WebhookTested, WebhookView,
};
use chom_protocol::{DeliveryId, Name};
use clap::{Subcommand, ValueEnum};

use crate::client::Client;
use crate::error::Failure;
use crate::output::{Cell, Details, Table, Tone, View, age, joined, moment, until, word, yes_no};
use crate::session::{ListOptions, Reference, Session};

/// Where webhooks are in the API.
const PATH: &str = "/api/webhooks";

/// `chomctl webhook`.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Lists webhooks
    List {
        #[command(flatten)]
        list: ListOptions,
    },
    /// Shows a webhook: what waits for it, and what is in its way
    Show {
        /// Its name or id
        webhook: Reference,
    },
    /// Makes a webhook and prints its secret; that is shown this once
    Create {
        /// What it is called
        name: Name,
        /// Where events are sent to by POST
        #[arg(long)]
        url: String,
        /// What it is told of; may be given several times
        #[arg(long = "kind", value_enum, required = true)]
        kinds: Vec<KindWord>,
        /// Whose events; your own tenant where absent, or all of the fleet
        #[arg(long)]
        tenant: Option<Name>,
    },
    /// Changes a webhook; what is not given stays
    Update {
        /// Its name or id
        webhook: Reference,
        /// Where events are sent to, also those that wait
        #[arg(long)]
        url: Option<String>,
        /// What it is told of from now on; may be given several times
        #[arg(long = "kind", value_enum)]
        kinds: Vec<KindWord>,
        /// Tell it nothing for now: nothing new is queued, and what waits keeps waiting
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Tell it again
        #[arg(long)]
        enable: bool,
        /// Make a new secret and print it; for a day deliveries are signed with both
        #[arg(long)]
        new_secret: bool,
    },
    /// Sends a webhook an event `webhook.test` now and says how it went
    Test {
        /// Its name or id
        webhook: Reference,
    },
    /// Lists what is kept of a webhook's deliveries, newest first
    Deliveries {
        /// Its name or id
        webhook: Reference,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Sends deliveries again, under the same ids
    Replay {
        /// Its name or id
        webhook: Reference,
        /// This one
        #[arg(long, required_unless_present = "since", conflicts_with = "since")]
        delivery: Option<DeliveryId>,
        /// All that happened since then and is kept, such as 2026-11-23T12:00:00Z
        #[arg(long)]
        since: Option<String>,
    },
    /// Deletes a webhook, with what waits for it
    Delete {
        /// Its name or id
        webhook: Reference,
    },
}

/// A kind of events as it is typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KindWord {
    /// How far operations are
    Operations,
    /// Alerts that fire and resolve; of the fleet only
    Alerts,
    /// VPSs that used up their traffic
    Quota,
    /// The usage records of each hour
    Usage,
}

impl From<KindWord> for WebhookKind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::Operations => Self::Operations,
            KindWord::Alerts => Self::Alerts,
            KindWord::Quota => Self::Quota,
            KindWord::Usage => Self::Usage,
        }
    }
}

fn kinds(words: Vec<KindWord>) -> BTreeSet<WebhookKind> {
    words.into_iter().map(Into::into).collect()
}

/// Runs `chomctl webhook`.
pub(crate) fn run(session: &Session, command: WebhookCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let shown: WebhookView = match command {
        WebhookCommand::List { list } => {
            let all: Vec<WebhookView> = client.list(PATH, list.limit)?;
            return session.screen.show(&all, |view| table(&all, view));
        }
        WebhookCommand::Show { webhook } => find(&client, &webhook)?,
        WebhookCommand::Create { name, url, kinds: words, tenant } => {
            let request = CreateWebhook { name, url, kinds: kinds(words), tenant };
            return made(session, &client.post(PATH, &request)?);
        }
        WebhookCommand::Update { webhook, url, kinds: words, disable, enable, new_secret } => {
            let kinds = (!words.is_empty()).then(|| kinds(words));
            let enabled = (enable || disable).then_some(enable);
            let request = UpdateWebhook { url, kinds, enabled, new_secret };
            return made(session, &client.post(&path(&client, &webhook)?, &request)?);
        }
        WebhookCommand::Test { webhook } => {
            let path = format!("{}/test", path(&client, &webhook)?);
            let tested: WebhookTested = client.post(&path, &serde_json::json!({}))?;
            session.screen.show(&tested, |view| self::tested(&tested, view))?;
            return if tested.delivered { Ok(()) } else { Err(Failure::Webhook) };
        }
        WebhookCommand::Deliveries { webhook, list } => {
            let path = format!("{}/deliveries", path(&client, &webhook)?);
            let all: Vec<WebhookDeliveryView> = client.list(&path, list.limit)?;
            return session.screen.show(&all, |view| deliveries(&all, view));
        }
        WebhookCommand::Replay { webhook, delivery, since } => {
            let path = format!("{}/replay", path(&client, &webhook)?);
            return replay(session, &client, &path, ReplayWebhook { delivery, since });
        }
        WebhookCommand::Delete { webhook } => client.delete(&path(&client, &webhook)?)?,
    };
    session.screen.show(&shown, |view| details(&shown, view))
}

/// All of them, request by request: one takes only so many.
fn replay(session: &Session, client: &Client, path: &str, mut request: ReplayWebhook) -> Result<(), Failure> {
    let mut all = WebhookReplayed { deliveries: 0, more_since: None };
    loop {
        let part: WebhookReplayed = client.post(path, &request)?;
        all.deliveries += part.deliveries;
        match part.more_since.filter(|more| Some(more) != request.since.as_ref()) {
            Some(more) => request.since = Some(more),
            None => break,
        }
    }
    session.screen.show(&all, |_| format!("{} deliveries are sent again\n", all.deliveries))
}

fn path(client: &Client, webhook: &Reference) -> Result<String, Failure> {
    match webhook {
        Reference::Id(id) => Ok(format!("{PATH}/{id}")),
        Reference::Name(_) => Ok(format!("{PATH}/{}", find(client, webhook)?.id)),
    }
}

/// A webhook by its id, or by a name that only one has.
fn find(client: &Client, webhook: &Reference) -> Result<WebhookView, Failure> {
    let name = match webhook {
        Reference::Id(id) => return client.get(&format!("{PATH}/{id}")),
        Reference::Name(name) => name,
    };
    let mut all: Vec<WebhookView> = client.list(PATH, None)?;
    all.retain(|row| row.name == *name);
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => {
            Err(Failure::usage(format!("several tenants have a webhook `{name}`"), "give its id"))
        }
        (None, _) => Err(Failure::usage(
            format!("there is no webhook `{name}`"),
            "see `chomctl webhook list`, and give its name or id",
        )),
    }
}

fn made(session: &Session, made: &WebhookMade) -> Result<(), Failure> {
    session.screen.show(made, |view| match &made.secret {
        // Alone on its line, so that scripts can catch it.
        Some(secret) => format!("{secret}\n"),
        None => details(&made.webhook, view),
    })
}

fn state(webhook: &WebhookView) -> Cell {
    match (webhook.enabled, &webhook.problem) {
        (false, _) => Cell::new("disabled", Tone::Warn),
        (true, Some(_)) => Cell::new("failing", Tone::Bad),
        (true, None) => Cell::new("well", Tone::Good),
    }
}

fn table(all: &[WebhookView], view: &View) -> String {
    let mut table =
        Table::new(&["NAME", "TENANT", "KINDS", "STATE", "WAITING", "DROPPED", "URL", "ID", "PROBLEM"]);
    for webhook in all {
        table.row(vec![
            Cell::from(&webhook.name),
            Cell::from(webhook.tenant.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            Cell::from(joined(&webhook.kinds.iter().collect::<Vec<_>>())),
            state(webhook),
            Cell::from(webhook.waiting),
            Cell::from(webhook.dropped),
            Cell::from(&webhook.url),
            Cell::from(webhook.id),
            Cell::from(webhook.problem.clone().unwrap_or_default()),
        ]);
    }
    table.render(view, "no webhooks")
}

fn details(webhook: &WebhookView, view: &View) -> String {
    let mut details = Details::default();
    details.line("Name", &webhook.name);
    details.line("Id", webhook.id);
    details.line("Tenant", webhook.tenant.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string));
    details.line("URL", &webhook.url);
    details.line("Kinds", joined(&webhook.kinds.iter().collect::<Vec<_>>()));
    details.line("Enabled", yes_no(webhook.enabled));
    details.line("State", state(webhook));
    details.line("Waiting", webhook.waiting);
    details.line(
        "Waiting since",
        webhook.waiting_since.as_ref().map(|at| moment(at, view.now)).unwrap_or_default(),
    );
    details.line("Problem", webhook.problem.as_deref().unwrap_or_default());
    details.line("Dropped", webhook.dropped);
    details
        .line("Last dropped", webhook.dropped_at.as_ref().map(|at| moment(at, view.now)).unwrap_or_default());
    details.line("Old secret until", webhook.old_secret_until.as_deref().unwrap_or_default());
    details.line("Created", moment(&webhook.created_at, view.now));
    details.line("Revision", webhook.revision);
    details.render(view)
}

fn answer(attempt: &AttemptView) -> String {
    match attempt.status {
        Some(status) => format!("{status} {}", attempt.answer).trim_end().to_owned(),
        None => attempt.answer.clone(),
    }
}

fn tested(tested: &WebhookTested, view: &View) -> String {
    let mut details = Details::default();
    let tone = if tested.delivered { Tone::Good } else { Tone::Bad };
    details.line("Delivered", Cell::new(yes_no(tested.delivered), tone));
    details.line("Id", tested.id);
    details.line("Took", format!("{} ms", tested.attempt.duration_ms));
    details.line("Answer", answer(&tested.attempt));
    details.render(view)
}

fn deliveries(all: &[WebhookDeliveryView], view: &View) -> String {
    let mut table =
        Table::new(&["ID", "EVENT", "RESOURCE", "STATE", "AGE", "TRIES", "NEXT TRY", "TOOK", "ANSWER"]);
    for delivery in all {
        let tone = match delivery.state {
            DeliveryState::Delivered => Tone::Good,
            DeliveryState::Waiting => Tone::Plain,
            DeliveryState::GivenUp => Tone::Bad,
        };
        let last = delivery.last_attempt.as_ref();
        table.row(vec![
            Cell::from(delivery.id),
            Cell::from(&delivery.event),
            Cell::from(&delivery.resource),
            Cell::new(word(&delivery.state), tone),
            Cell::from(age(&delivery.created_at, view.now)),
            Cell::from(delivery.attempts),
            Cell::from(delivery.next_attempt_at.as_ref().map(|at| until(at, view.now)).unwrap_or_default()),
            Cell::from(last.map(|last| format!("{} ms", last.duration_ms)).unwrap_or_default()),
            Cell::from(last.map(answer).unwrap_or_default()),
        ]);
    }
    table.render(view, "no deliveries")
}
