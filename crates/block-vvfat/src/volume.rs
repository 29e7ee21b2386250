//! The generated volume, and what the guest has written over it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use block::{Error, Result};
use iobuf::IoBuf;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::directory::{self, ShortNames};
use crate::layout::{FatType, Layout, SECTOR};

/// Directories deeper than this are left out, with a warning.
const MAX_DEPTH: usize = 64;

/// A host file or directory and its clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it is below the directory.
    pub path: PathBuf,
    /// It is a directory.
    pub is_directory: bool,
    /// Its clusters, in order.
    pub clusters: Vec<u32>,
    /// Bytes of a file.
    pub size: u32,
}

/// Where the bytes of a cluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// In a file of that index in `mappings`, at that cluster of it.
    File(usize, u32),
}

/// A directory as a disk.
pub struct Volume {
    /// Where everything is.
    pub layout: Layout,
    /// The host directory.
    root: OwnedFd,
    /// Everything before cluster 2.
    head: Vec<u8>,
    /// Clusters of directories, as generated.
    directories: BTreeMap<u32, Vec<u8>>,
    /// Files and directories as the host has them.
    pub mappings: Vec<Mapping>,
    sources: BTreeMap<u32, Source>,
    /// The file that was read last.
    open: Option<(usize, File)>,
    /// What the guest has written, and which sectors that is.
    overlay: Option<File>,
    written: Vec<u64>,
}

fn sector_index(offset: u64) -> usize {
    usize::try_from(offset / SECTOR).unwrap_or(usize::MAX)
}

impl Volume {
    /// The volume of `directory`.
    ///
    /// # Errors
    /// If the directory can't be read or does not fit.
    pub fn new(directory: &Path, layout: Layout, label: &str, is_writable: bool) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|e| Error::from(e).context(format!("Could not read directory {}", directory.display())))?;
        let sectors = layout.total as usize;
        let mut volume = Self {
            layout,
            root,
            head: vec![0; (layout.data_start() * SECTOR) as usize],
            directories: BTreeMap::new(),
            mappings: Vec::new(),
            sources: BTreeMap::new(),
            open: None,
            overlay: is_writable.then(temporary_file).transpose()?,
            written: vec![0; sectors.div_ceil(64)],
        };
        volume.generate(directory, label)?;
        Ok(volume)
    }

    fn generate(&mut self, directory: &Path, label: &str) -> Result<()> {
        const SERIAL: u32 = 0xfabe_1afd;
        let layout = self.layout;
        let mut builder = Builder { layout, fat: vec![0; (layout.fat_len * SECTOR) as usize], next: 2, volume: self };
        layout.set_fat_entry(&mut builder.fat, 0, layout.end_of_chain() & !0xff | u32::from(layout.media));
        layout.set_fat_entry(&mut builder.fat, 1, layout.end_of_chain());
        let mut root = directory::label(label).to_vec();
        if layout.fat_type == FatType::Fat32 {
            let own = builder.reserve_directory();
            builder.fill(directory, Path::new(""), own, 0, &mut root)?;
            builder.place_directory(own, root)?;
        } else {
            builder.fill(directory, Path::new(""), 0, 0, &mut root)?;
            if root.len() as u64 > layout.root_entries * 32 {
                return Err(Error::invalid("The root directory has too many entries for its FAT type"));
            }
            let at = (layout.root_start() * SECTOR) as usize;
            builder.volume.head[at..at + root.len()].copy_from_slice(&root);
        }
        let fat = std::mem::take(&mut builder.fat);
        let mut put = |sector: u64, bytes: &[u8]| {
            let at = (sector * SECTOR) as usize;
            self.head[at..at + bytes.len()].copy_from_slice(bytes);
        };
        if layout.start != 0 {
            put(0, &layout.partition_table(SERIAL));
        }
        put(layout.start, &layout.boot_sector(SERIAL, label));
        if layout.fat_type == FatType::Fat32 {
            // The boot sector and its company, and their copy in sector 6.
            put(layout.start + 1, &Layout::fs_info());
            put(layout.start + 6, &layout.boot_sector(SERIAL, label));
            put(layout.start + 7, &Layout::fs_info());
        }
        put(layout.fat_start(), &fat);
        put(layout.fat_start() + layout.fat_len, &fat);
        self.map();
        Ok(())
    }

    /// Recomputes which file each cluster is of.
    pub fn map(&mut self) {
        self.open = None;
        self.sources.clear();
        for (index, mapping) in self.mappings.iter().enumerate().filter(|(_, mapping)| !mapping.is_directory) {
            for (number, cluster) in (0..).zip(&mapping.clusters) {
                self.sources.insert(*cluster, Source::File(index, number));
            }
        }
    }

    /// Opens something below the directory; links are not followed.
    ///
    /// # Errors
    /// The host's.
    pub fn open_below(&self, path: &Path, flags: OFlags) -> Result<File> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        Ok(File::from(rustix::fs::openat2(&self.root, path, flags, mode, how)?))
    }

    /// The host directory.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Bytes of the disk.
    pub fn len(&self) -> u64 {
        self.layout.total * SECTOR
    }

    /// Whether the guest has written the sector at this offset since the last commit of it.
    pub fn is_written(&self, offset: u64) -> bool {
        let sector = sector_index(offset);
        self.written.get(sector / 64).is_some_and(|word| word >> (sector % 64) & 1 != 0)
    }

    /// Whether the guest has written anything of that cluster.
    pub fn is_cluster_written(&self, cluster: u32) -> bool {
        let start = self.layout.cluster_offset(cluster);
        (0..self.layout.cluster).any(|sector| self.is_written(start + sector * SECTOR))
    }

    /// The host has the bytes of that cluster now.
    pub fn forget_cluster(&mut self, cluster: u32) {
        let first = sector_index(self.layout.cluster_offset(cluster));
        for sector in first..first + self.layout.cluster as usize {
            if let Some(word) = self.written.get_mut(sector / 64) {
                *word &= !(1 << (sector % 64));
            }
        }
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let (source, len) = self.piece(at, (into.len() - done) as u64);
            let part = &mut into[done..done + len];
            match source {
                Place::Overlay => {
                    let overlay = self.overlay.as_ref().ok_or_else(|| Error::io("There is no file for writes"))?;
                    overlay.read_exact_at(part, at)?;
                }
                Place::Head => part.copy_from_slice(&self.head[at as usize..at as usize + len]),
                Place::Cluster(cluster, within) => self.read_cluster(cluster, within, part)?,
                Place::Nothing => part.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    /// Where the bytes at `at` are, and how many of `len` from there on.
    fn piece(&self, at: u64, len: u64) -> (Place, usize) {
        let written = self.is_written(at);
        let mut n = SECTOR - at % SECTOR;
        while n < len && self.is_written(at + n) == written {
            n += SECTOR;
        }
        let n = n.min(len);
        let data = self.layout.data_start() * SECTOR;
        let (place, n) = if written {
            (Place::Overlay, n)
        } else if at < data {
            (Place::Head, n.min(data - at))
        } else {
            let size = self.layout.cluster_bytes();
            let cluster = u32::try_from((at - data) / size + 2).unwrap_or(u32::MAX);
            let within = (at - data) % size;
            let place = if self.layout.has_cluster(cluster) { Place::Cluster(cluster, within) } else { Place::Nothing };
            (place, n.min(size - within))
        };
        (place, usize::try_from(n).unwrap_or(0))
    }

    fn read_cluster(&mut self, cluster: u32, within: u64, into: &mut [u8]) -> Result<()> {
        into.fill(0);
        if let Some(bytes) = self.directories.get(&cluster) {
            let start = usize::try_from(within).unwrap_or(0);
            into.copy_from_slice(&bytes[start..start + into.len()]);
            return Ok(());
        }
        let Some(Source::File(index, number)) = self.sources.get(&cluster).copied() else { return Ok(()) };
        if self.open.as_ref().is_none_or(|(open, _)| *open != index) {
            self.open = Some((index, self.open_below(&self.mappings[index].path.clone(), OFlags::RDONLY)?));
        }
        let Some((_, file)) = &self.open else { return Ok(()) };
        let mut at = u64::from(number) * self.layout.cluster_bytes() + within;
        let mut rest = into;
        // The file may have become shorter; the rest reads as zeroes.
        while !rest.is_empty() {
            let n = file.read_at(rest, at)?;
            if n == 0 {
                break;
            }
            at += n as u64;
            rest = &mut rest[n..];
        }
        Ok(())
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&mut self, offset: u64, buf: &IoBuf) -> Result<()> {
        let overlay = self.overlay.as_ref().ok_or_else(|| Error::read_only("The directory is read-only"))?;
        overlay.write_all_at(&buf.to_vec(), offset)?;
        let first = sector_index(offset);
        for sector in first..first + buf.len() / SECTOR as usize {
            if let Some(word) = self.written.get_mut(sector / 64) {
                *word |= 1 << (sector % 64);
            }
        }
        Ok(())
    }
}

/// Where bytes of the disk are.
enum Place {
    Overlay,
    Head,
    Cluster(u32, u64),
    Nothing,
}

fn temporary_file() -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(std::env::temp_dir(), flags, Mode::from_raw_mode(0o600))
        .map_err(|e| Error::from(e).context("Could not create a temporary file for the guest's writes"))?;
    Ok(File::from(fd))
}

/// Lays out directories and files in clusters.
struct Builder<'a> {
    layout: Layout,
    fat: Vec<u8>,
    next: u32,
    volume: &'a mut Volume,
}

impl Builder<'_> {
    fn allocate(&mut self, count: u64) -> Result<Vec<u32>> {
        let first = self.next;
        let end = u64::from(first) + count;
        if end > self.layout.clusters + 2 {
            return Err(Error::invalid(format!(
                "Directory does not fit in FAT{} (capacity {:.2} MB)",
                match self.layout.fat_type {
                    FatType::Fat12 => 12,
                    FatType::Fat16 => 16,
                    FatType::Fat32 => 32,
                },
                (self.layout.clusters * self.layout.cluster_bytes()) as f64 / 1e6
            )));
        }
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        for cluster in first..end {
            let next = if cluster + 1 == end { self.layout.end_of_chain() } else { cluster + 1 };
            self.layout.set_fat_entry(&mut self.fat, cluster, next);
        }
        self.next = end;
        Ok((first..end).collect())
    }

    /// The first cluster of a directory that is filled later.
    fn reserve_directory(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// Gives a directory the clusters behind its first one.
    fn place_directory(&mut self, first: u32, mut bytes: Vec<u8>) -> Result<Vec<u32>> {
        let size = usize::try_from(self.layout.cluster_bytes()).unwrap_or(usize::MAX);
        bytes.resize(bytes.len().max(1).next_multiple_of(size), 0);
        let more = self.allocate((bytes.len() / size - 1) as u64)?;
        if !self.layout.has_cluster(first) {
            return Err(Error::invalid("The directory does not fit"));
        }
        let after = more.first().copied().unwrap_or(self.layout.end_of_chain());
        self.layout.set_fat_entry(&mut self.fat, first, after);
        let clusters: Vec<u32> = std::iter::once(first).chain(more).collect();
        for (cluster, part) in clusters.iter().zip(bytes.chunks(size)) {
            self.volume.directories.insert(*cluster, part.to_vec());
        }
        Ok(clusters)
    }

    /// The entries of a host directory; what it contains gets its clusters.
    fn fill(&mut self, host: &Path, path: &Path, own: u32, depth: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let mut names = ShortNames::default();
        let mut found: Vec<_> = std::fs::read_dir(host)
            .map_err(|e| Error::host(&e).context(format!("Could not read directory {}", host.display())))?
            .collect::<std::io::Result<_>>()?;
        found.sort_by_key(std::fs::DirEntry::file_name);
        for entry in found {
            let kind = entry.file_type()?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str().filter(|name| name.encode_utf16().count() <= 255) else {
                tracing::warn!("{}: the name can't be shown to the guest", entry.path().display());
                continue;
            };
            if depth >= MAX_DEPTH || !(kind.is_dir() || kind.is_file()) {
                tracing::warn!("{}: left out", entry.path().display());
                continue;
            }
            let details = entry.metadata()?;
            let time = details.modified().unwrap_or(UNIX_EPOCH);
            let below = path.join(name);
            if kind.is_dir() {
                let (first, clusters) = self.directory(&entry.path(), &below, own, depth, time)?;
                bytes.extend(directory::entries(&mut names, name, true, first, 0, time));
                self.volume.mappings.push(Mapping { path: below, is_directory: true, clusters, size: 0 });
            } else {
                let Ok(size) = u32::try_from(details.len()) else {
                    return Err(Error::too_big(format!("File {} is larger than 4 GB", entry.path().display())));
                };
                let clusters = self.allocate(u64::from(size).div_ceil(self.layout.cluster_bytes()))?;
                let first = clusters.first().copied().unwrap_or(0);
                bytes.extend(directory::entries(&mut names, name, false, first, size, time));
                self.volume.mappings.push(Mapping { path: below, is_directory: false, clusters, size });
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        host: &Path,
        path: &Path,
        parent: u32,
        depth: usize,
        time: SystemTime,
    ) -> Result<(u32, Vec<u32>)> {
        let own = self.reserve_directory();
        // The root is named 0 as a parent, even where it is in a cluster.
        let above = if depth == 0 { 0 } else { parent };
        let mut bytes = directory::dots(own, above, time).to_vec();
        self.fill(host, path, own, depth + 1, &mut bytes)?;
        let clusters = self.place_directory(own, bytes)?;
        Ok((own, clusters))
    }
}
