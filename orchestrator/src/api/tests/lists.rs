//! Lists and pages.

use std::collections::BTreeSet;

use super::*;

async fn walk(api: &Api, list: &str, limit: usize, mut between: impl AsyncFnMut(usize)) -> Vec<Value> {
    let (mut all, mut path) = (Vec::new(), format!("{list}?limit={limit}"));
    for page in 0.. {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let mut json = answer.json();
        let Value::Array(items) = json["items"].take() else { panic!("{answer:?}") };
        assert!(items.len() <= limit, "{answer:?}");
        all.extend(items);
        match json["next_cursor"].as_str() {
            Some(cursor) => path = format!("{list}?limit={limit}&cursor={cursor}"),
            None => return all,
        }
        between(page).await;
    }
    all
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_have_every_row_once_while_others_are_made_and_removed() {
    let api = Api::new().await;
    let host = api.world.host("h1", "us-east", 100).await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(api.create(&format!("a{number}")).await["vps"]["id"].as_str().unwrap().to_owned());
    }
    let rows = walk(&api, "/api/vps-servers", 3, async |page| {
        // The row that the cursor names goes, and another comes.
        let Some(id) = ids.get(page * 3 + 2) else { return };
        let path = format!("/api/vps-servers/{id}");
        api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
        api.order(&format!("{path}/purge")).await;
        api.world.converge(host).await;
        assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
        api.create(&format!("b{page}")).await;
    })
    .await;
    let found: BTreeSet<&str> = names(&rows).into_iter().collect();
    assert_eq!(found.len(), rows.len(), "nothing twice: {found:?}");
    for number in 0..10 {
        assert!(found.contains(format!("a{number}").as_str()), "{found:?}");
    }
}

#[tokio::test]
async fn every_list_has_the_same_rows_at_every_page_size() {
    let api = Api::new().await;
    for host in ["h1", "h2", "h3"] {
        api.world.host(host, "us-east", 10).await;
    }
    for vps in ["a", "b", "c", "d"] {
        api.create(vps).await;
    }
    for (list, rows) in [
        ("/api/regions", 2),
        ("/api/sizes", 1),
        ("/api/images", 1),
        ("/api/hosts", 3),
        ("/api/vps-servers", 4),
        ("/api/operations", 4),
    ] {
        for limit in 1..=5 {
            assert_eq!(walk(&api, list, limit, async |_| {}).await.len(), rows, "{list} by {limit}");
        }
    }
    assert_eq!(api.get("/api/regions").await.json()["items"][1]["hosts_schedulable"], 3);
}

#[tokio::test]
async fn a_list_is_answered_while_every_host_is_away() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    api.create("a").await;
    let row = api.get("/api/vps-servers").await.json()["items"][0].take();
    assert_eq!(row["observed"]["state"], "unknown", "the host has not spoken of it yet: {row}");
}

/// The names of a list's rows, over all its pages of two.
async fn found(api: &Api, query: &str) -> Vec<String> {
    let list = if query.contains('?') { format!("{query}&") } else { format!("{query}?") };
    let (mut all, mut path) = (Vec::new(), format!("{list}limit=2"));
    loop {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let json = answer.json();
        all.extend(
            json["items"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()),
        );
        match json["next_cursor"].as_str() {
            Some(cursor) => path = format!("{list}limit=2&cursor={cursor}"),
            None => return all,
        }
    }
}

#[tokio::test]
async fn filters_let_through_what_they_name_and_orders_are_kept_over_pages() {
    let api = Api::new().await;
    let first = api.world.host("h1", "us-east", 3).await;
    assert_eq!(api.post("/api/tenants", r#"{"name":"acme"}"#).await.status, StatusCode::CREATED);
    for (name, tenant) in [("web-b", "default"), ("db", "acme"), ("web-a", "acme")] {
        let body = format!(r#"{{"name":"{name}","region":"us-east","size":"small","tenant":"{tenant}"}}"#);
        assert_eq!(api.post("/api/vps-servers", body).await.status, StatusCode::ACCEPTED);
    }
    api.world.converge(first).await;
    api.world.host("h2", "us-east", 10).await;
    api.create("late").await;
    let gone = api.get("/api/vps-servers/web-b").await.json();
    let path = format!("/api/vps-servers/{}", gone["id"].as_str().unwrap());
    api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
    let address = gone["addresses"][0].as_str().unwrap();
    for (query, names) in [
        ("", "web-b db web-a late"),
        ("?sort=-id", "late web-a db web-b"),
        ("?sort=name", "db late web-a web-b"),
        ("?sort=-name", "web-b web-a late db"),
        ("?sort=created_at&tenant=acme", "db web-a"),
        ("?sort=-name&tenant=acme", "web-a db"),
        ("?tenant=nobody", ""),
        ("?region=us-east&q=WEB", "web-b web-a"),
        ("?region=us-west", ""),
        ("?host=h2", "late"),
        (&format!("?host={first}&sort=name"), "db web-a web-b"),
        ("?host=nowhere", ""),
        ("?state=unknown", "late"),
        ("?state=running,stopped&sort=name&deleted=false", "db web-a"),
        ("?deleted=true", "web-b"),
        ("?size=small&image=hello&engine=fake&sort=name", "db late web-a web-b"),
        ("?engine=incus", ""),
        ("?external_id=none", ""),
        (&format!("?q={address}&host=h1&deleted=true"), "web-b"),
    ] {
        let names: Vec<&str> = names.split_whitespace().collect();
        assert_eq!(found(&api, &format!("/api/vps-servers{query}")).await, names, "{query}");
    }
    let request = api.request(Method::POST, &format!("/api/hosts/{first}/labels")).header("If-Match", "*");
    let request = request.header("Content-Type", "application/json");
    let body = Body::from(r#"{"set":{"disk":"nvme","rack":"a1"}}"#);
    assert_eq!(api.send(request.body(body).unwrap()).await.status, StatusCode::OK);
    api.post(&format!("/api/hosts/{first}/cordon"), r#"{"cordoned":true}"#).await;
    for (query, names) in [
        ("?sort=-name", "h2 h1"),
        ("?label=disk=nvme,rack", "h1"),
        ("?label=disk=ssd", ""),
        ("?cordoned=false", "h2"),
        ("?region=us-east&q=h1", "h1"),
        ("?state=connected&sort=created_at", "h1 h2"),
    ] {
        let names: Vec<&str> = names.split_whitespace().collect();
        assert_eq!(found(&api, &format!("/api/hosts{query}")).await, names, "{query}");
    }
    for (query, count) in [
        ("?kind=create", 4),
        ("?kind=create,delete&state=pending", 2),
        ("?tenant=acme&sort=-created_at", 2),
        (&format!("?vps={}", gone["id"].as_str().unwrap()), 2),
        ("?host=h2", 1),
        ("?state=failed", 0),
    ] {
        let found = api.get(&format!("/api/operations{query}")).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}: {found}");
    }
    assert_eq!(found(&api, "/api/tenants?q=ac").await, ["acme"]);
    assert_eq!(found(&api, "/api/tenants?sort=-name").await, ["default", "acme"]);
    assert_eq!(found(&api, "/api/tokens?role=viewer&sort=name").await, ["viewer"]);
    assert_eq!(found(&api, "/api/images?q=hel&engine=fake").await, ["hello"]);
}

#[tokio::test]
async fn an_unknown_parameter_or_value_is_refused_and_the_known_ones_are_named() {
    let api = Api::new().await;
    let document = serde_json::to_value(super::super::document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let list = &item["get"];
        if !list["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "sort")) {
            continue;
        }
        let path = path.replace("{vps}", "a");
        if path.contains("/snapshots") {
            api.world.host("h1", "us-east", 10).await;
            api.create("a").await;
        }
        let answer = api.get(&format!("{path}?colour=red")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        let problem = answer.problem();
        for one in list["parameters"].as_array().unwrap().iter().filter(|one| one["in"] == "query") {
            let name = format!("`{}`", one["name"].as_str().unwrap());
            assert!(problem.detail.contains(&name), "{path} does not name {name}: {}", problem.detail);
        }
        for query in ["sort=colour", "fields=colour", "limit=0", "cursor=colour", "sort=id&sort=name"] {
            let answer = api.get(&format!("{path}?{query}")).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}?{query}: {answer:?}");
        }
    }
    for (path, location, says) in [
        ("/api/vps-servers?state=flying", "state", "`running`"),
        ("/api/vps-servers?deleted=maybe", "deleted", "`true`"),
        ("/api/vps-servers?tenant=No", "tenant", "lower-case"),
        ("/api/vps-servers?engine=xen", "engine", "`incus`"),
        ("/api/operations?vps=7", "vps", "UUID"),
        ("/api/hosts?label=-", "label", "`disk=nvme`"),
        ("/api/alerts?severity=mild", "severity", "`critical`"),
        ("/api/tokens?role=king", "role", "`admin`"),
    ] {
        let problem = api.get(path).await.problem();
        assert_eq!((problem.status, problem.location.as_deref()), (400, Some(location)), "{path}");
        assert!(problem.detail.contains(says), "{path}: {}", problem.detail);
    }
    let answer = api.get("/api/vps-servers?limit=1&sort=name").await.json();
    assert!(answer["next_cursor"].is_null(), "one row, one page");
    api.create("b").await;
    let cursor = api.get("/api/vps-servers?limit=1&sort=name").await.json();
    let cursor = cursor["next_cursor"].as_str().unwrap();
    let other = api.get(&format!("/api/vps-servers?sort=-name&cursor={cursor}")).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "a cursor belongs to its order");
}

#[tokio::test]
async fn rows_have_only_the_fields_that_were_asked_for() {
    let api = Api::new().await;
    api.world.host("h1", "us-east", 10).await;
    api.create("a").await;
    let listed = api.get("/api/vps-servers?fields=name,observed.state,suspensions.mode").await.json();
    let row = serde_json::json!({"name": "a", "observed": {"state": "unknown"}, "suspensions": []});
    assert_eq!(listed["items"], serde_json::json!([row]));
    let listed = api.get("/api/hosts?fields=capacity.cores,labels.rack").await.json();
    assert_eq!(listed["items"][0]["labels"], serde_json::json!({}));
    assert_eq!(
        api.get("/api/regions?fields=name").await.json()["items"][1],
        serde_json::json!({"name": "us-east"})
    );
}
