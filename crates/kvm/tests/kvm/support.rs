//! A small machine around one vCPU: RAM at 0, a few ports and a device page.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use accel::{Accelerator, CpuSignals, InterruptSource, IoApicEnd, MachineSpaces, Signal, Vcpu, VcpuConfig, VcpuExit};
use clock::Clock;
use kvm::{IrqchipMode, Kvm, KvmAccelerator, KvmError, KvmOptions};
use memory::{AccessSize, AddressSpace, Backing, GuestAddress, Io, RamBlock, SpaceKind};
use x86::cpuid::CpuidTable;
use x86::model::{CpuModel, Host, Topology};

/// Where code begins.
pub const CODE: u64 = 0x1000;
/// A write to this port ends the run.
pub const STOP_PORT: u16 = 0xf4;
/// Accesses to these ports are written down; a read gives the next of [`Machine::answers`].
pub const TEST_PORTS: u16 = 0x300;
/// Accesses to this page are written down.
pub const DEVICE: u64 = 0xd_0000;
/// RAM from 0.
pub const RAM_SIZE: u64 = 0x80_0000;
/// Longer than any guest here needs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Tells why a test can't run here.
pub fn skip(test: &str, reason: &str) {
    // Past the capture of passing tests' output.
    writeln!(std::io::stderr(), "skipped: {test}: {reason}").expect("standard error");
}

/// An access as a device sees it: offset, size, and what was written.
pub type Access = (u64, AccessSize, Option<u64>);

/// A device that writes down what happens to it.
#[derive(Default)]
pub struct Recorder {
    pub log: Mutex<Vec<Access>>,
    pub answers: Mutex<Vec<u64>>,
}

impl Recorder {
    /// What happened, in order.
    pub fn take(&self) -> Vec<Access> {
        std::mem::take(&mut self.log.lock().expect("log"))
    }

    /// The written values, in order.
    pub fn written(&self) -> Vec<u64> {
        self.take().into_iter().filter_map(|(_, _, value)| value).collect()
    }
}

pub struct Recording(pub Arc<Recorder>);

impl Io for Recording {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        self.0.log.lock().expect("log").push((offset, size, None));
        let mut answers = self.0.answers.lock().expect("answers");
        if answers.is_empty() { 0 } else { answers.remove(0) }
    }
    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        self.0.log.lock().expect("log").push((offset, size, Some(value)));
    }
}

struct StopPort(Arc<CpuSignals>);

impl Io for StopPort {
    fn read(&self, _: u64, size: AccessSize) -> u64 {
        size.mask()
    }
    fn write(&self, _: u64, _: AccessSize, _: u64) {
        self.0.raise(Signal::STOP);
    }
}

pub struct Machine {
    pub accelerator: KvmAccelerator,
    pub memory: Arc<AddressSpace>,
    pub ports: Arc<AddressSpace>,
    pub ram: Arc<RamBlock>,
    pub signals: Arc<CpuSignals>,
    pub test_ports: Arc<Recorder>,
    pub device: Arc<Recorder>,
    pub vcpu: Box<dyn Vcpu>,
}

/// The accelerator, or the reason why there is none, printed.
pub fn open(test: &str, irqchip: IrqchipMode) -> Option<KvmAccelerator> {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error @ (KvmError::Open(_) | KvmError::Missing(_))) => {
            skip(test, &error.to_string());
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    match KvmAccelerator::new(kvm, &KvmOptions { irqchip }) {
        Ok(accelerator) => Some(accelerator),
        Err(error @ (KvmError::SplitIrqchip(_) | KvmError::KernelIrqchip(_))) => {
            skip(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub fn model(host: &Host, name: &str, apic_id: u32) -> Arc<CpuidTable> {
    let (model, _warnings) = CpuModel::parse(name, host).expect("model");
    Arc::new(model.build(Topology { sockets: 2, dies: 1, cores: 1, threads: 1 }, apic_id))
}

pub fn vcpu_config(machine: &Spaces, apic_id: u32, interrupts: InterruptSource, host: &Host) -> VcpuConfig {
    VcpuConfig {
        index: apic_id as usize,
        apic_id,
        boot_processor: apic_id == 0,
        features: model(host, "qemu64", apic_id),
        memory: Arc::clone(&machine.memory),
        smm_memory: machine.smm_memory.clone(),
        ports: Arc::clone(&machine.ports),
        clock: Clock::manual(),
        tsc_khz: None,
        microcode_revision: 0x0100_0065,
        signals: Arc::default(),
        interrupts,
        a20: Arc::new(true.into()),
        ferr: Arc::new(|| ()),
    }
}

/// Memory and ports without a vCPU.
pub struct Spaces {
    pub memory: Arc<AddressSpace>,
    /// What system-management mode sees, if there is one.
    pub smm_memory: Option<Arc<AddressSpace>>,
    pub ports: Arc<AddressSpace>,
    pub ram: Arc<RamBlock>,
    pub test_ports: Arc<Recorder>,
    pub device: Arc<Recorder>,
}

impl Spaces {
    pub fn new() -> Self {
        let ram = Arc::new(RamBlock::new("ram", RAM_SIZE).expect("RAM"));
        let memory = Arc::new(AddressSpace::new(SpaceKind::Memory));
        let ports = Arc::new(AddressSpace::new(SpaceKind::Ports));
        let backing = Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
        memory.map(GuestAddress(0), RAM_SIZE, 0, backing).expect("RAM");
        let (test_ports, device) = (Arc::<Recorder>::default(), Arc::<Recorder>::default());
        let recording = |recorder: &Arc<Recorder>| Backing::Io(Arc::new(Recording(Arc::clone(recorder))));
        memory.map(GuestAddress(DEVICE), 0x1000, 1, recording(&device)).expect("device");
        ports.map(GuestAddress(TEST_PORTS.into()), 16, 0, recording(&test_ports)).expect("ports");
        Self { memory, smm_memory: None, ports, ram, test_ports, device }
    }
}

impl Machine {
    /// A machine without interrupt sources, whose vCPU runs `code` in real mode. `None`: skipped.
    pub fn new(test: &str, irqchip: IrqchipMode, code: &[u8]) -> Option<Self> {
        // An APIC that never interrupts, where one is needed.
        let interrupts = match irqchip {
            IrqchipMode::Off => InterruptSource::Apic(Arc::new(crate::interrupts::TestApic::default())),
            IrqchipMode::On | IrqchipMode::Split => InterruptSource::Accelerator,
        };
        Self::with_interrupts(test, irqchip, interrupts, code)
    }

    pub fn with_interrupts(test: &str, irqchip: IrqchipMode, interrupts: InterruptSource, code: &[u8]) -> Option<Self> {
        Some(Self::of(open(test, irqchip)?, interrupts, None, code))
    }

    /// A machine on an accelerator that nobody has used yet.
    pub fn of(
        accelerator: KvmAccelerator,
        interrupts: InterruptSource,
        end_of_interrupt: Option<IoApicEnd>,
        code: &[u8],
    ) -> Self {
        Self::in_spaces(accelerator, Spaces::new(), interrupts, end_of_interrupt, code)
    }

    /// The same with memory and ports that were made before.
    pub fn in_spaces(
        accelerator: KvmAccelerator,
        spaces: Spaces,
        interrupts: InterruptSource,
        end_of_interrupt: Option<IoApicEnd>,
        code: &[u8],
    ) -> Self {
        let (memory, smm_memory) = (Arc::clone(&spaces.memory), spaces.smm_memory.clone());
        let attached = MachineSpaces { memory, smm_memory, end_of_interrupt };
        accelerator.attach(&attached).expect("memory");
        let config = vcpu_config(&spaces, 0, interrupts, &accelerator.host());
        let signals = Arc::clone(&config.signals);
        let vcpu = accelerator.create_vcpu(config).expect("vCPU");
        let stop = Backing::Io(Arc::new(StopPort(Arc::clone(&signals))));
        spaces.ports.map(GuestAddress(STOP_PORT.into()), 1, 0, stop).expect("port");
        let Spaces { memory, smm_memory: _, ports, ram, test_ports, device } = spaces;
        let mut machine = Self { accelerator, memory, ports, ram, signals, test_ports, device, vcpu };
        machine.load(CODE, code);
        machine.start_at(CODE as u16);
        machine
    }

    pub fn load(&self, address: u64, bytes: &[u8]) {
        self.memory.load_image(GuestAddress(address), bytes).expect("RAM");
    }

    /// Continues in real mode at 0:`offset`, with a stack below 0x1000.
    pub fn start_at(&mut self, offset: u16) {
        let mut registers = self.vcpu.registers();
        registers.rip = offset.into();
        registers.segments[1].selector = 0;
        registers.segments[1].base = 0;
        registers.gpr[4] = 0x1000;
        self.vcpu.set_registers(&registers);
    }

    /// Runs until the vCPU comes back by itself or is stopped by the guest.
    pub fn run(&mut self) -> VcpuExit {
        run(&mut *self.vcpu, &self.signals, LIMIT).expect("the guest ends in time")
    }

    pub fn word(&self, address: u64) -> u16 {
        self.memory.load(GuestAddress(address), AccessSize::Word) as u16
    }
}

/// Runs a vCPU until it comes back or its time is over (`None`).
pub fn run(vcpu: &mut dyn Vcpu, signals: &CpuSignals, limit: Duration) -> Option<VcpuExit> {
    let (done, over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            let is_late = over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_late {
                signals.raise(Signal::STOP);
            }
            is_late
        });
        let exit = vcpu.run();
        drop(done);
        (!watchdog.join().expect("watchdog")).then_some(exit)
    })
}
