//! The filters over raw files.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use block::throttle::{Bucket, Group, Limits};
use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Registry, WriteFlags};
use block_filters::blkdebug::Blkdebug;
use block_filters::quorum::{EVENTS_OBJECT, QuorumEvent, QuorumEvents};
use iobuf::IoBuf;
use tempfile::NamedTempFile;

fn graph() -> Arc<Graph> {
    Graph::new(Registry::new(block::builtin_drivers().into_iter().chain(block_filters::drivers())))
}

fn image(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("its content");
    file
}

fn name(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("a plain path")
}

fn open(graph: &Arc<Graph>, options: Options) -> block::Result<Arc<Child>> {
    let config = NodeConfig { discard: true, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())))?;
    graph.attach_root(&node, "test", Permissions::CONSISTENT_READ | Permissions::WRITE, Permissions::ALL)
}

fn raw(options: Options, prefix: &str, file: &NamedTempFile) -> Options {
    options.with(&format!("{prefix}.driver"), "raw").with(&format!("{prefix}.file.filename"), name(file))
}

#[test]
fn an_injected_error_hits_its_sector_once() {
    let file = image(&[7; 4096]);
    let options =
        Options::new().with("driver", "blkdebug").with("image.driver", "file").with("image.filename", name(&file));
    let options = options.with("inject-error.0.event", "none").with("inject-error.0.iotype", "read");
    let options =
        options.with("inject-error.0.sector", "2").with("inject-error.0.errno", "28").with("inject-error.0.once", "on");
    let child = open(&graph(), options).expect("opens");
    aio::block_on(async {
        child.read_vec(0, 1024).await.expect("other sectors are fine");
        let error = child.read_vec(512, 1024).await.expect_err("sector 2 fails");
        assert!(error.is_no_space(), "{error}");
        child.read_vec(512, 1024).await.expect("only once");
    });
}

#[test]
fn a_break_point_holds_a_write_until_it_is_resumed() {
    let file = image(&[0; 4096]);
    let options =
        Options::new().with("driver", "blkdebug").with("image.driver", "file").with("image.filename", name(&file));
    let child = open(&graph(), options).expect("opens");
    let node = child.node();
    let blkdebug = node.driver().as_any().downcast_ref::<Blkdebug>().expect("the driver");
    blkdebug.set_breakpoint("pwritev", "A").expect("a known event");
    let thread = aio::IoThread::start("held").expect("a thread");
    let writer = Arc::clone(&child);
    let finished = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&finished);
    thread.handle().spawn(async move {
        let result = writer.write(0, IoBuf::copy_of(&[1; 512]), WriteFlags::default()).await;
        *slot.lock().expect("not poisoned") = Some(result);
    });
    let end = Instant::now() + Duration::from_secs(20);
    while blkdebug.suspended("A") == 0 {
        assert!(Instant::now() < end, "the write never reached its break point");
        std::thread::yield_now();
    }
    assert!(finished.lock().expect("not poisoned").is_none());
    assert_eq!(std::fs::read(file.path()).expect("readable")[0], 0);
    blkdebug.resume("A").expect("a held request");
    drop(thread);
    finished.lock().expect("not poisoned").take().expect("finished").expect("well");
    assert_eq!(std::fs::read(file.path()).expect("readable")[0], 1);
    assert!(blkdebug.resume("A").is_err());
}

#[test]
fn alignment_limits_pad_what_reaches_the_image() {
    let file = image(&[3; 8192]);
    let options = Options::new().with("driver", "blkdebug").with("align", "4096").with("max-transfer", "4096");
    let options = options.with("image.driver", "file").with("image.filename", name(&file));
    let child = open(&graph(), options).expect("opens");
    aio::block_on(async {
        child.write(4000, IoBuf::copy_of(&[9; 200]), WriteFlags::default()).await.expect("writes");
        let bytes = child.read_vec(3999, 202).await.expect("reads");
        assert_eq!((bytes[0], bytes[1], bytes[200], bytes[201]), (3, 9, 9, 3));
    });
    let options = Options::new().with("driver", "blkdebug").with("align", "3").with("image.filename", name(&file));
    let error = open(&graph(), options).map(|_| ()).expect_err("not a power of two");
    assert!(error.to_string().contains("Cannot meet constraints with align 3"), "{error}");
}

#[test]
fn blkverify_finds_a_difference() {
    let (test, copy) = (image(&[1; 4096]), image(&[1; 4096]));
    let options = raw(raw(Options::new().with("driver", "blkverify"), "test", &test), "raw", &copy);
    let child = open(&graph(), options).expect("opens");
    aio::block_on(async {
        child.write(512, IoBuf::copy_of(&[2; 512]), WriteFlags::default()).await.expect("writes both");
        child.read_vec(0, 4096).await.expect("equal");
        std::fs::write(copy.path(), [5; 4096]).expect("writable");
        let error = child.read_vec(0, 4096).await.expect_err("different");
        assert!(error.to_string().contains("contents differ at offset 0"), "{error}");
    });
}

#[test]
fn a_quorum_of_three_outvotes_and_rewrites_a_bad_copy() {
    let files = [image(&[1; 4096]), image(&[1; 4096]), image(&[6; 4096])];
    let graph = graph();
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let listener = move |_: &str, event| sink.lock().expect("not poisoned").push(event);
    graph.set_object(EVENTS_OBJECT, Arc::new(QuorumEvents(Box::new(listener))));
    let mut options =
        Options::new().with("driver", "quorum").with("vote-threshold", 2u64).with("rewrite-corrupted", true);
    for (index, file) in files.iter().enumerate() {
        options = raw(options, &format!("children.{index}"), file);
    }
    let child = open(&graph, options).expect("opens");
    assert_eq!(aio::block_on(child.read_vec(0, 4096)).expect("two agree"), [1; 4096]);
    assert_eq!(std::fs::read(files[2].path()).expect("readable"), [1; 4096], "the third was rewritten");
    assert!(matches!(
        events.lock().expect("not poisoned")[..],
        [QuorumEvent::ReportBad { error: None, sectors: 8, .. }]
    ));
    std::fs::write(files[0].path(), [8; 4096]).expect("writable");
    std::fs::write(files[1].path(), [9; 4096]).expect("writable");
    aio::block_on(child.read_vec(0, 512)).expect_err("nobody agrees");
    assert!(events.lock().expect("not poisoned").iter().any(|event| matches!(event, QuorumEvent::Failure { .. })));
}

#[test]
fn a_quorum_is_zero_where_all_copies_are_and_data_as_far_as_one_of_them() {
    use std::os::unix::fs::FileExt as _;
    let (files, mut options) = ([image(&[]), image(&[])], Options::new().with("driver", "quorum"));
    options.set("vote-threshold", 1u64);
    for (index, (file, data)) in files.iter().zip([64usize << 10, 128 << 10]).enumerate() {
        file.as_file().set_len(1 << 20).expect("a hole");
        file.as_file().write_all_at(&vec![1; data], 256 << 10).expect("data");
        options = raw(options, &format!("children.{index}"), file);
    }
    let child = open(&graph(), options).expect("opens");
    let status = |offset| aio::block_on(child.node().block_status(offset, (1 << 20) - offset, true)).expect("a status");
    let [before, inside, behind] = [0, 256 << 10, 384 << 10].map(status);
    assert_eq!((before.zero, before.data, before.len), (true, false, 256 << 10));
    assert_eq!((inside.zero, inside.data, inside.len), (false, true, 128 << 10));
    assert_eq!((behind.zero, behind.data, behind.len), (true, false, 640 << 10));
}

#[test]
fn a_throttled_node_names_an_existing_group() {
    let file = image(&[0; 65536]);
    let graph = graph();
    let options = || raw(Options::new().with("driver", "throttle").with("throttle-group", "g"), "file", &file);
    let error = open(&graph, options()).map(|_| ()).expect_err("no such group");
    assert_eq!(error.to_string(), "Throttle group 'g' does not exist");
    let mut limits = Limits::default();
    limits.buckets[Bucket::BpsWrite as usize].average = 1 << 20;
    graph.set_object("g", Arc::new(Group::new("g", limits).expect("fits")));
    let child = open(&graph, options()).expect("opens");
    let started = Instant::now();
    aio::block_on(async {
        for _ in 0..6 {
            child.write(0, IoBuf::zeroed(65536), WriteFlags::default()).await.expect("writes");
        }
    });
    // 384 KiB at 1 MiB/s with a tenth of a second for free can't take less than 0.2 s.
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
}

#[test]
fn copy_on_read_fills_the_image_above_and_needs_to_write() {
    let file = image(&[5; 65536]);
    let graph = graph();
    let options = raw(Options::new().with("driver", "copy-on-read"), "file", &file);
    let child = open(&graph, options.clone()).expect("opens");
    assert_eq!(aio::block_on(child.read_vec(1000, 3000)).expect("reads"), [5; 3000]);
    aio::block_on(graph.detach(&child)).expect("closes");
    let config = NodeConfig { read_only: true, ..NodeConfig::default() };
    let error = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default()))).expect_err("read-only");
    assert_eq!(error.to_string(), "Block node is read-only");
}

#[test]
fn a_plain_name_of_a_filter_opens_what_its_options_say() {
    let file = image(&[5; 4096]);
    let options = Options::new().with("driver", "blkdebug").with("image.driver", "raw").with("filename", name(&file));
    let child = open(&graph(), options).expect("opens");
    assert_eq!(child.node().children()[0].node().driver_type().name(), "raw");
    let options =
        Options::new().with("driver", "copy-on-read").with("file.driver", "raw").with("filename", name(&file));
    let child = open(&graph(), options).expect("opens");
    assert_eq!(child.node().children()[0].node().driver_type().name(), "raw");
}

#[test]
fn user_that_moves_between_an_image_its_filter_and_another_image_takes_its_permissions_along() {
    let (first, second) = (image(&[1; 4096]), image(&[2; 4096]));
    let graph = graph();
    let node = |name: &str, options: Options| {
        let options = options.with("node-name", name);
        let opened = aio::block_on(graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())));
        let node = opened.expect("opens");
        graph.adopt(&node);
        node
    };
    let source = node("source", raw_image(&first));
    let inner = node("inner", Options::new().with("driver", "copy-on-read").with("file", "source"));
    let filter = node("filter", Options::new().with("driver", "copy-on-read").with("file", "inner"));
    let other = node("other", raw_image(&second));
    let write = Permissions::CONSISTENT_READ | Permissions::WRITE;
    let root = graph.attach_root(&source, "disk", write, Permissions::CONSISTENT_READ).expect("nobody uses it");
    let is_locked = |file: &NamedTempFile| open(&self::graph(), raw_image(file)).is_err();
    let others_may_write = |on: &Arc<block::Node>| match graph.attach_root(on, "other", write, Permissions::ALL) {
        Ok(root) => {
            aio::block_on(graph.detach(&root)).expect("detaches");
            true
        }
        Err(_) => false,
    };
    let byte = || aio::block_on(root.read_vec(0, 1)).expect("reads")[0];
    for to in [&filter, &source, &inner, &filter, &inner] {
        graph.move_root(&root, to).expect("nobody stands against it");
        assert_eq!((root.node().name(), byte()), (to.name(), 1));
        assert!(!others_may_write(&source) && others_may_write(&other));
        assert!(is_locked(&first) && !is_locked(&second));
    }
    let from = graph.move_root(&root, &other).expect("nobody stands against it");
    aio::block_on(graph.close(&from)).expect("has its owner");
    assert_eq!(byte(), 2);
    assert!(others_may_write(&source) && !others_may_write(&other));
    assert!(!is_locked(&first) && is_locked(&second));
    // Now with somebody who stands against it.
    let reader = graph.attach_root(&source, "reader", Permissions::CONSISTENT_READ, Permissions::CONSISTENT_READ);
    let reader = reader.expect("nobody writes to it");
    let error = graph.move_root(&root, &filter).expect_err("somebody reads");
    assert!(error.to_string().contains("unshared by reader"), "{error}");
    assert_eq!((root.node().name(), byte()), ("other", 2));
    assert!(!others_may_write(&other) && is_locked(&second));
    aio::block_on(graph.detach(&reader)).expect("detaches");
    assert!(others_may_write(&source) && !is_locked(&first));
}

fn raw_image(file: &NamedTempFile) -> Options {
    Options::new().with("driver", "raw").with("file.driver", "file").with("file.filename", name(file))
}
