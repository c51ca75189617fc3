//! The agent's program: arguments, log, exit code. Everything else is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use chom_agent::chain::Chain;
use chom_agent::config::Config;
use chom_agent::view::View;
use chom_agent::{clock, enrol, probe, run};
use clap::{Parser, Subcommand};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The configuration cannot be used (EX_CONFIG, sysexits.h).
const EXIT_CONFIGURATION: u8 = 78;
/// Threads for writes that wait for the disk: the ledger, a result, an image.
const DISK_THREADS_MAX: usize = 4;

const LOG_HELP: &str = "The log goes to standard error (the journal). RUST_LOG chooses what it says: a level (error, \
                        warn, info, debug, trace), or target=level separated by commas, such as info,chom_agent=debug; \
                        spans and fields cannot be named.";

/// CHOM's agent: runs this host's VPSs as its orchestrator wants, and reports on the host.
#[derive(Parser)]
#[command(version, after_help = LOG_HELP)]
struct Arguments {
    /// The configuration file; /etc/chom/agent.toml unless given, and all of it is optional.
    #[arg(long, global = true, env = "CHOM_AGENT_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Joins a fleet with the code that `chomctl host add` printed.
    Enrol {
        /// The code.
        code: String,
    },
    /// Runs until SIGTERM or SIGINT.
    Run,
    /// Shows what the running agent sees.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    let config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_CONFIGURATION),
    };
    // One thread: an agent waits most of the time, and each thread would cost memory on every host.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(DISK_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let outcome: Outcome = match arguments.command {
        Command::Enrol { code } => {
            runtime.block_on(enrol::enrol(&config, &code)).map_err(Into::into).map(|host| {
                println!("enrolled as host {host}; start the agent with `systemctl enable --now chom-agent`");
            })
        }
        Command::Run => runtime.block_on(run::run(&config, probe::of_host(&config))).map_err(Into::into),
        Command::Status { json } => status(&config, json),
    };
    // A write that hangs on a broken disk must not keep the process: everything that counts was waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), 1),
    }
}

fn start_log() {
    // Not EnvFilter: every host would hold its regular expressions.
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    // The journal has the time already.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(log.without_time().with_ansi(false)).init();
    } else {
        registry.with(log).init();
    }
}

fn status(config: &Config, json: bool) -> Outcome {
    let view = View::read(&config.runtime_directory)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!("{}", view.text(clock::now()));
    }
    Ok(())
}

/// The one place where errors are printed, with all their causes.
fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("error: {}", Chain(error));
    ExitCode::from(code)
}
