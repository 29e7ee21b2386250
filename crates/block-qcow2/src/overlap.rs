//! Which host clusters hold metadata: nothing else is ever written there.

use std::collections::{HashMap, HashSet};

use block::Result;

use crate::entry::OFFSET_MASK;
use crate::image::{Image, Meta, change, read};
use crate::refcount::REFTABLE_OFFSET;

/// The sections of metadata: bit numbers of the mask of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Section {
    /// The header.
    MainHeader,
    /// The L1 table.
    ActiveL1,
    /// L2 tables.
    ActiveL2,
    /// Refcount blocks.
    RefcountBlock,
    /// The refcount table.
    RefcountTable,
    /// The snapshot table.
    SnapshotTable,
    /// L1 tables of snapshots.
    InactiveL1,
    /// L2 tables of snapshots.
    InactiveL2,
    /// The bitmap directory.
    BitmapDirectory,
}

impl Section {
    /// All of them, with their option names.
    pub const ALL: [(Section, &'static str, &'static str); 9] = [
        (Section::MainHeader, "main-header", "qcow2_header"),
        (Section::ActiveL1, "active-l1", "active L1 table"),
        (Section::ActiveL2, "active-l2", "active L2 table"),
        (Section::RefcountBlock, "refcount-block", "refcount block"),
        (Section::RefcountTable, "refcount-table", "refcount table"),
        (Section::SnapshotTable, "snapshot-table", "snapshot table"),
        (Section::InactiveL1, "inactive-l1", "inactive L1 table"),
        (Section::InactiveL2, "inactive-l2", "inactive L2 table"),
        (Section::BitmapDirectory, "bitmap-directory", "bitmap directory"),
    ];

    /// The section's bit in a mask.
    pub fn bit(self) -> u16 {
        1 << self as u8
    }

    /// The section's name in messages.
    fn text(self) -> &'static str {
        Self::ALL.iter().find(|(section, ..)| *section == self).map_or("metadata", |(_, _, text)| text)
    }
}

/// The clusters of metadata.
#[derive(Default)]
pub struct Overlap {
    /// Single clusters: L2 tables and refcount blocks.
    clusters: HashMap<u64, Section>,
    /// Tables of many clusters, by their first cluster: it, the one behind the last, the section, and the highest end up
    /// to here.
    ranges: Vec<(u64, u64, Section, u64)>,
}

impl Overlap {
    fn set_ranges(&mut self, mut ranges: Vec<(u64, u64, Section)>) {
        ranges.sort_by_key(|(start, ..)| *start);
        let mut highest = 0;
        self.ranges.clear();
        for (start, end, section) in ranges {
            highest = end.max(highest);
            self.ranges.push((start, end, section, highest));
        }
    }

    /// The section that one of the clusters `first..=last` belongs to.
    fn hit(&self, first: u64, last: u64, mask: u16) -> Option<Section> {
        let single = (first..=last)
            .find_map(|cluster| self.clusters.get(&cluster).filter(|section| mask & section.bit() != 0).copied());
        if single.is_some() {
            return single;
        }
        let before = self.ranges.partition_point(|(start, ..)| *start <= last);
        let candidates = self.ranges[..before].iter().rev().take_while(|(.., highest)| *highest > first);
        candidates.filter(|(_, end, section, _)| *end > first && mask & section.bit() != 0).map(|range| range.2).next()
    }
}

impl Image {
    /// Collects the clusters of metadata anew; for when an image is put together.
    pub(crate) fn rebuild_overlap(&self) {
        if let Ok(meta) = self.meta.try_lock() {
            self.rebuild_table_overlap(&meta);
        }
    }

    /// Collects the clusters of metadata anew.
    pub(crate) fn rebuild_table_overlap(&self, meta: &Meta) {
        let bits = self.geometry().cluster_bits;
        let size = self.cluster_size();
        let mut clusters = HashMap::new();
        let mut ranges = Vec::new();
        let mut range = |offset: u64, bytes: u64, section: Section| {
            ranges.push((offset >> bits, (offset.saturating_add(bytes)).div_ceil(size), section));
        };
        range(0, 1, Section::MainHeader);
        let header = self.header();
        range(header.l1_offset, u64::from(header.l1_size) * 8, Section::ActiveL1);
        let (table, table_clusters) = meta.refs.table_place();
        range(table, table_clusters << bits, Section::RefcountTable);
        let snapshot_bytes = read(&self.snapshots, |all| {
            for snapshot in all {
                range(snapshot.l1_offset, u64::from(snapshot.l1_size) * 8, Section::InactiveL1);
            }
            crate::snapshot::table_len(all)
        });
        if header.nb_snapshots > 0 {
            range(header.snapshots_offset, snapshot_bytes, Section::SnapshotTable);
        }
        if let Some(bitmaps) = header.bitmaps {
            range(bitmaps.offset, bitmaps.size, Section::BitmapDirectory);
        }
        for entry in meta.refs.table() {
            if entry & REFTABLE_OFFSET != 0 {
                clusters.insert((entry & REFTABLE_OFFSET) >> bits, Section::RefcountBlock);
            }
        }
        for entry in &self.map().l1 {
            if entry & OFFSET_MASK != 0 {
                clusters.insert((entry & OFFSET_MASK) >> bits, Section::ActiveL2);
            }
        }
        change(&self.overlap, |overlap| {
            overlap.clusters = clusters;
            overlap.set_ranges(ranges);
        });
    }

    /// Adds the L2 tables of snapshots, which are not cached.
    pub(crate) async fn add_inactive_l2(&self) -> Result<()> {
        let bits = self.geometry().cluster_bits;
        if !read(&self.run, |run| run.overlap & Section::InactiveL2.bit() != 0) {
            return Ok(());
        }
        let mut tables = HashSet::new();
        for snapshot in read(&self.snapshots, Clone::clone) {
            for entry in self.read_l1(snapshot.l1_offset, snapshot.l1_size).await? {
                tables.insert((entry & OFFSET_MASK) >> bits);
            }
        }
        tables.remove(&0);
        change(&self.overlap, |overlap| {
            for table in tables {
                overlap.clusters.entry(table).or_insert(Section::InactiveL2);
            }
        });
        Ok(())
    }

    /// Notes new refcount blocks and tables.
    pub(crate) fn note_made(&self, meta: &mut Meta) {
        let made = meta.refs.take_made();
        if !made.is_empty() {
            change(&self.overlap, |overlap| {
                overlap.clusters.extend(made.into_iter().map(|cluster| (cluster, Section::RefcountBlock)));
            });
        }
    }

    /// Notes a new table.
    pub(crate) fn note_overlap(&self, offset: u64, section: Section) {
        let cluster = offset >> self.geometry().cluster_bits;
        change(&self.overlap, |overlap| overlap.clusters.insert(cluster, section));
    }

    /// The cluster is no metadata any more.
    pub(crate) fn forget_overlap(&self, cluster: u64) {
        change(&self.overlap, |overlap| overlap.clusters.remove(&cluster));
    }

    /// Refuses a write of data to `offset .. offset + len` of the image file if it hits metadata.
    pub(crate) async fn check_overlap(&self, offset: u64, len: u64) -> Result<()> {
        if self.has_data_file() || len == 0 {
            return Ok(());
        }
        let mask = read(&self.run, |run| run.overlap);
        if mask == 0 {
            return Ok(());
        }
        let bits = self.geometry().cluster_bits;
        let hit = read(&self.overlap, |overlap| overlap.hit(offset >> bits, (offset + len - 1) >> bits, mask));
        match hit {
            None => Ok(()),
            Some(section) => {
                let text = format!("Preventing invalid write on metadata (overlaps with {})", section.text());
                Err(self.corrupt_at(&text, Some((offset, len))).await)
            }
        }
    }

    /// Refuses newly allocated clusters that can't be free.
    pub(crate) async fn check_allocation(&self, offset: u64, len: u64, what: &str) -> Result<()> {
        if offset == 0 {
            let text = format!("Preventing invalid allocation of {what} at offset 0");
            return Err(self.corrupt(&text).await);
        }
        self.check_overlap(offset, len).await
    }
}
