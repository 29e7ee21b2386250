//! A mirror that writes what the guest writes to both sides.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock};

use block::driver::{Driver, DriverKind, DriverType};
use block::graph::Registry;
use block::{Child, Defaults, Graph, IoFuture, NodeConfig, OpenFlags, OpenRequest, Options, WriteFlags, done};
use block_jobs::{Common, Event, Info, Jobs, Kind, Observer, OnError, mirror};
use iobuf::IoBuf;

/// Bytes of the disks.
const SIZE: usize = 4 << 20;

struct Silent;

impl Observer for Silent {
    fn event(&self, _job: &Info, _event: Event) {}
}

/// A disk in memory. With each write that it gets the guest changes its buffer.
#[derive(Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    guest: Arc<OnceLock<IoBuf>>,
}

struct DiskType(&'static str, Disk);

impl DriverType for DiskType {
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

impl Driver for Disk {
    fn len(&self) -> u64 {
        SIZE as u64
    }

    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        let at = usize::try_from(offset).expect("an offset");
        buf.write_at(0, &self.bytes.lock().expect("the bytes")[at..at + buf.len()]);
        done(())
    }

    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        let at = usize::try_from(offset).expect("an offset");
        buf.read_at(0, &mut self.bytes.lock().expect("the bytes")[at..at + buf.len()]);
        if let Some(guest) = self.guest.get() {
            guest.fill(0, guest.len(), 0xee);
        }
        done(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn write_whose_buffer_the_guest_changes_meanwhile_is_the_same_on_both_sides() {
    let disks = [Disk::default(), Disk::default()];
    for disk in &disks {
        *disk.bytes.lock().expect("the bytes") = vec![0; SIZE];
    }
    let types = ["source", "target"].iter().zip(&disks);
    let types =
        types.map(|(name, disk)| &*Box::leak(Box::new(DiskType(name, disk.clone()))) as &'static dyn DriverType);
    let graph = Graph::new(Registry::new(types.collect::<Vec<_>>()));
    let open = |driver: &str| {
        let options = Options::new().with("driver", driver).with("node-name", driver);
        aio::block_on(graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default()))).expect("a disk")
    };
    let jobs = Jobs::new(Arc::new(Silent), || {});
    let options = mirror::Options {
        common: Common { id: "job".to_owned(), speed: 0, auto_finalize: true, auto_dismiss: true },
        kind: Kind::Mirror,
        source: open("source"),
        target: open("target"),
        replaces: None,
        sync: mirror::Sync::None,
        backing: mirror::Backing::Leave,
        target_is_zero: false,
        write_blocking: true,
        unmap: false,
        granularity: 0,
        buf_size: 0,
        on_source_error: OnError::Report,
        on_target_error: OnError::Report,
        filter_node_name: Some("filter".to_owned()),
    };
    let _job = mirror::create(&graph, &jobs, &options).expect("a mirror");
    let buffer = IoBuf::copy_of(&[0x11; 4096]);
    disks[0].guest.get_or_init(|| buffer.clone());
    let filter = graph.find("filter").expect("the filter");

    aio::block_on(filter.write(8192, buffer.clone(), WriteFlags::default())).expect("a write");

    assert_eq!(buffer.to_vec(), [0xee; 4096], "the guest has changed it");
    for disk in &disks {
        assert_eq!(disk.bytes.lock().expect("the bytes")[8192..12288], [0x11; 4096]);
    }
}
