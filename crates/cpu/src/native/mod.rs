//! VEX-encoded vector instructions, executed by the host's own.
//!
//! What such an instruction computes is never modelled: a small stub of host code loads fixed registers from a
//! [`Frame`], executes the instruction with its registers and its memory operand renamed ([`assemble`]), and stores what
//! it left. A stub is made when the instruction is first decoded and kept for the life of the process. Since registers
//! are renamed, two instructions share one unless they differ in code, immediate or kind of operand; so there are at
//! most some ten thousand, whatever guests do.
//!
//! The guest's MXCSR is in force within the stub with all exceptions masked and all flags clear: no stub ever faults,
//! and the caller decides from the flags what the guest's masks make of them.
//!
//! A stub exists only if the host has the instruction; [`adapt`] keeps such features from models.

mod assemble;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use codemem::CodeMemory;
use iced_x86::{Code, CpuidFeature as F, Instruction, OpKind, Register};
use x86::cpuid::{Feature, FeatureSet};

use self::assemble::Plan;
use crate::ops::Semantics;
use crate::state::Ymm;

/// What a stub reads and writes.
#[repr(C, align(32))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// The vector register operands by position; the first is replaced by the result.
    pub vectors: [Ymm; 4],
    /// The memory operand, from its first byte.
    pub memory: [u8; 32],
    /// The general register operand, or RAX of a string comparison; replaced by the result.
    pub rax: u64,
    /// RDX of a string comparison.
    pub rdx: u64,
    /// ECX as a string comparison leaves it.
    pub rcx: u64,
    /// RFLAGS after the instruction.
    pub flags: u64,
    /// MXCSR before and after.
    pub mxcsr: u32,
    /// The host's own MXCSR.
    pub host_mxcsr: u32,
}

/// How a stub is called: with a frame that it alone may use meanwhile.
type Entry = unsafe extern "sysv64" fn(*mut Frame);

/// The MXCSR that the host's calling convention wants.
const HOST_MXCSR: u32 = 0x1f80;

/// What an instruction leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// A vector register, its first operand.
    Vector,
    /// A general register, its first operand.
    General,
    /// The memory operand.
    Memory,
    /// Flags only.
    Flags,
    /// ECX and flags (VPCMPESTRI, VPCMPISTRI).
    Index,
    /// XMM0 and flags (VPCMPESTRM, VPCMPISTRM).
    Mask,
}

/// An instruction of the host, ready to be called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stub {
    run: Entry,
    /// The instruction.
    pub code: Code,
    /// What it writes.
    pub result: Output,
    /// Bytes of the memory operand; 0 without one.
    pub memory: u8,
    /// The third operand is a general register (the second, if `Some(1)`).
    pub general: Option<u8>,
    /// It converts to half precision, where FTZ has no effect.
    pub to_half: bool,
}

impl Stub {
    /// Executes the instruction under the rounding and denormal controls of `frame.mxcsr`, which must have all
    /// exceptions masked.
    pub fn run(&self, frame: &mut Frame) {
        debug_assert_eq!(frame.mxcsr & HOST_MXCSR, HOST_MXCSR);
        frame.mxcsr |= HOST_MXCSR;
        frame.host_mxcsr = HOST_MXCSR;
        // SAFETY: the stub's code lives as long as the process, and the frame is exclusively borrowed and complete.
        unsafe { (self.run)(frame) };
    }
}

/// What distinguishes stubs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    code: Code,
    immediate: u8,
    memory: bool,
}

struct Table {
    memory: CodeMemory,
    used: usize,
    stubs: HashMap<Key, &'static Semantics>,
}

/// Room for all stubs that there can be.
const CAPACITY: usize = 16 << 20;

/// `None` where the host gives no memory for code.
static TABLE: LazyLock<Option<Mutex<Table>>> = LazyLock::new(|| {
    let memory = CodeMemory::new(CAPACITY).ok()?;
    Some(Mutex::new(Table { memory, used: 0, stubs: HashMap::new() }))
});

/// The stub for an instruction, wrapped as the interpreter keeps it. `None`: not one that stubs are for, or the host
/// can't execute it.
pub(crate) fn stub(instruction: &Instruction) -> Option<&'static Semantics> {
    let code = instruction.code();
    if !code.cpuid_features().iter().all(|feature| host_has(*feature)) {
        return None;
    }
    let immediates = (0..instruction.op_count()).filter(|n| instruction.op_kind(*n) == OpKind::Immediate8);
    let key = Key {
        code,
        immediate: if immediates.count() != 0 { instruction.immediate8() } else { 0 },
        memory: (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory),
    };
    let mut table = TABLE.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = table.stubs.get(&key) {
        return Some(known);
    }
    let made = table.make(instruction)?;
    table.stubs.insert(key, made);
    Some(made)
}

/// The stub for an instruction whose operands are three YMM registers.
pub(crate) fn on_registers(code: Code) -> Option<Stub> {
    let instruction = Instruction::with3(code, Register::YMM0, Register::YMM1, Register::YMM2).ok()?;
    match stub(&instruction)? {
        Semantics::Native(stub) => Some(*stub),
        _ => None,
    }
}

impl Table {
    fn make(&mut self, instruction: &Instruction) -> Option<&'static Semantics> {
        let plan = assemble::plan(instruction)?;
        let address = self.memory.address(self.used);
        let code = assemble::assemble(&plan, address)?;
        if !self.memory.write(self.used, &code) {
            return None;
        }
        self.used += code.len().next_multiple_of(16);
        // SAFETY: the executable view at `address` has just received a complete function of this convention: it keeps
        // what callees must keep, touches nothing but its frame, and can't fault, since the host has the instruction and
        // all its exceptions are masked. The memory belongs to a static and these bytes are never written again.
        let run = unsafe { std::mem::transmute::<u64, Entry>(address) };
        let Plan { result, memory, general, to_half, .. } = plan;
        let stub = Stub { run, code: instruction.code(), result, memory, general, to_half };
        // Kept for the life of the process, as its code is.
        Some(Box::leak(Box::new(Semantics::Native(stub))))
    }
}

/// Whether the host has what an instruction needs; only for what stubs exist for.
fn host_has(feature: F) -> bool {
    match feature {
        F::AVX => is_x86_feature_detected!("avx"),
        F::AVX2 => is_x86_feature_detected!("avx2"),
        F::FMA => is_x86_feature_detected!("fma"),
        F::F16C => is_x86_feature_detected!("f16c"),
        F::AES => is_x86_feature_detected!("aes"),
        F::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        F::VAES => is_x86_feature_detected!("vaes"),
        F::VPCLMULQDQ => is_x86_feature_detected!("vpclmulqdq"),
        _ => false,
    }
}

/// Leaves out of `supported` what this host can't execute for a guest. AVX brings the VEX forms of AES and PCLMULQDQ,
/// which guests have by themselves, so a host must have them all.
pub(crate) fn adapt(supported: &mut FeatureSet) {
    restrict(supported, |feature| TABLE.is_some() && host_has(feature));
}

fn restrict(supported: &mut FeatureSet, has: impl Fn(F) -> bool) {
    let avx = [F::AVX, F::AES, F::PCLMULQDQ].into_iter().all(&has);
    let needs = [
        (Feature::Avx, F::AVX),
        (Feature::Avx2, F::AVX2),
        (Feature::Fma, F::FMA),
        (Feature::F16c, F::F16C),
        (Feature::Vaes, F::VAES),
        (Feature::Vpclmulqdq, F::VPCLMULQDQ),
    ];
    for (feature, host) in needs {
        if !avx || !has(host) {
            supported.remove(feature);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_the_host_lacks_are_not_offered() {
        let all = FeatureSet::software_cpu();
        let removed = |lacking: &[F]| {
            let mut set = all.clone();
            restrict(&mut set, |feature| !lacking.contains(&feature));
            all.difference(&set)
        };
        let parse = |names| FeatureSet::parse(names).expect("names");
        assert_eq!(removed(&[]), parse(""));
        assert_eq!(removed(&[F::FMA]), parse("fma"));
        assert_eq!(removed(&[F::AVX2, F::VAES]), parse("avx2 vaes"));
        // Without AES there would be no VEX form of AESENC either, which AVX and AES promise.
        assert_eq!(removed(&[F::AES]), parse("avx avx2 fma f16c vaes vpclmulqdq"));
    }

    #[test]
    fn instructions_that_differ_in_registers_only_share_a_stub() {
        if !host_has(F::AVX) {
            return;
        }
        let on = |a, b, c| Instruction::with3(Code::VEX_Vaddps_ymm_ymm_ymmm256, a, b, c).expect("an instruction");
        let first = stub(&on(Register::YMM1, Register::YMM2, Register::YMM3)).expect("a stub");
        let second = stub(&on(Register::YMM9, Register::YMM9, Register::YMM15)).expect("a stub");
        assert!(std::ptr::eq(first, second));
    }
}
