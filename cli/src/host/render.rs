//! ◆ How hosts look.

use chom_protocol::Bytes;
use chom_protocol::api::hosts::{EngineView, HostState, HostView, LedgerView, StrangerView};

use crate::output::{Cell, Details, Table, Tone, View, joined, moment, percent, span, until, word, yes_no};

/// A state's word, and what it means.
const fn state(state: HostState) -> (&'static str, Tone) {
    match state {
        HostState::Invited => ("invited", Tone::Warn),
        HostState::Connected => ("connected", Tone::Good),
        HostState::Unreachable => ("unreachable", Tone::Bad),
        HostState::Quarantined => ("quarantined", Tone::Bad),
        HostState::Held => ("held", Tone::Warn),
        HostState::Forgotten => ("forgotten", Tone::Plain),
        HostState::Revoked => ("revoked", Tone::Plain),
    }
}

fn seen(host: &HostView) -> String {
    host.age_seconds.map_or_else(|| "never".to_owned(), |age| format!("{} ago", span(age)))
}

fn state_cell(host: &HostView) -> Cell {
    let (word, mut tone) = state(host.state);
    let mut text = word.to_owned();
    if host.cordoned {
        text.push_str(", cordoned");
        if tone == Tone::Good {
            tone = Tone::Warn;
        }
    }
    Cell::new(text, tone)
}

fn promised(used: Bytes, all: Bytes) -> String {
    format!("{used} of {all}")
}

fn engine(engine: &EngineView) -> String {
    let problem = engine.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    let version = if engine.version.is_empty() { String::new() } else { format!(" {}", engine.version) };
    format!("{}{version} ({}){problem}", engine.engine, word(&engine.acceleration))
}

fn stranger(stranger: &StrangerView) -> String {
    let state = stranger.state.map_or_else(|| "unknown".to_owned(), |state| word(&state));
    let was = stranger.vps.map(|id| format!(", VPS {id}")).unwrap_or_default();
    let engine = stranger.engine.map(|engine| format!("{engine}, ")).unwrap_or_default();
    let obstacle = stranger.obstacle.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{} ({engine}{state}{was}){obstacle}", stranger.name)
}

/// Hosts, a line each.
pub(super) fn table(hosts: &[HostView], view: &View) -> String {
    let narrow = ["NAME", "STATE", "REGION", "VPS", "CPU", "MEMORY", "DISK", "SEEN", "PROBLEM"];
    let wide = [
        "NAME",
        "STATE",
        "REGION",
        "VPS",
        "CPU",
        "MEMORY",
        "DISK",
        "SEEN",
        "ID",
        "CORES PROMISED",
        "MEMORY PROMISED",
        "DISK PROMISED",
        "ENGINES",
        "AGENT",
        "OS",
        "PROBLEM",
    ];
    let mut table = Table::new(if view.wide { &wide } else { &narrow });
    for host in hosts {
        let mut row = vec![
            Cell::from(&host.name),
            state_cell(host),
            Cell::from(&host.region),
            Cell::from(host.vps_count),
            Cell::from(percent(host.usage.cpu_ratio)),
            Cell::from(percent(host.usage.memory_ratio)),
            Cell::from(percent(host.usage.disk_ratio)),
            Cell::from(seen(host)),
        ];
        if view.wide {
            let capacity = &host.capacity;
            let engines: Vec<String> = host.engines.iter().map(|engine| word(&engine.engine)).collect();
            row.push(Cell::from(host.id));
            row.push(Cell::from(format!("{} of {}", capacity.cores_used, capacity.cores_promisable)));
            row.push(Cell::from(promised(capacity.memory_used_bytes, capacity.memory_promisable_bytes)));
            row.push(Cell::from(promised(capacity.disk_used_bytes, capacity.disk_promisable_bytes)));
            row.push(Cell::from(joined(&engines)));
            row.push(Cell::from(&host.agent_version));
            row.push(Cell::from(&host.os));
        }
        row.push(Cell::new(host.problems.join("; "), Tone::Bad));
        table.row(row);
    }
    table.render(view, "no hosts yet: chomctl host add --help")
}

/// All about one host.
pub(super) fn details(host: &HostView, view: &View) -> String {
    let mut details = Details::default();
    details.line("Name", &host.name);
    details.line("ID", host.id);
    details.line("Region", &host.region);
    details.line("State", state_cell(host));
    details.lines("Labels", host.labels.iter().map(|(key, value)| Cell::from(format!("{key}={value}"))));
    details.lines("Problems", host.problems.iter().map(|problem| Cell::new(problem, Tone::Bad)));
    details.line("Seen", seen(host));
    details.line("Up to date", yes_no(host.up_to_date));
    details.line("Hostname", &host.hostname);
    details.line("System", &host.os);
    details.line("Agent", &host.agent_version);
    if let Some(expires) = &host.certificate_expires_at {
        details.line("Certificate", format!("expires {expires} (in {})", until(expires, view.now)));
    }
    details.lines("Engines", host.engines.iter().map(engine));
    let capacity = &host.capacity;
    details.line("VPSs", host.vps_count);
    details.line("Cores", capacity.cores);
    details.line("Cores promised", format!("{} of {}", capacity.cores_used, capacity.cores_promisable));
    details.line("Memory", capacity.memory_bytes);
    details.line("Memory promised", promised(capacity.memory_used_bytes, capacity.memory_promisable_bytes));
    details.line("Disk", capacity.disk_bytes);
    details.line("Disk promised", promised(capacity.disk_used_bytes, capacity.disk_promisable_bytes));
    let usage = &host.usage;
    if let Some(at) = &usage.at {
        details.line("Read", moment(at, view.now));
    }
    details.line("CPU in use", percent(usage.cpu_ratio));
    details.line("Load", usage.load1.map_or_else(|| "-".to_owned(), |load| format!("{load:.2}")));
    details.line("Memory in use", percent(usage.memory_ratio));
    details.line("Swap in use", percent(usage.swap_ratio));
    details.line("Disk in use", percent(usage.disk_ratio));
    details.line("Inodes in use", percent(usage.inodes_ratio));
    details.lines("Orphans", host.orphans.iter().map(stranger));
    details.lines("Foreign guests", host.foreign.iter().map(stranger));
    details.line("Revision", host.revision);
    details.render(view)
}

/// What differs between a host's ledger and the orchestrator's rows.
pub(super) fn ledger(ledger: &LedgerView, view: &View) -> String {
    let mut table = Table::new(&["VPS", "ID", "DIFFERENCE"]);
    for difference in &ledger.differences {
        table.row(vec![
            Cell::from(&difference.name),
            Cell::from(difference.vps),
            Cell::from(&difference.difference),
        ]);
    }
    table.render(view, "the host's ledger and the orchestrator's rows are the same")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    fn host(state: &str, age_seconds: Option<u64>) -> HostView {
        serde_json::from_value(json!({
            "id": "0190f6d2-8f3e-7cc0-9d4c-0000000000aa", "name": "host-1", "region": "us-east", "state": state,
            "seen_at": null, "age_seconds": age_seconds, "cordoned": state == "connected", "hostname": "h1.example",
            "agent_version": "0.1.0", "os": "Debian 12, Linux 6.1",
            "engines": [{"engine": "libvirt", "version": "9.0.0", "acceleration": "tcg", "problem": null}],
            "labels": {"disk": "nvme"},
            "capacity": {"cores": 8, "cores_used": 2, "cores_promisable": 64,
                "memory_promisable_bytes": 8_053_063_680u64, "disk_promisable_bytes": 105_226_698_752u64, "memory_bytes": 8_589_934_592u64,
                "memory_used_bytes": 1_073_741_824u64, "disk_bytes": 107_374_182_400u64,
                "disk_used_bytes": 10_737_418_240u64},
            "usage": {"at": "2026-11-23T11:59:50Z", "cpu_ratio": 0.123, "load1": 0.5, "memory_ratio": 0.5,
                "swap_ratio": null, "disk_ratio": 0.914, "inodes_ratio": 0.02},
            "vps_count": 3,
            "foreign": [{"name": "by-hand", "vps": null, "state": "running"}],
            "orphans": [{"name": "chom-1", "vps": "0190f6d2-8f3e-7cc0-9d4c-000000000001", "state": null}],
            "problems": if state == "unreachable" { vec!["not seen for 3m12s; is it on?"] } else { vec![] },
            "up_to_date": true, "certificate_expires_at": "2026-12-23T12:00:00Z", "revision": 4
        }))
        .unwrap()
    }

    #[test]
    fn a_list_says_who_is_away_and_for_how_long() {
        let hosts = [host("connected", Some(2)), host("unreachable", Some(192)), host("invited", None)];
        expect![[r#"
            NAME    STATE                REGION   VPS  CPU   MEMORY  DISK  SEEN       PROBLEM
            host-1  connected, cordoned  us-east  3    12 %  50 %    91 %  2s ago
            host-1  unreachable          us-east  3    12 %  50 %    91 %  3m12s ago  not seen for 3m12s; is it on?
            host-1  invited              us-east  3    12 %  50 %    91 %  never
        "#]]
        .assert_eq(&table(&hosts, &test_view(false)));
    }

    #[test]
    fn the_details_name_strangers_and_promises() {
        expect![[r#"
            Name:             host-1
            ID:               0190f6d2-8f3e-7cc0-9d4c-0000000000aa
            Region:           us-east
            State:            connected, cordoned
            Labels:           disk=nvme
            Seen:             2s ago
            Up to date:       yes
            Hostname:         h1.example
            System:           Debian 12, Linux 6.1
            Agent:            0.1.0
            Certificate:      expires 2026-12-23T12:00:00Z (in 30d0h)
            Engines:          libvirt 9.0.0 (tcg)
            VPSs:             3
            Cores:            8
            Cores promised:   2 of 64
            Memory:           8 GiB
            Memory promised:  1 GiB of 7.5 GiB
            Disk:             100 GiB
            Disk promised:    10 GiB of 98 GiB
            Read:             2026-11-23T11:59:50Z (10s ago)
            CPU in use:       12 %
            Load:             0.50
            Memory in use:    50 %
            Swap in use:      -
            Disk in use:      91 %
            Inodes in use:    2 %
            Orphans:          chom-1 (unknown, VPS 0190f6d2-8f3e-7cc0-9d4c-000000000001)
            Foreign guests:   by-hand (running)
            Revision:         4
        "#]]
        .assert_eq(&details(&host("connected", Some(2)), &test_view(false)));
    }

    #[test]
    fn a_ledger_without_differences_says_so() {
        let empty: LedgerView = serde_json::from_value(json!({
            "host": "0190f6d2-8f3e-7cc0-9d4c-0000000000aa", "ledger": {"epoch": 1, "number": 2}, "differences": []
        }))
        .unwrap();
        expect![[r#"
            the host's ledger and the orchestrator's rows are the same
        "#]]
        .assert_eq(&ledger(&empty, &test_view(false)));
    }
}
