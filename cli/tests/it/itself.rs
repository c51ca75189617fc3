//! What needs no server: wrong calls, contexts, completion, and output that nobody reads.

use crate::{chomctl, outcome, run};

#[test]
fn nobody_reading_the_output_is_no_failure_and_no_panic() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["completion", "bash"][..], &["version"], &["--help"], &["context", "list"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = chomctl(home.path(), arguments);
        command.stdout(writer).stderr(std::process::Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn contexts_are_added_chosen_listed_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, "abc\n").unwrap();
    let call = |arguments: &[&str]| outcome(chomctl(home.path(), arguments));
    let none = call(&["vps", "list"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("chomctl context add"), "{}", none.stderr);
    let file = token.to_str().unwrap();
    for name in ["one", "two"] {
        let server = format!("https://{name}.example");
        let added = call(&["context", "add", name, "--server", &server, "--token-file", file]);
        assert_eq!(added.code, Some(0), "{}", added.stderr);
    }
    assert_eq!(call(&["context", "use", "two"]).code, Some(0));
    assert_eq!(call(&["context", "remove", "one"]).code, Some(0));
    assert_eq!(
        call(&["context", "list"]).stdout,
        "NAME  SERVER               OWN CA  CURRENT\ntwo   https://two.example  no      *\n"
    );
    let unknown = call(&["context", "use", "three"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("known contexts: two"), "{}", unknown.stderr);
    let remote = call(&["context", "add", "x", "--server", "http://chom.example", "--token-file", file]);
    assert!(remote.stderr.contains("http:// is only for loopback addresses"), "{}", remote.stderr);
}

#[test]
fn completion_knows_every_noun() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = run("http://127.0.0.1:1", &["completion", shell]);
        assert_eq!(outcome.code, Some(0));
        for noun in ["context", "host", "vps", "operation", "alert", "smtp", "events"] {
            assert!(outcome.stdout.contains(noun), "{shell}: {noun}");
        }
    }
}

#[test]
fn a_wrong_call_ends_with_two_and_says_how_to_call() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage: chomctl"),
        (&["vps", "lsit"], "unrecognized subcommand 'lsit'"),
        (&["vps", "create", "Bad_Name", "--region", "r", "--size", "s"], "use lower-case letters"),
        (&["vps", "show", "../hosts"], "use lower-case letters"),
        (&["vps", "start", "web", "--timeout", "5s"], "--wait"),
        (&["vps", "start", "web", "--wait", "--timeout", "soon"], "write a time such as 90s"),
        (&["smtp", "configure", "--host", "h", "--from", "f", "--to", "t", "--password", "x"], "--password"),
        (&["host", "add", "web"], "--region"),
        (&["events"], "--follow"),
    ];
    for (arguments, text) in cases {
        let outcome = run("http://127.0.0.1:1", arguments);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}: {}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains(text), "{arguments:?}: {}", outcome.stderr);
    }
}
