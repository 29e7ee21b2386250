//! `blockdev-reopen`: nodes get other options, under drain, all of them or none.
//!
//! Left out: removing a backing file, adding one where there was none, and another `cache.direct`.

use std::sync::Arc;

use block::{Child, DetectZeroes, Node, NodeConfig, Options, Permissions, Value};
use qapi::Error;
use qapi::block::options::BlockdevOptions;

use super::{Storage, client_error, options};

/// A node as it was before.
struct Before {
    node: Arc<Node>,
    options: Options,
    config: NodeConfig,
    /// Edges that were pointed elsewhere, with the nodes that they led to.
    moved: Vec<(Arc<Child>, Arc<Node>)>,
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
        if let Some(choice) = options.take_choice("discard", &["ignore", "unmap"])? {
            config.discard = choice == 1;
        }
        if let Some(choice) = options.take_choice("detect-zeroes", &DetectZeroes::NAMES)? {
            let modes = [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap];
            config.detect_zeroes = modes.get(choice).copied().unwrap_or_default();
        }
        config.cache.direct = options.take_bool("cache.direct")?.unwrap_or(config.cache.direct);
        config.cache.no_flush = options.take_bool("cache.no-flush")?.unwrap_or(config.cache.no_flush);
        options.take_bool("force-share").map(|share| share.unwrap_or(false))
    };
    if take().map_err(client_error)? {
        return Err(cannot_change("force-share"));
    }
    if config.detect_zeroes == DetectZeroes::Unmap && !config.discard {
        return Err(Error::generic(
            "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
        ));
    }
    Ok(config)
}

impl Storage {
    /// `blockdev-reopen`.
    ///
    /// # Errors
    /// A node is not there, an option can't be changed, or other users stand against it. Then nothing has changed.
    pub fn reopen(&self, list: &[BlockdevOptions]) -> Result<(), Error> {
        let mut nodes = Vec::new();
        for one in list {
            let name = one.node_name.as_deref().ok_or_else(|| Error::generic("node-name not specified"))?;
            let not_found = || Error::generic(format!("Failed to find node with node-name='{name}'"));
            let node = self.graph.lookup(name).ok_or_else(not_found)?;
            nodes.push((node, options::of_node(one)?));
        }
        let mut done = Vec::new();
        for (node, options) in nodes {
            let drained = aio::block_on(self.graph.drain(&node));
            let result = self.reopen_node(&node, options, NodeConfig::default(), &mut done);
            drop(drained);
            if let Err(error) = result {
                self.undo(done);
                return Err(error);
            }
        }
        Ok(())
    }

    fn reopen_node(
        &self,
        node: &Arc<Node>,
        mut options: Options,
        inherited: NodeConfig,
        done: &mut Vec<Before>,
    ) -> Result<(), Error> {
        options.take("node-name");
        if options.take("driver").is_some_and(|driver| driver != Value::from(node.driver_type().name())) {
            return Err(cannot_change("driver"));
        }
        let explicit = options.clone();
        let config = take_config(&mut options, inherited)?;
        let old = node.config();
        if config.cache.direct != old.cache.direct {
            return Err(cannot_change("cache.direct"));
        }
        let mut before = Before { node: Arc::clone(node), options: node.options(), config: old, moved: Vec::new() };
        // What is written to must be writable before its user is, and the other way round.
        let children: Vec<Arc<Child>> = node.children();
        if !config.read_only {
            self.reopen_children(node, &children, &mut options.clone(), config, &mut before, done)?;
        }
        let mut own = options.clone();
        for child in &children {
            own.take(child.name());
            own.take_below(child.name());
        }
        let changes_own = own.iter().any(|(name, value)| before.options.get(name) != Some(value))
            || before.options.iter().any(|(name, _)| is_own(name, &children) && !own.contains(name));
        if changes_own || config.read_only != old.read_only {
            if config.read_only && !old.read_only {
                aio::block_on(node.flush()).map_err(client_error)?;
            }
            aio::block_on(node.driver().reopen(own, config.read_only)).map_err(client_error)?;
        }
        node.set_config(config);
        node.set_options(own_options(&explicit));
        done.push(before);
        self.recompute(node)?;
        if config.read_only {
            let mut moved = Before { node: Arc::clone(node), options: node.options(), config, moved: Vec::new() };
            let result = self.reopen_children(node, &children, &mut options, config, &mut moved, done);
            done.push(moved);
            result?;
        }
        Ok(())
    }

    fn reopen_children(
        &self,
        node: &Arc<Node>,
        children: &[Arc<Child>],
        options: &mut Options,
        config: NodeConfig,
        before: &mut Before,
        done: &mut Vec<Before>,
    ) -> Result<(), Error> {
        for child in children {
            let below = child.node();
            match options.take(child.name()) {
                Some(Value::Str(name)) if name == below.name() => {}
                Some(Value::Str(name)) if !name.is_empty() => {
                    let new = self.node_by(None, Some(&name))?;
                    if Arc::ptr_eq(&new, node) {
                        let edge = child.name();
                        let text = format!("Making '{name}' a {edge} child of '{name}' would create a cycle");
                        return Err(Error::generic(text));
                    }
                    aio::block_on(self.graph.replace_child(child, new)).map_err(client_error)?;
                    before.moved.push((Arc::clone(child), below));
                }
                Some(_) => return Err(Error::generic("Removing a backing file is not available in this version")),
                None => {
                    let nested = options.take_below(child.name());
                    if nested.is_empty() {
                        let text = format!("{} is missing for '{}'", child.name(), node.name());
                        return Err(Error::generic(text));
                    }
                    let inherited = NodeConfig { detect_zeroes: DetectZeroes::Off, ..config };
                    self.reopen_node(&below, nested, inherited, done)?;
                }
            }
        }
        for absent in ["file", "backing"] {
            if matches!(options.get(absent), Some(Value::Str(name)) if !name.is_empty()) {
                if node.filtered().is_none() && children.is_empty() {
                    let (name, edge) = (node.name(), absent);
                    let text = format!("Making '{name}' a {edge} child of '{name}' would create a cycle");
                    return Err(Error::generic(text));
                }
                return Err(cannot_change(absent));
            }
        }
        Ok(())
    }

    /// Lets the permissions of a node's edges follow from its new configuration.
    fn recompute(&self, node: &Arc<Node>) -> Result<(), Error> {
        let root = self.graph.attach_root(node, "blockdev-reopen", Permissions::NONE, Permissions::ALL);
        let root = root.map_err(client_error)?;
        // The node has users, or the monitor holds it: it is not closed by this.
        aio::block_on(self.graph.detach(&root)).map_err(client_error)
    }

    fn undo(&self, done: Vec<Before>) {
        for before in done.into_iter().rev() {
            let node = &before.node;
            let undone = aio::block_on(async {
                for (child, old) in before.moved {
                    self.graph.replace_child(&child, old).await?;
                }
                let mut own = Options::new();
                for (name, value) in before.options.iter().filter(|(name, _)| is_own(name, &node.children())) {
                    own.set(name, value.clone());
                }
                node.driver().reopen(own, before.config.read_only).await
            });
            node.set_config(before.config);
            node.set_options(before.options);
            let recomputed = self.recompute(node).map_err(|error| error.desc);
            if let Err(error) = undone.map_err(|error| error.to_string()).and(recomputed) {
                tracing::warn!("'{}' can't get its old options back: {error}", node.name());
            }
        }
    }
}

/// Whether an option is the driver's own: not one that all nodes have, not one of a child.
fn is_own(name: &str, children: &[Arc<Child>]) -> bool {
    const GENERIC: [&str; 8] =
        ["driver", "node-name", "read-only", "auto-read-only", "discard", "detect-zeroes", "force-share", "filename"];
    let first = name.split('.').next().unwrap_or_default();
    !GENERIC.contains(&name) && first != "cache" && !children.iter().any(|child| child.name() == first)
}

fn own_options(explicit: &Options) -> Options {
    let mut own = Options::new();
    for (name, value) in explicit.iter().filter(|(name, _)| !name.contains('.') || name.starts_with("cache.")) {
        own.set(name, value.clone());
    }
    own
}
