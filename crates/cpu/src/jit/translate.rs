//! From the instructions of a region to host code.
//!
//! Each instruction takes one of three ways: *native* (the instruction itself, with registers renamed and its memory
//! operand replaced by a host pointer), *by hand* (stack, branches, division) or *slow* (the interpreter's handler is
//! called for it). What can't be translated at all ends the region.

mod bits;
mod classify;
mod flow;
mod memory;
mod native;
mod patch;
mod plan;
mod stack;
mod string;
mod system;
mod x87;

use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind,
    Register,
};

use self::classify::{
    alignment, asks_for_little, can_repeat, condition, host_has_plain, is_direct, is_idle, is_jcc, is_native_vector,
    is_plain, is_register_bit_test, is_setcc, is_site, is_transfer, modified, read, recipe, register, repeats_string,
    surely_set,
};
pub(crate) use self::plan::successors_of;
use self::plan::{Plan, find};
use super::asm::{Alu, Asm, Label, Mem, S0, S1, cc};
use super::context::{HOST_RSP, JUMPS, Leave, Place, RESIDENT, Stubs, field, host_register, place};
use super::flags::{Carry, Held, Kind, Main, Operand, Recipe, Source, State};
use super::host;
use super::x87::Record;
use crate::mmu::{Class, DATA_ENTRY_SHIFT, DATA_SLOTS, DataField, TablesLayout};
use crate::ops::Op;
use crate::ops::lower::{Flow, is_immediate, register_number, register_size};

/// All six arithmetic flags, as the decoder counts them.
const ARITHMETIC: u32 = 0x3f;
const CARRY: u32 = iced_x86::RflagsBits::CF;

/// One guest instruction.
pub(crate) struct Item {
    /// As decoded at address 0.
    pub ins: Instruction,
    pub op: Op,
    pub flow: Flow,
    /// Its address.
    pub rip: u64,
    /// A vector instruction that the host executes as it is.
    vector: bool,
    /// What is done with an x87 or MMX instruction on the host's unit.
    unit: Option<x87::Class>,
    /// See [`is_site`].
    site: bool,
    /// Its bytes.
    code: Encoded,
    /// See [`modified`], [`surely_set`] and [`read`].
    modified: u8,
    sets: u8,
    reads: u8,
    /// The arithmetic flags that something after it in its piece may see.
    live: u8,
}

impl Item {
    #[inline(always)]
    pub(super) fn new(ins: Instruction, op: Op, flow: Flow, rip: u64, bytes: &[u8], mode: Mode) -> Self {
        let plain = is_plain(ins.mnemonic());
        let vector = !plain && flow == Flow::Next && is_native_vector(&ins, mode);
        let unit = if plain { None } else { x87::class(&ins, &op, flow, mode) };
        let site = is_site(&ins, flow, plain, vector || unit.is_some());
        let mut code = Encoded::default();
        if let Some(to) = code.bytes.get_mut(..bytes.len()) {
            to.copy_from_slice(bytes);
            code.len = bytes.len() as u8;
        }
        let (modified, sets, reads) = (modified(&ins) as u8, surely_set(&ins) as u8, read(&ins) as u8);
        Self { ins, op, flow, rip, vector, unit, site, code, modified, sets, reads, live: ARITHMETIC as u8 }
    }

    fn next(&self) -> u64 {
        self.rip.wrapping_add(u64::from(self.op.len))
    }

    /// The flags that it, or something after it, may see.
    fn live_before(&self) -> u8 {
        if self.site { ARITHMETIC as u8 } else { self.live & !self.sets | self.reads }
    }
}

/// A run of instructions without a branch but at its end.
pub(crate) struct Piece {
    pub items: Vec<Item>,
    pub rip: u64,
    /// Its length.
    pub bytes: u32,
}

/// What an address is translated under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// The privilege level.
    pub cpl: u8,
    /// The class of data accesses.
    pub class: u8,
    /// SSE instructions may run.
    pub sse: bool,
    /// AVX instructions may run.
    pub avx: bool,
    /// All SIMD floating-point exceptions are masked.
    pub masked: bool,
    /// x87 and MMX instructions may run on the host's unit.
    pub x87: bool,
    /// RFLAGS.DF: string instructions go downwards.
    pub down: bool,
    /// TZCNT and LZCNT are what they are called.
    pub bmi: bool,
    pub abm: bool,
}

/// The size of [`Action::Note`] that stands for all of the page.
pub(super) const WHOLE_PAGE: u8 = u8::MAX;

/// What the slow path does at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Loads the memory operand of this many bytes.
    Load(u8),
    /// Executes the instruction.
    Execute,
    /// Executes the instruction and defers the flags that it leaves.
    ExecuteAndDefer,
    /// Executes the instruction and leaves its flags for the host.
    ExecuteForFlags,
    /// Executes the repeated string instruction; leaves the region unless it is done. Its flags are deferred.
    String,
    /// Executes the instruction, which jumps, and goes on there.
    Jump,
    /// The same, for one that asks for the outer loop because it changes the mode and flags of the system.
    Transfer,
    /// Notes a store of this many bytes that is done, and leaves the region if it hit code.
    Note(u8),
    /// Lets the host's x87 unit be the guest's.
    LoadX87,
    /// Executes an instruction that may change how code is run, and goes on elsewhere if it did.
    System,
    /// The same, for one that asks for the outer loop because it may change flags of the system or the page tables.
    Flags,
}

/// A place where translated code calls the slow path.
pub(super) struct Site {
    pub op: Op,
    pub rip: u64,
    pub action: Action,
    pub flags: Source,
    /// The x87 unit must be the interpreter's.
    pub x87: bool,
    /// Where translated code goes on; the number of a label until the region is finished.
    pub resume: u64,
}

/// A direct jump out of the region.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub target: u64,
    /// Where its displacement is, relative to the region.
    pub at: u32,
    /// Where the stub for the unlinked jump is.
    pub stub: Label,
    /// Where the expected epoch is, for jumps to another page.
    pub epoch: Option<u32>,
}

/// An indirect jump.
#[derive(Clone, Copy, Debug)]
pub(super) struct Indirect {
    /// The instruction.
    pub rip: u64,
    /// What the instruction has added to RSP.
    pub popped: i32,
}

/// What a finished region consists of.
pub(super) struct Output {
    pub asm: Asm,
    pub edges: Vec<Edge>,
    pub indirect: Vec<Indirect>,
    pub x87: Vec<Record>,
}

/// Numbers that the next site, edge and indirect jump get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub sites: u32,
    pub edges: u32,
    pub indirect: u32,
    pub x87: u32,
}

/// Fixed addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub context: u32,
    pub tables: TablesLayout,
    /// The word of pending signals.
    pub pending: u64,
    /// Instructions are counted, and what can't be repeated is the interpreter's: for the lock-step mode.
    pub counted: bool,
    pub stubs: Stubs,
}

/// Code that is placed after the region.
enum Out {
    /// Calls the slow path; `then` follows before the code goes on at the label.
    Slow {
        at: Label,
        site: u32,
        resume: Label,
        back: Label,
        then: Then,
    },
    /// A store met a page with code: S0 is the host address, S1 its tracking.
    Watched {
        at: Label,
        site: u32,
        size: u8,
        resume: Label,
        back: Label,
        flags: bool,
    },
    /// An unlinked edge.
    Edge {
        at: Label,
        edge: u32,
    },
    /// A jump to another page, with the check of its epoch.
    Far {
        at: Label,
        target: u64,
    },
    Poll {
        at: Label,
        rip: u64,
    },
    /// A string instruction has written to a page with code, whose tracking is S1.
    WatchedString {
        at: Label,
        site: u32,
        resume: Label,
    },
    Vectors {
        at: Label,
        back: Label,
    },
    Miss {
        at: Label,
        indirect: u32,
    },
}

/// What follows a slow instruction.
#[derive(Clone)]
enum Then {
    Nothing,
    /// Encoded instructions.
    Code(Encoded),
    /// RFLAGS from the context.
    Flags,
}

/// What is pushed.
#[derive(Clone, Copy, Debug)]
enum Data {
    Host(u8),
    Context(Mem),
    Immediate(i32),
}

/// How the memory operand is reached after a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `[S0 + S1]`.
    Indexed,
    /// `[S0]`; S1 is the index of the entry.
    Pointer,
}

/// The bytes of one host instruction.
#[derive(Clone, Copy, Debug, Default)]
struct Encoded {
    bytes: [u8; 16],
    len: u8,
}

impl Asm {
    fn encoded(&mut self, code: &Encoded) {
        self.some_bytes(&code.bytes, code.len);
    }
}

impl Encoded {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The instruction can't be translated in the way that was tried.
struct Refused;

type Try<T = ()> = Result<T, Refused>;

/// What an instruction does to registers and memory.
#[derive(Clone, Copy, Debug, Default)]
struct Effects {
    /// Guest general registers that are read, one bit each.
    reads: u32,
    writes: u32,
    /// Explicit memory access: (reads, writes).
    memory: Option<(bool, bool)>,
    /// More than one access, or one that does not stand for itself.
    odd: bool,
}

impl Effects {
    /// Of the registers that are operands themselves, and not only part of an address.
    fn direct(self, ins: &Instruction) -> Self {
        let mut operands = 0;
        for n in 0..ins.op_count() {
            if ins.op_kind(n) == OpKind::Register && register_size(ins.op_register(n)) != 0 {
                operands |= 1 << ins.op_register(n).full_register().number();
            }
        }
        Self { reads: self.reads & operands, writes: self.writes & operands, ..Self::default() }
    }
}

pub(super) struct Translator<'a> {
    asm: Asm,
    addresses: &'a Addresses,
    context: u32,
    mode: Mode,
    numbers: Numbers,
    state: State,
    pieces: &'a [Piece],
    labels: Vec<Label>,
    canonical: Vec<bool>,
    /// Nobody sees the flags that control comes with.
    dead: Vec<bool>,
    polled: Vec<bool>,
    /// Signals are polled after the first instruction, which follows STI.
    window: Vec<bool>,
    done: Vec<bool>,
    waiting: Vec<(usize, State)>,
    edges: Vec<Edge>,
    indirect: Vec<Indirect>,
    x87_records: Vec<Record>,
    outs: Vec<Out>,
    tools: &'a mut Tools,
    /// The very first instruction can't be translated.
    useless: bool,
}

/// Parts of the decoder's library that are used again and again.
pub(super) struct Tools {
    encoder: Encoder,
    info: InstructionInfoFactory,
    pub asm: Asm,
    /// Sites of all regions; the new one adds its own.
    pub sites: Vec<Site>,
}

impl Default for Tools {
    fn default() -> Self {
        Self { encoder: Encoder::new(64), info: InstructionInfoFactory::new(), asm: Asm::default(), sites: Vec::new() }
    }
}

/// Translates a region; its first piece is the entry. `None`: nothing of it can be translated.
pub(super) fn translate(
    pieces: &mut [Piece],
    base: u64,
    addresses: &Addresses,
    mode: Mode,
    numbers: Numbers,
    tools: &mut Tools,
) -> Option<Output> {
    let mut plan = Plan::of(pieces);
    plan.find_live_flags(pieces);
    let pieces: &[Piece] = pieces;
    let mut asm = std::mem::take(&mut tools.asm);
    asm.reset(base);
    let labels = pieces.iter().map(|_| asm.label()).collect();
    let mut translator = Translator {
        asm,
        addresses,
        context: addresses.context,
        mode,
        numbers,
        state: State::CANONICAL,
        pieces,
        labels,
        canonical: plan.canonical,
        dead: plan.dead,
        polled: plan.polled,
        window: vec![false; pieces.len()],
        done: vec![false; pieces.len()],
        waiting: Vec::new(),
        edges: Vec::new(),
        indirect: Vec::new(),
        x87_records: Vec::new(),
        outs: Vec::new(),
        tools,
        useless: false,
    };
    translator.region()?;
    Some(Output {
        asm: translator.asm,
        edges: translator.edges,
        indirect: translator.indirect,
        x87: translator.x87_records,
    })
}

impl Translator<'_> {
    fn find(&self, rip: u64) -> Option<usize> {
        find(self.pieces, rip)
    }

    fn region(&mut self) -> Option<()> {
        self.waiting.push((0, State::CANONICAL));
        while let Some((index, state)) = self.waiting.pop() {
            let mut next = Some((index, state));
            while let Some((index, state)) = next.take() {
                if self.done[index] {
                    break;
                }
                self.done[index] = true;
                let label = self.labels[index];
                self.asm.bind(label);
                self.state = if self.canonical[index] { State::CANONICAL } else { state };
                next = self.piece(index);
            }
        }
        while let Some(out) = self.outs.pop() {
            self.out(out);
        }
        (!self.useless).then_some(())
    }

    /// Translates a piece; the piece that follows directly, if it is to be next.
    fn piece(&mut self, index: usize) -> Option<(usize, State)> {
        let pieces = self.pieces;
        let piece = &pieces[index];
        if self.polled[index] {
            self.poll(piece.rip);
        }
        if index == 0 {
            self.enter_x87(piece);
        }
        if index == 0 && self.wants_vectors() {
            let (at, back) = (self.asm.label(), self.asm.label());
            self.asm.alu_mem_imm8(1, Alu::Cmp, field!(self.context, vectors_live), 0);
            self.asm.jcc(cc::E, at);
            self.asm.bind(back);
            self.outs.push(Out::Vectors { at, back });
        }
        for at in 0..piece.items.len() {
            let item = &piece.items[at];
            if self.addresses.counted {
                if !can_repeat(&item.ins) {
                    self.leave_for(item.rip);
                    return None;
                }
                self.count();
            }
            match item.flow {
                Flow::Next => {
                    self.item(&piece.items, at);
                    if at == 0 && self.window[index] {
                        self.state.canonicalise(&mut self.asm, self.context);
                        self.poll(item.next());
                    }
                }
                Flow::Ends if self.system(item).is_ok() => return self.go(item.next()),
                Flow::Ends => {
                    self.slow(item, if asks_for_little(&item.ins) { Action::Flags } else { Action::System });
                    return self.go(item.next());
                }
                Flow::Jumps => return self.branch(item),
            }
        }
        let end = piece.items.last().map_or(piece.rip, Item::next);
        self.go(end)
    }

    fn wants_vectors(&self) -> bool {
        self.pieces.iter().flat_map(|piece| &piece.items).any(|item| item.vector)
    }

    /// Leaves when a signal is pending. The flags are canonical here.
    fn poll(&mut self, rip: u64) {
        let at = self.asm.label();
        self.asm.mov_imm(S0, self.addresses.pending);
        self.asm.load(4, S0, Mem::Base(S0, 0));
        self.asm.test_mem(4, field!(self.context, signal_mask), S0);
        self.asm.jcc(cc::NE, at);
        if self.addresses.counted {
            self.asm.load(8, S0, field!(self.context, begun));
            self.asm.alu_mem(8, Alu::Cmp, S0, field!(self.context, begun_most));
            self.asm.jcc(cc::AE, at);
        }
        self.outs.push(Out::Poll { at, rip });
    }

    /// Counts an instruction. Changes S0.
    fn count(&mut self) {
        let begun = field!(self.context, begun);
        self.asm.load(8, S0, begun);
        self.asm.lea(8, S0, Mem::Base(S0, 1));
        self.asm.store(8, begun, S0);
    }

    /// Brings the flags in `wanted` (as the decoder counts them) into the host's.
    fn hold(&mut self, wanted: u32) {
        let wanted = wanted & ARITHMETIC;
        if wanted == 0 {
            return;
        }
        if wanted == CARRY && self.state.carry == Carry::Memory && self.state.held != Held::All {
            self.asm.bt_mem(field!(self.context, flag_cf), 0);
            self.state.held = Held::None;
            return;
        }
        if self.state.hold(&mut self.asm, self.context, wanted & CARRY != 0) {
            return;
        }
        self.bits();
        self.state.hold(&mut self.asm, self.context, wanted & CARRY != 0);
    }

    /// Makes bits of deferred flags. Changes S0.
    fn bits(&mut self) {
        self.asm.call_to(self.addresses.stubs.bits);
        self.state = State { main: Main::Bits, carry: Carry::Same, held: Held::None };
    }

    fn site(&mut self, item: &Item, action: Action, resume: Label) -> u32 {
        let number = self.tools.sites.len() as u32;
        let x87 = x87::looks_at_unit(&item.ins, action);
        let (flags, resume) = (self.state.source(), resume.number());
        self.tools.sites.push(Site { op: item.op, rip: item.rip, action, flags, x87, resume });
        number
    }

    /// Lets the interpreter execute the instruction.
    fn slow(&mut self, item: &Item, action: Action) {
        self.state.canonicalise(&mut self.asm, self.context);
        let resume = self.asm.label();
        let site = self.site(item, action, resume);
        self.asm.mov_imm(S0, u64::from(site));
        self.asm.jmp_to(self.addresses.stubs.slow);
        self.asm.bind(resume);
        self.state = State::CANONICAL;
    }

    fn interpret(&mut self, item: &Item) {
        let action = if item.modified != 0 { Action::ExecuteAndDefer } else { Action::Execute };
        self.slow(item, action);
    }

    fn item(&mut self, items: &[Item], at: usize) {
        let item = &items[at];
        let ins = &item.ins;
        if is_idle(ins.mnemonic()) {
            if ins.mnemonic() == M::Pause && ins.len() > 2 {
                self.interpret(item);
            }
            return;
        }
        let result = match ins.mnemonic() {
            M::Lea => self.lea(items, at),
            M::Push => self.push(item),
            M::Pop => self.pop(items, at),
            M::Pushfq => self.push_flags(item),
            M::Bt | M::Bts | M::Btr | M::Btc if is_register_bit_test(ins) && ins.op0_kind() == OpKind::Memory => {
                self.bit_string(items, at)
            }
            M::Cld if !self.mode.down => Ok(()),
            M::Leave => self.leave(items, at),
            M::Div | M::Idiv => self.divide(items, at),
            _ if item.unit.is_some() => self.unit(items, at),
            _ => self.native(items, at),
        };
        if result.is_err() {
            self.interpret(item);
        }
    }

    fn out(&mut self, out: Out) {
        let context = self.context;
        let stubs = self.addresses.stubs;
        match out {
            Out::Slow { at, site, resume, back, then } => {
                self.asm.bind(at);
                self.asm.mov_imm(S0, u64::from(site));
                self.asm.jmp_to(stubs.slow);
                if self.asm.offset(resume).is_none() {
                    self.asm.bind(resume);
                    match then {
                        Then::Nothing => {}
                        Then::Code(code) => self.asm.encoded(&code),
                        Then::Flags => {
                            self.asm.load(8, S0, field!(context, rflags));
                            self.asm.push(S0);
                            self.asm.popf();
                        }
                    }
                    self.asm.jmp(back);
                }
            }
            Out::Watched { at, site, size, resume, back, flags } => {
                self.asm.bind(at);
                if flags {
                    // RCX was exchanged for the lines, which are not wanted here.
                    self.asm.xchg(1, S1);
                    self.asm.store(8, field!(context, scratch), S0);
                    State::save_bits(&mut self.asm, context);
                    self.asm.load(8, S0, field!(context, scratch));
                } else {
                    self.asm.store(8, field!(context, scratch), S0);
                    self.asm.store(8, field!(context, watched), S1);
                    self.asm.load(8, S1, Mem::Base(S1, 0));
                }
                self.lines(site, size, resume, back, flags);
            }
            Out::WatchedString { at, site, resume } => {
                self.asm.bind(at);
                self.asm.store(8, field!(context, watched), S1);
                self.asm.mov_imm(S0, u64::from(site));
                self.asm.jmp_to(stubs.slow);
                debug_assert!(self.asm.offset(resume).is_some(), "it goes on behind the instruction");
            }
            Out::Edge { at, edge } => {
                self.asm.bind(at);
                self.asm.store_imm(4, field!(context, data), edge as i32);
                self.asm.store_imm(4, field!(context, leave), Leave::Edge as i32);
                self.asm.jmp_to(stubs.leave);
            }
            Out::Far { at, target } => {
                self.asm.bind(at);
                self.edge(target);
            }
            Out::Poll { at, rip } => {
                self.asm.bind(at);
                self.leave_next(rip);
            }
            Out::Vectors { at, back } => {
                self.asm.bind(at);
                self.asm.call_to(stubs.load_vectors);
                self.asm.jmp(back);
            }
            Out::Miss { at, indirect } => {
                let Mem::Abs(keys) = field!(context, keys) else { return };
                self.asm.bind(at);
                self.asm.mov(8, S1, S0);
                self.asm.shr(8, S1, 63);
                self.asm.alu_mem(8, Alu::Xor, S0, Mem::Scaled(S1, 3, keys as i32));
                self.asm.store(8, field!(context, rip), S0);
                self.asm.store_imm(4, field!(context, data), indirect as i32);
                self.asm.store_imm(4, field!(context, leave), Leave::Indirect as i32);
                self.asm.jmp_to(stubs.leave);
            }
        }
    }
}

/// What replaces a memory operand.
#[derive(Clone, Copy, Debug)]
enum Replace {
    /// A host register and its size in bytes.
    Register(u8, u8),
    Form(Form),
}

impl Item {
    fn target(&self) -> u64 {
        self.rip.wrapping_add(self.ins.near_branch64())
    }
}
