//! The commit without a job, which the human monitor has: what an image holds goes into its backing while everybody who
//! uses it is held. Then the image is empty, and stays in use.
//!
//! Only the first step and the last one change the graph. The copy between them takes as long as it takes; clients can't
//! do anything with the two images meanwhile, as with those of a job.

use std::sync::Arc;

use block::gate::Gate;
use block::graph::Drained;
use block::node::Blocker;
use block::rewire::Above;
use block::{Child, Error, Graph, Node, Permissions, Result};
use block_tools::commit::commit;
use block_tools::progress::Silent;

use crate::edges;
use crate::mirror_top::{COMMIT_TOP, CommitTop};

/// Who the edges are said to belong to.
const HOLDER: &str = "commit";
/// Why clients can't use the images.
const REASON: &str = "block device is in use by block job: commit";
/// The number of the error "Device or resource busy".
const EBUSY: i32 = 16;

/// A commit of an image to its backing.
pub struct CommitAtOnce {
    graph: Arc<Graph>,
    base: Arc<Node>,
    /// The base may be written while it is a backing: who is above does not see it.
    filter: Arc<Node>,
    source: Arc<Child>,
    target: Arc<Child>,
    gate: Arc<Gate>,
    restore_read_only: bool,
    _held: (Drained, [Blocker; 3]),
}

impl CommitAtOnce {
    /// Prepares it. Nobody else may change the graph meanwhile. The users of `image` are held by `drained`.
    ///
    /// # Errors
    /// There is no backing, a job uses one of the two, or the base can't be written. Then nothing has changed.
    pub async fn begin(graph: &Arc<Graph>, image: &Arc<Node>, drained: Drained) -> Result<Self> {
        let Some(base) = image.backing().map(|child| child.node()) else {
            return Err(Error::unsupported("The image has no backing"));
        };
        if image.blocked_by().is_some() || base.blocked_by().is_some() {
            return Err(Error::errno_only(EBUSY));
        }
        let restore_read_only = base.is_read_only();
        if restore_read_only {
            graph.make_writable(&base).await?;
        }
        let begun = insert(graph, image, &base).await;
        if begun.is_err() && restore_read_only {
            graph.make_read_only(&base).await?;
        }
        let (filter, gate, [source, target]) = begun?;
        let held = (drained, [image, &filter, &base].map(|node| node.block_operations(REASON)));
        Ok(Self { graph: Arc::clone(graph), base, filter, source, target, gate, restore_read_only, _held: held })
    }

    /// Copies, and empties the image.
    ///
    /// # Errors
    /// The error of a request.
    pub async fn copy(&self) -> Result<()> {
        // The base has it all before the image lets go of it.
        commit(std::slice::from_ref(&self.source), &self.target, &self.gate, None, &Silent).await?;
        let image = self.source.node();
        let _inside = self.gate.enter().await;
        match image.driver().make_empty().await {
            Err(error) if !error.is_unsupported() => Err(error),
            _ => image.flush().await,
        }
    }

    /// Leaves the chain as it was. Nobody else may change the graph meanwhile.
    ///
    /// # Errors
    /// What the last writes give.
    pub async fn end(self) -> Result<()> {
        let removed = remove(&self.graph, &self.filter, &self.base, &[self.source, self.target]).await;
        let restored = if self.restore_read_only { self.graph.make_read_only(&self.base).await } else { Ok(()) };
        removed.and(restored)
    }
}

type Inserted = (Arc<Node>, Arc<Gate>, [Arc<Child>; 2]);

async fn insert(graph: &Graph, image: &Arc<Node>, base: &Arc<Node>) -> Result<Inserted> {
    use Permissions as P;
    let above = Above { name: None, driver_type: COMMIT_TOP, edge: "backing", others: &[] };
    let filter = graph.insert_above(base, &above, |mut edges| Arc::new(CommitTop { file: edges.remove(0) }))?;
    let gate = Arc::new(Gate::new());
    let source = match graph.attach_named(image, (HOLDER, "source"), &gate, P::CONSISTENT_READ, P::ALL) {
        Ok(source) => source,
        Err(error) => return remove(graph, &filter, base, &[]).await.and(Err(error)),
    };
    let used = if base.len() < image.len() { P::WRITE | P::RESIZE } else { P::WRITE };
    match graph.attach_named(base, (HOLDER, "base"), &gate, used, P::ALL) {
        Ok(target) => Ok((filter, gate, [source, target])),
        Err(error) => remove(graph, &filter, base, &[source]).await.and(Err(error)),
    }
}

async fn remove(graph: &Graph, filter: &Arc<Node>, base: &Arc<Node>, edges: &[Arc<Child>]) -> Result<()> {
    let freed = edges::give_up_claims(graph, edges);
    let dissolved = graph.dissolve(filter, base).await;
    freed.and(dissolved).and(edges::detach(graph, edges).await)
}
