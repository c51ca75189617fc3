//! The OpenAPI 3.1 description: made from the handlers, completed with what all of them have in common.

use axum::body::Bytes;
use axum::http::Method;
use chom_protocol::api::Problem;
use chom_protocol::api::plans::VpsPlan;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{Components, Object, ObjectBuilder, Ref, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Info, OpenApi, OpenApiBuilder, RefOr, Required, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::api::alerts::AlertList;
use crate::api::conditions::{self, IfMatch};
use crate::api::host_list::HostList;
use crate::api::images::ImageList;
use crate::api::list::About;
use crate::api::operations::OperationList;
use crate::api::snapshots::SnapshotList;
use crate::api::tenants::TenantList;
use crate::api::tokens::TokenList;
use crate::api::vps_list::VpsList;
use crate::permission::{self, Needs};

const SCHEME: &str = "bearer";
const PROBLEM: &str = "problem";

/// What stands before the first path.
pub(super) fn preamble() -> OpenApi {
    let mut info = Info::new("CHOM", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "The admin API of a fleet of VPS hosts. Changes answer at once with an operation to wait for. Every error is a \
         problem document that says what was wrong, where, and what to do."
            .to_owned(),
    );
    OpenApiBuilder::new().info(info).build()
}

/// Adds what all operations have: the token, the problem answer, and the headers of changes.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_with(Components::new);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("chom-api-…").build();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(bearer));
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let mut schemas = vec![(VpsPlan::name().into_owned(), VpsPlan::schema())];
    VpsPlan::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let answer = ResponseBuilder::new()
        .description("What was wrong, where, and what to do.")
        .content("application/problem+json", problem)
        .build();
    components.responses.insert(PROBLEM.to_owned(), RefOr::T(answer));
    document.security = Some(vec![SecurityRequirement::new(SCHEME, Vec::<String>::new())]);
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            operation
                .responses
                .responses
                .insert("default".to_owned(), RefOr::Ref(Ref::from_response_name(PROBLEM)));
        }
        let changes = [&mut item.post, &mut item.delete].into_iter().flatten();
        // Each sign-in is a session of its own, and before it there is nobody whose key it could be.
        for operation in changes.filter(|operation| operation.operation_id.as_deref() != Some("sign_in")) {
            take_headers(operation);
        }
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            say_permission(operation);
            say_parameters(operation);
        }
    }
    document
}

/// The operations of a path, with their methods. All that the routes use.
pub(super) fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let all = [(Method::GET, &item.get), (Method::POST, &item.post), (Method::DELETE, &item.delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

/// Says which permission and which roles an operation takes.
fn say_permission(operation: &mut Operation) {
    let needs = operation.operation_id.as_deref().and_then(permission::of_route);
    if let Some(permission) = needs.and_then(Needs::permission) {
        let roles: Vec<String> = permission::roles_with(permission).iter().map(ToString::to_string).collect();
        let extensions = operation.extensions.get_or_insert_default();
        extensions.insert("x-permission".to_owned(), permission.to_string().into());
        extensions.insert("x-roles".to_owned(), roles.into());
    }
}

/// The headers of a change, and the parameters of one that can be planned.
fn take_headers(operation: &mut Operation) {
    let conditions = operation.operation_id.as_deref().and_then(conditions::of_route);
    let parameters = operation.parameters.get_or_insert_default();
    parameters.push(header("Idempotency-Key", "1 to 255 visible ASCII characters. The same request with the same key, within a day, is carried out once and gets the same answer.").into());
    parameters.push(
        header("X-Chom-Reason", "Why the change is made, for the audit trail: 1 to 300 characters, UTF-8.")
            .into(),
    );
    let taken =
        "The `ETag` of the row as it was read; the change is refused (412) if the row has changed since.";
    let needed = "The `ETag` of the row as it was read, or `*`. The change overwrites what somebody else may have changed: \
        without it, it is refused (428) once the row is there, and with another one than the row's (412).";
    match conditions.map_or(IfMatch::Refused, |conditions| conditions.if_match) {
        IfMatch::Refused => {}
        IfMatch::Taken => parameters.push(header("If-Match", taken).into()),
        IfMatch::Required => {
            parameters.push(header("If-Match", needed).into());
            let extensions = operation.extensions.get_or_insert_default();
            extensions.insert("x-if-match".to_owned(), "required".into());
        }
    }
    if conditions.is_some_and(|conditions| conditions.plan) {
        can_be_planned(operation);
    }
}

fn can_be_planned(operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    let dry_run = "Answer a plan of what would be done, and do nothing.";
    parameters.push(parameter("dry_run", ParameterIn::Query, dry_run, Type::Boolean).into());
    let plan = "The id of such a plan, within ten minutes, on the same path with the same body: what it said is done, or, \
        when the world has moved so that it is not true any more, refused (409) with what moved.";
    parameters.push(parameter("plan", ParameterIn::Query, plan, Type::String).into());
    let plan = ContentBuilder::new().schema(Some(Ref::from_schema_name(VpsPlan::name()))).build();
    let answer = ResponseBuilder::new()
        .description("What would be done (`dry_run`).")
        .content("application/json", plan)
        .build();
    operation.responses.responses.insert("200".to_owned(), RefOr::T(answer));
}

fn header(name: &str, description: &str) -> Parameter {
    parameter(name, ParameterIn::Header, description, Type::String)
}

fn parameter(name: &str, place: ParameterIn, description: &str, of: Type) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(Object::with_type(of)))
        .build()
}

/// Every list that is filtered and sorted.
pub(super) const LISTS: &[About] = &[
    About::of::<VpsList>("list_vps"),
    About::of::<HostList>("list_hosts"),
    About::of::<OperationList>("list_operations"),
    About::of::<AlertList>("list_alerts"),
    About::of::<ImageList>("list_images"),
    About::of::<TenantList>("list_tenants"),
    About::of::<TokenList>("list_tokens"),
    About::of::<SnapshotList>("list_snapshots"),
];

/// Describes the filters and orders of a list.
fn say_parameters(operation: &mut Operation) {
    let id = operation.operation_id.as_deref();
    let Some(about) = LISTS.iter().find(|about| Some(about.operation) == id) else { return };
    let text = || Object::with_type(Type::String);
    let parameters = operation.parameters.get_or_insert_default();
    let mut add = |name: &str, description: &str, schema: Object| {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(schema));
        parameters.push(parameter.build().into());
    };
    for filter in about.filters {
        add(filter.name, filter.about, text());
    }
    let orders = about.sorts.iter().flat_map(|by| [(*by).to_owned(), format!("-{by}")]);
    let orders = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(orders)).build();
    add("sort", "By what rows are sorted, `-` for the other way round; the first where absent.", orders);
    if about.is_watched {
        let watched = "Answer with a stream of server-sent events instead: each row (`row`), `synced`, then each row as it \
            changes or comes in (`changed`) or is among them no more (`gone`). `Last-Event-ID` resumes it; where it cannot \
            be resumed it says `reset` and tells all rows anew. `limit` has no effect.";
        add("watch", watched, Object::with_type(Type::Boolean));
    }
}

/// The document as it is served.
pub(super) fn render(document: &OpenApi) -> Bytes {
    // It is made of strings and lists alone, which always have a JSON text; a test reads it back.
    serde_json::to_vec(document).unwrap_or_default().into()
}
