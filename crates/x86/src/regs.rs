//! The architectural register file, as monitors, migration and debuggers see it.

/// A segment register with its hidden part (SDM vol. 3, 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes, scaled (with granularity applied).
    pub limit: u32,
    /// Access rights as in the descriptor's bits 40..56: type, S, DPL, P in the low byte; AVL, L, D/B, G in bits 12..16.
    pub attributes: u16,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Order of [`Registers::segments`], as instructions encode it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the registers")]
pub enum SegmentRegister {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
}

/// All of a vCPU's registers that a debugger, a dump or a migration needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15: as instructions encode them.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// The task register.
    pub tr: Segment,
    /// The local descriptor table register.
    pub ldtr: Segment,
    /// The global descriptor table register.
    pub gdtr: TableRegister,
    /// The interrupt descriptor table register.
    pub idtr: TableRegister,
    /// Control registers.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Task priority (CR8).
    pub cr8: u64,
    /// Extended control register 0 (XSAVE components).
    pub xcr0: u64,
    /// DR0 … DR3, DR6, DR7 at their own indices.
    pub debug: [u64; 8],
    /// Extended feature enable register.
    pub efer: u64,
    /// The local APIC's base MSR.
    pub apic_base: u64,
    /// Other MSRs, as pairs of index and value, ascending.
    pub msrs: Vec<(u32, u64)>,
    /// The XSAVE area in standard format: x87, SSE, then what XCR0 enables.
    pub xsave: Vec<u8>,
    /// Whether the vCPU executes, or what it waits for.
    pub activity: Activity,
    /// Events that wait, and what holds them off.
    pub events: Events,
    /// System-management mode.
    pub smm: SystemManagement,
}

/// Events that wait for the end of an instruction or of a mode, and what holds them off. Maskable interrupts wait in
/// their controllers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// NMIs are blocked: one is being handled, or the vCPU is in system-management mode.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// An INIT# waits for the end of system-management mode.
    pub init_pending: bool,
    /// What the last instruction holds off for the next one.
    pub shadow: InterruptShadow,
    /// DR6 bits of debug traps that the last instruction met and that are not delivered yet.
    pub debug_traps: u64,
}

/// Why events are held off for one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterruptShadow {
    /// They are not.
    #[default]
    None,
    /// After an STI that set IF: maskable interrupts.
    Sti,
    /// After a load of SS: all.
    MovSs,
}

/// The state around system-management mode (SDM vol. 3, chapter 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemManagement {
    /// The vCPU is in system-management mode.
    pub active: bool,
    /// NMIs were blocked when the mode was entered.
    pub inside_nmi: bool,
    /// An SMI waits.
    pub smi_pending: bool,
    /// Where the state save map lies, and the handler.
    pub smbase: u32,
}

impl SystemManagement {
    /// SMBASE after a reset.
    pub const RESET_SMBASE: u32 = 0x3_0000;
}

impl Default for SystemManagement {
    fn default() -> Self {
        Self { active: false, inside_nmi: false, smi_pending: false, smbase: Self::RESET_SMBASE }
    }
}

/// What a vCPU does between instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// It executes.
    #[default]
    Running,
    /// It waits in HLT for an interrupt.
    Halted,
    /// It waits for a start-up IPI, as all but the boot processor do after a reset.
    WaitForSipi,
}

/// RFLAGS bits.
#[expect(missing_docs, reason = "the names are the flags")]
pub mod rflags {
    pub const CF: u64 = 1;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
}
