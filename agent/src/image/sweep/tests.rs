//! On real files: what stays, what goes, and that nothing goes while something is not known.

use chom_protocol::host::{Acceleration, AgentSettings, EngineStatus, HostSpec, Inventory};
use chom_protocol::vps::{ForeignGuest, ImageReference, VpsState};
use chom_protocol::{BootId, Generation, HostId};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::driver::seed::tests::spec;

const DAYS: Duration = Duration::from_secs(24 * 3600);

struct Cache {
    _folder: TempDir,
    sweep: Sweep,
    status: watch::Sender<Option<Arc<HostStatus>>>,
}

/// A host whose desired state names the blob `named`.
fn cache() -> Cache {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("images")).unwrap();
    let host = HostId::new(Uuid::from_u128(1));
    let (ledger, _) = Ledger::open(&at("state"), host).unwrap();
    let vps = spec();
    let given = vps.image.clone().unwrap();
    let image = ImageReference { sha256: Sha256::of(b"named"), ..given.clone() };
    let vps = chom_protocol::vps::VpsSpec { image: Some(image), ..vps };
    let ahead = ImageReference { name: "ahead".parse().unwrap(), sha256: Sha256::of(b"prefetched"), ..given };
    let desired = HostSpec {
        prefetch: [ahead].map(|image: ImageReference| (image.name.clone(), image)).into(),
        host,
        generation: Generation { epoch: 1, number: 1 },
        settings: AgentSettings::default(),
        vps: [(vps.id, vps)].into(),
        tombstones: Default::default(),
        jobs: Default::default(),
    };
    ledger.accept(desired).unwrap();
    let engine = EngineStatus {
        engine: Engine::Libvirt,
        version: "11".to_owned(),
        acceleration: Acceleration::Tcg,
        problem: None,
    };
    let status = HostStatus {
        prefetch: Default::default(),
        boot: BootId::new(Uuid::nil()),
        observed_at: UnixMillis(0),
        accepted: Generation::default(),
        reconciled: Generation::default(),
        inventory: Inventory::default(),
        engines: vec![engine],
        vps: Default::default(),
        foreign: vec![],
        orphans: vec![],
        destroys_waiting: vec![],
        problems: vec![],
    };
    let status = watch::Sender::new(Some(Arc::new(status)));
    let sweep = Sweep {
        images: ImageCache::new(at("images")),
        vps_folder: at("vps"),
        ledger: Arc::new(ledger),
        status: status.subscribe(),
    };
    Cache { _folder: folder, sweep, status }
}

impl Cache {
    /// A blob with a content of its own, needed so long ago.
    fn put(&self, content: &str, ending: &str, ago: Duration) -> PathBuf {
        let path = self.sweep.images.folder.join(format!("{}{ending}", Sha256::of(content.as_bytes())));
        fs::write(&path, content).unwrap();
        let at = UNIX_EPOCH + Duration::from_millis(clock::now().0) - ago;
        File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        path
    }

    /// A disk that stands on a blob.
    fn disk(&self, vps: &str, blob: &Path) {
        let folder = self.sweep.vps_folder.join(vps);
        fs::create_dir_all(&folder).unwrap();
        let name = blob.to_str().unwrap();
        let mut disk = [&b"QFI\xfb"[..], &3_u32.to_be_bytes(), &24_u64.to_be_bytes()].concat();
        disk.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        disk.extend(0_u32.to_be_bytes());
        disk.extend(name.as_bytes());
        fs::write(folder.join("disk.qcow2"), disk).unwrap();
        fs::write(folder.join("console.log"), "hello").unwrap();
    }

    fn change(&self, change: impl FnOnce(&mut HostStatus)) {
        self.status.send_modify(|status| change(Arc::make_mut(status.as_mut().unwrap())));
    }

    fn sweep(&self) -> usize {
        self.sweep.once(Space { free_bytes: 50, total_bytes: 100 }, clock::now()).unwrap().len()
    }
}

#[test]
fn what_nothing_needs_goes_after_a_day_and_all_else_stays() {
    let cache = cache();
    let named = cache.put("named", "", 9 * DAYS);
    let coming = cache.put("named", ".part", 9 * DAYS);
    let ahead = cache.put("prefetched", "", 9 * DAYS);
    let below = cache.put("below a disk", "", 9 * DAYS);
    cache.disk("an orphan", &below);
    let used = cache.put("open", "", 9 * DAYS);
    let open = File::open(&used).unwrap();
    let strange = cache.sweep.images.folder.join("README");
    fs::write(&strange, "by hand").unwrap();
    let (old, broken) = (cache.put("old", "", 2 * DAYS), cache.put("broken off", ".part", 2 * DAYS));
    let half_way = cache.put("half-way out", ".going", 2 * DAYS);
    let put_back = cache.put("needed and half-way out", ".going", 2 * DAYS);
    cache.disk("another", &put_back.with_extension(""));

    assert_eq!(cache.sweep(), 3);
    for stays in [&named, &coming, &ahead, &below, &used, &strange, &put_back.with_extension("")] {
        assert!(stays.exists(), "{}", stays.display());
    }
    for goes in [&old, &broken, &half_way, &half_way.with_extension(""), &put_back] {
        assert!(!goes.exists(), "{}", goes.display());
    }
    // What was needed until a moment ago is kept for a day from then on, also over a restart.
    drop(open);
    fs::remove_dir_all(&cache.sweep.vps_folder).unwrap();
    assert_eq!(cache.sweep(), 0);
    assert!(below.exists() && used.exists());
}

#[test]
fn nothing_goes_while_it_cannot_be_told_what_is_needed() {
    let cache = cache();
    let old = cache.put("old", "", 9 * DAYS);
    let foreign =
        |engine| ForeignGuest { engine, name: "theirs".to_owned(), state: VpsState::Stopped, hardware: None };
    cache.change(|status| status.engines[0].problem = Some("it does not answer".to_owned()));
    assert_eq!(cache.sweep(), 0);
    cache.change(|status| {
        status.engines[0].problem = None;
        status.foreign = vec![foreign(Engine::Libvirt)];
    });
    assert_eq!(cache.sweep(), 0, "on what its disk stands is not known");
    cache.change(|status| status.foreign = vec![]);
    cache.sweep.ledger.set_mode(Mode::ReportOnly).unwrap();
    assert_eq!(cache.sweep(), 0, "a host that was forgotten changes nothing");
    cache.sweep.ledger.set_mode(Mode::Managed).unwrap();
    assert!(old.exists());
    cache.change(|status| status.foreign = vec![foreign(Engine::Incus)]);
    assert_eq!(cache.sweep(), 1, "containers do not stand on files of the cache");
}
