//! What tests of jobs need: disks that the test itself is the driver of, and jobs on them.

#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;

use block::driver::{Driver, DriverKind, DriverType};
use block::graph::Registry;
use block::{Defaults, Graph, IoFuture, Node, NodeConfig, OpenFlags, OpenRequest, Options};
use block_jobs::{Common, Event, Info, Jobs, Kind, Observer, OnError, mirror};

struct Silent;

impl Observer for Silent {
    fn event(&self, _job: &Info, _event: Event) {}
}

/// Jobs that nobody hears of.
pub fn jobs() -> Jobs {
    Jobs::new(Arc::new(Silent), || {})
}

/// What every job has: it ends by itself.
pub fn common() -> Common {
    Common { id: "job".to_owned(), speed: 0, auto_finalize: true, auto_dismiss: true }
}

/// A mirror of everything; its filter is called `filter`.
pub fn mirror(source: Arc<Node>, target: Arc<Node>) -> mirror::Options {
    mirror::Options {
        common: common(),
        kind: Kind::Mirror,
        source,
        target,
        replaces: None,
        sync: mirror::Sync::Full,
        bitmap: None,
        backing: mirror::Backing::Leave,
        target_is_zero: false,
        write_blocking: false,
        unmap: false,
        granularity: 0,
        buf_size: 0,
        on_source_error: OnError::Report,
        on_target_error: OnError::Report,
        filter_node_name: Some("filter".to_owned()),
    }
}

struct DiskType<D>(&'static str, D);

impl<D: Driver + Clone> DriverType for DiskType<D> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn open(&self, request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        let disk = self.1.clone();
        Box::pin(async move {
            request.finish()?;
            Ok(Arc::new(disk) as Arc<dyn Driver>)
        })
    }
}

/// A graph of two nodes, `source` and `target`, with these drivers.
pub fn two_disks<D: Driver + Clone>([source, target]: [&D; 2]) -> (Arc<Graph>, [Arc<Node>; 2]) {
    let disks = [("source", source), ("target", target)];
    let types =
        disks.map(|(name, disk)| &*Box::leak(Box::new(DiskType(name, disk.clone()))) as &'static dyn DriverType);
    let graph = Graph::new(Registry::new(types));
    let nodes = disks.map(|(name, _)| {
        let options = Options::new().with("driver", name).with("node-name", name);
        open(&graph, options).expect("a disk")
    });
    (graph, nodes)
}

/// Opens a node as `blockdev-add` does, but for the monitor's hold of it.
pub fn open(graph: &Arc<Graph>, options: Options) -> block::Result<Arc<Node>> {
    aio::block_on(graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())))
}
