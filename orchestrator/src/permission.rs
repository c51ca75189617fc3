//! Who may do what: one table of roles and one of routes. The API's gate asks them, the OpenAPI document and
//! `docs/permissions.md` are written from them. Pure; knows no row and no caller: whose a row is, is judged elsewhere.

use std::fmt;

use chom_protocol::api::tokens::Role;

/// What a permission is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// VPSs and what their tenants do with them.
    Vps,
    /// The provider's word on a VPS: suspended, held, how fast its card is, what it may send as.
    VpsCustody,
    /// New VPSs, copies included.
    NewVps,
    /// Snapshots.
    Snapshot,
    /// SSH keys.
    SshKey,
    /// Operations.
    Operation,
    /// The event stream.
    Event,
    /// Images.
    Image,
    /// Regions and sizes.
    Catalogue,
    /// Networks and their pools.
    Network,
    /// Who holds and held addresses.
    Address,
    /// Hosts, their ledgers and labels.
    Host,
    /// Alerts and the notifications that they led to.
    Alert,
    /// The mail server.
    Mail,
    /// The fleet's CAs.
    Authority,
    /// The orchestrator's own metrics.
    Metrics,
    /// Tenants and their quotas.
    Tenant,
    /// API tokens.
    Token,
    /// Who did what.
    Audit,
    /// The log of all of it, with its hashes.
    AuditChain,
    /// Webhooks and their deliveries.
    Webhook,
    /// Usage records.
    Usage,
    /// People who sign in.
    User,
}

/// How much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// To see it.
    Read,
    /// To change it too.
    Change,
}

/// Something that a role may or may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// With what.
    pub subject: Subject,
    /// How much.
    pub access: Access,
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing, not even a token.
    Nothing,
    /// A token of whatever role: it is about whoever shows it.
    Token,
    /// A token whose role has this.
    Permission(Permission),
    /// The same, or a ticket that somebody with such a token has got; its handler judges it.
    PermissionOrTicket(Permission),
}

impl Needs {
    /// What a token's role must have.
    #[must_use]
    pub const fn permission(self) -> Option<Permission> {
        match self {
            Self::Nothing | Self::Token => None,
            Self::Permission(permission) | Self::PermissionOrTicket(permission) => Some(permission),
        }
    }
}

const R: Option<Access> = Some(Access::Read);
const C: Option<Access> = Some(Access::Change);
const N: Option<Access> = None;

/// What each role may do; to change includes to read. The roles' order is that of [`Role::ALL`]: admin, operator, auditor of
/// the fleet; owner, member, viewer of a tenant, who meet nothing but what is their tenant's.
const ROLES: &[(Subject, &str, [Option<Access>; Role::ALL.len()])] = &[
    (Subject::Vps, "vps", [C, C, R, C, C, R]),
    (Subject::VpsCustody, "vps-custody", [C, C, R, N, N, N]),
    (Subject::NewVps, "new-vps", [C, C, N, C, C, N]),
    (Subject::Snapshot, "snapshot", [C, C, R, C, C, R]),
    (Subject::SshKey, "ssh-key", [C, C, R, C, C, R]),
    (Subject::Operation, "operation", [C, C, R, C, C, R]),
    (Subject::Event, "event", [R, R, R, R, R, R]),
    (Subject::Image, "image", [C, C, R, R, R, R]),
    (Subject::Catalogue, "catalogue", [R, R, R, R, R, R]),
    (Subject::Network, "network", [C, C, R, N, N, N]),
    (Subject::Address, "address", [R, R, R, R, R, R]),
    (Subject::Host, "host", [C, C, R, N, N, N]),
    (Subject::Alert, "alert", [C, C, R, N, N, N]),
    (Subject::Mail, "mail", [C, R, R, N, N, N]),
    (Subject::Authority, "authority", [C, R, R, N, N, N]),
    (Subject::Metrics, "metrics", [R, R, R, N, N, N]),
    (Subject::Tenant, "tenant", [C, R, R, R, R, R]),
    (Subject::Token, "token", [C, R, R, C, N, N]),
    (Subject::Audit, "audit", [R, R, R, R, N, N]),
    (Subject::AuditChain, "audit-chain", [R, R, R, N, N, N]),
    (Subject::Webhook, "webhook", [C, C, R, C, N, N]),
    (Subject::Usage, "usage", [R, R, R, R, R, R]),
    (Subject::User, "user", [C, R, R, C, N, N]),
];

/// What each route needs, by its operation id in the OpenAPI document. A route that is not here is answered with an error.
const ROUTES: &[(&str, Needs)] = &[
    ("openapi", Needs::Nothing),
    ("reference", Needs::Nothing),
    ("show_problem", Needs::Nothing),
    ("healthz", Needs::Nothing),
    ("readyz", Needs::Nothing),
    ("metrics", read(Subject::Metrics)),
    ("list_regions", read(Subject::Catalogue)),
    ("list_sizes", read(Subject::Catalogue)),
    ("list_images", read(Subject::Image)),
    ("show_image", read(Subject::Image)),
    ("add_image", change(Subject::Image)),
    ("fetch_image", change(Subject::Image)),
    ("remove_image", change(Subject::Image)),
    ("list_prefetches", read(Subject::Host)),
    ("prefetch_image", change(Subject::Image)),
    ("unprefetch_image", change(Subject::Image)),
    ("list_ssh_keys", read(Subject::SshKey)),
    ("add_ssh_key", change(Subject::SshKey)),
    ("remove_ssh_key", change(Subject::SshKey)),
    ("list_tenants", read(Subject::Tenant)),
    ("show_tenant", read(Subject::Tenant)),
    ("create_tenant", change(Subject::Tenant)),
    ("set_quota", change(Subject::Tenant)),
    ("set_tenant_external_id", change(Subject::Tenant)),
    ("delete_tenant", change(Subject::Tenant)),
    ("list_tokens", read(Subject::Token)),
    ("create_token", change(Subject::Token)),
    ("revoke_token", change(Subject::Token)),
    ("sign_in", Needs::Nothing),
    ("sign_out", Needs::Token),
    ("who_am_i", Needs::Token),
    ("change_password", Needs::Token),
    ("list_users", read(Subject::User)),
    ("show_user", read(Subject::User)),
    ("create_user", change(Subject::User)),
    ("set_user_role", change(Subject::User)),
    ("set_user_password", change(Subject::User)),
    ("disable_user", change(Subject::User)),
    ("enable_user", change(Subject::User)),
    ("delete_user", change(Subject::User)),
    ("list_hosts", read(Subject::Host)),
    ("show_host", read(Subject::Host)),
    ("host_metrics", read(Subject::Host)),
    ("add_host", change(Subject::Host)),
    ("cordon_host", change(Subject::Host)),
    ("label_host", change(Subject::Host)),
    ("limit_host", change(Subject::Host)),
    ("forget_host", change(Subject::Host)),
    ("revoke_host", change(Subject::Host)),
    ("show_ledger", read(Subject::Host)),
    ("resolve_ledger", change(Subject::Host)),
    ("allow_destroys", change(Subject::Host)),
    ("list_vps", read(Subject::Vps)),
    ("show_vps", read(Subject::Vps)),
    ("vps_metrics", read(Subject::Vps)),
    ("create_vps", change(Subject::NewVps)),
    ("start_vps", change(Subject::Vps)),
    ("stop_vps", change(Subject::Vps)),
    ("restart_vps", change(Subject::Vps)),
    ("pause_vps", change(Subject::Vps)),
    ("resume_vps", change(Subject::Vps)),
    ("resize_vps", change(Subject::Vps)),
    ("rebuild_vps", change(Subject::Vps)),
    ("rename_vps", change(Subject::Vps)),
    ("delete_vps", change(Subject::Vps)),
    ("undelete_vps", change(Subject::Vps)),
    ("purge_vps", change(Subject::Vps)),
    ("clone_vps", change(Subject::NewVps)),
    // Each order is judged besides as if it were given to one VPS.
    ("order_many", change(Subject::Vps)),
    ("rescue_vps", change(Subject::Vps)),
    ("unrescue_vps", change(Subject::Vps)),
    ("attach_iso", change(Subject::Vps)),
    ("detach_iso", change(Subject::Vps)),
    ("open_console", or_ticket(Subject::Vps)),
    ("open_screen", or_ticket(Subject::Vps)),
    ("console_token", change(Subject::Vps)),
    ("reset_password", change(Subject::Vps)),
    ("show_vps_network", read(Subject::Vps)),
    // They are about guests of a host that nobody's tenant has yet.
    ("adopt_vps", change(Subject::VpsCustody)),
    ("plan_adoptions", change(Subject::VpsCustody)),
    ("hold_vps", change(Subject::VpsCustody)),
    ("suspend_vps", change(Subject::VpsCustody)),
    ("unsuspend_vps", change(Subject::VpsCustody)),
    ("set_vps_external_id", change(Subject::VpsCustody)),
    // They lift guards, rates and quotas, and take addresses of the operator's choice.
    ("change_vps_network", change(Subject::VpsCustody)),
    ("change_vps_addresses", change(Subject::VpsCustody)),
    ("list_snapshots", read(Subject::Snapshot)),
    ("take_snapshot", change(Subject::Snapshot)),
    ("delete_snapshot", change(Subject::Snapshot)),
    ("restore_snapshot", change(Subject::Snapshot)),
    ("list_networks", read(Subject::Network)),
    ("show_network", read(Subject::Network)),
    ("create_network", change(Subject::Network)),
    ("delete_network", change(Subject::Network)),
    ("put_pool", change(Subject::Network)),
    ("remove_pool", change(Subject::Network)),
    ("list_addresses", read(Subject::Address)),
    ("list_operations", read(Subject::Operation)),
    ("show_operation", read(Subject::Operation)),
    ("cancel_operation", change(Subject::Operation)),
    ("resume_operation", change(Subject::Operation)),
    ("list_bulk_items", read(Subject::Operation)),
    ("watch_events", read(Subject::Event)),
    ("list_audit", read(Subject::Audit)),
    ("read_audit_chain", read(Subject::AuditChain)),
    ("list_alerts", read(Subject::Alert)),
    ("list_notifications", read(Subject::Alert)),
    ("show_smtp", read(Subject::Mail)),
    ("configure_smtp", change(Subject::Mail)),
    ("test_smtp", change(Subject::Mail)),
    ("list_webhooks", read(Subject::Webhook)),
    ("show_webhook", read(Subject::Webhook)),
    ("create_webhook", change(Subject::Webhook)),
    ("update_webhook", change(Subject::Webhook)),
    ("delete_webhook", change(Subject::Webhook)),
    ("test_webhook", change(Subject::Webhook)),
    ("list_deliveries", read(Subject::Webhook)),
    ("replay_webhook", change(Subject::Webhook)),
    ("list_usage", read(Subject::Usage)),
    ("list_authorities", read(Subject::Authority)),
    ("rotate_authority", change(Subject::Authority)),
    ("retire_authority", change(Subject::Authority)),
];

const fn read(subject: Subject) -> Needs {
    Needs::Permission(Permission { subject, access: Access::Read })
}

const fn change(subject: Subject) -> Needs {
    Needs::Permission(Permission { subject, access: Access::Change })
}

const fn or_ticket(subject: Subject) -> Needs {
    Needs::PermissionOrTicket(Permission { subject, access: Access::Change })
}

/// What a route needs, by its operation id; none: the table does not know it, and nobody may call it.
#[must_use]
pub fn of_route(operation_id: &str) -> Option<Needs> {
    ROUTES.iter().find(|(id, _)| *id == operation_id).map(|(_, needs)| *needs)
}

/// The operation ids of all routes that the table knows.
#[cfg(test)]
pub(crate) fn route_ids() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|(id, _)| *id)
}

/// Whether a role has a permission.
#[must_use]
pub fn may(role: Role, permission: Permission) -> bool {
    let given = ROLES.iter().find(|(subject, ..)| *subject == permission.subject);
    let place = Role::ALL.iter().position(|other| *other == role);
    let access = given.zip(place).and_then(|((.., roles), place)| roles.get(place).copied().flatten());
    access.is_some_and(|access| access >= permission.access)
}

/// Whether a token for one VPS alone may have it, if its role does: what is about that VPS, and what is nobody's.
#[must_use]
pub fn is_of_one_vps(permission: Permission) -> bool {
    use Subject::{Catalogue, Event, Image, Operation, Snapshot, Vps};
    matches!(permission.subject, Vps | Snapshot | Operation | Event | Catalogue | Image)
}

/// What a role may do, of each subject the most; with one VPS alone, what is about that one.
#[must_use]
pub fn of_role(role: Role, one_vps: bool) -> Vec<String> {
    let all = ROLES.iter().flat_map(|(subject, ..)| {
        let most = [Access::Change, Access::Read].map(|access| Permission { subject: *subject, access });
        most.into_iter().find(|permission| may(role, *permission))
    });
    let all = all.filter(|permission| !one_vps || is_of_one_vps(*permission));
    all.map(|permission| permission.to_string()).collect()
}

/// The roles that have a permission.
#[must_use]
pub fn roles_with(permission: Permission) -> Vec<Role> {
    Role::ALL.into_iter().filter(|role| may(*role, permission)).collect()
}

impl fmt::Display for Permission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            ROLES.iter().find(|(subject, ..)| *subject == self.subject).map_or("", |(_, name, _)| name);
        let access = match self.access {
            Access::Read => "read",
            Access::Change => "change",
        };
        write!(out, "{name}:{access}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_subject_and_every_route_is_in_its_table_once() {
        let subjects: BTreeSet<Subject> = ROLES.iter().map(|(subject, ..)| *subject).collect();
        assert_eq!(subjects.len(), ROLES.len());
        for (id, needs) in ROUTES {
            assert_eq!(ROUTES.iter().filter(|(other, _)| other == id).count(), 1, "{id}");
            if let Some(permission) = needs.permission() {
                assert!(subjects.contains(&permission.subject), "{id}");
                assert!(may(Role::Admin, permission), "an admin may do everything, also {id}");
            }
        }
    }

    #[test]
    fn a_role_may_do_no_more_than_the_one_above_it() {
        let above =
            [(Role::Operator, Role::Admin), (Role::Auditor, Role::Operator), (Role::Member, Role::Owner)];
        for (lower, higher) in
            above.into_iter().chain([(Role::Viewer, Role::Member), (Role::Owner, Role::Admin)])
        {
            for (subject, ..) in ROLES {
                for access in [Access::Read, Access::Change] {
                    let permission = Permission { subject: *subject, access };
                    assert!(!may(lower, permission) || may(higher, permission), "{lower} {permission}");
                }
            }
        }
        for (subject, ..) in ROLES {
            let permission = Permission { subject: *subject, access: Access::Change };
            assert!(!may(Role::Auditor, permission) && !may(Role::Viewer, permission), "{permission}");
        }
    }

    #[test]
    fn the_documentation_has_these_tables() {
        let mut text = "# Who may do what\nWritten from the table that the API's gate asks (`orchestrator/src/permission.rs`); `change` includes `read`. \
            Roles of a tenant meet nothing but what is\ntheir tenant's: everything else answers as what does not exist.\n\n| |"
            .to_owned();
        text.extend(Role::ALL.iter().map(|role| format!(" {role} |")));
        text += "\n|---|---|---|---|---|---|---|\n";
        for (_, name, roles) in ROLES {
            let words = roles.iter().map(|access| match access {
                None => " |",
                Some(Access::Read) => " read |",
                Some(Access::Change) => " change |",
            });
            text += &format!("| {name} |{}\n", words.collect::<String>());
        }
        text += "\n| route (operation id) | needs |\n|---|---|\n";
        for (id, needs) in ROUTES {
            let needs = match needs {
                Needs::Nothing => "nothing, not even a token".to_owned(),
                Needs::Token => "a token of whatever role".to_owned(),
                Needs::Permission(permission) => format!("`{permission}`"),
                Needs::PermissionOrTicket(permission) => format!("`{permission}`, or a ticket"),
            };
            text += &format!("| `{id}` | {needs} |\n");
        }
        expect_test::expect_file!["../../docs/permissions.md"].assert_eq(&text);
    }
}
