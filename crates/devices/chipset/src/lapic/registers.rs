//! The local APIC's registers and what one APIC does by itself: priorities, acceptance, end of interrupt, errors.

use state::State;

/// Registers, named as in SDM vol. 3, table 11-1: offsets in the xAPIC page,
pub mod reg {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const RRD: u32 = 0x0c;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_ERROR: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Indices into [`ApicState::lvt`], in register order from 0x32 on.
pub mod lvt {
    pub const TIMER: usize = 0;
    pub const LINT0: usize = 3;
    pub const LINT1: usize = 4;
    pub const ERROR: usize = 5;
    pub const COUNT: usize = 6;
    pub const MASKED: u32 = 1 << 16;
    pub const LEVEL: u32 = 1 << 15;
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// The bits of each entry that can be written.
    pub const WRITABLE: [u32; COUNT] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
}

/// Version 0x14 with six LVT entries, as QEMU's.
pub const VERSION: u32 = 0x14 | ((lvt::COUNT as u32 - 1) << 16);

/// Bits of IA32_APIC_BASE.
pub mod base {
    pub const BSP: u64 = 1 << 8;
    pub const EXTD: u64 = 1 << 10;
    pub const ENABLE: u64 = 1 << 11;
    pub const ADDRESS: u64 = 0xfee0_0000;
}

/// Bits of the error status register.
pub mod error {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

const SVR_ENABLE: u32 = 1 << 8;

/// 256 bits, one for each vector.
pub type VectorSet = [u32; 8];

/// The highest vector in `set`.
pub fn highest(set: &VectorSet) -> Option<u8> {
    let (index, word) = set.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
    Some((index as u32 * 32 + 31 - word.leading_zeros()) as u8)
}

/// Puts `vector` into `set`.
pub fn insert(set: &mut VectorSet, vector: u8) {
    set[usize::from(vector >> 5)] |= 1 << (vector & 31);
}

/// Takes `vector` out of `set`.
pub fn remove(set: &mut VectorSet, vector: u8) {
    set[usize::from(vector >> 5)] &= !(1 << (vector & 31));
}

/// Whether `vector` is in `set`.
pub fn contains(set: &VectorSet, vector: u8) -> bool {
    set[usize::from(vector >> 5)] & (1 << (vector & 31)) != 0
}

/// The guest-visible state of one local APIC.
#[derive(Clone, Debug, PartialEq, Eq, State)]
#[state(name = "apic", version = 1)]
pub struct ApicState {
    /// IA32_APIC_BASE.
    pub base: u64,
    /// The xAPIC identity register's top byte.
    pub id: u8,
    /// Task priority.
    pub tpr: u8,
    /// The xAPIC logical destination register.
    pub ldr: u32,
    /// The destination format register.
    pub dfr: u32,
    /// The spurious-interrupt vector register.
    pub svr: u32,
    /// In service.
    pub isr: VectorSet,
    /// Level-triggered.
    pub tmr: VectorSet,
    /// Requested.
    pub irr: VectorSet,
    /// What a read of ESR gives.
    pub esr: u32,
    /// Errors since the last write of ESR.
    pub esr_pending: u32,
    /// The interrupt command register.
    pub icr: u64,
    /// The local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; lvt::COUNT],
    /// The timer's divide configuration.
    pub divide: u32,
    /// The timer's initial count.
    pub initial_count: u32,
    /// Guest time in nanoseconds when the timer began to count.
    pub count_start: u64,
    /// Guest time of the next expiry; 0 when the timer is not running.
    pub next_expiry: u64,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
    /// The level of the LINT0 pin.
    pub lint0_level: bool,
    /// The level of the LINT1 pin.
    pub lint1_level: bool,
    /// An ExtINT message waits for its INTA cycle.
    pub extint_message: bool,
}

impl ApicState {
    /// After power-on: only identity and base differ between CPUs.
    pub fn power_on(apic_id: u32, is_boot_cpu: bool) -> Self {
        let mut lvt = [lvt::MASKED; lvt::COUNT];
        if is_boot_cpu {
            // As firmware leaves it and QEMU begins: the 8259 pair reaches the boot CPU without any set-up.
            lvt[lvt::LINT0] = 0x700;
        }
        Self {
            base: base::ADDRESS | base::ENABLE | if is_boot_cpu { base::BSP } else { 0 },
            id: apic_id as u8,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt,
            divide: 0,
            initial_count: 0,
            count_start: 0,
            next_expiry: 0,
            tsc_deadline: 0,
            lint0_level: false,
            lint1_level: false,
            extint_message: false,
        }
    }

    /// Globally enabled in IA32_APIC_BASE.
    pub fn is_enabled(&self) -> bool {
        self.base & base::ENABLE != 0
    }

    /// In x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & base::EXTD != 0
    }

    /// Enabled globally and in the spurious-interrupt vector register.
    pub fn accepts_fixed(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLE != 0
    }

    /// The processor priority (SDM vol. 3, 11.8.3.1).
    pub fn ppr(&self) -> u8 {
        let in_service = highest(&self.isr).unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= in_service { self.tpr } else { in_service }
    }

    /// The vector that could be delivered now.
    pub fn deliverable(&self) -> Option<u8> {
        if !self.accepts_fixed() {
            return None;
        }
        highest(&self.irr).filter(|vector| vector & 0xf0 > self.ppr() & 0xf0)
    }

    /// Whether the 8259 pair's request passes through LINT0, or an ExtINT message waits.
    pub fn wants_external(&self) -> bool {
        let entry = self.lvt[lvt::LINT0];
        let passes = if self.is_enabled() {
            entry & (lvt::MASKED | 0x700) == 0x700
        } else {
            // Disabled, LINT0 is the CPU's INTR pin; it is wired to the boot CPU.
            self.base & base::BSP != 0
        };
        self.extint_message || (passes && self.lint0_level)
    }

    /// Requests a vector.
    pub fn request(&mut self, vector: u8, is_level: bool) {
        if vector < 16 {
            self.note_error(error::RECEIVED_ILLEGAL_VECTOR);
            return;
        }
        insert(&mut self.irr, vector);
        if is_level {
            insert(&mut self.tmr, vector);
        } else {
            remove(&mut self.tmr, vector);
        }
    }

    /// Records an error; the first since the last write of ESR raises the error interrupt.
    pub fn note_error(&mut self, bit: u32) {
        let is_news = self.esr_pending & bit == 0;
        self.esr_pending |= bit;
        let entry = self.lvt[lvt::ERROR];
        // The vector of the error entry itself may be illegal: then there is only the error bit.
        if is_news && entry & lvt::MASKED == 0 && entry as u8 >= 16 && self.accepts_fixed() {
            insert(&mut self.irr, entry as u8);
            remove(&mut self.tmr, entry as u8);
        }
    }

    /// Takes the deliverable vector into service.
    pub fn take(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        remove(&mut self.irr, vector);
        insert(&mut self.isr, vector);
        Some(vector)
    }

    /// Ends the interrupt in service; gives its vector when the I/O APICs must be told.
    pub fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = highest(&self.isr)?;
        remove(&mut self.isr, vector);
        let lint0 = &mut self.lvt[lvt::LINT0];
        if *lint0 & lvt::REMOTE_IRR != 0 && *lint0 as u8 == vector {
            *lint0 &= !lvt::REMOTE_IRR;
            if self.lint0_level && *lint0 & lvt::MASKED == 0 {
                *lint0 |= lvt::REMOTE_IRR;
                self.request(vector, true);
            }
            return None;
        }
        contains(&self.tmr, vector).then_some(vector)
    }

    /// The logical identity in x2APIC mode (SDM vol. 3, 11.12.10.2).
    pub fn x2apic_ldr(apic_id: u32) -> u32 {
        ((apic_id >> 4) << 16) | (1 << (apic_id & 15))
    }

    /// What software disabling does: all local interrupts are masked.
    pub fn write_svr(&mut self, value: u32) {
        self.svr = value & 0x1ff;
        if self.svr & SVR_ENABLE == 0 {
            for entry in &mut self.lvt {
                *entry |= lvt::MASKED;
            }
        }
    }

    /// Writes a local vector table entry.
    pub fn write_lvt(&mut self, index: usize, value: u32) {
        let Some(entry) = self.lvt.get_mut(index) else { return };
        let kept = *entry & lvt::REMOTE_IRR;
        *entry = (value & lvt::WRITABLE[index]) | kept;
        if self.svr & SVR_ENABLE == 0 {
            *entry |= lvt::MASKED;
        }
        if *entry & lvt::LEVEL == 0 {
            *entry &= !lvt::REMOTE_IRR;
        }
    }
}
