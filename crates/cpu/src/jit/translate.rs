//! From the instructions of a region to host code.
//!
//! Each instruction takes one of three ways: *native* (the instruction itself, with registers renamed and its memory
//! operand replaced by a host pointer), *by hand* (stack, branches, division) or *slow* (the interpreter's handler is
//! called for it). What can't be translated at all ends the region.

mod x87;

use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind,
    Register,
};

use super::asm::{Alu, Asm, Label, Mem, S0, S1, cc};
use super::context::{Leave, Place, Stubs, field, host_register, place};
use super::flags::{Carry, Held, Kind, Main, Operand, Recipe, Source, State};
use super::x87::Record;
use crate::mmu::{DATA_ENTRY_SHIFT, DATA_SLOTS, DataField, TablesLayout};
use crate::ops::Op;
use crate::ops::lower::{Flow, register_number, register_size};

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
}

impl Item {
    pub(super) fn new(ins: Instruction, op: Op, flow: Flow, rip: u64, mode: Mode) -> Self {
        let vector = flow == Flow::Next && is_native_vector(&ins, mode);
        let unit = x87::class(&ins, &op, flow, mode);
        let site = is_site(&ins, flow, vector || unit.is_some());
        Self { ins, op, flow, rip, vector, unit, site }
    }

    fn next(&self) -> u64 {
        self.rip.wrapping_add(u64::from(self.op.len))
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
    /// Executes the instruction, which jumps, and leaves the region.
    Jump,
    /// Notes a store of this many bytes that is done, and leaves the region if it hit code.
    Note(u8),
    /// Lets the host's x87 unit be the guest's.
    LoadX87,
    /// Executes an instruction that may change how code is run, and leaves the region if it did.
    System,
    /// The same, for one that asks for the outer loop because it may change flags of the system.
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
    /// Where translated code goes on, relative to the region.
    pub resume: Label,
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
    pub sites: Vec<Site>,
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
    polled: Vec<bool>,
    done: Vec<bool>,
    waiting: Vec<(usize, State)>,
    sites: Vec<Site>,
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
}

impl Default for Tools {
    fn default() -> Self {
        Self { encoder: Encoder::new(64), info: InstructionInfoFactory::new() }
    }
}

/// Translates a region; its first piece is the entry. `None`: nothing of it can be translated.
pub(super) fn translate(
    pieces: &[Piece],
    base: u64,
    addresses: &Addresses,
    mode: Mode,
    numbers: Numbers,
    tools: &mut Tools,
) -> Option<Output> {
    let mut asm = Asm::new(base);
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
        canonical: vec![false; pieces.len()],
        polled: vec![false; pieces.len()],
        done: vec![false; pieces.len()],
        waiting: Vec::new(),
        sites: Vec::new(),
        edges: Vec::new(),
        indirect: Vec::new(),
        x87_records: Vec::new(),
        outs: Vec::new(),
        tools,
        useless: false,
    };
    translator.plan();
    translator.region()?;
    Some(Output {
        asm: translator.asm,
        sites: translator.sites,
        edges: translator.edges,
        indirect: translator.indirect,
        x87: translator.x87_records,
    })
}

/// The size of a shift's count operand does not say what it does to the flags when it is zero.
fn counts_by_register(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd)
        && (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::Register && ins.op_register(n) == Register::CL)
}

/// Flags that the instruction certainly sets to something that does not depend on what they were.
fn surely_set(ins: &Instruction) -> u32 {
    if counts_by_register(ins) || has_rep(ins) {
        return 0;
    }
    let count = || {
        ins.immediate(ins.op_count() - 1)
            & if ins.op0_register().is_gpr64() || ins.memory_size().size() == 8 { 63 } else { 31 }
    };
    let independent = match ins.mnemonic() {
        // AF is undefined in the manuals; every processor clears it.
        M::And | M::Or | M::Xor | M::Test => true,
        M::Shl | M::Sal | M::Shr | M::Sar if count() == 0 => return 0,
        M::Shl | M::Sal | M::Shr | M::Sar => super::host::independent(super::host::Kind::Shift),
        M::Shld | M::Shrd if count() == 0 => return 0,
        M::Bsf | M::Bsr => super::host::independent(super::host::Kind::Scan),
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi => {
            super::host::independent(super::host::Kind::Bmi)
        }
        _ => false,
    };
    if independent {
        return ARITHMETIC;
    }
    (ins.rflags_written() | ins.rflags_cleared() | ins.rflags_set()) & ARITHMETIC
}

fn has_rep(ins: &Instruction) -> bool {
    ins.has_rep_prefix() || ins.has_repne_prefix()
}

/// Flags that the instruction may change. The decoder knows too well when a rotation changes nothing: the host sets OF
/// and CF whenever the masked count is not zero.
fn modified(ins: &Instruction) -> u32 {
    let rotates = matches!(ins.mnemonic(), M::Rcl | M::Rcr | M::Rol | M::Ror);
    let own = if rotates { CARRY | iced_x86::RflagsBits::OF } else { 0 };
    ins.rflags_modified() & ARITHMETIC | own
}

/// Flags that the instruction reads.
fn read(ins: &Instruction) -> u32 {
    let through_carry = matches!(ins.mnemonic(), M::Rcl | M::Rcr);
    ins.rflags_read() & ARITHMETIC | if through_carry { CARRY } else { 0 }
}

/// The flags that something after `items[at]` may see, out of all six.
fn live_after(items: &[Item], at: usize) -> u32 {
    let mut left = ARITHMETIC;
    for item in items.get(at + 1..).unwrap_or_default() {
        if item.site || read(&item.ins) & left != 0 {
            return left;
        }
        left &= !surely_set(&item.ins);
        if left == 0 {
            return 0;
        }
    }
    left
}

/// Whether the guest's state can be seen from outside at this instruction: it may fault, or the interpreter runs it.
fn is_site(ins: &Instruction, flow: Flow, vector: bool) -> bool {
    flow != Flow::Next
        || (0..ins.op_count()).any(|n| !matches!(ins.op_kind(n), OpKind::Register) && !is_immediate(ins.op_kind(n)))
            && ins.mnemonic() != M::Lea
        || !(is_plain(ins.mnemonic()) || is_idle(ins.mnemonic()) || ins.mnemonic() == M::Lea || vector)
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// Instructions that do nothing that the guest can see.
fn is_idle(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Nop
            | M::Pause
            | M::Endbr64
            | M::Endbr32
            | M::Reservednop
            | M::Prefetch
            | M::Prefetchw
            | M::Prefetchwt1
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Cldemote
    )
}

/// Integer instructions that the host executes as they are.
fn is_plain(mnemonic: M) -> bool {
    use M::{
        Adc, Adcx, Add, Adox, And, Andn, Bextr, Blsi, Blsmsk, Blsr, Bsf, Bsr, Bswap, Bt, Btc, Btr, Bts, Bzhi, Cbw, Cdq,
        Cdqe, Clc, Cmc, Cmova, Cmovae, Cmovb, Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno, Cmovnp,
        Cmovns, Cmovo, Cmovp, Cmovs, Cmp, Cmpxchg, Cmpxchg8b, Cmpxchg16b, Cqo, Crc32, Cwd, Cwde, Dec, Imul, Inc, Lahf,
        Lfence, Lzcnt, Mfence, Mov, Movbe, Movnti, Movsx, Movsxd, Movzx, Mul, Mulx, Neg, Not, Or, Pdep, Pext, Popcnt,
        Rcl, Rcr, Rol, Ror, Rorx, Sahf, Sal, Sar, Sarx, Sbb, Seta, Setae, Setb, Setbe, Sete, Setg, Setge, Setl, Setle,
        Setne, Setno, Setnp, Setns, Seto, Setp, Sets, Sfence, Shl, Shld, Shlx, Shr, Shrd, Shrx, Stc, Sub, Test, Tzcnt,
        Xadd, Xchg, Xor,
    };
    matches!(
        mnemonic,
        Adc | Add
            | Adcx
            | Adox
            | And
            | Andn
            | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bsf
            | Bsr
            | Bswap
            | Bt
            | Btc
            | Btr
            | Bts
            | Bzhi
            | Cbw
            | Cdq
            | Cdqe
            | Clc
            | Cmc
            | Cmova
            | Cmovae
            | Cmovb
            | Cmovbe
            | Cmove
            | Cmovg
            | Cmovge
            | Cmovl
            | Cmovle
            | Cmovne
            | Cmovno
            | Cmovnp
            | Cmovns
            | Cmovo
            | Cmovp
            | Cmovs
            | Cmp
            | Cmpxchg
            | Cmpxchg16b
            | Cmpxchg8b
            | Cqo
            | Crc32
            | Cwd
            | Cwde
            | Dec
            | Imul
            | Inc
            | Lahf
            | Lfence
            | Lzcnt
            | Mfence
            | Mov
            | Movbe
            | Movnti
            | Movsx
            | Movsxd
            | Movzx
            | Mul
            | Mulx
            | Neg
            | Not
            | Or
            | Pdep
            | Pext
            | Popcnt
            | Rcl
            | Rcr
            | Rol
            | Ror
            | Rorx
            | Sahf
            | Sal
            | Sar
            | Sarx
            | Sbb
            | Seta
            | Setae
            | Setb
            | Setbe
            | Sete
            | Setg
            | Setge
            | Setl
            | Setle
            | Setne
            | Setno
            | Setnp
            | Setns
            | Seto
            | Setp
            | Sets
            | Sfence
            | Shl
            | Shld
            | Shlx
            | Shr
            | Shrd
            | Shrx
            | Stc
            | Sub
            | Test
            | Tzcnt
            | Xadd
            | Xchg
            | Xor
    )
}

/// Whether the host has the features of a vector instruction and the translator may keep it as it is.
fn is_native_vector(ins: &Instruction, mode: Mode) -> bool {
    use std::arch::is_x86_feature_detected as host;
    if !mode.masked {
        return false;
    }
    if matches!(
        ins.mnemonic(),
        M::Maskmovdqu
            | M::Vmaskmovdqu
            | M::Ldmxcsr
            | M::Stmxcsr
            | M::Vldmxcsr
            | M::Vstmxcsr
            | M::Vmaskmovps
            | M::Vmaskmovpd
            | M::Vpmaskmovd
            | M::Vpmaskmovq
            | M::Vpgatherdd
            | M::Vpgatherdq
            | M::Vpgatherqd
            | M::Vpgatherqq
            | M::Vgatherdps
            | M::Vgatherdpd
            | M::Vgatherqps
            | M::Vgatherqpd
    ) {
        return false;
    }
    let legacy = ins.encoding() == EncodingKind::Legacy;
    if if legacy { !mode.sse } else { ins.encoding() != EncodingKind::VEX || !mode.avx } {
        return false;
    }
    let vector = |register: Register| register.is_xmm() || register.is_ymm();
    let operands = (0..ins.op_count()).filter(|n| ins.op_kind(*n) == OpKind::Register).map(|n| ins.op_register(n));
    let (mut some, mut other) = (false, false);
    for register in operands {
        some |= vector(register);
        other |= !vector(register) && register_size(register) == 0;
    }
    let zero = matches!(ins.mnemonic(), M::Vzeroupper | M::Vzeroall);
    if other || !(some || zero) {
        return false;
    }
    ins.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::SSE | CpuidFeature::SSE2 | CpuidFeature::INTEL386 | CpuidFeature::X64 => true,
        CpuidFeature::SSE3 => host!("sse3"),
        CpuidFeature::SSSE3 => host!("ssse3"),
        CpuidFeature::SSE4_1 => host!("sse4.1"),
        CpuidFeature::SSE4_2 => host!("sse4.2"),
        CpuidFeature::AES => host!("aes"),
        CpuidFeature::PCLMULQDQ => host!("pclmulqdq"),
        CpuidFeature::SHA => host!("sha"),
        CpuidFeature::AVX => host!("avx"),
        CpuidFeature::AVX2 => host!("avx2"),
        CpuidFeature::FMA => host!("fma"),
        CpuidFeature::F16C => host!("f16c"),
        CpuidFeature::VAES => host!("vaes"),
        CpuidFeature::VPCLMULQDQ => host!("vpclmulqdq"),
        _ => false,
    })
}

/// Whether the host has what an integer instruction beyond the base set needs.
fn host_has_plain(ins: &Instruction) -> bool {
    use std::arch::is_x86_feature_detected as host;
    match ins.mnemonic() {
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr => host!("bmi1"),
        M::Tzcnt => host!("bmi1"),
        M::Lzcnt => host!("lzcnt"),
        M::Bzhi | M::Mulx | M::Pdep | M::Pext | M::Rorx | M::Sarx | M::Shlx | M::Shrx => host!("bmi2"),
        M::Adcx | M::Adox => host!("adx"),
        M::Popcnt => host!("popcnt"),
        M::Movbe => host!("movbe"),
        M::Crc32 => host!("sse4.2"),
        M::Cmpxchg16b => host!("cmpxchg16b"),
        _ => true,
    }
}

/// The alignment that an instruction demands of its memory operand in bytes, or 1.
fn alignment(ins: &Instruction, size: u32) -> u32 {
    match ins.mnemonic() {
        M::Cmpxchg16b => 16,
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq => size,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu | M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm => 1,
        _ if ins.encoding() == EncodingKind::Legacy && size == 16 => 16,
        _ => 1,
    }
}

/// The general register `n` of a size in bytes.
fn register(size: u8, n: u8) -> Register {
    let n32 = u32::from(n);
    match size {
        1 if n < 4 => Register::AL + n32,
        1 if n < 8 => Register::SPL + (n32 - 4),
        1 => Register::R8L + (n32 - 8),
        2 => Register::AX + n32,
        4 => Register::EAX + n32,
        _ => Register::RAX + n32,
    }
}

/// The condition of Jcc, SETcc or CMOVcc as encoded.
fn condition(ins: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match ins.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}

impl Translator<'_> {
    fn live_after(&self, items: &[Item], at: usize) -> u32 {
        live_after(items, at)
    }

    fn find(&self, rip: u64) -> Option<usize> {
        self.pieces.iter().position(|piece| piece.rip == rip)
    }

    /// Finds where control flow meets (flags are canonical there) and where loops close (signals are polled there).
    fn plan(&mut self) {
        let mut entries = vec![0u32; self.pieces.len()];
        for piece in self.pieces {
            for target in successors_of(piece).into_iter().flatten() {
                if let Some(index) = self.find(target) {
                    entries[index] += 1;
                }
            }
        }
        for (index, count) in entries.iter().enumerate() {
            self.canonical[index] = index == 0 || *count > 1;
        }
        self.polled[0] = true;
        // 0: not seen, 1: on the path, 2: done.
        let mut seen = vec![0u8; self.pieces.len()];
        let mut path = vec![(0usize, 0usize)];
        seen[0] = 1;
        while let Some((index, next)) = path.pop() {
            if next == 2 {
                seen[index] = 2;
                continue;
            }
            path.push((index, next + 1));
            let target = successors_of(&self.pieces[index])[next].and_then(|rip| self.find(rip));
            if let Some(target) = target {
                match seen[target] {
                    0 => {
                        seen[target] = 1;
                        path.push((target, 0));
                    }
                    1 => {
                        self.polled[target] = true;
                        self.canonical[target] = true;
                    }
                    _ => {}
                }
            }
        }
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
                Flow::Next => self.item(&piece.items, at),
                Flow::Ends => {
                    if index == 0 && at == 0 {
                        // The interpreter needs no translation for this.
                        self.leave_for(item.rip);
                        return None;
                    }
                    let flags = matches!(item.ins.mnemonic(), M::Cli | M::Sti | M::Popf | M::Popfd | M::Popfq);
                    self.slow(item, if flags { Action::Flags } else { Action::System });
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

    /// Leaves the region; the interpreter goes on at `rip`.
    fn leave_for(&mut self, rip: u64) {
        self.useless |= self.pieces.first().is_some_and(|piece| piece.rip == rip) && self.asm.here() < 256;
        self.state.canonicalise(&mut self.asm, self.context);
        self.leave_next(rip);
    }

    fn leave_next(&mut self, rip: u64) {
        self.asm.mov_imm(S0, rip);
        self.asm.store(8, field!(self.context, rip), S0);
        self.asm.store_imm(4, field!(self.context, leave), Leave::Next as i32);
        self.asm.jmp_to(self.addresses.stubs.leave);
    }

    /// Goes on at a known address. The piece there, if it is to follow directly.
    fn go(&mut self, rip: u64) -> Option<(usize, State)> {
        match self.find(rip) {
            Some(index) if self.canonical[index] => {
                self.state.canonicalise(&mut self.asm, self.context);
                if self.done[index] {
                    self.asm.jmp(self.labels[index]);
                    return None;
                }
                Some((index, State::CANONICAL))
            }
            Some(index) => {
                debug_assert!(!self.done[index], "a piece with one entry is reached once");
                Some((index, self.state))
            }
            None => {
                self.state.canonicalise(&mut self.asm, self.context);
                self.edge(rip);
                None
            }
        }
    }

    fn same_page(&self, rip: u64) -> bool {
        self.pieces.first().is_some_and(|piece| (piece.rip ^ rip) & !0xfff == 0)
    }

    fn new_edge(&mut self, target: u64) -> (u32, Label) {
        let number = self.numbers.edges + self.edges.len() as u32;
        let stub = self.asm.label();
        self.edges.push(Edge { target, at: 0, stub, epoch: None });
        self.outs.push(Out::Edge { at: stub, edge: number });
        (number, stub)
    }

    /// A jump out of the region, with canonical flags.
    fn edge(&mut self, target: u64) {
        let (_, stub) = self.new_edge(target);
        let mut epoch = None;
        if !self.same_page(target) {
            let word = Mem::Abs(self.addresses.tables.epoch(target));
            // No epoch is this one before the edge is linked: the stub is reached either way.
            epoch = Some(self.asm.cmp_mem_imm32(word, 0));
            self.asm.jcc(cc::NE, stub);
        }
        self.asm.jmp(stub);
        let at = self.asm.here() - 4;
        if let Some(edge) = self.edges.last_mut() {
            (edge.at, edge.epoch) = (at, epoch);
        }
    }

    fn branch(&mut self, item: &Item) -> Option<(usize, State)> {
        let ins = &item.ins;
        if is_jcc(ins) {
            return self.conditional(item);
        }
        if is_direct(ins) && ins.mnemonic() == M::Jmp && ins.op0_kind() == OpKind::NearBranch64 {
            return self.go(item.target());
        }
        let done = match ins.code() {
            Code::Call_rel32_64 => self.call(item),
            Code::Retnq | Code::Retnq_imm16 => self.ret(item),
            Code::Jmp_rm64 => self.jump_indirect(item),
            Code::Call_rm64 => self.call_indirect(item),
            _ if repeats_string(ins) => {
                if self.string(item).is_err() {
                    self.slow(item, Action::String);
                }
                return self.go(item.next());
            }
            _ => Err(Refused),
        };
        if done.is_err() {
            if self.pieces.first().is_some_and(|piece| piece.rip == item.rip) {
                self.leave_for(item.rip);
            } else {
                self.slow(item, Action::Jump);
                // The slow path leaves; nothing follows.
                self.leave_for(item.next());
            }
        }
        None
    }

    fn conditional(&mut self, item: &Item) -> Option<(usize, State)> {
        let wanted = item.ins.rflags_read();
        self.hold(wanted);
        let (target, next) = (item.target(), item.next());
        let inherits = |this: &Self, rip| this.find(rip).is_some_and(|index| !this.canonical[index]);
        if !inherits(self, target) || !inherits(self, next) {
            self.state.canonicalise(&mut self.asm, self.context);
        }
        let code = condition(&item.ins);
        match self.find(target) {
            Some(index) => {
                let label = self.labels[index];
                self.asm.jcc(code, label);
                if !self.done[index] {
                    self.waiting.push((index, self.state));
                }
            }
            None if self.same_page(target) => {
                let (_, stub) = self.new_edge(target);
                self.asm.jcc(code, stub);
                let at = self.asm.here() - 4;
                if let Some(edge) = self.edges.last_mut() {
                    edge.at = at;
                }
            }
            None => {
                let at = self.asm.label();
                self.asm.jcc(code, at);
                self.outs.push(Out::Far { at, target });
            }
        }
        self.go(next)
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
        let number = self.numbers.sites + self.sites.len() as u32;
        let x87 = x87::looks_at_unit(&item.ins, action);
        self.sites.push(Site { op: item.op, rip: item.rip, action, flags: self.state.source(), x87, resume });
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
        let action = if modified(&item.ins) != 0 { Action::ExecuteAndDefer } else { Action::Execute };
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
            M::Leave => self.leave(items, at),
            M::Div | M::Idiv => self.divide(items, at),
            _ if item.unit.is_some() => self.unit(items, at),
            _ => self.native(items, at),
        };
        if result.is_err() {
            self.interpret(item);
        }
    }

    fn effects(&mut self, ins: &Instruction) -> Effects {
        let mut effects = Effects::default();
        let info = self.tools.info.info(ins);
        let access = |access: OpAccess| {
            (
                matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite),
                matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite),
            )
        };
        for used in info.used_registers() {
            let register = used.register();
            if register_size(register) == 0 {
                continue;
            }
            let number = register.full_register().number() as u32;
            let (reads, writes) = access(used.access());
            // A part of a register is merged into the rest.
            let merges = writes && (register_size(register) < 4 || used.access() == OpAccess::CondWrite);
            effects.reads |= u32::from(reads || merges) << number;
            effects.writes |= u32::from(writes) << number;
        }
        for used in info.used_memory() {
            let this = access(used.access());
            effects.odd |= effects.memory.is_some();
            effects.memory = Some(this);
        }
        effects
    }

    /// Before an instruction changes registers: keeps the operands of the flags' recipe, where the flags matter.
    fn keep_operands(&mut self, items: &[Item], at: usize, writes: u32) {
        if writes == 0 || !matches!(self.state.main, Main::Recipe(_)) {
            return;
        }
        if surely_set(&items[at].ins) == ARITHMETIC {
            return;
        }
        for n in 0..16 {
            if writes >> n & 1 != 0 {
                self.state.overwritten(&mut self.asm, self.context, n);
            }
        }
    }

    fn native(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let vector = item.vector;
        let plain = is_plain(ins.mnemonic()) && host_has_plain(ins);
        if !vector && !plain {
            return Err(Refused);
        }
        match ins.mnemonic() {
            M::Tzcnt if !self.mode.bmi => return Err(Refused),
            M::Lzcnt if !self.mode.abm => return Err(Refused),
            _ => {}
        }
        for n in 0..ins.op_count() {
            if ins.op_kind(n) == OpKind::Register {
                let register = ins.op_register(n);
                let known = register_size(register) != 0 || register.is_xmm() || register.is_ymm();
                if !known {
                    return Err(Refused);
                }
            }
        }
        let effects = self.effects(ins);
        if effects.odd {
            return Err(Refused);
        }
        match effects.memory {
            None => self.native_registers(items, at, effects),
            Some((true, false)) if !vector && ins.memory_size().size() <= 8 => self.native_load(items, at, effects),
            Some((_, false)) => self.native_vector_load(items, at, effects),
            Some((_, true)) => self.native_store(items, at, effects),
        }
    }

    /// The flags that must be in the host's before the instruction.
    fn flags_before(&self, items: &[Item], at: usize) -> u32 {
        let ins = &items[at].ins;
        let mut wanted = read(ins);
        if modified(ins) != 0 && self.live_after(items, at) & !surely_set(ins) != 0 {
            wanted |= ARITHMETIC & !surely_set(ins);
        }
        wanted
    }

    /// Scratch registers for guest registers that live in the context.
    fn assign(&self, effects: Effects, first: u8, count: usize) -> Try<Vec<(u8, u8)>> {
        let free = [first, S1];
        let mut assigned = Vec::new();
        for n in super::context::RESIDENT..16 {
            if (effects.reads | effects.writes) >> n & 1 != 0 {
                let scratch = free.get(assigned.len()).filter(|_| assigned.len() < count).ok_or(Refused)?;
                assigned.push((n, *scratch));
            }
        }
        Ok(assigned)
    }

    fn load_assigned(&mut self, assigned: &[(u8, u8)], effects: Effects) {
        for (n, scratch) in assigned {
            if effects.reads >> n & 1 != 0
                && let Place::Context(at) = place(self.context, *n)
            {
                self.asm.load(8, *scratch, at);
            }
        }
    }

    fn store_assigned(&mut self, assigned: &[(u8, u8)], effects: Effects) {
        for (n, scratch) in assigned {
            if effects.writes >> n & 1 != 0
                && let Place::Context(at) = place(self.context, *n)
            {
                self.asm.store(8, at, *scratch);
            }
        }
    }

    /// The instruction with its registers renamed; `memory` replaces the memory operand.
    fn renamed(&self, ins: &Instruction, assigned: &[(u8, u8)], memory: Replace) -> Try<Instruction> {
        let mut new = *ins;
        for n in 0..ins.op_count() {
            match ins.op_kind(n) {
                OpKind::Register => {
                    let old = ins.op_register(n);
                    let size = register_size(old);
                    if size == 0 {
                        continue;
                    }
                    let number = register_number(old);
                    if number >= 16 {
                        // AH to BH are themselves.
                        continue;
                    }
                    let host = assigned
                        .iter()
                        .find(|(guest, _)| *guest == number)
                        .map(|(_, host)| *host)
                        .or_else(|| host_register(number))
                        .ok_or(Refused)?;
                    new.set_op_register(n, register(size, host));
                }
                OpKind::Memory => match memory {
                    Replace::Register(host, size) => {
                        new.set_op_kind(n, OpKind::Register);
                        new.set_op_register(n, register(size, host));
                    }
                    Replace::Form(form) => {
                        new.set_memory_base(Register::R14);
                        new.set_memory_index(if form == Form::Indexed { Register::R15 } else { Register::None });
                        new.set_memory_index_scale(1);
                        new.set_memory_displacement64(0);
                        new.set_memory_displ_size(0);
                        new.set_segment_prefix(Register::None);
                    }
                },
                kind if is_immediate(kind) => {}
                _ => return Err(Refused),
            }
        }
        Ok(new)
    }

    fn encode(&mut self, ins: &Instruction) -> Try<Encoded> {
        let encoded = self.tools.encoder.encode(ins, 0);
        let mut bytes = self.tools.encoder.take_buffer();
        let mut result = Encoded::default();
        if encoded.is_ok()
            && let Some(to) = result.bytes.get_mut(..bytes.len())
        {
            to.copy_from_slice(&bytes);
            result.len = bytes.len() as u8;
        }
        bytes.clear();
        self.tools.encoder.set_buffer(bytes);
        if result.len == 0 { Err(Refused) } else { Ok(result) }
    }

    fn native_registers(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let assigned = self.assign(effects, S0, 2)?;
        let new = self.renamed(ins, &assigned, Replace::Form(Form::Pointer))?;
        let code = self.encode(&new)?;
        let counter = matches!(ins.mnemonic(), M::Inc | M::Dec);
        if counter {
            self.state.split_carry(&mut self.asm, self.context);
        } else {
            let wanted = self.flags_before(items, at);
            self.keep_operands(items, at, effects.writes);
            self.hold(wanted);
        }
        self.load_assigned(&assigned, effects);
        self.asm.bytes(code.bytes());
        self.store_assigned(&assigned, effects);
        self.flags_after(items, at, None);
        Ok(())
    }

    /// What the flags are after an instruction; `loaded`: its memory operand is in S1.
    fn flags_after(&mut self, items: &[Item], at: usize, loaded: Option<u8>) {
        let ins = &items[at].ins;
        if modified(ins) == 0 {
            return;
        }
        let counter = match ins.mnemonic() {
            M::Inc => Some(Kind::Inc),
            M::Dec => Some(Kind::Dec),
            _ => None,
        };
        if let Some(kind) = counter {
            let number = register_number(ins.op0_register());
            let held = if self.state.held == Held::All { Held::All } else { Held::AllButCarry };
            if ins.op0_kind() == OpKind::Register && number < 16 {
                let size = register_size(ins.op0_register());
                let recipe = Recipe { kind, size, a: Operand::Register(number), b: Operand::Immediate(0) };
                self.state = State { main: Main::Recipe(recipe), carry: Carry::Memory, held };
            } else {
                self.state = State { main: Main::Host, carry: Carry::Memory, held };
            }
            return;
        }
        match recipe(ins, loaded) {
            Some(recipe) => {
                let in_slot = recipe.a == Operand::SlotA || recipe.b == Operand::SlotB;
                if in_slot && self.live_after(items, at) != 0 {
                    // The value that was in memory goes where the deferred flags want it.
                    let slot = if recipe.a == Operand::SlotA {
                        field!(self.context, flag_a)
                    } else {
                        field!(self.context, flag_b)
                    };
                    self.asm.store(8, slot, S1);
                }
                self.state.set_recipe(recipe);
            }
            None => self.state.set_host(),
        }
    }

    /// Puts the linear address of the memory operand into S0; `plus` is added. Changes the host's flags.
    fn address(&mut self, item: &Item) -> Try {
        let ins = &item.ins;
        let base = ins.memory_base();
        let segment = match ins.memory_segment() {
            Register::FS => Some(field!(self.context, fs_base)),
            Register::GS => Some(field!(self.context, gs_base)),
            _ => None,
        };
        let wide = match base {
            Register::None if ins.memory_index() == Register::None => ins.memory_displ_size() != 4,
            Register::None => ins.memory_index().is_gpr64(),
            Register::EIP => false,
            Register::RIP => true,
            base => base.is_gpr64(),
        };
        let size = if wide { 8 } else { 4 };
        let displacement = ins.memory_displacement64();
        if base == Register::RIP || base == Register::EIP {
            let address = displacement.wrapping_add(item.rip);
            self.asm.mov_imm(S0, if wide { address } else { address & 0xffff_ffff });
        } else if base == Register::None && ins.memory_index() == Register::None {
            self.asm.mov_imm(S0, if wide { displacement } else { displacement & 0xffff_ffff });
        } else {
            let short =
                i32::try_from(displacement as i64).or(if wide { Err(Refused) } else { Ok(displacement as i32) })?;
            self.scaled_address(ins, size, short);
        }
        if let Some(segment) = segment {
            self.asm.alu_mem(8, Alu::Add, S0, segment);
        }
        Ok(())
    }

    /// `lea S0, [base + index << scale + displacement]`.
    fn scaled_address(&mut self, ins: &Instruction, size: u8, displacement: i32) {
        let fetch = |this: &mut Self, register: Register, scratch: u8| {
            if register == Register::None {
                return None;
            }
            Some(match place(this.context, register.number() as u8) {
                Place::Host(host) => host,
                Place::Context(at) => {
                    this.asm.load(8, scratch, at);
                    scratch
                }
            })
        };
        let base = fetch(self, ins.memory_base(), S0);
        let index = fetch(self, ins.memory_index(), S1);
        let scale = ins.memory_index_scale().trailing_zeros() as u8;
        let mem = match (base, index) {
            (Some(base), Some(index)) => Mem::Index(base, index, scale, displacement),
            (Some(base), None) => Mem::Base(base, displacement),
            (None, Some(index)) => Mem::Scaled(index, scale, displacement),
            (None, None) => return self.asm.mov_imm(S0, i64::from(displacement) as u64),
        };
        match mem {
            Mem::Base(base, 0) if size == 8 => {
                if base != S0 {
                    self.asm.mov(8, S0, base);
                }
            }
            mem => self.asm.lea(size, S0, mem),
        }
    }

    /// Looks up the page of the address in S0 for an access of `size` bytes; jumps to the label when it is not a plain
    /// one. Changes the host's flags.
    fn look_up(&mut self, size: u32, align: u32, write: bool, form: Form) -> Label {
        let slow = self.asm.label();
        let tables = self.addresses.tables;
        let field = |field: DataField| Mem::Base(S1, tables.field(self.mode.class, field) as i32);
        self.asm.mov(4, S1, S0);
        self.asm.shr(4, S1, 12 - DATA_ENTRY_SHIFT as u8);
        self.asm.alu_imm(4, Alu::And, S1, ((DATA_SLOTS - 1) << DATA_ENTRY_SHIFT) as i32);
        let tag = field(if write { DataField::Write } else { DataField::Read });
        self.asm.alu_mem(8, Alu::Xor, S0, tag);
        self.asm.alu_imm(8, Alu::Cmp, S0, 0x1000 - size as i32);
        self.asm.jcc(cc::A, slow);
        if align > 1 {
            self.asm.test_imm8(S0, (align - 1) as u8);
            self.asm.jcc(cc::NE, slow);
        }
        let host = field(DataField::Host);
        match form {
            Form::Indexed => self.asm.load(8, S1, host),
            Form::Pointer => self.asm.alu_mem(8, Alu::Add, S0, host),
        }
        slow
    }

    fn code_field(&self) -> Mem {
        Mem::Base(S1, self.addresses.tables.field(self.mode.class, DataField::Code) as i32)
    }

    fn native_load(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = ins.memory_size().size() as u8;
        if !matches!(size, 1 | 2 | 4 | 8) || is_register_bit_test(ins) {
            return Err(Refused);
        }
        // The operands besides memory and its address.
        let mut direct = Effects { memory: None, ..Effects::default() };
        for n in 0..ins.op_count() {
            if ins.op_kind(n) == OpKind::Register {
                let number = ins.op_register(n).full_register().number() as u32;
                direct.reads |= (effects.reads & 1 << number) | (effects.writes & 1 << number);
                direct.writes |= effects.writes & 1 << number;
            }
        }
        let assigned = self.assign(direct, S0, 1)?;
        let registers = if ins.mnemonic() == M::Movbe {
            None
        } else {
            let new = self.renamed(ins, &assigned, Replace::Register(S1, size))?;
            Some(self.encode(&new)?)
        };
        // A plain load goes straight to its register.
        let straight = matches!(ins.mnemonic(), M::Mov | M::Movzx | M::Movsx | M::Movsxd) && assigned.is_empty();
        let direct_code = if straight || registers.is_none() {
            if !assigned.is_empty() {
                return Err(Refused);
            }
            let new = self.renamed(ins, &assigned, Replace::Form(Form::Indexed))?;
            Some(self.encode(&new)?)
        } else {
            None
        };
        let wanted = self.flags_before(items, at);
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        self.address(item)?;
        let slow = self.look_up(u32::from(size), 1, false, Form::Indexed);
        let (resume, back) = (self.asm.label(), self.asm.label());
        if let Some(code) = direct_code {
            let (action, then) = match registers {
                Some(registers) => (Action::Load(size), Then::Code(registers)),
                None => (Action::Execute, Then::Nothing),
            };
            let site = self.site(item, action, resume);
            self.asm.bytes(code.bytes());
            self.asm.bind(back);
            self.outs.push(Out::Slow { at: slow, site, resume, back, then });
            return Ok(());
        }
        let site = self.site(item, Action::Load(size), resume);
        self.asm.load_zx(size, S1, Mem::Index(S0, S1, 0, 0));
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        self.hold(wanted);
        self.load_assigned(&assigned, direct);
        self.asm.bytes(registers.unwrap_or_default().bytes());
        self.store_assigned(&assigned, direct);
        self.flags_after(items, at, Some(size));
        Ok(())
    }

    fn native_vector_load(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = ins.memory_size().size() as u32;
        if size == 0 || size > 32 {
            return Err(Refused);
        }
        let mut direct = Effects::default();
        for n in 0..ins.op_count() {
            if ins.op_kind(n) == OpKind::Register && register_size(ins.op_register(n)) != 0 {
                let number = ins.op_register(n).full_register().number() as u32;
                direct.reads |= effects.reads & 1 << number;
                direct.writes |= effects.writes & 1 << number;
            }
        }
        if direct.reads | direct.writes != 0 && !self.assign(direct, S0, 2)?.is_empty() {
            return Err(Refused);
        }
        let new = self.renamed(ins, &[], Replace::Form(Form::Indexed))?;
        let code = self.encode(&new)?;
        if self.flags_before(items, at) != 0 {
            return Err(Refused);
        }
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        self.address(item)?;
        let slow = self.look_up(size, alignment(ins, size), false, Form::Indexed);
        let flags = modified(ins) != 0;
        let (resume, back) = (self.asm.label(), self.asm.label());
        let action = if flags { Action::ExecuteForFlags } else { Action::Execute };
        let site = self.site(item, action, resume);
        self.asm.bytes(code.bytes());
        self.asm.bind(back);
        let then = if flags { Then::Flags } else { Then::Nothing };
        self.outs.push(Out::Slow { at: slow, site, resume, back, then });
        if flags {
            self.state.set_host();
        }
        Ok(())
    }

    fn native_store(&mut self, items: &[Item], at: usize, effects: Effects) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let size = ins.memory_size().size() as u32;
        if size == 0 || size > 32 || is_register_bit_test(ins) {
            return Err(Refused);
        }
        let sets = is_setcc(ins);
        let counter = matches!(ins.mnemonic(), M::Inc | M::Dec);
        let wanted = if sets || counter { 0 } else { self.flags_before(items, at) };
        let mut direct = Effects::default();
        for n in 0..ins.op_count() {
            if ins.op_kind(n) == OpKind::Register && register_size(ins.op_register(n)) != 0 {
                let number = ins.op_register(n).full_register().number() as u32;
                direct.reads |= effects.reads & 1 << number;
                direct.writes |= effects.writes & 1 << number;
            }
        }
        let assigned = self.assign(direct, S1, 1)?;
        let code = if sets {
            Encoded::default()
        } else {
            let new = self.renamed(ins, &assigned, Replace::Form(Form::Pointer))?;
            self.encode(&new)?
        };
        let flags = modified(ins) != 0;
        if sets {
            self.hold(ins.rflags_read());
            self.asm.setcc_mem(condition(ins), field!(self.context, scratch));
        }
        if counter {
            self.state.split_carry(&mut self.asm, self.context);
        }
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        self.address(item)?;
        let slow = self.look_up(size, alignment(ins, size), true, Form::Pointer);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let action = if flags { Action::ExecuteForFlags } else { Action::Execute };
        let site = self.site(item, action, resume);
        if sets || !assigned.is_empty() || wanted != 0 {
            self.asm.load(8, S1, self.code_field());
            self.asm.store(8, field!(self.context, value), S1);
            if wanted != 0 {
                self.asm.store(8, field!(self.context, scratch), S0);
                self.hold(wanted);
                self.asm.load(8, S0, field!(self.context, scratch));
            }
            if sets {
                self.asm.load(1, S1, field!(self.context, scratch));
                self.asm.store(1, Mem::Base(S0, 0), S1);
            }
            self.load_assigned(&assigned, direct);
            self.asm.bytes(code.bytes());
            self.store_assigned(&assigned, direct);
            self.asm.load(8, S1, field!(self.context, value));
        } else {
            self.asm.bytes(code.bytes());
            self.asm.load(8, S1, self.code_field());
        }
        if counter {
            self.state = State { main: Main::Host, carry: Carry::Memory, held: Held::AllButCarry };
        } else if flags {
            self.state.set_host();
        }
        self.watch(item, size as u8, flags && self.live_after(items, at) != 0);
        self.asm.bind(back);
        let then = if flags { Then::Flags } else { Then::Nothing };
        self.outs.push(Out::Slow { at: slow, site, resume, back, then });
        Ok(())
    }

    /// After a store: S0 is the host address, S1 the tracking of its page. Looks whether the page holds code.
    /// `flags`: the host's flags must survive.
    fn watch(&mut self, item: &Item, size: u8, flags: bool) {
        let (at, back, resume) = (self.asm.label(), self.asm.label(), self.asm.label());
        if flags {
            // RCX is zero when no line of the page holds code; neither instruction changes flags.
            self.asm.store(8, field!(self.context, watched), S1);
            self.asm.load(8, S1, Mem::Base(S1, 0));
            self.asm.xchg(1, S1);
            self.asm.jrcxz(5);
            self.asm.jmp(at);
            self.asm.xchg(1, S1);
            self.asm.bind(back);
        } else {
            self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
            self.asm.jcc(cc::NE, at);
            self.asm.bind(back);
        }
        let mut source = self.state.source();
        if flags || source.main == Main::Host {
            source.main = Main::Bits;
        }
        let site = self.site(item, Action::Note(size), resume);
        if let Some(site) = self.sites.last_mut() {
            site.flags = source;
        }
        self.outs.push(Out::Watched { at, site, size, resume, back, flags });
    }

    /// Looks up the page of a string operand in register `pointer` (RCX items of a size), which must not reach beyond
    /// it. Puts the host address into S0; S1 is the index of the entry.
    fn string_operand(&mut self, pointer: u8, size: u8, write: bool, slow: Label) {
        let tables = self.addresses.tables;
        let field = |field: DataField| Mem::Base(S1, tables.field(self.mode.class, field) as i32);
        let scale = size.trailing_zeros() as u8;
        self.asm.mov(4, S1, pointer);
        self.asm.shr(4, S1, 12 - DATA_ENTRY_SHIFT as u8);
        self.asm.alu_imm(4, Alu::And, S1, ((DATA_SLOTS - 1) << DATA_ENTRY_SHIFT) as i32);
        self.asm.mov(8, S0, pointer);
        self.asm.alu_mem(8, Alu::Xor, S0, field(if write { DataField::Write } else { DataField::Read }));
        self.asm.alu_imm(8, Alu::Cmp, S0, 0xfff);
        self.asm.jcc(cc::A, slow);
        self.asm.lea(8, S0, Mem::Index(S0, 1, scale, 0));
        self.asm.alu_imm(8, Alu::Cmp, S0, 0x1000);
        self.asm.jcc(cc::A, slow);
        self.asm.mov(4, S0, pointer);
        self.asm.alu_imm(4, Alu::And, S0, 0xfff);
        self.asm.alu_mem(8, Alu::Add, S0, field(DataField::Host));
    }

    /// REP MOVS and REP STOS whose operands lie in one page each: the host's instruction does it.
    fn string(&mut self, item: &Item) -> Try {
        const RCX: u8 = 1;
        const RSI: u8 = 6;
        const RDI: u8 = 7;
        let ins = &item.ins;
        let (stos, size) = match ins.mnemonic() {
            M::Movsb => (false, 1),
            M::Movsw => (false, 2),
            M::Movsd => (false, 4),
            M::Movsq => (false, 8),
            M::Stosb => (true, 1),
            M::Stosw => (true, 2),
            M::Stosd => (true, 4),
            M::Stosq => (true, 8),
            _ => return Err(Refused),
        };
        let segment = ins.segment_prefix();
        if self.mode.down || ins.op0_kind() != OpKind::MemoryESRDI || segment == Register::FS || segment == Register::GS
        {
            return Err(Refused);
        }
        self.state.canonicalise(&mut self.asm, self.context);
        let (slow, back, hit, resume) = (self.asm.label(), self.asm.label(), self.asm.label(), self.asm.label());
        let site = self.site(item, Action::String, resume);
        let note = self.site(item, Action::Note(WHOLE_PAGE), back);
        self.asm.test(8, RCX, RCX);
        self.asm.jcc(cc::E, back);
        self.asm.alu_imm(8, Alu::Cmp, RCX, 0x1000 / i32::from(size));
        self.asm.jcc(cc::A, slow);
        self.string_operand(RDI, size, true, slow);
        self.asm.store(8, field!(self.context, scratch), S0);
        self.asm.load(8, S1, self.code_field());
        self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
        self.asm.jcc(cc::NE, slow);
        self.asm.store(8, field!(self.context, value), S1);
        let scale = size.trailing_zeros() as u8;
        if !stos {
            self.string_operand(RSI, size, false, slow);
            self.asm.lea(8, S1, Mem::Index(RSI, RCX, scale, 0));
            self.asm.store(8, field!(self.context, string_rsi), S1);
            self.asm.mov(8, RSI, S0);
        }
        self.asm.lea(8, S1, Mem::Index(RDI, RCX, scale, 0));
        self.asm.store(8, field!(self.context, string_rdi), S1);
        self.asm.load(8, RDI, field!(self.context, scratch));
        self.asm.rep_string(stos, size);
        if !stos {
            self.asm.load(8, RSI, field!(self.context, string_rsi));
        }
        self.asm.load(8, RDI, field!(self.context, string_rdi));
        // Another vCPU may have decoded code there meanwhile.
        self.asm.load(8, S1, field!(self.context, value));
        self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
        self.asm.jcc(cc::NE, hit);
        self.asm.bind(back);
        self.state = State::CANONICAL;
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        self.outs.push(Out::WatchedString { at: hit, site: note, resume: back });
        Ok(())
    }

    fn lea(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let effects = self.effects(ins);
        let size = register_size(ins.op0_register());
        let destination = register_number(ins.op0_register());
        self.keep_operands(items, at, effects.writes);
        let base = ins.memory_base();
        let relative = base == Register::RIP || base == Register::EIP;
        let wide = base.is_gpr64() || ins.memory_index().is_gpr64() || base == Register::RIP;
        let constant = relative || (base == Register::None && ins.memory_index() == Register::None);
        let to = match place(self.context, destination) {
            Place::Host(host) => host,
            Place::Context(_) => S0,
        };
        if constant {
            if size != 8 && size != 4 {
                return Err(Refused);
            }
            let value = ins.memory_displacement64().wrapping_add(if relative { item.rip } else { 0 });
            let value = if wide || (!relative && ins.memory_displ_size() == 8) { value } else { value & 0xffff_ffff };
            self.asm.mov_imm(to, if size == 8 { value } else { value & 0xffff_ffff });
        } else {
            if size == 2 {
                return Err(Refused);
            }
            let address_size = if wide { 8 } else { 4 };
            let displacement = ins.memory_displacement64() as i32;
            let fetch = |this: &mut Self, register: Register, scratch: u8| {
                (register != Register::None).then(|| match place(this.context, register.number() as u8) {
                    Place::Host(host) => host,
                    Place::Context(at) => {
                        this.asm.load(8, scratch, at);
                        scratch
                    }
                })
            };
            let base = fetch(self, ins.memory_base(), S0);
            let index = fetch(self, ins.memory_index(), S1);
            let scale = ins.memory_index_scale().trailing_zeros() as u8;
            let mem = match (base, index) {
                (Some(base), Some(index)) => Mem::Index(base, index, scale, displacement),
                (Some(base), None) => Mem::Base(base, displacement),
                (None, Some(index)) => Mem::Scaled(index, scale, displacement),
                (None, None) => return Err(Refused),
            };
            // The result is truncated to the smaller of operand and address size.
            self.asm.lea(if size == 8 { address_size } else { 4 }, to, mem);
        }
        if let Place::Context(at) = place(self.context, destination) {
            self.asm.store(8, at, S0);
        }
        Ok(())
    }

    fn push(&mut self, item: &Item) -> Try {
        let ins = &item.ins;
        if item.op.size != 8 {
            return Err(Refused);
        }
        enum Data {
            Host(u8),
            Context(Mem),
            Immediate(i32),
        }
        let data = match ins.op0_kind() {
            OpKind::Register if ins.op0_register().is_gpr64() => {
                match place(self.context, register_number(ins.op0_register())) {
                    Place::Host(host) => Data::Host(host),
                    Place::Context(at) => Data::Context(at),
                }
            }
            kind if is_immediate(kind) => Data::Immediate(i32::try_from(ins.immediate(0) as i64).map_err(|_| Refused)?),
            OpKind::Memory if ins.memory_size().size() == 8 => {
                self.state.release(&mut self.asm, self.context);
                self.address(item)?;
                let slow = self.look_up(8, 1, false, Form::Indexed);
                let (resume, back) = (self.asm.label(), self.asm.label());
                let site = self.site(item, Action::Load(8), resume);
                self.asm.load(8, S1, Mem::Index(S0, S1, 0, 0));
                self.asm.bind(back);
                self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
                let at = field!(self.context, scratch);
                self.asm.store(8, at, S1);
                Data::Context(at)
            }
            _ => return Err(Refused),
        };
        self.state.release(&mut self.asm, self.context);
        self.stack_operand(4);
        self.asm.lea(8, S0, Mem::Base(super::context::HOST_RSP, -8));
        let slow = self.look_up(8, 1, true, Form::Pointer);
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Execute, resume);
        match data {
            Data::Host(host) => self.asm.store(8, Mem::Base(S0, 0), host),
            Data::Immediate(value) => self.asm.store_imm(8, Mem::Base(S0, 0), value),
            Data::Context(at) => {
                self.asm.load(8, S1, self.code_field());
                self.asm.store(8, field!(self.context, value), S1);
                self.asm.load(8, S1, at);
                self.asm.store(8, Mem::Base(S0, 0), S1);
                self.asm.load(8, S1, field!(self.context, value));
            }
        }
        if !matches!(data, Data::Context(_)) {
            self.asm.load(8, S1, self.code_field());
        }
        self.asm.lea(8, super::context::HOST_RSP, Mem::Base(super::context::HOST_RSP, -8));
        self.watch(item, 8, false);
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    /// Before guest register `n` changes.
    fn stack_operand(&mut self, n: u8) {
        self.state.overwritten(&mut self.asm, self.context, n);
    }

    /// Loads the top of the stack into S1.
    fn load_top(&mut self, item: &Item, base: u8, action: Action) -> (Label, u32, Label) {
        self.asm.mov(8, S0, base);
        let slow = self.look_up(8, 1, false, Form::Indexed);
        let resume = self.asm.label();
        let site = self.site(item, action, resume);
        self.asm.load(8, S1, Mem::Index(S0, S1, 0, 0));
        (slow, site, resume)
    }

    fn pop(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        if item.op.size != 8 || ins.op0_kind() != OpKind::Register || !ins.op0_register().is_gpr64() {
            return Err(Refused);
        }
        let destination = register_number(ins.op0_register());
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, 1 << 4 | 1 << destination);
        let (slow, site, resume) = self.load_top(item, super::context::HOST_RSP, Action::Execute);
        self.asm.lea(8, super::context::HOST_RSP, Mem::Base(super::context::HOST_RSP, 8));
        match place(self.context, destination) {
            Place::Host(host) => self.asm.mov(8, host, S1),
            Place::Context(at) => self.asm.store(8, at, S1),
        }
        let back = self.asm.label();
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    fn leave(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        if item.op.size != 8 {
            return Err(Refused);
        }
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, 1 << 4 | 1 << 5);
        let (slow, site, resume) = self.load_top(item, 5, Action::Execute);
        self.asm.lea(8, super::context::HOST_RSP, Mem::Base(5, 8));
        self.asm.mov(8, 5, S1);
        let back = self.asm.label();
        self.asm.bind(back);
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        Ok(())
    }

    /// DIV and IDIV of 32 and 64 bits by a register: everything that may fault is left to the interpreter.
    fn divide(&mut self, items: &[Item], at: usize) -> Try {
        let item = &items[at];
        let ins = &item.ins;
        let memory = ins.op0_kind() == OpKind::Memory;
        let size = if memory { ins.memory_size().size() as u8 } else { register_size(ins.op0_register()) };
        if !matches!(size, 4 | 8) {
            return Err(Refused);
        }
        let effects = self.effects(ins);
        let divisor = if memory {
            S1
        } else {
            match place(self.context, register_number(ins.op0_register())) {
                Place::Host(host) => host,
                Place::Context(_) => S1,
            }
        };
        let mut new = *ins;
        new.set_op0_kind(OpKind::Register);
        new.set_op0_register(register(size, divisor));
        let code = self.encode(&new)?;
        self.state.release(&mut self.asm, self.context);
        self.keep_operands(items, at, effects.writes);
        if memory {
            self.address(item)?;
            let slow = self.look_up(u32::from(size), 1, false, Form::Indexed);
            let (resume, back) = (self.asm.label(), self.asm.label());
            let site = self.site(item, Action::Load(size), resume);
            self.asm.load_zx(size, S1, Mem::Index(S0, S1, 0, 0));
            self.asm.bind(back);
            self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Nothing });
        } else if let Place::Context(from) = place(self.context, register_number(ins.op0_register())) {
            self.asm.load(8, S1, from);
        }
        let slow = self.asm.label();
        if ins.mnemonic() == M::Div {
            // The quotient fits if and only if the high half is below the divisor.
            self.asm.alu(size, Alu::Cmp, 2, divisor);
            self.asm.jcc(cc::AE, slow);
        } else {
            // A sign-extended dividend overflows only when divided by -1; zero is out too.
            self.asm.mov(size, S0, 0);
            self.asm.sar(size, S0, size * 8 - 1);
            self.asm.alu(size, Alu::Cmp, S0, 2);
            self.asm.jcc(cc::NE, slow);
            self.asm.lea(size, S0, Mem::Base(divisor, 1));
            self.asm.alu_imm(size, Alu::Cmp, S0, 1);
            self.asm.jcc(cc::BE, slow);
        }
        let (resume, back) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::ExecuteForFlags, resume);
        if self.live_after(items, at) != 0 {
            self.hold(ARITHMETIC);
        }
        self.asm.bytes(code.bytes());
        self.asm.bind(back);
        self.state.set_host();
        self.outs.push(Out::Slow { at: slow, site, resume, back, then: Then::Flags });
        Ok(())
    }

    /// Pushes a return address; the slow path executes the whole instruction.
    fn push_return(&mut self, item: &Item, address: u64) {
        self.asm.lea(8, S0, Mem::Base(super::context::HOST_RSP, -8));
        let slow = self.look_up(8, 1, true, Form::Pointer);
        let resume = self.asm.label();
        let site = self.site(item, Action::Jump, resume);
        if let Ok(short) = i32::try_from(address as i64) {
            self.asm.store_imm(8, Mem::Base(S0, 0), short);
            self.asm.load(8, S1, self.code_field());
        } else {
            self.asm.load(8, S1, self.code_field());
            self.asm.store(8, field!(self.context, value), S1);
            self.asm.mov_imm(S1, address);
            self.asm.store(8, Mem::Base(S0, 0), S1);
            self.asm.load(8, S1, field!(self.context, value));
        }
        self.asm.lea(8, super::context::HOST_RSP, Mem::Base(super::context::HOST_RSP, -8));
        // A hit leaves the region with the jump still to be done: the return address is stored again then.
        self.watch_call(item);
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: slow, site, resume, back: resume, then: Then::Nothing });
    }

    /// As [`Self::watch`], after the store of a call: on a hit RSP goes back and the interpreter repeats the call.
    fn watch_call(&mut self, item: &Item) {
        let (at, back, resume) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.alu_mem_imm8(8, Alu::Cmp, Mem::Base(S1, 0), 0);
        self.asm.jcc(cc::NE, at);
        self.asm.bind(back);
        let site = self.site(item, Action::Note(0), resume);
        self.outs.push(Out::Watched { at, site, size: 8, resume, back, flags: false });
    }

    fn call(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        self.push_return(item, item.next());
        self.edge(item.target());
        Ok(())
    }

    fn ret(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        let (slow, site, resume) = self.load_top(item, super::context::HOST_RSP, Action::Jump);
        let extra = if item.ins.op_count() == 1 { item.ins.immediate(0) as i32 & 0xffff } else { 0 };
        let popped = 8 + extra;
        self.asm.lea(8, super::context::HOST_RSP, Mem::Base(super::context::HOST_RSP, popped));
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: slow, site, resume, back: resume, then: Then::Nothing });
        self.jump_to_s1(item.rip, popped);
        Ok(())
    }

    /// Loads the target of an indirect jump or call into S1. Flags are canonical.
    fn target(&mut self, item: &Item) -> Try {
        let ins = &item.ins;
        if ins.op0_kind() == OpKind::Register {
            match place(self.context, register_number(ins.op0_register())) {
                Place::Host(host) => self.asm.mov(8, S1, host),
                Place::Context(at) => self.asm.load(8, S1, at),
            }
            return Ok(());
        }
        self.address(item)?;
        let slow = self.look_up(8, 1, false, Form::Indexed);
        let resume = self.asm.label();
        let site = self.site(item, Action::Jump, resume);
        self.asm.load(8, S1, Mem::Index(S0, S1, 0, 0));
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: slow, site, resume, back: resume, then: Then::Nothing });
        Ok(())
    }

    fn jump_indirect(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        self.target(item)?;
        self.jump_to_s1(item.rip, 0);
        Ok(())
    }

    fn call_indirect(&mut self, item: &Item) -> Try {
        self.state.canonicalise(&mut self.asm, self.context);
        self.state = State::CANONICAL;
        self.target(item)?;
        // A target that is not canonical faults before anything is pushed.
        let (odd, resume) = (self.asm.label(), self.asm.label());
        let site = self.site(item, Action::Jump, resume);
        self.asm.mov(8, S0, S1);
        self.asm.shl(8, S0, 16);
        self.asm.sar(8, S0, 16);
        self.asm.alu(8, Alu::Cmp, S0, S1);
        self.asm.jcc(cc::NE, odd);
        self.asm.bind(resume);
        self.outs.push(Out::Slow { at: odd, site, resume, back: resume, then: Then::Nothing });
        self.asm.store(8, field!(self.context, scratch), S1);
        self.push_return(item, item.next());
        self.asm.load(8, S1, field!(self.context, scratch));
        self.jump_to_s1(item.rip, -8);
        Ok(())
    }

    /// Jumps to the guest address in S1, through the table.
    fn jump_to_s1(&mut self, rip: u64, popped: i32) {
        let number = self.numbers.indirect + self.indirect.len() as u32;
        self.indirect.push(Indirect { rip, popped });
        let miss = self.asm.label();
        let context = self.context;
        let keys = match field!(context, keys) {
            Mem::Abs(address) => address as i32,
            _ => 0,
        };
        let jumps = match field!(context, jumps) {
            Mem::Abs(address) => address as i32,
            _ => 0,
        };
        self.asm.mov(8, S0, S1);
        self.asm.shr(8, S1, 63);
        self.asm.alu_mem(8, Alu::Xor, S0, Mem::Scaled(S1, 3, keys));
        self.asm.mov(4, S1, S0);
        self.asm.alu_imm(4, Alu::And, S1, super::context::JUMPS as i32 - 1);
        self.asm.shl(4, S1, 4);
        self.asm.alu_mem(8, Alu::Cmp, S0, Mem::Base(S1, jumps));
        self.asm.jcc(cc::NE, miss);
        self.asm.jmp_mem(Mem::Base(S1, jumps + 8));
        self.outs.push(Out::Miss { at: miss, indirect: number });
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
                        Then::Code(code) => self.asm.bytes(code.bytes()),
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

    /// Looks whether a store of `size` bytes at S0 (also in `Context::scratch`) hit a line in the mask S1.
    fn lines(&mut self, site: u32, size: u8, resume: Label, back: Label, flags: bool) {
        let context = self.context;
        let hit = self.asm.label();
        self.asm.store(8, field!(context, value), S1);
        // The lines of the first and of the last byte.
        let distances: &[i32] = if size > 1 { &[0, i32::from(size) - 1] } else { &[0] };
        for distance in distances {
            if *distance != 0 {
                self.asm.load(8, S0, field!(context, scratch));
                self.asm.alu_imm(8, Alu::Add, S0, *distance);
            }
            self.asm.shr(4, S0, 6);
            self.asm.alu_imm(4, Alu::And, S0, 63);
            self.asm.bt_mem_reg(field!(context, value), S0);
            self.asm.jcc(cc::B, hit);
        }
        if flags {
            State::load_bits(&mut self.asm, context);
        }
        self.asm.jmp(back);
        self.asm.bind(hit);
        self.asm.mov_imm(S0, u64::from(site));
        self.asm.jmp_to(self.addresses.stubs.slow);
        self.asm.bind(resume);
        if flags {
            State::load_bits(&mut self.asm, context);
        }
        self.asm.jmp(back);
    }
}

/// What replaces a memory operand.
#[derive(Clone, Copy, Debug)]
enum Replace {
    /// A host register and its size in bytes.
    Register(u8, u8),
    Form(Form),
}

fn is_direct(ins: &Instruction) -> bool {
    ins.op_count() == 1 && ins.op0_kind() == OpKind::NearBranch64
}

fn is_jcc(ins: &Instruction) -> bool {
    ins.is_jcc_short_or_near() && ins.op0_kind() == OpKind::NearBranch64
}

fn is_setcc(ins: &Instruction) -> bool {
    ins.condition_code() != iced_x86::ConditionCode::None && ins.op_count() == 1 && !is_direct(ins)
}

fn repeats_string(ins: &Instruction) -> bool {
    has_rep(ins)
        && ins.is_string_instruction()
        && !matches!(ins.mnemonic(), M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd)
}

/// BT and its like with a register as bit offset reach beyond their operand.
fn is_register_bit_test(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), M::Bt | M::Btc | M::Btr | M::Bts) && ins.op1_kind() == OpKind::Register
}

/// How the flags of an instruction can be made again. `loaded`: the memory operand's value is in a slot.
fn recipe(ins: &Instruction, loaded: Option<u8>) -> Option<Recipe> {
    let (kind, keeps) = match ins.mnemonic() {
        M::Add => (Kind::Add, true),
        M::Sub => (Kind::Sub, true),
        M::Cmp => (Kind::Cmp, false),
        M::And | M::Or | M::Xor => (Kind::Logic, true),
        M::Test => (Kind::Logic, false),
        M::Neg => (Kind::Neg, true),
        _ => return None,
    };
    let operand = |n: u32, slot: Operand| match ins.op_kind(n) {
        OpKind::Register => {
            let number = register_number(ins.op_register(n));
            (number < 16).then_some(Operand::Register(number))
        }
        OpKind::Memory => loaded.map(|_| slot),
        kind if is_immediate(kind) => Some(Operand::Immediate(i32::try_from(ins.immediate(n) as i64).ok()?)),
        _ => None,
    };
    let size = match ins.op0_kind() {
        OpKind::Register => register_size(ins.op0_register()),
        _ => loaded?,
    };
    if keeps && ins.op0_kind() == OpKind::Memory {
        return None;
    }
    let a = operand(0, Operand::SlotA)?;
    let b = if ins.op_count() > 1 { operand(1, Operand::SlotB)? } else { Operand::Immediate(0) };
    let same = a == b;
    match kind {
        // The result is what counts; of TEST it exists only when both operands are the same.
        Kind::Logic if keeps || same => Some(Recipe { kind, size, a, b: Operand::Immediate(0) }),
        Kind::Logic => None,
        // Something minus itself is zero, as after a logical operation.
        Kind::Sub if same => Some(Recipe { kind: Kind::Logic, size, a, b: Operand::Immediate(0) }),
        Kind::Add if same => None,
        _ => Some(Recipe { kind, size, a, b }),
    }
}

/// Where a piece goes on, as far as it is known.
pub(crate) fn successors_of(piece: &Piece) -> [Option<u64>; 2] {
    let Some(last) = piece.items.last() else { return [Some(piece.rip), None] };
    match last.flow {
        Flow::Next => [Some(last.next()), None],
        Flow::Ends => [Some(last.next()), None],
        Flow::Jumps if is_jcc(&last.ins) => [Some(last.next()), Some(last.target())],
        Flow::Jumps if is_direct(&last.ins) && last.ins.mnemonic() == M::Jmp => [Some(last.target()), None],
        Flow::Jumps if repeats_string(&last.ins) => [Some(last.next()), None],
        Flow::Jumps => [None, None],
    }
}

/// Whether the instruction does the same when it is executed again from the same state.
fn can_repeat(ins: &Instruction) -> bool {
    let control = |register: Register| register.is_cr() || register.is_dr();
    let operand = |n| ins.op_kind(n) == OpKind::Register && control(ins.op_register(n));
    !(0..ins.op_count()).any(operand)
        && !matches!(
            ins.mnemonic(),
            M::Rdtsc
                | M::Rdtscp
                | M::Rdpmc
                | M::Rdrand
                | M::Rdseed
                | M::Rdmsr
                | M::Wrmsr
                | M::In
                | M::Out
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::Hlt
                | M::Mwait
                | M::Monitor
                | M::Lmsw
                | M::Clts
                | M::Xsetbv
                | M::Invlpg
                | M::Invpcid
        )
}

impl Item {
    fn target(&self) -> u64 {
        self.rip.wrapping_add(self.ins.near_branch64())
    }
}
