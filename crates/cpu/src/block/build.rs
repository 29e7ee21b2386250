//! Blocks are made: decoded, watched, and entered into the cache.

use memory::{PAGE_SIZE, RamBlock};

use super::{Block, Draft, Found, Inner, Key, LONGEST_BLOCK, NEVER, NO_PAGE, Page, SHORT_WINDOW, Source, TRUST};
use crate::decode::{Decoded, LONGEST, Stream, decode};
use crate::fault::{Exec, Fault};
use crate::ops::Op;
use crate::ops::lower::{self, Context, Flow};
use crate::state::Cpu;
use x86::regs::SegmentRegister;

impl Cpu {
    /// Decodes a block and enters it.
    pub(super) fn build(&mut self, cache: &mut Inner, linear: u64, key: Key, source: &Source) -> Exec<Found> {
        let mut draft = std::mem::take(&mut cache.draft);
        let found = match self.build_in_page(cache, linear, key, source, &mut draft) {
            Some(index) => Ok(Found::Block(index)),
            None => self.build_crossing(cache, linear, key, source, &mut draft),
        };
        cache.draft = draft;
        found
    }

    /// `None`: the first instruction reaches into the next page.
    pub(super) fn build_in_page(
        &mut self,
        cache: &mut Inner,
        linear: u64,
        key: Key,
        source: &Source,
        draft: &mut Draft,
    ) -> Option<u32> {
        let at = source.offset + usize::from(key.offset);
        let room = PAGE_SIZE - usize::from(key.offset);
        let longest = room.min(LONGEST_BLOCK * LONGEST);
        let mut want = room.min(SHORT_WINDOW);
        loop {
            draft.window.resize(want, 0);
            source.ram.read(at, &mut draft.window);
            self.draft(draft);
            let len = draft.len;
            // The window may have ended in the middle of an instruction.
            if want < longest && len + LONGEST > want {
                want = longest;
                continue;
            }
            if draft.ops.is_empty() {
                return None;
            }
            watch(&source.ram, at, len);
            let generation = cache.pages.get(key.page as usize).map_or(0, Page::generation);
            // What counts is what is there after the marks: a change in between means starting over.
            if holds(&source.ram, at, draft.window.get(..len)?) && watches(&source.ram, at, len) {
                let block = Block {
                    first: 0,
                    ops: 0,
                    room: 0,
                    bytes: len as u16,
                    page: key.page,
                    generation,
                    second: NO_PAGE,
                    second_generation: 0,
                    heat: 0,
                    rewritten: 0,
                    was_hot: false,
                    trust: 0,
                    region: u32::MAX,
                    sought: u32::MAX,
                    ends: draft.ends,
                };
                return Some(self.enter(cache, linear, key, block, draft));
            }
        }
    }

    /// A block of one instruction that reaches into the next page.
    fn build_crossing(
        &mut self,
        cache: &mut Inner,
        linear: u64,
        key: Key,
        source: &Source,
        draft: &mut Draft,
    ) -> Exec<Found> {
        let next = (linear | 0xfff).wrapping_add(1) & self.address_mask;
        if !self.mode.is_long64() && !self.within_limit(u64::from(0x1000 - key.offset) + 1) {
            return Err(Fault::gp0());
        }
        let page = self.fetch_page(next)?;
        let Some(second) = self.source(page) else {
            return self.decode_single(linear).map(|(op, flow)| Found::Single(op, flow));
        };
        let second_index = cache.page(&second.ram, second.offset, second.phys);
        let head = PAGE_SIZE - usize::from(key.offset);
        let at = source.offset + usize::from(key.offset);
        let mut bytes = [0; LONGEST];
        let read = |bytes: &mut [u8; LONGEST]| {
            let (low, high) = bytes.split_at_mut(head.min(LONGEST));
            source.ram.read(at, low);
            second.ram.read(second.offset, high);
        };
        loop {
            read(&mut bytes);
            let Decoded::Op(op, flow) = decode(&self.context(), &bytes) else {
                return Err(Fault::gp0());
            };
            let len = usize::from(op.len);
            watch(&source.ram, at, head.min(len));
            watch(&second.ram, second.offset, len.saturating_sub(head).max(1));
            let generation = |index: u32| cache.pages.get(index as usize).map_or(0, Page::generation);
            let (first_generation, second_generation) = (generation(key.page), generation(second_index));
            let mut check = [0; LONGEST];
            read(&mut check);
            let tail = len.saturating_sub(head).max(1);
            if check[..len] == bytes[..len]
                && watches(&source.ram, at, head.min(len))
                && watches(&second.ram, second.offset, tail)
            {
                draft.ops.clear();
                draft.ops.push(op);
                if flow != Flow::Jumps {
                    draft.ops.push(lower::fall_through(len as u16));
                }
                (draft.len, draft.ends) = (len, flow == Flow::Ends);
                draft.window.clear();
                draft.window.extend_from_slice(&bytes[..len]);
                let block = Block {
                    first: 0,
                    ops: 0,
                    room: 0,
                    bytes: len as u16,
                    page: key.page,
                    generation: first_generation,
                    second: second_index,
                    second_generation,
                    // Links into the block hold under the epoch of one half of the address space.
                    heat: if (linear ^ next) >> 63 == 0 { 0 } else { NEVER },
                    rewritten: 0,
                    was_hot: false,
                    trust: 0,
                    region: u32::MAX,
                    sought: u32::MAX,
                    ends: draft.ends,
                };
                return Ok(Found::Block(self.enter(cache, linear, key, block, draft)));
            }
        }
    }

    fn enter(&mut self, cache: &mut Inner, linear: u64, key: Key, mut block: Block, draft: &Draft) -> u32 {
        block.ops = draft.ops.len() as u16;
        let known = cache.by_key.get(&key).copied();
        let old = known.and_then(|index| cache.blocks.get(index as usize));
        block.rewritten = old.map_or(0, |old| old.rewritten.saturating_add(1));
        if let Some(old) = old.filter(|old| old.region != u32::MAX) {
            block.was_hot = true;
            block.trust = if old.heat >= self.translator.hot_after { TRUST } else { old.trust.saturating_sub(1) };
        }
        let old = old.filter(|old| old.room >= block.ops);
        let index = if let (Some(index), Some(old)) = (known, old) {
            // The block that is no longer valid gives its place.
            (block.first, block.room) = (old.first, old.room);
            let first = block.first as usize;
            if let Some(ops) = cache.ops.get_mut(first..first + draft.ops.len()) {
                ops.copy_from_slice(&draft.ops);
            }
            if let Some(slot) = cache.blocks.get_mut(index as usize) {
                *slot = block;
            }
            index
        } else {
            (block.first, block.room) = (cache.ops.len() as u32, block.ops);
            cache.ops.extend_from_slice(&draft.ops);
            cache.blocks.push(block);
            let index = cache.blocks.len() as u32 - 1;
            cache.by_key.insert(key, index);
            index
        };
        if let Some(trace) = &mut cache.trace {
            trace.translated(linear, draft.window.get(..draft.len).unwrap_or_default(), self.mode.bits);
        }
        index
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { bits: u32::from(self.mode.bits), vex: self.mode.protected, features: &self.features }
    }

    /// Decodes instructions from the start of the draft's window; none when the first is not whole.
    fn draft(&self, draft: &mut Draft) {
        draft.ops.clear();
        draft.instructions.clear();
        (draft.len, draft.ends) = (0, false);
        let context = self.context();
        let Some(mut stream) = Stream::new(&context, &draft.window) else { return };
        let longest = if self.translator.one_insn_per_tb { 1 } else { LONGEST_BLOCK };
        while draft.ops.len() < longest
            && let Decoded::Op(mut op, flow) = stream.next()
        {
            op.offset = draft.len as u16;
            draft.len += usize::from(op.len);
            draft.ops.push(op);
            draft.instructions.push(stream.instruction);
            match flow {
                Flow::Next => {}
                Flow::Jumps => return,
                Flow::Ends => {
                    draft.ends = true;
                    break;
                }
            }
        }
        if draft.len != 0 {
            draft.ops.push(lower::fall_through(draft.len as u16));
        }
    }

    /// Decodes the instruction at `rip` without the cache: from devices, or where the code segment ends.
    pub(super) fn decode_single(&mut self, linear: u64) -> Exec<(Op, Flow)> {
        let allowed = if self.mode.is_long64() {
            LONGEST
        } else {
            let limit = u64::from(self.segs[SegmentRegister::Cs as usize].limit);
            let left = limit.checked_sub(self.rip).ok_or(Fault::gp0())?;
            left.saturating_add(1).min(LONGEST as u64) as usize
        };
        let mut bytes = [0; LONGEST];
        let mut have = 0;
        loop {
            let want = allowed;
            let at = linear.wrapping_add(have as u64) & self.address_mask;
            let page = self.fetch_page(at)?;
            let in_page = PAGE_SIZE - (at & 0xfff) as usize;
            let part = (want - have).min(in_page);
            if let Some(into) = bytes.get_mut(have..have + part) {
                self.read_code(page, at & 0xfff, into);
            }
            have += part;
            match decode(&self.context(), &bytes[..have]) {
                Decoded::Op(op, flow) => return Ok((op, flow)),
                Decoded::Incomplete if have >= allowed => return Err(Fault::gp0()),
                Decoded::Incomplete => {}
            }
        }
    }
}

/// Whether memory holds these bytes.
fn holds(ram: &RamBlock, at: usize, bytes: &[u8]) -> bool {
    let mut part = [0; 128];
    bytes.chunks(part.len()).enumerate().all(|(number, bytes)| {
        let part = &mut part[..bytes.len()];
        ram.read(at + number * 128, part) && *part == *bytes
    })
}

/// Whether lines still are marked as holding code.
fn watches(ram: &RamBlock, at: usize, len: usize) -> bool {
    ram.page_code(at).is_none_or(|page| page.watches(at % PAGE_SIZE, len))
}

/// Marks lines as holding code and orders the reads that follow after the stores of all threads that did not see it.
fn watch(ram: &RamBlock, at: usize, len: usize) {
    let Some(page) = ram.page_code(at) else { return };
    if page.watch(at % PAGE_SIZE, len) {
        crate::barrier::all_threads();
    }
}
