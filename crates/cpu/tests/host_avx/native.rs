//! Runs a snippet on the host's processor.
//!
//! A signal handler does both changes of world: `ud2` in the harness raises SIGILL, whose handler replaces the interrupted
//! context by the test's registers; the snippet runs until it faults (it ends with HLT, which user mode may not
//! execute); the handler of that fault copies the registers out and puts the harness's context back. The signal stack
//! is separate, so that every register may have any value, RSP too.

use std::arch::asm;
use std::cell::UnsafeCell;

use super::state::State;
use crate::common::{CODE, DATA, DATA_LEN};

/// Linux's selectors of 32-bit user code and of data.
const COMPATIBILITY_CS: i64 = 0x23;
const USER_DS: u16 = 0x2b;
const FX_LEN: usize = 512;
/// The header's byte of XSTATE_BV, and where the signal frame has the upper halves of the YMM registers.
const XSTATE: usize = 512;
const UPPER: usize = 576;
/// What the frame holds on hosts with and without AVX.
const AVX_LEN: usize = UPPER + 256;
const PLAIN_LEN: usize = UPPER;
/// Order of the registers in `gregs`, by the number that instructions use.
const ORDER: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

struct World {
    running: bool,
    bits: u32,
    harness: [i64; 23],
    harness_fx: [u8; FX_LEN],
    state: State,
}

struct Shared(UnsafeCell<Option<Box<World>>>);

// SAFETY: only the one thread that runs the test touches it, outside and inside of its own signal handler.
unsafe impl Sync for Shared {}

static WORLD: Shared = Shared(UnsafeCell::new(None));

extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context, and WORLD is set before the handlers are installed.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let Some(world) = (*WORLD.0.get()).as_mut() else { libc::_exit(90) };
        let gregs = &mut context.uc_mcontext.gregs;
        let avx = std::is_x86_feature_detected!("avx");
        let len = if avx { AVX_LEN } else { PLAIN_LEN };
        let fx = std::slice::from_raw_parts_mut(context.uc_mcontext.fpregs.cast::<u8>(), len);
        if !world.running {
            world.running = true;
            world.harness = *gregs;
            world.harness_fx.copy_from_slice(&fx[..FX_LEN]);
            for (register, value) in ORDER.iter().zip(world.state.gpr) {
                gregs[*register as usize] = value as i64;
            }
            gregs[libc::REG_RIP as usize] = world.state.rip as i64;
            if world.bits == 32 {
                // CS is the low word.
                gregs[libc::REG_CSGSFS as usize] = gregs[libc::REG_CSGSFS as usize] & !0xffff | COMPATIBILITY_CS;
            }
            let kept = gregs[libc::REG_EFL as usize] & !0xcd5;
            gregs[libc::REG_EFL as usize] = kept | world.state.rflags as i64;
            fx[..416].copy_from_slice(&world.state.fx[..416]);
            // XSTATE_BV: x87 and SSE are not in their initial state.
            fx[XSTATE] |= 3;
            if avx {
                for (slot, value) in fx[UPPER..].chunks_exact_mut(16).zip(world.state.upper) {
                    slot.copy_from_slice(&value.to_le_bytes());
                }
                fx[XSTATE] |= 4;
            }
            return;
        }
        world.running = false;
        for (register, value) in ORDER.iter().zip(world.state.gpr.iter_mut()) {
            *value = gregs[*register as usize] as u64;
        }
        world.state.rip = gregs[libc::REG_RIP as usize] as u64;
        world.state.rflags = gregs[libc::REG_EFL as usize] as u64 & 0xcd5;
        world.state.vector = gregs[libc::REG_TRAPNO as usize] as u8;
        world.state.error = gregs[libc::REG_ERR as usize] as u32;
        world.state.address = gregs[libc::REG_CR2 as usize] as u64;
        world.state.fx.copy_from_slice(&fx[..FX_LEN]);
        // Components that the kernel found in their initial state are not written by XSAVE.
        let present = fx[XSTATE];
        world.state.initial(present & 1 == 0, present & 2 == 0);
        world.state.upper = [0; 16];
        if avx && present & 4 != 0 {
            for (value, slot) in world.state.upper.iter_mut().zip(fx[UPPER..].chunks_exact(16)) {
                *value = slot.try_into().map_or(0, u128::from_le_bytes);
            }
        }
        *gregs = world.harness;
        gregs[libc::REG_RIP as usize] += 2;
        fx[..FX_LEN].copy_from_slice(&world.harness_fx);
        fx[XSTATE] = fx[XSTATE] & !4 | 3;
    }
}

/// The two mappings: code for writing, and data.
pub struct Native {
    code: *mut u8,
}

impl Native {
    /// Maps code and data and installs the handlers. Snippets run as code of `bits` bits.
    pub fn new(bits: u32) -> Self {
        // SAFETY: plain system calls; the fixed addresses are below everything that the process maps.
        unsafe {
            // 64-bit processes start with null selectors there.
            asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) USER_DS);
            let file = libc::memfd_create(c"code".as_ptr(), 0);
            assert!(file >= 0);
            assert_eq!(libc::ftruncate(file, 4096), 0);
            let fixed = libc::MAP_FIXED_NOREPLACE;
            let rx = libc::PROT_READ | libc::PROT_EXEC;
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let code = libc::mmap(CODE as *mut _, 4096, rx, libc::MAP_SHARED | fixed, file, 0);
            assert_eq!(code as u64, CODE);
            let alias = libc::mmap(std::ptr::null_mut(), 4096, rw, libc::MAP_SHARED, file, 0);
            assert_ne!(alias, libc::MAP_FAILED);
            let data = libc::mmap(DATA as *mut _, DATA_LEN, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed, -1, 0);
            assert_eq!(data as u64, DATA);
            let stack = vec![0u8; 1 << 16].leak();
            let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
            assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0);
            let world =
                World { running: false, bits, harness: [0; 23], harness_fx: [0; FX_LEN], state: State::default() };
            *WORLD.0.get() = Some(Box::new(world));
            for signal in [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGBUS, libc::SIGTRAP] {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
            }
            Self { code: alias.cast() }
        }
    }

    /// Runs `code` (a whole page) with `state` and `data`; both are replaced by what the processor leaves.
    pub fn run(&mut self, code: &[u8; 4096], state: &mut State, data: &mut [u8; DATA_LEN]) {
        // SAFETY: both mappings have these sizes. The assembly traps once; its handler comes back after the `ud2`
        // with all registers as they were.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.code, code.len());
            std::ptr::copy_nonoverlapping(data.as_ptr(), DATA as *mut u8, data.len());
            if let Some(world) = (*WORLD.0.get()).as_mut() {
                world.state = *state;
            }
            asm!("ud2");
            if let Some(world) = (*WORLD.0.get()).as_ref() {
                *state = world.state;
            }
            std::ptr::copy_nonoverlapping(DATA as *const u8, data.as_mut_ptr(), data.len());
        }
    }
}
