//! Which image and engine a request leads to.

use chom_protocol::vps::{Engine, ImageFormat};
use expect_test::expect;

use super::{World, catalogue, name, request};
use crate::fleet::catalogue::{Catalogue, Image};
use crate::fleet::vps::create::images;

/// A machine and a container, both of which are used when none is asked for, and another container.
fn both() -> Catalogue {
    let mut catalogue = catalogue();
    let hello = catalogue.images.remove(&name("hello")).unwrap();
    for (image, engine, format) in [
        ("machine", Engine::Libvirt, ImageFormat::Qcow2),
        ("box", Engine::Incus, ImageFormat::IncusTarball),
        ("other-box", Engine::Incus, ImageFormat::IncusTarball),
    ] {
        let mut row = Image { engine, ..hello.clone() };
        (row.reference.name, row.reference.format) = (name(image), format);
        catalogue.images.insert(name(image), row);
    }
    catalogue.default_images = vec![name("machine"), name("box")];
    catalogue
}

#[tokio::test]
async fn the_engine_is_the_one_asked_for_else_the_images_else_whichever_a_host_has() {
    let world = World::with(both()).await;
    let chosen = |image: Option<&str>, engine| {
        let asked = chom_protocol::api::vps_servers::CreateVps {
            image: image.map(name),
            engine,
            ..request("web", "eu-west")
        };
        match images(&world.fleet, &world.fleet.state(), &asked) {
            Ok(images) => {
                images.iter().map(|image| format!("{} in {} ", image.reference.name, image.engine)).collect()
            }
            Err(error) => error.to_string(),
        }
    };
    let said = [
        chosen(None, None),
        chosen(None, Some(Engine::Incus)),
        chosen(None, Some(Engine::Fake)),
        chosen(Some("other-box"), None),
        chosen(Some("other-box"), Some(Engine::Fake)),
        chosen(Some("other-box"), Some(Engine::Libvirt)),
        chosen(Some("gone"), None),
    ];
    expect![[r#"
        machine in libvirt box in incus 
        box in incus 
        name an image; no default is configured for fake
        other-box in incus 
        other-box in fake 
        image `other-box` has format `incus_tarball`, which libvirt cannot run; choose another image
        there is no image `gone`; there are: box, machine, other-box"#]]
    .assert_eq(&said.join("\n"));
}
