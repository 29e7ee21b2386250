//! Randomised VEX-encoded instructions run on the host's processor and on the interpreter must leave the same state.
//!
//! `OUZEL_HOST_CASES` is the number of cases (200 000), `OUZEL_HOST_SEED` the seed, `OUZEL_HOST_KEEP` how many failures
//! are printed before the test gives up (1).

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[allow(dead_code, reason = "shared with other tests")]
mod common;
#[path = "host_avx/generate.rs"]
mod generate;
#[path = "host_avx/native.rs"]
mod native;
#[path = "host_avx/state.rs"]
mod state;

use std::collections::HashMap;
use std::io::Write;

use common::{Bench, CODE, CODE_PHYS, DATA, DATA_LEN, DATA_PHYS};
use cpu::block::BlockExit;
use cpu::state::Ymm;
use generate::Random;
use iced_x86::{
    Code, CpuidFeature as F, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register,
};
use state::State;

/// Prints past the test harness, which would lose the output of a child.
macro_rules! say {
    ($($argument:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

const FEATURES: [F; 8] = [F::AVX, F::AVX2, F::FMA, F::F16C, F::AES, F::PCLMULQDQ, F::VAES, F::VPCLMULQDQ];

fn is_vector(code: Code) -> bool {
    code.encoding() == EncodingKind::VEX && code.cpuid_features().iter().all(|feature| FEATURES.contains(feature))
}

/// Where the process has mappings of its own below 4 GiB, which the guest has not.
const LOW_MAPPINGS: std::ops::Range<u64> = 0x4000_0000..0x8000_0000;

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

struct Case {
    code: Box<[u8; 4096]>,
    instruction: Instruction,
    len: usize,
}

/// An instruction, followed by HLT. Encodings that are not valid are cases too: they must be #UD.
fn case(random: &mut Random, opcode: (u8, u8), bits: u32) -> Option<Case> {
    let bytes = bytes(random, opcode.0, opcode.1, bits);
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
    let mut code = Box::new([0xf4; 4096]);
    code[..bytes.len()].copy_from_slice(&bytes);
    let len = if instruction.is_invalid() { bytes.len() } else { instruction.len() };
    code[len..].fill(0xf4);
    Some(Case { code, instruction, len })
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

fn interpret(bench: &mut Bench, code: &[u8; 4096], state: &mut State, data: &mut [u8; DATA_LEN]) {
    bench.ram.write(CODE_PHYS, code);
    bench.ram.write(DATA_PHYS, data);
    let cpu = bench.cpu.cpu();
    cpu.gpr = state.gpr;
    cpu.set_rip(state.rip);
    cpu.set_rflags(state.rflags | 0x202);
    let mut image = [0; 160];
    image.copy_from_slice(&state.fx[..160]);
    cpu.x87.fxrstor(fpu::FxsaveFormat::Long, &image);
    cpu.mxcsr = fpu::Mxcsr(state.mxcsr());
    for n in 0..16 {
        cpu.ymm[n] = Ymm { low: state.xmm(n), high: state.upper[n] };
    }
    cpu.exit_request = false;
    let exit = loop {
        match cpu.exec_blocks() {
            BlockExit::Fault(fault) => break fault,
            BlockExit::Signals => cpu.exit_request = false,
            other => panic!("{other:?}"),
        }
    };
    state.gpr = cpu.gpr;
    state.rip = cpu.rip;
    state.rflags = cpu.rflags() & 0xcd5;
    state.vector = exit.vector();
    state.error = exit.error_code().unwrap_or(0);
    state.address = cpu.fault_address;
    cpu.x87.fxsave(fpu::FxsaveFormat::Long, &mut image);
    state.fx[..24].copy_from_slice(&image[..24]);
    state.fx[32..160].copy_from_slice(&image[32..160]);
    state.fx[24..28].copy_from_slice(&cpu.mxcsr.0.to_le_bytes());
    for n in 0..16 {
        let value = cpu.ymm[n];
        set_vector(state, n, value);
    }
    bench.ram.read(DATA_PHYS, data);
}

#[test]
fn random_64_bit_vex_instructions_end_as_on_the_host() {
    in_child(|| compare(64));
}

#[test]
fn random_32_bit_vex_instructions_end_as_on_the_host() {
    in_child(|| compare(32));
}

#[test]
fn xsave_family_ends_as_on_the_host() {
    in_child(compare_xsave);
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

fn compare_xsave() {
    let host_has = |name| x86::cpuid::Feature::by_name(name).all(|feature| cpu::model_host().supported.has(feature));
    if !host_has("avx") || !std::is_x86_feature_detected!("xsavec") {
        say!("skipped: the host lacks features");
        return;
    }
    let mut bench = common::bench(3, 64);
    let mut native = native::Native::new(64);
    let mut data = Box::new([0; DATA_LEN]);
    let (mut saved, mut restored) = (0, 0);
    for seed in 1..20_000u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let bytes = STATE_INSTRUCTIONS[random.below(8) as usize];
        let mut code = Box::new([0xf4; 4096]);
        code[..bytes.len()].copy_from_slice(bytes);
        let mut before = generate::state(&mut random, 64);
        // Whether zeros count as the initial state is the processor's choice.
        before.upper = std::array::from_fn(|_| u128::from(random.next()) << 64 | 1);
        // No pending exception: what pointers a processor keeps then differs.
        before.fx[2] = 0;
        before.fx[3] = random.next() as u8 & 0x7f;
        (before.gpr[0], before.gpr[2]) = (random.below(8), 0);
        let at = random.below((DATA_LEN as u64 - 768) / 64) * 64;
        before.gpr[7] = DATA + at + if random.one_in(16) { random.below(64) } else { 0 };
        generate::memory(&mut random, &mut data);
        area(&mut random, &mut data[at as usize..]);
        let (mut host, mut host_data) = (before, data.clone());
        let (mut ours, mut our_data) = (before, data.clone());
        interpret(&mut bench, &code, &mut ours, &mut our_data);
        native.run(&code, &mut host, &mut host_data);
        saved += u32::from(host_data != data);
        restored += u32::from(host.upper != before.upper);
        // MXCSR_MASK has AMD's misaligned SSE mode.
        for data in [&mut host_data, &mut our_data] {
            data[at as usize + 30] = 0;
        }
        let differences = host.differences(&ours, 0xcd5, 0xffff);
        let (rax, rdi) = (before.gpr[0], before.gpr[7]);
        assert!(differences.is_empty(), "{seed}: {bytes:02x?} rax {rax:#x} rdi {rdi:#x}: {differences:?}");
        let at = host_data.iter().zip(our_data.iter()).position(|(a, b)| a != b);
        assert_eq!(at, None, "{seed}: {bytes:02x?} rax {rax:#x} rdi {rdi:#x}: memory differs there");
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

/// Signal handlers and fixed mappings belong to a process, so each test has its own.
fn in_child(test: impl FnOnce() + std::panic::UnwindSafe) {
    // SAFETY: the child runs only this test's own code and leaves by `_exit`; the other test threads are not in it,
    // and the allocator of the C library is usable after a fork.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            let passed = std::panic::catch_unwind(test).is_ok();
            libc::_exit(if passed { 0 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0, "the child failed");
    }
}

fn compare(bits: u32) {
    if !x86::cpuid::FeatureSet::parse("avx avx2 fma f16c vaes vpclmulqdq")
        .is_ok_and(|wanted| wanted.difference(&cpu::model_host().supported).is_empty())
    {
        say!("skipped: the host lacks features");
        return;
    }
    let cases = setting("OUZEL_HOST_CASES", 200_000);
    let first = setting("OUZEL_HOST_SEED", 0xa5ed_0001);
    let keep = setting("OUZEL_HOST_KEEP", 1);
    say!("{bits} bits, seed {first}, {cases} cases");
    let mut bench = common::bench(3, bits);
    let mut native = native::Native::new(bits);
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
        seed = seed.wrapping_add(1);
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let opcode = opcodes[random.below(opcodes.len() as u64) as usize];
        let Some(case) = case(&mut random, opcode, bits) else { continue };
        let mut before = generate::state(&mut random, bits);
        aim(&mut random, &mut before, &case.instruction);
        if done % 16 == 0 {
            generate::memory(&mut random, &mut data);
        }
        done += 1;
        let (mut host, mut host_data) = (before, data.clone());
        let (mut ours, mut our_data) = (before, data.clone());
        interpret(&mut bench, &case.code, &mut ours, &mut our_data);
        // Where the whole operand exceeds the segment but not each byte, makers differ.
        let wraps = bits == 32 && before.gpr[7] > 0xffff_fff0;
        if case.instruction.mnemonic() == Mnemonic::Vmaskmovdqu && wraps {
            continue;
        }
        if ours.vector == 14 && LOW_MAPPINGS.contains(&ours.address) {
            continue;
        }
        native.run(&case.code, &mut host, &mut host_data);
        if host.mxcsr() & !0xffff != 0 {
            // The host has AMD's misaligned SSE mode, which the model has not.
            continue;
        }
        // Anything but #UD and #PF is progress of this instruction.
        if let Some(count) = seen.get_mut(&case.instruction.code())
            && !matches!(host.vector, 6 | 14)
        {
            *count += 1;
        }
        let mut differences = host.differences(&ours, 0xcd5, 0xffff);
        if host_data != our_data {
            let at = host_data.iter().zip(our_data.iter()).position(|(a, b)| a != b).unwrap_or(0);
            let end = (at + 16).min(DATA_LEN);
            let (a, b) = (&host_data[at..end], &our_data[at..end]);
            differences.push(format!("memory at +{at:#x}: host {a:02x?} interpreter {b:02x?}"));
        }
        if !differences.is_empty() {
            report(seed, &case, &before, &host, &ours, &differences);
            failures += 1;
            assert!(failures < keep, "{failures} of {done} cases differ");
        }
    }
    assert_eq!(failures, 0, "of {cases} cases");
    let unseen: Vec<_> = seen.iter().filter(|(_, count)| **count == 0).map(|(code, _)| *code).collect();
    assert!(unseen.is_empty() || cases < 200_000, "never executed: {unseen:?}");
}

fn report(seed: u64, case: &Case, before: &State, host: &State, ours: &State, differences: &[String]) {
    say!("--- seed {seed}: {:02x?} {:?}", &case.code[..case.len], case.instruction.code());
    say!("    in:   gpr {:x?} rflags {:#x} mxcsr {:#x}", before.gpr, before.rflags, before.mxcsr());
    for n in 0..16 {
        say!("    in:   ymm{n} {:032x} {:032x}", before.upper[n], before.xmm(n));
    }
    say!("    host: rip {:#x} vector {} cr2 {:#x}", host.rip, host.vector, host.address);
    say!("    ours: rip {:#x} vector {} cr2 {:#x}", ours.rip, ours.vector, ours.address);
    for difference in differences {
        say!("    {difference}");
    }
}
