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
