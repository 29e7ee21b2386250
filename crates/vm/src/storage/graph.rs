//! `x-debug-query-block-graph`: all nodes with their users, as numbers.

use std::collections::HashMap;
use std::sync::Arc;

use block::{Child, Permissions};
use block_jobs::Job;
use qapi::block::common::BlockPermission;
use qapi::block::nodes::{XDbgBlockGraph, XDbgBlockGraphEdge, XDbgBlockGraphNode, XDbgBlockGraphNodeType};

use super::Storage;
use super::info::device_name;

/// What is numbered: the address of a node, or a user outside of the graph.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Node(usize),
    Backend(usize),
    Job(String),
    User(usize),
}

/// The graph while it is written down; the newest comes first, as in QEMU.
#[derive(Default)]
struct Drawing {
    numbers: HashMap<Key, u64>,
    nodes: Vec<XDbgBlockGraphNode>,
    edges: Vec<XDbgBlockGraphEdge>,
}

impl Drawing {
    fn number(&mut self, key: Key) -> u64 {
        let next = self.numbers.len() as u64 + 1;
        *self.numbers.entry(key).or_insert(next)
    }

    fn add(&mut self, key: Key, r#type: XDbgBlockGraphNodeType, name: String) -> u64 {
        let id = self.number(key);
        self.nodes.push(XDbgBlockGraphNode { id, r#type, name });
        id
    }

    fn join(&mut self, parent: u64, edge: &Child) {
        let child = self.number(Key::Node(address(&edge.node())));
        let (used, shared) = edge.permissions();
        let (perm, shared_perm) = (list(used), list(shared));
        self.edges.push(XDbgBlockGraphEdge { parent, child, name: edge.name().to_owned(), perm, shared_perm });
    }
}

fn address<T>(arc: &Arc<T>) -> usize {
    Arc::as_ptr(arc).addr()
}

fn list(permissions: Permissions) -> Vec<BlockPermission> {
    let all = [
        (Permissions::RESIZE, BlockPermission::Resize),
        (Permissions::WRITE_UNCHANGED, BlockPermission::WriteUnchanged),
        (Permissions::WRITE, BlockPermission::Write),
        (Permissions::CONSISTENT_READ, BlockPermission::ConsistentRead),
    ];
    all.into_iter().filter(|(one, _)| permissions.contains(*one)).map(|(_, name)| name).collect()
}

impl Storage {
    /// `x-debug-query-block-graph`.
    pub fn block_graph(&self) -> XDbgBlockGraph {
        use XDbgBlockGraphNodeType as Type;
        let mut drawing = Drawing::default();
        let nodes = self.graph.nodes();
        let mut outside: Vec<Arc<Child>> = Vec::new();
        for node in &nodes {
            outside.extend(node.parents().into_iter().filter(|edge| edge.parent_node().is_none()));
        }
        for backend in self.graph.backends() {
            let name = match backend.name() {
                "" => device_name(&backend).unwrap_or_default(),
                name => name.to_owned(),
            };
            let number = drawing.add(Key::Backend(address(&backend)), Type::BlockBackend, name);
            if let Some(root) = backend.root() {
                outside.retain(|edge| !Arc::ptr_eq(edge, &root));
                drawing.join(number, &root);
            }
        }
        let (mut of_jobs, mut others) = (HashMap::<String, Vec<Arc<Child>>>::new(), Vec::new());
        let holders: HashMap<String, String> =
            self.jobs.list().iter().map(|job| (Job::holder(job.kind(), job.id()), job.id().to_owned())).collect();
        for edge in outside {
            match edge.holder().and_then(|holder| holders.get(holder)) {
                Some(id) => of_jobs.entry(id.clone()).or_default().push(edge),
                None => others.push(edge),
            }
        }
        for edge in others {
            let number = drawing.add(Key::User(address(&edge)), Type::BlockBackend, String::new());
            drawing.join(number, &edge);
        }
        for job in self.jobs.list().iter().filter(|job| job.kind().is_block()) {
            let number = drawing.add(Key::Job(job.id().to_owned()), Type::BlockJob, job.id().to_owned());
            for edge in of_jobs.remove(job.id()).unwrap_or_default() {
                drawing.join(number, &edge);
            }
        }
        for node in &nodes {
            let number = drawing.add(Key::Node(address(node)), Type::BlockDriver, node.name().to_owned());
            for edge in node.children().iter().rev() {
                drawing.join(number, edge);
            }
        }
        drawing.nodes.reverse();
        drawing.edges.reverse();
        XDbgBlockGraph { nodes: drawing.nodes, edges: drawing.edges }
    }
}
