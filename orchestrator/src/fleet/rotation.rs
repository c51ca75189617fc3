//! Rotation of the fleet's CA: a new one is announced to every agent, signs once the connected ones trust it, and the old
//! one stays trusted until nobody needs it. When is decided by pure rules; the keeper asks them.

use std::sync::Arc;

use chom_certs::authority::HOST_LIFE_SECONDS;
use chom_certs::bundle::BUNDLE_AUTHORITIES_MAX;
use chom_certs::renew::RENEWABLE_AFTER_EXPIRY_SECONDS;
use chom_certs::{CaBundle, Fingerprint, Serial};
use chom_protocol::api::authorities::{AuthorityState, AuthorityView, HOSTS_SHOWN_MAX, RetireAuthority};
use chom_protocol::{Name, UnixMillis};
use tokio::sync::watch;

use crate::chain;
use crate::clock::rfc3339;
use crate::fleet::authority::Authorities;
use crate::fleet::observed::Snapshot;
use crate::fleet::rows::{AuthorityRow, HostRow, HostStanding};
use crate::fleet::state::State;
use crate::fleet::{Caller, Decision, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision};

/// A connected host that has not said within this that it trusts an announced CA holds up nobody any more: it hears of the
/// CA again when it connects next, and asks again for a certificate that it could not verify.
const ANNOUNCED_SECONDS_MAX: u64 = 3600;
/// How long a certificate of a CA that signs no longer can still bring its host back: its life, and the time after in which
/// it can be renewed.
const LAST_USE_SECONDS: u64 = HOST_LIFE_SECONDS + RENEWABLE_AFTER_EXPIRY_SECONDS;
/// Renewals that a rotation asks for, each second: a fleet of 2,000 comes within 100 s, beside its usual work.
pub const RENEWALS_PER_SECOND: usize = 20;

/// A host as the rules of a rotation see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Witness<'a> {
    name: &'a Name,
    connected: bool,
    /// It keeps exactly the CAs that are trusted now.
    trusts: bool,
    /// The CA that signed the newest certificate which the host has shown; none: it has shown none yet.
    shown_authority: Option<u64>,
}

/// The connected hosts that an announced CA waits for. It may sign when there are none.
fn waits_for<'a>(announced_at: UnixMillis, witnesses: &[Witness<'a>], now: UnixMillis) -> Vec<&'a Name> {
    if now.seconds_since(announced_at) >= ANNOUNCED_SECONDS_MAX {
        return Vec::new();
    }
    witnesses.iter().filter(|host| host.connected && !host.trusts).map(|host| host.name).collect()
}

/// The hosts that may still need CA `number`, which has not signed since `stopped_at`.
fn needed_by<'a>(
    number: u64,
    stopped_at: UnixMillis,
    witnesses: &[Witness<'a>],
    now: UnixMillis,
) -> Vec<&'a Name> {
    if now.seconds_since(stopped_at) > LAST_USE_SECONDS {
        return Vec::new();
    }
    let may_need = |host: &&Witness<'_>| host.shown_authority.is_none_or(|shown| shown <= number);
    witnesses.iter().filter(may_need).map(|host| host.name).collect()
}

/// The hosts of the fleet that have a certificate.
fn witnesses<'a>(
    state: &'a State,
    observations: &Snapshot,
    trusted: chom_protocol::vps::Sha256,
) -> Vec<Witness<'a>> {
    let rows = state.hosts.values().map(|stored| stored.row.as_ref());
    let in_fleet = |row: &&HostRow| matches!(row.standing, HostStanding::Member | HostStanding::Quarantined);
    let of = |row: &'a HostRow| {
        let certificate = row.certificate.as_ref()?;
        let seen = observations.get(&row.id);
        // A certificate that was signed and never shown may not have arrived.
        let shown: Option<&Serial> = seen.and_then(|seen| seen.shown.as_ref());
        Some(Witness {
            name: &row.name,
            connected: seen.is_some_and(|seen| seen.instance.is_some()),
            trusts: seen.is_some_and(|seen| seen.trusts == Some(trusted)),
            shown_authority: (shown == Some(&certificate.serial)).then_some(certificate.authority),
        })
    };
    rows.filter(in_fleet).filter_map(of).collect()
}

/// What a CA does now.
fn stage(state: &State, row: &AuthorityRow) -> AuthorityState {
    let signing = state.authorities.values().rfind(|stored| stored.row.signs_since.is_some());
    match (row.signs_since, signing) {
        (None, _) => AuthorityState::Announced,
        (Some(_), Some(signing)) if signing.row.number == row.number => AuthorityState::Signing,
        (Some(_), _) => AuthorityState::Trusted,
    }
}

/// What tells that the CAs in use are those of the rows.
pub(super) type Rows = Vec<(u64, Option<UnixMillis>)>;

pub(super) fn rows(state: &State) -> Rows {
    state.authorities.values().map(|stored| (stored.row.number, stored.row.signs_since)).collect()
}

/// When the next CA began to sign, and this one stopped.
fn stopped_at(state: &State, number: u64) -> Option<UnixMillis> {
    state.authorities.range(number + 1..).find_map(|(_, stored)| stored.row.signs_since)
}

impl Fleet {
    /// The fleet's CAs, for TLS and signing.
    #[must_use]
    pub fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.0.authorities.borrow())
    }

    /// Hears when a CA is announced, begins to sign, or is retired.
    #[must_use]
    pub fn authority_changes(&self) -> watch::Receiver<Arc<Authorities>> {
        self.0.authorities.subscribe()
    }

    /// All CAs, oldest first.
    #[must_use]
    pub fn authority_views(&self, now: UnixMillis) -> Vec<AuthorityView> {
        let (state, observations) = (self.state(), self.observations().snapshot());
        let all = state.authorities.values();
        all.map(|stored| view(&state, &observations, self.authorities().digest(), &stored.row, now)).collect()
    }

    /// Makes a new CA and announces it to the agents. It signs once they trust it.
    ///
    /// # Errors
    /// When one is announced already, or so many are trusted that there is no room for one more.
    pub async fn rotate_authority(
        &self,
        caller: &Caller,
        mark: RequestMark,
    ) -> Result<Done<AuthorityView>, FleetError> {
        let fleet = self.clone();
        let done = self
            .mutate(caller, mark, move |decision, _| {
                let number = fleet.announce(decision)?;
                decision.audit("authority.rotate", number)?;
                fleet.authority_now(decision, number)
            })
            .await?;
        self.follow_authorities();
        Ok(done)
    }

    fn announce(&self, decision: &mut Decision) -> Result<u64, FleetError> {
        let all = &decision.state.authorities;
        if let Some(waiting) = all.values().find(|stored| stored.row.signs_since.is_none()) {
            return Err(FleetError::conflict(format!(
                "CA {} is announced already and signs once the connected hosts trust it; look at `chomctl authority list`",
                waiting.row.number
            )));
        }
        if all.len() >= BUNDLE_AUTHORITIES_MAX {
            return Err(FleetError::conflict(format!(
                "{} CAs are trusted, and hosts take no more; retire the oldest with `chomctl authority retire`",
                all.len()
            )));
        }
        let number = all.get_max().map_or(1, |(last, _)| last + 1);
        let name = self.0.catalogue.fleet_name.clone();
        let row = Authorities::create(&name, number, &self.0.master, decision.now)
            .map_err(|error| FleetError::internal(chain(&error)))?;
        decision.put(row)?;
        Ok(number)
    }

    /// Trusts a CA no longer.
    ///
    /// # Errors
    /// When there is none of this number, it signs, or hosts may still need it and it was not insisted on.
    pub async fn retire_authority(
        &self,
        caller: &Caller,
        mark: RequestMark,
        number: u64,
        request: RetireAuthority,
    ) -> Result<Done<AuthorityView>, FleetError> {
        let fleet = self.clone();
        let done = self
            .mutate(caller, mark, move |decision, mark| {
                let stored = decision.state.authorities.get(&number).cloned();
                let stored = stored.ok_or_else(|| FleetError::not_found("CA", number))?;
                check_revision(mark, stored.revision)?;
                let shown = fleet.authority_now(decision, number)?;
                if shown.state == AuthorityState::Signing {
                    return Err(FleetError::conflict(format!(
                        "CA {number} signs; make another with `chomctl authority rotate` first"
                    )));
                }
                if shown.needed_by_count > 0 && !request.force {
                    return Err(still_needed(number, &shown));
                }
                decision.delete::<AuthorityRow>(&number);
                decision.audit("authority.retire", number)?;
                Ok(AuthorityView { state: AuthorityState::Retired, ..shown })
            })
            .await?;
        self.follow_authorities();
        Ok(done)
    }

    fn authority_now(&self, decision: &Decision, number: u64) -> Result<AuthorityView, FleetError> {
        let row = decision.state.get::<AuthorityRow>(&number);
        let row = row.ok_or_else(|| FleetError::not_found("CA", number))?;
        let (observations, digest) = (self.observations().snapshot(), self.authorities().digest());
        Ok(view(&decision.state, &observations, digest, row, decision.now))
    }

    /// One look of the keeper: an announced CA begins to sign when it may, and what is in use follows the rows.
    ///
    /// # Errors
    /// When it could not be stored.
    pub(super) async fn keep_authorities(&self, now: UnixMillis) -> Result<(), FleetError> {
        self.follow_authorities();
        let state = self.state();
        let announced = state.authorities.values().find(|stored| stored.row.signs_since.is_none());
        let Some(announced) = announced.map(|stored| Arc::clone(&stored.row)) else { return Ok(()) };
        // Just after a start hosts are still on their way back.
        let settled = now.seconds_since(self.started_at()) >= self.catalogue().unreachable_after_seconds;
        let (observations, trusted) = (self.observations().snapshot(), self.authorities().digest());
        let witnesses = witnesses(&state, &observations, trusted);
        if !settled || !waits_for(announced.announced_at, &witnesses, now).is_empty() {
            return Ok(());
        }
        let number = announced.number;
        self.decide("chom".into(), move |decision| {
            let Some(row) = decision.state.get::<AuthorityRow>(&number).cloned() else { return Ok(()) };
            decision.put(AuthorityRow { signs_since: Some(decision.now), ..row })?;
            decision.audit("authority.sign", number)
        })
        .await?;
        tracing::info!(number, "the announced CA signs from now on");
        self.follow_authorities();
        Ok(())
    }

    /// Takes into use what the rows say.
    fn follow_authorities(&self) {
        let state = self.state();
        let rows = rows(&state);
        let mut followed = self.0.followed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *followed == rows {
            return;
        }
        match Authorities::open(&state, &self.0.master) {
            Ok(authorities) => {
                self.0.authorities.send_replace(Arc::new(authorities));
                *followed = rows;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(
                    error,
                    "the fleet's CAs changed and cannot be used; the earlier ones stay in use"
                );
            }
        }
    }

    /// Whether a connected host should ask for a new certificate: it trusts all CAs, and showed one of another CA than the
    /// one that signs. Gives the time within which it should.
    #[must_use]
    pub fn renewal_wanted(&self, host: chom_protocol::HostId, shown: &Serial) -> Option<u32> {
        let (state, authorities) = (self.state(), self.authorities());
        let row = state.get::<HostRow>(&host)?;
        let certificate = row.certificate.as_ref()?;
        let is_newest = certificate.serial == *shown && certificate.authority == authorities.signing_number();
        let trusts = self.observations().of(host)?.trusts == Some(authorities.digest());
        let within = u32::try_from(state.hosts.len() / RENEWALS_PER_SECOND).unwrap_or(u32::MAX);
        (!is_newest && trusts).then_some(within)
    }
}

fn still_needed(number: u64, shown: &AuthorityView) -> FleetError {
    let names: Vec<&str> = shown.needed_by.iter().map(Name::as_str).collect();
    let more = shown.needed_by_count.saturating_sub(u32::try_from(names.len()).unwrap_or(u32::MAX));
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    FleetError::Refused {
        kind: ErrorKind::Conflict,
        detail: format!(
            "hosts that have shown no certificate of a newer CA yet would be locked out by retiring CA {number}: {}{more}; \
             wait for them, forget them, or insist with `--force` and enrol them anew",
            names.join(", ")
        ),
        location: None,
    }
}

fn view(
    state: &State,
    observations: &Snapshot,
    trusted: chom_protocol::vps::Sha256,
    row: &AuthorityRow,
    now: UnixMillis,
) -> AuthorityView {
    let (stage, all) = (stage(state, row), witnesses(state, observations, trusted));
    let waiting = match stage {
        AuthorityState::Announced => waits_for(row.announced_at, &all, now),
        _ => Vec::new(),
    };
    let needed = match (stage, stopped_at(state, row.number)) {
        (AuthorityState::Trusted, Some(stopped)) => needed_by(row.number, stopped, &all, now),
        _ => Vec::new(),
    };
    let shown = |names: &[&Name]| names.iter().take(HOSTS_SHOWN_MAX).map(|name| (*name).clone()).collect();
    let count = |names: &[&Name]| u32::try_from(names.len()).unwrap_or(u32::MAX);
    let bundle = CaBundle::from_pem(&row.certificate).ok();
    let fingerprint = bundle.and_then(|bundle| bundle.fingerprints().first().map(Fingerprint::to_string));
    AuthorityView {
        number: row.number,
        state: stage,
        fingerprint: fingerprint.unwrap_or_default(),
        announced_at: rfc3339(row.announced_at),
        signs_since: row.signs_since.map(rfc3339),
        waits_for: shown(&waiting),
        waits_for_count: count(&waiting),
        needed_by: shown(&needed),
        needed_by_count: count(&needed),
        certificate_pem: row.certificate.clone(),
        revision: state.authorities.get(&row.number).map_or(0, |stored| stored.revision.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn rendered(names: &[&Name]) -> String {
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// `name`, then `c` connected, `t` trusts, a digit: the CA of the certificate it showed.
    fn check(text: &str, rule: impl Fn(&[Witness<'_>]) -> Vec<Name>) -> String {
        let names: Vec<(Name, &str)> = text
            .split_ascii_whitespace()
            .map(|word| word.split_once(':').unwrap())
            .map(|(name, marks)| (name.parse().unwrap(), marks))
            .collect();
        let witness = |(name, marks): &(Name, &str)| (name.clone(), (*marks).to_owned());
        let owned: Vec<(Name, String)> = names.iter().map(witness).collect();
        let all: Vec<Witness<'_>> = owned
            .iter()
            .map(|(name, marks)| Witness {
                name,
                connected: marks.contains('c'),
                trusts: marks.contains('t'),
                shown_authority: marks.chars().find_map(|mark| mark.to_digit(10)).map(u64::from),
            })
            .collect();
        let found = rule(&all);
        rendered(&found.iter().collect::<Vec<_>>())
    }

    #[test]
    fn an_announced_ca_waits_for_connected_hosts_that_do_not_trust_it_and_for_no_others() {
        let at = |seconds| {
            move |all: &[Witness<'_>]| {
                waits_for(START, all, START.plus_seconds(seconds)).into_iter().cloned().collect::<Vec<_>>()
            }
        };
        let table = [
            ("a:ct1 b:ct1", 1, ""),
            ("a:ct1 b:c1", 1, "b"),
            ("a:ct1 b:1", 1, ""),
            ("a:c b:c", ANNOUNCED_SECONDS_MAX - 1, "a b"),
            ("a:c b:c", ANNOUNCED_SECONDS_MAX, ""),
            ("", 0, ""),
        ];
        for (hosts, seconds, waits) in table {
            assert_eq!(check(hosts, at(seconds)), waits, "{hosts} after {seconds} s");
        }
    }

    #[test]
    fn an_old_ca_is_needed_until_each_host_has_shown_a_newer_certificate_or_none_of_its_can_be_renewed() {
        let at = |seconds| {
            move |all: &[Witness<'_>]| {
                needed_by(1, START, all, START.plus_seconds(seconds)).into_iter().cloned().collect::<Vec<_>>()
            }
        };
        let table = [
            ("a:ct2 b:ct2", 1, ""),
            ("a:ct2 b:ct1", 1, "b"),
            ("a:2 b:", 1, "b"),
            ("a:1 b:", LAST_USE_SECONDS, "a b"),
            ("a:1 b:", LAST_USE_SECONDS + 1, ""),
        ];
        for (hosts, seconds, needed) in table {
            assert_eq!(check(hosts, at(seconds)), needed, "{hosts} after {seconds} s");
        }
    }
}
