//! What a configuration's values must keep beyond their types. Pure: names the first key at fault and what to do.

use std::collections::BTreeSet;

use chom_certs::join::ADDRESSES_MAX;
use chom_protocol::vps::ImageFormat;

use super::{AlertSettings, Config, LimitSettings, WebhookSettings, is_address};

/// Shortest idle timeout: two keep-alives of the fastest demonstration must fit.
const IDLE_TIMEOUT_SECONDS_MIN: u32 = 2;
/// Agents send a keep-alive every 15 s: with this idle timeout one may be lost.
const KEPT_ALIVE_SECONDS: u32 = 30;
/// A guest needs this much to boot anything at all.
const MEMORY_MIB_MIN: u64 = 32;

type Problem = (&'static str, String);

/// The first value at fault.
pub(super) fn first_problem(config: &Config) -> Option<Problem> {
    addresses(config)
        .or_else(|| times(config))
        .or_else(|| reports(config))
        .or_else(|| levels(&config.alerts))
        .or_else(|| regions(config))
        .or_else(|| sizes(config))
        .or_else(|| images(config))
}

fn addresses(config: &Config) -> Option<Problem> {
    let key = "public_addresses";
    if config.public_addresses.is_empty() {
        let what = "it is empty; give at least one `host:port` under which agents reach this orchestrator";
        return Some((key, what.to_owned()));
    }
    if config.public_addresses.len() > ADDRESSES_MAX {
        return Some((
            key,
            format!("it has {} entries; at most {ADDRESSES_MAX} are allowed", config.public_addresses.len()),
        ));
    }
    let bad = config.public_addresses.iter().find(|address| !is_address(address))?;
    Some((
        key,
        format!("`{bad}` is no `host:port`, such as `orchestrator.example.com:8440` or `[2001:db8::1]:8440`"),
    ))
}

fn times(config: &Config) -> Option<Problem> {
    let at_least = |key, value: u32, least: u32| {
        (value < least).then(|| (key, format!("{value} is too little; give at least {least}")))
    };
    at_least("retention_days", config.retention_days, 1)
        .or_else(|| at_least("audit_days", config.audit_days, 1))
        .or_else(|| at_least("unreachable_after_seconds", config.unreachable_after_seconds, 1))
        .or_else(|| at_least("operation_seconds_max", config.operation_seconds_max, 1))
        .or_else(|| at_least("overcommit.cores_per_core", config.overcommit.cores_per_core, 1))
        .or_else(|| at_least("overcommit.memory_percent", config.overcommit.memory_percent, 1))
        .or_else(|| at_least("export_interval_seconds", config.export_interval_seconds, 60))
        .or_else(|| {
            at_least("link.idle_timeout_seconds", config.link.idle_timeout_seconds, IDLE_TIMEOUT_SECONDS_MIN)
        })
        .or_else(|| at_least("agent.report_interval_seconds", config.agent.report_interval_seconds, 1))
        .or_else(|| at_least("agent.reconcile_interval_seconds", config.agent.reconcile_interval_seconds, 1))
        .or_else(|| limits(config).into_iter().find_map(|(key, value)| at_least(key, value, 1)))
        .or_else(|| at_least("alerts.repeat_interval_seconds", config.alerts.repeat_interval_seconds, 1))
        .or_else(|| at_least("usage.kept_days", config.usage.kept_days, 1))
        .or_else(|| at_least("usage.hour_seconds", config.usage.hour_seconds, 1))
        .or_else(|| at_least("webhooks.retry_first_seconds", config.webhooks.retry_first_seconds, 1))
        .or_else(|| {
            let WebhookSettings { retry_first_seconds, retry_longest_seconds, .. } = config.webhooks;
            at_least("webhooks.retry_longest_seconds", retry_longest_seconds, retry_first_seconds)
        })
}

/// With one of these at nothing, nobody would get in.
fn limits(config: &Config) -> [(&'static str, u32); 6] {
    let LimitSettings {
        token_requests_per_second,
        token_burst,
        address_requests_per_second,
        address_burst,
        sign_in_failures_max,
        sign_in_lock_seconds,
    } = config.limits;
    [
        ("limits.token_requests_per_second", token_requests_per_second),
        ("limits.token_burst", token_burst),
        ("limits.address_requests_per_second", address_requests_per_second),
        ("limits.address_burst", address_burst),
        ("limits.sign_in_failures_max", sign_in_failures_max),
        ("limits.sign_in_lock_seconds", sign_in_lock_seconds),
    ]
}

/// Settings that would make a host that is well look gone.
fn reports(config: &Config) -> Option<Problem> {
    let report = config.agent.report_interval_seconds;
    let idle = config.link.idle_timeout_seconds;
    if idle < KEPT_ALIVE_SECONDS && idle < report.saturating_mul(2) {
        let what = format!(
            "{idle} is less than two reports of agents ({report} s); raise it, or lower `agent.report_interval_seconds`"
        );
        return Some(("link.idle_timeout_seconds", what));
    }
    let gone = config.unreachable_after_seconds;
    (gone < report.saturating_mul(2)).then(|| {
        let what = format!("{gone} is less than two reports of agents ({report} s); raise it, or lower `agent.report_interval_seconds`");
        ("unreachable_after_seconds", what)
    })
}

fn levels(alerts: &AlertSettings) -> Option<Problem> {
    let pairs = [
        ("alerts.disk_ratio", alerts.disk_ratio, alerts.disk_clear_ratio),
        ("alerts.inodes_ratio", alerts.inodes_ratio, alerts.inodes_clear_ratio),
        ("alerts.memory_ratio", alerts.memory_ratio, alerts.memory_clear_ratio),
        ("alerts.fleet_share_ratio", alerts.fleet_share_ratio, 0.0),
    ];
    let (key, fire, clear) =
        pairs.into_iter().find(|(_, fire, clear)| !(0.0 <= *clear && clear < fire && *fire <= 1.0))?;
    Some((
        key,
        format!(
            "{fire} (clears at {clear}): both are shares from 0 to 1, and it must clear below where it fires"
        ),
    ))
}

fn regions(config: &Config) -> Option<Problem> {
    if config.regions.is_empty() {
        return Some(("regions", "it is empty; give at least one, such as [\"us-east\"]".to_owned()));
    }
    let twice = first_repeated(&config.regions)?;
    Some(("regions", format!("`{twice}` is there twice; remove one")))
}

fn sizes(config: &Config) -> Option<Problem> {
    let names: Vec<_> = config.sizes.iter().map(|size| &size.name).collect();
    if let Some(twice) = first_repeated(&names) {
        return Some(("size", format!("`{twice}` is there twice; remove one or rename it")));
    }
    let small =
        |size: &&super::Size| size.cores == 0 || size.memory_mib < MEMORY_MIB_MIN || size.disk_mib == 0;
    let size = config.sizes.iter().find(small)?;
    Some((
        "size",
        format!("`{}` needs at least one core, {MEMORY_MIB_MIN} MiB of memory and 1 MiB of disk", size.name),
    ))
}

fn images(config: &Config) -> Option<Problem> {
    let names: Vec<_> = config.images.iter().map(|image| &image.name).collect();
    if let Some(twice) = first_repeated(&names) {
        return Some(("image", format!("`{twice}` is there twice; remove one or rename it")));
    }
    let defaults: Vec<_> =
        config.images.iter().filter(|image| image.default).map(|image| image.engine()).collect();
    if let Some(engine) = first_repeated(&defaults) {
        let what = format!("more than one image of {engine} has `default = true`; leave it at one");
        return Some(("image", what));
    }
    let is_medium = |image: &&super::Image| image.format == ImageFormat::Iso;
    if let Some(medium) = config.images.iter().filter(is_medium).find(|image| image.default) {
        return Some(("image", format!("`{}` is a CD-ROM and cannot be the default", medium.name)));
    }
    let mut disks = config.images.iter().filter(|image| !is_medium(image));
    if let Some(image) = disks.find(|image| !image.engine().takes(image.format)) {
        let what = format!(
            "`{}` has format `{}`, which {} cannot run; correct its `format` or its `engine`",
            image.name,
            image.format,
            image.engine()
        );
        return Some(("image", what));
    }
    let relative = config.images.iter().find(|image| !image.file.is_absolute())?;
    let what = format!(
        "the file of `{}` must be an absolute path, not `{}`",
        relative.name,
        relative.file.display()
    );
    Some(("image", what))
}

fn first_repeated<T: Ord>(all: &[T]) -> Option<&T> {
    let mut seen = BTreeSet::new();
    all.iter().find(|one| !seen.insert(*one))
}
