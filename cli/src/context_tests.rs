//! Contexts: who may read their files, which setting wins, and which addresses are refused.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn environment(home: &Path) -> Environment {
    Environment { config_home: Some(home.to_owned()), ..Environment::default() }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A folder with the context `one`, which is chosen, and the context `two`.
fn two_contexts() -> (tempfile::TempDir, Environment) {
    let home = tempfile::tempdir().unwrap();
    let environment = environment(home.path());
    add(&environment, &name("one"), "https://one.example", Some("token-1"), None).unwrap();
    add(&environment, &name("two"), "https://two.example:8443/", Some("token-2\n"), None).unwrap();
    (home, environment)
}

#[test]
fn nobody_else_can_read_what_is_kept() {
    let (home, _) = two_contexts();
    let folder = home.path().join("chom");
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("tokens")), 0o700);
    assert_eq!(mode(&folder.join("config.toml")), 0o600);
    assert_eq!(mode(&folder.join("tokens/one")), 0o600);
    let left: Vec<_> = std::fs::read_dir(folder.join("tokens")).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing is left beside the files: {left:?}");
}

#[test]
fn the_config_file_holds_no_token() {
    let (home, _) = two_contexts();
    let text = std::fs::read_to_string(home.path().join("chom/config.toml")).unwrap();
    expect_test::expect![[r#"
        current = "one"

        [contexts.one]
        server = "https://one.example"
        token_file = "tokens/one"

        [contexts.two]
        server = "https://two.example:8443"
        token_file = "tokens/two"
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_token_that_others_can_read_is_refused() {
    let (home, environment) = two_contexts();
    let file = home.path().join("chom/tokens/one");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(target(&environment, None), Err(ContextError::Exposed { mode: 0o644, .. })));
}

#[test]
fn the_first_context_is_chosen_and_another_can_be() {
    let (_home, environment) = two_contexts();
    assert_eq!(target(&environment, None).ok().unwrap().server, "https://one.example");
    choose(&environment, &name("two")).unwrap();
    let target = target(&environment, None).ok().unwrap();
    assert_eq!((target.server.as_str(), target.token.as_str()), ("https://two.example:8443", "token-2"));
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_choice() {
    let (_home, mut environment) = two_contexts();
    environment.token = Some("from-env".to_owned());
    assert_eq!(target(&environment, None).ok().unwrap().token, "from-env");
    environment.server = Some("https://env.example".to_owned());
    assert_eq!(target(&environment, None).ok().unwrap().server, "https://env.example");
    let two = target(&environment, Some(&name("two"))).ok().unwrap();
    assert_eq!((two.server.as_str(), two.token.as_str()), ("https://two.example:8443", "token-2"));
}

#[test]
fn a_token_never_goes_to_a_server_that_it_was_not_given_for() {
    let (_home, mut environment) = two_contexts();
    environment.server = Some("https://elsewhere.example".to_owned());
    assert!(matches!(target(&environment, None), Err(ContextError::NoToken)));
}

#[test]
fn a_removed_context_takes_its_token_with_it() {
    let (home, environment) = two_contexts();
    remove(&environment, &name("one")).unwrap();
    assert!(!home.path().join("chom/tokens/one").exists());
    let error = target(&environment, None).err().unwrap();
    assert!(matches!(&error, ContextError::NoneChosen { known } if known == "two"), "{error}");
    assert!(matches!(remove(&environment, &name("one")), Err(ContextError::Unknown { .. })));
}

#[test]
fn plain_http_is_for_this_machine_alone() {
    for good in
        ["http://127.0.0.1:1", "http://[::1]:80", "http://localhost", "https://10.0.0.1:8443", "https://h/"]
    {
        assert!(server_address(good).is_ok(), "{good}");
    }
    for bad in ["http://10.0.0.1", "http://chom.example", "http://localhost.evil.example", "http://[::2]"] {
        assert!(matches!(server_address(bad), Err(ContextError::Insecure { .. })), "{bad}");
    }
    for bad in
        ["chom.example", "ftp://h", "https://u:p@h", "https://h/api", "https://h?x", "https://", "", "/"]
    {
        assert!(matches!(server_address(bad), Err(ContextError::Server { .. })), "{bad}");
    }
}

#[test]
fn a_token_is_one_word() {
    for bad in ["", " \n", "two words", "a\nb", "t\u{e4}"] {
        assert!(token_text(bad, "given").is_err(), "{bad:?}");
    }
    assert_eq!(token_text(" abc\n", "given").ok().unwrap(), "abc");
}

#[test]
fn a_ca_file_must_hold_a_certificate() {
    let (home, environment) = two_contexts();
    let file = home.path().join("ca.pem");
    std::fs::write(&file, "no certificate").unwrap();
    let error = add(&environment, &name("three"), "https://h", Some("t"), Some(&file)).unwrap_err();
    assert!(matches!(error, ContextError::NoCertificate { .. }), "{error}");
}

#[test]
fn a_config_with_a_mistake_is_named_and_not_replaced() {
    let (home, environment) = two_contexts();
    let file = home.path().join("chom/config.toml");
    std::fs::write(&file, "current = \"one\"\nsevrer = 1\n").unwrap();
    let error = add(&environment, &name("three"), "https://h", Some("t"), None).unwrap_err();
    assert!(matches!(&error, ContextError::Config { path, .. } if *path == file), "{error}");
    assert!(std::fs::read_to_string(&file).unwrap().contains("sevrer"));
}
