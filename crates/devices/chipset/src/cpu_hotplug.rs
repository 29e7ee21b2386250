//! The ports by which ACPI code plugs and unplugs processors (QEMU's `docs/specs/acpi_cpu_hotplug`, version of 7.2).
//!
//! At first there is the older interface: a bitmap of the processors that are present, by local APIC id, one byte a port.
//! Zero written to its first port switches to the newer one for ever:
//!
//! | offset | bytes | read | write |
//! | --- | --- | --- | --- |
//! | 0 | 4 | 0, or for command 3 the upper half of the APIC id | selects a processor |
//! | 4 | 1 | bit 0 enabled, 1 has come, 2 shall leave, 4 firmware shall eject it | takes 1 and 2, ejects (3), turns 4 over |
//! | 5 | 1 | 0 | command: 0 next with news, 1 and 2 the system's report, 3 APIC id |
//! | 8 | 4 | 0: the selected processor; 3: its APIC id | 1: event of the report; 2: its status, which sends it |
//!
//! While the selected processor does not exist, reads give 0 and all writes but of the selector are ignored. A processor
//! is disabled from the guest's ejection on; the machine hears of it and ends it. A reset changes nothing.

use device::{AccessSize, Device, DeviceCell, DeviceState, IoDevice, ResetKind};
use state::State;

/// How many ports there are.
pub const PORT_COUNT: u64 = 32;

/// Offsets of the registers.
mod port {
    pub const SELECTOR: u64 = 0;
    pub const STATUS: u64 = 4;
    pub const COMMAND: u64 = 5;
    pub const DATA: u64 = 8;
}

/// Bits of a processor's status.
mod status {
    pub const ENABLED: u8 = 1;
    pub const COMING: u8 = 1 << 1;
    pub const LEAVING: u8 = 1 << 2;
    pub const EJECT: u8 = 1 << 3;
    pub const BY_FIRMWARE: u8 = 1 << 4;
    /// What calls for attention.
    pub const NEWS: u8 = COMING | LEAVING | BY_FIRMWARE;
}

/// Commands.
mod command {
    pub const NEXT: u8 = 0;
    pub const REPORT_EVENT: u8 = 1;
    pub const REPORT_STATUS: u8 = 2;
    pub const APIC_ID: u8 = 3;
}

/// What the operating system said last of a processor (ACPI 4.0, 6.3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The event that it is about.
    pub event: u32,
    /// How it went.
    pub status: u32,
}

const REPORT_LEN: usize = 8;

impl Report {
    fn of(bytes: &[u8]) -> Self {
        let word = bytes.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        Self { event: word as u32, status: (word >> 32) as u32 }
    }
}

/// What the machine hears. Called with the device's lock held.
pub enum News {
    /// The guest has ejected this processor.
    Ejected(usize),
    /// The guest reports on this one.
    Reported(usize, Report),
}

/// Hears news.
pub type Listener = Box<dyn FnMut(News) + Send>;

/// The guest-visible state; lists have one entry for each possible processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, State)]
#[state(name = "acpi_cpuhp_state", version = 1)]
struct HotplugState {
    /// The newer interface.
    is_modern: bool,
    selector: u32,
    command: u8,
    #[state(max_len = 4096)]
    news: Vec<u8>,
    /// Eight bytes each: event and status of the last report.
    #[state(max_len = 32768)]
    reports: Vec<u8>,
}

/// The ports.
pub struct CpuHotplug {
    // Fixed configuration.
    apic_ids: Vec<u32>,
    // Wiring.
    /// Which processors there are.
    present: Vec<bool>,
    listener: Listener,
    // Guest-visible state.
    state: HotplugState,
}

impl CpuHotplug {
    /// Ports for possible processors with these local APIC ids, the boot processor first. None is present.
    pub fn new(apic_ids: Vec<u32>, listener: Listener) -> DeviceCell<Self> {
        let present = vec![false; apic_ids.len()];
        let mut ports = Self { apic_ids, present, listener, state: HotplugState::default() };
        ports.fit();
        DeviceCell::new(ports)
    }

    /// The lists have the length that they should have.
    fn fit(&mut self) {
        let count = self.apic_ids.len();
        self.state.news.resize(count, 0);
        self.state.reports.resize(count * REPORT_LEN, 0);
        self.state.news.iter_mut().for_each(|news| *news &= status::NEWS);
    }

    /// Which processors there are, by index.
    pub fn present(&self) -> &[bool] {
        &self.present
    }

    /// A processor is there from the beginning, or is gone.
    pub fn set_present(&mut self, index: usize, is_present: bool) {
        if let Some(present) = self.present.get_mut(index) {
            *present = is_present;
        }
    }

    /// A processor has come. Afterwards the guest has to be told by an event.
    pub fn plugged(&mut self, index: usize) {
        self.set_present(index, true);
        if let Some(news) = self.state.news.get_mut(index) {
            *news |= status::COMING;
        }
    }

    /// The guest shall let a processor go. Afterwards it has to be told by an event.
    pub fn request(&mut self, index: usize) {
        if let Some(news) = self.state.news.get_mut(index) {
            *news |= status::LEAVING;
        }
    }

    /// What the operating system said last, by index.
    pub fn reports(&self) -> Vec<Report> {
        self.state.reports.chunks_exact(REPORT_LEN).map(Report::of).collect()
    }

    fn selected(&self) -> Option<usize> {
        Some(self.state.selector as usize).filter(|selected| *selected < self.apic_ids.len())
    }

    fn is_present(&self, index: usize) -> bool {
        self.present.get(index).copied().unwrap_or(false)
    }

    /// The older interface: a byte of the bitmap.
    fn bitmap(&self, byte: u64) -> u8 {
        let ids = self.apic_ids.iter().zip(&self.present).filter(|(_, present)| **present);
        let of_byte = ids.filter(|(id, _)| u64::from(**id >> 3) == byte);
        of_byte.fold(0, |bits, (id, _)| bits | 1 << (id & 7))
    }

    fn read_modern(&self, offset: u64) -> u32 {
        let Some(selected) = self.selected() else { return 0 };
        let apic_id = self.apic_ids.get(selected).copied().unwrap_or(0);
        match (offset, self.state.command) {
            (port::STATUS, _) => {
                let enabled = if self.is_present(selected) { status::ENABLED } else { 0 };
                u32::from(enabled | self.state.news.get(selected).copied().unwrap_or(0))
            }
            (port::DATA, command::NEXT) => self.state.selector,
            (port::DATA, command::APIC_ID) => apic_id,
            // Local APIC ids have no upper half.
            _ => 0,
        }
    }

    fn write_modern(&mut self, offset: u64, value: u32) {
        if offset == port::SELECTOR {
            self.state.selector = value;
            return;
        }
        let Some(selected) = self.selected() else { return };
        match offset {
            port::STATUS => self.control(selected, value as u8),
            port::COMMAND if value <= u32::from(command::APIC_ID) => {
                self.state.command = value as u8;
                if self.state.command == command::NEXT {
                    let count = self.apic_ids.len();
                    let mut others = (0..count).map(|step| (selected + step) % count);
                    let has_news = |index: &usize| self.state.news.get(*index).is_some_and(|news| *news != 0);
                    self.state.selector = others.find(has_news).unwrap_or(selected) as u32;
                }
            }
            port::DATA => self.report(selected, value),
            _ => {}
        }
    }

    fn report(&mut self, selected: usize, value: u32) {
        let Some(bytes) = self.state.reports.chunks_exact_mut(REPORT_LEN).nth(selected) else { return };
        let old = Report::of(bytes);
        let new = match self.state.command {
            command::REPORT_EVENT => Report { event: value, ..old },
            command::REPORT_STATUS => Report { status: value, ..old },
            _ => return,
        };
        bytes[..4].copy_from_slice(&new.event.to_le_bytes());
        bytes[4..].copy_from_slice(&new.status.to_le_bytes());
        if self.state.command == command::REPORT_STATUS {
            (self.listener)(News::Reported(selected, new));
        }
    }

    /// One thing at a time, the lowest bit first.
    fn control(&mut self, selected: usize, value: u8) {
        // The boot processor stays.
        let can_leave = selected != 0 && self.is_present(selected);
        let Some(news) = self.state.news.get_mut(selected) else { return };
        if value & status::COMING != 0 {
            *news &= !status::COMING;
        } else if value & status::LEAVING != 0 {
            *news &= !status::LEAVING;
        } else if value & status::EJECT != 0 && can_leave {
            *news = 0;
            self.set_present(selected, false);
            (self.listener)(News::Ejected(selected));
        } else if value & status::BY_FIRMWARE != 0 && can_leave {
            *news ^= status::BY_FIRMWARE;
        }
    }
}

impl Device for CpuHotplug {
    fn reset(&mut self, _kind: ResetKind) {}

    fn state(&mut self) -> DeviceState<'_> {
        DeviceState::State(&mut self.state)
    }

    fn restored(&mut self) {
        self.fit();
    }
}

impl IoDevice for CpuHotplug {
    fn access_sizes(&self, _region: usize) -> (AccessSize, AccessSize) {
        if self.state.is_modern { (AccessSize::Byte, AccessSize::Dword) } else { (AccessSize::Byte, AccessSize::Byte) }
    }

    fn read(&mut self, _region: usize, offset: u64, _size: AccessSize) -> u64 {
        if self.state.is_modern { u64::from(self.read_modern(offset)) } else { u64::from(self.bitmap(offset)) }
    }

    fn write(&mut self, _region: usize, offset: u64, _size: AccessSize, value: u64) {
        if self.state.is_modern {
            self.write_modern(offset, value as u32);
        } else if offset == port::SELECTOR && value == 0 {
            self.state.is_modern = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use device::testing::{reset_twice_is_once, save_and_restore_agree};

    type Log = Arc<Mutex<Vec<String>>>;

    fn ports() -> (DeviceCell<CpuHotplug>, Log) {
        let log = Log::default();
        let seen = Arc::clone(&log);
        let listener = Box::new(move |news| {
            seen.lock().expect("log").push(match news {
                News::Ejected(index) => format!("{index} leaves"),
                News::Reported(index, report) => format!("{index}: {} {}", report.event, report.status),
            });
        });
        let ports = CpuHotplug::new(vec![0, 1, 9, 300], listener);
        ports.lock().set_present(0, true);
        ports.lock().set_present(2, true);
        (ports, log)
    }

    fn read(ports: &DeviceCell<CpuHotplug>, offset: u64, size: AccessSize) -> u64 {
        ports.lock().read(0, offset, size)
    }

    fn write(ports: &DeviceCell<CpuHotplug>, offset: u64, size: AccessSize, value: u64) {
        ports.lock().write(0, offset, size, value);
    }

    fn modern() -> (DeviceCell<CpuHotplug>, Log) {
        let (ports, log) = ports();
        write(&ports, 0, AccessSize::Byte, 0);
        (ports, log)
    }

    const DWORD: AccessSize = AccessSize::Dword;
    const BYTE: AccessSize = AccessSize::Byte;

    #[test]
    fn older_interface_is_a_bitmap_until_zero_is_written() {
        let (ports, _) = ports();
        assert_eq!([0, 1, 2, 31].map(|offset| read(&ports, offset, BYTE)), [1, 2, 0, 0]);
        write(&ports, 1, BYTE, 0);
        write(&ports, 0, BYTE, 5);
        assert_eq!(read(&ports, 1, BYTE), 2, "still a bitmap");
        write(&ports, 0, BYTE, 0);
        assert_eq!((read(&ports, 0, DWORD), read(&ports, 4, BYTE)), (0, 1));
        ports.lock().reset(ResetKind::Cold);
        assert_eq!(read(&ports, 4, BYTE), 1, "for ever");
    }

    #[test]
    fn processors_with_news_are_found_and_named() {
        let (ports, _) = modern();
        ports.lock().plugged(3);
        ports.lock().request(2);
        write(&ports, 5, BYTE, 0);
        assert_eq!((read(&ports, 8, DWORD), read(&ports, 4, BYTE)), (2, 5));
        write(&ports, 4, BYTE, 4);
        write(&ports, 5, BYTE, 0);
        assert_eq!((read(&ports, 8, DWORD), read(&ports, 4, BYTE)), (3, 3));
        write(&ports, 4, BYTE, 2);
        assert_eq!(read(&ports, 4, BYTE), 1);
        write(&ports, 5, BYTE, 3);
        assert_eq!((read(&ports, 8, DWORD), read(&ports, 0, DWORD)), (300, 0));
        write(&ports, 0, DWORD, 4);
        write(&ports, 5, BYTE, 0);
        assert_eq!((read(&ports, 4, BYTE), read(&ports, 8, DWORD)), (0, 0), "there is no such processor");
    }

    #[test]
    fn ejected_processors_are_disabled_but_the_boot_processor_stays() {
        let (ports, log) = modern();
        for index in [0, 1, 2] {
            write(&ports, 0, DWORD, index);
            write(&ports, 4, BYTE, 0x10);
            write(&ports, 4, BYTE, 8);
        }
        assert_eq!(ports.lock().present(), [true, false, false, false]);
        assert_eq!(read(&ports, 4, BYTE), 0);
        assert_eq!(*log.lock().expect("log"), ["2 leaves"]);
    }

    #[test]
    fn reports_of_the_operating_system_are_told() {
        let (ports, log) = modern();
        write(&ports, 0, DWORD, 2);
        for (command, value) in [(1, 0x103), (2, 0x84), (3, 7), (9, 1)] {
            write(&ports, 5, BYTE, command);
            write(&ports, 8, DWORD, value);
        }
        assert_eq!(*log.lock().expect("log"), ["2: 259 132"]);
        assert_eq!(ports.lock().reports()[2], Report { event: 0x103, status: 0x84 });
    }

    #[test]
    fn state_moves_and_hostile_lists_are_harmless() {
        let (ports, _) = modern();
        ports.lock().plugged(1);
        write(&ports, 0, DWORD, 1);
        reset_twice_is_once("acpi-cpu-hotplug", &ports, ResetKind::Warm).expect("reset");
        save_and_restore_agree("acpi-cpu-hotplug", &ports).expect("saved");
        {
            let mut ports = ports.lock();
            ports.state = HotplugState { selector: 3, news: vec![0xff], ..HotplugState::default() };
            ports.state.is_modern = true;
            ports.restored();
        }
        for offset in 0..32 {
            read(&ports, offset, DWORD);
            write(&ports, offset, DWORD, 0xff);
        }
    }
}
