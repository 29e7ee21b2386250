//! Broken disk images in memory, such as a good one with patches: opened, read, written and checked.

use std::any::Any;
use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use block::create::CreateRequest;
use block::image::FixMode;
use block::{
    Child, Defaults, Driver, DriverKind, DriverType, Error, Graph, IoFuture, NewBitmap, NodeConfig, OpenFlags,
    OpenRequest, Options, Permissions, Preallocation, Registry, WriteFlags,
};
use iobuf::IoBuf;

thread_local! {
    static IMAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Longer files are refused.
const MAX: u64 = 32 << 20;

struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn with<R>(&self, visit: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        visit(&mut self.0.lock().expect("nobody panics with the lock"))
    }
}

impl Driver for Memory {
    fn len(&self) -> u64 {
        self.with(|data| data.len() as u64)
    }
    fn children(&self) -> Vec<Arc<Child>> {
        Vec::new()
    }
    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.with(|data| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(buf.len()).min(data.len());
            buf.fill(0, buf.len(), 0);
            buf.write_at(0, &data[start..end]);
        });
        block::done(())
    }
    fn write(&self, offset: u64, buf: IoBuf, _flags: WriteFlags) -> IoFuture<'_> {
        let end = offset.saturating_add(buf.len() as u64);
        if end > MAX {
            return block::fail(Error::no_space("The disk is full"));
        }
        self.with(|data| {
            let (start, end) = (offset as usize, end as usize);
            let len = data.len().max(end);
            data.resize(len, 0);
            buf.read_at(0, &mut data[start..end]);
        });
        block::done(())
    }
    fn truncate(&self, len: u64, _exact: bool, _preallocation: Preallocation) -> IoFuture<'_> {
        if len > MAX {
            return block::fail(Error::no_space("The disk is full"));
        }
        self.with(|data| data.resize(len as usize, 0));
        block::done(())
    }
    fn close(&self) -> IoFuture<'_> {
        IMAGE.set(self.with(|data| data.clone()));
        block::done(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct MemoryType;

impl DriverType for MemoryType {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }
    fn open(&self, _request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        block::done(Arc::new(Memory(Mutex::new(IMAGE.with_borrow(Clone::clone)))) as Arc<dyn Driver>)
    }
}

fn graph() -> Arc<Graph> {
    let mut drivers = block_formats::drivers();
    drivers.extend(block_qcow2::drivers());
    drivers.push(&MemoryType);
    Graph::new(Registry::new(drivers))
}

/// A good image of a format with some data in it.
pub fn template(format: &str, size: u64, options: &[(&str, &str)]) -> Vec<u8> {
    IMAGE.set(Vec::new());
    let graph = graph();
    aio::block_on(async {
        let node = graph.open(Options::new().with("driver", "memory"), Defaults::default()).await.expect("opens");
        let used = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
        let child = graph.attach_root(&node, "creation", used, Permissions::ALL).expect("attaches");
        let request = CreateRequest {
            graph: Arc::clone(&graph),
            file: Some(Arc::clone(&child)),
            filename: "image".to_owned(),
            size,
            options: options.iter().fold(Options::new(), |options, (name, value)| options.with(name, *value)),
            data_file: None,
        };
        graph.registry().find(format).expect("a format").create(request).await.expect("creates");
        graph.detach(&child).await.expect("closes");
    });
    let (graph, child) = open(format, false, false).expect("opens");
    aio::block_on(child.write_bytes(0, &[7; 5000])).expect("writes");
    aio::block_on(graph.detach(&child)).expect("closes");
    IMAGE.take()
}

/// Applies patches: offset (3 bytes), length (1 byte, below 32), bytes; a length of 255 cuts the file off there.
pub fn patch(template: &[u8], mut patches: &[u8]) -> Vec<u8> {
    let mut image = template.to_vec();
    while let [a, b, c, len, rest @ ..] = patches {
        let at = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        if *len == 255 {
            image.truncate(at);
            patches = rest;
            continue;
        }
        let len = usize::from(*len % 32).min(rest.len());
        if let Some(target) = image.get_mut(at..at + len) {
            target.copy_from_slice(&rest[..len]);
        }
        patches = &rest[len..];
    }
    image
}

/// Applies patches near `places`: which (1 byte), offset from there (1 byte), length (1 byte, below 32), bytes.
pub fn patch_at(template: &[u8], places: &[u64], mut patches: &[u8]) -> Vec<u8> {
    let mut image = template.to_vec();
    while let [which, offset, len, rest @ ..] = patches {
        let at = places.get(usize::from(*which) % places.len().max(1)).copied().unwrap_or(0) as usize;
        let at = at + usize::from(*offset);
        let len = usize::from(*len % 32).min(rest.len());
        if let Some(target) = image.get_mut(at..at + len) {
            target.copy_from_slice(&rest[..len]);
        }
        patches = &rest[len..];
    }
    image
}

/// A good qcow2 image that stores bitmaps, and where they are in it: the header, its extensions, the directory, tables
/// and bits.
pub fn bitmap_template(size: u64, options: &[(&str, &str)]) -> (Vec<u8>, Vec<u64>) {
    IMAGE.set(template("qcow2", size, options));
    let (graph, child) = open("qcow2", false, false).expect("opens");
    let node = child.node();
    for (name, granularity) in [("fine", 512), ("coarse", 65536), ("off", 4096)] {
        let new = NewBitmap { granularity: Some(granularity), persistent: true, disabled: name == "off" };
        node.add_bitmap(name, new).expect("fits");
    }
    aio::block_on(child.write_bytes(70_000, &[9; 100_000])).expect("writes");
    aio::block_on(graph.detach(&child)).expect("closes");
    let image = IMAGE.take();
    let number = |at: usize| image[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    // The extension of bitmaps is looked for by its magic number; its last member is where the directory is.
    let magic = image.windows(4).position(|bytes| bytes == [0x23, 0x85, 0x28, 0x75]).expect("an extension");
    let directory = number(magic + 24);
    let mut places = vec![72, magic as u64, directory, directory + 16];
    let mut at = directory as usize;
    for _ in 0..3 {
        let table = number(at);
        places.extend([at as u64, table, number(table as usize) & !511]);
        at += (24 + usize::from(image[at + 19])).next_multiple_of(8);
    }
    (image, places)
}

/// Opens an image that stores bitmaps in all ways and uses them.
pub fn exercise_bitmaps(image: Vec<u8>) {
    for read_only in [true, false] {
        IMAGE.set(image.clone());
        let Some((graph, child)) = open("qcow2", read_only, false) else { continue };
        let node = child.node();
        let _ = node.driver().details();
        let len = child.len();
        let _ = aio::block_on(child.write_bytes(0, &[1; 600]));
        let known = node.bitmaps().list();
        for bitmap in &known {
            let _ = (bitmap.dirty_bytes(), bitmap.next_dirty(0, len, u64::MAX), bitmap.next_clean(0, len));
            let _ = bitmap.clear();
            for other in &known {
                let _ = bitmap.merge(other);
            }
        }
        let new = NewBitmap { persistent: true, ..NewBitmap::default() };
        let _ = node.add_bitmap("new", new);
        let _ = aio::block_on(node.remove_bitmap("fine"));
        let _ = aio::block_on(node.truncate(len / 2 & !511, true, Preallocation::Off));
        let _ = aio::block_on(child.write_bytes(0, &[1; 600]));
        let _ = aio::block_on(graph.detach(&child));
        // What was stored is read again.
        if let Some((graph, child)) = open("qcow2", true, false) {
            let _ = aio::block_on(child.node().driver().check(FixMode::default()));
            let _ = aio::block_on(graph.detach(&child));
        }
    }
    IMAGE.set(image);
    if let Some((graph, child)) = open("qcow2", false, true) {
        let _ = aio::block_on(child.node().driver().check(FixMode { leaks: true, errors: true }));
        let _ = aio::block_on(graph.detach(&child));
    }
}

fn open(format: &str, read_only: bool, check: bool) -> Option<(Arc<Graph>, Arc<Child>)> {
    let graph = graph();
    let options = Options::new().with("driver", format).with("file.driver", "memory");
    let flags = OpenFlags { no_backing: true, check, ..OpenFlags::default() };
    let config = NodeConfig { read_only, discard: true, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, flags))).ok()?;
    let used = if read_only { Permissions::CONSISTENT_READ } else { Permissions::CONSISTENT_READ | Permissions::WRITE };
    let child = graph.attach_root(&node, "fuzz", used, Permissions::ALL).ok()?;
    Some((graph, child))
}

/// Opens an image in all ways and uses it.
pub fn exercise(format: &str, image: Vec<u8>) {
    IMAGE.set(image.clone());
    if let Some((graph, child)) = open(format, true, false) {
        let len = child.len();
        for at in [0, len / 2, len.saturating_sub(4096)] {
            let n = len.saturating_sub(at).min(100_000) as usize;
            let _ = aio::block_on(child.read_vec(at, n));
            let _ = aio::block_on(child.block_status(at, n as u64, true));
        }
        let _ = aio::block_on(child.node().driver().check(FixMode::default()));
        let _ = child.node().driver().details();
        let _ = aio::block_on(graph.detach(&child));
    }
    IMAGE.set(image.clone());
    if let Some((graph, child)) = open(format, false, false) {
        let len = child.len();
        if len > 5000 {
            let _ = aio::block_on(child.write_bytes(100, &[1; 4000]));
            let _ = aio::block_on(child.write_bytes(len - 600, &[2; 600]));
            let _ = aio::block_on(child.write_zeroes(0, len.min(1 << 21), block::ZeroFlags::default()));
            let _ = aio::block_on(child.discard(0, 65536));
        }
        let _ = aio::block_on(graph.detach(&child));
    }
    IMAGE.set(image);
    if let Some((graph, child)) = open(format, false, true) {
        let _ = aio::block_on(child.node().driver().check(FixMode { leaks: true, errors: true }));
        let _ = aio::block_on(graph.detach(&child));
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Makes the checksums of a VHDX image's headers right.
pub fn fix_vhdx(image: &mut [u8]) {
    for (start, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
        if let Some(part) = image.get_mut(start..start + len) {
            part[4..8].fill(0);
            let sum = crc32c(part);
            part[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// Makes the checksums of a VHD image's footers and header right.
pub fn fix_vhd(image: &mut [u8]) {
    let end = image.len().saturating_sub(512);
    for (start, len, at) in [(0, 512, 0x40), (end, 512, 0x40), (512, 1024, 0x24)] {
        if let Some(part) = image.get_mut(start..start + len) {
            part[at..at + 4].fill(0);
            let sum: u32 = !part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            part[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        }
    }
}
