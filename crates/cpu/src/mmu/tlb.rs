//! The translation look-aside buffer of one vCPU.
//!
//! Two levels. The first is what accesses (and translated code) look up inline: direct-mapped tables of 8192 pages, one
//! for each class of access (supervisor, user, supervisor with AC set under SMAP), with host pointers. A log of the
//! slots that were filled makes dropping them cheap; pages that are global stay when CR3 changes. The second keeps
//! translations (physical page and rights) under the generation of their PCID or of the global pages; a CR3 write
//! therefore empties only the first level, and INVPCID or a CR3 write without bit 63 takes a new generation for one PCID.
//!
//! What fetching knows (its cached pages, and links between blocks, which hold under an *epoch*) belongs to a [`Space`]:
//! the lower half of the address space under one PCID. A CR3 write that keeps translations finds the epoch again that
//! it left. INVLPG changes the epoch only if the page may have been fetched from.
//!
//! Large pages are kept as their 4 KiB pieces. Sets remember where large pages were used, so that INVLPG of any address
//! in one finds out that it must drop more than one piece.
//!
//! Pages of device memory, and pages with an armed data breakpoint, never enter the first level.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use memory::{Backing, FlatView, RamBlock};

use codemem::LowBox;

use super::host::{DataEntry, Tables};
use crate::block::KeyHasher;

/// Entries of one first-level table: enough for 32 MiB.
pub(crate) const SLOTS: usize = 8192;
/// Filled slots that are remembered; after more, everything is dropped at once.
const LOG: usize = 8192;
const FETCH_SLOTS: usize = 512;
const SECOND_SLOTS: usize = 32768;
/// Generations of the fetch side fit into the offset bits of a tag; 0 is never one.
const LAST_GENERATION: u64 = 0xfff;
/// Address spaces whose epochs are kept.
const SPACES: usize = 16;
/// Words of the hashes of pages that were fetched from.
const FETCHED: usize = 256;
/// Regions with large pages that are remembered one by one.
const LARGE_REGIONS: usize = 1 << 14;
/// Log2 of the size of a region that holds large pages: the larger of the two sizes.
const LARGE_SHIFT: u32 = 22;
const HUGE_SHIFT: u32 = 30;

/// Rights and properties of a translation.
pub(crate) mod rights {
    /// Writable at all levels.
    pub(crate) const WRITE: u64 = 1;
    /// User page at all levels.
    pub(crate) const USER: u64 = 2;
    /// Not executable at some level.
    pub(crate) const NO_EXECUTE: u64 = 4;
    /// The dirty bit is set.
    pub(crate) const DIRTY: u64 = 8;
    /// A global page.
    pub(crate) const GLOBAL: u64 = 16;
    /// A piece of a 2 MiB or 4 MiB page.
    pub(crate) const LARGE: u64 = 32;
    /// A piece of a 1 GiB page.
    pub(crate) const HUGE: u64 = 64;
}

/// The class of an access; selects a first-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// CPL 0–2, or an implicit access to a system structure.
    Supervisor = 0,
    /// CPL 3.
    User = 1,
    /// An explicit access at CPL 0–2 with RFLAGS.AC set while CR4.SMAP is set.
    SupervisorAc = 2,
    /// CPL 3 with alignment checks: never in the first level.
    UserAligned = 3,
}

/// Where a page's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamPage {
    /// Names the block: see [`Tlb::block`].
    pub block: u16,
    /// Offset of the page in the block.
    pub offset: usize,
    /// Stores are dropped.
    pub read_only: bool,
}

/// A page that code is fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePage {
    /// Physical address of the page.
    pub phys: u64,
    /// Its bytes; `None` for device memory (and for pages that only partly are RAM).
    pub ram: Option<RamPage>,
}

#[derive(Clone, Copy)]
struct FetchEntry {
    tag: u64,
    page: CodePage,
}

#[derive(Clone, Copy, Default)]
struct SecondEntry {
    /// Linear page; low bits 1 when in use.
    page: u64,
    generation: u64,
    /// Physical page and rights.
    target: u64,
}

/// A translation with its rights: see [`rights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Physical address of the page.
    pub(crate) phys: u64,
    pub(crate) rights: u64,
}

/// What fetching from half of the address space knows.
#[derive(Clone, Copy)]
struct Space {
    /// The generation of the second level that it belongs to; 0: none.
    owner: u64,
    /// See [`Tlb::epoch`].
    epoch: u32,
    /// In the tags of the fetch side.
    generation: u64,
    /// Hashes of the pages that were fetched from since the epoch began.
    fetched: [u64; FETCHED],
}

impl Space {
    const EMPTY: Self = Self { owner: 0, epoch: 0, generation: 0, fetched: [0; FETCHED] };

    fn note(&mut self, linear: u64) {
        let (word, bit) = hash_bit(linear >> 12);
        self.fetched[word] |= bit;
    }

    fn may_have_fetched(&self, linear: u64) -> bool {
        let (word, bit) = hash_bit(linear >> 12);
        self.fetched[word] & bit != 0
    }
}

/// Regions of the address space in which large pages were used.
#[derive(Default)]
struct Regions {
    known: HashSet<u64, BuildHasherDefault<KeyHasher>>,
    /// There were too many.
    all: bool,
}

impl Regions {
    fn note(&mut self, region: u64) {
        if !self.all && self.known.insert(region) && self.known.len() > LARGE_REGIONS {
            self.all = true;
            self.known = HashSet::default();
        }
    }

    fn clear(&mut self) {
        self.known.clear();
        self.all = false;
    }
}

/// The guest-physical map as this vCPU last saw it.
struct Map {
    view: Arc<FlatView>,
    blocks: Vec<Arc<RamBlock>>,
    generation: u64,
    /// Index of the range of the last look-up.
    last: usize,
}

/// The TLB.
pub struct Tlb {
    tables: LowBox<Tables>,
    /// First-level slots with pages that are not global, and those with global ones: class and slot.
    filled: Vec<u16>,
    filled_global: Vec<u16>,
    fetch: Box<[[FetchEntry; FETCH_SLOTS]; 2]>,
    /// Empty until the first translation: a vCPU that never runs costs its host little.
    second: Vec<SecondEntry>,
    /// The last epoch, and the last generation in tags of the fetch side, that were taken.
    last_epoch: u32,
    last_generation: u64,
    /// The upper half of the address space.
    upper: Space,
    /// Lower halves, by the low bits of their PCIDs.
    spaces: Box<[Space; SPACES]>,
    /// The one that is current.
    space: usize,
    /// A page in the upper half of the address space that is not global was fetched from.
    upper_not_global: bool,
    /// A global page in the lower half was fetched from: it belongs to all spaces.
    lower_global: bool,
    /// Class of explicit data accesses now.
    class: Class,
    /// Never reused generations for the second level.
    next_generation: u64,
    global_generation: u64,
    pcid_generations: Box<[u64]>,
    current: u64,
    large: Regions,
    huge: Regions,
    map: Map,
    /// Whether physical addresses have bit 20.
    pub(crate) a20: bool,
}

fn hash_bit(key: u64) -> (usize, u64) {
    let hash = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as usize;
    (hash >> 6 & (FETCHED - 1), 1 << (hash & 63))
}

fn second_slot(page: u64) -> usize {
    let number = page >> 12;
    ((number ^ (number >> 13)) as usize) & (SECOND_SLOTS - 1)
}

impl Tlb {
    /// An empty TLB without a map.
    pub(crate) fn new() -> Self {
        let nowhere = FetchEntry { tag: 0, page: CodePage { phys: 0, ram: None } };
        let map = Map { view: Arc::default(), blocks: Vec::new(), generation: u64::MAX, last: 0 };
        let mut tlb = Self {
            tables: Tables::new(),
            filled: Vec::new(),
            filled_global: Vec::new(),
            last_epoch: 0,
            last_generation: 0,
            upper: Space::EMPTY,
            spaces: Box::new([Space::EMPTY; SPACES]),
            space: 0,
            upper_not_global: false,
            lower_global: false,
            fetch: Box::new([[nowhere; FETCH_SLOTS]; 2]),
            second: Vec::new(),
            class: Class::Supervisor,
            next_generation: 3,
            global_generation: 1,
            pcid_generations: vec![0; 4096].into_boxed_slice(),
            current: 2,
            large: Regions::default(),
            huge: Regions::default(),
            map,
            a20: true,
        };
        tlb.renew_upper();
        tlb.renew_lower();
        tlb
    }

    /// The class of explicit data accesses.
    #[inline(always)]
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    pub(crate) fn set_class(&mut self, class: Class) {
        self.class = class;
    }

    /// Counts how often translations for fetching from the half of the address space that holds `linear` may have
    /// changed: links between blocks of different pages hold under the epoch that they were checked in.
    #[inline(always)]
    #[must_use]
    pub fn epoch(&self, linear: u64) -> u32 {
        self.tables.epochs[(linear >> 63) as usize]
    }

    /// Where translated code finds the tables.
    pub(crate) fn tables(&self) -> &LowBox<Tables> {
        &self.tables
    }

    fn new_epoch(&mut self) -> u32 {
        self.last_epoch = self.last_epoch.wrapping_add(1);
        self.last_epoch
    }

    /// Nothing counts that fetching knows of the lower half under other PCIDs.
    fn disown_others(&mut self) {
        let current = self.space;
        self.spaces.iter_mut().enumerate().filter(|(n, _)| *n != current).for_each(|(_, space)| space.owner = 0);
    }

    /// A generation for tags of the fetch side; when they are used up, nothing that was cached counts any longer.
    fn new_fetch_generation(&mut self) -> u64 {
        if self.last_generation == LAST_GENERATION {
            self.fetch.as_flattened_mut().iter_mut().for_each(|entry| entry.tag = 0);
            let current = self.space;
            self.disown_others();
            (self.upper.generation, self.spaces[current].generation) = (1, 2);
            self.last_generation = 2;
        }
        self.last_generation += 1;
        self.last_generation
    }

    /// Nothing counts that fetching knows of the upper half.
    fn renew_upper(&mut self) {
        let (epoch, generation) = (self.new_epoch(), self.new_fetch_generation());
        self.upper = Space { owner: 0, epoch, generation, fetched: [0; FETCHED] };
        self.upper_not_global = false;
        self.tables.epochs[1] = epoch;
    }

    /// Nothing counts that fetching knows of the lower half under the current PCID.
    fn renew_lower(&mut self) {
        let (epoch, generation) = (self.new_epoch(), self.new_fetch_generation());
        self.spaces[self.space] = Space { owner: self.current, epoch, generation, fetched: [0; FETCHED] };
        self.tables.epochs[0] = epoch;
    }

    /// Nothing counts that fetching knows.
    fn renew_all(&mut self) {
        self.lower_global = false;
        self.spaces.iter_mut().for_each(|space| space.owner = 0);
        self.renew_upper();
        self.renew_lower();
    }

    /// The space of an address.
    #[inline(always)]
    fn space_of(&self, linear: u64) -> &Space {
        if linear >> 63 != 0 { &self.upper } else { &self.spaces[self.space] }
    }

    /// The page at `linear` is no longer what it was: links of its half do not hold if it was fetched from.
    fn forget_fetched(&mut self, linear: u64) {
        if !self.space_of(linear).may_have_fetched(linear) {
            return;
        }
        let epoch = self.new_epoch();
        let upper = linear >> 63 != 0;
        if upper {
            self.upper.epoch = epoch;
        } else {
            self.spaces[self.space].epoch = epoch;
        }
        self.tables.epochs[usize::from(upper)] = epoch;
    }

    /// The entry for an access that begins at `linear`.
    #[inline(always)]
    pub(crate) fn slot(&self, linear: u64, class: Class) -> &DataEntry {
        &self.tables.data[class as usize & 3][(linear >> 12) as usize & (SLOTS - 1)]
    }

    /// The cached page for fetching at `linear`.
    #[inline(always)]
    pub(crate) fn fetch_lookup(&self, linear: u64, user: bool) -> Option<CodePage> {
        let entry = &self.fetch[usize::from(user)][(linear >> 12) as usize & (FETCH_SLOTS - 1)];
        (entry.tag == (linear & !0xfff) | self.space_of(linear).generation).then_some(entry.page)
    }

    pub(crate) fn fetch_fill(&mut self, linear: u64, user: bool, page: CodePage, global: bool) {
        let upper = linear >> 63 != 0;
        self.upper_not_global |= !global && upper;
        self.lower_global |= global && !upper;
        let space = if upper { &mut self.upper } else { &mut self.spaces[self.space] };
        space.note(linear);
        let tag = (linear & !0xfff) | space.generation;
        self.fetch[usize::from(user)][(linear >> 12) as usize & (FETCH_SLOTS - 1)] = FetchEntry { tag, page };
    }

    /// Enters a page into the first level for `class`.
    pub(crate) fn data_fill(&mut self, linear: u64, class: Class, page: RamPage, writable: bool, global: bool) {
        let Some(block) = self.map.blocks.get(usize::from(page.block)) else { return };
        let slot = (linear >> 12) as usize & (SLOTS - 1);
        let entry = &mut self.tables.data[class as usize & 3][slot];
        entry.fill(slot, block, page.offset, linear & !0xfff, writable && !page.read_only);
        let log = if global { &mut self.filled_global } else { &mut self.filled };
        if log.len() <= LOG {
            log.push((class as u16 & 3) << 13 | slot as u16);
        }
    }

    /// The translation of a page in the second level.
    pub(crate) fn second_lookup(&self, linear: u64) -> Option<Translation> {
        let page = linear & !0xfff;
        let entry = self.second.get(second_slot(page))?;
        let global = entry.target & rights::GLOBAL != 0;
        let generation = if global { self.global_generation } else { self.current };
        (entry.page == page | 1 && entry.generation == generation)
            .then_some(Translation { phys: entry.target & !0xfff, rights: entry.target & 0xfff })
    }

    /// Keeps a translation.
    pub(crate) fn second_fill(&mut self, linear: u64, translation: Translation) {
        let page = linear & !0xfff;
        if translation.rights & rights::LARGE != 0 {
            self.large.note(linear >> LARGE_SHIFT);
        }
        if translation.rights & rights::HUGE != 0 {
            self.huge.note(linear >> HUGE_SHIFT);
        }
        let global = translation.rights & rights::GLOBAL != 0;
        let generation = if global { self.global_generation } else { self.current };
        if self.second.is_empty() {
            self.second = vec![SecondEntry::default(); SECOND_SLOTS];
        }
        self.second[second_slot(page)] =
            SecondEntry { page: page | 1, generation, target: translation.phys | translation.rights };
    }

    /// Drops the first level.
    pub(crate) fn flush_first(&mut self) {
        self.renew_all();
        if self.filled.len() > LOG || self.filled_global.len() > LOG {
            self.tables.clear();
        } else {
            self.clear_filled();
            for entry in std::mem::take(&mut self.filled_global) {
                self.clear_entry(entry);
            }
        }
        self.filled.clear();
        self.filled_global.clear();
    }

    /// Drops data that is not global from the first level.
    fn flush_data_not_global(&mut self) {
        if self.filled.len() > LOG {
            self.tables.clear();
            self.filled_global.clear();
        } else {
            self.clear_filled();
        }
        self.filled.clear();
    }

    fn clear_filled(&mut self) {
        for index in 0..self.filled.len() {
            self.clear_entry(self.filled[index]);
        }
    }

    fn clear_entry(&mut self, entry: u16) {
        let slot = usize::from(entry) & (SLOTS - 1);
        self.tables.data[usize::from(entry >> 13) & 3][slot].clear(slot);
    }

    /// Drops the entry of the first level that stands for the page at `linear`, if there is one.
    pub(crate) fn drop_data(&mut self, linear: u64, class: Class) {
        let slot = (linear >> 12) as usize & (SLOTS - 1);
        let entry = &mut self.tables.data[class as usize & 3][slot];
        if entry.is_page(linear & !0xfff) {
            entry.clear(slot);
        }
    }

    fn new_generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }

    /// Drops everything, global pages too.
    pub(crate) fn flush_all(&mut self) {
        self.flush_first();
        self.global_generation = self.new_generation();
        self.pcid_generations.fill(0);
        self.current = self.new_generation();
        self.spaces[self.space].owner = self.current;
        self.large.clear();
        self.huge.clear();
    }

    /// Makes `pcid` current; its translations survive when `keep`, else they are dropped (global ones never).
    pub(crate) fn switch(&mut self, pcid: u16, keep: bool) {
        self.flush_data_not_global();
        let index = usize::from(pcid & 0xfff);
        if !keep || self.pcid_generations[index] == 0 {
            self.pcid_generations[index] = self.new_generation();
        }
        self.current = self.pcid_generations[index];
        self.space = index & (SPACES - 1);
        let space = &self.spaces[self.space];
        if space.owner == self.current && !self.lower_global {
            self.tables.epochs[0] = space.epoch;
        } else {
            self.renew_lower();
        }
        if self.upper_not_global {
            self.renew_upper();
        }
    }

    /// Drops the translations of one PCID except the global ones.
    pub(crate) fn flush_pcid(&mut self, pcid: u16, current: u16) {
        self.pcid_generations[usize::from(pcid & 0xfff)] = 0;
        if pcid == current {
            self.switch(pcid, false);
        }
    }

    /// Drops the translations of all PCIDs except the global ones.
    pub(crate) fn flush_non_global(&mut self, current: u16) {
        self.pcid_generations.fill(0);
        self.switch(current, false);
    }

    /// Drops one page for the current PCID, global or not; more when it may be part of a large page.
    pub(crate) fn flush_page(&mut self, linear: u64, current: u16) {
        let page = linear & !0xfff;
        if self.huge.all || self.large.all || self.huge.known.contains(&(linear >> HUGE_SHIFT)) {
            self.global_generation = self.new_generation();
            self.flush_first();
            self.flush_non_global(current);
            self.large.clear();
            self.huge.clear();
            return;
        }
        if self.large.known.remove(&(linear >> LARGE_SHIFT)) {
            // The region is forgotten, so that no other space may count on pieces of its pages.
            self.disown_others();
            let first = linear >> LARGE_SHIFT << LARGE_SHIFT;
            for page in (first..=first | ((1 << LARGE_SHIFT) - 1)).step_by(0x1000) {
                self.drop_page(page);
            }
        } else {
            self.drop_page(page);
        }
    }

    /// Drops one page, global or not; those of other PCIDs may go too.
    fn drop_page(&mut self, page: u64) {
        self.forget_fetched(page);
        let slot = (page >> 12) as usize & (SLOTS - 1);
        for table in &mut self.tables.data {
            if table[slot].is_page(page) {
                table[slot].clear(slot);
            }
        }
        for table in self.fetch.iter_mut() {
            table[(page >> 12) as usize & (FETCH_SLOTS - 1)].tag = 0;
        }
        if let Some(second) = self.second.get_mut(second_slot(page))
            && second.page == page | 1
        {
            second.page = 0;
        }
    }

    /// Whether the map is the one of this generation.
    #[inline]
    pub(crate) fn map_is(&self, generation: u64) -> bool {
        self.map.generation == generation
    }

    /// Takes over a new map and drops everything that was derived from the old one.
    pub(crate) fn set_map(&mut self, view: Arc<FlatView>, generation: u64) {
        // No entry may keep a pointer into a block that is let go.
        self.flush_all();
        let mut blocks: Vec<Arc<RamBlock>> = Vec::new();
        for range in view.ranges() {
            if let Backing::Ram { block, .. } = &range.backing
                && !blocks.iter().any(|known| Arc::ptr_eq(known, block))
            {
                blocks.push(Arc::clone(block));
            }
        }
        self.map = Map { view, blocks, generation, last: 0 };
    }

    /// The RAM block that a [`RamPage`] of the current map names.
    #[inline]
    #[must_use]
    pub fn block(&self, page: RamPage) -> Option<&Arc<RamBlock>> {
        self.map.blocks.get(usize::from(page.block))
    }

    /// The RAM behind a whole physical page (A20 applied by the caller); `None`: a device, nothing, or only partly RAM.
    pub(crate) fn ram_page(&mut self, phys: u64) -> Option<RamPage> {
        let page = phys & !0xfff;
        let ranges = self.map.view.ranges();
        let hit = ranges.get(self.map.last).is_some_and(|range| range.start <= page && page <= range.last);
        if !hit {
            self.map.last = ranges.partition_point(|range| range.last < page);
        }
        let range = ranges.get(self.map.last).filter(|range| range.start <= page && range.last - page >= 0xfff)?;
        let Backing::Ram { block, offset, read_only } = &range.backing else { return None };
        let index = self.map.blocks.iter().position(|known| Arc::ptr_eq(known, block))?;
        let offset = usize::try_from(offset + range.region_offset + (page - range.start)).ok()?;
        // Regions that are not aligned in their block are left to the slow path.
        (offset & 0xfff == 0).then_some(RamPage { block: u16::try_from(index).ok()?, offset, read_only: *read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Translation = Translation { phys: 0x5000, rights: 0 };

    #[test]
    fn pcid_switch_with_keep_finds_old_translations() {
        let mut tlb = Tlb::new();
        tlb.switch(1, false);
        tlb.second_fill(0x1000, SMALL);
        tlb.switch(2, false);
        assert_eq!(tlb.second_lookup(0x1000), None);
        tlb.switch(1, true);
        assert_eq!(tlb.second_lookup(0x1000), Some(SMALL));
        tlb.switch(1, false);
        assert_eq!(tlb.second_lookup(0x1000), None);
    }

    #[test]
    fn global_translation_survives_switch_but_not_flush_all() {
        let mut tlb = Tlb::new();
        let global = Translation { rights: rights::GLOBAL, ..SMALL };
        tlb.switch(0, false);
        tlb.second_fill(0x1000, global);
        tlb.switch(0, false);
        assert_eq!(tlb.second_lookup(0x1000), Some(global));
        tlb.flush_all();
        assert_eq!(tlb.second_lookup(0x1000), None);
    }

    #[test]
    fn invlpg_inside_large_page_drops_all_its_pieces() {
        let mut tlb = Tlb::new();
        let large = Translation { rights: rights::LARGE, ..SMALL };
        tlb.second_fill(0x20_0000, large);
        tlb.second_fill(0x20_1000, large);
        tlb.second_fill(0x8000_0000, SMALL);
        tlb.flush_page(0x20_5000, 0);
        assert_eq!(tlb.second_lookup(0x20_0000), None);
        assert_eq!(tlb.second_lookup(0x20_1000), None);
    }

    #[test]
    fn epoch_comes_back_with_its_pcid_unless_translations_went() {
        let mut tlb = Tlb::new();
        tlb.switch(1, false);
        let (first, upper) = (tlb.epoch(0), tlb.epoch(u64::MAX));
        tlb.switch(2, false);
        let second = tlb.epoch(0);
        assert_ne!(first, second);
        tlb.switch(1, true);
        assert_eq!(tlb.epoch(0), first);
        tlb.flush_pcid(2, 1);
        tlb.switch(2, true);
        assert!(![first, second].contains(&tlb.epoch(0)));
        tlb.switch(1, false);
        assert_ne!(tlb.epoch(0), first);
        assert_eq!(tlb.epoch(u64::MAX), upper);
        tlb.flush_all();
        assert_ne!(tlb.epoch(u64::MAX), upper);
    }

    #[test]
    fn epochs_of_pcids_that_share_a_place_are_not_mixed_up() {
        let mut tlb = Tlb::new();
        tlb.switch(1, false);
        let first = tlb.epoch(0);
        tlb.switch(1 + SPACES as u16, false);
        tlb.switch(1, true);
        assert_ne!(tlb.epoch(0), first);
    }

    #[test]
    fn invlpg_changes_epoch_only_for_page_that_was_fetched_from() {
        let mut tlb = Tlb::new();
        let page = CodePage { phys: 0x5000, ram: None };
        tlb.fetch_fill(0x1000, true, page, false);
        let epochs = (tlb.epoch(0), tlb.epoch(u64::MAX));
        tlb.flush_page(0x8000, 0);
        assert_eq!((tlb.epoch(0), tlb.epoch(u64::MAX)), epochs);
        tlb.flush_page(0x1000, 0);
        assert_ne!(tlb.epoch(0), epochs.0);
        assert_eq!(tlb.epoch(u64::MAX), epochs.1);
        assert_eq!(tlb.fetch_lookup(0x1000, true), None);
    }

    #[test]
    fn global_page_in_lower_half_keeps_epochs_from_coming_back() {
        let mut tlb = Tlb::new();
        tlb.switch(1, false);
        tlb.fetch_fill(0x1000, false, CodePage { phys: 0x5000, ram: None }, true);
        let first = tlb.epoch(0);
        tlb.switch(2, false);
        tlb.flush_page(0x1000, 2);
        tlb.switch(1, true);
        assert_ne!(tlb.epoch(0), first);
    }

    #[test]
    fn fetch_side_survives_the_end_of_its_generations() {
        let mut tlb = Tlb::new();
        let page = CodePage { phys: 0x5000, ram: None };
        for n in 0..3 * LAST_GENERATION {
            tlb.switch(1, false);
            assert_eq!(tlb.fetch_lookup(0, true), None, "{n}");
            tlb.fetch_fill(0, true, page, false);
            assert_eq!(tlb.fetch_lookup(0, true), Some(page));
        }
    }

    #[test]
    fn invlpg_inside_large_page_makes_other_spaces_start_anew() {
        let mut tlb = Tlb::new();
        tlb.switch(1, false);
        let first = tlb.epoch(0);
        tlb.switch(2, false);
        tlb.second_fill(0x20_0000, Translation { rights: rights::LARGE, ..SMALL });
        tlb.flush_page(0x20_3000, 2);
        tlb.switch(1, true);
        assert_ne!(tlb.epoch(0), first);
    }

    #[test]
    fn invlpg_of_small_page_keeps_neighbours() {
        let mut tlb = Tlb::new();
        tlb.second_fill(0x1000, SMALL);
        tlb.second_fill(0x2000, SMALL);
        tlb.flush_page(0x1234, 0);
        assert_eq!(tlb.second_lookup(0x1000), None);
        assert_eq!(tlb.second_lookup(0x2000), Some(SMALL));
    }
}
