//! Images in a directory, opened with all drivers.

use std::sync::Arc;

use block::create::CreateRequest;
use block::{Child, Defaults, Graph, NodeConfig, OpenFlags, Options, Permissions};

/// A temporary directory.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("a plain path").to_owned()
    }
}

/// Opens a node for a test that reads and writes.
pub async fn open(graph: &Arc<Graph>, options: Options) -> Arc<Child> {
    let config = NodeConfig { discard: true, ..NodeConfig::default() };
    let node = graph.open(options, Defaults::new(config, OpenFlags::default())).await.expect("opens");
    let used = Permissions::CONSISTENT_READ | Permissions::WRITE | Permissions::RESIZE;
    graph.attach_root(&node, "test", used, Permissions::ALL).expect("nobody else uses it")
}

/// Creates a qcow2 image.
pub async fn create(graph: &Arc<Graph>, path: &str, size: u64, options: Options) {
    std::fs::File::create(path).expect("a file");
    let file = open(graph, Options::new().with("driver", "file").with("filename", path)).await;
    let request = CreateRequest {
        graph: Arc::clone(graph),
        file: Some(Arc::clone(&file)),
        filename: path.to_owned(),
        size,
        options,
        data_file: None,
    };
    graph.registry().find("qcow2").expect("the driver").create(request).await.expect("created");
    graph.detach(&file).await.expect("closed");
}
