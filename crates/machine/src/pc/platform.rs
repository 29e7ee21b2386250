//! Small devices of the command line: bridges, a watchdog, `pvpanic-pci`, `vmgenid`, `vmcoreinfo`.

use std::sync::Arc;

use device::{DeviceCell, DeviceState, Lifecycle, ResetKind};
use devices_pci::bridge::{Bridge, BridgeKind};
use devices_pci::i6300esb::{self, I6300Esb};
use devices_pci::pvpanic::{self, PvpanicPci};
use devices_pci::{Address, Label, PciBus, PciFunction, Window};

use super::{Builder, Place, Removal};
use crate::config::{DeviceConfig, DeviceKind, PciPlace};

/// Builds a device, if it is one of these.
pub fn command_line_device(builder: &mut Builder<'_>, bus: &Arc<PciBus>, device: &DeviceConfig) -> Result<(), String> {
    match &device.kind {
        DeviceKind::I6300Esb { place } => {
            let function = I6300Esb::new(&builder.clock, builder.watchdog());
            let windows = I6300Esb::windows(&function);
            attach(builder, bus, (device, i6300esb::TYPE, place), (function, windows))?;
        }
        DeviceKind::PvpanicPci { place, events } => {
            let function = PvpanicPci::new(*events, builder.panic_report());
            let windows = PvpanicPci::windows(&function);
            attach(builder, bus, (device, pvpanic::TYPE, place), (function, windows))?;
        }
        DeviceKind::Vmgenid { .. } => without_state(builder, device, "vmgenid"),
        DeviceKind::Vmcoreinfo => without_state(builder, device, "vmcoreinfo"),
        _ => {}
    }
    Ok(())
}

/// A device that is files of the firmware's, and has no state beside them.
struct FirmwareFiles;

impl Lifecycle for FirmwareFiles {
    fn reset(&self, _kind: ResetKind) {}

    fn visit_state(&self, visit: &mut dyn FnMut(DeviceState<'_>)) {
        visit(DeviceState::Empty);
    }

    fn restored(&self) {}
}

/// A device that is files of the firmware's.
pub(super) fn firmware_files(builder: &mut Builder<'_>, device: &DeviceConfig, type_name: &'static str) {
    without_state(builder, device, type_name);
}

fn without_state(builder: &mut Builder<'_>, device: &DeviceConfig, type_name: &'static str) {
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add(type_name, place, Arc::new(FirmwareFiles));
}

/// Builds a bridge with the bus behind it.
pub fn bridge(
    builder: &mut Builder<'_>,
    root: &Arc<PciBus>,
    device: &DeviceConfig,
    (kind, place, chassis): (BridgeKind, &PciPlace, u8),
) -> Result<(), String> {
    let (bus, address) = find_place(root, place, kind.type_name())?;
    let secondary = bus.behind(address, device.id.as_deref().unwrap_or_default());
    let label = Label { type_name: kind.type_name().to_owned(), id: device.id.clone() };
    let bridge = Bridge::new(kind, chassis);
    let behind = (Vec::new(), &secondary);
    let lifecycle = bus.attach_bridge(address, label, bridge, behind).map_err(|error| error.to_string())?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add(kind.type_name(), place, lifecycle);
    builder.can_leave(Removal::Pci(bus, address), None);
    Ok(())
}

/// The bus and the address that a place means.
pub fn find_place(root: &Arc<PciBus>, place: &PciPlace, type_name: &str) -> Result<(Arc<PciBus>, Address), String> {
    let bus = match &place.bus {
        Some(name) => root.by_name(name).ok_or_else(|| format!("Bus '{name}' not found"))?,
        None => Arc::clone(root),
    };
    let address = match place.address {
        Some(address) => address,
        None => bus.first_free(type_name).map_err(|error| error.to_string())?,
    };
    bus.check_free(address, type_name).map_err(|error| error.to_string())?;
    Ok((bus, address))
}

fn attach<F: PciFunction>(
    builder: &mut Builder<'_>,
    root: &Arc<PciBus>,
    (device, type_name, place): (&DeviceConfig, &'static str, &PciPlace),
    (function, windows): (DeviceCell<F>, Vec<Window>),
) -> Result<(), String> {
    let (bus, address) = find_place(root, place, type_name)?;
    let label = Label { type_name: type_name.to_owned(), id: device.id.clone() };
    let lifecycle = bus.attach(address, label, function, windows).map_err(|error| error.to_string())?;
    let place = device.id.clone().map_or(Place::Anonymous, Place::Peripheral);
    builder.add(type_name, place, lifecycle);
    builder.can_leave(Removal::Pci(bus, address), None);
    Ok(())
}
