//! The state of AVX: who may use it, how it is enabled, and how it travels.
#![cfg(target_arch = "x86_64")]

mod bench;

use accel::Vcpu;
use bench::*;
use cpu::Cpu;
use cpu::block::BlockExit;
use x86::regs::Registers;

const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;

/// Whether the host lets guests have AVX; without it there is nothing to test.
fn offered() -> bool {
    x86::cpuid::Feature::by_name("avx").all(|feature| cpu::model_host().supported.has(feature))
}

fn enabled(bench: &Bench) -> Registers {
    let mut registers = long(bench, 0);
    registers.cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
    registers.xcr0 = 7;
    registers
}

/// Runs one instruction, then HLT; the vector of the fault that it raises.
fn fault(bench: &mut Bench, registers: &Registers, code: &[u8]) -> Option<u8> {
    bench.put(CODE, code);
    bench.put(CODE + code.len() as u64, &[0xf4]);
    bench.set(registers);
    let cpu = bench.cpu.cpu();
    loop {
        match cpu.exec_blocks() {
            BlockExit::Fault(fault) => return Some(fault.vector()),
            BlockExit::Signals => cpu.exit_request = false,
            BlockExit::Halt => return None,
            other => panic!("{other:?}"),
        }
    }
}

/// Instructions that are executed in different ways: host code, moves, state, masks, gathers.
const EXAMPLES: [&[u8]; 8] = [
    &[0xc5, 0xf4, 0x58, 0xc2],             // vaddps ymm0, ymm1, ymm2
    &[0xc5, 0xfc, 0x28, 0xc1],             // vmovaps ymm0, ymm1
    &[0xc5, 0xf9, 0x6e, 0xc0],             // vmovd xmm0, eax
    &[0xc5, 0xf8, 0x77],                   // vzeroupper
    &[0xc5, 0xf9, 0x50, 0xc0],             // vmovmskpd eax, xmm0
    &[0xc5, 0xf8, 0xae, 0x1c, 0x24],       // vstmxcsr [rsp]
    &[0xc4, 0xe2, 0x75, 0x2c, 0x04, 0x24], // vmaskmovps ymm0, ymm1, [rsp]
    &[0xc4, 0xe2, 0x6d, 0x92, 0x04, 0x0c], // vgatherdps ymm0, [rsp+ymm1], ymm2
];

#[test]
fn avx_instructions_need_what_enables_their_state() {
    if !offered() {
        return;
    }
    let mut bench = Bench::new();
    let good = enabled(&bench);
    let without = |change: fn(&mut Registers)| {
        let mut registers = good.clone();
        change(&mut registers);
        registers
    };
    let cases = [
        ("everything", None, without(|_| {})),
        // CR0.EM and CR4.OSFXSR concern legacy SSE only.
        ("CR0.EM", None, without(|r| r.cr0 |= CR0_EM)),
        ("no CR4.OSFXSR", None, without(|r| r.cr4 &= !CR4_OSFXSR)),
        ("CR0.TS", Some(7), without(|r| r.cr0 |= CR0_TS)),
        ("no CR4.OSXSAVE", Some(6), without(|r| r.cr4 &= !CR4_OSXSAVE)),
        ("no CR4.OSXSAVE, CR0.TS", Some(6), without(|r| (r.cr4, r.cr0) = (r.cr4 & !CR4_OSXSAVE, r.cr0 | CR0_TS))),
        ("XCR0 without AVX", Some(6), without(|r| r.xcr0 = 3)),
    ];
    for (name, expected, registers) in &cases {
        for code in EXAMPLES {
            assert_eq!(fault(&mut bench, registers, code), *expected, "{name}: {code:02x?}");
        }
    }
}

#[test]
fn vex_encodings_are_undefined_on_models_without_the_feature() {
    if !offered() {
        return;
    }
    for (model, code, expected) in [
        ("max,-avx", EXAMPLES[0], Some(6)),
        ("max,-avx2", EXAMPLES[0], None),
        ("max,-avx2", EXAMPLES[7], Some(6)),
        ("max,-fma", &[0xc4, 0xe2, 0x71, 0x98, 0xc2], Some(6)),
        ("max,-f16c", &[0xc4, 0xe2, 0x79, 0x13, 0xc1], Some(6)),
        ("max,-vaes", &[0xc4, 0xe2, 0x75, 0xdc, 0xc2], Some(6)),
        ("max,-vaes", &[0xc4, 0xe2, 0x71, 0xdc, 0xc2], None),
        ("max,-aes", &[0xc4, 0xe2, 0x71, 0xdc, 0xc2], Some(6)),
    ] {
        let mut bench = Bench::with_model(model);
        let registers = enabled(&bench);
        assert_eq!(fault(&mut bench, &registers, code), expected, "{model}: {code:02x?}");
    }
}

#[test]
fn xcr0_takes_avx_only_with_sse_and_only_from_models_that_have_it() {
    if !offered() {
        return;
    }
    let accepts = |cpu: &mut Cpu, value| cpu.xsetbv(0, value).is_ok();
    let mut bench = Bench::new();
    let registers = enabled(&bench);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    let accepted: Vec<u64> = (0..16).filter(|value| accepts(cpu, *value)).collect();
    assert_eq!(accepted, [1, 3, 7]);
    assert!(cpu.xsetbv(1, 7).is_err());
    let mut bench = Bench::with_model("max,-avx");
    let mut registers = enabled(&bench);
    registers.xcr0 = 1;
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    let accepted: Vec<u64> = (0..16).filter(|value| accepts(cpu, *value)).collect();
    assert_eq!(accepted, [1, 3]);
}

#[test]
fn cpuid_sizes_follow_what_xcr0_enables() {
    if !offered() {
        return;
    }
    let mut bench = Bench::new();
    let registers = enabled(&bench);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    let sizes = |cpu: &Cpu| (cpu.cpuid(0xd, 0).ebx, cpu.cpuid(0xd, 0).ecx, cpu.cpuid(0xd, 1).ebx);
    assert_eq!((cpu.cpuid(0xd, 0).eax, cpu.cpuid(0xd, 0).edx), (7, 0));
    assert_eq!(sizes(cpu), (832, 832, 832));
    cpu.xsetbv(0, 3).expect("XCR0");
    assert_eq!(sizes(cpu), (576, 832, 576));
    let avx = cpu.cpuid(0xd, 2);
    assert_eq!((avx.eax, avx.ebx, avx.ecx), (256, 576, 0));
}

#[test]
fn xgetbv_1_tells_what_is_not_in_its_initial_state() {
    if !offered() {
        return;
    }
    let mut bench = Bench::new();
    let registers = enabled(&bench);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    cpu.x87 = fpu::X87::new();
    assert_eq!(cpu.xgetbv(1), Ok(0));
    cpu.ymm[3].high = 1;
    assert_eq!(cpu.xgetbv(1), Ok(4));
    cpu.ymm[15].low = 1;
    assert_eq!(cpu.xgetbv(1), Ok(6));
    cpu.xsetbv(0, 3).expect("XCR0");
    assert_eq!(cpu.xgetbv(1), Ok(2));
}

#[test]
fn xsavec_leaves_out_initial_state_and_xrstor_brings_it_back() {
    if !offered() {
        return;
    }
    let mut bench = Bench::new();
    let mut registers = enabled(&bench);
    (registers.gpr[0], registers.gpr[7]) = (7, 0x6_0000);
    bench.put64(0x6_0000 + 576, 0x5555);
    // xsavec [rdi] with nothing in the upper halves, then xrstor [rdi] over others.
    assert_eq!(fault(&mut bench, &registers, &[0x0f, 0xc7, 0x27]), None);
    assert_eq!(bench.get64(0x6_0000 + 512) & 4, 0);
    assert_eq!(bench.get64(0x6_0000 + 520), 1 << 63 | 7);
    assert_eq!(bench.get64(0x6_0000 + 576), 0x5555);
    bench.put(CODE, &[0x0f, 0xae, 0x2f, 0xf4]);
    bench.set(&registers);
    bench.cpu.cpu().ymm[5].high = 9;
    bench.run_to_halt();
    assert_eq!(bench.cpu.cpu().ymm[5].high, 0);
}

#[test]
fn zeroing_and_saving_spare_the_registers_that_the_mode_does_not_see() {
    if !offered() {
        return;
    }
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    registers.cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
    registers.xcr0 = 7;
    registers.gpr[0] = 7;
    registers.gpr[7] = 0x6_0000;
    bench.put(
        CODE,
        &[
            0x0f, 0xae, 0x27, // xsave [edi]
            0xc5, 0xfc, 0x77, // vzeroall
            0xf4,
        ],
    );
    bench.set(&registers);
    for (n, register) in bench.cpu.cpu().ymm.iter_mut().enumerate() {
        (register.low, register.high) = (n as u128 + 1, n as u128 + 101);
    }
    bench.run_to_halt();
    let at = |offset: u64| bench.get64(0x6_0000 + offset);
    assert_eq!((at(160 + 16 * 7), at(160 + 16 * 8)), (8, 0));
    assert_eq!((at(576 + 16 * 7), at(576 + 16 * 8)), (108, 0));
    let ymm = bench.cpu.cpu().ymm;
    assert_eq!((ymm[7].low, ymm[7].high), (0, 0));
    assert_eq!((ymm[8].low, ymm[8].high), (9, 109));
}

#[test]
fn upper_halves_travel_with_the_register_file() {
    if !offered() {
        return;
    }
    let mut bench = Bench::new();
    let registers = enabled(&bench);
    bench.set(&registers);
    for (n, register) in bench.cpu.cpu().ymm.iter_mut().enumerate() {
        (register.low, register.high) = (n as u128 + 1, (n as u128) << 100 | 5);
    }
    let saved = bench.cpu.registers();
    let expected = bench.cpu.cpu().ymm;
    let mut other = Bench::new();
    other.set(&saved);
    assert_eq!(other.cpu.cpu().ymm, expected);
    assert_eq!(other.cpu.registers(), saved);
    // A file from a processor without AVX has no such part.
    let mut short = saved;
    short.xsave.truncate(576);
    other.set(&short);
    let ymm = other.cpu.cpu().ymm;
    assert!(ymm.iter().zip(&expected).all(|(now, before)| now.low == before.low && now.high == 0));
}
