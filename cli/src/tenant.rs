//! Tenants: made, listed, limited, deleted.

use chom_protocol::api::tenants::{CreateTenant, Quota, SetExternalId, SetQuota, TenantView};
use chom_protocol::{Bytes, Name};
use clap::{Args, Subcommand};

use crate::error::Failure;
use crate::filters::{Filters, TenantFilters};
use crate::output::{Cell, Table, View};
use crate::session::Session;

/// Where tenants are in the API.
const PATH: &str = "/api/tenants";
const BYTES_PER_GIB: u64 = 1024 * 1024 * 1024;

/// `chomctl tenant`.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Makes a tenant
    Create {
        /// Its name
        name: Name,
        #[command(flatten)]
        quota: QuotaOptions,
        /// What another system, such as a billing system, calls it
        #[arg(long)]
        external_id: Option<String>,
    },
    /// Lists tenants, with what they have
    List(TenantFilters),
    /// Shows a tenant
    Show {
        /// Its name
        name: Name,
    },
    /// Sets how much a tenant may have, whole: what is not given is not limited
    Quota {
        /// Its name
        name: Name,
        #[command(flatten)]
        quota: QuotaOptions,
    },
    /// Says what another system, such as a billing system, calls a tenant
    ExternalId {
        /// Its name
        name: Name,
        /// What; nothing any more where absent
        external_id: Option<String>,
    },
    /// Deletes a tenant that has nothing left
    Delete {
        /// Its name
        name: Name,
    },
}

/// How much it may have.
#[derive(Debug, Args)]
pub(crate) struct QuotaOptions {
    /// VPSs
    #[arg(long)]
    vps: Option<u64>,
    /// Virtual processors
    #[arg(long)]
    cores: Option<u64>,
    /// Memory, GiB
    #[arg(long)]
    memory_gib: Option<u64>,
    /// Disk, GiB
    #[arg(long)]
    disk_gib: Option<u64>,
    /// Addresses and routed prefixes
    #[arg(long)]
    addresses: Option<u64>,
    /// Snapshots
    #[arg(long)]
    snapshots: Option<u64>,
}

impl From<QuotaOptions> for Quota {
    fn from(given: QuotaOptions) -> Self {
        let gib = |count: u64| Bytes(count.saturating_mul(BYTES_PER_GIB));
        Self {
            vps: given.vps,
            cores: given.cores,
            memory_bytes: given.memory_gib.map(gib),
            disk_bytes: given.disk_gib.map(gib),
            addresses: given.addresses,
            snapshots: given.snapshots,
        }
    }
}

/// Runs `chomctl tenant`.
pub(crate) fn run(session: &Session, command: TenantCommand) -> Result<(), Failure> {
    let client = session.client()?;
    let shown: TenantView = match command {
        TenantCommand::List(filters) => {
            let all: Vec<TenantView> = filters.rows(&client, PATH)?;
            return session.screen.show(&all, |view| table(&all, view));
        }
        TenantCommand::Create { name, quota, external_id } => {
            client.post(PATH, &CreateTenant { name, quota: quota.into(), external_id })?
        }
        TenantCommand::Show { name } => client.get(&format!("{PATH}/{name}"))?,
        TenantCommand::Quota { name, quota } => {
            let path = format!("{PATH}/{name}");
            let row: TenantView = client.get(&path)?;
            client.overwrite(&format!("{path}/quota"), &SetQuota { quota: quota.into() }, row.revision)?
        }
        TenantCommand::ExternalId { name, external_id } => {
            client.post(&format!("{PATH}/{name}/external-id"), &SetExternalId { external_id })?
        }
        TenantCommand::Delete { name } => client.delete(&format!("{PATH}/{name}"))?,
    };
    session.screen.show(&shown, |view| table(std::slice::from_ref(&shown), view))
}

fn table(all: &[TenantView], view: &View) -> String {
    let of = |used: String, limit: Option<String>| {
        Cell::from(limit.map_or_else(|| used.clone(), |limit| format!("{used}/{limit}")))
    };
    let number = |used: u64, limit: Option<u64>| of(used.to_string(), limit.map(|limit| limit.to_string()));
    let bytes =
        |used: Bytes, limit: Option<Bytes>| of(used.to_string(), limit.map(|limit| limit.to_string()));
    let mut table =
        Table::new(&["NAME", "VPS", "CORES", "MEMORY", "DISK", "ADDRESSES", "SNAPSHOTS", "EXTERNAL ID"]);
    for tenant in all {
        let (used, quota) = (&tenant.used, &tenant.quota);
        table.row(vec![
            Cell::from(&tenant.name),
            number(used.vps, quota.vps),
            number(used.cores, quota.cores),
            bytes(used.memory_bytes, quota.memory_bytes),
            bytes(used.disk_bytes, quota.disk_bytes),
            number(used.addresses, quota.addresses),
            number(used.snapshots, quota.snapshots),
            Cell::from(tenant.external_id.as_deref().unwrap_or("-").to_owned()),
        ]);
    }
    table.render(view, "no tenants")
}
