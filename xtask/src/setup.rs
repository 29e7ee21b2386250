//! Installing what a task needs, from Debian's and Python's package registries.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Outcome, has, output, run, run_command, step, target};

/// A Debian package and the file that shows that it is there.
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// An absolute path that it installs.
    pub file: &'static str,
}

/// A static busybox: the guest's programs.
pub const BUSYBOX: Package = Package { name: "busybox-static", file: "/bin/busybox" };
/// What the tests compare with and drive Ouzel by.
pub const PEERS: [Package; 16] = [
    Package { name: "qemu-system-x86", file: "/usr/bin/qemu-system-x86_64" },
    Package { name: "seabios", file: "/usr/share/seabios/bios-256k.bin" },
    Package { name: "ovmf", file: "/usr/share/OVMF/OVMF_CODE_4M.fd" },
    Package { name: "grub-pc-bin", file: "/usr/lib/grub/i386-pc/kernel.img" },
    Package { name: "grub-efi-amd64-bin", file: "/usr/lib/grub/x86_64-efi/kernel.img" },
    Package { name: "xorriso", file: "/usr/bin/xorriso" },
    Package { name: "netcat-openbsd", file: "/bin/nc.openbsd" },
    Package { name: "nasm", file: "/usr/bin/nasm" },
    Package { name: "qemu-utils", file: "/usr/bin/qemu-img" },
    Package { name: "nbdkit", file: "/usr/bin/nbdkit" },
    Package { name: "libnbd-bin", file: "/usr/bin/nbdcopy" },
    Package { name: "mtools", file: "/usr/bin/mcopy" },
    Package { name: "dosfstools", file: "/usr/sbin/fsck.fat" },
    Package { name: "openssl", file: "/usr/bin/openssl" },
    Package { name: "gdb", file: "/usr/bin/gdb" },
    Package { name: "spice-client-gtk", file: "/usr/bin/spicy-screenshot" },
];
/// A browser for the web console's test, and letters for it.
pub const BROWSER: [Package; 2] = [
    Package { name: "chromium", file: "/usr/bin/chromium" },
    Package { name: "fonts-dejavu-core", file: "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf" },
];
/// A viewer for VNC, a screen for viewers, what takes pictures of that, and what types there.
pub const VIEWER: [Package; 4] = [
    Package { name: "tigervnc-viewer", file: "/usr/bin/xtigervncviewer" },
    Package { name: "xvfb", file: "/usr/bin/Xvfb" },
    Package { name: "imagemagick", file: "/usr/bin/import" },
    Package { name: "xdotool", file: "/usr/bin/xdotool" },
];
/// Peers of the block layer's tests, which look for them themselves and end early without them.
pub const BLOCK_PEERS: [&str; 6] = ["qemu-utils", "nbdkit", "libnbd-bin", "mtools", "dosfstools", "openssl"];

/// Why this process can't mount over FUSE, if it can't.
pub fn why_no_fuse() -> Option<String> {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse: {error}"));
    }
    // CAP_SYS_ADMIN is bit 21.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let may_mount = bits.is_some_and(|bits| bits & 1 << 21 != 0) || Path::new("/usr/bin/fusermount3").exists();
    (!may_mount).then(|| "mounts are refused, and there is no fusermount3".to_owned())
}

fn installed(package: &Package) -> bool {
    Path::new(package.file).exists()
}

/// Runs `apt-get` without questions, as root or by sudo.
fn apt(arguments: &[&str], directory: Option<&Path>) -> Outcome {
    let is_root = output("id", &["-u"]).is_some_and(|id| id.trim() == "0");
    let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
    if !is_root {
        command.arg("apt-get");
    }
    command
        .args(["-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    match directory {
        // `download` writes to the working directory.
        Some(directory) => {
            let status = command.current_dir(directory).status().map_err(|error| format!("apt-get: {error}"))?;
            if status.success() { Ok(()) } else { Err(format!("apt-get {arguments:?} failed")) }
        }
        None => run_command(&mut command),
    }
}

/// Installs those of `packages` that are missing, and returns the names of those that can't be had.
pub fn install(packages: &[&Package]) -> Vec<&'static str> {
    let missing: Vec<&str> =
        packages.iter().filter(|package| !installed(package)).map(|package| package.name).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    step(&format!("installing Debian packages: {}", missing.join(" ")));
    if !has("apt-get") {
        println!("there is no apt-get here; please install them by hand");
    } else {
        // The next step's failure is what counts: an old package list may still do.
        if let Err(error) = apt(&["update"], None) {
            println!("{error}");
        }
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(&missing);
        if let Err(error) = apt(&arguments, None) {
            println!("{error}");
        }
    }
    packages.iter().filter(|package| !installed(package)).map(|package| package.name).collect()
}

/// Where the kernel package is unpacked.
fn kernel_directory() -> PathBuf {
    target().join("guest/kernel")
}

/// All the files below `directory`, in the order of their paths.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn find_kernel(directory: &Path) -> Option<PathBuf> {
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    files_below(&directory.join("boot")).into_iter().rfind(is_kernel)
}

/// Those of the unpacked kernel's modules that are there, in the order of `names`.
pub fn kernel_modules(names: &[&str]) -> Vec<PathBuf> {
    let files = files_below(&kernel_directory());
    let find = |name: &&str| {
        let wanted = format!("{name}.ko");
        files.iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy() == wanted)).cloned()
    };
    names.iter().filter_map(find).collect()
}

/// Debian's cloud kernel, unpacked (not installed) into the target directory.
pub fn cloud_kernel() -> Outcome<PathBuf> {
    let directory = kernel_directory();
    if let Some(kernel) = find_kernel(&directory) {
        return Ok(kernel);
    }
    if !has("apt-get") || !has("dpkg-deb") {
        return Err("Debian's kernel package can't be had: there is no apt-get here".into());
    }
    let package = match cloud_kernel_package() {
        Some(package) => package,
        None => {
            apt(&["update"], None)?;
            cloud_kernel_package().ok_or("apt knows no package linux-image-cloud-amd64")?
        }
    };
    step(&format!("downloading Debian package {package} and unpacking it to {}", directory.display()));
    // Unpacked beside its place and renamed, so that what was interrupted is not taken for complete.
    let fresh = directory.with_extension("new");
    for stale in [&directory, &fresh] {
        if stale.exists() {
            std::fs::remove_dir_all(stale).map_err(|error| format!("{}: {error}", stale.display()))?;
        }
    }
    std::fs::create_dir_all(&fresh).map_err(|error| format!("{}: {error}", fresh.display()))?;
    if apt(&["download", &package], Some(&fresh)).is_err() {
        apt(&["update"], None)?;
        apt(&["download", &package], Some(&fresh))?;
    }
    let archive = std::fs::read_dir(&fresh)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get download left no package")?;
    run("dpkg-deb", &["-x", &archive.to_string_lossy(), &fresh.to_string_lossy()])?;
    std::fs::remove_file(&archive).map_err(|error| format!("{}: {error}", archive.display()))?;
    std::fs::rename(&fresh, &directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    find_kernel(&directory).ok_or_else(|| format!("{package} holds no kernel"))
}

/// The package that `linux-image-cloud-amd64` depends on.
fn cloud_kernel_package() -> Option<String> {
    let text = output("apt-cache", &["depends", "linux-image-cloud-amd64"])?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|rest| format!("linux-image-{rest}"))
}

/// A Python with the packages `qemu.qmp` and `vncdotool`, in a virtual environment of the target directory.
pub fn python_with_qmp() -> Outcome<PathBuf> {
    let directory = target().join("guest/python");
    let python = directory.join("bin/python3");
    let works = |python: &Path| output(&python.to_string_lossy(), &["-c", "import qemu.qmp, vncdotool"]).is_some();
    if works(&python) {
        return Ok(python);
    }
    step("installing the Python packages qemu.qmp and vncdotool into a virtual environment");
    if run("python3", &["-m", "venv", &directory.to_string_lossy()]).is_err() {
        install(&[&Package { name: "python3-venv", file: "/usr/share/doc/python3-venv" }]);
        run("python3", &["-m", "venv", &directory.to_string_lossy()])?;
    }
    run(&python.to_string_lossy(), &["-m", "pip", "install", "--quiet", "qemu.qmp", "vncdotool"])?;
    if works(&python) { Ok(python) } else { Err("qemu.qmp and vncdotool can't be imported".into()) }
}
