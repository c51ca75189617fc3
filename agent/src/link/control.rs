//! The control stream: who we are, what we may do, renewals, news of the fleet, and the ledger when it is wanted.

use std::sync::Arc;

use chom_certs::{CaBundle, renew};
use chom_protocol::host::HostSpec;
use chom_protocol::link::v1::spec_parts;
use chom_protocol::link::{FleetInfo, Hello, Standing, ToAgent, ToOrchestrator};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::{info, warn};

use super::frames::{ANSWER_SECONDS_MAX, FrameError, answer, send, wait};
use super::{Link, LinkError};
use crate::chain::Chain;
use crate::clock;
use crate::ledger::Ledger;
use crate::reconcile::memory::Mode;

const STREAM: &str = "control";
/// A renewal that was refused is asked for again this much later: there are ten days left.
const RENEW_AGAIN: Duration = Duration::from_secs(10 * 60);
/// Renewal times are looked at anew this often: the wall clock may step.
const RENEW_LOOK: Duration = Duration::from_secs(60 * 60);
/// Messages of the orchestrator not yet looked at.
const MESSAGES_MAX: usize = 4;

/// The two halves of an open control stream.
pub(super) struct Control {
    out: SendStream,
    back: RecvStream,
    pub(super) standing: Standing,
}

/// Says who we are and hears what we may do.
pub(super) async fn open(link: &Link, connection: &Connection) -> Result<Control, LinkError> {
    let (mut out, mut back) = connection.open_bi().await?;
    let hello = Hello {
        host: link.host,
        instance: link.instance,
        boot: link.boot,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        accepted: link.ledger.desired().generation(),
    };
    send(&mut out, &ToOrchestrator::Hello(hello)).await?;
    let (standing, fleet) = match answer(&mut back).await? {
        ToAgent::Welcome { standing, fleet } => (standing, fleet),
        ToAgent::Problem { problem } => return Err(FrameError::Problem { problem }.into()),
        _ => return Err(FrameError::Unexpected { stream: STREAM }.into()),
    };
    keep_fleet(link, fleet, &mut out).await?;
    let mode = match standing {
        Standing::Managed => Some(Mode::Managed),
        Standing::ReportOnly => Some(Mode::ReportOnly),
        Standing::Hold => Some(Mode::Hold { since: link.ledger.desired().generation() }),
        Standing::RenewOnly => None,
    };
    if let Some(mode) = mode {
        let ledger = Arc::clone(&link.ledger);
        spawn_blocking(move || ledger.set_mode(mode)).await.map_err(|_| LinkError::Internal)??;
    }
    Ok(Control { out, back, standing })
}

/// Serves the control stream until the connection ends; `Ok` means that a new certificate wants a new connection.
pub(super) async fn run(link: &Link, control: Control) -> Result<(), LinkError> {
    let Control { mut out, mut back, standing } = control;
    let (sender, mut messages) = mpsc::channel(MESSAGES_MAX);
    // Reading is not cancel-safe, so it has a future of its own.
    let read = async {
        loop {
            let Some(message) = wait(&mut back).await? else { return Err(FrameError::Ended.into()) };
            if sender.send(message).await.is_err() {
                return Ok::<(), LinkError>(());
            }
        }
    };
    let act = async {
        let (mut waiting_for_certificate, mut wanted) = (false, false);
        let mut look_at = Instant::now();
        loop {
            tokio::select! {
                message = messages.recv() => match message { // cancel-safe
                    None => return Err(LinkError::Internal),
                    Some(ToAgent::Renewed { certificate }) => {
                        install(link, certificate).await?;
                        return Ok(());
                    }
                    Some(ToAgent::FleetInfo(fleet)) => keep_fleet(link, fleet, &mut out).await?,
                    Some(ToAgent::RenewWanted { within_seconds }) if !waiting_for_certificate => {
                        wanted = true;
                        look_at = Instant::now() + within(within_seconds);
                    }
                    // It is on its way already.
                    Some(ToAgent::RenewWanted { .. }) => {}
                    Some(ToAgent::LedgerWanted) => upload(&link.ledger, &mut out).await?,
                    Some(ToAgent::Problem { problem }) if waiting_for_certificate => {
                        warn!(problem, "the certificate was not renewed; it is asked for again");
                        waiting_for_certificate = false;
                        look_at = Instant::now() + RENEW_AGAIN;
                    }
                    Some(_) => return Err(FrameError::Unexpected { stream: STREAM }.into()),
                },
                () = sleep_until(look_at) => {
                    if waiting_for_certificate {
                        return Err(FrameError::Slow.into());
                    }
                    look_at = Instant::now() + RENEW_LOOK;
                    if let Some(csr) = renewal(link, standing, wanted).await? {
                        send(&mut out, &ToOrchestrator::Renew { csr }).await?;
                        waiting_for_certificate = true;
                        look_at = Instant::now() + ANSWER_SECONDS_MAX;
                    }
                }
            }
        }
    };
    tokio::select! {
        ended = read => ended,
        ended = act => ended,
    }
}

/// A random moment within so many seconds.
fn within(seconds: u32) -> Duration {
    let share = u64::from_be_bytes(super::random_bytes()) % 1000;
    Duration::from_millis(u64::from(seconds) * share)
}

/// The request for the next certificate, if it is time or wanted.
async fn renewal(link: &Link, standing: Standing, wanted: bool) -> Result<Option<Vec<u8>>, LinkError> {
    let identity = link.identity.lock().await;
    let certificate = identity.certificate();
    let due = renew::renewal_due(certificate.not_before, certificate.not_after, link.host, clock::now());
    if !due && !wanted && standing != Standing::RenewOnly {
        return Ok(None);
    }
    identity.csr_der().map(Some).map_err(LinkError::Identity)
}

async fn install(link: &Link, certificate: Vec<u8>) -> Result<(), LinkError> {
    let identity = Arc::clone(&link.identity).lock_owned().await;
    let installed = spawn_blocking(move || {
        let mut identity = identity;
        identity.replace_certificate(&certificate).map(|()| identity.certificate().serial.clone())
    });
    let serial = installed.await.map_err(|_| LinkError::Internal)?.map_err(LinkError::Identity)?;
    info!(%serial, "the host's certificate was renewed");
    Ok(())
}

/// Keeps what the fleet says of itself, and says which CAs are trusted from now on. A bundle or address that cannot be
/// right is not taken, and said.
async fn keep_fleet(link: &Link, fleet: FleetInfo, out: &mut SendStream) -> Result<(), LinkError> {
    let FleetInfo { orchestrators, ca_bundle } = fleet;
    match CaBundle::new(ca_bundle) {
        Err(error) => {
            warn!(error = %Chain(&error), "the orchestrator sent a CA bundle that cannot be used; the old one stays")
        }
        Ok(bundle) => {
            let identity = Arc::clone(&link.identity).lock_owned().await;
            if *identity.bundle() != bundle {
                let replaced = spawn_blocking(move || {
                    let mut identity = identity;
                    identity.replace_bundle(bundle)
                });
                replaced.await.map_err(|_| LinkError::Internal)?.map_err(LinkError::Identity)?;
                info!("the fleet's CA bundle changed");
            }
        }
    }
    let ca_bundle = link.identity.lock().await.bundle().digest();
    send(out, &ToOrchestrator::FleetKept { ca_bundle }).await?;
    let good: Vec<String> =
        orchestrators.into_iter().filter(|address| chom_certs::join::is_address(address)).collect();
    if good.is_empty() || *link.addresses.borrow() == good {
        return Ok(());
    }
    let (folder, addresses) = (link.state_folder.clone(), good.clone());
    let saved = spawn_blocking(move || Ledger::save_orchestrators(&folder, &addresses));
    saved.await.map_err(|_| LinkError::Internal)??;
    info!(addresses = ?good, "the orchestrators' addresses changed");
    link.addresses.send_replace(good);
    Ok(())
}

async fn upload(ledger: &Ledger, out: &mut SendStream) -> Result<(), LinkError> {
    let Some(spec) = ledger.desired().spec else {
        info!("the orchestrator wants the ledger; nothing was accepted here yet");
        return Ok(());
    };
    let spec: &HostSpec = &spec;
    let (begin, parts, digest) = spec_parts(spec);
    send(out, &ToOrchestrator::LedgerBegin(begin)).await?;
    for part in parts {
        send(out, &ToOrchestrator::LedgerPart(part)).await?;
    }
    send(out, &ToOrchestrator::LedgerEnd { digest }).await?;
    info!(generation = %spec.generation, "uploaded the ledger");
    Ok(())
}
