//! Processors that come to the running machine and leave it: what the board has for them.

use std::sync::Arc;

use device::DeviceCell;
use devices_chipset::cpu_hotplug::{self, CpuHotplug, News};
use devices_isa::fw_cfg::{Item, key};

use super::{Board, Builder};
use crate::config::{ChipsetKind, MachineConfig};
use crate::error::MachineError;
use crate::event::GuestEvent;

/// The general-purpose event of processors.
const GPE: u8 = 2;

/// The first port of the registers.
pub(super) fn first_port(config: &MachineConfig) -> u16 {
    if config.machine_type.chipset == ChipsetKind::I440fx { 0xaf00 } else { 0x0cd8 }
}

/// Builds the registers; the processors of `-smp` are there.
pub(super) fn build(builder: &mut Builder<'_>) -> Result<DeviceCell<CpuHotplug>, MachineError> {
    let config = builder.config;
    let topology = config.topology;
    let count = topology.sockets * topology.dies * topology.cores * topology.threads;
    let events = Arc::clone(&builder.events);
    let listener = Box::new(move |news| {
        events(match news {
            News::Ejected(_) => GuestEvent::Unplugged,
            News::Reported(cpu, report) => GuestEvent::CpuReport { cpu, event: report.event, status: report.status },
        });
    });
    let ports = CpuHotplug::new((0..count).map(|index| topology.apic_id(index)).collect(), listener);
    for index in 0..config.cpus as usize {
        ports.lock().set_present(index, true);
    }
    builder.add_ports("acpi-cpu-hotplug", &ports, &[(0, u64::from(first_port(config)), cpu_hotplug::PORT_COUNT)])?;
    Ok(ports)
}

impl Board {
    /// The registers, where processors can come.
    pub fn cpu_hotplug(&self) -> Option<&DeviceCell<CpuHotplug>> {
        self.cpus.as_ref()
    }

    /// A processor has come: from the beginning, or while the guest runs, which is told then.
    pub fn cpu_plugged(&mut self, index: usize, path: &str, tells_guest: bool) {
        let Some(cpus) = &self.cpus else { return };
        self.cpu_paths.push(path.to_owned());
        if tells_guest {
            cpus.lock().plugged(index);
        } else {
            cpus.lock().set_present(index, true);
        }
        self.count_cpus();
        if tells_guest {
            self.raise_gpe(GPE);
        }
    }

    /// The guest is asked to let a processor go.
    pub fn request_cpu_removal(&self, index: usize) {
        if let Some(cpus) = &self.cpus {
            cpus.lock().request(index);
            self.raise_gpe(GPE);
        }
    }

    /// A processor is gone.
    pub fn cpu_removed(&mut self, index: usize, path: &str) {
        self.cpu_paths.retain(|other| other != path);
        if let Some(cpus) = &self.cpus {
            cpus.lock().set_present(index, false);
        }
        self.mailboxes.set(index, None);
        if self.controllers.has_local_apics() {
            self.controllers.bus.remove_cpu(index);
        }
        self.count_cpus();
    }

    /// What firmware and kernel read of the processors after the next reset.
    fn count_cpus(&mut self) {
        /// The byte of CMOS with the number of processors but one.
        const CMOS: u8 = 0x5f;
        let Some(cpus) = &self.cpus else { return };
        let present = cpus.lock().present().to_vec();
        let count = present.iter().filter(|present| **present).count();
        self.set_cmos(CMOS, count.saturating_sub(1) as u8);
        if let Some(fw_cfg) = &self.fw_cfg {
            fw_cfg.lock().set_item(key::NB_CPUS, Item::u16(count as u16));
        }
        if let Some(acpi) = &mut self.tables {
            Arc::make_mut(acpi).present = present;
        }
    }
}
