//! x87 rules from the text of the SDM, volume 1, chapter 8: exceptions, state images, MMX.

use fpu::{AddressMode, F80, FxsaveFormat, X87, X87Memory, X87Operand, X87Outcome, lower_x87};
use iced_x86::Code;

const ONE: F80 = F80::new(0x3fff, 1 << 63);
const TWO: F80 = F80::new(0x4000, 1 << 63);
const ZERO: F80 = F80::new(0, 0);
const LARGEST: F80 = F80::new(0x7ffe, u64::MAX);
const SMALLEST_NORMAL: F80 = F80::new(1, 1 << 63);
const DENORMAL: F80 = F80::new(0, 3);

const IE: u16 = 0x01;
const DE: u16 = 0x02;
const ZE: u16 = 0x04;
const OE: u16 = 0x08;
const UE: u16 = 0x10;
const PE: u16 = 0x20;
const SF: u16 = 0x40;
const ES_B: u16 = 0x8080;
const C1: u16 = 0x200;
const TOP: u16 = 0x3800;

fn run(unit: &mut X87, code: Code, sti: u8, memory: &[u8]) -> X87Outcome {
    let op = lower_x87(code).expect("an x87 instruction");
    let operand = X87Operand { sti, memory, ..X87Operand::default() };
    unit.execute(op, &operand)
}

/// A unit with these registers, the last one in ST(0), and with `unmasked` exceptions.
fn unit(unmasked: u16, values: &[F80]) -> X87 {
    let mut unit = X87::new();
    for value in values {
        run(&mut unit, Code::Fld_m80fp, 0, &value.to_bytes());
    }
    unit.set_control(0x037f & !unmasked);
    unit
}

fn stored(outcome: X87Outcome) -> fpu::Store {
    match outcome {
        X87Outcome::Store(store) => store,
        other => panic!("not a store: {other:?}"),
    }
}

#[test]
fn unmasked_zero_divide_leaves_operands_and_stack() {
    let mut unit = unit(ZE, &[ZERO, ONE]);
    let before = unit;

    run(&mut unit, Code::Fdivrp_sti_st0, 1, &[]);

    // ST(1) = ST(0) / ST(1) did not happen, nothing was popped.
    assert_eq!(unit.status(), before.status() | ZE | ES_B);
    assert_eq!((unit.st(0), unit.st(1)), (ONE, ZERO));
    assert_eq!(unit.abridged_tags(), before.abridged_tags());
    assert!(unit.pending_exception());
}

#[test]
fn masked_zero_divide_gives_infinity_and_pops() {
    let mut unit = unit(0, &[ZERO, ONE]);

    run(&mut unit, Code::Fdivrp_sti_st0, 1, &[]);

    assert_eq!(unit.st(0), F80::new(0x7fff, 1 << 63));
    assert_eq!(unit.status(), ZE | 7 << 11);
    assert!(!unit.pending_exception());
}

#[test]
fn unmasked_denormal_suppresses_the_later_precision_exception() {
    let mut unit = unit(DE, &[DENORMAL, ONE]);

    run(&mut unit, Code::Fadd_st0_sti, 1, &[]);

    assert_eq!(unit.status() & 0x3f, DE);
    assert_eq!(unit.st(0), ONE);
}

#[test]
fn unmasked_overflow_to_a_register_delivers_the_result_scaled_by_minus_24576() {
    let mut unit = unit(OE, &[LARGEST, TWO]);

    run(&mut unit, Code::Fmul_st0_sti, 1, &[]);

    assert_eq!(unit.st(0), F80::new(0x7fff - 24576, u64::MAX));
    assert_eq!(unit.status() & 0x3f, OE);
    assert!(unit.pending_exception());
}

#[test]
fn unmasked_underflow_to_a_register_delivers_the_result_scaled_by_24576() {
    let mut unit = unit(UE, &[TWO, SMALLEST_NORMAL]);

    run(&mut unit, Code::Fdiv_st0_sti, 1, &[]);

    // Exact, and still an underflow because it is not masked.
    assert_eq!(unit.st(0), F80::new(24576, 1 << 63));
    assert_eq!(unit.status() & 0x3f, UE);
}

#[test]
fn unmasked_overflow_of_a_store_writes_nothing_and_does_not_pop() {
    let mut unit = unit(OE, &[LARGEST]);
    let top = unit.status() & TOP;

    let outcome = run(&mut unit, Code::Fstp_m32fp, 0, &[]);

    assert!(matches!(outcome, X87Outcome::Done));
    assert_eq!(unit.status() & TOP, top);
    assert_eq!(unit.status() & OE, OE);
    assert_eq!(unit.st(0), LARGEST);
}

#[test]
fn unmasked_precision_of_a_store_still_stores_and_pops() {
    let third = F80::new(0x3ffd, 0xaaaa_aaaa_aaaa_aaab);
    let mut unit = unit(PE, &[third]);

    let store = stored(run(&mut unit, Code::Fstp_m32fp, 0, &[]));
    unit.commit(store.commit);

    assert_eq!(store.bytes(), (1.0_f32 / 3.0).to_le_bytes());
    assert_eq!(unit.status(), PE | ES_B | C1);
    assert_eq!(unit.abridged_tags(), 0);
}

#[test]
fn a_store_that_is_not_committed_changes_nothing() {
    for code in [
        Code::Fstp_m32fp,
        Code::Fstp_m80fp,
        Code::Fistp_m16int,
        Code::Fbstp_m80bcd,
        Code::Fnstenv_m28byte,
        Code::Fnsave_m108byte,
    ] {
        let mut unit = unit(UE, &[LARGEST]);
        let before = unit;
        let store = stored(run(&mut unit, code, 0, &[]));
        assert_eq!(unit, before, "{code:?}");
        unit.commit(store.commit);
        assert_ne!(unit, before, "{code:?}");
    }
}

#[test]
fn masked_stack_underflow_pops_and_sets_invalid_and_stack_fault() {
    let mut unit = X87::new();

    let store = stored(run(&mut unit, Code::Fistp_m32int, 0, &[]));
    unit.commit(store.commit);

    assert_eq!(store.bytes(), 0x8000_0000_u32.to_le_bytes());
    assert_eq!(unit.status(), IE | SF | 1 << 11);
}

#[test]
fn stack_overflow_sets_c1_and_unmasked_keeps_the_stack() {
    let mut masked = unit(0, &[ONE; 8]);
    run(&mut masked, Code::Fldz, 0, &[]);
    assert_eq!(masked.status(), IE | SF | C1 | 7 << 11);
    assert_eq!(masked.st(0), F80::INDEFINITE);

    let mut unmasked = unit(IE, &[ONE; 8]);
    run(&mut unmasked, Code::Fldz, 0, &[]);
    assert_eq!(unmasked.status(), IE | SF | C1 | ES_B);
    assert_eq!(unmasked.st(0), ONE);
}

#[test]
fn unmasked_invalid_comparison_keeps_condition_codes_and_eflags() {
    let snan = F80::new(0x7fff, 0x8000_0000_0000_0001);
    let mut unit = unit(IE, &[snan, ONE]);
    let codes = unit.status() & 0x4700;

    let outcome = run(&mut unit, Code::Fcomip_st0_sti, 1, &[]);

    assert!(matches!(outcome, X87Outcome::Done));
    assert_eq!(unit.status() & 0x4700, codes);
    assert_eq!(unit.st(0), ONE);
}

#[test]
fn unmasking_with_fldcw_makes_an_old_exception_pending() {
    let mut unit = unit(0, &[ZERO, ONE]);
    run(&mut unit, Code::Fdiv_st0_sti, 1, &[]);
    assert!(!unit.pending_exception());

    run(&mut unit, Code::Fldcw_m2byte, 0, &0x037b_u16.to_le_bytes());
    assert!(unit.pending_exception());

    run(&mut unit, Code::Fnclex, 0, &[]);
    assert!(!unit.pending_exception());
    assert_eq!(unit.status() & 0x80ff, 0);
}

#[test]
fn fnstenv_masks_all_exceptions_after_the_store() {
    let mut unit = unit(ZE, &[ZERO, ONE]);
    run(&mut unit, Code::Fdiv_st0_sti, 1, &[]);

    let store = stored(run(&mut unit, Code::Fnstenv_m14byte, 0, &[]));
    unit.commit(store.commit);

    assert_eq!(store.bytes()[..2], 0x037b_u16.to_le_bytes());
    assert_eq!(unit.control(), 0x037f);
    assert!(!unit.pending_exception());
}

fn environment(code: Code, unit: &mut X87, mode: AddressMode) -> Vec<u8> {
    let operand = X87Operand { mode, ..X87Operand::default() };
    let store = stored(unit.execute(lower_x87(code).unwrap(), &operand));
    assert_eq!(lower_x87(code).unwrap().memory(), X87Memory::Store(store.bytes().len() as u8));
    store.bytes().to_vec()
}

#[test]
fn environments_have_the_layouts_of_figures_8_9_to_8_12() {
    let mut unit = unit(0, &[ONE]);
    unit.note_instruction(0x1234, 0x89ab_cdef, 0x5d9);
    unit.note_data(0x2345, 0x7654_3210);

    let protected = environment(Code::Fnstenv_m28byte, &mut unit, AddressMode::Protected);
    assert_eq!(
        protected,
        [
            0x7f, 3, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, // CW, SW, TW
            0xef, 0xcd, 0xab, 0x89, 0x34, 0x12, 0xd9, 0x05, // FIP, FCS, FOP
            0x10, 0x32, 0x54, 0x76, 0x45, 0x23, 0xff, 0xff, // FDP, FDS
        ]
    );
    let short = environment(Code::Fnstenv_m14byte, &mut unit, AddressMode::Protected);
    assert_eq!(short[6..], [0xef, 0xcd, 0x34, 0x12, 0x10, 0x32, 0x45, 0x23]);

    // Real mode: linear addresses 1234h * 16 + 0056h and 2345h * 16 + 0078h.
    unit.note_instruction(0x1234, 0x56, 0x5d9);
    unit.note_data(0x2345, 0x78);
    let real = environment(Code::Fnstenv_m14byte, &mut unit, AddressMode::Real);
    assert_eq!(real[6..], [0x96, 0x23, 0xd9, 0x15, 0xc8, 0x34, 0x00, 0x20]);
    let real = environment(Code::Fnstenv_m28byte, &mut unit, AddressMode::Real);
    assert_eq!(
        real[12..],
        [
            0x96, 0x23, 0xff, 0xff, 0xd9, 0x15, 0, 0, // FIP 15..0, FIP 31..16 and FOP
            0xc8, 0x34, 0xff, 0xff, 0, 0x20, 0, 0, // FDP
        ]
    );
}

#[test]
fn frstor_of_an_fsave_image_restores_the_unit_in_every_layout() {
    for (save, restore) in
        [(Code::Fnsave_m108byte, Code::Frstor_m108byte), (Code::Fnsave_m94byte, Code::Frstor_m94byte)]
    {
        for mode in [AddressMode::Protected, AddressMode::Real] {
            let mut unit = unit(OE, &[ONE, TWO, DENORMAL, LARGEST]);
            let operand = X87Operand { mode, ..X87Operand::default() };
            let store = stored(unit.execute(lower_x87(save).unwrap(), &operand));
            let before = unit;
            unit.commit(store.commit);
            assert_eq!((unit.control(), unit.status()), (0x037f, 0));
            assert_eq!(unit.abridged_tags(), 0);

            let operand = X87Operand { memory: store.bytes(), ..operand };
            unit.execute(lower_x87(restore).unwrap(), &operand);
            assert_eq!(unit, before, "{save:?} {mode:?}");
        }
    }
}

#[test]
fn fxrstor_of_an_fxsave_image_restores_the_unit_and_leaves_mxcsr_alone() {
    for format in [FxsaveFormat::Legacy, FxsaveFormat::Long] {
        let mut original = unit(UE, &[ONE, TWO, ZERO]);
        original.note_instruction(0, 0x8765_4321, 0x123);
        original.note_data(0, 0x1234_5678);
        let mut image = [0xa5; 160];
        original.fxsave(format, &mut image);
        assert_eq!(image[24..32], [0xa5; 8]);
        // Abridged tags are in physical order, registers in stack order.
        assert_eq!(image[4], 0b1110_0000);
        assert_eq!(image[48..58], TWO.to_bytes());

        let mut copy = X87::new();
        copy.fxrstor(format, &image);
        assert_eq!(copy, original);
    }
}

#[test]
fn mmx_writes_alias_the_physical_registers() {
    let mut unit = unit(0, &[ONE, TWO]);
    unit.enter_mmx();
    unit.mmx_set(3, 0x0123_4567_89ab_cdef);

    assert_eq!(unit.top(), 0);
    assert_eq!(unit.abridged_tags(), 0xff);
    assert_eq!(unit.st(3), F80::new(0xffff, 0x0123_4567_89ab_cdef));
    // TWO was pushed second, to physical register 6.
    assert_eq!(unit.mmx_get(6), TWO.significand);

    unit.emms();
    assert_eq!(unit.tag_word(), 0xffff);
}

#[test]
fn the_full_tag_word_classifies_registers() {
    let infinity = F80::new(0x7fff, 1 << 63);
    let unnormal = F80::new(0x4000, 1);
    let unit = unit(0, &[ONE, ZERO, DENORMAL, infinity, unnormal]);
    // R7 valid, R6 zero, R5, R4, R3 special, the rest empty.
    assert_eq!(unit.tag_word(), 0b00_01_10_10_10_11_11_11);
}

#[test]
fn pending_checks_and_pointers_are_left_out_for_control_instructions() {
    for code in [Code::Fnstsw_AX, Code::Fninit, Code::Fnclex, Code::Fnsave_m108byte] {
        assert!(!lower_x87(code).unwrap().waits(), "{code:?}");
    }
    for code in [Code::Wait, Code::Fldcw_m2byte, Code::Frstor_m94byte, Code::Fadd_m32fp] {
        assert!(lower_x87(code).unwrap().waits(), "{code:?}");
    }
    assert!(lower_x87(Code::Fld1).unwrap().updates_pointers());
    assert!(!lower_x87(Code::Fldcw_m2byte).unwrap().updates_pointers());
}

#[test]
fn codes_of_other_units_are_not_lowered() {
    for code in [Code::Emms, Code::Addps_xmm_xmmm128, Code::Fxsave_m512byte, Code::Ftstp] {
        assert!(lower_x87(code).is_none(), "{code:?}");
    }
}
