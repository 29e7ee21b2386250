//! A software CPU over a few pages of memory, in 64-bit user mode.

use std::sync::Arc;

use accel::CpuSignals;
use cpu::{SoftCpu, TranslatorConfig};
use memory::{AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};
use x86::model::CpuModel;
use x86::regs::{Registers, Segment};

/// Linear address of the code page (read, execute).
pub const CODE: u64 = 0x1234_5000;
/// Linear address of the two data pages (read, write); the pages around them are not mapped.
pub const DATA: u64 = 0x1235_5000;
/// Bytes of data.
pub const DATA_LEN: usize = 0x2000;
/// Where code and data are in RAM.
pub const CODE_PHYS: usize = 0x10000;
/// Where the data is in RAM.
pub const DATA_PHYS: usize = 0x11000;

/// The CPU and its memory.
pub struct Bench {
    pub cpu: SoftCpu,
    pub ram: Arc<RamBlock>,
    pub signals: Arc<CpuSignals>,
}

/// A CPU in 64-bit or compatibility mode (`bits` 64 or 32) at privilege `cpl` with [`CODE`] and [`DATA`] mapped.
pub fn bench(cpl: u16, bits: u32) -> Bench {
    bench_with(cpl, bits, TranslatorConfig::default())
}

/// The same with settings of the translator.
pub fn bench_with(cpl: u16, bits: u32, translator: TranslatorConfig) -> Bench {
    bench_on(Arc::new(RamBlock::new("test", 0x100_0000).expect("RAM")), cpl, bits, translator)
}

/// The same over RAM that another may use, too.
pub fn bench_on(ram: Arc<RamBlock>, cpl: u16, bits: u32, translator: TranslatorConfig) -> Bench {
    let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
    let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
    memory.map(GuestAddress(0), ram.len() as u64, 0, backing).expect("map");
    // PML4 at 0x1000, PDPT 0x2000, PD 0x3000, PT 0x4000.
    ram.store_u64(0x1000, 0x2007);
    ram.store_u64(0x2000, 0x3007);
    ram.store_u64(0x3000 + 0x91 * 8, 0x4007);
    ram.store_u64(0x4000 + 0x145 * 8, CODE_PHYS as u64 | 5);
    for page in 0..2 {
        let entry = (DATA_PHYS + page * 0x1000) as u64 | 7 | 1 << 63;
        ram.store_u64(0x4000 + (0x155 + page) * 8, entry);
    }
    let (model, _) = CpuModel::parse("max", &cpu::model_host()).expect("model");
    let features = Arc::new(model.build(x86::model::Topology { sockets: 1, dies: 1, cores: 1, threads: 1 }, 0));
    let config = cpu::fuzz::config(features, memory, translator);
    let signals = Arc::clone(&config.signals);
    let mut cpu = SoftCpu::new(config);
    let mut registers = long_mode(cpl, bits);
    let state = accel::Vcpu::registers(&mut cpu);
    registers.xsave = state.xsave;
    registers.apic_base = state.apic_base;
    registers.debug = state.debug;
    accel::Vcpu::set_registers(&mut cpu, &registers);
    // Takes over the memory map.
    assert!(accel::Vcpu::translate(&mut cpu, CODE).is_some());
    cpu.cpu().exit_request = false;
    Bench { cpu, ram, signals }
}

fn long_mode(cpl: u16, bits: u32) -> Registers {
    let dpl = cpl << 5;
    let data = Segment { selector: 0x28 | cpl, base: 0, limit: u32::MAX, attributes: 0xc093 | dpl };
    let code = Segment {
        selector: 0x30 | cpl,
        base: 0,
        limit: u32::MAX,
        attributes: if bits == 64 { 0xa09b } else { 0xc09b } | dpl,
    };
    Registers {
        rip: CODE,
        rflags: 0x202,
        segments: [data, code, data, data, data, data],
        cr0: 0x8001_0033,
        cr3: 0x1000,
        // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE.
        cr4: 0x4_0620,
        efer: 0xd01,
        xcr0: 7,
        ..Registers::default()
    }
}
