//! Every legacy SSE floating-point encoding, with random operands and MXCSR, against the host
//! executing the same instruction. Exceptions are masked here: the host would deliver them.

mod native;

use std::collections::HashSet;

use fpu::{Comparison, FxsaveFormat, InsertSource, Mxcsr, SimdException, SseOp, X87, host_is_supported, lower_sse};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, MemorySize, OpKind, Register};
use native::{Machine, Native, Random};

/// All opcodes of the maps 0F, 0F38 and 0F3A with all prefixes: register form with fields 1 and 2,
/// and memory form with [RSI].
fn encodings(imm: u8) -> Vec<(Vec<u8>, Instruction)> {
    let mut all = Vec::new();
    let prefixes: [&[u8]; 4] = [&[], &[0x66], &[0xf3], &[0xf2]];
    let maps: [&[u8]; 3] = [&[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for prefix in prefixes {
        for rex in [&[][..], &[0x48]] {
            for map in maps {
                for opcode in 0..=0xff {
                    for modrm in [0xca, 0x0e] {
                        let mut bytes = [prefix, rex, map, &[opcode, modrm]].concat();
                        bytes.extend([imm; 8]);
                        let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
                        let instruction = decoder.decode();
                        if lower_sse(instruction.code()).is_some() {
                            bytes.truncate(instruction.len());
                            all.push((bytes, instruction));
                        }
                    }
                }
            }
        }
    }
    all
}

fn random_state(random: &mut Random) -> Machine {
    let mut machine = Machine::new();
    let mut mxcsr = 0x1f80 | (random.next() as u32 & 0xe040);
    if random.one_in(4) {
        mxcsr |= random.next() as u32 & 0x3f;
    }
    machine.set_mxcsr(mxcsr);
    for i in 0..3 {
        let vector = random.vector();
        machine.set_xmm(i, vector);
    }
    // Equal operands and NaNs on both sides are rare otherwise.
    if random.one_in(8) {
        machine.set_xmm(2, machine.xmm(1));
    }
    machine.memory[..16].copy_from_slice(&random.vector().to_le_bytes());
    machine.gpr = [random.i64(), random.i64(), random.i64()];
    // TOP is not 0 and registers are empty, so that the transition to MMX shows.
    machine.fx[3] = 0x28;
    machine.fx[4] = random.next() as u8;
    for i in 0..8 {
        let at = 32 + 16 * i;
        machine.fx[at..at + 8].copy_from_slice(&random.i64().to_le_bytes());
    }
    machine.flags = 0x202 | (random.next() & 0x8d5);
    machine
}

const CVTPI2PS: Code = Code::Cvtpi2ps_xmm_mmm64;

fn memory_bytes(size: MemorySize) -> usize {
    match size {
        MemorySize::Float32 | MemorySize::Int32 | MemorySize::UInt32 => 4,
        MemorySize::Float64
        | MemorySize::Int64
        | MemorySize::UInt64
        | MemorySize::Packed64_Float32
        | MemorySize::Packed64_Int32 => 8,
        MemorySize::Packed128_Float32
        | MemorySize::Packed128_Float64
        | MemorySize::Packed128_Int32
        | MemorySize::UInt128 => 16,
        other => panic!("a memory operand of {other:?}"),
    }
}

/// The parts that an instruction reads and writes, before they are put back into the machine.
struct Ours<'a> {
    machine: &'a mut Machine,
    unit: X87,
    mxcsr: Mxcsr,
    instruction: &'a Instruction,
}

impl Ours<'_> {
    fn is_memory(&self, operand: u32) -> bool {
        self.instruction.op_kind(operand) == OpKind::Memory
    }

    fn memory(&self) -> u128 {
        let mut bytes = [0; 16];
        let len = memory_bytes(self.instruction.memory_size());
        bytes[..len].copy_from_slice(&self.machine.memory[..len]);
        u128::from_le_bytes(bytes)
    }

    fn register(&self, operand: u32, first: Register) -> usize {
        self.instruction.op_register(operand) as usize - first as usize
    }

    fn gpr(&self, operand: u32) -> usize {
        let register = self.instruction.op_register(operand);
        if register < Register::RAX {
            self.register(operand, Register::EAX)
        } else {
            self.register(operand, Register::RAX)
        }
    }

    fn xmm(&self, operand: u32) -> u128 {
        if self.is_memory(operand) {
            return self.memory();
        }
        self.machine.xmm(self.register(operand, Register::XMM0))
    }

    fn set_xmm(&mut self, value: u128) {
        let index = self.register(0, Register::XMM0);
        self.machine.set_xmm(index, value);
    }

    fn imm(&self) -> u8 {
        let last = self.instruction.op_count() - 1;
        match self.instruction.op_kind(last) {
            OpKind::Immediate8 => self.instruction.immediate8(),
            _ => 0,
        }
    }

    fn execute(&mut self, op: SseOp) -> Result<(), SimdException> {
        let imm = self.imm();
        match op {
            SseOp::Binary(f) => {
                let value = f(self.xmm(0), self.xmm(1), imm, &mut self.mxcsr)?;
                self.set_xmm(value);
            }
            SseOp::BinaryXmm0(f) => {
                let value = f(self.xmm(0), self.xmm(1), self.machine.xmm(0));
                self.set_xmm(value);
            }
            SseOp::Insert(f) => {
                let source = if self.is_memory(1) {
                    InsertSource::Memory(self.memory() as u32)
                } else {
                    InsertSource::Register(self.xmm(1))
                };
                let value = f(self.xmm(0), source, imm);
                self.set_xmm(value);
            }
            SseOp::Compare(f) => {
                let comparison = f(self.xmm(0), self.xmm(1), &mut self.mxcsr)?;
                let mask = u64::from(Comparison::MASK);
                self.machine.flags = (self.machine.flags & !mask) | u64::from(comparison.eflags());
            }
            SseOp::ToGpr(f) => {
                let value = f(self.xmm(1), imm, &mut self.mxcsr)?;
                if self.is_memory(0) {
                    self.machine.memory[..4].copy_from_slice(&value.to_le_bytes()[..4]);
                } else {
                    let index = self.gpr(0);
                    self.machine.gpr[index] = value;
                }
            }
            SseOp::FromGpr(f) => {
                let source = if self.is_memory(1) { self.memory() as u64 } else { self.machine.gpr[self.gpr(1)] };
                let value = f(self.xmm(0), source, &mut self.mxcsr)?;
                self.set_xmm(value);
            }
            SseOp::MmxToXmm { convert, memory_enters_mmx } => {
                let source = if self.is_memory(1) {
                    // Intel's CVTPI2PS makes the transition even here; AMD's does not.
                    assert_eq!(memory_enters_mmx, self.instruction.code() == CVTPI2PS);
                    self.memory() as u64
                } else {
                    self.unit.enter_mmx();
                    self.unit.mmx_get(self.register(1, Register::MM0) as u8)
                };
                let value = convert(self.xmm(0), source, &mut self.mxcsr)?;
                self.set_xmm(value);
            }
            SseOp::XmmToMmx(f) => {
                let value = f(self.xmm(1), &mut self.mxcsr)?;
                self.unit.enter_mmx();
                self.unit.mmx_set(self.register(0, Register::MM0) as u8, value);
            }
        }
        Ok(())
    }
}

fn run_ours(instruction: &Instruction, machine: &mut Machine) {
    let mut unit = X87::new();
    unit.fxrstor(FxsaveFormat::Long, machine.x87());
    let mxcsr = Mxcsr(machine.mxcsr());
    let mut ours = Ours { machine, unit, mxcsr, instruction };
    let op = lower_sse(instruction.code()).unwrap();
    ours.execute(op).expect("all exceptions are masked");
    let mut image = [0; 160];
    ours.unit.fxsave(FxsaveFormat::Long, &mut image);
    let mxcsr = ours.mxcsr.0;
    machine.fx[2..5].copy_from_slice(&image[2..5]);
    machine.fx[32..160].copy_from_slice(&image[32..]);
    machine.set_mxcsr(mxcsr);
}

fn describe(machine: &Machine) -> String {
    format!(
        "mxcsr {:04x} xmm1 {:032x} gpr {:x?} flags {:x} sw {:02x} tags {:02x} memory {:032x} x87 {:x}",
        machine.mxcsr(),
        machine.xmm(1),
        machine.gpr,
        machine.flags & 0x8d5,
        machine.fx[3],
        machine.fx[4],
        u128::from_le_bytes(machine.memory[..16].try_into().unwrap()),
        machine.x87()[32..].iter().fold(0_u64, |hash, &byte| { hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte) }),
    )
}

#[test]
fn every_sse_encoding_with_random_operands_equals_the_host() {
    assert!(host_is_supported());
    let mut random = Random(0x55e4);
    let mut codes: HashSet<Code> = HashSet::new();
    let (mut cases, mut failures) = (0_u64, Vec::new());
    // Encodings without an immediate are simply repeated.
    for round in 0..48_u64 {
        let imm = match round {
            0..16 => round as u8,
            16..32 => (round as u8) << 4 | 0xf,
            _ => random.next() as u8,
        };
        for (bytes, instruction) in encodings(imm) {
            let native = Native::new(&bytes);
            codes.insert(instruction.code());
            let (mut failed, mut first) = (0, None);
            for _ in 0..40 {
                let before = random_state(&mut random);
                let (mut ours, mut host) = (before, before);
                native.run(&mut host);
                run_ours(&instruction, &mut ours);
                cases += 1;
                let (a, b) = (describe(&ours), describe(&host));
                if a != b {
                    failed += 1;
                    let from = describe(&before);
                    let source = before.xmm(2);
                    first.get_or_insert_with(|| format!("  from {from} xmm2 {source:032x}\n  ours {a}\n  host {b}"));
                }
            }
            if let Some(first) = first {
                let code = instruction.code();
                failures.push(format!("{code:?} {bytes:02x?}: {failed} of 40\n{first}"));
            }
        }
    }
    let untested: Vec<Code> =
        Code::values().filter(|&code| lower_sse(code).is_some() && !codes.contains(&code)).collect();
    assert_eq!(untested, [], "lowered codes that were not tested");
    assert!(cases > 100_000);
    assert!(failures.is_empty(), "{} encodings differ:\n{}", failures.len(), failures.join("\n"));
}
