//! A tenant's SSH keys and who gets them; user data that cloud-init would pass over.

use chom_protocol::api::ssh_keys::AddSshKey;

use super::*;
use crate::fleet::rows::VpsRow;

const LAPTOP: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 laptop";
const DESK: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE6 desk";
const OWN: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE7 own";

async fn add(world: &World, key: &str, text: &str) -> Result<(), FleetError> {
    let request = AddSshKey { name: name(key), key: text.to_owned() };
    world.fleet.add_ssh_key(&caller(), RequestMark::default(), request).await.map(|_| ())
}

/// The keys that a new VPS lets in.
async fn keys(world: &World, wanted: CreateVps) -> Result<Vec<String>, FleetError> {
    let id = world.fleet.create_vps(&caller(), RequestMark::default(), wanted).await?.value.vps.id;
    Ok(world.fleet.state().get::<VpsRow>(&id).unwrap().spec.ssh_keys.clone())
}

#[tokio::test]
async fn a_vps_lets_in_the_tenants_keys_that_it_names_or_all_of_them_and_its_own() {
    let world = World::new().await;
    let _host = world.host("h", "eu-west", 9).await;
    add(&world, "laptop", LAPTOP).await.unwrap();
    add(&world, "desk", DESK).await.unwrap();
    let wanted = |vps: &str, names: Option<&[&str]>| CreateVps {
        ssh_keys: vec![OWN.to_owned(), LAPTOP.to_owned()],
        tenant_keys: names.map(|names| names.iter().map(|text| name(text)).collect()),
        ..request(vps, "eu-west")
    };
    assert_eq!(keys(&world, wanted("a", None)).await.unwrap(), [DESK, LAPTOP, OWN], "none twice");
    assert_eq!(keys(&world, wanted("b", Some(&["desk"]))).await.unwrap(), [DESK, OWN, LAPTOP]);
    assert_eq!(keys(&world, wanted("c", Some(&[]))).await.unwrap(), [OWN, LAPTOP]);
    let unknown = keys(&world, wanted("d", Some(&["phone"]))).await.unwrap_err().to_string();
    assert!(unknown.contains("`phone`") && unknown.contains("desk, laptop"), "{unknown}");
    world.fleet.remove_ssh_key(&caller(), RequestMark::default(), name("desk")).await.unwrap();
    assert_eq!(keys(&world, wanted("e", None)).await.unwrap(), [LAPTOP, OWN]);
    assert_eq!(world.fleet.ssh_key_views(&caller()).len(), 1);
    world.end().await;
}

#[tokio::test]
async fn what_is_no_key_or_there_already_is_refused() {
    let world = World::new().await;
    add(&world, "laptop", LAPTOP).await.unwrap();
    assert_eq!(add(&world, "laptop", DESK).await.unwrap_err().location(), Some("/name"));
    for wrong in ["", "hello", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-ed25519 AAAA\nssh-ed25519 AAAA"] {
        assert_eq!(add(&world, "other", wrong).await.unwrap_err().location(), Some("/key"), "{wrong}");
    }
    let none =
        world.fleet.remove_ssh_key(&caller(), RequestMark::default(), name("nobody")).await.unwrap_err();
    assert_eq!(none.kind(), crate::fleet::ErrorKind::NotFound);
    world.end().await;
}

#[tokio::test]
async fn user_data_that_cloud_init_would_pass_over_is_refused_with_its_line() {
    let world = World::new().await;
    let _host = world.host("h", "eu-west", 9).await;
    let user_data = Some("#cloud-config\nhostname: a\npakages: [nginx]\n".to_owned());
    let refused = keys(&world, CreateVps { user_data, ..request("a", "eu-west") }).await.unwrap_err();
    assert_eq!(refused.location(), Some("/user_data"));
    assert_eq!(refused.to_string(), "line 3: cloud-init knows no key `pakages`; is `packages` meant?");
    world.end().await;
}
