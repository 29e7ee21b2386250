//! Operations on whole images, over raw files and error injection.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use block::gate::Gate;
use block::{Child, Graph, Options, WriteFlags};
use block_tools::compare::{self, Outcome, Strictness};
use block_tools::copy::{self, Copy, Failure, Order};
use block_tools::create::Creation;
use block_tools::open::{Access, file_options, open};
use block_tools::{Progress, Silent, commit, rebase, status};
use iobuf::IoBuf;

const MIB: u64 = 1 << 20;

/// A directory with a graph.
struct Bench {
    graph: Arc<Graph>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { graph: Graph::new(block_drivers::registry()), directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("a plain path").to_owned()
    }

    async fn create(&self, name: &str, format: &str, size: u64, backing: Option<&str>) -> Arc<Child> {
        let path = self.path(name);
        let mut creation = Creation::new(&self.graph, format, &path).expect("a known format");
        creation.values.set("size", &size.to_string()).expect("a size");
        if let Some(backing) = backing {
            creation.set_backing(Some(backing), Some("raw")).expect("a format with backings");
        }
        creation.resolve_backing(&self.graph, true).await.expect("the backing opens");
        creation.run(&self.graph).await.expect("created");
        self.open(file_options(&path, Some(format))).await
    }

    async fn open(&self, options: Options) -> Arc<Child> {
        let access = Access { write: true, resize: true, unmap: true, ..Access::default() };
        open(&self.graph, options, access).await.expect("opens")
    }
}

async fn fill(child: &Child, offset: u64, len: usize, byte: u8) {
    let buf = IoBuf::zeroed(len);
    buf.fill(0, len, byte);
    child.write(offset, buf, WriteFlags::default()).await.expect("written");
}

fn plain(source: &Arc<Child>, target: &Arc<Child>) -> Copy {
    Copy {
        sources: vec![Arc::clone(source)],
        target: Arc::clone(target),
        sparse: 4096,
        compressed: false,
        zero_initialised: true,
        has_backing: false,
        backing_len: None,
        workers: 8,
        order: Order::Started,
        salvage: false,
        offload: false,
        stable: false,
        rate_limit: None,
    }
}

#[derive(Default)]
struct Watcher {
    warnings: Mutex<Vec<String>>,
    /// Cancels after so many reports; 0 never.
    patience: u64,
    reports: AtomicU64,
}

impl Progress for Watcher {
    fn update(&self, done: u64, total: u64) {
        assert!(done <= total);
        self.reports.fetch_add(1, Ordering::Relaxed);
    }

    fn is_shown(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        self.patience != 0 && self.reports.load(Ordering::Relaxed) >= self.patience
    }

    fn warn(&self, message: &str) {
        self.warnings.lock().expect("not poisoned").push(message.to_owned());
    }
}

#[test]
fn a_copy_has_the_same_data_and_keeps_holes() {
    aio::block_on(async {
        let bench = Bench::new();
        let source = bench.create("a", "raw", 16 * MIB, None).await;
        for (offset, len, byte) in [(5, 100, 1), (3 * MIB + 7, 2_500_000, 2), (16 * MIB - 512, 512, 3)] {
            fill(&source, offset, len, byte).await;
        }
        for order in [Order::Any, Order::Started, Order::Finished] {
            let target = bench.create("b", "raw", 16 * MIB, None).await;
            copy::run(&Copy { order, ..plain(&source, &target) }, &Silent).await.expect("copied");
            let found = compare::compare([&source.node(), &target.node()], Strictness::Content, &Silent).await;
            assert_eq!(found, Ok(Outcome::Identical { sizes_differ: false }));
            let hole = status::above(&target.node(), None, 8 * MIB, MIB).await.expect("a status");
            assert!(hole.zero, "{order:?}: {hole:?}");
            bench.graph.detach(&target).await.expect("closed");
        }
        bench.graph.detach(&source).await.expect("closed");
    });
}

#[test]
fn sources_follow_each_other() {
    aio::block_on(async {
        let bench = Bench::new();
        let a = bench.create("a", "raw", MIB, None).await;
        let b = bench.create("b", "raw", MIB, None).await;
        fill(&a, 0, 4096, 1).await;
        fill(&b, MIB - 4096, 4096, 2).await;
        let target = bench.create("c", "qcow2", 2 * MIB, None).await;
        let both = Copy { sources: vec![Arc::clone(&a), Arc::clone(&b)], ..plain(&a, &target) };
        copy::run(&both, &Silent).await.expect("copied");
        assert_eq!(target.read_vec(0, 4).await.expect("read"), [1; 4]);
        assert_eq!(target.read_vec(2 * MIB - 4, 4).await.expect("read"), [2; 4]);
        assert_eq!(target.read_vec(MIB, 4).await.expect("read"), [0; 4]);
        for child in [a, b, target] {
            bench.graph.detach(&child).await.expect("closed");
        }
    });
}

/// A raw node over an image whose sector `sector` can't be read.
fn broken(path: &str, sector: u64) -> Options {
    Options::new()
        .with("driver", "raw")
        .with("file.driver", "blkdebug")
        .with("file.image.driver", "file")
        .with("file.image.filename", path)
        .with("file.inject-error.0.event", "none")
        .with("file.inject-error.0.iotype", "read")
        .with("file.inject-error.0.sector", sector)
}

#[test]
fn an_unreadable_sector_fails_the_copy_or_becomes_zeroes() {
    aio::block_on(async {
        let bench = Bench::new();
        let source = bench.create("a", "raw", 4 * MIB, None).await;
        fill(&source, 0, 4 << 20, 7).await;
        bench.graph.detach(&source).await.expect("closed");
        let source = bench.open(broken(&bench.path("a"), 1000)).await;
        let target = bench.create("b", "raw", 4 * MIB, None).await;
        let failure = copy::run(&plain(&source, &target), &Silent).await.expect_err("a sector can't be read");
        assert!(matches!(failure, Failure::Read(0, _)), "{failure:?}");
        let watcher = Watcher::default();
        copy::run(&Copy { salvage: true, ..plain(&source, &target) }, &watcher).await.expect("salvaged");
        assert_eq!(watcher.warnings.lock().expect("not poisoned").len(), 1);
        let bytes = target.read_vec(999 * 512, 3 * 512).await.expect("read");
        assert!(bytes[..512].iter().all(|b| *b == 7) && bytes[1024..].iter().all(|b| *b == 7));
        assert!(bytes[512..1024].iter().all(|b| *b == 0));
        for child in [source, target] {
            bench.graph.detach(&child).await.expect("closed");
        }
    });
}

#[test]
fn a_cancelled_copy_stops() {
    aio::block_on(async {
        let bench = Bench::new();
        let source = bench.create("a", "raw", 64 * MIB, None).await;
        fill(&source, 0, 64 << 20, 7).await;
        let target = bench.create("b", "raw", 64 * MIB, None).await;
        let watcher = Watcher { patience: 3, ..Watcher::default() };
        let one = Copy { workers: 1, ..plain(&source, &target) };
        let failure = copy::run(&one, &watcher).await.expect_err("cancelled");
        assert!(matches!(failure, Failure::Other(_)), "{failure:?}");
        assert_eq!(watcher.reports.load(Ordering::Relaxed), 3);
        for child in [source, target] {
            bench.graph.detach(&child).await.expect("closed");
        }
    });
}

#[test]
fn comparisons_say_where_images_differ() {
    aio::block_on(async {
        let bench = Bench::new();
        let a = bench.create("a", "raw", 4 * MIB, None).await;
        let b = bench.create("b", "raw", 5 * MIB, None).await;
        let compare = async |strictness| compare::compare([&a.node(), &b.node()], strictness, &Silent).await;
        assert_eq!(compare(Strictness::Content).await, Ok(Outcome::Identical { sizes_differ: true }));
        assert_eq!(compare(Strictness::Strict).await, Ok(Outcome::SizeDiffers));
        fill(&b, 4 * MIB + 5000, 1, 1).await;
        let tail = Outcome::ContentDiffers { offset: 4 * MIB + 4608, in_tail: true };
        assert_eq!(compare(Strictness::Content).await, Ok(tail));
        fill(&a, 3 * MIB + 1000, 1, 1).await;
        let content = Outcome::ContentDiffers { offset: 3 * MIB + 512, in_tail: false };
        assert_eq!(compare(Strictness::Content).await, Ok(content));
        for child in [a, b] {
            bench.graph.detach(&child).await.expect("closed");
        }
    });
}

#[test]
fn an_overlay_says_the_same_after_a_rebase() {
    aio::block_on(async {
        let bench = Bench::new();
        let old = bench.create("old", "raw", 2 * MIB, None).await;
        fill(&old, 0, 2 << 20, 5).await;
        let new = bench.create("new", "raw", 4 * MIB, None).await;
        fill(&new, MIB, 3 << 20, 6).await;
        bench.graph.detach(&old).await.expect("closed");
        let overlay = bench.create("overlay", "qcow2", 3 * MIB, Some(&bench.path("old"))).await;
        fill(&overlay, 100, 10, 9).await;
        let before = overlay.read_vec(0, 3 << 20).await.expect("read");
        let backing = status::backing_of(&overlay.node());
        rebase::keep_contents(&overlay, backing.as_ref(), Some(&new.node()), None, &Silent).await.expect("rebased");
        for child in [overlay, new] {
            bench.graph.detach(&child).await.expect("closed");
        }
        // On the new backing it reads the same.
        assert!(Path::new(&bench.path("overlay")).exists());
        let options = file_options(&bench.path("overlay"), Some("qcow2"))
            .with("backing.driver", "raw")
            .with("backing.file.driver", "file")
            .with("backing.file.filename", bench.path("new"));
        let overlay = bench.open(options).await;
        assert!(overlay.read_vec(0, 3 << 20).await.expect("read") == before);
        bench.graph.detach(&overlay).await.expect("closed");
    });
}

#[test]
fn a_commit_brings_the_overlay_into_a_shorter_base() {
    aio::block_on(async {
        let bench = Bench::new();
        let base = bench.create("base", "raw", MIB, None).await;
        fill(&base, 0, 1 << 20, 5).await;
        bench.graph.detach(&base).await.expect("closed");
        let top = bench.create("top", "qcow2", 3 * MIB, Some(&bench.path("base"))).await;
        fill(&top, 65536, 65536, 6).await;
        fill(&top, 2 * MIB, 4096, 7).await;
        let wanted = top.read_vec(0, 3 << 20).await.expect("read");
        bench.graph.detach(&top).await.expect("closed");
        let mut access = Access { write: true, ..Access::default() };
        access.flags.no_backing = true;
        let top = open(&bench.graph, file_options(&bench.path("top"), Some("qcow2")), access).await.expect("opens");
        let base = bench.open(file_options(&bench.path("base"), Some("raw"))).await;
        commit::commit(&[Arc::clone(&top)], &base, &Gate::new(), None, &Silent).await.expect("committed");
        assert_eq!(base.len(), 3 * MIB);
        assert!(base.read_vec(0, 3 << 20).await.expect("read") == wanted);
        for child in [top, base] {
            bench.graph.detach(&child).await.expect("closed");
        }
    });
}
