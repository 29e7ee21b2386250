//! Chains of images, as jobs see them: filters and backings below a node.

use std::sync::Arc;

use block::{Node, filename};
use block_tools::status;

use crate::mirror_top::{COMMIT_TOP, MIRROR_TOP};

/// The next node of a chain: what a filter filters, or the backing.
pub fn below(node: &Arc<Node>) -> Option<Arc<Node>> {
    node.filtered().or_else(|| node.backing()).map(|child| child.node())
}

/// A node and all below it, along filters and backings.
pub fn of(top: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> + use<> {
    std::iter::successors(Some(Arc::clone(top)), below)
}

/// Whether `node` is `top` or in the chain below it.
pub fn contains(top: &Arc<Node>, node: &Arc<Node>) -> bool {
    of(top).any(|known| Arc::ptr_eq(&known, node))
}

/// The lowest node of the chain of `top` that is above `base`, filters left out; without a base the lowest of all.
pub fn overlay_of(top: &Arc<Node>, base: Option<&Arc<Node>>) -> Option<Arc<Node>> {
    let base = base.map(status::skip_filters);
    let mut overlay = None;
    for node in of(top).filter(|node| node.filtered().is_none()) {
        if base.as_ref().is_some_and(|base| Arc::ptr_eq(base, &node)) {
            return overlay;
        }
        overlay = Some(node);
    }
    if base.is_some() { None } else { overlay }
}

/// The node of the chain below `top` whose file has this name, as clients write names.
pub fn find_image(top: &Arc<Node>, name: &str) -> Option<Arc<Node>> {
    filename::remembering(|| {
        let full = |path: &str| std::fs::canonicalize(path.strip_prefix("file:").unwrap_or(path)).ok();
        let wanted = full(name);
        let mut overlay: Option<Arc<Node>> = None;
        for node in of(top).filter(|node| node.filtered().is_none()) {
            let Some(overlay) = overlay.replace(Arc::clone(&node)) else { continue };
            let own = filename::of(&node);
            let is_named_above = || {
                // A name that means another node here says nothing.
                let is_overridden = filename::has_other_backing(&overlay, &filename::of_image(&overlay));
                let backing = overlay.driver().image_backing().filter(|_| !is_overridden)?;
                Some(backing.file == name)
            };
            let is_same_file = wanted.is_some() && full(&own) == wanted;
            if own == name || is_named_above() == Some(true) || is_same_file {
                return Some(node);
            }
        }
        None
    })
}

/// The link between `top` and `base` that leads to a job's filter, if there is one: the name of the edge, and the filter.
/// Such a filter leaves the chain whenever its job ends.
pub fn fleeting_link(top: &Arc<Node>, base: Option<&Arc<Node>>) -> Option<(String, Arc<Node>)> {
    for node in of(top) {
        let edge = node.filtered().or_else(|| node.backing())?;
        let next = edge.node();
        if base.is_some_and(|base| Arc::ptr_eq(base, &next)) {
            return None;
        }
        if [MIRROR_TOP.name(), COMMIT_TOP.name()].contains(&next.driver_type().name()) {
            return Some((edge.name().to_owned(), next));
        }
    }
    None
}

/// The nodes from `top` down to just above `base`. Those that only filter the base come with true: they show the same as it.
pub fn between(top: &Arc<Node>, base: &Arc<Node>) -> Vec<(Arc<Node>, bool)> {
    let first = overlay_of(top, Some(base)).and_then(|overlay| overlay.backing()).map(|child| child.node());
    let mut is_filter = false;
    let above = of(top).take_while(|node| !Arc::ptr_eq(node, base));
    above
        .map(|node| {
            is_filter |= first.as_ref().is_some_and(|first| Arc::ptr_eq(first, &node));
            (node, is_filter)
        })
        .collect()
}
