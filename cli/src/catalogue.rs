//! Regions, sizes and images: what a VPS can be made of.

use std::path::PathBuf;

use chom_protocol::Name;
use chom_protocol::api::catalogue::{
    FetchImage, ImageView, NewImage, PrefetchChanged, PrefetchImage, PrefetchView, RegionView, SizeView,
};
use chom_protocol::api::hosts::HostView;
use chom_protocol::api::operations::OperationView;
use chom_protocol::vps::{Engine, ImageFormat, Sha256};
use clap::Subcommand;

use crate::client::Client;
use crate::error::Failure;
use crate::filters::{Filters, ImageFilters};
use crate::operation::{self, WaitOptions};
use crate::output::{Cell, Table, View, word, yes_no};
use crate::session::{ListOptions, Reference, Session};

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
    List(ImageFilters),
    /// Shows an image
    Show {
        /// Its name
        image: Name,
    },
    /// Adds an image from a file, or from a URL that the orchestrator fetches; hosts that need it get it from there
    Add(AddOptions),
    /// Has hosts get an image before a VPS needs it, and keep it
    Prefetch(PrefetchOptions),
    /// Takes back that hosts are to have an image before a VPS needs it
    Unprefetch(PrefetchOptions),
    /// Lists the hosts that are to have an image before a VPS needs it, and how far each is
    Prefetched {
        /// Its name
        image: Name,
        #[command(flatten)]
        list: ListOptions,
    },
    /// Removes an image that was added and that no VPS was made from
    Remove {
        /// Its name
        image: Name,
    },
}

/// Which image, for which hosts.
#[derive(Debug, clap::Args)]
pub(crate) struct PrefetchOptions {
    /// Its name
    image: Name,
    /// A host, by id or name; may be given several times
    #[arg(long = "host", value_name = "HOST", required_unless_present = "region")]
    hosts: Vec<Reference>,
    /// All hosts that the region has now
    #[arg(long, value_name = "REGION")]
    region: Option<Name>,
}

/// What to add.
#[derive(Debug, clap::Args)]
pub(crate) struct AddOptions {
    /// Its name
    image: Name,
    /// The file
    #[arg(required_unless_present = "url")]
    file: Option<PathBuf>,
    /// Have the orchestrator fetch it from here, by https or http, instead of sending a file
    #[arg(long, conflicts_with = "file", requires = "sha256")]
    url: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
    /// What runs it
    #[arg(long, value_parser = word_of::<Engine>, default_value = "libvirt")]
    engine: Engine,
    /// How its bytes are laid out: qcow2, raw, incus_tarball
    #[arg(long, value_parser = word_of::<ImageFormat>)]
    format: ImageFormat,
    /// Which version of what is in it
    #[arg(long = "image-version", value_name = "VERSION")]
    image_version: Option<String>,
    /// What its bytes must be, as sha256sum(1) prints it
    #[arg(long, value_parser = word_of::<Sha256>)]
    sha256: Option<Sha256>,
    /// Smallest disk that it fits on, where that is more than its header says
    #[arg(long, value_name = "MIB")]
    minimum_disk_mib: Option<u64>,
    /// The user that cloud-init makes in it
    #[arg(long, value_name = "USER")]
    default_user: Option<String>,
}

/// A word as the API writes it.
fn word_of<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
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
    let client = session.client()?;
    let shown: ImageView = match command {
        ImageCommand::List(filters) => {
            let images: Vec<ImageView> = filters.rows(&client, "/api/images")?;
            return session.screen.show(&images, |view| image_table(&images, view));
        }
        ImageCommand::Prefetch(options) => return prefetch(session, &client, "prefetch", options),
        ImageCommand::Unprefetch(options) => return prefetch(session, &client, "unprefetch", options),
        ImageCommand::Prefetched { image, list } => {
            let hosts: Vec<PrefetchView> =
                client.list(&format!("/api/images/{image}/prefetch"), list.limit)?;
            return session.screen.show(&hosts, |view| prefetch_table(&hosts, view));
        }
        ImageCommand::Show { image } => client.get(&format!("/api/images/{image}"))?,
        ImageCommand::Remove { image } => client.delete(&format!("/api/images/{image}"))?,
        ImageCommand::Add(options) => match add(session, &client, options)? {
            Some(added) => added,
            None => return Ok(()),
        },
    };
    session.screen.show(&shown, |view| image_table(std::slice::from_ref(&shown), view))
}

/// Adds an image; gives it if it is there already.
fn add(session: &Session, client: &Client, options: AddOptions) -> Result<Option<ImageView>, Failure> {
    let AddOptions {
        image: name,
        file,
        url,
        wait,
        engine,
        format,
        image_version: version,
        sha256,
        minimum_disk_mib,
        default_user,
    } = options;
    let (url, sha256) = match (file, url, sha256) {
        (_, Some(url), Some(sha256)) => (url, sha256),
        (Some(file), _, sha256) => {
            let new = NewImage { name, version, engine, format, sha256, minimum_disk_mib, default_user };
            return client.upload("/api/images", &new, &file).map(Some);
        }
        // clap asks for a file or for both others.
        (None, _, _) => return Ok(None),
    };
    let path = format!("/api/images/{name}");
    let what = name.to_string();
    let new = FetchImage { name, version, engine, format, url, sha256, minimum_disk_mib, default_user };
    let ordered: OperationView = client.post("/api/image-fetches", &new)?;
    if wait.wait {
        operation::outcome(&operation::wait(client, ordered, &what, wait.timeout)?)?;
        return client.get(&path).map(Some);
    }
    session.screen.show(&ordered, |view| operation::details(&ordered, view))?;
    Ok(None)
}

fn prefetch(session: &Session, client: &Client, what: &str, options: PrefetchOptions) -> Result<(), Failure> {
    let PrefetchOptions { image, hosts, region } = options;
    let mut request = PrefetchImage { hosts: Vec::new(), region };
    for host in hosts {
        // Changes go by id.
        let host: HostView = client.get(&format!("/api/hosts/{host}"))?;
        request.hosts.push(host.id);
    }
    let changed: PrefetchChanged = client.post(&format!("/api/images/{image}/{what}"), &request)?;
    session.screen.show(&changed, |_| format!("{} hosts, {} of them new\n", changed.hosts, changed.changed))
}

fn prefetch_table(hosts: &[PrefetchView], view: &View) -> String {
    let mut table = Table::new(&["HOST", "STATE", "PERCENT", "PROBLEM"]);
    for host in hosts {
        let name = host.host_name.as_ref().map_or_else(|| host.host.to_string(), ToString::to_string);
        table.row(vec![
            Cell::from(name),
            Cell::from(word(&host.state)),
            Cell::from(host.percent.map_or_else(|| "-".to_owned(), |percent| percent.to_string())),
            Cell::from(host.problem.as_deref().unwrap_or("-")),
        ]);
    }
    table.render(view, "no host is to have it")
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
    let narrow = ["NAME", "VERSION", "ENGINE", "FORMAT", "SIZE", "SMALLEST DISK", "USER", "VPS", "DEFAULT"];
    let wide = [
        "NAME",
        "VERSION",
        "ENGINE",
        "FORMAT",
        "SIZE",
        "SMALLEST DISK",
        "USER",
        "VPS",
        "DEFAULT",
        "SOURCE",
        "SHA256",
    ];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for image in images {
        let mut row = vec![
            Cell::from(&image.name),
            Cell::from(image.version.as_deref().unwrap_or("-")),
            Cell::from(image.engine),
            Cell::from(word(&image.format)),
            Cell::from(image.size_bytes),
            Cell::from(image.minimum_disk_bytes),
            Cell::from(image.default_user.as_deref().unwrap_or("-")),
            Cell::from(image.vps_count),
            Cell::from(yes_no(image.default)),
        ];
        if view.wide {
            row.push(Cell::from(word(&image.source)));
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
            NAME       VERSION  ENGINE   FORMAT  SIZE   SMALLEST DISK  USER  VPS  DEFAULT
            debian-12  -        libvirt  qcow2   3 MiB  2 GiB          -     0    yes
        "#]]
        .assert_eq(&text);
    }
}
