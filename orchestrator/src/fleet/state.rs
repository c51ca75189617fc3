//! The whole desired state in memory: persistent maps, so that a snapshot costs nothing and readers never wait. Rows get
//! in by the decider and by loading; indexes follow by themselves.

use std::sync::Arc;

use chom_protocol::vps::Sha256;
use chom_protocol::{
    AlertId, Bytes, EnrolmentId, HostId, JobId, Name, NotificationId, OperationId, SnapshotId, TokenId,
    UnixMillis, UserId, UserName, VpsId, WebhookId,
};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use crate::alerts::rows::{AlertRow, GroupRow};
use crate::fleet::audit::THE_LOG;
use crate::fleet::events::Touched;
use crate::fleet::network::rows::{AddressRow, FormerAddressRow, NetworkRow, PoolRow, Scope, TrafficRow};
use crate::fleet::rows::{
    AuditHeadRow, AuditRow, AuthorityRow, BlobRow, BulkChunkRow, BulkRow, EnrolmentRow, Goal, HostRow,
    HostStanding, IdempotencyRow, ImageFetchRow, ImageRow, JobRow, ObservedRow, ObservedVpsRow, OperationRow,
    PrefetchRow, SnapshotRow, SshKeyRow, TenantRow, TokenRow, VpsNameRow, VpsRow,
};
use crate::fleet::sessions::EXPIRED_KEPT_SECONDS;
use crate::fleet::users::rows::{SignInLockRow, UserRow, index_lock, index_user};
use crate::notify::rows::{NotificationRow, SmtpRow, THE_SERVER};
use crate::notify::webhook::rows::{DeliveryRow, JournalRow, WebhookRow};
use crate::store::record::{self, Meta, RecordError, Row};
use crate::store::{Key, Part, Prefix, Record, Revision};
use crate::usage::rows::{ClosingRow, HeldRow, THE_CLOSING};

/// A row and the commit that last wrote it.
#[derive(Debug)]
pub struct Stored<R> {
    /// The row.
    pub row: Arc<R>,
    /// What `If-Match` compares.
    pub revision: Revision,
}

impl<R> Clone for Stored<R> {
    fn clone(&self) -> Self {
        Self { row: Arc::clone(&self.row), revision: self.revision }
    }
}

/// A kind of row with its place in the store and in memory.
pub trait Table: Row + Clone + Sized + 'static {
    /// Its id.
    type Id: Ord + Clone;

    /// The row's id.
    fn id(&self) -> Self::Id;

    /// Where it stands in the store.
    fn key(id: &Self::Id) -> Key;

    /// The folder of all of them.
    fn folder() -> Prefix;

    /// All of them.
    fn rows(state: &State) -> &OrdMap<Self::Id, Stored<Self>>;

    #[doc(hidden)]
    fn rows_mut(state: &mut State) -> &mut OrdMap<Self::Id, Stored<Self>>;

    /// Keeps indexes true when a row changes.
    fn index(_state: &mut State, _old: Option<&Self>, _new: Option<&Self>) {}

    /// What those who watch lists are told when it is written or removed.
    fn touched(&self, _state: &State) -> Option<Touched> {
        None
    }
}

/// What VPSs on a host hold of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Cores of VPSs that are not retained.
    pub cores: u32,
    /// Memory of VPSs that are not retained.
    pub memory: Bytes,
    /// Disk of all VPSs.
    pub disk: Bytes,
    /// VPSs, retained ones included.
    pub count: u32,
}

/// What a moment makes due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// An operation that has not ended.
    Operation(OperationId),
    /// The purge of a deleted VPS.
    Purge(VpsId),
    /// The end of a kept answer.
    Answer(Sha256),
    /// The end of a token to enrol with.
    Enrolment(EnrolmentId),
    /// The end of a session.
    Session(TokenId),
    /// The end of a lock of a user's name.
    SignInLock(Sha256),
}

macro_rules! tables {
    ($($field:ident: $row:ident, $kind:literal, $schema:literal, $folder:literal, $id:ty, |$this:ident| $of:expr, |$key:ident, $prefix:ident| $place:expr $(, index $index:path)? $(, touches $touched:path)?;)*) => {
        /// Everything that is stored, as of one revision.
        #[derive(Debug, Clone, Default)]
        pub struct State {
            /// The newest commit in it.
            pub revision: Revision,
            /// What the store is; always there once loaded.
            pub meta: Option<Meta>,
            $(#[doc = concat!("Rows of kind `", $kind, "`.")] pub $field: OrdMap<$id, Stored<$row>>,)*
            /// The VPSs of each host.
            pub vps_of_host: OrdMap<HostId, OrdSet<VpsId>>,
            /// The VPSs of each tenant.
            pub vps_of_tenant: OrdMap<Name, OrdSet<VpsId>>,
            /// The VPSs of each region.
            pub vps_of_region: OrdMap<Name, OrdSet<VpsId>>,
            /// All VPSs by name.
            pub vps_by_name: OrdSet<(Name, VpsId)>,
            /// All VPSs by when they were made; an adopted one's id says nothing of that.
            pub vps_by_age: OrdSet<(UnixMillis, VpsId)>,
            /// Tokens by what they hash to.
            pub token_of_hash: OrdMap<Sha256, TokenId>,
            /// Users by tenant and name.
            pub user_of_name: OrdMap<(Option<Name>, UserName), UserId>,
            /// The sessions of each user, oldest first.
            pub sessions_of_user: OrdMap<UserId, OrdSet<TokenId>>,
            /// What they hold.
            pub held: OrdMap<HostId, Held>,
            /// On which hosts VPSs of an anti-affinity group stand, and how many: by tenant, group and host.
            pub group_members: OrdMap<(Name, Name, HostId), u32>,
            /// Operations that have not ended, by host.
            pub open_operations: OrdSet<(HostId, OperationId)>,
            /// The operations about a tenant's VPSs, and its callers' orders on many.
            pub operations_of_tenant: OrdMap<Name, OrdSet<OperationId>>,
            /// The operations about each VPS.
            pub operations_of_vps: OrdSet<(VpsId, OperationId)>,
            /// Orders on many VPSs that have not ended.
            pub open_bulks: OrdSet<OperationId>,
            /// The open operation of a VPS.
            pub operation_of_vps: OrdMap<VpsId, OperationId>,
            /// What each VPS holds of addresses and prefixes.
            pub addresses_of_vps: OrdSet<(VpsId, Scope, IpNet)>,
            /// Hosts of the fleet by name.
            pub host_of_name: OrdMap<Name, HostId>,
            /// What becomes due, the earliest first.
            pub deadlines: OrdSet<(UnixMillis, Deadline)>,
        }

        $(
            impl Row for $row {
                const KIND: &'static str = $kind;
                const SCHEMA: u32 = $schema;
            }

            impl Table for $row {
                type Id = $id;

                fn id(&self) -> $id {
                    let $this = self;
                    $of
                }

                fn key($key: &$id) -> Key {
                    let $prefix = Self::folder();
                    $place
                }

                fn folder() -> Prefix {
                    const FOLDER: Prefix = Prefix::folder(concat!("/chom/v1/", $folder, "/"));
                    FOLDER
                }

                fn rows(state: &State) -> &OrdMap<$id, Stored<Self>> {
                    &state.$field
                }

                fn rows_mut(state: &mut State) -> &mut OrdMap<$id, Stored<Self>> {
                    &mut state.$field
                }

                $(fn index(state: &mut State, old: Option<&Self>, new: Option<&Self>) {
                    $index(state, old, new);
                })?

                $(fn touched(&self, state: &State) -> Option<Touched> {
                    $touched(state, self)
                })?
            }
        )*

        #[cfg(test)]
        impl State {
            /// Every kind of row.
            pub(crate) const KINDS: &'static [&'static str] = &[$($kind),*];

            /// Every row as it would be stored.
            pub(crate) fn dump(&self) -> Vec<(&'static str, Key, Arc<str>)> {
                let mut all = Vec::new();
                $(for stored in self.$field.values() {
                    all.push(($kind, $row::key(&stored.row.id()), record::encode(stored.row.as_ref()).unwrap()));
                })*
                all
            }
        }

        impl State {
            /// Takes a row as the store has it. A row of no folder we know is left alone: a newer release wrote it.
            ///
            /// Gives back whether the row is of an older schema and should be written anew.
            pub(super) fn load(&mut self, record: &Record) -> Result<Option<(Key, Arc<str>)>, RecordError> {
                if record.key == Meta::key() {
                    self.meta = Some(record::decode::<Meta>(record)?.row);
                    return Ok(None);
                }
                $(if $row::folder().contains(&record.key) {
                    let decoded = record::decode::<$row>(record)?;
                    let newer = if decoded.outdated { Some(record::encode(&decoded.row)?) } else { None };
                    self.insert(decoded.row, record.mod_revision);
                    return Ok(newer.map(|value| (record.key.clone(), value)));
                })*
                Ok(None)
            }
        }
    };
}

tables! {
    hosts: HostRow, "host", 1, "hosts", HostId, |row| row.id, |id, folder| folder.row(id), index index_host, touches host;
    enrolments: EnrolmentRow, "enrolment", 1, "enrolments", EnrolmentId, |row| row.id, |id, folder| folder.row(id),
        index index_enrolment;
    vps: VpsRow, "vps", 1, "vps", VpsId, |row| row.spec.id, |id, folder| folder.row(id), index index_vps, touches vps;
    vps_names: VpsNameRow, "vps-name", 1, "vps-names", (Name, Name), |row| (row.tenant.clone(), row.name.clone()),
        |id, folder| folder.within(&id.0).row(&id.1);
    networks: NetworkRow, "network", 1, "networks", Name, |row| row.name.clone(), |id, folder| folder.row(id);
    pools: PoolRow, "pool", 1, "pools", (Name, IpNet), |row| (row.network.clone(), row.prefix),
        |id, folder| folder.within(&id.0).row(&id.1);
    addresses: AddressRow, "address", 1, "addresses", (Scope, IpNet), |row| (row.scope.clone(), row.held),
        |id, folder| in_scope(&folder, &id.0).row(&id.1), index index_address;
    former_addresses: FormerAddressRow, "former-address", 1, "former-addresses", (UnixMillis, Scope, IpNet),
        |row| (row.until, row.row.scope.clone(), row.row.held),
        |id, folder| in_scope(&folder.within(&id.0.0), &id.1).row(&id.2);
    traffic: TrafficRow, "traffic", 1, "traffic", VpsId, |row| row.vps, |id, folder| folder.row(id);
    blobs: BlobRow, "blob", 1, "blobs", Sha256, |row| row.sha256, |id, folder| folder.row(id);
    operations: OperationRow, "operation", 1, "operations", OperationId, |row| row.id, |id, folder| folder.row(id),
        index index_operation, touches operation;
    bulks: BulkRow, "bulk", 1, "bulks", OperationId, |row| row.id, |id, folder| folder.row(id);
    bulk_chunks: BulkChunkRow, "bulk-chunk", 1, "bulk-chunks", (OperationId, u32), |row| (row.bulk, row.number),
        |id, folder| folder.within(&id.0).row(&u64::from(id.1));
    snapshots: SnapshotRow, "snapshot", 1, "snapshots", (VpsId, SnapshotId), |row| (row.vps, row.id),
        |id, folder| folder.within(&id.0).row(&id.1);
    jobs: JobRow, "job", 1, "jobs", (HostId, JobId), |row| (row.host, row.id),
        |id, folder| folder.within(&id.0).row(&id.1);
    images: ImageRow, "image", 1, "images", Name, |row| row.name.clone(), |id, folder| folder.row(id);
    image_fetches: ImageFetchRow, "image-fetch", 1, "image-fetches", Name, |row| row.name.clone(),
        |id, folder| folder.row(id);
    prefetches: PrefetchRow, "prefetch", 1, "prefetches", HostId, |row| row.host, |id, folder| folder.row(id);
    ssh_keys: SshKeyRow, "ssh-key", 1, "ssh-keys", (Name, Name), |row| (row.tenant.clone(), row.name.clone()),
        |id, folder| folder.within(&id.0).row(&id.1);
    tokens: TokenRow, "token", 1, "tokens", TokenId, |row| row.id, |id, folder| folder.row(id), index index_token;
    users: UserRow, "user", 1, "users", UserId, |row| row.id, |id, folder| folder.row(id), index index_user;
    sign_in_locks: SignInLockRow, "sign-in-lock", 1, "sign-in-locks", Sha256, |row| row.id, |id, folder| folder.row(id),
        index index_lock;
    tenants: TenantRow, "tenant", 1, "tenants", Name, |row| row.name.clone(), |id, folder| folder.row(id);
    idempotency: IdempotencyRow, "idempotency", 1, "idempotency", Sha256, |row| row.id, |id, folder| folder.row(id),
        index index_answer;
    audit: AuditRow, "audit", 1, "audit", u64, |row| row.sequence, |id, folder| folder.row(id);
    audit_heads: AuditHeadRow, "audit-head", 1, "audit-heads", u64, |_row| THE_LOG, |id, folder| folder.row(id);
    observed: ObservedRow, "observed", 1, "observed", HostId, |row| row.host, |id, folder| folder.row(id), touches observed;
    observed_vps: ObservedVpsRow, "observed-vps", 1, "observed-vps", VpsId, |row| row.vps, |id, folder| folder.row(id),
        touches observed_vps;
    authorities: AuthorityRow, "authority", 1, "authorities", u64, |row| row.number, |id, folder| folder.row(id);
    alerts: AlertRow, "alert", 1, "alerts", AlertId, |row| row.id, |id, folder| folder.row(id), touches alert;
    alert_groups: GroupRow, "alert-group", 1, "alert-groups", Sha256, |row| row.group.id(), |id, folder| folder.row(id);
    notifications: NotificationRow, "notification", 1, "notifications", NotificationId, |row| row.id, |id, folder| folder.row(id);
    webhooks: WebhookRow, "webhook", 1, "webhooks", WebhookId, |row| row.id, |id, folder| folder.row(id);
    journal: JournalRow, "journal", 1, "journal", u64, |row| row.sequence, |id, folder| folder.row(id);
    deliveries: DeliveryRow, "delivery", 1, "deliveries", (WebhookId, u64), |row| (row.webhook, row.sequence),
        |id, folder| folder.within(&id.0).row(&id.1);
    closings: ClosingRow, "usage-closing", 1, "usage-closings", u64, |_row| THE_CLOSING, |id, folder| folder.row(id);
    held_vps: HeldRow, "usage-held", 1, "usage-held", (VpsId, UnixMillis), |row| (row.vps, row.until),
        |id, folder| folder.within(&id.0).row(&id.1.0);
    smtp: SmtpRow, "smtp", 1, "smtp", u64, |_row| THE_SERVER, |id, folder| folder.row(id);
}

/// Hosts' ids and networks' names never meet: each kind has a folder.
fn in_scope(folder: &Prefix, scope: &Scope) -> Prefix {
    const HOST: Part = Part::named("host");
    const NETWORK: Part = Part::named("network");
    match scope {
        Scope::Host(host) => folder.within(&HOST).within(host),
        Scope::Network(name) => folder.within(&NETWORK).within(name),
    }
}

impl State {
    /// A row by its id.
    #[must_use]
    pub fn get<R: Table>(&self, id: &R::Id) -> Option<&R> {
        R::rows(self).get(id).map(|stored| stored.row.as_ref())
    }

    /// Puts a row in place of the one with its id.
    pub fn insert<R: Table>(&mut self, row: R, revision: Revision) {
        let row = Arc::new(row);
        let stored = Stored { row: Arc::clone(&row), revision };
        let old = R::rows_mut(self).insert(row.id(), stored);
        R::index(self, old.as_ref().map(|stored| stored.row.as_ref()), Some(&row));
    }

    /// Takes a row away.
    pub fn remove<R: Table>(&mut self, id: &R::Id) {
        if let Some(old) = R::rows_mut(self).remove(id) {
            R::index(self, Some(&old.row), None);
        }
    }

    /// The VPSs of a host, in order of id.
    pub fn vps_on(&self, host: HostId) -> impl Iterator<Item = &VpsRow> {
        self.vps_of_host.get(&host).into_iter().flatten().filter_map(|id| self.get::<VpsRow>(id))
    }

    /// What a VPS holds of addresses and prefixes.
    pub fn addresses_of(&self, vps: VpsId) -> impl Iterator<Item = &AddressRow> {
        let first = (vps, Scope::Host(HostId::new(uuid::Uuid::nil())), IpNet::default());
        let own = self.addresses_of_vps.range(first..).take_while(move |(of, ..)| *of == vps);
        own.filter_map(|(_, scope, held)| self.get::<AddressRow>(&(scope.clone(), *held)))
    }

    /// The operations about a VPS, oldest first.
    pub fn operations_about(&self, vps: VpsId) -> impl DoubleEndedIterator<Item = OperationId> {
        let (first, last) = (OperationId::new(uuid::Uuid::nil()), OperationId::new(uuid::Uuid::max()));
        self.operations_of_vps.range((vps, first)..=(vps, last)).map(|(_, id)| *id)
    }

    /// The snapshots of a VPS, oldest first.
    pub fn snapshots_of(&self, vps: VpsId) -> impl Iterator<Item = &SnapshotRow> {
        let (first, last) = (SnapshotId::new(uuid::Uuid::nil()), SnapshotId::new(uuid::Uuid::max()));
        self.snapshots.range((vps, first)..=(vps, last)).map(|(_, stored)| stored.row.as_ref())
    }

    /// What a VPS had before it was changed, oldest first.
    pub fn held_before(&self, vps: VpsId) -> impl DoubleEndedIterator<Item = &HeldRow> {
        let all = (vps, UnixMillis(0))..=(vps, UnixMillis(u64::MAX));
        self.held_vps.range(all).map(|(_, stored)| stored.row.as_ref())
    }

    /// The deliveries of a webhook, oldest first.
    pub fn queue_of(&self, webhook: WebhookId) -> impl DoubleEndedIterator<Item = &DeliveryRow> {
        let all = (webhook, 0)..=(webhook, u64::MAX);
        self.deliveries.range(all).map(|(_, stored)| stored.row.as_ref())
    }

    /// The jobs of a host, oldest first.
    pub fn jobs_of(&self, host: HostId) -> impl Iterator<Item = &JobRow> {
        let (first, last) = (JobId::new(uuid::Uuid::nil()), JobId::new(uuid::Uuid::max()));
        self.jobs.range((host, first)..=(host, last)).map(|(_, stored)| stored.row.as_ref())
    }

    /// How far the audit log is.
    #[must_use]
    pub fn audit_head(&self) -> AuditHeadRow {
        self.get::<AuditHeadRow>(&THE_LOG).cloned().unwrap_or_default()
    }

    /// A host by its name. Names are free again once a host was put out of the fleet.
    #[must_use]
    pub fn host_named(&self, name: &Name) -> Option<&HostRow> {
        self.host_of_name.get(name).and_then(|id| self.get::<HostRow>(id))
    }
}

fn index_host(state: &mut State, old: Option<&HostRow>, new: Option<&HostRow>) {
    let in_fleet = |row: &&HostRow| !matches!(row.standing, HostStanding::Forgotten | HostStanding::Revoked);
    if let Some(row) = old.filter(in_fleet)
        && state.host_of_name.get(&row.name) == Some(&row.id)
    {
        state.host_of_name.remove(&row.name);
    }
    if let Some(row) = new.filter(in_fleet) {
        state.host_of_name.insert(row.name.clone(), row.id);
    }
}

/// Moves a row's deadline.
pub(in crate::fleet) fn index_deadline<R>(
    state: &mut State,
    old: Option<&R>,
    new: Option<&R>,
    deadline: impl Fn(&R) -> Option<(UnixMillis, Deadline)>,
) {
    let (old, new) = (old.and_then(&deadline), new.and_then(&deadline));
    if old == new {
        return;
    }
    if let Some(old) = old {
        state.deadlines.remove(&old);
    }
    if let Some(new) = new {
        state.deadlines.insert(new);
    }
}

fn index_enrolment(state: &mut State, old: Option<&EnrolmentRow>, new: Option<&EnrolmentRow>) {
    let forgotten_at = |row: &EnrolmentRow| row.expires_at.plus_seconds(EXPIRED_KEPT_SECONDS);
    index_deadline(state, old, new, |row| Some((forgotten_at(row), Deadline::Enrolment(row.id))));
}

fn index_answer(state: &mut State, old: Option<&IdempotencyRow>, new: Option<&IdempotencyRow>) {
    index_deadline(state, old, new, |row| Some((row.expires_at, Deadline::Answer(row.id))));
}

fn index_token(state: &mut State, old: Option<&TokenRow>, new: Option<&TokenRow>) {
    index_deadline(state, old, new, |row| {
        row.expires_at.filter(|_| row.user.is_some()).map(|end| (end, Deadline::Session(row.id)))
    });
    if let Some(row) = old {
        state.token_of_hash.remove(&row.hash);
        if let Some(user) = row.user
            && let Some(ids) = state.sessions_of_user.get_mut(&user)
        {
            ids.remove(&row.id);
            if ids.is_empty() {
                state.sessions_of_user.remove(&user);
            }
        }
    }
    if let Some(row) = new {
        state.token_of_hash.insert(row.hash, row.id);
        if let Some(user) = row.user {
            state.sessions_of_user.entry(user).or_default().insert(row.id);
        }
    }
}

fn index_vps(state: &mut State, old: Option<&VpsRow>, new: Option<&VpsRow>) {
    index_deadline(state, old, new, |row| {
        let kept = row.retention.filter(|_| row.purging.is_none())?;
        Some((kept.purge_at, Deadline::Purge(row.spec.id)))
    });
    if let Some(row) = old {
        let mut held = state.held.get(&row.host).copied().unwrap_or_default();
        let (cores, memory) = promised(row);
        held.cores -= cores;
        held.memory.0 -= memory.0;
        held.disk.0 -= row.spec.disk.0;
        held.count -= 1;
        state.held.insert(row.host, held);
        if let Some(ids) = state.vps_of_host.get_mut(&row.host) {
            ids.remove(&row.spec.id);
        }
        leave(&mut state.vps_of_tenant, &row.spec.tenant, &row.spec.id);
        leave(&mut state.vps_of_region, &row.region, &row.spec.id);
        state.vps_by_name.remove(&(row.spec.name.clone(), row.spec.id));
        state.vps_by_age.remove(&(row.created_at, row.spec.id));
        if let Some(key) = group_of(row) {
            match state.group_members.get(&key).copied() {
                Some(count) if count > 1 => state.group_members.insert(key, count - 1),
                _ => state.group_members.remove(&key),
            };
        }
    }
    if let Some(row) = new {
        let mut held = state.held.get(&row.host).copied().unwrap_or_default();
        let (cores, memory) = promised(row);
        held.cores += cores;
        held.memory.0 += memory.0;
        held.disk.0 += row.spec.disk.0;
        held.count += 1;
        state.held.insert(row.host, held);
        state.vps_of_host.entry(row.host).or_default().insert(row.spec.id);
        state.vps_of_tenant.entry(row.spec.tenant.clone()).or_default().insert(row.spec.id);
        state.vps_of_region.entry(row.region.clone()).or_default().insert(row.spec.id);
        state.vps_by_name.insert((row.spec.name.clone(), row.spec.id));
        state.vps_by_age.insert((row.created_at, row.spec.id));
        if let Some(key) = group_of(row) {
            *state.group_members.entry(key).or_default() += 1;
        }
    }
}

/// Takes an id out of a set that goes with its last one.
fn leave<K: Ord + Clone, I: Ord + Clone>(sets: &mut OrdMap<K, OrdSet<I>>, of: &K, id: &I) {
    if let Some(ids) = sets.get_mut(of) {
        ids.remove(id);
        if ids.is_empty() {
            sets.remove(of);
        }
    }
}

fn group_of(row: &VpsRow) -> Option<(Name, Name, HostId)> {
    let group = row.anti_affinity.clone()?;
    Some((row.spec.tenant.clone(), group, row.host))
}

/// Retained VPSs hold their disk only.
pub(crate) fn promised(row: &VpsRow) -> (u32, Bytes) {
    if row.retention.is_some() || row.purging.is_some() {
        (0, Bytes(0))
    } else {
        (row.spec.cores, row.spec.memory)
    }
}

fn index_address(state: &mut State, old: Option<&AddressRow>, new: Option<&AddressRow>) {
    if let Some(row) = old {
        state.addresses_of_vps.remove(&(row.vps, row.scope.clone(), row.held));
    }
    if let Some(row) = new {
        state.addresses_of_vps.insert((row.vps, row.scope.clone(), row.held));
    }
}

/// The tenant whose callers are shown an operation: that of its VPS, or of who gave an order to many.
fn tenant_of(row: &OperationRow) -> Option<&Name> {
    match (&row.goal, row.vps) {
        (Goal::Bulk { tenant }, _) => tenant.as_ref(),
        (_, vps) => vps.map(|_| &row.tenant),
    }
}

fn index_operation(state: &mut State, old: Option<&OperationRow>, new: Option<&OperationRow>) {
    index_deadline(state, old, new, |row| {
        (!row.state.is_final()).then_some((row.deadline, Deadline::Operation(row.id)))
    });
    index_history(state, old, new);
    if let Some(row) = old {
        if let Some(host) = row.host {
            state.open_operations.remove(&(host, row.id));
        }
        state.open_bulks.remove(&row.id);
        if let Some(vps) = row.vps.filter(|vps| state.operation_of_vps.get(vps) == Some(&row.id)) {
            state.operation_of_vps.remove(&vps);
        }
    }
    if let Some(row) = new.filter(|row| !row.state.is_final()) {
        if let Some(host) = row.host {
            state.open_operations.insert((host, row.id));
        }
        if matches!(row.goal, Goal::Bulk { .. }) {
            state.open_bulks.insert(row.id);
        }
        if let Some(vps) = row.vps {
            state.operation_of_vps.insert(vps, row.id);
        }
    }
}

/// Whose and about what all operations are, ended ones included. Neither changes while an operation is there.
fn index_history(state: &mut State, old: Option<&OperationRow>, new: Option<&OperationRow>) {
    match (old, new) {
        (None, Some(row)) => {
            if let Some(vps) = row.vps {
                state.operations_of_vps.insert((vps, row.id));
            }
            if let Some(tenant) = tenant_of(row) {
                state.operations_of_tenant.entry(tenant.clone()).or_default().insert(row.id);
            }
        }
        (Some(row), None) => {
            if let Some(vps) = row.vps {
                state.operations_of_vps.remove(&(vps, row.id));
            }
            if let Some(tenant) = tenant_of(row) {
                leave(&mut state.operations_of_tenant, tenant, &row.id);
            }
        }
        _ => {}
    }
}

fn host(_: &State, row: &HostRow) -> Option<Touched> {
    Some(Touched::Host(row.id))
}

fn observed(_: &State, row: &ObservedRow) -> Option<Touched> {
    Some(Touched::Host(row.host))
}

fn vps(_: &State, row: &VpsRow) -> Option<Touched> {
    Some(Touched::Vps(row.spec.id, row.spec.tenant.clone()))
}

fn observed_vps(state: &State, row: &ObservedVpsRow) -> Option<Touched> {
    state.get::<VpsRow>(&row.vps).and_then(|of| vps(state, of))
}

fn operation(_: &State, row: &OperationRow) -> Option<Touched> {
    Some(Touched::Operation(row.id, row.tenant.clone(), row.vps))
}

fn alert(_: &State, row: &AlertRow) -> Option<Touched> {
    Some(Touched::Alert(row.id))
}
