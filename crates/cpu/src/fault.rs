//! Exceptions as values: what an instruction raises, packed into one machine word.
//!
//! Specification: SDM vol. 3, chapter 6. The address of a page fault travels in [`crate::Cpu::fault_address`].

use std::num::NonZeroU64;

/// The result of anything that can raise an exception.
pub type Exec<T = ()> = Result<T, Fault>;

/// Exception vectors.
#[expect(missing_docs, reason = "the names are the exceptions")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// Where an event comes from; it decides about the saved RIP, the DPL check and the EXT bit of nested error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A fault of the current instruction: RIP of the instruction is saved, with RF set.
    Fault,
    /// A trap that is delivered between instructions (#DB): the current RIP is saved.
    Trap,
    /// INT n: RIP of the next instruction, gate DPL is checked.
    SoftwareInterrupt,
    /// INT3 and INTO: as INT n, and #BP/#OF are exceptions without a DPL exemption.
    SoftwareException,
    /// INT1 (ICEBP): RIP of the next instruction, no DPL check.
    PrivilegedSoftware,
    /// A maskable interrupt or an NMI, between instructions.
    External,
}

/// An exception or software interrupt to deliver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault(NonZeroU64);

const HAS_ERROR: u64 = 1 << 8;
const NON_CANONICAL: u64 = 1 << 9;
const KIND_SHIFT: u32 = 12;
const ERROR_SHIFT: u32 = 16;
const MARK: u64 = 1 << 63;

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fault(vector {}, error {:x?}, {:?})", self.vector(), self.error_code(), self.kind())
    }
}

impl Fault {
    const fn pack(bits: u64) -> Self {
        match NonZeroU64::new(bits | MARK) {
            Some(word) => Self(word),
            None => Self(NonZeroU64::MAX),
        }
    }

    const fn plain(vector: u8) -> Self {
        Self::pack(vector as u64)
    }

    const fn with_error(vector: u8, error: u32) -> Self {
        Self::pack(vector as u64 | HAS_ERROR | ((error as u64) << ERROR_SHIFT))
    }

    const fn with_kind(vector: u8, kind: EventKind) -> Self {
        Self::pack(vector as u64 | ((kind as u64) << KIND_SHIFT))
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0.get() as u8
    }

    /// The error code, for the exceptions that push one.
    #[must_use]
    pub const fn error_code(self) -> Option<u32> {
        if self.0.get() & HAS_ERROR != 0 { Some((self.0.get() >> ERROR_SHIFT) as u32) } else { None }
    }

    /// Where the event comes from.
    #[must_use]
    pub const fn kind(self) -> EventKind {
        match (self.0.get() >> KIND_SHIFT) & 0xf {
            0 => EventKind::Fault,
            1 => EventKind::Trap,
            2 => EventKind::SoftwareInterrupt,
            3 => EventKind::SoftwareException,
            4 => EventKind::PrivilegedSoftware,
            _ => EventKind::External,
        }
    }

    /// #DE.
    #[must_use]
    pub const fn de() -> Self {
        Self::plain(vector::DE)
    }

    /// #DB as a fault (instruction breakpoint, general detect); DR6 is set by the raiser.
    #[must_use]
    pub const fn db() -> Self {
        Self::plain(vector::DB)
    }

    /// #DB as a trap between instructions; DR6 is set by the raiser.
    #[must_use]
    pub const fn db_trap() -> Self {
        Self::with_kind(vector::DB, EventKind::Trap)
    }

    /// #BP, raised by INT3.
    #[must_use]
    pub const fn bp() -> Self {
        Self::with_kind(vector::BP, EventKind::SoftwareException)
    }

    /// #OF, raised by INTO.
    #[must_use]
    pub const fn of() -> Self {
        Self::with_kind(vector::OF, EventKind::SoftwareException)
    }

    /// #DB, raised by INT1 (ICEBP).
    #[must_use]
    pub const fn icebp() -> Self {
        Self::with_kind(vector::DB, EventKind::PrivilegedSoftware)
    }

    /// INT n.
    #[must_use]
    pub const fn software(vector: u8) -> Self {
        Self::with_kind(vector, EventKind::SoftwareInterrupt)
    }

    /// A maskable interrupt, or an NMI (vector 2).
    #[must_use]
    pub const fn external(vector: u8) -> Self {
        Self::with_kind(vector, EventKind::External)
    }

    /// #BR.
    #[must_use]
    pub const fn br() -> Self {
        Self::plain(vector::BR)
    }

    /// #UD.
    #[must_use]
    pub const fn ud() -> Self {
        Self::plain(vector::UD)
    }

    /// #NM.
    #[must_use]
    pub const fn nm() -> Self {
        Self::plain(vector::NM)
    }

    /// #DF.
    #[must_use]
    pub const fn df() -> Self {
        Self::with_error(vector::DF, 0)
    }

    /// #TS with an error code.
    #[must_use]
    pub const fn ts(error: u32) -> Self {
        Self::with_error(vector::TS, error)
    }

    /// #NP with an error code.
    #[must_use]
    pub const fn np(error: u32) -> Self {
        Self::with_error(vector::NP, error)
    }

    /// #SS with an error code.
    #[must_use]
    pub const fn ss(error: u32) -> Self {
        Self::with_error(vector::SS, error)
    }

    /// #GP with an error code.
    #[must_use]
    pub const fn gp(error: u32) -> Self {
        Self::with_error(vector::GP, error)
    }

    /// #GP(0).
    #[must_use]
    pub const fn gp0() -> Self {
        Self::gp(0)
    }

    /// #GP(0) for a non-canonical address; accesses through SS turn it into #SS(0).
    #[must_use]
    pub const fn non_canonical() -> Self {
        Self::pack(vector::GP as u64 | HAS_ERROR | NON_CANONICAL)
    }

    /// Whether this is [`Fault::non_canonical`].
    #[must_use]
    pub const fn is_non_canonical(self) -> bool {
        self.0.get() & NON_CANONICAL != 0
    }

    /// #PF with an error code; the address is in `Cpu::fault_address`.
    #[must_use]
    pub const fn pf(error: u32) -> Self {
        Self::with_error(vector::PF, error)
    }

    /// #MF.
    #[must_use]
    pub const fn mf() -> Self {
        Self::plain(vector::MF)
    }

    /// #AC(0).
    #[must_use]
    pub const fn ac() -> Self {
        Self::with_error(vector::AC, 0)
    }

    /// #XM.
    #[must_use]
    pub const fn xm() -> Self {
        Self::plain(vector::XM)
    }

    /// Sets the EXT bit of the error code, as for a fault that is met while another event is delivered.
    #[must_use]
    pub(crate) const fn with_ext(self, ext: u32) -> Self {
        Self::pack(self.0.get() | (((ext & 1) as u64) << ERROR_SHIFT))
    }
}
