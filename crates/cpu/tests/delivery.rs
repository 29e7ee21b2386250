//! Interrupts behind STI and MOV SS, and faults in the middle of hot code, on both tiers: where they come, and with
//! which registers.

mod bench;

use std::sync::Arc;

use accel::{CpuSignals, Signal, Vcpu};
use bench::*;
use cpu::TranslatorConfig;
use memory::{AccessSize, Backing, GuestAddress, Io};
use x86::regs::{Registers, rflags};

/// The interpreter alone, and the translator for whatever runs twice.
const TIERS: [(bool, u16); 2] = [(false, 16), (true, 2)];
const HANDLER: u64 = 0x8_1000;
const VECTOR: u8 = 0x40;
/// Nothing is mapped there.
const NOWHERE: u64 = 0x4000_0000;
const DATA: u64 = 0x20_0000;

fn tier((enabled, hot_after): (bool, u16)) -> Bench {
    Bench::with_translator(TranslatorConfig { enabled, hot_after, ..TranslatorConfig::default() })
}

/// Whether the tier that was asked for has run.
fn check_tier(bench: &Bench, tier: (bool, u16)) {
    assert_eq!(bench.cpu.translator_stats().is_some_and(|stats| stats.translations > 0), tier.0);
}

/// A write makes the APIC ask for [`VECTOR`].
struct Requests(Arc<Apic>, Arc<CpuSignals>);

impl Io for Requests {
    fn read(&self, _: u64, _: AccessSize) -> u64 {
        0
    }
    fn write(&self, _: u64, _: AccessSize, _: u64) {
        *self.0.vector.lock().expect("vector") = Some(VECTOR);
        self.1.raise(Signal::INTR);
    }
}

/// Runs 100 rounds of: interrupts off, a request, `window`. Returns how many interrupts came behind `offset` bytes of the
/// window, and how many came elsewhere.
fn rounds(tier_of: (bool, u16), window: &[u8], offset: u64) -> (u64, u64) {
    let mut bench = tier(tier_of);
    let mut registers = long(&bench, 0);
    set_gate64(&bench, VECTOR, HANDLER, 0, 0);
    let port = Backing::Io(Arc::new(Requests(Arc::clone(&bench.apic), Arc::clone(&bench.signals))));
    bench.port_space.map(GuestAddress(0x80), 1, 1, port).expect("port");
    // mov ecx, 100; again: cli; out 0x80, al; (window); dec ecx; jnz again; cli; hlt
    let mut code = vec![0xb9, 100, 0, 0, 0, 0xfa, 0xe6, 0x80];
    let expected = CODE + code.len() as u64 + offset;
    code.extend_from_slice(window);
    code.extend_from_slice(&[0xff, 0xc9, 0x0f, 0x85]);
    let back = 5 - (code.len() as i32 + 4);
    code.extend_from_slice(&back.to_le_bytes());
    code.extend_from_slice(&[0xfa, 0xf4]);
    bench.put(CODE, &code);
    // cmp [rsp], r8; jne other; inc ebx; iretq; other: inc ebp; iretq
    bench.put(HANDLER, &[0x4c, 0x39, 0x04, 0x24, 0x75, 4, 0xff, 0xc3, 0x48, 0xcf, 0xff, 0xc5, 0x48, 0xcf]);
    registers.gpr[8] = expected;
    registers.gpr[0] = sel::DATA.into();
    bench.set(&registers);
    let end = bench.run_to_halt();
    assert_eq!(end.gpr[1], 0, "all rounds");
    check_tier(&bench, tier_of);
    (end.gpr[3], end.gpr[5])
}

#[test]
fn interrupt_comes_behind_the_instruction_after_sti() {
    for tier in TIERS {
        // sti; inc edx; inc esi; inc edi
        let window = [0xfb, 0xff, 0xc2, 0xff, 0xc6, 0xff, 0xc7];
        assert_eq!(rounds(tier, &window, 3), (100, 0), "{tier:?}");
        // sti; mov rdx, [rsp]; inc edi
        assert_eq!(rounds(tier, &[0xfb, 0x48, 0x8b, 0x14, 0x24, 0xff, 0xc7], 5), (100, 0), "{tier:?}");
    }
}

#[test]
fn halt_after_sti_is_ended_by_an_interrupt_that_waited() {
    for tier in TIERS {
        // sti; hlt; inc edx
        assert_eq!(rounds(tier, &[0xfb, 0xf4, 0xff, 0xc2], 2), (100, 0), "{tier:?}");
    }
}

#[test]
fn cli_after_sti_leaves_no_window() {
    for tier in TIERS {
        // sti; cli; inc edx
        assert_eq!(rounds(tier, &[0xfb, 0xfa, 0xff, 0xc2], 0), (0, 0), "{tier:?}");
    }
}

#[test]
fn second_sti_opens_no_later_window() {
    for tier in TIERS {
        // sti; sti; inc edx: the second one finds IF set.
        assert_eq!(rounds(tier, &[0xfb, 0xfb, 0xff, 0xc2], 2), (100, 0), "{tier:?}");
    }
}

#[test]
fn load_of_ss_after_sti_holds_interrupts_off_once_more() {
    for tier in TIERS {
        // sti; mov ss, eax; inc edx; inc esi
        assert_eq!(rounds(tier, &[0xfb, 0x8e, 0xd0, 0xff, 0xc2, 0xff, 0xc6], 5), (100, 0), "{tier:?}");
    }
}

#[test]
fn popf_opens_no_shadow() {
    for tier in TIERS {
        // push 0x202; popfq; inc edx: the interrupt comes at once.
        assert_eq!(rounds(tier, &[0x68, 0x02, 0x02, 0, 0, 0x9d, 0xff, 0xc2], 6), (100, 0), "{tier:?}");
    }
}

/// What happens at the 151st round of a hot loop.
struct Case {
    name: &'static str,
    /// In RSI before that, and then.
    good: u64,
    bad: u64,
    code: &'static [u8],
    vector: u8,
    error: Option<u64>,
    /// The saved RIP: of the instruction, or elsewhere.
    rip: Option<u64>,
    /// CR2.
    address: Option<u64>,
}

const fn case(name: &'static str, bad: u64, code: &'static [u8], vector: u8, error: Option<u64>) -> Case {
    Case { name, good: DATA, bad, code, vector, error, rip: None, address: None }
}

const NON_CANONICAL: u64 = 0x8000_0000_0000_1000;
/// A RET that good targets of calls lead to.
const RETURN: u64 = 0x8_3000;

fn cases() -> Vec<Case> {
    let page = |bad, code, error| Case { address: Some(bad), ..case("#PF", bad, code, 14, Some(error)) };
    let border = 0xff_fffc;
    vec![
        Case { name: "read", ..page(NOWHERE, &[0x48, 0x8b, 0x06], 0) },
        Case { name: "write", ..page(NOWHERE + 8, &[0x48, 0x89, 0x0e], 2) },
        Case { name: "read and write", ..page(NOWHERE + 8, &[0x48, 0x01, 0x0e], 2) },
        Case { name: "locked", ..page(NOWHERE, &[0xf0, 0x48, 0x01, 0x0e], 2) },
        Case { name: "vector read", ..page(NOWHERE, &[0x0f, 0x10, 0x06], 0) },
        Case { name: "x87 read", ..page(NOWHERE, &[0xd9, 0x2e], 0) },
        // Across the end of what is mapped: the second page is what faults.
        Case { name: "crossing", address: Some(0x100_0000), ..case("", border, &[0x48, 0x89, 0x0e], 14, Some(2)) },
        Case { name: "push of memory", ..page(NOWHERE, &[0xff, 0x36], 0) },
        Case {
            name: "fetch",
            good: RETURN,
            rip: Some(NOWHERE),
            address: Some(NOWHERE),
            ..case("", NOWHERE, &[0xff, 0xd6], 14, Some(16))
        },
        case("non-canonical read", NON_CANONICAL, &[0x48, 0x8b, 0x06], 13, Some(0)),
        case("non-canonical write", NON_CANONICAL, &[0x48, 0x89, 0x0e], 13, Some(0)),
        case("misaligned vector", DATA + 8, &[0x0f, 0x28, 0x06], 13, Some(0)),
        Case { good: RETURN, ..case("non-canonical call", NON_CANONICAL, &[0xff, 0xd6], 13, Some(0)) },
        Case { good: 7, ..case("division by zero", 0, &[0x48, 0xf7, 0xf6], 0, None) },
        Case { good: 7, ..case("signed division by zero", 0, &[0xf7, 0xfe], 0, None) },
        Case { good: 2, ..case("quotient too large", 1, &[0x48, 0xf7, 0xf6], 0, None) },
    ]
}

/// Runs a loop of 200 rounds whose 151st takes `bad`; what the handler found, and the frame it got.
fn run(tier_of: (bool, u16), case: &Case, resumes: bool) -> (Registers, [u64; 4]) {
    let mut bench = tier(tier_of);
    let mut registers = long(&bench, 0);
    set_gate64(&bench, case.vector, HANDLER, 0, 0);
    bench.put(RETURN, &[0xc3]);
    // A control word of the x87 unit.
    bench.put16(DATA, 0x37f);
    let mut code = vec![
        0xb9, 200, 0, 0, 0, // mov ecx, 200
        0x8d, 0x04, 0xcd, 5, 0, 0, 0, // again: lea eax, [rcx * 8 + 5]
        0x49, 0x01, 0xc1, // add r9, rax
        0x49, 0x31, 0xcd, // xor r13, rcx
        0xba, 1, 0, 0, 0, // mov edx, 1
        0x83, 0xf9, 50, // cmp ecx, 50
        0x48, 0x0f, 0x44, 0xf7, // cmove rsi, rdi
        0x4d, 0x11, 0xfe, // adc r14, r15
    ];
    if case.name.contains("zero") {
        // A dividend of 64 bits.
        code[18..23].copy_from_slice(&[0xba, 0, 0, 0, 0]);
    }
    let at = CODE + code.len() as u64;
    code.extend_from_slice(case.code);
    // inc r10; dec ecx; jnz again; hlt
    code.extend_from_slice(&[0x49, 0xff, 0xc2, 0xff, 0xc9, 0x0f, 0x85]);
    let back = 5 - (code.len() as i32 + 4);
    code.extend_from_slice(&back.to_le_bytes());
    code.push(0xf4);
    bench.put(CODE, &code);
    if resumes {
        // mov rsi, r8; (add rsp, 8;) inc r12; iretq
        bench.put(HANDLER, &[0x4c, 0x89, 0xc6]);
        let rest: &[u8] = if case.error.is_some() { &[0x48, 0x83, 0xc4, 8] } else { &[0x48, 0x83, 0xc4, 0] };
        bench.put(HANDLER + 3, rest);
        bench.put(HANDLER + 7, &[0x49, 0xff, 0xc4, 0x48, 0xcf]);
    } else {
        bench.put(HANDLER, &[0xf4]);
    }
    (registers.gpr[6], registers.gpr[7], registers.gpr[8]) = (case.good, case.bad, case.good);
    registers.gpr[15] = 0xffff_ffff_ffff_fff0;
    registers.cr4 |= 1 << 9 | 1 << 10;
    bench.set(&registers);
    let end = bench.run_to_halt();
    check_tier(&bench, tier_of);
    if resumes {
        return (end, [0; 4]);
    }
    assert_eq!(end.rip, HANDLER + 1, "{}", case.name);
    let mut frame = end.gpr[4];
    let error = case.error.map(|_| {
        frame += 8;
        bench.get64(frame - 8)
    });
    assert_eq!(error, case.error, "{}", case.name);
    let rip = bench.get64(frame);
    assert_eq!(rip, case.rip.unwrap_or(at), "{}", case.name);
    (end, [rip, bench.get64(frame + 8), bench.get64(frame + 16), bench.get64(frame + 24)])
}

#[test]
fn fault_in_hot_code_finds_exact_registers() {
    for case in cases() {
        let found = TIERS.map(|tier| run(tier, &case, false));
        for (end, frame) in &found {
            let (name, gpr) = (case.name, end.gpr);
            assert_eq!((gpr[1], gpr[6], gpr[7]), (50, case.bad, case.bad), "{name}");
            assert_eq!((gpr[0], gpr[10]), (405, 150), "{name}");
            assert_eq!(gpr[9], (50..=200).map(|round| 8 * round + 5).sum::<u64>(), "{name}");
            assert_eq!(gpr[13], (50..=200).fold(0, |all, round| all ^ round), "{name}");
            if let Some(address) = case.address {
                assert_eq!(end.cr2, address, "{name}");
            }
            assert_ne!(frame[2] & rflags::RF, 0, "{name}: a fault");
        }
        let [(interpreted, first), (translated, second)] = found;
        assert_eq!(first, second, "{}: frame (RIP, CS, RFLAGS, RSP)", case.name);
        assert_eq!(interpreted.gpr, translated.gpr, "{}", case.name);
        assert_eq!(interpreted.xsave, translated.xsave, "{}", case.name);
    }
}

#[test]
fn hot_code_goes_on_behind_a_fault() {
    for case in cases() {
        if case.rip.is_some() || case.good == RETURN {
            continue;
        }
        let [(interpreted, _), (translated, _)] = TIERS.map(|tier| run(tier, &case, true));
        assert_eq!((interpreted.gpr[10], interpreted.gpr[12], interpreted.gpr[1]), (200, 1, 0), "{}", case.name);
        assert_eq!(interpreted.gpr, translated.gpr, "{}", case.name);
        assert_eq!(interpreted.rflags, translated.rflags, "{}", case.name);
    }
}

#[test]
fn single_step_that_hot_code_turns_on_traps_behind_the_next_instruction() {
    // push rsi; popfq: TF with the 151st round.
    let found = TIERS.map(|tier_of| {
        let mut bench = tier(tier_of);
        let mut registers = long(&bench, 0);
        set_gate64(&bench, 1, HANDLER, 0, 0);
        bench.put(HANDLER, &[0xf4]);
        // mov ecx, 200; again: cmp ecx, 50; cmove rsi, rdi; push rsi; popfq; inc r10; inc r11; dec ecx; jnz again; hlt
        bench.put(CODE, &[0xb9, 200, 0, 0, 0, 0x83, 0xf9, 50, 0x48, 0x0f, 0x44, 0xf7, 0x56, 0x9d]);
        bench.put(CODE + 14, &[0x49, 0xff, 0xc2, 0x49, 0xff, 0xc3, 0xff, 0xc9, 0x75, 0xed, 0xf4]);
        (registers.gpr[6], registers.gpr[7]) = (2, 0x102);
        bench.set(&registers);
        let end = bench.run_to_halt();
        check_tier(&bench, tier_of);
        assert_eq!((end.gpr[1], end.gpr[10], end.gpr[11]), (50, 151, 150));
        assert_eq!((bench.get64(end.gpr[4]), end.debug[6] & 0x4000), (CODE + 17, 0x4000));
        (end.gpr, bench.get64(end.gpr[4] + 16))
    });
    assert_eq!(found[0], found[1]);
}

#[test]
fn instruction_across_a_page_border_is_translated_and_follows_its_second_page() {
    for tier_of in TIERS {
        let mut bench = tier(tier_of);
        let mut registers = long(&bench, 0);
        // Pages of 4 KiB for the first 2 MiB, one to one.
        bench.put64(PD, PT | 7);
        for page in 0..512 {
            bench.put64(PT + 8 * page, page << 12 | 7);
        }
        let border = CODE + 0x1000;
        // Two bytes before the border: mov eax, imm32; then dec ecx; jnz back; ret
        let body = |value: u32| {
            let mut code = vec![0xb8];
            code.extend_from_slice(&value.to_le_bytes());
            code.extend_from_slice(&[0x01, 0xc3, 0xff, 0xc9, 0x75, 0xf5, 0xc3]);
            code
        };
        bench.put(border - 2, &body(1));
        // Another second page with another value.
        let other = 0x9_0000;
        bench.put(other, &body(0x0001_0001)[2..]);
        // mov ecx, 100; call; (swap the second page by a store and INVLPG;) mov ecx, 100; call; hlt
        let call = |from: u64| (border - 2).wrapping_sub(from + 5) as u32;
        let mut code = vec![0xb9, 100, 0, 0, 0, 0xe8];
        code.extend_from_slice(&call(CODE + 5).to_le_bytes());
        // mov [r8], r9; invlpg [r10]; mov ecx, 100; call; hlt
        code.extend_from_slice(&[0x4d, 0x89, 0x08, 0x41, 0x0f, 0x01, 0x3a, 0xb9, 100, 0, 0, 0, 0xe8]);
        let from = CODE + code.len() as u64 - 1;
        code.extend_from_slice(&call(from).to_le_bytes());
        code.push(0xf4);
        bench.put(CODE, &code);
        registers.gpr[8..11].copy_from_slice(&[PT + 8 * (border >> 12), other | 7, border]);
        bench.set(&registers);
        let end = bench.run_to_halt();
        assert_eq!(end.gpr[3], 100 + 100 * 0x0001_0001, "{tier_of:?}");
        // The bytes of the second page change in place.
        bench.put(border, &[0x00]);
        bench.put(other + 1, &[0x02]);
        let mut again = bench.cpu.registers();
        (again.rip, again.activity, again.gpr[3]) = (from - 5, x86::regs::Activity::Running, 0);
        again.gpr[1] = 0;
        bench.set(&again);
        let end = bench.run_to_halt();
        assert_eq!(end.gpr[3], 100 * 0x0002_0001, "{tier_of:?}");
        check_tier(&bench, tier_of);
        if tier_of.0 {
            assert!(bench.cpu.translator_stats().is_some_and(|stats| stats.crossing_regions > 0));
        }
    }
}
