//! The Incus driver: system containers, by Incus' REST API. What a VPS looks like there is `instance`'s to say. Decides
//! nothing about what should be.

mod adopted;
mod api;
mod exec;
mod facts;
mod instance;
mod network;
mod rebuild;
mod snapshots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use chom_protocol::VpsId;
use chom_protocol::helper::GuestDefinition;
use chom_protocol::host::{Acceleration, EngineStatus};
use chom_protocol::link::tunnel::{Secret, TerminalSize};
use chom_protocol::network::Attachment;
use chom_protocol::sample::Point;
use chom_protocol::vps::{
    CloneSource, Engine, GuestFacts, ImageFormat, ImageReference, Sha256, VpsSpec, VpsState,
};
use hyper::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::fs::File;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::libvirt::SharedNetwork;
use super::snapshot::SnapshotName;
use super::{Driver, DriverError, Observed, Pipe};
use crate::chain::Chain;
use api::{IncusApi, IncusError, Payload};
use exec::Unset;
use facts::GuestState;
use instance::{Definition, Instance};

/// Unpacking a root file system of a gigabyte onto a slow disk; the reconciler gives 120 s for all of it.
const CREATE_SECONDS_MAX: u64 = 110;
/// Copying one of a hundred gigabytes; the reconciler gives an hour.
const COPY_SECONDS_MAX: u64 = 3590;
/// Starting takes half a second, on a busy host ten.
const SWITCH_SECONDS_MAX: u64 = 90;
/// Removing a large root file system from a slow disk.
const DELETE_SECONDS_MAX: u64 = 290;
/// Incus goes on asking a container to shut down for so long; then the reconciler asks again, or ends its patience.
const SHUTDOWN_SECONDS: u64 = 8;
/// Its version is asked for this often: only an upgrade changes it.
const VERSION_EVERY: Duration = Duration::from_secs(600);

/// System containers by Incus.
#[derive(Debug)]
pub struct IncusDriver {
    api: IncusApi,
    /// Libvirt's network, where libvirt is on this host.
    shared: Option<SharedNetwork>,
    version: Mutex<Option<(Instant, String)>>,
    /// One import at a time: VPSs that are made together mostly want the same image.
    importing: Mutex<()>,
    /// What the instances that were adopted are called, by the last look.
    names: std::sync::Mutex<BTreeMap<VpsId, String>>,
}

impl IncusDriver {
    /// A driver that talks to the Incus which listens at `socket`. `shared` is libvirt's network, if libvirt is here too.
    #[must_use]
    pub fn new(socket: PathBuf, shared: Option<SharedNetwork>) -> Self {
        Self {
            api: IncusApi::new(socket),
            shared,
            version: Mutex::default(),
            importing: Mutex::default(),
            names: std::sync::Mutex::default(),
        }
    }

    async fn version(&self) -> Result<String, IncusError> {
        #[derive(Deserialize)]
        struct Server {
            environment: Environment,
        }
        #[derive(Deserialize)]
        struct Environment {
            server_version: String,
        }
        let mut known = self.version.lock().await;
        if let Some((at, version)) = &*known
            && at.elapsed() < VERSION_EVERY
        {
            return Ok(version.clone());
        }
        let Server { environment } = self.api.get("/1.0").await?;
        *known = Some((Instant::now(), environment.server_version.clone()));
        Ok(environment.server_version)
    }

    async fn look(&self) -> Result<Observed, IncusError> {
        let version = self.version().await?;
        // One question for all, without what they use: that would cost Incus a process for each.
        let mut instances: Vec<Instance> = self.api.get("/1.0/instances?recursion=1").await?;
        for untold in instances.extract_if(.., |instance| instance.is_untold()).collect::<Vec<_>>() {
            match self.api.get::<Instance>(&path_of(untold.name())).await {
                Ok(told) if !told.is_untold() => instances.push(told),
                Ok(_) => {
                    let words = format!("it lists `{}` and cannot tell of it", untold.name());
                    return Err(IncusError::Failed { words });
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let engine = EngineStatus { version, problem: None, ..self.unasked() };
        let adopted = instances.iter().filter(|instance| instance.is_adopted());
        let names = adopted.filter_map(|instance| Some((instance.vps()?, instance.name().to_owned())));
        *self.names() = names.collect();
        let snapshots = snapshots::look(&self.api, &instances).await;
        // What is being made to succeed another one is no guest yet.
        let guests = instances.into_iter().filter(|instance| !instance.is_successor());
        Ok(Observed { engine, guests: guests.map(Instance::observed).collect(), snapshots })
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<VpsId, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_name(&self, vps: VpsId, name: &str) {
        self.names().insert(vps, name.to_owned());
    }

    /// Where its instance is: under its own name, if it was adopted.
    fn path(&self, vps: VpsId) -> String {
        let name = self.names().get(&vps).cloned().unwrap_or_else(|| GuestDefinition::guest_name(vps));
        path_of(&name)
    }

    /// The instance of a VPS; none if there is none, an error if somebody else made it.
    async fn find(&self, vps: VpsId) -> Result<Option<Instance>, DriverError> {
        let doing = || format!("cannot look up the container of VPS {vps}");
        match self.api.get::<Instance>(&self.path(vps)).await {
            Ok(instance) if instance.vps() == Some(vps) => Ok(Some(instance)),
            Ok(_) => Err(DriverError::lasting(format!(
                "the Incus instance `{}` is not CHOM's and is left alone: rename or remove it",
                GuestDefinition::guest_name(vps)
            ))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(doing())(error)),
        }
    }

    /// Makes a container under a name: from its image, or as a copy of its source.
    async fn make(
        &self,
        spec: &VpsSpec,
        name: &str,
        image: &Path,
        definition: &Definition,
    ) -> Result<(), DriverError> {
        let Some(from) = &spec.image else {
            return Err(DriverError::lasting(format!("VPS {} was adopted and has no image", spec.id)));
        };
        if from.format != ImageFormat::IncusTarball {
            return Err(DriverError::lasting(format!(
                "image `{}` is of format {}, which no container is made from: choose another image",
                from.name, from.format
            )));
        }
        let copied = spec.source.is_some();
        let ready_source = async {
            match spec.source {
                Some(CloneSource { vps, snapshot: None }) => {
                    snapshots::take(self, vps, SnapshotName::ForClone(spec.id)).await
                }
                Some(_) => Ok(()),
                None => self.import(from, image).await,
            }
        };
        let (pool, ()) = tokio::try_join!(self.pool(), ready_source)?;
        if spec.interface.attachment == Attachment::Nat {
            network::ensure(&self.api, self.shared.as_ref()).await?;
        }
        let request = Payload::json(&definition.create(spec, name, &pool));
        let seconds_max = if copied { COPY_SECONDS_MAX } else { CREATE_SECONDS_MAX };
        let made = self.api.act(Method::POST, "/1.0/instances", request, seconds_max).await;
        made.map_err(failed(format!("cannot make the container of VPS {}", spec.id)))
    }

    async fn has_snapshots(&self, vps: VpsId) -> Result<bool, DriverError> {
        let listed: Result<Vec<String>, _> = self.api.get(&format!("{}/snapshots", self.path(vps))).await;
        let listed = listed.map_err(failed(format!("cannot list the snapshots of VPS {vps}")))?;
        Ok(!listed.is_empty())
    }

    /// Gives Incus the image, once. A unified image's fingerprint is the digest of its file.
    async fn import(&self, from: &ImageReference, image: &Path) -> Result<(), DriverError> {
        let doing = format!("cannot give image `{}` to Incus", from.name);
        let _one = self.importing.lock().await;
        let known = format!("/1.0/images/{}", from.sha256);
        match self.api.get::<IgnoredAny>(&known).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(failed(doing)(error)),
        }
        let unreadable = |source| IncusError::Send { path: image.display().to_string(), source };
        let file = File::open(image).await.map_err(unreadable).map_err(failed(doing.clone()))?;
        let size = file.metadata().await.map_err(unreadable).map_err(failed(doing.clone()))?.len();
        let headers = vec![
            ("x-incus-filename", from.sha256.to_string()),
            // A name is letters, digits and hyphens: nothing in it needs escaping.
            ("x-incus-properties", format!("description=chom-{}&user.chom.image=true", from.name)),
        ];
        let payload = Payload::File { file, left: size, headers };
        match self.api.act(Method::POST, "/1.0/images", payload, CREATE_SECONDS_MAX).await {
            Err(error) if error.says("already exists") => Ok(()),
            imported => imported.map_err(failed(doing)),
        }
    }

    /// The pool for disks: that of the default profile, as `incus launch` takes it; else the first there is.
    async fn pool(&self) -> Result<String, DriverError> {
        #[derive(Deserialize)]
        struct Profile {
            devices: BTreeMap<String, Device>,
        }
        #[derive(Deserialize)]
        struct Device {
            path: Option<String>,
            pool: Option<String>,
        }
        let doing = || "cannot find a storage pool for containers".to_owned();
        let profile: Profile = self.api.get("/1.0/profiles/default").await.map_err(failed(doing()))?;
        let root = profile.devices.into_values().find(|device| device.path.as_deref() == Some("/"));
        if let Some(pool) = root.and_then(|device| device.pool) {
            return Ok(pool);
        }
        let pools: Vec<String> = self.api.get("/1.0/storage-pools").await.map_err(failed(doing()))?;
        let first = pools.into_iter().min();
        first.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned).ok_or_else(|| {
            DriverError::lasting("Incus has no storage pool on this host; make one with `incus admin init`")
        })
    }

    /// Refuses where no program can run in it; one that is frozen would never answer.
    async fn is_on(&self, vps: VpsId) -> Result<(), DriverError> {
        match self.find(vps).await?.map(|instance| instance.state()) {
            Some(VpsState::Running) => Ok(()),
            Some(VpsState::Paused) => {
                Err(DriverError::lasting(format!("VPS {vps} is paused: resume it first")))
            }
            _ => Err(DriverError::lasting(format!("VPS {vps} is off: start it first"))),
        }
    }

    /// Switches a container and waits for it.
    async fn switch(&self, vps: VpsId, doing: &str, action: &str, force: bool) -> Result<(), DriverError> {
        let request = json!({ "action": action, "force": force, "timeout": SWITCH_SECONDS_MAX });
        let path = format!("{}/state", self.path(vps));
        let switched = self.api.act(Method::PUT, &path, Payload::json(&request), SWITCH_SECONDS_MAX).await;
        match switched {
            // It came to that meanwhile.
            Err(error) if error.says("is already running") || error.says("is already stopped") => Ok(()),
            switched => switched.map_err(failed(format!("cannot {doing} VPS {vps}"))),
        }
    }
}

impl Driver for IncusDriver {
    fn unasked(&self) -> EngineStatus {
        EngineStatus {
            engine: Engine::Incus,
            version: String::new(),
            acceleration: Acceleration::None,
            problem: Some("Incus was not asked yet".to_owned()),
        }
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        let looked = self.look().await;
        if looked.is_err() {
            // It may be another one that comes back.
            *self.version.lock().await = None;
        }
        looked.map_err(failed("cannot see the containers".to_owned()))
    }

    async fn prepare(
        &self,
        spec: &VpsSpec,
        image: &Path,
        user_data: Option<&[u8]>,
    ) -> Result<(), DriverError> {
        let definition = Definition::new(spec, user_data);
        let name = GuestDefinition::guest_name(spec.id);
        match self.find(spec.id).await? {
            // What has snapshots was whole once.
            Some(half_made) if half_made.is_half_made() && !self.has_snapshots(spec.id).await? => {
                self.destroy(spec.id).await?;
                self.make(spec, &name, image, &definition).await
            }
            Some(old) if old.build() < spec.build => {
                rebuild::exchange(self, spec, image, &definition, Some(&old)).await
            }
            Some(same) if same.definition() == definition.digest() && !same.is_changed_by_hand() => Ok(()),
            Some(there) => {
                let doing = format!("cannot change the container of VPS {}", spec.id);
                let pool = match there.pool() {
                    Some(pool) => pool.to_owned(),
                    None => self.pool().await?,
                };
                let request = Payload::json(&definition.update(&pool));
                let path = self.path(spec.id);
                let changed = self.api.act(Method::PATCH, &path, request, SWITCH_SECONDS_MAX).await;
                changed.map_err(failed(doing))
            }
            None if spec.build > 0 => rebuild::exchange(self, spec, image, &definition, None).await,
            None => self.make(spec, &name, image, &definition).await,
        }
    }

    async fn adopt(&self, spec: &VpsSpec) -> Result<(), DriverError> {
        adopted::adopt(self, spec).await
    }

    async fn start(&self, vps: VpsId) -> Result<(), DriverError> {
        let Some(instance) = self.find(vps).await? else {
            return Err(DriverError::passing(format!(
                "VPS {vps} has no container here: it must be made first"
            )));
        };
        match instance.state() {
            VpsState::Running => Ok(()),
            VpsState::Paused => self.switch(vps, "resume", "unfreeze", false).await,
            _ => {
                if instance.is_adopted() {
                    adopted::name_port(self, vps, &instance).await?;
                }
                network::remove_left_over(vps).await?;
                if instance.is_behind_nat() {
                    network::ensure(&self.api, self.shared.as_ref()).await?;
                }
                self.switch(vps, "start", "start", false).await
            }
        }
    }

    async fn pause(&self, vps: VpsId) -> Result<(), DriverError> {
        match self.find(vps).await? {
            Some(instance) if instance.state() == VpsState::Running => {
                self.switch(vps, "pause", "freeze", false).await
            }
            _ => Ok(()),
        }
    }

    async fn shutdown(&self, vps: VpsId) -> Result<(), DriverError> {
        let Some(instance) = self.find(vps).await? else { return Ok(()) };
        if instance.state() == VpsState::Stopped {
            return Ok(());
        }
        let request = json!({ "action": "stop", "force": false, "timeout": SHUTDOWN_SECONDS });
        let path = format!("{}/state", self.path(vps));
        match self.api.begin(Method::PUT, &path, Payload::json(&request), SHUTDOWN_SECONDS).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed(format!("cannot ask VPS {vps} to shut down"))(error)),
        }
    }

    async fn power_off(&self, vps: VpsId) -> Result<(), DriverError> {
        match self.find(vps).await? {
            Some(instance) if instance.state() != VpsState::Stopped => {
                self.switch(vps, "power off", "stop", true).await
            }
            _ => Ok(()),
        }
    }

    async fn destroy(&self, vps: VpsId) -> Result<(), DriverError> {
        rebuild::remove_successor(self, vps).await?;
        if self.find(vps).await?.is_none() {
            return Ok(());
        }
        let removed =
            self.api.act(Method::DELETE, &self.path(vps), Payload::none(), DELETE_SECONDS_MAX).await;
        match removed {
            Err(error) if error.is_not_found() => Ok(()),
            removed => removed.map_err(failed(format!("cannot remove the container of VPS {vps}"))),
        }
    }

    async fn take_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        snapshots::take(self, vps, name).await
    }

    async fn restore_snapshot(&self, spec: &VpsSpec, name: SnapshotName) -> Result<(), DriverError> {
        snapshots::restore(self, spec, name).await
    }

    async fn delete_snapshot(&self, vps: VpsId, name: SnapshotName) -> Result<(), DriverError> {
        snapshots::delete(self, vps, name).await
    }

    async fn measure(&self) -> Result<Vec<Point>, DriverError> {
        let instances: Result<Vec<Instance>, IncusError> = self.api.get("/1.0/instances?recursion=2").await;
        let instances = instances.map_err(failed("cannot measure the containers".to_owned()))?;
        Ok(instances.iter().flat_map(Instance::points).collect())
    }

    async fn console(
        &self,
        vps: VpsId,
        size: watch::Receiver<TerminalSize>,
    ) -> Result<Box<dyn Pipe>, DriverError> {
        self.is_on(vps).await?;
        match exec::shell(&self.api, &self.path(vps), size).await {
            Ok(shell) => Ok(Box::new(shell)),
            Err(error) => Err(failed(format!("cannot open a shell in VPS {vps}"))(error)),
        }
    }

    async fn screen(&self, vps: VpsId) -> Result<Box<dyn Pipe>, DriverError> {
        Err(DriverError::lasting(format!("VPS {vps} is a container, which has no screen: open its console")))
    }

    async fn facts(&self, vps: VpsId) -> Result<GuestFacts, DriverError> {
        let doing = format!("cannot see how the container of VPS {vps} is");
        self.is_on(vps).await?;
        let asked = self.api.get::<GuestState>(&format!("{}/state", self.path(vps))).await;
        let state = asked.map_err(failed(doing))?;
        let files = chom_supervise::aside(move || facts::read(state.pid).map(|files| (state, files))).await;
        let off = || DriverError::passing(format!("VPS {vps} went off meanwhile"));
        files.map(|(state, files)| facts::facts(&state, &files)).ok_or_else(off)
    }

    async fn set_password(&self, vps: VpsId, user: &str, password: &Secret) -> Result<(), DriverError> {
        self.is_on(vps).await?;
        let doing = format!("cannot set the password in VPS {vps}");
        match exec::set_password(&self.api, &self.path(vps), user, password).await {
            Ok(()) => Ok(()),
            Err(Unset::Incus(error)) => Err(failed(doing)(error)),
            Err(Unset::Said { code, words }) => Err(DriverError::lasting(format!(
                "{doing}: chpasswd in it ended with {code}{}{words}; set it by hand on its console",
                if words.is_empty() { "" } else { ": " }
            ))),
        }
    }

    fn definition(&self, spec: &VpsSpec) -> Option<Sha256> {
        Some(if spec.adopted.is_some() { adopted::digest(spec) } else { instance::digest(spec) })
    }
}

fn path_of(name: &str) -> String {
    format!("/1.0/instances/{name}")
}

fn failed(doing: String) -> impl FnOnce(IncusError) -> DriverError {
    move |error| {
        let advice = if error.says("no space left") { "; free space in Incus' storage pool" } else { "" };
        DriverError {
            problem: format!("{doing}: {}{advice}", Chain(&error)),
            retryable: error.is_retryable(),
        }
    }
}
