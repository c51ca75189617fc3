//! Who may connect and as what: enrolment, admission, renewal. Judged against the newest rows at each handshake.

use chom_certs::{EnrolmentToken, PeerIdentity, StoredToken, enrol, request_key};
use chom_protocol::HostId;
use chom_protocol::link::{FleetInfo, Hello, Standing};

use crate::clock;
use crate::fleet::error::ErrorKind;
use crate::fleet::hosts::{host_row, tell};
use crate::fleet::rows::{EnrolmentRow, HostCertificate, HostRow, HostStanding};
use crate::fleet::{Fleet, FleetError, vps};

/// So long a token that expired is still known, so that whoever pastes it the next day reads that its hour is over.
pub(super) const EXPIRED_KEPT_SECONDS: u64 = 7 * 24 * 3600;

/// What a host gets when it enrols.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Who it is.
    pub host: HostId,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
}

impl Fleet {
    /// Lets a host in by its single-use token. Durable when this returns.
    ///
    /// # Errors
    /// When the token is unknown, used or expired, or the request is damaged.
    pub async fn enrol(&self, token: &str, csr: Vec<u8>) -> Result<Enrolled, FleetError> {
        let token: EnrolmentToken = token.parse().map_err(|error| refused(&error))?;
        let key = request_key(&csr).map_err(|error| refused(&error))?;
        let fleet = self.clone();
        let change = move |decision: &mut crate::fleet::Decision| {
            let hash = token.hash();
            let row =
                decision.state.enrolments.values().map(|stored| &stored.row).find(|row| row.token == hash);
            let row = row.map(|row| row.as_ref().clone());
            let stored = row.as_ref().map(|row| StoredToken {
                hash: row.token,
                host: row.host,
                expires_at: row.expires_at,
                used_by: row.used_by,
            });
            let host =
                enrol::judge(stored.as_ref(), &token, &key, decision.now).map_err(|error| refused(&error))?;
            let authorities = fleet.authorities();
            let signed =
                authorities.signing().sign_host(&csr, host, decision.now).map_err(|error| refused(&error))?;
            let mut host_row = host_row(&decision.state, host)?.clone();
            if host_row.standing == HostStanding::Revoked {
                return Err(refused(&enrol::EnrolmentRefused::Unknown));
            }
            host_row.standing = HostStanding::Member;
            host_row.certificate = Some(HostCertificate {
                serial: signed.serial,
                authority: authorities.signing_number(),
                key: signed.key_fingerprint,
                not_after: signed.not_after,
            });
            tell(decision, &host_row, "enrolled");
            decision.put(host_row)?;
            decision.raise(host)?;
            if let Some(row) = row {
                decision.put(EnrolmentRow { used_by: Some(key), ..row })?;
            }
            decision.audit("host.enrol", host)?;
            Ok(Enrolled { host, certificate: signed.der })
        };
        self.decide("chom".into(), change).await.map(|(enrolled, _)| enrolled)
    }

    /// What a host that greets may do.
    ///
    /// # Errors
    /// When it may not connect at all.
    pub fn admit(&self, peer: &PeerIdentity, hello: &Hello) -> Result<Standing, FleetError> {
        if hello.host != peer.host {
            return Err(refuse(format!("it says it is {}; its certificate says {}", hello.host, peer.host)));
        }
        let state = self.state();
        let row = self.check_peer(peer)?;
        if peer.expired {
            return Ok(Standing::RenewOnly);
        }
        let epoch = state.meta.as_ref().map_or(0, |meta| meta.epoch);
        Ok(match row.standing {
            HostStanding::Forgotten | HostStanding::Quarantined => Standing::ReportOnly,
            _ if !vps::is_managed(&row, epoch) => Standing::Hold,
            _ => Standing::Managed,
        })
    }

    /// Whether a certificate opens anything, by the newest rows.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_peer(&self, peer: &PeerIdentity) -> Result<HostRow, FleetError> {
        let state = self.state();
        let Some(row) = state.get::<HostRow>(&peer.host) else {
            return Err(refuse(format!(
                "host {} is unknown here; enrol it again with a new token",
                peer.host
            )));
        };
        if row.standing == HostStanding::Revoked {
            return Err(refuse(format!("host `{}` was revoked; add it anew to let it back in", row.name)));
        }
        match &row.certificate {
            Some(certificate) if certificate.key == peer.key_fingerprint => Ok(row.clone()),
            _ => Err(refuse(format!("host `{}` has enrolled with another key since", row.name))),
        }
    }

    /// A new certificate for the key that a host has had all along. Durable when this returns.
    ///
    /// # Errors
    /// When the key is another one, the host may not connect, or the request is damaged.
    pub async fn renew(&self, peer: PeerIdentity, csr: Vec<u8>) -> Result<Vec<u8>, FleetError> {
        self.check_peer(&peer)?;
        let authorities = self.authorities();
        let signed = authorities.signing().renew_host(&csr, &peer, clock::now());
        let (signed, authority) = (signed.map_err(|error| refused(&error))?, authorities.signing_number());
        let change = move |decision: &mut crate::fleet::Decision| {
            let mut row = host_row(&decision.state, peer.host)?.clone();
            row.certificate = Some(HostCertificate {
                serial: signed.serial,
                authority,
                key: signed.key_fingerprint,
                not_after: signed.not_after,
            });
            decision.put(row)?;
            decision.audit("host.renew", peer.host)?;
            Ok(signed.der)
        };
        self.decide("chom".into(), change).await.map(|(certificate, _)| certificate)
    }

    /// What every agent should know of its fleet.
    #[must_use]
    pub fn fleet_info(&self) -> FleetInfo {
        self.authorities().fleet_info(&self.catalogue().link_addresses)
    }
}

fn refuse(detail: String) -> FleetError {
    FleetError::Refused { kind: ErrorKind::Unauthorised, detail, location: None }
}

fn refused(error: &dyn std::error::Error) -> FleetError {
    refuse(error.to_string())
}
