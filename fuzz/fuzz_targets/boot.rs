//! Kernel images and initrds: planning a boot and writing it to memory never panics.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use machine::boot::{BootEnvironment, BootPlan, BootSource};
use machine::e820::E820;
use memory::{AddressSpace, Backing, GuestAddress, RamBlock, SpaceKind};
use x86::cpuid::Vendor;

const RAM: u64 = 32 << 20;

static MEMORY: LazyLock<AddressSpace> = LazyLock::new(|| {
    let block = Arc::new(RamBlock::new("fuzz", RAM).expect("RAM"));
    let memory = AddressSpace::new(SpaceKind::Memory);
    memory.map(GuestAddress(0), RAM, 0, Backing::Ram { block, offset: 0, read_only: false }).expect("a mapping");
    memory
});

fuzz_target!(|input: (&[u8], Option<&[u8]>, &str)| {
    let (kernel, initrd, command_line) = input;
    let source =
        BootSource { kernel: kernel.into(), initrd: initrd.map(Arc::from), command_line: command_line.to_owned(), ..BootSource::default() };
    let environment = BootEnvironment { low_ram_end: RAM, e820: E820::pc(RAM, 0, 0, Vendor::Amd), rsdp: 0xf_0000 };
    if let Ok(plan) = BootPlan::new(&source, &environment) {
        let _ = plan.write(&MEMORY);
    }
});
