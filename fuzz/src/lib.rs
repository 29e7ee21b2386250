//! What the fuzz targets share: CPU models, and a software CPU over a little memory.

#![forbid(unsafe_code)]

pub mod disk;

use std::sync::Arc;
use std::time::Duration;

use accel::{Signal, Vcpu, VcpuExit, VcpuReset};
use cpu::{SoftCpu, TranslatorConfig};
use memory::{AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};
use x86::cpuid::CpuidTable;
use x86::model::{CpuModel, Host, Topology};
use x86::regs::{Registers, Segment};

/// What CPUID answers for a model.
///
/// # Panics
/// For a model that is not known.
pub fn cpuid_table(model: &str) -> CpuidTable {
    let (model, _) = CpuModel::parse(model, &Host::software()).expect("a model");
    model.build(Topology { sockets: 1, dies: 1, cores: 1, threads: 1 }, 0)
}

const RAM: usize = 1 << 20;
const CODE: u64 = 0x8000;

/// A CPU with 1 MiB of RAM, no devices, and page tables that map the first 4 MiB to themselves.
pub struct Bench {
    cpu: SoftCpu,
    ram: Arc<RamBlock>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// A fresh one, with a thread that ends endless loops.
    ///
    /// # Panics
    /// Without memory.
    pub fn new() -> Self {
        let ram = Arc::new(RamBlock::new("fuzz", RAM as u64).expect("RAM"));
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
        memory.map(GuestAddress(0), RAM as u64, 0, backing).expect("a mapping");
        let config = cpu::fuzz::config(Arc::new(cpuid_table("max")), memory, TranslatorConfig::default());
        let watch = Arc::clone(&config.signals);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(2));
                watch.raise(Signal::STOP);
            }
        });
        let cpu = SoftCpu::new(config);
        Self { cpu, ram }
    }

    /// Runs `code` from [`CODE`] until it stops or is stopped.
    pub fn run(&mut self, mode: u8, general: &[u8], code: &[u8]) {
        self.cpu.reset(VcpuReset::PowerOn);
        // PML4, PDPT and page directory with large pages; a descriptor table with flat segments.
        self.ram.store_u64(0x1000, 0x2007);
        self.ram.store_u64(0x2000, 0x3007);
        self.ram.store_u64(0x3000, 0x87);
        self.ram.store_u64(0x3008, 0x20_0087);
        for (index, descriptor) in
            [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff].iter().enumerate()
        {
            self.ram.store_u64(0x4000 + index * 8, *descriptor);
        }
        for at in (0..4096).step_by(8) {
            let mut word = [0; 8];
            for (target, source) in word.iter_mut().zip(code.get(at..).unwrap_or_default()) {
                *target = *source;
            }
            self.ram.store_u64(CODE as usize + at, u64::from_le_bytes(word));
        }
        let registers = self.registers(mode, general);
        self.cpu.set_registers(&registers);
        for _ in 0..4 {
            match self.cpu.run() {
                VcpuExit::Halted | VcpuExit::Shutdown | VcpuExit::Stopped => break,
                _ => {}
            }
        }
    }

    fn registers(&mut self, mode: u8, general: &[u8]) -> Registers {
        let mut registers = self.cpu.registers();
        for (register, bytes) in registers.gpr.iter_mut().zip(general.chunks_exact(8)) {
            *register = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        }
        registers.rip = CODE;
        registers.rflags = 2;
        registers.gdtr.base = 0x4000;
        registers.gdtr.limit = 0x1f;
        let privilege = if mode & 4 == 0 { 0 } else { 3 };
        let dpl = privilege << 5;
        let data = Segment { selector: 0x10 | privilege, base: 0, limit: u32::MAX, attributes: 0xc093 | dpl };
        match mode % 3 {
            0 => {
                let real = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0x93 };
                registers.segments = [real; 6];
                registers.segments[1].attributes = 0x9b;
            }
            1 => {
                let code = Segment { selector: 8 | privilege, base: 0, limit: u32::MAX, attributes: 0xc09b | dpl };
                registers.segments = [data, code, data, data, data, data];
                registers.cr0 = 0x11;
            }
            _ => {
                let code = Segment { selector: 0x18 | privilege, base: 0, limit: u32::MAX, attributes: 0xa09b | dpl };
                registers.segments = [data, code, data, data, data, data];
                registers.cr0 = 0x8001_0033;
                registers.cr3 = 0x1000;
                registers.cr4 = 0x4_0620;
                registers.efer = 0xd01;
                registers.xcr0 = 3;
            }
        }
        registers
    }
}
