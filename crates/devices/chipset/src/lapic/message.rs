//! Interrupt messages on the APIC bus (SDM vol. 3, 11.6 and 11.11).

use accel::Msi;

/// What an interrupt message does at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, to all destinations.
    Fixed,
    /// The vector, to the destination that runs at the lowest priority.
    LowestPriority,
    /// A system-management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// A start-up IPI; the vector is the start page.
    StartUp,
    /// The vector comes from the external 8259 pair.
    ExtInt,
}

impl DeliveryMode {
    /// The mode of a three-bit field (bits 10..8 of ICR, LVT, redirection entries and MSI data). `None`: reserved.
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }

    /// The three-bit field.
    pub fn bits(self) -> u32 {
        match self {
            Self::Fixed => 0,
            Self::LowestPriority => 1,
            Self::Smi => 2,
            Self::Nmi => 4,
            Self::Init => 5,
            Self::StartUp => 6,
            Self::ExtInt => 7,
        }
    }
}

/// Who a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The APIC with this identity.
    Physical(u32),
    /// The APICs that a logical destination selects.
    Logical(u32),
    /// Every APIC.
    All,
    /// Every APIC but this CPU's.
    AllExcept(usize),
    /// This CPU's APIC.
    Cpu(usize),
}

impl Destination {
    /// An eight-bit destination as the I/O APIC, MSIs and the xAPIC's ICR hold it; 0xff is everybody.
    pub fn narrow(id: u8, is_logical: bool) -> Self {
        match (id, is_logical) {
            (0xff, _) => Self::All,
            (id, true) => Self::Logical(u32::from(id)),
            (id, false) => Self::Physical(u32::from(id)),
        }
    }

    /// A 32-bit destination of the x2APIC's ICR; all ones is everybody.
    pub fn wide(id: u32, is_logical: bool) -> Self {
        match (id, is_logical) {
            (u32::MAX, _) => Self::All,
            (id, true) => Self::Logical(id),
            (id, false) => Self::Physical(id),
        }
    }
}

/// Whether a message stands for an edge or for a level that an EOI must be broadcast for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Nothing to be said at the end of the interrupt.
    Edge,
    /// The end of the interrupt is broadcast to the I/O APICs.
    Level,
}

impl Trigger {
    /// Level when `is_level`.
    pub fn from_bit(is_level: bool) -> Self {
        if is_level { Self::Level } else { Self::Edge }
    }
}

/// An interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// For whom.
    pub destination: Destination,
    /// What it does.
    pub mode: DeliveryMode,
    /// The vector.
    pub vector: u8,
    /// Edge or level.
    pub trigger: Trigger,
}

impl InterruptMessage {
    /// The message of a PCI function's MSI: a write of `data` to `address` in 0xfeexxxxx (SDM vol. 3, 11.11).
    /// `None`: a reserved delivery mode, or not an interrupt address.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        Some(Self {
            destination: Destination::narrow((address >> 12) as u8, address & 4 != 0),
            mode: DeliveryMode::from_bits(data >> 8)?,
            vector: data as u8,
            trigger: Trigger::from_bit(data & 0x8000 != 0),
        })
    }

    /// The same message as address and data. `None` for messages that only local APICs send.
    pub fn to_msi(&self) -> Option<Msi> {
        let (id, logical) = match self.destination {
            Destination::Physical(id) => (id, 0),
            Destination::Logical(id) => (id, 4),
            Destination::All => (0xff, 0),
            Destination::AllExcept(_) | Destination::Cpu(_) => return None,
        };
        let id = u64::from(u8::try_from(id).ok()?);
        // What goes to the lowest priority says so in the address, too (the redirection hint).
        let hint = if self.mode == DeliveryMode::LowestPriority { 8 } else { 0 };
        let level = if self.trigger == Trigger::Level { 0xc000 } else { 0 };
        let data = u32::from(self.vector) | self.mode.bits() << 8 | level;
        Some(Msi { address: 0xfee0_0000 | id << 12 | hint | logical, data })
    }
}
