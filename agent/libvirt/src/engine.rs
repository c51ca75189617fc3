//! What the agent asks for, done with libvirt: the connection, the guests, the network. Every action looks first and is
//! idempotent. A domain without CHOM's mark is reported and never touched.

use std::collections::BTreeSet;
use std::path::Path;

use chom_protocol::VpsId;
use chom_protocol::helper::{GuestDefinition, HelperReply, HelperRequest, ObservedGuest};
use chom_protocol::link::tunnel::Secret;
use chom_protocol::sample::{Metric, Point};
use chom_protocol::vps::Sha256;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::network::Network;
use virt::sys;

use crate::guest;
use crate::problem::Problem;
use crate::snapshot;
use crate::state::vps_state;
use crate::stats::{self, DomainStats};
use crate::xml::{self, Mark};

/// Guests that CHOM did not make.
mod adopt;
/// What is done to guests that run.
mod live;

const URI: &str = "qemu:///system";
/// Disks and cards of one VPS that are measured; CHOM gives it at most four and one.
const DEVICES_PER_GUEST_MAX: u64 = 8;
/// Points of one answer: keeps it well within a frame (about 40 bytes each).
const POINTS_MAX: usize = 16 * 1024;
/// Of each question to the agent in a guest: it answers in milliseconds, or nobody waits for it.
const FACTS_SECONDS_MAX: i32 = 2;
/// chpasswd(8) hashes with some effort, on a processor that may be translated.
const PASSWORD_SECONDS_MAX: i32 = 10;
/// Nanoseconds of a second, as libvirt counts processor time.
const NANOSECONDS: f64 = 1e9;

/// The connection to libvirt, made when first needed and again when it was lost.
#[derive(Default)]
pub(crate) struct Engine {
    connect: Option<Connect>,
    /// The guests that were adopted, by the last look: their names do not tell.
    adopted: BTreeSet<VpsId>,
}

impl Engine {
    /// Carries one request out.
    pub(crate) fn answer(&mut self, request: HelperRequest) -> HelperReply {
        match self.attempt(&request) {
            Ok(reply) => reply,
            // libvirtd was restarted since the last request: actions are idempotent, so once more on a new connection.
            Err(_) if self.is_lost() => self.attempt(&request).unwrap_or_else(|problem| problem.reply()),
            Err(problem) => problem.reply(),
        }
    }

    fn attempt(&mut self, request: &HelperRequest) -> Result<HelperReply, Problem> {
        let known = match request {
            HelperRequest::Measure => self.adopted.clone(),
            _ => BTreeSet::new(),
        };
        let connect = self.connect()?;
        match request {
            HelperRequest::Hello { .. } => Err(Problem::State("Hello comes once, and first".to_owned())),
            HelperRequest::Observe => {
                let reply = observe(connect)?;
                self.adopted = adopted(&reply);
                Ok(reply)
            }
            HelperRequest::Measure => {
                let points = measure(connect, &known)?;
                Ok(HelperReply::Measured { points })
            }
            HelperRequest::Adopt(guest) => adopt::adopt(connect, guest),
            HelperRequest::Define(guest) => define(connect, guest),
            HelperRequest::Start { vps } => start(connect, *vps),
            HelperRequest::Pause { vps } => live::pause(connect, *vps),
            HelperRequest::GrowDisk { vps, device, size } => live::grow_disk(connect, *vps, device, *size),
            HelperRequest::Shutdown { vps } => shutdown(connect, *vps),
            HelperRequest::PowerOff { vps } => power_off(connect, *vps),
            HelperRequest::Undefine { vps } => undefine(connect, *vps),
            HelperRequest::Snapshot { vps, disk, name, change } => {
                snapshot::change(connect, *vps, disk, name, *change)
            }
            HelperRequest::Network => ensure_network(connect).map(|()| HelperReply::Done),
            HelperRequest::Sockets { vps } => sockets(connect, *vps),
            HelperRequest::Facts { vps } => facts(connect, *vps),
            HelperRequest::SetPassword { vps, user, password } => set_password(connect, *vps, user, password),
        }
    }

    fn connect(&mut self) -> Result<&Connect, Problem> {
        if self.is_lost() {
            self.connect = None;
        }
        match &mut self.connect {
            Some(connect) => Ok(connect),
            empty @ None => {
                let connect =
                    Connect::open(Some(URI)).map_err(Problem::libvirt(format!("cannot connect to {URI}")))?;
                Ok(empty.insert(connect))
            }
        }
    }

    /// Whether there was a connection that is no good any more.
    fn is_lost(&self) -> bool {
        self.connect.as_ref().is_some_and(|connect| !connect.is_alive().unwrap_or(false))
    }
}

fn observe(connect: &Connect) -> Result<HelperReply, Problem> {
    let doing = "cannot list the guests";
    let version = connect.lib_version().map_err(Problem::libvirt("cannot ask libvirt for its version"))?;
    let mut guests = Vec::new();
    for stats in stats::all(connect, sys::VIR_DOMAIN_STATS_STATE, 0).map_err(Problem::libvirt(doing))? {
        let name = stats.domain.name().map_err(Problem::libvirt(doing))?;
        let mark = match marked(&stats.domain) {
            Ok(mark) => mark,
            // Gone since the list was made.
            Err(error) if is(&error, ErrorNumber::NoDomain) => continue,
            Err(error) => {
                return Err(Problem::libvirt(format!("cannot read the metadata of `{name}`"))(error));
            }
        };
        let vps = match mark {
            Some(_) => Some(VpsId::new(stats.domain.uuid().map_err(Problem::libvirt(doing))?)),
            None => None,
        };
        let part = |name| stats.number(name).and_then(|value| u32::try_from(value).ok());
        let state = part("state.state").unwrap_or(sys::VIR_DOMAIN_NOSTATE);
        guests.push(ObservedGuest {
            name,
            vps,
            placement: mark.map_or(0, |mark| mark.placement),
            build: mark.map_or(0, |mark| mark.build),
            definition: mark.map(|mark| mark.definition),
            changed_by_hand: match &mark {
                // Its definition is its owner's.
                Some(Mark { adopted: Some(_), .. }) => false,
                Some(mark) => mark.kept != Some(kept(&stats.domain).map_err(Problem::libvirt(doing))?),
                None => false,
            },
            restart_needed: mark.is_some_and(|mark| live::waits_for_start(&stats.domain, &mark)),
            state: vps_state(state, part("state.reason").unwrap_or(0)),
            hardware: match mark {
                Some(_) => None,
                None => adopt::hardware(connect, &stats.domain).map(Box::new),
            },
            port: mark.and_then(|mark| adopt::port(&stats.domain, mark.adopted?)),
        });
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(HelperReply::Observed { engine_version: spell_version(version), guests })
}

fn adopted(reply: &HelperReply) -> BTreeSet<VpsId> {
    let HelperReply::Observed { guests, .. } = reply else { return BTreeSet::new() };
    let ours = guests.iter().filter_map(|guest| Some((guest.vps?, &guest.name)));
    ours.filter(|(vps, name)| **name != GuestDefinition::guest_name(*vps)).map(|(vps, _)| vps).collect()
}

fn measure(connect: &Connect, adopted: &BTreeSet<VpsId>) -> Result<Vec<Point>, Problem> {
    let groups = sys::VIR_DOMAIN_STATS_CPU_TOTAL
        | sys::VIR_DOMAIN_STATS_BALLOON
        | sys::VIR_DOMAIN_STATS_INTERFACE
        | sys::VIR_DOMAIN_STATS_BLOCK;
    let all = stats::all(connect, groups, sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)
        .map_err(Problem::libvirt("cannot measure the guests"))?;
    let mut points = Vec::new();
    for stats in &all {
        let (Ok(name), Ok(uuid)) = (stats.domain.name(), stats.domain.uuid()) else { continue };
        let vps = VpsId::new(uuid);
        // Reading harms nobody: the name is enough here and spares one call for each guest.
        if name == GuestDefinition::guest_name(vps) || adopted.contains(&vps) {
            points.extend(points_of(vps, stats));
        }
    }
    points.truncate(POINTS_MAX);
    Ok(points)
}

fn points_of(vps: VpsId, stats: &DomainStats) -> Vec<Point> {
    let mut points = Vec::new();
    let mut push = |metric, label: &str, value: Option<f64>| {
        if let Some(value) = value {
            points.push(Point { metric, vps: Some(vps), label: label.to_owned(), value });
        }
    };
    let number = |name: &str| stats.number(name).map(float);
    push(Metric::VpsCpuSeconds, "", number("cpu.time").map(|nanoseconds| nanoseconds / NANOSECONDS));
    push(Metric::VpsMemory, "", number("balloon.rss").map(|kibibytes| kibibytes * 1024.0));
    for at in 0..stats.number("block.count").unwrap_or(0).min(DEVICES_PER_GUEST_MAX) {
        // The seed (an ISO file) is read once at boot and a CD-ROM (sda) now and then: nothing to watch.
        let text = |part| stats.texts.get(&format!("block.{at}.{part}")).map(String::as_str);
        if text("path").is_some_and(|path| path.ends_with(".iso")) {
            continue;
        }
        let Some(label) = text("name").filter(|name| !name.starts_with("sd")) else { continue };
        push(Metric::VpsDiskReadBytes, label, number(&format!("block.{at}.rd.bytes")));
        push(Metric::VpsDiskWrittenBytes, label, number(&format!("block.{at}.wr.bytes")));
        push(Metric::VpsDiskAllocated, label, number(&format!("block.{at}.allocation")));
    }
    for at in 0..stats.number("net.count").unwrap_or(0).min(DEVICES_PER_GUEST_MAX) {
        // libvirt's own name for the card (vnet7) is another one after each start.
        let label = format!("net{at}");
        push(Metric::VpsNetworkReceivedBytes, &label, number(&format!("net.{at}.rx.bytes")));
        push(Metric::VpsNetworkSentBytes, &label, number(&format!("net.{at}.tx.bytes")));
    }
    points
}

fn define(connect: &Connect, guest: &GuestDefinition) -> Result<HelperReply, Problem> {
    let definition = guest.digest().map_err(|error| {
        Problem::State(format!("the definition of VPS {} cannot be written: {error}", guest.vps))
    })?;
    let boot = guest.boot_digest().ok();
    let mut mark =
        Mark { placement: guest.placement, build: guest.build, definition, boot, kept: None, adopted: None };
    let doing = || format!("cannot define the guest of VPS {}", guest.vps);
    if let Some(domain) = find_ours(connect, guest.vps)? {
        let is = marked(&domain).map_err(Problem::libvirt("cannot read the guest's metadata"))?;
        // Not even the same document again: libvirt would choose a newer machine type for it.
        let now = Some(kept(&domain).map_err(Problem::libvirt(doing()))?);
        if is == Some(Mark { kept: now, ..mark }) {
            return Ok(HelperReply::Done);
        }
        // First what runs: the mark then says that all of it was done.
        live::follow(&domain, guest, is.map_or(0, |is| is.build))?;
    }
    ensure_network(connect)?;
    let document = xml::domain(guest, &mark).map_err(Problem::State)?;
    let domain = connect.define_domain_xml(&document).map_err(Problem::libvirt(doing()))?;
    // libvirt fills in what the document left open: what it keeps is what a change by hand is measured against.
    mark.kept = Some(kept(&domain).map_err(Problem::libvirt(doing()))?);
    put_mark(&domain, &mark, sys::VIR_DOMAIN_AFFECT_CONFIG).map_err(Problem::libvirt(doing()))?;
    change_medium(&domain, guest)?;
    Ok(HelperReply::Done)
}

/// Writes CHOM's mark on what a domain will be, on what it is while it runs, or on both.
fn put_mark(domain: &Domain, mark: &Mark, which: u32) -> Result<(), Error> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(i32::MAX);
    domain.set_metadata(kind, Some(&mark.element("")), Some("chom"), Some(xml::NAMESPACE), which).map(drop)
}

/// The digest of what libvirt keeps of a domain for its next start.
fn kept(domain: &Domain) -> Result<Sha256, Error> {
    Ok(xml::kept(&domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?))
}

/// Puts another medium into the drive of a guest that runs, or takes it out, at once.
fn change_medium(domain: &Domain, guest: &GuestDefinition) -> Result<(), Problem> {
    let doing = || format!("cannot change the CD-ROM of VPS {}", guest.vps);
    if !domain.is_active().map_err(Problem::libvirt(doing()))? {
        return Ok(());
    }
    let live = domain.xml_desc(0).map_err(Problem::libvirt(doing()))?;
    let wanted = xml::cdrom(guest.cdrom.as_deref()).map_err(Problem::State)?;
    // A guest that was switched on without a drive gets it at its next start.
    if xml::medium(&live).is_none_or(|has| Some(has) == xml::medium(&wanted)) {
        return Ok(());
    }
    // Forced: a guest that holds the tray does not keep the medium.
    let flags = sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE | sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE;
    domain.update_device_flags(&wanted, flags).map(drop).map_err(Problem::libvirt(doing()))
}

fn start(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else {
        return Err(Problem::State(format!("VPS {vps} has no guest here: it must be defined first")));
    };
    let doing = format!("cannot start VPS {vps}");
    let info = domain.info().map_err(Problem::libvirt(doing.clone()))?;
    let outcome = match info.state.to_raw() {
        sys::VIR_DOMAIN_PAUSED => domain.resume(),
        sys::VIR_DOMAIN_PMSUSPENDED => domain.pm_wakeup(0),
        sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED => {
            ensure_network(connect)?;
            domain.create()
        }
        _ => return Ok(HelperReply::Done),
    };
    outcome.map_err(Problem::libvirt(doing))?;
    Ok(HelperReply::Done)
}

fn shutdown(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else { return Ok(HelperReply::Done) };
    let asked = domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN);
    done_if_off(&domain, asked, format!("cannot ask VPS {vps} to shut down"))
}

fn power_off(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else { return Ok(HelperReply::Done) };
    let outcome = domain.destroy();
    done_if_off(&domain, outcome, format!("cannot power off VPS {vps}"))
}

fn undefine(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else { return Ok(HelperReply::Done) };
    let doing = format!("cannot remove the guest of VPS {vps}");
    if domain.is_active().map_err(Problem::libvirt(doing.clone()))? {
        return Err(Problem::State(format!("VPS {vps} is on: it must be powered off before it is removed")));
    }
    // What libvirt keeps beside the document would otherwise hold it back.
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    match domain.undefine_flags(flags) {
        Err(error) if !is(&error, ErrorNumber::NoDomain) => Err(Problem::libvirt(doing)(error)),
        _ => Ok(HelperReply::Done),
    }
}

fn sockets(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let domain = find_running(connect, vps)?;
    let live = domain.xml_desc(0).map_err(Problem::libvirt(format!("cannot read how VPS {vps} runs")))?;
    let (console, screen) = xml::sockets(&live);
    Ok(HelperReply::Sockets { console, screen })
}

fn set_password(
    connect: &Connect,
    vps: VpsId,
    user: &str,
    password: &Secret,
) -> Result<HelperReply, Problem> {
    let domain = find_running(connect, vps)?;
    stats::limit_agent(&domain, PASSWORD_SECONDS_MAX).map_err(Problem::guest(vps, "set the password"))?;
    let set = domain.set_user_password(user, password.reveal(), 0);
    set.map_err(Problem::guest(vps, "set the password"))?;
    Ok(HelperReply::Done)
}

fn facts(connect: &Connect, vps: VpsId) -> Result<HelperReply, Problem> {
    let domain = find_running(connect, vps)?;
    let doing = "ask for facts";
    stats::limit_agent(&domain, FACTS_SECONDS_MAX).map_err(Problem::guest(vps, doing))?;
    let (mut numbers, mut texts) = Default::default();
    for kind in guest::KINDS {
        match stats::ask_agent(&domain, kind, &mut numbers, &mut texts) {
            Ok(()) => {}
            Err(error) if guest::is_silent(&error) => return Err(Problem::guest(vps, doing)(error)),
            Err(_) => {} // what it does not know stays unknown
        }
    }
    Ok(HelperReply::Facts(Box::new(guest::facts(&numbers, &texts))))
}

/// The domain of a VPS that is on.
fn find_running(connect: &Connect, vps: VpsId) -> Result<Domain, Problem> {
    let doing = || format!("cannot look up the guest of VPS {vps}");
    match find_ours(connect, vps)? {
        Some(domain) if domain.is_active().map_err(Problem::libvirt(doing()))? => Ok(domain),
        _ => Err(Problem::Off { vps }),
    }
}

/// An action that a guest which is off already makes needless, also when it went off meanwhile.
fn done_if_off<T>(domain: &Domain, outcome: Result<T, Error>, doing: String) -> Result<HelperReply, Problem> {
    match outcome {
        Ok(_) => Ok(HelperReply::Done),
        Err(error) if is(&error, ErrorNumber::OperationInvalid) && !domain.is_active().unwrap_or(true) => {
            Ok(HelperReply::Done)
        }
        Err(error) => Err(Problem::libvirt(doing)(error)),
    }
}

/// The domain of a VPS, if there is one; an error if it does not carry CHOM's mark.
pub(crate) fn find_ours(connect: &Connect, vps: VpsId) -> Result<Option<Domain>, Problem> {
    let doing = || format!("cannot look up the guest of VPS {vps}");
    let domain = match connect.lookup_domain_by_uuid(vps.uuid()) {
        Ok(domain) => domain,
        Err(error) if is(&error, ErrorNumber::NoDomain) => return Ok(None),
        Err(error) => return Err(Problem::libvirt(doing())(error)),
    };
    match marked(&domain).map_err(Problem::libvirt(doing()))? {
        Some(_) => Ok(Some(domain)),
        None => Err(Problem::Foreign { name: domain.name().map_err(Problem::libvirt(doing()))? }),
    }
}

/// CHOM's mark on a domain; none on a foreign one. Of the definition that the next start takes, not of the one that runs:
/// that is what drift is measured against.
fn marked(domain: &Domain) -> Result<Option<Mark>, Error> {
    mark_of(domain, sys::VIR_DOMAIN_AFFECT_CONFIG)
}

/// CHOM's mark on what a domain will be, or on what it is while it runs.
fn mark_of(domain: &Domain, which: u32) -> Result<Option<Mark>, Error> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or(i32::MAX);
    let text = match domain.metadata(kind, Some(xml::NAMESPACE), which) {
        // A transient domain has no stored definition, and none of ours is transient.
        Err(error) if is(&error, ErrorNumber::OperationInvalid) => return Ok(None),
        other => other,
    };
    match text {
        Ok(text) => Ok(xml::mark(&text)),
        Err(error) if is(&error, ErrorNumber::NoDomainMetadata) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the guests' network if it is missing, and starts it. One that is there is taken as the operator made it.
fn ensure_network(connect: &Connect) -> Result<(), Problem> {
    let doing = || format!("cannot bring up the network `{}`", xml::NETWORK);
    let network = match connect.lookup_network_by_name(xml::NETWORK) {
        Ok(network) => network,
        Err(error) if is(&error, ErrorNumber::NoNetwork) => {
            // Another engine may have made the bridge before libvirt came to this host.
            let is_there = Path::new("/sys/class/net").join(xml::BRIDGE).exists();
            let document = if is_there { xml::network_on_bridge() } else { xml::network() };
            connect.define_network_xml(&document).map_err(Problem::libvirt(doing()))?
        }
        Err(error) => return Err(Problem::libvirt(doing())(error)),
    };
    if !network.autostart().map_err(Problem::libvirt(doing()))? {
        network.set_autostart(true).map_err(Problem::libvirt(doing()))?;
    }
    if is_off(&network)? {
        network.create().map_err(Problem::libvirt(doing()))?;
    }
    Ok(())
}

fn is_off(network: &Network) -> Result<bool, Problem> {
    let active = network.is_active().map_err(Problem::libvirt("cannot ask for the state of the network"))?;
    Ok(!active)
}

fn is(error: &Error, number: ErrorNumber) -> bool {
    error.code().is(number)
}

/// libvirt's version number as people write it.
fn spell_version(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

/// Counters beyond 2^53 lose their last digits, which no reader of a rate sees.
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_spelt_as_libvirt_does() {
        assert_eq!(spell_version(11_003_000), "11.3.0");
    }
}
