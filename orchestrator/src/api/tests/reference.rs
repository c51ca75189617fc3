//! The pages for people.

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

use super::super::problem::Kind;
use super::super::reference::STYLE;
use super::*;

#[tokio::test]
async fn the_reference_has_every_call_and_every_problem_and_needs_nothing_from_elsewhere() {
    let api = Api::new().await;
    let bare = Request::builder().uri("/reference").body(Body::empty()).unwrap();
    let answer = api.send(bare).await;
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    let page = String::from_utf8(answer.body.clone()).unwrap();
    let document = serde_json::to_value(super::super::document()).unwrap();
    for (method, path) in every_route() {
        let id = &document["paths"][&path][method.as_str().to_lowercase()]["operationId"];
        assert!(page.contains(&format!("<h3 id={id}><code>{method} {path}</code>")), "{method} {path}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
    }
    for link in page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        match link.strip_prefix('#') {
            Some(id) => assert!(page.contains(&format!("id=\"{id}\"")), "{link} leads nowhere"),
            None => assert_eq!(api.get(link).await.status, StatusCode::OK, "{link}"),
        }
    }
    for outside in ["src=", "<script", "=\"http", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn every_problem_says_what_it_means_and_what_to_do() {
    let api = Api::new().await;
    for kind in Kind::ALL {
        let page = api.get(&format!("/problems/{}", kind.name())).await;
        let (meaning, advice) = kind.meaning_and_advice();
        assert!(!meaning.is_empty() && !advice.is_empty(), "{kind:?}");
        assert_eq!(page.status, StatusCode::OK, "{kind:?}");
        assert!(String::from_utf8(page.body).unwrap().contains(kind.title()), "{kind:?}");
    }
    assert_eq!(api.get("/problems/nothing").await.problem().kind, "/problems/not-found");
}

#[test]
fn the_security_headers_let_the_pages_style_pass() {
    let style = format!("'sha256-{}'", BASE64.encode(digest(&SHA256, STYLE.as_bytes()).as_ref()));
    assert!(SECURITY_HEADERS.iter().any(|(_, value)| value.contains(&style)), "{style}");
}
