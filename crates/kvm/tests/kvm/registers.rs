//! Registers: power-on state, round trips, translation.

use accel::{VcpuExit, VcpuReset};
use kvm::IrqchipMode;
use memory::GuestAddress;
use x86::msr;
use x86::regs::{Activity, Registers, Segment, TableRegister};

use crate::support::{Machine, STOP_PORT};

/// XSTATE_BV of the area.
fn components(area: &mut [u8]) -> &mut u8 {
    &mut area[512]
}

fn set_msr(registers: &mut Registers, index: u32, value: u64) {
    let slot = registers.msrs.iter_mut().find(|(msr, _)| *msr == index);
    slot.unwrap_or_else(|| panic!("no MSR {index:#x}")).1 = value;
}

/// What two moments of the same vCPU must have in common: all but the time-stamp counter.
fn comparable(mut registers: Registers) -> Registers {
    registers.msrs.retain(|(index, _)| *index != msr::TSC);
    registers
}

#[test]
fn power_on_state_is_the_architecture_s() {
    for mode in [IrqchipMode::Off, IrqchipMode::Split, IrqchipMode::On] {
        let Some(mut machine) = Machine::new("power_on_state", mode, &[]) else { continue };
        machine.vcpu.reset(VcpuReset::PowerOn);
        let registers = machine.vcpu.registers();
        assert_eq!((registers.rip, registers.rflags), (0xfff0, 2), "{mode:?}");
        let code = registers.segments[1];
        assert_eq!((code.selector, code.base, code.limit), (0xf000, 0xffff_0000, 0xffff), "{mode:?}");
        assert_eq!(registers.segments[3], Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0x93 });
        assert_eq!((registers.cr0, registers.cr3, registers.cr4, registers.efer), (0x6000_0010, 0, 0, 0));
        assert_eq!((registers.debug[6], registers.debug[7], registers.xcr0), (0xffff_0ff0, 0x400, 1));
        assert_eq!(registers.activity, Activity::Running);
        // qemu64: family 15, model 107, stepping 1.
        assert_eq!(registers.gpr[2], 0x0006_0fb1, "{mode:?}");
        let find = |index| registers.msrs.iter().find(|(msr, _)| *msr == index).map(|(_, value)| *value);
        assert_eq!(find(msr::PAT), Some(msr::memory_type::PAT_RESET));
        assert_eq!(find(msr::LSTAR), Some(0));
        assert!(registers.msrs.is_sorted_by_key(|(index, _)| *index));
    }
}

#[test]
fn registers_survive_a_round_trip() {
    for mode in [IrqchipMode::Off, IrqchipMode::Split, IrqchipMode::On] {
        let Some(mut machine) = Machine::new("registers_round_trip", mode, &[]) else { continue };
        let mut wanted = machine.vcpu.registers();
        for (index, register) in wanted.gpr.iter_mut().enumerate() {
            *register = 0x1111_2222_3333_4400 + index as u64;
        }
        wanted.rip = 0x1234;
        wanted.rflags = 0x8d7;
        let data = Segment { selector: 0x18, base: 0x1_0000, limit: 0xf_ffff, attributes: 0x4093 };
        for (index, segment) in wanted.segments.iter_mut().enumerate() {
            *segment = Segment { selector: 0x10 + 8 * index as u16, base: 0x1000 * index as u64, ..data };
        }
        wanted.segments[1] = Segment { attributes: 0xc09b, limit: 0xffff_ffff, ..data };
        wanted.tr = Segment { selector: 0x40, base: 0x5000, limit: 0x67, attributes: 0x8b };
        wanted.ldtr = Segment { selector: 0x48, base: 0x6000, limit: 0x1f, attributes: 0x82 };
        wanted.gdtr = TableRegister { base: 0x7000, limit: 0x7f };
        wanted.idtr = TableRegister { base: 0x8000, limit: 0x7ff };
        (wanted.cr0, wanted.cr2, wanted.cr3, wanted.cr4) = (0x11, 0xdead_beef, 0x9000, 0x610);
        wanted.cr8 = 5;
        wanted.debug = [1, 2, 3, 4, 0, 0, 0xffff_4ff1, 0x401];
        for (index, value) in [(msr::LSTAR, 0xffff_8000_0000_1000), (msr::KERNEL_GS_BASE, 0x7000_1234)] {
            set_msr(&mut wanted, index, value);
        }
        for (index, value) in [(msr::SYSENTER_EIP, 0x1234_5678), (msr::PAT, 0x0606_0606_0606_0606)] {
            set_msr(&mut wanted, index, value);
        }
        for (index, byte) in wanted.xsave[160..416].iter_mut().enumerate() {
            *byte = index as u8;
        }
        *components(&mut wanted.xsave) = 3;
        machine.vcpu.set_registers(&wanted);
        let got = machine.vcpu.registers();
        assert_eq!(comparable(got.clone()), comparable(wanted), "{mode:?}");
        // Writing back what was read changes nothing, and the clock goes on.
        machine.vcpu.set_registers(&got);
        assert_eq!(comparable(machine.vcpu.registers()), comparable(got), "{mode:?}");
        machine.vcpu.reset(VcpuReset::PowerOn);
        assert_eq!(machine.vcpu.registers().rip, 0xfff0);
    }
}

#[test]
fn long_mode_registers_survive_a_round_trip() {
    let Some(mut machine) = Machine::new("long_mode_registers", IrqchipMode::On, &[]) else { return };
    let mut wanted = machine.vcpu.registers();
    let flat = Segment { selector: 0x10, base: 0, limit: 0xffff_ffff, attributes: 0xc093 };
    wanted.segments = [flat; 6];
    wanted.segments[1] = Segment { selector: 8, attributes: 0xa09b, ..flat };
    wanted.segments[5].base = 0xffff_8000_1234_5000;
    wanted.tr = Segment { selector: 0x18, base: 0x1000, limit: 0x67, attributes: 0x8b };
    (wanted.cr0, wanted.cr3, wanted.cr4, wanted.efer) = (0x8001_0011, 0x10_0000, 0x620, 0xd00);
    wanted.rip = 0xffff_8000_0000_0000;
    machine.vcpu.set_registers(&wanted);
    assert_eq!(comparable(machine.vcpu.registers()), comparable(wanted));
}

#[test]
fn translate_walks_the_guest_s_tables() {
    let Some(mut machine) = Machine::new("translate", IrqchipMode::On, &[]) else { return };
    assert_eq!(machine.vcpu.translate(0x1_2345), Some(GuestAddress(0x1_2345)), "no paging");
    // Four levels at 0x10000 … 0x13000, with one page at 0x400000 + 0x5000, and one of 2 MiB behind.
    for (slot, entry) in [
        (0x1_0000, 0x1_1007_u64),
        (0x1_1000, 0x1_2007),
        (0x1_2010, 0x1_3007),
        (0x1_3028, 0x2_3007),
        (0x1_2018, 0x20_0087),
    ] {
        machine.load(slot, &entry.to_le_bytes());
    }
    let mut registers = machine.vcpu.registers();
    registers.segments[1].attributes = 0xa09b;
    (registers.cr0, registers.cr3, registers.cr4, registers.efer) = (0x8000_0011, 0x1_0000, 0x20, 0x500);
    machine.vcpu.set_registers(&registers);
    assert_eq!(machine.vcpu.translate(0x40_5678), Some(GuestAddress(0x2_3678)));
    assert_eq!(machine.vcpu.translate(0x61_2345), Some(GuestAddress(0x21_2345)));
    assert_eq!(machine.vcpu.translate(0x40_6000), None);
    assert_eq!(machine.vcpu.translate(0x1000), None);
}

#[test]
fn guest_sees_set_registers_and_leaves_its_own() {
    #[rustfmt::skip]
    let code = [
        0x0f, 0x11, 0x0e, 0x00, 0x20, // movups [0x2000], xmm1
        0x66, 0x01, 0xd8,             // add eax, ebx
        0x0f, 0x10, 0x06, 0x00, 0x21, // movups xmm0, [0x2100]
        0xe6, STOP_PORT as u8,        // out 0xf4, al
        0xf4,                         // hlt
    ];
    let Some(mut machine) = Machine::new("guest_sees_set_registers", IrqchipMode::Off, &code) else { return };
    let (first, second) = (0x1122_3344_5566_7788_u64.to_le_bytes(), 0x99aa_bbcc_ddee_ff00_u64.to_le_bytes());
    machine.load(0x2100, &second);
    let mut registers = machine.vcpu.registers();
    // SSE on: OSFXSR, and neither emulation nor task switched.
    registers.cr4 |= 0x200;
    (registers.gpr[0], registers.gpr[3]) = (0x1000_0000, 0x0234_5678);
    registers.xsave[176..184].copy_from_slice(&first);
    *components(&mut registers.xsave) = 3;
    machine.vcpu.set_registers(&registers);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    let registers = machine.vcpu.registers();
    assert_eq!(registers.gpr[0], 0x1234_5678);
    assert_eq!(machine.ram.load_u64(0x2000), Some(u64::from_le_bytes(first)));
    assert_eq!(registers.xsave[160..168], second);
}
