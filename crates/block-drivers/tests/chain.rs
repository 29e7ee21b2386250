//! A disk at the end of 64 overlays costs about what one image costs: QEMU's becomes ten times slower. Counted are the
//! reads that reach the files, not the time (`bench/chain.py` measures that).

mod common;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::{BlockStatus, Child, Graph, OpenRequest, Options, Registry, Role, WriteFlags};
use block_drivers::drivers;
use common::{Dir, create, open};
use iobuf::IoBuf;

/// The reads of each counting node, by name.
static READS: Mutex<Vec<(String, Arc<AtomicU64>)>> = Mutex::new(Vec::new());

/// A filter that counts reads.
struct CountType;

struct Count {
    file: Arc<Child>,
    reads: Arc<AtomicU64>,
}

impl DriverType for CountType {
    fn name(&self) -> &'static str {
        "count"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let file = request.child("file", Role::Filtered).await?;
            request.finish()?;
            let reads = Arc::new(AtomicU64::new(0));
            READS.lock().expect("not poisoned").push((request.node_name.clone(), Arc::clone(&reads)));
            Ok(Arc::new(Count { file, reads }) as Arc<dyn Driver>)
        })
    }
}

impl Driver for Count {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(self.file.read(offset, buf))
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(self.file.write(offset, buf, flags))
    }

    fn block_status(&self, offset: u64, len: u64, precise: bool) -> IoFuture<'_, BlockStatus> {
        Box::pin(self.file.block_status(offset, len, precise))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

const LAYERS: usize = 64;
const SIZE: u64 = 4 << 20;

/// Reads that have reached the file of layer 0 and those of all others.
fn reads() -> (u64, u64) {
    let all = READS.lock().expect("not poisoned");
    let (base, others): (Vec<_>, Vec<_>) = all.iter().partition(|(name, _)| name == "file0");
    let sum = |list: Vec<&(String, Arc<AtomicU64>)>| list.iter().map(|(_, reads)| reads.load(Ordering::Relaxed)).sum();
    (sum(base), sum(others))
}

#[test]
fn reads_through_64_overlays_reach_the_base_and_no_other_file() {
    // A read is polled through all layers. Without optimisation their frames don't fit into a test's stack.
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(read_through_overlays).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn read_through_overlays() {
    static COUNT: CountType = CountType;
    let dir = Dir::new();
    let graph = Graph::new(Registry::new(drivers().into_iter().chain([&COUNT as &dyn DriverType])));
    let mut options = Options::new();
    for layer in 0..=LAYERS {
        let path = dir.path(&format!("{layer}.qcow2"));
        aio::block_on(create(&graph, &path, SIZE, Options::new()));
        let mut upper = Options::new().with("driver", "qcow2").with("node-name", format!("layer{layer}"));
        upper.set("file.driver", "count");
        upper.set("file.node-name", format!("file{layer}"));
        upper.set("file.file.driver", "file");
        upper.set("file.file.filename", path);
        if layer == 0 {
            let base = aio::block_on(open(&graph, upper.clone()));
            aio::block_on(base.write_bytes(0, &vec![7; usize::try_from(SIZE).expect("small")])).expect("writes");
            aio::block_on(graph.detach(&base)).expect("closes");
            READS.lock().expect("not poisoned").clear();
        } else {
            upper.put_below("backing", options);
        }
        options = upper;
    }
    let top = aio::block_on(open(&graph, options));
    let read_all = || {
        for number in 0..SIZE / 4096 {
            // Not in order.
            let offset = number * 37 % (SIZE / 4096) * 4096;
            assert_eq!(aio::block_on(top.read_vec(offset, 4096)).expect("reads"), [7; 4096]);
        }
    };
    read_all();
    let (_, tables) = reads();
    assert!(tables <= 4 * LAYERS as u64, "each layer reads its tables once: {tables}");
    let before = reads();
    read_all();
    let after = reads();
    assert_eq!(after.0 - before.0, SIZE / 4096, "one read of the base for each request");
    assert_eq!(after.1 - before.1, 0, "what the layers lack is known without reading");
    aio::block_on(graph.detach(&top)).expect("closes");
}
