//! Random bytes as instructions.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind, Register};

use super::catalog;
use super::random::Random;
use crate::common::CODE;

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

/// Whether the process may run the instruction and the guest's model has it. What VEX encodes is the assembler's alone.
fn may_run(instruction: &Instruction, bits: u32) -> bool {
    let features = instruction.cpuid_features();
    // FS is the thread pointer of the process.
    let is_host_s = |segment| segment == Register::FS || bits == 32 && segment == Register::GS;
    let has_memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) != OpKind::Register);
    let is_host_memory = has_memory && is_host_s(instruction.segment_prefix());
    if instruction.is_invalid() || is_host_memory || catalog::is_denied(instruction) {
        return false;
    }
    features.iter().all(|feature| *feature != CpuidFeature::FSGSBASE && catalog::is_known(*feature, false))
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
