//! The PCI Express side of a `q35` board: memory controller hub, LPC bridge with power management, root ports.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use accel::Signal;
use device::{AccessSize, DeviceCell};
use devices_chipset::acpi_pm::{self, AcpiPm, PmModel, SmiRequest};
use devices_chipset::lapic;
use devices_chipset::smbus::{self, Smbus};
use devices_chipset::tco::{self, Tco, TcoLink};
use devices_isa::fw_cfg::{FwCfg, Item, RenewCallback};
use devices_pci::ich9::{Lpc, PM_WINDOW, RCRB_LEN, RCRB_WINDOW, Rcrb, SMBUS_WINDOW, SmbusFunction};
use devices_pci::pirq::PirqRouter;
use devices_pci::q35::{Mch, MchOptions, PCIEXBAR_DEFAULT, swizzle};
use devices_pci::root_port::{RootPort, SlotWiring};
use devices_pci::{Address, Label, PciBus, Window};
use memory::{AddressSpace, Backing, SpaceKind};

use super::pci::{Chipset, configuration_ports, shadow, sleep_request, system_management_ram};
use super::{Builder, Place, Removal, firmware, hotplug};
use crate::config::{ChipsetKind, DeviceConfig, RootPortConfig};
use crate::error::MachineError;

const MCH: Address = Address::new(0, 0);
const LPC: Address = Address::new(31, 0);
const SMBUS: Address = Address::new(31, 3);

/// An SMI may go to all processors; what firmware asks for.
const SMI_BROADCAST: u64 = 1;

/// Builds the functions and attaches them. `shadowed` is the ROM below 1 MiB.
pub fn build(
    builder: &mut Builder<'_>,
    shadowed: &Arc<AddressSpace>,
    fw_cfg: &DeviceCell<FwCfg>,
) -> Result<Chipset, MachineError> {
    let router = PirqRouter::ich9(&builder.gsi);
    let spaces = (Arc::clone(&builder.memory), Arc::clone(&builder.ports));
    let bus = PciBus::new("pcie.0", spaces, router.inputs(), swizzle, Arc::clone(&builder.messages));
    configuration_ports(builder, &bus, "q35-pcihost")?;
    let set_pam = shadow(builder, shadowed)?;
    let board = &builder.config.board;
    let options = MchOptions { extended_tseg_mib: board.extended_tseg_mib, has_smbase: board.smbase_smram };
    let hub = Mch::new(options, set_pam, system_management_ram(builder)?);
    builder.add("mch", Place::Board, bus.attach(MCH, Label::of_board("mch"), hub, Mch::windows(&bus))?);
    let power_management = lpc(builder, &bus, router, fw_cfg)?;
    smbus(builder, &bus)?;
    Ok(Chipset { bus, power_management, kind: ChipsetKind::Q35 })
}

/// What firmware wants of SMIs, and what it has got: see [`smi_features`].
#[derive(Default)]
struct SmiAgreement {
    requested: u64,
    agreed: Option<u64>,
}

fn locked(agreement: &Mutex<SmiAgreement>) -> MutexGuard<'_, SmiAgreement> {
    agreement.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SMIs go to the processor that asked for one, or to all where firmware wants that.
fn smi_request(builder: &Builder<'_>, agreement: Arc<Mutex<SmiAgreement>>) -> SmiRequest {
    let vcpus = builder.mailboxes.clone();
    Box::new(move || {
        if locked(&agreement).agreed.is_some_and(|features| features & SMI_BROADCAST != 0) {
            vcpus.all().iter().for_each(|signals| signals.raise(Signal::SMI));
        } else if let Some(signals) = vcpus.of(lapic::current()) {
            signals.raise(Signal::SMI);
        }
    })
}

/// The files by which firmware and machine agree on features of SMIs: firmware reads the supported ones, writes those
/// that it wants, and selects `features-ok`, which locks them until the machine is reset.
fn smi_features(fw_cfg: &mut FwCfg, agreement: &Arc<Mutex<SmiAgreement>>) -> Result<(), MachineError> {
    let shared = |change: fn(&mut SmiAgreement) -> Vec<u8>| -> RenewCallback {
        let agreement = Arc::clone(agreement);
        Box::new(move || Some(change(&mut locked(&agreement))))
    };
    let written = Arc::clone(agreement);
    let take = move |bytes: &[u8], _: usize, _: usize| {
        if let Some(bytes) = bytes.first_chunk() {
            locked(&written).requested = u64::from_le_bytes(*bytes);
        }
    };
    let forget = shared(|agreement| {
        agreement.requested = 0;
        vec![0; 8]
    });
    let agree = shared(|agreement| {
        if agreement.agreed.is_none() && agreement.requested & !SMI_BROADCAST == 0 {
            agreement.agreed = Some(agreement.requested);
        }
        vec![u8::from(agreement.agreed.is_some())]
    });
    let revoke = shared(|agreement| {
        agreement.agreed = None;
        vec![0]
    });
    fw_cfg.add_file("etc/smi/supported-features", Item::u64(SMI_BROADCAST))?;
    fw_cfg.add_file("etc/smi/requested-features", Item::u64(0).writable(Some(Box::new(take))).on_reset(forget))?;
    let verdict = Item::bytes([0_u8]).on_select(agree).on_reset(revoke);
    fw_cfg.add_file("etc/smi/features-ok", verdict)?;
    Ok(())
}

fn lpc(
    builder: &mut Builder<'_>,
    bus: &PciBus,
    router: Arc<PirqRouter>,
    fw_cfg: &DeviceCell<FwCfg>,
) -> Result<DeviceCell<AcpiPm>, MachineError> {
    let has_smm = builder.smm.is_some();
    let (lock, agreement) = (Arc::new(AtomicBool::new(false)), Arc::default());
    if has_smm {
        smi_features(&mut fw_cfg.lock(), &agreement)?;
    }
    let (tco, no_reboot) = (Arc::new(TcoLink::default()), Arc::new(AtomicBool::new(true)));
    let watchdog = Tco::new(
        &builder.clock,
        builder.config.board.no_reboot,
        (Arc::clone(&tco), Arc::clone(&no_reboot)),
        (builder.watchdog(), smi_request(builder, Arc::clone(&agreement))),
    );
    let model = PmModel::ich9(has_smm, Arc::clone(&lock), tco);
    let requests = (sleep_request(builder), smi_request(builder, agreement));
    let pm = AcpiPm::new(&builder.clock, model, builder.irq(9), requests);
    pm.lock().set_s4_value(builder.config.firmware.sleep.s4_value);
    let rcrb = DeviceCell::new(Rcrb::new(no_reboot));
    let window =
        |index, space, (offset, len), backing: Backing| Window { index, space, offset, len, priority: 1, backing };
    let windows = vec![
        window(PM_WINDOW, SpaceKind::Ports, (0, 0x20), pm.region(acpi_pm::REGION_PM)),
        window(PM_WINDOW, SpaceKind::Ports, (0x20, 16), pm.region(acpi_pm::REGION_GPE0_ICH9)),
        window(PM_WINDOW, SpaceKind::Ports, (0x30, 8), pm.region(acpi_pm::REGION_SMI)),
        window(PM_WINDOW, SpaceKind::Ports, (tco::OFFSET, tco::PORT_COUNT), watchdog.region(0)),
        window(RCRB_WINDOW, SpaceKind::Memory, (0, RCRB_LEN), rcrb.region(0)),
    ];
    let function = Lpc::new(router, lock);
    builder.add("ICH9-LPC", Place::Board, bus.attach(LPC, Label::of_board("ICH9-LPC"), function, windows)?);
    builder.add("ich9-rcrb", Place::Board, Arc::new(rcrb));
    builder.add("ich9-tco", Place::Board, Arc::new(watchdog));
    builder.add_ports("acpi_pm", &pm, &[(acpi_pm::REGION_APM, 0xb2, 2)])?;
    Ok(pm)
}

fn smbus(builder: &mut Builder<'_>, bus: &PciBus) -> Result<(), MachineError> {
    let controller = Smbus::new(bus.intx(SMBUS, 0));
    let window = Window {
        index: SMBUS_WINDOW,
        space: SpaceKind::Ports,
        offset: 0,
        len: smbus::PORT_COUNT,
        priority: 1,
        backing: controller.region(0),
    };
    let label = Label::of_board("ICH9-SMB");
    builder.add("ICH9-SMB", Place::Board, bus.attach(SMBUS, label, SmbusFunction::new(), vec![window])?);
    builder.add("smbus", Place::Board, Arc::new(controller));
    Ok(())
}

/// Builds a root port of the command line.
pub(super) fn root_port(
    builder: &mut Builder<'_>,
    bus: &Arc<PciBus>,
    (device, port): (&DeviceConfig, &RootPortConfig),
) -> Result<(), String> {
    let id = device.id.as_deref();
    let is_used = id.is_some_and(|id| builder.config.devices.iter().any(|other| other.kind.bus() == Some(id)));
    let text = |error: devices_pci::AttachError| error.to_string();
    let address = match port.address {
        Some(address) => address,
        None => bus.first_free(port.type_name).map_err(text)?,
    };
    let bridge = RootPort::new(&port.options, is_used);
    let secondary = bus.behind(address, id.unwrap_or_default());
    bridge.lock().connect(SlotWiring {
        bus: Arc::downgrade(&secondary),
        line: bus.intx(address, 0),
        messages: bus.messages(),
        shows_presence: !builder.config.board.acpi_bridge_hotplug,
        ejected: hotplug::ejected(builder),
    });
    builder.buses.ports.push(Arc::clone(&secondary));
    if port.options.hotplug {
        builder.buses.slots.push((Arc::clone(&secondary), bridge.clone()));
    }
    let label = Label { type_name: port.type_name.to_owned(), id: id.map(str::to_owned) };
    let windows = RootPort::windows(&bridge);
    let lifecycle = bus.attach_bridge(address, label, bridge, (windows, &secondary)).map_err(text)?;
    let place = id.map_or(Place::Anonymous, |id| Place::Peripheral(id.to_owned()));
    builder.add(port.type_name, place, lifecycle);
    builder.can_leave(Removal::Pci(Arc::clone(bus), address), None);
    Ok(())
}

/// Writes what firmware would have written: shadow RAM on, interrupt routes, power management at 0x600, configuration
/// space in memory.
pub fn after_firmware(bus: &PciBus) {
    const ENABLE: u32 = 1;
    let byte = |address, offset, value| bus.write_config(address, offset, AccessSize::Byte, value);
    byte(MCH, 0x90, 0x30);
    for pam in 0x91..=0x96 {
        byte(MCH, pam, 0x33);
    }
    bus.write_config(MCH, 0x60, AccessSize::Dword, PCIEXBAR_DEFAULT as u32 | ENABLE);
    for (pirq, irq) in [(0x60, 10), (0x61, 10), (0x62, 11), (0x63, 11), (0x68, 10), (0x69, 10), (0x6a, 11), (0x6b, 11)]
    {
        byte(LPC, pirq, irq);
    }
    bus.write_config(LPC, 0x40, AccessSize::Dword, 0x601);
    byte(LPC, 0x44, 0x80);
    byte(SMBUS, 0x40, 1);
    bus.write_config(LPC, 0xf0, AccessSize::Dword, 0xfed1_c001);
    firmware::set_up_functions(bus, swizzle);
}
