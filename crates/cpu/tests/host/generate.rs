//! Random instructions, registers and memory.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind, Register};

use super::state::State;
use crate::common::{CODE, DATA, DATA_LEN};

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A value that is likely to matter.
pub fn interesting(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => random.below(256),
        2 => random.below(64),
        3 => [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63]
            [random.below(12) as usize],
        4 => (random.next() as u32).into(),
        5 => !random.below(256),
        6 => 1 << random.below(64),
        _ => u64::MAX >> random.below(64),
    }
}

pub fn pointer(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => DATA + DATA_LEN as u64 - random.below(80),
        1 => DATA + random.below(40),
        2 => DATA + 0x1000 - random.below(20),
        _ => {
            let at = DATA + 0x400 + random.below(DATA_LEN as u64 - 0x800);
            if random.one_in(3) { at } else { at & !15 }
        }
    }
}

fn float32(random: &mut Random) -> u32 {
    match random.below(8) {
        0 => [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 1, 0x007f_ffff]
            [random.below(8) as usize],
        1 => random.next() as u32,
        _ => ((random.below(400) as f32) - 200.0).to_bits() ^ (random.below(4) as u32),
    }
}

fn float64(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => [0, 1 << 63, 0x7ff << 52, 0xfff << 52, 0x7ff8 << 48, (0x7ff << 52) | 1, 1, (1 << 52) - 1]
            [random.below(8) as usize],
        1 => random.next(),
        _ => ((random.below(4000) as f64) - 2000.0).to_bits() ^ random.below(4),
    }
}

pub fn vector(random: &mut Random) -> u128 {
    match random.below(4) {
        0 => u128::from(random.next()) << 64 | u128::from(random.next()),
        1 => (0..4).fold(0, |value, _| value << 32 | u128::from(float32(random))),
        2 => u128::from(float64(random)) << 64 | u128::from(float64(random)),
        _ => (0..4).fold(0, |value, _| value << 32 | u128::from(interesting(random) as u32)),
    }
}

pub fn extended(random: &mut Random) -> [u8; 10] {
    let (significand, sign_exponent) = match random.below(6) {
        0 => (random.next(), random.next() as u16),
        1 => {
            let special = [
                (0u64, 0u16),
                (0, 0x8000),
                (1 << 63, 0x7fff),
                (3 << 62, 0x7fff),
                (1 << 63 | 1, 0x7fff),
                (1, 0),
                (1 << 62, 0x4000),
            ];
            special[random.below(7) as usize]
        }
        _ => (
            random.next() | 1 << 63,
            0x3fff_u16.wrapping_add(random.below(64) as u16).wrapping_sub(32) | (random.below(2) as u16) << 15,
        ),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&significand.to_le_bytes());
    bytes[8..].copy_from_slice(&sign_exponent.to_le_bytes());
    bytes
}

/// Random registers.
pub fn state(random: &mut Random, bits: u32) -> State {
    let mut state = State { rip: CODE, ..State::default() };
    for register in &mut state.gpr {
        *register = if random.one_in(2) { pointer(random) } else { interesting(random) };
    }
    if !random.one_in(16) {
        state.gpr[4] = pointer(random);
    }
    if random.one_in(2) {
        state.gpr[1] = random.below(20);
    }
    if bits == 32 {
        state.gpr.iter_mut().take(8).for_each(|register| *register &= 0xffff_ffff);
    }
    state.rflags = random.next() & if random.one_in(4) { 0xcd5 } else { 0x8d5 } & !0x300;
    let control: u16 = if random.one_in(4) { random.next() as u16 & 0x1f3f | 0x40 } else { 0x37f };
    // A pending exception is possible only with what the control word leaves unmasked; mostly there is none.
    let mut status = (random.below(8) as u16) << 11 | random.next() as u16 & 0x4700;
    if random.one_in(8) {
        status |= random.next() as u16 & 0x3f;
        if status & !control & 0x3f != 0 {
            if random.one_in(4) {
                status |= 0x8080;
            } else {
                status &= !0x3f | control & 0x3f;
            }
        }
    }
    state.fx[0..2].copy_from_slice(&control.to_le_bytes());
    state.fx[2..4].copy_from_slice(&status.to_le_bytes());
    state.fx[4] = match random.below(3) {
        0 => 0xff,
        1 => random.next() as u8,
        _ => 0,
    };
    let mxcsr = if random.one_in(4) { random.next() as u32 & 0xffff } else { 0x1f80 | random.next() as u32 & 0x6000 };
    state.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    state.fx[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
    for n in 0..8 {
        let bytes = extended(random);
        state.fx[32 + 16 * n..42 + 16 * n].copy_from_slice(&bytes);
    }
    for n in 0..16 {
        let value = vector(random);
        state.fx[160 + 16 * n..176 + 16 * n].copy_from_slice(&value.to_le_bytes());
    }
    if std::is_x86_feature_detected!("avx") && !random.one_in(4) {
        state.upper = std::array::from_fn(|_| vector(random));
    }
    state
}

/// Random memory.
pub fn memory(random: &mut Random, data: &mut [u8; DATA_LEN]) {
    for word in data.chunks_exact_mut(16) {
        let value = if random.one_in(8) { 0 } else { vector(random) };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

const PREFIXES: [u8; 8] = [0x66, 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x65, 0x3e];

/// Random bytes in the shape of an instruction.
pub fn bytes(random: &mut Random) -> [u8; 15] {
    let mut out = [0; 15];
    let mut at = 0;
    let mut put = |byte: u8| {
        if at < out.len() {
            out[at] = byte;
            at += 1;
        }
    };
    while random.one_in(4) {
        put(PREFIXES[random.below(8) as usize]);
    }
    let map = random.below(16);
    if map < 15 && random.one_in(2) {
        put(0x40 | random.below(16) as u8);
    }
    match map {
        0..=4 => put(random.next() as u8),
        5 => put(0xd8 | random.below(8) as u8),
        6..=10 => {
            put(0x0f);
            put(random.next() as u8);
        }
        11..=12 => {
            put(0x0f);
            put(0x38);
            put(if random.one_in(3) { 0xf0 | random.below(8) as u8 } else { random.next() as u8 });
        }
        13..=14 => {
            put(0x0f);
            put(0x3a);
            put(random.next() as u8);
        }
        _ => {
            put(0xc4);
            put((0xe0 & random.next() as u8) | (2 + random.below(2) as u8));
            put(random.next() as u8 & 0xfb);
            put([0xf2, 0xf3, 0xf5, 0xf6, 0xf7, 0xf0][random.below(6) as usize]);
        }
    }
    // The modrm byte: registers half of the time, and small displacements.
    let modrm = random.next() as u8;
    put(match random.below(4) {
        0 => modrm,
        1 => modrm & 0x3f | 0x40,
        _ => modrm | 0xc0,
    });
    for _ in 0..10 {
        let byte = random.next() as u8;
        put(if random.one_in(8) { 0 } else { byte });
    }
    out
}

/// Whether the process may run the instruction and the guest's model has it.
pub fn may_run(instruction: &Instruction, bits: u32) -> bool {
    use CpuidFeature as F;
    if instruction.is_invalid() {
        return false;
    }
    let known = |feature: &F| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::FPU
                | F::FPU287
                | F::FPU387
                | F::MMX
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::AES
                | F::PCLMULQDQ
                | F::SHA
                | F::POPCNT
                | F::LZCNT
                | F::BMI1
                | F::BMI2
                | F::ADX
                | F::MOVBE
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::CLFSH
                | F::CLFLUSHOPT
                | F::CLWB
                | F::MULTIBYTENOP
                | F::PAUSE
                | F::PREFETCHW
                | F::FXSR
                | F::CET_IBT
        )
    };
    if !instruction.cpuid_features().iter().all(known) || instruction.is_privileged() {
        return false;
    }
    // FS is the thread pointer of the process.
    if (0..instruction.op_count()).any(|n| instruction.op_kind(n) != OpKind::Register)
        && (instruction.segment_prefix() == Register::FS || bits == 32 && instruction.segment_prefix() == Register::GS)
    {
        return false;
    }
    let segment = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_segment_register());
    let denied = matches!(
        instruction.mnemonic(),
        M::Syscall
            | M::Into
            | M::Les
            | M::Lds
            | M::Pushfd
            | M::Popfd
            | M::Sysenter
            | M::Int
            | M::Int1
            | M::Int3
            | M::Rdtsc
            | M::Cpuid
            | M::Popf
            | M::Popfq
            | M::Pushf
            | M::Pushfq
            | M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Lar
            | M::Lsl
            | M::Verr
            | M::Verw
            | M::Iret
            | M::Iretd
            | M::Iretq
            | M::Retf
            | M::Lss
            | M::Lfs
            | M::Lgs
            | M::Sti
            | M::Cli
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::In
            | M::Out
            | M::Fnstenv
            | M::Fstenv
            | M::Fnsave
            | M::Fsave
            | M::Fldenv
            | M::Frstor
    );
    let far = instruction.is_jmp_far()
        || instruction.is_call_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    !denied && !segment && !far
}

/// A snippet and its length.
pub struct Snippet {
    pub code: Box<[u8; 4096]>,
    pub len: usize,
    pub mnemonics: Vec<M>,
}

/// One to four instructions, followed by HLT.
pub fn snippet(random: &mut Random, bits: u32) -> Snippet {
    let mut code = Box::new([0xf4; 4096]);
    let wanted = if random.one_in(3) { 2 + random.below(3) } else { 1 };
    let mut len = 0;
    let mut mnemonics = Vec::new();
    while (mnemonics.len() as u64) < wanted {
        let bytes = bytes(random);
        let instruction = Decoder::with_ip(bits, &bytes, CODE + len as u64, DecoderOptions::AMD).decode();
        let target = instruction.near_branch_target();
        let branch = instruction.is_jcc_short_or_near()
            || instruction.is_jmp_short_or_near()
            || instruction.is_loop()
            || instruction.is_loopcc()
            || instruction.is_jcx_short()
            || instruction.is_call_near();
        // A branch back into the snippet may never end.
        if !may_run(&instruction, bits) || branch && (CODE..CODE + (len + instruction.len()) as u64).contains(&target) {
            continue;
        }
        code[len..len + instruction.len()].copy_from_slice(&bytes[..instruction.len()]);
        len += instruction.len();
        mnemonics.push(instruction.mnemonic());
        // What follows a branch may be entered in the middle of an instruction.
        if branch || super::flags::compares(instruction.mnemonic()) {
            break;
        }
    }
    Snippet { code, len, mnemonics }
}
