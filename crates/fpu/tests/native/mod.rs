//! Runs single instructions natively: a page of code that loads the whole floating-point state,
//! executes one instruction, and stores the state. Nothing here is shared with the crate.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use core::ffi::c_void;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

const PAGE: usize = 4096;

/// Everything that an instruction can see or change.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Machine {
    /// The FXSAVE64 image.
    pub fx: [u8; 512],
    /// The memory operand, at RSI.
    pub memory: [u8; 128],
    /// RAX, RCX, RDX.
    pub gpr: [u64; 3],
    /// RFLAGS.
    pub flags: u64,
}

impl Machine {
    pub fn new() -> Self {
        let mut machine = Self { fx: [0; 512], memory: [0; 128], gpr: [0; 3], flags: 0x202 };
        machine.fx[0..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        machine.set_mxcsr(0x1f80);
        machine
    }

    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.fx[24..28].try_into().unwrap())
    }

    pub fn set_mxcsr(&mut self, mxcsr: u32) {
        self.fx[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    }

    pub fn xmm(&self, i: usize) -> u128 {
        let at = 160 + 16 * i;
        u128::from_le_bytes(self.fx[at..at + 16].try_into().unwrap())
    }

    pub fn set_xmm(&mut self, i: usize, value: u128) {
        let at = 160 + 16 * i;
        self.fx[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    pub fn x87(&self) -> &[u8; 160] {
        self.fx[..160].try_into().unwrap()
    }
}

/// One instruction in executable memory.
pub struct Native {
    page: *mut c_void,
}

impl Native {
    /// The instruction may use RSI as its memory operand's address, RAX, RCX, RDX and flags.
    pub fn new(instruction: &[u8]) -> Self {
        let mut code = vec![
            0x49, 0x89, 0xf8, // mov r8, rdi
            0x49, 0x0f, 0xae, 0x08, // fxrstor64 [r8]
            0x49, 0x8d, 0xb0, 0x00, 0x02, 0x00, 0x00, // lea rsi, [r8+512]
            0x49, 0x8b, 0x80, 0x80, 0x02, 0x00, 0x00, // mov rax, [r8+640]
            0x49, 0x8b, 0x88, 0x88, 0x02, 0x00, 0x00, // mov rcx, [r8+648]
            0x49, 0x8b, 0x90, 0x90, 0x02, 0x00, 0x00, // mov rdx, [r8+656]
            0x41, 0xff, 0xb0, 0x98, 0x02, 0x00, 0x00, // push qword [r8+664]
            0x9d, // popfq
        ];
        code.extend_from_slice(instruction);
        code.extend_from_slice(&[
            0x9c, // pushfq
            0x41, 0x8f, 0x80, 0x98, 0x02, 0x00, 0x00, // pop qword [r8+664]
            0x49, 0x89, 0x80, 0x80, 0x02, 0x00, 0x00, // mov [r8+640], rax
            0x49, 0x89, 0x88, 0x88, 0x02, 0x00, 0x00, // mov [r8+648], rcx
            0x49, 0x89, 0x90, 0x90, 0x02, 0x00, 0x00, // mov [r8+656], rdx
            0x49, 0x0f, 0xae, 0x00, // fxsave64 [r8]
            0xdb, 0xe3, // fninit
            0x68, 0x80, 0x1f, 0x00, 0x00, // push 0x1f80
            0x0f, 0xae, 0x14, 0x24, // ldmxcsr [rsp]
            0x58, // pop rax
            0xc3, // ret
        ]);
        assert!(code.len() < PAGE);
        let protection = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        // SAFETY: a new private mapping, into which the code fits.
        let page = unsafe {
            let page =
                mmap_anonymous(core::ptr::null_mut(), PAGE, protection, MapFlags::PRIVATE).expect("a page of code");
            core::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
            page
        };
        Self { page }
    }

    pub fn run(&self, machine: &mut Machine) {
        // SAFETY: the page holds a function of this type that touches only `machine`, the
        // caller-saved registers and the stack. The caller gives states in which the instruction
        // raises no immediate exception; a pending x87 exception is discarded by FNINIT.
        unsafe {
            let function: extern "sysv64" fn(*mut Machine) = core::mem::transmute(self.page);
            function(machine);
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, not used any more.
        let _ = unsafe { munmap(self.page, PAGE) };
    }
}

/// Deterministic pseudo-random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A single: special, near one, or any pattern.
    pub fn f32(&mut self) -> u32 {
        const SPECIAL: [u32; 22] = [
            0,
            1,
            2,
            0x0040_0000,
            0x007f_ffff,
            0x0080_0000,
            0x0080_0001,
            0x3f80_0000,
            0x3f7f_ffff,
            0x3f80_0001,
            0x3f00_0000,
            0x4000_0000,
            0x4f00_0000,
            0x4eff_ffff,
            0x5f00_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fa0_0000,
            0x7fc0_0000,
            0x7fff_ffff,
            0x4020_0000,
        ];
        let sign = (self.next() as u32) << 31;
        match self.below(4) {
            0 | 1 => self.pick(&SPECIAL) | sign,
            2 => ((self.next() as u32 & 0x07ff_ffff) + 0x3c00_0000) | sign,
            _ => self.next() as u32,
        }
    }

    /// A double: special, near one, or any pattern.
    pub fn f64(&mut self) -> u64 {
        const SPECIAL: [u64; 24] = [
            0,
            1,
            2,
            0x0008_0000_0000_0000,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x0010_0000_0000_0001,
            0x3ff0_0000_0000_0000,
            0x3fef_ffff_ffff_ffff,
            0x3ff0_0000_0000_0001,
            0x3fe0_0000_0000_0000,
            0x4000_0000_0000_0000,
            0x41df_ffff_ffc0_0000,
            0x41e0_0000_0000_0000,
            0x41df_ffff_ffe0_0000,
            0x43e0_0000_0000_0000,
            0x43df_ffff_ffff_ffff,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x7fff_ffff_ffff_ffff,
            0x380f_ffff_ffff_ffff,
            0x47ef_ffff_f000_0000,
        ];
        let sign = self.next() << 63;
        match self.below(4) {
            0 | 1 => self.pick(&SPECIAL) | sign,
            2 => ((self.next() & 0x007f_ffff_ffff_ffff) + 0x3fc0_0000_0000_0000) | sign,
            _ => self.next(),
        }
    }

    /// An extended pattern, as (sign and exponent, significand), of all encodings.
    pub fn f80(&mut self) -> (u16, u64) {
        const SPECIAL: [(u16, u64); 31] = [
            (0, 0),
            (0, 1),
            (0, 0x7fff_ffff_ffff_ffff),
            (0, 0x8000_0000_0000_0000), // pseudo-denormal
            (0, 0xffff_ffff_ffff_ffff),
            (1, 0x8000_0000_0000_0000),
            (1, 0x8000_0000_0000_0001),
            (1, 0x4000_0000_0000_0000), // unnormal
            (0x3fff, 0x8000_0000_0000_0000),
            (0x3fff, 0x8000_0000_0000_0001),
            (0x3ffe, 0xffff_ffff_ffff_ffff),
            (0x3ffe, 0x8000_0000_0000_0000),
            (0x3fff, 0x0000_0000_0000_0001), // unnormal
            (0x3fff, 0xc90f_daa2_2168_c235),
            (0x4000, 0xc90f_daa2_2168_c235),
            (0x400d, 0xfffe_0000_0000_0000), // 32767
            (0x400e, 0x8000_0000_0000_0000),
            (0x401d, 0xffff_fffe_0000_0000),
            (0x401e, 0x8000_0000_0000_0000),
            (0x403d, 0xffff_ffff_ffff_fffe),
            (0x403e, 0x8000_0000_0000_0000),
            (0x403a, 0xde0b_6b3a_763f_fff0), // 999999999999999999
            (0x403a, 0xde0b_6b3a_7640_0000),
            (0x7ffe, 0xffff_ffff_ffff_ffff),
            (0x7fff, 0x8000_0000_0000_0000),
            (0x7fff, 0x8000_0000_0000_0001),
            (0x7fff, 0xa000_0000_0000_0000),
            (0x7fff, 0xc000_0000_0000_0000),
            (0x7fff, 0xffff_ffff_ffff_ffff),
            (0x7fff, 0),                     // pseudo-infinity
            (0x7fff, 0x4000_0000_0000_0000), // pseudo-NaN
        ];
        let sign = (self.next() as u16) << 15;
        let integer_bit = 1 << 63;
        match self.below(8) {
            0..=2 => {
                let (exponent, significand) = self.pick(&SPECIAL);
                (exponent | sign, significand)
            }
            3..=5 => {
                let exponent = 0x3ff0 + self.below(0x40) as u16;
                (exponent | sign, self.next() | integer_bit)
            }
            6 => (self.next() as u16, self.next() | integer_bit),
            _ => (
                (0x3fff - 0x47 + self.below(0x8e) as u16) | sign,
                self.next() & self.next() & 0xffff_ff00_0000_0000 | integer_bit,
            ),
        }
    }

    /// A 32-bit integer, often at a boundary.
    pub fn i32(&mut self) -> u32 {
        const SPECIAL: [u32; 8] = [0, 1, 0xffff_ffff, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0x0100_0001, 0x7fff];
        if self.one_in(2) { self.pick(&SPECIAL) } else { self.next() as u32 }
    }

    /// A 64-bit integer, often at a boundary.
    pub fn i64(&mut self) -> u64 {
        const SPECIAL: [u64; 8] = [0, 1, u64::MAX, i64::MAX as u64, 1 << 63, 0x8000_0000, 0x7fff_ffff, (1 << 53) + 1];
        if self.one_in(2) { self.pick(&SPECIAL) } else { self.next() }
    }

    /// A vector of singles, doubles or integers.
    pub fn vector(&mut self) -> u128 {
        match self.below(5) {
            0 | 1 => (0..4).fold(0, |v, _| v << 32 | u128::from(self.f32())),
            2 | 3 => (0..2).fold(0, |v, _| v << 64 | u128::from(self.f64())),
            _ => (0..4).fold(0, |v, _| v << 32 | u128::from(self.i32())),
        }
    }
}
