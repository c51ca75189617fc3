//! Exports and restores on real files.

use std::path::Path;

use chom_protocol::UnixMillis;

use super::*;
use crate::store::export::{
    EXPORTS_KEPT_MAX, ExportError, RestoreError, export, list_exports, newest_export, prune, read, restore,
};
use crate::store::sled::{OpenError, Options, open};

const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

fn options(folder: &Path) -> Options {
    Options { folder: folder.join("store"), exports: folder.join("exports") }
}

/// A store with its own row, some others and a deletion.
async fn fleet(options: &Options) -> Arc<dyn Store> {
    let store = open(options).unwrap();
    let meta = encode(&Meta::new("fleet-1", NOW)).unwrap();
    store.commit(Commit::new().put(Meta::key(), meta)).await.unwrap();
    for n in 0..300 {
        store.commit(put(&format!("row/{n}"), &format!("{{\"text\":\"line\\n {n} ä\"}}"))).await.unwrap();
    }
    store.commit(put("row/1", "changed").delete(key("row/2"))).await.unwrap();
    store
}

#[tokio::test]
async fn a_restored_store_has_every_row_in_a_newer_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let from = options(folder.path());
    let store = fleet(&from).await;
    let (revision, before) = store.list(&EVERYTHING).await.unwrap();
    let file = export(store.as_ref(), &from.exports, NOW).await.unwrap();
    assert_eq!(newest_export(&from.exports).unwrap(), Some(file.clone()));
    assert!(file.ends_with("chom-export-20261123T000000Z-r000000000302.jsonl.zst"), "{}", file.display());
    store.commit(put("row/lost", "1")).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let to = options(other.path());
    let restored = restore(&file, &to.folder, NOW.plus_seconds(60)).unwrap();
    assert_eq!(restored.meta.epoch, NOW.0 / 1000 + 60);
    assert_eq!((restored.meta.fleet.as_str(), restored.meta.created_at), ("fleet-1", NOW));
    assert_eq!((restored.records, restored.exported_at), (before.len(), NOW));
    let store = open(&to).unwrap();
    let (restored_revision, after) = store.list(&EVERYTHING).await.unwrap();
    assert_eq!(restored_revision, restored.revision);
    assert!(restored_revision.0 > revision.0 + 1_000_000, "no revision means two things");
    let rows =
        |records: &[Record]| records.iter().filter(|r| r.key != Meta::key()).cloned().collect::<Vec<_>>();
    assert_eq!(rows(&after), rows(&before));
    let meta = store.get(&Meta::key()).await.unwrap().unwrap();
    assert_eq!(decode::<Meta>(&meta).unwrap().row, restored.meta);
    assert_eq!(store.commit(put("row/new", "1")).await.unwrap(), restored.revision.next());
}

#[tokio::test]
async fn a_damaged_export_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let from = options(folder.path());
    let store = fleet(&from).await;
    let file = export(store.as_ref(), &from.exports, NOW).await.unwrap();
    let good = std::fs::read(&file).unwrap();
    let lines = zstd::stream::decode_all(good.as_slice()).unwrap();
    let text = String::from_utf8(lines).unwrap();
    let pack = |text: String| zstd::stream::encode_all(text.as_bytes(), 1).unwrap();
    let without_a_row: String =
        text.lines().filter(|l| !l.contains("row/7\"")).map(|l| format!("{l}\n")).collect();
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    let mut cases = vec![
        ("a row changed", pack(text.replacen("changed", "chanGed", 1))),
        ("a row missing", pack(without_a_row)),
        ("the trailer missing", pack(text[..last].to_owned())),
        ("a line behind the trailer", pack(format!("{text}{{}}\n"))),
        ("cut in the middle of a line", pack(text[..last - 5].to_owned())),
        ("nothing", Vec::new()),
        ("no lines", pack(String::new())),
        ("not an export", b"hello".to_vec()),
        ("an endless line", pack("x".repeat(1 << 20))),
    ];
    for share in 1..20 {
        let at = good.len() * share / 20;
        cases.push(("cut", good[..at].to_vec()));
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        cases.push(("flipped", flipped));
    }
    for (what, bytes) in cases {
        let bad = folder.path().join("bad.jsonl.zst");
        std::fs::write(&bad, bytes).unwrap();
        let target = folder.path().join("target");
        let error = restore(&bad, &target, NOW).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { .. } | RestoreError::Read { .. }), "{what}: {error}");
        assert!(!target.exists(), "{what}");
    }
    let newer = text.replacen("\"chom_export\":1", "\"chom_export\":2,\"unknown\":1", 1);
    let path = folder.path().join("newer.jsonl.zst");
    std::fs::write(&path, pack(newer)).unwrap();
    assert!(matches!(read(&path), Err(RestoreError::Newer { found: 2, .. })));
}

#[tokio::test]
async fn a_restore_never_touches_an_existing_store() {
    let folder = tempfile::tempdir().unwrap();
    let from = options(folder.path());
    let store = fleet(&from).await;
    let file = export(store.as_ref(), &from.exports, NOW).await.unwrap();
    let error = restore(&file, &from.folder, NOW).unwrap_err();
    assert!(matches!(&error, RestoreError::Fill { source: OpenError::NotEmpty { .. }, .. }), "{error}");
    assert_eq!(value(store.as_ref(), "row/1").await.as_deref(), Some("changed"));
    // An empty folder is fine, and so is what a restore that was cut short left beside it.
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::create_dir(folder.path().join("empty.restoring")).unwrap();
    std::fs::write(folder.path().join("empty.restoring/tail"), "half").unwrap();
    restore(&file, &empty, NOW).unwrap();
    assert!(!folder.path().join("empty.restoring").exists());
    open(&Options { folder: empty, exports: from.exports }).unwrap();
}

#[tokio::test]
async fn secrets_stay_sealed_in_an_export_and_open_after_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let from = options(folder.path());
    let store = fleet(&from).await;
    let master = seal::MasterKey::create(&folder.path().join("master-key")).unwrap();
    let sealed = master.seal(&key("smtp"), b"hunter2").unwrap();
    store.commit(put("smtp", &serde_json::to_string(&sealed).unwrap())).await.unwrap();
    let file = export(store.as_ref(), &from.exports, NOW).await.unwrap();
    let lines = zstd::stream::decode_all(std::fs::read(&file).unwrap().as_slice()).unwrap();
    assert!(!String::from_utf8(lines).unwrap().contains("hunter2"));
    let target = folder.path().join("target");
    restore(&file, &target, NOW).unwrap();
    let restored = open(&Options { folder: target, exports: from.exports }).unwrap();
    let sealed = serde_json::from_str(&value(restored.as_ref(), "smtp").await.unwrap()).unwrap();
    assert_eq!(master.open(&key("smtp"), &sealed).unwrap(), b"hunter2");
}

#[tokio::test]
async fn a_store_that_was_never_set_up_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = memory();
    let error = export(store.as_ref(), folder.path(), NOW).await.unwrap_err();
    assert!(matches!(error, ExportError::NoMeta), "{error}");
    assert_eq!(list_exports(folder.path()).unwrap().len(), 0);
    assert_eq!(newest_export(&folder.path().join("missing")).unwrap(), None);
}

#[tokio::test]
async fn damage_names_the_newest_export_and_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let from = options(folder.path());
    let store = fleet(&from).await;
    export(store.as_ref(), &from.exports, NOW).await.unwrap();
    let newest = export(store.as_ref(), &from.exports, NOW.plus_seconds(1)).await.unwrap();
    drop(store);
    std::fs::write(from.folder.join("tail"), "nonsense").unwrap();
    let Err(error) = open(&from) else { panic!("opened") };
    let (store, newest) = (from.folder.display(), newest.display());
    let command = format!("mv {store} {store}.damaged && chom-orchestrator restore {newest}");
    assert!(error.to_string().contains(&command), "{error}");
}

#[tokio::test]
async fn only_the_newest_exports_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store) = memory();
    store.commit(Commit::new().put(Meta::key(), encode(&Meta::new("f", NOW)).unwrap())).await.unwrap();
    let mut written = Vec::new();
    for n in 0..EXPORTS_KEPT_MAX as u64 + 3 {
        written.push(export(store.as_ref(), folder.path(), NOW.plus_seconds(n)).await.unwrap());
    }
    std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    assert_eq!(prune(folder.path()).unwrap(), written[..3]);
    assert_eq!(list_exports(folder.path()).unwrap(), written[3..]);
    assert!(folder.path().join("notes.txt").exists());
}

#[tokio::test]
async fn an_export_under_load_is_one_revision() {
    let folder = tempfile::tempdir().unwrap();
    let from = options(folder.path());
    let store = fleet(&from).await;
    let answers: Vec<_> =
        (0..500).map(|n| store.commit(put("x", &n.to_string()).put(key("y"), n.to_string()))).collect();
    let file = export(store.as_ref(), &from.exports, NOW).await.unwrap();
    for answer in answers {
        answer.await.unwrap();
    }
    let target = folder.path().join("target");
    restore(&file, &target, NOW).unwrap();
    let restored = open(&Options { folder: target, exports: from.exports }).unwrap();
    assert_eq!(value(restored.as_ref(), "x").await, value(restored.as_ref(), "y").await);
}
