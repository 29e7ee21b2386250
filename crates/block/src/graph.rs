//! The graph: all nodes by name, the drivers that exist, edges and permissions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::backend::Backend;
use crate::child::{Child, Parent, Role};
use crate::driver::{DriverType, IoFuture};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::node::Node;
use crate::permissions::{self, Permissions};

/// The longest node name, bytes.
const MAX_NAME: usize = 31;

/// The kinds of drivers that a program has.
#[derive(Default)]
pub struct Registry(Vec<&'static dyn DriverType>);

impl Registry {
    /// A registry of these.
    pub fn new(drivers: impl IntoIterator<Item = &'static dyn DriverType>) -> Self {
        Self(drivers.into_iter().collect())
    }

    /// The driver of that name.
    pub fn find(&self, name: &str) -> Option<&'static dyn DriverType> {
        self.iter().find(|driver| driver.name() == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'static dyn DriverType> + '_ {
        self.0.iter().copied()
    }
}

/// All nodes of a program, and what they are made of.
pub struct Graph {
    registry: Registry,
    nodes: Mutex<Vec<(String, Weak<Node>)>>,
    /// Nodes that the monitor keeps alive, and back ends, in the order of their creation.
    monitor: Mutex<Vec<Arc<Node>>>,
    backends: Mutex<Vec<Arc<Backend>>>,
    next: AtomicU64,
    environment: Mutex<Environment>,
    /// Held while permissions are changed: nodes are opened on several threads.
    permissions: Mutex<()>,
}

/// What drivers ask of the program around them.
#[derive(Default)]
pub struct Environment {
    secrets: BTreeMap<String, Arc<Vec<u8>>>,
    objects: BTreeMap<String, Arc<dyn std::any::Any + Send + Sync>>,
}

impl Graph {
    /// An empty graph.
    pub fn new(registry: Registry) -> Arc<Self> {
        Arc::new(Self {
            registry,
            nodes: Mutex::default(),
            monitor: Mutex::default(),
            backends: Mutex::default(),
            next: AtomicU64::new(100),
            environment: Mutex::default(),
            permissions: Mutex::default(),
        })
    }

    /// The drivers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn with_nodes<R>(&self, visit: impl FnOnce(&mut Vec<(String, Weak<Node>)>) -> R) -> R {
        visit(&mut self.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_environment<R>(&self, visit: impl FnOnce(&mut Environment) -> R) -> R {
        visit(&mut self.environment.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a secret an id, for options like `encrypt.key-secret`.
    pub fn set_secret(&self, id: &str, secret: Vec<u8>) {
        self.with_environment(|environment| environment.secrets.insert(id.to_owned(), Arc::new(secret)));
    }

    /// Takes a secret back.
    pub fn remove_secret(&self, id: &str) {
        self.with_environment(|environment| environment.secrets.remove(id));
    }

    /// The secret of that id.
    ///
    /// # Errors
    /// If there is none.
    pub fn secret(&self, id: &str) -> Result<Arc<Vec<u8>>> {
        self.with_environment(|environment| environment.secrets.get(id).cloned())
            .ok_or_else(|| Error::invalid(format!("No secret with id '{id}'")))
    }

    /// Makes an object (throttle group, TLS credentials) known to drivers.
    pub fn set_object(&self, id: &str, object: Arc<dyn std::any::Any + Send + Sync>) {
        self.with_environment(|environment| environment.objects.insert(id.to_owned(), object));
    }

    /// Takes an object back.
    pub fn remove_object(&self, id: &str) {
        self.with_environment(|environment| environment.objects.remove(id));
    }

    /// The object of that id and type.
    pub fn object<T: Send + Sync + 'static>(&self, id: &str) -> Option<Arc<T>> {
        self.with_environment(|environment| environment.objects.get(id).cloned())?.downcast().ok()
    }

    pub(crate) fn generate_name(&self) -> String {
        format!("#block{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn check_new_name(&self, name: &str) -> Result<()> {
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
            return Err(Error::invalid(format!("Invalid node-name: '{name}'")));
        }
        if name.len() > MAX_NAME {
            return Err(Error::invalid("Node name too long"));
        }
        if self.lookup(name).is_some() {
            return Err(Error::exists(format!("Duplicate nodes with node-name='{name}'")));
        }
        Ok(())
    }

    pub(crate) fn register(&self, node: &Arc<Node>) -> Result<()> {
        self.with_nodes(|nodes| {
            nodes.retain(|(_, node)| node.strong_count() != 0);
            if nodes.iter().any(|(name, _)| name == node.name()) {
                return Err(Error::exists(format!("Duplicate nodes with node-name='{}'", node.name())));
            }
            nodes.push((node.name().to_owned(), Arc::downgrade(node)));
            Ok(())
        })
    }

    /// The node of that name.
    pub fn lookup(&self, name: &str) -> Option<Arc<Node>> {
        self.with_nodes(|nodes| nodes.iter().filter(|(known, _)| known == name).find_map(|(_, node)| node.upgrade()))
    }

    /// The node of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(&self, name: &str) -> Result<Arc<Node>> {
        self.lookup(name).ok_or_else(|| Error::not_found(format!("Cannot find device='{name}' nor node-name='{name}'")))
    }

    /// All nodes, oldest first.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.with_nodes(|nodes| nodes.iter().filter_map(|(_, node)| node.upgrade()).collect())
    }

    /// Keeps a node alive for the monitor (`blockdev-add`).
    pub fn adopt(&self, node: &Arc<Node>) {
        lock(&self.monitor).push(Arc::clone(node));
    }

    /// Whether the monitor keeps this node alive.
    pub fn is_adopted(&self, node: &Arc<Node>) -> bool {
        lock(&self.monitor).iter().any(|known| Arc::ptr_eq(known, node))
    }

    /// The nodes that the monitor keeps alive, oldest first.
    pub fn adopted(&self) -> Vec<Arc<Node>> {
        lock(&self.monitor).clone()
    }

    /// Gives up the monitor's hold of a node, which is closed.
    ///
    /// # Errors
    /// As [`Graph::give_up`], or if its last writes fail.
    pub async fn release(&self, name: &str) -> Result<()> {
        let node = self.give_up(name)?;
        self.close(&node).await
    }

    /// Gives up the monitor's hold of a node (`blockdev-del`). Nobody finds it by its name any more; whoever has given
    /// it up closes it.
    ///
    /// # Errors
    /// If the monitor does not hold it, or somebody uses it.
    pub fn give_up(&self, name: &str) -> Result<Arc<Node>> {
        let node = self
            .lookup(name)
            .ok_or_else(|| Error::not_found(format!("Failed to find node with node-name='{name}'")))?;
        if !self.is_adopted(&node) {
            return Err(Error::permission(format!("Node {name} is not owned by the monitor")));
        }
        if !node.parents().is_empty() {
            let users = node.parents();
            let text = match users.first().map(|child| (child.name().to_owned(), child.parent_node())) {
                Some((edge, Some(parent))) => {
                    format!("Node '{name}' is busy: node is used as '{edge}' of '{}'", parent.name())
                }
                _ => format!("Block device {name} is in use"),
            };
            return Err(Error::busy(text));
        }
        lock(&self.monitor).retain(|known| !Arc::ptr_eq(known, &node));
        self.with_nodes(|nodes| nodes.retain(|(_, known)| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(&node))));
        Ok(node)
    }

    /// Makes a back end known.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn add_backend(&self, backend: &Arc<Backend>) -> Result<()> {
        if !backend.name().is_empty() && self.backend(backend.name()).is_some() {
            return Err(Error::exists(format!("Device with id '{}' already exists", backend.name())));
        }
        lock(&self.backends).push(Arc::clone(backend));
        Ok(())
    }

    /// Forgets a back end.
    pub fn remove_backend(&self, backend: &Arc<Backend>) {
        lock(&self.backends).retain(|known| !Arc::ptr_eq(known, backend));
    }

    /// The back end of that name.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        lock(&self.backends).iter().find(|backend| !name.is_empty() && backend.name() == name).cloned()
    }

    /// All back ends, oldest first.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        lock(&self.backends).clone()
    }

    /// Closes the gates of everybody who reaches `node` from above and waits until nothing is in flight at `node` and
    /// below. The gates open when the result is dropped.
    pub async fn drain(&self, node: &Arc<Node>) -> Drained {
        let drained = hold_users(std::slice::from_ref(node)).await;
        // Users without a gate wait for their own requests.
        self.wait_idle(node).await;
        drained
    }

    /// As [`Graph::drain`], for several nodes at one point in time.
    pub async fn drain_nodes(&self, nodes: &[Arc<Node>]) -> Drained {
        let drained = hold_users(nodes).await;
        for node in nodes {
            self.wait_idle(node).await;
        }
        drained
    }

    /// Attaches a user outside of the graph. `holder` names it in messages, as `block device 'disk0'`.
    ///
    /// # Errors
    /// If what it uses conflicts with others.
    pub fn attach_root(
        &self,
        node: &Arc<Node>,
        holder: &str,
        used: Permissions,
        shared: Permissions,
    ) -> Result<Arc<Child>> {
        self.attach(node, Parent::Outside(holder.to_owned(), None), used, shared)
    }

    /// As [`Graph::attach_root`], for a user whose requests pass a gate.
    ///
    /// # Errors
    /// If what it uses conflicts with others.
    pub fn attach_user(
        &self,
        node: &Arc<Node>,
        holder: &str,
        gate: &Arc<Gate>,
        used: Permissions,
        shared: Permissions,
    ) -> Result<Arc<Child>> {
        self.attach(node, Parent::Outside(holder.to_owned(), Some(Arc::clone(gate))), used, shared)
    }

    fn attach(&self, node: &Arc<Node>, parent: Parent, used: Permissions, shared: Permissions) -> Result<Arc<Child>> {
        self.attach_edge(Child::new("root", Role::Root, Arc::clone(node), parent), used, shared)
    }

    fn attach_edge(&self, child: Arc<Child>, used: Permissions, shared: Permissions) -> Result<Arc<Child>> {
        match self.set_permissions(&child, used, shared) {
            Ok(()) => Ok(child),
            Err(error) => {
                child.node().remove_parent(&child);
                Err(error)
            }
        }
    }

    /// The permissions of an edge whose parent nobody uses yet.
    pub(crate) fn grant_initial(&self, child: &Arc<Child>, read_only: bool) -> Result<()> {
        let (used, shared) = permissions::of_child(child.role(), read_only, Permissions::NONE, Permissions::ALL);
        let shared = if child.node().config().force_share { Permissions::ALL } else { shared };
        match self.set_permissions(child, used, shared) {
            Ok(()) => Ok(()),
            Err(error) => {
                child.node().remove_parent(child);
                Err(error)
            }
        }
    }

    /// Changes what an edge uses and shares, and what follows for the nodes below; all of it or nothing.
    ///
    /// # Errors
    /// If it conflicts with another user of a node below, in this process or another.
    pub fn set_permissions(&self, child: &Arc<Child>, used: Permissions, shared: Permissions) -> Result<()> {
        let _changing = lock(&self.permissions);
        change_permissions(child, used, shared)
    }

    /// Recomputes a node's edges after one of its parents has gone.
    pub(crate) fn loosen(&self, node: &Arc<Node>, used: Permissions, shared: Permissions) -> Result<()> {
        let _changing = lock(&self.permissions);
        node.driver().set_permissions(used, shared)?;
        for child in node.children() {
            let (used, shared) = permissions::of_edge(node, &child, used, shared);
            change_permissions(&child, used, shared)?;
        }
        Ok(())
    }

    /// Checks the users of `node` against each other, and derives what follows below; all of it or nothing.
    pub(crate) fn refresh(&self, node: &Arc<Node>) -> Result<()> {
        let _changing = lock(&self.permissions);
        let mut undo = Vec::new();
        let result = refresh(node, &mut undo);
        if result.is_err() {
            take_back(undo);
        }
        result
    }

    /// Forgets a node's name.
    pub(crate) fn forget(&self, node: &Arc<Node>) {
        self.with_nodes(|nodes| nodes.retain(|(_, known)| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(node))));
    }

    /// As [`Graph::attach_user`], for an edge with a name of its own (`main node` of a job).
    ///
    /// # Errors
    /// If what it uses conflicts with others.
    pub fn attach_named(
        &self,
        node: &Arc<Node>,
        (holder, name): (&str, &str),
        gate: &Arc<Gate>,
        used: Permissions,
        shared: Permissions,
    ) -> Result<Arc<Child>> {
        let parent = Parent::Outside(holder.to_owned(), Some(Arc::clone(gate)));
        self.attach_edge(Child::new(name, Role::Root, Arc::clone(node), parent), used, shared)
    }

    /// Removes an edge. When it was the last one to its node, the node is closed, and what it used below.
    ///
    /// # Errors
    /// What the last writes of a closing node give. The edge is gone in any case.
    pub fn detach<'a>(&'a self, child: &'a Arc<Child>) -> IoFuture<'a> {
        Box::pin(async move {
            let node = child.node();
            node.remove_parent(child);
            self.close(&node).await
        })
    }

    /// Closes a node that nobody uses, and those below that nobody else uses. A chain may be long: without recursion.
    ///
    /// # Errors
    /// What its last writes give.
    pub fn close<'a>(&'a self, node: &'a Arc<Node>) -> IoFuture<'a> {
        Box::pin(async move {
            let mut result = Ok(());
            let mut todo = vec![Arc::clone(node)];
            while let Some(node) = todo.pop() {
                if !node.parents().is_empty() || self.is_adopted(&node) {
                    let (used, shared) = node.cumulative_permissions();
                    result = result.and(self.loosen(&node, used, shared));
                    continue;
                }
                node.wait_idle().await;
                result = result.and(node.driver().close().await);
                // Somebody may still hold the node, but nobody uses it: locks go now.
                result = result.and(node.driver().set_permissions(Permissions::NONE, Permissions::ALL));
                self.with_nodes(|nodes| nodes.retain(|(_, known)| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(&node))));
                for child in node.children().into_iter().rev() {
                    let below = child.node();
                    below.remove_parent(&child);
                    if !todo.iter().any(|known| Arc::ptr_eq(known, &below)) {
                        todo.push(below);
                    }
                }
                if let Some(slot) = node.backing_slot() {
                    slot.set(None);
                }
            }
            result
        })
    }

    /// Waits until nothing is in flight in the tree below `node`. The gates of its users must be closed.
    pub async fn wait_idle(&self, node: &Arc<Node>) {
        let mut todo = vec![Arc::clone(node)];
        while let Some(node) = todo.pop() {
            node.wait_idle().await;
            todo.extend(node.children().iter().map(|child| child.node()));
        }
    }

    /// Points an edge to another node, under drain. The old node is closed if this was its last edge.
    ///
    /// # Errors
    /// If the permissions of the edge conflict with other users of the new node, or would make a circle; then nothing
    /// has changed.
    pub async fn replace_child(&self, child: &Arc<Child>, node: Arc<Node>) -> Result<()> {
        if child.parent_node().is_some_and(|parent| node.is_or_contains(&parent)) {
            return Err(Error::invalid(format!("Making '{}' a child would create a cycle", node.name())));
        }
        let (used, shared) = child.permissions();
        let old = child.replace(node);
        if let Err(error) = self.set_permissions(child, used, shared) {
            let new = child.replace(old);
            let (used, shared) = new.cumulative_permissions();
            self.loosen(&new, used, shared)?;
            return Err(error);
        }
        if old.parents().is_empty() && !self.is_adopted(&old) {
            return self.close(&old).await;
        }
        let (used, shared) = old.cumulative_permissions();
        self.loosen(&old, used, shared)
    }

    /// Points the edge of a user outside of the graph to another node, under drain. The nodes may be above one another.
    /// The old one is to be closed ([`Graph::close`]), which does nothing if somebody else has it.
    ///
    /// # Errors
    /// If what the user does conflicts with other users of the new node; then nothing has changed.
    pub fn move_root(&self, root: &Arc<Child>, to: &Arc<Node>) -> Result<Arc<Node>> {
        let _changing = lock(&self.permissions);
        let from = root.replace(Arc::clone(to));
        // What the old node did below for this user alone does not stand against it.
        let before = relax(&from);
        let mut undo = Vec::new();
        if let Err(error) = refresh(to, &mut undo) {
            take_back(undo);
            root.replace(from);
            take_back(before);
            tell(to);
            return Err(error);
        }
        tell(&from);
        before.iter().for_each(|(edge, ..)| tell(&edge.node()));
        Ok(from)
    }
}

/// Tells a driver what its users need now, which is what it had before, or less.
fn tell(node: &Node) {
    let (used, shared) = node.cumulative_permissions();
    if let Err(error) = node.driver().set_permissions(used, shared) {
        tracing::warn!("changing locks of '{}': {error}", node.name());
    }
}

/// Lets the edges below `node` use no more than its users need. Drivers are not told.
fn relax(node: &Arc<Node>) -> Undo {
    let (mut undo, mut left) = (Vec::new(), vec![Arc::clone(node)]);
    while let Some(node) = left.pop() {
        let (used, shared) = node.cumulative_permissions();
        for edge in node.children() {
            let old = edge.permissions();
            let new = permissions::of_edge(&node, &edge, used, shared);
            if new != old {
                edge.store_permissions(new.0, new.1);
                undo.push((Arc::clone(&edge), old.0, old.1));
                left.push(edge.node());
            }
        }
    }
    undo
}

/// Users held by a drain; dropping it lets them go on.
pub struct Drained(Vec<Arc<Gate>>);

impl Drop for Drained {
    fn drop(&mut self) {
        for gate in &self.0 {
            gate.open();
        }
    }
}

/// Closes the gates of everybody who reaches a node in the trees below `nodes`, and waits until their requests have ended.
/// A job that works on backings only is held, too: what is below would never be idle otherwise.
async fn hold_users(nodes: &[Arc<Node>]) -> Drained {
    let mut below = Vec::new();
    visit(nodes, &mut below, |node| node.children().iter().map(|edge| edge.node()).collect());
    let mut involved = Vec::new();
    visit(&below, &mut involved, |node| node.parents().iter().filter_map(|edge| edge.parent_node()).collect());
    let (mut gates, mut limits) = (Vec::new(), Vec::new());
    let add = |gates: &mut Vec<Arc<Gate>>, gate: &Arc<Gate>| {
        if !gates.iter().any(|known| Arc::ptr_eq(known, gate)) {
            gates.push(Arc::clone(gate));
        }
    };
    for node in &involved {
        for edge in node.parents() {
            if let Parent::Outside(_, Some(gate)) = edge.parent() {
                add(&mut gates, gate);
            }
        }
        // What a limit holds goes on while its gate is closed.
        if let Some(gate) = node.driver().limiting_gate() {
            add(&mut limits, gate);
        }
    }
    gates.iter().for_each(|gate| gate.close());
    limits.iter().for_each(|gate| gate.close());
    let held = gates.len();
    gates.extend(limits);
    let drained = Drained(gates);
    for gate in drained.0.iter().take(held) {
        gate.wait_empty().await;
    }
    drained
}

/// Puts `nodes` and all that `next` leads to from there into `found`, each once.
fn visit(nodes: &[Arc<Node>], found: &mut Vec<Arc<Node>>, next: impl Fn(&Node) -> Vec<Arc<Node>>) {
    let mut seen = std::collections::HashSet::new();
    let mut left = nodes.to_vec();
    while let Some(node) = left.pop() {
        if seen.insert(Arc::as_ptr(&node)) {
            left.extend(next(&node));
            found.push(node);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Undo = Vec<(Arc<Child>, Permissions, Permissions)>;

/// Changes an edge's permissions and what follows for the nodes below; all of it or nothing.
fn change_permissions(child: &Arc<Child>, used: Permissions, shared: Permissions) -> Result<()> {
    let mut undo = Vec::new();
    let result = apply(child, used, shared, &mut undo);
    if result.is_err() {
        take_back(undo);
    }
    result
}

/// Goes back to the permissions that edges had.
fn take_back(undo: Undo) {
    for (child, used, shared) in undo.into_iter().rev() {
        child.store_permissions(used, shared);
        tell(&child.node());
    }
}

fn apply(child: &Arc<Child>, used: Permissions, shared: Permissions, undo: &mut Undo) -> Result<()> {
    let node = child.node();
    // The newest first, as in QEMU: which of two is named as the one that stands against the other depends on it.
    let users = node.parents();
    for keeper in users.iter().rev() {
        if Arc::ptr_eq(keeper, child) {
            for user in users.iter().rev().filter(|user| !Arc::ptr_eq(user, child)) {
                check_pair(&node, user, user.permissions().0, child, shared)?;
            }
        } else {
            check_pair(&node, child, used, keeper, keeper.permissions().1)?;
        }
    }
    if node.is_read_only() && used.contains(Permissions::WRITE) {
        return Err(Error::permission("Block node is read-only"));
    }
    let old = child.permissions();
    let before = node.cumulative_permissions();
    child.store_permissions(used, shared);
    undo.push((Arc::clone(child), old.0, old.1));
    let after = node.cumulative_permissions();
    if after == before {
        // Nothing changes below. A chain that is joined image by image is not walked down each time.
        return node.driver().set_permissions(after.0, after.1);
    }
    apply_below(&node, undo)
}

/// What follows for the edges below from what the users of `node` do.
fn apply_below(node: &Arc<Node>, undo: &mut Undo) -> Result<()> {
    let (used, shared) = node.cumulative_permissions();
    node.driver().set_permissions(used, shared)?;
    for below in node.children() {
        let (used, shared) = permissions::of_edge(node, &below, used, shared);
        apply(&below, used, shared, undo)?;
    }
    Ok(())
}

/// Checks the users of `node` against each other, and derives what follows below.
fn refresh(node: &Arc<Node>, undo: &mut Undo) -> Result<()> {
    let users = node.parents();
    for keeper in users.iter().rev() {
        for user in users.iter().rev().filter(|user| !Arc::ptr_eq(user, keeper)) {
            check_pair(node, user, user.permissions().0, keeper, keeper.permissions().1)?;
        }
        if node.is_read_only() && keeper.permissions().0.contains(Permissions::WRITE) {
            return Err(Error::permission("Block node is read-only"));
        }
    }
    apply_below(node, undo)
}

fn check_pair(node: &Node, user: &Child, used: Permissions, other: &Child, other_shares: Permissions) -> Result<()> {
    let conflict = used & other_shares.complement();
    if conflict.is_empty() {
        return Ok(());
    }
    let holder = |child: &Child| match (child.parent(), child.parent_node()) {
        (Parent::Outside(holder, _), _) => holder.clone(),
        (_, Some(parent)) => format!("node '{}'", parent.name()),
        _ => "a node that is being opened".to_owned(),
    };
    Err(Error::permission(format!(
        "Permission conflict on node '{node}': permissions '{conflict}' are both required by {} (uses node '{node}' as \
         '{}' child) and unshared by {} (uses node '{node}' as '{}' child).",
        holder(user),
        user.name(),
        holder(other),
        other.name(),
        node = node.name(),
    )))
}
