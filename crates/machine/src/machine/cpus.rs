//! vCPUs that come to the machine and leave it. The place is named by socket, die, core and thread, or by the local APIC
//! id; messages are QEMU's.
//!
//! A vCPU comes at once, and the guest is told by ACPI (`devices_chipset::cpu_hotplug`). It leaves when the guest ejects
//! it: the registers call it disabled from then on, and the control thread ends its thread. A reset changes nothing.

use devices_chipset::cpu_hotplug::Report;

use super::reset::DirectTables;
use super::{CpuSlot, Machine, new_vcpu};
use crate::config::{ChipsetKind, CpuDeviceConfig};
use crate::objects;
use crate::pc::{Removed, UnplugError};

impl CpuSlot {
    fn place(&self) -> [u32; 4] {
        [self.socket, self.die.unwrap_or(0), self.core, self.thread]
    }
}

impl Machine {
    /// The index of the slot that a processor wants.
    fn wanted_slot(&self, wish: &CpuDeviceConfig) -> Result<usize, String> {
        let last = self.slots.len().saturating_sub(1);
        if let Some(apic_id) = wish.apic_id {
            let found = self.slots.iter().position(|slot| slot.apic_id == apic_id);
            return found.ok_or_else(|| format!("Invalid CPU with APIC ID {apic_id}, valid index range 0:{last}"));
        }
        let topology = self.config.topology;
        let die = wish.die.or((topology.dies <= 1).then_some(0));
        let parts = [
            ("socket", wish.socket, topology.sockets),
            ("die", die, topology.dies),
            ("core", wish.core, topology.cores),
            ("thread", wish.thread, topology.threads),
        ];
        let mut place = [0; 4];
        for (into, (name, value, count)) in place.iter_mut().zip(parts) {
            *into = value.ok_or_else(|| format!("CPU {name}-id is not set"))?;
            let max = count.saturating_sub(1);
            if *into > max {
                return Err(format!("Invalid CPU {name}-id: {into} must be in range 0:{max}"));
            }
        }
        let [socket, die, core, thread] = place;
        self.slots.iter().position(|slot| slot.place() == place).ok_or_else(|| {
            format!(
                "Invalid CPU [socket: {socket}, die: {die}, core: {core}, thread: {thread}], valid index range 0:{last}"
            )
        })
    }

    /// Adds a processor; with `is_later` the machine has been started, and the guest is told.
    pub(super) fn plug_cpu(&mut self, id: Option<&str>, wish: &CpuDeviceConfig, is_later: bool) -> Result<(), String> {
        let chipset = self.config.machine_type.chipset;
        if chipset == ChipsetKind::Empty {
            return Err(format!("Device '{}' can not be hotplugged on this machine", wish.type_name));
        }
        if wish.type_name != self.cpu_type {
            return Err(format!("Invalid CPU type, expected cpu type: '{}'", self.cpu_type));
        }
        let index = self.wanted_slot(wish)?;
        let slot = &self.slots[index];
        if slot.path.is_some() {
            return Err(format!("CPU[{index}] with APIC ID {} exists", slot.apic_id));
        }
        if let (Some(node), Some(own)) = (wish.node, slot.node)
            && node != u32::from(own)
        {
            return Err(format!("node-id={node} must match numa node specified with -numa option"));
        }
        if self.board.cpu_hotplug().is_none() {
            return Err(format!("virt: device plug request for unsupported device type: {}", wish.type_name));
        }
        if !self.vcpus.can_change() {
            return Err("CPUs that share a thread are fixed".to_owned());
        }
        let path = match id {
            Some(id) => format!("/machine/peripheral/{id}"),
            None => objects::anonymous_path(&self.objects),
        };
        if let Err(message) = self.start_cpu(index, &path, is_later) {
            // What is half made has a thread and a local APIC that hears messages.
            self.vcpus.remove(index);
            self.board.cpu_removed(index, &path);
            return Err(message);
        }
        self.slots[index].path = Some(path.clone());
        self.reset_vcpu(index);
        self.vcpus.join_others(index);
        self.board.cpu_plugged(index, &path, is_later);
        self.renew_tables();
        Ok(())
    }

    /// Makes a processor, its thread and its object.
    fn start_cpu(&mut self, index: usize, path: &str, is_later: bool) -> Result<(), String> {
        let place = (index, &self.slots[index]);
        let cpu = new_vcpu(&self.config, place, &self.board, &*self.accelerator).map_err(|error| error.to_string())?;
        self.vcpus.add(index, cpu).map_err(|error| error.to_string())?;
        let names = (&self.config.cpu_model, &self.slots[index]);
        objects::add_cpu(&mut self.objects, path, names, is_later).map_err(|error| error.to_string())
    }

    /// The tables for a kernel without firmware tell of the processors from the next reset on.
    fn renew_tables(&mut self) {
        if let Some(at) = self.tables.as_ref().map(|tables| tables.at) {
            self.tables = DirectTables::new(&self.board, at);
        }
    }

    /// The index of the vCPU at this path of the object tree.
    pub(super) fn cpu_at(&self, path: &str) -> Option<usize> {
        self.slots.iter().position(|slot| slot.path.as_deref() == Some(path))
    }

    pub(super) fn request_cpu_removal(&self, index: usize) -> Result<(), UnplugError> {
        if index == 0 {
            return Err(UnplugError::Other("Boot CPU is unpluggable".to_owned()));
        }
        if !self.vcpus.can_change() || self.board.cpu_hotplug().is_none() {
            return Err(UnplugError::Other("CPUs that share a thread are fixed".to_owned()));
        }
        self.board.request_cpu_removal(index);
        Ok(())
    }

    /// The paths of the processors that the guest has let go, and whose threads have to end.
    pub(super) fn ejected_cpus(&self) -> Vec<String> {
        let Some(cpus) = self.board.cpu_hotplug() else { return Vec::new() };
        let present = cpus.lock().present().to_vec();
        let slots = self.slots.iter().zip(present);
        slots.filter(|(_, present)| !present).filter_map(|(slot, _)| slot.path.clone()).collect()
    }

    pub(super) fn remove_cpu(&mut self, index: usize, path: &str) -> Removed {
        self.vcpus.remove(index);
        self.board.cpu_removed(index, path);
        if let Some(slot) = self.slots.get_mut(index) {
            slot.path = None;
        }
        if let Ok(object) = self.objects.resolve(path) {
            // It was just found.
            let _removed = self.objects.remove(object);
        }
        let id = path.strip_prefix("/machine/peripheral/").map(str::to_owned);
        if id.is_some() {
            self.config.devices.retain(|config| config.id != id);
        }
        self.renew_tables();
        Removed { id, path: path.to_owned(), part: None }
    }

    /// What the guest's operating system reported last of each possible processor: the device's id, and the report.
    pub fn cpu_reports(&self) -> Vec<(Option<String>, Report)> {
        let reports = self.board.cpu_hotplug().map_or_else(Vec::new, |cpus| cpus.lock().reports());
        let id = |slot: &CpuSlot| slot.path.as_deref()?.strip_prefix("/machine/peripheral/").map(str::to_owned);
        self.slots.iter().map(id).zip(reports).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{CpuDeviceConfig, DeviceConfig, DeviceKind};
    use crate::harness::Harness;
    use crate::pc::Backends;

    #[test]
    fn processor_whose_name_is_taken_leaves_nothing_behind() {
        const TAKEN: &str = "i6300esb";
        let mut harness = Harness::of_device("pc", TAKEN);
        let machine = harness.machine_mut();
        let type_name = machine.cpu_type.clone();
        let wish = CpuDeviceConfig { type_name, apic_id: Some(1), ..CpuDeviceConfig::default() };
        let device = |id: &str| DeviceConfig {
            id: Some(id.to_owned()),
            source: String::new(),
            kind: DeviceKind::Cpu(wish.clone()),
            rom: None,
        };
        let backends = Backends {
            chardevs: &|id| Err(chardev::Error::NotFound(id.to_owned())),
            disks: &|_| Err("none".to_owned()),
            memories: &|_| Err("none".to_owned()),
            entropy: &|_| Err("none".to_owned()),
        };
        machine.plug(&device(TAKEN), &backends).expect_err("the name is a watchdog's");
        assert!(!machine.vcpus().is_present(1), "its thread is left");
        machine.plug(&device("second"), &backends).expect("the place is free");
        assert!(machine.vcpus().is_present(1));
    }
}
