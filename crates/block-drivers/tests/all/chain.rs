//! A disk at the end of 64 overlays costs about what one image costs: QEMU's becomes ten times slower. Counted are the
//! reads that reach the files, not the time (`bench/chain.py` measures that).

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{Dir, create, open};
use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::{
    BlockStatus, Child, Defaults, Graph, NodeConfig, OpenFlags, OpenRequest, Options, Registry, Role, Value, WriteFlags,
};
use block_drivers::drivers;
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

/// Images that each hold one cluster of the disk, on top of one another.
fn tower(dir: &Dir, graph: &Arc<Graph>, images: u64) -> String {
    let size = images * CLUSTER;
    let mut below = None;
    for image in 0..images {
        let path = dir.path(&format!("{image}.img"));
        let mut options = Options::new().with("cluster_size", CLUSTER);
        if let Some(below) = below {
            options.set("backing_file", below);
            options.set("backing_fmt", "qcow2");
        }
        aio::block_on(async {
            create(graph, &path, size, options).await;
            let options = Options::new().with("driver", "qcow2").with("filename", path.as_str());
            let alone = open(graph, options.with("backing", Value::Null)).await;
            let data = vec![byte_of(image); CLUSTER as usize];
            alone.write_bytes(image * CLUSTER, &data).await.expect("writes");
            graph.detach(&alone).await.expect("closes");
        });
        below = Some(path);
    }
    below.expect("at least one")
}

const CLUSTER: u64 = 4096;

/// What an image is filled with.
fn byte_of(image: u64) -> u8 {
    (image % 251) as u8 + 1
}

#[test]
fn chain_of_300_images_is_opened_read_written_and_closed() {
    const IMAGES: u64 = 300;
    let dir = Dir::new();
    let graph = Graph::new(Registry::new(drivers()));
    let path = tower(&dir, &graph, IMAGES);
    aio::block_on(async {
        let top = open(&graph, Options::new().with("driver", "qcow2").with("filename", path)).await;
        let expected: Vec<u8> = (0..IMAGES).flat_map(|image| [byte_of(image); CLUSTER as usize]).collect();
        // Each image has a part of it.
        let all = top.read_vec(0, expected.len()).await.expect("reads");
        assert!(all == expected, "wrong data");
        // The rest of these clusters comes from the first image and from one in the middle.
        for cluster in [0, IMAGES / 2] {
            top.write_bytes(cluster * CLUSTER + 1, &[0xee; 2]).await.expect("writes");
            let byte = byte_of(cluster);
            assert_eq!(top.read_vec(cluster * CLUSTER, 4).await.expect("reads"), [byte, 0xee, 0xee, byte]);
        }
        let node = top.node();
        let _drained = graph.drain(&node).await;
        graph.detach(&top).await.expect("closes");
        assert!(graph.nodes().is_empty(), "{:?}", graph.nodes());
    });
}

#[test]
fn chain_that_leads_back_to_its_image_is_refused() {
    let dir = Dir::new();
    let graph = Graph::new(Registry::new(drivers()));
    let path = dir.path("a.img");
    let options = Options::new().with("backing_file", path.as_str()).with("backing_fmt", "qcow2");
    aio::block_on(create(&graph, &path, CLUSTER, options));
    let options = Options::new().with("driver", "qcow2").with("filename", path.as_str());
    // Writable, the image would be locked against itself.
    let config = NodeConfig { read_only: true, ..NodeConfig::default() };
    let opened = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())));
    let error = opened.expect_err("there is no end of it").to_string();
    assert!(error.contains("lead back"), "{error}");
    assert!(graph.nodes().is_empty(), "{:?}", graph.nodes());
}
