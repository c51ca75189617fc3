//! What reaches a guest while it runs: its processors halted, its disk grown, its cable pulled. Everything else about a
//! guest waits for its next start.

use chom_protocol::helper::{GuestDefinition, HelperReply};
use chom_protocol::{Bytes, VpsId};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::{done_if_off, find_ours, mark_of};
use crate::problem::Problem;
use crate::xml::{self, Mark};

/// Halts a guest's processors.
pub(super) fn pause(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else { return Ok(HelperReply::Done) };
    let doing = format!("cannot pause VPS {vps}");
    let info = domain.info().map_err(Problem::libvirt(doing.clone()))?;
    if info.state.to_raw() == sys::VIR_DOMAIN_PAUSED {
        return Ok(HelperReply::Done);
    }
    let outcome = domain.suspend();
    done_if_off(&domain, outcome, doing)
}

/// Makes a running guest's disk larger and lets it see that.
pub(super) fn grow_disk(
    connect: &Connect,
    vps: VpsId,
    device: &str,
    size: Bytes,
) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else { return Ok(HelperReply::Off) };
    let doing = format!("cannot grow the disk of VPS {vps} to {size}");
    if !domain.is_active().map_err(Problem::libvirt(doing.clone()))? {
        return Ok(HelperReply::Off);
    }
    match domain.block_resize(device, size.0, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES) {
        Ok(()) => Ok(HelperReply::Done),
        Err(_) if !domain.is_active().unwrap_or(true) => Ok(HelperReply::Off),
        Err(error) => Err(Problem::libvirt(doing)(error)),
    }
}

/// Lets a running guest follow its new definition as far as it can without a restart. `build` is the one it has now.
pub(super) fn follow(domain: &Domain, guest: &GuestDefinition, build: u64) -> Result<(), Problem> {
    let doing = || format!("cannot change VPS {} while it runs", guest.vps);
    if !domain.is_active().map_err(Problem::libvirt(doing()))? {
        return Ok(());
    }
    if build != guest.build {
        return Err(Problem::State(format!(
            "VPS {} is on: it must be off before another disk takes the place of its own",
            guest.vps
        )));
    }
    switch_cables(domain, guest.connected).map_err(Problem::libvirt(doing()))
}

/// Plugs the cables of a running domain's cards in, or pulls them.
pub(super) fn switch_cables(domain: &Domain, connected: bool) -> Result<(), Error> {
    for card in xml::cards_to_switch(&domain.xml_desc(0)?, connected) {
        domain.update_device_flags(&card, sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE)?;
    }
    Ok(())
}

/// Whether a domain runs with something else than its next start would take up. Of one that is off, and of one that was
/// started before an older release was replaced, that is not said.
pub(super) fn waits_for_start(domain: &Domain, mark: &Mark) -> bool {
    let running = mark_of(domain, sys::VIR_DOMAIN_AFFECT_LIVE).ok().flatten().and_then(|mark| mark.boot);
    running.is_some() && running != mark.boot
}
