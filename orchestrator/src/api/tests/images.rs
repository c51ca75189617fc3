//! Images: uploaded, refused, used, removed.

use super::*;

const BYTES: &[u8] = b"0123456789";

impl Api {
    async fn upload(&self, query: &str, bytes: &'static [u8]) -> Answer {
        let request = self.request(Method::POST, &format!("/api/images?{query}"));
        let request = request.header("Content-Type", "application/octet-stream");
        self.send(request.body(Body::from(bytes)).unwrap()).await
    }

    /// The files that were added.
    fn image_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.world.folder.path().join("images")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn remove(&self, image: &str) -> Answer {
        let path = format!("/api/images/{image}");
        self.send(self.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn an_uploaded_image_makes_vpss_and_goes_once_none_was_made_from_it() {
    let api = Api::new().await;
    let _host = api.world.host("h", "us-east", 9).await;
    let sha256 = chom_protocol::vps::Sha256::of(BYTES);
    let query = format!("name=mine&engine=fake&format=raw&version=1.2&default_user=me&sha256={sha256}");
    let answer = api.upload(&query, BYTES).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let image = answer.json();
    assert_eq!(
        (&image["source"], &image["size_bytes"], &image["version"]),
        (&"added".into(), &10.into(), &"1.2".into())
    );
    assert_eq!(api.image_files(), [sha256.to_string()]);
    assert_eq!(api.get("/api/images").await.json()["items"].as_array().unwrap().len(), 2);
    let again = api.upload(&query, BYTES).await;
    assert_eq!((again.status, again.problem().location.as_deref()), (StatusCode::CONFLICT, Some("name")));

    let body = r#"{"name":"v","region":"us-east","size":"small","image":"mine"}"#;
    let made = api.post("/api/vps-servers", body).await.json();
    assert_eq!(made["vps"]["image"], "mine");
    let refused = api.remove("mine").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(
        refused.problem().detail.contains("`mine`") && refused.problem().detail.contains(": v;"),
        "{refused:?}"
    );
    let id = made["vps"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/vps-servers/{id}");
    api.send(api.request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
    assert_eq!(api.remove("mine").await.status, StatusCode::CONFLICT, "deleted and kept, it can come back");
    api.order(&format!("{path}/purge")).await;
    let host = api.world.fleet.state().hosts.keys().next().copied().unwrap();
    api.world.converge(host).await;
    assert_eq!(api.remove("mine").await.status, StatusCode::OK);
    assert_eq!(api.get("/api/images/mine").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.image_files(), [""; 0]);
    assert_eq!(api.remove("hello").await.status, StatusCode::CONFLICT, "the configuration's");
}

#[tokio::test]
async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let api = Api::new().await;
    let other = chom_protocol::vps::Sha256::of(b"other");
    for (query, status, says) in [
        (
            format!("name=a&engine=fake&format=raw&sha256={other}"),
            StatusCode::UNPROCESSABLE_ENTITY,
            "SHA-256",
        ),
        ("name=a&engine=fake&format=qcow2".to_owned(), StatusCode::UNPROCESSABLE_ENTITY, "qcow2"),
        ("name=hello&engine=fake&format=raw".to_owned(), StatusCode::CONFLICT, "`hello`"),
        ("name=a&engine=fake&format=zip".to_owned(), StatusCode::BAD_REQUEST, "zip"),
        ("name=a&engine=fake&format=raw&colour=red".to_owned(), StatusCode::BAD_REQUEST, "colour"),
        ("engine=fake&format=raw".to_owned(), StatusCode::BAD_REQUEST, "name"),
    ] {
        let answer = api.upload(&query, BYTES).await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        assert!(answer.problem().detail.contains(says), "{query}: {answer:?}");
    }
    let empty = api.upload("name=a&engine=fake&format=raw", b"").await;
    assert!(empty.problem().detail.contains("empty"), "{empty:?}");
    let json = api.post("/api/images?name=a&engine=fake&format=raw", "{}").await;
    assert_eq!(json.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(api.image_files(), [""; 0]);
}
