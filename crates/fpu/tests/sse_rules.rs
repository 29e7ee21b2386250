//! SIMD exception rules from the text of the SDM, volume 1, section 11.5.

use fpu::{Comparison, Mxcsr, SimdException, SseOp, lower_sse};
use iced_x86::Code;

const IE: u32 = 0x01;
const DE: u32 = 0x02;
const ZE: u32 = 0x04;
const OE: u32 = 0x08;
const UE: u32 = 0x10;
const PE: u32 = 0x20;
const DAZ: u32 = 0x40;
const FTZ: u32 = 0x8000;

const ONE: u32 = 0x3f80_0000;
const SNAN: u32 = 0x7fa0_0000;
const DENORMAL: u32 = 0x0000_0001;
const LARGEST: u32 = 0x7f7f_ffff;
const SMALLEST_NORMAL: u32 = 0x0080_0000;

/// Runs a two-operand instruction with these exceptions unmasked and with other control bits.
fn run(code: Code, dst: u128, src: u128, unmasked: u32, control: u32) -> (Result<u128, SimdException>, u32) {
    let Some(SseOp::Binary(f)) = lower_sse(code) else {
        panic!("{code:?} is not a two-operand instruction");
    };
    let start = (0x1f80 & !(unmasked << 7)) | control;
    let mut mxcsr = Mxcsr(start);
    let result = f(dst, src, 0xff, &mut mxcsr);
    assert_eq!(mxcsr.0 & !0x3f, start & !0x3f, "control bits have changed");
    (result, mxcsr.0 & 0x3f)
}

fn lanes(a: u32, b: u32) -> u128 {
    u128::from(a) | u128::from(b) << 32
}

#[test]
fn unmasked_pre_computation_exception_suppresses_post_computation_flags() {
    // Lane 0: invalid; lane 1: inexact.
    let (dst, src) = (lanes(SNAN, ONE), lanes(ONE, 0x3300_0000));
    let masked = run(Code::Addps_xmm_xmmm128, dst, src, 0, 0);
    assert!(masked.0.is_ok());
    assert_eq!(masked.1, IE | PE);

    let unmasked = run(Code::Addps_xmm_xmmm128, dst, src, IE, 0);
    assert_eq!(unmasked, (Err(SimdException), IE));
}

#[test]
fn masked_pre_computation_flags_are_set_with_an_unmasked_one() {
    // Lane 0: divide by zero (unmasked), lane 1: denormal operand (masked).
    let rest = lanes(ONE, ONE) << 64;
    let (dst, src) = (lanes(ONE, DENORMAL) | rest, lanes(0, ONE) | rest);
    let (result, flags) = run(Code::Divps_xmm_xmmm128, dst, src, ZE, 0);
    assert_eq!(result, Err(SimdException));
    assert_eq!(flags & (IE | DE | ZE), ZE | DE);
}

#[test]
fn unmasked_post_computation_exception_keeps_masked_pre_computation_flags() {
    let (dst, src) = (lanes(LARGEST, SNAN), lanes(LARGEST, ONE));
    let (result, flags) = run(Code::Addps_xmm_xmmm128, dst, src, OE, 0);
    assert_eq!(result, Err(SimdException));
    assert_eq!(flags & (IE | OE), IE | OE);
}

#[test]
fn exact_tiny_result_underflows_only_when_unmasked() {
    let half = u128::from(0x3f00_0000_u32);
    let tiny = u128::from(SMALLEST_NORMAL);

    let (result, flags) = run(Code::Mulss_xmm_xmmm32, tiny, half, 0, 0);
    assert_eq!((result, flags), (Ok(0x0040_0000), 0));

    let (result, flags) = run(Code::Mulss_xmm_xmmm32, tiny, half, UE, 0);
    assert_eq!((result, flags), (Err(SimdException), UE));
}

#[test]
fn ftz_counts_only_while_underflow_is_masked() {
    let half = u128::from(0x3f00_0000_u32);
    let tiny = u128::from(SMALLEST_NORMAL);

    let (result, flags) = run(Code::Mulss_xmm_xmmm32, tiny, half, 0, FTZ);
    assert_eq!((result, flags), (Ok(0), UE | PE));

    let (result, flags) = run(Code::Mulss_xmm_xmmm32, tiny, half, UE, FTZ);
    assert_eq!((result, flags), (Err(SimdException), UE));
}

#[test]
fn daz_takes_away_the_denormal_exception() {
    let (denormal, one) = (u128::from(DENORMAL), u128::from(ONE));
    let (result, flags) = run(Code::Addss_xmm_xmmm32, one, denormal, DE, 0);
    assert_eq!((result, flags), (Err(SimdException), DE));

    let (result, flags) = run(Code::Addss_xmm_xmmm32, one, denormal, DE, DAZ);
    assert_eq!((result, flags), (Ok(one), 0));
}

#[test]
fn dot_product_stops_at_the_first_step_with_an_unmasked_exception() {
    // The products overflow; their sum (infinity minus infinity) would be invalid.
    let dst = lanes(LARGEST, LARGEST);
    let src = lanes(LARGEST, LARGEST | 1 << 31);
    let (_, flags) = run(Code::Dpps_xmm_xmmm128_imm8, dst, src, 0, 0);
    assert_eq!(flags & (IE | OE), IE | OE);

    let (result, flags) = run(Code::Dpps_xmm_xmmm128_imm8, dst, src, OE, 0);
    assert_eq!(result, Err(SimdException));
    assert_eq!(flags & (IE | OE), OE);
}

#[test]
fn dot_product_without_exceptions_completes_when_all_are_unmasked() {
    let dst = lanes(ONE, 0x4000_0000);
    let (result, flags) = run(Code::Dpps_xmm_xmmm128_imm8, dst, dst, 0x3f, 0);
    let five = u128::from(0x40a0_0000_u32);
    assert_eq!(result, Ok(five | five << 32 | five << 64 | five << 96));
    assert_eq!(flags, 0);
}

#[test]
fn sticky_flags_of_earlier_instructions_do_not_raise() {
    let one = u128::from(ONE);
    let (result, flags) = run(Code::Addss_xmm_xmmm32, one, one, 0x3f, IE | PE);
    assert_eq!((result, flags), (Ok(0x4000_0000), IE | PE));
}

#[test]
fn comparison_with_unmasked_invalid_gives_no_eflags() {
    let Some(SseOp::Compare(ucomiss)) = lower_sse(Code::Ucomiss_xmm_xmmm32) else {
        panic!("not a comparison");
    };
    let mut mxcsr = Mxcsr(0x1f80 & !(IE << 7));
    let qnan = 0x7fc0_0000;

    // A quiet NaN is valid for UCOMISS, a signalling one is not.
    let quiet = ucomiss(u128::from(ONE), qnan, &mut mxcsr);
    assert_eq!(quiet, Ok(Comparison::Unordered));
    let signalling = ucomiss(u128::from(ONE), u128::from(SNAN), &mut mxcsr);
    assert_eq!(signalling, Err(SimdException));
    assert_eq!(mxcsr.0 & 0x3f, IE);
}

#[test]
fn integer_conversion_out_of_range_is_invalid() {
    let Some(SseOp::ToGpr(cvttss2si)) = lower_sse(Code::Cvttss2si_r32_xmmm32) else {
        panic!("not a conversion");
    };
    let two_to_31 = 0x4f00_0000;
    let mut masked = Mxcsr::default();
    assert_eq!(cvttss2si(two_to_31, 0, &mut masked), Ok(0x8000_0000));
    assert_eq!(masked.0, 0x1f80 | IE);

    let mut unmasked = Mxcsr(0x1f80 & !(IE << 7));
    assert_eq!(cvttss2si(two_to_31, 0, &mut unmasked), Err(SimdException));
}

#[test]
fn data_movement_and_vex_encodings_are_not_lowered() {
    for code in
        [Code::Movaps_xmm_xmmm128, Code::Movss_xmm_xmmm32, Code::VEX_Vaddps_xmm_xmm_xmmm128, Code::Paddb_xmm_xmmm128]
    {
        assert!(lower_sse(code).is_none(), "{code:?}");
    }
}
