//! The L1 table and the cache of L2 slices: what a look-up needs, behind one lock that is held shortly and never over an
//! await.
//!
//! A slice is a part of an L2 table. Slices are changed only by the holder of the metadata lock, and written only by the
//! flush that gathered them; a slice that is dirty or being written is never evicted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::entry::{COPIED, Entry, Geometry, Kind, OFFSET_MASK};

/// One slice.
struct Slot {
    offset: u64,
    words: Box<[u64]>,
    dirty: bool,
    writing: bool,
    used: bool,
}

/// The L1 table and the cached slices.
pub struct Map {
    /// Decoded L1 entries.
    pub l1: Vec<u64>,
    l1_dirty: BTreeSet<usize>,
    slots: Vec<Slot>,
    by_offset: HashMap<u64, usize>,
    hand: usize,
    slice_bytes: u64,
    capacity: usize,
    dirty: usize,
    loading: HashMap<u64, Arc<Notify>>,
}

/// A run of guest bytes that are stored alike, and one after the other where they have a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How.
    pub kind: Kind,
    /// The host offset for kinds with a host cluster; the descriptor for compressed ones.
    pub host: u64,
    /// Guest bytes.
    pub len: u64,
    /// All of it belongs to this image alone.
    pub copied: bool,
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A run.
    Run(Run),
    /// The slice at this host offset is needed first.
    Missing(u64),
    /// The tables contradict themselves: the text for the user.
    Corrupt(String),
}

/// What is to be written of the mapping.
#[derive(Default)]
pub struct MapWrites {
    /// Slices: host offset and bytes.
    pub slices: Vec<(u64, Vec<u8>)>,
    /// Parts of the L1 table: byte offset in the table and bytes.
    pub l1: Vec<(u64, Vec<u8>)>,
}

/// L1 entries that are written at once: a sector of them.
const L1_CHUNK: usize = 64;

/// A number as `%#x` prints it: zero has no prefix.
pub fn hex(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}

/// Decodes big-endian words.
pub fn decode(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|b| u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect()
}

/// Encodes words, big-endian.
pub fn encode(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

impl Map {
    /// A map with this L1 table.
    pub fn new(l1: Vec<u64>, slice_bytes: u64, capacity: usize) -> Self {
        Self {
            l1,
            l1_dirty: BTreeSet::new(),
            slots: Vec::new(),
            by_offset: HashMap::new(),
            hand: 0,
            slice_bytes,
            capacity: capacity.max(2),
            dirty: 0,
            loading: HashMap::new(),
        }
    }

    /// Bytes of a slice.
    pub fn slice_bytes(&self) -> u64 {
        self.slice_bytes
    }

    /// Changes the limits. Everything must be clean.
    pub fn reset(&mut self, slice_bytes: u64, capacity: usize) {
        self.drop_slices();
        self.slice_bytes = slice_bytes;
        self.capacity = capacity.max(2);
    }

    /// Forgets all slices. Everything must be clean.
    pub fn drop_slices(&mut self) {
        self.slots.clear();
        self.by_offset.clear();
        self.hand = 0;
        self.dirty = 0;
    }

    /// Forgets clean slices that were not used since the last call.
    pub fn drop_unused(&mut self) {
        let mut kept = Vec::new();
        for mut slot in std::mem::take(&mut self.slots) {
            if slot.used || slot.dirty || slot.writing {
                slot.used = false;
                kept.push(slot);
            }
        }
        self.by_offset = kept.iter().enumerate().map(|(index, slot)| (slot.offset, index)).collect();
        self.slots = kept;
        self.hand = 0;
    }

    /// Forgets what is cached of the host cluster at `offset`, which is no L2 table any more.
    pub fn forget_table(&mut self, offset: u64, cluster_size: u64) {
        if !self.by_offset.keys().any(|at| *at >= offset && *at < offset + cluster_size) {
            return;
        }
        let slots = std::mem::take(&mut self.slots);
        for slot in slots {
            if slot.offset >= offset && slot.offset < offset + cluster_size {
                self.dirty -= usize::from(slot.dirty);
            } else {
                self.slots.push(slot);
            }
        }
        self.by_offset = self.slots.iter().enumerate().map(|(index, slot)| (slot.offset, index)).collect();
        self.hand = 0;
    }

    /// Whether so much is dirty that it should be written.
    pub fn under_pressure(&self) -> bool {
        self.slots.len() >= self.capacity && self.dirty * 2 > self.capacity
    }

    /// Whether anything waits to be written.
    pub fn is_dirty(&self) -> bool {
        self.dirty != 0 || !self.l1_dirty.is_empty()
    }

    /// Sets an L1 entry that is to be written.
    pub fn set_l1(&mut self, index: usize, value: u64) {
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = value;
            self.l1_dirty.insert(index / L1_CHUNK);
        }
    }

    /// Puts a table in for guest byte `offset` that was just written. What the offset needs of it is not read again.
    pub fn put_table(&mut self, geometry: &Geometry, offset: u64, entry: u64, content: &[u8]) {
        self.set_l1(usize::try_from(offset >> geometry.l1_shift()).unwrap_or(usize::MAX), entry);
        let Ok(Some((table, slice, _))) = self.locate(geometry, offset) else { return };
        let start = usize::try_from(slice - table).unwrap_or(usize::MAX);
        let rest = content.get(start..).unwrap_or_default();
        if let Some(bytes) = usize::try_from(self.slice_bytes).ok().and_then(|len| rest.get(..len)) {
            self.loaded(slice, bytes);
        }
    }

    /// Replaces the L1 table by one that is on disk already.
    pub fn replace_l1(&mut self, l1: Vec<u64>) {
        self.l1 = l1;
        self.l1_dirty.clear();
    }

    fn slot_of(&mut self, offset: u64) -> Option<&mut Slot> {
        let index = *self.by_offset.get(&offset)?;
        let slot = self.slots.get_mut(index)?;
        slot.used = true;
        Some(slot)
    }

    /// Where the entry for guest byte `offset` is: the L2 table, the slice and the index of the entry in the slice.
    /// `None` if there is no table.
    pub fn locate(&self, geometry: &Geometry, offset: u64) -> Result<Option<(u64, u64, usize)>, String> {
        let index = offset >> geometry.l1_shift();
        let entry = usize::try_from(index).ok().and_then(|index| self.l1.get(index)).copied().unwrap_or(0);
        let table = entry & OFFSET_MASK;
        if table == 0 {
            return Ok(None);
        }
        if table & (geometry.cluster_size() - 1) != 0 {
            return Err(format!("L2 table offset {table:#x} unaligned (L1 index: {})", hex(index)));
        }
        let l2_index = (offset >> geometry.cluster_bits) & ((1 << geometry.l2_bits()) - 1);
        let byte = l2_index * geometry.entry_bytes();
        let slice = table + byte / self.slice_bytes * self.slice_bytes;
        let in_slice = usize::try_from(byte % self.slice_bytes / geometry.entry_bytes()).unwrap_or(0);
        Ok(Some((table, slice, in_slice)))
    }

    /// The run that starts at guest byte `offset`, at most `max` bytes long. With `exclusive`, a run is either all
    /// this image's own or not at all.
    pub fn find(&mut self, geometry: &Geometry, offset: u64, max: u64, exclusive: bool) -> Found {
        let (_, slice, mut index) = match self.locate(geometry, offset) {
            Err(text) => return Found::Corrupt(text),
            Ok(Some(place)) => place,
            Ok(None) => {
                let span = 1u64 << geometry.l1_shift();
                let len = (span - (offset & (span - 1))).min(max);
                return Found::Run(Run { kind: Kind::Unallocated, host: 0, len, copied: false });
            }
        };
        let Some(slot) = self.slot_of(slice) else { return Found::Missing(slice) };
        let words = geometry.entry_words();
        let sub_bits = geometry.subcluster_bits();
        let sub_size = geometry.subcluster_size();
        let mut run: Option<Run> = None;
        let mut at = offset;
        while at < offset.saturating_add(max) {
            let Some(raw) = slot.words.get(index * words..index * words + words) else { break };
            let entry = Entry { word: raw[0], bitmap: if words == 2 { raw[1] } else { 0 } };
            let in_cluster = geometry.in_cluster(at);
            let sub = u32::try_from(in_cluster >> sub_bits).unwrap_or(0);
            let Some(kind) = geometry.kind(entry, sub) else {
                // As QEMU writes it: with two spaces where it reads.
                let space = if exclusive { "" } else { " " };
                return Found::Corrupt(format!(
                    "Invalid cluster entry found {space}(L2 offset: {slice:#x}, L2 index: {})",
                    hex(index as u64)
                ));
            };
            let host = match kind {
                Kind::Compressed => entry.word,
                Kind::Unallocated | Kind::ZeroPlain => 0,
                _ => {
                    let host = entry.word & OFFSET_MASK;
                    if geometry.in_cluster(host) != 0 {
                        return Found::Corrupt(format!(
                            "Cluster allocation offset {host:#x} unaligned (L2 offset: {slice:#x}, L2 index: {})",
                            hex(index as u64)
                        ));
                    }
                    host + in_cluster
                }
            };
            let len = if kind == Kind::Compressed {
                geometry.cluster_size() - in_cluster
            } else {
                sub_size - (at & (sub_size - 1))
            };
            let copied = entry.word & COPIED != 0;
            match &mut run {
                None => run = Some(Run { kind, host, len, copied }),
                Some(run) => {
                    let follows = match kind {
                        Kind::Compressed => false,
                        Kind::Unallocated | Kind::ZeroPlain => true,
                        _ => run.kind != Kind::Compressed && run.host + run.len == host,
                    };
                    if run.kind != kind || !follows || (exclusive && run.copied != copied) {
                        break;
                    }
                    run.len += len;
                    run.copied &= copied;
                }
            }
            at += len;
            if geometry.in_cluster(at) == 0 {
                index += 1;
            }
        }
        match run {
            Some(mut run) => {
                run.len = run.len.min(max);
                Found::Run(run)
            }
            None => Found::Corrupt(format!("No entry in the L2 slice at {slice:#x}")),
        }
    }

    /// The entry for guest byte `offset`; the default if there is no table.
    pub fn entry(&mut self, geometry: &Geometry, offset: u64) -> Result<Entry, Found> {
        let Some((_, slice, index)) = self.locate(geometry, offset).map_err(Found::Corrupt)? else {
            return Ok(Entry::default());
        };
        let words = geometry.entry_words();
        let slot = self.slot_of(slice).ok_or(Found::Missing(slice))?;
        let raw = slot.words.get(index * words..index * words + words).ok_or(Found::Missing(slice))?;
        Ok(Entry { word: raw[0], bitmap: if words == 2 { raw[1] } else { 0 } })
    }

    /// Changes the entry for guest byte `offset`, whose slice must be cached.
    pub fn set_entry(&mut self, geometry: &Geometry, offset: u64, entry: Entry) -> Result<(), Found> {
        let Some((_, slice, index)) = self.locate(geometry, offset).map_err(Found::Corrupt)? else {
            return Err(Found::Corrupt(format!("There is no L2 table for offset {offset:#x}")));
        };
        let words = geometry.entry_words();
        let slot = self.slot_of(slice).ok_or(Found::Missing(slice))?;
        let raw = slot.words.get_mut(index * words..index * words + words).ok_or(Found::Missing(slice))?;
        raw[0] = entry.word;
        if words == 2 {
            raw[1] = entry.bitmap;
        }
        if !slot.dirty {
            slot.dirty = true;
            self.dirty += 1;
        }
        Ok(())
    }

    /// Starts loading a slice. `None`: the caller loads it and calls [`Map::loaded`] or [`Map::load_failed`];
    /// otherwise somebody else does, and notifies.
    pub fn start_load(&mut self, slice: u64) -> Option<Arc<Notify>> {
        match self.loading.get(&slice) {
            Some(notify) => Some(Arc::clone(notify)),
            None => {
                self.loading.insert(slice, Arc::new(Notify::new()));
                None
            }
        }
    }

    /// Whether the slice is cached.
    pub fn contains(&self, slice: u64) -> bool {
        self.by_offset.contains_key(&slice)
    }

    /// Whether the slice is being loaded.
    pub fn is_loading(&self, slice: u64) -> bool {
        self.loading.contains_key(&slice)
    }

    /// Ends a load that failed.
    pub fn load_failed(&mut self, slice: u64) {
        if let Some(notify) = self.loading.remove(&slice) {
            notify.notify_waiters();
        }
    }

    /// Ends a load.
    pub fn loaded(&mut self, slice: u64, bytes: &[u8]) {
        if !self.by_offset.contains_key(&slice) {
            self.insert(slice, decode(bytes), false);
        }
        self.load_failed(slice);
    }

    /// Puts a slice into the cache.
    fn insert(&mut self, offset: u64, words: Vec<u64>, dirty: bool) {
        self.dirty += usize::from(dirty);
        let slot = Slot { offset, words: words.into_boxed_slice(), dirty, writing: false, used: true };
        if self.slots.len() >= self.capacity
            && let Some(victim) = self.victim()
        {
            self.by_offset.remove(&self.slots[victim].offset);
            self.slots[victim] = slot;
            self.by_offset.insert(offset, victim);
            return;
        }
        // Everything is dirty: grow, and let the next flush shrink it.
        self.by_offset.insert(offset, self.slots.len());
        self.slots.push(slot);
    }

    fn victim(&mut self) -> Option<usize> {
        for _ in 0..self.slots.len() * 2 {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if slot.dirty || slot.writing {
                continue;
            }
            if !slot.used {
                return Some(self.hand);
            }
            slot.used = false;
        }
        None
    }

    /// Takes a copy of everything dirty and marks it as being written.
    pub fn gather(&mut self) -> MapWrites {
        let mut writes = MapWrites::default();
        for slot in &mut self.slots {
            if slot.dirty {
                slot.dirty = false;
                slot.writing = true;
                writes.slices.push((slot.offset, encode(&slot.words)));
            }
        }
        self.dirty = 0;
        for chunk in std::mem::take(&mut self.l1_dirty) {
            let start = chunk * L1_CHUNK;
            let end = (start + L1_CHUNK).min(self.l1.len());
            if let Some(entries) = self.l1.get(start..end) {
                writes.l1.push((start as u64 * 8, encode(entries)));
            }
        }
        writes.slices.sort_by_key(|(offset, _)| *offset);
        writes
    }

    /// Ends a write of what was gathered; on failure everything is dirty again.
    pub fn written(&mut self, writes: &MapWrites, success: bool) {
        for (offset, _) in &writes.slices {
            if let Some(index) = self.by_offset.get(offset)
                && let Some(slot) = self.slots.get_mut(*index)
            {
                slot.writing = false;
                if !success && !slot.dirty {
                    slot.dirty = true;
                    self.dirty += 1;
                }
            }
        }
        if !success {
            let chunks = writes.l1.iter().map(|(at, _)| usize::try_from(*at / 8).unwrap_or(0) / L1_CHUNK);
            self.l1_dirty.extend(chunks);
        }
        if self.slots.len() > self.capacity {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        let mut excess = self.slots.len() - self.capacity;
        let slots = std::mem::take(&mut self.slots);
        for slot in slots {
            if excess > 0 && !slot.dirty && !slot.writing {
                excess -= 1;
            } else {
                self.slots.push(slot);
            }
        }
        self.by_offset = self.slots.iter().enumerate().map(|(index, slot)| (slot.offset, index)).collect();
        self.hand = 0;
    }
}
