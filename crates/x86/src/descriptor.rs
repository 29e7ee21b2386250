//! Segment, system and gate descriptors, selectors, and the layouts of task state segments.
//!
//! Source: SDM vol. 3, 3.4 (segments), 5.8.3 and 6.11 (gates), 8.2 (task state segments).

use crate::regs::Segment;

/// Bits of [`Segment::attributes`]: the descriptor's bits 40 to 55.
pub mod attribute {
    /// Type: accessed.
    pub const ACCESSED: u16 = 1;
    /// Type: writable data, or readable code.
    pub const WRITABLE: u16 = 1 << 1;
    /// Type: readable code.
    pub const READABLE: u16 = 1 << 1;
    /// Type: expand-down data.
    pub const EXPAND_DOWN: u16 = 1 << 2;
    /// Type: conforming code.
    pub const CONFORMING: u16 = 1 << 2;
    /// Type: code.
    pub const CODE: u16 = 1 << 3;
    /// The type field.
    pub const TYPE: u16 = 0xf;
    /// Code or data, not system.
    pub const S: u16 = 1 << 4;
    /// Lowest bit of the descriptor privilege level.
    pub const DPL_SHIFT: u32 = 5;
    /// The descriptor privilege level.
    pub const DPL: u16 = 3 << DPL_SHIFT;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Bits 8 to 11 are the limit's and stay clear.
    pub const LIMIT: u16 = 0xf00;
    /// Available to software.
    pub const AVL: u16 = 1 << 12;
    /// 64-bit code.
    pub const L: u16 = 1 << 13;
    /// Default operand size, or size of the stack pointer.
    pub const DB: u16 = 1 << 14;
    /// The limit counts pages.
    pub const G: u16 = 1 << 15;
}

/// Types of system descriptors (SDM vol. 3, table 3-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SystemType {
    /// 16-bit TSS, available.
    Tss16 = 1,
    /// Local descriptor table.
    Ldt = 2,
    /// 16-bit TSS, busy.
    Tss16Busy = 3,
    /// 16-bit call gate.
    CallGate16 = 4,
    /// Task gate.
    TaskGate = 5,
    /// 16-bit interrupt gate.
    InterruptGate16 = 6,
    /// 16-bit trap gate.
    TrapGate16 = 7,
    /// 32-bit or 64-bit TSS, available.
    Tss32 = 9,
    /// 32-bit or 64-bit TSS, busy.
    Tss32Busy = 11,
    /// 32-bit or 64-bit call gate.
    CallGate32 = 12,
    /// 32-bit or 64-bit interrupt gate.
    InterruptGate32 = 14,
    /// 32-bit or 64-bit trap gate.
    TrapGate32 = 15,
}

impl SystemType {
    /// The type with this code; reserved codes have none.
    pub fn from_code(code: u8) -> Option<Self> {
        use SystemType::*;
        Some(match code {
            1 => Tss16,
            2 => Ldt,
            3 => Tss16Busy,
            4 => CallGate16,
            5 => TaskGate,
            6 => InterruptGate16,
            7 => TrapGate16,
            9 => Tss32,
            11 => Tss32Busy,
            12 => CallGate32,
            14 => InterruptGate32,
            15 => TrapGate32,
            _ => return None,
        })
    }
}

/// A segment selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub u16);

impl Selector {
    /// Requested privilege level.
    pub fn rpl(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// Whether it selects from the local table.
    pub fn is_local(self) -> bool {
        self.0 & 4 != 0
    }

    /// Byte offset of the descriptor in its table.
    pub fn offset(self) -> u16 {
        self.0 & !7
    }

    /// Whether it is a null selector, of whatever RPL.
    pub fn is_null(self) -> bool {
        self.0 & !3 == 0
    }

    /// The error code that names it: without RPL.
    pub fn error_code(self) -> u32 {
        u32::from(self.0 & !3)
    }
}

/// The first eight bytes of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// A code, data or system descriptor. A limit above FFFFFH needs [`attribute::G`]; what does not fit is cut.
    pub fn new(base: u32, limit: u32, attributes: u16) -> Self {
        let limit = u64::from(if attributes & attribute::G != 0 { limit >> 12 } else { limit });
        let base = u64::from(base);
        let attributes = u64::from(attributes & !attribute::LIMIT);
        let low = limit & 0xffff | (base & 0xff_ffff) << 16;
        Descriptor(low | attributes << 40 | (limit >> 16 & 0xf) << 48 | (base >> 24) << 56)
    }

    /// Linear base, 32 bits of it.
    pub fn base(self) -> u32 {
        (self.0 >> 16 & 0xff_ffff | self.0 >> 56 << 24) as u32
    }

    /// Highest offset, with granularity applied.
    pub fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.attributes() & attribute::G != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// Bits 40 to 55 without the limit's.
    pub fn attributes(self) -> u16 {
        (self.0 >> 40) as u16 & !attribute::LIMIT
    }

    /// The type field.
    pub fn kind(self) -> u8 {
        (self.0 >> 40 & 0xf) as u8
    }

    /// The type of a system descriptor, if it is one and its type is not reserved.
    pub fn system_type(self) -> Option<SystemType> {
        if self.is_system() { SystemType::from_code(self.kind()) } else { None }
    }

    /// Whether it describes something else than code or data.
    pub fn is_system(self) -> bool {
        self.attributes() & attribute::S == 0
    }

    /// Whether it describes code.
    pub fn is_code(self) -> bool {
        self.attributes() & (attribute::S | attribute::CODE) == attribute::S | attribute::CODE
    }

    /// Whether it is present.
    pub fn is_present(self) -> bool {
        self.attributes() & attribute::P != 0
    }

    /// Descriptor privilege level.
    pub fn dpl(self) -> u8 {
        (self.0 >> 45 & 3) as u8
    }

    /// The segment register's contents after loading it.
    pub fn segment(self, selector: u16) -> Segment {
        let (base, limit) = (u64::from(self.base()), self.limit());
        Segment { selector, base, limit, attributes: self.attributes() }
    }

    /// A 64-bit base from a system descriptor of long mode; `high` are its upper eight bytes.
    pub fn long_base(self, high: u64) -> u64 {
        u64::from(self.base()) | high << 32
    }

    /// Reads it as a gate.
    pub fn gate(self) -> Gate {
        Gate {
            selector: Selector((self.0 >> 16) as u16),
            offset: self.0 & 0xffff | self.0 >> 32 & 0xffff_0000,
            parameters: (self.0 >> 32 & 0x1f) as u8,
            kind: self.system_type(),
            dpl: self.dpl(),
            present: self.is_present(),
        }
    }

    /// Reads it as a gate of long mode; `high` are its upper eight bytes.
    pub fn long_gate(self, high: u64) -> Gate {
        let gate = self.gate();
        Gate { offset: gate.offset | high << 32, ..gate }
    }
}

/// A call, interrupt, trap or task gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The code segment, or the task's.
    pub selector: Selector,
    /// The entry point. A 16-bit gate's upper half is as it is in memory: ignore it.
    pub offset: u64,
    /// A call gate's parameter count; in long mode's interrupt gates the interrupt stack table index (3 bits).
    pub parameters: u8,
    /// The type; `None` if it is no system descriptor or reserved.
    pub kind: Option<SystemType>,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Whether it is present.
    pub present: bool,
}

impl Gate {
    /// The first eight bytes, and the upper ones for long mode.
    pub fn encode(&self) -> (Descriptor, u64) {
        let access =
            u64::from(self.kind.map_or(0, |kind| kind as u8) | (self.dpl & 3) << 5 | u8::from(self.present) << 7);
        let low = self.offset & 0xffff
            | u64::from(self.selector.0) << 16
            | u64::from(self.parameters & 0x1f) << 32
            | access << 40
            | (self.offset >> 16 & 0xffff) << 48;
        (Descriptor(low), self.offset >> 32)
    }

    /// Interrupt stack table index of a long-mode gate.
    pub fn interrupt_stack(&self) -> u8 {
        self.parameters & 7
    }
}

/// Byte offsets in a 16-bit task state segment (SDM vol. 3, figure 8-10).
pub mod tss16 {
    /// Previous task link.
    pub const LINK: u64 = 0;
    /// SP and SS of privilege level 0; levels 1 and 2 follow, four bytes each.
    pub const STACK0: u64 = 2;
    /// IP, FLAGS, AX, CX, DX, BX, SP, BP, SI, DI, ES, CS, SS, DS: two bytes each.
    pub const IP: u64 = 14;
    /// FLAGS.
    pub const FLAGS: u64 = 16;
    /// AX and the seven registers that follow.
    pub const AX: u64 = 18;
    /// ES, CS, SS and DS.
    pub const ES: u64 = 34;
    /// LDT selector.
    pub const LDT: u64 = 42;
    /// The smallest limit.
    pub const LIMIT: u32 = 43;
}

/// Byte offsets in a 32-bit task state segment (SDM vol. 3, figure 8-2).
pub mod tss32 {
    /// Previous task link.
    pub const LINK: u64 = 0;
    /// ESP and SS of privilege level 0; levels 1 and 2 follow, eight bytes each.
    pub const STACK0: u64 = 4;
    /// CR3.
    pub const CR3: u64 = 28;
    /// EIP.
    pub const EIP: u64 = 32;
    /// EFLAGS.
    pub const EFLAGS: u64 = 36;
    /// EAX and the seven registers that follow, as instructions encode them.
    pub const EAX: u64 = 40;
    /// ES, CS, SS, DS, FS and GS, four bytes each.
    pub const ES: u64 = 72;
    /// LDT selector.
    pub const LDT: u64 = 96;
    /// Bit 0: debug trap on entry.
    pub const TRAP: u64 = 100;
    /// Offset of the I/O permission bitmap.
    pub const IO_MAP: u64 = 102;
    /// The smallest limit.
    pub const LIMIT: u32 = 103;
}

/// Byte offsets in a 64-bit task state segment (SDM vol. 3, figure 8-11).
pub mod tss64 {
    /// RSP of privilege level 0; levels 1 and 2 follow, eight bytes each.
    pub const RSP0: u64 = 4;
    /// Interrupt stack 1; stacks 2 to 7 follow, eight bytes each.
    pub const IST1: u64 = 36;
    /// Offset of the I/O permission bitmap.
    pub const IO_MAP: u64 = 102;
    /// The smallest limit.
    pub const LIMIT: u32 = 103;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_code_descriptor_reads_as_four_gigabytes() {
        let flat = Descriptor(0x00cf_9a00_0000_ffff);
        assert_eq!((flat.base(), flat.limit(), flat.attributes()), (0, u32::MAX, 0xc09a));
        assert!(flat.is_code() && flat.is_present() && !flat.is_system());
        assert_eq!(Descriptor::new(0, u32::MAX, 0xc09a), flat);
    }

    #[test]
    fn descriptor_survives_encoding() {
        for (base, limit, attributes) in
            [(0x1234_5678, 0xa_bcde, 0x0093), (0xff00_00ff, 0xffff, 0x4082), (7, 0x7fff_ffff, 0xa09b)]
        {
            let descriptor = Descriptor::new(base, limit, attributes);
            let expected = if attributes & attribute::G != 0 { limit | 0xfff } else { limit };
            assert_eq!((descriptor.base(), descriptor.limit(), descriptor.attributes()), (base, expected, attributes));
        }
        let segment = Descriptor::new(0x10_0000, 0xffff, 0x93).segment(8);
        assert_eq!(segment, Segment { selector: 8, base: 0x10_0000, limit: 0xffff, attributes: 0x93 });
    }

    #[test]
    fn gate_survives_encoding() {
        let gate = Gate {
            selector: Selector(0x10),
            offset: 0xffff_ffff_8123_4567,
            parameters: 3,
            kind: Some(SystemType::InterruptGate32),
            dpl: 3,
            present: true,
        };
        let (low, high) = gate.encode();
        assert_eq!(low, Descriptor(0x8123_ee03_0010_4567));
        assert_eq!(low.long_gate(high), gate);
        assert_eq!(gate.interrupt_stack(), 3);
    }

    #[test]
    fn system_types_have_their_codes_and_reserved_ones_none() {
        for code in 0..16 {
            let found = SystemType::from_code(code).map(|kind| kind as u8);
            assert_eq!(found, (![0, 8, 10, 13].contains(&code)).then_some(code));
        }
        assert_eq!(Descriptor::new(0, 0, 0x93).system_type(), None);
    }

    #[test]
    fn selectors_split_into_index_table_and_level() {
        let selector = Selector(0x2f);
        assert_eq!(
            (selector.rpl(), selector.is_local(), selector.offset(), selector.error_code()),
            (3, true, 0x28, 0x2c)
        );
        assert!(Selector(3).is_null() && !Selector(4).is_null());
    }
}
