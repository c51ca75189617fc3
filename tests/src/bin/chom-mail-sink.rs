//! The demonstration's mail server: takes every mail, prints it, and keeps it as a file. In the clear, for loopback and the
//! test fleet's own network only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use chom_tests::smtp::{Options, SmtpServer};

const USAGE: &str = "chom-mail-sink --listen ADDRESS:PORT [--dir FOLDER]";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut listen, mut folder) = (None, None);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--listen", Some(value)) => listen = value.parse::<SocketAddr>().ok(),
            ("--dir", Some(value)) => folder = Some(PathBuf::from(value)),
            _ => return fail(USAGE),
        }
    }
    let Some(listen) = listen else { return fail(USAGE) };
    if let Some(folder) = &folder
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        return fail(&format!("cannot make `{}`: {error}", folder.display()));
    }
    match SmtpServer::start_on(listen, Options { folder, print: true, ..Options::default() }) {
        Ok(server) => {
            println!("mail is taken on {}", server.address());
            server.join();
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("cannot listen on {listen}: {error}")),
    }
}

fn fail(what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::FAILURE
}
