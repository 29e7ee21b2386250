//! Random snippets run on the host's processor and on the software CPU must leave the same state.
//!
//! Settings, from the environment:
//! - `OUZEL_HOST_CASES`: the number of cases (20 000);
//! - `OUZEL_HOST_SEED`: the seed of the first; case *n* has the seed `OUZEL_HOST_SEED` + *n*;
//! - `OUZEL_HOST_KEEP`: how many failures are printed before the test gives up (1);
//! - `OUZEL_HOST_ENGINE`: the one engine to run; all by default;
//! - `OUZEL_HOST_COVERAGE`: a file that is to hold, for each instruction code, how often it was completed with registers
//!   and with a memory operand, and how often it was in a snippet (`.32` or `.64` is appended).

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "host/assemble.rs"]
mod assemble;
#[path = "host/catalog.rs"]
mod catalog;
#[allow(dead_code, reason = "shared with other tests")]
mod common;
#[path = "host/flags.rs"]
mod flags;
#[path = "host/generate.rs"]
mod generate;
#[path = "host/guest.rs"]
mod guest;
#[path = "host/native.rs"]
mod native;
#[path = "host/random.rs"]
mod random;
#[path = "host/state.rs"]
mod state;

use std::time::Instant;

use assemble::Assembler;
use catalog::Catalog;
use common::{CODE, DATA_LEN};
use guest::{Engine, Guest, setting};
use iced_x86::{Code, Decoder, DecoderOptions, Formatter, IntelFormatter, Mnemonic};
use native::{BATCH, Native, Slot, TIMEOUT};
use random::Random;
use state::State;

/// A case, as far as the child does not hold it.
struct Case {
    seed: u64,
    before: State,
    codes: Vec<(Code, bool)>,
    mnemonics: Vec<Mnemonic>,
}

/// Makes the case of a seed in `slot`.
fn prepare(seed: u64, slot: &mut Slot, catalog: &Catalog, bits: u32) -> Case {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    random.next();
    loop {
        let mut before = random::state(&mut random, bits);
        random::bases(&mut random, &mut before);
        let case = if random.one_in(6) {
            let snippet = generate::snippet(&mut random, bits);
            slot.set(&snippet.code[..snippet.len]);
            Case { seed, before, codes: Vec::new(), mnemonics: snippet.mnemonics }
        } else {
            let Some(snippet) = Assembler::new(&mut random, catalog, &mut before, bits).snippet() else { continue };
            slot.code = snippet.code;
            (slot.len, slot.at) = (snippet.len, snippet.at);
            slot.add_return();
            Case { seed, before, codes: snippet.codes, mnemonics: snippet.mnemonics }
        };
        let mut case = case;
        case.before.rip = CODE + slot.at as u64;
        slot.state = case.before;
        return case;
    }
}

/// What differs, one line each.
fn differences(case: &Case, slot: &Slot, ours: &State, our_data: &[u8; DATA_LEN]) -> Vec<String> {
    let host = &slot.state;
    let summary = host.word(2) & 0x80 != 0;
    let status_mask = flags::status_mask(&case.mnemonics, summary);
    let compares = case
        .mnemonics
        .iter()
        .any(|name| matches!(name, Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip));
    // Makers differ about the flags when an unmasked exception stops FCOMI.
    let flag_mask = if compares && summary { 0x400 } else { 0xcd5 };
    let mut differences = host.differences(ours, flag_mask, status_mask);
    if slot.data != *our_data {
        let at = slot.data.iter().zip(our_data.iter()).position(|(a, b)| a != b).unwrap_or(0);
        let end = (at + 16).min(DATA_LEN);
        let (a, b) = (&slot.data[at..end], &our_data[at..end]);
        differences.push(format!("memory at +{at:#x}: host {a:02x?} guest {b:02x?}"));
    }
    differences
}

/// Whether the end of a snippet is not to be compared: it went astray, into the middle of an instruction, and met one
/// that is left out on purpose; a POPF there set TF or AC; the bytes of a masked store wrap around at 4 GiB, where
/// processors look at other bytes of the mask; AMD's host loaded its misaligned SSE mode, which the model refuses; or
/// neither operand of CMPS can be read, and processors differ about the one that they look at first.
fn ends_oddly(slot: &Slot, ours: &State, bits: u32) -> bool {
    matches!(slot.state.vector, 1 | 17)
        || [slot.state.rip, ours.rip].into_iter().any(|rip| {
            let at = rip.wrapping_sub(CODE + slot.at as u64) as usize;
            let bytes = slot.code.get(at..slot.len.max(at)).unwrap_or(&[]);
            let instruction = Decoder::with_ip(bits, bytes, rip, DecoderOptions::AMD).decode();
            let wraps =
                matches!(instruction.mnemonic(), Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu)
                    && ours.gpr[7] as u32 > 0xffff_fff0;
            let refused = matches!(instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr)
                && ours.vector == 13
                && ours.rip == rip
                && slot.state.rip != rip;
            let both_fault = instruction.is_string_instruction()
                && matches!(
                    instruction.mnemonic(),
                    Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq
                )
                && [slot.state.vector, ours.vector] == [14, 14]
                && slot.state.rip == ours.rip
                && slot.state.error == ours.error
                && slot.state.address != ours.address;
            let odd = catalog::is_denied(&instruction) || wraps || refused || both_fault;
            !bytes.is_empty() && !instruction.is_invalid() && odd
        })
}

fn report(case: &Case, slot: &Slot, engine: Engine, ours: &State, bits: u32, differences: &[String]) {
    let (before, host) = (&case.before, &slot.state);
    eprintln!("--- seed {}: {engine:?}, {bits} bits, {:?}", case.seed, case.mnemonics);
    let start = CODE + slot.at as u64;
    let mut decoder = Decoder::with_ip(bits, &slot.code[..slot.len], start, DecoderOptions::AMD);
    let mut formatter = IntelFormatter::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        let from = (instruction.ip() - start) as usize;
        let bytes = &slot.code[from..from + instruction.len().max(1)];
        eprintln!("    {:x} {text:<50} {bytes:02x?} {:?}", instruction.ip(), instruction.code());
    }
    eprintln!(
        "    in:   gpr {:x?} fs {:x} gs {:x} rflags {:#x} mxcsr {:#x} fcw {:#x} fsw {:#x} ftw {:#x}",
        before.gpr,
        before.fs_base,
        before.gs_base,
        before.rflags,
        before.mxcsr(),
        before.word(0),
        before.word(2),
        before.word(4)
    );
    for (name, state) in [("host", host), ("guest", ours)] {
        eprintln!(
            "    {name}: rip {:#x} vector {} error {:#x} address {:#x}",
            state.rip, state.vector, state.error, state.address
        );
    }
    for difference in differences {
        eprintln!("    {difference}");
    }
}

#[test]
fn random_64_bit_snippets_end_as_on_the_host() {
    compare(64);
}

#[test]
fn random_32_bit_snippets_end_as_on_the_host() {
    compare(32);
}

fn compare(bits: u32) {
    if !native::is_possible() {
        eprintln!("skipped: the host's kernel keeps processes from writing the bases of FS and GS");
        return;
    }
    let cases = setting("OUZEL_HOST_CASES", 20_000);
    let first = setting("OUZEL_HOST_SEED", 0x5eed_0001);
    let keep = setting("OUZEL_HOST_KEEP", 1);
    let engines = Engine::wanted(bits);
    eprintln!("{bits} bits, seed {first}, {cases} cases, {engines:?}");
    let mut native = Native::new(bits);
    let child = native.child();
    let mut guests: Vec<(Engine, Guest)> =
        engines.into_iter().map(|engine| (engine, Guest::new(engine, bits))).collect();
    let mut catalog = Catalog::new(bits, guest::has("avx avx2 fma f16c vaes vpclmulqdq"));
    let start = Instant::now();
    let (mut failures, mut done) = (0, 0);
    let mut data = Box::new([0; DATA_LEN]);
    while done < cases {
        // Memory is made anew for each whole batch of seeds, so that it does not depend on the first.
        let batch_seed = first.wrapping_add(done);
        let size = BATCH as u64;
        let count = (cases - done).min(size - batch_seed % size) as usize;
        random::memory(&mut Random((batch_seed / size).wrapping_mul(0x2545_f491_4f6c_dd1d) | 1), &mut data);
        let prepared: Vec<Case> = (batch_seed..)
            .zip(native.slots().iter_mut().take(count))
            .map(|(seed, slot)| prepare(seed, slot, &catalog, bits))
            .collect();
        native.execute(count, &data);
        for (case, slot) in prepared.iter().zip(native.slots().iter()) {
            // A snippet that runs for ever; or the host got AMD's misaligned SSE mode, which the model has not.
            if slot.state.vector == TIMEOUT || slot.state.mxcsr() & !0xffff != 0 {
                continue;
            }
            let completed = slot.state.rip == slot.end();
            for (code, memory) in &case.codes {
                catalog.note(*code, *memory, completed);
            }
            for (engine, guest) in &mut guests {
                let (mut ours, mut our_data) = (case.before, *data);
                guest.run(slot, &mut ours, &mut our_data);
                let differences = differences(case, slot, &ours, &our_data);
                if !differences.is_empty() && ours.vector == 14 && child.has(ours.address) {
                    continue;
                }
                if !differences.is_empty() && !ends_oddly(slot, &ours, bits) {
                    report(case, slot, *engine, &ours, bits, &differences);
                    failures += 1;
                    assert!(failures < keep, "{failures} differences until seed {}", case.seed);
                }
            }
        }
        done += count as u64;
    }
    let micros = start.elapsed().as_secs_f64() * 1e6 / cases.max(1) as f64;
    let missing = catalog.missing();
    eprintln!("{bits} bits: {micros:.1} µs a case; {} codes never completed: {missing:?}", missing.len());
    if let Ok(file) = std::env::var("OUZEL_HOST_COVERAGE") {
        let lines = catalog.coverage().join("\n");
        std::fs::write(format!("{file}.{bits}"), lines + "\n").expect("coverage file");
    }
    assert_eq!(failures, 0, "of {cases} cases");
}
