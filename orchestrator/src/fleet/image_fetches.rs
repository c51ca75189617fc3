//! Images that the orchestrator fetches by itself: ordered, followed, ended. What is ordered is a row, so that it goes on after
//! a restart; who does it is `images::fetcher`.

use chom_protocol::api::catalogue::{FetchImage, NewImage};
use chom_protocol::api::operations::OperationView;
use chom_protocol::{Bytes, Name, OperationId};

use crate::fleet::images::{check_texts, free_name};
use crate::fleet::rows::{Goal, ImageFetchRow, OperationRow};
use crate::fleet::state::State;
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, operations, view};
use crate::images::Received;
use crate::images::reach::{allowed, check_url, shown};

/// The largest image takes an hour and a half over 100 Mbit/s.
const FETCH_SECONDS_MAX: u64 = 6 * 60 * 60;
/// Fetches that wait or are under way.
const FETCHES_MAX: usize = 64;

impl Fleet {
    /// Orders an image to be fetched.
    ///
    /// # Errors
    /// When its name is taken, its URL cannot be fetched from, or too many are ordered already.
    pub async fn order_image_fetch(
        &self,
        caller: &Caller,
        mark: RequestMark,
        new: FetchImage,
    ) -> Result<Done<OperationView>, FleetError> {
        let url = check_url(&new.url).map_err(|problem| FleetError::invalid("/url", problem))?;
        allowed(self.catalogue().image_networks.clone())
            .check(&url)
            .map_err(|problem| FleetError::invalid("/url", problem))?;
        check_texts(new.version.as_deref(), new.default_user.as_deref())?;
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| {
            let FetchImage { name, version, engine, format, url: _, sha256, minimum_disk_mib, default_user } =
                new;
            free_name(&fleet, &decision.state, &name, "/name")?;
            if decision.state.image_fetches.len() >= FETCHES_MAX {
                return Err(FleetError::conflict(format!(
                    "{FETCHES_MAX} images are being fetched or wait for it; wait for one of them"
                )));
            }
            let first = format!("`{}` will be fetched", shown(&url));
            let goal = Goal::Fetched { image: name.clone() };
            let operation = operations::begin_own(decision, "fetch image", goal, FETCH_SECONDS_MAX, first)?;
            decision.audit("image.fetch", &name)?;
            decision.put(ImageFetchRow {
                name,
                version,
                engine,
                format,
                url: url.into(),
                sha256,
                minimum_disk: minimum_disk_mib.map(Bytes::mib),
                default_user,
                operation: operation.id,
            })?;
            Ok(view::operation(&operation))
        })
        .await
    }

    /// Notes how far a fetch is.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn note_image_fetch(
        &self,
        name: Name,
        operation: OperationId,
        message: String,
        problem: Option<String>,
    ) -> Result<(), FleetError> {
        let note = move |decision: &mut Decision| match ordered(&decision.state, &name, operation) {
            Some((_, row)) => operations::go_on(decision, row, message, problem),
            None => Ok(()),
        };
        self.decide("chom".into(), note).await.map(|((), _)| ())
    }

    /// Puts an image that was fetched into the catalogue; whether it was still wanted.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn image_fetched(
        &self,
        name: Name,
        operation: OperationId,
        received: Received,
    ) -> Result<bool, FleetError> {
        let fetched = move |decision: &mut Decision| {
            let Some((fetch, row)) = ordered(&decision.state, &name, operation) else { return Ok(false) };
            let ImageFetchRow { name, version, engine, format, sha256, minimum_disk, default_user, .. } =
                fetch;
            let new = NewImage {
                name: name.clone(),
                version,
                engine,
                format,
                sha256: Some(sha256),
                minimum_disk_mib: None,
                default_user,
            };
            let minimum_disk = minimum_disk.unwrap_or(Bytes(0)).max(received.minimum_disk);
            decision.put(super::images::row_of(new, Received { minimum_disk, ..received }, decision.now))?;
            decision.delete::<ImageFetchRow>(&name);
            operations::finish(decision, row, "it is in the catalogue").map(|_| true)
        };
        self.decide("chom".into(), fetched).await.map(|(wanted, _)| wanted)
    }

    /// Ends a fetch that cannot be done.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn image_fetch_failed(
        &self,
        name: Name,
        operation: OperationId,
        problem: String,
    ) -> Result<(), FleetError> {
        let failed = move |decision: &mut Decision| {
            let Some((fetch, row)) = ordered(&decision.state, &name, operation) else { return Ok(()) };
            decision.delete::<ImageFetchRow>(&fetch.name);
            operations::fail(decision, row, problem)
        };
        self.decide("chom".into(), failed).await.map(|((), _)| ())
    }
}

/// A fetch and its operation, if it is still this one that is wanted.
fn ordered(state: &State, name: &Name, operation: OperationId) -> Option<(ImageFetchRow, OperationRow)> {
    let fetch = state.get::<ImageFetchRow>(name).filter(|fetch| fetch.operation == operation)?;
    let row = state.get::<OperationRow>(&operation).filter(|row| !row.state.is_final())?;
    Some((fetch.clone(), row.clone()))
}
