//! Why an image could not be fetched, and whether trying again may help.

use chom_protocol::Bytes;
use hyper::StatusCode;

use crate::dial::DialError;
use crate::images::ReceiveError;

/// Why an image could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It broke off.
    #[error("the connection to `{host}` broke off")]
    Broken {
        /// Whose.
        host: String,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// Nothing came.
    #[error("nothing came from `{host}` for {seconds} s")]
    Late {
        /// From whom.
        host: String,
        /// For how long.
        seconds: u64,
    },
    /// Too little came.
    #[error("only {bytes} bytes came from `{host}` in {seconds} s; use a faster mirror")]
    Slow {
        /// From whom.
        host: String,
        /// How much.
        bytes: u64,
        /// In which time.
        seconds: u64,
    },
    /// Another part than was asked for.
    #[error("`{host}` does not give the rest of what came; it is fetched from its beginning")]
    Part {
        /// Who.
        host: String,
    },
    /// Not what was hoped for.
    #[error("`{url}` was answered with status {status}; check the URL")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// It is packed.
    #[error(
        "`{url}` came packed as `{encoding}`, which was not asked for; use a server that sends files as they are"
    )]
    Encoding {
        /// What was asked for.
        url: String,
        /// How.
        encoding: String,
    },
    /// It is too large.
    #[error("`{url}` has more than {}; larger images are not taken", Bytes(*most))]
    Large {
        /// What was asked for.
        url: String,
        /// In bytes.
        most: u64,
    },
    /// Sent on to nowhere.
    #[error("`{url}` sends on to where images are not fetched from: {problem}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Sent on again and again.
    #[error("it was sent on more than {most} times, last to `{last}`; give the URL of the file itself")]
    Redirects {
        /// How often is followed.
        most: usize,
        /// Where to.
        last: String,
    },
    /// What came cannot be kept.
    #[error(transparent)]
    Receive(ReceiveError),
}

impl FetchError {
    /// Whether the next attempt may go better.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_passing(),
            Self::Broken { .. } | Self::Late { .. } | Self::Slow { .. } | Self::Part { .. } => true,
            // Too early, too often, timed out; and what is the server's own trouble.
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error()
            }
            Self::Encoding { .. }
            | Self::Large { .. }
            | Self::Redirect { .. }
            | Self::Redirects { .. }
            | Self::Receive(_) => false,
        }
    }
}
