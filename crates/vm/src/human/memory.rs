//! Memory, registers and ports, as the CPU sees them that the monitor looks at.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ::hmp::{Arguments, Format, dump};
use machine::GuestMemory;
use qapi::json::Value;
use qmp::SessionContext;
use x86::regs::{Activity, InterruptShadow, Registers, Segment, SegmentRegister};

use super::{Command, Human, Outcome, call, command, silent};
use crate::control::Control;

/// The commands.
pub const COMMANDS: &[Command] = &[
    command("x", "fmt:/,addr:l", "/fmt addr", "show memory at 'addr'", |human, arguments| {
        examine(human, arguments, false)
    }),
    command("xp", "fmt:/,addr:l", "/fmt addr", "show memory at the physical address 'addr'", |human, arguments| {
        examine(human, arguments, true)
    }),
    command("print|p", "fmt:/,val:l", "/fmt expr", "show the value of an expression", |_, arguments| {
        let value = arguments.number("val").unwrap_or(0);
        let kind = arguments.format().kind;
        format!("{}\n", dump::number(value, kind)).into()
    }),
    command("gva2gpa", "addr:l", "addr", "show the physical address behind a virtual one", |human, arguments| {
        let address = arguments.number("addr").unwrap_or(0).cast_unsigned();
        let found = human.control.machine().vcpus().with(human.cpu(), move |cpu| cpu.translate(address));
        match found.flatten() {
            Some(found) => format!("gpa: {:#x}\n", found.0).into(),
            None => "Unmapped\n".to_owned().into(),
        }
    }),
    command("i", "fmt:/,addr:i,index:i.", "/fmt addr", "read from an I/O port", |human, arguments| {
        let port = arguments.number("addr").unwrap_or(0).cast_unsigned() & 0xffff;
        if let Some(index) = arguments.number("index") {
            human.control.machine().write_port(port, 1, index.cast_unsigned());
        }
        let size = arguments.format().size;
        let port = if arguments.number("index").is_some() { (port + 1) & 0xffff } else { port };
        let (letter, size) = match size {
            1 => ('b', 1),
            2 => ('w', 2),
            _ => ('l', 4),
        };
        let value = human.control.machine().read_port(port, size);
        format!("port{letter}[{port:#06x}] = 0x{value:0width$x}\n", width = size * 2).into()
    }),
    command("o", "fmt:/,addr:i,val:i", "/fmt addr value", "write to an I/O port", |human, arguments| {
        let size = match arguments.format().size {
            1 => 1,
            2 => 2,
            _ => 4,
        };
        let number = |name| arguments.number(name).unwrap_or(0).cast_unsigned();
        human.control.machine().write_port(number("addr") & 0xffff, size, number("val"));
        silent()
    }),
    command("sum", "start:i,size:i", "addr size", "show the checksum of memory", |human, arguments| {
        let memory = human.control.machine().guest_memory();
        let number = |name| arguments.number(name).unwrap_or(0).cast_unsigned();
        let (start, size) = (number("start"), number("size").min(1 << 30));
        Outcome::Aside(Box::new(move || {
            let mut sum = 0_u16;
            let mut byte = [0];
            for at in 0..size {
                memory.read_physical(start.wrapping_add(at), &mut byte);
                // As BSD's `sum`: turn right, then add.
                sum = sum.rotate_right(1).wrapping_add(u16::from(byte[0]));
            }
            format!("{sum:05}\n")
        }))
    }),
    command(
        "memsave",
        "val:l,size:i,filename:s",
        "addr size file",
        "save virtual memory to a file",
        |human, arguments| {
            let cpu = human.cpu() as i64;
            save("memsave", arguments, Some(cpu))
        },
    ),
    command(
        "pmemsave",
        "val:l,size:i,filename:s",
        "addr size file",
        "save physical memory to a file",
        |_, arguments| save("pmemsave", arguments, None),
    ),
    command("cpu", "index:i", "index", "look at another CPU", |human, arguments| {
        let index = arguments.number("index").and_then(|index| u32::try_from(index).ok());
        match index.filter(|index| human.control.machine().cpu(*index as usize).is_some()) {
            Some(index) => {
                human.context.set_default_cpu(index);
                silent()
            }
            None => "invalid CPU index\n".to_owned().into(),
        }
    }),
];

fn save(name: &'static str, arguments: &Arguments, cpu: Option<i64>) -> Outcome {
    let number = |name| Value::from(arguments.number(name).unwrap_or(0));
    let mut all =
        vec![("val", number("val")), ("size", number("size")), ("filename", arguments.required("filename").into())];
    all.extend(cpu.map(|cpu| ("cpu-index", Value::from(cpu))));
    call(name, all)
}

/// The registers by the names of expressions.
pub fn registers(control: &Control, context: &SessionContext) -> BTreeMap<String, u64> {
    let cpu = context.default_cpu().unwrap_or(0) as usize;
    let mut all = BTreeMap::new();
    let Some(registers) = control.machine().vcpus().with(cpu, |cpu| cpu.registers()) else { return all };
    for (index, name) in ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"].iter().enumerate() {
        let value = registers.gpr[index];
        all.insert(format!("r{name}"), value);
        all.insert(format!("e{name}"), value);
    }
    for index in 8..16 {
        all.insert(format!("r{index}"), registers.gpr[index]);
    }
    all.insert("sp".into(), registers.gpr[4]);
    all.insert("fp".into(), registers.gpr[5]);
    all.insert("eflags".into(), registers.rflags);
    for name in ["eip", "rip"] {
        all.insert(name.into(), registers.rip);
    }
    for (name, segment) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(&registers.segments) {
        all.insert((*name).into(), u64::from(segment.selector));
        all.insert(format!("{name}.base"), segment.base);
        all.insert(format!("{name}.limit"), u64::from(segment.limit));
    }
    let base = if is_64_bit(&registers) { 0 } else { code_segment(&registers).base };
    all.insert("pc".into(), base.wrapping_add(registers.rip));
    for (name, value) in
        [("cr0", registers.cr0), ("cr2", registers.cr2), ("cr3", registers.cr3), ("cr4", registers.cr4)]
    {
        all.insert(name.into(), value);
    }
    all
}

fn code_segment(registers: &Registers) -> &Segment {
    &registers.segments[SegmentRegister::Cs as usize]
}

const LMA: u64 = 1 << 10;

fn is_64_bit(registers: &Registers) -> bool {
    registers.efer & LMA != 0 && code_segment(registers).attributes & 1 << 13 != 0
}

fn code_bits(registers: &Registers) -> u32 {
    match (is_64_bit(registers), code_segment(registers).attributes & 1 << 14 != 0) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    }
}

/// How much is shown at most, in bytes of memory.
const LIMIT: usize = 4 << 20;

fn examine(human: &Human<'_>, arguments: &Arguments, physical: bool) -> Outcome {
    let address = arguments.number("addr").unwrap_or(0).cast_unsigned();
    let format = arguments.format();
    let format = Format { count: format.count.min(LIMIT / format.size.max(1)), ..format };
    let (machine, cpu) = (human.control.machine(), human.cpu());
    let memory = machine.guest_memory();
    let bits = match format.kind {
        'i' => machine.vcpus().with(cpu, |cpu| code_bits(&cpu.registers())),
        _ => Some(64),
    };
    let Some(bits) = bits else { return "Can not dump without CPU\n".to_owned().into() };
    Outcome::Aside(Box::new(move || {
        let mut read = |at: u64, into: &mut [u8]| {
            if physical {
                memory.read_physical(at, into);
                true
            } else {
                memory.read_virtual(cpu, at, into)
            }
        };
        if format.kind == 'i' {
            dump::code(address, format.count, bits, &mut read)
        } else {
            dump::words(address, format, &mut read)
        }
    }))
}

/// `info registers`
pub fn info_registers(human: &mut Human<'_>, arguments: &Arguments) -> Outcome {
    let machine = human.control.machine();
    let one = arguments.number("vcpu");
    let cpus: Vec<usize> = match (arguments.flag("cpustate_all"), one) {
        (true, _) => (0..machine.vcpus().count()).collect(),
        (false, Some(index)) => usize::try_from(index).into_iter().collect(),
        (false, None) => vec![human.cpu()],
    };
    let mut text = String::new();
    for index in cpus {
        match machine.vcpus().with(index, |cpu| cpu.registers()) {
            Some(registers) => {
                let _ = write!(text, "\nCPU#{index}\n{}", state(&registers));
            }
            None => {
                let _ = writeln!(text, "CPU#{index} not available");
            }
        }
    }
    text.into()
}

fn state(registers: &Registers) -> String {
    let mut text = general(registers);
    let (long, wide) = (registers.efer & LMA != 0, is_64_bit(registers));
    let protected = registers.cr0 & 1 != 0 && registers.rflags & x86::regs::rflags::VM == 0;
    let modes = (wide, long, protected);
    for (name, segment) in ["ES", "CS", "SS", "DS", "FS", "GS"].iter().zip(&registers.segments) {
        text += &shown_segment(name, segment, modes);
    }
    text += &shown_segment("LDT", &registers.ldtr, modes);
    text += &shown_segment("TR", &registers.tr, modes);
    let width = if long { 16 } else { 8 };
    for (name, table) in [("GDT", &registers.gdtr), ("IDT", &registers.idtr)] {
        let _ = writeln!(text, "{name}=     {:0width$x} {:08x}", table.base, table.limit);
    }
    let _ = writeln!(
        text,
        "CR0={:08x} CR2={:0width$x} CR3={:0width$x} CR4={:08x}",
        registers.cr0, registers.cr2, registers.cr3, registers.cr4
    );
    for index in 0..4 {
        let _ = write!(text, "DR{index}={:016x} ", registers.debug[index]);
    }
    let _ = writeln!(text, "\nDR6={:016x} DR7={:016x}", registers.debug[6], registers.debug[7]);
    let _ = writeln!(text, "EFER={:016x}", registers.efer);
    text + &floating_point(&registers.xsave, if wide { 16 } else { 8 })
}

fn general(registers: &Registers) -> String {
    let gpr = &registers.gpr;
    let wide = is_64_bit(registers);
    let mut text = String::new();
    // Intel's order of the first four is not the one of their numbers.
    let order = [0, 3, 1, 2, 6, 7, 5, 4];
    let names = ["AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP"];
    for (at, (name, index)) in names.iter().zip(order).enumerate() {
        let end = if at % 4 == 3 { '\n' } else { ' ' };
        let _ = match wide {
            true => write!(text, "R{name}={:016x}{end}", gpr[index]),
            false => write!(text, "E{name}={:08x}{end}", gpr[index] as u32),
        };
    }
    for index in (8..16).filter(|_| wide) {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(text, "{:<3}={:016x}{end}", format!("R{index}"), gpr[index]);
    }
    let _ = match wide {
        true => write!(text, "RIP={:016x} RFL={:08x}", registers.rip, registers.rflags),
        false => write!(text, "EIP={:08x} EFL={:08x}", registers.rip as u32, registers.rflags),
    };
    let flags: String = [(10, 'D'), (11, 'O'), (7, 'S'), (6, 'Z'), (4, 'A'), (2, 'P'), (0, 'C')]
        .iter()
        .map(|(bit, letter)| if registers.rflags >> bit & 1 == 1 { *letter } else { '-' })
        .collect();
    let level = registers.segments[SegmentRegister::Ss as usize].attributes >> 5 & 3;
    let _ = writeln!(
        text,
        " [{flags}] CPL={level} II={} A20=1 SMM={} HLT={}",
        u8::from(registers.events.shadow != InterruptShadow::None),
        u8::from(registers.smm.active),
        u8::from(registers.activity != Activity::Running)
    );
    text
}

fn shown_segment(name: &str, segment: &Segment, (wide, long, protected): (bool, bool, bool)) -> String {
    const SYSTEM: [[&str; 16]; 2] = [
        [
            "Reserved",
            "TSS16-avl",
            "LDT",
            "TSS16-busy",
            "CallGate16",
            "TaskGate",
            "IntGate16",
            "TrapGate16",
            "Reserved",
            "TSS32-avl",
            "Reserved",
            "TSS32-busy",
            "CallGate32",
            "Reserved",
            "IntGate32",
            "TrapGate32",
        ],
        [
            "<hiword>",
            "Reserved",
            "LDT",
            "Reserved",
            "Reserved",
            "Reserved",
            "Reserved",
            "Reserved",
            "Reserved",
            "TSS64-avl",
            "Reserved",
            "TSS64-busy",
            "CallGate64",
            "Reserved",
            "IntGate64",
            "TrapGate64",
        ],
    ];
    let attributes = u32::from(segment.attributes);
    let bit = |at: u32| attributes >> at & 1 == 1;
    let raw_limit = if bit(15) { segment.limit >> 12 } else { segment.limit };
    // The upper half of a descriptor, without the bits of the base.
    let flags = (attributes & 0xf0ff) << 8 | raw_limit & 0xf_0000;
    let width = if wide { 16 } else { 8 };
    let mut text =
        format!("{name:<3}={:04x} {:0width$x} {:08x} {flags:08x}", segment.selector, segment.base, segment.limit);
    if protected && bit(7) {
        let _ = write!(text, " DPL={} ", attributes >> 5 & 3);
        let letter = |at, letter| if bit(at) { letter } else { '-' };
        match (bit(4), bit(3)) {
            (true, true) => {
                let kind = if bit(13) {
                    "CS64"
                } else if bit(14) {
                    "CS32"
                } else {
                    "CS16"
                };
                let _ = write!(text, "{kind} [{}{}{}]", letter(2, 'C'), letter(1, 'R'), letter(0, 'A'));
            }
            (true, false) => {
                let kind = if bit(14) || long { "DS  " } else { "DS16" };
                let _ = write!(text, "{kind} [{}{}{}]", letter(2, 'E'), letter(1, 'W'), letter(0, 'A'));
            }
            (false, _) => text.push_str(SYSTEM[usize::from(long)][(attributes & 15) as usize]),
        }
    }
    text.push('\n');
    text
}

/// The legacy region of an XSAVE area (SDM vol. 1, 13.4.1).
fn floating_point(area: &[u8], vectors: usize) -> String {
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        if let Some(found) = area.get(at..at + size) {
            bytes[..size].copy_from_slice(found);
        }
        u64::from_le_bytes(bytes)
    };
    let (control, status, tags, mxcsr) = (number(0, 2), number(2, 2), number(4, 1), number(24, 4));
    let top = (status >> 11 & 7) as usize;
    let mut text = format!("FCW={control:04x} FSW={status:04x} [ST={top}] FTW={tags:02x} MXCSR={mxcsr:08x}\n");
    for register in 0..8 {
        let at = 32 + 16 * ((register + 8 - top) % 8);
        let end = if register % 2 == 1 { '\n' } else { ' ' };
        let _ = write!(text, "FPR{register}={:016x} {:04x}{end}", number(at, 8), number(at + 8, 2));
    }
    for register in 0..vectors {
        let at = 160 + 16 * register;
        let end = if register % 2 == 1 { '\n' } else { ' ' };
        let _ = write!(text, "XMM{register:02}={:016x} {:016x}{end}", number(at + 8, 8), number(at, 8));
    }
    text
}

/// A mapped page: its virtual address, its size, its entry, and the rights of all levels together.
struct Page {
    address: u64,
    size: u64,
    entry: u64,
    rights: u64,
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const LARGE: u64 = 1 << 7;
/// How many pages are looked at.
const PAGES: usize = 1 << 20;

struct Walk<'a> {
    memory: &'a GuestMemory,
    /// Bytes of an entry.
    entry: usize,
    /// CR4.PSE, which two-level tables need for large pages.
    large: bool,
    pages: Vec<Page>,
}

impl Walk<'_> {
    fn table(&mut self, table: u64, count: u64, level: u32, (address, rights): (u64, u64)) {
        let bits = if self.entry == 4 { 10 } else { 9 };
        let mut bytes = vec![0; count as usize * self.entry];
        self.memory.read_physical(table, &mut bytes);
        for (index, entry) in bytes.chunks_exact(self.entry).enumerate() {
            let mut wide = [0; 8];
            wide[..self.entry].copy_from_slice(entry);
            let entry = u64::from_le_bytes(wide);
            if entry & PRESENT == 0 || self.pages.len() >= PAGES {
                continue;
            }
            let size = 1 << (12 + bits * level);
            let address = address + index as u64 * size;
            // Entries of the four at the top of PAE have no rights.
            let has_rights = !(self.entry == 8 && count == 4);
            let rights = if has_rights { rights & entry } else { rights };
            if level == 0 || entry & LARGE != 0 && self.large && level < 3 && has_rights {
                self.pages.push(Page { address, size, entry, rights: rights & (PRESENT | WRITABLE | USER) });
            } else {
                let next = entry & if self.entry == 4 { 0xffff_f000 } else { 0x3_ffff_ffff_f000 };
                self.table(next, 1 << bits, level - 1, (address, rights));
            }
        }
    }
}

/// All mapped pages in order, and where addresses end; nothing without paging.
fn pages(human: &Human<'_>) -> Option<(Vec<Page>, u32)> {
    let machine = human.control.machine();
    let registers = machine.vcpus().with(human.cpu(), |cpu| cpu.registers())?;
    if registers.cr0 >> 31 & 1 == 0 {
        return None;
    }
    let memory = machine.guest_memory();
    let (pae, long) = (registers.cr4 & 1 << 5 != 0, registers.efer & LMA != 0);
    let large = pae || registers.cr4 & 1 << 4 != 0;
    let mut walk = Walk { memory: &memory, entry: if pae { 8 } else { 4 }, large, pages: Vec::new() };
    let all = (0, !0);
    let width = match (pae, long) {
        (_, true) if registers.cr4 & 1 << 12 != 0 => {
            walk.table(registers.cr3 & 0x3_ffff_ffff_f000, 512, 4, all);
            57
        }
        (_, true) => {
            walk.table(registers.cr3 & 0x3_ffff_ffff_f000, 512, 3, all);
            48
        }
        (true, false) => {
            walk.table(registers.cr3 & 0xffff_ffe0, 4, 2, all);
            32
        }
        (false, false) => {
            walk.table(registers.cr3 & 0xffff_f000, 1024, 1, all);
            32
        }
    };
    Some((walk.pages, width))
}

fn canonical(address: u64, width: u32) -> u64 {
    let is_upper = width > 32 && address >> (width - 1) & 1 == 1;
    if is_upper { address | !0 << width } else { address }
}

/// `info tlb`
pub fn info_tlb(human: &mut Human<'_>, _: &Arguments) -> Outcome {
    let Some((pages, width)) = pages(human) else { return "PG disabled\n".to_owned().into() };
    let mut text = String::new();
    for page in pages {
        let frame = page.entry & 0x3_ffff_ffff_f000 & !(page.size - 1);
        // In the last level that bit is another.
        let entry = if page.size == 4096 { page.entry & !LARGE } else { page.entry };
        let letter = |at: u32, letter| if entry >> at & 1 == 1 { letter } else { '-' };
        let flags: String = [(63, 'X'), (8, 'G'), (7, 'P'), (6, 'D'), (5, 'A'), (4, 'C'), (3, 'T'), (2, 'U'), (1, 'W')]
            .iter()
            .map(|(at, name)| letter(*at, *name))
            .collect();
        let _ = writeln!(text, "{:016x}: {frame:016x} {flags}", canonical(page.address, width));
    }
    text.into()
}

/// `info mem`
pub fn info_mem(human: &mut Human<'_>, _: &Arguments) -> Outcome {
    let Some((pages, width)) = pages(human) else { return "PG disabled\n".to_owned().into() };
    let mut text = String::new();
    let mut show = |start: u64, end: u64, rights: u64| {
        let user = if rights & USER != 0 { 'u' } else { '-' };
        let write = if rights & WRITABLE != 0 { 'w' } else { '-' };
        let (from, to) = (canonical(start, width), canonical(end, width));
        let _ = writeln!(text, "{from:016x}-{to:016x} {:016x} {user}r{write}", end - start);
    };
    let mut current: Option<(u64, u64, u64)> = None;
    for Page { address, size, rights, .. } in pages {
        match &mut current {
            Some((_, end, known)) if *end == address && *known == rights => *end += size,
            _ => {
                if let Some((start, end, rights)) = current {
                    show(start, end, rights);
                }
                current = Some((address, address + size, rights));
            }
        }
    }
    if let Some((start, end, rights)) = current {
        show(start, end, rights);
    }
    text.into()
}
