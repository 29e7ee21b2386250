//! The CPU's side of its local APIC.

/// A value that the APIC refuses: the CPU raises #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicMsrError;

/// What a CPU asks of its local APIC (SDM vol. 3, chapter 11). The methods lock the APIC; the CPU calls them with no
/// other lock held. The APIC itself raises [`crate::Signal::INTR`] whenever [`LocalApic::acknowledge`] would return a
/// vector, and clears it otherwise.
pub trait LocalApic: Send + Sync {
    /// Takes the interrupt to deliver now (INTA cycle): the highest-priority vector above the processor priority, or
    /// the vector of an external interrupt controller when LVT LINT0 passes it on. `None`: it went away.
    fn acknowledge(&self) -> Option<u8>;

    /// CR8: bits 7..4 of the task priority.
    fn cr8(&self) -> u8;

    /// Sets the task priority to `cr8 << 4`; `cr8` is 0..=15.
    fn set_cr8(&self, cr8: u8);

    /// The IA32_APIC_BASE MSR.
    fn base(&self) -> u64;

    /// Writes IA32_APIC_BASE: moves, disables, or switches to x2APIC mode.
    ///
    /// # Errors
    /// Reserved bits and forbidden transitions (SDM vol. 3, 11.12.5).
    fn set_base(&self, value: u64) -> Result<(), ApicMsrError>;

    /// Reads an x2APIC register (MSR 0x800..=0x8ff) or IA32_TSC_DEADLINE (0x6e0).
    ///
    /// # Errors
    /// Not in x2APIC mode, or no such readable register.
    fn read_msr(&self, index: u32) -> Result<u64, ApicMsrError>;

    /// Writes an x2APIC register or IA32_TSC_DEADLINE.
    ///
    /// # Errors
    /// Not in x2APIC mode, no such writable register, or reserved bits.
    fn write_msr(&self, index: u32, value: u64) -> Result<(), ApicMsrError>;

    /// INIT#: resets the APIC's registers but its identity and base.
    fn init(&self);
}
