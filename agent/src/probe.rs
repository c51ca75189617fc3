//! The host that this process runs on, as the measuring task sees it. Knows no interval and keeps no samples.

use chom_protocol::host::Inventory;
use chom_protocol::sample::{Point, Sample};
use chom_protocol::{BootId, UnixMillis};

use crate::collect::Collector;
use crate::config::Config;
use crate::measure::Probe;

/// The probe of this host.
#[must_use]
pub fn of_host(config: &Config) -> Box<dyn Probe> {
    Box::new(HostProbe(Collector::new(config.vps_directory())))
}

struct HostProbe(Collector);

impl Probe for HostProbe {
    fn sample(&mut self, boot: BootId, sequence: u64, now: UnixMillis, vps_points: Vec<Point>) -> Sample {
        self.0.sample(boot, sequence, now, vps_points)
    }

    fn inventory(&mut self) -> Inventory {
        self.0.inventory(env!("CARGO_PKG_VERSION"))
    }

    fn problems(&self) -> Vec<String> {
        self.0.problems().to_vec()
    }
}
