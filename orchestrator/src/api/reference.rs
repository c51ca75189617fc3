//! The API for people: its reference, written from the OpenAPI document, and a page for every type of problem. Both are
//! made once, at the start, of text alone: no script, nothing from another address.

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Map, Value};

use crate::api::App;
use crate::api::problem::{ApiError, Kind, shown};

/// The one style that the security headers let pass: its digest is in them.
pub(super) const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    code{background:#8882;padding:0 .2em}table{border-collapse:collapse;width:100%}\
    td,th{border-top:1px solid #8886;padding:.3em .6em;text-align:left;vertical-align:top}\
    h2{margin-top:3rem}h3{margin-top:2rem}:root{color-scheme:light dark}";
/// The methods in the order in which they are shown.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Describes this API for people: every call with its parameters, bodies, answers and permissions. Needs no token.
#[utoipa::path(get, path = "/reference", tag = "system", operation_id = "reference", security(()),
    responses((status = 200, description = "The reference.", content_type = "text/html", body = String)))]
pub(super) async fn reference(State(app): State<App>) -> Response {
    page(app.reference)
}

/// Explains a type of problem: what it means and what to do. The `type` of every error leads here. Needs no token.
#[utoipa::path(get, path = "/problems/{problem}", tag = "system", operation_id = "show_problem", security(()),
    params(("problem" = String, Path, description = "The last part of a problem's `type`, such as `conflict`.")),
    responses((status = 200, description = "The explanation.", content_type = "text/html", body = String)))]
pub(super) async fn problem(path: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
        Some(kind) => Ok(page(problem_page(kind).into_string().into())),
        None => {
            let detail = format!("there is no problem type `{}`; /reference lists them", shown(&name));
            Err(ApiError::new(Kind::NotFound, detail))
        }
    }
}

fn page(html: Bytes) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], html).into_response()
}

fn frame(title: &str, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (content) }
        }
    }
}

fn problem_page(kind: Kind) -> Markup {
    let (meaning, advice) = kind.meaning_and_advice();
    frame(
        kind.title(),
        html! {
            h1 { (kind.title()) }
            p { "Problem type " code { "/problems/" (kind.name()) } ", HTTP status " (kind.status().as_u16()) "." }
            h2 { "What it means" }
            p { (meaning) }
            h2 { "What to do" }
            p { (advice) }
            p { "The answer's " code { "detail" } " says what it was this time, and its " code { "location" } " where in the request. " a href="/reference" { "All calls and problems" } }
        },
    )
}

/// The reference of a complete document.
pub(super) fn render(document: &Value) -> Bytes {
    let calls = calls(document);
    let mut tags: Vec<&str> = Vec::new();
    for call in &calls {
        if !tags.contains(&call.tag) {
            tags.push(call.tag);
        }
    }
    let schemas = document["components"]["schemas"].as_object();
    let content = html! {
        h1 { "CHOM " (text(&document["info"]["version"])) }
        p { (text(&document["info"]["description"])) }
        p { "For programs: " a href="/api/openapi.json" { "the OpenAPI 3.1 document" } "." }
        ul {
            @for tag in &tags { li { a href={ "#tag-" (tag) } { (tag) } } }
            li { a href="#problems" { "Problems" } }
            li { a href="#documents" { "Documents" } }
        }
        @for tag in &tags {
            h2 id={ "tag-" (tag) } { (tag) }
            @for call in calls.iter().filter(|call| call.tag == *tag) { (self::call(call)) }
        }
        h2 id="problems" { "Problems" }
        table {
            tr { th { "Type" } th { "Status" } th { "Means" } }
            @for kind in Kind::ALL {
                tr {
                    td { a href={ "/problems/" (kind.name()) } { code { (kind.name()) } } }
                    td { (kind.status().as_u16()) }
                    td { (kind.title()) }
                }
            }
        }
        h2 id="documents" { "Documents" }
        @for (name, schema) in schemas.into_iter().flatten() { (self::schema(name, schema)) }
    };
    frame("CHOM: the API", content).into_string().into()
}

struct Call<'a> {
    method: &'static str,
    path: &'a str,
    tag: &'a str,
    operation: &'a Value,
}

fn calls<'a>(document: &'a Value) -> Vec<Call<'a>> {
    let paths = document["paths"].as_object();
    let of_path = |(path, item): (&'a String, &'a Value)| {
        METHODS.into_iter().filter_map(move |method| {
            let operation = item.get(method)?;
            Some(Call { method, path, tag: text(&operation["tags"][0]), operation })
        })
    };
    paths.into_iter().flatten().flat_map(of_path).collect()
}

fn call(call: &Call<'_>) -> Markup {
    let Call { method, path, operation, .. } = call;
    let parameters = operation["parameters"].as_array();
    let body = operation["requestBody"]["content"].as_object();
    let answers = operation["responses"].as_object();
    html! {
        h3 id=(text(&operation["operationId"])) { code { (method.to_uppercase()) " " (path) } }
        p { (text(&operation["summary"])) " " (text(&operation["description"])) }
        @if let Some(permission) = operation["x-permission"].as_str() {
            p { "Needs " code { (permission) } ": " (words(&operation["x-roles"])) "." }
        } @else {
            p { "Needs no token." }
        }
        @if let Some(parameters) = parameters {
            table {
                tr { th { "Parameter" } th { "In" } th { "Type" } th { "Means" } }
                @for parameter in parameters {
                    tr {
                        td { code { (text(&parameter["name"])) } @if parameter["required"] == true { " (required)" } }
                        td { (text(&parameter["in"])) }
                        td { (kind(&parameter["schema"])) }
                        td { (text(&parameter["description"])) }
                    }
                }
            }
        }
        @for (media_type, content) in body.into_iter().flatten() {
            p { "Body (" (media_type) "): " (kind(&content["schema"])) }
        }
        table {
            tr { th { "Answer" } th { "Document" } th { "Means" } }
            @for (status, answer) in answers.into_iter().flatten() {
                @if status == "default" {
                    tr { td { "any error" } td { (kind(&Value::from(Map::from_iter([("$ref".to_owned(), "#/components/schemas/Problem".into())])))) } td { a href="#problems" { "A problem" } } }
                } @else {
                    tr {
                        td { (status) }
                        td { @for content in answer["content"].as_object().into_iter().flat_map(Map::values) { (kind(&content["schema"])) } }
                        td { (text(&answer["description"])) }
                    }
                }
            }
        }
    }
}

fn schema(name: &str, schema: &Value) -> Markup {
    let fields = schema["properties"].as_object();
    let is_required =
        |field: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == field));
    html! {
        h3 id={ "schema-" (name) } { (name) }
        p { (text(&schema["description"])) }
        @match fields {
            Some(fields) => table {
                tr { th { "Field" } th { "Type" } th { "Means" } }
                @for (field, schema) in fields {
                    tr {
                        td { code { (field) } @if is_required(field) { " (always)" } }
                        td { (kind(schema)) }
                        td { (text(&schema["description"])) }
                    }
                }
            },
            None => p { (kind(schema)) },
        }
    }
}

/// What a value is, in words; a document of its own is linked.
fn kind(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    let choices = ["oneOf", "anyOf", "allOf"].into_iter().find_map(|key| schema[key].as_array());
    if let Some(choices) = choices {
        return html! { @for (place, choice) in choices.iter().enumerate() { @if place > 0 { " or " } (kind(choice)) } };
    }
    if let Some(values) = schema["enum"].as_array() {
        return html! { @for (place, value) in values.iter().enumerate() { @if place > 0 { ", " } code { (text(value)) } } };
    }
    if schema["items"].is_object() {
        return html! { "list of " (kind(&schema["items"])) };
    }
    let own = match &schema["type"] {
        Value::Array(_) => words(&schema["type"]),
        other => text(other).to_owned(),
    };
    html! { (own) @if let Some(format) = schema["format"].as_str() { " (" (format) ")" } }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(list: &Value) -> String {
    let words: Vec<&str> = list.as_array().into_iter().flatten().map(text).collect();
    words.join(", ")
}
