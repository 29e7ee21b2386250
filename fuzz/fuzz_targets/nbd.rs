//! Arbitrary bytes as what a client sends to the NBD server, behind a good handshake or from the first byte on: to an
//! export of memory with bitmaps. Whatever comes back is thrown away.
#![no_main]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use block::{Defaults, Graph, NewBitmap, NodeConfig, OpenFlags, Options, Registry};
use block_export::nbd::{BitmapRef, Export, ExportOptions, Server, ServerOptions};
use libfuzzer_sys::fuzz_target;

struct Served {
    thread: aio::IoThread,
    server: Arc<Server>,
    _graph: Arc<Graph>,
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let thread = aio::IoThread::start("export").expect("a thread");
        let graph = Graph::new(Registry::new(block::builtin_drivers()));
        let options =
            Options::new().with("driver", "null-co").with("size", 1u64 << 20).with("read-zeroes", true);
        let node = aio::block_on(graph.open(options, Defaults::new(NodeConfig::default(), OpenFlags::default())))
            .expect("opens");
        graph.adopt(&node);
        node.add_bitmap("b", NewBitmap::default()).expect("a bitmap").mark(4096, 65536);
        let server = Server::new(ServerOptions { max_connections: 0, ..ServerOptions::default() });
        let options = ExportOptions {
            name: "x".into(),
            description: Some("d".into()),
            writable: true,
            allocation_depth: true,
            bitmaps: vec![BitmapRef::Below("b".into())],
            ..ExportOptions::default()
        };
        let export = Export::new(&graph, &node, options, thread.handle().clone()).expect("an export");
        server.add(&export).expect("the only one");
        Served { thread, server, _graph: graph }
    })
}

/// Client flags, structured replies, all contexts, and the export.
fn handshake() -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    let mut option = |kind: u32, data: &[u8]| {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
    };
    option(8, &[]);
    let mut contexts = b"\0\0\0\x01x\0\0\0\x03".to_vec();
    for name in ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"] {
        contexts.extend((name.len() as u32).to_be_bytes());
        contexts.extend(name.as_bytes());
    }
    option(10, &contexts);
    option(7, b"\0\0\0\x01x\0\0");
    bytes
}

/// Requests from arbitrary bytes: the magic numbers are right, the rest is as it comes.
fn requests(data: &[u8], bytes: &mut Vec<u8>) {
    let mut left = data;
    while let Some((head, rest)) = left.split_first_chunk::<8>() {
        left = rest;
        bytes.extend(0x2560_9513u32.to_be_bytes());
        bytes.extend(u16::from(head[0] & 0x3f).to_be_bytes());
        bytes.extend(u16::from(head[1] % 10).to_be_bytes());
        bytes.extend([head[2]; 8]);
        bytes.extend((u64::from(head[3]) << 12 | u64::from(head[4])).to_be_bytes());
        let len = u32::from(head[5]) << (head[6] % 25);
        bytes.extend(len.to_be_bytes());
        if head[1] % 10 == 1 {
            let n = (len as usize).min(left.len()).min(usize::from(head[7]) * 16);
            bytes.extend(&left[..n]);
            left = &left[n..];
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let served = served();
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let stream = aio::Stream::new(theirs.into()).expect("a stream");
    let client = served.thread.handle().spawn(Arc::clone(&served.server).client(stream));
    let mut bytes = Vec::new();
    match mode % 3 {
        0 => bytes.extend(data),
        1 => {
            bytes.extend(handshake());
            bytes.extend(data);
        }
        _ => {
            bytes.extend(handshake());
            requests(data, &mut bytes);
        }
    }
    ours.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut reader = ours.try_clone().expect("a clone");
    let drain = std::thread::spawn(move || {
        let mut buf = [0; 65536];
        while matches!(reader.read(&mut buf), Ok(n) if n != 0) {}
    });
    // The server may have had enough.
    let _ = ours.write_all(&bytes);
    let _ = ours.shutdown(std::net::Shutdown::Write);
    drain.join().expect("the reader ends");
    drop(ours);
    aio::block_on(client);
    aio::block_on(served.server.wait_unused());
});
