//! What the host is and has: facts that change slowly. The only file that names sysinfo. What cannot be found out is
//! left empty or zero.

use std::path::Path;

use chom_protocol::Bytes;
use chom_protocol::host::Inventory;
use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

pub(crate) fn inventory(agent_version: &str, vps_folder: &Path) -> Inventory {
    let ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let memory = System::new_with_specifics(ram).map_or(0, |system| system.total_memory());
    let cores = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    let (disk, disk_free) = space(vps_folder);
    Inventory {
        agent_version: agent_version.to_owned(),
        hostname: System::host_name().unwrap_or_default(),
        kernel: System::kernel_version().unwrap_or_default(),
        os: System::long_os_version().unwrap_or_default(),
        cores: cores.and_then(|cores| u32::try_from(cores).ok()).unwrap_or(0),
        memory: Bytes(memory),
        disk,
        disk_free,
    }
}

/// Size of the file system that holds `folder`, and what is free on it; of the nearest folder above that exists, for
/// the agent makes its folder only with the first VPS.
fn space(folder: &Path) -> (Bytes, Bytes) {
    let found = folder.ancestors().find_map(|path| statvfs(path).ok());
    found.map_or((Bytes(0), Bytes(0)), |found| {
        let (size, available) = super::disk::usable(&found);
        (Bytes(size), Bytes(available))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_of_the_one_above() {
        assert_eq!(space(Path::new("/nonexistent/folder")).0, space(Path::new("/")).0);
    }
}
