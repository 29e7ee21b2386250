//! The commit without a job, which the human monitor has: what an image holds goes into its backing while everybody who
//! uses it is held. Then the image is empty, and stays in use.

use std::sync::Arc;

use block::gate::Gate;
use block::rewire::Above;
use block::{Child, Error, Graph, Node, Permissions, Preallocation, Result, WriteFlags, ZeroFlags};
use block_tools::status;
use iobuf::IoBuf;

use crate::edges;
use crate::mirror_top::{COMMIT_TOP, CommitTop};

/// Who the edges are said to belong to.
const HOLDER: &str = "commit";
/// The number of the error "Device or resource busy".
const EBUSY: i32 = 16;
/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;

/// Commits `image` to its backing and empties it. Nobody else may change the graph meanwhile.
///
/// # Errors
/// There is no backing, a job uses one of the two, or the error of a request. The chain is as it was in any case.
pub async fn commit_at_once(graph: &Arc<Graph>, image: &Arc<Node>) -> Result<()> {
    let Some(base) = image.backing().map(|child| child.node()) else {
        return Err(Error::unsupported("The image has no backing"));
    };
    if image.blocked_by().is_some() || base.blocked_by().is_some() {
        return Err(Error::errno_only(EBUSY));
    }
    let _drained = graph.drain(image).await;
    let restore_read_only = base.is_read_only();
    if restore_read_only {
        graph.make_writable(&base).await?;
    }
    let committed = with_filter(graph, image, &base).await;
    let restored = if restore_read_only { graph.make_read_only(&base).await } else { Ok(()) };
    committed.and(restored)
}

/// The base may be written while it is a backing: who is above does not see it.
async fn with_filter(graph: &Arc<Graph>, image: &Arc<Node>, base: &Arc<Node>) -> Result<()> {
    let above = Above { name: None, driver_type: COMMIT_TOP, edge: "backing", others: &[] };
    let filter = graph.insert_above(base, &above, |mut edges| Arc::new(CommitTop { file: edges.remove(0) }))?;
    let mut edges = Vec::new();
    let committed = match attach(graph, image, base, &mut edges) {
        Ok((source, target)) => copy(&source, &target).await,
        Err(error) => Err(error),
    };
    let freed = edges::give_up_claims(graph, &edges);
    let dissolved = graph.dissolve(&filter, base).await;
    let detached = edges::detach(graph, &edges).await;
    committed.and(freed).and(dissolved).and(detached)
}

fn attach(
    graph: &Graph,
    image: &Arc<Node>,
    base: &Arc<Node>,
    edges: &mut Vec<Arc<Child>>,
) -> Result<(Arc<Child>, Arc<Child>)> {
    use Permissions as P;
    let gate = Arc::new(Gate::new());
    let source = graph.attach_named(image, (HOLDER, "source"), &gate, P::CONSISTENT_READ, P::ALL)?;
    edges.push(Arc::clone(&source));
    let used = if base.len() < image.len() { P::WRITE | P::RESIZE } else { P::WRITE };
    let target = graph.attach_named(base, (HOLDER, "base"), &gate, used, P::ALL)?;
    edges.push(Arc::clone(&target));
    Ok((source, target))
}

async fn copy(source: &Arc<Child>, target: &Arc<Child>) -> Result<()> {
    let (image, len) = (source.node(), source.len());
    if target.len() < len {
        target.truncate(len, false, Preallocation::Off).await?;
    }
    let mut offset = 0;
    while offset < len {
        let extent = status::of_node(&image, offset, len - offset).await?;
        let mut n = extent.len.clamp(1, len - offset);
        if extent.allocated && extent.zero {
            let flags = ZeroFlags { may_unmap: true, ..ZeroFlags::default() };
            target.write_zeroes(offset, n, flags).await?;
        } else if extent.allocated {
            n = n.min(CHUNK);
            let buf = IoBuf::zeroed(usize::try_from(n).unwrap_or(0));
            source.read(offset, buf.clone()).await?;
            target.write(offset, buf, WriteFlags::default()).await?;
        }
        offset += n;
    }
    // The base has it all before the image lets go of it.
    target.flush().await?;
    match image.driver().make_empty().await {
        Err(error) if !error.is_unsupported() => Err(error),
        _ => image.flush().await,
    }
}
