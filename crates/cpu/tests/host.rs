//! Randomised snippets run on the host's processor and on the interpreter must leave the same state.
//!
//! `OUZEL_HOST_CASES` is the number of cases (50 000), `OUZEL_HOST_SEED` the seed, `OUZEL_HOST_KEEP` how many failures
//! are printed before the test gives up (1).

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[allow(dead_code, reason = "shared with other tests")]
mod common;
#[path = "host/flags.rs"]
mod flags;
#[path = "host/generate.rs"]
mod generate;
#[path = "host/native.rs"]
mod native;
#[path = "host/state.rs"]
mod state;

use std::io::Write;

use common::{Bench, CODE_PHYS, DATA_LEN, DATA_PHYS};
use cpu::block::BlockExit;
use cpu::state::Ymm;
use iced_x86::Mnemonic;
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
        state.fx[160 + 16 * n..176 + 16 * n].copy_from_slice(&cpu.ymm[n].low.to_le_bytes());
        state.upper[n] = cpu.ymm[n].high;
    }
    bench.ram.read(DATA_PHYS, data);
}

fn report(seed: u64, snippet: &generate::Snippet, before: &State, host: &State, ours: &State, differences: &[String]) {
    say!("--- seed {seed}: {:02x?} {:?}", &snippet.code[..snippet.len], snippet.mnemonics);
    say!(
        "    in:   gpr {:x?} rflags {:#x} mxcsr {:#x} fcw {:#x} fsw {:#x} ftw {:#x}",
        before.gpr,
        before.rflags,
        before.mxcsr(),
        before.word(0),
        before.word(2),
        before.word(4)
    );
    say!(
        "    host: rip {:#x} vector {} error {:#x}; interpreter: rip {:#x} vector {} error {:#x}",
        host.rip,
        host.vector,
        host.error,
        ours.rip,
        ours.vector,
        ours.error
    );
    for difference in differences {
        say!("    {difference}");
    }
}

#[test]
fn random_64_bit_snippets_end_as_on_the_host() {
    in_child(|| compare(64));
}

#[test]
fn random_32_bit_snippets_end_as_on_the_host() {
    in_child(|| compare(32));
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
    let cases = setting("OUZEL_HOST_CASES", 50_000);
    let first = setting("OUZEL_HOST_SEED", 0x5eed_0001);
    let verbose = setting("OUZEL_HOST_VERBOSE", 0) != 0;
    let keep = setting("OUZEL_HOST_KEEP", 1);
    say!("{bits} bits, seed {first}, {cases} cases");
    let mut bench = common::bench(3, bits);
    let mut native = native::Native::new(bits);
    let mut data = Box::new([0; DATA_LEN]);
    let mut failures = 0;
    for case in 0..cases {
        let seed = first.wrapping_add(case);
        let mut random = generate::Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let snippet = generate::snippet(&mut random, bits);
        let before = generate::state(&mut random, bits);
        if case % 16 == 0 {
            generate::memory(&mut random, &mut data);
        }
        if verbose {
            say!("seed {seed}: {:02x?} {:?}", &snippet.code[..snippet.len], snippet.mnemonics);
        }
        let (mut host, mut host_data) = (before, data.clone());
        let (mut ours, mut our_data) = (before, data.clone());
        native.run(&snippet.code, &mut host, &mut host_data);
        if host.mxcsr() & !0xffff != 0 {
            // The host has AMD's misaligned SSE mode, which the model has not.
            continue;
        }
        interpret(&mut bench, &snippet.code, &mut ours, &mut our_data);
        let summary = host.word(2) & 0x80 != 0;
        let status_mask = flags::status_mask(&snippet.mnemonics, summary);
        let compares = snippet
            .mnemonics
            .iter()
            .any(|name| matches!(name, Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip));
        // Makers differ about the flags when an unmasked exception stops FCOMI.
        let flag_mask = if compares && summary { 0x400 } else { 0xcd5 };
        let mut differences = host.differences(&ours, flag_mask, status_mask);
        if host_data != our_data {
            let at = host_data.iter().zip(our_data.iter()).position(|(a, b)| a != b).unwrap_or(0);
            let end = (at + 16).min(DATA_LEN);
            differences.push(format!(
                "memory at +{at:#x}: host {:02x?} interpreter {:02x?}",
                &host_data[at..end],
                &our_data[at..end]
            ));
        }
        if !differences.is_empty() {
            report(seed, &snippet, &before, &host, &ours, &differences);
            failures += 1;
            assert!(failures < keep, "{failures} of {} cases differ", case + 1);
        }
    }
    assert_eq!(failures, 0, "of {cases} cases");
}
