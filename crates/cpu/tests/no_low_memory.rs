//! A host without memory below 2 GiB, where translated code would look up its tables. The only test of its program, since
//! it takes all of that memory.

#[allow(dead_code, reason = "shared with other tests")]
mod common;

use accel::Vcpu;
use codemem::LowBox;
use cpu::block::BlockExit;

type Piece = LowBox<[u8; 1 << 19]>;

/// Takes all pieces that there are. The kernel begins its search at random addresses, so one refusal says little.
fn take_all() -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut refused = 0;
    while refused < 500 {
        match Piece::zeroed() {
            Ok(piece) => pieces.push(piece),
            Err(_full) => refused += 1,
        }
    }
    pieces
}

#[test]
fn without_memory_below_two_gigabytes_guest_code_is_interpreted() {
    let _pieces = take_all();
    let mut bench = common::bench(0, 64);
    // inc eax; dec ecx; jnz to the start; ud2
    bench.ram.write(common::CODE_PHYS, &[0xff, 0xc0, 0xff, 0xc9, 0x75, 0xfa, 0x0f, 0x0b]);
    let cpu = bench.cpu.cpu();
    (cpu.gpr[0], cpu.gpr[1]) = (0, 10_000);
    let exit = cpu.exec_blocks();
    assert!(matches!(exit, BlockExit::Fault(fault) if fault.vector() == 6), "{exit:?}");
    assert_eq!(bench.cpu.cpu().gpr[0], 10_000);
    assert!(bench.cpu.translator_stats().is_none());
}
