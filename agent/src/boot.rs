//! Which boot of the host this is. Reads two files of /proc, nothing else.

use std::io;

use chom_protocol::BootId;
use chom_protocol::vps::Sha256;
use uuid::Uuid;

/// Field of proc_pid_stat(5) that says when a process was started, counted behind the closing bracket of its name.
const START_TIME_FIELD: usize = 19;

/// This boot: the kernel's boot id (random(4)) together with the start of PID 1, so that a host inside a container, which
/// shares its kernel's boot id, has a boot of its own too.
///
/// # Errors
/// When /proc cannot be read.
pub fn current() -> io::Result<BootId> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let init = std::fs::read_to_string("/proc/1/stat")?;
    Ok(boot_of(kernel.trim(), start_time(&init).unwrap_or_default()))
}

fn start_time(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(START_TIME_FIELD)
}

fn boot_of(kernel: &str, init_started: &str) -> BootId {
    let digest = Sha256::of(format!("{kernel} {init_started}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.0[..16]);
    BootId::new(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// A boot of a simulated host.
#[must_use]
pub fn simulated() -> BootId {
    BootId::new(Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_stays_the_same_while_init_runs_and_differs_with_it() {
        assert_eq!(current().unwrap(), current().unwrap());
        assert_ne!(boot_of("k", "1"), boot_of("k", "2"));
        assert_ne!(boot_of("k", "1"), boot_of("l", "1"));
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "1 (a) b) c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 2 3";
        assert_eq!(start_time(stat), Some("4711"));
    }
}
