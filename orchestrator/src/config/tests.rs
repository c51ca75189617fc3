//! Mistakes in the file, what is said of them, and the example that is shipped.

use std::path::Path;

use expect_test::{Expect, expect};

use super::*;

const EXAMPLE: &str = include_str!("../../../packaging/config/orchestrator.toml");

const SMALLEST: &str = "public_addresses = [\"orchestrator.example.com:8440\"]\nregions = [\"us-east\"]\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/chom/orchestrator.toml"))
}

fn refused(text: &str, expected: Expect) {
    let error = parse(text).unwrap_err();
    let mut lines = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        lines.push(cause.to_string());
        source = cause.source();
    }
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn the_shipped_example_is_good() {
    let config = parse(EXAMPLE).unwrap();
    assert!(config.sizes.iter().any(|size| size.name.as_str() == "small"));
    assert!(config.regions.iter().any(|region| region.as_str() == "us-east"));
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.retention_days, 7);
    assert_eq!(config.unreachable_after_seconds, 45);
    assert_eq!(config.agent.settings(), AgentSettings::default());
    assert_eq!(config.server_names(), ["orchestrator.example.com"]);
}

#[test]
fn names_of_the_certificate_are_the_hosts_of_the_addresses() {
    let config =
        parse(&SMALLEST.replace("orchestrator.example.com:8440", "[2001:db8::1]:8440\", \"192.0.2.1:8440"));
    assert_eq!(config.unwrap().server_names(), ["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn an_unknown_key_is_refused_by_name_and_line() {
    refused(
        &format!("{SMALLEST}retension_days = 7\n"),
        expect![[r#"
            the configuration `/etc/chom/orchestrator.toml` has a mistake; an example is installed as /usr/share/doc/chom-orchestrator/orchestrator.toml
            TOML parse error at line 3, column 1
              |
            3 | retension_days = 7
              | ^^^^^^^^^^^^^^
            unknown field `retension_days`, expected one of `state_directory`, `export_directory`, `master_key`, `fleet_name`, `listen_api`, `listen_link`, `public_addresses`, `regions`, `retention_days`, `audit_days`, `unreachable_after_seconds`, `grace_seconds`, `operation_seconds_max`, `export_interval_seconds`, `image_fetch_networks`, `api_certificate`, `link`, `limits`, `agent`, `alerts`, `webhooks`, `usage`, `overcommit`, `size`, `image`
        "#]],
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    refused(
        &format!("{SMALLEST}retention_days = \"seven\"\n"),
        expect![[r#"
        the configuration `/etc/chom/orchestrator.toml` has a mistake; an example is installed as /usr/share/doc/chom-orchestrator/orchestrator.toml
        TOML parse error at line 3, column 18
          |
        3 | retention_days = "seven"
          |                  ^^^^^^^
        invalid type: string "seven", expected u32
    "#]],
    );
}

#[test]
fn a_missing_address_says_what_to_give() {
    refused(
        "public_addresses = []\nregions = [\"us-east\"]\n",
        expect![
            "`public_addresses` in the configuration `/etc/chom/orchestrator.toml`: it is empty; give at least one `host:port` under which agents reach this orchestrator"
        ],
    );
    refused(
        "public_addresses = [\"orchestrator\"]\nregions = [\"us-east\"]\n",
        expect![
            "`public_addresses` in the configuration `/etc/chom/orchestrator.toml`: `orchestrator` is no `host:port`, such as `orchestrator.example.com:8440` or `[2001:db8::1]:8440`"
        ],
    );
}

#[test]
fn repeated_names_are_refused() {
    let size = "[[size]]\nname = \"small\"\ncores = 1\nmemory_mib = 512\ndisk_mib = 1024\n";
    refused(
        &format!("{SMALLEST}{size}{size}"),
        expect![
            "`size` in the configuration `/etc/chom/orchestrator.toml`: `small` is there twice; remove one or rename it"
        ],
    );
}

#[test]
fn an_alert_must_clear_below_where_it_fires() {
    refused(
        &format!("{SMALLEST}[alerts]\ndisk_ratio = 0.8\n"),
        expect![
            "`alerts.disk_ratio` in the configuration `/etc/chom/orchestrator.toml`: 0.8 (clears at 0.85): both are shares from 0 to 1, and it must clear below where it fires"
        ],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nowhere/orchestrator.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration `/nowhere/orchestrator.toml`");
}

#[test]
fn a_host_must_be_allowed_two_reports_before_it_counts_as_gone() {
    let slow = |rest: &str| parse(&format!("{rest}{SMALLEST}[agent]\nreport_interval_seconds = 20\n"));
    assert!(slow("").is_ok());
    assert!(
        slow("unreachable_after_seconds = 39\n")
            .unwrap_err()
            .to_string()
            .contains("unreachable_after_seconds")
    );
    let demo = format!(
        "unreachable_after_seconds = 5\n{SMALLEST}[link]\nidle_timeout_seconds = 5\n[agent]\nreport_interval_seconds"
    );
    assert!(parse(&format!("{demo} = 2\n")).is_ok());
    assert!(parse(&format!("{demo} = 3\n")).unwrap_err().to_string().contains("link.idle_timeout_seconds"));
}
