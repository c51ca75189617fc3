//! The image catalogue: the configuration's images, which are fixed, and rows that are added and removed while the fleet
//! runs. A VPS's row holds what it was made from, so that nothing changes under a VPS that is there.

use chom_protocol::api::catalogue::{IMAGE_TEXT_CHARACTERS_MAX, ImageSource, ImageView, NewImage};
use chom_protocol::{Bytes, HostId, Name, UnixMillis};

use crate::clock::rfc3339;
use crate::fleet::catalogue::Image;
use crate::fleet::hosts::unknown;
use crate::fleet::rows::{HostRow, ImageFetchRow, ImageRow, VpsRow};
use crate::fleet::state::State;
use crate::fleet::{Caller, Done, ErrorKind, Fleet, FleetError, RequestMark, check_revision};
use crate::images::Received;

/// VPSs that are named when an image cannot be removed for them.
const USERS_NAMED_MAX: usize = 10;

impl Fleet {
    /// An image by its name, as of a state.
    #[must_use]
    pub fn image(&self, state: &State, name: &Name) -> Option<Image> {
        let fixed = self.catalogue().images.get(name).cloned();
        fixed.or_else(|| state.get::<ImageRow>(name).map(image_of))
    }

    /// An image that a request names.
    ///
    /// # Errors
    /// When there is none, with the names that there are.
    pub(super) fn known_image(&self, state: &State, name: &Name) -> Result<Image, FleetError> {
        self.image(state, name)
            .ok_or_else(|| unknown("/image", "image", name, self.image_names(state).iter()))
    }

    /// The names of all images, in order.
    #[must_use]
    pub fn image_names(&self, state: &State) -> Vec<Name> {
        let mut names: Vec<Name> =
            self.catalogue().images.keys().chain(state.images.keys()).cloned().collect();
        names.sort_unstable();
        names
    }

    /// An image as the API shows it.
    #[must_use]
    pub fn image_view(&self, state: &State, name: &Name) -> Option<ImageView> {
        let image = self.image(state, name)?;
        let row = state.images.get(name);
        let users = users(state, &image);
        Some(ImageView {
            name: name.clone(),
            version: row.and_then(|stored| stored.row.version.clone()),
            engine: image.engine,
            format: image.reference.format,
            sha256: image.reference.sha256,
            size_bytes: image.reference.size,
            minimum_disk_bytes: image.minimum_disk,
            default_user: row.and_then(|stored| stored.row.default_user.clone()),
            default: self.catalogue().default_images.contains(name),
            source: if row.is_some() { ImageSource::Added } else { ImageSource::Configuration },
            vps_count: u32::try_from(users.count()).unwrap_or(u32::MAX),
            added_at: row.map(|stored| rfc3339(stored.row.added_at)),
            revision: row.map_or(0, |stored| stored.revision.0),
        })
    }

    /// Refuses an image that cannot be added, before its bytes are sent.
    ///
    /// # Errors
    /// When its name is taken or its texts are too long.
    pub fn check_new_image(&self, new: &NewImage) -> Result<(), FleetError> {
        free_name(self, &self.state(), &new.name, "name")?;
        check_texts(new.version.as_deref(), new.default_user.as_deref())
    }

    /// Adds an image whose bytes were received.
    ///
    /// # Errors
    /// When its name is taken.
    pub async fn add_image(
        &self,
        caller: &Caller,
        mark: RequestMark,
        new: NewImage,
        received: Received,
    ) -> Result<Done<ImageView>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, _| {
            free_name(&fleet, &decision.state, &new.name, "name")?;
            let row = row_of(new, received, decision.now);
            let name = row.name.clone();
            decision.put(row)?;
            decision.audit("image.add", &name)?;
            fleet.image_view(&decision.state, &name).ok_or_else(|| FleetError::not_found("image", &name))
        })
        .await
    }

    /// Removes an image from the catalogue. Gives it as it was, and whether its bytes are still another image's.
    ///
    /// # Errors
    /// When there is none, it is the configuration's, or VPSs were made from it.
    pub async fn remove_image(
        &self,
        caller: &Caller,
        mark: RequestMark,
        name: Name,
    ) -> Result<Done<ImageView>, FleetError> {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            if fleet.catalogue().images.contains_key(&name) {
                return Err(FleetError::conflict(format!(
                    "image `{name}` is the configuration's; take it out there and restart the orchestrator"
                )));
            }
            let stored = decision.state.images.get(&name).cloned();
            let stored = stored.ok_or_else(|| FleetError::not_found("image", &name))?;
            check_revision(mark, stored.revision)?;
            let image = image_of(&stored.row);
            let users: Vec<&str> =
                users(&decision.state, &image).take(USERS_NAMED_MAX + 1).map(|row| row.spec.name.as_str()).collect();
            if !users.is_empty() {
                let more = if users.len() > USERS_NAMED_MAX { " and more" } else { "" };
                let named = users[..users.len().min(USERS_NAMED_MAX)].join(", ");
                return Err(FleetError::conflict(format!(
                    "VPSs need image `{name}`, deleted ones that are kept included: {named}{more}; purge them or detach it first"
                )));
            }
            let keeping = hosts_keeping(&decision.state, &name);
            if !keeping.is_empty() {
                return Err(FleetError::conflict(format!(
                    "{} hosts are to have image `{name}` ready, such as {}; take that back with `chomctl image unprefetch`",
                    keeping.len(),
                    keeping[0]
                )));
            }
            let shown = fleet.image_view(&decision.state, &name);
            decision.delete::<ImageRow>(&name);
            decision.audit("image.remove", &name)?;
            shown.ok_or_else(|| FleetError::not_found("image", &name))
        })
        .await
    }

    /// Whether an image of the catalogue has this content.
    #[must_use]
    pub fn is_image(&self, sha256: chom_protocol::vps::Sha256) -> bool {
        let state = self.state();
        let added = state.images.values().any(|stored| stored.row.sha256 == sha256);
        added || self.catalogue().images.values().any(|image| image.reference.sha256 == sha256)
    }
}

/// The VPSs that need an image: their disk begins with it, or they boot from it. Retained ones included.
fn users<'a>(state: &'a State, image: &Image) -> impl Iterator<Item = &'a VpsRow> {
    let sha256 = image.reference.sha256;
    let rows = state.vps.values().map(|stored| stored.row.as_ref());
    rows.filter(move |row| row.spec.images().any(|image| image.sha256 == sha256))
}

/// The hosts that are to have an image before a VPS needs it.
fn hosts_keeping(state: &State, name: &Name) -> Vec<String> {
    let rows = state.prefetches.values().filter(|stored| stored.row.images.contains_key(name));
    let name = |host: &HostId| {
        state.get::<HostRow>(host).map_or_else(|| host.to_string(), |row| row.name.to_string())
    };
    rows.map(|stored| name(&stored.row.host)).collect()
}

/// Refuses a name that an image has or is going to have.
pub(super) fn free_name(
    fleet: &Fleet,
    state: &State,
    name: &Name,
    location: &'static str,
) -> Result<(), FleetError> {
    let detail = match (fleet.image(state, name), state.get::<ImageFetchRow>(name)) {
        (None, None) => return Ok(()),
        (None, Some(fetch)) => format!(
            "an image named `{name}` is being fetched (operation {}); wait for it or cancel it",
            fetch.operation
        ),
        (Some(_), _) => {
            format!(
                "an image named `{name}` is there already; choose another name, such as one with a version"
            )
        }
    };
    Err(FleetError::Refused { kind: ErrorKind::Conflict, detail, location: Some(location) })
}

/// Refuses texts that are too long or no text.
pub(super) fn check_texts(version: Option<&str>, default_user: Option<&str>) -> Result<(), FleetError> {
    for (location, text) in [("version", version), ("default_user", default_user)] {
        let Some(text) = text else { continue };
        let characters = text.chars().count();
        if characters > IMAGE_TEXT_CHARACTERS_MAX {
            let detail = format!("{characters} characters; at most {IMAGE_TEXT_CHARACTERS_MAX} are allowed");
            return Err(FleetError::invalid(location, detail));
        }
        if characters == 0 || text.chars().any(char::is_control) {
            return Err(FleetError::invalid(location, "give a line of text, or leave it out"));
        }
    }
    Ok(())
}

/// The row of an image whose bytes are there.
pub(super) fn row_of(new: NewImage, received: Received, added_at: UnixMillis) -> ImageRow {
    let NewImage { name, version, engine, format, sha256: _, minimum_disk_mib, default_user } = new;
    let Received { sha256, size, minimum_disk } = received;
    let minimum_disk = minimum_disk_mib.map_or(Bytes(0), Bytes::mib).max(minimum_disk);
    ImageRow { name, version, engine, format, sha256, size, minimum_disk, default_user, added_at }
}

fn image_of(row: &ImageRow) -> Image {
    let reference = chom_protocol::vps::ImageReference {
        name: row.name.clone(),
        sha256: row.sha256,
        size: row.size,
        format: row.format,
    };
    Image { reference, engine: row.engine, minimum_disk: row.minimum_disk }
}
