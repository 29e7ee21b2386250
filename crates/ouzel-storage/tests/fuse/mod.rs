//! Exports over FUSE, used by the host's programs. The peer is the host's kernel, which must let us mount.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::{Running, Session, start};

const MIB: u64 = 1 << 20;

/// A directory in which files are mounted over; none of them stays so.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    /// An empty file to mount over.
    fn file(&self, name: &str) -> String {
        let path = self.path(name);
        File::create(&path).expect("a file");
        path
    }

    /// A file of this size with bytes that tell where they are.
    fn image(&self, name: &str, size: u64) -> String {
        let path = self.path(name);
        std::fs::write(&path, pattern(size)).expect("an image");
        path
    }

    /// The daemon with a raw image `node`, and its monitor.
    fn daemon(&self, image: &str) -> (Running, Session) {
        let monitor = self.path("m");
        let arguments = [
            "--blockdev",
            &format!("file,node-name=node,filename={image},discard=unmap"),
            "--chardev",
            &format!("socket,id=m,path={monitor},server=on,wait=off"),
            "--monitor",
            "m",
        ];
        let daemon = start(&arguments.map(str::to_owned));
        let session = Session::connect(&monitor);
        (daemon, session)
    }

    fn mounted(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
        let here = self.0.path().to_str().expect("a plain path");
        let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(here));
        paths.map(str::to_owned).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test leaves behind.
        for path in self.mounted() {
            let _ = Command::new("umount").args(["-l", &path]).status();
        }
    }
}

fn pattern(size: u64) -> Vec<u8> {
    (0..size / 8).flat_map(|n| (n * 8 + 1).to_le_bytes()).collect()
}

fn export(session: &mut Session, id: &str, mount_point: &str, more: &Value) {
    let reply = add(session, id, mount_point, more);
    assert_eq!(reply["return"], json!({}), "{reply}");
}

fn add(session: &mut Session, id: &str, mount_point: &str, more: &Value) -> Value {
    let mut arguments = json!({"type": "fuse", "id": id, "node-name": "node", "mountpoint": mount_point});
    for (name, value) in more.as_object().expect("an object") {
        arguments[name] = value.clone();
    }
    session.send("block-export-add", &arguments)
}

fn refused(session: &mut Session, mount_point: &str, more: &Value) -> String {
    let reply = add(session, "refused", mount_point, more);
    reply["error"]["desc"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
}

/// Runs a program: whether it succeeded, and its complaints.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().expect("the program");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn works(program: &str, arguments: &[&str]) {
    let (good, errors) = run(program, arguments);
    assert!(good, "{program} {arguments:?}: {errors}");
}

fn size(path: &str) -> u64 {
    std::fs::metadata(path).expect("a file").len()
}

#[test]
#[ignore = "peer: FUSE"]
fn peer_fuse_file_over_the_image_itself_is_read_as_it_was() {
    let place = Place::new();
    let image = place.image("image", 3 * MIB + 512);
    let (mut daemon, mut session) = place.daemon(&image);
    let before = std::fs::read(&image).expect("the image");
    export(&mut session, "e", &image, &json!({}));
    assert_eq!(place.mounted(), std::slice::from_ref(&image));
    let metadata = std::fs::metadata(&image).expect("a file");
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (before.len() as u64, 0o400));
    assert!(std::fs::read(&image).expect("the export") == before);
    works("cp", &[&image, &place.path("copy")]);
    works("cmp", &[&image, &place.path("copy")]);
    let exports = session.run("query-block-exports", &json!({}));
    assert_eq!(exports, json!([{"id": "e", "type": "fuse", "node-name": "node", "shutting-down": false}]));
    // Nobody writes to it, nor makes it look as if one could.
    let file = OpenOptions::new().write(true).open(&image);
    let errno = file.and_then(|file| file.write_at(b"x", 0)).map_err(|error| Errno::from_io_error(&error));
    assert_eq!(errno.err(), Some(Some(Errno::ACCESS)));
    assert!(run("chmod", &["u+w", &image]).1.contains("Read-only file system"));
    works("chmod", &["u+x", &image]);
    assert_eq!(std::fs::metadata(&image).expect("a file").permissions().mode() & 0o7777, 0o500);
    session.run("block-export-del", &json!({"id": "e"}));
    assert_eq!(session.events.pop().expect("an event")["event"], "BLOCK_EXPORT_DELETED");
    assert!(place.mounted().is_empty());
    session.run("quit", &json!({}));
    assert!(daemon.wait().success());
}

#[test]
#[ignore = "peer: FUSE"]
fn peer_fuse_file_takes_what_the_hosts_programs_write() {
    let place = Place::new();
    let (image, file) = (place.image("image", 2 * MIB), place.file("export"));
    let (mut daemon, mut session) = place.daemon(&image);
    export(&mut session, "e", &file, &json!({"writable": true}));
    let small = place.path("small");
    std::fs::write(&small, vec![7; 64 << 10]).expect("a file");
    // As with a disk, neither `cp` nor `>` cuts it.
    works("cp", &[&small, &file]);
    let mut expected = pattern(2 * MIB);
    expected[..64 << 10].fill(7);
    works("dd", &[&format!("if={small}"), &format!("of={file}"), "bs=4k", "seek=100", "conv=notrunc", "status=none"]);
    expected[400 << 10..464 << 10].fill(7);
    assert!(std::fs::read(&file).expect("the export") == expected);
    assert!(std::fs::read(&image).expect("the image") == expected);
    // Behind its end there is no room.
    let at_end = ["if=/dev/zero", &format!("of={file}"), "bs=1M", "seek=2", "count=1", "conv=notrunc"];
    let (good, errors) = run("dd", &at_end);
    assert!(!good && errors.contains("Input/output error"), "{errors}");
    let opened = OpenOptions::new().read(true).write(true).open(&file).expect("the export");
    assert_eq!(opened.write_at(&[1; 100], 2 * MIB - 50).expect("a part"), 50);
    expected[2 * MIB as usize - 50..].fill(1);
    // Holes.
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&opened, punch, MIB, 64 << 10).expect("a hole");
    expected[MIB as usize..MIB as usize + (64 << 10)].fill(0);
    assert!(std::fs::read(&file).expect("the export") == expected);
    let seek = |from| rustix::fs::seek(&opened, from);
    assert_eq!(seek(SeekFrom::Hole(0)), Ok(MIB));
    assert_eq!(seek(SeekFrom::Data(MIB)), Ok(MIB + (64 << 10)));
    assert_eq!(seek(SeekFrom::Data(2 * MIB)), Err(Errno::NXIO));
    assert_eq!(rustix::fs::fallocate(&opened, FallocateFlags::empty(), 0, 4096), Err(Errno::NOTSUP));
    // It is cut and grows where somebody says so.
    opened.set_len(MIB).expect("cut");
    assert_eq!((size(&file), size(&image)), (MIB, MIB));
    rustix::fs::fallocate(&opened, FallocateFlags::empty(), MIB, MIB).expect("room");
    rustix::fs::fallocate(&opened, FallocateFlags::ZERO_RANGE, 0, 3 * MIB).expect("zeroes");
    assert_eq!((size(&file), size(&image)), (3 * MIB, 3 * MIB));
    assert!(std::fs::read(&image).expect("the image").iter().all(|byte| *byte == 0));
    assert!(std::fs::metadata(&image).expect("the image").blocks() * 512 >= MIB);
    opened.sync_all().expect("stable");
    // Who has it open when it goes has nothing.
    session.run("block-export-del", &json!({"id": "e"}));
    let errno = opened.sync_all().map_err(|error| Errno::from_io_error(&error));
    // The second comes to who asks in the very moment.
    assert!(matches!(errno, Err(Some(Errno::NOTCONN | Errno::CONNABORTED))), "{errno:?}");
    // The same at another command's bidding, which grows.
    export(&mut session, "e", &file, &json!({"writable": true, "growable": true, "writethrough": true}));
    let grows =
        ["if=/dev/urandom", &format!("of={file}"), "bs=64k", "seek=50", "count=20", "conv=notrunc", "status=none"];
    works("dd", &grows);
    assert_eq!((size(&file), size(&image)), (70 << 16, 70 << 16));
    works("cmp", &[&file, &image]);
    // Another size is seen at once.
    session.run("block_resize", &json!({"node-name": "node", "size": 8 * MIB}));
    assert_eq!(size(&file), 8 * MIB);
    session.run("block-export-del", &json!({"id": "e"}));
    session.run("quit", &json!({}));
    assert!(daemon.wait().success());
    assert_eq!(size(&file), 0);
}

#[test]
#[ignore = "peer: FUSE"]
fn peer_fuse_file_needs_a_file_of_its_own() {
    let place = Place::new();
    let (image, file) = (place.image("image", MIB), place.file("export"));
    std::os::unix::fs::symlink(&file, place.path("link")).expect("a link");
    let (mut daemon, mut session) = place.daemon(&image);
    let (none, directory) = (place.path("none"), place.path(""));
    let text = format!("Failed to stat '{none}': No such file or directory");
    assert_eq!(refused(&mut session, &none, &json!({})), text);
    assert_eq!(refused(&mut session, &directory, &json!({})), format!("'{directory}' is not a regular file"));
    let text = "Parameter 'allow-other' does not accept value 'perhaps'";
    assert_eq!(refused(&mut session, &file, &json!({"allow-other": "perhaps"})), text);
    export(&mut session, "e", &file, &json!({"allow-other": "off"}));
    for name in ["export", "link", "./export"] {
        let path = place.path(name);
        assert_eq!(refused(&mut session, &path, &json!({})), format!("There already is a FUSE export on '{path}'"));
    }
    // A node may be several files.
    let other = place.file("other");
    export(&mut session, "other", &other, &json!({"writable": true}));
    OpenOptions::new().write(true).open(&other).expect("a file").write_all_at(b"news", 0).expect("written");
    assert_eq!(std::fs::read(&file).expect("the first")[..4], *b"news");
    // What is mounted over it stays when it goes.
    assert_eq!(place.mounted().len(), 2);
    works("umount", &[&other]);
    session.run("block-export-del", &json!({"id": "other"}));
    assert_eq!(place.mounted(), [file]);
    // The daemon takes away what is left, however it ends.
    let id = daemon.0.id().to_string();
    works("kill", &[&id]);
    assert!(daemon.wait().success());
    assert!(place.mounted().is_empty());
}

/// Writes blocks of its own again and again, past the page cache, until it is told to end; then reads them all.
fn writer(file: &Path, number: u64, ends: &AtomicBool) {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(file).expect("the export");
    let mut blocks = [0_u8; 16];
    let mut turn = 0_usize;
    while !ends.load(Ordering::Relaxed) || turn < 64 {
        let block = turn * 7 % blocks.len();
        blocks[block] = (turn % 251) as u8 + 1;
        let offset = number * MIB + (block as u64) * (16 << 10);
        file.write_all_at(&[blocks[block]; 16 << 10], offset).expect("written");
        turn += 1;
    }
    for (block, byte) in blocks.iter().enumerate() {
        let mut buf = vec![0; 16 << 10];
        file.read_exact_at(&mut buf, number * MIB + (block as u64) * (16 << 10)).expect("read");
        assert!(buf.iter().all(|read| read == byte), "block {block} of {number}");
    }
}

#[test]
#[ignore = "peer: FUSE"]
fn peer_fuse_writers_are_held_by_snapshots_and_lose_nothing() {
    let place = Place::new();
    let (image, file) = (place.image("image", 4 * MIB), place.file("export"));
    let (mut daemon, mut session) = place.daemon(&image);
    export(&mut session, "e", &file, &json!({"writable": true}));
    let path = PathBuf::from(&file);
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (path, ends) = (&path, &ends);
            scope.spawn(move || writer(path, number, ends));
        }
        let mut below = "node".to_owned();
        for n in 0..6 {
            let above = format!("above{n}");
            let arguments = json!({"node-name": below, "snapshot-file": place.path(&above),
                                   "snapshot-node-name": above, "format": "qcow2"});
            session.run("blockdev-snapshot-sync", &arguments);
            below = above;
        }
        ends.store(true, Ordering::Relaxed);
    });
    let exports = session.run("query-block-exports", &json!({}));
    assert_eq!(exports[0]["node-name"], "above5");
    let written = std::fs::read(&file).expect("the export");
    session.run("quit", &json!({}));
    assert!(daemon.wait().success());
    // The copy is opened as a chain again.
    let chain = format!("qcow2,node-name=node,file.driver=file,file.filename={}", place.path("above5"));
    let arguments = ["--blockdev", &chain, "--export", &format!("fuse,id=e,node-name=node,mountpoint={file}")];
    let _daemon = start(&arguments.map(str::to_owned));
    while place.mounted().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(std::fs::read(&file).expect("the export") == written);
}
