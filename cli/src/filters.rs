//! Which rows of a list, and in which order: the API's own parameters as options of the list commands. What they may be is
//! judged by the server, which names what it knows.

use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::Failure;
use crate::session::ListOptions;

/// Which rows.
pub(crate) trait Filters {
    /// As parameters of the API.
    fn pairs(&self) -> Vec<(&'static str, String)>;

    /// How many at most.
    fn limit(&self) -> Option<u32>;

    /// The rows of a list.
    fn rows<T: DeserializeOwned>(&self, client: &Client, path: &str) -> Result<Vec<T>, Failure> {
        client.list_where(path, &self.pairs(), self.limit())
    }
}

macro_rules! filters {
    ($($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident, $value:literal;)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, clap::Args)]
        pub(crate) struct $name {
            $($(#[$doc])* #[arg(long, value_name = $value)] $field: Option<String>,)*
            /// By what rows are sorted, such as name; -name is the other way round
            #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
            sort: Option<String>,
            #[command(flatten)]
            list: ListOptions,
        }

        impl Filters for $name {
            fn pairs(&self) -> Vec<(&'static str, String)> {
                let all = [$((stringify!($field), &self.$field),)* ("sort", &self.sort)];
                all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
            }

            fn limit(&self) -> Option<u32> {
                self.list.limit
            }
        }
    )*};
}

filters! {
    /// Which VPSs.
    VpsFilters {
        /// Only of this tenant
        tenant, "NAME";
        /// Only in this region
        region, "NAME";
        /// Only on this host, by name or id
        host, "HOST";
        /// Only in one of these states, such as running or crashed,unknown
        state, "STATES";
        /// Only of this size
        size, "NAME";
        /// Only made from this image
        image, "NAME";
        /// Only run by one of these: libvirt, incus
        engine, "ENGINES";
        /// Only what another system calls by exactly this
        external_id, "ID";
        /// Only with this text in their name, an address or their external id
        q, "TEXT";
        /// Only deleted ones that are still kept (true), or none of them (false)
        deleted, "BOOL";
    }
    /// Which hosts.
    HostFilters {
        /// Only in this region
        region, "NAME";
        /// Only in one of these states, such as connected or unreachable,held
        state, "STATES";
        /// Only cordoned ones (true), or only others (false)
        cordoned, "BOOL";
        /// Only with all of these labels, such as disk=nvme,rack
        label, "LABELS";
        /// Only with this text in their name or host name
        q, "TEXT";
    }
    /// Which operations.
    OperationFilters {
        /// Only about this VPS, by id
        vps, "ID";
        /// Only on this host, by name or id
        host, "HOST";
        /// Only in one of these states, such as failed or pending,running
        state, "STATES";
        /// Only of one of these kinds, such as create or start,stop
        kind, "KINDS";
        /// Only about VPSs of this tenant
        tenant, "NAME";
    }
    /// Which alerts.
    AlertFilters {
        /// Only in one of these states, such as firing or pending,firing
        state, "STATES";
        /// Only as bad as one of these: warning, critical
        severity, "SEVERITIES";
        /// Only of this rule, such as HostUnreachable
        rule, "RULE";
        /// Only of this host, by name or id
        host, "HOST";
        /// Only of this VPS, by id
        vps, "ID";
        /// Only in this region
        region, "NAME";
    }
    /// Which images.
    ImageFilters {
        /// Only for one of these engines: libvirt, incus
        engine, "ENGINES";
        /// Only from the configuration, or only added ones
        source, "SOURCES";
        /// Only with this text in their name or version
        q, "TEXT";
    }
    /// Which snapshots of a VPS.
    SnapshotFilters {
        /// Only in one of these states, such as ready or missing,unknown
        state, "STATES";
        /// Only with this text in their name
        q, "TEXT";
    }
    /// Which tenants.
    TenantFilters {
        /// Only what another system calls by exactly this
        external_id, "ID";
        /// Only with this text in their name or external id
        q, "TEXT";
    }
    /// Which tokens.
    TokenFilters {
        /// Only of one of these roles, such as admin or owner,member
        role, "ROLES";
        /// Only of this tenant
        tenant, "NAME";
        /// Only those for this VPS, by id
        vps, "ID";
        /// Only with this text in their name
        q, "TEXT";
    }
}
