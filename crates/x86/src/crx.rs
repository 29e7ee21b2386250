//! Control and debug register bits.
//!
//! Source: SDM vol. 3, 2.5 (control registers), 2.6 (XCR0), 18.2 (debug registers).

/// CR0.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type; always one.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
    /// All bits that exist.
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
    /// The value after reset.
    pub const RESET: u64 = CD | NW | ET;
}

/// CR3.
pub mod cr3 {
    /// Page-level write-through.
    pub const PWT: u64 = 1 << 3;
    /// Page-level cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Process-context identifier, when CR4.PCIDE is set.
    pub const PCID: u64 = 0xfff;
    /// A write with this bit keeps the context's translations, when CR4.PCIDE is set.
    pub const NO_FLUSH: u64 = 1 << 63;
}

/// CR4.
pub mod cr4 {
    /// Virtual-8086 mode extensions.
    pub const VME: u64 = 1;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// Time-stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// Performance counters for user code.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// SIMD exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// Five-level paging.
    pub const LA57: u64 = 1 << 12;
    /// VMX.
    pub const VMXE: u64 = 1 << 13;
    /// SMX.
    pub const SMXE: u64 = 1 << 14;
    /// RDFSBASE and its kin.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
    /// Protection keys for user pages.
    pub const PKE: u64 = 1 << 22;
    /// Control-flow enforcement.
    pub const CET: u64 = 1 << 23;
    /// Protection keys for supervisor pages.
    pub const PKS: u64 = 1 << 24;
}

/// XCR0 and the state components of XSAVE.
pub mod xcr0 {
    /// x87; always one.
    pub const X87: u64 = 1;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of YMM registers.
    pub const AVX: u64 = 1 << 2;
    /// Bound registers.
    pub const BNDREGS: u64 = 1 << 3;
    /// Bound configuration.
    pub const BNDCSR: u64 = 1 << 4;
    /// Mask registers.
    pub const OPMASK: u64 = 1 << 5;
    /// Upper halves of ZMM0-15.
    pub const ZMM_HI256: u64 = 1 << 6;
    /// ZMM16-31.
    pub const HI16_ZMM: u64 = 1 << 7;
    /// Protection key rights.
    pub const PKRU: u64 = 1 << 9;
    /// Tile configuration.
    pub const TILECFG: u64 = 1 << 17;
    /// Tile data.
    pub const TILEDATA: u64 = 1 << 18;
    /// The value after reset.
    pub const RESET: u64 = X87;
}

/// DR6.
pub mod dr6 {
    /// Breakpoint conditions of DR0-DR3.
    pub const B: u64 = 0xf;
    /// Debug register access.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch.
    pub const BT: u64 = 1 << 15;
    /// Cleared inside a transaction; one otherwise.
    pub const RTM: u64 = 1 << 16;
    /// Bits that read as one; also the value after reset.
    pub const FIXED: u64 = 0xffff_0ff0;
    /// Bits that software can change, when transactions are not supported.
    pub const WRITABLE: u64 = B | BD | BS | BT;
}

/// DR7.
pub mod dr7 {
    /// Local and global enables.
    pub const ENABLES: u64 = 0xff;
    /// Local exact.
    pub const LE: u64 = 1 << 8;
    /// Global exact.
    pub const GE: u64 = 1 << 9;
    /// Bit that reads as one; also the value after reset.
    pub const FIXED: u64 = 1 << 10;
    /// General detect.
    pub const GD: u64 = 1 << 13;
    /// Bits that software can change.
    pub const WRITABLE: u64 = 0xffff_0000 | GD | GE | LE | ENABLES;

    /// What breaks, of one of the four breakpoints.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Condition {
        /// Execution.
        Execute,
        /// Data writes.
        Write,
        /// Port accesses, with CR4.DE.
        Port,
        /// Data reads and writes.
        Access,
    }

    /// Whether breakpoint `index` (0-3) is enabled locally or globally.
    pub fn is_enabled(dr7: u64, index: u32) -> bool {
        dr7 >> (2 * (index & 3)) & 3 != 0
    }

    /// The condition of breakpoint `index` (0-3).
    pub fn condition(dr7: u64, index: u32) -> Condition {
        match dr7 >> (16 + 4 * (index & 3)) & 3 {
            0 => Condition::Execute,
            1 => Condition::Write,
            2 => Condition::Port,
            _ => Condition::Access,
        }
    }

    /// Bytes that breakpoint `index` (0-3) covers.
    pub fn length(dr7: u64, index: u32) -> u64 {
        match dr7 >> (18 + 4 * (index & 3)) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::dr7::{Condition, condition, is_enabled, length};

    #[test]
    fn breakpoint_fields_are_taken_from_their_own_bits() {
        // Breakpoint 1: global, write, 8 bytes. Breakpoint 3: access, 4 bytes, disabled.
        let dr7 = 1 << 3 | 0b1001 << 20 | 0b1111 << 28;
        assert_eq!((is_enabled(dr7, 1), condition(dr7, 1), length(dr7, 1)), (true, Condition::Write, 8));
        assert_eq!((is_enabled(dr7, 3), condition(dr7, 3), length(dr7, 3)), (false, Condition::Access, 4));
        assert_eq!((is_enabled(dr7, 0), condition(dr7, 0), length(dr7, 0)), (false, Condition::Execute, 1));
    }
}
