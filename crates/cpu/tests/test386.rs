//! The published CPU test suite `test386.asm` (a ROM that runs in place of a BIOS, without an operating system).
//!
//! The ROM isn't part of this repository; `bench/suites/README.md` says how to get and assemble it. It writes the number
//! of each test to a POST port before the test and stops at an error, so the last number names the test that failed;
//! 0xff is the end. Test 0xee prints computations instead of checking them: its text is compared with the reference
//! that the suite ships.
//!
//! Environment:
//! - `OUZEL_TEST386`: the ROM, 64 or 128 KiB, assembled with `OUT_PORT equ 0xE9`.
//! - `OUZEL_TEST386_REFERENCE`: `test386-EE-reference.txt`; without it the text is not compared.
//! - `OUZEL_TEST386_OUTPUT`: where to keep the text, for a look at the differences.

mod bench;

use std::sync::Arc;
use std::time::{Duration, Instant};

use accel::{Signal, Vcpu, VcpuExit};
use bench::Bench;
use memory::{Backing, GuestAddress, RamBlock};
use x86::regs::Registers;

const POST_PORT: u16 = 0x190;
const TEXT_PORT: u16 = 0xe9;
const DONE: u8 = 0xff;
/// The suite takes a second; a CPU that loops is stopped after this time.
const LIMIT: Duration = Duration::from_secs(120);

/// Shows the ROM below 1 MiB and below 4 GiB.
fn map_rom(bench: &Bench, image: &[u8]) {
    let len = image.len() as u64;
    assert!(matches!(len, 0x1_0000 | 0x2_0000), "a ROM of 64 or 128 KiB, not {len} bytes");
    let block = Arc::new(RamBlock::new("test386.rom", len).expect("ROM"));
    assert!(block.write(0, image));
    for end in [1u64 << 20, 1 << 32] {
        let backing = Backing::Ram { block: Arc::clone(&block), offset: 0, read_only: true };
        bench.memory.map(GuestAddress(end - len), len, 1, backing).expect("map");
    }
}

/// Runs until HLT or shutdown; the suite switches no interrupt on that would end a HLT.
fn run(bench: &mut Bench) -> VcpuExit {
    let signals = Arc::clone(&bench.signals);
    let (done, over) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let started = Instant::now();
        if over.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            signals.raise(Signal::STOP);
        }
        started.elapsed()
    });
    let exit = bench.cpu.run();
    drop(done);
    watch.join().expect("watch");
    exit
}

fn output(bench: &Bench) -> (Vec<u8>, Vec<u8>) {
    let mut post = Vec::new();
    let mut text = Vec::new();
    for (port, value) in bench.outputs() {
        match port {
            POST_PORT => post.push(value as u8),
            TEXT_PORT => text.push(value as u8),
            _ => {}
        }
    }
    (post, text)
}

/// Lines without their ends.
fn lines(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text).lines().map(|line| line.trim_end().to_owned()).collect()
}

/// What the listing needs for a look at the failing test.
fn summary(registers: &Registers) -> String {
    let (gpr, rip, flags) = (registers.gpr, registers.rip, registers.rflags);
    let segments = registers.segments.map(|segment| segment.selector);
    format!("registers {gpr:x?}, IP {rip:x}, flags {flags:x}, ES CS SS DS FS GS {segments:x?}")
}

fn compare(text: &[u8], reference: &[u8]) {
    let (got, wanted) = (lines(text), lines(reference));
    let differences: Vec<String> = got
        .iter()
        .zip(&wanted)
        .filter(|(got, wanted)| got != wanted)
        .map(|(got, wanted)| format!("got    {got}\nwanted {wanted}"))
        .collect();
    println!("test386: {} lines of text, {} of the reference, {} differ", got.len(), wanted.len(), differences.len());
    let shown = differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} lines differ:\n{shown}", differences.len());
    assert_eq!(got.len(), wanted.len(), "number of lines");
}

#[test]
#[ignore = "suite: needs OUZEL_TEST386"]
fn test386_rom_ends_at_post_code_ff_with_the_reference_text() {
    let path = std::env::var_os("OUZEL_TEST386").expect("OUZEL_TEST386 names the ROM");
    let mut bench = Bench::new();
    map_rom(&bench, &std::fs::read(path).expect("the ROM"));
    let exit = run(&mut bench);
    let (post, text) = output(&bench);
    let registers = bench.cpu.registers();
    println!("test386: POST codes {post:02x?}, {exit:?}");
    if let Some(path) = std::env::var_os("OUZEL_TEST386_OUTPUT") {
        std::fs::write(path, &text).expect("OUZEL_TEST386_OUTPUT");
    }
    assert_eq!(
        (post.last(), &exit),
        (Some(&DONE), &VcpuExit::Halted),
        "the last POST code names the test that failed; codes {post:02x?}, {exit:?}, {}",
        summary(&registers)
    );
    if let Some(path) = std::env::var_os("OUZEL_TEST386_REFERENCE") {
        compare(&text, &std::fs::read(path).expect("the reference"));
    }
}
