//! What jobs and their filters mean for others who use the same nodes.

mod common;

use std::sync::Arc;

use block::driver::Driver;
use block::graph::Registry;
use block::{BlockStatus, Child, Graph, IoFuture, Node, Options, Permissions, WriteFlags};
use block_jobs::{Common, Job, Jobs, OnError, Status, backup, chain, commit, mirror};
use block_tools::create::Creation;
use iobuf::IoBuf;

fn setting() -> (Arc<Graph>, Jobs) {
    let drivers = block_drivers::drivers().into_iter().chain(block_jobs::drivers());
    (Graph::new(Registry::new(drivers)), common::jobs())
}

fn kept() -> Common {
    // It is looked at when it has ended.
    Common { auto_dismiss: false, ..common::common() }
}

fn open(graph: &Arc<Graph>, options: Options) -> block::Result<Arc<Node>> {
    let node = common::open(graph, options)?;
    graph.adopt(&node);
    Ok(node)
}

/// A disk without a file.
fn disk(graph: &Arc<Graph>, name: &str) -> Arc<Node> {
    let options = Options::new().with("driver", "null-co").with("node-name", name).with("size", "1048576");
    open(graph, options).expect("a disk")
}

fn blkdebug(graph: &Arc<Graph>, name: &str, image: &str) -> Options {
    assert!(graph.lookup(image).is_some());
    Options::new().with("driver", "blkdebug").with("node-name", name).with("image", image)
}

fn mirror(graph: &Arc<Graph>, jobs: &Jobs) -> Arc<Job> {
    let (source, target) = (graph.find("source").expect("the source"), graph.find("target").expect("the target"));
    let options = mirror::Options { common: kept(), ..common::mirror(source, target) };
    mirror::create(graph, jobs, &options).expect("a mirror")
}

/// Lets a mirror take the source's place.
fn complete(jobs: &Jobs, job: &Arc<Job>) {
    let reactor = aio::IoThread::start("disks").expect("a thread");
    jobs.start(job, reactor.handle());
    aio::block_on(jobs.settle());
    while !job.is_ready() {
        std::thread::yield_now();
    }
    job.complete().expect("a job that is ready");
    while job.status() != Status::Concluded {
        aio::block_on(jobs.settle());
        std::thread::yield_now();
    }
}

#[test]
fn user_that_comes_to_the_source_while_it_is_mirrored_uses_the_copy_afterwards() {
    let (graph, jobs) = setting();
    let (source, target) = (disk(&graph, "source"), disk(&graph, "target"));
    let job = mirror(&graph, &jobs);
    let late = open(&graph, blkdebug(&graph, "late", "source")).expect("a user");

    complete(&jobs, &job);

    assert_eq!(job.info().error, None);
    assert!(Arc::ptr_eq(&late.children()[0].node(), &target));
    assert!(source.parents().is_empty());
    assert!(graph.lookup("filter").is_none());
}

#[test]
fn mirror_whose_copy_can_not_serve_the_users_of_the_source_fails_and_leaves_them() {
    let (graph, jobs) = setting();
    let (source, target) = (disk(&graph, "source"), disk(&graph, "target"));
    let unshares = blkdebug(&graph, "other", "target").with("unshare-child-perms.0", "consistent-read");
    let other = open(&graph, unshares).expect("a user of the copy");
    let job = mirror(&graph, &jobs);
    let takes = blkdebug(&graph, "late", "source").with("take-child-perms.0", "consistent-read");
    let late = open(&graph, takes).expect("a user of the source");

    complete(&jobs, &job);

    assert_eq!(job.info().error.as_deref(), Some("Operation not permitted"));
    assert!(Arc::ptr_eq(&late.children()[0].node(), &source));
    assert!(Arc::ptr_eq(&other.children()[0].node(), &target));
    assert!(graph.lookup("filter").is_none());
}

fn full_backup(source: &Arc<Node>, target: Arc<Node>) -> backup::Options {
    backup::Options {
        common: kept(),
        source: Arc::clone(source),
        target,
        sync: backup::Sync::Full,
        bitmap: None,
        compress: false,
        on_source_error: OnError::Report,
        on_target_error: OnError::Report,
        filter_node_name: Some("filter".to_owned()),
        max_workers: 0,
        max_chunk: 0,
        transaction: None,
    }
}

fn finish(jobs: &Jobs, job: &Arc<Job>) {
    let reactor = aio::IoThread::start("disks").expect("a thread");
    jobs.start(job, reactor.handle());
    while job.status() != Status::Concluded {
        aio::block_on(jobs.settle());
        std::thread::yield_now();
    }
}

#[test]
fn backup_does_not_need_flushes_of_the_source() {
    let (graph, jobs) = setting();
    disk(&graph, "base");
    let rule = |options: Options, name: &str, value: &str| options.with(&format!("inject-error.0.{name}"), value);
    let options = rule(blkdebug(&graph, "source", "base"), "event", "none");
    let source = open(&graph, rule(options, "iotype", "flush")).expect("a disk");
    let job = backup::create(&graph, &jobs, &full_backup(&source, disk(&graph, "target"))).expect("a backup");

    finish(&jobs, &job);

    assert_eq!(job.info().error, None);
}

/// A disk in areas of 64 KiB, whose third one can't be read.
#[derive(Clone)]
struct Scratched;

impl Driver for Scratched {
    fn len(&self) -> u64 {
        1 << 20
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        let is_bad = offset + buf.len() as u64 > 2 * 65536 && offset < 3 * 65536;
        if is_bad { block::fail(block::Error::io("a scratch")) } else { block::done(()) }
    }

    fn write(&self, _offset: u64, _buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        block::done(())
    }

    fn flush(&self) -> IoFuture<'_> {
        block::done(())
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        block::done(BlockStatus::data(len.min(65536 - offset % 65536), None))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn backup_that_fails_has_copied_what_it_could_read_before_and_begins_nothing_more() {
    let (graph, [source, target]) = common::two_disks([&Scratched, &Scratched]);
    let jobs = common::jobs();
    let bitmap = source.bitmaps().create(1 << 20, 65536, Some("b")).expect("a bitmap");
    bitmap.mark(0, 4 * 65536);
    bitmap.mark(8 * 65536, 65536);
    let options = backup::Options {
        sync: backup::Sync::Bitmap,
        bitmap: Some((bitmap, backup::BitmapMode::Always)),
        max_workers: 1,
        ..full_backup(&source, target)
    };
    let job = backup::create(&graph, &jobs, &options).expect("a backup");

    finish(&jobs, &job);

    assert!(job.info().error.is_some());
    assert_eq!(job.info().current, 2 * 65536);
    let left = source.bitmaps().find("b").expect("the heir");
    assert_eq!((left.dirty_bytes(), left.is_dirty(65536), left.is_dirty(2 * 65536)), (3 * 65536, false, true));
}

#[test]
fn bitmaps_of_a_backup_are_shown_while_it_lasts() {
    let (graph, jobs) = setting();
    let source = disk(&graph, "source");
    let job = backup::create(&graph, &jobs, &full_backup(&source, disk(&graph, "target"))).expect("a backup");
    let filter = graph.lookup("filter").expect("the filter");
    let shown = |node: &Arc<Node>| -> Vec<(u64, bool)> {
        node.bitmaps().list().iter().map(|bitmap| (bitmap.dirty_bytes(), bitmap.is_recording())).collect()
    };
    assert_eq!(shown(&source), [(1 << 20, false)], "what is left to copy");
    assert_eq!(shown(&filter), [(1 << 20, false), (0, false)], "what may be read, what was kept for it");

    aio::block_on(filter.write(65536, IoBuf::zeroed(512), WriteFlags::default())).expect("a write");
    assert_eq!(
        (shown(&source), shown(&filter)),
        (vec![((1 << 20) - 65536, false)], vec![(1 << 20, false), (65536, false)])
    );

    finish(&jobs, &job);
    assert_eq!(shown(&source), []);
}

#[test]
fn backup_of_a_disk_whose_file_another_node_writes_to_is_refused() {
    let (graph, jobs) = setting();
    disk(&graph, "base");
    let source = open(&graph, blkdebug(&graph, "source", "base")).expect("a disk");
    let writes = blkdebug(&graph, "other", "base").with("take-child-perms.0", "write");
    open(&graph, writes).expect("who writes");
    let options = full_backup(&source, disk(&graph, "target"));

    let Err(error) = backup::create(&graph, &jobs, &options) else { panic!("nobody stands against it") };
    let error = error.to_string();

    let text = "permissions 'write' are both required by node 'other' (uses node 'base' as 'image' child) and unshared \
                by node 'source'";
    assert!(error.contains(text), "{error}");
    assert!(graph.lookup("filter").is_none() && source.parents().is_empty());
}

#[test]
fn drain_of_a_disk_holds_a_commit_of_its_backings() {
    let (graph, jobs) = setting();
    let directory = tempfile::tempdir().expect("a directory");
    let image = |name: &str, backing: Option<&str>| {
        let path = directory.path().join(name);
        let path = path.to_str().expect("text");
        let mut creation = Creation::new(&graph, "qcow2", path).expect("a format");
        creation.values.set("size", "1048576").expect("a size");
        aio::block_on(creation.run(&graph)).expect("an image");
        let options = Options::new().with("driver", "qcow2").with("node-name", name).with("filename", path);
        open(&graph, backing.map_or(options.clone(), |backing| options.with("backing", backing))).expect("a node")
    };
    let base = image("base", None);
    let middle = image("middle", Some("base"));
    let top = image("top", Some("middle"));
    let options = commit::Options {
        common: kept(),
        active: Arc::clone(&top),
        top: middle,
        base,
        backing_file: None,
        on_error: OnError::Report,
        filter_node_name: None,
    };
    let job = commit::create(&graph, &jobs, &options).expect("a commit");

    let drained = aio::block_on(graph.drain(&top));
    assert!(job.gate().is_closed());
    drop(drained);
    assert!(!job.gate().is_closed());
    aio::block_on(jobs.abandon(&job));
}

#[test]
fn image_whose_format_is_the_protocol_is_created_in_its_size() {
    let (graph, _jobs) = setting();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("image");
    let mut creation = Creation::new(&graph, "file", path.to_str().expect("text")).expect("a format");
    creation.values.set("size", "1048576").expect("a size");

    aio::block_on(creation.run(&graph)).expect("an image");

    assert_eq!(std::fs::metadata(&path).expect("a file").len(), 1 << 20);
    let options = Options::new().with("driver", "file").with("filename", path.to_str().expect("text"));
    let node = open(&graph, options).expect("the file");
    let used = Permissions::CONSISTENT_READ | Permissions::WRITE;
    graph.attach_root(&node, "a test", used, Permissions::NONE).expect("nobody holds it");
}

#[test]
fn image_is_found_by_its_name_below_the_filter_of_a_job() {
    let (graph, jobs) = setting();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    for (name, backing) in [("base", None), ("middle", Some("base")), ("top", Some("middle"))] {
        let mut creation = Creation::new(&graph, "qcow2", &path(name)).expect("a format");
        creation.values.set("size", "1048576").expect("a size");
        let backing = backing.map(path);
        creation.set_backing(backing.as_deref(), backing.as_ref().map(|_| "qcow2")).expect("a backing");
        aio::block_on(creation.run(&graph)).expect("an image");
    }
    let top = open(&graph, Options::new().with("driver", "qcow2").with("filename", path("top"))).expect("the chain");
    let images: Vec<_> = chain::of(&top).collect();
    let options = commit::Options {
        common: kept(),
        active: Arc::clone(&top),
        top: Arc::clone(&images[1]),
        base: Arc::clone(&images[2]),
        backing_file: None,
        on_error: OnError::Report,
        filter_node_name: None,
    };
    let job = commit::create(&graph, &jobs, &options).expect("a commit, with a filter above its top");

    let found = ["middle", "base"].map(|name| chain::find_image(&top, &path(name)).expect("an image"));

    assert!(Arc::ptr_eq(&found[0], &images[1]) && Arc::ptr_eq(&found[1], &images[2]));
    let (edge, filter) = chain::fleeting_link(&top, Some(&images[1])).expect("it leaves with its job");
    assert_eq!((edge.as_str(), filter.driver_type().name()), ("backing", "commit_top"));
    assert!(chain::fleeting_link(&top, Some(&filter)).is_none(), "what is below the base does not matter");
    aio::block_on(jobs.abandon(&job));
}

#[test]
fn status_of_a_snapshot_by_a_bitmap_ends_where_the_bitmap_does() {
    const CLUSTER: u64 = 65_536;
    let (graph, _jobs) = setting();
    let [source, _target] = ["source", "target"].map(|name| disk(&graph, name));
    let bitmap = source.bitmaps().create(source.len(), CLUSTER, Some("b")).expect("a bitmap");
    bitmap.mark(CLUSTER, CLUSTER);
    let filter = Options::new().with("driver", "copy-before-write").with("node-name", "cbw").with("file", "source");
    let filter = filter.with("target", "target").with("bitmap.node", "source").with("bitmap.name", "b");
    let _filter = open(&graph, filter).expect("a filter");
    let access = Options::new().with("driver", "snapshot-access").with("node-name", "access").with("file", "cbw");
    let access = open(&graph, access).expect("a snapshot");
    let status = |offset| aio::block_on(access.block_status(offset, 4 * CLUSTER, true));
    assert_eq!(status(CLUSTER).expect("what may be read").len, CLUSTER);
    assert_eq!(status(0).expect_err("nothing to be read").errno(), 13, "EACCES");
    assert!(status(2 * CLUSTER).is_err());
}
