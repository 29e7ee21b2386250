//! Every function against the instruction itself on the host processor.
//!
//! Each code that `simd::lower` knows is encoded with registers as operands, wrapped into code
//! that loads and stores a [`State`], executed, and compared. Operands are random and boundary
//! values; instructions with an immediate run with all 256. What the host lacks is named on
//! standard error and not compared.

#![cfg(target_arch = "x86_64")]

use iced_x86::{Code, CpuidFeature, Encoder, Instruction, OpCodeOperandKind, OpKind, Register};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use simd::{StringLengths, StringResult, VectorFlags, VectorOp, lower};
use std::collections::BTreeSet;

/// What a wrapped instruction sees and leaves: XMM0-2, MM1-2, RAX, RCX, RDX, RFLAGS.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State {
    xmm: [u128; 3],
    mmx: [u64; 2],
    rax: u64,
    rcx: u64,
    rdx: u64,
    flags: u64,
}

/// Loads the state at RDI, with all arithmetic flags set: PUSHFQ; OR qword [RSP], 8D5h; POPFQ.
const PROLOGUE: &[u8] = &[
    0xF3, 0x0F, 0x6F, 0x07, // movdqu xmm0, [rdi]
    0xF3, 0x0F, 0x6F, 0x4F, 16, // movdqu xmm1, [rdi+16]
    0xF3, 0x0F, 0x6F, 0x57, 32, // movdqu xmm2, [rdi+32]
    0x0F, 0x6F, 0x4F, 48, // movq mm1, [rdi+48]
    0x0F, 0x6F, 0x57, 56, // movq mm2, [rdi+56]
    0x48, 0x8B, 0x47, 64, // mov rax, [rdi+64]
    0x48, 0x8B, 0x4F, 72, // mov rcx, [rdi+72]
    0x48, 0x8B, 0x57, 80, // mov rdx, [rdi+80]
    0x9C, 0x48, 0x81, 0x0C, 0x24, 0xD5, 0x08, 0x00, 0x00, 0x9D,
];

/// Stores it back.
const EPILOGUE: &[u8] = &[
    0x9C, 0x41, 0x58, // pushfq; pop r8
    0x4C, 0x89, 0x47, 88, // mov [rdi+88], r8
    0xF3, 0x0F, 0x7F, 0x07, // movdqu [rdi], xmm0
    0xF3, 0x0F, 0x7F, 0x4F, 16, // movdqu [rdi+16], xmm1
    0xF3, 0x0F, 0x7F, 0x57, 32, // movdqu [rdi+32], xmm2
    0x0F, 0x7F, 0x4F, 48, // movq [rdi+48], mm1
    0x0F, 0x7F, 0x57, 56, // movq [rdi+56], mm2
    0x48, 0x89, 0x4F, 72, // mov [rdi+72], rcx
    0x0F, 0x77, 0xC3, // emms; ret
];

const CF: u64 = 1;
const PF_AF: u64 = 1 << 2 | 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ARITHMETIC: u64 = CF | PF_AF | ZF | SF | OF;

/// A page of memory that holds one wrapped instruction at a time.
struct Host {
    page: *mut u8,
}

impl Host {
    fn new() -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let page =
            unsafe { mmap_anonymous(core::ptr::null_mut(), 4096, prot, MapFlags::PRIVATE).expect("executable page") };
        Self { page: page.cast() }
    }

    fn load(&mut self, instruction: &Instruction) {
        let mut encoder = Encoder::new(64);
        encoder.encode(instruction, 0).expect("encodable");
        let body = encoder.take_buffer();
        let code = [PROLOGUE, &body, EPILOGUE].concat();
        assert!(code.len() <= 4096);
        // SAFETY: the page is writable, private to this value, and long enough.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), self.page, code.len()) };
    }

    fn run(&self, state: &mut State) {
        // SAFETY: the page holds a complete function in the System V calling convention that
        // touches only caller-saved registers and `*state`; it ends with EMMS, so that the x87
        // unit is usable again. x86 keeps instruction fetch coherent with `load`.
        unsafe {
            let function: extern "sysv64" fn(*mut State) = core::mem::transmute(self.page);
            function(state);
        }
    }
}

/// The instruction on XMM1/MM1 (first operand), XMM2/MM2 (second), RCX and the immediate.
fn instruction(code: Code, imm: u8) -> Instruction {
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    for (i, &kind) in code.op_code().op_kinds().iter().enumerate() {
        let operand = i as u32;
        let register = match kind {
            OpCodeOperandKind::imm8 => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(imm);
                continue;
            }
            OpCodeOperandKind::xmm_reg | OpCodeOperandKind::xmm_rm | OpCodeOperandKind::xmm_or_mem => {
                Register::XMM1 + operand
            }
            OpCodeOperandKind::mm_reg | OpCodeOperandKind::mm_rm | OpCodeOperandKind::mm_or_mem => {
                Register::MM1 + operand
            }
            OpCodeOperandKind::r32_reg | OpCodeOperandKind::r32_or_mem => Register::ECX,
            OpCodeOperandKind::r64_reg | OpCodeOperandKind::r64_or_mem => Register::RCX,
            other => panic!("{code:?}: operand kind {other:?}"),
        };
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, register);
    }
    instruction
}

/// A short deterministic generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }

    /// A register image: random, or lanes of boundary values, small strings, shift counts.
    fn image(&mut self) -> u128 {
        let random = u128::from(self.next()) << 64 | u128::from(self.next());
        let lanes = |width: usize, mut lane: Box<dyn FnMut() -> u64 + '_>| {
            (0..128 / width).fold(0, |image, i| image | u128::from(lane()) << (i * width))
        };
        match self.next() % 8 {
            0 | 1 => random,
            2 => lanes(8, Box::new(|| self.pick(&[0, 1, 0x7F, 0x80, 0x81, 0xFE, 0xFF]))),
            3 => lanes(16, Box::new(|| self.pick(&[0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF]))),
            4 => lanes(
                32,
                Box::new(|| self.pick(&[0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])),
            ),
            5 => lanes(64, Box::new(|| self.pick(&[0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 32]))),
            6 => lanes(8, Box::new(|| self.pick(&[0, 1, 2, 3, 4, 0xFF]))),
            _ => lanes(64, Box::new(|| self.next() % 140)),
        }
    }

    fn pair(&mut self) -> (u128, u128) {
        let a = self.image();
        match self.next() % 8 {
            0 => (a, a),
            1 => (a, a & self.image()),
            2 => (a, a ^ 1 << (self.next() % 128)),
            _ => (a, self.image()),
        }
    }

    /// An explicit string length: in range, just beyond, negative, extreme.
    fn length(&mut self) -> u64 {
        let extremes = [u64::MAX, 1 << 63, 1 << 31, 1 << 32, 0x8000_0000_0000_0003, 0xFFFF_FFFF];
        match self.next() % 4 {
            0 => (self.next() % 20).wrapping_neg(),
            1 => self.pick(&extremes),
            2 => (self.next() << 32) | (self.next() % 18),
            _ => self.next() % 18,
        }
    }

    fn state(&mut self) -> State {
        let (a, b) = self.pair();
        let (c, d) = self.pair();
        State {
            xmm: [self.image(), a, b],
            mmx: [c as u64, d as u64],
            rax: self.length(),
            rcx: self.next(),
            rdx: self.length(),
            flags: 0,
        }
    }
}

fn rflags(flags: VectorFlags) -> u64 {
    let bit = |set: bool, mask: u64| if set { mask } else { 0 };
    bit(flags.cf, CF) | bit(flags.zf, ZF) | bit(flags.sf, SF) | bit(flags.of, OF)
}

/// What the interpreter does with a `VectorOp`, on a state.
fn model(op: VectorOp, state: &mut State, imm: u8) {
    state.flags = ARITHMETIC;
    let [xmm0, ref mut dst, src] = state.xmm;
    match op {
        VectorOp::Xmm(f) => f(dst, &src, imm),
        VectorOp::XmmXmm0(f) => f(dst, &src, &xmm0),
        VectorOp::Mmx(f) => {
            let src = state.mmx[1];
            f(&mut state.mmx[0], &src, imm);
        }
        // Whichever operand is the vector register that is read, `instruction` made it XMM2/MM2.
        VectorOp::ToGpr(f) => state.rcx = f(src, imm),
        VectorOp::MmxToGpr(f) => state.rcx = f(state.mmx[1], imm),
        VectorOp::FromGpr(f) => f(dst, state.rcx, imm),
        VectorOp::MmxFromGpr(f) => f(&mut state.mmx[0], state.rcx, imm),
        VectorOp::Flags(f) => state.flags = rflags(f(dst, &src)),
        VectorOp::String(op) => {
            let (result, flags) = op.run(dst, &src, state.rax, state.rdx, imm);
            state.flags = rflags(flags);
            match result {
                StringResult::Index(index) => state.rcx = u64::from(index),
                StringResult::Mask(mask) => state.xmm[0] = mask,
            }
        }
    }
}

/// Runs one encoded instruction on `runs` states here and on the host.
fn compare(host: &mut Host, code: Code, op: VectorOp, imm: u8, random: &mut Random, runs: usize) {
    host.load(&instruction(code, imm));
    for _ in 0..runs {
        let before = random.state();
        let (mut expected, mut actual) = (before, before);
        host.run(&mut expected);
        expected.flags &= ARITHMETIC;
        model(op, &mut actual, imm);
        assert!(
            actual == expected,
            "{code:?} imm {imm:#04x}\nbefore {before:#x?}\nhost {expected:#x?}\nsimd {actual:#x?}"
        );
    }
}

fn host_has(feature: CpuidFeature) -> bool {
    match feature {
        CpuidFeature::MMX | CpuidFeature::SSE | CpuidFeature::SSE2 => true,
        CpuidFeature::SSSE3 => is_x86_feature_detected!("ssse3"),
        CpuidFeature::SSE4_1 => is_x86_feature_detected!("sse4.1"),
        CpuidFeature::SSE4_2 => is_x86_feature_detected!("sse4.2"),
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::SHA => is_x86_feature_detected!("sha"),
        other => panic!("{other:?} has no instruction in this crate"),
    }
}

#[test]
fn lowered_instruction_on_random_and_boundary_operands_equals_the_host() {
    let mut host = Host::new();
    let mut random = Random(1);
    let mut lacking = BTreeSet::new();
    let mut compared = 0;
    for code in Code::values() {
        let Some(op) = lower(code) else { continue };
        if let Some(&feature) = code.cpuid_features().iter().find(|&&f| !host_has(f)) {
            lacking.insert(format!("{feature:?}"));
            continue;
        }
        let runs = if matches!(op, VectorOp::String(_)) { 400 } else { 64 };
        if code.op_code().op_kinds().contains(&OpCodeOperandKind::imm8) {
            for imm in 0..=255 {
                compare(&mut host, code, op, imm, &mut random, runs);
            }
        } else {
            compare(&mut host, code, op, 0, &mut random, 5000);
        }
        compared += 1;
    }
    if !lacking.is_empty() {
        eprintln!("not compared, the host lacks {lacking:?}");
    }
    assert!(compared >= 150, "only {compared} codes compared");
}

#[test]
fn string_lengths_every_pair_of_small_explicit_lengths_equals_the_host() {
    if !is_x86_feature_detected!("sse4.2") {
        eprintln!("not compared, the host lacks SSE4_2");
        return;
    }
    let mut host = Host::new();
    let mut random = Random(2);
    for code in Code::values() {
        let Some(VectorOp::String(op)) = lower(code) else { continue };
        if op.lengths == StringLengths::Implicit {
            continue;
        }
        for imm in 0..=255 {
            host.load(&instruction(code, imm));
            for lengths in 0..18 * 18 {
                let mut before = random.state();
                (before.rax, before.rdx) = (lengths / 18, lengths % 18);
                let (mut expected, mut actual) = (before, before);
                host.run(&mut expected);
                expected.flags &= ARITHMETIC;
                model(VectorOp::String(op), &mut actual, imm);
                assert!(
                    actual == expected,
                    "{code:?} imm {imm:#04x}\nbefore {before:#x?}\nhost {expected:#x?}\nsimd {actual:#x?}"
                );
            }
        }
    }
}

#[test]
fn byte_masks_random_images_equal_pmovmskb() {
    use core::arch::x86_64::{_mm_movemask_epi8, _mm_set_epi64x};
    let mut random = Random(3);
    for _ in 0..5000 {
        let image = random.image();
        // SAFETY: SSE2 is part of x86-64.
        let mask = unsafe { _mm_movemask_epi8(_mm_set_epi64x((image >> 64) as i64, image as i64)) };
        assert_eq!(i32::from(simd::byte_mask_xmm(image)), mask, "{image:#x}");
        assert_eq!(i32::from(simd::byte_mask_mmx(image as u64)), mask & 0xFF, "{image:#x}");
    }
}

#[test]
fn crc32_random_operands_equal_the_host() {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};
    #[target_feature(enable = "sse4.2")]
    fn host(crc: u32, data: u64) -> [u32; 4] {
        [
            _mm_crc32_u8(crc, data as u8),
            _mm_crc32_u16(crc, data as u16),
            _mm_crc32_u32(crc, data as u32),
            _mm_crc32_u64(u64::from(crc), data) as u32,
        ]
    }
    if !is_x86_feature_detected!("sse4.2") {
        eprintln!("not compared, the host lacks SSE4_2");
        return;
    }
    let mut random = Random(4);
    for _ in 0..5000 {
        let (crc, data) = (random.image() as u32, random.image() as u64);
        let actual = [
            simd::bits::crc32_u8(crc, data as u8),
            simd::bits::crc32_u16(crc, data as u16),
            simd::bits::crc32_u32(crc, data as u32),
            simd::bits::crc32_u64(crc, data),
        ];
        // SAFETY: the feature was detected above.
        assert_eq!(actual, unsafe { host(crc, data) }, "{crc:#x} {data:#x}");
    }
}

#[test]
fn pdep_pext_random_operands_equal_the_host() {
    use core::arch::x86_64::{_pdep_u64, _pext_u64};
    #[target_feature(enable = "bmi2")]
    fn host(src: u64, mask: u64) -> [u64; 2] {
        [_pdep_u64(src, mask), _pext_u64(src, mask)]
    }
    if !is_x86_feature_detected!("bmi2") {
        eprintln!("not compared, the host lacks BMI2");
        return;
    }
    let mut random = Random(5);
    for _ in 0..5000 {
        let (src, mask) = (random.image() as u64, random.image() as u64);
        let actual = [simd::bits::pdep(src, mask), simd::bits::pext(src, mask)];
        // SAFETY: the feature was detected above.
        assert_eq!(actual, unsafe { host(src, mask) }, "{src:#x} {mask:#x}");
    }
}
