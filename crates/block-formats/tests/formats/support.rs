//! Opening images in a graph, patterns, and the peers.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use block::create::CreateRequest;
use block::image::{CheckResult, FixMode};
use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions, Registry, WriteFlags};
use iobuf::IoBuf;

/// Whether the peers are there; says so if not.
pub fn have_peers() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: there is no qemu-img");
    }
    there
}

/// Runs a peer; its output, or a panic with everything that it said.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the peer starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} failed:\n{text}\n{errors}");
    assert!(!text.contains("Pattern verification failed"), "{program} {args:?}:\n{text}\n{errors}");
    text
}

pub fn graph() -> Arc<Graph> {
    Graph::new(Registry::new(block::builtin_drivers().into_iter().chain(block_formats::drivers())))
}

pub fn path(name: &Path) -> String {
    name.to_str().expect("a plain path").to_owned()
}

/// An open image.
pub struct Image {
    pub graph: Arc<Graph>,
    pub child: Arc<Child>,
}

pub fn try_open(format: &str, file: &Path, read_only: bool) -> block::Result<Image> {
    try_open_with(Options::new().with("driver", format).with("filename", path(file)), read_only, OpenFlags::default())
}

pub fn try_open_with(options: Options, read_only: bool, flags: OpenFlags) -> block::Result<Image> {
    let graph = graph();
    let config = NodeConfig { discard: true, read_only, ..NodeConfig::default() };
    let node = aio::block_on(graph.open(options, Defaults::new(config, flags)))?;
    let used = if read_only { Permissions::CONSISTENT_READ } else { Permissions::CONSISTENT_READ | Permissions::WRITE };
    let child = graph.attach_root(&node, "test", used, Permissions::ALL)?;
    Ok(Image { graph, child })
}

pub fn open(format: &str, file: &Path) -> Image {
    try_open(format, file, false).expect("opens")
}

impl Image {
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        aio::block_on(self.child.write(offset, IoBuf::copy_of(bytes), WriteFlags::default())).expect("writes");
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        aio::block_on(self.child.read_vec(offset, len)).expect("reads")
    }

    pub fn check(&self, fix: FixMode) -> CheckResult {
        aio::block_on(self.child.node().driver().check(fix)).expect("checks")
    }

    pub fn close(self) {
        aio::block_on(async {
            self.child.flush().await.expect("flushes");
            self.graph.detach(&self.child).await.expect("closes");
        });
    }

    /// The whole disk, which must be small.
    pub fn contents(&self) -> Vec<u8> {
        self.read(0, usize::try_from(self.child.len()).expect("small"))
    }
}

/// Creates an image as `qemu-img create -f format -o options` does.
pub fn create(format: &str, file: &Path, size: u64, options: &[(&str, &str)]) -> block::Result<()> {
    std::fs::write(file, b"").expect("an empty file");
    let graph = graph();
    aio::block_on(async {
        let opened = Options::new().with("driver", "file").with("filename", path(file));
        let node = graph.open(opened, Defaults::default()).await?;
        let used = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
        let child = graph.attach_root(&node, "image creation", used, Permissions::ALL)?;
        let driver = graph.registry().find(format).expect("a known format");
        let options = options.iter().fold(Options::new(), |options, (name, value)| options.with(name, *value));
        let request = CreateRequest {
            graph: Arc::clone(&graph),
            file: Some(Arc::clone(&child)),
            filename: path(file),
            size,
            options,
            data_file: None,
        };
        let result = driver.create(request).await;
        child.flush().await?;
        graph.detach(&child).await?;
        result
    })
}

/// A small random number generator (xorshift), so that failures repeat.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
