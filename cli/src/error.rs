//! What can go wrong, and how it is told: what, where, and what to do. Every error is printed here, once.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use chom_protocol::api::Problem;

use crate::client::{TlsProblem, Trust};
use crate::context::ContextError;
use crate::output::plain;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line asks for what cannot be; nothing was tried.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
        /// What to do.
        help: String,
    },
    /// Contexts and their files.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A file that the command line names.
    #[error("cannot read {what} `{path}`")]
    File {
        /// What it is for.
        what: &'static str,
        /// Its path.
        path: String,
        #[source]
        source: io::Error,
    },
    /// No answer came.
    #[error("cannot reach {server}")]
    Connection {
        /// Which server.
        server: String,
        /// Whether another try may help at once.
        retryable: bool,
        #[source]
        source: Box<ureq::Error>,
    },
    /// It was reached and said nothing.
    #[error("{server} did not answer in time ({phase})")]
    Silent {
        /// Which server.
        server: String,
        /// What was waited for.
        phase: String,
    },
    /// The server's certificate was not accepted, or TLS failed otherwise.
    #[error("cannot trust {server}: {problem} (trusted: {trust})")]
    Tls {
        /// Which server.
        server: String,
        /// What is wrong.
        problem: TlsProblem,
        /// What was trusted.
        trust: Trust,
    },
    /// The server said no, and why.
    #[error("{}: {}", problem.title, problem.detail)]
    Problem {
        /// Which server.
        server: String,
        /// Its words.
        problem: Box<Problem>,
    },
    /// Asked whether to go on, the admin said no.
    #[error("nothing was done")]
    Declined,
    /// The answer is none that CHOM gives.
    #[error("{server} gave an answer that chomctl does not understand: {what}")]
    Answer {
        /// Which server.
        server: String,
        /// Its status, where that is the trouble.
        status: Option<u16>,
        /// What came.
        what: String,
    },
    /// The operation ended without success.
    #[error("the operation `{kind}` {outcome}")]
    Operation {
        /// Its id.
        id: String,
        /// What it was to do.
        kind: String,
        /// How it ended.
        outcome: String,
    },
    /// The operation is not over yet.
    #[error("the operation `{kind}` did not end within {waited}; it goes on without chomctl")]
    Waited {
        /// Its id.
        id: String,
        /// What it is to do.
        kind: String,
        /// How long was waited.
        waited: String,
    },
    /// The test mail did not reach everybody.
    #[error("the test mail did not reach {missed} of {recipients} recipients")]
    Mail {
        /// How many it did not reach.
        missed: usize,
        /// Of how many.
        recipients: usize,
    },
    /// The test of a webhook did not arrive.
    #[error("the receiver did not take the test")]
    Webhook,
    /// No WebSocket.
    #[error("cannot reach {server}")]
    Socket {
        /// Which server.
        server: String,
        #[source]
        source: io::Error,
    },
    /// The terminal that chomctl runs on.
    #[error("cannot use this terminal")]
    Terminal(#[source] io::Error),
    /// A console was ended by the other side.
    #[error("the console ended: {reason}")]
    Console {
        /// Why.
        reason: String,
    },
    /// Some guests were refused.
    #[error("{refused} of {asked} guests cannot be adopted")]
    NotAdopted {
        /// How many were refused.
        refused: usize,
        /// Of how many.
        asked: usize,
    },
    /// The audit log is not as it was written.
    #[error("the audit log was changed: {faults} faults")]
    Altered {
        /// How many.
        faults: usize,
    },
    /// Standard output.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// A value that cannot be shown in the wanted format.
    #[error("cannot write the output as {format}: {reason}")]
    Format {
        /// Which format.
        format: &'static str,
        /// Why.
        reason: String,
    },
}

impl Failure {
    /// A mistake in how the command was called.
    pub(crate) fn usage(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), help: help.into() }
    }

    /// Whether the command line was at fault.
    pub(crate) const fn is_usage(&self) -> bool {
        matches!(self, Self::Usage { .. })
    }

    /// Whether nobody reads the output any more (`| head`): no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) const fn is_retryable(&self) -> bool {
        match self {
            Self::Connection { retryable, .. } => *retryable,
            // Too many requests, bad gateway, unavailable, gateway timeout (RFC 9110, RFC 6585).
            Self::Problem { problem, .. } => matches!(problem.status, 429 | 502 | 503 | 504),
            Self::Answer { status, .. } => matches!(status, Some(429 | 502 | 503 | 504)),
            Self::Usage { .. }
            | Self::Context(_)
            | Self::File { .. }
            | Self::Tls { .. }
            | Self::Silent { .. }
            | Self::Declined
            | Self::Operation { .. }
            | Self::Waited { .. }
            | Self::Mail { .. }
            | Self::Webhook
            | Self::Socket { .. }
            | Self::Terminal(_)
            | Self::Console { .. }
            | Self::NotAdopted { .. }
            | Self::Altered { .. }
            | Self::Output(_)
            | Self::Format { .. } => false,
        }
    }

    /// Whether the server is away for now: whoever waits anyway may ask again later.
    pub(crate) const fn is_away(&self) -> bool {
        matches!(self, Self::Connection { .. } | Self::Silent { .. }) || self.is_retryable()
    }

    /// Whether the server does not take the token.
    pub(crate) fn is_unauthorised(&self) -> bool {
        matches!(self, Self::Problem { problem, .. } if problem.status == 401)
    }

    /// Whether the server says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Problem { problem, .. } if problem.status == 404)
    }

    /// What to do about it.
    fn help(&self) -> Option<String> {
        match self {
            Self::Usage { help, .. } => Some(help.clone()),
            Self::Context(error) => Some(error.help()),
            Self::File { .. } => Some("name a file that exists and that you may read".to_owned()),
            Self::Declined => None,
            Self::Connection { server, .. } | Self::Silent { server, .. } | Self::Socket { server, .. } => {
                Some(format!(
                    "check that the orchestrator runs and that {server} is its address (chomctl context list)"
                ))
            }
            Self::Tls { problem, trust, .. } => Some(problem.help(trust)),
            Self::Problem { problem, server } => match problem.status {
                401 => Some(format!(
                    "{server} does not take this token or password: sign in with `chomctl login NAME`, or give the context \
                     a valid token with `chomctl context add NAME --server {server} --token-file FILE`"
                )),
                403 => Some("use a token that may do this".to_owned()),
                500..=599 => Some(format!("see the orchestrator's log on {server}")),
                _ => None, // the detail says what to do
            },
            Self::Answer { server, .. } => Some(format!(
                "check that {server} is an orchestrator of this release or the one before, and no proxy in front of it"
            )),
            Self::Operation { id, .. } => Some(format!("its trail: chomctl operation show {id}")),
            Self::Waited { id, .. } => Some(format!("go on waiting: chomctl operation wait {id}")),
            Self::Altered { .. } => Some(
                "the lines above name the entries; compare with a copy of the log, and find out who can write to the orchestrator's disk"
                    .to_owned(),
            ),
            Self::NotAdopted { .. } => Some("the lines above say why each was refused".to_owned()),
            Self::Webhook => Some("the answer above says what is in the way".to_owned()),
            Self::Mail { .. } => Some("the answers above say what the mail server minds".to_owned()),
            Self::Terminal(_) => Some("run it in a terminal, or with standard input from a pipe".to_owned()),
            Self::Console { .. } => None,
            Self::Output(_) => Some("check that the disk or terminal it goes to takes more".to_owned()),
            Self::Format { .. } => Some("use another format: -o table, wide, json or yaml".to_owned()),
        }
    }
}

/// The text for standard error: the chain of causes, where, and what to do.
pub(crate) fn report(failure: &Failure) -> String {
    let mut text = format!("error: {}", plain(&failure.to_string()));
    let mut source = failure.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {}", plain(&cause.to_string()));
        source = cause.source();
    }
    text.push('\n');
    if let Failure::Problem { problem, .. } = failure
        && let Some(location) = &problem.location
    {
        let _ = writeln!(text, "  where: {}", plain(location));
    }
    if let Some(help) = failure.help() {
        let _ = writeln!(text, "  help: {}", plain(&help));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(failure: &Failure, expected: &Expect) {
        expected.assert_eq(&report(failure));
    }

    fn problem(status: u16, location: Option<&str>) -> Failure {
        Failure::Problem {
            server: "https://chom.example".to_owned(),
            problem: Box::new(Problem {
                kind: "/problems/x".to_owned(),
                title: "No such region".to_owned(),
                status,
                detail: "there is no region `mars`; known are: us-east".to_owned(),
                location: location.map(str::to_owned),
            }),
        }
    }

    #[test]
    fn a_problem_is_told_with_its_place_and_nothing_twice() {
        check(
            &problem(422, Some("/region")),
            &expect![[r#"
                error: No such region: there is no region `mars`; known are: us-east
                  where: /region
            "#]],
        );
    }

    #[test]
    fn a_refused_token_says_how_to_give_another() {
        check(
            &problem(401, None),
            &expect![[r#"
                error: No such region: there is no region `mars`; known are: us-east
                  help: https://chom.example does not take this token or password: sign in with `chomctl login NAME`, or give the context a valid token with `chomctl context add NAME --server https://chom.example --token-file FILE`
            "#]],
        );
    }

    #[test]
    fn a_connection_problem_names_the_server_and_the_cause_once() {
        let source = Box::new(ureq::Error::Io(io::Error::from(io::ErrorKind::ConnectionRefused)));
        let failure =
            Failure::Connection { server: "https://chom.example:8443".to_owned(), retryable: true, source };
        check(
            &failure,
            &expect![[r#"
                error: cannot reach https://chom.example:8443: io: connection refused
                  help: check that the orchestrator runs and that https://chom.example:8443 is its address (chomctl context list)
            "#]],
        );
    }

    #[test]
    fn what_a_server_says_cannot_steer_the_terminal() {
        let mut failure = problem(422, None);
        if let Failure::Problem { problem, .. } = &mut failure {
            problem.detail = "red\u{1b}[31m".to_owned();
        }
        assert!(!report(&failure).contains('\u{1b}'));
    }

    #[test]
    fn only_busy_and_broken_servers_are_asked_again() {
        for status in [429, 502, 503, 504] {
            assert!(problem(status, None).is_retryable(), "{status}");
        }
        for status in [400, 401, 404, 409, 422, 500] {
            assert!(!problem(status, None).is_retryable(), "{status}");
        }
    }
}
