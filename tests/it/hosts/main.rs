//! What CHOM must show on real hosts: machines with systemd, libvirt and QEMU of their own, the agent installed as a unit,
//! VPSs that boot and greet on their consoles. What is claimed is checked inside the host, with `virsh`, `ls` and
//! `systemctl`, not only asked of the API.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod adoption;
mod agent_dies;
mod console;
mod container_console;
mod containers;
mod debian;
mod engine_fails;
mod guest_off;
mod lifecycle;
mod network;
mod no_network;
mod no_orchestrator;
mod no_space;
mod operations;
mod snapshots;
