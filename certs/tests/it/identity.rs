//! The identity folder: what is written, with which modes, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chom_certs::identity::{BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE};
use chom_certs::{CaBundle, HostKey, Identity, IdentityError};

use crate::fixture::{Host, NOW, after_days, authority, bundle, host};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_key_is_readable_by_its_owner_alone_and_nothing_else_is_left_behind() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("made/by/the/agent");
    let key = HostKey::load_or_create(&folder).unwrap();
    let authority = authority();
    let signed = authority.sign_host(&key.csr_der().unwrap(), host(1), NOW).unwrap();
    key.install(&signed.der, bundle(&[&authority])).unwrap();
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join(KEY_FILE)), 0o600);
    assert_eq!(names(&folder), [BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE]);
}

#[test]
fn an_identity_reads_back_as_it_was_installed_and_is_never_debugged_with_its_key() {
    let agent = Host::enrol(&authority(), 7);
    let read = Identity::load(agent.folder.path()).unwrap();
    assert_eq!(read.host(), host(7));
    assert_eq!(read.certificate(), agent.identity.certificate());
    assert_eq!(read.bundle(), agent.identity.bundle());
    let key = fs::read_to_string(agent.folder.path().join(KEY_FILE)).unwrap();
    let shown = format!("{read:?}");
    assert!(key.lines().filter(|line| !line.starts_with('-')).all(|line| !shown.contains(line)));
}

#[test]
fn enrolling_again_keeps_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let first = HostKey::load_or_create(folder.path()).unwrap();
    let again = HostKey::load_or_create(folder.path()).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let agent = Host::enrol(&authority(), 1);
    let key = agent.folder.path().join(KEY_FILE);
    for wrong in [0o640, 0o604, 0o644, 0o620] {
        fs::set_permissions(&key, fs::Permissions::from_mode(wrong)).unwrap();
        let error = Identity::load(agent.folder.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Mode { mode, .. } if mode == wrong), "{error}");
        assert!(HostKey::load_or_create(agent.folder.path()).is_err());
    }
}

#[test]
fn what_is_missing_is_named_and_what_is_damaged_is_never_replaced() {
    for file in [KEY_FILE, CERTIFICATE_FILE, BUNDLE_FILE] {
        let agent = Host::enrol(&authority(), 1);
        let path = agent.folder.path().join(file);
        fs::write(&path, "damaged").unwrap();
        let error = Identity::load(agent.folder.path()).unwrap_err();
        assert!(
            error.to_string().contains(file) && !matches!(error, IdentityError::Missing { .. }),
            "{error}"
        );
        assert_eq!(HostKey::load_or_create(agent.folder.path()).is_err(), file == KEY_FILE);
        assert_eq!(fs::read_to_string(&path).unwrap(), "damaged");
        fs::remove_file(&path).unwrap();
        let error = Identity::load(agent.folder.path()).unwrap_err();
        assert!(matches!(&error, IdentityError::Missing { path: at } if *at == path), "{error}");
    }
}

#[test]
fn a_file_of_no_sensible_length_is_not_read() {
    let agent = Host::enrol(&authority(), 1);
    fs::write(agent.folder.path().join(BUNDLE_FILE), vec![b'a'; 70_000]).unwrap();
    assert!(matches!(Identity::load(agent.folder.path()), Err(IdentityError::Long { .. })));
}

#[test]
fn a_crash_while_writing_leaves_the_old_file_and_the_next_write_succeeds() {
    let authority = authority();
    let mut agent = Host::enrol(&authority, 1);
    let old = agent.identity.certificate().clone();
    let cut = agent.folder.path().join(format!(".{CERTIFICATE_FILE}.new"));
    fs::write(&cut, "half a certif").unwrap();
    assert_eq!(*Identity::load(agent.folder.path()).unwrap().certificate(), old);
    let renewed = authority.sign_host(&agent.identity.csr_der().unwrap(), host(1), after_days(20)).unwrap();
    agent.identity.replace_certificate(&renewed.der).unwrap();
    let read = Identity::load(agent.folder.path()).unwrap();
    assert_eq!(read.certificate().serial, renewed.serial);
    assert_eq!(read.certificate().key_fingerprint, old.key_fingerprint);
    assert_eq!(names(agent.folder.path()), [BUNDLE_FILE, CERTIFICATE_FILE, KEY_FILE]);
}

#[test]
fn a_write_that_fails_changes_neither_memory_nor_disk() {
    let authority = authority();
    let mut agent = Host::enrol(&authority, 1);
    let before = (agent.identity.bundle().clone(), agent.identity.certificate().clone());
    // A folder in the place of the new file: the same for every user, root included.
    for file in [BUNDLE_FILE, CERTIFICATE_FILE] {
        fs::create_dir_all(agent.folder.path().join(format!(".{file}.new/x"))).unwrap();
    }
    let error = agent.identity.replace_bundle(bundle(&[&authority, &self::authority()])).unwrap_err();
    assert!(matches!(error, IdentityError::Write { .. }), "{error}");
    let renewed = authority.sign_host(&agent.identity.csr_der().unwrap(), host(1), NOW).unwrap();
    assert!(agent.identity.replace_certificate(&renewed.der).is_err());
    let read = Identity::load(agent.folder.path()).unwrap();
    assert_eq!((agent.identity.bundle().clone(), agent.identity.certificate().clone()), before);
    assert_eq!((read.bundle().clone(), read.certificate().clone()), before);
}

#[test]
fn only_a_certificate_of_this_host_and_key_and_of_a_trusted_authority_is_installed() {
    let (mine, foreign) = (authority(), authority());
    let mut agent = Host::enrol(&mine, 1);
    let csr = agent.identity.csr_der().unwrap();
    let serial = agent.identity.certificate().serial.clone();
    let other_host = mine.sign_host(&csr, host(2), NOW).unwrap().der;
    let error = agent.identity.replace_certificate(&other_host).unwrap_err();
    assert!(matches!(error, IdentityError::OtherHost { .. }), "{error}");
    let other_key = Host::enrol(&mine, 1).identity.certificate_der().to_vec();
    let error = agent.identity.replace_certificate(&other_key).unwrap_err();
    assert!(matches!(error, IdentityError::OtherKey), "{error}");
    let other_fleet = foreign.sign_host(&csr, host(1), NOW).unwrap().der;
    let error = agent.identity.replace_certificate(&other_fleet).unwrap_err();
    assert!(matches!(error, IdentityError::Untrusted(_)), "{error}");
    assert_eq!(Identity::load(agent.folder.path()).unwrap().certificate().serial, serial);
}

#[test]
fn a_new_bundle_is_kept_over_a_restart() {
    let (old, new) = (authority(), authority());
    let mut agent = Host::enrol(&old, 1);
    agent.identity.replace_bundle(bundle(&[&old, &new])).unwrap();
    assert!(Identity::load(agent.folder.path()).unwrap().bundle().contains(&new.fingerprint()));
    let text = fs::read_to_string(agent.folder.path().join(BUNDLE_FILE)).unwrap();
    assert_eq!(CaBundle::from_pem(&text).unwrap(), *agent.identity.bundle());
}
