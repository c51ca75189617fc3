//! Enrolment: one request, one answer, and the connection ends. The peer is nobody yet; its token says whether it may
//! become somebody.

use std::time::Duration;

use chom_protocol::link::{Close, ToAgent, ToOrchestrator};
use quinn::Connection;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Link;
use super::connection::Ended;
use super::frames::{FrameReader, problem, send};
use super::registry::end;

/// Longest host name that is taken over into the log (RFC 1035).
const HOSTNAME_CHARACTERS_MAX: usize = 253;

pub(super) async fn run(link: &Link, connection: &Connection, patience: Duration) -> Result<(), Ended> {
    let request = async {
        let (answer, receive) = connection.accept_bi().await?;
        match FrameReader::new(receive).first().await? {
            Some(ToOrchestrator::Enrol { token, csr, hostname }) => Ok((answer, token, csr, hostname)),
            _ => Err(Ended::protocol(
                "a connection of chom-enrol/1 takes a request to enrol, and nothing else",
            )),
        }
    };
    let (mut answer, token, csr, hostname) =
        timeout(patience, request).await.map_err(|_| Ended::Close {
            close: Close::Slow,
            reason: format!("no request to enrol within {} s", patience.as_secs()),
        })??;
    let hostname: String = hostname.chars().take(HOSTNAME_CHARACTERS_MAX).collect();
    let message = match link.fleet.enrol(&token, csr).await {
        Ok(enrolled) => {
            info!(host = %enrolled.host, hostname, address = %connection.remote_address(), "a host enrolled");
            // It has a new key: whoever still uses the old one is out.
            link.sessions.close(enrolled.host, Close::Identity, "this host has enrolled with another key");
            let fleet = link.fleet.fleet_info();
            ToAgent::Enrolled { host: enrolled.host, certificate: enrolled.certificate, fleet }
        }
        Err(error) => {
            let cause = crate::chain(&error);
            warn!(hostname, address = %connection.remote_address(), cause, "an enrolment was refused");
            problem(&error)
        }
    };
    send(&mut answer, &message).await?;
    // Fails only on a stream that was ended before, which this one was not.
    let _ = answer.finish();
    // The last receiver closes: that is the host. It has as long as it had to ask.
    if timeout(patience, connection.closed()).await.is_err() {
        end(connection, Close::Done, "the enrolment was answered");
    }
    Ok(())
}
