//! Images that are to be here before a VPS needs them.

use super::*;

/// Nothing but this one image to have, with its blob in this state; what is told of it, what is fetched, when to look again.
fn told(blob: Option<BlobState>) -> (PrefetchState, usize, Option<u64>) {
    let mut scene = Scene::new("", "");
    scene.desired.prefetch = [("tiny".parse().unwrap(), spec(1, Power::Running).image.unwrap())].into();
    scene.work.blobs = blob.map(|blob| (image(), blob)).into_iter().collect();
    let mut plan = scene.plan();
    let fetches = plan.actions.iter().filter(|action| matches!(action, Action::Fetch { .. })).count();
    assert_eq!(fetches, plan.actions.len());
    let wake = plan.wake_at.map(|at| at.seconds_since(NOW));
    (plan.prefetch.remove(&"tiny".parse().unwrap()).unwrap(), fetches, wake)
}

fn failure(retry_at: UnixMillis) -> BlobState {
    BlobState::Failed(Failure { problem: "no space left".to_owned(), count: 1, lasting: false, retry_at })
}

#[test]
fn what_is_missing_is_fetched_tried_again_in_time_and_told() {
    let failed = || PrefetchState::Failed { problem: "no space left".to_owned() };
    for (blob, expected) in [
        (None, (PrefetchState::Waiting, 1, None)),
        (Some(BlobState::Ready), (PrefetchState::Ready, 0, None)),
        (
            Some(BlobState::Fetching { percent: 40 }),
            (PrefetchState::Fetching { percent: 40 }, 0, Some(LOOK_SECONDS)),
        ),
        (Some(failure(NOW.plus_seconds(30))), (failed(), 0, Some(30))),
        (Some(failure(NOW)), (failed(), 1, None)),
    ] {
        assert_eq!(told(blob.clone()), expected, "{blob:?}");
    }
}

#[test]
fn a_vps_that_waits_for_the_same_image_has_it_fetched_once_and_a_host_that_may_only_report_fetches_nothing() {
    let mut scene = Scene::new("1 on", "");
    scene.work.blobs.clear();
    scene.desired.prefetch = [("tiny".parse().unwrap(), spec(1, Power::Running).image.unwrap())].into();
    let fetches =
        |plan: &Plan| plan.actions.iter().filter(|action| matches!(action, Action::Fetch { .. })).count();
    assert_eq!(fetches(&scene.plan()), 1);
    scene.terms.mode = Mode::ReportOnly;
    assert_eq!(fetches(&scene.plan()), 0);
}
