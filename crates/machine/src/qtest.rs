//! What `-accel qtest` and the qtest server need of a machine: vCPUs that never execute, a clock that only steps, a tap
//! on the interrupt lines, and the address spaces as a test drives them.
//!
//! The vCPUs exist, so that registers, topology and local APICs answer as ever; they just sleep. Everything else of the
//! machine is what it is under any accelerator.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use accel::{
    AccelError, Accelerator, ApicRegisters, CpuSignals, DirtyLog, Interrupts, MachineSpaces, Signal, TranslatorStats,
    Vcpu, VcpuConfig, VcpuExit, VcpuReset,
};
use clock::Clock;
use cpu::TranslatorConfig;
use device::{IrqInput, IrqLine, IrqSink, Lifecycle};
use memory::{AddressSpace, GuestAddress};
use x86::model::Host;
use x86::regs::Registers;

use crate::accelerator::SoftwareAccelerator;

/// The name of `-accel`.
pub const NAME: &str = "qtest";

/// Makes vCPUs that never execute.
#[derive(Debug)]
pub struct QtestAccelerator(SoftwareAccelerator);

impl Default for QtestAccelerator {
    fn default() -> Self {
        let translator = TranslatorConfig { enabled: false, ..TranslatorConfig::default() };
        Self(SoftwareAccelerator::new(translator, None, None))
    }
}

impl Accelerator for QtestAccelerator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn host(&self) -> Host {
        self.0.host()
    }

    fn interrupts(&self) -> Interrupts {
        self.0.interrupts()
    }

    fn reserved_memory(&self) -> Option<Range<u64>> {
        self.0.reserved_memory()
    }

    fn has_smm(&self) -> bool {
        self.0.has_smm()
    }

    fn attach(&self, spaces: &MachineSpaces) -> Result<(), AccelError> {
        self.0.attach(spaces)
    }

    fn create_vcpu(&self, config: VcpuConfig) -> Result<Box<dyn Vcpu>, AccelError> {
        let signals = Arc::clone(&config.signals);
        Ok(Box::new(IdleVcpu { cpu: self.0.create_vcpu(config)?, signals }))
    }

    // The clock is the test's.
    fn start(&self) {}

    fn stop(&self) {}

    fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>> {
        None
    }
}

/// A software CPU that is never run.
struct IdleVcpu {
    cpu: Box<dyn Vcpu>,
    signals: Arc<CpuSignals>,
}

impl Vcpu for IdleVcpu {
    fn run(&mut self) -> VcpuExit {
        // Nothing takes them, and they would keep the thread from sleeping.
        self.signals.clear(Signal::NMI.with(Signal::SMI).with(Signal::INIT).with(Signal::SIPI).with(Signal::REMAP));
        VcpuExit::Halted
    }

    fn reset(&mut self, kind: VcpuReset) {
        self.cpu.reset(kind);
    }

    fn registers(&mut self) -> Registers {
        self.cpu.registers()
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.cpu.set_registers(registers);
    }

    fn translate(&mut self, linear: u64) -> Option<GuestAddress> {
        self.cpu.translate(linear)
    }

    fn local_apic(&mut self) -> Option<&mut dyn ApicRegisters> {
        self.cpu.local_apic()
    }

    fn translator_stats(&self) -> Option<TranslatorStats> {
        None
    }
}

/// Is told of each change of a line: its number and its new level. Called with device locks held.
pub type LineListener = Box<dyn Fn(u32, bool) + Send>;

/// A place to listen at, in front of an interrupt controller. What it hears is passed on.
#[derive(Default)]
pub struct IrqTap(Mutex<Tapped>);

#[derive(Default)]
struct Tapped {
    listener: Option<LineListener>,
    levels: BTreeMap<u32, bool>,
}

impl IrqTap {
    /// Begins to listen; `false` when somebody does already.
    pub fn listen(&self, listener: LineListener) -> bool {
        let mut tapped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = tapped.listener.is_none();
        if is_first {
            tapped.listener = Some(listener);
        }
        is_first
    }

    fn hear(&self, pin: u32, level: bool) {
        let mut tapped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tapped.levels.insert(pin, level).unwrap_or(false);
        if before != level
            && let Some(listener) = &tapped.listener
        {
            listener(pin, level);
        }
    }

    /// Puts the tap in front of `sink`.
    pub fn in_front_of(self: &Arc<Self>, sink: Arc<dyn IrqSink>) -> Arc<dyn IrqSink> {
        Arc::new(TappedSink { tap: Arc::clone(self), sink })
    }
}

struct TappedSink {
    tap: Arc<IrqTap>,
    sink: Arc<dyn IrqSink>,
}

impl IrqSink for TappedSink {
    fn set_level(&self, pin: u32, level: bool) {
        self.tap.hear(pin, level);
        self.sink.set_level(pin, level);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.sink.restore_level(pin, level);
    }

    fn is_pending(&self, pin: u32) -> bool {
        self.sink.is_pending(pin)
    }
}

/// A machine as a test drives it.
pub struct QtestAccess {
    /// Guest-physical memory.
    pub memory: Arc<AddressSpace>,
    /// I/O ports.
    pub ports: Arc<AddressSpace>,
    /// Guest time. Steps only under `-accel qtest`.
    pub clock: Clock,
    /// The devices with their types' names.
    pub devices: Vec<(&'static str, Arc<dyn Lifecycle>)>,
    pub(crate) taps: Vec<(String, Arc<IrqTap>)>,
    pub(crate) inputs: Vec<IrqInput>,
    pub(crate) driven: BTreeMap<u32, IrqLine>,
}

impl QtestAccess {
    /// The tap in front of the interrupt controller that `path` names: a whole path of the object tree, or its end.
    pub fn tap(&self, path: &str) -> Option<&Arc<IrqTap>> {
        let is_it = |name: &str| name == path || (!path.starts_with('/') && name.ends_with(&format!("/{path}")));
        self.taps.iter().find(|(name, _)| is_it(name)).map(|(_, tap)| tap)
    }

    /// Drives input `pin` of the controller that `path` names; `false` if there is none.
    pub fn drive(&mut self, path: &str, pin: u32, level: bool) -> bool {
        if self.tap(path).is_none() {
            return false;
        }
        let Some(input) = self.inputs.get(pin as usize) else { return false };
        self.driven.entry(pin).or_insert_with(|| input.line()).set(level);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl IrqSink for Nothing {
        fn set_level(&self, _: u32, _: bool) {}
        fn restore_level(&self, _: u32, _: bool) {}
    }

    #[test]
    fn tap_tells_each_change_of_level_once_and_has_one_listener() {
        let tap = Arc::new(IrqTap::default());
        let sink = tap.in_front_of(Arc::new(Nothing));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        sink.set_level(3, true);
        assert!(tap.listen(Box::new(move |pin, level| log.lock().expect("log").push((pin, level)))));
        assert!(!tap.listen(Box::new(|_, _| ())));
        for level in [true, false, false, true] {
            sink.set_level(3, level);
        }
        assert_eq!(*heard.lock().expect("log"), [(3, false), (3, true)]);
    }
}
