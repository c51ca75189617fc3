//! What a VM boots besides its own disk: rescue mode and the CD-ROM drive. Desired state, not jobs: the host does what is
//! still to do, whatever happened in between.

use chom_protocol::Name;
use chom_protocol::VpsId;
use chom_protocol::api::snapshots::{AttachIso, Rescue};
use chom_protocol::api::vps_servers::VpsAccepted;
use chom_protocol::vps::{Engine, ImageFormat, ImageReference, IsoMedium};

use crate::fleet::rows::{Goal, VpsRow};
use crate::fleet::snapshots::usable;
use crate::fleet::{Caller, Decision, Done, Fleet, FleetError, RequestMark, operations, vps};

impl Fleet {
    /// Boots a VPS from a rescue image, its own disk attached as the second one.
    ///
    /// # Errors
    /// When there is no such VPS or image, or the VPS's state or engine does not allow it.
    pub async fn rescue(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: Rescue,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.change(caller, mark, vps, "rescue", move |fleet, decision, row| {
            let image = match &request.image {
                None => row.spec.image.clone().ok_or_else(|| {
                    FleetError::invalid("/image", "it has no image of its own: name one to boot")
                })?,
                Some(name) => bootable(fleet, decision, row, name)?,
            };
            row.spec.rescue = Some(image);
            Ok(boots_anew(row))
        })
        .await
    }

    /// Boots a VPS from its own disk again.
    ///
    /// # Errors
    /// When there is no such VPS, it is not in rescue mode, or its state does not allow it.
    pub async fn unrescue(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.change(caller, mark, vps, "unrescue", |_, _, row| {
            if row.spec.rescue.take().is_none() {
                return Err(FleetError::conflict(format!("VPS `{}` is not in rescue mode", row.spec.name)));
            }
            Ok(boots_anew(row))
        })
        .await
    }

    /// Puts a medium into the CD-ROM drive.
    ///
    /// # Errors
    /// When there is no such VPS or medium, or the VPS's state or engine does not allow it.
    pub async fn attach_iso(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        request: AttachIso,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.change(caller, mark, vps, "attach iso", move |fleet, decision, row| {
            let AttachIso { image, boot_first } = request;
            let image = fleet.known_image(&decision.state, &image)?.reference;
            if image.format != ImageFormat::Iso {
                return Err(FleetError::invalid(
                    "/image",
                    format!("`{}` is a disk image; name an image of format `iso`", image.name),
                ));
            }
            row.spec.iso = Some(IsoMedium { image, boot_first });
            Ok(Goal::Settled)
        })
        .await
    }

    /// Takes the medium out of the CD-ROM drive.
    ///
    /// # Errors
    /// When there is no such VPS, its drive is empty, or its state does not allow it.
    pub async fn detach_iso(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
    ) -> Result<Done<VpsAccepted>, FleetError> {
        self.change(caller, mark, vps, "detach iso", |_, _, row| match row.spec.iso.take() {
            Some(_) => Ok(Goal::Settled),
            None => {
                Err(FleetError::conflict(format!("the CD-ROM drive of VPS `{}` is empty", row.spec.name)))
            }
        })
        .await
    }

    async fn change<F>(
        &self,
        caller: &Caller,
        mark: RequestMark,
        vps: VpsId,
        kind: &'static str,
        change: F,
    ) -> Result<Done<VpsAccepted>, FleetError>
    where
        F: FnOnce(&Self, &Decision, &mut VpsRow) -> Result<Goal, FleetError> + Send + 'static,
    {
        let fleet = self.clone();
        self.mutate(caller, mark, move |decision, mark| {
            let mut row = usable(decision, mark, vps)?;
            refuse_containers(&row, kind)?;
            vps::not_adopted(&row, "what it boots is in its own definition, which stays its owner's")?;
            let goal = change(&fleet, decision, &mut row)?;
            write(&fleet, decision, &row, kind, goal)
        })
        .await
    }
}

fn write(
    fleet: &Fleet,
    decision: &mut Decision,
    row: &VpsRow,
    kind: &str,
    goal: Goal,
) -> Result<VpsAccepted, FleetError> {
    decision.put(row.clone())?;
    vps::tell(decision, row, kind);
    let operation = operations::begin(fleet.catalogue(), decision, row, kind, goal)?;
    decision.audit(&format!("vps.{}", kind.replace(' ', "-")), row.spec.id)?;
    Ok(vps::accepted(fleet, decision, row, &operation))
}

/// A VPS that should run is switched off and on for it; one that is off boots so when it is next started.
fn boots_anew(row: &mut VpsRow) -> Goal {
    if !row.spec.wants_running() {
        return Goal::Settled;
    }
    row.spec.start_count += 1;
    Goal::Running { start_count: row.spec.start_count }
}

/// A container boots nothing: its root is the engine's, and it shares the host's kernel.
fn refuse_containers(row: &VpsRow, kind: &str) -> Result<(), FleetError> {
    match row.spec.engine {
        Engine::Libvirt | Engine::Fake => Ok(()),
        Engine::Incus => Err(FleetError::conflict(format!(
            "`{kind}` is for virtual machines; VPS `{}` is a container: use a snapshot or its console instead",
            row.spec.name
        ))),
    }
}

fn bootable(
    fleet: &Fleet,
    decision: &Decision,
    row: &VpsRow,
    name: &Name,
) -> Result<ImageReference, FleetError> {
    let image = fleet.known_image(&decision.state, name)?;
    if image.reference.format == ImageFormat::Iso {
        let what = format!(
            "`{name}` is a CD-ROM: attach it and boot from it first (`chomctl vps iso attach --boot-first`)"
        );
        return Err(FleetError::invalid("/image", what));
    }
    if image.engine != row.spec.engine {
        return Err(FleetError::invalid("/image", format!("image `{name}` is not for {}", row.spec.engine)));
    }
    Ok(image.reference)
}
