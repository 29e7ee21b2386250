//! The guests that the demo and the tests boot: Debian's kernel with a busybox initrd, and bare-metal images.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::run::{Outcome, root, run, target};
use crate::setup;

/// Where the guests are.
pub struct Guests {
    /// The directory with everything; tests get it as `OUZEL_GUESTS`.
    pub directory: PathBuf,
    /// The kernel, unless it can't be had.
    pub kernel: Option<PathBuf>,
    /// The initrd, unless there is no busybox.
    pub initrd: Option<PathBuf>,
}

impl Guests {
    /// A bare-metal image by its name.
    pub fn bare(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.elf"))
    }
}

/// Builds all the guests that can be built.
pub fn build() -> Outcome<Guests> {
    let directory = target().join("guest");
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    bare_metal(&directory)?;
    stress(&directory)?;
    let kernel = setup::cloud_kernel();
    if let Err(error) = &kernel {
        println!("no Linux guest: {error}");
    }
    let link = directory.join("vmlinuz");
    if let Ok(kernel) = &kernel {
        fs::copy(kernel, &link).map_err(|error| format!("{}: {error}", link.display()))?;
    }
    let initrd = if setup::install(&[&setup::BUSYBOX]).is_empty() {
        let floats = floats(&directory)?;
        let modules = setup::kernel_modules(&MODULES);
        let path = directory.join("initrd.cpio");
        fs::write(&path, initrd(&floats, &modules).map_err(|error| format!("the initrd: {error}"))?)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Some(path)
    } else {
        None
    };
    Ok(Guests { directory, kernel: kernel.ok().map(|_| link), initrd })
}

/// The kernel modules in the initrd.
const MODULES: [&str; 23] = [
    "evdev",
    "button",
    "pvpanic",
    "pvpanic-mmio",
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "virtio-rng",
    "virtio_console",
    "virtio_input",
    "scsi_common",
    "scsi_mod",
    "libata",
    "ata_piix",
    "sd_mod",
    "cdrom",
    "sr_mod",
    "isofs",
];

/// The images that are 32-bit ELF files, as multiboot asks; PVH takes both kinds.
const ELF32: [&str; 2] = ["multiboot", "smp"];

/// The files of `directory` with this ending, in the order of their names.
fn sources(directory: &Path, ending: &str) -> Outcome<Vec<PathBuf>> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Compiles and links an image with the C compiler that Rust links with.
fn image(name: &str, directory: &Path, options: &[&str], sources: &[&Path]) -> Outcome {
    let linker_script = format!("-Wl,-T,{}", root().join("guests/guest.ld").display());
    let image = directory.join(format!("{name}.elf"));
    let mut arguments: Vec<String> = [
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-Wl,--no-warn-rwx-segments",
        linker_script.as_str(),
        "-o",
    ]
    .map(String::from)
    .to_vec();
    arguments.push(image.to_string_lossy().into_owned());
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    arguments.extend(sources.iter().map(|source| source.to_string_lossy().into_owned()));
    run("cc", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// `guests/*.S`.
fn bare_metal(directory: &Path) -> Outcome {
    for source in sources(&root().join("guests"), "S")? {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let width = if ELF32.contains(&name.as_str()) { "-m32" } else { "-m64" };
        image(&name, directory, &[width], &[&source])?;
    }
    Ok(())
}

/// How the stress guests are compiled: no library, no vector registers, nothing below the stack pointer.
const FREESTANDING: [&str; 11] = [
    "-m64",
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fno-strict-aliasing",
];

/// `guests/stress/*.c`, each with the common part there: `stress-<name>`.
fn stress(directory: &Path) -> Outcome {
    let place = root().join("guests/stress");
    let (entry, common) = (place.join("entry.S"), place.join("stress.c"));
    for source in sources(&place, "c")?.iter().filter(|source| **source != common) {
        let name = source.file_stem().unwrap_or_default().to_string_lossy();
        image(&format!("stress-{name}"), directory, &FREESTANDING, &[&entry, &common, source])?;
    }
    Ok(())
}

/// Compiles `guests/floats.c`, which runs in the guest and on the host.
fn floats(directory: &Path) -> Outcome<PathBuf> {
    let program = directory.join("floats");
    let source = root().join("guests/floats.c");
    run("cc", &["-O1", "-static", "-o", &program.to_string_lossy(), &source.to_string_lossy(), "-lm"])?;
    Ok(program)
}

/// The initrd: busybox, `floats`, kernel modules, and the `init` script of `guests/init`.
fn initrd(floats: &Path, modules: &[PathBuf]) -> io::Result<Vec<u8>> {
    let mut archive = Cpio::default();
    for directory in ["bin", "dev", "etc", "lib", "lib/modules", "proc", "sys", "tmp"] {
        archive.entry(directory, 0o040_755, &[], (0, 0));
    }
    archive.entry("dev/console", 0o020_600, &[], (5, 1));
    archive.entry("dev/null", 0o020_666, &[], (1, 3));
    archive.entry("bin/busybox", 0o100_755, &fs::read(setup::BUSYBOX.file)?, (0, 0));
    archive.entry("bin/sh", 0o120_777, b"busybox", (0, 0));
    archive.entry("bin/floats", 0o100_755, &fs::read(floats)?, (0, 0));
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.entry(&format!("lib/modules/{name}"), 0o100_644, &fs::read(module)?, (0, 0));
    }
    archive.entry("init", 0o100_755, &fs::read(root().join("guests/init"))?, (0, 0));
    Ok(archive.finish())
}

/// A cpio archive in the "newc" format that Linux unpacks (Linux documentation, `driver-api/early-userspace`).
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.entries += 1;
        let fields =
            [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}
