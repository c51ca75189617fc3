//! Snapshots inside the qcow2 file of a guest that runs. Of such a guest libvirt itself makes only external ones (another
//! file each time, to be merged later) or ones with the guest's memory, so QEMU is asked through libvirt's monitor. The two
//! commands belong to QEMU's stable interface and leave its block graph as it is: nothing that libvirt knows becomes
//! wrong. A guest that is off is the agent's to work on.

use std::path::Path;

use chom_protocol::VpsId;
use chom_protocol::helper::{HelperReply, SnapshotChange};
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;

use crate::engine::find_ours;
use crate::problem::Problem;

/// Takes or removes a snapshot of the guest's own disk.
pub(crate) fn change(
    connect: &Connect,
    vps: VpsId,
    disk: &Path,
    name: &str,
    change: SnapshotChange,
) -> Result<HelperReply, Problem> {
    let Some(domain) = find_ours(connect, vps)? else { return Ok(HelperReply::Off) };
    let is_on = || domain.is_active().map_err(Problem::libvirt(format!("cannot look at VPS {vps}")));
    if !is_on()? {
        return Ok(HelperReply::Off);
    }
    let (command, doing) = match change {
        SnapshotChange::Take => ("blockdev-snapshot-internal-sync", "take"),
        SnapshotChange::Delete => ("blockdev-snapshot-delete-internal-sync", "remove"),
    };
    let doing = format!("cannot {doing} a snapshot of VPS {vps}");
    let outcome =
        ask(&domain, &doing, &json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}))
            .and_then(|nodes| {
                let node = node_of(&nodes, disk).ok_or_else(|| {
                    Problem::State(format!(
                        "{doing}: its QEMU does not have `{}` open; restart the VPS",
                        disk.display()
                    ))
                })?;
                ask(
                    &domain,
                    &doing,
                    &json!({"execute": command, "arguments": {"device": node, "name": name}}),
                )
            });
    match outcome {
        Ok(_) => Ok(HelperReply::Done),
        // It went off meanwhile.
        Err(_) if !is_on()? => Ok(HelperReply::Off),
        Err(problem) => Err(problem),
    }
}

fn ask(domain: &Domain, doing: &str, command: &Value) -> Result<Value, Problem> {
    let answer = domain.qemu_monitor_command(&command.to_string(), 0);
    returned(&answer.map_err(Problem::libvirt(doing))?)
        .map_err(|said| Problem::Qemu { doing: doing.to_owned(), said })
}

/// What QEMU gave back, or what it complained about.
fn returned(answer: &str) -> Result<Value, String> {
    let mut answer: Value = serde_json::from_str(answer).map_err(|error| error.to_string())?;
    match answer["error"]["desc"].as_str() {
        Some(said) => Err(said.to_owned()),
        None => Ok(answer["return"].take()),
    }
}

/// The name of the node that is the qcow2 layer of a file.
fn node_of(nodes: &Value, disk: &Path) -> Option<String> {
    let of_disk =
        |node: &&Value| node["drv"] == "qcow2" && node["file"].as_str().map(Path::new) == Some(disk);
    nodes.as_array()?.iter().find(of_disk)?["node-name"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_has_the_snapshots_is_found_by_its_file() {
        let nodes = json!([
            {"drv": "raw", "file": "/v/seed.iso", "node-name": "libvirt-1-format"},
            {"drv": "file", "file": "/v/disk.qcow2", "node-name": "libvirt-2-storage"},
            {"drv": "qcow2", "file": "/images/a", "node-name": "libvirt-3-format"},
            {"drv": "qcow2", "file": "/v/disk.qcow2", "node-name": "libvirt-2-format"},
        ]);
        assert_eq!(node_of(&nodes, Path::new("/v/disk.qcow2")).as_deref(), Some("libvirt-2-format"));
        assert_eq!(node_of(&nodes, Path::new("/v/other.qcow2")), None);
    }

    #[test]
    fn an_error_of_qemu_is_told_in_its_words() {
        assert_eq!(returned(r#"{"return":{},"id":"libvirt-9"}"#), Ok(json!({})));
        let said = r#"{"id":"libvirt-9","error":{"class":"GenericError","desc":"No space left on device"}}"#;
        assert_eq!(returned(said), Err("No space left on device".to_owned()));
        assert!(returned("").is_err());
    }
}
