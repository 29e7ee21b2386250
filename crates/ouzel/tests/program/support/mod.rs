//! What the tests share: a machine in a process, monitor sessions, temporary directories, the guests.

pub mod bench;
pub mod examples;
pub mod guest;
mod machine;
mod session;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use machine::{Machine, Setup};
pub use session::{Reply, Session};

/// How long anything that answers at once may take. It bounds a hang; nothing is measured with it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a Linux guest's boot.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(400);

/// A directory that goes away with the value.
pub struct Directory(PathBuf);

impl Directory {
    /// A fresh one.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ouzel-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program under test.
pub fn ouzel() -> PathBuf {
    std::env::var_os("OUZEL_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ouzel")), PathBuf::from)
}

/// The peer.
pub fn qemu() -> PathBuf {
    std::env::var_os("OUZEL_QEMU").map_or_else(|| PathBuf::from("qemu-system-x86_64"), PathBuf::from)
}

/// The directory that `cargo xtask guest` fills.
fn guest_directory() -> PathBuf {
    std::env::var_os("OUZEL_GUESTS").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory").join("guest"),
        PathBuf::from,
    )
}

/// A Python that has `qemu.qmp`.
pub fn python() -> PathBuf {
    std::env::var_os("OUZEL_PYTHON").map_or_else(|| guest_directory().join("python/bin/python3"), PathBuf::from)
}

/// A file of the guests, as an argument; the name says which when it is missing.
pub fn guest(name: &str) -> String {
    let path = guest_directory().join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask guest` and set OUZEL_GUESTS", path.display());
    path.to_string_lossy().into_owned()
}

/// Debian's kernel with the initrd of the guests, which runs `checks` and powers off.
pub fn boot_linux(checks: &str, arguments: &[&str]) -> Machine {
    let append = format!("console=ttyS0 quiet ouzel.run={checks},poweroff");
    Setup::new()
        .serial()
        .args(["-m", "256", "-kernel", &guest("vmlinuz"), "-initrd", &guest("initrd.cpio"), "-append", &append])
        .args(arguments)
        .start()
}

/// The guest powers itself off.
pub fn wait_power_off(machine: &mut Machine, session: &mut Session) {
    assert_eq!(session.event_within("SHUTDOWN", BOOT_PATIENCE)["reason"], "guest-shutdown", "{}", machine.serial());
    assert!(machine.wait_exit(PATIENCE).success());
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_path_buf()
}

/// The smallest qcow2 image of 1 MiB: version 2, 64 KiB clusters; header, refcount table, refcount block, L1 table.
pub fn qcow2_header() -> Vec<u8> {
    let mut image = vec![0; 4 << 16];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &(3_u64 << 16).to_be_bytes());
    put(48, &(1_u64 << 16).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(1 << 16, &(2_u64 << 16).to_be_bytes());
    for cluster in 0..4 {
        put((2 << 16) + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

/// The same in version 3, which stores bitmaps.
pub fn qcow2_header_v3() -> Vec<u8> {
    let mut image = qcow2_header();
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(4, &3_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    image
}
