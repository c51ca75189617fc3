//! The messages themselves on the wire. FROZEN: see `v1`. The order of the variants is their number: add at the end only.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::list::List;
use super::sample::Sample;
use super::spec::{SpecBegin, SpecPart, twin};
use super::status::HostStatus;
use super::value::{self, Id, TEXT_BYTES_MAX, Within, bad, line};
use crate::id::{BootId, HostId, InstanceId, JobId};
use crate::job;
use crate::link::codec::DecodeError;
use crate::link::{self, SPEC_ITEMS_MAX};
use crate::units::{Bytes, UnixMillis};
use crate::vps::Sha256;

/// Certificates and requests, chains included: P-256 ones take under 1 KiB each.
const DER_BYTES_MAX: usize = 64 * 1024;
/// CAs of a fleet: one, and two while it is rotated.
const CA_BUNDLE_MAX: usize = 16;
const ORCHESTRATORS_MAX: usize = 64;
/// `host:port`: a name (RFC 1035: 253 characters) or bracketed address, a colon, five digits.
const ORCHESTRATOR_BYTES_MAX: usize = 253 + 6;
/// Tokens are some dozens of characters.
const TOKEN_BYTES_MAX: usize = 1024;
const RESULTS_MAX: usize = SPEC_ITEMS_MAX as usize;
/// A day of samples at one every 15 s is 5,760.
const SAMPLES_MAX: usize = 16 * 1024;

type Der = List<u8, DER_BYTES_MAX>;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToOrchestrator {
    Hello(Hello),
    Renew { csr: Der },
    LedgerBegin(SpecBegin),
    LedgerPart(SpecPart),
    LedgerEnd { digest: [u8; 32] },
    Pull { have: value::Generation },
    Accepted { generation: value::Generation },
    Refused { generation: value::Generation, problem: String },
    Status(Box<HostStatus>),
    Results(List<JobResult, RESULTS_MAX>),
    Samples(List<Sample, SAMPLES_MAX>),
    Fetch { sha256: [u8; 32], offset: u64 },
    Enrol { token: String, csr: Der, hostname: String },
    FleetKept { ca_bundle: [u8; 32] },
}

impl ToOrchestrator {
    /// The message; a status in it with texts of at most so many bytes.
    pub(super) fn new(message: &link::ToOrchestrator, text_bytes_max: usize) -> Self {
        use link::ToOrchestrator as Domain;
        match message {
            Domain::Hello(hello) => Self::Hello(hello.into()),
            Domain::Renew { csr } => Self::Renew { csr: csr.iter().copied().collect() },
            Domain::LedgerBegin(begin) => Self::LedgerBegin(begin.into()),
            Domain::LedgerPart(part) => Self::LedgerPart(part.into()),
            Domain::LedgerEnd { digest } => Self::LedgerEnd { digest: digest.0 },
            Domain::Pull { have } => Self::Pull { have: (*have).into() },
            Domain::Accepted { generation } => Self::Accepted { generation: (*generation).into() },
            Domain::Refused { generation, problem } => {
                Self::Refused { generation: (*generation).into(), problem: line(problem, TEXT_BYTES_MAX) }
            }
            Domain::Status(status) => Self::Status(Box::new(HostStatus::new(status, text_bytes_max))),
            Domain::Results(results) => Self::Results(results.iter().map(JobResult::from).collect()),
            Domain::Samples(samples) => Self::Samples(samples.iter().map(Sample::from).collect()),
            Domain::Fetch { sha256, offset } => Self::Fetch { sha256: sha256.0, offset: offset.0 },
            Domain::Enrol { token, csr, hostname } => Self::Enrol {
                token: token.clone(),
                csr: csr.iter().copied().collect(),
                hostname: line(hostname, TEXT_BYTES_MAX),
            },
            Domain::FleetKept { ca_bundle } => Self::FleetKept { ca_bundle: ca_bundle.0 },
        }
    }
}

impl TryFrom<ToOrchestrator> for link::ToOrchestrator {
    type Error = DecodeError;

    fn try_from(message: ToOrchestrator) -> Result<Self, DecodeError> {
        use ToOrchestrator as Wire;
        Ok(match message {
            Wire::Hello(hello) => Self::Hello(hello.into()),
            Wire::Renew { csr } => Self::Renew { csr: der("Renew: csr", csr)? },
            Wire::LedgerBegin(begin) => Self::LedgerBegin(begin.try_into().within("LedgerBegin")?),
            Wire::LedgerPart(part) => Self::LedgerPart(part.try_into().within("LedgerPart")?),
            Wire::LedgerEnd { digest } => Self::LedgerEnd { digest: Sha256(digest) },
            Wire::Pull { have } => Self::Pull { have: have.into() },
            Wire::Accepted { generation } => Self::Accepted { generation: generation.into() },
            Wire::Refused { generation, problem } => {
                Self::Refused { generation: generation.into(), problem: line(&problem, TEXT_BYTES_MAX) }
            }
            Wire::Status(status) => Self::Status(Box::new((*status).try_into().within("Status")?)),
            Wire::Results(results) => Self::Results(results.0.into_iter().map(Into::into).collect()),
            Wire::Samples(samples) => Self::Samples(samples.0.into_iter().map(Into::into).collect()),
            Wire::Fetch { sha256, offset } => Self::Fetch { sha256: Sha256(sha256), offset: Bytes(offset) },
            Wire::Enrol { token, csr, hostname } => Self::Enrol {
                token: checked_token(token)?,
                csr: der("Enrol: csr", csr)?,
                hostname: line(&hostname, TEXT_BYTES_MAX),
            },
            Wire::FleetKept { ca_bundle } => Self::FleetKept { ca_bundle: Sha256(ca_bundle) },
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToAgent {
    Welcome { standing: Standing, fleet: FleetInfo },
    Renewed { certificate: Der },
    FleetInfo(FleetInfo),
    LedgerWanted,
    SpecBegin(SpecBegin),
    SpecPart(SpecPart),
    SpecEnd { digest: [u8; 32] },
    Acknowledged,
    Blob { size: u64 },
    Enrolled { host: Id, certificate: Der, fleet: FleetInfo },
    Problem { problem: String },
    RenewWanted { within_seconds: u32 },
}

impl From<&link::ToAgent> for ToAgent {
    fn from(message: &link::ToAgent) -> Self {
        use link::ToAgent as Domain;
        match message {
            Domain::Welcome { standing, fleet } => {
                Self::Welcome { standing: (*standing).into(), fleet: fleet.into() }
            }
            Domain::Renewed { certificate } => {
                Self::Renewed { certificate: certificate.iter().copied().collect() }
            }
            Domain::FleetInfo(fleet) => Self::FleetInfo(fleet.into()),
            Domain::LedgerWanted => Self::LedgerWanted,
            Domain::SpecBegin(begin) => Self::SpecBegin(begin.into()),
            Domain::SpecPart(part) => Self::SpecPart(part.into()),
            Domain::SpecEnd { digest } => Self::SpecEnd { digest: digest.0 },
            Domain::Acknowledged => Self::Acknowledged,
            Domain::Blob { size } => Self::Blob { size: size.0 },
            Domain::Enrolled { host, certificate, fleet } => Self::Enrolled {
                host: host.uuid().into_bytes(),
                certificate: certificate.iter().copied().collect(),
                fleet: fleet.into(),
            },
            Domain::Problem { problem } => Self::Problem { problem: line(problem, TEXT_BYTES_MAX) },
            Domain::RenewWanted { within_seconds } => Self::RenewWanted { within_seconds: *within_seconds },
        }
    }
}

impl TryFrom<ToAgent> for link::ToAgent {
    type Error = DecodeError;

    fn try_from(message: ToAgent) -> Result<Self, DecodeError> {
        use ToAgent as Wire;
        Ok(match message {
            Wire::Welcome { standing, fleet } => {
                Self::Welcome { standing: standing.into(), fleet: fleet.try_into().within("Welcome")? }
            }
            Wire::Renewed { certificate } => {
                Self::Renewed { certificate: der("Renewed: certificate", certificate)? }
            }
            Wire::FleetInfo(fleet) => Self::FleetInfo(fleet.try_into().within("FleetInfo")?),
            Wire::LedgerWanted => Self::LedgerWanted,
            Wire::SpecBegin(begin) => Self::SpecBegin(begin.try_into().within("SpecBegin")?),
            Wire::SpecPart(part) => Self::SpecPart(part.try_into().within("SpecPart")?),
            Wire::SpecEnd { digest } => Self::SpecEnd { digest: Sha256(digest) },
            Wire::Acknowledged => Self::Acknowledged,
            Wire::Blob { size } => Self::Blob { size: Bytes(size) },
            Wire::Enrolled { host, certificate, fleet } => Self::Enrolled {
                host: HostId::new(Uuid::from_bytes(host)),
                certificate: der("Enrolled: certificate", certificate)?,
                fleet: fleet.try_into().within("Enrolled")?,
            },
            Wire::Problem { problem } => Self::Problem { problem: line(&problem, TEXT_BYTES_MAX) },
            Wire::RenewWanted { within_seconds } => Self::RenewWanted { within_seconds },
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    host: Id,
    instance: Id,
    boot: Id,
    agent_version: String,
    accepted: value::Generation,
}

impl From<&link::Hello> for Hello {
    fn from(hello: &link::Hello) -> Self {
        let link::Hello { host, instance, boot, agent_version, accepted } = hello;
        Self {
            host: host.uuid().into_bytes(),
            instance: instance.uuid().into_bytes(),
            boot: boot.uuid().into_bytes(),
            agent_version: line(agent_version, TEXT_BYTES_MAX),
            accepted: (*accepted).into(),
        }
    }
}

impl From<Hello> for link::Hello {
    fn from(hello: Hello) -> Self {
        let Hello { host, instance, boot, agent_version, accepted } = hello;
        Self {
            host: HostId::new(Uuid::from_bytes(host)),
            instance: InstanceId::new(Uuid::from_bytes(instance)),
            boot: BootId::new(Uuid::from_bytes(boot)),
            agent_version: line(&agent_version, TEXT_BYTES_MAX),
            accepted: accepted.into(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FleetInfo {
    orchestrators: List<String, ORCHESTRATORS_MAX>,
    ca_bundle: List<Der, CA_BUNDLE_MAX>,
}

impl From<&link::FleetInfo> for FleetInfo {
    fn from(fleet: &link::FleetInfo) -> Self {
        let link::FleetInfo { orchestrators, ca_bundle } = fleet;
        Self {
            orchestrators: orchestrators.iter().cloned().collect(),
            ca_bundle: ca_bundle.iter().map(|der| der.iter().copied().collect()).collect(),
        }
    }
}

impl TryFrom<FleetInfo> for link::FleetInfo {
    type Error = DecodeError;

    fn try_from(fleet: FleetInfo) -> Result<Self, DecodeError> {
        let FleetInfo { orchestrators, ca_bundle } = fleet;
        if ca_bundle.0.is_empty() {
            return Err(bad(
                "ca_bundle",
                "no CA at all: a host that kept this could trust no orchestrator again",
            ));
        }
        Ok(Self {
            orchestrators: orchestrators.0.into_iter().map(orchestrator).collect::<Result<_, _>>()?,
            ca_bundle: ca_bundle.0.into_iter().map(|ca| der("ca_bundle", ca)).collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobResult {
    job: Id,
    outcome: JobOutcome,
    finished_at: u64,
    generation: value::Generation,
}

#[derive(Debug, Serialize, Deserialize)]
enum JobOutcome {
    Done,
    Failed { problem: String },
}

impl From<&job::JobResult> for JobResult {
    fn from(result: &job::JobResult) -> Self {
        let job::JobResult { job, outcome, finished_at, generation } = result;
        let outcome = match outcome {
            job::JobOutcome::Done => JobOutcome::Done,
            job::JobOutcome::Failed { problem } => {
                JobOutcome::Failed { problem: line(problem, TEXT_BYTES_MAX) }
            }
        };
        Self {
            job: job.uuid().into_bytes(),
            outcome,
            finished_at: finished_at.0,
            generation: (*generation).into(),
        }
    }
}

impl From<JobResult> for job::JobResult {
    fn from(result: JobResult) -> Self {
        let JobResult { job, outcome, finished_at, generation } = result;
        let outcome = match outcome {
            JobOutcome::Done => job::JobOutcome::Done,
            JobOutcome::Failed { problem } => {
                job::JobOutcome::Failed { problem: line(&problem, TEXT_BYTES_MAX) }
            }
        };
        Self {
            job: JobId::new(Uuid::from_bytes(job)),
            outcome,
            finished_at: UnixMillis(finished_at),
            generation: generation.into(),
        }
    }
}

// The order of the variants is their number on the wire: add at the end only.
twin! {
    Standing = link::Standing { Managed, ReportOnly, Hold, RenewOnly }
}

/// A DER document that is there; what it says is for who parses it.
fn der(field: &str, der: Der) -> Result<Vec<u8>, DecodeError> {
    let List(der) = der;
    if der.is_empty() { Err(bad(field, "empty")) } else { Ok(der) }
}

fn checked_token(token: String) -> Result<String, DecodeError> {
    if token.len() <= TOKEN_BYTES_MAX {
        return Ok(token);
    }
    // The token itself is a secret: its length says enough.
    Err(bad("Enrol: token", format_args!("{} bytes; at most {TOKEN_BYTES_MAX} are allowed", token.len())))
}

/// `host:port` that can be dialled: some host without blanks, some port.
fn orchestrator(address: String) -> Result<String, DecodeError> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    let host = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic());
    let fits = address.len() <= ORCHESTRATOR_BYTES_MAX;
    if fits && address.rsplit_once(':').is_some_and(|(h, p)| host(h) && port(p)) {
        return Ok(address);
    }
    let shown = line(&address, 64);
    Err(bad("orchestrators", format_args!("`{shown}` is no address of the form host:port")))
}
