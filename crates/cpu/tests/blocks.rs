//! The block cache: code that is written to, that crosses pages, and that is traced.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use std::sync::{Arc, Mutex};

use accel::Vcpu;
use common::{Bench, CODE, CODE_PHYS, DATA, DATA_PHYS};
use cpu::block::{BlockExit, Interruption, TraceSink};

/// Writable code, executable data; RIP at [`CODE`].
fn bench(code: &[u8]) -> Bench {
    let mut bench = common::bench(0, 64);
    bench.ram.store_u64(0x4000 + 0x145 * 8, CODE_PHYS as u64 | 7);
    for page in 0..2 {
        bench.ram.store_u64(0x4000 + (0x155 + page) * 8, (DATA_PHYS + page * 0x1000) as u64 | 7);
    }
    bench.ram.write(CODE_PHYS, &[0xcc; 4096]);
    bench.ram.write(CODE_PHYS, code);
    let mut registers = bench.cpu.registers();
    // User pages; no SMEP, and supervisor mode may write through them.
    registers.rip = CODE;
    registers.gpr[4] = DATA + 0x1000;
    bench.cpu.set_registers(&registers);
    bench.cpu.cpu().exit_request = false;
    bench
}

/// Runs to the next fault: its vector.
fn run(bench: &mut Bench) -> u8 {
    match bench.cpu.cpu().exec_blocks() {
        BlockExit::Fault(fault) => fault.vector(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn store_into_the_running_block_changes_the_next_instruction() {
    // mov byte [rip+1], 7 (the immediate of the mov al that follows); mov al, 1; ud2
    let mut bench = bench(&[0xc6, 0x05, 0x01, 0, 0, 0, 7, 0xb0, 1, 0x0f, 0x0b]);
    assert_eq!(run(&mut bench), 6);
    assert_eq!(bench.cpu.cpu().gpr[0] & 0xff, 7);
    assert_eq!(bench.cpu.cpu().rip, CODE + 9);
}

#[test]
fn rewritten_code_runs_anew_when_entered_again() {
    let mut bench = bench(&[0xb0, 1, 0x0f, 0x0b]);
    assert_eq!(run(&mut bench), 6);
    assert_eq!(bench.cpu.cpu().gpr[0] & 0xff, 1);
    bench.ram.write(CODE_PHYS + 1, &[9]);
    bench.cpu.cpu().set_rip(CODE);
    assert_eq!(run(&mut bench), 6);
    assert_eq!(bench.cpu.cpu().gpr[0] & 0xff, 9);
}

#[test]
fn instruction_across_two_pages_is_whole_and_follows_changes_of_both() {
    let mut bench = bench(&[]);
    // mov eax, 0x04030201 with two bytes in the first data page; ud2
    bench.ram.write(DATA_PHYS + 0xffe, &[0xb8, 1, 2, 3, 4, 0x0f, 0x0b]);
    for (at, byte, wanted) in [(0xfff, 1, 0x0403_0201), (0xfff, 0x11, 0x0403_0211), (0x1002, 0x44, 0x4403_0211)] {
        bench.ram.write(DATA_PHYS + at, &[byte]);
        bench.cpu.cpu().set_rip(DATA + 0xffe);
        assert_eq!(run(&mut bench), 6);
        assert_eq!(bench.cpu.cpu().gpr[0], wanted);
    }
}

/// The push looks whether it meets code, between the moment the target is read and the jump to it.
#[test]
fn indirect_call_with_its_stack_in_the_code_page_goes_to_its_target() {
    const TURNS: u64 = 1000;
    const FUNCTION: u64 = CODE + 0x40;
    // call rax; dec ecx; jnz to the start; ud2. The same with call [rsi] and with call r14.
    let loops: [&[u8]; 3] = [
        &[0xff, 0xd0, 0xff, 0xc9, 0x75, 0xfa, 0x0f, 0x0b],
        &[0xff, 0x16, 0xff, 0xc9, 0x75, 0xfa, 0x0f, 0x0b],
        &[0x41, 0xff, 0xd6, 0xff, 0xc9, 0x75, 0xf9, 0x0f, 0x0b],
    ];
    for code in loops {
        let mut bench = bench(code);
        // inc edx; ret
        bench.ram.write(CODE_PHYS + 0x40, &[0xff, 0xc2, 0xc3]);
        bench.ram.store_u64(DATA_PHYS, FUNCTION);
        let cpu = bench.cpu.cpu();
        (cpu.gpr[0], cpu.gpr[14], cpu.gpr[6]) = (FUNCTION, FUNCTION, DATA);
        (cpu.gpr[1], cpu.gpr[2]) = (TURNS, 0);
        // No code is in this line, but there is some in its page.
        cpu.gpr[4] = CODE + 0x800;
        assert_eq!(run(&mut bench), 6, "{code:02x?}");
        let cpu = bench.cpu.cpu();
        assert_eq!((cpu.gpr[1], cpu.gpr[2], cpu.gpr[4]), (0, TURNS, CODE + 0x800), "{code:02x?}");
        assert!(bench.cpu.translator_stats().is_some_and(|stats| stats.translations > 0), "{code:02x?}");
    }
}

#[test]
fn sixteen_prefixes_raise_a_protection_fault() {
    let mut bench = bench(&[0x66; 16]);
    assert_eq!(run(&mut bench), 13);
    assert_eq!(bench.cpu.cpu().rip, CODE);
}

#[test]
fn code_that_runs_into_an_absent_page_faults_at_its_first_byte() {
    let mut bench = bench(&[]);
    // The page after the data is absent: nop; mov eax, imm32 that lacks its last byte.
    bench.ram.write(DATA_PHYS + 0x1ffb, &[0x90, 0xb8, 1, 2, 3]);
    bench.cpu.cpu().set_rip(DATA + 0x1ffb);
    assert_eq!(run(&mut bench), 14);
    assert_eq!(bench.cpu.cpu().rip, DATA + 0x1ffc);
    assert_eq!(bench.cpu.cpu().fault_address, DATA + 0x2000);
}

#[test]
fn repeated_store_over_its_own_code_ends_and_the_new_code_runs() {
    // rep stosb over what follows; then NOPs and UD2.
    let mut bench = bench(&[0xf3, 0xaa, 0xcc, 0xcc, 0xcc, 0xcc, 0x0f, 0x0b]);
    let cpu = bench.cpu.cpu();
    cpu.gpr[0] = 0x90;
    cpu.gpr[1] = 4;
    cpu.gpr[7] = CODE + 2;
    assert_eq!(run(&mut bench), 6);
    assert_eq!(bench.cpu.cpu().rip, CODE + 6);
}

#[test]
fn one_instruction_stops_after_each() {
    let mut bench = bench(&[0xff, 0xc0, 0xff, 0xc0, 0x0f, 0x0b]);
    let cpu = bench.cpu.cpu();
    cpu.one_instruction = true;
    assert_eq!(cpu.exec_blocks(), BlockExit::StepDone);
    assert_eq!((cpu.gpr[0], cpu.rip), (1, CODE + 2));
    assert_eq!(cpu.exec_blocks(), BlockExit::StepDone);
    assert_eq!((cpu.gpr[0], cpu.rip), (2, CODE + 4));
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<String>>>);

impl TraceSink for Sink {
    fn follows_blocks(&self) -> bool {
        true
    }

    fn translated(&mut self, linear: u64, bytes: &[u8], bits: u8) {
        self.0.lock().expect("sink").push(format!("in {linear:x} {bytes:02x?} {bits}"));
    }

    fn entered(&mut self, linear: u64, _gpr: &[u64; 16]) {
        self.0.lock().expect("sink").push(format!("run {linear:x}"));
    }

    fn interrupt(&mut self, interrupt: &Interruption) {
        self.0.lock().expect("sink").push(format!("interrupt {}", interrupt.vector));
    }
}

#[test]
fn trace_sees_decoding_once_and_every_entry() {
    // dec ecx; jnz to the start; ud2
    let mut bench = bench(&[0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x0b]);
    let sink = Sink::default();
    let cpu = bench.cpu.cpu();
    cpu.set_trace(Some(Box::new(sink.clone())));
    cpu.gpr[1] = 2;
    assert_eq!(run(&mut bench), 6);
    let lines = sink.0.lock().expect("sink").clone();
    let expected = [
        format!("in {CODE:x} [ff, c9, 75, fc] 64"),
        format!("run {CODE:x}"),
        format!("run {CODE:x}"),
        format!("in {:x} [0f, 0b] 64", CODE + 4),
        format!("run {:x}", CODE + 4),
    ];
    assert_eq!(lines, expected);
}
