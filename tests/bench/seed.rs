//! A store with a large fleet in it: the rows that the use cases wrote of one host and one VPS, written as often as wanted
//! through the store's own commits. Ids, names, tenants and addresses differ; the rest is the same.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use chom_orchestrator::fleet::network::rows::{AddressRow, Scope};
use chom_orchestrator::fleet::rows::{HostRow, ObservedRow, ObservedVpsRow, TenantRow, VpsNameRow, VpsRow};
use chom_orchestrator::fleet::state::Table;
use chom_orchestrator::store::{Commit, Store, encode, sled};
use chom_protocol::{HostId, UnixMillis, VpsId};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::world::{Shape, World, name};

/// Rows of one commit; a commit takes 128.
const ROWS_PER_COMMIT: usize = 120;
/// Commits under way: two groups of the store's writer.
const COMMITS_AT_ONCE: usize = 512;
/// Tenants that VPSs are spread over.
pub(crate) const TENANTS: usize = 100;

/// One of each kind, as the use cases wrote it.
struct Template {
    host: HostRow,
    observed: ObservedRow,
    vps: VpsRow,
    observed_vps: ObservedVpsRow,
    address: AddressRow,
    tenant: TenantRow,
}

/// Fills an empty world with so many hosts, and so many VPSs on each. The world must be down, and is.
pub(crate) async fn fill(world: &World, hosts: usize, vps_per_host: usize) {
    let one = Shape { hosts: 1, vps_per_host: 1, ..Shape::default() };
    world.fill(&one).await;
    let template = template(world).await;
    let mut writer = Writer::open(world);
    for number in 0..TENANTS {
        let row = TenantRow { name: tenant(number), ..template.tenant.clone() };
        writer.put(&row).await;
    }
    for number in 1..hosts {
        let host = HostId::new(Uuid::from_u128(template.host.id.uuid().as_u128() + number as u128));
        writer
            .put(&HostRow { id: host, name: name(&format!("host-{number}")), ..template.host.clone() })
            .await;
        writer.put(&ObservedRow { host, ..template.observed.clone() }).await;
        for place in 0..vps_per_host {
            vps(&mut writer, &template, host, number * vps_per_host + place, place).await;
        }
    }
    writer.end().await;
}

/// Every third of ten hosts was last seen long ago. The world must be down, and is.
pub(crate) async fn lose_three_of_ten(world: &World) {
    let running = world.within().await;
    let state = running.fleet.state();
    let rows: Vec<ObservedRow> = state.observed.values().map(|stored| stored.row.as_ref().clone()).collect();
    drop(state);
    running.stop().await.unwrap();
    let mut writer = Writer::open(world);
    for (_, row) in rows.into_iter().enumerate().filter(|(number, _)| number % 10 < 3) {
        writer.put(&ObservedRow { seen_at: UnixMillis(1), ..row }).await;
    }
    writer.end().await;
}

/// The name of a tenant.
pub(crate) fn tenant(number: usize) -> chom_protocol::Name {
    name(&format!("tenant-{}", number % TENANTS))
}

async fn template(world: &World) -> Template {
    let running = world.within().await;
    let state = running.fleet.state();
    let tenant = TenantRow {
        name: tenant(0),
        quota: Default::default(),
        external_id: None,
        created_at: UnixMillis(1),
        deleted_at: None,
    };
    let template = Template {
        host: state.hosts.values().next().unwrap().row.as_ref().clone(),
        observed: state.observed.values().next().unwrap().row.as_ref().clone(),
        vps: state.vps.values().next().unwrap().row.as_ref().clone(),
        observed_vps: state.observed_vps.values().next().unwrap().row.as_ref().clone(),
        address: state.addresses.values().next().unwrap().row.as_ref().clone(),
        tenant,
    };
    drop(state);
    running.stop().await.unwrap();
    template
}

async fn vps(writer: &mut Writer, of: &Template, host: HostId, number: usize, place: usize) {
    let id = VpsId::new(Uuid::from_u128(of.vps.spec.id.uuid().as_u128() + number as u128));
    let mut row = of.vps.clone();
    (row.host, row.spec.id) = (host, id);
    (row.spec.name, row.spec.tenant) = (name(&format!("vps-{number}")), tenant(number));
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 10)) + place as u32);
    for held in &mut row.spec.interface.addresses {
        held.address = IpAddr::V4(address);
    }
    writer.put(&VpsNameRow { tenant: tenant(number), name: row.spec.name.clone(), vps: id }).await;
    writer.put(&row).await;
    writer.put(&ObservedVpsRow { vps: id, host, ..of.observed_vps.clone() }).await;
    let held = format!("{address}/32").parse().unwrap();
    let scope = Scope::Host(host);
    writer.put(&AddressRow { scope, held, vps: id, host, ..of.address.clone() }).await;
}

/// Commits on their way into the store.
struct Writer {
    store: Arc<dyn Store>,
    commit: Commit,
    under_way: JoinSet<()>,
}

impl Writer {
    fn open(world: &World) -> Self {
        let (folder, exports) = (world.config().store_directory(), world.folder().join("exports"));
        let store = sled::open(&sled::Options { folder, exports }).unwrap();
        Self { store, commit: Commit::new(), under_way: JoinSet::new() }
    }

    async fn put<R: Table>(&mut self, row: &R) {
        let commit = std::mem::take(&mut self.commit);
        self.commit = commit.put(R::key(&row.id()), encode(row).unwrap());
        if self.commit.puts.len() >= ROWS_PER_COMMIT {
            self.send().await;
        }
    }

    async fn send(&mut self) {
        if self.under_way.len() >= COMMITS_AT_ONCE {
            self.under_way.join_next().await.unwrap().unwrap();
        }
        let commit = self.store.commit(std::mem::take(&mut self.commit));
        self.under_way.spawn(async move {
            commit.await.unwrap();
        });
    }

    async fn end(mut self) {
        self.send().await;
        self.under_way.join_all().await;
    }
}
