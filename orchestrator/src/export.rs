//! The subcommands `export` and `restore`, and the exports that a running orchestrator makes. The files themselves are the
//! store's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::store::Store;
use crate::store::export::{self, RestoreError};
use crate::store::sled::{self, OpenError};
use crate::{chain, clock};

/// After a start, the first export waits at least so long: a crash loop must not fill the folder and push out good ones.
const FIRST_EXPORT_SECONDS_MIN: u64 = 60;

/// Why no export was made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store.
    #[error(
        "cannot open the store; while the orchestrator runs it exports by itself, and at once on `systemctl kill -s USR1 chom-orchestrator`"
    )]
    Open(#[from] OpenError),
    /// The file.
    #[error("no export was made")]
    Export(#[from] export::ExportError),
}

/// Exports a store that is not in use.
///
/// # Errors
/// When it is in use, damaged, or the file cannot be written.
pub async fn export(config: &Config, folder: &Path) -> Result<(), ExportError> {
    let store = sled::open(&options(config))?;
    let path = export::export(store.as_ref(), folder, clock::now()).await?;
    println!("{}", path.display());
    Ok(())
}

/// Makes a store from an export.
///
/// # Errors
/// When the export is not whole, or there is a store already.
pub fn restore(config: &Config, file: &Path) -> Result<(), RestoreError> {
    let restored = export::restore(file, &config.store_directory(), clock::now())?;
    eprintln!(
        "{} rows as of {} are restored, in epoch {}. Start the orchestrator: hosts upload what they know, hold still, and what \
         differs is shown by `chomctl host list`.",
        restored.records,
        clock::rfc3339(restored.exported_at),
        restored.meta.epoch
    );
    Ok(())
}

/// Where the store is.
pub(crate) fn options(config: &Config) -> sled::Options {
    sled::Options { folder: config.store_directory(), exports: config.export_directory.clone() }
}

/// Exports every so often and on SIGUSR1, until stopped.
pub(crate) async fn keep_exporting(
    store: Arc<dyn Store>,
    folder: PathBuf,
    every: Duration,
    stop: CancellationToken,
) {
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(asked) => asked,
        Err(error) => {
            error!(%error, "cannot listen for SIGUSR1");
            return;
        }
    };
    let mut wait = first_wait(&folder, every);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            _ = asked.recv() => {} // cancel-safe
        }
        wait = every;
        export_once(store.as_ref(), &folder).await;
    }
}

async fn export_once(store: &dyn Store, folder: &Path) {
    match export::export(store, folder, clock::now()).await {
        Ok(path) => info!(path = %path.display(), "exported the store"),
        Err(error) => {
            error!(error = chain(&error), "cannot export the store; the next try is after the usual time");
            return;
        }
    }
    if let Err(error) = export::prune(folder) {
        warn!(folder = %folder.display(), %error, "cannot remove old exports");
    }
}

/// So that restarts neither skip exports nor add some.
fn first_wait(folder: &Path, every: Duration) -> Duration {
    let age = || -> io::Result<Option<Duration>> {
        let Some(newest) = export::newest_export(folder)? else { return Ok(None) };
        Ok(std::fs::metadata(newest)?.modified()?.elapsed().ok())
    };
    let age = age().ok().flatten().unwrap_or(every);
    every.saturating_sub(age).max(Duration::from_secs(FIRST_EXPORT_SECONDS_MIN))
}
