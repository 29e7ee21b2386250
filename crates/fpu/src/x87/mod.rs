//! The x87 unit: registers, tags, control and status words, stack and exceptions
//! (SDM volume 1, chapter 8), and the MMX registers that alias its registers (9.2).

mod environment;
mod execute;
mod lower;
mod op;

pub use environment::{AddressMode, EnvironmentSize, FxsaveFormat};
pub use execute::{Commit, Store, X87Operand, X87Outcome};
pub use lower::{lower_x87, sti_index};
pub use op::{X87Memory, X87Op};

use crate::f80::F80;
use crate::host::x87 as host;

/// Bits of the status word.
pub(crate) mod status {
    pub(crate) const INVALID: u16 = 0x0001;
    pub(crate) const STACK_FAULT: u16 = 0x0040;
    pub(crate) const SUMMARY: u16 = 0x0080;
    pub(crate) const C0: u16 = 0x0100;
    pub(crate) const C1: u16 = 0x0200;
    pub(crate) const C2: u16 = 0x0400;
    pub(crate) const C3: u16 = 0x4000;
    pub(crate) const BUSY: u16 = 0x8000;
    /// The six exception flags.
    pub(crate) const EXCEPTIONS: u16 = 0x003f;
    /// Invalid, denormal, zero divide: unmasked, they prevent the operation.
    pub(crate) const PRE_COMPUTATION: u16 = 0x0007;
    /// Overflow and underflow: unmasked, they prevent a store to memory.
    pub(crate) const RANGE: u16 = 0x0018;
}

/// The control word's bits that software can write; bit 6 always reads as one.
const CONTROL_WRITABLE: u16 = 0x1f3f;
const CONTROL_FIXED: u16 = 0x0040;
/// Precision and rounding control.
const CONTROL_ROUNDING: u16 = 0x0f00;
/// What the host always runs with masked: invalid, denormal, zero divide and precision.
const CONTROL_HOST_MASKS: u16 = 0x0067;

/// Where the last non-control x87 instruction and its memory operand were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pointers {
    /// Offset of the instruction, including prefixes.
    pub instruction: u64,
    /// Offset of the memory operand.
    pub data: u64,
    /// CS selector of the instruction.
    pub instruction_selector: u16,
    /// Selector of the memory operand's segment.
    pub data_selector: u16,
    /// The low three bits of the first opcode byte, and the second byte: 11 bits.
    pub opcode: u16,
}

/// The state of the x87 unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct X87 {
    /// Physical registers R0 to R7; ST(i) is R((TOP + i) mod 8).
    regs: [F80; 8],
    control: u16,
    /// Includes TOP, ES and B.
    status: u16,
    /// One bit per physical register that is not empty.
    valid: u8,
    pointers: Pointers,
}

impl Default for X87 {
    fn default() -> Self {
        Self::new()
    }
}

impl X87 {
    /// The state after `FNINIT`, with all registers zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            regs: [F80::new(0, 0); 8],
            control: 0x037f,
            status: 0,
            valid: 0,
            pointers: Pointers { instruction: 0, data: 0, instruction_selector: 0, data_selector: 0, opcode: 0 },
        }
    }

    /// The state after a processor reset or INIT that resets the unit: all registers +0.0 and
    /// tagged valid, control word 0040h (SDM volume 3, table 9-1).
    #[must_use]
    pub const fn after_reset() -> Self {
        let mut unit = Self::new();
        unit.control = 0x0040;
        unit.valid = 0xff;
        unit
    }

    /// The control word.
    #[must_use]
    pub const fn control(&self) -> u16 {
        self.control
    }

    /// The status word, including TOP, ES and B.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Sets the control word as `FLDCW` does: reserved bits are dropped, and ES and B follow the
    /// new masks.
    pub fn set_control(&mut self, control: u16) {
        self.control = (control & CONTROL_WRITABLE) | CONTROL_FIXED;
        self.update_summary();
    }

    /// Sets the status word as a state restore does: ES and B follow the flags and the masks.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
        self.update_summary();
    }

    /// The abridged tag word: one bit per physical register, set when it is not empty.
    #[must_use]
    pub const fn abridged_tags(&self) -> u8 {
        self.valid
    }

    /// Sets which physical registers are not empty.
    pub fn set_abridged_tags(&mut self, valid: u8) {
        self.valid = valid;
    }

    /// The full tag word: two bits per physical register.
    #[must_use]
    pub fn tag_word(&self) -> u16 {
        let mut tags = 0;
        for (index, register) in self.regs.iter().enumerate() {
            let tag = if self.valid >> index & 1 == 0 { 3 } else { register.tag_class() as u16 };
            tags |= tag << (2 * index);
        }
        tags
    }

    /// Sets the tags from a full tag word; only empty or not is remembered, as in hardware.
    pub fn set_tag_word(&mut self, tags: u16) {
        self.valid = 0;
        for index in 0..8 {
            if tags >> (2 * index) & 3 != 3 {
                self.valid |= 1 << index;
            }
        }
    }

    /// TOP: the physical register that is ST(0).
    #[must_use]
    pub const fn top(&self) -> u8 {
        (self.status >> 11 & 7) as u8
    }

    /// The bit pattern of ST(i), whether or not it is empty; `i` counts modulo 8.
    #[must_use]
    pub fn st(&self, i: u8) -> F80 {
        self.regs[self.physical(i)]
    }

    /// Sets the bit pattern of ST(i) without changing its tag; for restoring state.
    pub fn set_st(&mut self, i: u8, value: F80) {
        self.regs[self.physical(i)] = value;
    }

    /// Where the last non-control instruction was.
    #[must_use]
    pub const fn pointers(&self) -> &Pointers {
        &self.pointers
    }

    /// Records where a non-control instruction was (see [`X87Op::updates_pointers`]).
    pub fn note_instruction(&mut self, selector: u16, offset: u64, opcode: u16) {
        self.pointers.instruction = offset;
        self.pointers.instruction_selector = selector;
        self.pointers.opcode = opcode & 0x7ff;
    }

    /// Records where the memory operand of a non-control instruction was.
    pub fn note_data(&mut self, selector: u16, offset: u64) {
        self.pointers.data = offset;
        self.pointers.data_selector = selector;
    }

    /// Whether an unmasked exception is pending: waiting x87 instructions, MMX instructions and
    /// `WAIT` then raise #MF (or the external FERR# while CR0.NE is clear) instead of executing.
    #[must_use]
    pub const fn pending_exception(&self) -> bool {
        self.status & status::SUMMARY != 0
    }

    /// Register MMi. Reading alone does not make the transition to MMX; see
    /// [`enter_mmx`](Self::enter_mmx).
    #[must_use]
    pub fn mmx_get(&self, i: u8) -> u64 {
        self.regs[usize::from(i & 7)].significand
    }

    /// Writes register MMi: the exponent and sign become all ones.
    pub fn mmx_set(&mut self, i: u8, value: u64) {
        self.regs[usize::from(i & 7)] = F80::new(0xffff, value);
    }

    /// The transition that every MMX instruction makes (SDM volume 1, section 9.5.1): TOP becomes
    /// 0 and all registers are tagged valid.
    pub fn enter_mmx(&mut self) {
        self.status &= !0x3800;
        self.valid = 0xff;
    }

    /// `EMMS`: all registers are tagged empty.
    pub fn emms(&mut self) {
        self.valid = 0;
    }

    /// `FNINIT`; the registers keep their contents.
    pub fn init(&mut self) {
        *self = Self { regs: self.regs, ..Self::new() };
    }

    fn physical(&self, i: u8) -> usize {
        usize::from(self.top().wrapping_add(i) & 7)
    }

    fn register(&self, i: u8) -> &F80 {
        &self.regs[self.physical(i)]
    }

    fn tag_bit(&self, i: u8) -> u8 {
        1 << self.physical(i)
    }

    fn is_empty(&self, i: u8) -> bool {
        self.valid & self.tag_bit(i) == 0
    }

    fn set_top(&mut self, top: u8) {
        self.status = (self.status & !0x3800) | u16::from(top & 7) << 11;
    }

    fn write(&mut self, i: u8, value: F80) {
        let index = self.physical(i);
        self.regs[index] = value;
        self.valid |= 1 << index;
    }

    fn push(&mut self, value: F80) {
        self.set_top(self.top().wrapping_sub(1));
        self.write(0, value);
    }

    fn pop(&mut self) {
        self.valid &= !self.tag_bit(0);
        self.set_top(self.top().wrapping_add(1));
    }

    fn pop_times(&mut self, pops: u8) {
        for _ in 0..pops {
            self.pop();
        }
    }

    /// How the host has to run an instruction: the guest's precision and rounding; overflow and underflow
    /// as the guest masks them, everything else masked.
    const fn guest(&self) -> host::Guest {
        let all_masked = self.unmasked() == 0;
        host::Guest {
            control: (self.control & (CONTROL_ROUNDING | status::RANGE)) | CONTROL_HOST_MASKS,
            // With an exception unmasked it matters whether this instruction raises it.
            sticky: if all_masked { self.status & status::EXCEPTIONS } else { 0 },
        }
    }

    const fn unmasked(&self) -> u16 {
        !self.control & status::EXCEPTIONS
    }

    fn update_summary(&mut self) {
        if self.status & self.unmasked() != 0 {
            self.status |= status::SUMMARY | status::BUSY;
        } else {
            self.status &= !(status::SUMMARY | status::BUSY);
        }
    }

    fn set_codes(&mut self, mask: u16, codes: u16) {
        self.status = (self.status & !mask) | (codes & mask);
    }

    /// A stack fault; `direction` is C1 for an overflow and 0 for an underflow. True when it is
    /// masked, so that the instruction continues with the masked response.
    fn stack_fault(&mut self, direction: u16) -> bool {
        self.set_codes(status::C1, direction);
        self.status |= status::INVALID | status::STACK_FAULT;
        self.update_summary();
        self.unmasked() & status::INVALID == 0
    }

    /// Takes over the exceptions and the condition codes in `codes` of an instruction that the
    /// host executed. False when an unmasked exception prevents the instruction from completing;
    /// then only flags have changed.
    fn settle(&mut self, host: u16, codes: u16, target: Target) -> bool {
        let unmasked = self.unmasked();
        let preventing = host & target.preventing_before() & unmasked;
        if preventing != 0 {
            self.set_codes(status::C1, 0);
            self.status |= host & status::PRE_COMPUTATION;
            self.update_summary();
            return false;
        }
        self.set_codes(codes, host);
        self.status |= host & status::EXCEPTIONS;
        if host & unmasked != 0 {
            self.update_summary();
        }
        host & unmasked & target.preventing_after() == 0
    }
}

/// Where a result goes: it decides which unmasked exceptions prevent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// A register or the condition codes.
    Register,
    /// A register that is pushed with a converted memory operand. Hardware completes the load of
    /// a denormal even if that exception is unmasked.
    Load,
    /// Memory.
    Memory,
}

impl Target {
    const fn preventing_before(self) -> u16 {
        match self {
            Self::Load => status::INVALID,
            Self::Register | Self::Memory => status::PRE_COMPUTATION,
        }
    }

    const fn preventing_after(self) -> u16 {
        match self {
            Self::Memory => status::RANGE,
            Self::Register | Self::Load => 0,
        }
    }
}
