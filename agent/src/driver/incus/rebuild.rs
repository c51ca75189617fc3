//! A container's disk exchanged for a new one. The successor is made whole under a name of its own before the old one goes:
//! whenever this ends half-way, one of the two is whole, and the next try goes on.

use std::path::Path;

use chom_protocol::VpsId;
use chom_protocol::helper::GuestDefinition;
use chom_protocol::vps::{VpsSpec, VpsState};
use hyper::Method;
use serde_json::json;

use super::api::Payload;
use super::instance::{Definition, Instance, successor_name};
use super::{DELETE_SECONDS_MAX, IncusDriver, SWITCH_SECONDS_MAX, failed, path_of};
use crate::driver::DriverError;

/// Puts a container of the wanted build in the place of `old`; in that of nothing, where an earlier try ended in between.
pub(super) async fn exchange(
    driver: &IncusDriver,
    spec: &VpsSpec,
    image: &Path,
    definition: &Definition,
    old: Option<&Instance>,
) -> Result<(), DriverError> {
    if old.is_some_and(|old| old.state() != VpsState::Stopped) {
        return Err(DriverError::passing(format!("VPS {} is on: its disk is in use", spec.id)));
    }
    let (name, successor) = (GuestDefinition::guest_name(spec.id), successor_name(spec.id));
    let made = look(driver, &successor).await?;
    if !made.is_some_and(|made| !made.is_half_made() && made.build() == spec.build) {
        remove(driver, &successor).await?;
        driver.make(spec, &successor, image, definition).await?;
    }
    if old.is_some() {
        remove(driver, &name).await?;
    }
    let request = Payload::json(&json!({ "name": name }));
    let renamed = driver.api.act(Method::POST, &path_of(&successor), request, SWITCH_SECONDS_MAX).await;
    renamed.map_err(failed(format!("cannot give the rebuilt container of VPS {} its name", spec.id)))
}

/// Removes a successor that came to nothing.
pub(super) async fn remove_successor(driver: &IncusDriver, vps: VpsId) -> Result<(), DriverError> {
    remove(driver, &successor_name(vps)).await
}

async fn look(driver: &IncusDriver, name: &str) -> Result<Option<Instance>, DriverError> {
    match driver.api.get::<Instance>(&path_of(name)).await {
        Ok(instance) => Ok(Some(instance)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(failed(format!("cannot look up the container `{name}`"))(error)),
    }
}

async fn remove(driver: &IncusDriver, name: &str) -> Result<(), DriverError> {
    match driver.api.act(Method::DELETE, &path_of(name), Payload::none(), DELETE_SECONDS_MAX).await {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed.map_err(failed(format!("cannot remove the container `{name}`"))),
    }
}
