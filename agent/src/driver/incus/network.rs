//! The network that containers are on: the same bridge that libvirt's guests are on, so that a host with both engines has
//! one network behind NAT. It is libvirt's where libvirt is, and Incus' where it is alone.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::network::port_name;

use hyper::Method;
use serde::de::IgnoredAny;
use serde_json::json;

use super::api::{IncusApi, IncusError, Payload};
use super::failed;
use crate::chain::Chain;
use crate::driver::DriverError;
use crate::driver::command::Program;
use crate::driver::libvirt::SharedNetwork;

/// The bridge; the host is its gateway.
pub(super) const BRIDGE: &str = "chom0";
/// As `agent/libvirt` has it: addresses are the orchestrator's to give.
const HOST_ADDRESS: &str = "10.155.0.1/20";
/// Making a bridge takes a tenth of a second.
const MAKE_SECONDS_MAX: u64 = 30;

const IP: Program = Program { name: "ip", package: "iproute2", deadline: Duration::from_secs(10) };

/// Takes away the host's end of a card whose container is off: an Incus that was killed leaves it behind, and then cannot
/// make it again.
pub(super) async fn remove_left_over(vps: VpsId) -> Result<(), DriverError> {
    let port = port_name(vps);
    if !Path::new("/sys/class/net").join(&port).exists() {
        return Ok(());
    }
    match IP.succeed(&["link", "delete", "dev", &port].map(OsString::from)).await {
        // It went by itself meanwhile.
        Err(_) if !Path::new("/sys/class/net").join(&port).exists() => Ok(()),
        removed => removed.map(drop).map_err(|error| {
            DriverError::passing(format!(
                "cannot remove the card `{port}` that Incus left behind: {}",
                Chain(&error)
            ))
        }),
    }
}

/// Makes the bridge unless it is there.
pub(super) async fn ensure(api: &IncusApi, shared: Option<&SharedNetwork>) -> Result<(), DriverError> {
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        return Ok(());
    }
    match shared {
        Some(shared) => shared.ensure().await,
        None => make(api).await.map_err(failed(format!("cannot make the containers' network `{BRIDGE}`"))),
    }
}

async fn make(api: &IncusApi) -> Result<(), IncusError> {
    match api.get::<IgnoredAny>(&format!("/1.0/networks/{BRIDGE}")).await {
        // Incus has it and brings it up by itself, when it starts.
        Ok(_) => return Ok(()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let config = json!({
        "ipv4.address": HOST_ADDRESS, "ipv4.nat": "true", "ipv4.dhcp": "false", "ipv6.address": "none",
    });
    let network = json!({ "name": BRIDGE, "type": "bridge", "config": config });
    api.act(Method::POST, "/1.0/networks", Payload::json(&network), MAKE_SECONDS_MAX).await
}
