//! Carries out in the host directory what the guest has done to the file system.
//!
//! The file system is read as the guest would read it. If it is not consistent (the guest is in the middle of a change),
//! nothing is done until the next flush. Otherwise: directories are made, files whose clusters moved under another name
//! are renamed, changed ones are written to a temporary file beside them that then takes their place, and what is gone
//! is deleted. No step reads something that an earlier step has removed: deletions come last, and contents that come
//! from other host files are copied before those are touched.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use block::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::directory;
use crate::layout::{FatType, SECTOR};
use crate::volume::{Mapping, Volume};

/// The name under which new contents are written before they take their place.
const TEMPORARY: &str = ".ouzel-vvfat-new";
/// Deeper directories are not believed.
const MAX_DEPTH: usize = 64;

/// The file system as the guest has left it; `None` if it is not consistent.
fn read_tree(volume: &mut Volume) -> Result<Option<Vec<Mapping>>> {
    let layout = volume.layout;
    let mut fat = vec![0; (layout.fat_len * SECTOR) as usize];
    volume.read(layout.fat_start() * SECTOR, &mut fat)?;
    let mut used = BTreeSet::new();
    let mut tree = Vec::new();
    let mut todo: Vec<(PathBuf, Vec<u8>, usize)> = Vec::new();
    if layout.fat_type == FatType::Fat32 {
        let Some(clusters) = chain(volume, &fat, 2, &mut used) else { return Ok(None) };
        todo.push((PathBuf::new(), read_clusters(volume, &clusters)?, 0));
    } else {
        let mut root = vec![0; (layout.root_entries * 32) as usize];
        volume.read(layout.root_start() * SECTOR, &mut root)?;
        todo.push((PathBuf::new(), root, 0));
    }
    while let Some((path, bytes, depth)) = todo.pop() {
        let Some(entries) = directory::parse(&bytes) else { return Ok(None) };
        let mut names = BTreeSet::new();
        for entry in entries {
            let below = path.join(&entry.name);
            if !names.insert(entry.name.to_lowercase()) || depth >= MAX_DEPTH {
                return Ok(None);
            }
            let clusters = if entry.cluster == 0 {
                Vec::new()
            } else {
                let Some(clusters) = chain(volume, &fat, entry.cluster, &mut used) else { return Ok(None) };
                clusters
            };
            if entry.is_directory {
                if clusters.is_empty() {
                    return Ok(None);
                }
                todo.push((below.clone(), read_clusters(volume, &clusters)?, depth + 1));
            } else if (clusters.len() as u64) * layout.cluster_bytes() < u64::from(entry.size) {
                return Ok(None);
            }
            let size = if entry.is_directory { 0 } else { entry.size };
            tree.push(Mapping { path: below, is_directory: entry.is_directory, clusters, size });
        }
    }
    Ok(Some(tree))
}

/// The clusters of a chain; `None` if it leaves the volume, runs in a circle or into another chain.
fn chain(volume: &Volume, fat: &[u8], first: u32, used: &mut BTreeSet<u32>) -> Option<Vec<u32>> {
    let layout = &volume.layout;
    let mut clusters = Vec::new();
    let mut cluster = first;
    loop {
        if !layout.has_cluster(cluster) || !used.insert(cluster) {
            return None;
        }
        clusters.push(cluster);
        let next = layout.fat_entry(fat, cluster);
        if layout.is_end(next) {
            return Some(clusters);
        }
        cluster = next;
    }
}

fn read_clusters(volume: &mut Volume, clusters: &[u32]) -> Result<Vec<u8>> {
    let size = usize::try_from(volume.layout.cluster_bytes()).unwrap_or(0);
    let mut bytes = vec![0; clusters.len() * size];
    for (cluster, part) in clusters.iter().zip(bytes.chunks_mut(size)) {
        volume.read(volume.layout.cluster_offset(*cluster), part)?;
    }
    Ok(bytes)
}

/// Brings the host directory in line with the file system. `false` if the file system is not consistent now.
///
/// # Errors
/// The host's; what was done so far stays done and is known, so that a later try goes on.
pub fn commit(volume: &mut Volume) -> Result<bool> {
    let Some(tree) = read_tree(volume)? else { return Ok(false) };
    let old: BTreeMap<PathBuf, Mapping> =
        volume.mappings.iter().map(|mapping| (mapping.path.clone(), mapping.clone())).collect();
    let new: BTreeSet<&Path> = tree.iter().map(|mapping| mapping.path.as_path()).collect();
    let changed = |volume: &Volume, mapping: &Mapping| {
        let same = old.get(&mapping.path).is_some_and(|old| {
            old.is_directory == mapping.is_directory && old.clusters == mapping.clusters && old.size == mapping.size
        });
        !same || (!mapping.is_directory && mapping.clusters.iter().any(|cluster| volume.is_cluster_written(*cluster)))
    };
    let pending: Vec<Mapping> = tree.iter().filter(|mapping| changed(volume, mapping)).cloned().collect();
    // Contents first, all of them, while the host still has everything that they come from.
    let mut prepared = Vec::new();
    for (number, mapping) in pending.iter().filter(|mapping| !mapping.is_directory).enumerate() {
        let name = PathBuf::from(format!("{TEMPORARY}{number}"));
        write_contents(volume, &name, mapping)?;
        prepared.push((name, mapping.path.clone()));
    }
    remove_replaced(volume, &pending, &old)?;
    let mut directories: Vec<&Mapping> = pending.iter().filter(|mapping| mapping.is_directory).collect();
    directories.sort_by_key(|mapping| mapping.path.components().count());
    for directory in directories {
        make_directory(volume, &directory.path)?;
    }
    for (temporary, path) in prepared {
        move_into_place(volume, &temporary, &path)?;
    }
    let mut gone: Vec<&Mapping> = old.values().filter(|mapping| !new.contains(mapping.path.as_path())).collect();
    gone.sort_by_key(|mapping| std::cmp::Reverse(mapping.path.components().count()));
    for mapping in gone {
        remove(volume, mapping)?;
    }
    for mapping in &pending {
        if !mapping.is_directory {
            mapping.clusters.iter().for_each(|cluster| volume.forget_cluster(*cluster));
        }
    }
    volume.mappings = tree;
    volume.map();
    Ok(true)
}

fn write_contents(volume: &mut Volume, name: &Path, mapping: &Mapping) -> Result<()> {
    let mut file = volume.open_below(name, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    let size = usize::try_from(volume.layout.cluster_bytes()).unwrap_or(0);
    let mut left = mapping.size as usize;
    let mut bytes = vec![0; size];
    for cluster in &mapping.clusters {
        volume.read(volume.layout.cluster_offset(*cluster), &mut bytes)?;
        let n = left.min(size);
        file.write_all(&bytes[..n])?;
        left -= n;
    }
    file.sync_all()?;
    Ok(())
}

/// A file that has become a directory, or the other way round.
fn remove_replaced(volume: &Volume, pending: &[Mapping], old: &BTreeMap<PathBuf, Mapping>) -> Result<()> {
    for mapping in pending {
        if let Some(before) = old.get(&mapping.path)
            && before.is_directory != mapping.is_directory
        {
            if before.is_directory {
                let mut below: Vec<&Mapping> = old.values().filter(|m| m.path.starts_with(&before.path)).collect();
                below.sort_by_key(|mapping| std::cmp::Reverse(mapping.path.components().count()));
                for inner in below {
                    remove(volume, inner)?;
                }
            } else {
                remove(volume, before)?;
            }
        }
    }
    Ok(())
}

/// The open parent of a path and the last name.
fn parent_of(volume: &Volume, path: &Path) -> Result<(std::fs::File, PathBuf)> {
    let name = path.file_name().ok_or_else(|| Error::invalid("A path without a name"))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((volume.open_below(parent, OFlags::RDONLY | OFlags::DIRECTORY)?, PathBuf::from(name)))
}

fn make_directory(volume: &Volume, path: &Path) -> Result<()> {
    let (parent, name) = parent_of(volume, path)?;
    match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn move_into_place(volume: &Volume, temporary: &Path, path: &Path) -> Result<()> {
    let (parent, name) = parent_of(volume, path)?;
    Ok(rustix::fs::renameat(volume.root(), temporary, &parent, &name)?)
}

fn remove(volume: &Volume, mapping: &Mapping) -> Result<()> {
    let flags = if mapping.is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let result = parent_of(volume, &mapping.path)
        .and_then(|(parent, name)| rustix::fs::unlinkat(&parent, &name, flags).map_err(Error::from));
    match result {
        Err(error) if error.errno() == rustix::io::Errno::NOENT.raw_os_error() => Ok(()),
        // Something that the guest never saw is still in there.
        Err(error) if error.errno() == rustix::io::Errno::NOTEMPTY.raw_os_error() => {
            tracing::warn!("{}: not empty on the host, kept", mapping.path.display());
            Ok(())
        }
        result => result,
    }
}
