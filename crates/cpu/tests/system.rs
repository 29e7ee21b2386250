//! Machine code that exercises modes, interrupts, debugging, virtual-8086 mode, gates and tasks.

mod bench;

use accel::{Signal, Vcpu, VcpuExit};
use bench::*;
use x86::regs::{Registers, SegmentRegister, rflags};

const HANDLER: u64 = 0x8_1000;
const HANDLER2: u64 = 0x8_2000;
const CS: usize = SegmentRegister::Cs as usize;
const SS: usize = SegmentRegister::Ss as usize;
const HLT: u8 = 0xf4;

fn cpl(registers: &Registers) -> u16 {
    registers.segments[CS].selector & 3
}

/// `hlt`, and far away enough `ud2`s that running on is seen.
fn halt_at(bench: &Bench, at: u64) {
    bench.put(at, &[HLT, 0x0f, 0x0b]);
}

#[test]
fn reset_state_starts_at_the_top_of_the_first_four_gigabytes() {
    let mut bench = Bench::new();
    let registers = bench.cpu.registers();
    assert_eq!((registers.rip, registers.segments[CS].base), (0xfff0, 0xffff_0000));
    assert_eq!((registers.rflags, registers.cr0), (2, 0x6000_0010));
    assert_eq!((registers.debug[6], registers.debug[7]), (0xffff_0ff0, 0x400));
    assert_eq!(registers.segments[SegmentRegister::Ds as usize].limit, 0xffff);
}

#[test]
fn real_mode_switches_to_protected_and_long_mode() {
    let mut bench = Bench::new();
    let _prepares_tables = long(&bench, 0);
    // GDTR image for LGDT.
    bench.put16(0x600, 0x5f);
    bench.put32(0x602, GDT as u32);
    let mut real = bench.cpu.registers();
    real.segments[CS].selector = 0;
    real.segments[CS].base = 0;
    real.rip = 0x7c00;
    bench.put(
        0x7c00,
        &[
            0x0f, 0x01, 0x16, 0x00, 0x06, // lgdt [0x600]
            0x0f, 0x20, 0xc0, // mov eax, cr0
            0x0c, 0x01, // or al, 1
            0x0f, 0x22, 0xc0, // mov cr0, eax
            0x66, 0xea, 0x20, 0x7c, 0x00, 0x00, 0x08, 0x00, // jmp dword 8:0x7c20
        ],
    );
    bench.put(
        0x7c20,
        &[
            0xb8, 0x10, 0, 0, 0, // mov eax, 0x10
            0x8e, 0xd0, // mov ss, eax
            0xbc, 0x00, 0x90, 0, 0, // mov esp, 0x9000
            0xb8, 0x20, 0, 0, 0, // mov eax, CR4.PAE
            0x0f, 0x22, 0xe0, // mov cr4, eax
            0xb8, 0x00, 0x00, 0x10, 0x00, // mov eax, PML4
            0x0f, 0x22, 0xd8, // mov cr3, eax
            0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, EFER
            0x0f, 0x32, // rdmsr
            0x0d, 0x00, 0x01, 0, 0, // or eax, LME
            0x0f, 0x30, // wrmsr
            0x0f, 0x20, 0xc0, // mov eax, cr0
            0x0d, 0, 0, 0, 0x80, // or eax, PG
            0x0f, 0x22, 0xc0, // mov cr0, eax
            0xea, 0x00, 0x7d, 0, 0, 0x40, 0x00, // jmp 0x40:0x7d00
        ],
    );
    bench.put(
        0x7d00,
        &[
            0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8,    // mov rax, imm64
            0x50, // push rax
            0x49, 0x89, 0xc7, // mov r15, rax
            HLT,
        ],
    );
    bench.set(&real);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[15], 0x0807_0605_0403_0201);
    assert_eq!(end.gpr[4], 0x8ff8);
    assert_eq!(bench.get64(0x8ff8), 0x0807_0605_0403_0201);
    assert_eq!(end.efer & EFER_LONG, EFER_LONG);
    assert_eq!((end.segments[CS].selector, end.rip), (0x40, 0x7d0f));
}

#[test]
fn real_mode_interrupt_pushes_six_bytes_and_returns() {
    let mut bench = Bench::new();
    let mut real = bench.cpu.registers();
    real.segments[CS].selector = 0x700;
    real.segments[CS].base = 0x7000;
    real.rip = 0x100;
    real.gpr[4] = 0x8000;
    real.rflags |= rflags::IF | rflags::CF;
    bench.put(0x7100, &[0xcd, 0x21, HLT]);
    bench.put16(0x84, 0x0200);
    bench.put16(0x86, 0x0700);
    // pushf; pop bx; iret
    bench.put(0x7200, &[0x9c, 0x5b, 0xcf]);
    bench.set(&real);
    let end = bench.run_to_halt();
    assert_eq!((bench.get16(0x7ffa), bench.get16(0x7ffc), bench.get16(0x7ffe)), (0x102, 0x700, 0x203));
    assert_eq!(end.gpr[3], 0x003, "IF and TF are clear in the handler");
    assert_eq!((end.rip, end.gpr[4], end.rflags), (0x103, 0x8000, 0x203));
}

#[test]
fn long_mode_int_changes_privilege_and_iretq_returns() {
    let mut bench = Bench::new();
    let registers = long(&bench, 3);
    set_gate64(&bench, 0x80, HANDLER, 3, 0);
    set_gate64(&bench, 13, HANDLER2, 0, 0);
    // int 0x80; hlt (which is #GP at level 3)
    bench.put(CODE, &[0xcd, 0x80, HLT]);
    // mov rbx, rsp; mov dx, ss; mov cx, cs; iretq
    bench.put(HANDLER, &[0x48, 0x89, 0xe3, 0x66, 0x8c, 0xd2, 0x66, 0x8c, 0xc9, 0x48, 0xcf]);
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[3], KERNEL_STACK - 40);
    assert_eq!(end.gpr[1] & 0xffff, u64::from(sel::CODE_LONG));
    assert_eq!(end.gpr[2] & 0xffff, 0, "SS is null in the handler");
    // What #GP(0) of HLT pushed: error code, RIP, CS, RFLAGS with RF, RSP, SS.
    assert_eq!(bench.get64(KERNEL_STACK - 48), 0);
    assert_eq!(bench.get64(KERNEL_STACK - 40), CODE + 2);
    assert_eq!(bench.get64(KERNEL_STACK - 32), u64::from(sel::USER_CODE_LONG));
    assert_eq!(bench.get64(KERNEL_STACK - 24), 2 | rflags::RF);
    assert_eq!(bench.get64(KERNEL_STACK - 16), USER_STACK);
    assert_eq!(bench.get64(KERNEL_STACK - 8), u64::from(sel::USER_DATA));
    assert_eq!(cpl(&end), 0);
}

#[test]
fn int_through_a_privileged_gate_is_general_protection() {
    let mut bench = Bench::new();
    let registers = long(&bench, 3);
    set_gate64(&bench, 0x80, HANDLER, 0, 0);
    set_gate64(&bench, 13, HANDLER2, 0, 0);
    bench.put(CODE, &[0xcd, 0x80]);
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    bench.run_to_halt();
    assert_eq!(bench.get64(KERNEL_STACK - 48), 0x80 << 3 | 2);
    assert_eq!(bench.get64(KERNEL_STACK - 40), CODE, "a fault of the INT");
}

#[test]
fn interrupt_stack_table_is_used_without_a_privilege_change() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.put64(TSS + 0x24 + 16, 0xd000);
    set_gate64(&bench, 6, HANDLER, 0, 3);
    bench.put(CODE, &[0x0f, 0x0b]);
    halt_at(&bench, HANDLER);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[4], 0xd000 - 40);
    assert_eq!(bench.get64(0xd000 - 16), KERNEL_STACK);
}

#[test]
fn page_fault_reports_address_and_error_code_and_restarts() {
    let mut bench = Bench::new();
    let registers = long(&bench, 3);
    set_gate64(&bench, 14, HANDLER, 0, 0);
    set_gate64(&bench, 13, HANDLER2, 0, 0);
    bench.put64(PD + 24, 0);
    bench.put(
        CODE,
        &[
            0xc7, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00, 0x78, 0x56, 0x34, 0x12, // mov dword [0x600010], 0x12345678
            HLT,
        ],
    );
    bench.put(
        HANDLER,
        &[
            0x5b, // pop rbx
            0x0f, 0x20, 0xd1, // mov rcx, cr2
            0x48, 0xc7, 0x04, 0x25, 0x18, 0x20, 0x10, 0x00, 0x87, 0x00, 0x60,
            0x00, // mov qword [PD + 24], 0x600087
            0x48, 0xcf, // iretq
        ],
    );
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[3], end.gpr[1], end.cr2), (6, 0x60_0010, 0x60_0010));
    assert_eq!(bench.get32(0x60_0010), 0x1234_5678);
}

#[test]
fn single_step_traps_after_each_instruction() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    registers.rflags |= rflags::TF;
    set_gate64(&bench, 1, HANDLER, 0, 0);
    set_gate64(&bench, 6, HANDLER2, 0, 0);
    halt_at(&bench, HANDLER2);
    // nop; mov ss, ax; nop; nop; ud2
    registers.gpr[0] = u64::from(sel::DATA);
    bench.put(CODE, &[0x90, 0x8e, 0xd0, 0x90, 0x90, 0x0f, 0x0b]);
    bench.put(
        HANDLER,
        &[
            0x48, 0x8b, 0x04, 0x24, // mov rax, [rsp]
            0x4a, 0x89, 0x04, 0xfd, 0x00, 0xe0, 0x00, 0x00, // mov [r15*8 + 0xe000], rax
            0x49, 0xff, 0xc7, // inc r15
            0xb8, 0x10, 0, 0, 0, // mov eax, 0x10
            0x48, 0xcf, // iretq
        ],
    );
    bench.set(&registers);
    let end = bench.run_to_halt();
    let stops: Vec<u64> = (0..end.gpr[15]).map(|index| bench.get64(0xe000 + 8 * index) - CODE).collect();
    // No trap right after MOV SS, none for an instruction that faults.
    assert_eq!(stops, [1, 4, 5]);
    assert_eq!(end.debug[6] & 0x4000, 0x4000);
}

#[test]
fn instruction_breakpoint_faults_once_with_rf() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    registers.debug[0] = CODE + 1;
    registers.debug[7] = 0x401;
    set_gate64(&bench, 1, HANDLER, 0, 0);
    bench.put(CODE, &[0x90, 0x90, HLT]);
    bench.put(
        HANDLER,
        &[
            0x49, 0xff, 0xc7, // inc r15
            0x4c, 0x8b, 0x34, 0x24, // mov r14, [rsp]
            0x81, 0x4c, 0x24, 0x10, 0, 0, 1, 0, // or dword [rsp + 16], RF
            0x48, 0xcf, // iretq
        ],
    );
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[15], end.gpr[14]), (1, CODE + 1));
    assert_eq!(end.debug[6] & 0xf, 1);
    assert_eq!(end.rflags & rflags::RF, 0);
}

#[test]
fn data_breakpoint_traps_after_the_store() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    registers.debug[1] = 0xe004;
    // Write, 4 bytes, breakpoint 1.
    registers.debug[7] = 0x400 | 4 | 0xd << 20;
    registers.gpr[0] = 7;
    set_gate64(&bench, 1, HANDLER, 0, 0);
    bench.put(
        CODE,
        &[
            0x88, 0x04, 0x25, 0x03, 0xe0, 0, 0, // mov [0xe003], al
            0x8b, 0x0c, 0x25, 0x04, 0xe0, 0, 0, // mov ecx, [0xe004]
            0x88, 0x04, 0x25, 0x07, 0xe0, 0, 0, // mov [0xe007], al
            HLT,
        ],
    );
    // inc r15; mov r14, [rsp]; iretq
    bench.put(HANDLER, &[0x49, 0xff, 0xc7, 0x4c, 0x8b, 0x34, 0x24, 0x48, 0xcf]);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[15], end.gpr[14]), (1, CODE + 21));
    assert_eq!(end.debug[6] & 0xf, 2);
    assert_eq!(bench.get32(0xe004), 0x0700_0000);
}

/// MOV SS from watched memory and an instruction after it, which has a breakpoint too: the calls of the handler of #DB,
/// where the first came from, and B0 to B3.
fn debug_traps_after_mov_ss(next: &[u8]) -> (u64, u64, u64) {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    (registers.debug[0], registers.debug[1]) = (CODE + 7, 0xe000);
    // Breakpoint 0: execution. Breakpoint 1: reads and writes of two bytes.
    registers.debug[7] = 0x400 | 2 | 8 | 7 << 20;
    set_gate64(&bench, 1, HANDLER, 0, 0);
    bench.ram.store_u64(0xe000, u64::from(sel::DATA));
    // mov ss, [0xe000]
    bench.put(CODE, &[&[0x8e, 0x14, 0x25, 0x00, 0xe0, 0, 0], next, &[HLT]].concat());
    bench.put(
        HANDLER,
        &[
            0x4d, 0x85, 0xff, // test r15, r15
            0x75, 4, // jnz
            0x4c, 0x8b, 0x34, 0x24, // mov r14, [rsp]
            0x49, 0xff, 0xc7, // inc r15
            0x48, 0xcf, // iretq
        ],
    );
    bench.set(&registers);
    let end = bench.run_to_halt();
    (end.gpr[15], end.gpr[14] - CODE, end.debug[6] & 0xf)
}

#[test]
fn breakpoint_after_mov_ss_is_passed_over_and_the_watched_read_traps_behind_it() {
    assert_eq!(debug_traps_after_mov_ss(&[0x90]), (1, 8, 2));
}

#[test]
fn watched_read_of_mov_ss_traps_together_with_icebp_and_apart_from_int_1() {
    assert_eq!(debug_traps_after_mov_ss(&[0xf1]), (1, 8, 2));
    let (calls, first, bits) = debug_traps_after_mov_ss(&[0xcd, 1]);
    assert_eq!((calls, bits), (2, 2));
    // The trap comes at the first instruction of the interrupt's handler, and is through before it.
    assert_eq!(CODE + first, HANDLER);
}

#[test]
fn virtual_8086_program_traps_to_its_monitor() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    set_gate32(&bench, 13, HANDLER, 0);
    // The frame of IRETD to V86: EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS.
    let frame = [0x10, 0x2000, 0x2_0202, 0x1000, 0x3000, 0x111, 0x4000, 0x333, 0x444];
    registers.gpr[4] = 0x7000;
    for (index, value) in frame.into_iter().enumerate() {
        bench.put32(0x7000 + 4 * index as u64, value);
    }
    bench.put(CODE, &[0xcf]);
    // mov ax, 0x1234; mov [0x20], ax; push ax; int 0x21
    bench.put(0x2_0010, &[0xb8, 0x34, 0x12, 0xa3, 0x20, 0x00, 0x50, 0xcd, 0x21]);
    halt_at(&bench, HANDLER);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(bench.get16(0x4_0020), 0x1234);
    assert_eq!(bench.get16(0x3_0ffe), 0x1234);
    let stack: Vec<u32> = (0..10).map(|index| bench.get32(KERNEL_STACK - 40 + 4 * index)).collect();
    assert_eq!(stack[..3], [0, 0x17, 0x2000], "error code, EIP of INT, CS");
    assert_eq!(stack[3], 0x3_0202);
    assert_eq!(stack[4..], [0xffe, 0x3000, 0x111, 0x4000, 0x333, 0x444]);
    assert_eq!(end.gpr[4], KERNEL_STACK - 40);
    assert_eq!((cpl(&end), end.rflags & rflags::VM), (0, 0));
    assert_eq!(end.segments[SegmentRegister::Ds as usize].selector, 0);
}

#[test]
fn call_gate_copies_parameters_and_far_return_releases_them() {
    let mut bench = Bench::new();
    let registers = protected(&bench, 3);
    bench.put64(GDT + u64::from(sel::GATE), gate(sel::CODE, HANDLER as u32, 0xec, 2));
    set_gate32(&bench, 13, HANDLER2, 0);
    bench.put(
        CODE,
        &[
            0x6a, 0x11, // push 0x11
            0x6a, 0x22, // push 0x22
            0x9a, 0, 0, 0, 0, 0x3b, 0x00, // call 0x3b:0
            0x89, 0xe6, // mov esi, esp
            HLT,
        ],
    );
    bench.put(
        HANDLER,
        &[
            0x8b, 0x44, 0x24, 0x08, // mov eax, [esp + 8]
            0x8b, 0x5c, 0x24, 0x0c, // mov ebx, [esp + 12]
            0x89, 0xe1, // mov ecx, esp
            0xca, 0x08, 0x00, // retf 8
        ],
    );
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[0], end.gpr[3]), (0x22, 0x11));
    assert_eq!(end.gpr[1], KERNEL_STACK - 24);
    assert_eq!(end.gpr[6], USER_STACK, "the outer stack lost its parameters too");
}

#[test]
fn jump_to_inner_code_and_loads_of_bad_segments_fault_with_the_selector() {
    // Each: code at level 3, vector, error code.
    let cases: [(&[u8], u8, u32); 6] = [
        (&[0xea, 0, 0, 8, 0, 0x08, 0], 13, 0x08),            // jmp to level 0 code
        (&[0xb8, 0x10, 0, 0, 0, 0x8e, 0xd8], 13, 0x10),      // mov ds, level 0 data
        (&[0xb8, 0x13, 0, 0, 0, 0x8e, 0xd0], 13, 0x10),      // mov ss, level 0 data
        (&[0x31, 0xc0, 0x8e, 0xd0], 13, 0),                  // mov ss, null
        (&[0xb8, 0xfb, 0xff, 0, 0, 0x8e, 0xd8], 13, 0xfff8), // mov ds, beyond the table
        (&[0xb8, 0x3b, 0, 0, 0, 0x8e, 0xd8], 11, 0x38),      // mov ds, not present
    ];
    for (code, vector, error) in cases {
        let mut bench = Bench::new();
        let registers = protected(&bench, 3);
        bench.put64(GDT + 0x38, USER_DATA & !(0x80 << 40));
        set_gate32(&bench, vector, HANDLER, 0);
        bench.put(CODE, code);
        halt_at(&bench, HANDLER);
        bench.set(&registers);
        bench.run_to_halt();
        assert_eq!(bench.get32(KERNEL_STACK - 24), error, "{code:x?}");
    }
}

#[test]
fn segment_limit_violation_faults_and_expand_down_inverts_it() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    let small = descriptor(0x5000, 0xff, 0x93, 4);
    let down = descriptor(0, 0xfff, 0x97, 4);
    registers.segments[SegmentRegister::Ds as usize] = segment(0x10, small);
    registers.segments[SegmentRegister::Es as usize] = segment(0x10, down);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    assert!(cpu.write_seg::<u32>(SegmentRegister::Ds, 0xfc, 1).is_ok());
    let fault = cpu.write_seg::<u32>(SegmentRegister::Ds, 0xfd, 1).expect_err("fault");
    assert_eq!((fault.vector(), fault.error_code()), (13, Some(0)));
    assert!(cpu.read_seg::<u8>(SegmentRegister::Es, 0xfff).is_err());
    assert!(cpu.read_seg::<u8>(SegmentRegister::Es, 0x1000).is_ok());
    assert!(cpu.write_seg::<u8>(SegmentRegister::Cs, 0, 0).is_err());
    assert_eq!(bench.get32(0x50fc), 1);
}

fn second_task(bench: &Bench, entry: u64) {
    bench.put32(TSS2 + 0x20, entry as u32);
    bench.put32(TSS2 + 0x24, 2);
    bench.put32(TSS2 + 0x28 + 16, 0xc000);
    for (index, selector) in [sel::DATA, sel::CODE, sel::DATA, sel::DATA, 0, 0].into_iter().enumerate() {
        bench.put16(TSS2 + 0x48 + 4 * index as u64, selector);
    }
}

#[test]
fn double_fault_goes_through_a_task_gate() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    second_task(&bench, HANDLER);
    bench.put64(IDT + 8 * 8, gate(sel::TSS2, 0, 0x85, 0));
    // No gate for #UD: not a system descriptor with a known type, so #GP, whose gate is missing too.
    bench.put(CODE, &[0x0f, 0x0b]);
    registers.gpr[0] = 0x77;
    bench.put(HANDLER, &[0x58, HLT]); // pop eax; hlt
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[0], 0, "the error code");
    assert_eq!(end.gpr[4], 0xc000);
    assert_eq!(end.tr.selector, sel::TSS2);
    assert_eq!(bench.get32(TSS + 0x20), CODE as u32);
    assert_eq!(bench.get32(TSS + 0x28), 0x77);
    assert_eq!(bench.get16(TSS2), sel::TSS);
    assert_ne!(end.rflags & rflags::NT, 0);
    assert_eq!(bench.get64(GDT + 0x30) >> 40 & 0xf, 0xb, "busy");
    assert_eq!(end.cr0 & 8, 8, "TS");
}

#[test]
fn nested_task_returns_by_iret() {
    let mut bench = Bench::new();
    let registers = protected(&bench, 0);
    second_task(&bench, HANDLER);
    bench.put(CODE, &[0x9a, 0, 0, 0, 0, 0x30, 0, HLT]); // call 0x30:0; hlt
    bench.put(HANDLER, &[0xb8, 5, 0, 0, 0, 0xcf, 0xeb, 0xfe]); // mov eax, 5; iretd
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.rip, end.tr.selector), (CODE + 8, sel::TSS));
    assert_eq!(end.rflags & rflags::NT, 0);
    assert_eq!(bench.get64(GDT + 0x30) >> 40 & 0xf, 9, "available again");
    assert_eq!(bench.get64(GDT + 0x28) >> 40 & 0xf, 0xb, "still busy");
    assert_eq!((bench.get32(TSS2 + 0x28), bench.get32(TSS2 + 0x20)), (5, HANDLER as u32 + 6));
}

#[test]
fn missing_handlers_end_in_shutdown() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    registers.idtr.limit = 0;
    bench.put(CODE, &[0x0f, 0x0b]);
    bench.set(&registers);
    assert_eq!(bench.cpu.run(), VcpuExit::Shutdown);
    assert_eq!(bench.cpu.run(), VcpuExit::Shutdown, "only a reset ends it");
}

#[test]
fn page_fault_on_the_page_fault_handlers_stack_is_a_double_fault() {
    let mut bench = Bench::new();
    let registers = long(&bench, 3);
    bench.put64(TSS + 4, 0xf000_0000);
    bench.put64(TSS + 0x24, 0xd000);
    set_gate64(&bench, 14, HANDLER2, 0, 0);
    set_gate64(&bench, 8, HANDLER, 0, 1);
    bench.put64(PD + 24, 0);
    bench.put(CODE, &[0x8b, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00]); // mov eax, [0x600000]
    halt_at(&bench, HANDLER);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[4], 0xd000 - 48);
    assert_eq!(bench.get64(0xd000 - 48), 0);
    assert_eq!(bench.get64(0xd000 - 40), CODE);
    assert_eq!(end.cr2, 0xf000_0000 - 8);
}

#[test]
fn interrupt_waits_for_the_instruction_after_sti_and_ends_halt() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    set_gate64(&bench, 0x30, HANDLER, 0, 0);
    // sti; nop; hlt
    bench.put(CODE, &[0xfb, 0x90, HLT]);
    bench.put(HANDLER, &[0x4c, 0x8b, 0x34, 0x24, HLT]); // mov r14, [rsp]; hlt
    bench.set(&registers);
    *bench.apic.vector.lock().expect("vector") = Some(0x30);
    bench.signals.raise(Signal::INTR);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[14], CODE + 2);
    assert_eq!(end.rflags & rflags::IF, 0);
}

#[test]
fn nmi_is_blocked_until_iret() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    set_gate64(&bench, 2, HANDLER, 0, 0);
    bench.put(CODE, &[HLT, HLT]);
    // inc r15; hlt; iretq
    bench.put(HANDLER, &[0x49, 0xff, 0xc7, HLT, 0x48, 0xcf]);
    bench.set(&registers);
    bench.signals.raise(Signal::NMI);
    assert_eq!(bench.run_to_halt().gpr[15], 1);
    bench.signals.raise(Signal::NMI);
    assert_eq!(bench.run_to_halt().gpr[15], 1, "still in the handler");
    // An interrupt ends the HLT in the handler.
    set_gate64(&bench, 0x30, HANDLER2, 0, 0);
    bench.put(HANDLER2, &[0x48, 0xcf]);
    let mut now = bench.cpu.registers();
    now.activity = x86::regs::Activity::Running;
    bench.set(&now);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[15], 2, "IRET let the second NMI in");
}

#[test]
fn syscall_and_sysret_switch_levels() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 3);
    registers.efer |= 1;
    registers.msrs = vec![
        (0xc000_0081, (u64::from(sel::USER_CODE_LONG) - 16) << 48 | u64::from(sel::CODE_LONG) << 32),
        (0xc000_0082, HANDLER),
        (0xc000_0084, rflags::CF | rflags::IF),
    ];
    registers.rflags |= rflags::CF;
    set_gate64(&bench, 13, HANDLER2, 0, 0);
    bench.put(CODE, &[0x0f, 0x05, HLT]);
    // mov r14, rcx; mov r13, r11; setc bl; sysretq
    bench.put(HANDLER, &[0x49, 0x89, 0xce, 0x4d, 0x89, 0xdd, 0x0f, 0x92, 0xc3, 0x48, 0x0f, 0x07]);
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[14], end.gpr[13], end.gpr[3] & 0xff), (CODE + 2, 3, 0));
    assert_eq!(bench.get64(KERNEL_STACK - 40), CODE + 2, "#GP of HLT at level 3");
    assert_eq!(bench.get64(KERNEL_STACK - 32), u64::from(sel::USER_CODE_LONG));
    assert_eq!(bench.get64(KERNEL_STACK - 24) & rflags::CF, 1);
    assert_eq!(end.segments[SS].selector, 0);
}

#[test]
fn sysenter_and_sysexit_switch_levels() {
    let mut bench = Bench::with_model("Skylake-Client");
    let mut registers = protected(&bench, 3);
    registers.msrs = vec![(0x174, 8), (0x175, KERNEL_STACK), (0x176, HANDLER)];
    registers.gpr[1] = USER_STACK - 16;
    registers.gpr[2] = CODE + 0x10;
    set_gate32(&bench, 13, HANDLER2, 0);
    bench.put(CODE, &[0x0f, 0x34]);
    bench.put(CODE + 0x10, &[0x89, 0xe6, HLT]); // mov esi, esp; hlt
    bench.put(HANDLER, &[0x89, 0xe3, 0x0f, 0x35]); // mov ebx, esp; sysexit
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[3], end.gpr[6]), (KERNEL_STACK, USER_STACK - 16));
    assert_eq!(bench.get32(KERNEL_STACK - 20), CODE as u32 + 0x12);
    assert_eq!(bench.get32(KERNEL_STACK - 16), 0x1b);
}

#[test]
fn port_access_of_a_program_follows_the_bitmap() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 3);
    // Ports 0x80..=0x87 allowed but for 0x84.
    for index in 0..0x20 {
        bench.put16(TSS + 0x68 + 2 * index, 0xffff);
    }
    bench.put16(TSS + 0x68 + 0x10, 0xff10);
    let limit = descriptor(TSS as u32, 0xa7, 0x8b, 0);
    registers.tr = segment(sel::TSS, limit);
    set_gate32(&bench, 13, HANDLER, 0);
    // out 0x80, al; out 0x83, al; out 0x83, ax (which touches 0x84)
    bench.put(CODE, &[0xe6, 0x80, 0xe6, 0x83, 0x66, 0xe7, 0x83]);
    halt_at(&bench, HANDLER);
    registers.gpr[0] = 0x55;
    bench.set(&registers);
    bench.run_to_halt();
    assert_eq!(bench.outputs(), [(0x80, 0x55), (0x83, 0x55)]);
    assert_eq!(bench.get32(KERNEL_STACK - 20), CODE as u32 + 4);
}

#[test]
fn init_restarts_the_boot_processor_and_start_up_ipis_pass_it_by() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.set(&registers);
    bench.signals.raise(Signal::INIT);
    bench.signals.raise_sipi(0x9a);
    bench.signals.raise(Signal::STOP);
    assert_eq!(bench.cpu.run(), VcpuExit::Stopped);
    let now = bench.cpu.registers();
    assert_eq!((now.segments[CS].base, now.rip, now.cr0 & CR0_PE, now.efer), (0xffff_0000, 0xfff0, 0, 0));
}

#[test]
fn start_up_ipi_starts_a_waiting_processor() {
    let mut bench = Bench::application_processor();
    bench.put(0x9_a000, &[0x8c, 0xcb, HLT]); // mov bx, cs; hlt
    assert_eq!(bench.cpu.run(), VcpuExit::Halted, "it waits");
    assert_eq!(bench.cpu.registers().activity, x86::regs::Activity::WaitForSipi);
    bench.signals.raise_sipi(0x9a);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[3], end.rip), (0x9a00, 3));
    bench.signals.raise(Signal::INIT);
    assert_eq!(bench.cpu.run(), VcpuExit::Halted);
    bench.signals.raise_sipi(0x9a);
    assert_eq!(bench.run_to_halt().rip, 3);
}

#[test]
fn single_step_stops_in_each_iteration_of_a_string_instruction() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    registers.rflags |= rflags::TF;
    (registers.gpr[1], registers.gpr[7], registers.gpr[0]) = (3, 0xe800, 0x5a);
    set_gate64(&bench, 1, HANDLER, 0, 0);
    set_gate64(&bench, 6, HANDLER2, 0, 0);
    bench.put(CODE, &[0xf3, 0xaa, 0x0f, 0x0b]); // rep stosb; ud2
    // inc r15; add r14, [rsp]; iretq
    bench.put(HANDLER, &[0x49, 0xff, 0xc7, 0x4c, 0x03, 0x34, 0x24, 0x48, 0xcf]);
    halt_at(&bench, HANDLER2);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((end.gpr[15], end.gpr[14]), (3, 3 * CODE + 2));
    assert_eq!(bench.get32(0xe800), 0x5a_5a5a);
}

#[test]
fn programs_of_virtual_8086_mode_redirect_interrupts_under_vme() {
    let mut bench = Bench::with_model("Skylake-Client,vme=on");
    let mut registers = protected(&bench, 0);
    // Redirection map below the I/O map: all zero, so that INT goes to the 8086 vector table.
    bench.put16(TSS + 0x66, 0x88);
    registers.tr = segment(sel::TSS, descriptor(TSS as u32, 0xa7, 0x8b, 0));
    registers.cr4 = 1;
    registers.gpr[4] = 0x7000;
    set_gate32(&bench, 13, HANDLER, 0);
    halt_at(&bench, HANDLER);
    // IOPL 0, VIF set.
    let frame = [0x10, 0x2000, 0xa_0002, 0x1000, 0x3000, 0, 0, 0, 0];
    for (index, value) in frame.into_iter().enumerate() {
        bench.put32(0x7000 + 4 * index as u64, value);
    }
    bench.put32(0x21 * 4, 0x2000_0100);
    bench.put(CODE, &[0xcf]);
    bench.put(0x2_0010, &[0xcd, 0x21, 0xcd, 0x21, HLT]);
    bench.put(0x2_0100, &[0x43, 0xcf]); // inc bx; iret
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[3], 2);
    // HLT at level 3 ends in the monitor; FLAGS that the 8086 handler saw show VIF as IF, and IOPL 3.
    assert_eq!(bench.get32(KERNEL_STACK - 36), 0x14);
    assert_eq!(bench.get16(0x3_0ffe) & 0x3200, 0x3200);
    assert_ne!(bench.get32(KERNEL_STACK - 28) & 0x8_0000, 0, "IRET set VIF again");
}

#[test]
fn registers_survive_a_round_trip() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 3);
    for (index, value) in registers.gpr.iter_mut().enumerate() {
        *value = 0x1111_1111_1111_1111 * index as u64;
    }
    registers.rflags = 0x246;
    bench.set(&registers);
    let mut first = bench.cpu.registers();
    first.xsave[32] = 0x5a;
    first.xsave[160] = 0xa5;
    first.msrs.iter_mut().filter(|(msr, _)| *msr == 0x277).for_each(|(_, value)| *value = 0x0606_0606);
    bench.set(&first);
    assert_eq!(bench.cpu.registers(), first);
}

#[test]
fn time_stamp_counter_follows_the_clock_and_its_offset() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.set(&registers);
    bench.clock.step(1000);
    let cpu = bench.cpu.cpu();
    assert_eq!(cpu.rdtsc(), Ok(2000));
    cpu.wrmsr(0x10, 10_000).expect("TSC");
    assert_eq!(cpu.rdtsc(), Ok(10_000));
    bench.clock.step(1);
    assert_eq!(bench.cpu.cpu().rdtsc(), Ok(10_002));
}
