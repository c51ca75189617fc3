//! What agent and orchestrator say to each other, and on which streams. `codec` frames it, `v1` is its frozen form on the wire.
//!
//! Every stream is bidirectional. Those that the agent opens: control and pull live as long as the connection; everything
//! else is one request, one answer, and the stream ends:
//!
//! | stream | agent says | orchestrator answers |
//! |---|---|---|
//! | control | `Hello`, then `Renew`, `Ledger*` | `Welcome`, `Renewed`, `FleetInfo` whenever it changes, `LedgerWanted` |
//! | pull | `Pull { have }`, then `Accepted` or `Refused`, then `Pull` again | `SpecBegin`, `SpecPart`…, `SpecEnd` when there is something newer |
//! | status | `Status` | `Acknowledged` |
//! | results | `Results` | `Acknowledged`, once durable |
//! | samples | `Samples` | `Acknowledged` |
//! | fetch | `Fetch` | `Blob`, then the bytes themselves, unframed, until the stream ends; or `Problem` |
//! | enrol (ALPN `chom-enrol/1`, no client certificate) | `Enrol` | `Enrolled` or `Problem` |
//!
//! The orchestrator opens [`tunnel`]s, and no other stream.
//!
//! A stream that breaks these rules ends its connection; [`close`] lists why connections are closed.

pub mod close;
pub mod codec;
pub mod tunnel;
pub mod v1;

use serde::{Deserialize, Serialize};

pub use close::Close;

use crate::host::{AgentSettings, HostSpec, HostStatus};
use crate::id::{BootId, HostId, InstanceId, JobId, VpsId};
use crate::job::{Job, JobResult};
use crate::sample::Sample;
use crate::units::{Bytes, Generation};
use crate::vps::{ImageReference, Sha256, Tombstone, VpsSpec};

/// The agent's first word on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is; must agree with its certificate.
    pub host: HostId,
    /// This run of the agent: two that alternate are a clone.
    pub instance: InstanceId,
    /// The boot of the host.
    pub boot: BootId,
    /// Version of the agent.
    pub agent_version: String,
    /// The desired state on its disk.
    pub accepted: Generation,
}

/// What the orchestrator thinks of the agent's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Managed: pull and reconcile.
    Managed,
    /// Forgotten or quarantined: report only, change nothing.
    ReportOnly,
    /// The orchestrator was restored: upload the ledger and hold until a newer generation comes.
    Hold,
    /// The certificate has expired: renew it, nothing else.
    RenewOnly,
}

/// What every agent should know of its fleet; kept on the host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetInfo {
    /// `host:port` of every orchestrator, in the order to try them.
    pub orchestrators: Vec<String>,
    /// Certificates of every CA to trust, DER.
    pub ca_bundle: Vec<Vec<u8>>,
}

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToOrchestrator {
    /// First on the control stream.
    Hello(Hello),
    /// A certificate request (PKCS#10, DER) signed with the key that the host has had all along.
    Renew {
        /// The request.
        csr: Vec<u8>,
    },
    /// The desired state on the host's disk follows in parts, as `SpecBegin`, `SpecPart` and `SpecEnd` would bring it.
    LedgerBegin(SpecBegin),
    /// A part of it.
    LedgerPart(SpecPart),
    /// All of it was sent.
    LedgerEnd {
        /// Digest of the whole.
        digest: Sha256,
    },
    /// Answer when there is something other than this.
    Pull {
        /// What is on the host's disk.
        have: Generation,
    },
    /// This desired state is on the host's disk (fsync).
    Accepted {
        /// Which.
        generation: Generation,
    },
    /// It is not, and will not be.
    Refused {
        /// Which.
        generation: Generation,
        /// Why.
        problem: String,
    },
    /// The host as last seen.
    Status(Box<HostStatus>),
    /// Results of jobs, oldest first.
    Results(Vec<JobResult>),
    /// Samples, oldest first.
    Samples(Vec<Sample>),
    /// Send a blob from an offset on.
    Fetch {
        /// Which.
        sha256: Sha256,
        /// From which byte.
        offset: Bytes,
    },
    /// Join the fleet.
    Enrol {
        /// The single-use token.
        token: String,
        /// A certificate request (PKCS#10, DER).
        csr: Vec<u8>,
        /// The host's own name, for messages.
        hostname: String,
    },
    /// What was said of the fleet is on the host's disk.
    FleetKept {
        /// Digest of the CAs that the host trusts from now on.
        ca_bundle: Sha256,
    },
}

/// What the orchestrator says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Answer to `Hello`.
    Welcome {
        /// What the host may do.
        standing: Standing,
        /// Its fleet.
        fleet: FleetInfo,
    },
    /// Answer to `Renew`: the new certificate, DER.
    Renewed {
        /// The chain, the host's own certificate first.
        certificate: Vec<u8>,
    },
    /// The fleet changed.
    FleetInfo(FleetInfo),
    /// Upload the ledger.
    LedgerWanted,
    /// A desired state begins.
    SpecBegin(SpecBegin),
    /// A part of it.
    SpecPart(SpecPart),
    /// All of it was sent.
    SpecEnd {
        /// Digest of the whole.
        digest: Sha256,
    },
    /// What was sent is kept (results: durable).
    Acknowledged,
    /// The blob follows, unframed.
    Blob {
        /// Size of the whole blob.
        size: Bytes,
    },
    /// Welcome to the fleet.
    Enrolled {
        /// Who the host is from now on.
        host: HostId,
        /// The chain, the host's own certificate first, DER.
        certificate: Vec<u8>,
        /// The fleet.
        fleet: FleetInfo,
    },
    /// It cannot be done.
    Problem {
        /// What was wrong and what to do.
        problem: String,
    },
    /// Ask for a new certificate although the old one is not due: another CA signs now.
    RenewWanted {
        /// At some moment within so long, so that a fleet does not come all at once.
        within_seconds: u32,
    },
}

/// The beginning of a desired state that comes in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecBegin {
    /// Which host.
    pub host: HostId,
    /// How new.
    pub generation: Generation,
    /// How the agent should behave.
    pub settings: AgentSettings,
    /// How many VPSs, tombstones, jobs and images to prefetch will come in all.
    pub items: u32,
}

/// Some items of a desired state; a frame holds as many as fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecPart {
    /// VPSs.
    pub vps: Vec<VpsSpec>,
    /// Tombstones.
    pub tombstones: Vec<(VpsId, Tombstone)>,
    /// Jobs.
    pub jobs: Vec<(JobId, Job)>,
    /// Images to prefetch.
    pub prefetch: Vec<ImageReference>,
}

/// Why the parts of a desired state do not make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// More or fewer items than announced.
    #[error("desired state {generation} announced {announced} items and brought {brought}")]
    Count {
        /// Which.
        generation: Generation,
        /// As the beginning said.
        announced: u32,
        /// As came.
        brought: u64,
    },
    /// The content is not what was sent.
    #[error("desired state {generation} does not have the digest that was sent with it")]
    Digest {
        /// Which.
        generation: Generation,
    },
    /// An item came twice.
    #[error("desired state {generation} brought {item} twice")]
    Twice {
        /// Which.
        generation: Generation,
        /// What came again.
        item: String,
    },
    /// More bytes than one host's desired state may take in memory.
    #[error("desired state {generation} is larger than {SPEC_BYTES_MAX} bytes")]
    Bytes {
        /// Which.
        generation: Generation,
    },
    /// More than an agent takes.
    #[error("desired state {generation} has {items} items; an agent takes at most {}", SPEC_ITEMS_MAX)]
    Large {
        /// Which.
        generation: Generation,
        /// How many.
        items: u32,
    },
}

/// Most VPSs, tombstones, jobs and images of one host; ten times the largest host we know of.
pub const SPEC_ITEMS_MAX: u32 = 10_000;

/// Most memory of one desired state while it is assembled, so that a host that sends its ledger cannot fill the
/// orchestrator: every item that is allowed, with 6 KiB of SSH keys each.
pub const SPEC_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Collects the parts of a desired state and gives it out only when whole.
#[derive(Debug)]
pub struct SpecAssembly {
    announced: u32,
    brought: u64,
    bytes: usize,
    spec: HostSpec,
}

impl SpecAssembly {
    /// Begins; refuses what would be too large before anything is stored.
    pub fn begin(begin: SpecBegin) -> Result<Self, SpecError> {
        let SpecBegin { host, generation, settings, items } = begin;
        if items > SPEC_ITEMS_MAX {
            return Err(SpecError::Large { generation, items });
        }
        let spec = HostSpec {
            host,
            generation,
            settings,
            vps: Default::default(),
            tombstones: Default::default(),
            jobs: Default::default(),
            prefetch: Default::default(),
        };
        Ok(Self { announced: items, brought: 0, bytes: 0, spec })
    }

    /// Takes a part.
    pub fn add(&mut self, part: SpecPart) -> Result<(), SpecError> {
        let SpecPart { vps, tombstones, jobs, prefetch } = part;
        self.brought += (vps.len() + tombstones.len() + jobs.len() + prefetch.len()) as u64;
        if self.brought > u64::from(self.announced) {
            return Err(self.count_error());
        }
        self.bytes += vps.iter().map(VpsSpec::memory_bytes).sum::<usize>();
        if self.bytes > SPEC_BYTES_MAX {
            return Err(SpecError::Bytes { generation: self.spec.generation });
        }
        for vps in vps {
            let id = vps.id;
            if self.spec.vps.insert(id, vps).is_some() {
                return Err(self.twice_error(format_args!("VPS {id}")));
            }
        }
        for (id, tombstone) in tombstones {
            if self.spec.tombstones.insert(id, tombstone).is_some() {
                return Err(self.twice_error(format_args!("the tombstone of VPS {id}")));
            }
        }
        for (id, job) in jobs {
            if self.spec.jobs.insert(id, job).is_some() {
                return Err(self.twice_error(format_args!("job {id}")));
            }
        }
        for image in prefetch {
            let name = image.name.clone();
            if self.spec.prefetch.insert(name.clone(), image).is_some() {
                return Err(self.twice_error(format_args!("image {name}")));
            }
        }
        Ok(())
    }

    /// Gives the whole if it is whole.
    pub fn finish(self, digest: Sha256) -> Result<HostSpec, SpecError> {
        if self.brought != u64::from(self.announced) {
            return Err(self.count_error());
        }
        if v1::spec_digest(&self.spec) != digest {
            return Err(SpecError::Digest { generation: self.spec.generation });
        }
        Ok(self.spec)
    }

    fn twice_error(&self, item: std::fmt::Arguments<'_>) -> SpecError {
        SpecError::Twice { generation: self.spec.generation, item: item.to_string() }
    }

    fn count_error(&self) -> SpecError {
        SpecError::Count {
            generation: self.spec.generation,
            announced: self.announced,
            brought: self.brought,
        }
    }
}
