use super::*;
use x86::cpuid::Vendor;

fn environment() -> BootEnvironment {
    BootEnvironment { low_ram_end: 0x7fe_0000, e820: E820::pc(0x800_0000, 0x2_0000, 0, Vendor::Amd), rsdp: 0xf_0000 }
}

fn source(kernel: Vec<u8>) -> BootSource {
    BootSource {
        kernel: kernel.into(),
        kernel_path: "kernel".into(),
        initrd: Some(vec![7; 5000].into()),
        initrd_path: "initrd".into(),
        command_line: "console=ttyS0".into(),
    }
}

fn find(plan: &BootPlan, address: u64) -> &[u8] {
    plan.chunks.iter().rev().find(|chunk| chunk.address == address).expect("a chunk there").bytes()
}

/// A bzImage with one set-up sector.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    image[0x1f1] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x201] = 0x6a;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x100_0000_u32.to_le_bytes());
    image[1024..].fill(0x90);
    image
}

#[test]
fn bzimage_zero_page_names_initrd_command_line_and_map() {
    let plan = BootPlan::new(&source(bzimage()), &environment()).expect("plan");
    assert_eq!((plan.registers.rip, plan.registers.gpr[6]), (0x10_0000, 0x1_0000));
    assert_eq!(find(&plan, 0x10_0000).len(), 4096);
    let zero_page = find(&plan, 0x1_0000);
    assert_eq!(usize::from(zero_page[0x1e8]), environment().e820.entries().len());
    let initrd = u32::from_le_bytes(*zero_page[0x218..].first_chunk().expect("dword"));
    assert_eq!(u64::from(initrd), (0x7fe_0000 - 5000) & !0xfff);
    assert_eq!(find(&plan, u64::from(initrd)), [7; 5000]);
    assert_eq!(find(&plan, 0x2_0000), b"console=ttyS0\0");
}

#[test]
fn bzimage_bigger_than_ram_is_refused() {
    let mut image = bzimage();
    image[0x260..0x264].copy_from_slice(&0xf000_0000_u32.to_le_bytes());
    assert!(matches!(BootPlan::new(&source(image), &environment()), Err(BootError::DoesNotFit { .. })));
    let mut long = source(bzimage());
    long.command_line = "x".repeat(2048);
    assert!(matches!(BootPlan::new(&long, &environment()), Err(BootError::Malformed(_))));
}

/// A 64-bit ELF file with one segment and a PVH note.
fn elf(with_note: bool) -> Vec<u8> {
    let mut image = vec![0; 0x200];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x12, &62_u16.to_le_bytes());
    put(0x18, &0x20_0000_u64.to_le_bytes());
    put(0x20, &0x40_u64.to_le_bytes());
    put(0x36, &56_u16.to_le_bytes());
    put(0x38, &2_u16.to_le_bytes());
    let header = |kind: u32, offset: u64, address: u64, file: u64, memory: u64| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend([offset, address, address, file, memory, 4].into_iter().flat_map(u64::to_le_bytes));
        bytes
    };
    put(0x40, &header(1, 0x180, 0x20_0000, 0x40, 0x1000));
    put(0x78, &header(4, 0x100, 0, if with_note { 20 } else { 0 }, 20));
    for (index, value) in [4_u32, 4, 18].into_iter().enumerate() {
        put(0x100 + 4 * index, &value.to_le_bytes());
    }
    put(0x10c, b"Xen\0");
    put(0x110, &0x20_0010_u32.to_le_bytes());
    image
}

#[test]
fn elf_with_pvh_note_starts_at_the_note_with_start_info() {
    let plan = BootPlan::new(&source(elf(true)), &environment()).expect("plan");
    assert_eq!((plan.registers.rip, plan.registers.gpr[3]), (0x20_0010, 0x6000));
    assert_eq!(find(&plan, 0x20_0040).len(), 0xfc0);
    assert_eq!(find(&plan, 0x6000)[..4], 0x336e_c578_u32.to_le_bytes());
    assert!(matches!(BootPlan::new(&source(elf(false)), &environment()), Err(BootError::Malformed(_))));
}

#[test]
fn multiboot_with_addresses_gets_its_magic_and_module() {
    let mut image = vec![0x90; 0x100];
    let flags = 1_u32 << 16 | 2;
    let checksum = 0_u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let fields = [0x1bad_b002, flags, checksum, 0x10_0010, 0x10_0000, 0, 0x10_0200, 0x10_0040];
    for (index, value) in fields.into_iter().enumerate() {
        image[0x10 + 4 * index..0x14 + 4 * index].copy_from_slice(&value.to_le_bytes());
    }
    let plan = BootPlan::new(&source(image), &environment()).expect("plan");
    let info = 0x10_1000;
    assert_eq!((plan.registers.rip, plan.registers.gpr[0], plan.registers.gpr[3]), (0x10_0040, 0x2bad_b002, info));
    assert_eq!(find(&plan, 0x10_0000).len(), 0x100);
    assert_eq!(find(&plan, info)[20..24], 1_u32.to_le_bytes());
    assert_eq!(find(&plan, info + 0x1000), b"kernel console=ttyS0\0");
    assert_eq!(find(&plan, info + 0x1_1000), b"initrd\0");
}

#[test]
fn damaged_images_are_errors_not_panics() {
    for image in [bzimage(), elf(true)] {
        for cut in 0..image.len() {
            let _ = BootPlan::new(&source(image[..cut].to_vec()), &environment());
        }
        // Every byte of the headers set to each of a few values.
        for at in (0..0x280.min(image.len())).filter(|at| *at != 0) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = image.clone();
                damaged[at] = value;
                let _ = BootPlan::new(&source(damaged), &environment());
            }
        }
    }
    assert!(matches!(BootPlan::new(&source(vec![]), &environment()), Err(BootError::UnknownFormat)));
}
