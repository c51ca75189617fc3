//! Who a peer is and what it may do: by its certificate, the newest rows, and who else was here under the same key.

use chom_certs::{PeerIdentity, peer_identity};
use chom_protocol::link::{Close, Hello, Standing};
use quinn::Connection;
use rustls::pki_types::CertificateDer;
use tracing::error;

use super::Link;
use super::connection::Ended;
use super::registry::Begun;
use crate::clock;
use crate::fleet::rows::{HostRow, HostStanding};
use crate::fleet::{Fleet, FleetError};

/// A host that was let in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) peer: PeerIdentity,
    pub(super) hello: Hello,
    pub(super) standing: Standing,
}

impl Admitted {
    /// What the host may do by the newest rows.
    ///
    /// # Errors
    /// When it may not be connected any more.
    pub(super) fn judge(&self, fleet: &Fleet) -> Result<Standing, Ended> {
        fleet.admit(&self.peer, &self.hello).map_err(|error| refusal(fleet, &self.peer, &error))
    }
}

/// Who a peer is by the certificate of its handshake. Asked before any stream is taken: TLS itself lets peers without a
/// certificate in, because enrolment has none.
pub(super) fn identify(connection: &Connection, fleet: &Fleet) -> Result<PeerIdentity, Ended> {
    let shown =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let shown = shown.map(|certificates| *certificates).unwrap_or_default();
    let peer = peer_identity(&shown, fleet.authorities().bundle(), clock::now())
        .map_err(|error| Ended::Close { close: Close::Identity, reason: crate::chain(&error) })?;
    // Revoked and unknown hosts hear it before they say a word.
    fleet.check_peer(&peer).map_err(|error| refusal(fleet, &peer, &error))?;
    Ok(peer)
}

/// Lets a host in as its newest session, unless two machines use its key.
pub(super) async fn admit(
    link: &Link,
    connection: &Connection,
    peer: PeerIdentity,
    hello: Hello,
) -> Result<Admitted, Ended> {
    let mut admitted = Admitted { peer, hello, standing: Standing::ReportOnly };
    admitted.standing = admitted.judge(&link.fleet)?;
    let (host, key, instance) = (admitted.peer.host, admitted.peer.key_fingerprint, admitted.hello.instance);
    match link.sessions.begin(host, key, instance, connection, clock::now()) {
        Begun::Newest => Ok(admitted),
        // Known already: both may report, and nothing new is to be said of it.
        Begun::Cloned if admitted.standing == Standing::ReportOnly => Ok(admitted),
        Begun::Cloned => {
            error!(%host, "two machines use the key of one host; it is quarantined");
            if let Err(error) = link.fleet.quarantine(host).await {
                error!(%host, error = crate::chain(&error), "cannot quarantine a host");
            }
            link.sessions.end(host, connection);
            let reason = "another machine uses this host's key; revoke the host and enrol both machines anew";
            Err(Ended::Close { close: Close::Cloned, reason: reason.to_owned() })
        }
    }
}

fn refusal(fleet: &Fleet, peer: &PeerIdentity, error: &FleetError) -> Ended {
    let state = fleet.state();
    let revoked = state.get::<HostRow>(&peer.host).is_some_and(|row| row.standing == HostStanding::Revoked);
    let close = if revoked { Close::Revoked } else { Close::Identity };
    Ended::Close { close, reason: crate::chain(error) }
}
