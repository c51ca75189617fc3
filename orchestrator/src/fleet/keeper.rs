//! What time does to the rows: operations meet their deadline, deleted VPSs are purged, answers and tokens are forgotten.
//! Level-triggered: each pass looks anew and takes a bounded bite.

use std::collections::BTreeSet;
use std::time::Duration;

use chom_protocol::api::events::Event;
use chom_protocol::{HostId, UnixMillis};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::fleet::events::Touched;
use crate::fleet::network::rows::FormerAddressRow;
use crate::fleet::rows::{EnrolmentRow, HostRow, IdempotencyRow, OperationRow, TokenRow, VpsRow};
use crate::fleet::state::{Deadline, State, Table};
use crate::fleet::users::rows::SignInLockRow;
use crate::fleet::{Decision, Fleet, FleetError, operations};
use crate::health;

/// Seconds between passes: what a deadline may be late by.
const PASS_SECONDS: u64 = 2;
/// Rows that one commit takes away or changes; well within a commit's 128 changes.
const ROWS_PER_COMMIT_MAX: usize = 20;
/// Commits of one pass, so that a backlog does not hold up mutations.
const COMMITS_PER_PASS_MAX: usize = 16;
/// How long the outcome of an operation can be looked up.
const OPERATION_KEPT_SECONDS: u64 = 30 * 24 * 3600;
/// Ended operations that are kept at most; about 1 KiB each in memory.
const OPERATIONS_KEPT_MAX: usize = 50_000;
/// How often it is looked whose traffic crossed a quota: a second of a fast card is a gigabyte.
const TRAFFIC_LOOKED_AT_EVERY_SECONDS: u64 = 10;
/// How long it can be asked who held an address: complaints come late, and telecommunication laws ask for a year.
const FORMER_ADDRESSES_KEPT_SECONDS: u64 = 400 * 24 * 3600;
/// Former holders that are kept at most; about 500 bytes each in memory.
const FORMER_ADDRESSES_KEPT_MAX: usize = 200_000;
/// How often it is stored when each host was last seen.
const SEEN_STORED_EVERY_SECONDS: u64 = 300;

impl Fleet {
    /// The hosts that are seen.
    fn in_sight(&self, now: UnixMillis) -> BTreeSet<HostId> {
        let limit = self.catalogue().unreachable_after_seconds;
        let seen = self.observations().snapshot().into_iter();
        seen.filter(|(_, seen)| health::is_seen(Some(seen), limit, now)).map(|(host, _)| host).collect()
    }

    /// Tells of hosts that went out of sight or came back since the last look: nothing is stored when they do.
    fn tell_sight(&self, before: BTreeSet<HostId>, now: UnixMillis) -> BTreeSet<HostId> {
        let after = self.in_sight(now);
        let state = self.state();
        let told = |host: &HostId| {
            let message = if after.contains(host) { "is seen again" } else { "is not seen any more" };
            let row = state.get::<HostRow>(host)?;
            Some(Event::Host { id: *host, name: row.name.clone(), message: message.to_owned() })
        };
        self.changes().push(before.symmetric_difference(&after).map(|host| Touched::Sight(*host)));
        self.events().push(before.symmetric_difference(&after).filter_map(told));
        after
    }

    /// Keeps the rows until stopped.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(PASS_SECONDS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen_stored_at = clock::now();
        let mut counted_at = seen_stored_at;
        let mut in_sight = self.in_sight(seen_stored_at);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let now = clock::now();
            in_sight = self.tell_sight(in_sight, now);
            if now.seconds_since(counted_at) >= TRAFFIC_LOOKED_AT_EVERY_SECONDS {
                counted_at = now;
                self.count_traffic(now).await;
            }
            if let Err(error) = self.keep_once(now).await {
                tracing::error!(error = %error, "cannot keep the rows; the next pass tries again");
            }
            if let Err(error) = self.keep_authorities(now).await {
                tracing::error!(error = %error, "cannot keep the fleet's CAs; the next pass tries again");
            }
            if now.seconds_since(seen_stored_at) >= SEEN_STORED_EVERY_SECONDS {
                seen_stored_at = now;
                self.store_all_seen().await;
                self.store_all_uses().await;
            }
        }
        self.store_all_seen().await;
        self.store_all_uses().await;
    }

    async fn count_traffic(&self, now: UnixMillis) {
        if let Err(error) = self.keep_traffic(now).await {
            tracing::error!(error = %error, "cannot take traffic over; the next pass tries again");
        }
    }

    async fn store_all_uses(&self) {
        if let Err(error) = self.store_token_uses().await {
            tracing::warn!(error = %error, "cannot store when tokens were last used");
        }
    }

    async fn store_all_seen(&self) {
        let hosts: Vec<HostId> = self.observations().snapshot().keys().copied().collect();
        for chunk in hosts.chunks(ROWS_PER_COMMIT_MAX) {
            if let Err(error) = self.store_seen(chunk.to_vec()).await {
                tracing::warn!(error = %error, "cannot store when hosts were last seen");
                return;
            }
        }
    }

    /// One pass.
    async fn keep_once(&self, now: UnixMillis) -> Result<(), FleetError> {
        for _ in 0..COMMITS_PER_PASS_MAX {
            let due = Due::find(&self.state(), now);
            if due.is_empty() {
                return Ok(());
            }
            self.decide("chom".into(), move |decision| due.carry_out(decision)).await?;
        }
        Ok(())
    }
}

/// What is due, at most one commit of it.
#[derive(Default)]
struct Due {
    late: Vec<<OperationRow as Table>::Id>,
    purge: Vec<<VpsRow as Table>::Id>,
    answers: Vec<<IdempotencyRow as Table>::Id>,
    enrolments: Vec<<EnrolmentRow as Table>::Id>,
    operations: Vec<<OperationRow as Table>::Id>,
    former_addresses: Vec<<FormerAddressRow as Table>::Id>,
    sessions: Vec<<TokenRow as Table>::Id>,
    locks: Vec<<SignInLockRow as Table>::Id>,
}

impl Due {
    fn find(state: &State, now: UnixMillis) -> Self {
        let mut due = Self::default();
        for (_, deadline) in state.deadlines.iter().take_while(|(at, _)| *at <= now) {
            match *deadline {
                Deadline::Operation(id) => push(&mut due.late, id),
                Deadline::Purge(id) => push(&mut due.purge, id),
                Deadline::Answer(id) => push(&mut due.answers, id),
                Deadline::Enrolment(id) => push(&mut due.enrolments, id),
                Deadline::Session(id) => push(&mut due.sessions, id),
                Deadline::SignInLock(id) => push(&mut due.locks, id),
            }
        }
        let over = state.operations.len().saturating_sub(OPERATIONS_KEPT_MAX);
        let ended = state.operations.values().enumerate().map(|(place, stored)| (place, stored.row.as_ref()));
        // Ids are in order of age, so the first ones are the ones to look at: what is younger has not ended so long ago.
        let is_old = |at: UnixMillis| now.seconds_since(at) >= OPERATION_KEPT_SECONDS;
        let ended = ended.take_while(|(place, row)| *place < over || is_old(row.created_at));
        let ended = ended.filter(|(place, row)| {
            row.state.is_final() && (*place < over || row.finished_at.is_some_and(is_old))
        });
        let ended = ended.take(ROWS_PER_COMMIT_MAX);
        // In order of when they were freed.
        let former_over = state.former_addresses.len().saturating_sub(FORMER_ADDRESSES_KEPT_MAX);
        let former = state.former_addresses.keys().enumerate().take_while(|(place, (until, _, _))| {
            *place < former_over || now.seconds_since(*until) >= FORMER_ADDRESSES_KEPT_SECONDS
        });
        due.former_addresses = former.take(ROWS_PER_COMMIT_MAX).map(|(_, id)| id.clone()).collect();
        due.operations = ended.map(|(_, row)| row.id).collect();
        due
    }

    fn is_empty(&self) -> bool {
        let Self { late, purge, answers, enrolments, operations, former_addresses, sessions, locks } = self;
        late.is_empty()
            && purge.is_empty()
            && answers.is_empty()
            && enrolments.is_empty()
            && operations.is_empty()
            && former_addresses.is_empty()
            && sessions.is_empty()
            && locks.is_empty()
    }

    fn carry_out(self, decision: &mut Decision) -> Result<(), FleetError> {
        for id in self.late {
            let row = decision.state.get::<OperationRow>(&id).cloned();
            if let Some(row) = row.filter(|row| !row.state.is_final() && row.deadline <= decision.now) {
                operations::expire(decision, &row)?;
            }
        }
        for id in self.purge {
            purge(decision, &id)?;
        }
        for id in self.answers {
            decision.delete::<IdempotencyRow>(&id);
        }
        for id in self.enrolments {
            decision.delete::<EnrolmentRow>(&id);
        }
        for id in self.operations {
            decision.delete::<OperationRow>(&id);
        }
        for id in self.former_addresses {
            decision.delete::<FormerAddressRow>(&id);
        }
        for id in self.sessions {
            decision.delete::<TokenRow>(&id);
        }
        for id in self.locks {
            decision.delete::<SignInLockRow>(&id);
        }
        Ok(())
    }
}

fn push<I>(list: &mut Vec<I>, id: I) {
    if list.len() < ROWS_PER_COMMIT_MAX {
        list.push(id);
    }
}

/// Purges a deleted VPS whose time is over.
fn purge(decision: &mut Decision, id: &<VpsRow as Table>::Id) -> Result<(), FleetError> {
    let Some(row) = decision.state.get::<VpsRow>(id).cloned() else { return Ok(()) };
    let due = row.purging.is_none() && row.retention.is_some_and(|kept| kept.purge_at <= decision.now);
    // While an operation is under way on it, somebody may be bringing it back.
    if !due || decision.state.operation_of_vps.contains_key(id) {
        return Ok(());
    }
    let number = decision.raise(row.host)?;
    decision.put(VpsRow { purging: Some(number), ..row })?;
    decision.audit("vps.purge", *id)?;
    Ok(())
}
