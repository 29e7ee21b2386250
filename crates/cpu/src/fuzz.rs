//! Entry points for fuzzing: arbitrary bytes as code, in every mode. They must not panic. And what fuzzers and tests
//! share: the wiring of a CPU without a machine.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use accel::{ApicMsrError, CpuSignals, LocalApic, Signal, Vcpu};
use clock::Clock;
use memory::{AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};
use x86::cpuid::CpuidTable;
use x86::regs::{Registers, Segment, TableRegister};

use crate::decode::{Decoded, decode};
use crate::ops::lower::Context;
use crate::{CpuConfig, ExclusiveLock, SoftCpu, TranslatorConfig};

/// An APIC that never interrupts.
struct Quiet;

impl LocalApic for Quiet {
    fn acknowledge(&self) -> Option<u8> {
        None
    }

    fn cr8(&self) -> u8 {
        0
    }

    fn set_cr8(&self, _cr8: u8) {}

    fn base(&self) -> u64 {
        0xfee0_0900
    }

    fn set_base(&self, _value: u64) -> Result<(), ApicMsrError> {
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

/// The wiring of a CPU on its own: an APIC that never interrupts, no ports, a clock that stands.
#[must_use]
pub fn config(features: Arc<CpuidTable>, memory: Arc<AddressSpace>, translator: TranslatorConfig) -> CpuConfig {
    CpuConfig {
        apic_id: 0,
        boot_processor: true,
        features,
        memory,
        smm_memory: None,
        ports: Arc::new(AddressSpace::new(SpaceKind::Ports)),
        clock: Clock::manual(),
        tsc_khz: CpuConfig::DEFAULT_TSC_KHZ,
        signals: Arc::new(CpuSignals::default()),
        apic: Arc::new(Quiet),
        a20: Arc::new(AtomicBool::new(true)),
        exclusive: Arc::new(ExclusiveLock::default()),
        ferr: None,
        microcode_revision: 0,
        translator,
        counter: None,
    }
}

/// Size of the guest's memory.
const MEMORY: u64 = 1 << 20;
/// Where the code starts.
const CODE: u64 = 0x7c00;
/// Blocks of one instruction that are executed at most.
const STEPS: usize = 256;

/// Lowers arbitrary bytes as code of 16, 32 or 64 bits (`mode` modulo 3): the number of instructions found.
#[must_use]
pub fn fuzz_decode(model: &Arc<CpuidTable>, bytes: &[u8], mode: u8) -> usize {
    let features = crate::cpuid::Features::new(Arc::clone(model));
    let bits = match mode % 3 {
        0 => 16,
        1 => 32,
        _ => 64,
    };
    let (mut rest, mut count) = (bytes, 0);
    while !rest.is_empty() {
        match decode(&Context { bits, vex: true, features: &features }, rest) {
            Decoded::Op(op, _) => rest = rest.get(usize::from(op.len).max(1)..).unwrap_or(&[]),
            Decoded::Incomplete => break,
        }
        count += 1;
    }
    count
}

/// Executes arbitrary bytes at privilege 0 in a megabyte of memory: real mode, 16- and 32-bit protected mode, 64-bit
/// mode (`mode` modulo 4). Descriptor tables lie where the bytes may reach them. Returns RIP.
#[must_use]
pub fn fuzz_execute(model: &Arc<CpuidTable>, bytes: &[u8], mode: u8) -> u64 {
    let Some((mut cpu, signals)) = machine(model, bytes, mode, TranslatorConfig::default()) else { return 0 };
    // STOP ends each call of `run` at once, so the steps are made below it.
    signals.raise(Signal::STOP);
    let _ = cpu.run();
    let state = cpu.cpu();
    state.one_instruction = true;
    for _ in 0..STEPS {
        state.exit_request = false;
        if let crate::block::BlockExit::Fault(fault) = state.exec_blocks() {
            state.deliver(fault);
        }
    }
    state.rip
}

/// A CPU that is about to execute `bytes`, and its signals.
pub(crate) fn machine(
    model: &Arc<CpuidTable>,
    bytes: &[u8],
    mode: u8,
    translator: TranslatorConfig,
) -> Option<(SoftCpu, Arc<CpuSignals>)> {
    let ram = Arc::new(RamBlock::new("fuzz", MEMORY).ok()?);
    let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
    let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
    memory.map(GuestAddress(0), MEMORY, 0, backing).ok()?;
    ram.write(CODE as usize, bytes.get(..0x8000).unwrap_or(bytes));
    let config = config(Arc::clone(model), memory, translator);
    let signals = Arc::clone(&config.signals);
    let mut cpu = SoftCpu::new(config);
    let mut registers = cpu.registers();
    start(&mut registers, &ram, mode);
    cpu.set_registers(&registers);
    Some((cpu, signals))
}

/// The largest model that this host allows.
#[cfg(test)]
pub(crate) fn model() -> Arc<CpuidTable> {
    use x86::model::{CpuModel, Topology};
    let (model, _) = CpuModel::parse("max", &crate::model_host()).expect("model");
    Arc::new(model.build(Topology { sockets: 1, dies: 1, cores: 1, threads: 1 }, 0))
}

fn start(registers: &mut Registers, ram: &RamBlock, mode: u8) {
    let flat = |selector, attributes| Segment { selector, base: 0, limit: u32::MAX, attributes };
    registers.rip = CODE;
    registers.gpr = [0x1000; 16];
    registers.gpr[4] = 0x7000;
    registers.idtr = TableRegister { base: 0, limit: 0x3ff };
    registers.gdtr = TableRegister { base: 0x800, limit: 0x7f };
    let real = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0x93 };
    let kind = mode % 4;
    let code = match kind {
        0 => Segment { attributes: 0x9b, ..real },
        1 => flat(8, 0x809b),
        2 => flat(8, 0xc09b),
        _ => flat(8, 0xa09b),
    };
    let data = if kind == 0 { real } else { flat(16, 0xc093) };
    registers.segments = [data, code, data, data, data, data];
    registers.cr0 = if kind == 0 { 0x10 } else { 0x11 };
    registers.cr4 = 0x4_0600;
    if kind == 3 {
        // One table of 2 MiB pages that maps memory onto itself.
        ram.store_u64(0x2000, 0x3007);
        ram.store_u64(0x3000, 0x4007);
        ram.store_u64(0x4000, 0x87);
        registers.cr0 |= 1 << 31;
        registers.cr3 = 0x2000;
        registers.cr4 |= 0x20;
        registers.efer = 0xd00;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn random_bytes_decode_in_all_modes() {
        let (model, mut seed) = (model(), 0x1234_5678_9abc_def1);
        for case in 0..20_000u32 {
            let bytes: Vec<u8> = (0..32).map(|_| random(&mut seed) as u8).collect();
            assert!(fuzz_decode(&model, &bytes, case as u8) > 0, "{bytes:02x?}");
        }
    }

    #[test]
    fn every_opcode_of_the_main_maps_decodes_in_all_modes() {
        let model = model();
        for prefix in [&[][..], &[0x66], &[0xf2], &[0xf3], &[0x67], &[0xf0]] {
            for map in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
                for opcode in 0..=255u8 {
                    for modrm in [0x00, 0x05, 0x44, 0x80, 0xc0, 0xd1, 0xe2, 0xf3, 0xfc] {
                        let mut bytes = [prefix, map, &[opcode, modrm]].concat();
                        bytes.resize(24, 0x11);
                        for mode in 0..3 {
                            assert!(fuzz_decode(&model, &bytes, mode) > 0);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn random_bytes_execute_in_all_modes() {
        let (model, mut seed) = (model(), 0xfeed_5678_9abc_def1);
        for case in 0..600u32 {
            let bytes: Vec<u8> = (0..512).map(|_| random(&mut seed) as u8).collect();
            let _ = fuzz_execute(&model, &bytes, case as u8);
        }
    }
}
