//! Exports over FUSE: a node as a file of the host.

use std::sync::Arc;

use block::{Graph, Node};
use block_export::fuse::{AllowOther, Export, ExportOptions, resolve};
use qapi::Error;
use qapi::block::export::{BlockExportAdd, BlockExportOptionsFuse, FuseExportAllowOther};

use super::super::client_error;
use super::{Entry, Exported};

/// An export, and the file's name as it was given.
pub(super) struct FuseFile {
    pub export: Arc<Export>,
    name: String,
}

/// Makes `node` a file. Another export of `list` may not be that file.
///
/// # Errors
/// There is no such file or there is an export over it, others use the node in a way that does not go together with this,
/// or the host does not mount.
pub(super) fn start(
    graph: &Arc<Graph>,
    node: &Arc<Node>,
    (command, fuse): (&BlockExportAdd, &BlockExportOptionsFuse),
    reactor: &aio::Handle,
    list: &[Entry],
) -> Result<FuseFile, Error> {
    let name = &fuse.mountpoint;
    let files = || {
        list.iter().filter_map(|entry| match &entry.export {
            Exported::Fuse(file) => Some(file),
            _ => None,
        })
    };
    let is_one = || Error::generic(format!("There already is a FUSE export on '{name}'"));
    // Whoever looks at a file of ours needs us to be answered: names come first.
    if files().any(|file| file.name == *name) {
        return Err(is_one());
    }
    let mount_point = resolve(name).map_err(client_error)?;
    if files().any(|file| file.export.mount_point() == mount_point) {
        return Err(is_one());
    }
    let options = ExportOptions {
        mount_point,
        writable: command.writable.unwrap_or(false),
        writethrough: command.writethrough.unwrap_or(false),
        growable: fuse.growable.unwrap_or(false),
        allow_other: match fuse.allow_other {
            Some(FuseExportAllowOther::Off) => AllowOther::Off,
            Some(FuseExportAllowOther::On) => AllowOther::On,
            Some(FuseExportAllowOther::Auto) | None => AllowOther::Auto,
        },
    };
    let export = Export::start(graph, node, options, reactor).map_err(client_error)?;
    Ok(FuseFile { export, name: name.clone() })
}
