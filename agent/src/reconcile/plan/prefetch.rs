//! Images to have here before a VPS needs them. Fetched after what VPSs wait for; what came stays, because desired state names it
//! (see `image/sweep.rs`).

use chom_protocol::host::{HostSpec, PrefetchState};

use super::{Action, BlobState, Input, LOOK_SECONDS, Plan};

/// Fetches what is missing, and says how far each image is.
pub(super) fn plan(input: &Input<'_>, desired: &HostSpec, plan: &mut Plan) {
    for (name, image) in &desired.prefetch {
        let fetch = Action::Fetch { sha256: image.sha256, size: image.size, what: format!("image {name}") };
        let (state, fetches) = match input.work.blobs.get(&image.sha256) {
            Some(BlobState::Ready) => (PrefetchState::Ready, false),
            Some(BlobState::Fetching { percent }) => {
                plan.wake(input.terms.now.plus_seconds(LOOK_SECONDS));
                (PrefetchState::Fetching { percent: *percent }, false)
            }
            Some(BlobState::Failed(failure)) => {
                let waits = input.terms.now < failure.retry_at;
                if waits {
                    plan.wake(failure.retry_at);
                }
                (PrefetchState::Failed { problem: failure.problem.clone() }, !waits)
            }
            None => (PrefetchState::Waiting, true),
        };
        let is_planned = plan
            .actions
            .iter()
            .any(|action| matches!(action, Action::Fetch { sha256, .. } if *sha256 == image.sha256));
        if fetches && !is_planned {
            plan.actions.push(fetch);
        }
        plan.prefetch.insert(name.clone(), state);
    }
}
