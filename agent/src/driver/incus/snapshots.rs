//! Snapshots of containers. They are told by the list of a pool's volumes: one question for each pool, however many
//! containers there are.

use std::collections::{BTreeMap, BTreeSet};

use chom_protocol::vps::{SnapshotStatus, VpsSpec};
use chom_protocol::{UnixMillis, VpsId};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::api::{IncusApi, IncusError, Payload};
use super::instance::Instance;
use super::{IncusDriver, failed};
use crate::driver::DriverError;
use crate::driver::snapshot::{SnapshotName, Snapshots};

/// A pool without snapshots of its own copies all files; the reconciler gives 600 s.
const SNAPSHOT_SECONDS_MAX: u64 = 590;

/// A volume as a pool lists it: a container's disk, or a snapshot of one.
#[derive(Debug, Deserialize)]
struct Volume {
    /// `CONTAINER` or `CONTAINER/SNAPSHOT`.
    name: String,
    #[serde(default)]
    created_at: String,
}

/// The snapshots of our containers. Those in a pool that cannot say are left out.
pub(super) async fn look(api: &IncusApi, instances: &[Instance]) -> BTreeMap<VpsId, Snapshots> {
    let ours =
        || instances.iter().filter_map(|instance| Some((instance.vps()?, instance.name(), instance.pool()?)));
    let pools: BTreeSet<&str> = ours().map(|(_, _, pool)| pool).collect();
    let mut all = BTreeMap::new();
    for pool in pools {
        let listed: Result<Vec<Volume>, IncusError> =
            api.get(&format!("/1.0/storage-pools/{pool}/volumes/container?recursion=1")).await;
        match listed {
            Ok(volumes) => {
                let in_pool = ours().filter(|(_, _, its)| *its == pool);
                let in_pool = in_pool.map(|(vps, name, _)| (name, vps)).collect();
                all.append(&mut sorted(&in_pool, &volumes));
            }
            Err(error) => {
                tracing::warn!(pool, error = %crate::chain::Chain(&error), "cannot list the snapshots in a pool");
            }
        }
    }
    all
}

/// `ours` are the names of our containers.
fn sorted(ours: &BTreeMap<&str, VpsId>, volumes: &[Volume]) -> BTreeMap<VpsId, Snapshots> {
    let mut all: BTreeMap<VpsId, Snapshots> = ours.values().map(|&vps| (vps, Snapshots::default())).collect();
    for volume in volumes {
        let Some((container, snapshot)) = volume.name.split_once('/') else { continue };
        let Some(snapshots) = ours.get(container).and_then(|vps| all.get_mut(vps)) else { continue };
        match SnapshotName::parse(snapshot) {
            Some(SnapshotName::Kept(id)) => {
                // How large the disk was is in the snapshot's own configuration, which is only asked for to restore it.
                snapshots.kept.push(SnapshotStatus { id, taken_at: moment(&volume.created_at), disk: None });
            }
            Some(SnapshotName::ForClone(vps)) => snapshots.for_clones.push(vps),
            None => {} // made by hand
        }
    }
    all.values_mut().for_each(|snapshots| snapshots.kept.sort_unstable_by_key(|snapshot| snapshot.id));
    all
}

/// A time as Incus writes it (RFC 3339); the beginning of time where it is none.
fn moment(text: &str) -> UnixMillis {
    let at = text.parse::<jiff::Timestamp>().map(|at| at.as_millisecond());
    UnixMillis(at.ok().and_then(|at| u64::try_from(at).ok()).unwrap_or(0))
}

/// Takes one; one that is there is fine.
pub(super) async fn take(driver: &IncusDriver, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
    let request = Payload::json(&json!({ "name": name.to_string(), "stateful": false }));
    let taken = driver
        .api
        .act(Method::POST, &format!("{}/snapshots", driver.path(vps)), request, SNAPSHOT_SECONDS_MAX)
        .await;
    match taken {
        Err(error) if error.says("already exists") => Ok(()),
        taken => taken.map_err(failed(format!("cannot take a snapshot of VPS {vps}"))),
    }
}

/// Makes the container what it was. Incus brings its configuration back with its files: what it should be now is put right
/// at the next look, but for its placement, by which it is known to be the one that is wanted here.
pub(super) async fn restore(
    driver: &IncusDriver,
    spec: &VpsSpec,
    name: SnapshotName,
) -> Result<(), DriverError> {
    let path = driver.path(spec.id);
    let request = Payload::json(&json!({ "restore": name.to_string(), "stateful": false }));
    match driver.api.act(Method::PUT, &path, request, SNAPSHOT_SECONDS_MAX).await {
        Err(error) if error.is_not_found() || error.says("not found") => {
            return Err(DriverError::lasting(format!(
                "the container has no snapshot `{name}`: it was removed by hand; nothing was changed"
            )));
        }
        restored => restored.map_err(failed(format!("cannot restore a snapshot of VPS {}", spec.id)))?,
    }
    let marks = json!({ "config": { "user.chom.placement": spec.placement.to_string() } });
    let marked = driver.api.act(Method::PATCH, &path, Payload::json(&marks), SNAPSHOT_SECONDS_MAX).await;
    marked.map_err(failed(format!("cannot mark the restored container of VPS {}", spec.id)))
}

/// Removes one; one that is not there is fine.
pub(super) async fn delete(driver: &IncusDriver, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
    let path = format!("{}/snapshots/{name}", driver.path(vps));
    match driver.api.act(Method::DELETE, &path, Payload::none(), SNAPSHOT_SECONDS_MAX).await {
        Err(error) if error.is_not_found() || error.says("not found") => Ok(()),
        deleted => deleted.map_err(failed(format!("cannot remove a snapshot of VPS {vps}"))),
    }
}

#[cfg(test)]
mod tests {
    use chom_protocol::helper::GuestDefinition;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_pools_volumes_tell_the_snapshots_of_ours_and_of_nobody_else() {
        let [first, second] = [1, 2].map(|number| VpsId::new(Uuid::from_u128(number)));
        let (id, clone) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let (first_name, foreign) = (GuestDefinition::guest_name(first), "by-hand");
        let volume = |name: String| Volume { name, created_at: "2026-11-23T07:00:00.5Z".to_owned() };
        let volumes = [
            volume(first_name.clone()),
            volume(GuestDefinition::guest_name(second)),
            volume(format!("{first_name}/chom-{id}")),
            volume(format!("{first_name}/chom-clone-{clone}")),
            volume(format!("{first_name}/before-the-upgrade")),
            volume(format!("{foreign}/chom-{id}")),
        ];
        let second_name = GuestDefinition::guest_name(second);
        let all = sorted(&[(first_name.as_str(), first), (&second_name, second)].into(), &volumes);
        let taken_at = UnixMillis(1_795_417_200_500);
        let kept = vec![SnapshotStatus { id: chom_protocol::SnapshotId::new(id), taken_at, disk: None }];
        assert_eq!(all[&first], Snapshots { kept, for_clones: vec![VpsId::new(clone)] });
        assert_eq!(all[&second], Snapshots::default(), "it has none, which is known");
        assert_eq!(all.len(), 2);
        assert_eq!(moment("yesterday"), UnixMillis(0));
    }
}
