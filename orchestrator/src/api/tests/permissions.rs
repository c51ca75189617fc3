//! The gate: what each role may call is what the table of permissions says, for every route of the document.

use std::collections::BTreeSet;

use super::*;
use crate::permission::{self, Needs};

/// Every route with its operation id.
pub(super) fn identified() -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(super::super::document()).unwrap();
    let id = |method: &Method, path: &str| {
        let operation = &document["paths"][path][method.as_str().to_lowercase()];
        operation["operationId"].as_str().unwrap().to_owned()
    };
    every_route()
        .into_iter()
        .map(|(method, path)| (method.clone(), path.clone(), id(&method, &path)))
        .collect()
}

#[test]
fn every_route_is_in_the_table_and_the_table_has_no_other() {
    let routes: BTreeSet<String> = identified().into_iter().map(|(.., id)| id).collect();
    let missing: Vec<&String> = routes.iter().filter(|id| permission::of_route(id).is_none()).collect();
    assert!(missing.is_empty(), "add to ROUTES in permission.rs what these routes need: {missing:?}");
    let strange: Vec<&str> = permission::route_ids().filter(|id| !routes.contains(*id)).collect();
    assert!(strange.is_empty(), "there are no such routes any more: {strange:?}");
}

#[test]
fn the_document_says_of_every_operation_who_may_call_it() {
    let document = serde_json::to_value(super::super::document()).unwrap();
    for (method, path, id) in identified() {
        let operation = &document["paths"][&path][method.as_str().to_lowercase()];
        match permission::of_route(&id) {
            Some(Needs::Permission(permission) | Needs::PermissionOrTicket(permission)) => {
                assert_eq!(operation["x-permission"], permission.to_string());
                assert!(operation["x-roles"].as_array().unwrap().contains(&"admin".into()), "{id}");
            }
            Some(Needs::Token) => assert_eq!(operation["x-permission"], Value::Null, "{id}"),
            Some(Needs::Nothing) => assert_eq!(operation["security"], serde_json::json!([{}]), "{id}"),
            None => panic!("{id}"),
        }
    }
}

#[tokio::test]
async fn every_route_answers_every_role_of_the_fleet_as_the_table_says() {
    let api = Api::new().await;
    // Roles of a tenant are judged on rows of theirs: see the isolation matrix.
    for role in [Role::Admin, Role::Operator, Role::Auditor] {
        for (method, pattern, id) in identified() {
            let Some(permission) = permission::of_route(&id).and_then(Needs::permission) else { continue };
            // Rows that nothing has, and no body: those who may are refused further in.
            let request = Request::builder()
                .method(method.clone())
                .uri(filled(&pattern))
                .header("Authorization", format!("Bearer {}", api.token_of(role)))
                .body(Body::empty())
                .unwrap();
            let response = api.router.clone().oneshot(request).await.unwrap(); // an event stream has no end to read
            let refused = response.status() == StatusCode::FORBIDDEN;
            assert_eq!(refused, !permission::may(role, permission), "{role} {method} {pattern}");
            assert!(!response.status().is_server_error(), "{role} {method} {pattern}: {}", response.status());
        }
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_needed_and_who_has_it_whatever_the_row() {
    let api = Api::new().await;
    let path = filled("/api/vps-servers/{vps}/suspend");
    let request = Request::builder().method(Method::POST).uri(path);
    let request = request.header("Authorization", format!("Bearer {}", api.token_of(Role::Auditor)));
    let answer = api.send(request.body(Body::empty()).unwrap()).await;
    let problem = answer.problem();
    expect_test::expect!["403 /problems/forbidden: this needs the permission `vps-custody:change`, which the role `auditor` of your token does not have; use a token of role admin, operator"]
    .assert_eq(&format!("{} {}: {}", problem.status, problem.kind, problem.detail));
}
