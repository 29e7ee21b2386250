//! Runs snippets on the host's processor, in a child process.
//!
//! The child has nothing mapped below 4 GiB but the snippet's code and data, so that wild accesses fault as in the guest.
//! It takes batches of snippets from memory that it shares with the test. [`enter`] loads all registers and goes to the
//! snippet by IRET; the snippet comes back by a jump behind its last instruction to [`leave`], or by a fault, whose
//! signal handler copies the registers out and goes on at [`resume`]. The signal stack is separate, so every register may
//! have any value, RSP and the bases of FS and GS too. A timer ends snippets that run for ever.

use std::arch::{asm, naked_asm};
use std::cell::UnsafeCell;
use std::mem::{offset_of, size_of};

use super::state::State;
use crate::common::{CODE, DATA, DATA_LEN};

/// Snippets in one batch.
pub const BATCH: usize = 64;
/// Longest snippet.
pub const CODE_LEN: usize = 256;
/// The page behind the data, which can be read and not written, in the guest as here.
pub const READ_ONLY: u64 = DATA + DATA_LEN as u64;
/// [`State::vector`] of a snippet that did not come to an end.
pub const TIMEOUT: u8 = 255;
/// What a snippet that reaches its end is taken to have met: the general protection fault of HLT.
pub const END_VECTOR: u8 = 13;

/// Linux's selectors of user code and data.
const LONG_CS: u64 = 0x33;
const COMPATIBILITY_CS: u64 = 0x23;
const USER_DS: u64 = 0x2b;
/// Where snippets leave: a page with a jump to [`leave`]. The guest has no such page.
pub const TRAMPOLINE: u64 = 0x7b7d_9000;
/// Length of JMP rel32.
const JUMP_LEN: usize = 5;
/// Arithmetic flags and DF.
const FLAGS: u64 = 0xcd5;
/// Bytes of an XSAVE image with x87, SSE and AVX.
const IMAGE_LEN: usize = 832;
const UPPER: usize = 576;

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

/// The content of [`READ_ONLY`].
pub fn read_only_page() -> [u8; 4096] {
    std::array::from_fn(|at| (at as u8).wrapping_mul(29) ^ (at >> 8) as u8)
}

/// What is compared of the code page: a snippet somewhere in it; the rest is HLT.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Slot {
    /// Registers before, and then after.
    pub state: State,
    /// The instructions.
    pub code: [u8; CODE_LEN],
    pub len: usize,
    /// The offset of the first instruction in the page.
    pub at: usize,
    /// Whether a jump to [`TRAMPOLINE`] lies behind the last instruction; otherwise there is HLT.
    pub returns: bool,
    /// Memory after the snippet.
    pub data: [u8; DATA_LEN],
}

impl Slot {
    /// The address behind the last instruction.
    pub fn end(&self) -> u64 {
        CODE + (self.at + self.len) as u64
    }

    /// Takes a snippet for the start of the page.
    pub fn set(&mut self, code: &[u8]) {
        self.code = [0xf4; CODE_LEN];
        self.code[..code.len()].copy_from_slice(code);
        (self.len, self.at, self.returns) = (code.len(), 0, false);
    }

    /// Puts a jump behind the last instruction, if there is room.
    pub fn add_return(&mut self) {
        self.returns = self.len + JUMP_LEN <= CODE_LEN && self.at + self.len + JUMP_LEN <= 4096;
        if self.returns {
            let distance = TRAMPOLINE.wrapping_sub(self.end() + JUMP_LEN as u64) as u32;
            self.code[self.len] = 0xe9;
            self.code[self.len + 1..self.len + JUMP_LEN].copy_from_slice(&distance.to_le_bytes());
        }
    }

    /// Bytes of code with the jump.
    pub fn whole_len(&self) -> usize {
        self.len + if self.returns { JUMP_LEN } else { 0 }
    }
}

#[repr(C)]
struct Shared {
    count: usize,
    current: usize,
    /// Memory before each snippet.
    data: [u8; DATA_LEN],
    slots: [Slot; BATCH],
}

/// What [`enter`], [`leave`] and the handler work on.
#[repr(C, align(64))]
struct World {
    gpr: [u64; 16],
    rflags: u64,
    /// RIP, CS, RFLAGS, RSP, SS.
    frame: [u64; 5],
    guest_fs: u64,
    guest_gs: u64,
    host_rsp: u64,
    host_fs: u64,
    host_gs: u64,
    host_mxcsr: u64,
    image: Image,
    running: bool,
    sequence: u64,
    alarm: u64,
    rip: u64,
    vector: u8,
    error: u32,
    address: u64,
}

#[repr(C, align(64))]
struct Image([u8; IMAGE_LEN]);

struct Global(UnsafeCell<World>);

// SAFETY: only the one thread of the child touches it, outside and inside of its own signal handler.
unsafe impl Sync for Global {}

static WORLD: Global = Global(UnsafeCell::new(World {
    gpr: [0; 16],
    rflags: 0,
    frame: [0; 5],
    guest_fs: 0,
    guest_gs: 0,
    host_rsp: 0,
    host_fs: 0,
    host_gs: 0,
    host_mxcsr: 0x1f80,
    image: Image([0; IMAGE_LEN]),
    running: false,
    sequence: 0,
    alarm: 0,
    rip: 0,
    vector: 0,
    error: 0,
    address: 0,
}));

/// Loads the registers and goes to the snippet; returns from [`resume`].
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rip + {w} + {host_rsp}], rsp",
        "mov eax, 7", "xor edx, edx", "xrstor64 [rip + {w} + {image}]",
        "mov rax, [rip + {w} + {guest_fs}]", "wrfsbase rax",
        "mov rax, [rip + {w} + {guest_gs}]", "wrgsbase rax",
        "mov rax, [rip + {w}]", "mov rcx, [rip + {w} + 8]", "mov rdx, [rip + {w} + 16]",
        "mov rbx, [rip + {w} + 24]", "mov rbp, [rip + {w} + 40]", "mov rsi, [rip + {w} + 48]",
        "mov rdi, [rip + {w} + 56]", "mov r8, [rip + {w} + 64]", "mov r9, [rip + {w} + 72]",
        "mov r10, [rip + {w} + 80]", "mov r11, [rip + {w} + 88]", "mov r12, [rip + {w} + 96]",
        "mov r13, [rip + {w} + 104]", "mov r14, [rip + {w} + 112]", "mov r15, [rip + {w} + 120]",
        "lea rsp, [rip + {w} + {frame}]",
        "iretq",
        w = sym WORLD,
        host_rsp = const offset_of!(World, host_rsp),
        image = const offset_of!(World, image),
        guest_fs = const offset_of!(World, guest_fs),
        guest_gs = const offset_of!(World, guest_gs),
        frame = const offset_of!(World, frame),
    )
}

/// Where a snippet goes behind its last instruction.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "mov [rip + {w}], rax", "mov [rip + {w} + 8], rcx", "mov [rip + {w} + 16], rdx",
        "mov [rip + {w} + 24], rbx", "mov [rip + {w} + 32], rsp", "mov [rip + {w} + 40], rbp",
        "mov [rip + {w} + 48], rsi", "mov [rip + {w} + 56], rdi", "mov [rip + {w} + 64], r8",
        "mov [rip + {w} + 72], r9", "mov [rip + {w} + 80], r10", "mov [rip + {w} + 88], r11",
        "mov [rip + {w} + 96], r12", "mov [rip + {w} + 104], r13", "mov [rip + {w} + 112], r14",
        "mov [rip + {w} + 120], r15",
        "mov rsp, [rip + {w} + {host_rsp}]",
        "pushfq", "pop rax", "mov [rip + {w} + {rflags}], rax", "cld",
        "rdfsbase rax", "mov [rip + {w} + {guest_fs}], rax", "mov rax, [rip + {w} + {host_fs}]", "wrfsbase rax",
        "rdgsbase rax", "mov [rip + {w} + {guest_gs}], rax", "mov rax, [rip + {w} + {host_gs}]", "wrgsbase rax",
        "mov eax, 7", "xor edx, edx", "xsave64 [rip + {w} + {image}]",
        "jmp {resume}",
        w = sym WORLD,
        resume = sym resume,
        host_rsp = const offset_of!(World, host_rsp),
        rflags = const offset_of!(World, rflags),
        image = const offset_of!(World, image),
        guest_fs = const offset_of!(World, guest_fs),
        guest_gs = const offset_of!(World, guest_gs),
        host_fs = const offset_of!(World, host_fs),
        host_gs = const offset_of!(World, host_gs),
    )
}

/// Returns to the caller of [`enter`]; RSP is `host_rsp`.
#[unsafe(naked)]
unsafe extern "C" fn resume() {
    naked_asm!(
        "fninit", "ldmxcsr [rip + {w} + {mxcsr}]",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
        "ret",
        w = sym WORLD,
        mxcsr = const offset_of!(World, host_mxcsr),
    )
}

extern "C" fn handler(signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context with an XSAVE area; the bases of FS and GS are the harness's before
    // anything can use them.
    unsafe {
        let (guest_fs, guest_gs): (u64, u64);
        asm!("rdfsbase {}", "rdgsbase {}", out(reg) guest_fs, out(reg) guest_gs);
        let world = &mut *WORLD.0.get();
        asm!("wrfsbase {}", "wrgsbase {}", in(reg) world.host_fs, in(reg) world.host_gs);
        let alarm = signal == libc::SIGALRM;
        if alarm && (!world.running || world.alarm != world.sequence) {
            world.alarm = world.sequence;
            asm!("wrfsbase {}", "wrgsbase {}", in(reg) guest_fs, in(reg) guest_gs);
            return;
        }
        if !world.running {
            libc::_exit(90);
        }
        world.running = false;
        let context = &mut *context.cast::<libc::ucontext_t>();
        let gregs = &mut context.uc_mcontext.gregs;
        for (register, value) in ORDER.iter().zip(&mut world.gpr) {
            *value = gregs[*register as usize] as u64;
        }
        world.rip = gregs[libc::REG_RIP as usize] as u64;
        world.rflags = gregs[libc::REG_EFL as usize] as u64;
        world.vector = if alarm { TIMEOUT } else { gregs[libc::REG_TRAPNO as usize] as u8 };
        world.error = gregs[libc::REG_ERR as usize] as u32;
        world.address = gregs[libc::REG_CR2 as usize] as u64;
        (world.guest_fs, world.guest_gs) = (guest_fs, guest_gs);
        let image = context.uc_mcontext.fpregs.cast::<u8>();
        std::ptr::copy_nonoverlapping(image, world.image.0.as_mut_ptr(), IMAGE_LEN);
        gregs[libc::REG_RIP as usize] = resume as *const () as i64;
        gregs[libc::REG_RSP as usize] = world.host_rsp as i64;
        gregs[libc::REG_EFL as usize] = 0x202;
        // CS is the low word.
        gregs[libc::REG_CSGSFS as usize] = gregs[libc::REG_CSGSFS as usize] & !0xffff | LONG_CS as i64;
    }
}

/// In the child: registers from the state to the world, for IRET and XRSTOR.
fn load(world: &mut World, state: &State, bits: u32) {
    world.gpr = state.gpr;
    let cs = if bits == 32 { COMPATIBILITY_CS } else { LONG_CS };
    world.frame = [state.rip, cs, state.rflags & FLAGS | 0x202, state.gpr[4], USER_DS];
    (world.guest_fs, world.guest_gs) = (state.fs_base, state.gs_base);
    world.image.0[..416].copy_from_slice(&state.fx[..416]);
    world.image.0[416..UPPER].fill(0);
    for (slot, value) in world.image.0[UPPER..].chunks_exact_mut(16).zip(state.upper) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    world.image.0[512] = if std::is_x86_feature_detected!("avx") { 7 } else { 3 };
    (world.vector, world.error, world.address) = (END_VECTOR, 0, 0);
}

/// In the child: the state that the snippet left.
fn store(world: &World, state: &mut State) {
    state.gpr = world.gpr;
    state.rip = world.rip;
    state.rflags = world.rflags & FLAGS;
    (state.fs_base, state.gs_base) = (world.guest_fs, world.guest_gs);
    (state.vector, state.error, state.address) = (world.vector, world.error, world.address);
    state.fx.copy_from_slice(&world.image.0[..512]);
    // Components in their initial state need not have been written.
    let present = world.image.0[512];
    state.initial(present & 1 == 0, present & 2 == 0);
    state.upper = [0; 16];
    if present & 4 != 0 {
        for (value, slot) in state.upper.iter_mut().zip(world.image.0[UPPER..].chunks_exact(16)) {
            *value = slot.try_into().map_or(0, u128::from_le_bytes);
        }
    }
}

/// The child's view of the code page, writable.
struct Child {
    code: *mut u8,
    bits: u32,
}

impl Child {
    /// Maps code and data and installs the handlers.
    unsafe fn new(bits: u32) -> Self {
        // SAFETY: plain system calls; the fixed addresses have just been cleared.
        unsafe {
            let world = &mut *WORLD.0.get();
            // Selectors that 32-bit code can use; they are null in 64-bit processes.
            let (fs, gs): (u64, u64);
            asm!(
                "rdfsbase {fs}", "rdgsbase {gs}", "mov ds, {s:x}", "mov es, {s:x}", "mov fs, {s:x}", "mov gs, {s:x}",
                "wrfsbase {fs}", "wrgsbase {gs}", s = in(reg) USER_DS, fs = out(reg) fs, gs = out(reg) gs
            );
            (world.host_fs, world.host_gs) = (fs, gs);
            libc::munmap(0x1_0000 as *mut _, 0xffff_0000);
            let fixed = libc::MAP_FIXED;
            let rx = libc::PROT_READ | libc::PROT_EXEC;
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
            let file = libc::memfd_create(c"code".as_ptr(), 0);
            if file < 0 || libc::ftruncate(file, 4096) != 0 {
                libc::_exit(91);
            }
            let maps = [
                libc::mmap(CODE as *mut _, 4096, rx, libc::MAP_SHARED | fixed, file, 0),
                libc::mmap(DATA as *mut _, DATA_LEN + 4096, rw, private, -1, 0),
                libc::mmap(TRAMPOLINE as *mut _, 4096, rw, private, -1, 0),
            ];
            let alias = libc::mmap(std::ptr::null_mut(), 4096, rw, libc::MAP_SHARED, file, 0);
            let stack = libc::mmap(std::ptr::null_mut(), 1 << 16, rw, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            if maps.contains(&libc::MAP_FAILED) || alias == libc::MAP_FAILED || stack == libc::MAP_FAILED {
                libc::_exit(92);
            }
            std::ptr::copy_nonoverlapping(read_only_page().as_ptr(), READ_ONLY as *mut u8, 4096);
            libc::mprotect(READ_ONLY as *mut _, 4096, libc::PROT_READ);
            // From 32-bit code: jmp LONG_CS:TRAMPOLINE+8. There: jmp [rip+0], and the target.
            let mut jump = [0xea, 0, 0, 0, 0, LONG_CS as u8, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            jump[1..5].copy_from_slice(&(TRAMPOLINE as u32 + 8).to_le_bytes());
            jump[14..].copy_from_slice(&(leave as *const () as u64).to_le_bytes());
            let jump = if bits == 32 { &jump[..] } else { &jump[8..] };
            std::ptr::copy_nonoverlapping(jump.as_ptr(), TRAMPOLINE as *mut u8, jump.len());
            libc::mprotect(TRAMPOLINE as *mut _, 4096, rx);
            std::ptr::write_bytes(alias.cast::<u8>(), 0xf4, 4096);
            let stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: 1 << 16 };
            libc::sigaltstack(&stack, std::ptr::null_mut());
            for signal in [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGBUS, libc::SIGTRAP, libc::SIGALRM] {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
            let period = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
            let timer = libc::itimerval { it_interval: period, it_value: period };
            libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
            Self { code: alias.cast(), bits }
        }
    }

    /// Runs one snippet.
    unsafe fn run(&mut self, slot: &mut Slot, data: &[u8; DATA_LEN]) {
        // SAFETY: the mappings have these sizes; `len` and `at` are within the page by the test's own checks. `enter`
        // returns with the registers that the calling convention wants kept.
        unsafe {
            let to = self.code.add(slot.at);
            let len = slot.whole_len();
            std::ptr::copy_nonoverlapping(slot.code.as_ptr(), to, len);
            std::ptr::copy_nonoverlapping(data.as_ptr(), DATA as *mut u8, DATA_LEN);
            let world = WORLD.0.get();
            load(&mut *world, &slot.state, self.bits);
            (*world).rip = slot.end();
            (*world).sequence += 1;
            (&raw mut (*world).running).write_volatile(true);
            enter();
            (&raw mut (*world).running).write_volatile(false);
            store(&*world, &mut slot.state);
            std::ptr::copy_nonoverlapping(DATA as *const u8, slot.data.as_mut_ptr(), DATA_LEN);
            std::ptr::write_bytes(to, 0xf4, len);
        }
    }
}

/// Whether the kernel lets processes use WRFSBASE and its relatives.
pub fn is_possible() -> bool {
    const AT_HWCAP2: u64 = 26;
    const FSGSBASE: u64 = 2;
    // SAFETY: a query without side effects.
    std::is_x86_feature_detected!("xsave") && unsafe { libc::getauxval(AT_HWCAP2) } & FSGSBASE != 0
}

/// The child, seen from the test.
pub struct Native {
    shared: *mut Shared,
    requests: i32,
    replies: i32,
    child: i32,
}

/// What the child has mapped besides what snippets may use: its own program and stack.
#[derive(Clone, Copy)]
pub struct ChildMemory(i32);

impl ChildMemory {
    /// Whether a snippet's access to an address may succeed although the guest has nothing there.
    pub fn has(self, address: u64) -> bool {
        if (CODE..DATA + DATA_LEN as u64 + 0x1000).contains(&address) {
            return false;
        }
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.0)).unwrap_or_default();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
        let ranges = maps.lines().filter_map(|line| line.split(' ').next()?.split_once('-'));
        ranges.map(|(start, end)| number(start)..number(end)).any(|range| range.contains(&address))
    }
}

impl Native {
    /// Starts the child. Snippets run as code of `bits` bits.
    pub fn new(bits: u32) -> Self {
        // SAFETY: plain system calls. The child uses nothing that could be locked by another thread of the parent, and
        // leaves by `_exit`.
        unsafe {
            let rw = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            let shared = libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), rw, kind, -1, 0);
            assert_ne!(shared, libc::MAP_FAILED);
            let shared = shared.cast::<Shared>();
            let (mut requests, mut replies) = ([0; 2], [0; 2]);
            assert_eq!(libc::pipe2(requests.as_mut_ptr(), libc::O_CLOEXEC), 0);
            assert_eq!(libc::pipe2(replies.as_mut_ptr(), libc::O_CLOEXEC), 0);
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::close(requests[1]);
                libc::close(replies[0]);
                let mut child = Child::new(bits);
                let mut byte = 0u8;
                while libc::read(requests[0], (&raw mut byte).cast(), 1) == 1 {
                    let shared = &mut *shared;
                    for index in 0..shared.count {
                        (&raw mut shared.current).write_volatile(index);
                        child.run(&mut shared.slots[index], &shared.data);
                    }
                    if libc::write(replies[1], (&raw const byte).cast(), 1) != 1 {
                        break;
                    }
                }
                libc::_exit(0);
            }
            libc::close(requests[0]);
            libc::close(replies[1]);
            Self { shared, requests: requests[1], replies: replies[0], child }
        }
    }

    /// The child, to ask for its memory.
    pub fn child(&self) -> ChildMemory {
        ChildMemory(self.child)
    }

    /// The snippets of the next batch, or the results of the last one.
    pub fn slots(&mut self) -> &mut [Slot; BATCH] {
        // SAFETY: the mapping lives as long as `self`; the child touches it only inside of `execute`.
        unsafe { &mut (*self.shared).slots }
    }

    /// Runs the first `count` snippets, each with `data` as memory.
    pub fn execute(&mut self, count: usize, data: &[u8; DATA_LEN]) {
        let mut byte = 0u8;
        // SAFETY: as in `slots`; the pipes order the accesses of both processes.
        unsafe {
            (*self.shared).count = count;
            (*self.shared).data = *data;
            assert_eq!(libc::write(self.requests, (&raw const byte).cast(), 1), 1);
            let read = libc::read(self.replies, (&raw mut byte).cast(), 1);
            let current = (&raw const (*self.shared).current).read_volatile();
            let slot = &(*self.shared).slots[current];
            assert_eq!(read, 1, "the child died at {:02x?}", &slot.code[..slot.len]);
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the descriptors and the mapping are this object's own. The child ends when its pipe is closed.
        unsafe {
            libc::close(self.requests);
            libc::close(self.replies);
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}
