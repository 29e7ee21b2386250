//! The PCI side of a `pc` board: host bridge, ISA bridge, power management function, and the configuration ports.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use accel::Signal;
use device::{AccessSize, DeviceCell, IrqLine};
use devices_chipset::acpi_pm::{self, AcpiPm, PmModel, SleepRequest, SleepState, SmiRequest};
use devices_chipset::smbus::{self, Smbus};
use devices_pci::i440fx::I440fx;
use devices_pci::mechanism::{ConfigMechanism, REGION_ADDRESS, REGION_DATA};
use devices_pci::piix::{PM_WINDOW, PM_WINDOW_LEN, Piix3, Piix4Pm, SMBUS_WINDOW};
use devices_pci::pirq::PirqRouter;
use devices_pci::q35::Smram;
use devices_pci::shadow::{PamMode, ShadowRam};
use devices_pci::{Address, Label, PciBus, Window, bus};
use memory::{AddressSpace, SpaceKind};

use super::smm::SmramWindows;
use super::{Builder, Place, firmware};
use crate::config::ChipsetKind;
use crate::error::MachineError;
use crate::event::GuestEvent;

/// Where the functions are, as guests and firmware expect them.
const HOST_BRIDGE: Address = Address::new(0, 0);
const ISA_BRIDGE: Address = Address::new(1, 0);
const POWER_MANAGEMENT: Address = Address::new(1, 3);

/// The chipset's PCI functions.
pub struct Chipset {
    /// The root bus.
    pub bus: Arc<PciBus>,
    /// ACPI power management.
    pub power_management: DeviceCell<AcpiPm>,
    /// Which chipset it is.
    pub kind: ChipsetKind,
}

/// Builds the functions and attaches them. `shadowed` is the ROM below 1 MiB.
pub fn build(builder: &mut Builder<'_>, shadowed: &Arc<AddressSpace>) -> Result<Chipset, MachineError> {
    let router = PirqRouter::new(&builder.gsi);
    let spaces = (Arc::clone(&builder.memory), Arc::clone(&builder.ports));
    let bus = PciBus::new("pci.0", spaces, router.inputs(), bus::i440fx_swizzle, Arc::clone(&builder.messages));
    configuration_ports(builder, &bus, "i440FX-pcihost")?;

    let (low, _) = builder.config.ram_split();
    let set_pam = shadow(builder, shadowed)?;
    let host_bridge = I440fx::new(low, set_pam, system_management_ram(builder)?);
    builder.add("i440FX", Place::Board, bus.attach(HOST_BRIDGE, Label::of_board("i440FX"), host_bridge, Vec::new())?);
    builder.add(
        "PIIX3",
        Place::Board,
        bus.attach(ISA_BRIDGE, Label::of_board("PIIX3"), Piix3::new(router), Vec::new())?,
    );
    let power_management = power_management(builder, &bus)?;
    Ok(Chipset { bus, power_management, kind: ChipsetKind::I440fx })
}

/// Ports 0xcf8 to 0xcff.
pub fn configuration_ports(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    type_name: &'static str,
) -> Result<(), MachineError> {
    let mechanism = DeviceCell::new(ConfigMechanism::new(Arc::clone(bus), builder.reset_request()));
    builder.add_ports(type_name, &mechanism, &[(REGION_ADDRESS, 0xcf8, 4), (REGION_DATA, 0xcfc, 4)])
}

/// The shadow RAM that a host bridge's PAM registers switch.
pub fn shadow(
    builder: &Builder<'_>,
    shadowed: &Arc<AddressSpace>,
) -> Result<Box<dyn FnMut(usize, PamMode) + Send>, MachineError> {
    const PRIORITY: i32 = 1;
    let mut shadow = ShadowRam::new(&builder.memory, &builder.ram, shadowed, PRIORITY)?;
    Ok(Box::new(move |segment, mode| shadow.set(segment, mode)))
}

/// The system-management RAM that a host bridge's SMRAM registers switch.
pub fn system_management_ram(builder: &Builder<'_>) -> Result<Box<dyn FnMut(Smram) + Send>, MachineError> {
    let (low, _) = builder.config.ram_split();
    if low < 1 << 20 {
        return Ok(Box::new(|_| ()));
    }
    let windows = SmramWindows::new(&builder.memory, builder.smm.as_ref(), &builder.ram, low)?;
    Ok(Box::new(move |state| windows.set(state)))
}

/// Tells the control thread that the guest goes to sleep.
pub fn sleep_request(builder: &Builder<'_>) -> SleepRequest {
    let events = Arc::clone(&builder.events);
    Box::new(move |state| {
        events(match state {
            SleepState::S3 => GuestEvent::Suspend,
            SleepState::S4 => GuestEvent::SuspendToDisk,
            SleepState::S5 => GuestEvent::Shutdown,
        });
    })
}

/// The PIIX4 interrupts the boot processor.
fn smi_request(builder: &Builder<'_>) -> SmiRequest {
    let vcpus = builder.mailboxes.clone();
    Box::new(move || {
        if let Some(signals) = vcpus.of(0) {
            signals.raise(Signal::SMI);
        }
    })
}

fn power_management(builder: &mut Builder<'_>, bus: &PciBus) -> Result<DeviceCell<AcpiPm>, MachineError> {
    let apmc = Arc::new(AtomicBool::new(false));
    let requests = (sleep_request(builder), smi_request(builder));
    let pm = AcpiPm::new(&builder.clock, PmModel::piix4(Arc::clone(&apmc)), builder.irq(9), requests);
    pm.lock().set_s4_value(builder.config.firmware.sleep.s4_value);
    let window = Window {
        index: PM_WINDOW,
        space: SpaceKind::Ports,
        offset: 0,
        len: PM_WINDOW_LEN,
        priority: 1,
        backing: pm.region(acpi_pm::REGION_PM),
    };
    // Its interrupt would be an SMI.
    let smbus = Smbus::new(IrqLine::unconnected());
    let smbus_window = Window {
        index: SMBUS_WINDOW,
        space: SpaceKind::Ports,
        offset: 0,
        len: smbus::PORT_COUNT,
        priority: 1,
        backing: smbus.region(0),
    };
    let function = Piix4Pm::new(apmc, builder.smm.is_some());
    builder.add(
        "PIIX4_PM",
        Place::Board,
        bus.attach(POWER_MANAGEMENT, Label::of_board("PIIX4_PM"), function, vec![window, smbus_window])?,
    );
    builder.add("smbus", Place::Board, Arc::new(smbus));
    builder.add_ports("acpi_pm", &pm, &[(acpi_pm::REGION_GPE0, 0xafe0, 4), (acpi_pm::REGION_APM, 0xb2, 2)])?;
    Ok(pm)
}

impl Chipset {
    /// Writes what firmware would have written: shadow RAM on, interrupt routes, power management at 0x600.
    pub fn after_firmware(&self) {
        if self.kind == ChipsetKind::Q35 {
            super::q35::after_firmware(&self.bus);
            return;
        }
        let byte = |address, offset, value| self.bus.write_config(address, offset, AccessSize::Byte, value);
        byte(HOST_BRIDGE, 0x59, 0x30);
        for pam in 0x5a..=0x5f {
            byte(HOST_BRIDGE, pam, 0x33);
        }
        for (pirq, irq) in [(0x60, 10), (0x61, 10), (0x62, 11), (0x63, 11)] {
            byte(ISA_BRIDGE, pirq, irq);
        }
        self.bus.write_config(POWER_MANAGEMENT, 0x40, AccessSize::Dword, 0x601);
        byte(POWER_MANAGEMENT, 0x80, 1);
        self.bus.write_config(POWER_MANAGEMENT, 0x90, AccessSize::Dword, 0x701);
        byte(POWER_MANAGEMENT, 0x3c, 9);
        // Both IDE channels decode their ports.
        for timing in [0x40, 0x42] {
            self.bus.write_config(super::ide::IDE, timing, AccessSize::Word, 0x8000);
        }
        firmware::set_up_functions(&self.bus, bus::i440fx_swizzle);
    }
}
