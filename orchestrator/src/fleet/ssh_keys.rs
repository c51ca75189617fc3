//! A tenant's SSH keys: added, removed, and resolved into the rows of VPSs when these are made, so that nothing changes
//! under a VPS that is there.

use chom_protocol::api::ssh_keys::{AddSshKey, SshKeyView};
use chom_protocol::api::vps_servers::{CreateVps, SSH_KEYS_BYTES_MAX, SSH_KEYS_MAX, check_ssh_key};
use chom_protocol::{Name, UnixMillis};
use data_encoding::{BASE64, BASE64_NOPAD};

use crate::clock::rfc3339;
use crate::fleet::hosts::unknown;
use crate::fleet::rows::SshKeyRow;
use crate::fleet::state::State;
use crate::fleet::{Caller, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision};

impl Fleet {
    /// Adds a key to the tenant's.
    ///
    /// # Errors
    /// When it is no key, its name is taken, or there are too many.
    pub async fn add_ssh_key(
        &self,
        caller: &Caller,
        mark: RequestMark,
        request: AddSshKey,
    ) -> Result<Done<SshKeyView>, FleetError> {
        check_key("/key", &request.key)?;
        let tenant = caller.home();
        self.mutate(caller, mark, move |decision, _| {
            let AddSshKey { name, key } = request;
            if decision.state.ssh_keys.contains_key(&(tenant.clone(), name.clone())) {
                return Err(FleetError::Refused {
                    kind: ErrorKind::Conflict,
                    detail: format!(
                        "a key named `{name}` is there already; choose another name or remove it"
                    ),
                    location: Some("/name"),
                });
            }
            let mut all: Vec<&str> =
                of_tenant(&decision.state, &tenant).map(|row| row.key.as_str()).collect();
            all.push(&key);
            check_number("/key", all.into_iter())?;
            let row = SshKeyRow { tenant, name, key, created_at: decision.now };
            decision.audit("ssh-key.add", &row.name)?;
            decision.put(row.clone())?;
            Ok(view(&decision.state, &row))
        })
        .await
    }

    /// Removes a key from the tenant's. VPSs that have it keep it.
    ///
    /// # Errors
    /// When there is none of this name, or `If-Match` names another revision.
    pub async fn remove_ssh_key(
        &self,
        caller: &Caller,
        mark: RequestMark,
        name: Name,
    ) -> Result<Done<SshKeyView>, FleetError> {
        let tenant = caller.home();
        self.mutate(caller, mark, move |decision, mark| {
            let id = (tenant, name);
            let stored = decision.state.ssh_keys.get(&id).cloned();
            let stored = stored.ok_or_else(|| FleetError::not_found("SSH key", &id.1))?;
            check_revision(mark, stored.revision)?;
            let shown = view(&decision.state, &stored.row);
            decision.delete::<SshKeyRow>(&id);
            decision.audit("ssh-key.remove", &id.1)?;
            Ok(shown)
        })
        .await
    }

    /// The keys of the caller's tenant, by name.
    #[must_use]
    pub fn ssh_key_views(&self, caller: &Caller) -> Vec<SshKeyView> {
        let state = self.state();
        of_tenant(&state, &caller.home()).map(|row| view(&state, row)).collect()
    }
}

/// The keys that a new VPS lets in: the tenant's that it names, or all of them, and its own.
pub(super) fn resolve(state: &State, tenant: &Name, request: &CreateVps) -> Result<Vec<String>, FleetError> {
    let mut keys: Vec<String> = Vec::new();
    match &request.tenant_keys {
        None => keys.extend(of_tenant(state, tenant).map(|row| row.key.clone())),
        Some(names) => {
            for name in names {
                let row = state.get::<SshKeyRow>(&(tenant.clone(), name.clone()));
                let known = of_tenant(state, tenant).map(|row| &row.name);
                keys.push(row.ok_or_else(|| unknown("/tenant_keys", "SSH key", name, known))?.key.clone());
            }
        }
    }
    for key in &request.ssh_keys {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    check_number("/ssh_keys", keys.iter().map(String::as_str))?;
    Ok(keys)
}

/// Refuses keys of which one is none, and more than a VPS takes.
pub(super) fn check_all(location: &'static str, keys: &[String]) -> Result<(), FleetError> {
    keys.iter().try_for_each(|key| check_key(location, key))?;
    check_number(location, keys.iter().map(String::as_str))
}

/// Refuses what is no public key.
fn check_key(location: &'static str, key: &str) -> Result<(), FleetError> {
    check_ssh_key(key).map_err(|error| FleetError::invalid(location, error.to_string()))?;
    let mut words = key.split_ascii_whitespace();
    let kind = words.next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|start| kind.starts_with(start));
    if known && words.next().is_some_and(|body| BASE64.decode(body.as_bytes()).is_ok()) {
        return Ok(());
    }
    let shown: String = key.chars().take(32).collect();
    Err(FleetError::invalid(
        location,
        format!(
            "`{shown}…` is no public key; paste one line of a .pub file, such as `ssh-ed25519 AAAA… you@example`"
        ),
    ))
}

/// Refuses more keys than a VPS takes.
fn check_number<'a>(location: &'static str, keys: impl Iterator<Item = &'a str>) -> Result<(), FleetError> {
    let (count, bytes) = keys.fold((0, 0), |(count, bytes), key| (count + 1, bytes + key.len()));
    if count <= SSH_KEYS_MAX && bytes <= SSH_KEYS_BYTES_MAX {
        return Ok(());
    }
    Err(FleetError::invalid(
        location,
        format!(
            "{count} keys with {bytes} bytes; at most {SSH_KEYS_MAX} with {SSH_KEYS_BYTES_MAX} bytes together are allowed, \
             the tenant's included"
        ),
    ))
}

fn of_tenant<'a>(state: &'a State, tenant: &Name) -> impl Iterator<Item = &'a SshKeyRow> {
    let tenant = tenant.clone();
    state.ssh_keys.values().map(|stored| stored.row.as_ref()).filter(move |row| row.tenant == tenant)
}

fn view(state: &State, row: &SshKeyRow) -> SshKeyView {
    let SshKeyRow { tenant, name, key, created_at } = row;
    let body = key.split_ascii_whitespace().nth(1).unwrap_or_default();
    let digest = BASE64.decode(body.as_bytes()).map(|bytes| chom_protocol::vps::Sha256::of(&bytes));
    let fingerprint =
        digest.map_or_else(|_| String::new(), |digest| format!("SHA256:{}", BASE64_NOPAD.encode(&digest.0)));
    let created_at: &UnixMillis = created_at;
    SshKeyView {
        name: name.clone(),
        tenant: tenant.clone(),
        key: key.clone(),
        fingerprint,
        created_at: rfc3339(*created_at),
        revision: state.ssh_keys.get(&(tenant.clone(), name.clone())).map_or(0, |stored| stored.revision.0),
    }
}
