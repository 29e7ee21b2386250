//! Who has the interrupt controllers: the board, the accelerator, or each a part.

use std::sync::{Arc, OnceLock, Weak};

use accel::{
    Accelerator, CpuSignals, InterruptSource, Interrupts, IoApicEnd, IrqControllers, LocalApics, Msi, PicOutput, Signal,
};
use clock::Clock;
use device::{DeviceCell, DeviceState, IrqInput, IrqSink, Lifecycle, ResetKind};
use devices_chipset::i8259::{self, I8259, PicInputs};
use devices_chipset::ioapic::{IOAPIC_BASE, IOAPIC_SIZE, IoApic, IoApicInputs};
use devices_chipset::irq_router::{GSI_COUNT, GsiRouter};
use devices_chipset::lapic::{self, APIC_SPACE_BASE, APIC_SPACE_SIZE, ApicBus};
use memory::{AddressSpace, GuestAddress};

use super::{BoardDevice, Place};
use crate::error::MachineError;

/// The mailboxes of all vCPUs, once they exist.
pub type Mailboxes = Arc<OnceLock<Vec<Arc<CpuSignals>>>>;

/// The board's interrupt controllers and the way to the accelerator's.
pub struct Controllers {
    /// What messages travel on.
    pub bus: Arc<ApicBus>,
    /// One input for each global system interrupt; the first 16 are the ISA interrupts.
    pub inputs: Vec<IrqInput>,
    /// Whose local APICs there are.
    local: Local,
}

enum Local {
    /// The board's.
    Board,
    /// The accelerator's, behind the board's PIC.
    BehindPic(DeviceCell<I8259>),
    /// The accelerator's.
    Accelerator,
}

/// Builds what the accelerator does not have. `devices` and the spaces get the board's controllers.
pub fn build(
    accelerator: &dyn Accelerator,
    clock: &Clock,
    (memory, ports): (&AddressSpace, &AddressSpace),
    mailboxes: &Mailboxes,
    devices: &mut Vec<BoardDevice>,
) -> Result<Controllers, MachineError> {
    let controllers = match accelerator.interrupts() {
        Interrupts::Machine => {
            let bus = ApicBus::new(clock);
            let pic = DeviceCell::new(I8259::new(IrqInput::new(bus.local_pins(), 0).line()));
            bus.connect_pic(pic.handle());
            let inputs = legacy_pair(&bus, &pic, (memory, ports), devices)?;
            Controllers { bus, inputs, local: Local::Board }
        }
        Interrupts::LocalApics(apics) => {
            let bus = ApicBus::remote(clock, apics);
            let output = Arc::new(BootProcessorPin(Arc::clone(mailboxes)));
            let pic = DeviceCell::new(I8259::new(IrqInput::new(output, 0).line()));
            let inputs = legacy_pair(&bus, &pic, (memory, ports), devices)?;
            Controllers { bus, inputs, local: Local::BehindPic(pic) }
        }
        Interrupts::All(controllers) => {
            let bus = ApicBus::remote(clock, Arc::new(Messages(Arc::clone(&controllers))));
            let sink = controllers.inputs();
            let inputs = (0..GSI_COUNT).map(|gsi| IrqInput::new(Arc::clone(&sink), gsi)).collect();
            let lifecycle = Arc::new(AcceleratorControllers(controllers));
            devices.push(BoardDevice { type_name: "kvm-irqchip", place: Place::Board, lifecycle });
            Controllers { bus, inputs, local: Local::Accelerator }
        }
    };
    memory.map(GuestAddress(APIC_SPACE_BASE), APIC_SPACE_SIZE, 1, controllers.bus.mmio(None))?;
    Ok(controllers)
}

/// The board's own PIC pair and I/O APIC.
fn legacy_pair(
    bus: &Arc<ApicBus>,
    pic: &DeviceCell<I8259>,
    (memory, ports): (&AddressSpace, &AddressSpace),
    devices: &mut Vec<BoardDevice>,
) -> Result<Vec<IrqInput>, MachineError> {
    let ioapic = IoApic::new(bus);
    memory.map(GuestAddress(IOAPIC_BASE), IOAPIC_SIZE, 1, ioapic.region(0))?;
    for (region, first, count) in
        [(i8259::REGION_MASTER, 0x20, 2), (i8259::REGION_SLAVE, 0xa0, 2), (i8259::REGION_ELCR, 0x4d0, 2)]
    {
        ports.map(GuestAddress(first), count, 0, pic.region(region))?;
    }
    let lifecycle = Arc::new(pic.clone());
    devices.push(BoardDevice { type_name: "isa-i8259", place: Place::Board, lifecycle });
    let lifecycle = Arc::new(ioapic.clone());
    devices.push(BoardDevice { type_name: "ioapic", place: Place::Board, lifecycle });
    let router = GsiRouter::new(Arc::new(PicInputs(pic.clone())), Some(Arc::new(IoApicInputs(ioapic))));
    Ok(router.inputs())
}

impl Controllers {
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

    /// Whether the local APICs are the board's devices.
    pub fn has_local_apics(&self) -> bool {
        matches!(self.local, Local::Board)
    }
}

/// The PIC's output, which reaches the boot processor.
struct BootProcessorPin(Mailboxes);

impl IrqSink for BootProcessorPin {
    fn set_level(&self, _pin: u32, level: bool) {
        let Some(signals) = self.0.get().and_then(|mailboxes| mailboxes.first()) else { return };
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
