//! The state of one vCPU. Hot fields come first; the order is part of the design (a translator uses the same offsets).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use accel::{CpuSignals, LocalApic};
use clock::{Clock, InstructionCounter};
use fpu::{Mxcsr, X87};
use memory::AddressSpace;
use x86::regs::{Segment, SegmentRegister, SystemManagement, TableRegister, rflags};

use crate::block::BlockCache;
use crate::cpuid::Features;
use crate::flags::LazyFlags;
use crate::mmu::Tlb;
use crate::msr::Msrs;
use crate::{ExclusiveLock, FerrLine};

/// Indices into [`Cpu::gpr`].
#[expect(missing_docs, reason = "the names are the registers")]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R11: usize = 11;
}

/// Control register bits and EFER bits.
#[expect(missing_docs, reason = "the names are the bits")]
pub mod cr {
    pub const CR0_PE: u64 = 1;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_AM: u64 = 1 << 18;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_VME: u64 = 1;
    pub const CR4_PVI: u64 = 1 << 1;
    pub const CR4_TSD: u64 = 1 << 2;
    pub const CR4_DE: u64 = 1 << 3;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_MCE: u64 = 1 << 6;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_PCE: u64 = 1 << 8;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_UMIP: u64 = 1 << 11;
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    pub const CR4_PCIDE: u64 = 1 << 17;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
    pub const EFER_SCE: u64 = 1;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
    pub const EFER_SVME: u64 = 1 << 12;
    pub const EFER_FFXSR: u64 = 1 << 14;
}

/// How code is decoded and what segmentation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum CodeMode {
    /// Real-address mode (16-bit default; CS.D is honoured, as after a return from protected mode).
    #[default]
    Real,
    /// Virtual-8086 mode.
    V86,
    /// Protected or compatibility mode, 16-bit code segment.
    Prot16,
    /// Protected or compatibility mode, 32-bit code segment.
    Prot32,
    /// 64-bit mode.
    Long64,
}

/// What depends on CR0, EFER, RFLAGS.VM, CS and SS; kept by [`Cpu::update_mode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Current privilege level; 0 in real mode, 3 in virtual-8086 mode.
    pub cpl: u8,
    /// How code is decoded.
    pub code: CodeMode,
    /// Default operand and address size of code: 16, 32 or 64.
    pub bits: u8,
    /// Width of the stack pointer: 16, 32 or 64.
    pub stack: u8,
    /// EFER.LMA: 64-bit or compatibility mode.
    pub long: bool,
    /// CR0.PE set and RFLAGS.VM clear.
    pub protected: bool,
}

impl Mode {
    /// Whether the CPU is in 64-bit mode.
    #[inline(always)]
    #[must_use]
    pub fn is_long64(self) -> bool {
        self.code == CodeMode::Long64
    }
    /// Whether the CPU is in virtual-8086 mode.
    #[inline(always)]
    #[must_use]
    pub fn is_v86(self) -> bool {
        self.code == CodeMode::V86
    }
}

/// Why interrupts are held off for one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shadow {
    /// They are not.
    #[default]
    None,
    /// After an STI that set IF: maskable interrupts.
    Sti,
    /// After a load of SS: maskable interrupts, NMI and debug traps.
    MovSs,
}

/// What the vCPU does besides executing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// It executes.
    #[default]
    Running,
    /// It waits in HLT.
    Halted,
    /// It waits for a start-up IPI.
    WaitForSipi,
    /// A triple fault; only a reset or INIT# ends it.
    Shutdown,
}

/// Why an x87, MMX, SSE or AVX instruction may not run now: bits of [`Cpu::fpu_denied`].
pub mod denied {
    /// x87: CR0.EM or CR0.TS gives #NM.
    pub const X87: u8 = 1;
    /// MMX: CR0.EM gives #UD.
    pub const MMX_UD: u8 = 2;
    /// MMX, SSE, AVX: CR0.TS gives #NM.
    pub const NM: u8 = 4;
    /// SSE: CR0.EM set or CR4.OSFXSR clear gives #UD.
    pub const SSE_UD: u8 = 8;
    /// WAIT: CR0.MP and CR0.TS give #NM.
    pub const WAIT: u8 = 16;
    /// AVX: CR4.OSXSAVE clear, or XCR0 without SSE and AVX, gives #UD.
    pub const AVX_UD: u8 = 32;
}

/// A vector register as the host keeps it in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Ymm {
    /// Bits 0 to 127: the XMM register.
    pub low: u128,
    /// Bits 128 to 255.
    pub high: u128,
}

impl Ymm {
    /// All bits clear.
    pub const ZERO: Self = Self { low: 0, high: 0 };
}

/// Segment access flags: bits of [`Cpu::seg_ok`].
pub mod seg_ok {
    /// Any offset of a read is valid.
    pub const READ: u8 = 1;
    /// Any offset of a write is valid.
    pub const WRITE: u8 = 2;
}

/// One vCPU.
#[repr(C)]
pub struct Cpu {
    // Hot state.
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15.
    pub gpr: [u64; 16],
    /// The start of the current instruction (between instructions: of the next one), as an offset in CS.
    pub rip: u64,
    /// The offset of the following instruction, truncated to the code size.
    pub next_rip: u64,
    /// CF, PF, AF, ZF, SF, OF.
    pub flags: LazyFlags,
    /// The other bits of RFLAGS without bit 1; see [`Cpu::rflags`].
    pub system_flags: u64,
    /// Effective segment bases, by [`SegmentRegister`]: 0 for ES, CS, SS, DS in 64-bit mode.
    pub seg_base: [u64; 6],
    /// All ones in 64-bit mode, else `0xffff_ffff`: linear addresses wrap with it.
    pub address_mask: u64,
    /// See [`seg_ok`].
    pub seg_ok: [u8; 6],
    /// See [`denied`].
    pub fpu_denied: u8,
    /// CR0.AM, RFLAGS.AC and CPL 3: data accesses must be aligned.
    pub alignment_check: bool,
    /// The derived mode.
    pub mode: Mode,
    /// Everything outside the code bytes that decoding depends on: code and stack width, real/V86/protected, CPL.
    pub mode_key: u32,
    /// Run one instruction at a time (TF, breakpoints, shadows): `exec_blocks` returns after each.
    pub one_instruction: bool,
    /// A store hit decoded code; the running block must end after this instruction.
    pub code_modified: bool,
    /// Which [`accel::Signal`] bits end `exec_blocks` at a block entry (not INTR while IF is clear, and so on).
    pub signal_mask: u32,
    /// The outer loop is wanted before the next instruction (interrupt window, mode, shadow …).
    pub exit_request: bool,
    /// Interrupt shadow left by the last instruction.
    pub shadow: Shadow,

    /// YMM0 … YMM15; the low halves are XMM0 … XMM15.
    pub ymm: [Ymm; 16],
    /// MXCSR.
    pub mxcsr: Mxcsr,
    /// The x87 unit.
    pub x87: X87,

    // Architectural state.
    /// Segment registers with hidden parts.
    pub segs: [Segment; 6],
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Global descriptor table register.
    pub gdtr: TableRegister,
    /// Interrupt descriptor table register.
    pub idtr: TableRegister,
    /// Control register 0.
    pub cr0: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table base and PCID.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable register.
    pub efer: u64,
    /// XSAVE components that are enabled.
    pub xcr0: u64,
    /// The PAE page-directory-pointer registers.
    pub(crate) pdptr: [u64; 4],
    /// DR0 … DR3, DR6, DR7.
    pub dr: [u64; 8],
    /// Model-specific registers that have no home elsewhere.
    pub msrs: Msrs,
    /// Halted, waiting, or running.
    pub activity: Activity,
    /// NMIs are blocked until IRET.
    pub(crate) nmi_blocked: bool,
    /// An NMI waits.
    pub(crate) nmi_pending: bool,
    /// An INIT# waits.
    pub(crate) init_pending: bool,
    /// System-management mode.
    pub(crate) smm: SystemManagement,
    /// SMIs that were taken since power-on.
    pub(crate) smi_count: u64,
    /// DR6 bits of debug traps that the current instruction has met.
    pub(crate) pending_debug: u64,
    /// Whether the current instruction ends with a single-step trap.
    pub(crate) step: bool,
    /// What a debugger outside of the guest wants, and what it got.
    pub(crate) debugger: crate::debug::Debugger,
    /// The linear address of the page fault being raised.
    pub fault_address: u64,

    // Caches.
    /// Translations.
    pub tlb: Tlb,
    /// Decoded code.
    pub blocks: BlockCache,

    // Configuration and wiring.
    /// Initial APIC id.
    pub(crate) apic_id: u32,
    pub(crate) boot_processor: bool,
    /// What CPUID tells.
    pub features: Arc<Features>,
    /// Guest-physical memory as the vCPU sees it now.
    pub memory: Arc<AddressSpace>,
    /// Guest-physical memory outside of system-management mode.
    pub(crate) normal_memory: Arc<AddressSpace>,
    /// Guest-physical memory in system-management mode, where it differs.
    pub(crate) smm_memory: Option<Arc<AddressSpace>>,
    /// I/O ports.
    pub ports: Arc<AddressSpace>,
    /// Guest time.
    pub clock: Clock,
    /// TSC frequency.
    pub(crate) tsc_khz: u64,
    pub(crate) microcode_revision: u64,
    /// Requests from outside.
    pub signals: Arc<CpuSignals>,
    /// The same, as what learns of modified code.
    pub(crate) listener: Arc<dyn memory::CodeListener>,
    /// The local APIC.
    pub apic: Arc<dyn LocalApic>,
    pub(crate) a20: Arc<AtomicBool>,
    pub(crate) exclusive: Arc<ExclusiveLock>,
    pub(crate) ferr: Option<FerrLine>,
    /// Counts instructions, where guest time goes by them.
    pub(crate) translator: crate::TranslatorConfig,
    pub(crate) counter: Option<Arc<InstructionCounter>>,
    /// The journal of the lock-step mode.
    pub(crate) lockstep: Option<Box<crate::lockstep::Lockstep>>,
}

impl Cpu {
    /// RFLAGS with all its bits.
    #[inline]
    #[must_use]
    pub fn rflags(&self) -> u64 {
        self.flags.bits() | self.system_flags | rflags::FIXED
    }

    /// Sets all of RFLAGS, without any privilege rule. Whoever changes VM, AC or IF calls [`Cpu::flags_changed`].
    #[inline]
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.set_bits(value);
        self.system_flags = value & SYSTEM_FLAGS;
    }

    /// Sets RFLAGS and what follows from it.
    pub(crate) fn load_rflags(&mut self, value: u64) {
        let changed = (self.system_flags ^ value) & (rflags::VM | rflags::AC);
        self.set_rflags(value);
        self.exit_request = true;
        if changed != 0 {
            self.update_mode();
        }
    }

    /// Takes over a change of system flags (AC, IF, TF) that was made in [`Cpu::system_flags`] directly.
    pub fn flags_changed(&mut self) {
        self.exit_request = true;
        self.update_privilege();
    }

    /// Whether a system flag is set.
    #[inline]
    #[must_use]
    pub fn system_flag(&self, flag: u64) -> bool {
        self.system_flags & flag != 0
    }

    /// RFLAGS.IOPL.
    #[inline]
    #[must_use]
    pub fn iopl(&self) -> u8 {
        (self.system_flags >> 12 & 3) as u8
    }

    /// The selector in a segment register.
    #[inline]
    #[must_use]
    pub fn selector(&self, register: SegmentRegister) -> u16 {
        self.segs[register as usize].selector
    }

    /// Jumps within the code segment: sets [`Cpu::rip`] (the caller has checked limit or canonical form).
    #[inline]
    pub fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
        self.next_rip = rip;
    }

    /// Counts the instructions of a block that begins.
    #[inline(always)]
    pub(crate) fn count(&self, instructions: usize) {
        if let Some(counter) = &self.counter {
            counter.add(instructions as u64);
        }
    }

    /// Whether the counted instructions are enough for now.
    #[inline(always)]
    pub(crate) fn count_is_due(&self) -> bool {
        self.counter.as_ref().is_some_and(|counter| counter.is_due())
    }

    /// Asserts FERR#: an unmasked x87 exception while CR0.NE is clear.
    #[cold]
    pub fn raise_ferr(&self) {
        if let Some(ferr) = &self.ferr {
            ferr();
        }
    }

    /// Runs `f` while no other vCPU is inside of its own exclusive section: for locked accesses to device memory and
    /// for locked accesses that cross a page. Locked accesses inside one page of RAM use host atomics instead and are
    /// not excluded by this; see [`ExclusiveLock`].
    pub fn exclusive<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let lock = Arc::clone(&self.exclusive);
        let _guard = lock.enter();
        f(self)
    }
}

/// The bits of RFLAGS that [`Cpu::system_flags`] holds.
pub const SYSTEM_FLAGS: u64 = rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::NT
    | rflags::RF
    | rflags::VM
    | rflags::AC
    | rflags::VIF
    | rflags::VIP
    | rflags::ID;
