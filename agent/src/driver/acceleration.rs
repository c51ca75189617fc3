//! Whether KVM really works here. That /dev/kvm opens proves nothing (nested virtualisation may be advertised and yet
//! hang), so a tiny payload is booted under KVM with a deadline, and the verdict is kept for this kernel.
//! It runs QEMU only; guests and libvirt are not touched.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use chom_protocol::host::Acceleration;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::command::{CommandError, Program};

/// The payload takes about 0.1 s under a KVM that works and 0.4 s even without; a KVM slower than this is no use.
const PROBE_SECONDS_MAX: u64 = 5;
const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
    deadline: Duration::from_secs(PROBE_SECONDS_MAX),
};
/// What the payload writes to the exit port; QEMU then exits with twice that and one.
const PAYLOAD_VALUE: u8 = 0x21;
const PAYLOAD_EXIT_CODE: i32 = (PAYLOAD_VALUE as i32) << 1 | 1;
/// The verdict's file in the agent's state folder.
const VERDICT_FILE: &str = "acceleration.json";

/// What the configuration says about acceleration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccelerationChoice {
    /// KVM where a boot under it succeeds, else the translator.
    #[default]
    Auto,
    /// KVM, unproven.
    Kvm,
    /// The translator.
    Tcg,
}

/// How guests' processors are made here, and why so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Kvm or Tcg.
    pub acceleration: Acceleration,
    /// The reason, for an admin.
    pub reason: String,
}

/// What is kept of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    kernel: String,
    kvm: bool,
    reason: String,
}

/// Decides for this host: the configuration first, then a verdict kept for this kernel, then a probe.
///
/// A negative verdict is kept too, so that an agent does not spend seconds on it at each start. To have it tried again,
/// remove `acceleration.json` from the state folder.
pub async fn determine(choice: AccelerationChoice, state_folder: &Path, kernel: &str) -> Verdict {
    match choice {
        AccelerationChoice::Kvm => return verdict(true, "set in the configuration".to_owned()),
        AccelerationChoice::Tcg => return verdict(false, "set in the configuration".to_owned()),
        AccelerationChoice::Auto => {}
    }
    // Cheap to see, and may change without a new kernel: not worth keeping.
    if !Path::new("/dev/kvm").exists() {
        return verdict(false, "there is no /dev/kvm: virtualisation is off or missing".to_owned());
    }
    let file = state_folder.join(VERDICT_FILE);
    let kept = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    if let Some(kept) = kept.filter(|kept| kept.kernel == kernel) {
        return verdict(kept.kvm, kept.reason);
    }
    match probe(state_folder, Under::Kvm).await {
        Ok((kvm, reason)) => {
            let kept = Kept { kernel: kernel.to_owned(), kvm, reason };
            // A torn or missing file only means another probe.
            let written = serde_json::to_vec(&kept).map_err(std::io::Error::from);
            if let Err(error) = written.and_then(|bytes| std::fs::write(&file, bytes)) {
                warn!(%error, file = %file.display(), "cannot keep the verdict on KVM; it is probed again at the next start");
            }
            verdict(kept.kvm, kept.reason)
        }
        Err(error) => verdict(false, format!("KVM cannot be tried: {error}")),
    }
}

fn verdict(kvm: bool, reason: String) -> Verdict {
    Verdict { acceleration: if kvm { Acceleration::Kvm } else { Acceleration::Tcg }, reason }
}

/// What the payload is booted under.
#[derive(Debug, Clone, Copy)]
enum Under {
    Kvm,
    #[cfg(test)]
    Tcg,
}

/// Boots the payload; whether it ran to its end in time, and what happened in words. An error is no verdict.
async fn probe(folder: &Path, under: Under) -> Result<(bool, String), CommandError> {
    let file = folder.join("acceleration-probe.img");
    if let Err(source) = std::fs::write(&file, payload()) {
        return Err(CommandError::Start { program: format!("the probe `{}`", file.display()), source });
    }
    let (machine, cpu) = match under {
        Under::Kvm => ("pc,accel=kvm", "host"),
        #[cfg(test)]
        Under::Tcg => ("pc,accel=tcg", "max"),
    };
    let mut drive = OsString::from("if=ide,format=raw,file=");
    // QEMU's option syntax: a comma in a value is written twice.
    drive.push(file.to_string_lossy().replace(',', ",,"));
    let mut arguments: Vec<OsString> = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-m",
        "32",
        "-machine",
        machine,
        "-cpu",
        cpu,
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-drive",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.push(drive);
    let outcome = QEMU.run(&arguments).await;
    let _ = std::fs::remove_file(&file);
    match outcome {
        Ok(output) if output.status.code() == Some(PAYLOAD_EXIT_CODE) => {
            Ok((true, "a test payload booted under KVM".to_owned()))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().lines().next_back().unwrap_or("it said nothing").to_owned();
            Ok((false, format!("a test payload did not boot under KVM ({}): {said}", output.status)))
        }
        Err(CommandError::Deadline { seconds, .. }) => {
            Ok((false, format!("a test payload under KVM did not end within {seconds} s")))
        }
        Err(error) => Err(error),
    }
}

/// Where the BIOS puts a boot sector.
const ORIGIN: u16 = 0x7c00;
const LONG_MODE_AT: u16 = 0x60;
const GDT_AT: u16 = 0x78;
const GDT_REGISTER_AT: u16 = 0x88;

/// The machine code up to long mode (16-bit), see the Intel SDM volume 3, section "Initializing IA-32e Mode".
#[rustfmt::skip]
const REAL_MODE: &[u8] = &[
    0xfa,                                                 // cli
    0xfc,                                                 // cld
    0x31, 0xc0,                                           // xor ax, ax
    0x8e, 0xd8,                                           // mov ds, ax
    0x8e, 0xc0,                                           // mov es, ax
    // Three zeroed pages at 0x1000: page map, directory pointers, directory.
    0x66, 0xbf, 0x00, 0x10, 0x00, 0x00,                   // mov edi, 0x1000
    0x0f, 0x22, 0xdf,                                     // mov cr3, edi
    0x66, 0x31, 0xc0,                                     // xor eax, eax
    0xb9, 0x00, 0x0c,                                     // mov cx, 0xc00
    0xf3, 0x66, 0xab,                                     // rep stosd
    // The first 2 MiB onto themselves, present and writable.
    0x66, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0x00, 0x00, // mov dword [0x1000], 0x2003
    0x66, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0x00, 0x00, // mov dword [0x2000], 0x3003
    0x66, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0x00, 0x00, // mov dword [0x3000], 0x0083
    0x66, 0xb8, 0x20, 0x00, 0x00, 0x00,                   // mov eax, 0x20           (CR4.PAE)
    0x0f, 0x22, 0xe0,                                     // mov cr4, eax
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,                   // mov ecx, 0xc0000080     (EFER)
    0x0f, 0x32,                                           // rdmsr
    0x80, 0xcc, 0x01,                                     // or ah, 1                (EFER.LME)
    0x0f, 0x30,                                           // wrmsr
    0x0f, 0x01, 0x16, (ORIGIN + GDT_REGISTER_AT) as u8, ((ORIGIN + GDT_REGISTER_AT) >> 8) as u8, // lgdt
    0x66, 0xb8, 0x01, 0x00, 0x00, 0x80,                   // mov eax, 0x80000001     (CR0.PG, CR0.PE)
    0x0f, 0x22, 0xc0,                                     // mov cr0, eax
    0xea, (ORIGIN + LONG_MODE_AT) as u8, ((ORIGIN + LONG_MODE_AT) >> 8) as u8, 0x08, 0x00, // jmp 8:long mode
];

/// The machine code in long mode: a loop long enough to tell a usable processor from a crawling one, then the exit port.
#[rustfmt::skip]
const LONG_MODE: &[u8] = &[
    0xb9, 0x00, 0x00, 0x00, 0x01,                         // mov ecx, 1 << 24
    0xff, 0xc9,                                           // dec ecx
    0x75, 0xfc,                                           // jnz to the dec
    0xb0, PAYLOAD_VALUE,                                  // mov al, the value
    0xe6, 0xf4,                                           // out 0xf4, al
    0xf4,                                                 // hlt
    0xeb, 0xfd,                                           // jmp to the hlt
];

/// A null descriptor and one of 64-bit code.
const GDT: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0x9a, 0xaf, 0];
/// Its last byte's offset, and its address.
const GDT_REGISTER: &[u8] = &[15, 0, (ORIGIN + GDT_AT) as u8, ((ORIGIN + GDT_AT) >> 8) as u8, 0, 0];

const _: () = assert!(REAL_MODE.len() <= LONG_MODE_AT as usize);
const _: () = assert!(LONG_MODE_AT as usize + LONG_MODE.len() <= GDT_AT as usize);
const _: () = assert!(GDT_AT as usize + GDT.len() <= GDT_REGISTER_AT as usize);

/// The boot sector.
fn payload() -> [u8; 512] {
    let mut sector = [0; 512];
    let parts = [(0, REAL_MODE), (LONG_MODE_AT, LONG_MODE), (GDT_AT, GDT), (GDT_REGISTER_AT, GDT_REGISTER)];
    for (at, bytes) in parts {
        let at = usize::from(at);
        sector[at..at + bytes.len()].copy_from_slice(bytes);
    }
    // Without this the BIOS does not boot it.
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_payload_reaches_its_end_under_the_translator() {
        let folder = tempfile::tempdir().unwrap();
        match probe(folder.path(), Under::Tcg).await {
            Ok((ran, reason)) => assert!(ran, "{reason}"),
            Err(CommandError::Missing { .. }) => eprintln!("not checked: QEMU is not installed here"),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn the_configuration_wins_over_any_probe() {
        let nowhere = Path::new("/nonexistent");
        for (choice, expected) in
            [(AccelerationChoice::Kvm, Acceleration::Kvm), (AccelerationChoice::Tcg, Acceleration::Tcg)]
        {
            assert_eq!(determine(choice, nowhere, "6.1").await.acceleration, expected);
        }
    }

    #[tokio::test]
    async fn a_verdict_holds_for_its_kernel_only() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { kernel: "6.1".to_owned(), kvm: true, reason: "kept".to_owned() };
        std::fs::write(folder.path().join(VERDICT_FILE), serde_json::to_vec(&kept).unwrap()).unwrap();
        let same = determine(AccelerationChoice::Auto, folder.path(), "6.1").await;
        let other = determine(AccelerationChoice::Auto, folder.path(), "6.2").await;
        if Path::new("/dev/kvm").exists() {
            assert_eq!(same.reason, "kept");
        }
        assert_ne!(other.reason, "kept");
    }

    #[test]
    fn a_boot_sector_ends_with_its_signature() {
        assert_eq!(payload()[510..], [0x55, 0xaa]);
    }
}
