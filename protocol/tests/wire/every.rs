//! One value of every message, with every kind of thing in it. The golden files hold the bytes of exactly these: add to
//! the lists, never change what is there.

use std::collections::BTreeMap;

use chom_protocol::foreign::{Adopted, DiskKind, GuestCard, GuestDisk, Hardware};
use chom_protocol::helper::{
    AdoptedDefinition, GuestDefinition, HelperReply, HelperRequest, ObservedGuest, SnapshotChange,
};
use chom_protocol::host::{
    Acceleration, AgentSettings, EngineStatus, HostSpec, HostStatus, Inventory, PrefetchState,
};
use chom_protocol::job::{Job, JobKind, JobOutcome, JobResult};
use chom_protocol::link::tunnel::{Secret, TerminalSize, TunnelReply, TunnelRequest};
use chom_protocol::link::v1::spec_parts;
use chom_protocol::link::{FleetInfo, Hello, Standing, ToAgent, ToOrchestrator};
use chom_protocol::network::{
    Attachment, Direction, Firewall, FirewallAction, FirewallRule, Rate, Traffic, TransportProtocol,
};
use chom_protocol::sample::{Metric, Point, Sample};
use chom_protocol::vps::{
    AddressPrefix, BlobReference, CloneSource, Engine, ForeignGuest, GuestFacts, GuestFileSystem,
    GuestShutdown, ImageFormat, ImageReference, IsoMedium, NetworkInterface, Power, Sha256, SnapshotStatus,
    Suspension, Tombstone, VpsSpec, VpsState, VpsStatus,
};
use chom_protocol::{
    BootId, Bytes, Generation, HostId, InstanceId, JobId, SnapshotId, TunnelId, UnixMillis, VpsId,
};

/// A UUID of version 7 that ends with `number`.
fn uuid(number: u16) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x0190_f6d2_8f3e_7cc0_9d4c_0000_0000_0000 + u128::from(number))
}

pub(crate) fn vps_id(number: u16) -> VpsId {
    VpsId::new(uuid(number))
}

pub(crate) fn job_id(number: u16) -> JobId {
    JobId::new(uuid(number))
}

fn snapshot_id(number: u16) -> SnapshotId {
    SnapshotId::new(uuid(number))
}

fn host_id() -> HostId {
    HostId::new(uuid(0xffff))
}

fn boot_id() -> BootId {
    BootId::new(uuid(0xb007))
}

fn generation() -> Generation {
    Generation { epoch: 1_795_392_000, number: 70_000 }
}

/// A VPS with few things in it.
pub(crate) fn plain_vps(number: u16) -> VpsSpec {
    VpsSpec {
        id: vps_id(number),
        tenant: "default".parse().unwrap(),
        name: format!("vps-{number}").parse().unwrap(),
        placement: 1,
        engine: Engine::Fake,
        power: Power::Stopped,
        guest_shutdown: GuestShutdown::StayOff,
        hold: false,
        retained: true,
        start_count: 0,
        build: 0,
        suspension: Some(Suspension::Isolated),
        stop_grace_seconds: Some(0),
        cores: 1,
        memory: Bytes::mib(128),
        disk: Bytes::gib(1),
        image: Some(ImageReference {
            name: "tiny".parse().unwrap(),
            sha256: Sha256([1; 32]),
            size: Bytes::mib(20),
            format: ImageFormat::Raw,
        }),
        interface: NetworkInterface { spoof_guard: false, ..NetworkInterface::bare([2, 0, 0, 0, 0, 1]) },
        ssh_keys: vec![],
        user_data: None,
        source: None,
        rescue: None,
        iso: None,
        adopted: None,
    }
}

/// A VPS with everything in it.
fn full_vps() -> VpsSpec {
    VpsSpec {
        placement: 3,
        engine: Engine::Libvirt,
        power: Power::Running,
        guest_shutdown: GuestShutdown::Restart,
        hold: true,
        retained: false,
        start_count: 300,
        build: 2,
        suspension: None,
        stop_grace_seconds: None,
        cores: 4,
        memory: Bytes::gib(8),
        disk: Bytes::gib(160),
        image: Some(ImageReference {
            name: "debian-12".parse().unwrap(),
            sha256: Sha256([0xab; 32]),
            size: Bytes(411_238_912),
            format: ImageFormat::Qcow2,
        }),
        interface: NetworkInterface {
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            attachment: Attachment::Bridge {
                name: "br-lan".parse().unwrap(),
                vlan: Some(100.try_into().unwrap()),
            },
            addresses: vec![
                AddressPrefix { address: "10.0.0.7".parse().unwrap(), prefix: 24 },
                AddressPrefix { address: "fd00::7".parse().unwrap(), prefix: 64 },
            ],
            routed: vec!["192.0.2.16/28".parse().unwrap(), "2001:db8:7::/48".parse().unwrap()],
            gateway_v4: Some("10.0.0.1".parse().unwrap()),
            gateway_v6: Some("fe80::1".parse().unwrap()),
            dns: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            spoof_guard: true,
            firewall: full_firewall(),
            rate: Rate {
                in_bits: Some(100_000_000),
                out_bits: Some(50_000_000),
                throttle_bits: Some(1_000_000),
            },
        },
        ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample admin@example.org".to_owned()],
        user_data: Some(BlobReference { sha256: Sha256([0xcd; 32]), size: Bytes(1234) }),
        source: Some(CloneSource { vps: vps_id(2), snapshot: Some(snapshot_id(9)) }),
        rescue: plain_vps(1).image.map(|image| ImageReference { name: "rescue".parse().unwrap(), ..image }),
        iso: Some(IsoMedium {
            image: ImageReference {
                name: "installer".parse().unwrap(),
                sha256: Sha256([0xef; 32]),
                size: Bytes::mib(600),
                format: ImageFormat::Iso,
            },
            boot_first: true,
        }),
        adopted: Some(Box::new(Adopted { guest: "vm 101".to_owned(), disks: disks() })),
        ..plain_vps(1)
    }
}

fn disks() -> Vec<GuestDisk> {
    let disk = |path: &str, kind, size: Option<Bytes>| GuestDisk {
        path: path.to_owned(),
        kind,
        size,
        device: "vda".to_owned(),
    };
    vec![
        disk("/srv/guests/101.qcow2", DiskKind::Qcow2, Some(Bytes::gib(20))),
        disk("/srv/guests/101.img", DiskKind::Raw, None),
        disk("/dev/vg0/vm101", DiskKind::Block, Some(Bytes::gib(40))),
        disk("default", DiskKind::Pool, None),
        disk("pool/vm101", DiskKind::Other, None),
    ]
}

fn full_firewall() -> Firewall {
    let rule = |direction, protocol, ports: &[&str], peer: Option<&str>, action| FirewallRule {
        direction,
        protocol,
        ports: ports.iter().map(|range| range.parse().unwrap()).collect(),
        peer: peer.map(|peer| peer.parse().unwrap()),
        action,
    };
    use FirewallAction::{Accept, Drop};
    use TransportProtocol::{Any, Icmp, Tcp, Udp};
    Firewall {
        default_in: Drop,
        default_out: Accept,
        rules: vec![
            rule(Direction::In, Tcp, &["22", "8000-8080"], Some("10.0.0.0/8"), Accept),
            rule(Direction::In, Icmp, &[], Some("2001:db8::/32"), Accept),
            rule(Direction::Out, Udp, &["53"], None, Drop),
            rule(Direction::Out, Any, &[], Some("192.0.2.1/32"), Drop),
        ],
    }
}

pub(crate) fn host_spec() -> HostSpec {
    HostSpec {
        prefetch: [plain_vps(1).image.unwrap()].map(|image| (image.name.clone(), image)).into(),
        host: host_id(),
        generation: generation(),
        settings: AgentSettings {
            report_interval_seconds: 15,
            reconcile_interval_seconds: 30,
            stop_grace_seconds: 60,
            destroys_allowed_until: Some(UnixMillis(1_795_395_600_000)),
        },
        vps: [full_vps(), plain_vps(2)].into_iter().map(|vps| (vps.id, vps)).collect(),
        tombstones: [(
            vps_id(3),
            Tombstone { placement: 2, engine: Engine::Incus, created_at: UnixMillis(1_795_300_000_000) },
        )]
        .into(),
        jobs: (4..).zip(every_job()).map(|(number, job)| (job_id(number), job)).collect(),
    }
}

fn every_job() -> Vec<Job> {
    let (vps, snapshot) = (vps_id(1), snapshot_id(9));
    let kinds = [
        JobKind::Restart { vps },
        JobKind::TakeSnapshot { vps, snapshot },
        JobKind::RestoreSnapshot { vps, snapshot },
        JobKind::DeleteSnapshot { vps, snapshot },
    ];
    kinds.map(|kind| Job { kind, deadline: UnixMillis(1_795_392_600_000) }).into()
}

pub(crate) fn host_status() -> HostStatus {
    let states = [
        VpsState::Preparing,
        VpsState::Running,
        VpsState::Paused,
        VpsState::Stopped,
        VpsState::StoppedByGuest,
        VpsState::Crashed,
        VpsState::Absent,
        VpsState::Unknown,
    ];
    let engine = |engine, acceleration, problem: Option<&str>| EngineStatus {
        engine,
        version: "9.0.0".to_owned(),
        acceleration,
        problem: problem.map(str::to_owned),
    };
    HostStatus {
        prefetch: [
            ("debian", PrefetchState::Waiting),
            ("fetched", PrefetchState::Fetching { percent: 40 }),
            ("ready", PrefetchState::Ready),
            ("broken", PrefetchState::Failed { problem: "no space left".to_owned() }),
        ]
        .map(|(name, state)| (name.parse().unwrap(), state))
        .into(),
        boot: boot_id(),
        observed_at: UnixMillis(1_795_392_000_123),
        accepted: generation(),
        reconciled: Generation { number: 69_999, ..generation() },
        inventory: Inventory {
            agent_version: "0.1.0".to_owned(),
            hostname: "host-1".to_owned(),
            kernel: "6.1.0-18-amd64".to_owned(),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            cores: 64,
            memory: Bytes::gib(256),
            disk: Bytes::gib(4096),
            disk_free: Bytes::gib(1000),
        },
        engines: vec![
            engine(Engine::Libvirt, Acceleration::Kvm, None),
            engine(Engine::Libvirt, Acceleration::Tcg, Some("KVM did not boot the probe; using TCG")),
            engine(Engine::Fake, Acceleration::None, None),
            engine(Engine::Incus, Acceleration::None, None),
        ],
        vps: (1..).zip(states).map(|(number, state)| (vps_id(number), vps_status(state))).collect(),
        foreign: vec![ForeignGuest {
            engine: Engine::Libvirt,
            name: "münster".to_owned(),
            state: VpsState::Running,
            hardware: Some(Box::new(Hardware {
                id: vps_id(21),
                cores: Some(2),
                memory: None,
                disks: disks(),
                cards: vec![
                    GuestCard {
                        mac: [0x52, 0x54, 0, 1, 2, 3],
                        attachment: Some(Attachment::Bridge { name: "br-lan".parse().unwrap(), vlan: None }),
                        on: "br-lan".to_owned(),
                    },
                    GuestCard { mac: [2; 6], attachment: None, on: "user".to_owned() },
                ],
                obstacle: Some("it is transient: `virsh define` it".to_owned()),
            })),
        }],
        orphans: vec![vps_id(20)],
        destroys_waiting: vec![vps_id(3)],
        problems: vec!["the disk for VPSs is read-only: see dmesg(1)".to_owned()],
    }
}

pub(crate) fn vps_status(state: VpsState) -> VpsStatus {
    VpsStatus {
        state,
        placement: 3,
        start_count: 300,
        build: 2,
        restart_needed: state == VpsState::Running,
        since: UnixMillis(1_795_391_000_000),
        problem: (state == VpsState::Crashed).then(|| "the engine ended: out of memory".to_owned()),
        progress: (state == VpsState::Preparing).then(|| "image 40 %".to_owned()),
        traffic: (state == VpsState::Running).then_some(Traffic { in_bytes: 70_000, out_bytes: 5 }),
        snapshots: match state {
            VpsState::Running => Some(vec![
                SnapshotStatus {
                    id: snapshot_id(9),
                    taken_at: UnixMillis(1_795_390_000_000),
                    disk: Some(Bytes::gib(160)),
                },
                SnapshotStatus { id: snapshot_id(10), taken_at: UnixMillis(0), disk: None },
            ]),
            VpsState::Stopped => Some(vec![]),
            _ => None,
        },
        guest: (state == VpsState::Running).then(|| Box::new(facts())),
    }
}

fn facts() -> GuestFacts {
    GuestFacts {
        seen_at: UnixMillis(1_795_391_999_000),
        hostname: Some("vps-1".to_owned()),
        os: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        kernel: None,
        addresses: Some(vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()]),
        file_systems: Some(vec![
            GuestFileSystem {
                mount: "/".to_owned(),
                kind: "ext4".to_owned(),
                size: Some(Bytes::gib(10)),
                used: Some(Bytes::gib(2)),
            },
            GuestFileSystem { mount: "/proc".to_owned(), kind: "proc".to_owned(), size: None, used: None },
        ]),
    }
}

/// One point of every metric of the first release.
fn points() -> Vec<Point> {
    use Metric::{
        CpuSeconds, DiskAvailable, DiskBusySeconds, DiskReadBytes, DiskTotal, DiskWrittenBytes, InodesFree,
        InodesTotal, Load1, Load5, Load15, MemoryAvailable, MemoryTotal, NetworkReceiveErrors,
        NetworkReceivedBytes, NetworkSendErrors, NetworkSentBytes, PressureSeconds, SwapFree, SwapTotal,
        Uptime, VpsCpuSeconds, VpsDiskAllocated, VpsDiskReadBytes, VpsDiskWrittenBytes, VpsMemory,
        VpsNetworkReceivedBytes, VpsNetworkSentBytes,
    };
    let host = [
        (CpuSeconds, "user"),
        (Load1, ""),
        (Load5, ""),
        (Load15, ""),
        (MemoryTotal, ""),
        (MemoryAvailable, ""),
        (SwapTotal, ""),
        (SwapFree, ""),
        (DiskTotal, "/"),
        (DiskAvailable, "/"),
        (InodesTotal, "/"),
        (InodesFree, "/"),
        (DiskReadBytes, "sda"),
        (DiskWrittenBytes, "sda"),
        (DiskBusySeconds, "sda"),
        (NetworkReceivedBytes, "eth0"),
        (NetworkSentBytes, "eth0"),
        (NetworkReceiveErrors, "eth0"),
        (NetworkSendErrors, "eth0"),
        (PressureSeconds, "io full"),
        (Uptime, ""),
    ];
    let vps = [
        (VpsCpuSeconds, ""),
        (VpsMemory, ""),
        (VpsDiskReadBytes, "vda"),
        (VpsDiskWrittenBytes, "vda"),
        (VpsDiskAllocated, "vda"),
        (VpsNetworkReceivedBytes, "vnet0"),
        (VpsNetworkSentBytes, "vnet0"),
    ];
    let point =
        |vps, (metric, label): (Metric, &str), value| Point { metric, vps, label: label.to_owned(), value };
    let host = host.into_iter().map(|named| point(None, named, 0.25));
    host.chain(vps.into_iter().map(|named| point(Some(vps_id(1)), named, 1e12))).collect()
}

fn fleet() -> FleetInfo {
    FleetInfo {
        orchestrators: vec!["chom.example.org:7440".to_owned(), "[fd00::2]:7440".to_owned()],
        ca_bundle: vec![vec![0x30, 0x82, 0x01], vec![0x30, 0x82, 0x02]],
    }
}

pub(crate) fn every_to_orchestrator() -> Vec<(&'static str, ToOrchestrator)> {
    let (begin, mut parts, digest) = spec_parts(&host_spec());
    let result = |number, outcome| JobResult {
        job: job_id(number),
        outcome,
        finished_at: UnixMillis(1_795_392_001_000),
        generation: generation(),
    };
    vec![
        (
            "hello",
            ToOrchestrator::Hello(Hello {
                host: host_id(),
                instance: InstanceId::new(uuid(0x1257)),
                boot: boot_id(),
                agent_version: "0.1.0".to_owned(),
                accepted: generation(),
            }),
        ),
        ("renew", ToOrchestrator::Renew { csr: vec![0x30, 0x81, 0xff, 0] }),
        ("ledger-begin", ToOrchestrator::LedgerBegin(begin)),
        ("ledger-part", ToOrchestrator::LedgerPart(parts.remove(0))),
        ("ledger-end", ToOrchestrator::LedgerEnd { digest }),
        ("pull", ToOrchestrator::Pull { have: generation() }),
        ("accepted", ToOrchestrator::Accepted { generation: generation() }),
        (
            "refused",
            ToOrchestrator::Refused { generation: generation(), problem: "older than the ledger".to_owned() },
        ),
        ("status", ToOrchestrator::Status(Box::new(host_status()))),
        (
            "results",
            ToOrchestrator::Results(vec![
                result(4, JobOutcome::Done),
                result(5, JobOutcome::Failed { problem: "the deadline had passed".to_owned() }),
            ]),
        ),
        (
            "samples",
            ToOrchestrator::Samples(vec![Sample {
                boot: boot_id(),
                sequence: 1000,
                at: UnixMillis(1_795_392_000_500),
                points: points(),
            }]),
        ),
        ("fetch", ToOrchestrator::Fetch { sha256: Sha256([0xcd; 32]), offset: Bytes(1 << 33) }),
        (
            "enrol",
            ToOrchestrator::Enrol {
                token: "chom-join-example".to_owned(),
                csr: vec![0x30, 0x81],
                hostname: "host-1".to_owned(),
            },
        ),
        ("fleet-kept", ToOrchestrator::FleetKept { ca_bundle: Sha256([0xca; 32]) }),
    ]
}

pub(crate) fn every_to_agent() -> Vec<(&'static str, ToAgent)> {
    let (begin, mut parts, digest) = spec_parts(&host_spec());
    let welcome = |standing| ToAgent::Welcome { standing, fleet: fleet() };
    vec![
        ("welcome-managed", welcome(Standing::Managed)),
        ("welcome-report-only", welcome(Standing::ReportOnly)),
        ("welcome-hold", welcome(Standing::Hold)),
        ("welcome-renew-only", welcome(Standing::RenewOnly)),
        ("renewed", ToAgent::Renewed { certificate: vec![0x30, 0x82, 3] }),
        ("fleet-info", ToAgent::FleetInfo(fleet())),
        ("ledger-wanted", ToAgent::LedgerWanted),
        ("spec-begin", ToAgent::SpecBegin(begin)),
        ("spec-part", ToAgent::SpecPart(parts.remove(0))),
        ("spec-end", ToAgent::SpecEnd { digest }),
        ("acknowledged", ToAgent::Acknowledged),
        ("blob", ToAgent::Blob { size: Bytes(411_238_912) }),
        ("enrolled", ToAgent::Enrolled { host: host_id(), certificate: vec![0x30, 0x82, 4], fleet: fleet() }),
        ("problem", ToAgent::Problem { problem: "the token was used before: ask for a new one".to_owned() }),
        ("renew-wanted", ToAgent::RenewWanted { within_seconds: 300 }),
    ]
}

pub(crate) fn every_tunnel_request() -> Vec<(&'static str, TunnelRequest)> {
    let (vps, tunnel) = (vps_id(1), TunnelId::new(uuid(0x70)));
    let password = Secret::new("correct-horse-battery".to_owned());
    vec![
        ("console", TunnelRequest::Console { tunnel, vps, size: TerminalSize::default() }),
        ("resize", TunnelRequest::Resize { tunnel, size: TerminalSize { columns: 300, rows: 2 } }),
        ("vnc", TunnelRequest::Vnc { vps }),
        ("set-password", TunnelRequest::SetPassword { vps, user: "root".to_owned(), password }),
    ]
}

pub(crate) fn every_tunnel_reply() -> Vec<(&'static str, TunnelReply)> {
    vec![
        ("opened", TunnelReply::Opened),
        ("done", TunnelReply::Done),
        ("refused", TunnelReply::Refused { problem: "VPS is off: start it".to_owned(), retryable: true }),
    ]
}

pub(crate) fn every_helper_request() -> Vec<HelperRequest> {
    let vps = vps_id(1);
    vec![
        HelperRequest::Hello { version: "0.1.0".to_owned() },
        HelperRequest::Observe,
        HelperRequest::Define(Box::new(GuestDefinition {
            vps,
            placement: 3,
            build: 2,
            cores: 4,
            memory: Bytes::gib(8),
            acceleration: Acceleration::Tcg,
            disk: "/var/lib/chom-agent/vps/1/disk.qcow2".into(),
            rescue: Some("/var/lib/chom-agent/vps/1/rescue-1.qcow2".into()),
            cdrom: Some("/var/lib/chom-agent/images/ef".into()),
            cdrom_first: true,
            disk_size: Bytes::gib(160),
            seed: "/var/lib/chom-agent/vps/1/seed.iso".into(),
            console_log: "/var/log/chom-agent/1.log".into(),
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            attachment: Attachment::Nat,
            connected: true,
        })),
        HelperRequest::Start { vps },
        HelperRequest::Pause { vps },
        HelperRequest::GrowDisk { vps, device: "vda".to_owned(), size: Bytes::gib(1) },
        HelperRequest::Adopt(AdoptedDefinition {
            vps,
            placement: 1,
            cores: 2,
            memory: Bytes::gib(1),
            disk_size: Bytes::gib(1),
            mac: [2; 6],
            connected: true,
        }),
        HelperRequest::Shutdown { vps },
        HelperRequest::PowerOff { vps },
        HelperRequest::Undefine { vps },
        HelperRequest::Snapshot {
            vps,
            disk: "/var/lib/chom-agent/vps/1/disk.qcow2".into(),
            name: "chom-9".to_owned(),
            change: SnapshotChange::Take,
        },
        HelperRequest::Sockets { vps },
        HelperRequest::Facts { vps },
        HelperRequest::SetPassword {
            vps,
            user: "root".to_owned(),
            password: Secret::new("hunter2".to_owned()),
        },
        HelperRequest::Measure,
        HelperRequest::Network,
    ]
}

pub(crate) fn every_helper_reply() -> Vec<HelperReply> {
    vec![
        HelperReply::Ready { version: "0.1.0".to_owned() },
        HelperReply::Observed {
            engine_version: "9.0.0".to_owned(),
            guests: vec![ObservedGuest {
                name: GuestDefinition::guest_name(vps_id(1)),
                vps: Some(vps_id(1)),
                placement: 3,
                build: 2,
                definition: Some(Sha256([7; 32])),
                changed_by_hand: true,
                restart_needed: true,
                state: VpsState::Running,
                hardware: None,
                port: Some("vnet3".to_owned()),
            }],
        },
        HelperReply::Done,
        HelperReply::Off,
        HelperReply::Sockets { console: Some("/dev/pts/3".into()), screen: None },
        HelperReply::Facts(Box::new(facts())),
        HelperReply::Measured { points: points() },
        HelperReply::Failed { problem: "no such domain".to_owned(), retryable: true },
    ]
}

/// So many VPSs that a status can hardly have more.
pub(crate) fn crowded_status(count: u16, problem: &str) -> HostStatus {
    let mut status = host_status();
    let crashed = VpsStatus { problem: Some(problem.to_owned()), ..vps_status(VpsState::Crashed) };
    status.vps = (0..count).map(|number| (vps_id(number), crashed.clone())).collect::<BTreeMap<_, _>>();
    status
}
