//! The OpenAPI document.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn the_document_lists_exactly_the_routes_of_the_issue() {
    let found: BTreeSet<String> =
        every_route().iter().map(|(method, path)| format!("{method} {path}")).collect();
    let text: String = found.iter().map(|line| format!("{line}\n")).collect();
    expect_test::expect![[r#"
        DELETE /api/images/{image}
        DELETE /api/networks/{network}
        DELETE /api/ssh-keys/{key}
        DELETE /api/tenants/{tenant}
        DELETE /api/tokens/{token}
        DELETE /api/users/{user}
        DELETE /api/vps-servers/{vps}
        DELETE /api/vps-servers/{vps}/iso
        DELETE /api/vps-servers/{vps}/snapshots/{snapshot}
        DELETE /api/webhooks/{webhook}
        GET /api/addresses
        GET /api/alertmanager/smtp/config
        GET /api/alerts
        GET /api/audit
        GET /api/audit/chain
        GET /api/authorities
        GET /api/events
        GET /api/hosts
        GET /api/hosts/{host}
        GET /api/hosts/{host}/ledger
        GET /api/hosts/{host}/metrics
        GET /api/images
        GET /api/images/{image}
        GET /api/images/{image}/prefetch
        GET /api/networks
        GET /api/networks/{network}
        GET /api/notifications
        GET /api/openapi.json
        GET /api/operations
        GET /api/operations/{operation}
        GET /api/operations/{operation}/items
        GET /api/regions
        GET /api/sizes
        GET /api/ssh-keys
        GET /api/tenants
        GET /api/tenants/{tenant}
        GET /api/tokens
        GET /api/usage
        GET /api/users
        GET /api/users/{user}
        GET /api/vps-servers
        GET /api/vps-servers/{vps}
        GET /api/vps-servers/{vps}/console
        GET /api/vps-servers/{vps}/metrics
        GET /api/vps-servers/{vps}/network
        GET /api/vps-servers/{vps}/snapshots
        GET /api/vps-servers/{vps}/vnc
        GET /api/webhooks
        GET /api/webhooks/{webhook}
        GET /api/webhooks/{webhook}/deliveries
        GET /api/whoami
        GET /healthz
        GET /metrics
        GET /problems/{problem}
        GET /readyz
        GET /reference
        POST /api/adoptions
        POST /api/adoptions/plan
        POST /api/alertmanager/smtp/configure
        POST /api/alertmanager/smtp/test
        POST /api/authorities
        POST /api/authorities/{number}/retire
        POST /api/hosts
        POST /api/hosts/{host}/allow-destroys
        POST /api/hosts/{host}/cordon
        POST /api/hosts/{host}/forget
        POST /api/hosts/{host}/labels
        POST /api/hosts/{host}/ledger
        POST /api/hosts/{host}/limits
        POST /api/hosts/{host}/revoke
        POST /api/image-fetches
        POST /api/images
        POST /api/images/{image}/prefetch
        POST /api/images/{image}/unprefetch
        POST /api/networks
        POST /api/networks/{network}/pools
        POST /api/networks/{network}/pools/remove
        POST /api/operations/{operation}/cancel
        POST /api/operations/{operation}/resume
        POST /api/sign-in
        POST /api/sign-out
        POST /api/ssh-keys
        POST /api/tenants
        POST /api/tenants/{tenant}/external-id
        POST /api/tenants/{tenant}/quota
        POST /api/tokens
        POST /api/users
        POST /api/users/{user}/disable
        POST /api/users/{user}/enable
        POST /api/users/{user}/password
        POST /api/users/{user}/role
        POST /api/vps-servers
        POST /api/vps-servers/actions
        POST /api/vps-servers/{vps}/addresses
        POST /api/vps-servers/{vps}/clone
        POST /api/vps-servers/{vps}/console-token
        POST /api/vps-servers/{vps}/external-id
        POST /api/vps-servers/{vps}/hold
        POST /api/vps-servers/{vps}/iso
        POST /api/vps-servers/{vps}/network
        POST /api/vps-servers/{vps}/pause
        POST /api/vps-servers/{vps}/purge
        POST /api/vps-servers/{vps}/rebuild
        POST /api/vps-servers/{vps}/rename
        POST /api/vps-servers/{vps}/rescue
        POST /api/vps-servers/{vps}/reset-password
        POST /api/vps-servers/{vps}/resize
        POST /api/vps-servers/{vps}/restart
        POST /api/vps-servers/{vps}/resume
        POST /api/vps-servers/{vps}/snapshots
        POST /api/vps-servers/{vps}/snapshots/{snapshot}/restore
        POST /api/vps-servers/{vps}/start
        POST /api/vps-servers/{vps}/stop
        POST /api/vps-servers/{vps}/suspend
        POST /api/vps-servers/{vps}/undelete
        POST /api/vps-servers/{vps}/unrescue
        POST /api/vps-servers/{vps}/unsuspend
        POST /api/webhooks
        POST /api/webhooks/{webhook}
        POST /api/webhooks/{webhook}/replay
        POST /api/webhooks/{webhook}/test
        POST /api/whoami/password
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_every_reference_in_it_leads_somewhere() {
    let api = Api::new().await;
    let answer = api.get("/api/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("references stay inside");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            references.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|inner| collect(inner, references));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect(inner, references)),
        _ => {}
    }
}

#[tokio::test]
async fn every_operation_has_an_id_of_its_own_a_summary_and_the_problem_answer() {
    let document = serde_json::to_value(super::super::document()).unwrap();
    let mut ids = BTreeSet::new();
    for (method, path) in every_route() {
        let operation = &document["paths"][&path][method.as_str().to_lowercase()];
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{path}: {operation}");
        assert_eq!(operation["responses"]["default"]["$ref"], "#/components/responses/problem", "{path}");
        let is_change = method != Method::GET && id != "sign_in";
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        assert_eq!(
            parameters.iter().any(|given| given["name"] == "Idempotency-Key"),
            is_change,
            "{method} {path}"
        );
    }
}
