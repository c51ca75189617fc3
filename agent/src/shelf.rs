//! The spools as the tasks of one agent share them: results and samples in the wire's own frozen form, so that the release
//! before can read them after a rollback.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use chom_protocol::job::JobResult;
use chom_protocol::link::ToOrchestrator;
use chom_protocol::link::codec::{self, EncodeError};
use chom_protocol::sample::Sample;
use tokio::sync::watch;
use tracing::warn;

use crate::spool::{Batch, Keep, Position, SAMPLES_BYTES_MAX, Spool, SpoolError};

/// Why something cannot be put on the shelf.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// It cannot be written as a record.
    #[error("it cannot be encoded")]
    Encode(#[source] EncodeError),
    /// The disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// One spool and the word that something came.
#[derive(Debug)]
pub struct Shelf {
    spool: Mutex<Spool>,
    came: watch::Sender<()>,
}

/// Results and samples that wait for their acknowledgement.
#[derive(Debug)]
pub struct Shelves {
    /// Results of jobs: synced, never dropped.
    pub results: Shelf,
    /// Samples: the newest are kept.
    pub samples: Shelf,
}

impl Shelves {
    /// Opens both under `folder`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn open(folder: &Path) -> Result<Arc<Self>, SpoolError> {
        let shelf = |name: &str, keep| {
            let spool = Mutex::new(Spool::open(&folder.join(name), keep)?);
            Ok(Shelf { spool, came: watch::Sender::new(()) })
        };
        let results = shelf("results", Keep::All)?;
        let samples = shelf("samples", Keep::Newest { bytes_max: SAMPLES_BYTES_MAX })?;
        Ok(Arc::new(Self { results, samples }))
    }

    /// Keeps a result. Blocks on the disk.
    ///
    /// # Errors
    /// When it is not on disk.
    pub fn put_result(&self, result: JobResult) -> Result<(), ShelfError> {
        self.results.put(&ToOrchestrator::Results(vec![result]))
    }

    /// Keeps a sample. Blocks on the disk.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn put_sample(&self, sample: Sample) -> Result<(), ShelfError> {
        self.samples.put(&ToOrchestrator::Samples(vec![sample]))
    }
}

impl Shelf {
    fn put(&self, message: &ToOrchestrator) -> Result<(), ShelfError> {
        let record = codec::Message::to_payload(message).map_err(ShelfError::Encode)?;
        self.spool().append(&record)?;
        self.came.send_replace(());
        Ok(())
    }

    /// Wakes whoever waits for something to send.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.came.subscribe()
    }

    /// The oldest messages as one, of about so many bytes at most. Blocks on the disk.
    pub(crate) fn next(&self, bytes_max: usize) -> Result<Option<(ToOrchestrator, Position)>, SpoolError> {
        let Some(Batch { records, position }) = self.spool().peek(bytes_max)? else { return Ok(None) };
        let (mut results, mut samples) = (Vec::new(), Vec::new());
        for record in records {
            match codec::decode::<ToOrchestrator>(&record) {
                Ok(ToOrchestrator::Results(more)) => results.extend(more),
                Ok(ToOrchestrator::Samples(more)) => samples.extend(more),
                // Its checksum was good: a newer release wrote it. Sending the rest is all that can be done.
                Ok(_) | Err(_) => warn!("a record of the spool is of another release; it is passed over"),
            }
        }
        let message = if results.is_empty() {
            ToOrchestrator::Samples(samples)
        } else {
            ToOrchestrator::Results(results)
        };
        Ok(Some((message, position)))
    }

    /// Forgets what was acknowledged. Blocks on the disk.
    pub(crate) fn acknowledge(&self, position: Position) -> Result<(), SpoolError> {
        self.spool().acknowledge(position)
    }

    /// How many records were dropped for want of space.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.spool().dropped()
    }

    /// Whether everything was acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spool().is_empty()
    }

    fn spool(&self) -> std::sync::MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
