//! The filter `throttle`: requests wait for their throttle group. Option: `throttle-group`, the id of an object.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use block::driver::{Driver, DriverKind, DriverType, IoFuture};
use block::gate::Gate;
use block::throttle::Group;
use block::{
    BlockStatus, Child, Error, Graph, Limits, OpenRequest, Options, Preallocation, Result, Role, WriteFlags, ZeroFlags,
};
use iobuf::IoBuf;

/// The driver `throttle`.
pub struct ThrottleType;

/// A node that throttles.
pub struct Throttle {
    file: Arc<Child>,
    graph: Arc<Graph>,
    group: Mutex<Arc<Group>>,
    /// Never closed: inside of the graph requests wait for no drain, and throttled ones end by themselves.
    gate: Arc<Gate>,
}

fn find_group(graph: &Graph, options: &mut Options) -> Result<Arc<Group>> {
    let name = options.take_str("throttle-group")?.ok_or_else(|| Error::invalid("Please specify a throttle group"))?;
    graph.object::<Group>(&name).ok_or_else(|| Error::invalid(format!("Throttle group '{name}' does not exist")))
}

impl DriverType for ThrottleType {
    fn name(&self) -> &'static str {
        "throttle"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    fn mutable_options(&self) -> &'static [&'static str] {
        &["throttle-group"]
    }

    fn open(&self, mut request: OpenRequest) -> IoFuture<'static, Arc<dyn Driver>> {
        Box::pin(async move {
            let group = find_group(&request.graph, &mut request.options)?;
            let file = request.child("file", Role::Filtered).await?;
            request.finish()?;
            let graph = Arc::clone(&request.graph);
            Ok(Arc::new(Throttle { file, graph, group: Mutex::new(group), gate: Arc::new(Gate::new()) })
                as Arc<dyn Driver>)
        })
    }
}

impl Throttle {
    /// The group that the node belongs to.
    pub fn group(&self) -> Arc<Group> {
        Arc::clone(&self.group.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn admit(&self, bytes: u64, is_write: bool) {
        self.group().admit(bytes, is_write, &self.gate).await;
    }
}

impl Driver for Throttle {
    fn limiting_gate(&self) -> Option<&Arc<Gate>> {
        Some(&self.gate)
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn limits(&self) -> Limits {
        self.file.node().driver().limits()
    }

    fn children(&self) -> Vec<Arc<Child>> {
        vec![Arc::clone(&self.file)]
    }

    fn read(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        Box::pin(async move {
            self.admit(buf.len() as u64, false).await;
            self.file.read(offset, buf).await
        })
    }

    fn write(&self, offset: u64, buf: IoBuf, flags: WriteFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.admit(buf.len() as u64, true).await;
            self.file.write(offset, buf, flags).await
        })
    }

    fn supports_fua(&self) -> bool {
        true
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<'_> {
        Box::pin(async move {
            self.admit(len, true).await;
            self.file.write_zeroes(offset, len, flags).await
        })
    }

    fn write_compressed(&self, offset: u64, buf: IoBuf) -> IoFuture<'_> {
        self.write(offset, buf, WriteFlags { compressed: true, ..WriteFlags::default() })
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<'_> {
        Box::pin(async move {
            self.admit(len, true).await;
            self.file.discard(offset, len).await
        })
    }

    fn truncate(&self, len: u64, exact: bool, preallocation: Preallocation) -> IoFuture<'_> {
        Box::pin(async move { self.file.truncate(len, exact, preallocation).await })
    }

    fn block_status(&self, offset: u64, len: u64, _precise: bool) -> IoFuture<'_, BlockStatus> {
        crate::pass_status(offset, len)
    }

    fn strong_options(&self) -> Options {
        Options::new().with("throttle-group", self.group().name())
    }

    fn reopen(&self, mut options: Options, _read_only: bool) -> IoFuture<'_> {
        Box::pin(async move {
            let group = find_group(&self.graph, &mut options)?;
            *self.group.lock().unwrap_or_else(PoisonError::into_inner) = group;
            Ok(())
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
