//! Streams of one request and one answer: status, results, samples, fetch.

use std::sync::Arc;
use std::time::Duration;

use chom_protocol::link::{Standing, ToAgent, ToOrchestrator};
use chom_protocol::vps::Sha256;
use chom_protocol::{Bytes, HostId};
use quinn::SendStream;
use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::connection::{Ended, Session};
use super::frames::{answer, problem, send, send_bytes};
use crate::clock;
use crate::images::OpenImage;

/// Read and sent at once of an image.
const CHUNK_BYTES: usize = 64 * 1024;
/// A fetch waits so long for its turn; then the agent is told to come again.
const FETCH_TURN_SECONDS_MAX: Duration = Duration::from_secs(20);
/// The application error of a stream whose bytes end too early: the agent keeps what came and asks for the rest.
const RESET_CUT: u32 = 1;

pub(super) async fn run(session: &Session, out: SendStream, request: ToOrchestrator) -> Result<(), Ended> {
    let (link, host) = (&session.link, session.admitted.peer.host);
    link.fleet.seen(host);
    match request {
        ToOrchestrator::Status(status) => {
            let outcome = link.fleet.observe(host, *status).await;
            acknowledge(out, outcome).await
        }
        // An error is no acknowledgement: the agent keeps the results and sends them again.
        ToOrchestrator::Results(results) => {
            let outcome = link.fleet.results(host, results).await;
            acknowledge(out, outcome).await
        }
        ToOrchestrator::Samples(samples) => {
            link.history.record(host, samples, clock::now());
            Ok(answer(out, &ToAgent::Acknowledged).await?)
        }
        ToOrchestrator::Fetch { sha256, offset } => fetch(session, out, sha256, offset).await,
        ToOrchestrator::Hello(_)
        | ToOrchestrator::Renew { .. }
        | ToOrchestrator::LedgerBegin(_)
        | ToOrchestrator::LedgerPart(_)
        | ToOrchestrator::LedgerEnd { .. }
        | ToOrchestrator::Pull { .. }
        | ToOrchestrator::Accepted { .. }
        | ToOrchestrator::Refused { .. }
        | ToOrchestrator::FleetKept { .. }
        | ToOrchestrator::Enrol { .. } => {
            Err(Ended::protocol("a stream began with a message that begins none"))
        }
    }
}

async fn acknowledge(out: SendStream, outcome: Result<(), crate::fleet::FleetError>) -> Result<(), Ended> {
    let message = match outcome {
        Ok(()) => ToAgent::Acknowledged,
        Err(error) => problem(&error),
    };
    Ok(answer(out, &message).await?)
}

async fn fetch(session: &Session, mut out: SendStream, sha256: Sha256, offset: Bytes) -> Result<(), Ended> {
    if session.admitted.standing == Standing::ReportOnly {
        return refuse(out, "this host may only report; it is out of the fleet or quarantined").await;
    }
    let Ok(Ok(_turn)) = timeout(FETCH_TURN_SECONDS_MAX, session.link.fetches.acquire()).await else {
        return refuse(out, "the orchestrator is sending to as many hosts as it can; ask again").await;
    };
    if let Some(blob) = session.link.fleet.blob(sha256) {
        return send_blob(out, &blob, offset).await;
    }
    let images = Arc::clone(&session.link.images);
    let opened = spawn_blocking(move || images.open(&sha256, offset.0)).await;
    match opened {
        Ok(Some(Ok(image))) => send_image(&mut out, image, offset.0, session.admitted.peer.host).await,
        Ok(Some(Err(error))) => refuse(out, &crate::chain(&error)).await,
        Ok(None) => {
            let problem = format!("the orchestrator has no image or document {sha256} (any more)");
            refuse(out, &problem).await
        }
        Err(_) => refuse(out, "the orchestrator is shutting down; ask again").await,
    }
}

async fn refuse(out: SendStream, problem: &str) -> Result<(), Ended> {
    Ok(answer(out, &ToAgent::Problem { problem: problem.to_owned() }).await?)
}

async fn send_blob(mut out: SendStream, blob: &[u8], offset: Bytes) -> Result<(), Ended> {
    let rest = usize::try_from(offset.0).ok().and_then(|offset| blob.get(offset..));
    let Some(rest) = rest else {
        return refuse(
            out,
            &format!("the document has {} bytes; nothing is behind {}", blob.len(), offset.0),
        )
        .await;
    };
    send(&mut out, &ToAgent::Blob { size: Bytes(blob.len() as u64) }).await?;
    send_bytes(&mut out, rest).await?;
    // Fails only on a stream that was ended before, which this one was not.
    let _ = out.finish();
    Ok(())
}

async fn send_image(out: &mut SendStream, image: OpenImage, offset: u64, host: HostId) -> Result<(), Ended> {
    let OpenImage { file, size } = image;
    send(out, &ToAgent::Blob { size: Bytes(size) }).await?;
    let mut file = tokio::fs::File::from_std(file).take(size - offset);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut left = size - offset;
    while left > 0 {
        match file.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => {
                send_bytes(out, &buffer[..count]).await?;
                left -= count as u64;
            }
            Err(error) => {
                tracing::error!(%host, %error, "cannot read an image while it is sent");
                break;
            }
        }
    }
    // A stream that ends early must not look whole. Both fail only on a stream that was ended before.
    let _ = if left == 0 { out.finish() } else { out.reset(RESET_CUT.into()) };
    Ok(())
}
