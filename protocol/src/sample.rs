//! Samples: what was measured, of whom, when. Names follow Prometheus' conventions and are made in one place.

use serde::{Deserialize, Serialize};

use crate::id::{BootId, VpsId};
use crate::units::UnixMillis;

macro_rules! metrics {
    ($($(#[$meta:meta])* $number:literal $variant:ident $name:literal $kind:ident $help:literal;)*) => {
        /// What is measured. The numbers are frozen: they are what crosses the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u16)]
        pub enum Metric { $($(#[$meta])* #[doc = $help] $variant = $number,)* }

        impl Metric {
            /// Every metric, in order of its number.
            pub const ALL: &'static [Metric] = &[$(Metric::$variant),*];

            /// Its number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The metric of a number; none for one that a newer agent sent.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// Its name, without the `chom_host_` or `chom_vps_` prefix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether it only rises (a counter) or goes both ways (a gauge).
            #[must_use]
            pub const fn kind(self) -> MetricKind {
                match self { $(Self::$variant => MetricKind::$kind,)* }
            }

            /// What it means and its unit.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

/// How a metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Rises until the source restarts.
    Counter,
    /// Goes both ways.
    Gauge,
}

metrics! {
    1 CpuSeconds "cpu_seconds_total" Counter "Processor time by mode (label), all cores together.";
    2 Load1 "load1" Gauge "Mean run queue over one minute (getloadavg(3)).";
    3 Load5 "load5" Gauge "Mean run queue over five minutes.";
    4 Load15 "load15" Gauge "Mean run queue over fifteen minutes.";
    5 MemoryTotal "memory_total_bytes" Gauge "Memory in all.";
    6 MemoryAvailable "memory_available_bytes" Gauge "Memory that can be had without swapping (proc_meminfo(5)).";
    7 SwapTotal "swap_total_bytes" Gauge "Swap in all.";
    8 SwapFree "swap_free_bytes" Gauge "Swap not in use.";
    9 DiskTotal "filesystem_size_bytes" Gauge "Size of a file system without what is reserved for root; the label is its mount point.";
    10 DiskAvailable "filesystem_available_bytes" Gauge "What unprivileged users can still write there.";
    11 InodesTotal "filesystem_inodes" Gauge "Inodes of a file system.";
    12 InodesFree "filesystem_inodes_free" Gauge "Inodes not in use.";
    13 DiskReadBytes "disk_read_bytes_total" Counter "Read from a device (label).";
    14 DiskWrittenBytes "disk_written_bytes_total" Counter "Written to a device (label).";
    15 DiskBusySeconds "disk_io_time_seconds_total" Counter "Time a device (label) was busy.";
    16 NetworkReceivedBytes "network_receive_bytes_total" Counter "Received by an interface (label).";
    17 NetworkSentBytes "network_transmit_bytes_total" Counter "Sent by an interface (label).";
    18 NetworkReceiveErrors "network_receive_errors_total" Counter "Receive errors of an interface (label).";
    19 NetworkSendErrors "network_transmit_errors_total" Counter "Send errors of an interface (label).";
    20 PressureSeconds "pressure_stall_seconds_total" Counter "Time stalled; the label is cpu, memory or io with some or full (PSI).";
    21 Uptime "uptime_seconds" Gauge "Time since the host booted.";
    40 VpsCpuSeconds "cpu_seconds_total" Counter "Processor time of a VPS, all its cores together.";
    41 VpsMemory "memory_resident_bytes" Gauge "Memory of the host that a VPS holds.";
    42 VpsDiskReadBytes "disk_read_bytes_total" Counter "Read by a VPS from its disk (label).";
    43 VpsDiskWrittenBytes "disk_written_bytes_total" Counter "Written by a VPS to its disk (label).";
    44 VpsDiskAllocated "disk_allocated_bytes" Gauge "Space that a VPS's disk (label) takes on the host.";
    45 VpsNetworkReceivedBytes "network_receive_bytes_total" Counter "Received by a VPS's interface (label).";
    46 VpsNetworkSentBytes "network_transmit_bytes_total" Counter "Sent by a VPS's interface (label).";
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// What.
    pub metric: Metric,
    /// Of which VPS; none: of the host itself.
    pub vps: Option<VpsId>,
    /// Device, mount point, interface or mode; empty where there is one only.
    pub label: String,
    /// How much, in the unit of the metric.
    pub value: f64,
}

/// Everything measured at one moment. `(boot, sequence)` names it for ever, so a repeat is recognised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The boot of the host it was taken in.
    pub boot: BootId,
    /// Counts up within the boot, across restarts of the agent.
    pub sequence: u64,
    /// When, by the host's clock.
    pub at: UnixMillis,
    /// The values.
    pub points: Vec<Point>,
}
