//! What `chom-agent status` shows: a small file that the running agent keeps in its runtime folder. Says by itself whether
//! its writer still runs.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use chom_protocol::host::HostStatus;
use chom_protocol::link::Standing;
use chom_protocol::{Generation, HostId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::durable::replace;
use crate::link::Contact;

/// The file's name.
pub const FILE: &str = "status.json";

/// What a running agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its process.
    pub pid: u32,
    /// Which host.
    pub host: HostId,
    /// When this was written.
    pub written_at: UnixMillis,
    /// To which orchestrator it is connected; none: not now.
    pub connected_to: Option<String>,
    /// What the host may do, while connected.
    pub standing: Option<Standing>,
    /// Why it is not connected.
    pub connection_problem: Option<String>,
    /// The desired state on disk.
    pub accepted: Generation,
    /// The host as last seen; none before the first look.
    pub status: Option<HostStatus>,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No agent.
    #[error("the agent does not run on this host (`{}` is missing or of a process that ended); start it with `systemctl start chom-agent`", path.display())]
    NotRunning {
        /// The file.
        path: PathBuf,
    },
    /// The file.
    #[error("cannot read `{}`; run this as root", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its content.
    #[error("`{}` is of another release; restart the agent", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl View {
    /// Puts a view together.
    #[must_use]
    pub fn new(
        host: HostId,
        contact: &Contact,
        accepted: Generation,
        status: Option<&HostStatus>,
        now: UnixMillis,
    ) -> Self {
        Self {
            pid: std::process::id(),
            host,
            written_at: now,
            connected_to: contact.address.clone(),
            standing: contact.standing,
            connection_problem: contact.problem.clone(),
            accepted,
            status: status.cloned(),
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        std::fs::create_dir_all(folder)?;
        replace(&folder.join(FILE), &json)
    }

    /// Reads the file of an agent that runs.
    ///
    /// # Errors
    /// When no agent runs, or the file cannot be read.
    pub fn read(folder: &Path) -> Result<Self, ViewError> {
        let path = folder.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ViewError::NotRunning { path });
            }
            Err(source) => return Err(ViewError::Read { path, source }),
        };
        let view: Self = serde_json::from_slice(&bytes)
            .map_err(|source| ViewError::Parse { path: path.clone(), source })?;
        match Path::new("/proc").join(view.pid.to_string()).exists() {
            true => Ok(view),
            false => Err(ViewError::NotRunning { path }),
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self, now: UnixMillis) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(out, "{name:<12} {value}"); // a String takes everything
        };
        line("host", &self.host.to_string());
        match (&self.connected_to, &self.connection_problem) {
            (Some(address), _) => line("connection", &format!("to {address}{}", standing(self.standing))),
            (None, Some(problem)) => line("connection", &format!("none: {problem}")),
            (None, None) => line("connection", "none yet"),
        }
        line("generation", &self.accepted.to_string());
        let Some(status) = &self.status else {
            line("seen", "not yet");
            return out;
        };
        line("seen", &format!("{} s ago", now.seconds_since(status.observed_at)));
        for engine in &status.engines {
            let problem = engine.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            line(
                "engine",
                &format!("{} {} ({:?}){problem}", engine.engine, engine.version, engine.acceleration),
            );
        }
        for (id, vps) in &status.vps {
            let notes = [&vps.progress, &vps.problem].into_iter().flatten();
            let notes: String = notes.map(|note| format!("; {note}")).collect();
            line("vps", &format!("{id} {:?}{notes}", vps.state));
        }
        for id in &status.orphans {
            line("orphan", &id.to_string());
        }
        for id in &status.destroys_waiting {
            line("waiting", &format!("{id}: its removal is held back by the cap"));
        }
        for guest in &status.foreign {
            line("foreign", &format!("{} {:?}", guest.name, guest.state));
        }
        for problem in &status.problems {
            line("problem", problem);
        }
        out
    }
}

fn standing(standing: Option<Standing>) -> &'static str {
    match standing {
        Some(Standing::Managed) | None => "",
        Some(Standing::ReportOnly) => ", may only report",
        Some(Standing::Hold) => ", on hold until the orchestrator issues its state anew",
        Some(Standing::RenewOnly) => ", its certificate has expired and is being renewed",
    }
}
