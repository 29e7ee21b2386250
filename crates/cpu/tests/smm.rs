//! System-management mode: entry, the state save maps, RSM, what is held off, and the memory that the mode sees.

mod bench;

use accel::{Signal, Vcpu, VcpuExit, VcpuReset};
use bench::*;
use x86::regs::{Activity, Registers, SegmentRegister, SystemManagement, rflags};

const CS: usize = SegmentRegister::Cs as usize;
/// Where the first handler begins.
const FIRST: u64 = 0x3_8000;
/// The map of the first SMI.
const MAP: u64 = 0x3_fe00;
/// Where the handlers' SMBASE is moved to.
const MOVED: u64 = 0x5_0000;
const RSM: [u8; 2] = [0x0f, 0xaa];
const COUNTER: u64 = 0x600;

/// A 16-bit handler that adds one to [`COUNTER`] and returns.
const COUNT: [u8; 8] = [0x66, 0xff, 0x06, 0x00, 0x06, 0x0f, 0xaa, 0xf4];

/// `mov dword cs:[0xff00], MOVED; rsm`.
const RELOCATE: [u8; 12] = [0x2e, 0x66, 0xc7, 0x06, 0x00, 0xff, 0x00, 0x00, 0x05, 0x00, 0x0f, 0xaa];

/// A write to port 0xb2 raises an SMI, as on a board.
struct CommandPort(std::sync::Arc<accel::CpuSignals>);

impl memory::Io for CommandPort {
    fn read(&self, _: u64, _: memory::AccessSize) -> u64 {
        0
    }
    fn write(&self, _: u64, _: memory::AccessSize, _: u64) {
        self.0.raise(Signal::SMI);
    }
}

/// The registers that a program must find again after an SMI: all but what SMIs themselves move.
fn comparable(mut registers: Registers) -> Registers {
    registers.msrs.clear();
    registers.smm = SystemManagement::default();
    registers
}

/// 64-bit code at [`CODE`] that halts.
fn halted_long(bench: &mut Bench) -> Registers {
    let mut registers = long(bench, 0);
    for (index, value) in registers.gpr.iter_mut().enumerate().filter(|(index, _)| *index != 4) {
        *value = 0x0111_1111_0000_0000 * (index as u64 + 1) + 0xabc;
    }
    registers.rflags |= rflags::CF | rflags::ZF | rflags::IF;
    registers.cr2 = 0x1234;
    bench.put(CODE, &[0xf4, 0xff, 0xc0, 0xf4]);
    bench.set(&registers);
    bench.run_to_halt()
}

#[test]
fn smi_saves_amd64_state_and_rsm_restores_all_of_it() {
    let mut bench = Bench::new();
    let before = halted_long(&mut bench);
    bench.put(FIRST, &RSM);
    bench.signals.raise(Signal::SMI);
    let after = bench.run_to_halt();
    assert_eq!(comparable(after), comparable(before.clone()));
    let get = |offset: u64| bench.get64(0x3_8000 + offset);
    for (index, value) in before.gpr.iter().enumerate() {
        assert_eq!(get(0x7ff8 - 8 * index as u64), *value, "register {index}");
    }
    assert_eq!((get(0x7f78), get(0x7f70) as u32), (CODE + 1, before.rflags as u32));
    assert_eq!((get(0x7f58) as u32, get(0x7f50), get(0x7f48) as u32), (before.cr0 as u32, PML4, CR4_PAE as u32));
    assert_eq!((get(0x7ed0), get(0x7f60) as u32, get(0x7f68) as u32), (before.efer, 0x400, 0xffff_0ff0));
    assert_eq!((get(0x7efc) as u32, get(0x7f00) as u32), (0x2_0064, 0x3_0000));
    assert_eq!(bench.get16(MAP + 0x10), sel::CODE_LONG);
    assert_eq!(bench.get16(MAP + 0x12), before.segments[CS].attributes);
    assert_eq!(bench.get32(MAP + 0x14), u32::MAX);
    assert_eq!((bench.get32(MAP + 0x64), bench.get64(MAP + 0x68)), (0x5f, GDT));
    assert_eq!((bench.get32(MAP + 0x84), bench.get64(MAP + 0x88)), (0xfff, IDT));
    assert_eq!((bench.get16(MAP + 0x90), bench.get64(MAP + 0x98)), (sel::TSS64, TSS));
    assert_eq!(bench.get16(MAP + 0xc9) & 0xff, 1, "auto-halt restart");
}

#[test]
fn handler_begins_in_the_architecture_s_state() {
    let mut bench = Bench::new();
    let before = halted_long(&mut bench);
    bench.put(FIRST, &[0xf4]);
    bench.signals.raise(Signal::SMI);
    let inside = bench.run_to_halt();
    assert_eq!((inside.rip, inside.rflags), (0x8001, 2));
    assert_eq!((inside.cr0, inside.cr4, inside.efer), (before.cr0 & !(CR0_PE | CR0_PG), 0, 0));
    assert_eq!((inside.debug[7], inside.gpr), (0x400, before.gpr));
    let code = inside.segments[CS];
    assert_eq!((code.selector, code.base, code.limit, code.attributes), (0x3000, 0x3_0000, u32::MAX, 0x8093));
    let data = inside.segments[SegmentRegister::Ds as usize];
    assert_eq!((data.selector, data.base, data.limit, data.attributes), (0, 0, u32::MAX, 0x8093));
    assert_eq!(inside.smm, SystemManagement { active: true, ..SystemManagement::default() });
    assert!(inside.events.nmi_blocked);
}

#[test]
fn legacy_model_has_the_32_bit_map() {
    let mut bench = Bench::with_model("qemu32");
    let mut registers = protected(&bench, 0);
    registers.gpr[..4].copy_from_slice(&[0xa, 0xc, 0xd, 0xb]);
    registers.gpr[6] = 0x51;
    bench.put(CODE, &[0xf4, 0xf4]);
    bench.put(FIRST, &RSM);
    bench.set(&registers);
    let before = bench.run_to_halt();
    bench.signals.raise(Signal::SMI);
    assert_eq!(comparable(bench.run_to_halt()), comparable(before));
    let get = |offset: u64| bench.get32(0x3_8000 + offset);
    assert_eq!((get(0x7fd0), get(0x7fd4), get(0x7fd8), get(0x7fdc), get(0x7fe8)), (0xa, 0xc, 0xd, 0xb, 0x51));
    assert_eq!((get(0x7ff0), get(0x7ffc) & 1, get(0x7efc), get(0x7ef8)), (CODE as u32 + 1, 1, 0x2_0000, 0x3_0000));
    assert_eq!((get(0x7fac), get(0x7f90), get(0x7f94)), (u32::from(sel::CODE), 0xc09b, u32::MAX));
    assert_eq!((get(0x7fb4), get(0x7f2c)), (u32::from(sel::DATA), 0xc093));
    assert_eq!((get(0x7fc4), get(0x7f64), get(0x7f60)), (u32::from(sel::TSS), TSS as u32, 0x67));
    assert_eq!((get(0x7f74), get(0x7f70), get(0x7f58), get(0x7f54)), (GDT as u32, 0x5f, IDT as u32, 0xfff));
}

#[test]
fn smbase_moves_by_the_map_and_survives_init_but_not_power_on() {
    let mut bench = Bench::new();
    halted_long(&mut bench);
    bench.put(FIRST, &RELOCATE);
    bench.put(MOVED + 0x8000, &COUNT);
    bench.put32(COUNTER, 0);
    bench.signals.raise(Signal::SMI);
    assert_eq!(bench.run_to_halt().smm.smbase, MOVED as u32);
    for count in 1..=3 {
        bench.signals.raise(Signal::SMI);
        bench.run_to_halt();
        assert_eq!(bench.get32(COUNTER), count);
    }
    bench.cpu.reset(VcpuReset::Init);
    assert_eq!(bench.cpu.registers().smm.smbase, MOVED as u32);
    bench.cpu.reset(VcpuReset::PowerOn);
    assert_eq!(bench.cpu.registers().smm.smbase, 0x3_0000);
}

#[test]
fn smi_of_an_output_comes_before_the_next_instruction() {
    let mut bench = Bench::new();
    let port = memory::Backing::Io(std::sync::Arc::new(CommandPort(bench.signals.clone())));
    bench.port_space.map(memory::GuestAddress(0xb2), 1, 1, port).expect("port");
    let registers = long(&bench, 0);
    bench.put(FIRST, &COUNT);
    bench.put32(COUNTER, 0);
    // mov ecx, 100; again: out 0xb2, al; mov eax, [COUNTER]; add ebx, eax; dec ecx; jnz again; hlt
    bench
        .put(CODE, &[0xb9, 100, 0, 0, 0, 0xe6, 0xb2, 0x8b, 0x04, 0x25, 0, 6, 0, 0, 0x01, 0xc3, 0xff, 0xc9, 0x75, 0xf1]);
    bench.put(CODE + 20, &[0xf4]);
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!((bench.get32(COUNTER), end.gpr[3]), (100, 5050));
}

/// A handler that goes to protected mode, counts there and returns from 32-bit code.
#[test]
fn rsm_returns_from_32_bit_and_64_bit_code() {
    let mut bench = Bench::new();
    let before = halted_long(&mut bench);
    bench.put16(0x700, 0x5f);
    bench.put32(0x702, GDT as u32);
    let protect = [
        0x0f, 0x01, 0x16, 0x00, 0x07, // lgdt [0x700]
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x0c, 0x01, // or al, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0x66, 0xea, 0x00, 0x81, 0x03, 0x00, 0x08, 0x00, // jmp dword 8:0x38100
    ];
    bench.put(FIRST, &protect);
    // inc dword [COUNTER]; rsm
    bench.put(FIRST + 0x100, &[0xff, 0x05, 0x00, 0x06, 0, 0, 0x0f, 0xaa]);
    bench.put32(COUNTER, 0);
    bench.signals.raise(Signal::SMI);
    assert_eq!(comparable(bench.run_to_halt()), comparable(before.clone()));
    assert_eq!(bench.get32(COUNTER), 1);
    let long = [
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
        0xea, 0x00, 0x82, 0x03, 0, 0x40, 0x00, // jmp 0x40:0x38200
    ];
    bench.put(FIRST + 0x100, &long);
    // mov r15d, 5; again: inc dword [COUNTER]; dec r15d; jnz again; rsm
    let body = [0x41, 0xbf, 5, 0, 0, 0, 0xff, 0x04, 0x25, 0, 6, 0, 0, 0x41, 0xff, 0xcf, 0x75, 0xf4, 0x0f, 0xaa];
    bench.put(FIRST + 0x200, &body);
    bench.signals.raise(Signal::SMI);
    assert_eq!(comparable(bench.run_to_halt()), comparable(before));
    assert_eq!(bench.get32(COUNTER), 6);
}

#[test]
fn rsm_outside_of_the_mode_is_an_invalid_opcode() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    set_gate64(&bench, 6, CODE + 0x100, 0, 0);
    bench.put(CODE, &RSM);
    bench.put(CODE + 0x100, &[0xf4]);
    bench.set(&registers);
    assert_eq!(bench.run_to_halt().rip, CODE + 0x101);
}

#[test]
fn rsm_of_state_that_cannot_be_shuts_down() {
    // CR0.PG without PE; reserved bits of CR4; EFER; 64-bit mode without PAE.
    for (offset, value) in [(0x7f58, 0x8000_0010u32), (0x7f48, 0x8000_0020), (0x7ed0, 0x8000_0d00), (0x7f48, 0)] {
        let mut bench = Bench::new();
        halted_long(&mut bench);
        // mov dword cs:[offset], value; rsm
        let mut handler = vec![0x2e, 0x66, 0xc7, 0x06];
        handler.extend_from_slice(&(0x8000 + offset as u16).to_le_bytes());
        handler.extend_from_slice(&value.to_le_bytes());
        handler.extend_from_slice(&RSM);
        bench.put(FIRST, &handler);
        bench.signals.raise(Signal::SMI);
        assert_eq!(bench.cpu.run(), VcpuExit::Shutdown, "{offset:#x}");
    }
}

#[test]
fn one_smi_is_kept_while_another_is_handled() {
    let mut bench = Bench::new();
    halted_long(&mut bench);
    // hlt; then count and return
    bench.put(FIRST, &[0xf4]);
    bench.put(FIRST + 1, &COUNT);
    bench.put32(COUNTER, 0);
    bench.signals.raise(Signal::SMI);
    assert_eq!(bench.run_to_halt().rip, 0x8001);
    for _ in 0..3 {
        bench.signals.raise(Signal::SMI);
        assert_eq!(bench.run_to_halt().rip, 0x8001, "held off");
    }
    let mut inside = bench.cpu.registers();
    assert!(inside.smm.smi_pending);
    inside.activity = Activity::Running;
    bench.set(&inside);
    assert_eq!(bench.run_to_halt().rip, 0x8001, "the second one");
    assert_eq!(bench.get32(COUNTER), 1);
    assert!(!bench.cpu.registers().smm.smi_pending);
}

#[test]
fn nmi_and_init_wait_for_the_end_of_the_mode() {
    // After INIT# this one waits for its start-up IPI.
    let mut bench = Bench::application_processor();
    halted_long(&mut bench);
    set_gate64(&bench, 2, CODE + 0x100, 0, 0);
    bench.put(CODE + 0x100, &[0xf4]);
    bench.put(FIRST, &[0xf4, 0x0f, 0xaa]);
    bench.signals.raise(Signal::SMI);
    bench.run_to_halt();
    bench.signals.raise(Signal::NMI);
    let mut inside = bench.run_to_halt();
    assert_eq!((inside.rip, inside.events.nmi_pending), (0x8001, true));
    inside.activity = Activity::Running;
    bench.set(&inside);
    assert_eq!(bench.run_to_halt().rip, CODE + 0x101, "the NMI's handler");
    // In the NMI's handler: the mode is entered and left with NMIs blocked.
    bench.signals.raise(Signal::SMI);
    assert!(bench.run_to_halt().smm.inside_nmi);
    bench.signals.raise(Signal::INIT);
    let mut inside = bench.run_to_halt();
    assert_eq!((inside.rip, inside.events.init_pending), (0x8001, true));
    inside.activity = Activity::Running;
    bench.set(&inside);
    let end = bench.run_to_halt();
    assert_eq!((end.activity, end.smm.active, end.rip), (Activity::WaitForSipi, false, 0xfff0));
    assert!(!end.events.init_pending);
}

#[test]
fn auto_halt_restart_is_the_handler_s_choice() {
    let mut bench = Bench::new();
    halted_long(&mut bench);
    bench.put(FIRST, &RSM);
    bench.signals.raise(Signal::SMI);
    assert_eq!(bench.run_to_halt().rip, CODE + 1, "in the same HLT");
    // mov byte cs:[0xfec9], 0; rsm
    bench.put(FIRST, &[0x2e, 0xc6, 0x06, 0xc9, 0xfe, 0x00, 0x0f, 0xaa]);
    bench.signals.raise(Signal::SMI);
    assert_eq!(bench.run_to_halt().rip, CODE + 4, "behind it, in the next one");
}

#[test]
fn mode_sees_its_own_memory_and_nothing_is_mixed_up() {
    let mut bench = Bench::with_smram("max");
    let smram = bench.smm_memory.clone().expect("SMRAM");
    let mut registers = long(&bench, 0);
    // The handler that is found in SMRAM counts in SMRAM; what RAM has at the same addresses is something else.
    registers.smm.smbase = SMRAM as u32;
    smram.write(
        memory::GuestAddress(SMRAM + 0x8000),
        &[
            0x2e, 0x66, 0xff, 0x06, 0x00, 0x01, // inc dword cs:[0x100]
            0x0f, 0xaa,
        ],
    );
    bench.put32(SMRAM + 0x100, 0x7777);
    // At SMRAM + 0x8000 normal code, which runs often enough to be translated: inc dword [0xa0100]; ret
    bench.put(SMRAM + 0x8000, &[0xff, 0x04, 0x25, 0x00, 0x01, 0x0a, 0x00, 0xc3]);
    let port = memory::Backing::Io(std::sync::Arc::new(CommandPort(bench.signals.clone())));
    bench.port_space.map(memory::GuestAddress(0xb2), 1, 1, port).expect("port");
    // mov ecx, 300; mov edx, 0xa8000; again: call rdx; test cl, 7; jne over; out 0xb2, al; over: dec ecx; jnz again; hlt
    bench.put(CODE, &[0xb9, 0x2c, 0x01, 0, 0, 0xba, 0x00, 0x80, 0x0a, 0x00]);
    bench.put(CODE + 10, &[0xff, 0xd2, 0xf6, 0xc1, 7, 0x75, 2, 0xe6, 0xb2, 0xff, 0xc9, 0x75, 0xf3, 0xf4]);
    bench.set(&registers);
    bench.run_to_halt();
    assert_eq!(bench.get32(SMRAM + 0x100), 0x7777 + 300);
    assert_eq!(smram.load(memory::GuestAddress(SMRAM + 0x100), memory::AccessSize::Dword), 300 / 8);
    assert_eq!(bench.get32(SMRAM + 0xfefc), 0, "the map is in SMRAM");
}

#[test]
fn saved_registers_hold_the_mode() {
    let mut bench = Bench::with_smram("max");
    let smram = bench.smm_memory.clone().expect("SMRAM");
    let mut registers = long(&bench, 0);
    registers.smm.smbase = SMRAM as u32;
    bench.put(CODE, &[0xf4, 0xf4]);
    bench.set(&registers);
    let before = bench.run_to_halt();
    smram.write(memory::GuestAddress(SMRAM + 0x8000), &[0xf4, 0x0f, 0xaa]);
    bench.signals.raise(Signal::SMI);
    let mut inside = bench.run_to_halt();
    bench.cpu.reset(VcpuReset::PowerOn);
    inside.activity = Activity::Running;
    bench.set(&inside);
    let after = bench.run_to_halt();
    assert_eq!((after.rip, after.smm), (before.rip, before.smm));
    assert_eq!(comparable(after), comparable(before));
}

#[test]
fn saved_registers_hold_shadow_and_blocked_nmi() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    set_gate64(&bench, 2, CODE + 0x100, 0, 0);
    bench.put(CODE + 0x100, &[0xf4]);
    bench.put(CODE, &[0x90, 0xf4]);
    registers.events.nmi_blocked = true;
    bench.set(&registers);
    bench.signals.raise(Signal::NMI);
    let mut halted = bench.run_to_halt();
    assert_eq!((halted.rip, halted.events.nmi_pending), (CODE + 2, true));
    halted.events.nmi_blocked = false;
    halted.events.shadow = x86::regs::InterruptShadow::MovSs;
    halted.activity = Activity::Running;
    halted.rip = CODE;
    bench.set(&halted);
    assert_eq!(bench.cpu.registers().events.shadow, x86::regs::InterruptShadow::MovSs);
    assert_eq!(bench.run_to_halt().rip, CODE + 0x101);
    assert_eq!(bench.get64(KERNEL_STACK - 40), CODE + 1, "one instruction came first");
}
