//! ◆ How VPSs look. What cannot be seen is said to be unknown, with what it last was and how old that is.

use chom_protocol::Bytes;
use chom_protocol::api::guest::GuestView;
use chom_protocol::api::hosts::HostView;
use chom_protocol::api::plans::{QuotaAfter, VpsPlan};
use chom_protocol::api::vps_servers::{VpsAccepted, VpsView};
use chom_protocol::vps::{Power, VpsState};

use crate::operation;
use crate::output::{Cell, Details, Table, Tone, View, age, joined, moment, span, until, word, yes_no};

/// A state's word, and what it means for a VPS that should be on or off.
const fn state(state: VpsState, desired: Power) -> (&'static str, Tone) {
    let wanted_on = matches!(desired, Power::Running | Power::Paused);
    match state {
        VpsState::Preparing => ("preparing", Tone::Warn),
        VpsState::Running => {
            ("running", if matches!(desired, Power::Running) { Tone::Good } else { Tone::Warn })
        }
        VpsState::Paused => {
            ("paused", if matches!(desired, Power::Paused) { Tone::Plain } else { Tone::Warn })
        }
        VpsState::Stopped => ("stopped", if wanted_on { Tone::Warn } else { Tone::Plain }),
        VpsState::StoppedByGuest => ("stopped by guest", Tone::Plain),
        VpsState::Crashed => ("crashed", Tone::Bad),
        VpsState::Absent => ("absent", if wanted_on { Tone::Warn } else { Tone::Plain }),
        VpsState::Unknown => ("unknown", Tone::Warn),
    }
}

/// What a VPS does, as far as can be known.
fn state_cell(vps: &VpsView, view: &View) -> Cell {
    let observed = &vps.observed;
    let (now, mut tone) = state(observed.state, vps.desired);
    let mut text = now.to_owned();
    if observed.state == VpsState::Unknown {
        text = match observed.age_seconds {
            None => "unknown (never seen)".to_owned(),
            Some(age) if observed.last_state == VpsState::Unknown => {
                format!("unknown (host seen {} ago)", span(age))
            }
            Some(age) => {
                let (last, _) = state(observed.last_state, vps.desired);
                format!("unknown (last {last}, {} ago)", span(age))
            }
        };
    } else if let Some(progress) = &observed.progress {
        text = format!("{now} ({progress})");
    }
    if vps.purging {
        text = format!("purging, {text}");
        tone = Tone::Warn;
    } else if vps.deleted_at.is_some() {
        let kept = match &vps.purge_at {
            Some(purge_at) => format!("kept {}", until(purge_at, view.now)),
            None => "kept".to_owned(),
        };
        text = format!("deleted ({kept}), {text}");
        tone = Tone::Plain;
    }
    if let Some(image) = &vps.rescue {
        text.push_str(&format!(", in rescue mode ({image})"));
        tone = Tone::Warn;
    }
    if !vps.suspensions.is_empty() {
        let reasons: Vec<String> = vps.suspensions.iter().map(|held| held.reason.to_string()).collect();
        text = format!("{text}, suspended ({})", reasons.join(", "));
        tone = Tone::Warn;
    }
    if vps.hold {
        text.push_str(", on hold");
        tone = Tone::Warn;
    }
    Cell::new(text, tone)
}

fn host_name(vps: &VpsView, hosts: &[HostView]) -> String {
    hosts.iter().find(|host| Some(host.id) == vps.host).map_or_else(
        || vps.host.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        |host| host.name.to_string(),
    )
}

/// VPSs, a line each; `hosts` gives names to host ids.
pub(super) fn table(rows: &[VpsView], hosts: &[HostView], view: &View) -> String {
    let narrow = ["NAME", "STATE", "REGION", "SIZE", "ADDRESSES", "AGE", "PROBLEM"];
    let wide = [
        "NAME",
        "STATE",
        "REGION",
        "SIZE",
        "ADDRESSES",
        "AGE",
        "ID",
        "HOST",
        "IMAGE",
        "ENGINE",
        "CORES",
        "MEMORY",
        "DISK",
        "PROBLEM",
    ];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for vps in rows {
        let mut row = vec![
            Cell::from(&vps.name),
            state_cell(vps, view),
            Cell::from(&vps.region),
            Cell::from(&vps.size),
            Cell::from(joined(&vps.addresses)),
            Cell::from(age(&vps.created_at, view.now)),
        ];
        if view.wide {
            row.push(Cell::from(vps.id));
            row.push(Cell::from(host_name(vps, hosts)));
            row.push(Cell::from(vps.image.as_ref().map_or("", |image| image.as_str())));
            row.push(Cell::from(vps.engine));
            row.push(Cell::from(vps.cores));
            row.push(Cell::from(vps.memory_bytes));
            row.push(Cell::from(vps.disk_bytes));
        }
        row.push(Cell::new(vps.observed.problem.as_deref().unwrap_or_default(), Tone::Bad));
        table.row(row);
    }
    table.render(view, "no VPSs")
}

/// What was accepted, and how far it is.
pub(super) fn accepted(accepted: &VpsAccepted, view: &View) -> String {
    let mut table = Table::new(&["VPS", "ID", "KIND", "STATE", "OPERATION"]);
    let (word, tone) = operation::state(accepted.operation.state);
    table.row(vec![
        Cell::from(&accepted.vps.name),
        Cell::from(accepted.vps.id),
        Cell::from(&accepted.operation.kind),
        Cell::new(word, tone),
        Cell::from(accepted.operation.id),
    ]);
    table.render(view, "")
}

/// What is known from inside it.
fn inside(details: &mut Details, guest: &GuestView, view: &View) {
    let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    details.line("Inside", format!("{}, {}", said(&guest.hostname), said(&guest.os)));
    details.line("Inside kernel", said(&guest.kernel));
    let addresses = guest.addresses.as_ref().map_or_else(|| "unknown".to_owned(), |all| joined(all));
    details.line("Inside addresses", addresses);
    let bytes = |of: Option<Bytes>| of.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string());
    for system in guest.file_systems.iter().flatten() {
        let (used, size) = (bytes(system.used_bytes), bytes(system.size_bytes));
        details.line("Inside disk", format!("{} {}: {used} of {size} used", system.mount, system.kind));
    }
    details.line("Inside seen", moment(&guest.seen_at, view.now));
}

/// All about one VPS.
pub(super) fn details(vps: &VpsView, hosts: &[HostView], view: &View) -> String {
    let mut details = Details::default();
    details.line("Name", &vps.name);
    details.line("ID", vps.id);
    details.line("Tenant", &vps.tenant);
    details.line("State", state_cell(vps, view));
    details.line("Wanted", word(&vps.desired));
    details.line("Problem", Cell::new(vps.observed.problem.as_deref().unwrap_or_default(), Tone::Bad));
    match vps.observed.age_seconds {
        Some(age) => details.line("Seen", format!("{} ago", span(age))),
        None => details.line("Seen", "never"),
    }
    details.line("Region", &vps.region);
    details.line("Host", host_name(vps, hosts));
    details.line("Engine", vps.engine);
    details.line(
        "Size",
        format!("{} ({} vCPU, {} memory, {} disk)", vps.size, vps.cores, vps.memory_bytes, vps.disk_bytes),
    );
    if let Some(image) = &vps.image {
        details.line("Image", image);
    }
    if let Some(adopted) = &vps.adopted {
        details.line("Adopted", format!("as the guest `{}`", adopted.guest));
        details.lines("Disks", adopted.disks.iter().map(|disk| format!("{} ({})", disk.path, disk.kind)));
    }
    if let Some(id) = &vps.external_id {
        details.line("External id", id.as_str());
    }
    details.line("Network", &vps.network);
    if let Some(image) = &vps.rescue {
        details.line("Rescue", image);
    }
    if let Some(medium) = &vps.iso {
        details.line("CD-ROM", medium);
    }
    details.line("Addresses", joined(&vps.addresses));
    if let Some(guest) = &vps.observed.guest {
        inside(&mut details, guest, view);
    }
    details.line("Guest shutdown", word(&vps.guest_shutdown));
    details.line("On hold", yes_no(vps.hold));
    for held in &vps.suspensions {
        let since = moment(&held.since, view.now);
        details.line("Suspended", format!("{} for {} since {since}", word(&held.mode), held.reason));
    }
    if vps.observed.restart_needed {
        details.line("Restart", "a part of what is wanted waits for its next start");
    }
    details.line("Created", moment(&vps.created_at, view.now));
    if let Some(deleted_at) = &vps.deleted_at {
        details.line("Deleted", moment(deleted_at, view.now));
    }
    if let Some(purge_at) = &vps.purge_at {
        details.line("Kept until", format!("{purge_at} (in {})", until(purge_at, view.now)));
    }
    details.line("Revision", vps.revision);
    details.render(view)
}

/// What an order would do.
pub(super) fn plan(plan: &VpsPlan, view: &View) -> String {
    let mut details = Details::default();
    // Tenants are not told of hosts.
    let host = match (&plan.host_name, plan.id) {
        (Some(name), _) => Cell::new(name.to_string(), Tone::Good),
        (None, Some(_)) => Cell::from(""),
        (None, None) => Cell::new("none", Tone::Bad),
    };
    details.line("Plan", plan.id.map(|id| id.to_string()).unwrap_or_default());
    details.line("Does", &plan.action);
    details.line("Host", host);
    details.line("Why", &plan.why);
    let addresses: Vec<String> = plan.addresses.iter().map(ToString::to_string).collect();
    details.line("Addresses", joined(&addresses));
    details.lines("Steps", plan.steps.iter().map(Cell::from));
    details.line("Downtime", &plan.downtime);
    if let Some(QuotaAfter { tenant, used, quota }) = &plan.quota_after {
        let of = |used: String, limit: Option<String>| {
            limit.map_or_else(|| used.clone(), |limit| format!("{used} of {limit}"))
        };
        let (memory, disk) = (
            quota.memory_bytes.map(|bytes| bytes.to_string()),
            quota.disk_bytes.map(|bytes| bytes.to_string()),
        );
        let said = [
            format!("{} VPSs", of(used.vps.to_string(), quota.vps.map(|limit| limit.to_string()))),
            format!("{} cores", of(used.cores.to_string(), quota.cores.map(|limit| limit.to_string()))),
            format!("{} memory", of(used.memory_bytes.to_string(), memory)),
            format!("{} disk", of(used.disk_bytes.to_string(), disk)),
        ];
        details.line("Then has", format!("tenant {tenant}: {}", said.join(", ")));
    }
    let from = |row: &chom_protocol::api::plans::PlannedFrom| {
        Cell::from(format!("{} {} (revision {})", row.kind, row.name, row.revision))
    };
    details.lines("Depends on", plan.depends_on.iter().map(from));
    if let Some(expires_at) = &plan.expires_at {
        details.line("Good for", until(expires_at, view.now));
    }
    let other = |other: &chom_protocol::api::plans::HostNotTaken| {
        Cell::from(format!("{}: {}", other.name, other.reason))
    };
    details.lines("Not taken", plan.not_taken.iter().map(other));
    let more =
        usize::try_from(plan.not_taken_count).unwrap_or(usize::MAX).saturating_sub(plan.not_taken.len());
    if more > 0 {
        details.line("And", format!("{more} more hosts"));
    }
    details.render(view)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::{Value, json};

    use super::*;
    use crate::output::test_view;

    fn vps(changes: Value) -> VpsView {
        let mut row = json!({
            "id": "0190f6d2-8f3e-7cc0-9d4c-000000000001", "name": "test-vps", "tenant": "default",
            "region": "us-east", "size": "small", "image": "debian-12",
            "host": "0190f6d2-8f3e-7cc0-9d4c-0000000000aa", "engine": "libvirt", "cores": 1,
            "memory_bytes": 536_870_912u64, "disk_bytes": 10_737_418_240u64, "network": "nat", "addresses": ["10.0.0.2", "fd00::2"],
            "desired": "running",
            "observed": {"state": "running", "last_state": "running", "seen_at": "2026-11-23T11:59:18Z",
                         "age_seconds": 42, "problem": null, "progress": null, "restart_needed": false},
            "suspensions": [],
            "guest_shutdown": "stay_off", "hold": false, "deleted_at": null, "purge_at": null, "purging": false,
            "created_at": "2026-11-23T11:56:48Z", "revision": 7,
        });
        merge(&mut row, changes);
        serde_json::from_value(row).unwrap()
    }

    fn merge(into: &mut Value, changes: Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                for (key, value) in changes {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, changes) => *into = changes,
        }
    }

    #[test]
    fn a_state_says_what_is_known_and_no_more() {
        let cases = [
            (json!({}), "running"),
            (json!({"observed": {"state": "preparing", "progress": "image 40 %"}}), "preparing (image 40 %)"),
            (json!({"observed": {"state": "unknown"}}), "unknown (last running, 42s ago)"),
            (
                json!({"observed": {"state": "unknown", "last_state": "stopped_by_guest", "age_seconds": 192}}),
                "unknown (last stopped by guest, 3m12s ago)",
            ),
            (
                json!({"observed": {"state": "unknown", "last_state": "unknown"}}),
                "unknown (host seen 42s ago)",
            ),
            (
                json!({"observed": {"state": "unknown", "last_state": "unknown", "age_seconds": null}}),
                "unknown (never seen)",
            ),
            (json!({"hold": true}), "running, on hold"),
            (
                json!({"suspensions": [{"reason": "abuse", "mode": "isolated", "since": "2026-11-23T11:00:00Z"}]}),
                "running, suspended (abuse)",
            ),
            (
                json!({"deleted_at": "2026-11-23T11:00:00Z", "purge_at": "2026-11-30T11:00:00Z",
                       "observed": {"state": "stopped"}}),
                "deleted (kept 6d23h), stopped",
            ),
            (
                json!({"purging": true, "observed": {"state": "unknown"}}),
                "purging, unknown (last running, 42s ago)",
            ),
        ];
        for (changes, expected) in cases {
            let tone = match expected {
                "running" => Tone::Good,
                text if text.starts_with("deleted") => Tone::Plain,
                _ => Tone::Warn,
            };
            assert_eq!(state_cell(&vps(changes), &test_view(false)), Cell::new(expected, tone));
        }
    }

    #[test]
    fn a_narrow_list_fits_a_terminal() {
        let rows = [vps(json!({})), vps(json!({"name": "b", "observed": {"state": "unknown"}}))];
        expect![[r#"
            NAME      STATE                            REGION   SIZE   ADDRESSES          AGE
            test-vps  running                          us-east  small  10.0.0.2, fd00::2  3m12s
            b         unknown (last running, 42s ago)  us-east  small  10.0.0.2, fd00::2  3m12s
        "#]]
        .assert_eq(&table(&rows, &[], &test_view(false)));
    }

    #[test]
    fn a_wide_list_has_ids_and_problems() {
        let rows = [vps(json!({"observed": {"state": "crashed", "problem": "QEMU ended; see its log"}}))];
        expect![[r#"
            NAME      STATE    REGION   SIZE   ADDRESSES          AGE    ID                                    HOST                                  IMAGE      ENGINE   CORES  MEMORY   DISK    PROBLEM
            test-vps  crashed  us-east  small  10.0.0.2, fd00::2  3m12s  0190f6d2-8f3e-7cc0-9d4c-000000000001  0190f6d2-8f3e-7cc0-9d4c-0000000000aa  debian-12  libvirt  1      512 MiB  10 GiB  QEMU ended; see its log
        "#]]
        .assert_eq(&table(&rows, &[], &test_view(true)));
    }

    #[test]
    fn the_details_tell_everything() {
        expect![[r#"
            Name:            test-vps
            ID:              0190f6d2-8f3e-7cc0-9d4c-000000000001
            Tenant:          default
            State:           unknown (last running, 42s ago)
            Wanted:          running
            Seen:            42s ago
            Region:          us-east
            Host:            0190f6d2-8f3e-7cc0-9d4c-0000000000aa
            Engine:          libvirt
            Size:            small (1 vCPU, 512 MiB memory, 10 GiB disk)
            Image:           debian-12
            Network:         nat
            Addresses:       10.0.0.2, fd00::2
            Guest shutdown:  stay off
            On hold:         no
            Created:         2026-11-23T11:56:48Z (3m12s ago)
            Revision:        7
        "#]]
        .assert_eq(&details(&vps(json!({"observed": {"state": "unknown"}})), &[], &test_view(false)));
    }

    #[test]
    fn a_plan_says_where_it_goes_and_why_nowhere_else() {
        let plan: VpsPlan = serde_json::from_value(json!({
            "id": "0190f6d2-8f3e-7cc0-9d4c-0000000000cc", "action": "create", "expires_at": "2026-11-23T12:10:00Z",
            "depends_on": [{"kind": "host", "name": "host-1", "revision": 7}],
            "quota_after": {"tenant": "acme", "quota": {"vps": 3}, "used": {"vps": 2, "cores": 4,
                "memory_bytes": 1_073_741_824u64, "disk_bytes": 0, "addresses": 2, "snapshots": 0}},
            "host": "0190f6d2-8f3e-7cc0-9d4c-0000000000aa", "host_name": "host-1", "why": "the only host that can take it",
            "addresses": ["10.155.0.10"], "steps": ["it makes a disk", "it starts the VPS"], "downtime": "none: it is new",
            "not_taken": [{"host": "0190f6d2-8f3e-7cc0-9d4c-0000000000ab", "name": "host-2", "reason": "cordoned"}],
            "not_taken_count": 7
        }))
        .unwrap();
        expect![[r#"
            Plan:        0190f6d2-8f3e-7cc0-9d4c-0000000000cc
            Does:        create
            Host:        host-1
            Why:         the only host that can take it
            Addresses:   10.155.0.10
            Steps:       it makes a disk
                         it starts the VPS
            Downtime:    none: it is new
            Then has:    tenant acme: 2 of 3 VPSs, 4 cores, 1 GiB memory, 0 B disk
            Depends on:  host host-1 (revision 7)
            Good for:    10m00s
            Not taken:   host-2: cordoned
            And:         6 more hosts
        "#]]
        .assert_eq(&super::plan(&plan, &test_view(false)));
    }
}
