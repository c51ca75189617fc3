//! Guards the guests' cards: keeps one nftables table of the bridge family as it should be, and counts what goes over each
//! card. Level-triggered: looks at what is loaded, compares, and puts the whole table in place in one transaction. What the
//! rules are is for `network/rules.rs`; nothing here talks to an engine.

mod loaded;
mod ports;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::host::HostSpec;
use chom_protocol::network::Traffic;
use chom_protocol::vps::Sha256;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::driver::command::{CommandError, Program};
use crate::durable::{SealedError, read_sealed, write_sealed};
use loaded::Loaded;
use ports::Ports;
use rules::{FROM_GUESTS, TABLE};

const FORMAT: &str = "chom-network 1";
const FILE: &str = "network";
/// Where the transaction is written for nft(8), and for whoever wants to see it.
const RULES_FILE: &str = "network.nft";
/// Loading the cards of a thousand guests takes 2 s; a busy host takes longer.
const NFT: Program = Program { name: "nft", package: "nftables", deadline: Duration::from_secs(20) };
/// What is loaded is listed this often at most while nothing changes: with a thousand cards it is 3 MB of text.
const LISTED_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody flushed the rules: so long may guests be unguarded then.
const GLANCED_EVERY: Duration = Duration::from_secs(10);

/// Why the cards could not be guarded.
#[derive(Debug, thiserror::Error)]
enum NetworkError {
    #[error(transparent)]
    Nft(#[from] CommandError),
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the agent is stopping")]
    Stopping,
}

/// The guard.
#[derive(Debug)]
pub(crate) struct Network {
    folder: PathBuf,
    ports: Ports,
    saved: Ports,
    applied: Option<Applied>,
    listed_at: Option<Instant>,
    glanced_at: Instant,
    problem: Option<String>,
}

/// What was put in place.
#[derive(Debug, PartialEq, Eq)]
struct Applied {
    /// As it was asked for.
    rules: Sha256,
    /// As nft(8) then showed it.
    listed: Option<Sha256>,
    /// And what the glance then showed.
    glance: Option<Sha256>,
}

impl Network {
    /// Goes on from what is on disk in the agent's folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(folder: &Path) -> Result<Self, SealedError> {
        let ports: Ports = read_sealed(&folder.join(FILE), FORMAT)?.unwrap_or_default();
        Ok(Self {
            folder: folder.to_owned(),
            saved: ports.clone(),
            ports,
            applied: None,
            listed_at: None,
            glanced_at: Instant::now(),
            problem: None,
        })
    }

    /// What went over a VPS's card since it was first made here.
    pub(crate) fn traffic(&self, vps: VpsId) -> Option<Traffic> {
        self.ports.traffic(vps)
    }

    /// Why cards are not guarded as they should be. While there is a reason, no guest is started.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Makes the rules what `spec` wants. `guests` are ours of all engines, with what the host's end of the card
    /// is called of those that were adopted; none when an engine could not say.
    pub(crate) async fn keep(
        &mut self,
        spec: Option<&HostSpec>,
        guests: Option<&BTreeMap<VpsId, Option<String>>>,
    ) {
        if let Some(spec) = spec {
            self.ports.learn(spec, guests);
        }
        // A host that never had a guest with a card needs no nft(8).
        if self.ports.is_empty() && self.applied.is_none() && self.saved.is_empty() {
            self.problem = None;
            return;
        }
        let kept = self.keep_rules().await;
        let saved = self.save().await;
        self.problem = kept.and(saved).err().map(|error| {
            warn!(%error, "the guests' cards are not guarded as they should be; the next pass retries");
            format!("the guests' network rules cannot be kept, so no guest is started: {error}")
        });
    }

    /// Whether somebody tampered with the rules since the last look, as far as a glance shows. Cheap.
    pub(crate) async fn is_disturbed(&mut self) -> bool {
        let Some(applied) = self.applied.as_ref().filter(|_| self.glanced_at.elapsed() >= GLANCED_EVERY)
        else {
            return false;
        };
        let disturbed = glance().await.is_ok_and(|glance| glance != applied.glance);
        self.glanced_at = Instant::now();
        if disturbed {
            self.listed_at = None;
        }
        disturbed
    }

    async fn keep_rules(&mut self) -> Result<(), NetworkError> {
        let rules = rules::render(&self.ports.cards());
        let wanted = Sha256::of(rules.as_bytes());
        let as_asked = self.applied.as_ref().is_some_and(|applied| applied.rules == wanted);
        if as_asked && self.listed_at.is_some_and(|at| at.elapsed() < LISTED_EVERY) {
            return Ok(());
        }
        let loaded = list().await?;
        self.ports.count(&loaded);
        if as_asked && self.applied.as_ref().is_some_and(|applied| applied.listed == loaded.digest) {
            self.listed_at = Some(Instant::now());
            return Ok(());
        }
        if as_asked {
            warn!("somebody changed the guests' network rules; they are put back");
        }
        // What the counters showed is on disk before any of them goes.
        self.save().await?;
        self.load(loaded.replaced_by(&rules)).await?;
        info!(rules = %wanted, "the guests' network rules are in place");
        let loaded = list().await?;
        self.ports.count(&loaded);
        self.applied = Some(Applied { rules: wanted, listed: loaded.digest, glance: loaded.glance });
        (self.listed_at, self.glanced_at) = (Some(Instant::now()), Instant::now());
        Ok(())
    }

    async fn load(&self, transaction: String) -> Result<(), NetworkError> {
        let path = self.folder.join(RULES_FILE);
        let to = path.clone();
        match spawn_blocking(move || std::fs::write(&to, transaction)).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => return Err(NetworkError::Write { path, source }),
            Err(_) => return Err(NetworkError::Stopping),
        }
        NFT.succeed(&["-f".into(), path.into()]).await?;
        Ok(())
    }

    async fn save(&mut self) -> Result<(), NetworkError> {
        if self.ports == self.saved {
            return Ok(());
        }
        let (path, ports) = (self.folder.join(FILE), Arc::new(self.ports.clone()));
        let (to, written) = (path.clone(), Arc::clone(&ports));
        match spawn_blocking(move || write_sealed(&to, FORMAT, &*written)).await {
            Ok(Ok(())) => {
                self.saved.clone_from(&ports);
                Ok(())
            }
            Ok(Err(source)) => Err(NetworkError::Write { path, source }),
            Err(_) => Err(NetworkError::Stopping),
        }
    }
}

/// What is loaded; nothing where there is no such table.
async fn list() -> Result<Loaded, CommandError> {
    // -t: without the flows that were seen.
    let text = shown(&format!("-t list table {TABLE}")).await?;
    Ok(text.map_or_else(Loaded::default, |text| Loaded::parse(&text)))
}

/// Digest of the chain that everything from guests comes through.
async fn glance() -> Result<Option<Sha256>, CommandError> {
    let text = shown(&format!("list chain {TABLE} {FROM_GUESTS}")).await?;
    Ok(text.and_then(|text| Loaded::parse(&text).glance))
}

async fn shown(command: &str) -> Result<Option<String>, CommandError> {
    let arguments: Vec<_> = command.split(' ').map(Into::into).collect();
    match NFT.succeed(&arguments).await {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(CommandError::Failed { message, .. }) if message.contains("No such file or directory") => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
