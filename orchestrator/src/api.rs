//! The admin API: JSON over HTTPS for chomctl, the console and scripts. Handlers are thin: authorise, call one use case of
//! `fleet`, convert to a view. Nothing here decides, stores, or waits for a host; reads are snapshots of memory.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::middleware;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::AuditLog;
use crate::config::LimitSettings;
use crate::console::Consoles;
use crate::fleet::Fleet;
use crate::history::History;
use crate::images::ImageFolder;
use crate::notify::Notifier;
use crate::notify::webhook::Courier;
use crate::password::Passwords;
use crate::prometheus::HttpMetrics;
use crate::store::Store;
use crate::usage::Accountant;

mod adoptions;
mod alerts;
mod answer;
mod audit;
mod auth;
mod authorities;
mod bulk;
mod catalogue;
mod certificate;
mod conditions;
mod console;
mod document;
mod envelope;
mod events;
mod fields;
mod host_list;
mod hosts;
mod images;
mod limits;
mod list;
mod metrics;
mod networks;
mod operations;
mod paced;
mod page;
mod problem;
mod reference;
mod refusals;
mod refused;
mod request;
mod server;
mod sign_in;
mod slots;
mod smtp;
mod snapshots;
mod ssh_keys;
mod stream;
mod system;
mod tenants;
mod tokens;
mod usage;
mod users;
mod vps_changes;
mod vps_list;
mod vps_network;
mod vps_servers;
mod watch;
mod webhooks;

#[cfg(test)]
mod tests;

pub use certificate::{ApiCertificateError, CertificateKeeper, InUse};
pub use server::{ServeError, serve};

/// Bodies in memory at once, each up to `BODY_BYTES_MAX`: 64 MiB together. More wait for their turn, within the deadline.
const BODIES_MAX: usize = 256;
/// The same of those who sign in, whom nobody knows yet: they hold up nobody else.
const STRANGERS_BODIES_MAX: usize = 32;

/// What handlers work with. Clones are handles to the same.
#[derive(Clone)]
pub struct App {
    fleet: Fleet,
    store: Arc<dyn Store>,
    history: Arc<History>,
    notifier: Notifier,
    courier: Courier,
    accountant: Accountant,
    images: Arc<ImageFolder>,
    consoles: Consoles,
    stop: CancellationToken,
    http: HttpMetrics,
    streams: stream::Streams,
    seal: Arc<stream::Seal>,
    bodies: Arc<Semaphore>,
    strangers_bodies: Arc<Semaphore>,
    limits: Arc<limits::Limits>,
    passwords: Passwords,
    document: Bytes,
    reference: Bytes,
    rules: Arc<auth::Rules>,
    conditions: Arc<conditions::Book>,
    shapes: Arc<fields::Shapes>,
    audit: Arc<AuditLog>,
    audit_readers: Arc<audit::Readers>,
}

impl App {
    /// Makes the API of a fleet. `store` is only asked whether it still takes commits. Event streams end, and `/readyz`
    /// says no, when the consoles' tasks are asked to end.
    #[must_use]
    pub fn new(
        fleet: Fleet,
        store: Arc<dyn Store>,
        history: Arc<History>,
        (notifier, courier, accountant): (Notifier, Courier, Accountant),
        images: Arc<ImageFolder>,
        consoles: Consoles,
        audit: Arc<AuditLog>,
    ) -> Self {
        let stop = consoles.stop();
        Self {
            fleet,
            store,
            history,
            notifier,
            courier,
            accountant,
            images,
            consoles,
            stop,
            http: HttpMetrics::default(),
            streams: stream::streams(),
            seal: Arc::new(stream::Seal::new()),
            bodies: Arc::new(Semaphore::new(BODIES_MAX)),
            strangers_bodies: Arc::new(Semaphore::new(STRANGERS_BODIES_MAX)),
            limits: Arc::new(limits::Limits::new(&LimitSettings::default())),
            passwords: Passwords::default(),
            document: Bytes::new(),
            reference: Bytes::new(),
            rules: Arc::default(),
            conditions: Arc::default(),
            shapes: Arc::default(),
            audit,
            audit_readers: Arc::new(audit::readers()),
        }
    }

    /// The same with limits other than the usual ones.
    #[must_use]
    pub fn limited(self, settings: &LimitSettings) -> Self {
        Self { limits: Arc::new(limits::Limits::new(settings)), ..self }
    }
}

/// Every route, with what every answer has: security headers, problem documents, a deadline.
pub fn router(app: App) -> Router {
    let (router, document) = routes().split_for_parts();
    let rules = Arc::new(auth::Rules::of(&document));
    let conditions = Arc::new(conditions::Book::of(&document));
    let document = document::complete(document);
    // It is made of strings and lists alone, which always have a JSON form; a test reads it back.
    let json = serde_json::to_value(&document).unwrap_or_default();
    let shapes = Arc::new(fields::Shapes::of(&json));
    let reference = reference::render(&json);
    let app = App { document: document::render(&document), reference, rules, conditions, shapes, ..app };
    let router = router.route_layer(middleware::from_fn_with_state(app.clone(), auth::gate));
    let router = router.fallback(problem::no_such_path);
    let router = router.layer(middleware::from_fn_with_state(app.clone(), limits::by_address));
    envelope::around(router, app)
}

/// The OpenAPI description of every route.
#[must_use]
pub fn document() -> OpenApi {
    document::complete(routes().split_for_parts().1)
}

fn routes() -> OpenApiRouter<App> {
    let router = OpenApiRouter::with_openapi(document::preamble());
    with_system(with_networks(with_vps(with_hosts(with_catalogue(with_people(with_alerts(router)))))))
}

fn with_alerts(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::notifications))
        .routes(routes!(audit::list))
        .routes(routes!(audit::chain))
        .routes(routes!(smtp::configure))
        .routes(routes!(smtp::test))
        .routes(routes!(smtp::show))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::replay))
        .routes(routes!(usage::list))
}

fn with_catalogue(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(catalogue::regions))
        .routes(routes!(catalogue::sizes))
        .routes(routes!(images::list, images::add))
        .routes(routes!(images::show, images::remove))
        .routes(routes!(images::fetch))
        .routes(routes!(images::prefetched, images::prefetch))
        .routes(routes!(images::unprefetch))
        .routes(routes!(ssh_keys::list, ssh_keys::add))
        .routes(routes!(ssh_keys::remove))
}

fn with_people(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::show, tenants::delete))
        .routes(routes!(tenants::set_quota))
        .routes(routes!(tenants::set_external_id))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::show, users::delete))
        .routes(routes!(users::set_role))
        .routes(routes!(users::set_password))
        .routes(routes!(users::disable))
        .routes(routes!(users::enable))
        .routes(routes!(sign_in::begin))
        .routes(routes!(sign_in::end))
        .routes(routes!(sign_in::who))
        .routes(routes!(sign_in::change_password))
}

fn with_hosts(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(hosts::list, hosts::add))
        .routes(routes!(hosts::show))
        .routes(routes!(metrics::of_host))
        .routes(routes!(hosts::cordon))
        .routes(routes!(hosts::label))
        .routes(routes!(hosts::limit))
        .routes(routes!(hosts::forget))
        .routes(routes!(hosts::revoke))
        .routes(routes!(hosts::ledger, hosts::resolve_ledger))
        .routes(routes!(hosts::allow_destroys))
}

fn with_vps(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(vps_servers::list, vps_servers::create))
        .routes(routes!(vps_servers::show, vps_servers::delete))
        .routes(routes!(metrics::of_vps))
        .routes(routes!(adoptions::adopt))
        .routes(routes!(adoptions::plan))
        .routes(routes!(vps_servers::start))
        .routes(routes!(vps_servers::stop))
        .routes(routes!(vps_servers::restart))
        .routes(routes!(vps_servers::undelete))
        .routes(routes!(vps_servers::purge))
        .routes(routes!(vps_servers::hold))
        .routes(routes!(snapshots::list, snapshots::take))
        .routes(routes!(snapshots::delete))
        .routes(routes!(snapshots::restore))
        .routes(routes!(snapshots::clone))
        .routes(routes!(snapshots::rescue))
        .routes(routes!(snapshots::unrescue))
        .routes(routes!(snapshots::attach_iso, snapshots::detach_iso))
        .routes(routes!(console::console))
        .routes(routes!(console::vnc))
        .routes(routes!(console::token))
        .routes(routes!(console::reset_password))
        .routes(routes!(vps_network::show, vps_network::change))
        .routes(routes!(vps_network::change_addresses))
}

fn with_networks(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(networks::list, networks::create))
        .routes(routes!(networks::show, networks::delete))
        .routes(routes!(networks::put_pool))
        .routes(routes!(networks::remove_pool))
        .routes(routes!(networks::addresses))
}

fn with_system(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    router
        .routes(routes!(authorities::list, authorities::rotate))
        .routes(routes!(authorities::retire))
        .routes(routes!(operations::list))
        .routes(routes!(vps_changes::pause))
        .routes(routes!(vps_changes::resume))
        .routes(routes!(vps_changes::resize))
        .routes(routes!(vps_changes::rebuild))
        .routes(routes!(vps_changes::rename))
        .routes(routes!(vps_changes::suspend))
        .routes(routes!(vps_changes::unsuspend))
        .routes(routes!(vps_changes::set_external_id))
        .routes(routes!(operations::show))
        .routes(routes!(operations::cancel))
        .routes(routes!(bulk::resume))
        .routes(routes!(bulk::items))
        .routes(routes!(bulk::order))
        .routes(routes!(events::watch))
        .routes(routes!(system::openapi))
        .routes(routes!(reference::reference))
        .routes(routes!(reference::problem))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
}
