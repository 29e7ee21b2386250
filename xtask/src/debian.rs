//! The Debian disk image that the firmware tests boot: built once from packages, kept in the target directory.
//!
//! A GPT disk with a BIOS boot partition (GRUB's core image), an EFI system partition (GRUB as `BOOTX64.EFI`) and an
//! ext4 root file system with Debian's generic kernel and systemd. Everything is written to plain files: no loop device
//! and no mount is needed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Outcome, run, step, target};
use crate::setup::{self, Package};

/// What building the image takes.
pub const TOOLS: [Package; 8] = [
    Package { name: "mmdebstrap", file: "/usr/bin/mmdebstrap" },
    Package { name: "e2fsprogs", file: "/sbin/mke2fs" },
    Package { name: "fdisk", file: "/sbin/sfdisk" },
    Package { name: "dosfstools", file: "/usr/sbin/mkfs.fat" },
    Package { name: "mtools", file: "/usr/bin/mcopy" },
    Package { name: "grub-common", file: "/usr/bin/grub-mkimage" },
    Package { name: "grub-pc-bin", file: "/usr/lib/grub/i386-pc/boot.img" },
    Package { name: "grub-efi-amd64-bin", file: "/usr/lib/grub/x86_64-efi/moddep.lst" },
];

const MIB: u64 = 1 << 20;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Where the partitions are, in bytes: start and length of the BIOS boot partition, the EFI system partition, the root.
const BIOS_BOOT: (u64, u64) = (MIB, MIB);
const EFI_SYSTEM: (u64, u64) = (2 * MIB, 34 * MIB);
const ROOT: (u64, u64) = (36 * MIB, 700 * MIB);
/// The disk's size: behind the root is room for the second copy of the partition table.
const SIZE: u64 = ROOT.0 + ROOT.1 + MIB;

/// Kernel modules that the guest keeps: the devices of a PC, and what its disks hold.
const MODULES: [&str; 21] = [
    "arch/x86/crypto/*",
    "block/*",
    "crypto/*",
    "lib/*",
    "fs/ext4/*",
    "fs/jbd2/*",
    "fs/mbcache*",
    "fs/fat/*",
    "fs/nls/*",
    "fs/isofs/*",
    "fs/efivarfs/*",
    "drivers/acpi/*",
    "drivers/ata/*",
    "drivers/block/*",
    "drivers/cdrom/*",
    "drivers/scsi/*",
    "drivers/usb/*",
    "drivers/hid/*",
    "drivers/input/*",
    "drivers/virtio/*",
    "drivers/watchdog/*",
];
/// The same, single drivers.
const MORE_MODULES: [&str; 12] = [
    "drivers/char/*",
    "drivers/firmware/*",
    "drivers/gpu/drm/bochs*",
    "drivers/gpu/drm/virtio/*",
    "drivers/gpu/drm/drm*",
    "drivers/i2c/*",
    "drivers/misc/pvpanic/*",
    "drivers/net/virtio_net*",
    "drivers/net/net_failover*",
    "net/core/failover*",
    "drivers/net/ethernet/intel/e1000*/*",
    "drivers/rtc/*",
];

/// GRUB's menu. The second entry shows that keys arrive.
const MENU: &str = "\
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=3
set default=0
menuentry 'Debian' {
  search --no-floppy --label root --set=root
  echo 'loading Debian'
  linux /vmlinuz root=LABEL=root ro console=tty0 console=ttyS0 net.ifnames=0
  initrd /initrd.img
}
menuentry 'Power off' {
  echo 'powering off from the menu'
  halt
}
";

/// What GRUB's core image does before anything else.
const EARLY: &str = "\
search --no-floppy --label root --set=root
set prefix=($root)/boot/grub
configfile ($root)/boot/grub/grub.cfg
";

/// Modules in GRUB's core images.
const GRUB_MODULES: [&str; 17] = [
    "normal",
    "configfile",
    "part_gpt",
    "part_msdos",
    "ext2",
    "fat",
    "iso9660",
    "search",
    "search_label",
    "linux",
    "echo",
    "serial",
    "terminal",
    "test",
    "halt",
    "reboot",
    "sleep",
];

/// The image, built unless it is there. An error says what could not be had.
pub fn image() -> Outcome<PathBuf> {
    let directory = target().join("guest/debian");
    let image = directory.join("debian.img");
    if image.exists() {
        return Ok(image);
    }
    let missing = setup::install(&TOOLS.iter().collect::<Vec<_>>());
    if !missing.is_empty() {
        return Err(format!("these Debian packages can't be installed: {}", missing.join(", ")));
    }
    step("building a Debian disk image from packages (minutes; kept in the target directory)");
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let root = directory.join("root");
    bootstrap(&root)?;
    let fresh = directory.join("debian.img.new");
    assemble(&directory, &root, &fresh)?;
    fs::remove_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    fs::rename(&fresh, &image).map_err(|error| format!("{}: {error}", image.display()))?;
    Ok(image)
}

/// Debian's packages, unpacked and configured in `root`.
fn bootstrap(root: &Path) -> Outcome {
    let mut arguments: Vec<String> = [
        "--quiet",
        "--variant=minbase",
        "--include=linux-image-amd64,systemd-sysv,udev,dbus,kmod,zstd",
        "--aptopt=Acquire::Languages \"none\"",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/lib/modules/*/kernel/*",
    ]
    .map(String::from)
    .to_vec();
    for module in MODULES.iter().chain(&MORE_MODULES) {
        arguments.push(format!("--dpkgopt=path-include=/lib/modules/*/kernel/{module}"));
    }
    for hook in [
        "echo root:ouzel | chroot \"$1\" chpasswd",
        "echo ouzel > \"$1\"/etc/hostname",
        "echo LABEL=root / ext4 errors=remount-ro 0 1 > \"$1\"/etc/fstab",
        "mkdir -p \"$1\"/boot/grub",
        "rm -rf \"$1\"/var/lib/apt/lists \"$1\"/usr/lib/udev/hwdb.bin",
        // The test's commands are typed at the login, which shall come soon.
        "chroot \"$1\" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service",
    ] {
        arguments.push(format!("--customize-hook={hook}"));
    }
    arguments.push("bookworm".into());
    arguments.push(root.to_string_lossy().into_owned());
    run("mmdebstrap", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    fs::write(root.join("boot/grub/grub.cfg"), MENU).map_err(|error| format!("the boot menu: {error}"))
}

/// Writes partitions and boot loaders to `image`.
fn assemble(directory: &Path, root: &Path, image: &Path) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", image.display());
    let disk = File::options().read(true).write(true).create(true).truncate(true).open(image).map_err(failed)?;
    disk.set_len(SIZE).map_err(failed)?;
    partition(image)?;
    let part = directory.join("part");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    make_file(&part, ROOT.1)?;
    let tree = text(root);
    run(
        "/sbin/mke2fs",
        &["-q", "-F", "-t", "ext4", "-L", "root", "-O", "^metadata_csum_seed", "-d", &tree, &text(&part)],
    )?;
    copy_into(&disk, &part, ROOT.0)?;
    let early = directory.join("early.cfg");
    fs::write(&early, EARLY).map_err(|error| format!("{}: {error}", early.display()))?;
    let efi = directory.join("bootx64.efi");
    grub("x86_64-efi", &["boot", "all_video"], &early, &efi)?;
    make_file(&part, EFI_SYSTEM.1)?;
    run("/usr/sbin/mkfs.fat", &["-n", "ESP", &text(&part)])?;
    run("mmd", &["-i", &text(&part), "::/EFI", "::/EFI/BOOT"])?;
    run("mcopy", &["-i", &text(&part), &text(&efi), "::/EFI/BOOT/BOOTX64.EFI"])?;
    copy_into(&disk, &part, EFI_SYSTEM.0)?;
    fs::remove_file(&part).map_err(|error| format!("{}: {error}", part.display()))?;
    let core = directory.join("core.img");
    grub("i386-pc", &["biosdisk", "vga", "at_keyboard"], &early, &core)?;
    bios_boot(&disk, &core)
}

/// An empty file of `size` bytes.
fn make_file(path: &Path, size: u64) -> Outcome {
    let make = || File::create(path)?.set_len(size);
    make().map_err(|error| format!("{}: {error}", path.display()))
}

fn partition(image: &Path) -> Outcome {
    let line = |(start, len): (u64, u64), kind: &str| {
        format!("start={}, size={}, type={kind}\n", start / SECTOR, len / SECTOR)
    };
    let script = format!(
        "label: gpt\n{}{}{}",
        line(BIOS_BOOT, "21686148-6449-6E6F-744E-656564454649"),
        line(EFI_SYSTEM, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        line(ROOT, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    );
    let mut child = Command::new("/sbin/sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(image)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("sfdisk: {error}"))?;
    let mut input = child.stdin.take().ok_or("sfdisk has no input")?;
    input.write_all(script.as_bytes()).map_err(|error| format!("sfdisk: {error}"))?;
    drop(input);
    let status = child.wait().map_err(|error| format!("sfdisk: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("sfdisk failed ({status})")) }
}

/// GRUB's core image for a platform.
fn grub(platform: &str, more: &[&str], early: &Path, output: &Path) -> Outcome {
    let (early, output) = (early.to_string_lossy(), output.to_string_lossy());
    let arguments = ["-O", platform, "-p", "/boot/grub", "-c", &early, "-o", &output];
    run("grub-mkimage", &[&arguments[..], &GRUB_MODULES, more].concat())
}

/// Copies what is not zero.
fn copy_into(disk: &File, from: &Path, offset: u64) -> Outcome {
    let copy = || -> std::io::Result<()> {
        let from = File::open(from)?;
        let len = from.metadata()?.len();
        let mut block = vec![0; MIB as usize];
        let mut at = 0;
        while at < len {
            let n = from.read_at(&mut block, at)?;
            let bytes = block.get(..n).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                disk.write_all_at(bytes, offset + at)?;
            }
            at += n as u64;
        }
        Ok(())
    };
    copy().map_err(|error| format!("{}: {error}", from.display()))
}

/// What `grub-bios-setup` does to a device: the first sector loads the core image's first, which loads the rest
/// (GRUB's `include/grub/i386/pc/boot.h`: sector number at 0x5C of the one, block list in the last 12 bytes of the other).
fn bios_boot(disk: &File, core: &Path) -> Outcome {
    let setup = || -> std::io::Result<()> {
        let mut boot = fs::read("/usr/lib/grub/i386-pc/boot.img")?;
        let mut core = fs::read(core)?;
        let short = || std::io::Error::other("GRUB's images are too short");
        let first = BIOS_BOOT.0 / SECTOR;
        boot.get_mut(0x5C..0x64).ok_or_else(short)?.copy_from_slice(&first.to_le_bytes());
        core.get_mut(0x1F4..0x1FC).ok_or_else(short)?.copy_from_slice(&(first + 1).to_le_bytes());
        // The rest of the first sector is the partition table's.
        disk.write_all_at(boot.get(..440).ok_or_else(short)?, 0)?;
        if core.len() as u64 > BIOS_BOOT.1 {
            return Err(std::io::Error::other("GRUB's core image is larger than its partition"));
        }
        disk.write_all_at(&core, BIOS_BOOT.0)
    };
    setup().map_err(|error| format!("GRUB's boot sector: {error}"))
}
