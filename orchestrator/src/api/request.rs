//! What handlers take from a request, judged before any of them runs: row keys, bodies, `Idempotency-Key`, `If-Match`.
//! Every refusal names the part at fault.

use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use chom_protocol::api::BODY_BYTES_MAX;
use chom_protocol::id::IdError;
use chom_protocol::vps::Sha256;
use chom_protocol::{Name, PlanId};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::api::App;
use crate::api::conditions::{Conditions, IfMatch};
use crate::api::problem::{ApiError, Kind, shown};
use crate::fleet::{Caller, Planning, RequestMark};
use crate::store::Revision;

/// `Idempotency-Key`.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest idempotency key; a UUID has 36 characters.
const IDEMPOTENCY_KEY_CHARACTERS_MAX: usize = 255;
/// A body that has not arrived by then is not waited for.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// What is read of a body that is too large and thrown away: a client that still sends when it is refused would meet a
/// broken connection instead of the answer.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// What follows the list's path: an id, or a name.
pub(super) enum RowKey<I> {
    Id(I),
    Name(Name),
}

impl<I, S> FromRequestParts<S> for RowKey<I>
where
    I: FromStr,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = last_of_path(parts, state).await?;
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        text.parse().map(Self::Name).map_err(|error| ApiError::new(Kind::NotFound, format!("{error}")))
    }
}

/// The id in a path. Mutations take no names: when the same request comes again, its name may mean another row.
pub(super) struct RowId<I>(pub(super) I);

impl<I, S> FromRequestParts<S> for RowId<I>
where
    I: FromStr<Err = IdError>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        id(&last_of_path(parts, state).await?).map(Self)
    }
}

/// The name in a path, of a row that has no id.
pub(super) struct RowName(pub(super) Name);

impl<S: Send + Sync> FromRequestParts<S> for RowName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = last_of_path(parts, state).await?;
        text.parse().map(Self).map_err(|error| ApiError::new(Kind::NotFound, format!("{error}")))
    }
}

/// The two ids in the path of what belongs to a row.
pub(super) struct RowIds<I, J>(pub(super) I, pub(super) J);

impl<I, J, S> FromRequestParts<S> for RowIds<I, J>
where
    I: FromStr<Err = IdError>,
    J: FromStr<Err = IdError>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((outer, inner)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(|_| no_text())?;
        Ok(Self(id(&outer)?, id(&inner)?))
    }
}

fn id<I: FromStr<Err = IdError>>(text: &str) -> Result<I, ApiError> {
    text.parse().map_err(|error: IdError| {
        let IdError { kind, text } = error;
        let text = shown(&text);
        let detail =
            format!("`{text}` is no {kind} id, and this path takes no names: read the row to learn its id");
        ApiError::new(Kind::NotFound, detail)
    })
}

async fn last_of_path<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, ApiError> {
    let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| no_text())?;
    Ok(text)
}

fn no_text() -> ApiError {
    ApiError::new(Kind::Malformed, "the path has characters that are no UTF-8 text")
}

/// A mutation with a JSON body.
pub(super) struct Mutation<T> {
    pub(super) mark: RequestMark,
    pub(super) body: T,
}

impl<T: DeserializeOwned> FromRequest<App> for Mutation<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let said = said(app, &parts)?;
        check_media_type(&parts.headers)?;
        let bytes = read(app, &parts, body).await?;
        Ok(Self { mark: said.mark(&parts, &bytes)?, body: parse(&bytes)? })
    }
}

/// A mutation with a JSON body and a plan of its own kind: `?dry_run=true`.
pub(super) struct Plannable<T> {
    pub(super) mark: RequestMark,
    pub(super) body: T,
    pub(super) dry_run: bool,
}

impl<T: DeserializeOwned> FromRequest<App> for Plannable<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let dry_run = dry_run(&parts)?;
        check_media_type(&parts.headers)?;
        let bytes = read(app, &parts, body).await?;
        let said = Said { conditions: app.conditions.of_request(&parts), wish: Wish::Act };
        Ok(Self { mark: said.mark(&parts, &bytes)?, body: parse(&bytes)?, dry_run })
    }
}

fn dry_run(parts: &Parts) -> Result<bool, ApiError> {
    match parts.uri.query() {
        None | Some("" | "dry_run=false") => Ok(false),
        Some("dry_run=true") => Ok(true),
        Some(query) => {
            let detail = format!("this path takes `?dry_run=true` and nothing else, not `?{}`", shown(query));
            Err(ApiError::new(Kind::Malformed, detail))
        }
    }
}

/// A mutation that needs no words beyond its path: its body is empty, or `{}`.
pub(super) struct Order {
    pub(super) mark: RequestMark,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl FromRequest<App> for Order {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let said = said(app, &parts)?;
        let bytes = read(app, &parts, body).await?;
        if !bytes.is_empty() {
            check_media_type(&parts.headers)?;
            let Nothing {} = parse(&bytes)?;
        }
        Ok(Self { mark: said.mark(&parts, &bytes)? })
    }
}

/// A mutation whose words have defaults: its body may be empty.
pub(super) struct Words<T> {
    pub(super) mark: RequestMark,
    pub(super) body: T,
}

impl<T: DeserializeOwned + Default> FromRequest<App> for Words<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let said = said(app, &parts)?;
        let bytes = read(app, &parts, body).await?;
        let body = match bytes.is_empty() {
            true => T::default(),
            false => {
                check_media_type(&parts.headers)?;
                parse(&bytes)?
            }
        };
        Ok(Self { mark: said.mark(&parts, &bytes)?, body })
    }
}

/// What the query of a change asks for.
#[derive(Clone, Copy)]
enum Wish {
    Act,
    DryRun,
    Apply(PlanId),
}

/// What a change says besides its body.
struct Said {
    conditions: Conditions,
    wish: Wish,
}

fn said(app: &App, parts: &Parts) -> Result<Said, ApiError> {
    let conditions = app.conditions.of_request(parts);
    let wish = if conditions.plan { wish(parts)? } else { no_query(parts).map(|()| Wish::Act)? };
    Ok(Said { conditions, wish })
}

fn wish(parts: &Parts) -> Result<Wish, ApiError> {
    match parts.uri.query() {
        None | Some("" | "dry_run=false") => Ok(Wish::Act),
        Some("dry_run=true") => Ok(Wish::DryRun),
        Some(query) => {
            let plan = query.strip_prefix("plan=").and_then(|id| id.parse().ok());
            plan.map(Wish::Apply).ok_or_else(|| {
                let detail = format!(
                    "this path takes `?dry_run=true`, or `?plan=` and the id that such a dry run answered, and not `?{}`",
                    shown(query)
                );
                ApiError::new(Kind::Malformed, detail)
            })
        }
    }
}

/// A parameter that is silently passed over may be one that was meant to hold the mutation back.
fn no_query(parts: &Parts) -> Result<(), ApiError> {
    match parts.uri.query() {
        None | Some("") => Ok(()),
        Some(query) => {
            let detail = format!("this path takes no parameters; leave `?{}` away", shown(query));
            Err(ApiError::new(Kind::Malformed, detail))
        }
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = given.as_deref().and_then(|text| text.split(';').next()).map(str::trim);
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
        Some(other) => Err(format!("the body is said to be `{}`", shown(other))),
        None => Err("the request does not say what its body is".to_owned()),
    }
    .map_err(|what| {
        let detail = format!("{what}; send JSON with `Content-Type: application/json`");
        ApiError::new(Kind::MediaType, detail).at("Content-Type")
    })
}

async fn read(app: &App, parts: &Parts, body: Body) -> Result<Vec<u8>, ApiError> {
    let announced =
        parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX + DISCARDED_BYTES_MAX) {
        return Err(too_large());
    }
    let going_down =
        |_| ApiError::new(Kind::Unavailable, "the orchestrator is shutting down; try again in a moment");
    // Whom the gate let in has a share of its own, whom nobody knows yet one with all others of that kind.
    let caller = parts.extensions.get::<Caller>();
    let _share = caller.map(|caller| app.limits.body(caller.token)).transpose()?;
    let room = caller.map_or(&app.strangers_bodies, |_| &app.bodies);
    let _room = room.acquire().await.map_err(going_down)?;
    let collected = tokio::time::timeout(BODY_DEADLINE, collect(body)).await;
    collected.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} s; send it again", BODY_DEADLINE.as_secs());
        Err(ApiError::new(Kind::Timeout, detail))
    })
}

async fn collect(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut received) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let broken = |_| ApiError::new(Kind::Malformed, "the body broke off; send it again");
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        received += data.len();
        if received <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&data);
        } else if received > BODY_BYTES_MAX + DISCARDED_BYTES_MAX {
            break;
        }
    }
    if received > BODY_BYTES_MAX { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> ApiError {
    ApiError::new(Kind::TooLarge, format!("the body has more than {BODY_BYTES_MAX} bytes; send less"))
}

/// Reads a JSON object of a known shape; says where it has another.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // A list would be taken for the fields in their order, which nobody promised.
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        None => return Err(ApiError::new(Kind::Malformed, "the body is empty; send a JSON object")),
        Some(_) => {
            let checked = serde_json::from_slice::<serde::de::IgnoredAny>(bytes);
            checked.map_err(|error| malformed(&error))?;
            return Err(ApiError::new(Kind::Invalid, "the body is JSON, but no object; send `{…}`"));
        }
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let location = pointer(error.path());
        let cause = error.into_inner();
        match cause.classify() {
            serde_json::error::Category::Data => {
                let position = format!(" at line {} column {}", cause.line(), cause.column());
                let error = ApiError::new(Kind::Invalid, cause.to_string().replace(&position, ""));
                if location.is_empty() { error } else { error.at(location) }
            }
            _ => malformed(&cause),
        }
    })?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(Kind::Malformed, format!("the body is no JSON: {error}"))
}

/// Where in a document, as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                pointer.push_str(&shown(key).replace('~', "~0").replace('/', "~1"));
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

impl Said {
    fn mark(&self, parts: &Parts, body: &[u8]) -> Result<RequestMark, ApiError> {
        let if_match = match (self.conditions.if_match, only(&parts.headers, &IF_MATCH)?) {
            (IfMatch::Refused, Some(_)) => {
                let detail = "nothing here has a revision that it could match; leave the header away";
                return Err(ApiError::new(Kind::Malformed, detail).at("If-Match"));
            }
            (_, value) => value,
        };
        let request =
            || Sha256::of(&[format!("{}\n{}\n", parts.method, parts.uri.path()).as_bytes(), body].concat());
        Ok(RequestMark {
            idempotency: idempotency(parts, body, self.wish)?,
            if_match: if_match.map(revision).transpose()?.flatten(),
            unconditional: self.conditions.if_match == IfMatch::Required && if_match.is_none(),
            planning: match self.wish {
                Wish::Act => Planning::None,
                Wish::DryRun => Planning::DryRun { request: request() },
                Wish::Apply(plan) => Planning::Apply { plan, request: request() },
            },
        })
    }
}

/// The key, and what tells the request from others: what is asked for by the query is part of it.
fn idempotency(parts: &Parts, body: &[u8], wish: Wish) -> Result<Option<(String, Sha256)>, ApiError> {
    let key = idempotency_key(&parts.headers)?;
    Ok(key.map(|key| {
        // The token is part of it, so that what is kept tells nobody anything of a body with a password in it.
        let token = parts.headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
        let token = token.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let plan = match wish {
            Wish::Act | Wish::DryRun => String::new(),
            Wish::Apply(plan) => format!("?plan={plan}"),
        };
        let head = format!("\n{}\n{}{plan}\n", parts.method, parts.uri.path());
        let whole = [token, head.as_bytes(), body].concat();
        (key, Sha256::of(&whole))
    }))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = only(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let visible = |text: &&[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
    let text = Some(value).filter(visible).filter(|text| text.len() <= IDEMPOTENCY_KEY_CHARACTERS_MAX);
    text.map(|text| Some(String::from_utf8_lossy(text).into_owned())).ok_or_else(|| {
        let detail = format!(
            "an idempotency key has 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} visible ASCII characters; use a new UUID for each request"
        );
        ApiError::new(Kind::Malformed, detail).at("Idempotency-Key")
    })
}

/// The revision that `If-Match` names; none: any.
fn revision(value: &[u8]) -> Result<Option<Revision>, ApiError> {
    if value == b"*" {
        return Ok(None); // any revision of a row that exists; a mutation of one that does not is a 404 anyway
    }
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|text| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    number.map(|number| Some(Revision(number))).ok_or_else(|| {
        let detail = "If-Match takes the ETag that reading the row gave, such as \"42\" with its quotes";
        ApiError::new(Kind::Malformed, detail).at("If-Match")
    })
}

pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| value.as_bytes())),
        (_, Some(_)) => {
            Err(ApiError::new(Kind::Malformed, "the header is given twice; give it once").at(name.as_str()))
        }
    }
}
