//! Locked instructions of two vCPUs on the same bytes, one interpreted and one translated.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use std::sync::{Arc, Barrier};
use std::thread;

use common::{CODE_PHYS, DATA, DATA_PHYS};
use cpu::TranslatorConfig;
use cpu::block::BlockExit;

const ROUNDS: u32 = 100_000;

/// Offsets of the operands: across a border of 64 bytes each, so not aligned, and in one page.
const QWORD: usize = 0x3d;
const WORD: usize = 0x7f;
const DWORD: usize = 0xbe;

/// Adds one to each of the three, [`ROUNDS`] times, RDI pointing to the data.
const ADD: &[u8] = &[
    0xf0, 0x48, 0xff, 0x47, 0x3d, // lock inc qword [rdi+0x3d]
    0x66, 0xba, 0x01, 0x00, // mov dx, 1
    0xf0, 0x66, 0x0f, 0xc1, 0x97, 0x7f, 0, 0, 0, // lock xadd [rdi+0x7f], dx
    0x8b, 0x87, 0xbe, 0, 0, 0, // mov eax, [rdi+0xbe]
    0x8d, 0x50, 0x01, // again: lea edx, [rax+1]
    0xf0, 0x0f, 0xb1, 0x97, 0xbe, 0, 0, 0, // lock cmpxchg [rdi+0xbe], edx
    0x75, 0xf3, // jnz again
    0xff, 0xc9, // dec ecx
    0x75, 0xd7, // jnz to the beginning
    0x0f, 0x0b, // ud2
];

#[test]
fn misaligned_locked_operations_of_both_tiers_lose_nothing() {
    let interpreted = TranslatorConfig { enabled: false, ..TranslatorConfig::default() };
    let translated = TranslatorConfig { hot_after: 1, ..TranslatorConfig::default() };
    let first = common::bench_with(3, 64, interpreted);
    let second = common::bench_on(Arc::clone(&first.ram), 3, 64, translated);
    let ram = Arc::clone(&first.ram);
    ram.write(CODE_PHYS, ADD);
    let together = Arc::new(Barrier::new(2));
    let vcpus = [first, second].map(|mut bench| {
        let together = Arc::clone(&together);
        thread::spawn(move || {
            let cpu = bench.cpu.cpu();
            cpu.gpr[1] = u64::from(ROUNDS);
            cpu.gpr[7] = DATA;
            together.wait();
            match cpu.exec_blocks() {
                BlockExit::Fault(fault) => assert_eq!(fault.vector(), 6),
                other => panic!("{other:?}"),
            }
        })
    });
    for vcpu in vcpus {
        vcpu.join().expect("vCPU");
    }
    let mut found = [0; 8];
    let mut value = |offset, len| {
        found.fill(0);
        ram.read(DATA_PHYS + offset, &mut found[..len]);
        u64::from_le_bytes(found)
    };
    let all = u64::from(2 * ROUNDS);
    assert_eq!((value(QWORD, 8), value(WORD, 2), value(DWORD, 4)), (all, all & 0xffff, all));
}
