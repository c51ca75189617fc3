//! Mistakes of people and of disks: each is refused with words that say what to do, and nothing that was acknowledged is
//! lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chom_protocol::VpsId;
use chom_protocol::api::Problem;
use chom_protocol::api::operations::OperationState;
use chom_protocol::vps::VpsState;
use chom_tests::agent::Agent;
use chom_tests::api::{Api, Failure, Method};
use chom_tests::fleet::{Fleet, LATER, SOON, usable};
use chom_tests::orchestrator::{Options, Orchestrator};
use chom_tests::process::{program, run};
use chom_tests::seed::Chance;
use chom_tests::wait::wait_for;
use serde_json::{Value, json};

/// What the API says to a request, in one line.
fn said(api: &Api, method: Method, path: &str, body: &[u8]) -> (u16, String) {
    let (status, answer) = api.ask(method, path, Some(body), &[]).unwrap();
    let problem: Problem = serde_json::from_slice(&answer)
        .unwrap_or_else(|error| panic!("{status} {error}: {}", String::from_utf8_lossy(&answer)));
    assert_eq!(problem.status, status);
    (status, format!("{} {}", problem.location.unwrap_or_default(), problem.detail))
}

#[test]
fn a_bad_request_is_refused_with_what_is_wrong_and_where() {
    let mut fleet = Fleet::start(Options::default(), 1);
    let api = fleet.api().clone();
    let good = json!({"name": "good", "region": "us-east", "size": "small"});
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body.to_string().into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>, &[u16], &str)> = vec![
        ("an unknown field", with("colour", json!("red")), &[400, 422], "colour"),
        ("a wrong type", with("name", json!(7)), &[400, 422], "name"),
        ("no host name", with("name", json!("Test_VPS")), &[400, 422], "Test_VPS"),
        ("an unknown region", with("region", json!("mars")), &[422], "us-east"),
        ("an unknown size", with("size", json!("vast")), &[422], "small"),
        ("an unknown image", with("image", json!("win-95")), &[422], "hello"),
        ("no capacity", with("region", json!("eu-west")), &[409], "host"),
        ("a bad key", with("ssh_keys", json!(["ssh-ed25519 A\nssh-ed25519 B"])), &[422], "line"),
        ("no JSON", b"{\"name\":".to_vec(), &[400], "JSON"),
        ("a body over its limit", vec![b' '; 300 * 1024], &[413], "bytes"),
    ];
    for (what, body, statuses, text) in cases {
        let (status, answer) = said(&api, Method::Post, "/api/vps-servers", &body);
        println!("{what}: {status} {answer}");
        assert!(statuses.contains(&status), "{what}: {status} {answer}");
        assert!(answer.contains(text), "{what}: `{text}` is missing in: {answer}");
    }
    let first = api.create("twice", None).unwrap();
    let (status, answer) =
        said(&api, Method::Post, "/api/vps-servers", &with("name", json!(first.vps.name.as_str())));
    assert_eq!(status, 409, "{answer}");
    assert!(answer.contains("twice"), "{answer}");

    for token in ["", "nonsense", &format!("chom-api-{}", "0".repeat(64))] {
        let stranger = api.with_token(token);
        let (status, answer) = said(&stranger, Method::Post, "/api/vps-servers", good.to_string().as_bytes());
        assert_eq!(status, 401, "{answer}");
    }
    // All of that changed nothing.
    assert_eq!(fleet.settled(SOON).len(), 1);
    assert!(fleet.orchestrator.process().runs());
}

/// Runs a program on a configuration that has a mistake.
fn refused(name: &str, config: &Path, text: &str, wanted: &[&str]) {
    fs::write(config, text).unwrap();
    let said = run(&program(name), [Path::new("--config"), config, Path::new("run")]);
    println!("{name}: {:?} {}", said.code, said.stderr);
    assert_eq!(said.code, Some(78), "{name} on `{text}`: {}", said.stderr);
    for word in wanted {
        assert!(said.stderr.contains(word), "{name}: `{word}` is missing in: {}", said.stderr);
    }
}

#[test]
fn a_configuration_with_a_mistake_ends_the_program_with_its_place_and_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chom.toml");
    let name = config.to_str().unwrap();
    let base = "public_addresses = [\"orchestrator.example.com:8440\"]\nregions = [\"us-east\"]\n";
    refused(
        "chom-orchestrator",
        &config,
        &format!("{base}retension_days = 7\n"),
        &[name, "retension_days", "line 3"],
    );
    refused(
        "chom-orchestrator",
        &config,
        &format!("{base}retention_days = \"seven\"\n"),
        &[name, "line 3", "u32"],
    );
    refused("chom-orchestrator", &config, "regions = [\"us-east\"]\n", &[name, "public_addresses"]);
    refused("chom-orchestrator", &config, "no toml at all", &[name, "line 1"]);
    refused("chom-agent", &config, "engin = \"fake\"\n", &[name, "engin", "line 1"]);
    refused("chom-agent", &config, "engines = [\"vmware\"]\n", &[name, "vmware", "line 1"]);
    for binary in ["chom-orchestrator", "chom-agent"] {
        let missing = folder.path().join("missing.toml");
        let said = run(&program(binary), [Path::new("--config"), &missing, Path::new("run")]);
        // An agent needs no file: everything has a default. Named on the command line it must be there all the same.
        assert_eq!(said.code, Some(78), "{binary}: {}", said.stderr);
        assert!(said.stderr.contains("missing.toml"), "{binary}: {}", said.stderr);
    }
}

#[test]
fn an_image_whose_bytes_are_not_its_checksum_is_never_used() {
    let fleet = Fleet::start(Options::default(), 1);
    let image = fleet.orchestrator.image();
    let good = fs::read(&image).unwrap();
    let times = fs::metadata(&image).unwrap().modified().unwrap();
    let replace = |bytes: &[u8]| {
        // In place, with the same size and time: nothing but its content tells.
        fs::write(&image, bytes).unwrap();
        fs::File::options().write(true).open(&image).unwrap().set_modified(times).unwrap();
    };
    replace(&vec![0xa5; good.len()]);
    let accepted = fleet.api().create("checked", None).unwrap();
    let problem = wait_for("the differing checksum to be told", SOON, || {
        let row = fleet.api().operation(accepted.operation.id).map_err(|failure| failure.to_string())?;
        assert_ne!(
            row.state,
            OperationState::Succeeded,
            "a VPS was made of an image that is not the one asked for"
        );
        row.problem.clone().ok_or_else(|| format!("{row:?}"))
    });
    println!("{problem}");
    assert!(problem.contains("sha256") && problem.contains("hello"), "{problem}");
    assert!(fleet.hosts[0].agent.guests().is_empty(), "a guest was made of it");
    replace(&good);
    let ended = fleet.api().ended(accepted.operation.id, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
}

/// A small file system of its own; none where mounts are forbidden.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        let options = format!("size={mebibytes}m,mode=0700");
        let arguments = ["-t", "tmpfs", "-o", &options, "chom-test", at.to_str().unwrap()];
        let said = run(Path::new("/bin/mount"), arguments);
        (said.code == Some(0)).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Path::new("/bin/umount"), [Path::new("-l"), &self.0]);
    }
}

/// A VPS with so much user data that a disk fills up soon.
fn create_large(api: &Api, name: &str, chance: &mut Chance) -> Result<VpsId, Failure> {
    let noise: String = chance.bytes(15_000).iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({"name": name, "region": "us-east", "size": "small", "user_data": format!("#!/bin/sh\n# {noise}")});
    let accepted: chom_protocol::api::vps_servers::VpsAccepted = api.post("/api/vps-servers", &body)?;
    Ok(accepted.vps.id)
}

#[test]
fn a_full_disk_of_the_orchestrator_is_said_and_loses_nothing_acknowledged() {
    let mut chance = Chance::for_test("full disk");
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), 40) else {
        println!("SKIPPED: mounts are forbidden on this machine");
        return;
    };
    let state = folder.path().join("state");
    let mut fleet = Fleet::start(Options { state: Some(state), ..Options::default() }, 1);
    let api = fleet.api().clone();
    let mut acknowledged = BTreeSet::from([create_large(&api, "before", &mut chance).unwrap()]);
    let filler = folder.path().join("filler");
    fill(&filler, folder.path());
    let mut refusals = 0;
    // The store takes room for a whole segment (8 MiB) at a time: that much may still be written.
    for n in 0..400 {
        match create_large(&api, &format!("during-{n}"), &mut chance) {
            Ok(id) => {
                acknowledged.insert(id);
            }
            Err(Failure::Refused(problem)) => {
                if refusals == 0 {
                    println!("{} {}: {}", problem.status, problem.title, problem.detail);
                }
                assert!([500, 503, 507].contains(&problem.status), "{problem:?}");
                refusals += 1;
            }
            Err(Failure::Silent(what)) => {
                println!("no answer: {what}");
                refusals += 1;
            }
        }
        if refusals >= 3 {
            break;
        }
    }
    assert!(refusals > 0, "the disk did not become full");
    let log = fleet.orchestrator.log().to_lowercase();
    assert!(log.contains("no space left"), "the log does not say that the disk is full");

    fs::remove_file(&filler).unwrap();
    if fleet.orchestrator.process().runs() {
        fleet.orchestrator.restart();
    } else {
        fleet.orchestrator.gone();
        fleet.orchestrator.run();
    }
    for id in &acknowledged {
        let _ = fleet.api().vps(*id).unwrap_or_else(|failure| panic!("acknowledged VPS {id}: {failure}"));
    }
    wait_for("writes to be taken again", LATER, || {
        create_large(fleet.api(), "after", &mut chance).map_err(|failure| failure.to_string())
    });
}

/// Leaves next to nothing free.
fn fill(filler: &Path, disk: &Path) {
    let stat = nix::sys::statvfs::statvfs(disk).unwrap();
    let free = stat.blocks_available() * stat.fragment_size();
    let size = usize::try_from(free.saturating_sub(300 * 1024)).unwrap();
    fs::write(filler, vec![0; size]).unwrap();
}

#[test]
fn a_full_disk_of_a_host_is_said_and_mended_by_space_alone() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path(), 8) else {
        println!("SKIPPED: mounts are forbidden on this machine");
        return;
    };
    let orchestrator = Orchestrator::start(Options { disk_mib: 1, ..Options::default() });
    let api = orchestrator.api().clone();
    let added = api.add_host("full", "us-east").unwrap();
    let mut agent = Agent::with_state(folder.path().join("state"));
    let _ = agent.enrol(&added.join_code).well("chom-agent enrol");
    agent.run();
    usable(&api, added.host, SOON);
    let before = api.create("before", None).unwrap();
    assert_eq!(api.ended(before.operation.id, SOON).state, OperationState::Succeeded);

    let filler = folder.path().join("filler");
    // Until nothing more fits.
    let _ = fs::write(&filler, vec![0; 8 << 20]);
    let during = api.create("during", None).unwrap();
    let problems = wait_for("the host to say that its disk is full", SOON, || {
        let problems = api.host(added.host).map_err(|failure| failure.to_string())?.problems;
        if problems.join(" ").contains("free space") { Ok(problems) } else { Err(format!("{problems:?}")) }
    });
    println!("{problems:?}");
    assert_eq!(api.vps(before.vps.id).unwrap().observed.state, VpsState::Running, "what runs runs on");

    fs::remove_file(&filler).unwrap();
    let ended = api.ended(during.operation.id, LATER);
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    assert_eq!(agent.guests().len(), 2);
}

#[test]
fn a_fleet_is_not_made_over_another() {
    let orchestrator = Orchestrator::set_up(Options::default());
    let said = orchestrator.command(&["init"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("already"), "{}", said.stderr);
}
