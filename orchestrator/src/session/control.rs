//! The control stream: Welcome, then renewals and ledgers from the agent, news of the fleet to it. Watches whether the host
//! may still be connected, and ends the session at once when it may not.

use chom_protocol::host::HostSpec;
use chom_protocol::link::codec::FRAME_BYTES_MAX;
use chom_protocol::link::{Close, SpecAssembly, Standing, ToAgent, ToOrchestrator};
use quinn::SendStream;
use tracing::info;

use super::connection::{Ended, Session};
use super::frames::{FrameReader, problem, send};

/// Frames of one uploaded ledger: 10,000 VPSs at 256 KiB a part are about 40.
const LEDGER_FRAMES_MAX: usize = 64;
const _: () = assert!(LEDGER_FRAMES_MAX * FRAME_BYTES_MAX <= 64 * 1024 * 1024);

pub(super) async fn run(
    session: &Session,
    mut out: SendStream,
    mut reader: FrameReader,
) -> Result<(), Ended> {
    let (fleet, host) = (&session.link.fleet, session.admitted.peer.host);
    let mut standing = session.admitted.standing;
    // Subscribed before it is judged anew below, so that no change is missed in between.
    let mut changes = fleet.host_changes(host);
    // Of the fleet only the CAs can change while we run.
    let mut authorities = fleet.authority_changes();
    authorities.mark_unchanged();
    send(&mut out, &ToAgent::Welcome { standing, fleet: fleet.fleet_info() }).await?;
    let mut upload: Option<Upload> = None;
    if standing == Standing::Hold {
        send(&mut out, &ToAgent::LedgerWanted).await?;
    }
    changes.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = changes.changed() => { // cancel-safe
                if changed.is_err() {
                    return Ok(()); // the fleet is gone: everything stops
                }
                standing = judge(session, standing)?;
            }
            changed = authorities.changed() => { // cancel-safe
                if changed.is_err() {
                    return Ok(());
                }
                send(&mut out, &ToAgent::FleetInfo(fleet.fleet_info())).await?;
            }
            message = reader.next() => match message? { // cancel-safe
                None => return Err(Ended::Close { close: Close::Done, reason: "the agent ended its control stream".to_owned() }),
                Some(ToOrchestrator::Renew { csr }) => {
                    // Boxed, as is all that is rare here: each agent's task is as large as the largest thing it may do.
                    let renewal = Box::pin(fleet.renew(session.admitted.peer.clone(), csr));
                    let answer = match renewal.await {
                        Ok(certificate) => ToAgent::Renewed { certificate },
                        Err(error) => problem(&error),
                    };
                    send(&mut out, &answer).await?;
                }
                Some(ToOrchestrator::FleetKept { ca_bundle }) => {
                    fleet.kept_bundle(host, ca_bundle);
                    if let Some(within_seconds) = fleet.renewal_wanted(host, &session.admitted.peer.serial) {
                        send(&mut out, &ToAgent::RenewWanted { within_seconds }).await?;
                    }
                }
                Some(message) => {
                    if let Some(ledger) = assemble(&mut upload, message, standing)? {
                        Box::pin(take_ledger(session, ledger)).await?;
                    }
                }
            },
        }
    }
}

/// What the host may do now. A session whose host may do something else ends; the agent hears it when it dials again. A host
/// that is no longer held needs no word: its next desired state frees it.
fn judge(session: &Session, before: Standing) -> Result<Standing, Ended> {
    let now = session.admitted.judge(&session.link.fleet)?;
    match (before, now) {
        (before, now) if before == now => Ok(now),
        (Standing::Hold, Standing::Managed) => Ok(now),
        _ => Err(Ended::Close {
            close: Close::Standing,
            reason: "what this host may do has changed".to_owned(),
        }),
    }
}

/// A ledger on its way.
struct Upload {
    assembly: SpecAssembly,
    frames: usize,
}

/// Takes a part of a ledger; gives the ledger when it is whole.
fn assemble(
    upload: &mut Option<Upload>,
    message: ToOrchestrator,
    standing: Standing,
) -> Result<Option<HostSpec>, Ended> {
    let broken = |error: chom_protocol::link::SpecError| Ended::protocol(crate::chain(&error));
    match (message, upload.take()) {
        // A host that was held a moment ago may be sending still.
        (ToOrchestrator::LedgerBegin(begin), None)
            if matches!(standing, Standing::Hold | Standing::Managed) =>
        {
            let assembly = SpecAssembly::begin(begin).map_err(broken)?;
            *upload = Some(Upload { assembly, frames: 0 });
            Ok(None)
        }
        (ToOrchestrator::LedgerPart(part), Some(mut under_way)) => {
            under_way.frames += 1;
            if under_way.frames > LEDGER_FRAMES_MAX {
                return Err(Ended::protocol(format!("a ledger of more than {LEDGER_FRAMES_MAX} parts")));
            }
            under_way.assembly.add(part).map_err(broken)?;
            *upload = Some(under_way);
            Ok(None)
        }
        (ToOrchestrator::LedgerEnd { digest }, Some(under_way)) => {
            under_way.assembly.finish(digest).map(Some).map_err(broken)
        }
        _ => Err(Ended::protocol("a message that does not belong on the control stream, or not now")),
    }
}

async fn take_ledger(session: &Session, ledger: HostSpec) -> Result<(), Ended> {
    let host = session.admitted.peer.host;
    if ledger.host != host {
        return Err(Ended::protocol(format!("the ledger is host {}'s, not this host's", ledger.host)));
    }
    info!(%host, generation = %ledger.generation, "a host uploaded its ledger");
    session.link.fleet.ledger(host, ledger).await.map_err(|error| Ended::Close {
        // The agent uploads it again when it comes back.
        close: Close::Slow,
        reason: crate::chain(&error),
    })
}
