//! What the agent keeps on its host's disk: the desired state, what it remembers, what it may do. Everything is replaced as
//! a whole and synced before anybody is told. What is there but unreadable stops the agent; it is never taken for absent.
//!
//! | file | holds |
//! |---|---|
//! | `ledger.json` | the accepted desired state |
//! | `memory.json` | [`Memory`] |
//! | `mode.json` | [`Mode`] |
//! | `fleet.json` | addresses of the orchestrators, in the order to try |
//! | `sequence.json` | up to where sample numbers are taken, by boot |
//! | `accepted` | a marker: this host has accepted a desired state, so the files above must be there |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chom_protocol::host::HostSpec;
use chom_protocol::{BootId, Generation, HostId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::durable::{SealedError, read_sealed, replace, write_sealed};
use crate::reconcile::memory::{Memory, Mode};

const LEDGER_FORMAT: &str = "chom-ledger 1";
const MEMORY_FORMAT: &str = "chom-memory 1";
const MODE_FORMAT: &str = "chom-mode 1";
const FLEET_FORMAT: &str = "chom-fleet 1";
const SEQUENCE_FORMAT: &str = "chom-sequence 1";

/// So many sample numbers are taken at once, so that the disk is synced once in hours and not for every sample.
const SEQUENCE_BLOCK: u64 = 1000;

/// Why the agent's state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file.
    #[error(transparent)]
    File(#[from] SealedError),
    /// It was there once.
    #[error("`{}` is missing, though this host has accepted a desired state before; restore it from a backup, or, if its VPSs may be taken as the orchestrator has them, remove `{}` and start again", path.display(), marker.display())]
    Missing {
        /// What is missing.
        path: PathBuf,
        /// What says so.
        marker: PathBuf,
    },
    /// The ledger is of another host.
    #[error("`{}` is the ledger of host {found}, this host is {expected}; was the disk copied? Empty the folder if this host is new", path.display())]
    OtherHost {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        found: HostId,
        /// Who this is.
        expected: HostId,
    },
    /// It cannot be written.
    #[error("cannot write `{}`; free space on that disk or repair it", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a desired state is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Somebody else's.
    #[error("it is for host {found}, this is host {expected}")]
    OtherHost {
        /// Whose it is.
        found: HostId,
        /// Who this is.
        expected: HostId,
    },
    /// Older than what is here.
    #[error("it is older ({offered}) than what is on this host's disk ({have})")]
    Older {
        /// As offered.
        offered: Generation,
        /// As here.
        have: Generation,
    },
    /// The same name for two things.
    #[error("generation {generation} is on this host's disk with other content")]
    Differs {
        /// Which.
        generation: Generation,
    },
    /// The host may only report.
    #[error("this host may only report")]
    ReportOnly,
    /// It cannot be kept.
    #[error("it cannot be kept on disk")]
    Disk(#[source] LedgerError),
}

/// What holds on this host.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// The accepted desired state; none before the first.
    pub spec: Option<Arc<HostSpec>>,
    /// What the host may do.
    pub mode: Mode,
}

impl Desired {
    /// The generation on disk; zero before the first.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.spec.as_ref().map(|spec| spec.generation).unwrap_or_default()
    }
}

/// The agent's files.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    host: HostId,
    desired: watch::Sender<Desired>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Sequence {
    boot: BootId,
    taken: u64,
}

impl Ledger {
    /// Opens the files of this host, makes the folder on the first start, and gives what is remembered.
    ///
    /// # Errors
    /// When a file is unreadable, damaged, of another host, or missing though it was there once.
    pub fn open(folder: &Path, host: HostId) -> Result<(Self, Memory), LedgerError> {
        let write = |source| LedgerError::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(write)?;
        let marker = folder.join("accepted");
        let accepted_before = marker.try_exists().map_err(write)?;
        let path = folder.join("ledger.json");
        let spec: Option<HostSpec> = read_sealed(&path, LEDGER_FORMAT)?;
        let memory_path = folder.join("memory.json");
        let memory: Option<Memory> = read_sealed(&memory_path, MEMORY_FORMAT)?;
        for (path, is_there) in [(&path, spec.is_some()), (&memory_path, memory.is_some())] {
            if accepted_before && !is_there {
                return Err(LedgerError::Missing { path: path.clone(), marker });
            }
        }
        if let Some(found) = spec.as_ref().map(|spec| spec.host).filter(|found| *found != host) {
            return Err(LedgerError::OtherHost { path, found, expected: host });
        }
        let mode = read_sealed(&folder.join("mode.json"), MODE_FORMAT)?.unwrap_or_default();
        let desired = watch::Sender::new(Desired { spec: spec.map(Arc::new), mode });
        let ledger = Self { folder: folder.to_owned(), host, desired };
        let memory = match memory {
            Some(memory) => memory,
            None => {
                ledger.save_memory(&Memory::default())?;
                Memory::default()
            }
        };
        Ok((ledger, memory))
    }

    /// What holds now, and what changes of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Desired> {
        self.desired.subscribe()
    }

    /// What holds now.
    #[must_use]
    pub fn desired(&self) -> Desired {
        self.desired.borrow().clone()
    }

    /// Takes a desired state if it may be taken; on disk when this returns. Blocks on the disk.
    ///
    /// # Errors
    /// As [`AcceptError`] says; then nothing has changed.
    pub fn accept(&self, spec: HostSpec) -> Result<(), AcceptError> {
        if spec.host != self.host {
            return Err(AcceptError::OtherHost { found: spec.host, expected: self.host });
        }
        let Desired { spec: have, mode } = self.desired();
        if mode == Mode::ReportOnly {
            return Err(AcceptError::ReportOnly);
        }
        match have {
            Some(have) if spec.generation < have.generation => {
                return Err(AcceptError::Older { offered: spec.generation, have: have.generation });
            }
            Some(have) if spec.generation == have.generation && *have != spec => {
                return Err(AcceptError::Differs { generation: spec.generation });
            }
            Some(have) if spec.generation == have.generation => return Ok(()),
            Some(_) => {}
            None => {}
        }
        // The marker goes after the ledger, both before anybody is told: a crash in between leaves a ledger that counts.
        self.write("ledger.json", LEDGER_FORMAT, &spec).map_err(AcceptError::Disk)?;
        let marker = self.folder.join("accepted");
        if !marker.exists() {
            replace(&marker, b"this host has accepted a desired state\n")
                .map_err(|source| AcceptError::Disk(LedgerError::Write { path: marker, source }))?;
        }
        let mode = match mode {
            Mode::Hold { since } if spec.generation > since => {
                self.write("mode.json", MODE_FORMAT, &Mode::Managed).map_err(AcceptError::Disk)?;
                Mode::Managed
            }
            mode => mode,
        };
        self.desired.send_replace(Desired { spec: Some(Arc::new(spec)), mode });
        Ok(())
    }

    /// Keeps what the host may do. Blocks on the disk if it changed.
    ///
    /// # Errors
    /// When it cannot be written; the old one stays.
    pub fn set_mode(&self, mode: Mode) -> Result<(), LedgerError> {
        let held = matches!((self.desired.borrow().mode, mode), (Mode::Hold { .. }, Mode::Hold { .. }));
        if held || self.desired.borrow().mode == mode {
            return Ok(());
        }
        self.write("mode.json", MODE_FORMAT, &mode)?;
        self.desired.send_modify(|desired| desired.mode = mode);
        Ok(())
    }

    /// Keeps what is remembered. Blocks on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_memory(&self, memory: &Memory) -> Result<(), LedgerError> {
        self.write("memory.json", MEMORY_FORMAT, memory)
    }

    /// The addresses of the orchestrators; none before enrolment.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn orchestrators(folder: &Path) -> Result<Vec<String>, LedgerError> {
        Ok(read_sealed(&folder.join("fleet.json"), FLEET_FORMAT)?.unwrap_or_default())
    }

    /// Keeps the addresses of the orchestrators. Blocks on the disk.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_orchestrators(folder: &Path, addresses: &[String]) -> Result<(), LedgerError> {
        let path = folder.join("fleet.json");
        let write = |source| LedgerError::Write { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(write)?;
        write_sealed(&path, FLEET_FORMAT, &addresses).map_err(write)
    }

    /// Takes the next block of sample numbers of this boot: `first..end`. Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn take_sequence(&self, boot: BootId) -> Result<std::ops::Range<u64>, LedgerError> {
        let before: Option<Sequence> = read_sealed(&self.folder.join("sequence.json"), SEQUENCE_FORMAT)?;
        let first = before.filter(|before| before.boot == boot).map_or(0, |before| before.taken);
        let taken = first + SEQUENCE_BLOCK;
        self.write("sequence.json", SEQUENCE_FORMAT, &Sequence { boot, taken })?;
        Ok(first..taken)
    }

    fn write<T: Serialize>(&self, name: &str, format: &str, value: &T) -> Result<(), LedgerError> {
        let path = self.folder.join(name);
        write_sealed(&path, format, value).map_err(|source| LedgerError::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use chom_protocol::host::AgentSettings;
    use uuid::Uuid;

    use super::*;

    fn host(number: u128) -> HostId {
        HostId::new(Uuid::from_u128(number))
    }

    fn spec(epoch: u64, number: u64) -> HostSpec {
        HostSpec {
            prefetch: Default::default(),
            host: host(1),
            generation: Generation { epoch, number },
            settings: AgentSettings::default(),
            vps: Default::default(),
            tombstones: Default::default(),
            jobs: Default::default(),
        }
    }

    fn open(folder: &Path) -> Ledger {
        Ledger::open(folder, host(1)).unwrap().0
    }

    #[test]
    fn only_what_is_newer_is_taken_and_it_is_there_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(folder.path());
        ledger.accept(spec(1, 5)).unwrap();
        ledger.accept(spec(1, 5)).unwrap();
        let mut other = spec(1, 5);
        other.settings.stop_grace_seconds = 1;
        assert!(matches!(ledger.accept(other), Err(AcceptError::Differs { .. })));
        assert!(matches!(ledger.accept(spec(1, 4)), Err(AcceptError::Older { .. })));
        let foreign = HostSpec { host: host(2), ..spec(9, 9) };
        assert!(matches!(ledger.accept(foreign), Err(AcceptError::OtherHost { .. })));
        ledger.accept(spec(2, 0)).unwrap();
        assert!(matches!(ledger.accept(spec(1, 99)), Err(AcceptError::Older { .. })));
        assert_eq!(open(folder.path()).desired().generation(), Generation { epoch: 2, number: 0 });
    }

    #[test]
    fn a_ledger_that_went_missing_stops_loudly() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).accept(spec(1, 1)).unwrap();
        for name in ["ledger.json", "memory.json"] {
            let aside = fs::read(folder.path().join(name)).unwrap();
            fs::remove_file(folder.path().join(name)).unwrap();
            let error = Ledger::open(folder.path(), host(1)).unwrap_err();
            assert!(matches!(error, LedgerError::Missing { .. }), "{error}");
            fs::write(folder.path().join(name), b"").unwrap();
            assert!(matches!(Ledger::open(folder.path(), host(1)), Err(LedgerError::File(_))));
            fs::write(folder.path().join(name), aside).unwrap();
        }
        assert!(matches!(Ledger::open(folder.path(), host(2)), Err(LedgerError::OtherHost { .. })));
    }

    #[test]
    fn a_hold_ends_with_something_newer_and_is_kept_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(folder.path());
        ledger.accept(spec(1, 5)).unwrap();
        let hold = Mode::Hold { since: Generation { epoch: 1, number: 5 } };
        ledger.set_mode(hold).unwrap();
        assert_eq!(open(folder.path()).desired().mode, hold);
        ledger.accept(spec(2, 1)).unwrap();
        assert_eq!(open(folder.path()).desired().mode, Mode::Managed);
        ledger.set_mode(Mode::ReportOnly).unwrap();
        assert!(matches!(ledger.accept(spec(3, 1)), Err(AcceptError::ReportOnly)));
        assert_eq!(open(folder.path()).desired().mode, Mode::ReportOnly);
    }

    #[test]
    fn sample_numbers_never_repeat_within_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let boot = |number| BootId::new(Uuid::from_u128(number));
        let first = open(folder.path()).take_sequence(boot(1)).unwrap();
        let second = open(folder.path()).take_sequence(boot(1)).unwrap();
        assert_eq!(second.start, first.end);
        assert_eq!(open(folder.path()).take_sequence(boot(2)).unwrap().start, 0);
    }
}
