//! The PCI side of the board: host bridge, ISA bridge, power management function, and the configuration ports.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use device::{AccessSize, DeviceCell, IrqLine};
use devices_chipset::acpi_pm::{self, AcpiPm, SleepState};
use devices_pci::i440fx::I440fx;
use devices_pci::mechanism::{ConfigMechanism, REGION_ADDRESS, REGION_DATA};
use devices_pci::piix::{PM_WINDOW, PM_WINDOW_LEN, Piix3, Piix4Pm};
use devices_pci::pirq::PirqRouter;
use devices_pci::shadow::ShadowRam;
use devices_pci::{Address, Label, PciBus, Window, bus};
use memory::{AddressSpace, SpaceKind};

use super::{Builder, Place, firmware};
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
    /// ACPI power management, behind the PIIX4's window.
    pub power_management: DeviceCell<AcpiPm>,
}

/// Builds the functions and attaches them.
pub fn build(builder: &mut Builder<'_>) -> Result<Chipset, MachineError> {
    let router = PirqRouter::new(&builder.gsi);
    let memory = Arc::clone(&builder.memory);
    let bus = PciBus::new(
        memory,
        Arc::clone(&builder.ports),
        router.inputs(),
        bus::i440fx_swizzle,
        Arc::clone(&builder.messages),
    );
    let mechanism = DeviceCell::new(ConfigMechanism::new(Arc::clone(&bus), builder.reset_request()));
    builder.add_ports("i440FX-pcihost", &mechanism, &[(REGION_ADDRESS, 0xcf8, 4), (REGION_DATA, 0xcfc, 4)])?;

    let host_bridge = host_bridge(builder)?;
    builder.add("i440FX", Place::Board, bus.attach(HOST_BRIDGE, Label::of_board("i440FX"), host_bridge, Vec::new())?);
    builder.add(
        "PIIX3",
        Place::Board,
        bus.attach(ISA_BRIDGE, Label::of_board("PIIX3"), Piix3::new(router), Vec::new())?,
    );
    let power_management = power_management(builder, &bus)?;
    Ok(Chipset { bus, power_management })
}

/// The 440FX, with the shadow RAM that its PAM registers switch and the ROM below it.
fn host_bridge(builder: &Builder<'_>) -> Result<DeviceCell<I440fx>, MachineError> {
    const PRIORITY: i32 = 1;
    let rom = Arc::new(AddressSpace::new(SpaceKind::Memory));
    if let Some(firmware) = &builder.config.firmware.rom {
        super::rom::map(firmware, &builder.memory, &rom)?;
    }
    let mut shadow = ShadowRam::new(&builder.memory, &builder.ram, &rom, PRIORITY)?;
    let (low, _) = builder.config.ram_split();
    // System-management RAM has no user: the software CPU has no SMM.
    Ok(I440fx::new(low, Box::new(move |segment, mode| shadow.set(segment, mode)), Box::new(|_| ())))
}

fn power_management(builder: &mut Builder<'_>, bus: &PciBus) -> Result<DeviceCell<AcpiPm>, MachineError> {
    let events = Arc::clone(&builder.events);
    let sleep = Box::new(move |state| {
        // The tables offer no other sleep state than S5.
        if state == SleepState::S5 {
            events(GuestEvent::Shutdown);
        }
    });
    let sci: IrqLine = builder.irq(9);
    let pm = AcpiPm::new(&builder.clock, sci, sleep);
    let window = Window {
        index: PM_WINDOW,
        space: SpaceKind::Ports,
        offset: 0,
        len: PM_WINDOW_LEN,
        priority: 1,
        backing: pm.region(acpi_pm::REGION_PM),
    };
    let function = Piix4Pm::new(Arc::new(AtomicBool::new(false)), false);
    builder.add(
        "PIIX4_PM",
        Place::Board,
        bus.attach(POWER_MANAGEMENT, Label::of_board("PIIX4_PM"), function, vec![window])?,
    );
    builder.add_ports("acpi_pm", &pm, &[(acpi_pm::REGION_GPE0, 0xafe0, 4), (acpi_pm::REGION_APM, 0xb2, 2)])?;
    Ok(pm)
}

impl Chipset {
    /// Writes what firmware would have written: shadow RAM on, interrupt routes, power management at 0x600.
    pub fn after_firmware(&self) {
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
        firmware::set_up_functions(&self.bus);
    }
}
