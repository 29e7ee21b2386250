//! The translator: hot code as host code.
//!
//! A *region* is a set of basic blocks of one guest page that the interpreter has executed, joined by their direct
//! jumps, translated together for one linear page and one mode of the CPU. [`translate`] makes its code; this module
//! keeps regions, finds, links, enters and drops them. Only 64-bit mode is translated.
//!
//! - Regions are left through [`context::Leave`]: by a direct jump that is not linked yet, by an indirect jump whose
//!   target is not in the table, at a signal, or before an instruction that is the interpreter's.
//! - Direct jumps within a linear page are linked for good; jumps to another page hold under the epoch of fetching that
//!   they were checked in. The table of indirect jumps is keyed by epoch and mode, so that changing either empties it.
//! - A store to a page with code drops the regions of pages whose code generation is no longer theirs
//!   ([`Jit::rescan`]). Other threads' stores come as [`accel::Signal::CODE`].
//! - `unsafe` is here because host code is made and entered: what makes it sound is that regions reach memory only
//!   through entries of the TLB, the context, and the vCPU, whose layouts are taken from the types.

mod asm;
mod context;
mod flags;
mod host;
mod system;
mod translate;
mod x87;

use std::io;
use std::time::Instant;

use accel::{CpuSignals, TranslatorStats};
use codemem::{CodeMemory, LowBox};
use iced_x86::Instruction;
use memory::PageCode;

use self::asm::Label;
use self::context::{Context, Leave};
pub(crate) use self::translate::Piece;
use self::translate::{Action, Addresses, Indirect, Item, Mode, Numbers, Site, Tools};
use crate::block::{Map, NO_PAGE};
use crate::config::TranslatorConfig;
use crate::fault::Fault;
use crate::mmu::TablesLayout;
use crate::ops::Op;
use crate::ops::lower::Flow;
use crate::state::{Cpu, denied, gpr};

/// Code memory of a vCPU, unless it is configured.
const CODE_BYTES: usize = 32 << 20;
/// No region is longer.
const LONGEST_REGION: usize = 256 << 10;

/// Where a block of guest code is, as the interpreter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub linear: u64,
    /// The interpreter's number of the physical page.
    pub page: u32,
    /// The page's code generation.
    pub generation: u32,
    /// The page that the one instruction there reaches into, or [`NO_PAGE`].
    pub second: u32,
    pub second_generation: u32,
    /// See [`Cpu::translation_key`].
    pub key: u32,
}

struct Region {
    place: Place,
    code: u64,
    /// Edges that lead here.
    incoming: Vec<u32>,
    alive: bool,
    code_bytes: u32,
    guest_bytes: u32,
    instructions: u32,
    blocks: u32,
}

struct Edge {
    target: u64,
    /// Offset of the displacement in the code memory.
    at: usize,
    stub: u64,
    /// Offset of the expected epoch.
    epoch: Option<usize>,
    to: Option<u32>,
}

/// What is to be connected when the target of the last jump is known.
#[derive(Clone, Copy, Debug)]
enum Open {
    Edge(u32),
    Indirect(u64),
}

/// How translated code ended.
pub(crate) enum Outcome {
    /// [`Cpu::rip`] is where to go on.
    Next,
    Fault(Fault),
    /// The interpreter came to something else: see the report.
    Differs,
}

/// The translator of one vCPU.
pub(crate) struct Jit {
    context: LowBox<Context>,
    code: CodeMemory,
    /// Where regions begin, behind the stubs.
    start: usize,
    used: usize,
    addresses: Addresses,
    regions: Vec<Region>,
    by_place: Map<Place, u32>,
    /// Regions of each page, with the generation that they need.
    pages: Map<u32, (u32, Vec<u32>)>,
    sites: Vec<Site>,
    edges: Vec<Edge>,
    indirect: Vec<Indirect>,
    x87_records: Vec<x87::Record>,
    open: Option<Open>,
    fault: Option<Fault>,
    /// The key that the running region was entered under.
    key: u32,
    tools: Tools,
    /// Changes whenever a region goes.
    salt: u64,
    /// What the keys of the jump table were made for.
    keyed: Option<([u32; 2], u32, u64)>,
    one_instruction: bool,
    /// Faults are delivered here, not by whoever runs translated code.
    delivers: bool,
    /// The slow path goes on in another region.
    is_elsewhere: bool,
    stats: TranslatorStats,
}

/// Mixes all bits (the finaliser of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl Cpu {
    /// Everything outside the code bytes that a translation depends on, or `None` when there is none in this mode.
    #[inline]
    pub(crate) fn translation_key(&self) -> Option<u32> {
        // System-management mode is left to the interpreter: its code is rare, and another memory.
        if !self.mode.is_long64() || self.smm.active {
            return None;
        }
        let sse = self.fpu_denied & (denied::NM | denied::SSE_UD) == 0;
        let avx = self.check_avx().is_ok();
        let masked = self.mxcsr.0 & 0x1f80 == 0x1f80;
        Some(
            self.mode_key
                | (self.tlb.class() as u32) << 16
                | u32::from(sse) << 18
                | u32::from(avx) << 19
                | u32::from(masked) << 20
                | u32::from(x87::usable(self)) << 22
                | u32::from(self.system_flag(x86::regs::rflags::DF)) << 21,
        )
    }
}

fn epochs(cpu: &Cpu) -> [u32; 2] {
    [cpu.tlb.epoch(0), cpu.tlb.epoch(u64::MAX)]
}

/// What a key says to the translator.
fn mode_of(key: u32, bmi: bool, abm: bool) -> Mode {
    Mode {
        cpl: (key >> 7 & 3) as u8,
        class: (key >> 16 & 3) as u8,
        sse: key >> 18 & 1 != 0,
        avx: key >> 19 & 1 != 0,
        masked: key >> 20 & 1 != 0,
        x87: key >> 22 & 1 != 0 && x87::host_has_it(),
        down: key >> 21 & 1 != 0,
        bmi,
        abm,
    }
}

impl Jit {
    /// A translator without regions.
    ///
    /// # Errors
    /// The host refuses memory for code.
    pub(crate) fn new(config: &TranslatorConfig, cpu: &Cpu, signals: &CpuSignals) -> io::Result<Self> {
        let bytes = if config.code_bytes == 0 { CODE_BYTES } else { config.code_bytes.max(4 * LONGEST_REGION) };
        let mut code = CodeMemory::new(bytes)?;
        let mut context = LowBox::<Context>::zeroed()?;
        context.slow = slow as *const () as u64;
        context.host_mxcsr = 0x1f80;
        let wide = cpu.features.has(x86::cpuid::Feature::Avx) && std::arch::is_x86_feature_detected!("avx");
        let (stub_code, stubs) = context::stubs(&mut context, code.address(0), wide)
            .ok_or_else(|| io::Error::other("the stubs of the translator have an open label"))?;
        if !code.write(0, &stub_code) {
            return Err(io::Error::other("no room for the stubs of the translator"));
        }
        let start = stub_code.len().next_multiple_of(64);
        let addresses = Addresses {
            context: context.address(),
            tables: TablesLayout::of(cpu.tlb.tables()),
            pending: std::ptr::from_ref(signals.pending_word()) as u64,
            counted: config.lockstep,
            stubs,
        };
        let stats = TranslatorStats { code_capacity: code.len() as u64, ..TranslatorStats::default() };
        Ok(Self {
            context,
            code,
            start,
            used: start,
            addresses,
            regions: Vec::new(),
            by_place: Map::default(),
            pages: Map::default(),
            sites: Vec::new(),
            edges: Vec::new(),
            indirect: Vec::new(),
            x87_records: Vec::new(),
            open: None,
            fault: None,
            key: 0,
            tools: Tools::default(),
            salt: 1,
            keyed: None,
            one_instruction: config.one_insn_per_tb,
            delivers: false,
            is_elsewhere: false,
            stats,
        })
    }

    /// Whether a region has one instruction only.
    /// Sets whether a translation holds one instruction; those that there are have been cleared.
    pub(crate) fn set_one_instruction(&mut self, is_one: bool) {
        self.one_instruction = is_one;
    }

    pub(crate) fn one_instruction(&self) -> bool {
        self.one_instruction
    }

    /// Says whether faults are delivered here. Where somebody follows execution they are not.
    pub(crate) fn set_delivers(&mut self, delivers: bool) {
        self.delivers = delivers;
    }

    /// Counts and sizes.
    pub(crate) fn statistics(&self) -> TranslatorStats {
        let mut stats = self.stats;
        stats.code_bytes = self.used as u64;
        for region in self.regions.iter().filter(|region| region.alive) {
            stats.regions += 1;
            stats.blocks += u64::from(region.blocks);
            stats.guest_bytes += u64::from(region.guest_bytes);
            stats.guest_instructions += u64::from(region.instructions);
            stats.largest_region = stats.largest_region.max(u64::from(region.guest_bytes));
            stats.linked_exits += region.incoming.len() as u64;
            stats.crossing_regions += u64::from(region.place.second != NO_PAGE);
        }
        stats
    }

    /// Drops all regions.
    pub(crate) fn clear(&mut self) {
        self.regions.clear();
        self.by_place.clear();
        self.pages.clear();
        self.sites.clear();
        self.edges.clear();
        self.indirect.clear();
        self.x87_records.clear();
        self.open = None;
        self.used = self.start;
        self.salt += 1;
        self.stats.flushes += 1;
    }

    /// The number of regions that were ever made; it wraps around.
    pub(crate) fn translations(&self) -> u32 {
        self.stats.translations as u32
    }

    /// Region `known`, if it is the one for a place.
    #[inline]
    pub(crate) fn known(&self, known: u32, place: &Place) -> Option<u32> {
        self.regions.get(known as usize).is_some_and(|region| region.alive && region.place == *place).then_some(known)
    }

    /// The region for a place.
    pub(crate) fn find(&self, place: &Place) -> Option<u32> {
        self.by_place.get(place).copied().and_then(|index| self.known(index, place))
    }

    /// Translates blocks as a region for `place`; the first is its entry.
    pub(crate) fn translate(&mut self, cpu: &Cpu, place: Place, pieces: &mut [Piece]) -> Option<u32> {
        let began = Instant::now();
        if pieces.first().is_none_or(|first| first.rip != place.linear) {
            return None;
        }
        if self.used + LONGEST_REGION > self.code.len() {
            self.clear();
        }
        self.check_page(place.page, Some(place.generation));
        if place.second != NO_PAGE {
            self.check_page(place.second, Some(place.second_generation));
        }
        let base = self.used.next_multiple_of(16);
        let has = |feature| cpu.features.has(feature);
        let mode = mode_of(place.key, has(x86::cpuid::Feature::Bmi1), has(x86::cpuid::Feature::Abm));
        let numbers = Numbers {
            sites: self.sites.len() as u32,
            edges: self.edges.len() as u32,
            indirect: self.indirect.len() as u32,
            x87: self.x87_records.len() as u32,
        };
        let address = self.code.address(base);
        self.tools.sites = std::mem::take(&mut self.sites);
        let output = translate::translate(pieces, address, &self.addresses, mode, numbers, &mut self.tools);
        self.sites = std::mem::take(&mut self.tools.sites);
        let Some(mut output) = output else {
            self.sites.truncate(numbers.sites as usize);
            return None;
        };
        let code_bytes = self.take_output(&mut output, base, numbers);
        self.tools.asm = output.asm;
        let code_bytes = code_bytes?;
        self.indirect.extend(output.indirect);
        self.x87_records.extend(output.x87);
        let index = self.regions.len() as u32;
        self.regions.push(Region {
            place,
            code: address,
            incoming: Vec::new(),
            alive: true,
            code_bytes,
            guest_bytes: pieces.iter().map(|piece| piece.bytes).sum(),
            instructions: pieces.iter().map(|piece| piece.items.len() as u32).sum(),
            blocks: pieces.len() as u32,
        });
        self.by_place.insert(place, index);
        self.pages.entry(place.page).or_insert_with(|| (place.generation, Vec::new())).1.push(index);
        if place.second != NO_PAGE && place.second != place.page {
            self.pages.entry(place.second).or_insert_with(|| (place.second_generation, Vec::new())).1.push(index);
        }
        self.stats.translations += 1;
        self.stats.translation_ns += began.elapsed().as_nanos() as u64;
        Some(index)
    }

    /// Takes over code, sites and edges; the bytes of code. Nothing is taken when something is wrong.
    fn take_output(&mut self, output: &mut translate::Output, base: usize, numbers: Numbers) -> Option<u32> {
        let address = self.code.address(base);
        let asm = &output.asm;
        let new = self.sites.get_mut(numbers.sites as usize..).unwrap_or_default();
        let taken = new.iter_mut().try_for_each(|site| {
            site.resume = address + u64::from(asm.offset(Label::from_number(site.resume))?);
            Some(())
        });
        let taken = taken.and_then(|()| {
            output.edges.iter().try_for_each(|edge| {
                let stub = address + u64::from(asm.offset(edge.stub)?);
                let epoch = edge.epoch.map(|at| base + at as usize);
                self.edges.push(Edge { target: edge.target, at: base + edge.at as usize, stub, epoch, to: None });
                Some(())
            })
        });
        let code = output.asm.finish().filter(|code| taken.is_some() && code.len() <= LONGEST_REGION);
        match code {
            Some(code) if self.code.write(base, code) => {
                self.used = base + code.len();
                Some(code.len() as u32)
            }
            _ => {
                self.sites.truncate(numbers.sites as usize);
                self.edges.truncate(numbers.edges as usize);
                None
            }
        }
    }

    /// Drops the regions of pages whose generation is no longer the one that `current` gives.
    pub(crate) fn rescan(&mut self, current: impl Fn(u32) -> Option<u32>) {
        let changed: Vec<u32> = self
            .pages
            .iter()
            .filter(|(page, (generation, _))| current(**page) != Some(*generation))
            .map(|(page, _)| *page)
            .collect();
        for page in changed {
            self.drop_page(page);
        }
    }

    /// Drops the regions of a page unless `current` is their generation.
    pub(crate) fn check_page(&mut self, page: u32, current: Option<u32>) {
        if self.pages.get(&page).is_some_and(|(generation, _)| current != Some(*generation)) {
            self.drop_page(page);
        }
    }

    fn drop_page(&mut self, page: u32) {
        if let Some((_, regions)) = self.pages.remove(&page) {
            regions.iter().for_each(|region| self.drop_region(*region));
        }
    }

    fn drop_region(&mut self, index: u32) {
        let Some(region) = self.regions.get_mut(index as usize) else { return };
        if !std::mem::replace(&mut region.alive, false) {
            return;
        }
        let (incoming, place) = (std::mem::take(&mut region.incoming), region.place);
        self.by_place.remove(&place);
        for edge in incoming {
            self.point(edge, None, 0);
        }
        self.salt += 1;
        self.stats.invalidations += 1;
    }

    /// Lets an edge lead to a region, or to its stub.
    fn point(&mut self, number: u32, to: Option<u32>, epoch: u32) {
        let Some(edge) = self.edges.get_mut(number as usize) else { return };
        let target = match to.and_then(|index| self.regions.get(index as usize)) {
            Some(region) => region.code,
            None => edge.stub,
        };
        let next = self.code.address(edge.at) + 4;
        let distance = target.wrapping_sub(next) as u32;
        let (at, epoch_at) = (edge.at, edge.epoch);
        if to.is_some()
            && edge.to != to
            && let Some(region) = to.and_then(|index| self.regions.get_mut(index as usize))
        {
            region.incoming.push(number);
        }
        edge.to = to;
        // Both lie inside of a region that was written.
        let _inside = self.code.write(at, &distance.to_le_bytes());
        if let Some(epoch_at) = epoch_at {
            let _inside = self.code.write(epoch_at, &epoch.to_le_bytes());
        }
    }

    /// For the lock-step mode: translated code shall come back at its first poll after `most` instructions.
    pub(crate) fn begin_piece(&mut self, most: u64) {
        (self.context.begun, self.context.begun_most) = (0, most);
    }

    /// The guest instructions that translated code has begun since then.
    pub(crate) fn begun(&self) -> u64 {
        self.context.begun
    }

    /// A region's code, and where it is.
    pub(crate) fn code_of(&self, index: u32) -> Option<(u64, Vec<u8>)> {
        let region = self.regions.get(index as usize)?;
        let offset = region.code.checked_sub(self.code.address(0))? as usize;
        Some((region.code, self.code.bytes(offset, region.code_bytes as usize).to_vec()))
    }

    fn key_of(&self, epoch: u32, key: u32, upper: bool) -> u64 {
        mix(mix(u64::from(epoch) << 32 | u64::from(key)) ^ self.salt << 1 ^ u64::from(upper)) >> 1
    }

    /// The keys of the table of indirect jumps, which are made again when something has changed.
    fn make_keys(&mut self, epochs: [u32; 2]) -> [u64; 2] {
        let made_for = Some((epochs, self.key, self.salt));
        if self.keyed != made_for {
            self.keyed = made_for;
            self.context.keys = [self.key_of(epochs[0], self.key, false), self.key_of(epochs[1], self.key, true)];
        }
        self.context.keys
    }

    /// Runs a region, and what it leads to.
    pub(crate) fn run(&mut self, cpu: &mut Cpu, index: u32) -> Outcome {
        let Some(region) = self.regions.get(index as usize) else { return Outcome::Next };
        let (code, place) = (region.code, region.place);
        self.key = place.key;
        let epochs = epochs(cpu);
        let keys = self.make_keys(epochs);
        match self.open.take() {
            Some(Open::Edge(edge)) if self.edges.get(edge as usize).is_some_and(|edge| edge.target == place.linear) => {
                self.point(edge, Some(index), epochs[(place.linear >> 63) as usize]);
            }
            Some(Open::Indirect(target)) if target == place.linear => {
                let tag = target ^ keys[(target >> 63) as usize];
                if let Some(entry) = self.context.jumps.get_mut(tag as usize & (context::JUMPS - 1)) {
                    (entry.tag, entry.code) = (tag, code);
                }
            }
            _ => {}
        }
        flags::defer(&mut self.context, &cpu.flags);
        self.context.signal_mask = cpu.signal_mask;
        self.take_bases(cpu);
        self.context.cpu = std::ptr::from_mut(cpu) as u64;
        self.context.leave = Leave::Settled as u32;
        self.context.jit = std::ptr::from_mut(self) as u64;
        cpu.code_modified = false;
        // SAFETY: the stub is code that `context::stubs` made for this signature; it keeps the ABI. The region was made
        // by `translate` for this vCPU's tables and context, which live as long as `self` and `cpu`.
        unsafe {
            let enter: extern "sysv64" fn(*mut Cpu, u64) = std::mem::transmute(self.addresses.stubs.enter);
            enter(cpu, code);
        }
        self.flush_x87(cpu);
        cpu.signal_mask = self.context.signal_mask;
        self.settle(cpu)
    }

    fn take_bases(&mut self, cpu: &Cpu) {
        (self.context.fs_base, self.context.gs_base) = (cpu.seg_base[4], cpu.seg_base[5]);
    }

    /// Takes over what translated code has left.
    fn settle(&mut self, cpu: &mut Cpu) -> Outcome {
        let leave = self.context.leave;
        if leave == Leave::Settled as u32 {
            return match self.fault.take() {
                Some(fault) => Outcome::Fault(fault),
                None => Outcome::Next,
            };
        }
        flags::resolve(&self.context, &cpu.gpr, flags::State::CANONICAL.source(), &mut cpu.flags);
        let data = self.context.data;
        let mut rip = self.context.rip;
        if leave == Leave::Edge as u32 {
            rip = self.edges.get(data as usize).map_or(rip, |edge| edge.target);
            self.open = Some(Open::Edge(data));
        } else if leave == Leave::Indirect as u32 {
            if crate::mmu::is_canonical(rip) {
                self.open = Some(Open::Indirect(rip));
            } else if let Some(indirect) = self.indirect.get(data as usize) {
                // The branch itself faults, and has changed nothing.
                cpu.rip = indirect.rip;
                cpu.gpr[gpr::RSP] = cpu.gpr[gpr::RSP].wrapping_sub(i64::from(indirect.popped) as u64);
                return Outcome::Fault(Fault::gp0());
            }
        }
        cpu.set_rip(rip);
        Outcome::Next
    }

    /// The slow path of a site: the address where translated code goes on, or 0 to leave it.
    fn slow(&mut self, cpu: &mut Cpu, number: u32) -> u64 {
        self.context.leave = Leave::Settled as u32;
        cpu.signal_mask = self.context.signal_mask;
        let Some(site) = self.sites.get(number as usize) else { return 0 };
        let (op, rip, action, resume) = (site.op, site.rip, site.action, site.resume);
        flags::resolve(&self.context, &cpu.gpr, site.flags, &mut cpu.flags);
        cpu.rip = rip;
        let next = rip.wrapping_add(u64::from(op.len));
        match action {
            Action::Note(size) => return self.note(cpu, rip, next, size, resume),
            Action::LoadX87 => {
                self.load_x87(cpu);
                return resume;
            }
            Action::Load(size) => {
                return match crate::ops::load_operand(cpu, &op, size) {
                    Ok(value) => {
                        self.context.value = value;
                        if cpu.exit_request {
                            // The instruction is not done: the next poll must see the request.
                            cpu.signals.raise(accel::Signal::CODE);
                        }
                        resume
                    }
                    Err(fault) => self.raise(cpu, fault),
                };
            }
            Action::Execute | Action::ExecuteAndDefer | Action::ExecuteForFlags => {}
            Action::String | Action::Jump | Action::Transfer | Action::System | Action::Flags => {}
        }
        let before = (cpu.system_flags, epochs(cpu));
        if let Err(fault) = (op.run)(cpu, &op) {
            return self.raise(cpu, fault);
        }
        let done = match action {
            Action::Jump if cpu.exit_request => return 0,
            Action::Jump | Action::Transfer => return self.elsewhere(cpu),
            Action::System | Action::Flags => {
                cpu.rip = next;
                return self.after_system(cpu, before, action == Action::Flags, resume);
            }
            Action::String => cpu.rip == next,
            _ => {
                cpu.rip = next;
                true
            }
        };
        if !done || cpu.code_modified || cpu.exit_request || cpu.translation_key() != Some(self.key) {
            return 0;
        }
        self.take_bases(cpu);
        match action {
            Action::ExecuteForFlags => self.context.rflags = cpu.flags.bits() | 2,
            Action::ExecuteAndDefer | Action::String => flags::defer(&mut self.context, &cpu.flags),
            _ => {}
        }
        resume
    }

    /// A store into a line with code is done (`size` 0: the one of a call, whose jump is still to be done).
    fn note(&mut self, cpu: &mut Cpu, rip: u64, next: u64, size: u8, resume: u64) -> u64 {
        let offset = (self.context.scratch & 0xfff) as usize;
        // SAFETY: translated code took the pointer from a tagged entry of the TLB, whose block is alive.
        let code = unsafe { &*(self.context.watched as *const PageCode) };
        let (offset, len) = match size {
            0 => (offset, 8),
            translate::WHOLE_PAGE => (0, memory::PAGE_SIZE),
            size => (offset, usize::from(size)),
        };
        if !code.note_store(offset, len) {
            return resume;
        }
        cpu.code_modified = true;
        if size == 0 {
            cpu.gpr[gpr::RSP] = cpu.gpr[gpr::RSP].wrapping_add(8);
            cpu.rip = rip;
        } else {
            cpu.rip = next;
        }
        0
    }
}

/// The slow path, as translated code calls it.
extern "sysv64" fn slow(cpu: *mut Cpu, site: u32, context: *mut Context) -> u64 {
    // SAFETY: `Jit::run` stored both pointers before it entered translated code, and touches neither until that
    // returns; translated code passes its own context.
    let (cpu, jit) = unsafe { (&mut *cpu, &mut *((*context).jit as *mut Jit)) };
    let x87 = jit.suspend_x87(cpu, site);
    let resume = jit.slow(cpu, site);
    if std::mem::take(&mut jit.is_elsewhere) {
        // The region there brings what it wants.
        jit.context.vectors_were_live = 0;
    } else if x87 && resume != 0 {
        jit.load_x87(cpu);
    }
    resume
}

/// A block at a linear address: its bytes (with the instructions, where they are known), the interpreter's ops for them,
/// and whether the last one is [`Flow::Ends`]. It ends before an instruction that `stops` says is another piece's. `None` when the bytes are not what
/// the interpreter decoded.
pub(crate) fn piece(
    cpu: &Cpu,
    key: u32,
    linear: u64,
    (bytes, known): (&[u8], &[Instruction]),
    ops: &[Op],
    ends: bool,
    stops: impl Fn(u64) -> bool,
) -> Option<Piece> {
    let mode = mode_of(key, false, false);
    let falls_through = ops.last()?.len == 0;
    let ops = if falls_through { &ops[..ops.len() - 1] } else { ops };
    let mut decoder = crate::decode::decoder(&cpu.context(), bytes)?;
    let mut items: Vec<Item> = Vec::with_capacity(ops.len());
    let mut at = 0;
    for (index, op) in ops.iter().enumerate() {
        let flow = match (index + 1 == ops.len(), falls_through) {
            (false, _) => Flow::Next,
            (true, false) => Flow::Jumps,
            (true, true) if ends => Flow::Ends,
            (true, true) => Flow::Next,
        };
        let rip = linear.wrapping_add(at as u64);
        if index != 0 && stops(rip) {
            break;
        }
        let ins = match known.get(index) {
            Some(known) => *known,
            None => {
                let mut ins = Instruction::default();
                decoder.set_ip(0);
                decoder.decode_out(&mut ins);
                ins
            }
        };
        if ins.len() != usize::from(op.len) && flow != Flow::Jumps {
            return None;
        }
        let own = bytes.get(at..at + usize::from(op.len)).unwrap_or_default();
        items.push(Item::new(ins, Op { offset: 0, ..*op }, flow, rip, own, mode));
        at += usize::from(op.len);
    }
    (!items.is_empty()).then_some(Piece { items, rip: linear, bytes: at as u32 })
}

pub(crate) use translate::successors_of as successors;
