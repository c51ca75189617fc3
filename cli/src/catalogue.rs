//! Regions, sizes and images: what a VPS can be made of.

use chom_protocol::api::catalogue::{ImageView, RegionView, SizeView};
use clap::Subcommand;

use crate::error::Failure;
use crate::output::{Cell, Table, View, word, yes_no};
use crate::session::{ListOptions, Session};

/// `chomctl region`.
#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Lists regions
    List {
        #[command(flatten)]
        list: ListOptions,
    },
}

/// `chomctl size`.
#[derive(Debug, Subcommand)]
pub(crate) enum SizeCommand {
    /// Lists sizes
    List {
        #[command(flatten)]
        list: ListOptions,
    },
}

/// `chomctl image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Lists images
    List {
        #[command(flatten)]
        list: ListOptions,
    },
}

/// Runs `chomctl region`.
pub(crate) fn regions(session: &Session, command: RegionCommand) -> Result<(), Failure> {
    let RegionCommand::List { list } = command;
    let regions: Vec<RegionView> = session.client()?.list("/api/regions", list.limit)?;
    session.screen.show(&regions, |view| region_table(&regions, view))
}

/// Runs `chomctl size`.
pub(crate) fn sizes(session: &Session, command: SizeCommand) -> Result<(), Failure> {
    let SizeCommand::List { list } = command;
    let sizes: Vec<SizeView> = session.client()?.list("/api/sizes", list.limit)?;
    session.screen.show(&sizes, |view| size_table(&sizes, view))
}

/// Runs `chomctl image`.
pub(crate) fn images(session: &Session, command: ImageCommand) -> Result<(), Failure> {
    let ImageCommand::List { list } = command;
    let images: Vec<ImageView> = session.client()?.list("/api/images", list.limit)?;
    session.screen.show(&images, |view| image_table(&images, view))
}

fn region_table(regions: &[RegionView], view: &View) -> String {
    let mut table = Table::new(&["NAME", "HOSTS", "SCHEDULABLE"]);
    for region in regions {
        table.row(vec![
            Cell::from(&region.name),
            Cell::from(region.hosts),
            Cell::from(region.hosts_schedulable),
        ]);
    }
    table.render(view, "no regions")
}

fn size_table(sizes: &[SizeView], view: &View) -> String {
    let mut table = Table::new(&["NAME", "CORES", "MEMORY", "DISK"]);
    for size in sizes {
        table.row(vec![
            Cell::from(&size.name),
            Cell::from(size.cores),
            Cell::from(size.memory_bytes),
            Cell::from(size.disk_bytes),
        ]);
    }
    table.render(view, "no sizes")
}

fn image_table(images: &[ImageView], view: &View) -> String {
    let narrow = ["NAME", "ENGINE", "FORMAT", "SIZE", "SMALLEST DISK", "DEFAULT"];
    let wide = ["NAME", "ENGINE", "FORMAT", "SIZE", "SMALLEST DISK", "DEFAULT", "SHA256"];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for image in images {
        let mut row = vec![
            Cell::from(&image.name),
            Cell::from(image.engine),
            Cell::from(word(&image.format)),
            Cell::from(image.size_bytes),
            Cell::from(image.minimum_disk_bytes),
            Cell::from(yes_no(image.default)),
        ];
        if view.wide {
            row.push(Cell::from(image.sha256));
        }
        table.row(row);
    }
    table.render(view, "no images")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn the_catalogue_is_in_units_that_people_use() {
        let sizes: Vec<SizeView> = serde_json::from_value(json!([
            {"name": "small", "cores": 1, "memory_bytes": 1_073_741_824u64, "disk_bytes": 10_737_418_240u64}
        ]))
        .unwrap();
        let images: Vec<ImageView> = serde_json::from_value(json!([
            {"name": "debian-12", "engine": "libvirt", "format": "qcow2", "sha256": "ab".repeat(32),
             "size_bytes": 3_145_728, "minimum_disk_bytes": 2_147_483_648u64, "default": true}
        ]))
        .unwrap();
        let regions: Vec<RegionView> =
            serde_json::from_value(json!([{"name": "us-east", "hosts": 3, "hosts_schedulable": 2}])).unwrap();
        let view = test_view(false);
        let text = region_table(&regions, &view) + &size_table(&sizes, &view) + &image_table(&images, &view);
        expect![[r#"
            NAME     HOSTS  SCHEDULABLE
            us-east  3      2
            NAME   CORES  MEMORY  DISK
            small  1      1 GiB   10 GiB
            NAME       ENGINE   FORMAT  SIZE   SMALLEST DISK  DEFAULT
            debian-12  libvirt  qcow2   3 MiB  2 GiB          yes
        "#]]
        .assert_eq(&text);
    }
}
