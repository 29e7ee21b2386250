//! A bare vCPU with 16 MiB of RAM and a port log, and builders for descriptors and page tables.
#![allow(dead_code, reason = "each test program uses its part of the bench")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use accel::{ApicMsrError, CpuSignals, LocalApic, Signal, Vcpu, VcpuExit};
use clock::Clock;
use cpu::{CpuConfig, SoftCpu, TranslatorConfig};
use memory::{AccessSize, AddressSpace, Backing, GuestAddress, Io, RamBlock, SpaceKind};
use x86::model::{CpuModel, Topology};
use x86::regs::{Registers, Segment, SegmentRegister, TableRegister};

pub const RAM: u64 = 16 << 20;

pub const CR0_PE: u64 = 1;
pub const CR0_WP: u64 = 1 << 16;
pub const CR0_PG: u64 = 1 << 31;
pub const CR4_PSE: u64 = 1 << 4;
pub const CR4_PAE: u64 = 1 << 5;
pub const CR4_PGE: u64 = 1 << 7;
pub const CR4_PCIDE: u64 = 1 << 17;
pub const CR4_SMEP: u64 = 1 << 20;
pub const CR4_SMAP: u64 = 1 << 21;
pub const EFER_LONG: u64 = 1 << 8 | 1 << 10;
pub const EFER_NXE: u64 = 1 << 11;

/// An APIC that hands out one vector.
pub struct Apic {
    pub vector: Mutex<Option<u8>>,
    signals: Arc<CpuSignals>,
    base: AtomicU64,
}

impl LocalApic for Apic {
    fn acknowledge(&self) -> Option<u8> {
        self.signals.clear(Signal::INTR);
        self.vector.lock().expect("vector").take()
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&self, _cr8: u8) {}
    fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }
    fn set_base(&self, value: u64) -> Result<(), ApicMsrError> {
        self.base.store(value, Ordering::Relaxed);
        Ok(())
    }
    fn read_msr(&self, _index: u32) -> Result<u64, ApicMsrError> {
        Err(ApicMsrError)
    }
    fn write_msr(&self, _index: u32, _value: u64) -> Result<(), ApicMsrError> {
        Err(ApicMsrError)
    }
    fn init(&self) {}
}

/// Ports: writes are logged, reads give the port number.
#[derive(Default)]
pub struct Ports(pub Mutex<Vec<(u16, u64)>>);

impl Io for Ports {
    fn read(&self, offset: u64, _size: AccessSize) -> u64 {
        offset
    }
    fn write(&self, offset: u64, _size: AccessSize, value: u64) {
        self.0.lock().expect("log").push((offset as u16, value));
    }
}

/// Where system-management mode has 128 KiB of its own, over RAM.
pub const SMRAM: u64 = 0xa_0000;

pub struct Bench {
    pub cpu: SoftCpu,
    pub ram: Arc<RamBlock>,
    pub memory: Arc<AddressSpace>,
    /// What system-management mode sees, if that is something else.
    pub smm_memory: Option<Arc<AddressSpace>>,
    pub ports: Arc<Ports>,
    pub port_space: Arc<AddressSpace>,
    pub signals: Arc<CpuSignals>,
    pub apic: Arc<Apic>,
    pub a20: Arc<AtomicBool>,
    pub clock: Clock,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_model("max")
    }

    pub fn with_model(model: &str) -> Self {
        Self::with(model, true, false, TranslatorConfig::default())
    }

    /// With settings of the translator.
    pub fn with_translator(translator: TranslatorConfig) -> Self {
        Self::with("max", true, false, translator)
    }

    /// System-management mode sees another memory: the same RAM, and [`SMRAM`] behind the first 64 KiB of a hole.
    pub fn with_smram(model: &str) -> Self {
        Self::with(model, true, true, TranslatorConfig::default())
    }

    /// A processor that waits for its start-up IPI.
    pub fn application_processor() -> Self {
        Self::with("max", false, false, TranslatorConfig::default())
    }

    fn with(model: &str, boot_processor: bool, smram: bool, translator: TranslatorConfig) -> Self {
        let ram = Arc::new(RamBlock::new("pc.ram", RAM).expect("RAM"));
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
        memory.map(GuestAddress(0), RAM, 0, backing).expect("map");
        let smm_memory = smram.then(|| {
            let space = Arc::new(AddressSpace::new(SpaceKind::Memory));
            let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
            space.map(GuestAddress(0), RAM, 0, backing).expect("map");
            let block = Arc::new(RamBlock::new("smram", 0x2_0000).expect("RAM"));
            space
                .map(GuestAddress(SMRAM), 0x2_0000, 1, Backing::Ram { block, offset: 0, read_only: false })
                .expect("map");
            space
        });
        let port_space = Arc::new(AddressSpace::new(SpaceKind::Ports));
        let ports = Arc::new(Ports::default());
        port_space.map(GuestAddress(0), 0x1_0000, 0, Backing::Io(ports.clone())).expect("map");
        let signals = Arc::new(CpuSignals::default());
        let apic = Arc::new(Apic {
            vector: Mutex::default(),
            signals: Arc::clone(&signals),
            base: AtomicU64::new(0xfee0_0900),
        });
        let (model, _) = CpuModel::parse(model, &cpu::model_host()).expect("model");
        let topology = Topology { sockets: 1, dies: 1, cores: 1, threads: 1 };
        let a20 = Arc::new(AtomicBool::new(true));
        let clock = Clock::manual();
        let cpu = SoftCpu::new(CpuConfig {
            apic_id: 0,
            boot_processor,
            features: Arc::new(model.build(topology, 0)),
            memory: Arc::clone(&memory),
            smm_memory: smm_memory.clone(),
            ports: Arc::clone(&port_space),
            clock: clock.clone(),
            tsc_khz: CpuConfig::DEFAULT_TSC_KHZ,
            microcode_revision: 0x0100_00de,
            signals: Arc::clone(&signals),
            apic: apic.clone(),
            a20: Arc::clone(&a20),
            exclusive: Arc::default(),
            ferr: None,
            translator,
            counter: None,
        });
        Self { cpu, ram, memory, smm_memory, ports, port_space, signals, apic, a20, clock }
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        assert!(self.ram.write(at as usize, bytes));
    }
    pub fn put64(&self, at: u64, value: u64) {
        assert!(self.ram.store_u64(at as usize, value));
    }
    pub fn put32(&self, at: u64, value: u32) {
        assert!(self.ram.store_u32(at as usize, value));
    }
    pub fn put16(&self, at: u64, value: u16) {
        assert!(self.ram.store_u16(at as usize, value));
    }
    pub fn get64(&self, at: u64) -> u64 {
        self.ram.load_u64(at as usize).expect("RAM")
    }
    pub fn get32(&self, at: u64) -> u32 {
        self.ram.load_u32(at as usize).expect("RAM")
    }
    pub fn get16(&self, at: u64) -> u16 {
        self.ram.load_u16(at as usize).expect("RAM")
    }

    pub fn set(&mut self, registers: &Registers) {
        self.cpu.set_registers(registers);
    }

    /// Runs until HLT.
    pub fn run_to_halt(&mut self) -> Registers {
        assert_eq!(self.cpu.run(), VcpuExit::Halted);
        self.cpu.registers()
    }

    pub fn outputs(&self) -> Vec<(u16, u64)> {
        self.ports.0.lock().expect("log").clone()
    }
}

/// A segment descriptor with base, limit in bytes (page granularity above 1 MiB) and access byte; `flags` are AVL, L, DB
/// as bits 0..2.
pub fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (limit, g) = if limit > 0xf_ffff { (limit >> 12, 8u64) } else { (limit, 0) };
    let (base, limit) = (u64::from(base), u64::from(limit));
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | u64::from(access) << 40
        | (limit >> 16) << 48
        | (g | u64::from(flags)) << 52
        | (base >> 24) << 56
}

/// A gate of 8 bytes.
pub fn gate(selector: u16, offset: u32, access: u8, count: u8) -> u64 {
    let offset = u64::from(offset);
    (offset & 0xffff)
        | u64::from(selector) << 16
        | u64::from(count) << 32
        | u64::from(access) << 40
        | (offset >> 16) << 48
}

pub const CODE32: u64 = 0x00cf_9b00_0000_ffff;
pub const DATA32: u64 = 0x00cf_9300_0000_ffff;
pub const CODE64: u64 = 0x00af_9b00_0000_ffff;
pub const USER_CODE32: u64 = 0x00cf_fb00_0000_ffff;
pub const USER_DATA: u64 = 0x00cf_f300_0000_ffff;
pub const USER_CODE64: u64 = 0x00af_fb00_0000_ffff;

/// The hidden part that a descriptor gives.
pub fn segment(selector: u16, descriptor: u64) -> Segment {
    let limit = (descriptor & 0xffff) as u32 | (descriptor >> 32) as u32 & 0xf_0000;
    let limit = if descriptor >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit };
    Segment {
        selector,
        base: (descriptor >> 16 & 0xff_ffff) | (descriptor >> 56) << 24,
        limit,
        attributes: (descriptor >> 40) as u16 & 0xf0ff,
    }
}

/// Selectors of the GDT that [`protected`] and [`long`] use.
pub mod sel {
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE: u16 = 0x1b;
    pub const USER_DATA: u16 = 0x23;
    pub const TSS: u16 = 0x28;
    pub const TSS2: u16 = 0x30;
    pub const GATE: u16 = 0x38;
    pub const CODE_LONG: u16 = 0x40;
    pub const USER_CODE_LONG: u16 = 0x4b;
    pub const TSS64: u16 = 0x50;
}

pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const TSS2: u64 = 0x3800;
pub const KERNEL_STACK: u64 = 0x9000;
pub const USER_STACK: u64 = 0xb000;
pub const CODE: u64 = 0x8_0000;

fn write_gdt(bench: &Bench) {
    for (index, entry) in [
        0,
        CODE32,
        DATA32,
        USER_CODE32,
        USER_DATA,
        descriptor(TSS as u32, 0x67, 0x8b, 0),
        descriptor(TSS2 as u32, 0x67, 0x89, 0),
        0,
        CODE64,
        USER_CODE64,
        descriptor(TSS as u32, 0x67, 0x8b, 0),
        0,
    ]
    .into_iter()
    .enumerate()
    {
        bench.put64(GDT + 8 * index as u64, entry);
    }
}

/// Flat 32-bit protected mode at level `cpl` with a TSS for level 0; RIP is [`CODE`].
pub fn protected(bench: &Bench, cpl: u8) -> Registers {
    write_gdt(bench);
    bench.put32(TSS + 4, KERNEL_STACK as u32);
    bench.put32(TSS + 8, u32::from(sel::DATA));
    bench.put16(TSS + 0x66, 0x68);
    let (code, data, stack) = if cpl == 0 {
        (segment(sel::CODE, CODE32), segment(sel::DATA, DATA32), KERNEL_STACK)
    } else {
        (segment(sel::USER_CODE, USER_CODE32), segment(sel::USER_DATA, USER_DATA), USER_STACK)
    };
    let mut registers = Registers {
        rip: CODE,
        rflags: 2,
        cr0: CR0_PE | 0x10,
        segments: [data; 6],
        tr: segment(sel::TSS, descriptor(TSS as u32, 0x67, 0x8b, 0)),
        gdtr: TableRegister { base: GDT, limit: 0x5f },
        idtr: TableRegister { base: IDT, limit: 0xfff },
        xcr0: 1,
        apic_base: 0xfee0_0900,
        ..Registers::default()
    };
    registers.segments[SegmentRegister::Cs as usize] = code;
    registers.gpr[4] = stack;
    registers.debug[6] = 0xffff_0ff0;
    registers.debug[7] = 0x400;
    registers
}

pub const PML4: u64 = 0x10_0000;
pub const PDPT: u64 = 0x10_1000;
pub const PD: u64 = 0x10_2000;
pub const PT: u64 = 0x10_3000;

/// 64-bit mode at level `cpl` with the first 16 MiB mapped one to one, user and writable, by 2 MiB pages.
pub fn long(bench: &Bench, cpl: u8) -> Registers {
    let mut registers = protected(bench, cpl);
    bench.put64(PML4, PDPT | 7);
    bench.put64(PDPT, PD | 7);
    for index in 0..8 {
        bench.put64(PD + 8 * index, index << 21 | 0x87);
    }
    registers.cr0 |= CR0_PG | CR0_WP;
    registers.cr3 = PML4;
    registers.cr4 = CR4_PAE;
    registers.efer = EFER_LONG | EFER_NXE;
    bench.put64(TSS + 4, KERNEL_STACK);
    registers.segments[SegmentRegister::Cs as usize] =
        if cpl == 0 { segment(sel::CODE_LONG, CODE64) } else { segment(sel::USER_CODE_LONG, USER_CODE64) };
    registers.tr = segment(sel::TSS64, descriptor(TSS as u32, 0x67, 0x8b, 0));
    registers
}

/// A 32-bit interrupt gate to `offset`.
pub fn set_gate32(bench: &Bench, vector: u8, offset: u64, dpl: u8) {
    bench.put64(IDT + 8 * u64::from(vector), gate(sel::CODE, offset as u32, 0x8e | dpl << 5, 0));
}

/// A 64-bit interrupt gate to `offset`.
pub fn set_gate64(bench: &Bench, vector: u8, offset: u64, dpl: u8, ist: u8) {
    let at = IDT + 16 * u64::from(vector);
    bench.put64(at, gate(sel::CODE_LONG, offset as u32, 0x8e | dpl << 5, ist));
    bench.put64(at + 8, offset >> 32);
}
