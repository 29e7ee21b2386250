//! Who has the interrupt controllers: the board, the accelerator, or each a part.

use std::sync::{Arc, PoisonError, RwLock, Weak};

use accel::{
    Accelerator, CpuSignals, InterruptSource, Interrupts, IoApicEnd, IrqControllers, LocalApics, Msi, PicOutput, Signal,
};
use clock::Clock;
use device::{DeviceCell, DeviceState, IrqInput, IrqSink, Lifecycle, ResetKind};
use devices_chipset::i8259::{self, I8259, PicInputs};
use devices_chipset::ioapic::{IOAPIC_BASE, IOAPIC_SECOND_BASE, IOAPIC_SIZE, IoApic, IoApicInputs};
use devices_chipset::irq_router::{GSI_COUNT, GsiRouter};
use devices_chipset::lapic::{self, APIC_SPACE_BASE, APIC_SPACE_SIZE, ApicBus};
use devices_pci::{MsiMessage, MsiSink};
use memory::{AddressSpace, DmaView, GuestAddress};

use super::{BoardDevice, Place};
use crate::error::MachineError;
use crate::qtest::IrqTap;

/// The mailboxes of the vCPUs that exist.
#[derive(Clone, Default)]
pub struct Mailboxes(Arc<RwLock<Vec<Option<Arc<CpuSignals>>>>>);

impl Mailboxes {
    /// That of vCPU `index`.
    pub fn of(&self, index: usize) -> Option<Arc<CpuSignals>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(index).cloned().flatten()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<CpuSignals>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect()
    }

    /// A vCPU comes, or leaves.
    pub fn set(&self, index: usize, mailbox: Option<Arc<CpuSignals>>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= index {
            all.resize(index + 1, None);
        }
        if let Some(place) = all.get_mut(index) {
            *place = mailbox;
        }
    }
}

/// The board's interrupt controllers and the way to the accelerator's.
pub struct Controllers {
    /// What messages travel on.
    pub bus: Arc<ApicBus>,
    /// One input for each global system interrupt; the first 16 are the ISA interrupts.
    pub inputs: Vec<IrqInput>,
    /// Whose local APICs there are.
    local: Local,
    /// Where tests listen at the I/O APIC's inputs. Silent where the board has none.
    pub ioapic_tap: Arc<IrqTap>,
    /// The board's own PIC pair.
    pub pic: Option<DeviceCell<I8259>>,
    /// The board's own I/O APICs.
    pub ioapics: Vec<DeviceCell<IoApic>>,
}

enum Local {
    /// The board's.
    Board,
    /// The accelerator's, behind the board's PIC.
    BehindPic(DeviceCell<I8259>),
    /// The accelerator's.
    Accelerator,
}

/// Which controllers a board has beside the local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The 8259 pair.
    pub pic: bool,
    /// How many I/O APICs.
    pub ioapics: usize,
}

impl Wanted {
    /// Those of a PC.
    pub const PC: Self = Self { pic: true, ioapics: 1 };
}

/// Builds what the accelerator does not have. `devices` and the spaces get the board's controllers. An accelerator that
/// has all of them has those of a PC.
pub fn build(
    accelerator: &dyn Accelerator,
    clock: &Clock,
    spaces: (&AddressSpace, &AddressSpace),
    (mailboxes, wanted): (&Mailboxes, Wanted),
    devices: &mut Vec<BoardDevice>,
) -> Result<Controllers, MachineError> {
    let (memory, _) = spaces;
    let tap = Arc::new(IrqTap::default());
    let controllers = match accelerator.interrupts() {
        Interrupts::Machine => {
            let bus = ApicBus::new(clock);
            let pic = DeviceCell::new(I8259::new(IrqInput::new(bus.local_pins(), 0).line()));
            bus.connect_pic(pic.handle());
            let (inputs, ioapics) = controllers(&bus, (&pic, wanted), spaces, &tap, devices)?;
            let pic = wanted.pic.then_some(pic);
            Controllers { bus, inputs, local: Local::Board, ioapic_tap: tap, pic, ioapics }
        }
        Interrupts::LocalApics(apics) => {
            let bus = ApicBus::remote(clock, apics);
            let output = Arc::new(BootProcessorPin(mailboxes.clone()));
            let pic = DeviceCell::new(I8259::new(IrqInput::new(output, 0).line()));
            let (inputs, ioapics) = controllers(&bus, (&pic, wanted), spaces, &tap, devices)?;
            let shown = wanted.pic.then(|| pic.clone());
            Controllers { bus, inputs, local: Local::BehindPic(pic), ioapic_tap: tap, pic: shown, ioapics }
        }
        Interrupts::All(controllers) => {
            let bus = ApicBus::remote(clock, Arc::new(Messages(Arc::clone(&controllers))));
            let sink = controllers.inputs();
            let inputs = (0..GSI_COUNT).map(|gsi| IrqInput::new(Arc::clone(&sink), gsi)).collect();
            let lifecycle = Arc::new(AcceleratorControllers(controllers));
            devices.push(BoardDevice::new("kvm-irqchip", Place::Board, lifecycle));
            Controllers { bus, inputs, local: Local::Accelerator, ioapic_tap: tap, pic: None, ioapics: Vec::new() }
        }
    };
    memory.map(GuestAddress(APIC_SPACE_BASE), APIC_SPACE_SIZE, 1, controllers.bus.mmio(None))?;
    Ok(controllers)
}

/// The board's own PIC pair and I/O APICs. A PIC that is not wanted is not seen.
fn controllers(
    bus: &Arc<ApicBus>,
    (pic, wanted): (&DeviceCell<I8259>, Wanted),
    (memory, ports): (&AddressSpace, &AddressSpace),
    tap: &Arc<IrqTap>,
    devices: &mut Vec<BoardDevice>,
) -> Result<(Vec<IrqInput>, Vec<DeviceCell<IoApic>>), MachineError> {
    let mut to_pic: Option<Arc<dyn IrqSink>> = None;
    if wanted.pic {
        for (region, first, count) in
            [(i8259::REGION_MASTER, 0x20, 2), (i8259::REGION_SLAVE, 0xa0, 2), (i8259::REGION_ELCR, 0x4d0, 2)]
        {
            ports.map(GuestAddress(first), count, 0, pic.region(region))?;
        }
        devices.push(BoardDevice::new("isa-i8259", Place::Board, Arc::new(pic.clone())));
        to_pic = Some(Arc::new(PicInputs(pic.clone())));
    }
    let (mut ioapics, mut sinks) = (Vec::new(), Vec::<Arc<dyn IrqSink>>::new());
    for (number, base) in [IOAPIC_BASE, IOAPIC_SECOND_BASE].into_iter().enumerate().take(wanted.ioapics) {
        let ioapic = IoApic::numbered(bus, number);
        memory.map(GuestAddress(base), IOAPIC_SIZE, 1, ioapic.region(0))?;
        devices.push(BoardDevice::new("ioapic", Place::Board, Arc::new(ioapic.clone())));
        let inputs = Arc::new(IoApicInputs(ioapic.clone()));
        // Tests listen at the first.
        sinks.push(if number == 0 { tap.in_front_of(inputs) } else { inputs });
        ioapics.push(ioapic);
    }
    Ok((GsiRouter::new(to_pic, sinks).inputs(), ioapics))
}

impl Controllers {
    /// How often each input has risen, by controller: the ISA interrupts are those of the PIC, too.
    pub fn counts(&self) -> Vec<(&'static str, Vec<u64>)> {
        const PINS: usize = 24;
        let of = |from: usize, count: usize| {
            self.inputs.iter().skip(from).take(count).map(IrqInput::edges).collect::<Vec<_>>()
        };
        if let Local::Accelerator = self.local {
            return vec![("kvm-ioapic", of(0, PINS)), ("kvm-i8259", of(0, 16))];
        }
        let ioapics = (0..self.ioapics.len()).map(|number| ("ioapic", of(number * PINS, PINS)));
        ioapics.chain(self.pic.is_some().then(|| ("isa-i8259", of(0, 16)))).collect()
    }

    /// Where the interrupts of a vCPU come from; the board's local APIC is made for it.
    pub fn source(&self, cpu: &lapic::CpuConfig) -> InterruptSource {
        match &self.local {
            Local::Board => InterruptSource::Apic(Arc::new(self.bus.add_cpu(cpu))),
            Local::BehindPic(pic) if cpu.is_boot_cpu => InterruptSource::Pic(Arc::new(BoardPic(pic.clone()))),
            Local::BehindPic(_) | Local::Accelerator => InterruptSource::Accelerator,
        }
    }

    /// How the board's I/O APIC hears ends of interrupts from an accelerator's local APICs.
    pub fn end_of_interrupt(&self) -> Option<IoApicEnd> {
        let Local::BehindPic(_) = &self.local else { return None };
        // The bus holds the accelerator, which holds this.
        let bus: Weak<ApicBus> = Arc::downgrade(&self.bus);
        Some(Arc::new(move |vector| {
            if let Some(bus) = bus.upgrade() {
                bus.end_of_interrupt(vector);
            }
        }))
    }

    /// Where message-signalled interrupts go: to the local APICs. As on a real bus they are stores, so that one with
    /// another address reaches RAM; devices are not reached.
    pub fn messages(&self, memory: &Arc<AddressSpace>) -> Arc<dyn MsiSink> {
        Arc::new(MessageSink { bus: Arc::clone(&self.bus), dma: DmaView::new(Arc::clone(memory)) })
    }

    /// Whether the local APICs are the board's devices.
    pub fn has_local_apics(&self) -> bool {
        matches!(self.local, Local::Board)
    }
}

struct MessageSink {
    bus: Arc<ApicBus>,
    dma: DmaView,
}

impl MsiSink for MessageSink {
    fn deliver(&self, MsiMessage { address, data }: MsiMessage) {
        if (APIC_SPACE_BASE..APIC_SPACE_BASE + APIC_SPACE_SIZE).contains(&address) {
            self.bus.deliver_msi(address, data);
        } else {
            // What is not RAM does not take part.
            let _dropped = self.dma.map().write(address, &data.to_le_bytes());
        }
    }
}

/// The PIC's output, which reaches the boot processor.
struct BootProcessorPin(Mailboxes);

impl IrqSink for BootProcessorPin {
    fn set_level(&self, _pin: u32, level: bool) {
        let Some(signals) = self.0.of(0) else { return };
        if level {
            signals.raise(Signal::INTR);
        } else {
            signals.clear(Signal::INTR);
        }
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}

struct BoardPic(DeviceCell<I8259>);

impl PicOutput for BoardPic {
    fn acknowledge(&self) -> Option<u8> {
        Some(self.0.lock().acknowledge())
    }
}

/// Messages for an accelerator that has all of the controllers.
struct Messages(Arc<dyn IrqControllers>);

impl LocalApics for Messages {
    fn send_msi(&self, message: Msi) {
        self.0.send_msi(message);
    }

    // The board has no I/O APIC that could ask for it.
    fn set_level_route(&self, _pin: u32, _message: Option<Msi>) {}
}

/// An accelerator's controllers as a device of the board.
struct AcceleratorControllers(Arc<dyn IrqControllers>);

impl Lifecycle for AcceleratorControllers {
    fn reset(&self, _kind: ResetKind) {
        self.0.reset();
    }

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        visit(DeviceState::Never("the host's interrupt controllers are not saved"));
    }

    fn restored(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use accel::{AccelError, DirtyLog, MachineSpaces, Vcpu, VcpuConfig};
    use memory::{AccessSize, SpaceKind};
    use std::sync::Mutex;
    use x86::model::Host;

    /// Interrupt controllers that write down what reaches them.
    #[derive(Default)]
    struct Recorder {
        levels: Mutex<Vec<(u32, bool)>>,
        messages: Mutex<Vec<Msi>>,
        resets: Mutex<u32>,
    }

    struct Pins(Arc<Recorder>);

    impl IrqSink for Pins {
        fn set_level(&self, pin: u32, level: bool) {
            self.0.levels.lock().expect("log").push((pin, level));
        }
        fn restore_level(&self, _pin: u32, _level: bool) {}
    }

    /// The same as an accelerator's.
    struct Remote(Arc<Recorder>);

    impl IrqControllers for Remote {
        fn send_msi(&self, message: Msi) {
            self.0.messages.lock().expect("log").push(message);
        }
        fn inputs(&self) -> Arc<dyn IrqSink> {
            Arc::new(Pins(Arc::clone(&self.0)))
        }
        fn reset(&self) {
            *self.0.resets.lock().expect("log") += 1;
        }
    }

    impl LocalApics for Remote {
        fn send_msi(&self, message: Msi) {
            self.0.messages.lock().expect("log").push(message);
        }
        fn set_level_route(&self, _pin: u32, _message: Option<Msi>) {}
    }

    /// An accelerator without vCPUs.
    struct Stub(Interrupts);

    impl std::fmt::Debug for Stub {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Stub")
        }
    }

    impl Accelerator for Stub {
        fn name(&self) -> &'static str {
            "stub"
        }
        fn host(&self) -> Host {
            Host::software()
        }
        fn interrupts(&self) -> Interrupts {
            self.0.clone()
        }
        fn reserved_memory(&self) -> Option<std::ops::Range<u64>> {
            None
        }
        fn has_smm(&self) -> bool {
            false
        }
        fn attach(&self, _: &MachineSpaces) -> Result<(), AccelError> {
            Ok(())
        }
        fn create_vcpu(&self, _: VcpuConfig) -> Result<Box<dyn Vcpu>, AccelError> {
            Err(AccelError::new("there are none"))
        }
        fn start(&self) {}
        fn stop(&self) {}
        fn dirty_log(&self) -> Option<Arc<dyn DirtyLog>> {
            None
        }
    }

    struct Bench {
        controllers: Controllers,
        memory: AddressSpace,
        ports: AddressSpace,
        devices: Vec<BoardDevice>,
        signals: Arc<CpuSignals>,
    }

    fn bench(interrupts: Interrupts) -> Bench {
        let memory = AddressSpace::new(SpaceKind::Memory);
        let ports = AddressSpace::new(SpaceKind::Ports);
        let (mailboxes, mut devices) = (Mailboxes::default(), Vec::new());
        let stub = Stub(interrupts);
        let controllers = build(&stub, &Clock::manual(), (&memory, &ports), (&mailboxes, Wanted::PC), &mut devices)
            .expect("controllers");
        let signals = Arc::new(CpuSignals::default());
        mailboxes.set(0, Some(Arc::clone(&signals)));
        Bench { controllers, memory, ports, devices, signals }
    }

    fn cpu(index: usize, signals: &Arc<CpuSignals>) -> lapic::CpuConfig {
        lapic::CpuConfig {
            index,
            apic_id: index as u32,
            is_boot_cpu: index == 0,
            has_x2apic: false,
            tsc_khz: 1_000_000,
            signals: Arc::clone(signals),
        }
    }

    #[test]
    fn local_apics_of_the_accelerator_get_the_pics_level_and_the_ioapics_messages() {
        let recorder = Arc::new(Recorder::default());
        let bench = bench(Interrupts::LocalApics(Arc::new(Remote(Arc::clone(&recorder)))));
        // The PIC with vectors from 0x20, all open.
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0)] {
            bench.ports.store(GuestAddress(port), AccessSize::Byte, value);
        }
        // Input 4 of the I/O APIC: vector 0x44, edge, to APIC 1.
        for (offset, value) in [(0, 0x19), (0x10, 1 << 24), (0, 0x18), (0x10, 0x44)] {
            bench.memory.store(GuestAddress(IOAPIC_BASE + offset), AccessSize::Dword, value);
        }
        let mut line = bench.controllers.inputs[4].line();
        line.set(true);
        assert!(bench.signals.is_raised(Signal::INTR));
        assert_eq!(*recorder.messages.lock().expect("log"), [Msi { address: 0xfee0_1000, data: 0x44 }]);

        let InterruptSource::Pic(pic) = bench.controllers.source(&cpu(0, &bench.signals)) else { panic!("no PIC") };
        assert_eq!(pic.acknowledge(), Some(0x24));
        assert!(!bench.signals.is_raised(Signal::INTR));
        let second = bench.controllers.source(&cpu(1, &bench.signals));
        assert!(matches!(second, InterruptSource::Accelerator));
        assert!(bench.controllers.end_of_interrupt().is_some() && !bench.controllers.has_local_apics());
    }

    #[test]
    fn messages_of_functions_reach_the_local_apics_or_ram_but_no_device() {
        let (apics, all) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        for (recorder, interrupts) in [
            (&apics, Interrupts::LocalApics(Arc::new(Remote(Arc::clone(&apics))))),
            (&all, Interrupts::All(Arc::new(Remote(Arc::clone(&all))))),
        ] {
            let bench = bench(interrupts);
            let memory = Arc::new(bench.memory);
            let ram = Arc::new(memory::RamBlock::new("ram", 4096).expect("RAM"));
            let backing = memory::Backing::Ram { block: Arc::clone(&ram), offset: 0, read_only: false };
            memory.map(GuestAddress(0), 4096, 0, backing).expect("mapped");
            let sink = bench.controllers.messages(&memory);
            for (address, data) in [(0xfee0_1000, 0x51), (0x10, 0x1234_5678), (IOAPIC_BASE, 7), (u64::MAX, 1)] {
                sink.deliver(MsiMessage { address, data });
            }
            assert_eq!(*recorder.messages.lock().expect("log"), [Msi { address: 0xfee0_1000, data: 0x51 }]);
            assert_eq!(ram.load_u32(0x10), Some(0x1234_5678));
            assert_eq!(memory.load(GuestAddress(IOAPIC_BASE), AccessSize::Dword), 0, "no register was selected");
        }
    }

    #[test]
    fn controllers_of_the_accelerator_get_lines_messages_and_resets() {
        let recorder = Arc::new(Recorder::default());
        let bench = bench(Interrupts::All(Arc::new(Remote(Arc::clone(&recorder)))));
        bench.controllers.inputs[9].line().pulse();
        assert_eq!(*recorder.levels.lock().expect("log"), [(9, true), (9, false)]);
        bench.memory.store(GuestAddress(0xfee0_2000), AccessSize::Dword, 0x51);
        assert_eq!(*recorder.messages.lock().expect("log"), [Msi { address: 0xfee0_2000, data: 0x51 }]);
        // The board has no PIC and no I/O APIC.
        assert_eq!(bench.ports.load(GuestAddress(0x21), AccessSize::Byte), 0xff);
        assert_eq!(bench.devices.len(), 1);
        bench.devices[0].lifecycle.reset(ResetKind::Cold);
        assert_eq!(*recorder.resets.lock().expect("log"), 1);
        assert!(matches!(bench.controllers.source(&cpu(0, &bench.signals)), InterruptSource::Accelerator));
    }
}
