//! Every x87 encoding, with random states, against the host executing the same instruction.

mod native;

use std::collections::HashSet;
use std::fmt::Write as _;

use fpu::{AddressMode, Comparison, FxsaveFormat, X87, X87Memory, X87Operand, X87Outcome, lower_x87, sti_index};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use native::{Machine, Native, Random};

/// Codes that iced's decoder never returns: it decodes their `WAIT` separately.
const WITH_WAIT: [Code; 12] = [
    Code::Fstenv_m14byte,
    Code::Fstenv_m28byte,
    Code::Fstcw_m2byte,
    Code::Feni,
    Code::Fdisi,
    Code::Fclex,
    Code::Finit,
    Code::Fsetpm,
    Code::Fsave_m94byte,
    Code::Fsave_m108byte,
    Code::Fstsw_m2byte,
    Code::Fstsw_AX,
];

/// Every encoding D8–DF with a register or [RSI], plain and with an operand-size prefix.
fn encodings() -> Vec<Vec<u8>> {
    let mut all = vec![vec![0x9b]];
    for opcode in 0xd8..=0xdf {
        for modrm in (0xc0..=0xff).chain((0..8).map(|reg| reg << 3 | 6)) {
            all.push(vec![opcode, modrm]);
            if modrm < 0xc0 {
                all.push(vec![0x66, opcode, modrm]);
            }
        }
    }
    all
}

fn random_state(random: &mut Random, load: usize) -> Machine {
    let mut machine = Machine::new();
    // All masked, or random masks; any rounding and any defined precision.
    let masks = if random.one_in(2) { 0x3f } else { random.next() as u16 & 0x3f };
    let precision = [0x000, 0x200, 0x300][random.below(3) as usize];
    let rounding = (random.below(4) as u16) << 10;
    let control = 0x40 | masks | precision | rounding;
    // Condition codes, TOP, and flags that are not pending.
    let mut status = random.next() as u16 & 0x7f00;
    if random.one_in(4) {
        status |= random.next() as u16 & masks;
    }
    let valid = match random.below(4) {
        0 => random.next() as u8,
        1 => 0xff,
        // ST(7) is empty, the rest is not.
        _ => !(1 << ((status >> 11).wrapping_sub(1) & 7)),
    };
    machine.fx[0..2].copy_from_slice(&control.to_le_bytes());
    machine.fx[2..4].copy_from_slice(&status.to_le_bytes());
    machine.fx[4] = valid;
    for i in 0..8 {
        let (exponent, significand) = random.f80();
        let at = 32 + 16 * i;
        machine.fx[at..at + 8].copy_from_slice(&significand.to_le_bytes());
        machine.fx[at + 8..at + 10].copy_from_slice(&exponent.to_le_bytes());
    }
    for byte in &mut machine.memory {
        *byte = random.next() as u8;
    }
    match (load, random.one_in(2)) {
        (2, _) => machine.memory[..2].copy_from_slice(&random.i32().to_le_bytes()[..2]),
        (4, true) => machine.memory[..4].copy_from_slice(&random.f32().to_le_bytes()),
        (4, false) => machine.memory[..4].copy_from_slice(&random.i32().to_le_bytes()),
        (8, true) => machine.memory[..8].copy_from_slice(&random.f64().to_le_bytes()),
        (8, false) => machine.memory[..8].copy_from_slice(&random.i64().to_le_bytes()),
        (10, true) => {
            let (exponent, significand) = random.f80();
            machine.memory[..8].copy_from_slice(&significand.to_le_bytes());
            machine.memory[8..10].copy_from_slice(&exponent.to_le_bytes());
        }
        (10, false) => {
            for byte in &mut machine.memory[..9] {
                *byte = (random.below(10) << 4 | random.below(10)) as u8;
            }
        }
        _ => {}
    }
    machine.flags = 0x202 | (random.next() & 0x8d5);
    machine
}

/// The parts of an image that the comparison covers: control, status, tags, registers.
fn describe(image: &[u8; 160]) -> String {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let mut text = format!("cw {:04x} sw {:04x} tags {:02x}", word(0), word(2), image[4]);
    for i in 0..8 {
        let at = 32 + 16 * i;
        let significand = u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let _ = write!(text, "\n    st{i} {:04x}:{significand:016x}", word(at + 8));
    }
    text
}

/// Bytes of a stored environment that hold last-instruction pointers; makers differ there.
fn is_pointer(len: usize, at: usize) -> bool {
    match len {
        14 | 94 => (6..14).contains(&at),
        28 | 108 => (12..28).contains(&at),
        _ => false,
    }
}

fn run_ours(instruction: &Instruction, machine: &mut Machine) {
    let op = lower_x87(instruction.code()).unwrap();
    let mut unit = X87::new();
    unit.fxrstor(FxsaveFormat::Long, machine.x87());
    let load = match op.memory() {
        X87Memory::Load(len) => usize::from(len),
        _ => 0,
    };
    let operand = X87Operand {
        sti: sti_index(instruction),
        memory: &machine.memory[..load],
        eflags: machine.flags as u32,
        mode: AddressMode::Protected,
    };
    match unit.execute(op, &operand) {
        X87Outcome::Done => {}
        X87Outcome::Eflags(comparison) => {
            let mask = u64::from(Comparison::MASK);
            machine.flags = (machine.flags & !mask) | u64::from(comparison.eflags());
        }
        X87Outcome::Ax(ax) => machine.gpr[0] = (machine.gpr[0] & !0xffff) | u64::from(ax),
        X87Outcome::Store(store) => {
            let bytes = store.bytes();
            assert_eq!(op.memory(), X87Memory::Store(bytes.len() as u8));
            for (at, byte) in bytes.iter().enumerate() {
                if !is_pointer(bytes.len(), at) {
                    machine.memory[at] = *byte;
                }
            }
            unit.commit(store.commit);
        }
    }
    let mut image = [0; 160];
    unit.fxsave(FxsaveFormat::Long, &mut image);
    machine.fx[..5].copy_from_slice(&image[..5]);
    machine.fx[32..160].copy_from_slice(&image[32..]);
}

/// Where this follows the SDM and AMD's processors do not: an unmasked exception keeps a comparison from changing
/// the condition codes and EFLAGS.
fn excuse(code: Code, ours: &Machine, host: &mut Machine) {
    let mnemonic = format!("{:?}", code.mnemonic());
    let status = u16::from_le_bytes([ours.fx[2], ours.fx[3]]);
    let pending = status & 0x80 != 0;
    let mut ignored = 0;
    if pending && (mnemonic.contains("com") || mnemonic == "Ftst") {
        ignored |= if mnemonic.contains("comi") { 0x4700 } else { 0x4500 };
        host.flags = ours.flags;
    }
    let host_status = u16::from_le_bytes([host.fx[2], host.fx[3]]);
    let merged = (host_status & !ignored) | (status & ignored);
    host.fx[2..4].copy_from_slice(&merged.to_le_bytes());
}

/// The difference of two outcomes, as text.
fn difference(ours: &Machine, host: &Machine, stored: usize) -> Option<String> {
    let (a, b) = (describe(ours.x87()), describe(host.x87()));
    let memory = |machine: &Machine| {
        let mut bytes = machine.memory;
        for (at, byte) in bytes.iter_mut().enumerate() {
            if is_pointer(stored, at) {
                *byte = 0;
            }
        }
        bytes
    };
    let (ours_memory, host_memory) = (memory(ours), memory(host));
    if a == b && ours_memory == host_memory && ours.gpr == host.gpr && (ours.flags ^ host.flags) & 0x8d5 == 0 {
        return None;
    }
    Some(format!(
        "  ours {a}\n  host {b}\n  ours flags {:x} memory {:02x?}\n  host flags {:x} memory {:02x?}",
        ours.flags,
        &ours_memory[..stored.max(10)],
        host.flags,
        &host_memory[..stored.max(10)],
    ))
}

#[test]
fn every_x87_encoding_in_random_states_equals_the_host() {
    const CASES: u64 = 600;
    let mut random = Random(0x8087);
    let mut codes: HashSet<Code> = HashSet::new();
    let (mut cases, mut failures) = (0_u64, Vec::new());
    for bytes in encodings() {
        let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
        let Some(op) = lower_x87(instruction.code()) else {
            continue;
        };
        codes.insert(instruction.code());
        let native = Native::new(&bytes);
        let (load, stored) = match op.memory() {
            X87Memory::None => (0, 0),
            X87Memory::Load(len) => (usize::from(len), 0),
            X87Memory::Store(len) => (0, usize::from(len)),
        };
        let (mut failed, mut first) = (0, None);
        for _ in 0..CASES {
            let before = random_state(&mut random, load);
            let (mut ours, mut host) = (before, before);
            native.run(&mut host);
            run_ours(&instruction, &mut ours);
            cases += 1;
            excuse(instruction.code(), &ours, &mut host);
            if let Some(text) = difference(&ours, &host, stored) {
                failed += 1;
                let memory = &before.memory[..10];
                first.get_or_insert_with(|| {
                    format!("  from {}\n  memory {memory:02x?}\n{text}", describe(before.x87()))
                });
            }
        }
        if let Some(first) = first {
            let code = instruction.code();
            failures.push(format!("{code:?} {bytes:02x?}: {failed} of {CASES}\n{first}"));
        }
    }
    let untested: Vec<Code> =
        Code::values().filter(|&code| lower_x87(code).is_some() && !codes.contains(&code)).collect();
    assert_eq!(untested, WITH_WAIT, "lowered codes that were not tested");
    assert!(cases > 100_000);
    assert!(failures.is_empty(), "{} encodings differ:\n{}", failures.len(), failures.join("\n"));
}
