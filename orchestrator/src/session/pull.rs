//! The pull stream: waits until the host's desired state is another than the agent has, sends it whole, and hears whether it
//! was taken. Level-triggered: what is sent is what is newest when it is sent.

use std::time::Duration;

use chom_protocol::Generation;
use chom_protocol::host::HostSpec;
use chom_protocol::link::v1::spec_parts;
use chom_protocol::link::{Close, ToAgent, ToOrchestrator};
use quinn::SendStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Ended, Session};
use super::frames::{FrameReader, send};

/// The agent has so long to write its ledger: an fsync on a disk that is being backed up takes seconds.
const ACCEPT_SECONDS_MAX: Duration = Duration::from_secs(60);
/// What was refused is offered again after so long: a disk that was full may have space again. A refusal for good costs
/// no more than this then.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

pub(super) async fn run(
    session: &Session,
    mut out: SendStream,
    mut reader: FrameReader,
    mut have: Generation,
) -> Result<(), Ended> {
    let (fleet, host) = (&session.link.fleet, session.admitted.peer.host);
    let mut changes = fleet.host_changes(host);
    let mut refused: Option<(Generation, Instant)> = None;
    loop {
        let spec = loop {
            changes.mark_unchanged();
            let is_refused = |generation| refused.is_some_and(|(not_taken, _)| not_taken == generation);
            match fleet.spec(host) {
                // What was refused would be refused again at once: a newer one goes now, the same one after a pause.
                Some(spec) if spec.generation != have && !is_refused(spec.generation) => break spec,
                _ => {}
            }
            let pause_ends = refused.map_or_else(Instant::now, |(_, at)| at + REFUSED_PAUSE);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { // cancel-safe
                    return Ok(()); // the fleet is gone: everything stops
                },
                () = sleep_until(pause_ends), if refused.is_some() => refused = None, // cancel-safe
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
                    refused = Some((generation, Instant::now()));
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
