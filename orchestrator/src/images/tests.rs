//! Digests, what is kept of them, and files that change.

use std::collections::BTreeSet;

use chom_protocol::vps::Engine;
use tempfile::TempDir;

use super::*;

fn image(folder: &TempDir, name: &str, format: ImageFormat, content: &[u8]) -> config::Image {
    let file = folder.path().join(name);
    std::fs::write(&file, content).unwrap();
    config::Image {
        name: name.parse().unwrap(),
        file,
        engine: Some(Engine::Fake),
        format,
        minimum_disk_mib: None,
        default: false,
    }
}

fn read_from(folder: &ImageFolder, sha256: &Sha256, offset: u64) -> Vec<u8> {
    let mut open = folder.open(sha256, offset).unwrap().unwrap();
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn an_image_is_named_by_its_content_and_sent_from_an_offset() {
    let dir = tempfile::tempdir().unwrap();
    let raw = image(&dir, "raw", ImageFormat::Raw, b"0123456789");
    let (folder, catalogue) = load(std::slice::from_ref(&raw), dir.path()).unwrap();
    let entry = &catalogue[&raw.name];
    assert_eq!(entry.reference.sha256, Sha256::of(b"0123456789"));
    assert_eq!((entry.reference.size, entry.minimum_disk), (Bytes(10), Bytes(10)));
    assert_eq!(read_from(&folder, &entry.reference.sha256, 0), b"0123456789");
    assert_eq!(read_from(&folder, &entry.reference.sha256, 7), b"789");
    assert_eq!(read_from(&folder, &entry.reference.sha256, 10), b"");
    let past = folder.open(&entry.reference.sha256, 11).unwrap();
    assert!(matches!(past, Err(OpenError::Offset { .. })), "{past:?}");
    assert!(folder.open(&Sha256([0; 32]), 0).is_none());
}

#[test]
fn a_qcow2_image_needs_a_disk_of_its_virtual_size() {
    let dir = tempfile::tempdir().unwrap();
    let qcow2 = image(&dir, "disk", ImageFormat::Qcow2, &qcow2::header(3, 0, 0, 5 << 30));
    let (_, catalogue) = load(std::slice::from_ref(&qcow2), dir.path()).unwrap();
    assert_eq!(catalogue[&qcow2.name].minimum_disk, Bytes::gib(5));
    let raw = image(&dir, "raw", ImageFormat::Qcow2, b"no qcow2 at all");
    let error = load(&[raw], dir.path()).unwrap_err();
    assert!(error.to_string().contains("format = \"raw\""), "{error}");
}

#[test]
fn a_file_that_changed_under_us_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let raw = image(&dir, "raw", ImageFormat::Raw, b"first");
    let (folder, catalogue) = load(std::slice::from_ref(&raw), dir.path()).unwrap();
    let sha256 = catalogue[&raw.name].reference.sha256;
    std::fs::write(&raw.file, b"second, longer").unwrap();
    assert!(matches!(folder.open(&sha256, 0), Some(Err(OpenError::Changed { .. }))));
    let (folder, catalogue) = load(std::slice::from_ref(&raw), dir.path()).unwrap();
    assert_eq!(read_from(&folder, &catalogue[&raw.name].reference.sha256, 0), b"second, longer");
}

#[test]
fn digests_are_kept_while_the_file_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let raw = image(&dir, "raw", ImageFormat::Raw, b"content");
    load(std::slice::from_ref(&raw), dir.path()).unwrap();
    let cache = dir.path().join(DIGESTS_FILE);
    let mut kept = read_digests(&cache);
    // A digest that is plainly not the file's shows that it was taken from the cache.
    kept.get_mut(&raw.file).unwrap().sha256 = Sha256([7; 32]);
    write_digests(&cache, &kept);
    let (_, catalogue) = load(std::slice::from_ref(&raw), dir.path()).unwrap();
    assert_eq!(catalogue[&raw.name].reference.sha256, Sha256([7; 32]));
    std::fs::write(&cache, "{ damaged").unwrap();
    let (_, catalogue) = load(std::slice::from_ref(&raw), dir.path()).unwrap();
    assert_eq!(catalogue[&raw.name].reference.sha256, Sha256::of(b"content"));
}

#[test]
fn a_missing_file_is_named_with_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = image(&dir, "raw", ImageFormat::Raw, b"");
    raw.file = "/nowhere/raw".into();
    let error = load(&[raw], dir.path()).unwrap_err();
    assert!(error.to_string().contains("`/nowhere/raw` of image `raw`"), "{error}");
}

#[tokio::test]
async fn added_files_are_served_again_after_a_start_and_what_no_row_names_goes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ImageFolder::new(dir.path());
    folder.take_rows(std::iter::empty()).unwrap();
    let name: Name = "mine".parse().unwrap();
    let mut incoming = folder.receive().await.unwrap();
    incoming.write(b"01234").await.unwrap();
    incoming.write(b"56789").await.unwrap();
    let received = incoming.finish(&folder, &name, ImageFormat::Raw, None).await.unwrap();
    assert_eq!(read_from(&folder, &received.sha256, 7), b"789");
    let mut broken_off = folder.receive().await.unwrap();
    broken_off.write(b"half").await.unwrap();
    drop(broken_off);
    let row = crate::fleet::rows::ImageRow {
        name,
        version: None,
        engine: Engine::Fake,
        format: ImageFormat::Raw,
        sha256: received.sha256,
        size: received.size,
        minimum_disk: received.minimum_disk,
        default_user: None,
        added_at: chom_protocol::UnixMillis(0),
    };
    let added = dir.path().join("images");
    std::fs::write(added.join(format!("{}.part", uuid::Uuid::new_v4())), "half").unwrap();
    std::fs::write(added.join(Sha256([9; 32]).to_string()), "of a row that was removed").unwrap();
    // The example configuration has its images in the very same folder.
    let theirs =
        config::Image { file: added.join("debian.raw"), ..image(&dir, "theirs", ImageFormat::Raw, b"") };
    std::fs::write(&theirs.file, "theirs").unwrap();
    std::fs::write(added.join("debian.raw.part"), "a download by hand").unwrap();
    let (folder, _) = load(&[theirs], dir.path()).unwrap();
    folder.take_rows(std::iter::once(&row)).unwrap();
    assert_eq!(read_from(&folder, &received.sha256, 0), b"0123456789");
    let names = || {
        let entries = std::fs::read_dir(&added).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let kept = ["debian.raw".to_owned(), "debian.raw.part".to_owned()];
    assert_eq!(names(), kept.iter().cloned().chain([received.sha256.to_string()]).collect());
    folder.discard(received.sha256).await;
    assert!(!folder.contains(&received.sha256) && names() == kept.into());
}
