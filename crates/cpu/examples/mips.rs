//! Millions of guest instructions in a second, for a few small loops.

#[path = "../tests/common/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod common;

use std::time::Instant;

use cpu::block::BlockExit;

fn run(name: &str, code: &[u8], per_iteration: u64, iterations: u64) {
    let mut bench = common::bench(3, 64);
    bench.ram.write(common::CODE_PHYS, code);
    let cpu = bench.cpu.cpu();
    cpu.gpr = [0; 16];
    cpu.gpr[1] = iterations;
    cpu.gpr[4] = common::DATA + 0x1800;
    cpu.gpr[6] = common::DATA;
    cpu.gpr[7] = common::DATA + 0x800;
    let start = Instant::now();
    let exit = cpu.exec_blocks();
    let seconds = start.elapsed().as_secs_f64();
    assert!(matches!(exit, BlockExit::Fault(_)), "{exit:?}");
    assert_eq!(cpu.gpr[1], 0);
    let total = (iterations * per_iteration) as f64;
    println!("{name}: {:.1} MIPS ({:.2} ns an instruction)", total / seconds / 1e6, seconds * 1e9 / total);
}

fn main() {
    // add rax,rcx; xor rdx,rax; lea rbx,[rax+rdx*4+8]; shr rdx,3; sub rax,rbx; dec rcx; jnz
    let alu = [
        0x48, 0x01, 0xc8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x5c, 0x90, 0x08, 0x48, 0xc1, 0xea, 0x03, 0x48, 0x29, 0xd8,
        0x48, 0xff, 0xc9, 0x75, 0xe9, 0xf4,
    ];
    run("alu", &alu, 7, 30_000_000);
    // mov rax,[rsi]; add rax,rcx; mov [rdi],rax; add qword [rsi+8],1; mov edx,[rsi+8]; cmp edx,ecx; dec rcx; jnz
    let memory = [
        0x48, 0x8b, 0x06, 0x48, 0x01, 0xc8, 0x48, 0x89, 0x07, 0x48, 0x83, 0x46, 0x08, 0x01, 0x8b, 0x56, 0x08, 0x39,
        0xca, 0x48, 0xff, 0xc9, 0x75, 0xe8, 0xf4,
    ];
    run("memory", &memory, 8, 20_000_000);
    // call f; dec rcx; jnz; hlt; f: push rbx; mov rbx,rcx; pop rbx; ret
    let calls = [0xe8, 0x06, 0, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf6, 0xf4, 0x53, 0x48, 0x89, 0xcb, 0x5b, 0xc3];
    run("calls", &calls, 7, 20_000_000);
    // test cl,1; jz +3; inc rax (48 ff c0); test cl,2; jz; inc rdx; dec rcx; jnz
    let branches = [
        0xf6, 0xc1, 0x01, 0x74, 0x03, 0x48, 0xff, 0xc0, 0xf6, 0xc1, 0x02, 0x74, 0x03, 0x48, 0xff, 0xc2, 0x48, 0xff,
        0xc9, 0x75, 0xeb, 0xf4,
    ];
    run("branches", &branches, 7, 20_000_000);
    // movaps xmm0,[rsi]; paddd xmm0,xmm1; addps xmm2,xmm0; movaps [rdi],xmm0; dec rcx; jnz
    let sse = [
        0x0f, 0x28, 0x06, 0x66, 0x0f, 0xfe, 0xc1, 0x0f, 0x58, 0xd0, 0x0f, 0x29, 0x07, 0x48, 0xff, 0xc9, 0x75, 0xee,
        0xf4,
    ];
    run("sse", &sse, 6, 20_000_000);
}
