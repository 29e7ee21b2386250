//! Random registers and memory.

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

/// Fresh values for what [`state`] knows nothing of.
pub fn bases(random: &mut Random, state: &mut State) {
    let base = |random: &mut Random| match random.below(8) {
        0 => 0,
        1 => DATA + DATA_LEN as u64 - random.below(64),
        _ => DATA + random.below(DATA_LEN as u64),
    };
    (state.fs_base, state.gs_base) = (base(random), base(random));
    for upper in &mut state.upper {
        *upper = if random.one_in(4) { 0 } else { vector(random) };
    }
    if random.one_in(4) {
        // A stack of numbers that mostly belong together.
        state.fx[4] = 0xff;
        for n in 0..8 {
            let value = extended(random);
            state.fx[32 + 16 * n..42 + 16 * n].copy_from_slice(&value);
        }
    }
}
