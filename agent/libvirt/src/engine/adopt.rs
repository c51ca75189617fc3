//! Guests that CHOM did not make: what they are made of, and taking one on. Nothing here stops or starts a guest, and of
//! its definition only what CHOM is asked for changes.

use chom_protocol::VpsId;
use chom_protocol::foreign::{GUEST_CARDS_MAX, GUEST_DISKS_MAX, Hardware};
use chom_protocol::helper::{AdoptedDefinition, HelperReply};
use chom_protocol::network::port_name;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::{is, live, marked, put_mark};
use crate::hardware;
use crate::problem::Problem;
use crate::xml::{self, Mark};

/// Of memory in libvirt's own unit.
const KIBIBYTE: u64 = 1024;

/// What a domain is made of; none where libvirt cannot say, which harms nobody's guest but its own adoption.
pub(super) fn hardware(connect: &Connect, domain: &Domain) -> Option<Hardware> {
    let document = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).ok()?;
    let bridge_of = |network: &str| connect.lookup_network_by_name(network).ok()?.bridge_name().ok();
    let (mut disks, mut cards) = (hardware::disks(&document), hardware::cards(&document, bridge_of));
    let many = disks.len() > GUEST_DISKS_MAX || cards.len() > GUEST_CARDS_MAX;
    disks.truncate(GUEST_DISKS_MAX);
    cards.truncate(GUEST_CARDS_MAX);
    let obstacle = if !domain.is_persistent().ok()? {
        Some(TRANSIENT.to_owned())
    } else if many {
        Some(format!("it has more than {GUEST_DISKS_MAX} disks or {GUEST_CARDS_MAX} cards: detach some"))
    } else {
        None
    };
    Some(Hardware {
        id: VpsId::new(domain.uuid().ok()?),
        cores: hardware::cores(&document),
        memory: hardware::memory(&document),
        disks,
        cards,
        obstacle,
    })
}

const TRANSIENT: &str = "it is transient, so that it would be gone once it is off: give it a definition (`virsh dumpxml` \
     it into a file, `virsh define` that)";

/// What the host's end of an adopted guest's card is called now; none of one that is off.
pub(super) fn port(domain: &Domain, mac: [u8; 6]) -> Option<String> {
    if !domain.is_active().ok()? {
        return None;
    }
    hardware::port(&domain.xml_desc(0).ok()?, mac)
}

/// Takes a guest on, and makes of it what the definition says.
pub(super) fn adopt(connect: &Connect, guest: &AdoptedDefinition) -> Result<HelperReply, Problem> {
    let doing = || format!("cannot adopt the guest of VPS {}", guest.vps);
    let domain = match connect.lookup_domain_by_uuid(guest.vps.uuid()) {
        Ok(domain) => domain,
        Err(error) if is(&error, ErrorNumber::NoDomain) => {
            return Err(Problem::State(format!(
                "libvirt has no guest with the id {}: the one that was to be adopted was removed, or defined anew under \
                 another id; define it again, or delete and purge this VPS",
                guest.vps
            )));
        }
        Err(error) => return Err(Problem::libvirt(doing())(error)),
    };
    let was = marked(&domain).map_err(Problem::libvirt(doing()))?;
    if was.is_some_and(|mark| mark.adopted.is_none()) {
        return Err(Problem::State(format!(
            "the guest of VPS {} was made by CHOM: nothing is changed",
            guest.vps
        )));
    }
    if !domain.is_persistent().map_err(Problem::libvirt(doing()))? {
        return Err(Problem::State(format!("{}: {TRANSIENT}", doing())));
    }
    let digests = guest.digest().and_then(|definition| Ok((definition, guest.boot_digest()?)));
    let (definition, boot) = digests.map_err(|error| Problem::State(format!("{}: {error}", doing())))?;
    let mark = Mark {
        placement: guest.placement,
        build: 0,
        definition,
        boot: Some(boot),
        kept: None,
        adopted: Some(guest.mac),
    };
    let is_active = domain.is_active().map_err(Problem::libvirt(doing()))?;
    follow(&domain, guest, was.is_some(), is_active).map_err(Problem::libvirt(doing()))?;
    // It runs with what it had when it was taken on.
    let both = sys::VIR_DOMAIN_AFFECT_CONFIG | sys::VIR_DOMAIN_AFFECT_LIVE;
    let which = if was.is_none() && is_active { both } else { sys::VIR_DOMAIN_AFFECT_CONFIG };
    put_mark(&domain, &mark, which).map_err(Problem::libvirt(doing()))?;
    Ok(HelperReply::Done)
}

/// Changes what is not as wanted, and nothing else. A cable that was pulled by hand before it was taken on stays so.
fn follow(
    domain: &Domain,
    guest: &AdoptedDefinition,
    was_adopted: bool,
    is_active: bool,
) -> Result<(), Error> {
    let document = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?;
    // Whether it runs is for the agent to say, also after the host booted.
    if domain.autostart()? {
        domain.set_autostart(false)?;
    }
    set_cores(domain, hardware::cores(&document), guest.cores)?;
    let memory = guest.memory.0 / KIBIBYTE;
    if hardware::memory(&document).map(|has| has.0 / KIBIBYTE) != Some(memory) {
        domain.set_memory_flags(memory, sys::VIR_DOMAIN_MEM_CONFIG | sys::VIR_DOMAIN_MEM_MAXIMUM)?;
        domain.set_memory_flags(memory, sys::VIR_DOMAIN_MEM_CONFIG)?;
    }
    if was_adopted || !guest.connected {
        for card in xml::cards_to_switch(&document, guest.connected) {
            domain.update_device_flags(&card, sys::VIR_DOMAIN_DEVICE_MODIFY_CONFIG)?;
        }
        if is_active {
            live::switch_cables(domain, guest.connected)?;
        }
    }
    let document = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?;
    if let Some(card) = hardware::renamed_card(&document, guest.mac, &port_name(guest.vps)) {
        domain.update_device_flags(&card, sys::VIR_DOMAIN_DEVICE_MODIFY_CONFIG)?;
    }
    Ok(())
}

/// Never more in use than there may be, in between too.
fn set_cores(domain: &Domain, has: Option<u32>, wanted: u32) -> Result<(), Error> {
    let in_use = || domain.set_vcpus_flags(wanted, sys::VIR_DOMAIN_VCPU_CONFIG);
    let at_most =
        || domain.set_vcpus_flags(wanted, sys::VIR_DOMAIN_VCPU_CONFIG | sys::VIR_DOMAIN_VCPU_MAXIMUM);
    match has {
        Some(has) if has == wanted => Ok(()),
        Some(has) if has > wanted => in_use().and_then(|()| at_most()),
        _ => at_most().and_then(|()| in_use()),
    }
}
