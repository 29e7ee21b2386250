//! Machine checks that are injected: what the banks show, and how the CPU takes them.

mod bench;

use accel::{MachineCheck, MachineCheckOutcome, Vcpu, VcpuExit};
use bench::*;

const HANDLER: u64 = 0x8_1000;
const CR4_MCE: u64 = 1 << 6;
const UNCORRECTED: u64 = 0xb500_0000_0000_0134;
const CORRECTED: u64 = 0x9000_0000_0000_0134;
const OVERFLOW: u64 = 1 << 62;

/// Halts, and in its handler of machine checks reads MSR `msr`.
fn machine(msr: u32, cr4: u64) -> Bench {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    set_gate32(&bench, 18, HANDLER, 0);
    bench.put(CODE, &[0xf4, 0x0f, 0x0b]);
    // mov ecx, msr; rdmsr; hlt
    bench.put(HANDLER, &[0xb9]);
    bench.put32(HANDLER + 1, msr);
    bench.put(HANDLER + 5, &[0x0f, 0x32, 0xf4, 0x0f, 0x0b]);
    registers.rip = CODE;
    registers.cr4 |= cr4;
    bench.set(&registers);
    bench.run_to_halt();
    bench
}

fn check(bank: usize, status: u64) -> MachineCheck {
    MachineCheck { bank, status, global_status: 5, address: 0x1234_5000, misc: 0x8c }
}

#[test]
fn uncorrected_error_wakes_the_cpu_and_its_handler_reads_the_bank() {
    for (msr, expected) in
        [(0x401 + 9 * 4, UNCORRECTED), (0x402 + 9 * 4, 0x1234_5000), (0x403 + 9 * 4, 0x8c), (0x17a, 5)]
    {
        let mut bench = machine(msr, CR4_MCE);
        assert_eq!(bench.cpu.machine_check(&check(9, UNCORRECTED)), MachineCheckOutcome::Reported);
        let registers = bench.run_to_halt();
        assert_eq!(registers.gpr[2] << 32 | registers.gpr[0], expected, "MSR {msr:#x}");
        assert_eq!(bench.get32(registers.gpr[4]), CODE as u32 + 1, "where it goes on");
        let again = bench.cpu.machine_check(&check(9, UNCORRECTED));
        assert_eq!(again, MachineCheckOutcome::StillInProgress);
        assert_eq!(bench.cpu.run(), VcpuExit::Shutdown);
    }
}

#[test]
fn corrected_errors_are_kept_without_a_handler_and_never_hide_worse_ones() {
    let mut bench = machine(0x405, CR4_MCE);
    for _ in 0..2 {
        assert_eq!(bench.cpu.machine_check(&check(1, CORRECTED)), MachineCheckOutcome::Reported);
        assert_eq!(bench.cpu.run(), VcpuExit::Halted);
    }
    bench.cpu.machine_check(&check(1, UNCORRECTED));
    bench.cpu.machine_check(&check(1, CORRECTED));
    let registers = bench.run_to_halt();
    assert_eq!(registers.gpr[2] << 32 | registers.gpr[0], UNCORRECTED | OVERFLOW);
}

#[test]
fn what_can_not_be_reported_is_refused_or_shuts_the_cpu_down() {
    let mut bench = machine(0x401, 0);
    assert_eq!(bench.cpu.machine_check(&check(10, UNCORRECTED)), MachineCheckOutcome::NoBank);
    assert_eq!(bench.cpu.machine_check(&check(usize::MAX, UNCORRECTED)), MachineCheckOutcome::NoBank);
    assert_eq!(bench.cpu.machine_check(&check(0, 1)), MachineCheckOutcome::NoStatus);
    assert_eq!(bench.cpu.run(), VcpuExit::Halted);
    assert_eq!(bench.cpu.machine_check(&check(0, UNCORRECTED)), MachineCheckOutcome::NotEnabled);
    assert_eq!(bench.cpu.run(), VcpuExit::Shutdown);
    let mut bench = Bench::with_model("486");
    assert_eq!(bench.cpu.machine_check(&check(0, UNCORRECTED)), MachineCheckOutcome::Unsupported);
}
