//! Randomised VEX-encoded instructions run on the host's processor and on the software CPU must leave the same state.
//!
//! Settings, from the environment, as in `host.rs`: `OUZEL_HOST_CASES` (200 000), `OUZEL_HOST_SEED`, `OUZEL_HOST_KEEP`
//! and `OUZEL_HOST_ENGINE`. Seeds that make no case are passed over.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[allow(dead_code, reason = "shared with other tests")]
mod common;
#[path = "host/guest.rs"]
mod guest;
#[path = "host/native.rs"]
mod native;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "host/random.rs"]
mod random;
#[path = "host/state.rs"]
mod state;

use std::collections::HashMap;

use common::{CODE, DATA, DATA_LEN};
use cpu::state::Ymm;
use guest::{Engine, Guest, setting};
use iced_x86::{
    Code, CpuidFeature as F, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register,
};
use native::{BATCH, Native, Slot, TIMEOUT};
use random::Random;
use state::State;

const FEATURES: [F; 8] = [F::AVX, F::AVX2, F::FMA, F::F16C, F::AES, F::PCLMULQDQ, F::VAES, F::VPCLMULQDQ];

fn is_vector(code: Code) -> bool {
    code.encoding() == EncodingKind::VEX && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
}

/// Every instruction code that a guest may meet in code of `bits` bits.
fn codes(bits: u32) -> Vec<Code> {
    Code::values()
        .filter(|code| is_vector(*code) && !code.cpuid_features().is_empty())
        .filter(|code| if bits == 64 { code.op_code().mode64() } else { code.op_code().mode32() })
        .collect()
}

/// A VEX prefix, an opcode of `map` and operands.
fn bytes(random: &mut Random, map: u8, opcode: u8, bits: u32) -> [u8; 15] {
    let mut out = [0; 15];
    let mut at = 0;
    let mut put = |byte: u8| {
        out[at] = byte;
        at += 1;
    };
    if random.one_in(16) {
        put([0x67, 0x3e, 0x36, 0x65, 0x66, 0xf3, 0xf0, 0x48][random.below(8) as usize]);
    }
    let vvvv = if random.one_in(2) { 0x78 } else { random.next() as u8 & 0x78 };
    let (l, pp) = (random.next() as u8 & 4, random.next() as u8 & 3);
    let registers = if bits == 64 { random.next() as u8 & 0xe0 } else { 0xe0 };
    if map == 1 && random.one_in(2) {
        put(0xc5);
        put(if bits == 64 { registers & 0x80 } else { 0x80 } | vvvv | l | pp);
    } else {
        put(0xc4);
        put(registers | map);
        put(random.next() as u8 & 0x80 | if bits == 64 { vvvv } else { vvvv | 0x40 } | l | pp);
    }
    put(opcode);
    let modrm = random.next() as u8;
    let gather = map == 2 && (0x90..0x94).contains(&opcode);
    put(match random.below(8) {
        _ if gather && !random.one_in(16) => modrm & 0x38 | 0x44,
        0 => modrm,
        1..=4 => modrm & 0x3f | 0x40,
        _ => modrm | 0xc0,
    });
    for _ in 0..4 {
        let byte = random.next() as u8;
        put(byte);
    }
    out
}

/// An instruction and what it starts from, as far as the child does not hold it.
struct Case {
    seed: u64,
    bytes: Vec<u8>,
    instruction: Instruction,
    before: State,
}

/// Makes the case of a seed, if it has one.
fn case(seed: u64, opcodes: &[(u8, u8)], bits: u32) -> Option<Case> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next();
    let opcode = opcodes[random.below(opcodes.len() as u64) as usize];
    let (bytes, instruction) = instruction(&mut random, opcode, bits)?;
    let mut before = random::state(&mut random, bits);
    aim(&mut random, &mut before, &instruction);
    Some(Case { seed, bytes, instruction, before })
}

/// An instruction. Encodings that are not valid are cases too: they must be #UD.
fn instruction(random: &mut Random, opcode: (u8, u8), bits: u32) -> Option<(Vec<u8>, Instruction)> {
    let mut bytes = bytes(random, opcode.0, opcode.1, bits).to_vec();
    let instruction = Decoder::with_ip(bits, &bytes, CODE, DecoderOptions::NONE).decode();
    // AMD's processors execute VPERMQ and VPERMPD without VEX.W, which the SDM makes #UD.
    let tolerated = opcode.0 == 3 && opcode.1 < 2;
    let allowed = if instruction.is_invalid() { !tolerated && random.one_in(4) } else { is_vector(instruction.code()) };
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) != OpKind::Register);
    let thread = [Register::FS, Register::GS].contains(&instruction.segment_prefix());
    // They also refuse VPEXTRD and VPINSRD with VEX.W outside of 64-bit mode, where the SDM has it ignored.
    let wide = bytes.windows(2).any(|pair| pair[0] & 0x80 != 0 && [0x16, 0x22].contains(&pair[1]));
    let refused = bits == 32 && opcode.0 == 3 && wide && [0x16, 0x22].contains(&opcode.1);
    if !allowed || refused || memory && thread {
        return None;
    }
    if !instruction.is_invalid() {
        bytes.truncate(instruction.len());
    }
    Some((bytes, instruction))
}

fn set_vector(state: &mut State, register: usize, value: Ymm) {
    state.fx[160 + 16 * register..176 + 16 * register].copy_from_slice(&value.low.to_le_bytes());
    state.upper[register] = value.high;
}

/// Makes most of a gather's elements readable, and its mask as often set as not.
fn aim(random: &mut Random, state: &mut State, instruction: &Instruction) {
    let index = instruction.memory_index();
    if !index.is_vector_register() {
        return;
    }
    let lanes = |random: &mut Random| {
        (0..4).fold(0u128, |value, _| {
            let wild = if random.one_in(24) { random.next() as u32 } else { 0 };
            let near = (random.below(600) as i32 - 300) as u32;
            value << 32 | u128::from(near ^ wild)
        })
    };
    let quads = |random: &mut Random| {
        (0..2).fold(0u128, |value, _| {
            let wild = if random.one_in(12) { random.next() } else { 0 };
            let near = (random.below(600) as i64 - 300) as u64;
            value << 64 | u128::from(near ^ wild)
        })
    };
    let double = matches!(
        instruction.code(),
        Code::VEX_Vpgatherqd_xmm_vm64x_xmm
            | Code::VEX_Vpgatherqd_xmm_vm64y_xmm
            | Code::VEX_Vpgatherqq_xmm_vm64x_xmm
            | Code::VEX_Vpgatherqq_ymm_vm64y_ymm
            | Code::VEX_Vgatherqps_xmm_vm64x_xmm
            | Code::VEX_Vgatherqps_xmm_vm64y_xmm
            | Code::VEX_Vgatherqpd_xmm_vm64x_xmm
            | Code::VEX_Vgatherqpd_ymm_vm64y_ymm
    );
    let value = if double {
        Ymm { low: quads(random), high: quads(random) }
    } else {
        Ymm { low: lanes(random), high: lanes(random) }
    };
    set_vector(state, index.number(), value);
    let base = instruction.memory_base();
    if base != Register::None {
        state.gpr[base.number()] = DATA + 0x400 + random.below(DATA_LEN as u64 - 0x800);
    }
}

#[test]
fn random_64_bit_vex_instructions_end_as_on_the_host() {
    compare(64);
}

#[test]
fn random_32_bit_vex_instructions_end_as_on_the_host() {
    compare(32);
}

/// XSAVE, XSAVEOPT, XSAVEC and XRSTOR, in both operand sizes, of `[rdi]`.
const STATE_INSTRUCTIONS: [&[u8]; 8] = [
    &[0x0f, 0xae, 0x27],
    &[0x48, 0x0f, 0xae, 0x27],
    &[0x0f, 0xae, 0x37],
    &[0x48, 0x0f, 0xae, 0x37],
    &[0x0f, 0xc7, 0x27],
    &[0x48, 0x0f, 0xc7, 0x27],
    &[0x0f, 0xae, 0x2f],
    &[0x48, 0x0f, 0xae, 0x2f],
];

#[test]
fn xsave_family_ends_as_on_the_host() {
    if !native::is_possible() || !guest::has("avx") || !std::is_x86_feature_detected!("xsavec") {
        eprintln!("skipped: the host lacks features");
        return;
    }
    let mut native = Native::new(64);
    let mut guest = Guest::new(Engine::Interpreter, 64);
    let mut data = Box::new([0; DATA_LEN]);
    let (mut saved, mut restored) = (0, 0);
    for seed in 1..20_000u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let bytes = STATE_INSTRUCTIONS[random.below(8) as usize];
        let mut before = random::state(&mut random, 64);
        // Whether zeros count as the initial state is the processor's choice.
        before.upper = std::array::from_fn(|_| u128::from(random.next()) << 64 | 1);
        // No pending exception: what pointers a processor keeps then differs.
        before.fx[2] = 0;
        before.fx[3] = random.next() as u8 & 0x7f;
        (before.gpr[0], before.gpr[2]) = (random.below(8), 0);
        let at = random.below((DATA_LEN as u64 - 768) / 64) * 64;
        before.gpr[7] = DATA + at + if random.one_in(16) { random.below(64) } else { 0 };
        random::memory(&mut random, &mut data);
        area(&mut random, &mut data[at as usize..]);
        let slot = &mut native.slots()[0];
        slot.set(bytes);
        slot.add_return();
        slot.state = before;
        native.execute(1, &data);
        let slot = &mut native.slots()[0];
        let (mut ours, mut our_data) = (before, data.clone());
        guest.run(slot, &mut ours, &mut our_data);
        saved += u32::from(slot.data != *data);
        restored += u32::from(slot.state.upper != before.upper);
        // MXCSR_MASK has AMD's misaligned SSE mode.
        for data in [&mut slot.data, &mut *our_data] {
            data[at as usize + 30] = 0;
        }
        let differences = differences(slot, &ours, &our_data);
        let (rax, rdi) = (before.gpr[0], before.gpr[7]);
        assert!(differences.is_empty(), "{seed}: {bytes:02x?} rax {rax:#x} rdi {rdi:#x}: {differences:?}");
    }
    assert!(saved > 5_000 && restored > 500, "{saved} saved, {restored} restored");
}

/// A header that is mostly valid, and an MXCSR that mostly is.
fn area(random: &mut Random, area: &mut [u8]) {
    let mxcsr = random.next() as u32 & if random.one_in(16) { 0xfffd_ffff } else { 0xffff };
    area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    let state = random.next() & if random.one_in(16) { 15 } else { 7 };
    let compaction = match random.below(3) {
        0 => 1 << 63 | state | random.below(8),
        1 if random.one_in(8) => random.next(),
        _ => 0,
    };
    area[512..520].copy_from_slice(&state.to_le_bytes());
    area[520..528].copy_from_slice(&compaction.to_le_bytes());
    area[528..576].fill(0);
    if random.one_in(16) {
        area[528 + random.below(48) as usize] = 1;
    }
}

/// What differs, one line each.
fn differences(slot: &Slot, ours: &State, our_data: &[u8; DATA_LEN]) -> Vec<String> {
    let mut differences = slot.state.differences(ours, 0xcd5, 0xffff);
    if slot.data != *our_data {
        let at = slot.data.iter().zip(our_data.iter()).position(|(a, b)| a != b).unwrap_or(0);
        let end = (at + 16).min(DATA_LEN);
        let (a, b) = (&slot.data[at..end], &our_data[at..end]);
        differences.push(format!("memory at +{at:#x}: host {a:02x?} guest {b:02x?}"));
    }
    differences
}

/// Whether the end is not to be compared.
fn ends_oddly(case: &Case, slot: &Slot, bits: u32) -> bool {
    // Where the whole operand exceeds the segment but not each byte, makers differ.
    let wraps = bits == 32 && case.before.gpr[7] > 0xffff_fff0;
    case.instruction.mnemonic() == Mnemonic::Vmaskmovdqu && wraps
        || slot.state.vector == TIMEOUT
        // The host has AMD's misaligned SSE mode, which the model has not.
        || slot.state.mxcsr() & !0xffff != 0
}

fn compare(bits: u32) {
    if !native::is_possible() || !guest::has("avx avx2 fma f16c vaes vpclmulqdq") {
        eprintln!("skipped: the host lacks features");
        return;
    }
    let cases = setting("OUZEL_HOST_CASES", 200_000);
    let first = setting("OUZEL_HOST_SEED", 0xa5ed_0001);
    let keep = setting("OUZEL_HOST_KEEP", 1);
    let engines = Engine::wanted(bits);
    eprintln!("{bits} bits, seed {first}, {cases} cases, {engines:?}");
    let mut native = Native::new(bits);
    let child = native.child();
    let mut guests: Vec<(Engine, Guest)> =
        engines.into_iter().map(|engine| (engine, Guest::new(engine, bits))).collect();
    let mut data = Box::new([0; DATA_LEN]);
    let mut seen: HashMap<Code, u64> = codes(bits).into_iter().map(|code| (code, 0)).collect();
    // The opcodes that there are, so that few cases are wasted.
    let mut opcodes: Vec<(u8, u8)> =
        seen.keys().map(|code| (code.op_code().table() as u8, code.op_code().op_code() as u8)).collect();
    opcodes.sort_unstable();
    opcodes.dedup();
    let (mut failures, mut done) = (0, 0);
    let mut seed = first;
    while done < cases {
        // Memory is made anew for each whole batch of seeds, so that it does not depend on the first.
        let size = BATCH as u64;
        let end = (seed / size + 1) * size;
        random::memory(&mut Random((seed / size).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1), &mut data);
        let mut prepared: Vec<Case> = (seed..end).filter_map(|seed| case(seed, &opcodes, bits)).collect();
        prepared.truncate((cases - done) as usize);
        for (case, slot) in prepared.iter().zip(native.slots().iter_mut()) {
            slot.set(&case.bytes);
            slot.add_return();
            slot.state = case.before;
        }
        native.execute(prepared.len(), &data);
        for (case, slot) in prepared.iter().zip(native.slots().iter()) {
            if ends_oddly(case, slot, bits) {
                continue;
            }
            // Anything but #UD and #PF is progress of this instruction.
            if let Some(count) = seen.get_mut(&case.instruction.code())
                && !matches!(slot.state.vector, 6 | 14)
            {
                *count += 1;
            }
            for (engine, guest) in &mut guests {
                let (mut ours, mut our_data) = (case.before, *data);
                guest.run(slot, &mut ours, &mut our_data);
                let differences = differences(slot, &ours, &our_data);
                if !differences.is_empty() && ours.vector == 14 && child.has(ours.address) {
                    continue;
                }
                if !differences.is_empty() {
                    report(case, slot, *engine, &ours, &differences);
                    failures += 1;
                    assert!(failures < keep, "{failures} differences until seed {}", case.seed);
                }
            }
        }
        done += prepared.len() as u64;
        seed = end;
    }
    assert_eq!(failures, 0, "of {cases} cases");
    let unseen: Vec<_> = seen.iter().filter(|(_, count)| **count == 0).map(|(code, _)| *code).collect();
    assert!(unseen.is_empty() || cases < 200_000, "never executed: {unseen:?}");
}

fn report(case: &Case, slot: &Slot, engine: Engine, ours: &State, differences: &[String]) {
    let (before, host) = (&case.before, &slot.state);
    eprintln!("--- seed {}: {engine:?}, {:02x?} {:?}", case.seed, case.bytes, case.instruction.code());
    eprintln!("    in:   gpr {:x?} rflags {:#x} mxcsr {:#x}", before.gpr, before.rflags, before.mxcsr());
    for n in 0..16 {
        eprintln!("    in:   ymm{n} {:032x} {:032x}", before.upper[n], before.xmm(n));
    }
    eprintln!("    host: rip {:#x} vector {} cr2 {:#x}", host.rip, host.vector, host.address);
    eprintln!("    ours: rip {:#x} vector {} cr2 {:#x}", ours.rip, ours.vector, ours.address);
    for difference in differences {
        eprintln!("    {difference}");
    }
}
