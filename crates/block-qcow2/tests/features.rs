//! Features that reach further than reads and writes, against the peer's tools.

mod common;

use std::sync::{Arc, Mutex};

use block::create::CreateRequest;
use block::image::{AmendProgress, AmendRequest, FixMode, ImageBacking, SnapshotInfo};
use block::{Defaults, NodeConfig, OpenFlags, Options, Permissions, Preallocation, WriteFlags};
use common::*;
use iobuf::IoBuf;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a path").to_owned()
    }
}

fn clean(path: &str) {
    let text = must("qemu-img", &["check", path]);
    assert!(text.contains("No errors were found"), "{text}");
}

fn own_check(path: &str) -> block::image::CheckResult {
    let flags = OpenFlags { check: true, ..OpenFlags::default() };
    let options = Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path);
    let open = open_with(options, true, flags).expect("opens");
    let result = aio::block_on(open.driver().check(FixMode::default())).expect("checks");
    open.close().expect("closes");
    result
}

fn repair(path: &str, leaks: bool, errors: bool) -> block::image::CheckResult {
    let flags = OpenFlags { check: true, ..OpenFlags::default() };
    let options = Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path);
    let open = open_with(options, false, flags).expect("opens");
    let result = aio::block_on(open.driver().check(FixMode { leaks, errors })).expect("checks");
    open.close().expect("closes");
    result
}

fn patch(path: &str, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::OpenOptions::new().write(true).open(path).expect("opens").write_all_at(bytes, at).expect("writes");
}

fn be64(path: &str, at: usize) -> u64 {
    u64::from_be_bytes(std::fs::read(path).expect("reads")[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn snapshots_of_either_side_serve_the_other() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    for options in ["", "cluster_size=512", "extended_l2=on", "compat=0.10", "compression_type=zstd,cluster_size=4096"]
    {
        let path = dir.path("snap.qcow2");
        create_file(&path, 4 << 20, options).expect("creates");
        must("qemu-io", &["-c", "write -P 1 0 1M", "-c", "write -c -P 7 3M 128k", &path]);
        must("qemu-img", &["snapshot", "-c", "one", &path]);
        must("qemu-io", &["-c", "write -P 2 512k 1M", &path]);
        let open = open_file(&path, false).expect("opens");
        let info = SnapshotInfo { name: "two".into(), date_sec: 1_600_000_000, ..SnapshotInfo::default() };
        aio::block_on(open.driver().snapshot_create(info)).expect("makes a snapshot");
        write(&open.child, 0, &vec![3; 2 << 20]).expect("writes");
        let names: Vec<String> = open.driver().snapshots().expect("lists").into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["one", "two"]);
        open.close().expect("closes");
        clean(&path);
        let old = open_file(&path, true).expect("opens");
        let driver = old.driver();
        let qcow2 = driver.as_any().downcast_ref::<block_qcow2::Qcow2>().expect("is qcow2");
        aio::block_on(qcow2.load_snapshot("one")).expect("loads");
        assert_eq!(read_all(&old.child).expect("reads")[(1 << 20) - 1..=1 << 20], [1, 0]);
        old.close().expect("closes");
        must("qemu-img", &["snapshot", "-a", "two", &path]);
        must("qemu-io", &["-c", "read -P 1 0 512k", "-c", "read -P 2 512k 1M", "-c", "read -P 7 3M 128k", &path]);
        let open = open_file(&path, false).expect("opens");
        aio::block_on(open.driver().snapshot_apply("one".into())).expect("goes back");
        write(&open.child, 100, &[9; 50]).expect("writes");
        let now = read_all(&open.child).expect("reads");
        assert!(now[..100].iter().all(|b| *b == 1) && now[100..150] == [9; 50] && now[1 << 20] == 0);
        assert!(now[3 << 20..(3 << 20) + (128 << 10)].iter().all(|b| *b == 7));
        let error = aio::block_on(open.driver().snapshot_delete("none".into())).expect_err("there is none");
        assert_eq!(error.errno(), 2);
        aio::block_on(open.driver().snapshot_delete("1".into())).expect("deletes");
        open.close().expect("closes");
        clean(&path);
        let list = must("qemu-img", &["snapshot", "-l", &path]);
        assert!(list.contains("two") && !list.contains("one"), "{list}");
        must("qemu-img", &["snapshot", "-d", "two", &path]);
        clean(&path);
    }
}

#[test]
fn backing_chains_are_read_through_and_copied_on_write() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    for options in ["", "cluster_size=512", "extended_l2=on", "compat=0.10,cluster_size=4096"] {
        let (base, top, flat) = (dir.path("base.qcow2"), dir.path("top.qcow2"), dir.path("flat.raw"));
        create_file(&base, 2 << 20, "").expect("creates");
        must("qemu-io", &["-c", "write -P 0x11 0 2M", &base]);
        let prefix = if options.is_empty() { String::new() } else { format!("{options},") };
        create_file(&top, 3 << 20, &format!("{prefix}backing_file=base.qcow2,backing_fmt=qcow2")).expect("creates");
        let open = open_file(&top, false).expect("opens");
        let mut model = vec![0x11; 2 << 20];
        model.resize(3 << 20, 0);
        assert!(read_all(&open.child).expect("reads") == model);
        let mut rng = Rng(5);
        for _ in 0..40 {
            let len = 1 + rng.below(70_000);
            let at = rng.below((3 << 20) - len);
            let range = at as usize..(at + len) as usize;
            let byte = 0x20 + rng.below(200) as u8;
            if byte & 3 == 0 {
                zero(&open.child, at, len, byte & 4 == 0).expect("zeroes");
                model[range].fill(0);
            } else {
                write(&open.child, at, &vec![byte; len as usize]).expect("writes");
                model[range].fill(byte);
            }
        }
        assert!(read_all(&open.child).expect("reads") == model, "{options}");
        // A grown overlay does not show more of its backing.
        aio::block_on(open.child.truncate(1 << 20, true, Preallocation::Off)).expect("shrinks");
        aio::block_on(open.child.truncate(3 << 20, true, Preallocation::Off)).expect("grows");
        model[1 << 20..].fill(0);
        assert!(read_all(&open.child).expect("reads") == model, "{options}");
        let backing = ImageBacking { file: base.clone(), format: Some("qcow2".into()) };
        aio::block_on(open.driver().change_backing(Some(backing))).expect("changes the name");
        open.close().expect("closes");
        clean(&top);
        std::fs::write(&flat, &model).expect("writes");
        must("qemu-img", &["compare", "-f", "raw", &flat, &top]);
        let info = must("qemu-img", &["info", &top]);
        assert!(info.contains(&format!("backing file: {base}")), "{info}");
    }
}

#[test]
fn external_data_files_hold_the_data() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    for raw in [false, true] {
        let (path, data) = (dir.path("meta.qcow2"), dir.path("data.raw"));
        let options = format!("data_file={data},data_file_raw={}", if raw { "on" } else { "off" });
        create_file(&path, 2 << 20, &options).expect("creates");
        let open = open_file(&path, false).expect("opens");
        write(&open.child, 4000, &[5; 100_000]).expect("writes");
        write(&open.child, 1 << 20, &[6; 100_000]).expect("writes");
        zero(&open.child, 1 << 20, 65536, true).expect("zeroes");
        let model = read_all(&open.child).expect("reads");
        open.close().expect("closes");
        clean(&path);
        let flat = dir.path("flat.raw");
        std::fs::write(&flat, &model).expect("writes");
        must("qemu-img", &["compare", "-f", "raw", &flat, &path]);
        if raw {
            assert!(std::fs::read(&data).expect("reads")[..model.len()] == model, "the data file is the disk");
        }
        must("qemu-io", &["-c", "write -P 8 100k 100k", &path]);
        let open = open_file(&path, true).expect("opens");
        assert_eq!(aio::block_on(open.child.read_vec(100 << 10, 10)).expect("reads"), [8; 10]);
        open.close().expect("closes");
        assert_eq!(own_check(&path).corruptions, 0);
        std::fs::remove_file(&path).expect("removes");
        std::fs::remove_file(&data).expect("removes");
    }
}

/// Formats a data file that exists, as `blockdev-create` does.
fn create_over(path: &str, data: &str, size: u64) -> block::Result<()> {
    let graph = graph();
    let root = |name: &str| {
        let options = Options::new().with("driver", "file").with("filename", name);
        let node = aio::block_on(graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())))?;
        graph.attach_root(&node, "test", users(), Permissions::ALL)
    };
    std::fs::write(path, []).expect("a file");
    let (file, data) = (root(path)?, root(data)?);
    let request = CreateRequest {
        graph: Arc::clone(&graph),
        file: Some(Arc::clone(&file)),
        filename: String::new(),
        size,
        options: Options::new().with("data_file_raw", true),
        data_file: Some(Arc::clone(&data)),
    };
    let qcow2 = graph.registry().find("qcow2").ok_or_else(|| block::Error::invalid("no driver"))?;
    let created = aio::block_on(qcow2.create(request));
    aio::block_on(graph.detach(&file))?;
    aio::block_on(graph.detach(&data))?;
    created
}

#[test]
fn raw_data_file_that_held_data_shows_it_and_grows() {
    if !has_tool("qemu-img") {
        return;
    }
    let dir = Dir::new();
    let (path, data) = (dir.path("meta.qcow2"), dir.path("data.raw"));
    std::fs::write(&data, vec![42; 1 << 20]).expect("a file");
    create_over(&path, &data, 1 << 20).expect("creates");
    // The image names its data file, and shows what is there whatever its tables would say.
    let open = open_file(&path, true).expect("opens");
    assert!(read_all(&open.child).expect("reads") == vec![42; 1 << 20]);
    open.close().expect("closes");
    clean(&path);
    std::fs::write(&data, [vec![42; 1 << 20], vec![84; 1 << 20]].concat()).expect("writes");
    let open = open_file(&path, false).expect("opens");
    aio::block_on(open.child.truncate(2 << 20, true, Preallocation::Off)).expect("grows");
    assert!(read_all(&open.child).expect("reads")[1 << 20..] == vec![84; 1 << 20]);
    open.close().expect("closes");
    clean(&path);
    must("qemu-img", &["compare", "-F", "raw", &path, &data]);
}

#[test]
fn names_of_data_files_in_images_are_plain_paths() {
    let dir = Dir::new();
    let path = dir.path("meta.qcow2");
    create_file(&path, 1 << 20, &format!("data_file={}", dir.path("d.raw"))).expect("creates");
    let open = open_file(&path, false).expect("opens");
    let options = Options::new().with("data_file", "json:{\"driver\":\"null-co\"}");
    aio::block_on(open.driver().amend(AmendRequest::new(options, false))).expect("stores any name");
    open.close().expect("closes");
    let error = open_file(&path, true).map(|_| ()).expect_err("no such file");
    assert!(error.to_string().contains("No such file or directory"), "{error}");
    // To look at it, no data file is needed.
    let flags = OpenFlags { no_io: true, ..OpenFlags::default() };
    let options = Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path);
    open_with(options, true, flags).expect("opens").close().expect("closes");
}

#[test]
fn compressed_clusters_of_either_side_serve_the_other() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    for options in
        ["", "compression_type=zstd", "cluster_size=512", "cluster_size=2097152", "extended_l2=on", "refcount_bits=1"]
    {
        let (path, flat) = (dir.path("packed.qcow2"), dir.path("flat.raw"));
        let mut rng = Rng(3);
        let mut model = vec![0u8; 6 << 20];
        for (at, byte) in model.iter_mut().enumerate() {
            *byte = if at / 30_000 % 3 == 0 { rng.next() as u8 } else { (at / 977) as u8 };
        }
        create_file(&path, 6 << 20, options).expect("creates");
        let open = open_file(&path, false).expect("opens");
        let cluster = parse(options).take_size("cluster_size").expect("a size").unwrap_or(65536) as usize;
        for (index, part) in model.chunks(cluster).enumerate() {
            let flags = WriteFlags { compressed: true, ..WriteFlags::default() };
            aio::block_on(open.child.write((index * cluster) as u64, IoBuf::copy_of(part), flags)).expect("writes");
        }
        // Over a compressed cluster, in part and as a whole.
        write(&open.child, 1000, &[1; 100]).expect("writes");
        model[1000..1100].fill(1);
        write(&open.child, 1 << 20, &[2; 70_000]).expect("writes");
        model[1 << 20..(1 << 20) + 70_000].fill(2);
        assert!(read_all(&open.child).expect("reads") == model, "{options}");
        open.close().expect("closes");
        clean(&path);
        std::fs::write(&flat, &model).expect("writes");
        must("qemu-img", &["compare", "-f", "raw", &flat, &path]);
        if options != "refcount_bits=1" && cluster < 1 << 21 {
            assert!(std::fs::metadata(&path).expect("size").len() < 5 << 20, "{options}: nothing was saved");
        }
        let theirs = dir.path("theirs.qcow2");
        let mut args = vec!["convert", "-c", "-f", "raw", "-O", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([flat.as_str(), theirs.as_str()]);
        must("qemu-img", &args);
        let open = open_file(&theirs, true).expect("opens");
        assert!(read_all(&open.child).expect("reads") == model, "{options}: theirs");
        open.close().expect("closes");
        let result = own_check(&theirs);
        assert_eq!((result.corruptions, result.leaks), (0, 0), "{options}: {:?}", result.messages);
        assert!(result.compressed_clusters > 0);
    }
}

#[test]
fn amended_images_are_what_was_asked_for() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("amend.qcow2");
    create_file(&path, 4 << 20, "compat=0.10,cluster_size=4096").expect("creates");
    must("qemu-io", &["-c", "write -P 4 0 1M", &path]);
    let amend = |text: &str| {
        let open = open_file(&path, false).expect("opens");
        let result = aio::block_on(open.driver().amend(AmendRequest::new(parse(text), false)));
        open.close().expect("closes");
        result
    };
    for (change, shown) in [
        ("compat=1.1", "compat: 1.1"),
        ("refcount_bits=64", "refcount bits: 64"),
        ("refcount_bits=1", "refcount bits: 1"),
        ("lazy_refcounts=on", "lazy refcounts: true"),
        ("lazy_refcounts=off", "lazy refcounts: false"),
        ("size=9M", "virtual size: 9 MiB"),
        ("refcount_bits=16", "refcount bits: 16"),
        ("compat=0.10", "compat: 0.10"),
    ] {
        if change == "compat=0.10" {
            must("qemu-io", &["-c", "write -z 64k 64k", &path]);
        }
        amend(change).unwrap_or_else(|e| panic!("{change}: {e}"));
        let result = own_check(&path);
        assert_eq!((result.corruptions, result.leaks), (0, 0), "{change}: {:?}", result.messages);
        clean(&path);
        let info = must("qemu-img", &["info", &path]);
        assert!(info.contains(shown), "{change}: {info}");
        must("qemu-io", &["-c", "read -P 4 0 64k", "-c", "read -P 4 128k 896k", &path]);
    }
    must("qemu-io", &["-c", "read -P 0 64k 64k", &path]);
    assert!(amend("refcount_bits=8").is_err(), "version 2 has one width");
    assert!(amend("cluster_size=512").is_err(), "clusters don't change their size");
}

#[test]
fn damage_is_found_and_repaired() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("bad.qcow2");
    let fresh = || {
        create_file(&path, 1 << 20, "").expect("creates");
        must("qemu-io", &["-c", "write -P 3 0 256k", &path]);
    };
    let block = |path: &str| be64(path, usize::try_from(be64(path, 48)).expect("small"));
    // A leak.
    fresh();
    patch(&path, block(&path) + 2 * 20, &1u16.to_be_bytes());
    let result = own_check(&path);
    assert_eq!((result.corruptions, result.leaks), (0, 1));
    assert_eq!(result.messages, ["Leaked cluster 20 refcount=1 reference=0"]);
    let result = repair(&path, true, false);
    let text = "cluster 20 refcount=1 reference=0";
    assert_eq!((result.leaks_fixed, result.messages), (1, vec![format!("Leaked {text}"), format!("Repairing {text}")]));
    clean(&path);
    // Too low a count.
    fresh();
    let data = own_check(&path).image_end_offset / 65536 - 1;
    patch(&path, block(&path) + 2 * data, &0u16.to_be_bytes());
    let result = own_check(&path);
    assert!(result.messages.contains(&format!("ERROR cluster {data} refcount=0 reference=1")), "{:?}", result.messages);
    let (_, theirs) = run("qemu-img", &["check", &path]);
    for message in &result.messages {
        assert!(theirs.contains(message), "{message} is not in {theirs}");
    }
    assert!(repair(&path, true, true).corruptions_fixed > 0);
    clean(&path);
    // A wrong flag.
    fresh();
    let l1 = be64(&path, 40);
    let entry = be64(&path, usize::try_from(l1).expect("small"));
    patch(&path, l1, &(entry & !(1 << 63)).to_be_bytes());
    let result = own_check(&path);
    assert_eq!(result.corruptions, 1, "{:?}", result.messages);
    assert!(result.messages[0].starts_with("ERROR OFLAG_COPIED L2 cluster: l1_index=0"));
    repair(&path, true, true);
    clean(&path);
    // No refcounts at all.
    for bad in [0x5_0000_0000u64, 0x12345, 0] {
        fresh();
        let table = be64(&path, 48);
        patch(&path, table, &bad.to_be_bytes());
        assert!(own_check(&path).corruptions > 0);
        repair(&path, true, true);
        clean(&path);
        must("qemu-io", &["-c", "read -P 3 0 256k", &path]);
    }
    // Dirty and wrong: repaired by the first writable open.
    fresh();
    patch(&path, 79, &[1]);
    patch(&path, block(&path) + 2 * data, &0u16.to_be_bytes());
    open_file(&path, false).expect("opens").close().expect("closes");
    clean(&path);
    // Corrupt: not opened for writing before it is repaired.
    patch(&path, 79, &[2]);
    let error = open_file(&path, false).map(|_| ()).expect_err("is corrupt");
    assert!(error.to_string().contains("qcow2: Image is corrupt; cannot be opened read/write"), "{error}");
    repair(&path, true, true);
    open_file(&path, false).expect("opens").close().expect("closes");
}

#[test]
fn what_an_image_frees_by_itself_goes_back_to_the_host_also_where_discards_are_ignored() {
    use std::os::unix::fs::MetadataExt as _;
    const MIB: u64 = 1 << 20;
    let dir = Dir::new();
    let path = dir.path("freed.qcow2");
    create_file(&path, 8 * MIB, "").expect("creates");
    let options = Options::new().with("driver", "qcow2").with("discard", "ignore");
    let options = options.with("file.driver", "file").with("file.filename", path.as_str());
    let open = open_with(options, false, OpenFlags::default()).expect("opens");
    let held = || std::fs::metadata(&path).expect("a file").blocks() * 512 / MIB;
    // What goes lies before what stays: no end of the file is cut off.
    write(&open.child, 4 * MIB, &vec![1; 4 << 20]).expect("writes");
    write(&open.child, 0, &vec![2; 4 << 20]).expect("writes");
    assert!(held() >= 8, "{} MiB", held());

    aio::block_on(open.child.truncate(4 * MIB, true, Preallocation::Off)).expect("shrinks");

    assert!(held() < 6, "{} MiB", held());
    let name = |name: &str| SnapshotInfo { name: name.into(), ..SnapshotInfo::default() };
    aio::block_on(open.driver().snapshot_create(name("old"))).expect("makes a snapshot");
    write(&open.child, 0, &vec![3; 4 << 20]).expect("writes");
    assert!(held() >= 8, "{} MiB", held());
    let old = open.driver().snapshots().expect("lists").remove(0);

    aio::block_on(open.driver().snapshot_delete(old.id)).expect("deletes");

    assert!(held() < 6, "{} MiB", held());
    open.close().expect("closes");
}

#[test]
fn clusters_of_an_entry_that_can_not_be_repaired_stay_taken() {
    let dir = Dir::new();
    let path = dir.path("unaligned.qcow2");
    create_file(&path, 1 << 20, "").expect("creates");
    let open = open_file(&path, false).expect("opens");
    write(&open.child, 0, &[1; 65536]).expect("writes");
    open.close().expect("closes");
    let offset = 0x00ff_ffff_ffff_fe00;
    let table = be64(&path, usize::try_from(be64(&path, 40)).expect("small")) & offset;
    let host = be64(&path, usize::try_from(table).expect("small")) & offset;
    patch(&path, table, &(1 << 63 | host | 0x200).to_be_bytes());

    let result = repair(&path, true, true);

    let unaligned =
        format!("ERROR offset={:x}: Data cluster is not properly aligned; L2 entry corrupted.", host | 0x200);
    // Once before and once after the counts are made anew.
    let told = result.messages.iter().filter(|message| **message == unaligned).count();
    assert_eq!(told, 2, "{:?}", result.messages);
    let leak = format!("cluster {} refcount=1 reference=0", host >> 16);
    assert!(!result.messages.iter().any(|message| message.contains(&leak)), "{:?}", result.messages);
    assert_eq!(result.corruptions, 1, "{:?}", result.messages);
}

#[test]
fn writes_never_hit_metadata() {
    let dir = Dir::new();
    let path = dir.path("overlap.qcow2");
    for target in ["l1", "refcount table", "header"] {
        create_file(&path, 1 << 20, "").expect("creates");
        let open = open_file(&path, false).expect("opens");
        write(&open.child, 0, &[1; 65536]).expect("writes");
        open.close().expect("closes");
        let l2 = be64(&path, usize::try_from(be64(&path, 40)).expect("small")) & 0x00ff_ffff_ffff_fe00;
        let place = match target {
            "l1" => be64(&path, 40),
            "refcount table" => be64(&path, 48),
            _ => 1 << 55,
        };
        let place = if target == "header" { 0 } else { place };
        // Offset 0 can't be expressed as an allocated cluster: there the counts lie.
        if target == "header" {
            let block = be64(&path, usize::try_from(be64(&path, 48)).expect("small"));
            patch(&path, block, &0u16.to_be_bytes());
        } else {
            patch(&path, l2, &(place | 1 << 63).to_be_bytes());
        }
        let before = std::fs::read(&path).expect("reads");
        let open = open_file(&path, false).expect("opens");
        let at = if target == "header" { 0x40000 } else { 0 };
        let error = write(&open.child, at, &[0xee; 512]).expect_err("hits metadata");
        assert_eq!(error.errno(), 5, "{error}");
        assert!(error.to_string().contains("Preventing invalid"), "{error}");
        assert!(open.driver().details().corrupt);
        assert!(write(&open.child, 0x80000, &[1; 512]).is_err(), "nothing is written any more");
        open.close().expect("closes");
        let after = std::fs::read(&path).expect("reads");
        assert!(before[512..] == after[512..], "{target}: only the header is changed");
        assert_eq!(after[79] & 2, 2, "{target}");
    }
}

#[test]
fn the_size_of_new_images_is_known_before() {
    if !has_tool("qemu-img") {
        return;
    }
    let graph = graph();
    let driver = graph.registry().find("qcow2").expect("qcow2");
    for (size, options) in [
        (0u64, ""),
        (1 << 30, ""),
        (1 << 30, "cluster_size=512"),
        ((1 << 40) + 512, "cluster_size=2097152"),
        (10 << 30, "extended_l2=on"),
        (10 << 30, "refcount_bits=64"),
        (10 << 30, "preallocation=full"),
    ] {
        let request = block::create::MeasureRequest { source: None, size, options: parse(options) };
        let ours = aio::block_on(driver.measure(request)).expect("measures");
        let text = size.to_string();
        let mut args = vec!["measure", "-O", "qcow2", "--size", &text];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        let theirs = must("qemu-img", &args);
        assert!(theirs.contains(&format!("required size: {}\n", ours.required)), "{options}: {ours:?} {theirs}");
        assert!(theirs.contains(&format!("fully allocated size: {}\n", ours.fully_allocated)), "{ours:?} {theirs}");
    }
}

#[test]
fn wrong_options_of_creation_are_refused_as_the_peer_does() {
    if !has_tool("qemu-img") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("wrong.qcow2");
    for options in [
        "cluster_size=1234",
        "cluster_size=64",
        "cluster_size=4194304",
        "compat=0.42",
        "compat=0.10,lazy_refcounts=on",
        "compat=0.10,refcount_bits=8",
        "refcount_bits=7",
        "refcount_bits=128",
        "extended_l2=on,cluster_size=8192",
        "extended_l2=on,compat=0.10",
        "compression_type=lzma",
        "compat=0.10,compression_type=zstd",
        "preallocation=1234",
        "data_file_raw=on",
        "compat=0.10,data_file=x",
    ] {
        let ours = create_file(&path, 1 << 20, options).expect_err(options).to_string();
        let (success, theirs) = run("qemu-img", &["create", "-f", "qcow2", "-o", options, &path, "1M"]);
        assert!(!success && theirs.contains(&ours), "{options}: '{ours}' is not in '{theirs}'");
    }
}

#[test]
fn bitmaps_survive_and_learn_of_writes() {
    if !has_tool("qemu-img") || !has_tool("qemu-io") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("bitmaps.qcow2");
    create_file(&path, 16 << 20, "").expect("creates");
    must("qemu-img", &["bitmap", "--add", "-g", "64k", &path, "on"]);
    must("qemu-img", &["bitmap", "--add", "--disable", &path, "off"]);
    let open = open_file(&path, false).expect("opens");
    let text = format!("{:?}", open.driver().details().specific);
    assert!(text.contains("\"on\"") && text.contains("\"off\""), "{text}");
    write(&open.child, 1 << 20, &[1; 100]).expect("writes");
    write(&open.child, 5 << 20, &[1; 70_000]).expect("writes");
    open.close().expect("closes");
    clean(&path);
    assert_eq!(own_check(&path).leaks, 0);
    let info = must("qemu-img", &["info", &path]);
    assert!(!info.contains("in-use"), "{info}");
    if !has_tool("qemu-nbd") {
        return;
    }
    let socket = dir.path("nbd");
    let mut server = std::process::Command::new("qemu-nbd")
        .args(["-r", "-t", "-B", "on", "-f", "qcow2", "-k", &socket, &path])
        .spawn()
        .expect("starts");
    for _ in 0..200 {
        if std::path::Path::new(&socket).exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    let image = format!("driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:on");
    let (_, map) = run("qemu-img", &["map", "--output=json", "--image-opts", &image]);
    server.kill().expect("stops");
    server.wait().expect("ends");
    // With x-dirty-bitmap, dirty ranges are those without data.
    assert!(map.contains("\"start\": 1048576, \"length\": 65536"), "{map}");
    assert!(map.contains("\"start\": 5242880, \"length\": 131072"), "{map}");
}

#[test]
fn unknown_header_extensions_are_kept() {
    if !has_tool("qemu-img") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("ext.qcow2");
    create_file(&path, 1 << 20, "").expect("creates");
    let bytes = std::fs::read(&path).expect("reads");
    let header_len = u32::from_be_bytes(bytes[100..104].try_into().expect("four")) as usize;
    let mut header = bytes[..header_len].to_vec();
    header.extend(0x1234_5678u32.to_be_bytes());
    header.extend(11u32.to_be_bytes());
    header.extend(b"hello world\0\0\0\0\0");
    header.extend([0; 8]);
    header[95] = 0x80;
    header.resize(512, 0);
    patch(&path, 0, &header);
    let open = open_file(&path, false).expect("opens");
    let backing = ImageBacking { file: "b".into(), format: Some("raw".into()) };
    aio::block_on(open.driver().change_backing(Some(backing))).expect("changes");
    open.close().expect("closes");
    let after = std::fs::read(&path).expect("reads");
    assert!(after[..1024].windows(11).any(|w| w == b"hello world"), "the extension is there");
    assert_eq!(after[95] & 0x80, 0, "an unknown auto-clear bit is cleared");
    let info = must("qemu-img", &["info", &path]);
    assert!(info.contains("backing file: b"), "{info}");
}

#[test]
fn snapshots_that_can_not_be_read_are_not_given_up_by_a_check() {
    if !has_tool("qemu-img") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("a.qcow2");
    create_file(&path, 1 << 20, "").expect("creates");
    must("qemu-io", &["-c", "write -P 1 0 64k", &path]);
    must("qemu-img", &["snapshot", "-c", "one", &path]);
    must("qemu-io", &["-c", "write -P 2 0 64k", &path]);
    // The first entry pretends to have far more extra data than is allowed.
    let table = be64(&path, 64);
    patch(&path, table + 36, &2000u32.to_be_bytes());
    assert!(open_file(&path, true).is_err_and(|error| error.to_string().contains("Too much extra metadata")));
    let flags = OpenFlags { check: true, ..OpenFlags::default() };
    let options =
        Options::new().with("driver", "qcow2").with("file.driver", "file").with("file.filename", path.as_str());
    let before = std::fs::read(&path).expect("reads");
    for fix in [FixMode::default(), FixMode { leaks: true, errors: false }] {
        let open = open_with(options.clone(), !fix.leaks, flags).expect("opens");
        let error = aio::block_on(open.driver().check(fix)).expect_err("what the snapshot uses is not known");
        assert!(error.hint().is_some_and(|hint| hint.contains("check -r all")), "{error}");
        open.close().expect("closes");
    }
    assert!(std::fs::read(&path).expect("reads") == before, "nothing was changed");
    let repaired = repair(&path, true, true);
    assert_eq!((repaired.corruptions, repaired.leaks), (0, 0), "{repaired:?}");
    assert!(repaired.messages.iter().any(|text| text.contains("(2000 > 1024)")), "{repaired:?}");
    clean(&path);
}

#[test]
fn upgrade_completes_the_entries_of_the_snapshot_table() {
    if !has_tool("qemu-img") {
        return;
    }
    let dir = Dir::new();
    let path = dir.path("a.qcow2");
    create_file(&path, 1 << 20, "compat=0.10").expect("creates");
    must("qemu-img", &["snapshot", "-c", "one", &path]);
    let table = be64(&path, 64);
    let bytes = std::fs::read(&path).expect("reads");
    let at = usize::try_from(table).expect("small");
    // Version 2 does without extra data.
    let mut entry = bytes[at..at + 40].to_vec();
    entry[36..40].fill(0);
    entry.extend(bytes[at + 64..].iter().take(8));
    patch(&path, table, &entry);
    let open = open_file(&path, false).expect("opens");
    let request = AmendRequest::new(Options::new().with("compat", "1.1"), false);
    aio::block_on(open.driver().amend(request)).expect("amends");
    open.close().expect("closes");
    let found = own_check(&path);
    assert_eq!((found.corruptions, found.leaks), (0, 0), "{found:?}");
    clean(&path);
}

#[test]
fn amending_tells_how_far_it_is_and_never_goes_back() {
    let dir = Dir::new();
    let path = dir.path("amend.qcow2");
    for (created, changed) in
        [("refcount_bits=1", "refcount_bits=64"), ("refcount_bits=8", "refcount_bits=16,compat=0.10")]
    {
        create_file(&path, 8 << 20, &format!("cluster_size=512,{created}")).expect("creates");
        let open = open_file(&path, false).expect("opens");
        write(&open.child, 0, &vec![1; 4 << 20]).expect("writes");
        let told = Arc::new(Mutex::new(Vec::new()));
        let watch = Arc::clone(&told);
        let mut request = AmendRequest::new(parse(changed), false);
        request.progress = AmendProgress::new(move |done, total| {
            watch.lock().expect("a list").push((done, total));
        });

        aio::block_on(open.driver().amend(request)).expect("amends");

        open.close().expect("closes");
        let told = told.lock().expect("a list");
        assert!(told.len() > 8, "{changed}: {told:?}");
        // As fractions: done / total.
        let goes_back = told.windows(2).find(|pair| pair[1].0 * pair[0].1 < pair[0].0 * pair[1].1);
        assert_eq!(goes_back, None, "{changed}: {told:?}");
        assert!(told.iter().all(|(done, total)| done <= total), "{changed}: {told:?}");
    }
}
