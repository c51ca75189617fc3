//! Guests that CHOM did not make become VPSs: one by flags, or as many as a TOML file has.

use std::path::{Path, PathBuf};

use chom_protocol::api::adoption::{ADOPTIONS_MAX, AdoptPlan, AdoptPlans, AdoptVps, PlanAdoptions};
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::Engine;
use chom_protocol::{Bytes, Name};
use serde::{Deserialize, Deserializer, Serialize};

use super::change::parse_bytes;
use crate::client::Client;
use crate::error::Failure;
use crate::operation::{self, WaitOptions};
use crate::output::joined;
use crate::session::{Session, read_text};

const PATH: &str = "/api/adoptions";
/// A guest takes 200 bytes; a request of `ADOPTIONS_MAX` stays below this.
const FILE_BYTES_MAX: usize = 200 * 1024;

/// Which guests to adopt.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A file is TOML, a table for each guest; only host and guest are needed:

  [[guest]]
  host = \"kvm1\"
  guest = \"vm101\"                  # its name in libvirt or Incus
  name = \"web\"                     # its name as a VPS
  tenant = \"acme\"
  addresses = [\"192.0.2.7\", \"2001:db8:7::/64\"]
  external_id = \"whmcs-4711\"

  and: engine, network, mac (of several cards), spoof_guard, and, where the engine
  sets no limit: cores, memory = \"4G\", disk = \"20G\"")]
pub(crate) struct AdoptOptions {
    /// The host that the guest is on: its name or id
    #[arg(required_unless_present = "file")]
    host: Option<Name>,
    /// The guest's name in its engine (chomctl host show HOST)
    #[arg(required_unless_present = "file")]
    guest: Option<String>,
    /// A TOML file of guests, instead of one
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["host", "name", "addresses", "external_id"])]
    file: Option<PathBuf>,
    /// Its engine, where two of the host's have a guest of that name
    #[arg(long)]
    engine: Option<Engine>,
    /// Its name as a VPS; its name in its engine where absent
    #[arg(long)]
    name: Option<Name>,
    /// Whose it is
    #[arg(long)]
    tenant: Option<Name>,
    /// The network that its card is on; where absent, the one that has the card's bridge
    #[arg(long)]
    network: Option<Name>,
    /// An address that it has, or a prefix that is routed to it; may be given several times
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// The hardware address of its card, where it has several
    #[arg(long)]
    mac: Option<String>,
    /// Virtual processors that it counts with, where its engine does not limit them
    #[arg(long)]
    cores: Option<u32>,
    /// Memory that it counts with, such as 4G, where its engine does not limit it
    #[arg(long, value_parser = parse_bytes)]
    memory: Option<Bytes>,
    /// Disk that it counts with, such as 20G, where its engine does not limit it
    #[arg(long, value_parser = parse_bytes)]
    disk: Option<Bytes>,
    /// What another system calls it
    #[arg(long)]
    external_id: Option<String>,
    /// Let it send from any address
    #[arg(long)]
    no_spoof_guard: bool,
    /// Say what each would become, or why not, and do nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guest: Vec<Guest>,
}

/// A guest as a file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    host: Name,
    guest: String,
    engine: Option<Engine>,
    name: Option<Name>,
    tenant: Option<Name>,
    network: Option<Name>,
    #[serde(default)]
    addresses: Vec<String>,
    mac: Option<String>,
    cores: Option<u32>,
    #[serde(default, deserialize_with = "size")]
    memory: Option<Bytes>,
    #[serde(default, deserialize_with = "size")]
    disk: Option<Bytes>,
    external_id: Option<String>,
    #[serde(default = "yes")]
    spoof_guard: bool,
}

fn yes() -> bool {
    true
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_bytes(&text).map(Some).map_err(serde::de::Error::custom)
}

impl From<Guest> for AdoptVps {
    fn from(guest: Guest) -> Self {
        Self {
            host: guest.host,
            guest: guest.guest,
            engine: guest.engine,
            name: guest.name,
            tenant: guest.tenant,
            network: guest.network,
            addresses: guest.addresses,
            mac: guest.mac,
            cores: guest.cores,
            memory_bytes: guest.memory,
            disk_bytes: guest.disk,
            external_id: guest.external_id,
            spoof_guard: guest.spoof_guard,
        }
    }
}

/// What became of one guest.
#[derive(Debug, Serialize)]
struct Outcome {
    host: Name,
    guest: String,
    #[serde(flatten)]
    accepted: Option<VpsAccepted>,
    problem: Option<String>,
}

impl AdoptOptions {
    fn requests(self) -> Result<Vec<AdoptVps>, Failure> {
        if let Some(file) = &self.file {
            return read(file);
        }
        let missing = || Failure::usage("no guest is named", "give its host and its name, or a file (-f)");
        Ok(vec![AdoptVps {
            host: self.host.ok_or_else(missing)?,
            guest: self.guest.ok_or_else(missing)?,
            engine: self.engine,
            name: self.name,
            tenant: self.tenant,
            network: self.network,
            addresses: self.addresses,
            mac: self.mac,
            cores: self.cores,
            memory_bytes: self.memory,
            disk_bytes: self.disk,
            external_id: self.external_id,
            spoof_guard: !self.no_spoof_guard,
        }])
    }
}

fn read(path: &Path) -> Result<Vec<AdoptVps>, Failure> {
    parse(&read_text("guests from", path, FILE_BYTES_MAX)?, &path.display().to_string())
}

fn parse(text: &str, path: &str) -> Result<Vec<AdoptVps>, Failure> {
    let File { guest } = toml::from_str(text).map_err(|error| {
        Failure::usage(
            format!("`{path}`: {}", error.to_string().trim_end()),
            "see `chomctl vps adopt --help` for what a file looks like",
        )
    })?;
    match guest.len() {
        0 => Err(Failure::usage(format!("`{path}` has no `[[guest]]`"), "write a table for each guest")),
        count if count > ADOPTIONS_MAX => Err(Failure::usage(
            format!("`{path}` has {count} guests"),
            format!("give at most {ADOPTIONS_MAX} in one file"),
        )),
        _ => Ok(guest.into_iter().map(Into::into).collect()),
    }
}

pub(super) fn run(session: &Session, mut options: AdoptOptions) -> Result<(), Failure> {
    let (dry_run, one, wait) = (options.dry_run, options.file.is_none(), options.wait);
    options.wait = WaitOptions { wait: false, ..wait };
    let guests = options.requests()?;
    let client = session.client()?;
    if dry_run {
        let asked = guests.len();
        let plans: AdoptPlans = client.post(&format!("{PATH}/plan"), &PlanAdoptions { guests })?;
        session.screen.show(&plans.plans, |_| planned(&plans.plans))?;
        return all(plans.plans.iter().filter(|plan| plan.problem.is_some()).count(), asked);
    }
    if let ([guest], true) = (guests.as_slice(), one) {
        let accepted: VpsAccepted = client.post(PATH, guest)?;
        return super::finish(session, &client, accepted, wait);
    }
    adopt_all(session, &client, guests, wait)
}

/// Each by itself: one that is refused holds up no other.
fn adopt_all(
    session: &Session,
    client: &Client,
    guests: Vec<AdoptVps>,
    wait: WaitOptions,
) -> Result<(), Failure> {
    let asked = guests.len();
    let mut outcomes = Vec::new();
    for guest in guests {
        let (accepted, problem) = match client.post::<_, VpsAccepted>(PATH, &guest) {
            Ok(accepted) => (Some(accepted), None),
            Err(Failure::Problem { problem, .. }) => (None, Some(problem.detail.clone())),
            // The others would fare no better; those before it are adopted, and asked for again they say so.
            Err(failure) => {
                show(session, &outcomes)?;
                return Err(failure);
            }
        };
        outcomes.push(Outcome { host: guest.host, guest: guest.guest, accepted, problem });
    }
    if wait.wait {
        for outcome in &mut outcomes {
            let Some(accepted) = &mut outcome.accepted else { continue };
            let name = accepted.vps.name.to_string();
            accepted.operation = operation::wait(client, accepted.operation.clone(), &name, wait.timeout)?;
            outcome.problem =
                operation::outcome(&accepted.operation).err().map(|failure| failure.to_string());
        }
    }
    show(session, &outcomes)?;
    all(outcomes.iter().filter(|outcome| outcome.problem.is_some()).count(), asked)
}

fn show(session: &Session, outcomes: &[Outcome]) -> Result<(), Failure> {
    session.screen.show(outcomes, |_| outcomes.iter().map(done).collect())
}

fn all(refused: usize, asked: usize) -> Result<(), Failure> {
    if refused == 0 { Ok(()) } else { Err(Failure::NotAdopted { refused, asked }) }
}

fn done(outcome: &Outcome) -> String {
    let Outcome { host, guest, accepted, problem } = outcome;
    let said = match (accepted, problem) {
        (_, Some(problem)) => format!("not adopted: {problem}"),
        (Some(accepted), None) => {
            format!("becomes {} (operation {})", what(&accepted.vps), accepted.operation.id)
        }
        (None, None) => String::new(),
    };
    format!("{host}/{guest}: {said}\n")
}

fn planned(plans: &[AdoptPlan]) -> String {
    let mut text = String::new();
    for AdoptPlan { host, guest, vps, problem, notes } in plans {
        let said = match (vps, problem) {
            (Some(vps), _) => format!("would become {}", what(vps)),
            (None, Some(problem)) => format!("would not be adopted: {problem}"),
            (None, None) => String::new(),
        };
        text.push_str(&format!("{host}/{guest}: {said}\n"));
        notes.iter().for_each(|note| text.push_str(&format!("    {note}\n")));
    }
    let fit = plans.iter().filter(|plan| plan.vps.is_some()).count();
    text + &format!("{fit} of {} can be adopted; nothing was done\n", plans.len())
}

fn what(vps: &VpsView) -> String {
    let VpsView { name, tenant, engine, cores, memory_bytes, disk_bytes, network, addresses, .. } = vps;
    let addresses = if addresses.is_empty() { "no address".to_owned() } else { joined(addresses) };
    let external = vps.external_id.as_ref().map(|id| format!(", external id {id}")).unwrap_or_default();
    format!(
        "VPS `{name}` of `{tenant}` ({engine}, {cores} cores, {memory_bytes} memory, {disk_bytes} disk, network {network}, \
         {addresses}{external})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_table_for_each_guest_and_mistakes_are_named_with_their_line() {
        let guests = parse(
            "[[guest]]\nhost = 'kvm1'\nguest = 'vm 101'\n\n[[guest]]\nhost = 'kvm1'\nguest = 'ct1'\nname = 'web'\n\
             addresses = ['192.0.2.7']\nmemory = '4G'\nspoof_guard = false\nexternal_id = '7'\n",
            "guests.toml",
        )
        .unwrap();
        assert_eq!((guests[0].guest.as_str(), guests[0].spoof_guard), ("vm 101", true));
        assert_eq!((guests[1].memory_bytes, guests[1].spoof_guard), (Some(Bytes::gib(4)), false));
        assert_eq!(guests[1].external_id.as_deref(), Some("7"));
        for (text, said) in [
            ("", "has no `[[guest]]`"),
            ("[[guest]]\nguest = 'a'\n", "missing field `host`"),
            ("[[guest]]\nhost = 'a'\nguest = 'b'\ncolour = 'red'\n", "line 4"),
            ("[[guest]]\nhost = 'a'\nguest = 'b'\ndisk = '4 apples'\n", "write a size such as"),
            ("guest = 7", "line 1"),
        ] {
            let error = parse(text, "guests.toml").unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
