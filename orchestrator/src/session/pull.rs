//! The pull stream: waits until the host's desired state is another than the agent has, sends it whole, and hears whether it
//! was taken. Level-triggered: what is sent is what is newest when it is sent.

use std::time::Duration;

use chom_protocol::Generation;
use chom_protocol::host::HostSpec;
use chom_protocol::link::v1::spec_parts;
use chom_protocol::link::{Close, ToAgent, ToOrchestrator};
use quinn::SendStream;
use tokio::time::timeout;

use super::connection::{Ended, Session};
use super::frames::{FrameReader, send};

/// The agent has so long to write its ledger: an fsync on a disk that is being backed up takes seconds.
const ACCEPT_SECONDS_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(
    session: &Session,
    mut out: SendStream,
    mut reader: FrameReader,
    mut have: Generation,
) -> Result<(), Ended> {
    let (fleet, host) = (&session.link.fleet, session.admitted.peer.host);
    let mut changes = fleet.host_changes(host);
    let mut refused = None;
    loop {
        let spec = loop {
            changes.mark_unchanged();
            match fleet.spec(host) {
                // What was refused once will be refused again: only a newer one is worth the sending.
                Some(spec) if spec.generation != have && Some(spec.generation) != refused => break spec,
                _ => {}
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { // cancel-safe
                    return Ok(()); // the fleet is gone: everything stops
                },
                // The agent has nothing to say here but that it ends the stream.
                message = reader.next() => return match message? { // cancel-safe
                    None => Ok(()),
                    Some(_) => Err(Ended::protocol("the pull stream said something before it was answered")),
                },
            }
        };
        let generation = spec.generation;
        send_spec(&mut out, &spec).await?;
        drop(spec);
        match timeout(ACCEPT_SECONDS_MAX, reader.next()).await {
            Err(_) => {
                let reason = format!("desired state {generation} was neither accepted nor refused in time");
                return Err(Ended::Close { close: Close::Slow, reason });
            }
            Ok(message) => match message? {
                Some(ToOrchestrator::Accepted { generation: taken }) if taken == generation => {
                    fleet.accepted(host, generation);
                }
                Some(ToOrchestrator::Refused { generation: not_taken, problem })
                    if not_taken == generation =>
                {
                    fleet.refused(host, generation, &problem);
                    refused = Some(generation);
                }
                None => return Ok(()),
                Some(_) => {
                    return Err(Ended::protocol("a desired state must be answered with Accepted or Refused"));
                }
            },
        }
        have = match reader.next().await? {
            Some(ToOrchestrator::Pull { have }) => have,
            None => return Ok(()),
            Some(_) => {
                return Err(Ended::protocol("the pull stream takes Pull, Accepted and Refused, in turn"));
            }
        };
    }
}

async fn send_spec(out: &mut SendStream, spec: &HostSpec) -> Result<(), Ended> {
    let (begin, parts, digest) = spec_parts(spec);
    send(out, &ToAgent::SpecBegin(begin)).await?;
    for part in parts {
        send(out, &ToAgent::SpecPart(part)).await?;
    }
    send(out, &ToAgent::SpecEnd { digest }).await?;
    Ok(())
}
