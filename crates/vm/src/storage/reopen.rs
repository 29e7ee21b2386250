//! `blockdev-reopen`: nodes get other options, under drain, all of them or none.
//!
//! Backings come, go and are replaced; the edge `file` may lead to another node. Nodes that were made together with the
//! one that is named (their options are inside of its own) get other options with it.

use std::sync::{Arc, PoisonError};

use block::open::GENERIC_OPTIONS;
use block::{Child, DriverKind, Graph, Node, NodeConfig, Options, Permissions, Role, Value};
use qapi::Error;
use qapi::block::options::BlockdevOptions;

use super::{Storage, client_error, options};

/// What was done to a node, with what it takes to undo it.
enum Step {
    /// Other options.
    Options { node: Arc<Node>, options: Options, config: NodeConfig },
    /// An edge leads elsewhere. The last one keeps the old node.
    Moved { child: Arc<Child>, keeper: Arc<Child> },
    /// There is no backing any more.
    Detached { node: Arc<Node>, backing: Arc<Child>, permissions: (Permissions, Permissions) },
    /// There is a backing now.
    Attached { node: Arc<Node> },
    /// An edge uses nothing and stands against nobody until all edges are where they shall be.
    Relaxed { child: Arc<Child>, permissions: (Permissions, Permissions) },
}

/// The nodes that are reopened together.
struct Transaction<'a> {
    graph: &'a Arc<Graph>,
    steps: Vec<Step>,
}

/// Whether an edge may lead elsewhere: no job relies on it, which uses the nodes on both ends.
fn check_not_frozen(node: &Node, edge: &Child) -> Result<(), Error> {
    let below = edge.node();
    if node.blocked_by().is_none() || below.blocked_by().is_none() {
        return Ok(());
    }
    let (edge, from, to) = (edge.name(), node.name(), below.name());
    Err(Error::generic(format!("Cannot change frozen '{edge}' link from '{from}' to '{to}'")))
}

fn cannot_change(name: &str) -> Error {
    Error::generic(format!("Cannot change the option '{name}'"))
}

/// Takes what all nodes have out of `options`. What is absent goes back to what `inherited` says.
fn take_config(options: &mut Options, inherited: NodeConfig) -> Result<NodeConfig, Error> {
    let mut config = inherited;
    let mut take = || -> block::Result<bool> {
        config.read_only = options.take_bool("read-only")?.unwrap_or(config.read_only);
        config.auto_read_only = options.take_bool("auto-read-only")?.unwrap_or(config.auto_read_only);
        config.take_handling(options)?;
        config.cache.direct = options.take_bool("cache.direct")?.unwrap_or(config.cache.direct);
        config.cache.no_flush = options.take_bool("cache.no-flush")?.unwrap_or(config.cache.no_flush);
        options.take_bool("force-share").map(|share| share.unwrap_or(false))
    };
    if take().map_err(client_error)? {
        return Err(cannot_change("force-share"));
    }
    Ok(config)
}

impl Storage {
    /// `blockdev-reopen`. `done` is told on the control thread.
    pub fn reopen(
        &self,
        list: &[BlockdevOptions],
        done: impl FnOnce(&mut Storage, Result<(), Error>) + Send + 'static,
    ) {
        let planned = self.plan_reopen(list);
        let (graph, reopening) = (Arc::clone(&self.graph), Arc::clone(&self.reopening));
        let work = move || {
            let list = planned?;
            let nodes: Vec<_> = list.iter().map(|(held, _)| Arc::clone(held.node())).collect();
            // What hangs is waited for without the lock.
            let _drained = aio::block_on(graph.drain_nodes(&nodes));
            let _one_at_a_time = reopening.lock().unwrap_or_else(PoisonError::into_inner);
            reopen(&graph, &list)
        };
        self.aside.run(work, done);
    }

    /// The nodes, held, and their new options.
    fn plan_reopen(&self, list: &[BlockdevOptions]) -> Result<Vec<(Held, Options)>, Error> {
        let mut nodes = Vec::new();
        for one in list {
            let name = one.node_name.as_deref().ok_or_else(|| Error::generic("node-name not specified"))?;
            let not_found = || Error::generic(format!("Failed to find node with node-name='{name}'"));
            let node = self.graph.lookup(name).ok_or_else(not_found)?;
            nodes.push((Held::new(&self.graph, &node, "blockdev-reopen")?, options::of_node(one)?));
        }
        Ok(nodes)
    }
}

/// A node that stays while something is done to it elsewhere, whatever clients do to its users.
pub(super) struct Held {
    graph: Arc<Graph>,
    node: Arc<Node>,
    /// It leads to what is put above the node meanwhile.
    edge: Arc<Child>,
}

impl Held {
    /// Holds `node` for the command `holder`.
    pub(super) fn new(graph: &Arc<Graph>, node: &Arc<Node>, holder: &str) -> Result<Self, Error> {
        let edge = graph.attach_root(node, holder, Permissions::NONE, Permissions::ALL);
        Ok(Self { graph: Arc::clone(graph), node: Arc::clone(node), edge: edge.map_err(client_error)? })
    }

    /// The node.
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = aio::block_on(self.graph.detach(&self.edge)) {
            tracing::warn!("letting '{}' go: {error}", self.node.name());
        }
    }
}

/// Gives nodes other options, all of them or none, under drain.
fn reopen(graph: &Arc<Graph>, list: &[(Held, Options)]) -> Result<(), Error> {
    let mut transaction = Transaction { graph, steps: Vec::new() };
    let mut todo = list.iter();
    let checked = list.iter().try_for_each(|(held, options)| check(held.node(), options)).and_then(|()| {
        // Nodes may exchange what is below them.
        if list.len() > 1 { transaction.relax(list) } else { Ok(()) }
    });
    let result = checked.and_then(|()| {
        todo.try_for_each(|(held, options)| transaction.node(held.node(), options.clone(), NodeConfig::default()))
    });
    match result {
        Ok(()) => transaction.commit(),
        Err(error) => {
            transaction.undo();
            Err(error)
        }
    }
}

impl Transaction<'_> {
    /// Takes the claims of edges away that lead elsewhere afterwards. Just for nodes that pass on what is below them: an
    /// image in use keeps its tables in memory.
    fn relax(&mut self, list: &[(Held, Options)]) -> Result<(), Error> {
        for (held, options) in list {
            let driver = held.node().driver_type();
            if driver.kind() != DriverKind::Filter && driver.name() != "raw" {
                continue;
            }
            for child in held.node().children() {
                let leaves = matches!(options.get(child.name()), Some(Value::Str(name)) if name != child.node().name());
                if leaves && self.relaxed(&child).is_none() {
                    let permissions = child.permissions();
                    self.claim(&child, (Permissions::NONE, Permissions::ALL))?;
                    self.steps.push(Step::Relaxed { child, permissions });
                }
            }
        }
        Ok(())
    }

    /// What an edge claimed before [`Transaction::relax`].
    fn relaxed(&self, edge: &Arc<Child>) -> Option<(Permissions, Permissions)> {
        self.steps.iter().find_map(|step| match step {
            Step::Relaxed { child, permissions } if Arc::ptr_eq(child, edge) => Some(*permissions),
            _ => None,
        })
    }

    fn claim(&self, child: &Arc<Child>, (used, shared): (Permissions, Permissions)) -> Result<(), Error> {
        self.graph.set_permissions(child, used, shared).map_err(client_error)
    }

    fn node(&mut self, node: &Arc<Node>, mut options: Options, inherited: NodeConfig) -> Result<(), Error> {
        options.take("node-name");
        options.take("driver");
        let explicit = options.clone();
        let config = take_config(&mut options, inherited)?;
        let children = node.children();
        let mut own = options.clone();
        own.take("backing");
        for child in &children {
            own.take(child.name());
            own.take_below(child.name());
        }
        // What is written to must be writable before its user is, and the other way round.
        if config.read_only {
            self.options(node, own, &explicit, config, &children)?;
            self.children(node, &children, options, config)?;
        } else {
            self.children(node, &children, options, config)?;
            self.options(node, own, &explicit, config, &children)?;
        }
        self.recompute(node)
    }

    /// The node's own options.
    fn options(
        &mut self,
        node: &Arc<Node>,
        mut own: Options,
        explicit: &Options,
        config: NodeConfig,
        children: &[Arc<Child>],
    ) -> Result<(), Error> {
        let (before, old) = (node.options(), node.config());
        let other_cache = config.cache.direct != old.cache.direct && node.driver().reopens_cache();
        let changes_own = own.iter().any(|(name, value)| before.get(name) != Some(value))
            || before.iter().any(|(name, _)| is_own(name, children) && !own.contains(name));
        if changes_own || other_cache || config.read_only != old.read_only {
            if config.read_only && !old.read_only {
                let writes = Permissions::WRITE | Permissions::WRITE_UNCHANGED;
                if !(node.cumulative_permissions().0 & writes).is_empty() {
                    let text = format!("Read-only block node '{}' cannot support read-write users", node.name());
                    return Err(Error::generic(text));
                }
                aio::block_on(node.flush()).map_err(client_error)?;
            }
            if node.driver().reopens_cache() {
                own.set("cache.direct", config.cache.direct);
            }
            if old.read_only && !config.read_only {
                // The driver may write at once: the node below must be writable before.
                node.set_config(config);
                self.recompute(node)?;
            }
            if let Err(error) = aio::block_on(node.driver().reopen(own, config.read_only)) {
                node.set_config(old);
                self.recompute(node)?;
                return Err(client_error(error));
            }
        }
        self.steps.push(Step::Options { node: Arc::clone(node), options: before, config: old });
        node.set_config(config);
        node.set_options(own_options(explicit));
        self.recompute(node)
    }

    /// The edges below, and the nodes that were made together with this one.
    fn children(
        &mut self,
        node: &Arc<Node>,
        children: &[Arc<Child>],
        mut options: Options,
        config: NodeConfig,
    ) -> Result<(), Error> {
        for child in children {
            let below = child.node();
            let is_backing = child.role() == Role::Cow;
            match options.take(child.name()) {
                Some(Value::Str(name)) if name == skip_implicit(&below).name() => {}
                Some(Value::Null | Value::Str(_)) if below.is_implicit() => {
                    let text = format!("Cannot replace implicit {} child of {}", child.name(), node.name());
                    return Err(Error::generic(text));
                }
                Some(Value::Null) if is_backing => self.detach(node, child)?,
                Some(Value::Str(name)) => self.point(node, child, &name)?,
                Some(_) => return Err(cannot_change(child.name())),
                None => {
                    let nested = options.take_below(child.name());
                    self.node(&below, nested, config.of_child(child.role()))?;
                }
            }
        }
        if node.backing().is_none()
            && node.backing_slot().is_some()
            && let Some(Value::Str(name)) = options.take("backing")
        {
            let new = self.find(node, "backing", &name)?;
            self.graph.add_backing(node, &new).map_err(client_error)?;
            self.steps.push(Step::Attached { node: Arc::clone(node) });
        }
        Ok(())
    }

    fn find(&self, node: &Node, edge: &str, name: &str) -> Result<Arc<Node>, Error> {
        let not_found = || Error::generic(format!("Cannot find device='' nor node-name='{name}'"));
        let new = self.graph.lookup(name).ok_or_else(not_found)?;
        if new.is_or_contains(node) {
            let text = format!("Making '{name}' a {edge} child of '{}' would create a cycle", node.name());
            return Err(Error::generic(text));
        }
        Ok(new)
    }

    /// Leads an edge to another node.
    fn point(&mut self, node: &Node, child: &Arc<Child>, name: &str) -> Result<(), Error> {
        if !matches!(child.name(), "file" | "backing") {
            return Err(cannot_change(child.name()));
        }
        let new = self.find(node, child.name(), name)?;
        check_not_frozen(node, child)?;
        let keeper = self.graph.attach_root(&child.node(), "blockdev-reopen", Permissions::NONE, Permissions::ALL);
        let keeper = keeper.map_err(client_error)?;
        if let Err(error) = aio::block_on(self.graph.replace_child(child, new)) {
            aio::block_on(self.graph.detach(&keeper)).map_err(client_error)?;
            return Err(client_error(error));
        }
        self.steps.push(Step::Moved { child: Arc::clone(child), keeper });
        Ok(())
    }

    fn detach(&mut self, node: &Arc<Node>, backing: &Arc<Child>) -> Result<(), Error> {
        check_not_frozen(node, backing)?;
        let permissions = backing.permissions();
        self.graph.take_backing(node);
        let step = Step::Detached { node: Arc::clone(node), backing: Arc::clone(backing), permissions };
        self.steps.push(step);
        self.graph.set_permissions(backing, Permissions::NONE, Permissions::ALL).map_err(client_error)
    }

    /// Lets the permissions of a node's edges follow from its new configuration.
    fn recompute(&self, node: &Arc<Node>) -> Result<(), Error> {
        let root = self.graph.attach_root(node, "blockdev-reopen", Permissions::NONE, Permissions::ALL);
        let root = root.map_err(client_error)?;
        // The node has users, or the monitor holds it: it is not closed by this.
        aio::block_on(self.graph.detach(&root)).map_err(client_error)
    }

    /// Lets go what is not used any more.
    fn commit(self) -> Result<(), Error> {
        let mut result = Ok(());
        for step in self.steps {
            let (edge, parent) = match step {
                Step::Moved { keeper, child } => (keeper, child.parent_node()),
                Step::Detached { backing, node, .. } => (backing, Some(node)),
                Step::Options { .. } | Step::Attached { .. } | Step::Relaxed { .. } => continue,
            };
            let old = edge.node();
            if parent.is_some_and(|parent| old.is_made_for(&parent)) {
                old.make_independent();
            }
            let detached = aio::block_on(self.graph.detach(&edge)).map_err(client_error);
            result = result.and(detached);
        }
        result
    }

    fn undo(mut self) {
        while let Some(step) = self.steps.pop() {
            let (node, undone) = match step {
                Step::Options { node, options, config } => {
                    let undone = self.restore(&node, &options, config);
                    (node, undone)
                }
                Step::Moved { child, keeper } => {
                    let old = keeper.node();
                    if self.relaxed(&child).is_some()
                        && let Err(error) = self.claim(&child, (Permissions::NONE, Permissions::ALL))
                    {
                        tracing::warn!("the edge to '{}': {}", child.node().name(), error.desc);
                    }
                    let moved = aio::block_on(self.graph.replace_child(&child, Arc::clone(&old)));
                    let freed = aio::block_on(self.graph.detach(&keeper));
                    (old, moved.and(freed).map_err(client_error))
                }
                Step::Detached { node, backing, permissions: (used, shared) } => {
                    self.graph.restore_backing(&node, Arc::clone(&backing));
                    (node, self.graph.set_permissions(&backing, used, shared).map_err(client_error))
                }
                Step::Relaxed { child, permissions } => (child.node(), self.claim(&child, permissions)),
                Step::Attached { node } => {
                    let backing = self.graph.take_backing(&node);
                    let detached = backing.map_or(Ok(()), |edge| aio::block_on(self.graph.detach(&edge)));
                    (node, detached.map_err(client_error))
                }
            };
            if let Err(error) = undone {
                tracing::warn!("'{}' can't get back what it was: {}", node.name(), error.desc);
            }
        }
    }

    fn restore(&self, node: &Arc<Node>, options: &Options, config: NodeConfig) -> Result<(), Error> {
        let mut own = Options::new();
        for (name, value) in options.iter().filter(|(name, _)| is_own(name, &node.children())) {
            own.set(name, value.clone());
        }
        if node.driver().reopens_cache() {
            own.set("cache.direct", config.cache.direct);
        }
        let undone = aio::block_on(node.driver().reopen(own, config.read_only)).map_err(client_error);
        node.set_config(config);
        node.set_options(options.clone());
        undone.and(self.recompute(node))
    }
}

/// Whether a node may get such options, and those that were made for it theirs: before anything changes.
fn check(node: &Arc<Node>, options: &Options) -> Result<(), Error> {
    let driver = node.driver_type();
    if !driver.supports_reopen() {
        let (kind, name) = (driver.name(), node.name());
        let text = format!("Block format '{kind}' used by node '{name}' does not support reopening files");
        return Err(Error::generic(text));
    }
    let children = node.children();
    check_defaults(node, options, &children)?;
    check_edges(node, options)?;
    let mut below = Vec::new();
    for child in children.iter().filter(|child| !options.contains(child.name())) {
        let nested = options.clone().take_below(child.name());
        if nested.is_empty() {
            return Err(Error::generic(format!("{} is missing for '{}'", child.name(), node.name())));
        }
        if child.node().is_made_for(node) {
            below.push((child.name(), child.node(), nested));
        }
    }
    let named = [("node-name", node.name()), ("driver", driver.name())];
    let renamed =
        named.into_iter().filter(|(name, now)| options.get(name).is_some_and(|new| *new != Value::from(*now)));
    // What is left belongs to nodes that others have made, or to none.
    let is_checked = |name: &str| below.iter().any(|(edge, ..)| name.split('.').next() == Some(edge));
    let is_edge = |first: &str| first == "backing" || children.iter().any(|child| child.name() == first);
    let foreign = options.iter().map(|(name, _)| name).filter(|name| {
        let inside = name.split_once('.').is_some_and(|(first, _)| is_edge(first));
        inside && !is_checked(name)
    });
    // QEMU names the first one in its order.
    if let Some(name) = renamed.map(|(name, _)| name).chain(foreign).min_by_key(|name| block::value::bucket(name)) {
        return Err(cannot_change(name));
    }
    below.iter().try_for_each(|(_, node, nested)| check(node, nested))
}

/// Refuses to leave out options that have no default to go back to.
fn check_defaults(node: &Node, options: &Options, children: &[Arc<Child>]) -> Result<(), Error> {
    let before = node.options();
    let mutable = node.driver_type().mutable_options();
    let mut fixed =
        before.iter().map(|(name, _)| name).filter(|name| is_own(name, children) && !mutable.contains(name));
    match fixed.find(|name| !options.contains(name)) {
        Some(name) => Err(Error::generic(format!("Option '{name}' cannot be reset to its default value"))),
        None => Ok(()),
    }
}

/// What is below the filters that jobs have put in without a name.
fn skip_implicit(node: &Arc<Node>) -> Arc<Node> {
    let mut node = Arc::clone(node);
    while node.is_implicit()
        && let Some(below) = node.children().first().map(|child| child.node())
    {
        node = below;
    }
    node
}

/// Whether the options name just children that the driver can have, and all of those that it must.
fn check_edges(node: &Node, options: &Options) -> Result<(), Error> {
    let refers = |name: &str| matches!(options.get(name), Some(Value::Str(name)) if !name.is_empty());
    for absent in ["file", "backing"] {
        let has_it = node.children().iter().any(|child| child.name() == absent);
        if has_it || !refers(absent) {
            continue;
        }
        let (name, driver) = (node.name(), node.driver_type());
        if absent == "backing" && node.backing_slot().is_some() {
            continue;
        }
        return Err(match driver.kind() {
            DriverKind::Filter => {
                let kind = driver.name();
                Error::generic(format!("'{name}' is a {kind} filter node that does not support a {absent} child"))
            }
            _ => cannot_change(absent),
        });
    }
    let names_backing = node.backing().is_none() && node.driver().image_backing().is_some();
    if names_backing && !options.contains("backing") {
        return Err(Error::generic(format!("backing is missing for '{}'", node.name())));
    }
    Ok(())
}

/// Whether an option is the driver's own: not one that all nodes have, not one of a child.
fn is_own(name: &str, children: &[Arc<Child>]) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    !GENERIC_OPTIONS.contains(&name) && first != "cache" && !children.iter().any(|child| child.name() == first)
}

fn own_options(explicit: &Options) -> Options {
    let mut own = Options::new();
    for (name, value) in explicit.iter().filter(|(name, _)| !name.contains('.') || name.starts_with("cache.")) {
        own.set(name, value.clone());
    }
    own
}
