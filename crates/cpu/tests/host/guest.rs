//! The guest that runs the snippets: the two pages of data are not neighbours in RAM, and a read-only page follows them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use accel::{Signal, Vcpu};
use cpu::TranslatorConfig;
use cpu::block::BlockExit;
use cpu::state::{Cpu, Ymm};
use x86::regs::SegmentRegister;

use super::native::{END_VECTOR, READ_ONLY, Slot, TIMEOUT, TRAMPOLINE, read_only_page};
use super::state::State;
use crate::common::{self, Bench, CODE_PHYS, DATA, DATA_LEN};

/// Where the pages of data are in RAM, and the read-only page.
const PAGES: [usize; 3] = [0x11000, 0x15000, 0x13000];
/// The page table of [`common::bench`].
const TABLE: usize = 0x4000;

/// A snippet that takes longer never ends.
const LIMIT: Duration = Duration::from_millis(500);

/// CR4: user mode may write the bases of FS and GS.
const FSGSBASE: u64 = 1 << 16;

/// How the guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The interpreter.
    Interpreter,
    /// The translator, at the first execution: each block is a region.
    Translator,
    /// The translator, at the second execution: regions of several blocks. The second of two runs is looked at.
    Regions,
}

impl Engine {
    /// Every engine that can run code of `bits` bits.
    pub fn all(bits: u32) -> Vec<Self> {
        // The translator translates 64-bit code alone.
        if bits == 64 { vec![Self::Interpreter, Self::Translator, Self::Regions] } else { vec![Self::Interpreter] }
    }

    /// Those that the environment asks for.
    pub fn wanted(bits: u32) -> Vec<Self> {
        let wanted = std::env::var("OUZEL_HOST_ENGINE").unwrap_or_default().to_lowercase();
        let all = Self::all(bits);
        all.into_iter().filter(|engine| wanted.is_empty() || format!("{engine:?}").to_lowercase() == wanted).collect()
    }

    fn config(self) -> TranslatorConfig {
        let hot_after = if self == Self::Regions { 1 } else { 0 };
        TranslatorConfig { enabled: self != Self::Interpreter, hot_after, ..TranslatorConfig::default() }
    }
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Whether the models have all of these features on this host.
pub fn has(features: &str) -> bool {
    x86::cpuid::FeatureSet::parse(features)
        .is_ok_and(|wanted| wanted.difference(&cpu::model_host().supported).is_empty())
}

/// The CPU, and which part of the code page is not HLT.
pub struct Guest {
    bench: Bench,
    engine: Engine,
    used: (usize, usize),
}

impl Guest {
    pub fn new(engine: Engine, bits: u32) -> Self {
        let mut bench = common::bench_with(3, bits, engine.config());
        let mut registers = bench.cpu.registers();
        registers.cr4 |= FSGSBASE;
        bench.cpu.set_registers(&registers);
        bench.cpu.cpu().exit_request = false;
        let index = (DATA >> 12 & 0x1ff) as usize;
        for (page, phys) in PAGES.into_iter().enumerate() {
            let rights = if DATA + 0x1000 * page as u64 == READ_ONLY { 5 } else { 7 };
            bench.ram.store_u64(TABLE + 8 * (index + page), phys as u64 | rights | 1 << 63);
        }
        bench.ram.write(PAGES[2], &read_only_page());
        bench.ram.write(CODE_PHYS, &[0xf4; 4096]);
        let signals = Arc::downgrade(&bench.signals);
        std::thread::spawn(move || {
            while let Some(signals) = signals.upgrade() {
                signals.raise(Signal::STOP);
                std::thread::sleep(LIMIT / 4);
            }
        });
        Self { bench, engine, used: (0, 0) }
    }

    /// Runs a snippet; `state` and `data` are replaced by what it leaves.
    pub fn run(&mut self, slot: &Slot, state: &mut State, data: &mut [u8; DATA_LEN]) {
        let ram = &self.bench.ram;
        ram.write(CODE_PHYS + self.used.0, &[0xf4; 4096][..self.used.1]);
        self.used = (slot.at, slot.whole_len());
        ram.write(CODE_PHYS + slot.at, &slot.code[..slot.whole_len()]);
        if self.engine == Engine::Regions {
            self.execute(slot, &mut state.clone(), &mut data.clone());
        }
        self.execute(slot, state, data);
    }

    fn execute(&mut self, slot: &Slot, state: &mut State, data: &mut [u8; DATA_LEN]) {
        let ram = &self.bench.ram;
        for (page, phys) in data.chunks_exact(4096).zip(PAGES) {
            ram.write(phys, page);
        }
        let cpu = self.bench.cpu.cpu();
        load(cpu, state);
        let start = Instant::now();
        let vector = loop {
            match cpu.exec_blocks() {
                BlockExit::Fault(fault) => {
                    state.error = fault.error_code().unwrap_or(0);
                    break fault.vector();
                }
                BlockExit::Signals if start.elapsed() < LIMIT => {
                    self.bench.signals.clear(Signal::STOP);
                    cpu.exit_request = false;
                }
                _ => break TIMEOUT,
            }
        };
        store(cpu, state);
        state.vector = vector;
        if (vector, state.rip, state.address) == (14, TRAMPOLINE, TRAMPOLINE) {
            (state.rip, state.vector, state.error) = (slot.end(), END_VECTOR, 0);
        }
        for (page, phys) in data.chunks_exact_mut(4096).zip(PAGES) {
            self.bench.ram.read(phys, page);
        }
    }
}

fn load(cpu: &mut Cpu, state: &State) {
    cpu.gpr = state.gpr;
    cpu.set_rip(state.rip);
    cpu.set_rflags(state.rflags | 0x202);
    let mut image = [0; 160];
    image.copy_from_slice(&state.fx[..160]);
    cpu.x87.fxrstor(fpu::FxsaveFormat::Long, &image);
    cpu.mxcsr = fpu::Mxcsr(state.mxcsr());
    for n in 0..16 {
        cpu.ymm[n] = Ymm { low: state.xmm(n), high: state.upper[n] };
    }
    for (segment, base) in [(SegmentRegister::Fs, state.fs_base), (SegmentRegister::Gs, state.gs_base)] {
        cpu.segs[segment as usize].base = base;
        cpu.seg_base[segment as usize] = base;
    }
    cpu.exit_request = false;
}

fn store(cpu: &Cpu, state: &mut State) {
    state.gpr = cpu.gpr;
    state.rip = cpu.rip;
    state.rflags = cpu.rflags() & 0xcd5;
    state.address = cpu.fault_address;
    let mut image = [0; 160];
    cpu.x87.fxsave(fpu::FxsaveFormat::Long, &mut image);
    state.fx[..24].copy_from_slice(&image[..24]);
    state.fx[32..160].copy_from_slice(&image[32..160]);
    state.fx[24..28].copy_from_slice(&cpu.mxcsr.0.to_le_bytes());
    for n in 0..16 {
        state.fx[160 + 16 * n..176 + 16 * n].copy_from_slice(&cpu.ymm[n].low.to_le_bytes());
        state.upper[n] = cpu.ymm[n].high;
    }
    state.fs_base = cpu.segs[SegmentRegister::Fs as usize].base;
    state.gs_base = cpu.segs[SegmentRegister::Gs as usize].base;
}
