//! Images: listed, shown, added by upload or from a URL, removed. An upload is written to the disk as it comes; nothing of it is kept in
//! memory.

use std::ops::Bound;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use chom_protocol::api::catalogue::{
    FetchImage, ImageSource, ImageView, NewImage, PrefetchChanged, PrefetchImage, PrefetchView,
};
use chom_protocol::api::operations::OperationView;
use chom_protocol::api::{Page, PageQuery};
use chom_protocol::vps::Engine;
use chom_protocol::{HostId, Name};
use http_body_util::BodyExt;

use crate::api::list::{self, Given, Key, List, Parameter, Place, is_among};
use crate::api::page::{Paging, is_behind};
use crate::api::problem::{ApiError, Kind};
use crate::api::request::{Mutation, Order, RowName};
use crate::api::{App, answer};
use crate::chain;
use crate::fleet::{Caller, FleetError, RequestMark};
use crate::images::{Incoming, ReceiveError, Received};

/// Where images are uploaded.
pub(super) const PATH: &str = "/api/images";
/// A sender that sends nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Which images are asked for.
pub(super) struct ImageList {
    engines: Vec<Engine>,
    sources: Vec<ImageSource>,
    needle: Option<String>,
}

impl List for ImageList {
    const NAME: &'static str = "images";
    const FILTERS: &'static [Parameter] = &[
        Parameter { name: "engine", about: "Only for one of these engines: `libvirt`, `incus`." },
        Parameter { name: "source", about: "Only from the `configuration`, or only `added` ones." },
        Parameter { name: "q", about: "Only with this text in their name or version." },
    ];
    const SORTS: &'static [&'static str] = &["name", "size_bytes"];

    fn read(given: &Given) -> Result<Self, ApiError> {
        Ok(Self {
            engines: given.words("engine")?,
            sources: given.words("source")?,
            needle: given.needle("q"),
        })
    }
}

/// Lists the images that a VPS can be made from.
#[utoipa::path(get, path = "/api/images", tag = "catalogue", operation_id = "list_images", params(PageQuery),
    responses((status = 200, description = "A page of images, by name.", body = Page<ImageView>)))]
pub(super) async fn list(
    State(app): State<App>,
    _: Caller,
    query: list::Query<ImageList>,
) -> Result<Response, ApiError> {
    let state = app.fleet.state();
    let ImageList { engines, sources, needle } = &query.list;
    let has = |view: &ImageView, needle: &String| {
        let version = view.version.as_ref().map(|version| version.to_lowercase());
        view.name.as_str().contains(needle) || version.is_some_and(|version| version.contains(needle))
    };
    let views: Vec<ImageView> = app
        .fleet
        .image_names(&state)
        .iter()
        .filter_map(|name| app.fleet.image_view(&state, name))
        .filter(|view| is_among(engines, || view.engine) && is_among(sources, || view.source))
        .filter(|view| needle.as_ref().is_none_or(|needle| has(view, needle)))
        .collect();
    let by_size = query.sort.by == "size_bytes";
    let part = query.part::<Name>()?;
    Ok(query.answer(part.select(views.iter(), |view| Place {
        key: if by_size { Key::Number(view.size_bytes.0) } else { Key::Nothing },
        id: view.name.clone(),
    })))
}

/// Shows an image.
#[utoipa::path(get, path = "/api/images/{image}", tag = "catalogue", operation_id = "show_image",
    params(("image" = String, Path, description = "Its name.")),
    responses((status = 200, description = "The image.", body = ImageView)))]
pub(super) async fn show(
    State(app): State<App>,
    _: Caller,
    RowName(name): RowName,
) -> Result<Response, ApiError> {
    let shown = app.fleet.image_view(&app.fleet.state(), &name);
    Ok(answer::row(&shown.ok_or_else(|| FleetError::not_found("image", &name))?))
}

/// The body of an upload, and what it is said to be.
pub(super) struct Upload {
    new: NewImage,
    body: Body,
}

impl FromRequest<App> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let given = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if given != Some("application/octet-stream") {
            let detail = "send the bytes of the image's file with `Content-Type: application/octet-stream`";
            return Err(ApiError::new(Kind::MediaType, detail).at("Content-Type"));
        }
        let query = Query::<NewImage>::from_request_parts(&mut parts, app).await;
        let Query(new) = query.map_err(|error| ApiError::new(Kind::Malformed, error.body_text()))?;
        Ok(Self { new, body })
    }
}

/// Adds an image: its description as parameters, the bytes of its file as the body. They are checked against `sha256`.
#[utoipa::path(post, path = "/api/images", tag = "catalogue", operation_id = "add_image", params(NewImage),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "The image.", body = ImageView)))]
pub(super) async fn add(
    State(app): State<App>,
    caller: Caller,
    upload: Upload,
) -> Result<Response, ApiError> {
    let Upload { new, body } = upload;
    app.fleet.check_new_image(&new)?;
    let incoming = app.images.receive().await.map_err(refused)?;
    let incoming = receive(incoming, body).await?;
    let received = incoming.finish(&app.images, &new.name, new.format, new.sha256).await.map_err(refused)?;
    let Received { sha256, .. } = received;
    let added = app.fleet.add_image(&caller, RequestMark::default(), new, received).await;
    if added.is_err() && !app.fleet.is_image(sha256) {
        app.images.discard(sha256).await;
    }
    Ok(answer::done(StatusCode::CREATED, &added?))
}

/// Has the orchestrator fetch an image from a URL: only from public addresses and the networks of its configuration, at most
/// 64 GiB, checked against `sha256`. Goes on after a restart; `POST /api/operations/{operation}/cancel` ends it.
#[utoipa::path(post, path = "/api/image-fetches", tag = "catalogue", operation_id = "fetch_image", request_body = FetchImage,
    responses((status = 202, description = "The operation that it is.", body = OperationView)))]
pub(super) async fn fetch(
    State(app): State<App>,
    caller: Caller,
    request: Mutation<FetchImage>,
) -> Result<Response, ApiError> {
    let done = app.fleet.order_image_fetch(&caller, request.mark, request.body).await?;
    Ok(answer::done(StatusCode::ACCEPTED, &done))
}

/// Has hosts get an image before a VPS needs it, and keep it until that is taken back. May be asked for again.
#[utoipa::path(post, path = "/api/images/{image}/prefetch", tag = "catalogue", operation_id = "prefetch_image",
    params(("image" = String, Path, description = "Its name.")), request_body = PrefetchImage,
    responses((status = 200, description = "How many hosts.", body = PrefetchChanged)))]
pub(super) async fn prefetch(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    request: Mutation<PrefetchImage>,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.fleet.prefetch(&caller, name, request.body, true).await?))
}

/// Takes back that hosts are to have an image before a VPS needs it; what nothing needs goes from their caches in time.
#[utoipa::path(post, path = "/api/images/{image}/unprefetch", tag = "catalogue", operation_id = "unprefetch_image",
    params(("image" = String, Path, description = "Its name.")), request_body = PrefetchImage,
    responses((status = 200, description = "How many hosts.", body = PrefetchChanged)))]
pub(super) async fn unprefetch(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    request: Mutation<PrefetchImage>,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.fleet.prefetch(&caller, name, request.body, false).await?))
}

/// Lists the hosts that are to have an image before a VPS needs it, and how far each is.
#[utoipa::path(get, path = "/api/images/{image}/prefetch", tag = "catalogue", operation_id = "list_prefetches",
    params(("image" = String, Path, description = "Its name."), PageQuery),
    responses((status = 200, description = "A page of hosts, by id.", body = Page<PrefetchView>)))]
pub(super) async fn prefetched(
    State(app): State<App>,
    _: Caller,
    RowName(name): RowName,
    paging: Paging,
) -> Result<Response, ApiError> {
    let views = app.fleet.prefetch_views(&name);
    paging.page(
        "prefetches",
        |from: Bound<HostId>| views.iter().filter(move |view| is_behind(&view.host, &from)),
        |view| view.host,
        |view| view.clone(),
    )
}

async fn receive(mut incoming: Incoming, mut body: Body) -> Result<Incoming, ApiError> {
    loop {
        let silent = |_| {
            let detail = format!("nothing came for {} s; send the image again", SILENCE_MAX.as_secs());
            ApiError::new(Kind::Timeout, detail)
        };
        let Some(frame) = tokio::time::timeout(SILENCE_MAX, body.frame()).await.map_err(silent)? else {
            return Ok(incoming);
        };
        let broken = |_| ApiError::new(Kind::Malformed, "the image broke off; send it again");
        if let Ok(bytes) = frame.map_err(broken)?.into_data() {
            incoming.write(&bytes).await.map_err(refused)?;
        }
    }
}

fn refused(error: ReceiveError) -> ApiError {
    let kind = match &error {
        ReceiveError::Write(_) => Kind::Internal,
        ReceiveError::Large => Kind::TooLarge,
        ReceiveError::Empty | ReceiveError::Digest { .. } | ReceiveError::Form(_) => Kind::Invalid,
        ReceiveError::Busy => Kind::Unavailable,
    };
    ApiError::new(kind, chain(&error))
}

/// Removes an image that was added. Refused while VPSs were made from it, deleted ones that are kept included.
#[utoipa::path(delete, path = "/api/images/{image}", tag = "catalogue", operation_id = "remove_image",
    params(("image" = String, Path, description = "Its name.")),
    responses((status = 200, description = "The image that was removed.", body = ImageView)))]
pub(super) async fn remove(
    State(app): State<App>,
    caller: Caller,
    RowName(name): RowName,
    order: Order,
) -> Result<Response, ApiError> {
    let done = app.fleet.remove_image(&caller, order.mark, name).await?;
    if !app.fleet.is_image(done.value.sha256) {
        app.images.discard(done.value.sha256).await;
    }
    Ok(answer::done(StatusCode::OK, &done))
}
