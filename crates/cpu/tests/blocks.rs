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

/// A function that adds `addend` `times` times, with jumps whose flags matter on one way only; then it returns.
fn adder(addend: u8, times: u8) -> Vec<u8> {
    let mut code = vec![0x31, 0xc0, 0xb9, times, 0, 0, 0]; // xor eax, eax; mov ecx, times
    code.extend([0x83, 0xc0, addend]); // add eax, addend
    code.extend([0x78, 0x02, 0xff, 0xc2]); // js +2; inc edx
    code.extend([0x48, 0x01, 0xc6]); // add rsi, rax
    code.extend([0xff, 0xc9, 0x75, 0xf2]); // dec ecx; jnz back to the addition
    code.push(0xc3);
    code
}

#[test]
fn functions_rewritten_again_and_again_are_translated_and_do_what_they_say() {
    // loop: call the function in the second page; dec rbx; jnz loop; ud2
    let mut caller = vec![0xe8];
    caller.extend(((DATA - CODE - 5) as u32).to_le_bytes());
    caller.extend([0x48, 0xff, 0xcb, 0x75, 0xf6, 0x0f, 0x0b]);
    let mut bench = bench(&caller);
    bench.ram.store_u64(0x4000 + 0x156 * 8, (DATA_PHYS + 0x1000) as u64 | 7);
    for round in 0..60u8 {
        let (addend, times) = (round % 100 + 1, round % 7 + 1);
        bench.ram.write(DATA_PHYS, &adder(addend, times));
        bench.signals.raise(accel::Signal::CODE);
        let cpu = bench.cpu.cpu();
        cpu.signal_mask = accel::Signal::CODE.0;
        (cpu.gpr[3], cpu.gpr[4], cpu.gpr[2], cpu.gpr[6]) = (100, DATA + 0x2000, 0, 0);
        cpu.set_rip(CODE);
        assert_eq!(run(&mut bench), 6, "round {round}");
        let (addend, times) = (u64::from(addend), u64::from(times));
        let cpu = bench.cpu.cpu();
        assert_eq!(cpu.gpr[0], addend * times, "round {round}");
        assert_eq!(cpu.gpr[2], 100 * times, "round {round}");
        assert_eq!(cpu.gpr[6], 100 * addend * times * (times + 1) / 2, "round {round}");
        assert_eq!((cpu.rip, cpu.gpr[4]), (CODE + 10, DATA + 0x2000), "round {round}");
    }
    let stats = bench.cpu.translator_stats().expect("translated");
    assert!(stats.translations >= 50, "{stats:?}");
}

#[test]
fn code_that_is_rewritten_before_it_is_hot_is_interpreted() {
    let mut bench = bench(&[]);
    for round in 0..400u32 {
        // mov eax, round; ud2
        let mut code = vec![0xb8];
        code.extend(round.to_le_bytes());
        code.extend([0x0f, 0x0b]);
        bench.ram.write(CODE_PHYS, &code);
        for _ in 0..3 {
            bench.cpu.cpu().set_rip(CODE);
            assert_eq!(run(&mut bench), 6);
            assert_eq!(bench.cpu.cpu().gpr[0], u64::from(round));
        }
    }
    assert!(bench.cpu.translator_stats().is_none_or(|stats| stats.translations == 0));
}

#[test]
fn string_copy_over_pages_that_lie_together_stops_where_the_next_is_missing() {
    // rep movsb; ud2
    let mut bench = bench(&[0xf3, 0xa4, 0x0f, 0x0b]);
    let from: Vec<u8> = (0..0x2000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let target = 0x4_0000;
    // Eight source pages at 0x1236_0000, seven target pages at 0x1237_0000, which follow one another in RAM.
    for page in 0..8 {
        bench.ram.store_u64(0x4000 + (0x160 + page) * 8, (0x2_0000 + page * 0x1000) as u64 | 7);
        bench.ram.write(0x2_0000 + page * 0x1000, &from[(page & 1) * 0x1000..][..0x1000]);
    }
    for page in 0..7 {
        bench.ram.store_u64(0x4000 + (0x170 + page) * 8, (target + page * 0x1000) as u64 | 7);
    }
    for _ in 0..3 {
        let cpu = bench.cpu.cpu();
        (cpu.gpr[1], cpu.gpr[6], cpu.gpr[7]) = (0x8000 - 0x10, 0x1236_0010, 0x1237_0010);
        cpu.set_rip(CODE);
        assert_eq!(run(&mut bench), 14);
        let cpu = bench.cpu.cpu();
        assert_eq!((cpu.gpr[1], cpu.gpr[6], cpu.gpr[7]), (0x1000, 0x1236_7000, 0x1237_7000));
        assert_eq!(cpu.rip, CODE);
    }
    for page in 0..7 {
        let mut copy = [0; 0x1000];
        bench.ram.read(target + page * 0x1000, &mut copy);
        let start = if page == 0 { 0x10 } else { 0 };
        assert_eq!(copy[start..], from[(page & 1) * 0x1000..][start..0x1000], "page {page}");
    }
}

#[test]
fn string_copy_over_pages_notices_code_in_the_last_of_them() {
    // rep stosb; ud2
    let mut bench = bench(&[0xf3, 0xaa, 0x0f, 0x0b]);
    for page in 0..4 {
        bench.ram.store_u64(0x4000 + (0x170 + page) * 8, (0x4_0000 + page * 0x1000) as u64 | 7);
    }
    // A function in the last page is run, so that it is decoded: mov al, 5; ud2
    bench.ram.write(0x4_3000 + 0x20, &[0xb0, 5, 0x0f, 0x0b]);
    bench.cpu.cpu().set_rip(0x1237_3020);
    assert_eq!(run(&mut bench), 6);
    // The second time all pages are in the TLB.
    for (round, fill) in [0x90u8, 0xcc].into_iter().enumerate() {
        let cpu = bench.cpu.cpu();
        (cpu.gpr[0], cpu.gpr[1], cpu.gpr[7]) = (u64::from(fill), 0x3800, 0x1237_0000);
        cpu.set_rip(CODE);
        assert_eq!(run(&mut bench), 6);
        bench.cpu.cpu().set_rip(0x1237_3020);
        // INT3 is vector 3; the row of NOPs ends in what is left of the page, zeros: add [rax], al.
        assert_eq!(run(&mut bench), if round == 0 { 14 } else { 3 }, "round {round}");
    }
}
