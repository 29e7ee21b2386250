//! The edges of a job to the nodes that it uses, on their way out: first their claims go, then the graph changes, then
//! the edges go. So nothing is closed before the job has left.

use std::sync::{Arc, Mutex, PoisonError};

use block::{Child, Graph, Permissions, Result};

/// The edges of a job, until it leaves.
pub(crate) type Edges = Mutex<Vec<Arc<Child>>>;

/// Takes the edges from a job, without their claims.
pub(crate) fn take(graph: &Graph, edges: &Edges) -> Result<Vec<Arc<Child>>> {
    let edges = std::mem::take(&mut *edges.lock().unwrap_or_else(PoisonError::into_inner));
    give_up_claims(graph, &edges)?;
    Ok(edges)
}

/// Lets edges use nothing and stand against nothing.
pub(crate) fn give_up_claims(graph: &Graph, edges: &[Arc<Child>]) -> Result<()> {
    edges.iter().try_for_each(|edge| graph.set_permissions(edge, Permissions::NONE, Permissions::ALL))
}

/// Removes all edges; gives the first error.
pub(crate) async fn detach(graph: &Graph, edges: &[Arc<Child>]) -> Result<()> {
    let mut result = Ok(());
    for edge in edges {
        result = result.and(graph.detach(edge).await);
    }
    result
}
