//! `block-stream`, `block-commit`.

use std::sync::Arc;

use block::Node;
use block::Permissions;
use block_jobs::mirror::{Backing, Sync};
use block_jobs::{Kind, chain, commit, mirror, stream};
use block_tools::status;
use qapi::Error;
use qapi::block::block_job::{BlockCommit, BlockStream};

use super::{common, on_error};
use crate::storage::{Storage, client_error, device_of};

fn is(one: &Arc<Node>, other: &Arc<Node>) -> bool {
    Arc::ptr_eq(one, other)
}

/// The image that stays, or the lowest one whose data is taken; neither where all of the chain is taken.
type StreamEnd = (Option<Arc<Node>>, Option<Arc<Node>>);

impl Storage {
    /// `block-stream`.
    ///
    /// # Errors
    /// The images can't be used so.
    pub fn block_stream(&self, command: &BlockStream) -> Result<(), Error> {
        let exclusive = [
            (command.base.is_some() && command.base_node.is_some(), "'base' and 'base-node'"),
            (command.base.is_some() && command.bottom.is_some(), "'base' and 'bottom'"),
            (command.bottom.is_some() && command.base_node.is_some(), "'bottom' and 'base-node'"),
        ];
        if let Some((_, names)) = exclusive.iter().find(|(both, _)| *both) {
            return Err(Error::generic(format!("{names} cannot be specified at the same time")));
        }
        let _no_other_change = self.alone();
        let top = self.node_by(Some(&command.device), Some(&command.device))?;
        let (base, bottom) = self.stream_end(command, &top)?;
        for node in chain::of(&top) {
            if base.as_ref().is_some_and(|base| is(base, &node)) {
                break;
            }
            self.check_unblocked(&node)?;
            if bottom.as_ref().is_some_and(|bottom| is(bottom, &node)) {
                break;
            }
        }
        let end = base.clone().or_else(|| bottom.as_ref().and_then(chain::below));
        if let Some((edge, filter)) = chain::fleeting_link(&top, end.as_ref()) {
            return Err(Error::generic(format!("Cannot freeze '{edge}' link to '{}'", filter.name())));
        }
        if base.is_none() && bottom.is_none() && command.backing_file.is_some() {
            return Err(Error::generic("backing file specified, but streaming the entire chain"));
        }
        let bottom = match (&bottom, &base) {
            (Some(bottom), _) => Some(Arc::clone(bottom)),
            (None, Some(base)) => {
                let overlay = chain::overlay_of(&top, Some(base));
                let text = || format!("'{}' is not in the backing chain of '{}'", base.name(), top.name());
                Some(overlay.ok_or_else(|| Error::generic(text()))?)
            }
            (None, None) => None,
        };
        let id = self.job_id(command.job_id.as_deref(), &top)?;
        let options = stream::Options {
            common: common(id, command.speed, command.auto_finalize, command.auto_dismiss),
            top,
            bottom,
            backing_file: command.backing_file.clone(),
            on_error: on_error(command.on_error),
            filter_node_name: command.filter_node_name.clone(),
        };
        let job = stream::create(&self.graph, &self.jobs, &options).map_err(client_error)?;
        self.start_job(&job);
        Ok(())
    }

    /// Where a stream ends.
    fn stream_end(&self, command: &BlockStream, top: &Arc<Node>) -> Result<StreamEnd, Error> {
        if let Some(name) = &command.base {
            let text = || Error::generic(format!("Can't find '{name}' in the backing chain"));
            return Ok((Some(chain::find_image(top, name).ok_or_else(text)?), None));
        }
        if let Some(name) = &command.base_node {
            let base = self.node_by(None, Some(name))?;
            if is(&base, top) || !chain::contains(top, &base) {
                let text = format!("Node '{name}' is not a backing image of '{}'", command.device);
                return Err(Error::generic(text));
            }
            return Ok((Some(base), None));
        }
        let Some(name) = &command.bottom else { return Ok((None, None)) };
        let bottom = self.node_by(None, Some(name))?;
        if bottom.filtered().is_some() {
            let text = format!("Node '{name}' is a filter, use a non-filter node as 'bottom'");
            return Err(Error::generic(text));
        }
        if !chain::contains(top, &bottom) {
            let text = format!("Node '{name}' is not in a chain starting from '{}'", command.device);
            return Err(Error::generic(text));
        }
        Ok((None, Some(bottom)))
    }

    /// `block-commit`.
    ///
    /// # Errors
    /// The images can't be used so.
    pub fn block_commit(&self, command: &BlockCommit) -> Result<(), Error> {
        let device = &command.device;
        if self.node_by(Some(device), Some(device)).is_err() {
            return Err(Error::device_not_found(device));
        }
        let _no_other_change = self.alone();
        let active = self.root_node(device)?;
        self.check_unblocked(&active)?;
        let top = self.commit_top(command, &active)?;
        let base = self.commit_base(command, &top)?;
        let after = chain::below(&base);
        for node in chain::of(&top).take_while(|node| !after.as_ref().is_some_and(|after| is(after, node))) {
            self.check_unblocked(&node)?;
        }
        if is(&top, &base) {
            return Err(Error::generic("cannot commit an image into itself"));
        }
        let is_active = is(&status::skip_filters(&top), &status::skip_filters(&active));
        let has_writer = top.cumulative_permissions().0.contains(Permissions::WRITE);
        let common = |id| common(id, command.speed, command.auto_finalize, command.auto_dismiss);
        let on_error = on_error(command.on_error);
        let filter_node_name = command.filter_node_name.clone();
        let job = if is_active || has_writer {
            if command.backing_file.is_some() {
                let why = if is_active { "is the active layer" } else { "has a writer on it" };
                return Err(Error::generic(format!("'backing-file' specified, but 'top' {why}")));
            }
            let options = mirror::Options {
                common: common(match &command.job_id {
                    Some(id) => id.clone(),
                    None => device_of(&self.graph, active.name()).unwrap_or_default(),
                }),
                kind: Kind::Commit,
                source: top,
                target: base,
                replaces: None,
                sync: Sync::Full,
                bitmap: None,
                backing: Backing::Leave,
                target_is_zero: false,
                write_blocking: false,
                unmap: true,
                granularity: 0,
                buf_size: 0,
                on_source_error: on_error,
                on_target_error: on_error,
                filter_node_name,
            };
            mirror::create(&self.graph, &self.jobs, &options)
        } else {
            if let Some(overlay) = chain::overlay_of(&active, Some(&top)) {
                self.check_unblocked(&overlay)?;
            }
            let id = self.job_id(command.job_id.as_deref(), &active)?;
            let backing_file = command.backing_file.clone();
            let options =
                commit::Options { common: common(id), active, top, base, backing_file, on_error, filter_node_name };
            commit::create(&self.graph, &self.jobs, &options)
        };
        self.start_job(&job.map_err(client_error)?);
        Ok(())
    }

    fn commit_top(&self, command: &BlockCommit, active: &Arc<Node>) -> Result<Arc<Node>, Error> {
        match (&command.top_node, &command.top) {
            (Some(_), Some(_)) => Err(Error::generic("'top-node' and 'top' are mutually exclusive")),
            (Some(name), None) => {
                let top = self.node_by(None, Some(name))?;
                if !chain::contains(active, &top) {
                    return Err(Error::generic(format!("'{name}' is not in this backing file chain")));
                }
                Ok(top)
            }
            (None, Some(name)) if block::filename::of(active) != *name => chain::find_image(active, name)
                .ok_or_else(|| Error::generic(format!("Top image file {name} not found"))),
            _ => Ok(Arc::clone(active)),
        }
    }

    fn commit_base(&self, command: &BlockCommit, top: &Arc<Node>) -> Result<Arc<Node>, Error> {
        match (&command.base_node, &command.base) {
            (Some(_), Some(_)) => Err(Error::generic("'base-node' and 'base' are mutually exclusive")),
            (Some(name), None) => {
                let base = self.node_by(None, Some(name))?;
                if !chain::contains(top, &base) {
                    return Err(Error::generic(format!("'{name}' is not in this backing file chain")));
                }
                Ok(base)
            }
            (None, Some(name)) => chain::find_image(top, name)
                .ok_or_else(|| Error::generic(format!("Can't find '{name}' in the backing chain"))),
            (None, None) => {
                let base = chain::overlay_of(top, None);
                base.ok_or_else(|| Error::generic("There is no backimg image"))
            }
        }
    }
}
