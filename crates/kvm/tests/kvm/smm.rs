//! System-management mode in an address space of its own.

use std::sync::Arc;

use accel::{Accelerator, CpuSignals, InterruptSource, Signal, VcpuExit};
use kvm::IrqchipMode;
use memory::{AccessSize, AddressSpace, Backing, GuestAddress, Io, RamBlock, SpaceKind};

use crate::support::{Machine, Spaces, open, skip};

/// A write raises an SMI, as the command port of a chipset does.
struct CommandPort(Arc<CpuSignals>);

impl Io for CommandPort {
    fn read(&self, _: u64, size: AccessSize) -> u64 {
        size.mask()
    }
    fn write(&self, _: u64, _: AccessSize, _: u64) {
        self.0.raise(Signal::SMI);
    }
}

#[test]
fn handler_runs_in_its_own_memory() {
    let Some(accelerator) = open("handler_runs_in_its_own_memory", IrqchipMode::Off) else { return };
    if !accelerator.has_smm() {
        skip("handler_runs_in_its_own_memory", "the kernel has one address space only");
        return;
    }
    let mut spaces = Spaces::new();
    let smram = Arc::new(RamBlock::new("smram", 0x1_0000).expect("RAM"));
    // At SMBASE + 0x8000: inc word cs:[0x100]; rsm
    smram.write(0x8000, &[0x2e, 0xff, 0x06, 0x00, 0x01, 0x0f, 0xaa]);
    let view = Arc::new(AddressSpace::new(SpaceKind::Memory));
    let ram = |block: &Arc<RamBlock>| Backing::Ram { block: Arc::clone(block), offset: 0, read_only: false };
    view.map(GuestAddress(0), spaces.ram.len() as u64, 0, ram(&spaces.ram)).expect("RAM");
    view.map(GuestAddress(0x3_0000), 0x1_0000, 1, ram(&smram)).expect("SMRAM");
    spaces.smm_memory = Some(view);
    #[rustfmt::skip]
    let code = [
        0xb9, 0x03, 0x00,             // mov cx, 3
        0xe6, 0xb2,                   // again: out 0xb2, al
        0xe2, 0xfc,                   // loop again
        0xe6, 0xf4,                   // out 0xf4, al
        0xf4,                         // hlt
    ];
    let interrupts = InterruptSource::Apic(Arc::new(crate::interrupts::TestApic::default()));
    let mut machine = Machine::in_spaces(accelerator, spaces, interrupts, None, &code);
    let port = Backing::Io(Arc::new(CommandPort(Arc::clone(&machine.signals))));
    machine.ports.map(GuestAddress(0xb2), 1, 0, port).expect("port");
    assert_eq!(machine.vcpu.registers().smm.smbase, 0x3_0000);
    assert_eq!(machine.run(), VcpuExit::Stopped);
    assert_eq!((smram.load_u16(0x100), machine.word(0x3_0100)), (Some(3), 0));
    assert_eq!(smram.load_u32(0xfefc), Some(0x2_0064));
    assert!(!machine.vcpu.registers().smm.active);
}
