//! Why a mail did not get through: at which step, in whose words, and what an admin can do about it.

use std::fmt;

use lettre::transport::smtp::Error as SmtpError;

use super::{Mailer, Server};

/// Longest answer that is kept and shown.
const ANSWER_CHARACTERS_MAX: usize = 500;

/// A step of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// TCP.
    Connect,
    /// TCP, TLS, greeting and EHLO where TLS comes first.
    ConnectTls,
    /// Greeting and EHLO.
    Greeting,
    /// The switch to TLS.
    Starttls,
    /// Login.
    Auth,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// The mail itself.
    Content,
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Connect => "connecting",
            Self::ConnectTls => "connecting with TLS",
            Self::Greeting => "the greeting",
            Self::Starttls => "STARTTLS",
            Self::Auth => "the login",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "the mail's content",
        })
    }
}

/// Why a mail did not get through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The server said no.
    #[error("{server} answered to {phase}: {answer}{advice}")]
    Refused {
        /// Whom we talked to.
        server: String,
        /// To what.
        phase: Phase,
        /// Its reply code.
        code: u16,
        /// Its words, code included.
        answer: String,
        /// What to do; may be empty.
        advice: String,
    },
    /// It did not answer in time.
    #[error("{server} did not answer in time to {phase}{advice}")]
    Late {
        /// Whom we talked to.
        server: String,
        /// To what.
        phase: Phase,
        /// What to do; may be empty.
        advice: String,
    },
    /// The connection failed or said what is no SMTP.
    #[error("{server}, {phase}: {problem}{advice}")]
    Broken {
        /// Whom we talked to.
        server: String,
        /// When.
        phase: Phase,
        /// What happened.
        problem: String,
        /// What to do; may be empty.
        advice: String,
    },
    /// The settings do not allow it.
    #[error("{0}")]
    Settings(String),
    /// The mail cannot be made.
    #[error("the mail cannot be made: {0}")]
    Mail(String),
}

impl SendError {
    /// Whether trying again is of no use: the server refused this mail or recipient for good. What an admin can mend in the
    /// settings (login, TLS, certificates) is tried again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { phase, code, .. } => match phase {
                // 530: authentication or STARTTLS required (RFC 4954, RFC 3207): a matter of settings.
                Phase::Sender | Phase::Recipient | Phase::Data | Phase::Content => {
                    (500..600).contains(code) && *code != 530
                }
                Phase::Connect | Phase::ConnectTls | Phase::Greeting | Phase::Starttls | Phase::Auth => false,
            },
            Self::Late { .. } | Self::Broken { .. } | Self::Settings(_) => false,
            Self::Mail(_) => true,
        }
    }
}

impl Mailer {
    pub(super) fn late(&self, phase: Phase) -> SendError {
        SendError::Late { server: self.name(), phase, advice: self.silence_advice(phase) }
    }

    pub(super) fn broken(&self, phase: Phase, problem: String, advice: String) -> SendError {
        SendError::Broken { server: self.name(), phase, problem: words(0, &problem), advice }
    }

    /// A port that wants TLS first is silent, or hangs up, when it is spoken to in the clear.
    fn silence_advice(&self, phase: Phase) -> String {
        if phase == Phase::Greeting {
            format!(
                "; if port {} wants TLS from the first byte (usual on 465), set `security` to `tls`, or use port 587",
                self.server.port
            )
        } else {
            String::new()
        }
    }

    pub(super) fn explain(&self, phase: Phase, error: &SmtpError) -> SendError {
        if let Some(code) = error.status() {
            let code = u16::from(code);
            let said = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            return SendError::Refused {
                server: self.name(),
                phase,
                code,
                answer: words(code, &said),
                advice: self.refusal_advice(phase, code),
            };
        }
        match tls_error(error) {
            Some(tls) => self.broken(phase, tls.to_string(), self.tls_advice(tls)),
            None => self.broken(phase, error.to_string(), self.silence_advice(phase)),
        }
    }

    fn refusal_advice(&self, phase: Phase, code: u16) -> String {
        match (phase, &self.server.credentials) {
            (Phase::Auth, Some((user, _))) => {
                format!("; check `username` (`{user}`) and `password`")
            }
            (Phase::Sender | Phase::Recipient, None) if code == 530 => {
                "; set `username` and `password`".to_owned()
            }
            _ => String::new(),
        }
    }

    fn tls_advice(&self, error: &rustls::Error) -> String {
        use rustls::CertificateError as Bad;
        let Server { host, port, ca_pem, .. } = &self.server;
        match error {
            // A CA of the same name with another key shows as a bad signature.
            rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) if ca_pem.is_some() => {
                "; the server's certificate is not signed by the CA in `ca_pem`: give the CA that it is signed by".to_owned()
            }
            rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
                "; the server's certificate is signed by nobody this machine trusts: give its CA as `ca_pem`".to_owned()
            }
            rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
                format!("; the server's certificate is not for `{host}`: set `host` to a name that it is for")
            }
            rustls::Error::InvalidCertificate(_) => "; the server needs another certificate".to_owned(),
            _ => format!(
                "; port {port} seems not to speak TLS from the first byte: set `security` to `starttls` (usual on 587), or use \
                 port 465"
            ),
        }
    }
}

/// The TLS library's own error, wherever it is in the chain.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(tls);
        }
        next = error.source();
    }
    None
}

/// A server's words, safe to show and to store.
pub(super) fn words(code: u16, said: &str) -> String {
    let text = if code == 0 { said.to_owned() } else { format!("{code} {said}") };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARACTERS_MAX).collect()
}
