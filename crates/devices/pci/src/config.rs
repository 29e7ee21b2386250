//! A function's configuration space (PCI Local Bus Specification 3.0, chapter 6): which bits the guest can write or clear,
//! base address registers, and the chain of capabilities. Functions of PCI Express have 4096 bytes in place of 256 (PCI
//! Express Base Specification 2.0, 7.2), with a chain of extended capabilities.

use device::AccessSize;
use state::State;

/// Offsets of the standard header.
pub mod reg {
    #![expect(missing_docs, reason = "named as in the specification, figure 6-1")]
    pub const VENDOR: u8 = 0x00;
    pub const DEVICE: u8 = 0x02;
    pub const COMMAND: u8 = 0x04;
    pub const STATUS: u8 = 0x06;
    pub const REVISION: u8 = 0x08;
    pub const PROG_IF: u8 = 0x09;
    pub const CLASS: u8 = 0x0a;
    pub const CACHE_LINE: u8 = 0x0c;
    pub const LATENCY: u8 = 0x0d;
    pub const HEADER_TYPE: u8 = 0x0e;
    pub const BAR0: u8 = 0x10;
    pub const SUBSYSTEM_VENDOR: u8 = 0x2c;
    pub const SUBSYSTEM: u8 = 0x2e;
    pub const ROM: u8 = 0x30;
    pub const CAPABILITIES: u8 = 0x34;
    pub const INTERRUPT_LINE: u8 = 0x3c;
    pub const INTERRUPT_PIN: u8 = 0x3d;
}

/// Bits of the command register.
pub mod command {
    #![expect(missing_docs, reason = "named as in the specification, table 6-1")]
    pub const IO: u16 = 1;
    pub const MEMORY: u16 = 1 << 1;
    pub const MASTER: u16 = 1 << 2;
    pub const SERR: u16 = 1 << 8;
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Bits of the status register.
pub mod status {
    #![expect(missing_docs, reason = "named as in the specification, table 6-2")]
    pub const INTERRUPT: u16 = 1 << 3;
    pub const CAPABILITIES: u16 = 1 << 4;
    pub const FAST_BACK_TO_BACK: u16 = 1 << 7;
    pub const DEVSEL_MEDIUM: u16 = 1 << 9;
}

/// Bytes of configuration space.
pub const CONFIG_SIZE: usize = 256;
/// Bytes of it with what PCI Express adds.
pub const EXTENDED_SIZE: usize = 4096;
/// The number of the expansion ROM among the base address registers.
pub const ROM_BAR: usize = 6;
/// Vendor and number of the subsystem that every QEMU function has unless it says otherwise.
pub const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory below 4 GiB without side effects of reads.
    Prefetchable32,
    /// Prefetchable memory anywhere; takes the next register too.
    Prefetchable64,
    /// Memory anywhere with side effects of reads; takes the next register too.
    Memory64,
    /// The expansion ROM (register 6 only).
    Rom,
}

impl BarKind {
    /// Decodes memory addresses of 64 bits.
    pub fn is_64_bit(self) -> bool {
        matches!(self, Self::Prefetchable64 | Self::Memory64)
    }

    /// Reads have no side effects.
    pub fn is_prefetchable(self) -> bool {
        matches!(self, Self::Prefetchable32 | Self::Prefetchable64)
    }

    fn type_bits(self) -> u32 {
        match self {
            Self::Io => 1,
            Self::Memory32 | Self::Rom => 0,
            Self::Prefetchable32 => 8,
            Self::Memory64 => 4,
            Self::Prefetchable64 => 12,
        }
    }
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// How much: a power of two.
    pub size: u64,
}

/// What identifies a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class and subclass.
    pub class: u16,
    /// Programming interface.
    pub prog_if: u8,
}

/// Configuration space. The registers are saved state; masks and sizes are the device's configuration.
#[derive(Clone, Debug, State)]
#[state(name = "pci_config", version = 1)]
pub struct ConfigSpace {
    registers: [u8; CONFIG_SIZE],
    /// What a reset restores.
    #[state(skip = "configuration of the model")]
    initial: [u8; CONFIG_SIZE],
    #[state(skip = "configuration of the model")]
    writable: [u8; CONFIG_SIZE],
    /// Bits that are cleared by writing ones.
    #[state(skip = "configuration of the model")]
    clearable: [u8; CONFIG_SIZE],
    #[state(skip = "configuration of the model")]
    bars: [Option<Bar>; 7],
    /// What is behind the first 256 bytes; nothing in conventional functions.
    #[state(max_len = 3840)]
    extended: Vec<u8>,
    #[state(skip = "configuration of the model")]
    extension: Extension,
}

/// What a reset restores, and what the guest can write and clear.
#[derive(Clone, Debug, Default)]
struct Extension {
    initial: Vec<u8>,
    writable: Vec<u8>,
    clearable: Vec<u8>,
    /// The last capability of the chain.
    last: Option<u16>,
}

impl ConfigSpace {
    /// The space of a plain function (header type 0). Everything behind the header is writable, as QEMU has it.
    pub fn new(identity: &Identity) -> Self {
        let mut config = Self {
            registers: [0; CONFIG_SIZE],
            initial: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            clearable: [0; CONFIG_SIZE],
            bars: [None; 7],
            extended: Vec::new(),
            extension: Extension::default(),
        };
        config.set_u16(reg::VENDOR, identity.vendor);
        config.set_u16(reg::DEVICE, identity.device);
        config.set_u8(reg::REVISION, identity.revision);
        config.set_u8(reg::PROG_IF, identity.prog_if);
        config.set_u16(reg::CLASS, identity.class);
        config.set_u16(reg::SUBSYSTEM_VENDOR, SUBSYSTEM.0);
        config.set_u16(reg::SUBSYSTEM, SUBSYSTEM.1);
        config.writable[0x40..].fill(0xff);
        let commands = command::IO | command::MEMORY | command::MASTER | command::SERR | command::INTX_DISABLE;
        config.allow_u16(reg::COMMAND, commands);
        config.writable[usize::from(reg::CACHE_LINE)] = 0xff;
        config.writable[usize::from(reg::INTERRUPT_LINE)] = 0xff;
        // Parity, aborts and system errors.
        config.clearable[usize::from(reg::STATUS) + 1] = 0xf9;
        config
    }

    // ---- Set-up by the model ----

    /// Sets a byte, now and after each reset, whatever the guest may write.
    pub fn set_u8(&mut self, offset: u8, value: u8) {
        self.registers[usize::from(offset)] = value;
        self.initial[usize::from(offset)] = value;
    }

    /// Sets two bytes, see [`ConfigSpace::set_u8`].
    pub fn set_u16(&mut self, offset: u8, value: u16) {
        let [low, high] = value.to_le_bytes();
        self.set_u8(offset, low);
        self.set_u8(offset.wrapping_add(1), high);
    }

    /// Sets four bytes, see [`ConfigSpace::set_u8`].
    pub fn set_u32(&mut self, offset: u8, value: u32) {
        self.set_u16(offset, value as u16);
        self.set_u16(offset.wrapping_add(2), (value >> 16) as u16);
    }

    /// Says which bits of a byte the guest can write.
    pub fn allow_u8(&mut self, offset: u8, mask: u8) {
        self.writable[usize::from(offset)] = mask;
    }

    /// Says which bits of two bytes the guest can write.
    pub fn allow_u16(&mut self, offset: u8, mask: u16) {
        let [low, high] = mask.to_le_bytes();
        self.allow_u8(offset, low);
        self.allow_u8(offset.wrapping_add(1), high);
    }

    /// Says which bits of four bytes the guest can write.
    pub fn allow_u32(&mut self, offset: u8, mask: u32) {
        self.allow_u16(offset, mask as u16);
        self.allow_u16(offset.wrapping_add(2), (mask >> 16) as u16);
    }

    /// Says which bits of two bytes the guest clears by writing ones.
    pub fn clear_u16(&mut self, offset: u8, mask: u16) {
        let [low, high] = mask.to_le_bytes();
        self.clearable[usize::from(offset)] = low;
        self.clearable[usize::from(offset.wrapping_add(1))] = high;
    }

    /// Makes this function the first of several in its slot.
    pub fn set_multifunction(&mut self) {
        self.set_u8(reg::HEADER_TYPE, 0x80);
    }

    /// Uses an interrupt pin: 1 is INTA.
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        self.set_u8(reg::INTERRUPT_PIN, pin);
    }

    /// Adds base address register `index` (6 is the expansion ROM).
    ///
    /// # Panics
    /// When the size is no power of two of at least 16 bytes (4 for ports), or the register is taken: the model is wrong.
    pub fn add_bar(&mut self, index: usize, bar: Bar) {
        let least = if bar.kind == BarKind::Io { 4 } else { 16 };
        assert!(bar.size.is_power_of_two() && bar.size >= least, "BAR {index} of {:#x} bytes", bar.size);
        assert!((index == ROM_BAR) == (bar.kind == BarKind::Rom), "BAR {index} is a {:?}", bar.kind);
        let offset = Self::bar_offset(index);
        let taken = if bar.kind.is_64_bit() { 8 } else { 4 };
        let is_free = self.writable[usize::from(offset)..usize::from(offset) + taken].iter().all(|mask| *mask == 0);
        assert!(is_free, "BAR {index} is taken");
        self.bars[index] = Some(bar);
        self.set_u32(offset, bar.kind.type_bits());
        let mask = !(bar.size - 1);
        self.allow_u32(offset, mask as u32 | if bar.kind == BarKind::Rom { 1 } else { 0 });
        if bar.kind.is_64_bit() {
            self.allow_u32(offset + 4, (mask >> 32) as u32);
        }
    }

    /// Adds a capability of `len` bytes at `offset`, before those that are there, as QEMU chains them; its bytes behind
    /// the first two are zero and read-only until the model says otherwise.
    pub fn add_capability(&mut self, id: u8, offset: u8, len: u8) {
        for at in offset..offset.saturating_add(len) {
            self.allow_u8(at, 0);
            self.set_u8(at, 0);
        }
        self.set_u8(offset, id);
        let next = self.u8(reg::CAPABILITIES);
        self.set_u8(offset.wrapping_add(1), next);
        self.set_u8(reg::CAPABILITIES, offset);
        let present = self.u16(reg::STATUS) | status::CAPABILITIES;
        self.set_u16(reg::STATUS, present);
    }

    /// Makes it 4096 bytes. Everything behind the header of the first extended capability is writable, as QEMU has it.
    pub fn extend(&mut self) {
        let len = EXTENDED_SIZE - CONFIG_SIZE;
        self.extended = vec![0; len];
        self.extension = Extension { writable: vec![0xff; len], clearable: vec![0; len], ..Extension::default() };
        self.extension.initial.clone_from(&self.extended);
        self.allow_extended(CONFIG_SIZE as u16, 4, 0);
    }

    /// Whether it has 4096 bytes.
    pub fn is_extended(&self) -> bool {
        !self.extended.is_empty()
    }

    /// Adds an extended capability of `len` bytes at `offset`, behind those that are there, the first at 0x100; its bytes
    /// are zero and read-only until the model says otherwise.
    pub fn add_extended_capability(&mut self, (id, version): (u16, u8), offset: u16, len: u16) {
        for at in (offset..offset.saturating_add(len)).step_by(4) {
            self.allow_extended(at, 4, 0);
            self.set_extended(at, 0);
        }
        self.set_extended(offset, u32::from(id) | u32::from(version & 0xf) << 16);
        if let Some(last) = self.extension.last.replace(offset) {
            let header = self.read_extended(last, AccessSize::Dword);
            self.set_extended(last, header & 0xf_ffff | u32::from(offset) << 20);
        }
    }

    /// Sets four bytes behind the first 256, now and after each reset.
    pub fn set_extended(&mut self, offset: u16, value: u32) {
        for (at, byte) in (offset..).zip(value.to_le_bytes()) {
            for bytes in [&mut self.extended, &mut self.extension.initial] {
                if let Some(register) = extended_index(at).and_then(|at| bytes.get_mut(at)) {
                    *register = byte;
                }
            }
        }
    }

    /// Says which bits of `len` bytes (at most four) behind the first 256 the guest can write.
    pub fn allow_extended(&mut self, offset: u16, len: usize, mask: u32) {
        set_mask(&mut self.extension.writable, offset, &mask.to_le_bytes()[..len.min(4)]);
    }

    /// Says which bits of four bytes behind the first 256 the guest clears by writing ones.
    pub fn clear_extended(&mut self, offset: u16, mask: u32) {
        set_mask(&mut self.extension.clearable, offset, &mask.to_le_bytes());
    }

    fn bar_offset(index: usize) -> u8 {
        if index == ROM_BAR { reg::ROM } else { reg::BAR0 + 4 * index as u8 }
    }

    // ---- What it says ----

    /// A byte.
    pub fn u8(&self, offset: u8) -> u8 {
        self.registers[usize::from(offset)]
    }

    /// Two bytes.
    pub fn u16(&self, offset: u8) -> u16 {
        u16::from_le_bytes([self.u8(offset), self.u8(offset.wrapping_add(1))])
    }

    /// Four bytes.
    pub fn u32(&self, offset: u8) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset.wrapping_add(2))) << 16
    }

    /// Sets a byte as the device itself does while it works; a reset undoes it.
    pub fn store_u8(&mut self, offset: u8, value: u8) {
        self.registers[usize::from(offset)] = value;
    }

    /// Sets or clears bits of two bytes as the device itself does while it works; a reset undoes it.
    pub fn store_bits_u16(&mut self, offset: u8, mask: u16, set: bool) {
        let old = self.u16(offset);
        let [low, high] = if set { old | mask } else { old & !mask }.to_le_bytes();
        self.store_u8(offset, low);
        self.store_u8(offset.wrapping_add(1), high);
    }

    /// The function may read and write memory.
    pub fn is_bus_master(&self) -> bool {
        self.u16(reg::COMMAND) & command::MASTER != 0
    }

    /// The function may drive its interrupt pin.
    pub fn is_intx_enabled(&self) -> bool {
        self.u16(reg::COMMAND) & command::INTX_DISABLE == 0
    }

    /// The declared base address register `index`.
    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// Where base address register `index` decodes now: `None` while the command register keeps it off, and at
    /// addresses that are none.
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        let bar = self.bar(index)?;
        let offset = Self::bar_offset(index);
        let enabled = self.u16(reg::COMMAND) & if bar.kind == BarKind::Io { command::IO } else { command::MEMORY };
        let low = self.u32(offset);
        if enabled == 0 || (bar.kind == BarKind::Rom && low & 1 == 0) {
            return None;
        }
        let high = if bar.kind.is_64_bit() { self.u32(offset + 4) } else { 0 };
        let address = (u64::from(high) << 32 | u64::from(low)) & !(bar.size - 1);
        let last = address.checked_add(bar.size - 1)?;
        let limit = match bar.kind {
            BarKind::Io => 0xffff,
            BarKind::Prefetchable64 | BarKind::Memory64 => u64::MAX - 1,
            // The last page of 4 GiB is what sizing writes.
            _ => 0xffff_fffe,
        };
        (address != 0 && last <= limit).then_some(address)
    }

    // ---- Accesses ----

    /// A read by the guest.
    pub fn read(&self, offset: u8, size: AccessSize) -> u32 {
        (0..size.bytes().min(4) as u8)
            .fold(0, |value, index| value | u32::from(self.u8(offset.wrapping_add(index))) << (8 * index))
    }

    /// A write by the guest: writable bits change, ones clear clearable bits.
    pub fn write(&mut self, offset: u8, size: AccessSize, value: u32) {
        for index in 0..size.bytes().min(4) as u8 {
            let at = usize::from(offset.wrapping_add(index));
            let byte = (value >> (8 * index)) as u8;
            let register = &mut self.registers[at];
            *register = (*register & !self.writable[at]) | (byte & self.writable[at]);
            *register &= !(byte & self.clearable[at]);
        }
    }

    /// A read by the guest behind the first 256 bytes: all ones in a conventional function.
    pub fn read_extended(&self, offset: u16, size: AccessSize) -> u32 {
        let none = if self.is_extended() { 0 } else { 0xff };
        let byte = |at| extended_index(at).and_then(|at| self.extended.get(at)).copied().unwrap_or(none);
        (0..size.bytes().min(4) as u16)
            .fold(0, |value, index| value | u32::from(byte(offset.saturating_add(index))) << (8 * index))
    }

    /// A write by the guest behind the first 256 bytes.
    pub fn write_extended(&mut self, offset: u16, size: AccessSize, value: u32) {
        for (at, byte) in (offset..).zip(value.to_le_bytes()).take(size.bytes()) {
            let Some(at) = extended_index(at) else { continue };
            let mask = |of: &[u8]| of.get(at).copied().unwrap_or_default();
            let (writable, clearable) = (mask(&self.extension.writable), mask(&self.extension.clearable));
            if let Some(register) = self.extended.get_mut(at) {
                *register = ((*register & !writable) | (byte & writable)) & !(byte & clearable);
            }
        }
    }

    /// Everything as after power-on.
    pub fn reset(&mut self) {
        self.registers = self.initial;
        self.extended.clone_from(&self.extension.initial);
    }
}

/// Where what is behind the first 256 bytes is kept.
fn extended_index(offset: u16) -> Option<usize> {
    usize::from(offset).checked_sub(CONFIG_SIZE)
}

fn set_mask(masks: &mut [u8], offset: u16, bytes: &[u8]) {
    for (at, byte) in (offset..).zip(bytes) {
        if let Some(mask) = extended_index(at).and_then(|at| masks.get_mut(at)) {
            *mask = *byte;
        }
    }
}
