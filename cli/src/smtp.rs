//! The mail server that alerts leave through. Its password comes from a file or standard input, never from the
//! command line, and is never printed.

use std::path::PathBuf;

use chom_protocol::api::smtp::{ConfigureSmtp, SmtpSecurity, SmtpTested, SmtpView, TestSmtp};
use clap::Subcommand;

use crate::client::MAIL_TIMEOUT;
use crate::error::Failure;
use crate::output::{Cell, Details, Table, Tone, View, joined, word, yes_no};
use crate::session::{Session, read_bounded, read_text};

/// Longest password; SASL PLAIN (RFC 4616) knows no limit, mail servers stop at about a line.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Largest file of CA certificates that leaves room in a request.
const CA_BYTES_MAX: usize = 128 * 1024;

/// `chomctl smtp`.
#[derive(Debug, Subcommand)]
pub(crate) enum SmtpCommand {
    /// Sets the mail server
    Configure(Box<ConfigureOptions>),
    /// Sends a test mail now
    Test {
        /// To whom, instead of the configured recipients; may be given several times
        #[arg(long = "to", value_name = "MAILBOX")]
        to: Vec<String>,
    },
    /// Shows the mail server, without its password
    Show,
}

/// The mail server.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigureOptions {
    /// Name or address of the server
    #[arg(long)]
    host: String,
    /// Its port; 587, 465 or 25 by --security where absent
    #[arg(long)]
    port: Option<u16>,
    /// How the connection is protected
    #[arg(long, value_enum, default_value = "starttls")]
    security: Security,
    /// User name, where the server wants one
    #[arg(long)]
    username: Option<String>,
    /// Read its password from this file; without one, the password kept for this host and user stays
    #[arg(long, value_name = "FILE", requires = "username", conflicts_with = "password_stdin")]
    password_file: Option<PathBuf>,
    /// Read its password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// The sender's mailbox
    #[arg(long, value_name = "MAILBOX")]
    from: String,
    /// Who gets the alerts; may be given several times
    #[arg(long = "to", value_name = "MAILBOX", required = true)]
    to: Vec<String>,
    /// The only CA to trust for the mail server (PEM); the orchestrator's system CAs where absent
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The name given in EHLO; the orchestrator's own where absent
    #[arg(long, value_name = "NAME")]
    hello: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Security {
    /// Switch to TLS before anything else
    Starttls,
    /// TLS from the first byte
    Tls,
    /// In the clear
    None,
}

impl ConfigureOptions {
    fn request(self) -> Result<ConfigureSmtp, Failure> {
        let password = match &self.password_file {
            Some(path) => Some(read_text("the password from", path, PASSWORD_BYTES_MAX)?),
            None if self.password_stdin => {
                let failed = |source| Failure::File {
                    what: "the password from",
                    path: "standard input".to_owned(),
                    source,
                };
                Some(read_bounded(std::io::stdin(), PASSWORD_BYTES_MAX).map_err(failed)?)
            }
            None => None,
        };
        let password = password.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        if password.as_ref().is_some_and(String::is_empty) {
            return Err(Failure::usage(
                "the password is empty",
                "give one, or leave the option out to keep the old one",
            ));
        }
        let read = |path: &PathBuf| read_text("CA certificates from", path, CA_BYTES_MAX);
        let ca_pem = self.ca_file.as_ref().map(read).transpose()?;
        let security = match self.security {
            Security::Starttls => SmtpSecurity::Starttls,
            Security::Tls => SmtpSecurity::Tls,
            Security::None => SmtpSecurity::None,
        };
        let Self { host, port, username, from, to, hello, .. } = self;
        Ok(ConfigureSmtp { host, port, security, username, password, from, to, ca_pem, hello })
    }
}

/// Runs `chomctl smtp`.
pub(crate) fn run(session: &Session, command: SmtpCommand) -> Result<(), Failure> {
    let config: SmtpView = match command {
        SmtpCommand::Configure(options) => {
            let request = options.request()?;
            let client = session.client()?;
            let revision = match client.get::<SmtpView>("/api/alertmanager/smtp/config") {
                Ok(row) => row.revision,
                Err(failure) if failure.is_not_found() => 0,
                Err(failure) => return Err(failure),
            };
            client.overwrite("/api/alertmanager/smtp/configure", &request, revision)?
        }
        SmtpCommand::Show => session.client()?.get("/api/alertmanager/smtp/config")?,
        SmtpCommand::Test { to } => {
            let client = session.client()?;
            let tested: SmtpTested =
                client.post_within("/api/alertmanager/smtp/test", &TestSmtp { to }, MAIL_TIMEOUT)?;
            session.screen.show(&tested, |view| outcomes(&tested, view))?;
            let missed = tested.outcomes.iter().filter(|outcome| !outcome.delivered).count();
            return if tested.delivered {
                Ok(())
            } else {
                Err(Failure::Mail { missed, recipients: tested.outcomes.len() })
            };
        }
    };
    session.screen.show(&config, |view| details(&config, view))
}

fn outcomes(tested: &SmtpTested, view: &View) -> String {
    let mut table = Table::new(&["RECIPIENT", "DELIVERED", "ANSWER"]);
    for outcome in &tested.outcomes {
        let tone = if outcome.delivered { Tone::Good } else { Tone::Bad };
        table.row(vec![
            Cell::from(&outcome.recipient),
            Cell::new(yes_no(outcome.delivered), tone),
            Cell::from(&outcome.answer),
        ]);
    }
    table.render(view, "no recipients")
}

fn details(config: &SmtpView, view: &View) -> String {
    let mut details = Details::default();
    details.line("Server", format!("{}:{}", config.host, config.port));
    details.line("Security", word(&config.security));
    details.line("User name", config.username.as_deref().unwrap_or("-"));
    details.line("Password", if config.password_set { "set" } else { "not set" });
    details.line("From", &config.from);
    details.line("To", joined(&config.to));
    details.line("Own CA", yes_no(config.ca_set));
    details.line("EHLO name", config.hello.as_deref().unwrap_or("-"));
    details.line("Revision", config.revision);
    details.render(view)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    #[test]
    fn the_configuration_says_whether_there_is_a_password_and_not_which() {
        let config: SmtpView = serde_json::from_value(json!({
            "host": "mail.example", "port": 587, "security": "starttls", "username": "chom", "password_set": true,
            "from": "chom@example", "to": ["a@example", "b@example"], "ca_set": false, "hello": null, "revision": 3
        }))
        .unwrap();
        expect![[r#"
            Server:     mail.example:587
            Security:   starttls
            User name:  chom
            Password:   set
            From:       chom@example
            To:         a@example, b@example
            Own CA:     no
            EHLO name:  -
            Revision:   3
        "#]]
        .assert_eq(&details(&config, &test_view(false)));
    }
}
