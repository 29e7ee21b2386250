//! What the lock-step mode keeps: the guest-visible state of a vCPU, and a journal of the pages of RAM that are written
//! to while a piece of guest code runs on one tier and then on the other.
//!
//! Pages are journalled whole. Outside of a piece only pages that already are in the journal have writable entries in
//! the first level of the TLB, so a store to any other page takes the slow path, which enters it. Pages that are written
//! often stay in the journal from piece to piece; so translated code uses its inlined stores there.
//!
//! Left out on purpose: what devices write to RAM from their own threads in the middle of a piece is taken for a
//! difference, and so are other vCPUs' stores. Accessed and dirty bits of page tables may differ, since the tiers look
//! into the TLB in different ways.

use std::sync::Arc;

use memory::{PAGE_SIZE, RamBlock};

use crate::fault::Fault;
use crate::flags::LazyFlags;
use crate::mmu::Class;
use crate::msr::Msrs;
use crate::state::{Activity, Cpu, Mode, Shadow, Ymm};

/// Pages that stay in the journal.
const KEPT: usize = 3;
/// Pieces after which a page that nothing was written to leaves the journal.
const IDLE: u32 = 2;
/// Instructions that a report shows at most.
pub(crate) const TRACE: usize = 256;

macro_rules! state {
    ($($field:ident: $kind:ty,)*) => {
        /// The guest-visible state of a vCPU besides memory, and what is derived from it.
        #[derive(Clone, Debug)]
        pub(crate) struct State {
            flags: LazyFlags,
            class: Class,
            kept: (u64, bool, bool, u32, bool, bool, u64),
            $(pub(crate) $field: $kind,)*
        }

        impl State {
            pub(crate) fn of(cpu: &Cpu) -> Self {
                Self {
                    flags: cpu.flags,
                    class: cpu.tlb.class(),
                    kept: (
                        cpu.next_rip,
                        cpu.one_instruction,
                        cpu.code_modified,
                        cpu.signal_mask,
                        cpu.exit_request,
                        cpu.step,
                        cpu.fault_address,
                    ),
                    $($field: cpu.$field.clone(),)*
                }
            }

            /// Puts a vCPU into this state.
            pub(crate) fn restore(&self, cpu: &mut Cpu) {
                cpu.flags = self.flags;
                cpu.tlb.set_class(self.class);
                (
                    cpu.next_rip,
                    cpu.one_instruction,
                    cpu.code_modified,
                    cpu.signal_mask,
                    cpu.exit_request,
                    cpu.step,
                    cpu.fault_address,
                ) = self.kept;
                $(cpu.$field = self.$field.clone();)*
            }

            /// Whether a vCPU is in this state, as far as the guest can see.
            pub(crate) fn is_of(&self, cpu: &Cpu) -> bool {
                self.flags.bits() == cpu.flags.bits()
                    && self.class == cpu.tlb.class()
                    $(&& self.$field == cpu.$field)*
            }

            /// The fields that differ, as lines of text.
            pub(crate) fn differences(&self, other: &Self) -> String {
                let mut text = String::new();
                let mut line = |name: &str, ours: String, theirs: String| {
                    if ours != theirs {
                        text.push_str(&elements(name, &ours, &theirs));
                    }
                };
                line("arithmetic flags", format!("{:#x}", self.flags.bits()), format!("{:#x}", other.flags.bits()));
                line("class", format!("{:?}", self.class), format!("{:?}", other.class));
                $(line(stringify!($field), format!("{:x?}", self.$field), format!("{:x?}", other.$field));)*
                text
            }
        }
    };
}

state! {
    gpr: [u64; 16],
    rip: u64,
    system_flags: u64,
    seg_base: [u64; 6],
    address_mask: u64,
    seg_ok: [u8; 6],
    fpu_denied: u8,
    alignment_check: bool,
    mode: Mode,
    mode_key: u32,
    shadow: Shadow,
    ymm: [Ymm; 16],
    mxcsr: fpu::Mxcsr,
    x87: fpu::X87,
    segs: [x86::regs::Segment; 6],
    tr: x86::regs::Segment,
    ldtr: x86::regs::Segment,
    gdtr: x86::regs::TableRegister,
    idtr: x86::regs::TableRegister,
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    xcr0: u64,
    pdptr: [u64; 4],
    dr: [u64; 8],
    msrs: Msrs,
    activity: Activity,
    nmi_blocked: bool,
    nmi_pending: bool,
    init_pending: bool,
    smm: x86::regs::SystemManagement,
    pending_debug: u64,
}

/// One line for a difference; of arrays only the elements that differ.
fn elements(name: &str, translated: &str, interpreted: &str) -> String {
    let list = |text: &str| -> Option<Vec<String>> {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        let separator = if inner.contains("}, ") { "}, " } else { ", " };
        Some(inner.split(separator).map(str::to_owned).collect())
    };
    let (Some(left), Some(right)) = (list(translated), list(interpreted)) else {
        return format!("  {name}: translated {translated}, interpreted {interpreted}\n");
    };
    left.iter()
        .zip(&right)
        .enumerate()
        .filter(|(_, (left, right))| left != right)
        .map(|(n, (left, right))| format!("  {name}[{n}]: translated {left}, interpreted {right}\n"))
        .collect()
}

impl State {
    /// RAX to R15, RIP and the flags, as lines of text.
    pub(crate) fn summary(&self) -> String {
        let names = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
            "r15",
        ];
        let mut text = String::new();
        for (n, (name, value)) in names.iter().zip(self.gpr).enumerate() {
            text.push_str(&format!("{name:>5}={value:016x}"));
            if n % 4 == 3 {
                text.push('\n');
            }
        }
        text.push_str(&format!(
            "  rip={:016x} flags={:#x} system flags={:#x} mxcsr={:#x} cpl={}\n",
            self.rip,
            self.flags.bits(),
            self.system_flags,
            self.mxcsr.0,
            self.mode.cpl
        ));
        text
    }

    /// The flags that ask for the outer loop: (code modified, exit requested).
    pub(crate) fn requests(&self) -> (bool, bool) {
        (self.kept.2, self.kept.4)
    }

    /// The address of the last page fault.
    pub(crate) fn fault_address(&self) -> u64 {
        self.kept.6
    }
}

type Bytes = Box<[u8; PAGE_SIZE]>;

fn empty_page() -> Bytes {
    Box::new([0; PAGE_SIZE])
}

/// The 64-bit words of a page, with their offsets.
fn words(bytes: &[u8; PAGE_SIZE]) -> impl Iterator<Item = (usize, u64)> {
    bytes.as_chunks().0.iter().enumerate().map(|(n, word)| (8 * n, u64::from_le_bytes(*word)))
}

/// A page in the journal.
struct Page {
    block: Arc<RamBlock>,
    offset: usize,
    /// Before the piece.
    old: Bytes,
    /// After the translated run, where that has changed the page.
    first: Bytes,
    is_changed: bool,
    /// Linear pages with writable entries in the TLB.
    entries: Vec<(u64, Class)>,
    idle: u32,
}

impl Page {
    fn is(&self, block: &Arc<RamBlock>, offset: usize) -> bool {
        self.offset == offset && Arc::ptr_eq(&self.block, block)
    }

    /// The page as it is when the piece begins.
    fn begin(&mut self) {
        // The page lies inside of the block.
        let _inside = self.block.read(self.offset, &mut self.old[..]);
        self.is_changed = false;
    }

    /// The page becomes what it was, and what the translated run has made of it is kept.
    fn turn(&mut self) {
        let _inside = self.block.read(self.offset, &mut self.first[..]);
        self.is_changed = self.first != self.old;
        if !self.is_changed {
            self.idle += 1;
            return;
        }
        self.idle = 0;
        for ((at, now), (_, old)) in words(&self.first).zip(words(&self.old)) {
            if now != old {
                let _inside = self.block.store_u64(self.offset + at, old);
            }
        }
    }

    /// What the translated run has left.
    fn expected(&self) -> &[u8; PAGE_SIZE] {
        if self.is_changed { &self.first } else { &self.old }
    }
}

/// Bits that a page walk sets.
struct Walked {
    block: Arc<RamBlock>,
    /// Of the entry in the block.
    offset: usize,
    bits: u64,
}

/// Counts of the lock-step mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockstepStats {
    /// Pieces that both tiers ran with the same result.
    pub compared: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// Pieces that were not compared because they reached a device's memory, which can't be done twice.
    pub devices: u64,
}

/// The journal, and how the pieces went.
pub(crate) struct Lockstep {
    running: bool,
    device: bool,
    pages: Vec<Page>,
    walked: Vec<Walked>,
    seed: u64,
    pub(crate) stats: LockstepStats,
    pub(crate) report: Option<String>,
    /// The last instructions that the interpreter has executed in this piece: address and length.
    pub(crate) trace: Vec<(u64, u8)>,
    /// Makes a mistake in the place of translated code.
    #[cfg(test)]
    pub(crate) spoil: Option<fn(&mut Cpu)>,
}

impl Lockstep {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            running: false,
            device: false,
            pages: Vec::new(),
            walked: Vec::new(),
            seed: 1,
            stats: LockstepStats::default(),
            report: None,
            trace: Vec::new(),
            #[cfg(test)]
            spoil: None,
        })
    }

    /// A piece begins: the number of instructions after which translated code comes back at its next poll.
    pub(crate) fn begin(&mut self) -> u64 {
        self.pages.iter_mut().for_each(Page::begin);
        self.walked.clear();
        self.trace.clear();
        self.device = false;
        self.running = true;
        self.seed = self.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        [1, 1, 1, 10, 40, 40, 200, 1000][(self.seed >> 61) as usize & 7]
    }

    /// The translated run is over: memory becomes what it was before. Whether page walks have set bits, so that the TLB
    /// no longer goes with it; `None`: the run reached a device.
    pub(crate) fn turn(&mut self) -> Option<bool> {
        if self.device {
            return None;
        }
        self.pages.iter_mut().for_each(Page::turn);
        Some(!self.walked.is_empty())
    }

    /// Compares memory after both runs: the differences as lines of text.
    pub(crate) fn compare(&self) -> String {
        let mut text = String::new();
        let mut now = [0; PAGE_SIZE];
        for page in &self.pages {
            let _inside = page.block.read(page.offset, &mut now);
            let expected = page.expected();
            if now == *expected {
                continue;
            }
            for ((at, interpreted), (_, translated)) in words(&now).zip(words(expected)) {
                let (in_page, at) = (at, page.offset + at);
                let walked = self
                    .walked
                    .iter()
                    .filter(|walked| Arc::ptr_eq(&walked.block, &page.block) && walked.offset & !7 == at);
                let mask = walked.fold(0, |mask, walked| mask | walked.bits << (8 * (walked.offset & 7)));
                if interpreted | mask != translated | mask {
                    let before = words(&page.old).nth(in_page / 8).map_or(0, |(_, word)| word);
                    text.push_str(&format!(
                        "  memory at {at:#x} of RAM block {}: translated {translated:016x}, interpreted {interpreted:016x}, before {before:016x}\n",
                        page.block.name()
                    ));
                }
            }
        }
        text
    }

    /// The piece is over: the entries of the TLB that may no longer be used for stores.
    pub(crate) fn end(&mut self) -> Vec<(u64, Class)> {
        self.running = false;
        let mut gone = Vec::new();
        if self.pages.len() > KEPT {
            self.pages.sort_by_key(|page| page.idle);
        }
        for index in (0..self.pages.len()).rev() {
            if index >= KEPT || self.pages[index].idle > IDLE {
                gone.append(&mut self.pages.swap_remove(index).entries);
            }
        }
        gone
    }

    fn find(&mut self, block: &Arc<RamBlock>, offset: usize) -> Option<&mut Page> {
        self.pages.iter_mut().find(|page| page.is(block, offset))
    }

    /// A store to a page is about to happen.
    pub(crate) fn enter(&mut self, block: &Arc<RamBlock>, offset: usize) {
        if !self.running || self.find(block, offset).is_some() {
            return;
        }
        let mut page = Page {
            block: Arc::clone(block),
            offset,
            old: empty_page(),
            first: empty_page(),
            is_changed: false,
            entries: Vec::new(),
            idle: 0,
        };
        page.begin();
        self.pages.push(page);
    }

    /// Whether a page may get a writable entry in the TLB, for the page at `linear`.
    pub(crate) fn may_write(&mut self, block: &Arc<RamBlock>, offset: usize, linear: u64, class: Class) -> bool {
        let Some(page) = self.find(block, offset) else { return false };
        let entry = (linear & !0xfff, class);
        if !page.entries.contains(&entry) {
            page.entries.push(entry);
        }
        true
    }

    /// A page walk is about to set `bits` in the entry at `offset` of a block.
    pub(crate) fn walked(&mut self, block: &Arc<RamBlock>, offset: usize, bits: u64) {
        if self.running {
            self.enter(block, offset & !(PAGE_SIZE - 1));
            self.walked.push(Walked { block: Arc::clone(block), offset, bits });
        }
    }

    /// A device's memory was reached.
    pub(crate) fn device(&mut self) {
        self.device = true;
    }

    /// The interpreter executes an instruction.
    pub(crate) fn note(&mut self, rip: u64, len: u8) {
        if self.trace.len() == TRACE {
            self.trace.drain(..TRACE / 2);
        }
        self.trace.push((rip, len));
    }
}

impl Cpu {
    /// How the lock-step mode went, where it is on.
    #[must_use]
    pub fn lockstep_stats(&self) -> Option<LockstepStats> {
        self.lockstep.as_ref().map(|lockstep| lockstep.stats)
    }
}

/// How a piece ended, as a line of text.
pub(crate) fn ending(fault: Option<Fault>, state: &State) -> String {
    match fault {
        Some(fault) => format!("{fault:?} with address {:#x}", state.fault_address()),
        None => format!("next instruction {:#x}", state.rip),
    }
}
