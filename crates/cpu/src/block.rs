//! The cache of decoded blocks, and the loop that executes them.
//!
//! A block is a run of instructions in one page (its last may reach into the next) that ends with a branch, with an
//! instruction that may change how code is decoded, or when it is long enough. It is found by physical address and mode
//! ([`Cpu::mode_key`]), so that it serves every linear address, and it is valid while the code generation of its pages
//! ([`memory::PageCode`]) is the one under which it was decoded.
//!
//! Finding the next block: first a table by linear address, whose entries hold under one fetch epoch of the TLB; then
//! the translation and a hash look-up. Code outside of plain RAM is decoded anew for each instruction.
//!
//! Decoding races with stores of other threads. So the block's lines are marked as watched *before* the bytes that
//! count are read, with a barrier on all threads in between when a mark is new.

mod build;
mod lockstep;
mod regions;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use accel::Signal;
use accel::TranslatorStats;
use iced_x86::Instruction;
use memory::{HitCursor, PageId, RamBlock};
use x86::regs::SegmentRegister;

use crate::fault::{EventKind, Exec, Fault, vector};
use crate::jit::{Jit, Outcome};
use crate::mmu::CodePage;
use crate::ops::Op;
use crate::ops::lower::Flow;
use crate::state::{Activity, Cpu};

/// Why [`Cpu::exec_blocks`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockExit {
    /// The instruction at `rip` raised this (for INT n and the like `next_rip` is set too).
    Fault(Fault),
    /// A wanted signal, or an instruction that asks for the outer loop.
    Signals,
    /// HLT.
    Halt,
    /// One instruction is done, as [`Cpu::one_instruction`] asked.
    StepDone,
    /// Lock-step: the tiers do not agree.
    Differs,
}

/// Follows execution, for logs.
pub trait TraceSink: Send {
    /// Whether it wants every block that is entered; nothing is translated then.
    fn follows_blocks(&self) -> bool;

    /// A block was decoded at this linear address; `bytes` are its code, `bits` its code size.
    fn translated(&mut self, linear: u64, bytes: &[u8], bits: u8);

    /// A block is entered at this linear address.
    fn entered(&mut self, linear: u64, gpr: &[u64; 16]);

    /// An interrupt or exception is about to be delivered.
    fn interrupt(&mut self, interrupt: &Interruption);
}

/// How execution is followed.
#[derive(Default)]
pub struct Following {
    /// By whom.
    pub sink: Option<Box<dyn TraceSink>>,
    /// Blocks and translations hold one instruction each.
    pub one_instruction: bool,
}

/// What a [`TraceSink`] learns of an interrupt or exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Where it comes from.
    pub kind: EventKind,
    /// The vector.
    pub vector: u8,
    /// The error code, for exceptions that have one.
    pub error: Option<u32>,
    /// The privilege level that it interrupts.
    pub cpl: u8,
    /// The code selector that it interrupts.
    pub cs: u16,
    /// The instruction that it interrupts.
    pub rip: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// For page faults: the address.
    pub address: Option<u64>,
}

/// Instructions in a block.
const LONGEST_BLOCK: usize = 48;
/// Decoded instructions that are kept before everything is dropped.
const CAPACITY: usize = 1 << 20;
const JUMPS: usize = 1 << 12;
/// No page: see [`Page`].
pub(crate) const NO_PAGE: u32 = u32::MAX;
/// Bytes that are read for a block at first.
const SHORT_WINDOW: usize = 96;
/// See [`Block::trust`]: now and then code that is rewritten must get hot before it is translated.
const TRUST: u8 = 16;
/// In [`Block::heat`]: can't be translated.
const NEVER: u16 = u16::MAX;

#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        // A product's high bits are the best; tables take the low ones and the highest seven.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }
}

/// A hash map for keys that nobody chooses.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    page: u32,
    offset: u16,
    mode: u32,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.page) << 32 ^ u64::from(self.mode) << 12 ^ u64::from(self.offset));
    }
}

/// A page of RAM that holds decoded code.
struct Page {
    ram: Arc<RamBlock>,
    offset: usize,
}

impl Page {
    #[inline(always)]
    fn generation(&self) -> u32 {
        self.ram.page_code(self.offset).map_or(0, memory::PageCode::generation)
    }
}

#[derive(Clone, Copy)]
struct Block {
    /// Index of the first op.
    first: u32,
    /// Ops, including the one that ends the block.
    ops: u16,
    /// Ops that there is room for.
    room: u16,
    /// Bytes of code.
    bytes: u16,
    page: u32,
    generation: u32,
    /// The page that the last instruction reaches into, or [`NO_PAGE`].
    second: u32,
    second_generation: u32,
    /// How often it was interpreted, up to [`TranslatorConfig::hot_after`](crate::TranslatorConfig); [`NEVER`] if it can't be translated.
    heat: u16,
    /// How often the code at this place was rewritten after it had run.
    rewritten: u8,
    /// What was there before was translated.
    was_hot: bool,
    /// How often what replaces it may be translated at once.
    trust: u8,
    /// The translation that was used last.
    region: u32,
    /// The number of translations when the block's own was looked for in vain.
    sought: u32,
    /// The last instruction is one after which the outer loop may be wanted ([`Flow::Ends`]).
    ends: bool,
}

#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    epoch: u32,
    mode: u32,
    block: u32,
}

const NOWHERE: Jump = Jump { linear: 0, epoch: u32::MAX, mode: u32::MAX, block: 0 };

struct Inner {
    ops: Vec<Op>,
    blocks: Vec<Block>,
    pages: Vec<Page>,
    /// By physical address and block of RAM: in system-management mode another one may lie there.
    by_phys: Map<(u64, usize), u32>,
    /// The pages that have the same tracking, which are one page of RAM at several addresses.
    by_id: Map<PageId, Vec<u32>>,
    /// The hits that the translator has been told of.
    cursor: HitCursor,
    by_key: Map<Key, u32>,
    jumps: Box<[Jump; JUMPS]>,
    trace: Option<Box<dyn TraceSink>>,
    /// What the sink says.
    follows_blocks: bool,
    jit: Translator,
    /// Memory for the next block.
    draft: Draft,
}

/// The translator, as far as there is one.
enum Translator {
    /// It is made when a block gets hot.
    NotYet,
    /// The configuration or the host does not allow it.
    Off,
    On(Box<Jit>),
}

/// The decoded blocks of one vCPU.
#[derive(Default)]
pub struct BlockCache(Option<Box<Inner>>);

impl BlockCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops all blocks.
    pub fn clear(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.clear();
        }
    }

    /// What the translator tells of itself; `None` when it is off or nothing was hot yet.
    pub(crate) fn translator_stats(&self) -> Option<TranslatorStats> {
        match &self.0.as_ref()?.jit {
            Translator::On(jit) => Some(jit.statistics()),
            Translator::NotYet | Translator::Off => None,
        }
    }
}

fn jump_slot(linear: u64) -> usize {
    ((linear ^ linear >> 12) as usize) & (JUMPS - 1)
}

impl Inner {
    fn new() -> Self {
        Self {
            ops: Vec::new(),
            blocks: Vec::new(),
            pages: Vec::new(),
            by_phys: Map::default(),
            by_id: Map::default(),
            cursor: HitCursor::default(),
            by_key: Map::default(),
            jumps: Box::new([NOWHERE; JUMPS]),
            trace: None,
            follows_blocks: false,
            jit: Translator::NotYet,
            draft: Draft::default(),
        }
    }

    fn clear(&mut self) {
        if let Translator::On(jit) = &mut self.jit {
            jit.clear();
        }
        self.ops.clear();
        self.blocks.clear();
        self.pages.clear();
        self.by_phys.clear();
        self.by_id.clear();
        self.by_key.clear();
        self.jumps.fill(NOWHERE);
    }

    /// Drops the translations of code that has changed.
    #[cold]
    fn rescan(&mut self) {
        if let Translator::On(jit) = &mut self.jit {
            let pages = &self.pages;
            let current = |page: u32| pages.get(page as usize).map(Page::generation);
            let by_id = &self.by_id;
            let mut hit = Vec::new();
            if self.cursor.advance(|id| hit.extend(by_id.get(&id).into_iter().flatten())) {
                hit.iter().for_each(|page| jit.check_page(*page, current(*page)));
            } else {
                jit.rescan(current);
            }
        }
    }

    #[inline(always)]
    fn is_valid(&self, block: &Block) -> bool {
        let current = |page: u32| self.pages.get(page as usize).map(Page::generation);
        current(block.page) == Some(block.generation)
            && (block.second == NO_PAGE || current(block.second) == Some(block.second_generation))
    }

    /// The record of a page of RAM, made when it is new or when another block of RAM lies there now.
    fn page(&mut self, ram: &Arc<RamBlock>, offset: usize, phys: u64) -> u32 {
        // A record keeps its block alive, so that no other one gets its address.
        let place = (phys, Arc::as_ptr(ram) as usize);
        if let Some(&index) = self.by_phys.get(&place)
            && let Some(page) = self.pages.get(index as usize)
            && page.offset == offset
        {
            return index;
        }
        let index = self.pages.len() as u32;
        self.pages.push(Page { ram: Arc::clone(ram), offset });
        self.by_phys.insert(place, index);
        if let Some(code) = ram.page_code(offset) {
            self.by_id.entry(code.id()).or_default().push(index);
        }
        index
    }
}

/// Where code is to be fetched.
struct Source {
    ram: Arc<RamBlock>,
    /// Offset of the page in the RAM block.
    offset: usize,
    phys: u64,
}

/// The bytes and ops of a block that is being made.
#[derive(Default)]
struct Draft {
    ops: Vec<Op>,
    /// As decoded at address 0.
    instructions: Vec<Instruction>,
    /// Bytes of code, and some that follow.
    window: Vec<u8>,
    /// Bytes of the block.
    len: usize,
    /// See [`Block::ends`].
    ends: bool,
}

enum Found {
    Block(u32),
    /// Code that is not cached: one op with what follows it.
    Single(Op, Flow),
}

impl Cpu {
    /// Sets or removes the sink that follows execution. Blocks are decoded anew, so that it sees all of them.
    pub fn set_trace(&mut self, trace: Option<Box<dyn TraceSink>>) {
        let inner = self.blocks.0.get_or_insert_with(|| Box::new(Inner::new()));
        inner.clear();
        inner.follows_blocks = trace.as_ref().is_some_and(|trace| trace.follows_blocks());
        inner.trace = trace;
    }

    /// Sets how execution is followed. Code is decoded anew.
    pub fn set_following(&mut self, following: Following) {
        self.set_trace(following.sink);
        self.translator.one_insn_per_tb = following.one_instruction;
        if let Some(Translator::On(jit)) = self.blocks.0.as_mut().map(|inner| &mut inner.jit) {
            jit.set_one_instruction(following.one_instruction);
        }
    }

    /// Tells the sink, if there is one, of an interrupt or exception.
    pub(crate) fn trace_interrupt(&mut self, event: Fault) {
        let is_page_fault = event.vector() == vector::PF && event.kind() == EventKind::Fault;
        let interruption = Interruption {
            kind: event.kind(),
            vector: event.vector(),
            error: event.error_code(),
            cpl: self.mode.cpl,
            cs: self.selector(SegmentRegister::Cs),
            rip: self.rip,
            rsp: self.gpr[4],
            address: is_page_fault.then_some(self.fault_address),
        };
        if let Some(trace) = self.blocks.0.as_mut().and_then(|inner| inner.trace.as_mut()) {
            trace.interrupt(&interruption);
        }
    }

    /// Whether somebody follows execution.
    pub(crate) fn is_traced(&self) -> bool {
        self.blocks.0.as_ref().is_some_and(|inner| inner.trace.is_some())
    }

    /// Executes blocks until the outer loop is wanted: at a fault, a wanted signal, or an instruction that asks for it.
    pub fn exec_blocks(&mut self) -> BlockExit {
        self.exec_with(false)
    }

    /// The same; `deliver`: translated code may deliver faults and go on, as the outer loop would.
    pub(crate) fn exec_with(&mut self, deliver: bool) -> BlockExit {
        let mut cache = std::mem::take(&mut self.blocks);
        let inner = cache.0.get_or_insert_with(|| Box::new(Inner::new()));
        if let Translator::On(jit) = &mut inner.jit {
            jit.set_delivers(deliver && inner.trace.is_none());
        }
        let exit = if self.debugger.is_active { self.exec_loop::<true>(inner) } else { self.exec_loop::<false>(inner) };
        self.blocks = cache;
        exit
    }

    /// `DEBUGGED`: somebody outside of the guest wants to stop somewhere.
    fn exec_loop<const DEBUGGED: bool>(&mut self, cache: &mut Inner) -> BlockExit {
        loop {
            let pending = self.signals.pending() & self.signal_mask;
            if pending & Signal::CODE.0 != 0 {
                self.signals.clear(Signal::CODE);
                cache.rescan();
            }
            if self.exit_request || pending & !Signal::CODE.0 != 0 || self.count_is_due() {
                return self.leave();
            }
            let linear = self.seg_base[SegmentRegister::Cs as usize].wrapping_add(self.rip) & self.address_mask;
            let jump = cache.jumps[jump_slot(linear)];
            let hit = jump.linear == linear && jump.epoch == self.tlb.epoch(linear) && jump.mode == self.mode_key;
            let mut found = None;
            if hit
                && let Some(block) = cache.blocks.get(jump.block as usize)
                && cache.is_valid(block)
            {
                found = Some(jump.block);
            }
            let index = match found {
                Some(index) => index,
                None => match self.find_block(cache, linear) {
                    Ok(Found::Block(index)) => {
                        let entry = Jump { linear, epoch: self.tlb.epoch(linear), mode: self.mode_key, block: index };
                        cache.jumps[jump_slot(linear)] = entry;
                        index
                    }
                    Ok(Found::Single(op, flow)) => {
                        self.count(1);
                        if let Err(fault) = self.exec_single(&op, flow) {
                            return BlockExit::Fault(fault);
                        }
                        if self.one_instruction {
                            return BlockExit::StepDone;
                        }
                        continue;
                    }
                    Err(fault) => return BlockExit::Fault(fault),
                },
            };
            if cache.follows_blocks {
                trace_entry(cache, linear, &self.gpr);
            }
            let Some(&block) = cache.blocks.get(index as usize) else { continue };
            let first = block.first as usize;
            let Some(ops) = cache.ops.get(first..first + usize::from(block.ops)) else { continue };
            if !self.mode.is_long64() && !self.within_limit(u64::from(block.bytes)) {
                // Part of the block lies beyond the segment's limit: one instruction at a time finds out which.
                self.count(1);
                match self.decode_single(linear).and_then(|(op, flow)| self.exec_single(&op, flow)) {
                    Ok(()) if self.one_instruction => return BlockExit::StepDone,
                    Ok(()) => continue,
                    Err(fault) => return BlockExit::Fault(fault),
                }
            }
            if self.one_instruction {
                self.count(1);
                return self.exec_first(ops);
            }
            if DEBUGGED {
                if self.debugger.stops_at(linear) {
                    // The outer loop sees it, too.
                    return self.leave();
                }
                if self.debugger.stops_within(linear, u64::from(block.bytes)) {
                    self.count(1);
                    return self.exec_first(ops);
                }
            }
            if !DEBUGGED
                && block.heat != NEVER
                && let Some(outcome) = self.run_translated(cache, index, linear)
            {
                if self.code_modified {
                    self.modified(cache);
                }
                match outcome {
                    Outcome::Fault(fault) => return BlockExit::Fault(fault),
                    Outcome::Next => continue,
                    Outcome::Differs => return BlockExit::Differs,
                }
            }
            let Some(ops) = cache.ops.get(first..first + usize::from(block.ops)) else { continue };
            // The op that falls through to the next block has no length: it is no instruction.
            self.count(ops.len() - usize::from(ops.last().is_some_and(|last| last.len == 0)));
            let done = self.exec_ops(ops);
            if self.code_modified {
                self.modified(cache);
            }
            if let Err(fault) = done {
                return BlockExit::Fault(fault);
            }
        }
    }

    /// This vCPU has modified code.
    #[cold]
    fn modified(&mut self, cache: &mut Inner) {
        self.code_modified = false;
        cache.rescan();
        memory::notify(Some(&self.listener));
    }

    fn leave(&self) -> BlockExit {
        if self.activity == Activity::Running { BlockExit::Signals } else { BlockExit::Halt }
    }

    /// The hot loop. A handler changes RIP only in the last op.
    #[inline(always)]
    fn exec_ops(&mut self, ops: &[Op]) -> Exec {
        let Some((last, body)) = ops.split_last() else { return Ok(()) };
        let base = self.rip;
        self.code_modified = false;
        for op in body {
            self.rip = base.wrapping_add(u64::from(op.offset));
            (op.run)(self, op)?;
            if self.code_modified {
                self.rip = self.rip.wrapping_add(u64::from(op.len));
                return Ok(());
            }
        }
        self.rip = base.wrapping_add(u64::from(last.offset));
        (last.run)(self, last)
    }

    /// Executes the first instruction of a block.
    fn exec_first(&mut self, ops: &[Op]) -> BlockExit {
        let Some(op) = ops.first() else { return BlockExit::StepDone };
        // A block of two ops may be one instruction and the end; a longer one continues after the first.
        let flow = if ops.len() == 1 { Flow::Jumps } else { Flow::Next };
        match self.exec_single(op, flow) {
            Ok(()) => BlockExit::StepDone,
            Err(fault) => BlockExit::Fault(fault),
        }
    }

    fn exec_single(&mut self, op: &Op, flow: Flow) -> Exec {
        self.code_modified = false;
        (op.run)(self, op)?;
        if flow != Flow::Jumps {
            let next = self.rip.wrapping_add(u64::from(op.len));
            self.rip = if self.mode.is_long64() { next } else { next & 0xffff_ffff };
        }
        Ok(())
    }

    /// Whether `len` bytes at `rip` lie within the code segment.
    #[inline]
    fn within_limit(&self, len: u64) -> bool {
        let limit = u64::from(self.segs[SegmentRegister::Cs as usize].limit);
        self.rip <= limit && len - 1 <= limit - self.rip
    }

    #[cold]
    #[inline(never)]
    fn find_block(&mut self, cache: &mut Inner, linear: u64) -> Exec<Found> {
        if !self.mode.is_long64() && !self.within_limit(1) {
            return Err(Fault::gp0());
        }
        if cache.ops.len() > CAPACITY {
            cache.clear();
        }
        let page = self.fetch_page(linear)?;
        let Some(source) = self.source(page) else {
            return self.decode_single(linear).map(|(op, flow)| Found::Single(op, flow));
        };
        let index = cache.page(&source.ram, source.offset, source.phys);
        let key = Key { page: index, offset: (linear & 0xfff) as u16, mode: self.mode_key };
        if let Some(&known) = cache.by_key.get(&key)
            && let Some(&block) = cache.blocks.get(known as usize)
            && cache.is_valid(&block)
            && (block.second == NO_PAGE || self.second_page(cache, linear)? == Some(block.second))
        {
            return Ok(Found::Block(known));
        }
        self.build(cache, linear, key, &source)
    }

    fn source(&self, page: CodePage) -> Option<Source> {
        let ram = page.ram?;
        let block = self.tlb.block(ram)?;
        Some(Source { ram: Arc::clone(block), offset: ram.offset, phys: page.phys })
    }

    /// The record of the page after the one that holds `linear`.
    fn second_page(&mut self, cache: &mut Inner, linear: u64) -> Exec<Option<u32>> {
        let next = (linear | 0xfff).wrapping_add(1) & self.address_mask;
        let page = self.fetch_page(next)?;
        Ok(self.source(page).map(|source| cache.page(&source.ram, source.offset, source.phys)))
    }
}

#[cold]
fn trace_entry(cache: &mut Inner, linear: u64, gpr: &[u64; 16]) {
    if let Some(trace) = &mut cache.trace {
        trace.entered(linear, gpr);
    }
}
