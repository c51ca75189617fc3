//! The pull stream: asks for what is newer than the ledger, takes it whole or not at all, and says so only once it is on
//! disk.

use std::sync::Arc;

use chom_protocol::link::{SpecAssembly, SpecBegin, ToAgent, ToOrchestrator};
use quinn::{Connection, RecvStream};
use tracing::{info, warn};

use super::LinkError;
use super::frames::{FrameError, answer, send, wait};
use crate::chain::Chain;
use crate::ledger::Ledger;

const STREAM: &str = "pull";

/// Pulls until the connection ends.
pub(super) async fn run(connection: &Connection, ledger: &Arc<Ledger>) -> Result<(), LinkError> {
    let (mut out, mut back) = connection.open_bi().await?;
    loop {
        send(&mut out, &ToOrchestrator::Pull { have: ledger.desired().generation() }).await?;
        let begin = match wait(&mut back).await? {
            Some(ToAgent::SpecBegin(begin)) => begin,
            Some(_) => return Err(FrameError::Unexpected { stream: STREAM }.into()),
            None => return Err(FrameError::Ended.into()),
        };
        let generation = begin.generation;
        let reply = match receive(&mut back, begin, ledger).await? {
            Ok(()) => {
                info!(%generation, "desired state taken");
                ToOrchestrator::Accepted { generation }
            }
            Err(problem) => {
                warn!(%generation, problem, "desired state refused");
                ToOrchestrator::Refused { generation, problem }
            }
        };
        send(&mut out, &reply).await?;
    }
}

/// Reads a whole desired state; the inner error is for the orchestrator, the outer one ends the connection.
async fn receive(
    back: &mut RecvStream,
    begin: SpecBegin,
    ledger: &Arc<Ledger>,
) -> Result<Result<(), String>, LinkError> {
    // A part too many is refused only once all has been read, so that the stream stays in step.
    let mut assembly = SpecAssembly::begin(begin);
    let digest = loop {
        match answer(back).await? {
            ToAgent::SpecPart(part) => {
                assembly = assembly.and_then(|mut so_far| so_far.add(part).map(|()| so_far));
            }
            ToAgent::SpecEnd { digest } => break digest,
            _ => return Err(FrameError::Unexpected { stream: STREAM }.into()),
        }
    };
    let spec = match assembly.and_then(|assembly| assembly.finish(digest)) {
        Ok(spec) => spec,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let ledger = Arc::clone(ledger);
    let accepted = tokio::task::spawn_blocking(move || ledger.accept(spec)).await;
    let accepted = accepted.map_err(|_| LinkError::Internal)?;
    Ok(accepted.map_err(|error| Chain(&error).to_string()))
}
