//! The orchestrator's program: arguments, log, exit code. Everything else is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use chom_orchestrator::config::{Config, DEFAULT_PATH};
use chom_orchestrator::{audit, chain, export, init, run};
use chom_protocol::{Name, UserName};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// The configuration cannot be used (EX_CONFIG, sysexits.h): systemd need not try again.
const EXIT_CONFIGURATION: u8 = 78;

/// CHOM's orchestrator: holds what should exist on every host, decides where, watches what does.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, env = "CHOM_ORCHESTRATOR_CONFIG", default_value = DEFAULT_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a new fleet: store, CA, master key and the first API token, which alone goes to standard output.
    Init,
    /// Runs until SIGTERM or SIGINT. SIGUSR1 makes an export at once.
    Run,
    /// Writes an export of a store that is not in use.
    Export {
        /// Where to; `export_directory` unless given.
        folder: Option<PathBuf>,
    },
    /// For whoever stands at this machine.
    Admin {
        #[command(subcommand)]
        command: Admin,
    },
    /// The record of who did what.
    Audit {
        #[command(subcommand)]
        command: Audit,
    },
    /// Makes a store from an export, in a new epoch. There must be no store yet.
    Restore {
        /// The export.
        file: PathBuf,
    },
}

#[derive(Subcommand)]
enum Admin {
    /// Makes a new admin's token, or a user's new password, which alone goes to standard output, in a store that is not in
    /// use. Other tokens stay; the user's sessions end.
    Reset {
        /// Whose password
        #[arg(long)]
        user: Option<UserName>,
        /// The user's tenant; none for a user of the fleet
        #[arg(long, requires = "user")]
        tenant: Option<Name>,
    },
}

#[derive(Subcommand)]
enum Audit {
    /// Checks that nothing in the audit log was changed, removed or put in; also while the orchestrator runs.
    Verify,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The journal has the time already.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().with_ansi(false).init();
    } else {
        log.init();
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let outcome: Result<(), Box<dyn std::error::Error>> = match arguments.command {
        Command::Init => runtime.block_on(init::init(&config)).map(|made| made.print()).map_err(Into::into),
        Command::Run => runtime.block_on(run::run(&config)).map_err(Into::into),
        Command::Export { folder } => {
            let folder = folder.unwrap_or_else(|| config.export_directory.clone());
            runtime.block_on(export::export(&config, &folder)).map_err(Into::into)
        }
        Command::Admin { command: Admin::Reset { user, tenant } } => {
            let secret = runtime.block_on(async {
                match user {
                    None => init::reset_admin(&config).await,
                    Some(user) => {
                        init::reset_user(&config, tenant.as_ref(), &user).await.map(|password| password.0)
                    }
                }
            });
            secret.map(|secret| println!("{secret}")).map_err(Into::into)
        }
        Command::Audit { command: Audit::Verify } => {
            runtime.block_on(audit::check::verify(&config)).map_err(Into::into)
        }
        Command::Restore { file } => export::restore(&config, &file).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), 1),
    }
}

/// The one place where errors are printed, with all their causes.
fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("error: {}", chain(error));
    ExitCode::from(code)
}
