//! Nodes on host files: locks against other processes, access modes, zeroing, creation.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::process::{Child as Process, Command, Output, Stdio};
use std::sync::Arc;

use block::create::CreateRequest;
use block::file::FdSets;
use block::{
    Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Preallocation, Registry, WriteFlags, ZeroFlags,
};
use iobuf::IoBuf;

const READ_WRITE: fn() -> Permissions = || Permissions::CONSISTENT_READ | Permissions::WRITE;

fn graph() -> Arc<Graph> {
    Graph::new(Registry::new(block::builtin_drivers()))
}

fn open_in(graph: &Arc<Graph>, options: Options, config: NodeConfig, shared: Permissions) -> block::Result<Arc<Child>> {
    let node = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())))?;
    let used = if config.read_only { Permissions::CONSISTENT_READ } else { READ_WRITE() };
    graph.attach_root(&node, "test", used, shared)
}

fn open(options: Options) -> block::Result<(Arc<Graph>, Arc<Child>)> {
    let graph = graph();
    let config = NodeConfig { discard: true, ..NodeConfig::default() };
    let child = open_in(&graph, options, config, Permissions::ALL)?;
    Ok((graph, child))
}

fn file_options(name: &str) -> Options {
    Options::new().with("driver", "file").with("filename", name)
}

fn refused(options: Options) -> String {
    open(options).map(drop).expect_err("refused").to_string()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }

    fn image(&self, name: &str, len: u64) -> String {
        let path = self.path(name);
        std::fs::File::create(&path).expect("a file").set_len(len).expect("its size");
        path
    }
}

/// Whether the peer is installed; says so if not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// qemu-io with an image open, until it is dropped.
struct QemuIo(Process);

impl QemuIo {
    fn open(arguments: &[&str]) -> Self {
        use std::io::{BufRead, BufReader};
        let mut command = Command::new("qemu-io");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("it starts");
        writeln!(process.stdin.as_mut().expect("piped"), "length").expect("it reads");
        // The answer says that the image is open.
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().expect("piped")).read_line(&mut line).expect("it answers");
        assert!(!line.is_empty(), "qemu-io opened its image");
        Self(process)
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn qemu_refuses_an_image_that_is_written_here_and_not_shared() {
    if !has("qemu-io") {
        return;
    }
    let dir = Dir::new();
    let path = dir.image("a.img", 1 << 20);
    let graph = graph();
    let shared = Permissions::CONSISTENT_READ;
    let child = open_in(&graph, file_options(&path), NodeConfig::default(), shared).expect("opens");
    let output = run("qemu-io", &["-f", "raw", "-c", "write 0 512", &path]);
    assert!(!output.status.success());
    let text = format!("Failed to get \"write\" lock\nIs another process using the image [{path}]?");
    assert_eq!(stderr(&output), format!("qemu-io: can't open device {path}: {text}"));
    assert!(run("qemu-img", &["info", "-U", &path]).status.success());
    let output = run("qemu-img", &["create", "-q", "-f", "raw", &path, "2M"]);
    assert!(!output.status.success() && stderr(&output).contains("lock"), "{}", stderr(&output));
    aio::block_on(graph.detach(&child)).expect("closes");
    drop((child, graph));
    assert!(run("qemu-io", &["-f", "raw", "-c", "write 0 512", &path]).status.success());
}

#[test]
fn an_image_that_qemu_writes_is_refused_here_with_its_text() {
    if !has("qemu-io") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("a.qcow2");
    assert!(run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "1M"]).status.success());
    let process = QemuIo::open(&[&path]);
    let peer = stderr(&run("qemu-io", &["-c", "quit", &path]));
    let error = open(file_options(&path)).map(drop).expect_err("locked");
    let hint = format!("Is another process using the image [{path}]?");
    assert_eq!((error.to_string().as_str(), error.hint()), ("Failed to get \"write\" lock", Some(hint.as_str())));
    assert!(peer.ends_with(&format!("{error}\n{hint}")), "{peer}");
    // Nobody reads a moving image by accident, either.
    let read_only = NodeConfig { read_only: true, ..NodeConfig::default() };
    let reader = |shared| open_in(&graph(), file_options(&path), read_only, shared);
    let unshared = Permissions::CONSISTENT_READ;
    assert_eq!(reader(unshared).expect_err("it is written").to_string(), "Failed to get shared \"write\" lock");
    reader(Permissions::ALL).expect("all is shared");
    open(file_options(&path).with("locking", "off")).expect("without locks");
    drop(process);
    open(file_options(&path)).expect("nobody is left");
}

#[test]
fn a_refused_claim_leaves_the_old_locks() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let (_first_graph, _first) = open(file_options(&path)).expect("opens");
    let second_graph = graph();
    let node = aio::block_on(second_graph.open(file_options(&path), Defaults::default())).expect("opens");
    let read = Permissions::CONSISTENT_READ;
    let second = second_graph.attach_root(&node, "second", read, Permissions::ALL).expect("reads beside");
    second_graph.set_permissions(&second, read, read).expect_err("the first one writes");
    // The second one still shares everything: a third may write.
    open(file_options(&path)).expect("opens");
    second_graph.set_permissions(&second, READ_WRITE(), Permissions::ALL).expect("writes beside");
}

/// A descriptor of this process.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Descriptor {
    writable: bool,
    direct: bool,
    locks: bool,
}

/// This process's descriptors of the file.
fn descriptors(path: &str) -> Vec<Descriptor> {
    let file = std::fs::metadata(path).expect("a file").ino();
    let fds = std::fs::read_dir("/proc/self/fd").expect("proc").filter_map(Result::ok);
    let ours = fds.filter(|fd| std::fs::metadata(fd.path()).is_ok_and(|meta| meta.ino() == file));
    let describe = |fd: std::fs::DirEntry| {
        let info = format!("/proc/self/fdinfo/{}", fd.file_name().display());
        let info = std::fs::read_to_string(info).expect("proc");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
        let locks = info.lines().any(|line| line.starts_with("lock:"));
        Descriptor { writable: flags & 0o3 == 0o2, direct: flags & 0o40000 != 0, locks }
    };
    let mut descriptors = ours.map(describe).collect::<Vec<Descriptor>>();
    descriptors.sort();
    descriptors
}

#[test]
fn locks_are_not_on_the_descriptor_that_a_ring_may_hold_after_a_kill() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let (graph, child) = open(file_options(&path)).expect("opens");
    let locks = Descriptor { writable: false, direct: false, locks: true };
    let data = || Descriptor { writable: true, direct: false, locks: false };
    assert_eq!(descriptors(&path), [locks, data()]);
    aio::block_on(graph.detach(&child)).expect("closes");
    drop((child, graph));
    assert_eq!(descriptors(&path), []);
    let (_graph, _child) = open(file_options(&path).with("locking", "off")).expect("opens");
    assert_eq!(descriptors(&path), [data()]);
}

#[test]
fn auto_read_only_opens_for_writing_when_somebody_writes() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let graph = graph();
    let config = NodeConfig { auto_read_only: true, ..NodeConfig::default() };
    let node =
        aio::block_on(graph.open(file_options(&path), Defaults::new(config, OpenFlags::default()))).expect("opens");
    let writable = || descriptors(&path).iter().filter(|descriptor| descriptor.writable).count();
    let read = Permissions::CONSISTENT_READ;
    let child = graph.attach_root(&node, "test", read, Permissions::ALL).expect("reads");
    assert_eq!(writable(), 0);
    graph.set_permissions(&child, READ_WRITE(), read).expect("writes");
    assert_eq!(writable(), 1);
    aio::block_on(child.write(0, IoBuf::copy_of(&[7; 512]), WriteFlags::default())).expect("writes");
    // The locks stand, whatever the descriptor.
    assert_eq!(refused(file_options(&path)), "Failed to get \"write\" lock");
    graph.set_permissions(&child, read, Permissions::ALL).expect("reads");
    assert_eq!(writable(), 0);
    open(file_options(&path)).expect("nothing is locked against it");
}

#[test]
fn zeroes_and_discards_free_space_and_status_sees_it() {
    let dir = Dir::new();
    let path = dir.image("a.img", 1 << 20);
    let (_graph, child) = open(file_options(&path)).expect("opens");
    aio::block_on(async {
        child.write(0, IoBuf::copy_of(&[1; 1 << 18]), WriteFlags::default()).await.expect("writes");
        let status = child.block_status(4096, 1 << 20, true).await.expect("status");
        assert!(status.data && status.len == (1 << 18) - 4096 && status.offset == Some(4096), "{status:?}");
        let status = child.block_status(8192, 4096, true).await.expect("status");
        assert!(status.data && status.len == 4096, "{status:?}");
        child.discard(0, 1 << 16).await.expect("discards");
        let status = child.block_status(0, 1 << 20, true).await.expect("status");
        assert!(status.zero && !status.data && status.len == 1 << 16, "{status:?}");
        let unmap = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
        child.write_zeroes(1 << 16, 1 << 16, unmap).await.expect("zeroes");
        let status = child.block_status(0, 1 << 20, true).await.expect("status");
        assert!(status.zero && status.len == 1 << 17, "{status:?}");
        child.write_zeroes((1 << 20) - 512, 1024, ZeroFlags::default()).await.expect("grows");
        assert_eq!(child.len(), (1 << 20) + 512);
        child.write_zeroes(2 << 20, 512, unmap).await.expect("grows");
        assert_eq!(std::fs::metadata(&path).expect("it").len(), (2 << 20) + 512);
        let allocated = child.node().driver().allocated_size().await.expect("known").expect("known");
        assert!((1 << 17..1 << 18).contains(&allocated), "{allocated}");
        child.write(0, IoBuf::copy_of(b"x"), WriteFlags { fua: true, ..WriteFlags::default() }).await.expect("writes");
        child.flush().await.expect("flushes");
    });
}

#[test]
fn every_engine_and_direct_mode_gives_the_same_bytes() {
    let dir = Dir::new();
    let path = dir.image("a.img", (1 << 16) + 100);
    for (aio, direct) in
        [("threads", false), ("io_uring", false), ("threads", true), ("native", true), ("io_uring", true)]
    {
        let options = file_options(&path).with("aio", aio).with("cache.direct", direct);
        let child = match open(options) {
            Ok((_graph, child)) => child,
            Err(error) if error.to_string().contains("O_DIRECT") || error.to_string().contains("io_uring") => {
                println!("skipped: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        aio::block_on(async {
            let bytes: Vec<u8> = (0..5000u32).map(|n| (n % 253) as u8).collect();
            for offset in [1000u64, 4096, (1 << 16) - 3000] {
                child.write(offset, IoBuf::copy_of(&bytes), WriteFlags::default()).await.expect("writes");
                assert!(child.read_vec(offset, 5000).await.expect("reads") == bytes, "{aio} {direct} {offset}");
            }
        });
    }
}

#[test]
fn created_files_have_the_size_and_space_asked_for() {
    let dir = Dir::new();
    let create = |name: &str, size, options: Options| {
        let path = dir.path(name);
        let graph = graph();
        let driver = graph.registry().find("file").expect("it is built in");
        let request = CreateRequest {
            graph: Arc::clone(&graph),
            file: None,
            filename: path.clone(),
            size,
            options,
            data_file: None,
        };
        aio::block_on(driver.create(request)).map(|()| std::fs::metadata(path).expect("it exists"))
    };
    let none = Options::new;
    let plain = create("off", 1000, none()).expect("creates");
    assert_eq!(plain.len(), 1024);
    assert!(plain.blocks() <= 8, "{}", plain.blocks());
    for mode in ["falloc", "full"] {
        let file = create(mode, 1 << 20, none().with("preallocation", mode)).expect("creates");
        assert_eq!(file.len(), 1 << 20);
        assert!(file.blocks() >= 2048, "{mode}");
    }
    let shrunk = create("full", 512, none().with("nocow", "on").with("extent_size_hint", "64k")).expect("creates");
    assert_eq!(shrunk.len(), 512);
    let text = |options| create("x", 512, options).map(drop).expect_err("refused").to_string();
    assert_eq!(text(none().with("preallocation", "metadata")), "Unsupported preallocation mode: metadata");
    assert_eq!(text(none().with("extent_size_hint", "8G")), "Extent size hint is too large");
    assert_eq!(text(none().with("colour", "red")), "Invalid parameter 'colour'");
    let path = dir.path("nowhere/x");
    let error = create("nowhere/x", 512, none()).map(drop).expect_err("no directory");
    assert_eq!(error.to_string(), format!("Could not create '{path}': No such file or directory"));
}

#[test]
fn sizes_change_with_preallocation_for_growing_only() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let (_graph, child) = open(file_options(&path)).expect("opens");
    aio::block_on(async {
        child.truncate(1 << 20, true, Preallocation::Falloc).await.expect("grows");
        assert!(std::fs::metadata(&path).expect("it").blocks() >= 2040);
        child.truncate(2 << 20, true, Preallocation::Full).await.expect("grows");
        assert_eq!(child.len(), 2 << 20);
        let error = child.truncate(0, true, Preallocation::Full).await.expect_err("shrinks");
        assert_eq!(error.to_string(), "Preallocation can't be used for shrinking files");
        child.truncate(512, true, Preallocation::Off).await.expect("shrinks");
        assert_eq!(std::fs::metadata(&path).expect("it").len(), 512);
    });
}

#[test]
fn wrong_files_and_options_are_refused_with_the_known_texts() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let directory = dir.path("");
    let file = || file_options(&path);
    let with_driver = |driver: &str, name: &str| Options::new().with("driver", driver).with("filename", name);
    assert_eq!(refused(file_options(&directory)), format!("Could not open '{directory}': Is a directory"));
    assert_eq!(refused(with_driver("file", "/dev/null")), "'file' driver requires '/dev/null' to be a regular file");
    assert_eq!(
        refused(with_driver("host_device", &path)),
        format!("'host_device' driver requires '{path}' to be either a character or block device")
    );
    assert_eq!(refused(Options::new().with("driver", "file")), "The 'file' block driver requires a file name");
    assert_eq!(refused(file().with("locking", "foo")), "invalid parameter value: foo");
    assert_eq!(refused(file().with("pr-manager", "x")), "No persistent reservation manager with id 'x'");
    assert_eq!(
        refused(file().with("aio", "native")),
        "aio=native was specified, but it requires cache.direct=on, which was not specified."
    );
    assert_eq!(refused(file().with("colour", "red")), "Block protocol 'file' doesn't support the option 'colour'");
    assert_eq!(
        refused(file_options("/dev/fdset/3")),
        "Could not dup FD for /dev/fdset/3 flags 2: No such file or directory"
    );
    let (graph, child) = open(Options::new().with("filename", "/dev/null")).expect("a device");
    assert_eq!(child.children_names(), ["host_device"]);
    drop(graph);
}

trait ChildrenNames {
    fn children_names(&self) -> Vec<&'static str>;
}

impl ChildrenNames for Arc<Child> {
    fn children_names(&self) -> Vec<&'static str> {
        self.node().children().iter().map(|child| child.node().driver_type().name()).collect()
    }
}

#[test]
fn a_descriptor_set_gives_the_file() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let graph = graph();
    let sets = FdSets::new(move |set, writable| {
        assert_eq!(set, 7);
        Ok(std::fs::File::options().read(true).write(writable).open(&path)?.into())
    });
    graph.set_object(FdSets::OBJECT, Arc::new(sets));
    let config = NodeConfig { auto_read_only: true, ..NodeConfig::default() };
    let child = open_in(&graph, file_options("/dev/fdset/7"), config, Permissions::ALL).expect("opens");
    aio::block_on(async {
        child.write(512, IoBuf::copy_of(b"hello"), WriteFlags::default()).await.expect("writes");
        assert_eq!(child.read_vec(512, 5).await.expect("reads"), b"hello");
    });
    assert_eq!(child.node().driver().exact_filename().as_deref(), Some("/dev/fdset/7"));
}

#[test]
fn options_of_a_reopen_must_be_those_of_the_open() {
    let dir = Dir::new();
    let path = dir.image("a.img", 4096);
    let (_graph, child) = open(file_options(&path).with("locking", "on")).expect("opens");
    let driver = Arc::clone(child.node().driver());
    let reopen = |options, read_only| aio::block_on(driver.reopen(options, read_only));
    let name = || Options::new().with("filename", path.as_str());
    reopen(name().with("x-check-cache-dropped", true), false).expect("nothing changes");
    for (option, value) in [("aio", "threads"), ("locking", "off"), ("filename", "/dev/null")] {
        let error = reopen(name().with(option, value), false).expect_err("can't change");
        assert_eq!(error.to_string(), format!("Cannot change the option '{option}'"));
    }
    let error = reopen(name().with("aio", "native"), false).expect_err("can't change");
    assert_eq!(error.to_string(), "Cannot change the option 'aio'");
    reopen(name(), true).expect("read-only");
    aio::block_on(driver.write(0, IoBuf::zeroed(512), WriteFlags::default())).expect_err("the descriptor is read-only");
    reopen(name(), false).expect("writable again");
    aio::block_on(driver.write(0, IoBuf::zeroed(512), WriteFlags::default())).expect("writes");
}

#[test]
fn reopen_with_another_cache_uses_the_host_as_it_says() {
    let dir = Dir::new();
    let path = dir.image("a.img", 8192);
    let (_graph, child) = open(file_options(&path)).expect("opens");
    let driver = Arc::clone(child.node().driver());
    let is_direct = || descriptors(&path).iter().any(|descriptor| descriptor.direct);
    assert!(!is_direct());
    let reopen = |direct| aio::block_on(driver.reopen(Options::new().with("cache.direct", direct), false));
    if let Err(error) = reopen(true) {
        assert!(error.to_string().contains("does not support O_DIRECT"), "{error}");
        println!("skipped: {error}");
        return;
    }
    assert!(is_direct());
    assert!(driver.limits().request_alignment >= 512);
    aio::block_on(child.write(3, IoBuf::copy_of(b"hello"), WriteFlags::default())).expect("writes");
    reopen(false).expect("buffered");
    assert_eq!((is_direct(), driver.limits().request_alignment), (false, 1));
    assert_eq!(aio::block_on(child.read_vec(3, 5)).expect("reads"), b"hello");
}

#[test]
fn a_null_disk_reads_as_it_was_told() {
    let null = |name| Options::new().with("driver", name);
    let (_graph, child) = open(null("null-co")).expect("opens");
    assert_eq!(child.len(), 1 << 30);
    assert_eq!(child.node().driver().exact_filename().as_deref(), Some("null-co://"));
    let options = null("null-aio").with("size", "1M").with("read-zeroes", "on").with("latency-ns", 1000u64);
    let (_graph, child) = open(options).expect("opens");
    aio::block_on(async {
        let buf = IoBuf::copy_of(&[1; 512]);
        child.read(0, buf.clone()).await.expect("reads");
        assert!(buf.is_zero(0, 512));
        child.write(0, buf, WriteFlags::default()).await.expect("writes");
        assert!(child.block_status(0, 512, true).await.expect("status").zero);
    });
    let (_graph, child) = open(Options::new().with("filename", "null-co://")).expect("by name");
    assert_eq!(child.children_names(), ["null-co"]);
    assert_eq!(
        refused(Options::new().with("filename", "null-co://x")),
        "The only allowed filename for this driver is 'null-co://'"
    );
    assert_eq!(refused(null("null-co").with("latency-ns", "-1")), "latency-ns is invalid");
}

/// A loop device over a file, if this process may make one.
struct Loop(String);

impl Loop {
    fn new(path: &str) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", path]).output().ok()?;
        if !output.status.success() {
            println!("skipped: no loop device: {}", stderr(&output));
            return None;
        }
        Some(Self(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_read_written_zeroed_and_keeps_its_size() {
    let dir = Dir::new();
    let Some(device) = Loop::new(&dir.image("a.img", 1 << 20)) else { return };
    for direct in [false, true] {
        let options = Options::new().with("driver", "host_device").with("filename", device.0.as_str());
        let (_graph, child) = open(options.with("cache.direct", direct)).expect("opens");
        assert_eq!(child.len(), 1 << 20);
        aio::block_on(async {
            child.write(1000, IoBuf::copy_of(&[5; 9000]), WriteFlags::default()).await.expect("writes");
            child.write_zeroes(4096, 4096, ZeroFlags::default()).await.expect("zeroes");
            child.discard(0, 1 << 16).await.expect("discards");
            let bytes = child.read_vec(0, 10_000).await.expect("reads");
            assert!(bytes[4096..8192].iter().all(|byte| *byte == 0));
            let error = child.truncate(1 << 19, true, Preallocation::Off).await.expect_err("fixed");
            assert_eq!(error.to_string(), "Cannot resize device");
            let error = child.truncate(1 << 21, false, Preallocation::Off).await.expect_err("fixed");
            assert_eq!(error.to_string(), "Cannot grow device");
            child.flush().await.expect("flushes");
        });
    }
}

#[test]
fn an_optical_drive_is_read_and_says_whether_a_disc_is_in() {
    let read_only = NodeConfig { read_only: true, ..NodeConfig::default() };
    let cdrom = |name: &str| Options::new().with("driver", "host_cdrom").with("filename", name);
    let dir = Dir::new();
    // A loop device has no tray, but is read like a disc.
    if let Some(device) = Loop::new(&dir.image("a.iso", 1 << 20)) {
        let child = open_in(&graph(), cdrom(&device.0), read_only, Permissions::ALL).expect("opens");
        assert_eq!(child.len(), 1 << 20);
        let driver = Arc::clone(child.node().driver());
        let drive = block::file::Drive::of(&*driver).expect("the driver is host_cdrom");
        assert!(!drive.has_disc());
        drive.eject(true).expect_err("there is no tray");
        drive.lock(true).expect_err("there is no tray");
    }
    if !std::path::Path::new("/dev/sr0").exists() {
        println!("skipped: no /dev/sr0");
        return;
    }
    let child = open_in(&graph(), cdrom("/dev/sr0"), read_only, Permissions::ALL).expect("opens, even without a disc");
    let driver = Arc::clone(child.node().driver());
    let drive = block::file::Drive::of(&*driver).expect("the driver is host_cdrom");
    assert!(drive.has_disc() || child.is_empty());
}
