//! A raw node over a host file: the generic request path.

use std::sync::Arc;

use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Registry, WriteFlags, ZeroFlags};
use iobuf::IoBuf;

fn open(options: Options) -> block::Result<(Arc<Graph>, Arc<Child>)> {
    let graph = Graph::new(Registry::new(block::builtin_drivers()));
    let config = NodeConfig { discard: true, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, OpenFlags::default())))?;
    let child =
        graph.attach_root(&node, "test", Permissions::CONSISTENT_READ | Permissions::WRITE, Permissions::ALL)?;
    Ok((graph, child))
}

fn image(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(len).expect("its size");
    file
}

fn name(file: &tempfile::NamedTempFile) -> String {
    file.path().to_str().expect("a plain path").to_owned()
}

#[test]
fn bytes_written_at_odd_offsets_are_read_back() {
    let file = image(1 << 20);
    let (graph, child) = open(Options::new().with("filename", name(&file))).expect("opens");
    assert_eq!(child.node().driver_type().name(), "raw");
    aio::block_on(async {
        child.write(1000, IoBuf::copy_of(b"hello"), WriteFlags::default()).await.expect("writes");
        assert_eq!(child.read_vec(998, 9).await.expect("reads"), b"\0\0hello\0\0");
        child.write_zeroes(1001, 3, ZeroFlags { may_unmap: true, ..ZeroFlags::default() }).await.expect("zeroes");
        assert_eq!(child.read_vec(1000, 5).await.expect("reads"), b"h\0\0\0o");
        child.discard(0, 1 << 20).await.expect("discards");
        let status = child.block_status(0, 1 << 20, true).await.expect("status");
        assert!(status.zero && status.len == 1 << 20, "{status:?}");
        child.flush().await.expect("flushes");
        graph.detach(&child).await.expect("closes");
    });
    assert!(graph.nodes().is_empty());
}

#[test]
fn a_raw_window_keeps_to_its_bounds() {
    let file = image(8192);
    let options = Options::new().with("driver", "raw").with("offset", "1k").with("size", 2048u64);
    let (_graph, child) = open(options.with("file.driver", "file").with("file.filename", name(&file))).expect("opens");
    assert_eq!(child.len(), 2048);
    let error = aio::block_on(child.write(2000, IoBuf::zeroed(100), WriteFlags::default())).expect_err("no room");
    assert!(error.is_no_space(), "{error}");
}

#[test]
fn unknown_options_and_drivers_are_refused_by_name() {
    let file = image(512);
    let base = Options::new().with("filename", name(&file));
    let error = open(base.clone().with("driver", "raw").with("colour", "red")).map(|_| ()).expect_err("unknown option");
    assert_eq!(error.to_string(), "Block format 'raw' does not support the option 'colour'");
    let error = open(base.with("driver", "nope")).map(|_| ()).expect_err("unknown driver");
    assert_eq!(error.to_string(), "Unknown driver 'nope'");
    let error = open(Options::new().with("filename", "/nonexistent/x")).map(|_| ()).expect_err("no file");
    assert_eq!(error.to_string(), "Could not open '/nonexistent/x': No such file or directory");
}

#[test]
fn two_users_that_exclude_each_other_are_told_so() {
    let file = image(512);
    let (graph, child) = open(Options::new().with("filename", name(&file)).with("node-name", "disk")).expect("opens");
    let error = graph
        .attach_root(&child.node(), "block device 'b'", Permissions::CONSISTENT_READ, Permissions::CONSISTENT_READ)
        .expect_err("the first one writes");
    assert_eq!(
        error.to_string(),
        "Permission conflict on node 'disk': permissions 'write' are both required by test (uses node 'disk' as 'root' \
         child) and unshared by block device 'b' (uses node 'disk' as 'root' child)."
    );
}
