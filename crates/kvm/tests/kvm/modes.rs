//! Processor modes: protected mode with paging, long mode, triple faults, the model's CPUID.

use std::time::Duration;

use accel::{Accelerator, VcpuExit};
use kvm::IrqchipMode;

use crate::support::{Machine, run, skip};

/// Flat descriptors: null, 32-bit code, data, 64-bit code; then the operand of `lgdt`.
fn load_descriptors(machine: &Machine) {
    for (index, descriptor) in
        [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff].into_iter().enumerate()
    {
        machine.load(0x4000 + 8 * index as u64, &descriptor.to_le_bytes());
    }
    machine.load(0x4100, &[0x1f, 0x00, 0x00, 0x40, 0x00, 0x00]);
}

/// From real mode to 32-bit code at 0x2000.
#[rustfmt::skip]
const TO_PROTECTED_MODE: &[u8] = &[
    0xfa,                                     // cli
    0x66, 0x0f, 0x01, 0x16, 0x00, 0x41,       // lgdtd [0x4100]
    0x0f, 0x20, 0xc0,                         // mov eax, cr0
    0x0c, 0x01,                               // or al, 1
    0x0f, 0x22, 0xc0,                         // mov cr0, eax
    0x66, 0xea, 0x00, 0x20, 0x00, 0x00, 0x08, 0x00, // jmp 8:0x2000
];

#[test]
fn protected_mode_runs() {
    let Some(mut machine) = Machine::new("protected_mode", IrqchipMode::Off, TO_PROTECTED_MODE) else { return };
    load_descriptors(&machine);
    #[rustfmt::skip]
    let code = [
        0x66, 0xb8, 0x10, 0x00,       // mov ax, 0x10
        0x8e, 0xd8,                   // mov ds, ax
        0xb8, 0x21, 0x43, 0x65, 0x87, // mov eax, 0x87654321
        0xa3, 0x00, 0x00, 0x20, 0x00, // mov [0x200000], eax
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    machine.load(0x2000, &code);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(machine.ram.load_u32(0x20_0000), Some(0x8765_4321));
    assert_eq!(machine.vcpu.registers().segments[1].attributes, 0xc09b);
}

/// Whether the host's KVM walks page tables outside of long mode. The nested kvm-pvm does not: it takes linear addresses
/// for physical ones, and switching paging on is a triple fault.
fn has_legacy_paging(machine: &mut Machine) -> bool {
    let before = machine.vcpu.registers();
    let mut registers = before.clone();
    // Zeros map nothing.
    (registers.cr0, registers.cr3) = (0x8000_0011, 0x7_0000);
    machine.vcpu.set_registers(&registers);
    let maps_nothing = machine.vcpu.translate(0x1000).is_none();
    machine.vcpu.set_registers(&before);
    maps_nothing
}

#[test]
fn protected_mode_with_paging_runs() {
    let test = "protected_mode_with_paging";
    let Some(mut machine) = Machine::new(test, IrqchipMode::Off, TO_PROTECTED_MODE) else { return };
    if !has_legacy_paging(&mut machine) {
        skip(test, "the host's KVM has no paging outside of long mode");
        return;
    }
    load_descriptors(&machine);
    // Directory at 0x10000: table 0 maps the first 4 MiB as they are, table 1 one page at 0x400000 to 0x30000.
    machine.load(0x1_0000, &0x1_1003_u32.to_le_bytes());
    machine.load(0x1_0004, &0x1_2003_u32.to_le_bytes());
    for page in 0..1024_u32 {
        machine.load(0x1_1000 + 4 * u64::from(page), &(page << 12 | 3).to_le_bytes());
    }
    machine.load(0x1_2000, &0x3_0003_u32.to_le_bytes());
    machine.load(0x3_0010, &0x1234_5678_u32.to_le_bytes());
    #[rustfmt::skip]
    let code = [
        0x66, 0xb8, 0x10, 0x00,       // mov ax, 0x10
        0x8e, 0xd8, 0x8e, 0xd0,       // mov ds, ax; mov ss, ax
        0xb8, 0x00, 0x00, 0x01, 0x00, // mov eax, 0x10000
        0x0f, 0x22, 0xd8,             // mov cr3, eax
        0x0f, 0x20, 0xc0,             // mov eax, cr0
        0x0d, 0x00, 0x00, 0x00, 0x80, // or eax, 0x80000000
        0x0f, 0x22, 0xc0,             // mov cr0, eax
        0xa1, 0x10, 0x00, 0x40, 0x00, // mov eax, [0x400010]
        0x40,                         // inc eax
        0xa3, 0x14, 0x00, 0x40, 0x00, // mov [0x400014], eax
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    machine.load(0x2000, &code);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!(machine.ram.load_u32(0x3_0014), Some(0x1234_5679));
    let registers = machine.vcpu.registers();
    assert_eq!(registers.cr0 & 0x8000_0001, 0x8000_0001);
    assert_eq!(machine.vcpu.translate(0x40_0014).map(|address| address.0), Some(0x3_0014));
}

#[test]
fn long_mode_runs_where_the_host_can() {
    let test = "long_mode";
    let Some(mut machine) = Machine::new(test, IrqchipMode::Off, TO_PROTECTED_MODE) else { return };
    load_descriptors(&machine);
    // One page of 2 MiB, as it is.
    for (table, entry) in [(0x1_0000, 0x1_1003_u64), (0x1_1000, 0x1_2003), (0x1_2000, 0x83)] {
        machine.load(table, &entry.to_le_bytes());
    }
    #[rustfmt::skip]
    let code = [
        0x66, 0xb8, 0x10, 0x00,       // mov ax, 0x10
        0x8e, 0xd8, 0x8e, 0xd0,       // mov ds, ax; mov ss, ax
        0xb8, 0x20, 0x00, 0x00, 0x00, // mov eax, 0x20
        0x0f, 0x22, 0xe0,             // mov cr4, eax
        0xb8, 0x00, 0x00, 0x01, 0x00, // mov eax, 0x10000
        0x0f, 0x22, 0xd8,             // mov cr3, eax
        0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, 0xc0000080
        0x0f, 0x32,                   // rdmsr
        0x0d, 0x00, 0x01, 0x00, 0x00, // or eax, 0x100
        0x0f, 0x30,                   // wrmsr
        0x0f, 0x20, 0xc0,             // mov eax, cr0
        0x0d, 0x00, 0x00, 0x00, 0x80, // or eax, 0x80000000
        0x0f, 0x22, 0xc0,             // mov cr0, eax
        0xea, 0x00, 0x22, 0x00, 0x00, 0x18, 0x00, // jmp 0x18:0x2200
    ];
    machine.load(0x2000, &code);
    #[rustfmt::skip]
    let code = [
        0x48, 0xb8, 8, 7, 6, 5, 4, 3, 2, 1,       // mov rax, 0x0102030405060708
        0x48, 0x89, 0x04, 0x25, 0x00, 0x30, 0, 0, // mov [0x3000], rax
        0xe6, 0xf4,                               // out 0xf4, al
        0xf4,                                     // hlt
    ];
    machine.load(0x2200, &code);
    match run(&mut *machine.vcpu, &machine.signals, Duration::from_secs(5)) {
        Some(VcpuExit::Stopped) => assert_eq!(machine.ram.load_u64(0x3000), Some(0x0102_0304_0506_0708)),
        Some(VcpuExit::InternalError(text)) => skip(test, &format!("the host's KVM: {text}")),
        None => skip(test, &format!("the host's KVM hangs at {:#x}", machine.vcpu.registers().rip)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn triple_fault_is_a_shutdown_and_a_reset_ends_it() {
    let Some(mut machine) = Machine::new("triple_fault", IrqchipMode::Off, TO_PROTECTED_MODE) else { return };
    load_descriptors(&machine);
    // lidt [0x4200], which is zero; ud2
    machine.load(0x2000, &[0x0f, 0x01, 0x1d, 0x00, 0x42, 0x00, 0x00, 0x0f, 0x0b]);
    assert_eq!(machine.run(), VcpuExit::Shutdown);
    machine.vcpu.reset(accel::VcpuReset::PowerOn);
    machine.load(0x1000, &[0xe6, 0xf4, 0xf4]);
    machine.start_at(0x1000);
    assert_eq!(machine.run(), VcpuExit::Stopped);
}

#[test]
fn cpuid_is_the_model_s_within_the_host_s_limits() {
    #[rustfmt::skip]
    let code = [
        0x66, 0x31, 0xc0, 0x0f, 0xa2,                   // xor eax, eax; cpuid
        0x66, 0x89, 0x1e, 0x00, 0x20,                   // mov [0x2000], ebx
        0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2,             // mov eax, 1; cpuid
        0x66, 0xa3, 0x04, 0x20,                         // mov [0x2004], eax
        0x66, 0x89, 0x0e, 0x08, 0x20,                   // mov [0x2008], ecx
        0x66, 0xb8, 0, 0, 0, 0x40, 0x0f, 0xa2,          // mov eax, 0x40000000; cpuid
        0x66, 0x89, 0x1e, 0x0c, 0x20,                   // mov [0x200c], ebx
        0xe6, 0xf4, 0xf4,                               // out 0xf4, al; hlt
    ];
    let Some(mut machine) = Machine::new("cpuid", IrqchipMode::Off, &code) else { return };
    assert_eq!(machine.run(), VcpuExit::Stopped);
    let dword = |address| machine.ram.load_u32(address).expect("RAM");
    assert_eq!(dword(0x2000), u32::from_le_bytes(*b"Auth"));
    assert_eq!(dword(0x2004), 0x0006_0fb1);
    // The hypervisor bit, and no x2APIC without the kernel's local APIC.
    assert_eq!(dword(0x2008) & (1 << 31 | 1 << 21), 1 << 31);
    assert_eq!(dword(0x200c), u32::from_le_bytes(*b"KVMK"));
}

#[test]
fn features_that_the_host_lacks_are_reported() {
    let Some(machine) = Machine::new("features", IrqchipMode::On, &[]) else { return };
    let mut host = machine.accelerator.host();
    host.supported.remove(x86::cpuid::Feature::Sse3);
    let (model, warnings) = x86::model::CpuModel::parse("qemu64", &host).expect("model");
    assert!(!model.features().has(x86::cpuid::Feature::Sse3));
    let expected = "host doesn't support requested feature: CPUID.01H:ECX.pni [bit 0]";
    assert!(warnings.iter().any(|warning| warning == expected), "{warnings:?}");
}
