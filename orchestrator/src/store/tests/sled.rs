//! The embedded backend on real files: reopening, damage, two processes, kill -9.

#![expect(clippy::disallowed_types, reason = "damages rows through sled itself")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use super::*;
use crate::store::sled::{OpenError, Options, open};

fn options(folder: &Path) -> Options {
    Options { folder: folder.join("store"), exports: folder.join("exports") }
}

fn error(options: &Options) -> OpenError {
    match open(options) {
        Ok(store) => panic!("opened at revision {}", store.revision()),
        Err(error) => error,
    }
}

/// Many rows, so that damage has something to hit.
async fn filled(options: &Options) -> Vec<Record> {
    let store = open(options).unwrap();
    let answers: Vec<_> = (0..600)
        .map(|n| store.commit(put(&format!("row/{n:04}"), &format!("{n}").repeat(200))))
        .chain((0..600).step_by(7).map(|n| store.commit(Commit::new().delete(key(&format!("row/{n:04}"))))))
        .collect();
    for answer in answers {
        answer.await.unwrap();
    }
    store.list(&EVERYTHING).await.unwrap().1
}

#[tokio::test]
async fn the_embedded_backend_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    contract(open(&options(folder.path())).unwrap().as_ref()).await;
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let before = filled(&options).await;
    let store = open(&options).unwrap();
    let (revision, after) = store.list(&EVERYTHING).await.unwrap();
    assert_eq!((revision, after), (Revision(600 + 86), before));
    let mut watch = store.watch(&EVERYTHING, revision);
    let compacted = WatchError::Compacted { wanted: revision, oldest: revision.next() };
    assert_eq!(watch.next().await, Some(Err(compacted)), "what was before the start can only be listed");
    let mut watch = store.watch(&EVERYTHING, revision.next());
    assert_eq!(store.commit(put("new", "1")).await.unwrap(), revision.next(), "revisions go on");
    assert_eq!(render(&watch.next().await.unwrap().unwrap()), format!("{}: +new=1", revision.next()));
}

#[test]
fn two_processes_cannot_have_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let first = open(&options).unwrap();
    let second = error(&options);
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    assert!(second.to_string().contains("stop the other orchestrator"), "{second}");
    drop(first);
    open(&options).unwrap();
}

/// As when sled's pool is still at work after the drop, or the process before was killed and is still on its way out.
#[test]
fn a_lock_that_is_given_back_late_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    drop(open(&options).unwrap());
    for name in ["lock", "sled/db"] {
        let held = std::fs::File::open(options.folder.join(name)).unwrap();
        held.lock().unwrap();
        let opening = std::thread::spawn({
            let options = options.clone();
            move || open(&options).map(drop)
        });
        // Until then nothing ends: had the lock not been waited for, it would have.
        for _ in 0..20 {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            assert!(!opening.is_finished(), "`{name}` is not waited for: {:?}", opening.join());
        }
        drop(held);
        opening.join().unwrap().unwrap();
    }
}

/// Copies a store, damages the copy and opens it.
fn damaged(from: &Options, damage: impl FnOnce(&Path)) -> Result<Vec<Record>, OpenError> {
    let folder = tempfile::tempdir().unwrap();
    let copy = options(folder.path());
    copy_folder(&from.folder, &copy.folder);
    damage(&copy.folder);
    let store = open(&copy)?;
    let (_, records) = store.list(&EVERYTHING).now_or_never().unwrap().unwrap();
    Ok(records)
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn flipped_bytes_are_an_error_or_harmless_but_never_other_rows() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let before = filled(&options).await;
    let bytes = std::fs::read(options.folder.join("sled/db")).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    let mut refused = 0;
    let rounds = 24;
    for round in 0..rounds {
        let outcome = damaged(&options, |copy| {
            let mut bytes = bytes.clone();
            for byte in &mut bytes[used * round / rounds..][..16] {
                *byte ^= 0x5a;
            }
            std::fs::write(copy.join("sled/db"), bytes).unwrap();
        });
        match outcome {
            Ok(after) => assert_eq!(after, before, "round {round}"),
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged { .. } | OpenError::File { .. }), "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > rounds / 2, "only {refused} of {rounds} were noticed");
}

#[tokio::test]
async fn a_cut_tail_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let before = filled(&options).await;
    let bytes = std::fs::read(options.folder.join("sled/db")).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    for share in [99, 90, 50, 10, 1, 0] {
        let outcome = damaged(&options, |copy| {
            std::fs::write(copy.join("sled/db"), &bytes[..used * share / 100]).unwrap();
        });
        match outcome {
            Ok(after) => assert_eq!(after, before, "{share} %"),
            Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "{share} %: {error:?}"),
        }
        assert!(
            share > 50
                || damaged(&options, |copy| {
                    std::fs::write(copy.join("sled/db"), &bytes[..used * share / 100]).unwrap();
                })
                .is_err(),
            "{share} % of the file cannot be all"
        );
    }
}

#[tokio::test]
async fn missing_or_older_files_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    filled(&options).await;
    let old = tempfile::tempdir().unwrap();
    copy_folder(&options.folder.join("sled"), &old.path().join("sled"));
    open(&options).unwrap().commit(put("newer", "1")).await.unwrap();

    let remove_database = |copy: &Path| std::fs::remove_dir_all(copy.join("sled")).unwrap();
    let error = damaged(&options, remove_database).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
    let error =
        damaged(&options, |copy| std::fs::remove_file(copy.join("tail")).unwrap()).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
    let error = damaged(&options, |copy| std::fs::write(copy.join("tail"), [7; 24]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("not as written"), "{error}");
    let put_old_back = |copy: &Path| {
        remove_database(copy);
        copy_folder(&old.path().join("sled"), &copy.join("sled"));
    };
    let error = damaged(&options, put_old_back).unwrap_err().to_string();
    assert!(error.contains("ends at revision 686, but revision 687 was acknowledged"), "{error}");
}

#[tokio::test]
async fn a_row_that_does_not_match_its_checksum_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    filled(&options).await;
    let error = damaged(&options, |copy| {
        // Through the database itself, so that only our own checksum can notice.
        let database = ::sled::Config::new().path(copy.join("sled")).segment_size(8 << 20).open().unwrap();
        let mut row = database.get("/chom/v1/row/0001").unwrap().unwrap().to_vec();
        *row.last_mut().unwrap() ^= 1;
        database.insert("/chom/v1/row/0001", row).unwrap();
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`/chom/v1/row/0001` does not match its checksum"), "{error}");
    assert!(error.contains("There is no export in"), "{error}");
    let error = damaged(&options, |copy| {
        let database = ::sled::Config::new().path(copy.join("sled")).segment_size(8 << 20).open().unwrap();
        database.remove("/chom/v1/row/0001").unwrap();
    });
    assert!(error.unwrap_err().to_string().contains("says that it should have"));
}

/// Set for the child process of the test below; says where its store is.
const CHILD: &str = "CHOM_STORE_TEST_CHILD";

/// Run by the test below in a process of its own; does nothing otherwise. Writes what is acknowledged to its standard output
/// until it is killed.
#[tokio::test]
async fn child_that_commits_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let store = open(&options(Path::new(&folder))).unwrap();
    let mut under_way = std::collections::VecDeque::new();
    for n in store.revision().0 + 1.. {
        let commit = put(&format!("k/{:03}", n % 500), &format!("{n}")).put(key("last"), format!("{n}"));
        under_way.push_back((n, store.commit(commit)));
        if under_way.len() > 32 {
            let (n, answer) = under_way.pop_front().unwrap();
            assert_eq!(answer.await.unwrap(), Revision(n));
            let mut out = std::io::stdout().lock();
            writeln!(out, "\nacknowledged {n}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "starts this very test binary again, to kill it")]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut rounds = Vec::new();
    for round in 1..=5_u64 {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::sled::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        let mut acknowledged = 0;
        let mut seen = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some(n) = line.strip_prefix("acknowledged ") else { continue };
            acknowledged = n.parse().unwrap();
            seen += 1;
            if seen == 200 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 200 * round, "the child ended by itself after {seen}");
        let store = open(&options(folder.path())).unwrap();
        let last = store.revision().0;
        assert!(last >= acknowledged, "{acknowledged} was acknowledged, {last} is there");
        assert_eq!(value(store.as_ref(), "last").await, Some(last.to_string()), "no half commit");
        for n in last.saturating_sub(499).max(1)..=last {
            assert_eq!(value(store.as_ref(), &format!("k/{:03}", n % 500)).await, Some(n.to_string()));
        }
        rounds.push((acknowledged, last));
    }
    println!("acknowledged and found after each kill: {rounds:?}");
}

/// Prints how fast the store is; asserts nothing about it. `cargo test --release -- --ignored --nocapture group_commit_rate`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn group_commit_rate() {
    let folder =
        tempfile::tempdir_in(std::env::var("CHOM_STORE_TEST_FOLDER").unwrap_or_else(|_| "/var/tmp".into()));
    let folder = folder.unwrap();
    let store = open(&options(folder.path())).unwrap();
    let text: Arc<str> = "x".repeat(1024).into();
    for writers in [1_u64, 64] {
        let begun = std::time::Instant::now();
        let each = 12_800 / writers.max(4);
        let all = (0..writers).map(|writer| {
            let (store, text) = (Arc::clone(&store), Arc::clone(&text));
            async move {
                for n in 0..each {
                    let row = EVERYTHING.row(&(writer * 1_000_000 + n));
                    store.commit(Commit::new().put(row, Arc::clone(&text))).await.unwrap();
                }
            }
        });
        futures_util::future::join_all(all).await;
        let rate = (writers * each) as f64 / begun.elapsed().as_secs_f64();
        println!("{writers} writers of 1 KiB: {rate:.0} commits/s");
    }
    drop(store);
    let begun = std::time::Instant::now();
    let store = open(&options(folder.path())).unwrap();
    let file = std::fs::metadata(folder.path().join("store/sled/db")).unwrap();
    println!("reopened {} in {:?}; file {} MiB", store.revision(), begun.elapsed(), file.len() >> 20);
}
