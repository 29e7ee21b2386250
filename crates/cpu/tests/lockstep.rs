//! Random loops of 64-bit code in lock-step: translator and interpreter must agree after every piece.

#![expect(dead_code, reason = "the bench has more than is used here")]
#[path = "common/mod.rs"]
mod common;

use accel::{Vcpu, VcpuExit};
use common::{Bench, CODE_PHYS, DATA, DATA_LEN, DATA_PHYS};
use cpu::TranslatorConfig;
use x86::regs::Registers;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 20) % end
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// RBX, RBP, R14 and R9 address memory, RSP the stack, R8 counts loops.
const BASES: [u8; 3] = [3, 5, 14];
const INDEX: u8 = 9;
const COUNTER: u8 = 8;
const FREE: [u8; 10] = [0, 1, 2, 6, 7, 10, 11, 12, 13, 15];

/// A loop, and where its random choices come from.
struct Program {
    code: Vec<u8>,
    random: Random,
}

enum Rm {
    Register(u8),
    Memory,
}

impl Program {
    fn rm(&mut self) -> Rm {
        if self.random.below(3) == 0 { Rm::Memory } else { Rm::Register(self.random.pick(&FREE)) }
    }

    /// Prefixes, opcode, ModRM and what belongs to it; `size` in bytes.
    fn emit(&mut self, prefix: &[u8], size: u8, opcode: &[u8], reg: u8, rm: &Rm) {
        if size == 2 {
            self.code.push(0x66);
        }
        self.code.extend_from_slice(prefix);
        let wide = u8::from(size == 8) << 3;
        match rm {
            Rm::Register(rm) => {
                let rex = 0x40 | wide | (reg >> 3) << 2 | rm >> 3;
                if rex != 0x40 || size == 1 && self.random.below(4) != 0 {
                    self.code.push(rex);
                }
                self.code.extend_from_slice(opcode);
                self.code.push(0xc0 | (reg & 7) << 3 | rm & 7);
            }
            Rm::Memory => self.memory(size, wide, opcode, reg),
        }
    }

    fn memory(&mut self, size: u8, wide: u8, opcode: &[u8], reg: u8) {
        let base = self.random.pick(&BASES);
        let indexed = self.random.below(2) == 0;
        let rex = 0x40 | wide | (reg >> 3) << 2 | u8::from(indexed) << 1 | base >> 3;
        if rex != 0x40 || size == 1 {
            self.code.push(rex);
        }
        self.code.extend_from_slice(opcode);
        // Some displacements reach the end of a page, or what is not mapped.
        let displacement = match self.random.below(200) {
            0 => 0x2000 - i32::from(size),
            1..=20 => 0x7f8 + self.random.below(8) as i32,
            _ => (self.random.below(512) as i32 - 256) & !(self.random.below(2) as i32 * 15),
        };
        if indexed {
            let scale = self.random.below(4) as u8;
            self.code.extend_from_slice(&[0x84 | (reg & 7) << 3, scale << 6 | (INDEX & 7) << 3 | base & 7]);
        } else {
            self.code.push(0x80 | (reg & 7) << 3 | base & 7);
        }
        self.code.extend_from_slice(&displacement.to_le_bytes());
    }

    fn immediate(&mut self, size: u8) {
        let value = match self.random.below(4) {
            0 => self.random.below(4) as i32 - 2,
            1 => i32::MIN + self.random.below(2) as i32,
            _ => self.random.next() as i32,
        };
        self.code.extend_from_slice(&value.to_le_bytes()[..usize::from(size.min(4))]);
    }

    fn size(&mut self) -> u8 {
        self.random.pick(&[1, 2, 4, 4, 8, 8])
    }

    fn wide(&mut self) -> u8 {
        self.random.pick(&[2, 4, 4, 8, 8])
    }

    fn instruction(&mut self) {
        let (size, wide, reg, rm) = (self.size(), self.wide(), self.random.pick(&FREE), self.rm());
        let byte = |opcode: u8| if size == 1 { opcode } else { opcode | 1 };
        let free = Rm::Register(self.random.pick(&FREE));
        match self.random.below(36) {
            0..=4 => {
                let op = self.random.below(8) as u8;
                self.emit(&[], size, &[byte(op << 3)], reg, &rm);
            }
            5..=7 => {
                let op = self.random.below(8) as u8;
                self.emit(&[], size, &[byte(op << 3 | 2)], reg, &rm);
            }
            8..=10 => {
                let op = self.random.below(8) as u8;
                self.emit(&[], size, &[byte(0x80)], op, &rm);
                self.immediate(size);
            }
            11 => {
                let op = self.random.below(2) as u8;
                self.emit(&[], size, &[byte(0xfe)], op, &rm);
            }
            12 => {
                let op = 2 + self.random.below(2) as u8;
                self.emit(&[], size, &[byte(0xf6)], op, &rm);
            }
            13 | 14 => {
                let op = self.random.pick(&[0, 1, 2, 3, 4, 5, 7]);
                self.emit(&[], size, &[byte(0xc0)], op, &rm);
                let count = self.random.pick(&[0, 1, 2, 7, 8, 31, 32, 33, 63, 64]);
                self.code.push(count);
            }
            15 => {
                let op = self.random.pick(&[0, 1, 2, 3, 4, 5, 7]);
                let opcode = self.random.pick(&[0xd0, 0xd2]);
                self.emit(&[], size, &[byte(opcode)], op, &rm);
            }
            16 => {
                let opcode = self.random.pick(&[0xa4, 0xac]);
                self.emit(&[], wide, &[0x0f, opcode], reg, &rm);
                let count = self.random.pick(&[0, 1, 5, 31, 32, 40]);
                self.code.push(count);
            }
            17 => {
                let op = 4 + self.random.below(4) as u8;
                self.emit(&[], wide, &[0x0f, 0xba], op, &rm);
                let bit = self.random.next() as u8;
                self.code.push(bit);
            }
            18 => {
                let opcode = self.random.pick(&[0xa3, 0xab, 0xb3, 0xbb]);
                self.emit(&[], wide, &[0x0f, opcode], reg, &free);
            }
            19 => {
                let opcode = self.random.pick(&[0xbc, 0xbd]);
                let prefix: &[u8] = if self.random.below(2) == 0 { &[0xf3] } else { &[] };
                self.emit(prefix, wide, &[0x0f, opcode], reg, &rm);
            }
            20 => self.emit(&[], wide, &[0x0f, 0xaf], reg, &rm),
            21 => {
                let op = self.random.pick(&[4, 4, 5, 5, 6, 7]);
                self.emit(&[], size, &[byte(0xf6)], op, &rm);
            }
            22 | 23 => {
                let condition = self.random.below(16) as u8;
                self.emit(&[], wide, &[0x0f, 0x40 | condition], reg, &rm);
            }
            24 | 25 => {
                let condition = self.random.below(16) as u8;
                self.emit(&[], 1, &[0x0f, 0x90 | condition], 0, &rm);
            }
            26 => {
                let opcode = self.random.pick(&[0xb6, 0xb7, 0xbe, 0xbf]);
                self.emit(&[], wide, &[0x0f, opcode], reg, &rm);
            }
            27 => {
                let lock: &[u8] = if matches!(rm, Rm::Memory) && self.random.below(2) == 0 { &[0xf0] } else { &[] };
                let opcode = byte(self.random.pick(&[0xb0, 0xc0]));
                self.emit(lock, size, &[0x0f, opcode], reg, &rm);
            }
            28 => {
                let lock: &[u8] = if matches!(rm, Rm::Memory) { &[0xf0] } else { &[] };
                let op = self.random.below(7) as u8;
                self.emit(lock, size, &[byte(op << 3)], reg, &rm);
            }
            29 => {
                let opcode = self.random.pick(&[0x84, 0x86, 0x88, 0x8a]);
                self.emit(&[], size, &[byte(opcode)], reg, &rm);
            }
            30 => {
                let (push, pop) = (self.random.pick(&FREE), self.random.pick(&FREE));
                self.code.extend_from_slice(&[0x40 | push >> 3, 0x50 | push & 7]);
                if self.random.below(2) == 0 {
                    self.instruction();
                }
                self.code.extend_from_slice(&[0x40 | pop >> 3, 0x58 | pop & 7]);
            }
            31 => {
                let code: &[u8] = self.random.pick(&[
                    &[0x9f],
                    &[0x9e],
                    &[0xf5],
                    &[0xf8],
                    &[0xf9],
                    &[0x98],
                    &[0x99],
                    &[0x48, 0x99],
                    &[0x48, 0x98],
                    &[0x9c, 0x58],
                    &[0x66, 0x98],
                    &[0xfc],
                ]);
                self.code.extend_from_slice(code);
            }
            32 => self.emit(&[], wide, &[0x8d], reg, &Rm::Memory),
            33 => self.vector(),
            34 => {
                self.code.extend_from_slice(&[0x48 | reg >> 3, 0xb8 | reg & 7]);
                let value = self.random.next();
                self.code.extend_from_slice(&value.to_le_bytes());
            }
            _ => {
                let swap = [0x48 | reg >> 3, 0x0f, 0xc8 | reg & 7];
                self.code.extend_from_slice(&swap);
            }
        }
    }

    fn vector(&mut self) {
        let reg = self.random.below(16) as u8;
        let rm = if self.random.below(3) == 0 { Rm::Memory } else { Rm::Register(self.random.below(16) as u8) };
        let (prefix, opcode): (&[u8], u8) = self.random.pick(&[
            (&[0x66][..], 0xef),
            (&[0x66], 0xfe),
            (&[0x66], 0xd4),
            (&[], 0x58),
            (&[0xf2], 0x59),
            (&[0xf3], 0x5e),
            (&[0xf2], 0x5a),
            (&[0xf3], 0x6f),
            (&[0xf3], 0x7f),
            (&[], 0x11),
            (&[0x66], 0x2e),
            (&[], 0x2f),
            (&[0xf2], 0x10),
            (&[0x66], 0xd6),
        ]);
        self.emit(prefix, 4, &[0x0f, opcode], reg, &rm);
    }

    /// A run of instructions with jumps over some of them.
    fn body(&mut self, instructions: u64) {
        let mut left = instructions;
        while left != 0 {
            left -= 1;
            if left != 0 && self.random.below(4) == 0 {
                let condition = self.random.below(16) as u8;
                self.code.extend_from_slice(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
                let at = self.code.len();
                for _ in 0..=self.random.below(left.min(4)) {
                    self.instruction();
                    left = left.saturating_sub(1);
                }
                let distance = (self.code.len() - at) as u32;
                self.code[at - 4..at].copy_from_slice(&distance.to_le_bytes());
            } else {
                self.instruction();
            }
        }
    }

    fn new(seed: u64) -> Self {
        let mut this = Self { code: Vec::new(), random: Random(seed) };
        let calls = this.random.below(3) == 0;
        let top = this.code.len();
        let many = 3 + this.random.below(25);
        this.body(many);
        let call = calls.then(|| {
            this.code.extend_from_slice(&[0xe8, 0, 0, 0, 0]);
            this.code.len()
        });
        // dec r8; jnz top; hlt
        this.code.extend_from_slice(&[0x49, 0xff, 0xc0 | 1 << 3 | COUNTER & 7, 0x0f, 0x85]);
        let back = top.wrapping_sub(this.code.len() + 4) as u32;
        this.code.extend_from_slice(&back.to_le_bytes());
        this.code.push(0xf4);
        if let Some(call) = call {
            let distance = (this.code.len() - call) as u32;
            this.code[call - 4..call].copy_from_slice(&distance.to_le_bytes());
            this.body(5);
            this.code.push(0xc3);
        }
        this
    }
}

fn lockstep() -> (Bench, Registers) {
    let config = TranslatorConfig { lockstep: true, hot_after: 1, ..TranslatorConfig::default() };
    let mut bench = common::bench_with(0, 64, config);
    let registers = bench.cpu.registers();
    (bench, registers)
}

fn run(bench: &mut Bench, start: &Registers, program: &mut Program) -> Result<(), String> {
    let mut registers = start.clone();
    registers.gpr.iter_mut().for_each(|register| *register = program.random.next());
    for base in BASES {
        registers.gpr[usize::from(base)] = DATA + 0x800 + program.random.below(16) * u64::from(base == 5);
    }
    registers.gpr[4] = DATA + 0x1e00;
    registers.gpr[usize::from(INDEX)] = program.random.below(32);
    registers.gpr[usize::from(COUNTER)] = 1 + program.random.below(40);
    let data: Vec<u8> = (0..DATA_LEN).map(|_| program.random.next() as u8).collect();
    bench.ram.write(DATA_PHYS, &data);
    assert!(bench.ram.write(CODE_PHYS, &program.code));
    bench.cpu.set_registers(&registers);
    match bench.cpu.run() {
        VcpuExit::InternalError(report) => Err(report),
        _ => Ok(()),
    }
}

/// Programs for one CPU: code that is rewritten more often stays with the interpreter.
const EACH: u64 = 4;

#[test]
fn random_loops_agree() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (from, cases): (u64, u64) = (number("LOCKSTEP_SEED", 1), number("LOCKSTEP_CASES", 2000));
    let (mut compared, mut devices) = (0, 0);
    for first in (from..from + cases).step_by(EACH as usize) {
        let (mut bench, start) = lockstep();
        for seed in first..first + EACH {
            let mut program = Program::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            if let Err(report) = run(&mut bench, &start, &mut program) {
                panic!("program {seed}:\n{report}");
            }
        }
        let stats = bench.cpu.cpu().lockstep_stats().expect("lock-step");
        compared += stats.compared;
        devices += stats.devices;
    }
    assert!(compared > cases, "only {compared} pieces were compared");
    assert_eq!(devices, 0);
}
