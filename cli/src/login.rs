//! Signing in and out, and who one is. The session's token is kept in the context's file, where an API token would be.

use chom_protocol::api::tokens::TokenView;
use chom_protocol::api::users::{SignIn, SignedIn, WhoAmI};
use chom_protocol::{Name, UserName};

use crate::client::Client;
use crate::context;
use crate::error::Failure;
use crate::output::{Details, View};
use crate::password::PasswordSource;
use crate::session::Session;

/// `chomctl login`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginOptions {
    /// The user's name or mail address
    name: UserName,
    /// The user's tenant; none for a user of the fleet
    #[arg(long)]
    tenant: Option<Name>,
    #[command(flatten)]
    password: PasswordSource,
}

/// Runs `chomctl login`.
pub(crate) fn login(session: &Session, options: LoginOptions) -> Result<(), Failure> {
    let LoginOptions { name, tenant, password } = options;
    let place = context::place(&session.environment, session.context())?;
    let [password] = password.read(session, ["Password"])?;
    let client = Client::new(place.target.clone(), None)?;
    let signed: SignedIn = client.post("/api/sign-in", &SignIn { name, tenant, password })?;
    context::keep_token(&place, &signed.secret)?;
    // What is shown has no secret in it.
    session.screen.show(&signed.token, |view| begun(&signed.token, view))
}

/// Runs `chomctl logout`.
pub(crate) fn logout(session: &Session) -> Result<(), Failure> {
    let place = context::place(&session.environment, session.context())?;
    let client = session.client()?;
    match client.act::<TokenView>("/api/sign-out") {
        Ok(_) => {}
        // It has ended by itself, or an admin ended it: there is nothing left but the file.
        Err(failure) if failure.is_unauthorised() => {}
        Err(failure) => return Err(failure),
    }
    Ok(context::drop_token(&place)?)
}

/// Runs `chomctl whoami`.
pub(crate) fn whoami(session: &Session) -> Result<(), Failure> {
    let who: WhoAmI = session.client()?.get("/api/whoami")?;
    session.screen.show(&who, |view| details(&who, view))
}

fn begun(token: &TokenView, view: &View) -> String {
    let mut details = Details::default();
    details.line("Signed in as", token.user.as_ref().map(ToString::to_string).unwrap_or_default());
    details.line("Role", token.role);
    details.line("Tenant", token.tenant.as_ref().map(ToString::to_string).unwrap_or_default());
    details.line("Until", token.expires_at.clone().unwrap_or_default());
    details.render(view)
}

fn details(who: &WhoAmI, view: &View) -> String {
    let mut details = Details::default();
    details.line("Name", &who.name);
    details.line("Kind", if who.user.is_some() { "session of a user" } else { "API token" });
    details.line("Role", who.role);
    details.line("Tenant", who.tenant.as_ref().map_or("all (a role of the fleet)", Name::as_str));
    details.line("Only VPS", who.vps.map(|id| id.to_string()).unwrap_or_default());
    details.line("Until", who.expires_at.as_deref().unwrap_or("no end"));
    details.line("May", who.permissions.join(", "));
    details.render(view)
}
