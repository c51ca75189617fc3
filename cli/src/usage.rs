//! Usage records: what each VPS had in each hour, for people, programs and spreadsheets.

use chom_protocol::api::usage::UsageRecord;
use chom_protocol::{Name, VpsId};
use clap::Subcommand;

use crate::error::Failure;
use crate::output::{Cell, Table, View, write_out};
use crate::session::{ListOptions, Session};

/// Where usage records are in the API.
const PATH: &str = "/api/usage";

/// `chomctl usage`.
#[derive(Debug, Subcommand)]
pub(crate) enum UsageCommand {
    /// Lists what VPSs had in each hour that is closed, oldest first
    List(UsageOptions),
}

/// Which records.
#[derive(Debug, clap::Args)]
pub(crate) struct UsageOptions {
    /// Hours that begin then or later, such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Hours that begin before then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<Name>,
    /// Only of this VPS, by id
    #[arg(long, value_name = "ID")]
    vps: Option<VpsId>,
    /// Print comma-separated values (RFC 4180), with all fields
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    list: ListOptions,
}

/// Runs `chomctl usage`.
pub(crate) fn run(session: &Session, command: UsageCommand) -> Result<(), Failure> {
    let UsageCommand::List(options) = command;
    let UsageOptions { from, until, tenant, vps, csv, list } = options;
    let pairs = [
        ("from", from),
        ("until", until),
        ("tenant", tenant.map(|name| name.to_string())),
        ("vps", vps.map(|id| id.to_string())),
    ];
    let pairs: Vec<(&str, String)> =
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let all: Vec<UsageRecord> = session.client()?.list_where(PATH, &pairs, list.limit)?;
    if csv {
        return write_out(&comma_separated(&all));
    }
    session.screen.show(&all, |view| table(&all, view))
}

fn table(all: &[UsageRecord], view: &View) -> String {
    let mut table = Table::new(&[
        "HOUR",
        "TENANT",
        "VPS",
        "CORES",
        "MEMORY",
        "DISK",
        "ADDRESSES",
        "SECONDS",
        "ON",
        "RECEIVED",
        "SENT",
    ]);
    for record in all {
        table.row(vec![
            Cell::from(&record.hour),
            Cell::from(&record.tenant),
            if view.wide { Cell::from(record.vps) } else { Cell::from(&record.name) },
            Cell::from(record.cores),
            Cell::from(record.memory_bytes),
            Cell::from(record.disk_bytes),
            Cell::from(record.addresses),
            Cell::from(record.seconds),
            Cell::from(record.on_seconds),
            Cell::from(chom_protocol::Bytes(record.received_bytes)),
            Cell::from(chom_protocol::Bytes(record.sent_bytes)),
        ]);
    }
    table.render(view, "no usage records")
}

/// Every field of the API under its name.
fn comma_separated(all: &[UsageRecord]) -> String {
    let mut text = "id,hour,tenant,tenant_external_id,vps,external_id,name,region,size,cores,memory_bytes,disk_bytes,\
        addresses,seconds,on_seconds,off_seconds,core_seconds,memory_mib_seconds,disk_mib_seconds,address_seconds,\
        received_bytes,sent_bytes\r\n"
        .to_owned();
    for record in all {
        let UsageRecord {
            id,
            hour,
            vps,
            name,
            external_id,
            tenant,
            tenant_external_id,
            region,
            size,
            cores,
            memory_bytes,
            disk_bytes,
            addresses,
            seconds,
            on_seconds,
            off_seconds,
            core_seconds,
            memory_mib_seconds,
            disk_mib_seconds,
            address_seconds,
            received_bytes,
            sent_bytes,
        } = record;
        let texts = [
            id.clone(),
            hour.clone(),
            tenant.to_string(),
            tenant_external_id.clone().unwrap_or_default(),
            vps.to_string(),
            external_id.clone().unwrap_or_default(),
            name.to_string(),
            region.to_string(),
            size.to_string(),
        ];
        let numbers = [
            u64::from(*cores),
            memory_bytes.0,
            disk_bytes.0,
            u64::from(*addresses),
            u64::from(*seconds),
            u64::from(*on_seconds),
            u64::from(*off_seconds),
            *core_seconds,
            *memory_mib_seconds,
            *disk_mib_seconds,
            *address_seconds,
            *received_bytes,
            *sent_bytes,
        ];
        let fields = texts.iter().map(|text| field(text)).chain(numbers.iter().map(u64::to_string));
        text += &fields.collect::<Vec<_>>().join(",");
        text += "\r\n";
    }
    text
}

/// A text as a field: in quotes where it has to be. What a spreadsheet would take for a formula is made a text.
fn field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::output::test_view;

    fn record(external_id: &str) -> UsageRecord {
        serde_json::from_value(json!({
            "id": "2026-11-23T10:00:00Z/0190f6d2-8f3e-7cc0-9d4c-000000000001", "hour": "2026-11-23T10:00:00Z",
            "vps": "0190f6d2-8f3e-7cc0-9d4c-000000000001", "name": "web", "external_id": external_id, "tenant": "acme",
            "tenant_external_id": null, "region": "us-east", "size": "small", "cores": 2, "memory_bytes": 1073741824_u64,
            "disk_bytes": 10737418240_u64, "addresses": 1, "seconds": 3600, "on_seconds": 1800, "off_seconds": 0,
            "core_seconds": 7200, "memory_mib_seconds": 3686400, "disk_mib_seconds": 36864000, "address_seconds": 3600,
            "received_bytes": 1024, "sent_bytes": 2048
        }))
        .unwrap()
    }

    #[test]
    fn records_are_a_table_for_people() {
        expect![[r#"
            HOUR                  TENANT  VPS  CORES  MEMORY  DISK    ADDRESSES  SECONDS  ON    RECEIVED  SENT
            2026-11-23T10:00:00Z  acme    web  2      1 GiB   10 GiB  1          3600     1800  1 KiB     2 KiB
        "#]].assert_eq(&table(&[record("a")], &test_view(false)));
    }

    #[test]
    fn records_are_values_for_spreadsheets_whatever_somebody_called_them() {
        expect![[r#"
            id,hour,tenant,tenant_external_id,vps,external_id,name,region,size,cores,memory_bytes,disk_bytes,addresses,seconds,on_seconds,off_seconds,core_seconds,memory_mib_seconds,disk_mib_seconds,address_seconds,received_bytes,sent_bytes
            2026-11-23T10:00:00Z/0190f6d2-8f3e-7cc0-9d4c-000000000001,2026-11-23T10:00:00Z,acme,,0190f6d2-8f3e-7cc0-9d4c-000000000001,"a, ""b""",web,us-east,small,2,1073741824,10737418240,1,3600,1800,0,7200,3686400,36864000,3600,1024,2048
            2026-11-23T10:00:00Z/0190f6d2-8f3e-7cc0-9d4c-000000000001,2026-11-23T10:00:00Z,acme,,0190f6d2-8f3e-7cc0-9d4c-000000000001,'=cmd(),web,us-east,small,2,1073741824,10737418240,1,3600,1800,0,7200,3686400,36864000,3600,1024,2048
        "#]]
            .assert_eq(&comma_separated(&[record("a, \"b\""), record("=cmd()")]).replace("\r\n", "\n"));
    }
}
