//! A directory as a disk, against `mtools` and `fsck.fat`.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Registry, WriteFlags};
use iobuf::IoBuf;
use tempfile::TempDir;

fn has_peers() -> bool {
    let found = ["mcopy", "fsck.fat"].iter().all(|name| Command::new(name).arg("--help").output().is_ok());
    if !found {
        eprintln!("skipped: mtools and dosfstools are not installed");
    }
    found
}

fn graph() -> Arc<Graph> {
    Graph::new(Registry::new(block::builtin_drivers().into_iter().chain(block_vvfat::drivers())))
}

fn open(graph: &Arc<Graph>, options: Options, read_only: bool) -> block::Result<Arc<Child>> {
    let config = NodeConfig { read_only, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())))?;
    let write = if read_only { Permissions::NONE } else { Permissions::WRITE };
    graph.attach_root(&node, "test", Permissions::CONSISTENT_READ | write, Permissions::ALL)
}

fn options(directory: &Path) -> Options {
    Options::new().with("driver", "vvfat").with("dir", directory.to_str().expect("plain"))
}

fn sample() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::write(at("SHORT.TXT"), "short\n").expect("written");
    fs::write(at("a long name with spaces.data"), vec![0x42; 100_000]).expect("written");
    fs::write(at("empty"), "").expect("written");
    fs::create_dir_all(at("sub/deeper")).expect("made");
    fs::write(at("sub/deeper/file.bin"), (0..=255u8).cycle().take(20_000).collect::<Vec<_>>()).expect("written");
    std::os::unix::fs::symlink("/etc/passwd", at("link")).expect("linked");
    directory
}

/// What the tests use of the disk, bytes; everything behind it is free.
const USED: usize = 8 << 20;

fn start_of(child: &Child) -> Vec<u8> {
    aio::block_on(child.read_vec(0, USED.min(child.len() as usize))).expect("reads")
}

fn dump(child: &Child, into: &Path) {
    fs::write(into, start_of(child)).expect("written");
    fs::File::options().write(true).open(into).expect("opens").set_len(child.len()).expect("sized");
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

fn start_of_file(image: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = fs::File::open(image).expect("opens");
    file.take(USED as u64).read_to_end(&mut bytes).expect("readable");
    bytes
}

/// Writes what `image` has otherwise than the disk, by sectors, and flushes.
fn write_back(child: &Child, image: &Path) {
    let new = start_of_file(image);
    let old = start_of(child);
    aio::block_on(async {
        for (number, (old, new)) in old.chunks(512).zip(new.chunks(512)).enumerate() {
            if old != new {
                child.write(number as u64 * 512, IoBuf::copy_of(new), WriteFlags::default()).await.expect("writes");
            }
        }
        child.flush().await.expect("flushes");
    });
}

#[test]
fn every_fat_type_passes_the_check_and_has_the_files() {
    if !has_peers() {
        return;
    }
    let directory = sample();
    let scratch = TempDir::new().expect("a directory");
    for (fat_type, floppy, offset) in [(16, false, 32256), (12, false, 32256), (32, false, 32256), (12, true, 0)] {
        let options = options(directory.path()).with("fat-type", fat_type as u64).with("floppy", floppy);
        let Ok(child) = open(&graph(), options, true) else {
            assert_eq!(fat_type, 32, "only FAT32 has too few clusters on this disk");
            continue;
        };
        let image = scratch.path().join("image");
        dump(&child, &image);
        let volume = scratch.path().join("volume");
        fs::write(&volume, &start_of_file(&image)[offset..]).expect("written");
        let file = fs::File::options().write(true).open(&volume).expect("opens");
        file.set_len(child.len() - offset as u64).expect("sized");
        let volume = volume.to_str().expect("plain");
        tool("fsck.fat", &["-n", volume]);
        let target = scratch.path().join("out");
        let _ = fs::remove_dir_all(&target);
        fs::create_dir(&target).expect("made");
        tool("mcopy", &["-s", "-i", volume, "::*", target.to_str().expect("plain")]);
        for name in ["a long name with spaces.data", "sub/deeper/file.bin", "SHORT.TXT", "empty"] {
            let (ours, theirs) = (fs::read(target.join(name)), fs::read(directory.path().join(name)));
            assert_eq!(ours.expect(name), theirs.expect(name), "{name} with FAT{fat_type}");
        }
        assert!(!target.join("link").exists());
    }
}

#[test]
fn what_the_guest_changes_reaches_the_directory() {
    if !has_peers() {
        return;
    }
    let directory = sample();
    let scratch = TempDir::new().expect("a directory");
    let graph = graph();
    let child = open(&graph, options(directory.path()).with("rw", true), false).expect("opens");
    let image = scratch.path().join("image");
    dump(&child, &image);
    let at = format!("{}@@32256", image.to_str().expect("plain"));
    let source = scratch.path().join("source");
    fs::write(&source, vec![7; 70_000]).expect("written");
    let source = source.to_str().expect("plain");
    tool("mcopy", &["-i", &at, source, "::new file.bin"]);
    tool("mcopy", &["-o", "-i", &at, source, "::SHORT.TXT"]);
    tool("mmd", &["-i", &at, "::made"]);
    tool("mmove", &["-i", &at, "::sub/deeper/file.bin", "::made/moved file.bin"]);
    tool("mdel", &["-i", &at, "::empty"]);
    tool("mdeltree", &["-i", &at, "::sub"]);
    let moved = fs::read(directory.path().join("sub/deeper/file.bin")).expect("readable");
    write_back(&child, &image);
    let at = |name: &str| directory.path().join(name);
    assert_eq!(fs::read(at("new file.bin")).expect("new"), vec![7; 70_000]);
    assert_eq!(fs::read(at("SHORT.TXT")).expect("changed"), vec![7; 70_000]);
    assert_eq!(fs::read(at("made/moved file.bin")).expect("moved"), moved);
    assert_eq!(fs::read(at("a long name with spaces.data")).expect("untouched"), vec![0x42; 100_000]);
    assert!(!at("empty").exists() && !at("sub").exists());
    assert!(at("link").is_symlink(), "what the guest can't see is left alone");
    // The disk still reads as the guest left it.
    assert!(
        aio::block_on(child.read_vec(0, child.len() as usize)).expect("reads") == fs::read(&image).expect("readable")
    );
    aio::block_on(graph.detach(&child)).expect("closes");
    let names = fs::read_dir(directory.path()).expect("readable").count();
    assert_eq!(names, 5, "no temporary file is left");
}

#[test]
fn an_inconsistent_file_system_changes_nothing() {
    let directory = sample();
    let child = open(&graph(), options(directory.path()).with("rw", true), false).expect("opens");
    aio::block_on(async {
        // All of both FATs: every chain is broken.
        child.write(64 * 512, IoBuf::copy_of(&[0xee; 512 * 64]), WriteFlags::default()).await.expect("writes");
        child.flush().await.expect("flushes");
    });
    assert_eq!(fs::read(directory.path().join("SHORT.TXT")).expect("still there"), b"short\n");
}

#[test]
fn directories_that_do_not_fit_or_exist_are_refused() {
    let directory = TempDir::new().expect("a directory");
    fs::File::create(directory.path().join("big")).expect("made").set_len(5_000_000).expect("sized");
    let error = open(&graph(), options(directory.path()).with("floppy", true), true).map(|_| ()).expect_err("too big");
    assert!(error.to_string().contains("does not fit in FAT12"), "{error}");
    let error = open(&graph(), options(Path::new("/nonexistent")), true).map(|_| ()).expect_err("no directory");
    assert!(error.to_string().contains("Could not read directory /nonexistent"), "{error}");
    let error =
        open(&graph(), options(directory.path()).with("fat-type", 13u64), true).map(|_| ()).expect_err("no such type");
    assert!(error.to_string().contains("Valid FAT types are only 12, 16 and 32"), "{error}");
}
