//! CHOM's libvirt helper: answers the agent's requests, one after the other, on the socket that is its standard input.
//! The one program of CHOM that links libvirt. It keeps nothing on disk and holds no state that a restart would lose;
//! it runs no program and listens on nothing. When the agent's end closes, it ends.

mod engine;
mod guest;
mod hardware;
mod problem;
mod serve;
mod snapshot;
mod state;
mod stats;
mod xml;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => {}
        Some("--version") => {
            println!("chom-agent-libvirt {}", chom_protocol::helper::HELPER_VERSION);
            return ExitCode::SUCCESS;
        }
        Some(_) => {
            eprintln!(
                "chom-agent-libvirt takes no arguments but --version: the agent starts it, with a socket as its \
                 standard input"
            );
            return ExitCode::from(2);
        }
    }
    // libvirt prints every error on standard error unless told otherwise; the agent gets them in replies.
    virt::error::clear_error_callback();
    let stream = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => UnixStream::from(socket),
        Err(error) => {
            eprintln!("chom-agent-libvirt: standard input is not usable: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut engine = engine::Engine::default();
    match serve::serve(&stream, &mut |request| engine.answer(request)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chom-agent-libvirt: {}", problem::chain(&error));
            ExitCode::FAILURE
        }
    }
}
