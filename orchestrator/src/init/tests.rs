//! What init makes and refuses, and that run can use it.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::fleet::tokens::authenticate;
use crate::run;

fn config(folder: &Path) -> Config {
    let text = "public_addresses = [\"localhost:8440\"]\nregions = [\"us-east\"]\nlisten_link = \"[::1]:0\"\nlisten_api = \"[::1]:0\"\n";
    let mut config = Config::parse(text, Path::new("test")).unwrap();
    config.state_directory = folder.join("state");
    config.export_directory = folder.join("exports");
    config.master_key = folder.join("keys/master.key");
    config
}

#[tokio::test]
async fn a_fleet_that_was_made_runs_and_knows_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let made = init(&config).await.unwrap();
    assert_eq!(made.master_key, MasterKeySource::Made(config.master_key.clone()));
    for (path, mode) in [(&config.master_key, 0o600), (&config.state_directory, 0o700)] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    let running = run::start(&config).await.unwrap();
    assert!(authenticate(&running.fleet.state(), &made.token, clock::now()).is_ok());
    assert_eq!(running.fleet.authorities().signing().fingerprint(), made.fingerprint);
    let ca = std::fs::read_to_string(config.state_directory.join(CA_FILE)).unwrap();
    assert_eq!(ca, running.fleet.authorities().signing().certificate_pem());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_init_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let made = init(&config).await.unwrap();
    let error = init(&config).await.err().unwrap();
    assert!(error.to_string().contains("already; start it with `chom-orchestrator run`"), "{error}");
    let running = run::start(&config).await.unwrap();
    assert_eq!(running.fleet.authorities().signing().fingerprint(), made.fingerprint);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_master_key_that_is_there_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    make_folder(config.master_key.parent().unwrap()).unwrap();
    MasterKey::create(&config.master_key).unwrap();
    let made = init(&config).await.unwrap();
    assert_eq!(made.master_key, MasterKeySource::File(config.master_key.clone()));
}

#[tokio::test]
async fn a_store_without_its_master_key_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    init(&config).await.unwrap();
    std::fs::remove_file(&config.master_key).unwrap();
    let error = run::start(&config).await.err().unwrap();
    assert!(error.to_string().contains("offline copy"), "{error}");
}

#[tokio::test]
async fn an_orchestrator_without_a_fleet_says_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let error = run::start(&config).await.err().unwrap();
    assert!(error.to_string().contains("`chom-orchestrator init`"), "{error}");
}
