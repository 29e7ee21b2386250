//! `query-pci`.

use machine::pci::{BridgeInfo, FunctionInfo, class_description};
use qapi::pci::{
    PciBridgeInfo, PciBusInfo, PciDeviceClass, PciDeviceId, PciDeviceInfo, PciInfo, PciMemoryRange, PciMemoryRegion,
    QueryPci,
};

use super::Table;

/// The commands of this subject.
pub fn register(table: &mut Table) {
    table.register::<QueryPci>(|control, _, _| {
        let functions = control.machine().pci_functions();
        Ok(vec![PciInfo { bus: 0, devices: functions.iter().map(device).collect() }])
    });
}

fn device(function: &FunctionInfo) -> PciDeviceInfo {
    let has_subsystem = function.bridge.is_none();
    PciDeviceInfo {
        bus: function.bus.into(),
        slot: function.address.slot().into(),
        function: function.address.function().into(),
        class_info: PciDeviceClass {
            desc: class_description(function.class).map(str::to_owned),
            class: function.class.into(),
        },
        id: PciDeviceId {
            device: function.device.into(),
            vendor: function.vendor.into(),
            subsystem: has_subsystem.then_some(function.subsystem.into()),
            subsystem_vendor: has_subsystem.then_some(function.subsystem_vendor.into()),
        },
        irq: (function.irq_pin != 0).then_some(function.irq.into()),
        irq_pin: function.irq_pin.into(),
        qdev_id: function.id.clone().unwrap_or_default(),
        pci_bridge: function.bridge.as_ref().map(bridge),
        regions: function.bars.iter().map(region).collect(),
    }
}

fn region(bar: &machine::pci::BarInfo) -> PciMemoryRegion {
    let is_memory = bar.kind != machine::pci::BarKind::Io;
    PciMemoryRegion {
        bar: bar.index as i64,
        r#type: if is_memory { "memory" } else { "io" }.to_owned(),
        address: bar.address.map_or(-1, |address| address as i64),
        size: bar.size as i64,
        prefetch: is_memory.then_some(bar.kind.is_prefetchable()),
        mem_type_64: is_memory.then_some(bar.kind.is_64_bit()),
    }
}

fn bridge(bridge: &BridgeInfo) -> PciBridgeInfo {
    let (number, secondary, subordinate) = bridge.buses;
    let [io_range, memory_range, prefetchable_range] =
        bridge.windows.map(|(base, limit)| PciMemoryRange { base: base as i64, limit: limit as i64 });
    PciBridgeInfo {
        bus: PciBusInfo {
            number: number.into(),
            secondary: secondary.into(),
            subordinate: subordinate.into(),
            io_range,
            memory_range,
            prefetchable_range,
        },
        devices: Some(bridge.functions.iter().map(device).collect()),
    }
}
