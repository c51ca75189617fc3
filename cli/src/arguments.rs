//! The command line as a whole: one subcommand for each noun, each in its own file.

use clap::{Parser, Subcommand};

use crate::error::Failure;
use crate::session::{Session, Shared};
use crate::{
    alert, audit, authority, catalogue, events, host, login, network, notification, operation, shell, smtp,
    ssh_key, tenant, token, usage, user, vps, webhook,
};

/// Runs a fleet of VPS hosts from the command line
#[derive(Debug, Parser)]
#[command(name = "chomctl", version, propagate_version = true, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Environment:
  CHOM_SERVER, CHOM_TOKEN, CHOM_CA_FILE  used instead of the chosen context's
  XDG_CONFIG_HOME                        contexts are kept in chom/ below it
  NO_COLOR                               no colours

Exit codes: 0 done, 1 failed, 2 called wrongly (nothing was tried).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Which orchestrator to ask, and with which token
    #[command(subcommand)]
    Context(shell::ContextCommand),
    /// Signs in with a password; the session is kept in the context
    Login(login::LoginOptions),
    /// Ends the session of the context
    Logout,
    /// Says whom the context's token stands for, and what it may do
    Whoami,
    /// Machines that run VPSs
    #[command(subcommand)]
    Host(host::HostCommand),
    /// VPSs
    #[command(subcommand)]
    Vps(vps::VpsCommand),
    /// What is being done, and how it went
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// What is wrong in the fleet
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// Mails that alerts led to
    #[command(subcommand)]
    Notification(notification::NotificationCommand),
    /// Where VPSs can be
    #[command(subcommand)]
    Region(catalogue::RegionCommand),
    /// How large VPSs can be
    #[command(subcommand)]
    Size(catalogue::SizeCommand),
    /// What VPSs can be made from
    #[command(subcommand)]
    Image(catalogue::ImageCommand),
    /// SSH keys that new VPSs let in
    #[command(subcommand)]
    Key(ssh_key::KeyCommand),
    /// Who VPSs belong to, and how much they may have
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// What callers of the API show
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Who did what, and proof that nobody changed the record of it
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Who is told of what by HTTP
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// What each VPS had in each hour, for billing
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// People who sign in with a password
    #[command(subcommand)]
    User(user::UserCommand),
    /// The fleet's CAs
    #[command(subcommand)]
    Authority(authority::AuthorityCommand),
    /// What VPSs are plugged into, and its pools of addresses
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Who holds which address
    #[command(subcommand)]
    Address(network::AddressCommand),
    /// The mail server that alerts leave through
    #[command(subcommand)]
    Smtp(smtp::SmtpCommand),
    /// What changes, as it happens
    Events(events::EventsArguments),
    /// Prints the completion script of a shell
    Completion(shell::CompletionArguments),
    /// Prints the version
    Version,
}

/// Runs what the command line asks for.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let session = Session::new(arguments.shared);
    match arguments.command {
        Command::Context(command) => shell::context(&session, command),
        Command::Login(options) => login::login(&session, options),
        Command::Logout => login::logout(&session),
        Command::Whoami => login::whoami(&session),
        Command::Host(command) => host::run(&session, command),
        Command::Vps(command) => vps::run(&session, command),
        Command::Operation(command) => operation::run(&session, command),
        Command::Alert(command) => alert::run(&session, command),
        Command::Notification(command) => notification::run(&session, command),
        Command::Region(command) => catalogue::regions(&session, command),
        Command::Size(command) => catalogue::sizes(&session, command),
        Command::Image(command) => catalogue::images(&session, command),
        Command::Key(command) => ssh_key::run(&session, command),
        Command::Tenant(command) => tenant::run(&session, command),
        Command::Token(command) => token::run(&session, command),
        Command::Audit(command) => audit::run(&session, command),
        Command::Webhook(command) => webhook::run(&session, command),
        Command::Usage(command) => usage::run(&session, command),
        Command::User(command) => user::run(&session, command),
        Command::Authority(command) => authority::run(&session, command),
        Command::Network(command) => network::run(&session, command),
        Command::Address(command) => network::addresses(&session, command),
        Command::Smtp(command) => smtp::run(&session, command),
        Command::Events(arguments) => events::run(&session, &arguments),
        Command::Completion(arguments) => shell::completion(&arguments),
        Command::Version => shell::version(&session),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        super::Arguments::command().debug_assert();
    }
}
