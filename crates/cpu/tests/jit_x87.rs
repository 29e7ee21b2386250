//! x87 and MMX instructions on both tiers: random loops from the same state must end in the same state.
#![cfg(target_arch = "x86_64")]

#[expect(dead_code, reason = "other tests use the rest")]
mod common;

use common::*;
use cpu::TranslatorConfig;
use cpu::block::BlockExit;
use fpu::{F80, X87};
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};

const CR0_TS: u64 = 8;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Eight bytes of a number that an instruction may find interesting.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => f64::from(self.next() as i32).to_bits(),
            2 => (f64::from(self.next() as i16) / 256.0).to_bits(),
            3 => {
                let (a, b) = (self.next() as i8, self.next() as i16);
                u64::from((f32::from(a) / 8.0).to_bits()) << 32 | u64::from(f32::from(b).to_bits())
            }
            4 => self.next() >> 48,
            5 => self.pick(&[0, 1 << 63, 0x7ff0 << 48, 0x7ff8 << 48, 0x7ff4 << 48, 1, 0x8000_0000_0000_0001]),
            6 => u64::from(self.pick(&[0u32, 0x7f80_0000, 0x7fa0_0000, 0xffc0_0000, 1, 0x8000_0001, 0x3f80_0000])),
            _ => f64::to_bits(1.0 + self.below(1000) as f64 / 77.0),
        }
    }

    fn register(&mut self) -> F80 {
        let significand = self.next() | 1 << 63;
        match self.below(6) {
            0 => F80::new(self.next() as u16, self.next()),
            1 => F80::new(self.pick(&[0x7fff, 0xffff, 0, 0x8000]), self.pick(&[1 << 63, 3 << 62, 0, 1, 5 << 61])),
            _ => F80::new((0x3ff7 + self.below(16) as u16) | (self.next() as u16 & 0x8000), significand),
        }
    }

    /// A unit with a few registers in use.
    fn unit(&mut self) -> X87 {
        let mut unit = X87::new();
        let rounding = self.below(16) as u16;
        unit.set_control(if self.chance(50) { 0x37f } else { 0x7f | rounding << 8 });
        unit.set_status((self.below(8) as u16) << 11 | self.pick(&[0, 0x4700, 0x41, 0x20, 0x7f]));
        for n in 0..8 {
            unit.set_st(n, self.register());
        }
        let used = self.below(7);
        let mut tags = 0u8;
        for n in 0..used as u8 {
            tags |= 1 << (unit.top().wrapping_add(n) & 7);
        }
        unit.set_abridged_tags(if self.chance(20) { self.next() as u8 } else { tags });
        unit.note_instruction(0x11, 0x1234_5678_9abc, 0x7ff);
        unit.note_data(0x22, 0xdef0_1234);
        unit
    }
}

fn decode(code: &[u8]) -> Option<Instruction> {
    let ins = Decoder::with_ip(64, code, CODE, DecoderOptions::AMD).decode();
    (!ins.is_invalid() && ins.len() == code.len()).then_some(ins)
}

/// Where the loops' memory operands are, from RDI.
fn displacement(random: &mut Random) -> i32 {
    let at = random.below(0x60) as i32 * 8;
    match random.below(12) {
        0 => at + random.below(8) as i32,
        // Across the border of the two pages.
        1 => 0x1000 - 0x800 - 1 - random.below(7) as i32,
        _ => at,
    }
}

/// A random operand in memory for the ModRM byte's register field.
fn memory(random: &mut Random, reg: u8, code: &mut Vec<u8>) {
    let displacement = displacement(random);
    let mode = 0x80 | (reg & 7) << 3;
    match random.below(5) {
        // [RSP + displacement]: another segment.
        0 => code.extend([mode | 4, 0x24]),
        // [RDI + RSI]; RSI moves.
        1 => code.extend([mode | 4, 0x37]),
        _ => code.push(mode | 7),
    }
    code.extend(displacement.to_le_bytes());
}

/// An instruction of the unit. `calm`: none that changes the whole unit.
fn unit_instruction(random: &mut Random, calm: bool) -> Vec<u8> {
    loop {
        let mut code = Vec::new();
        let prefix = random.below(20);
        if prefix == 0 {
            code.push(0x64);
        } else if prefix == 1 {
            code.push(0x9b);
        }
        let opcode = 0xd8 | random.next() as u8 & 7;
        code.push(opcode);
        if random.chance(50) {
            code.push(0xc0 | random.next() as u8 & 0x3f);
        } else {
            let reg = random.next() as u8 & 7;
            memory(random, reg, &mut code);
        }
        let Some(ins) = decode(&code) else { continue };
        use iced_x86::Mnemonic as M;
        let whole = matches!(
            ins.mnemonic(),
            M::Fldenv | M::Frstor | M::Fsave | M::Fnsave | M::Fstenv | M::Fnstenv | M::Finit | M::Fninit | M::Fldcw
        );
        if whole && (calm || random.chance(80)) {
            continue;
        }
        return code;
    }
}

fn mmx_instruction(random: &mut Random) -> Vec<u8> {
    loop {
        let mut code = vec![0x0f];
        let opcode = random.pick(&[0x60u8, 0x70, 0xd0, 0xe0, 0xf0, 0x77]);
        code.push(if opcode == 0x77 { opcode } else { opcode | random.next() as u8 & 15 });
        if random.chance(15) {
            code.truncate(1);
            code.extend([0x38, random.next() as u8 & 0x1f]);
        }
        if opcode != 0x77 {
            if random.chance(60) {
                code.push(0xc0 | random.next() as u8 & 0x3f);
            } else {
                let reg = random.next() as u8 & 7;
                memory(random, reg, &mut code);
            }
        }
        if random.chance(20) {
            code.push(random.next() as u8);
        }
        let Some(ins) = decode(&code) else { continue };
        let vector = (0..ins.op_count()).any(|n| ins.op_kind(n) == OpKind::Register && ins.op_register(n).is_xmm());
        // Registers that the loop needs.
        let general = (0..ins.op_count())
            .any(|n| ins.op_kind(n) == OpKind::Register && ins.op_register(n).is_gpr() && !(8..11).contains(&n));
        let kept = general && (1..8).contains(&(ins.op0_register().full_register().number()));
        if vector || kept {
            continue;
        }
        return code;
    }
}

/// Integer instructions in between: flags that FCMOVcc reads, and registers.
fn other_instruction(random: &mut Random) -> Vec<u8> {
    let options: [&[u8]; 10] = [
        &[0x85, 0xc9],                   // test ecx, ecx
        &[0x39, 0xd8],                   // cmp eax, ebx
        &[0x01, 0xc3],                   // add ebx, eax
        &[0x13, 0xd8],                   // adc ebx, eax
        &[0x48, 0x83, 0xc6, 0x08],       // add rsi, 8
        &[0x0f, 0x92, 0xc3],             // setb bl
        &[0x48, 0x8b, 0x47, 0x40],       // mov rax, [rdi + 0x40]
        &[0x9e],                         // sahf
        &[0x7a, 0x00],                   // jp
        &[0x0f, 0xae, 0x87, 0, 6, 0, 0], // fxsave [rdi + 0x600]
    ];
    let last = if random.chance(10) { 10 } else { 9 };
    options[random.below(last) as usize].to_vec()
}

struct Program {
    code: Vec<u8>,
    text: Vec<String>,
}

/// MOV ECX, count; a loop; HLT.
fn program(random: &mut Random, count: u32, mmx: u64, calm: bool) -> Program {
    let mut code = vec![0xb9];
    code.extend(count.to_le_bytes());
    let start = code.len();
    let mut text = Vec::new();
    for _ in 0..1 + random.below(14) {
        let instruction = if random.chance(25) {
            other_instruction(random)
        } else if random.chance(mmx) {
            mmx_instruction(random)
        } else {
            unit_instruction(random, calm)
        };
        text.push(decode(&instruction).map_or_else(|| format!("{instruction:02x?}"), |ins| ins.to_string()));
        code.extend(instruction);
    }
    if random.chance(30) {
        // LEA RSI, [RSI + 0x100]: leaves the data in some loops.
        code.extend([0x48, 0x8d, 0xb6, 0, 1, 0, 0]);
        text.push("lea rsi,[rsi+100h]".into());
    }
    // dec ecx; jnz
    code.extend([0xff, 0xc9, 0x0f, 0x85]);
    code.extend((start as i32 - code.len() as i32 - 4).to_le_bytes());
    code.push(0xf4);
    Program { code, text }
}

#[derive(Debug, PartialEq)]
struct End {
    exit: String,
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    x87: X87,
    cr2: u64,
    data: Vec<u8>,
}

fn run(program: &Program, unit: &X87, data: &[u8], translated: bool) -> End {
    let mut bench = bench_with(
        0,
        64,
        TranslatorConfig { enabled: translated, hot_after: 2, code_bytes: 1 << 20, ..TranslatorConfig::default() },
    );
    assert!(bench.ram.write(CODE_PHYS, &program.code));
    assert!(bench.ram.write(DATA_PHYS, data));
    let cpu = bench.cpu.cpu();
    cpu.x87 = *unit;
    cpu.gpr = [0; 16];
    cpu.gpr[7] = DATA + 0x800;
    cpu.gpr[4] = DATA + 0x800;
    cpu.gpr[3] = 0x1234_5678;
    cpu.set_rflags(2);
    // SS and DS apart.
    cpu.segs[2].selector = 0x38;
    let exit = loop {
        match cpu.exec_blocks() {
            BlockExit::Signals => cpu.exit_request = false,
            BlockExit::Fault(fault) => break format!("{fault:?} {:x}", cpu.fault_address),
            other => break format!("{other:?}"),
        }
    };
    let mut after = vec![0; DATA_LEN];
    let (gpr, rip, rflags, x87, cr2) = (cpu.gpr, cpu.rip, cpu.rflags(), cpu.x87, cpu.cr2);
    if translated {
        let stats = accel::Vcpu::translator_stats(&bench.cpu);
        if exit == "Halt" {
            assert!(stats.is_some_and(|stats| stats.translations > 0), "nothing was translated");
        }
    }
    assert!(bench.ram.read(DATA_PHYS, &mut after));
    End { exit, gpr, rip, rflags, x87, cr2, data: after }
}

fn compare(seed: u64, mmx: u64, calm: bool) {
    let mut random = Random(seed);
    let program = program(&mut random, 40, mmx, calm);
    let unit = random.unit();
    let mut data = Vec::new();
    while data.len() < DATA_LEN {
        data.extend(random.number().to_le_bytes());
    }
    // What FLDCW and its like mostly find masks all exceptions.
    for word in data.chunks_exact_mut(64) {
        word[..2].copy_from_slice(&0x37fu16.to_le_bytes());
    }
    let (expected, found) = (run(&program, &unit, &data, false), run(&program, &unit, &data, true));
    if expected != found {
        let at = expected.data.iter().zip(&found.data).position(|(a, b)| a != b);
        panic!(
            "seed {seed}: {:#?}\nunit {unit:x?}\ndata from {at:x?}\nexpected {:?} {:x?} {:x} {:x} {:x?}\nfound    {:?} {:x?} {:x} {:x} {:x?}",
            program.text,
            expected.exit,
            expected.gpr,
            expected.rip,
            expected.rflags,
            expected.x87,
            found.exit,
            found.gpr,
            found.rip,
            found.rflags,
            found.x87,
        );
    }
}

fn rounds() -> u64 {
    std::env::var("X87_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

fn first() -> u64 {
    std::env::var("X87_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[test]
fn x87_loops_end_as_in_the_interpreter() {
    for seed in first()..first() + rounds() {
        compare(seed, 0, true);
    }
}

#[test]
fn x87_loops_with_environments_end_as_in_the_interpreter() {
    for seed in first()..first() + rounds() {
        compare(seed + 1_000_000, 0, false);
    }
}

#[test]
fn mmx_and_x87_loops_end_as_in_the_interpreter() {
    for seed in first()..first() + rounds() {
        compare(seed + 2_000_000, 60, false);
    }
}

#[test]
fn x87_loop_under_task_switched_raises_nm_where_it_was_translated_before() {
    // mov ecx, 40; fld1; fstp st(0); dec ecx; jnz; hlt
    let code = [0xb9, 40, 0, 0, 0, 0xd9, 0xe8, 0xdd, 0xd8, 0xff, 0xc9, 0x75, 0xf8, 0xf4];
    let mut bench = bench_with(0, 64, TranslatorConfig { hot_after: 2, ..TranslatorConfig::default() });
    assert!(bench.ram.write(CODE_PHYS, &code));
    bench.cpu.cpu().x87 = X87::new();
    let mut run = |cr0: u64| {
        let mut registers = accel::Vcpu::registers(&mut bench.cpu);
        registers.rip = CODE;
        registers.cr0 |= cr0;
        registers.activity = x86::regs::Activity::Running;
        accel::Vcpu::set_registers(&mut bench.cpu, &registers);
        loop {
            match bench.cpu.cpu().exec_blocks() {
                BlockExit::Signals => bench.cpu.cpu().exit_request = false,
                BlockExit::Fault(fault) => return Some((fault.vector(), bench.cpu.cpu().rip)),
                _ => return None,
            }
        }
    };
    for _ in 0..3 {
        assert_eq!(run(0), None);
    }
    assert_eq!(run(CR0_TS), Some((7, CODE + 5)));
    assert!(accel::Vcpu::translator_stats(&bench.cpu).is_some_and(|stats| stats.translations > 0));
}
