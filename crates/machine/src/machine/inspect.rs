//! What monitors show of the machine's parts, and the little that they change there.

use std::sync::Arc;

use devices_chipset::i8259::ChipInfo;
use devices_chipset::ioapic::IoApicInfo;
use devices_chipset::lapic::ApicState;
use devices_virtio::inspect::Inspect;
use memory::FlatView;

use super::Machine;
use crate::firmware::BootOrder;
use crate::pc::{UsbDeviceInfo, tree};

/// A virtio device of the machine.
pub struct VirtioDevice<'a> {
    /// Its path in the object tree.
    pub path: String,
    /// The name of the bus that a function with an id has.
    pub bus_name: Option<String>,
    /// How to look into it.
    pub inspect: &'a Arc<dyn Inspect>,
}

impl Machine {
    /// The PCI functions as the guest has set them up.
    pub fn pci_functions(&self) -> Vec<devices_pci::FunctionInfo> {
        self.board.pci_functions()
    }

    /// The board's own I/O APICs and PIC pair, for `info pic`.
    pub fn interrupt_controllers(&self) -> (Vec<IoApicInfo>, Option<[ChipInfo; 2]>) {
        let controllers = &self.board.controllers;
        let ioapics = controllers.ioapics.iter().map(|ioapic| ioapic.lock().info()).collect();
        (ioapics, controllers.pic.as_ref().map(|pic| pic.lock().info()))
    }

    /// How often each input of each interrupt controller has risen, by the controllers' types, for `info irq`.
    pub fn interrupt_counts(&self) -> Vec<(&'static str, Vec<u64>)> {
        self.board.controllers.counts()
    }

    /// What firmware boots from the next time it looks; whether the board has a place for that.
    ///
    /// # Errors
    /// It is no order, as the machine's own.
    pub fn set_boot_order(&self, text: &str) -> Result<bool, String> {
        let order = BootOrder::parse(text)?;
        Ok(self.board.set_boot_order(order, self.config.firmware.boot.skip_floppy_check))
    }

    /// The devices on USB buses; nothing if there is no such bus.
    pub fn usb_devices(&self) -> Option<Vec<UsbDeviceInfo>> {
        self.board.usb_devices()
    }

    /// A vCPU's local APIC and what its timer has left to count, for `info lapic`; nothing where it is the accelerator's.
    pub fn local_apic(&self, index: usize) -> Option<(ApicState, u32)> {
        let bus = &self.board.controllers.bus;
        bus.registers(index).zip(bus.timer_count(index))
    }

    /// The virtio devices, the oldest first.
    pub fn virtio_devices(&self) -> impl Iterator<Item = VirtioDevice<'_>> {
        self.board.devices.iter().filter_map(|device| {
            let inspect = device.virtio.as_ref()?;
            let path = match device.part {
                Some((part, _)) => format!("{}/{part}", device.path),
                None => device.path.clone(),
            };
            let has_bus = matches!(device.type_name, "virtio-scsi-pci" | "virtio-serial-pci");
            let bus_name = device.id().filter(|_| has_bus).map(|id| format!("{id}.0"));
            Some(VirtioDevice { path, bus_name, inspect })
        })
    }

    /// What memory and I/O ports show now.
    pub fn address_spaces(&self) -> [(&'static str, Arc<FlatView>); 2] {
        [("memory", self.board.memory.view()), ("I/O", self.board.ports.view())]
    }

    /// The devices by the buses that they are on.
    pub fn device_tree(&self) -> Vec<tree::Bus> {
        self.board.device_tree(&self.config)
    }
}
