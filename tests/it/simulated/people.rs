//! A person's day: signs in with chomctl, does what its role may, signs out; is locked out after wrong passwords, also over a
//! kill -9; and gets a new password from whoever stands at the machine.

use std::path::Path;

use chom_protocol::api::users::UserView;
use chom_tests::orchestrator::{Options, Orchestrator};
use chom_tests::process::{Said, program, run};
use serde_json::json;

const PASSWORD: &str = "four words are good";

/// Somebody with a home of its own, who has chomctl and no token.
struct Person<'a> {
    home: tempfile::TempDir,
    orchestrator: &'a Orchestrator,
}

impl<'a> Person<'a> {
    fn new(orchestrator: &'a Orchestrator) -> Self {
        let person = Self { home: tempfile::tempdir().unwrap(), orchestrator };
        let (server, ca) = (orchestrator.api().server.clone(), orchestrator.state().join("ca.pem"));
        let add = ["context", "add", "here", "--server", &server, "--ca-file", ca.to_str().unwrap()];
        let _ = person.chomctl("", &add).well("chomctl context add");
        person
    }

    /// Runs chomctl with this on its standard input.
    fn chomctl(&self, input: &str, words: &[&str]) -> Said {
        let typed = self.home.path().join("typed");
        std::fs::write(&typed, input).unwrap();
        let home = format!("XDG_CONFIG_HOME={}", self.home.path().display());
        let chomctl = program("chomctl");
        let shell =
            [&home, "sh", "-c", "exec \"$@\" < \"$0\"", typed.to_str().unwrap(), chomctl.to_str().unwrap()];
        run(Path::new("env"), shell.into_iter().chain(words.iter().copied()))
    }

    fn login(&self, password: &str) -> Said {
        self.chomctl(&format!("{password}\n"), &["login", "anna@example.com", "--password-stdin"])
    }

    fn refused(&self, said: &Said, text: &str) {
        assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains(text), "{}\n{}", said.stderr, self.orchestrator.log());
    }
}

#[test]
fn a_person_signs_in_acts_signs_out_is_locked_out_and_gets_a_new_password() {
    let mut orchestrator = Orchestrator::start(Options { sign_in_failures_max: 3, ..Options::default() });
    let anna = json!({"name": "anna@example.com", "role": "operator", "password": PASSWORD});
    let anna: UserView = orchestrator.api().post("/api/users", &anna).unwrap();
    let person = Person::new(&orchestrator);

    let _ = person.login(PASSWORD).well("chomctl login");
    let who = person.chomctl("", &["whoami"]).well("chomctl whoami");
    assert!(who.contains("anna@example.com") && who.contains("operator"), "{who}");
    let _ = person.chomctl("", &["host", "add", "h1", "--region", "us-east"]).well("chomctl host add");
    let forbidden = person.chomctl("", &["user", "disable", &anna.id.to_string()]);
    person.refused(&forbidden, "`user:change`");
    let _ = person.chomctl("", &["logout"]).well("chomctl logout");
    person.refused(&person.chomctl("", &["host", "list"]), "has no token");

    for _ in 0..3 {
        person.refused(&person.login("a wrong password"), "password is wrong");
    }
    person.refused(&person.login(PASSWORD), "too many wrong passwords");
    let home = person.home;
    orchestrator.restart();
    let person = Person { home, orchestrator: &orchestrator };
    person.refused(&person.login(PASSWORD), "too many wrong passwords");

    let home = person.home;
    orchestrator.stop();
    let reset = ["admin", "reset", "--user", "anna@example.com"];
    let printed = orchestrator.command(&reset).well("chom-orchestrator admin reset");
    orchestrator.run();
    let person = Person { home, orchestrator: &orchestrator };
    person.refused(&person.login(PASSWORD), "password is wrong");
    let _ = person.login(printed.trim()).well("chomctl login with the new password");
    let _ = person.chomctl("", &["host", "list"]).well("chomctl host list");
}
