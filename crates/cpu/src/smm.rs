//! System-management mode: entry by SMI, the state save map, RSM (SDM vol. 3, chapter 32; AMD APM vol. 2, chapter 10).
//!
//! The map lies at SMBASE + 0xfe00 in the memory that the mode sees. Models with 64-bit mode have AMD's map (revision
//! 0x20064), others the 32-bit one of the P6 family (revision 0x20000), with the fields that QEMU keeps there, which
//! firmware for virtual machines relies on. What the maps reserve is left as memory has it.
//!
//! Left out on purpose: restart of I/O instructions (bit 16 of the revision is clear, so that handlers don't ask for
//! it), and the SMRAM of the processor (AMD's SMM_ADDR and SMM_MASK, Intel's SMRRs): what memory the mode sees is the
//! board's. An SMI waits while the processor waits for a start-up IPI, and behind the shadows of STI and MOV SS.

use memory::GuestAddress;
use x86::regs::{Segment, SegmentRegister, TableRegister, rflags};

use crate::control::{DR6_WRITABLE, DR7_FIXED, DR7_WRITABLE, dr6};
use crate::fault::{Exec, Fault};
use crate::segment::attr;
use crate::state::{Activity, Cpu, SYSTEM_FLAGS, cr};

/// Length of the map.
const LEN: usize = 0x200;
/// The map's address above SMBASE.
const MAP: u64 = 0xfe00;
/// The handler's first instruction, in a code segment at SMBASE.
const ENTRY: u64 = 0x8000;
/// Attributes of the handler's segments: present, writable data, accessed, limit in pages.
const FLAT: u16 = 0x8093;
/// SMBASE can be moved.
const RELOCATION: u32 = 1 << 17;
const REVISION_32: u32 = RELOCATION;
const REVISION_64: u32 = RELOCATION | 0x64;
/// What the mode clears in CR0.
const CR0_CLEARED: u64 = cr::CR0_PE | cr::CR0_EM | cr::CR0_TS | cr::CR0_PG;

/// Offsets in AMD's map, from SMBASE + 0x8000 as its table has them.
mod amd64 {
    /// Selector, attributes, limit, base, of 16 bytes each, in the order of instruction encodings.
    pub(super) const SEGMENTS: usize = 0x7e00;
    pub(super) const GDTR: usize = 0x7e60;
    pub(super) const LDTR: usize = 0x7e70;
    pub(super) const IDTR: usize = 0x7e80;
    pub(super) const TR: usize = 0x7e90;
    pub(super) const AUTO_HALT: usize = 0x7ec9;
    pub(super) const EFER: usize = 0x7ed0;
    pub(super) const CR4: usize = 0x7f48;
    pub(super) const CR3: usize = 0x7f50;
    pub(super) const CR0: usize = 0x7f58;
    pub(super) const DR7: usize = 0x7f60;
    pub(super) const DR6: usize = 0x7f68;
    pub(super) const RFLAGS: usize = 0x7f70;
    pub(super) const RIP: usize = 0x7f78;
    pub(super) const SMBASE: usize = 0x7f00;
    /// R15 at 0x7f80 … RAX here.
    pub(super) const RAX: usize = 0x7ff8;
}

/// Offsets in the 32-bit map.
mod legacy {
    pub(super) const SMBASE: usize = 0x7ef8;
    pub(super) const AUTO_HALT: usize = 0x7f02;
    pub(super) const CR4: usize = 0x7f14;
    /// Attributes, limit, base.
    pub(super) const HIDDEN: [usize; 6] = [0x7f84, 0x7f90, 0x7f9c, 0x7f2c, 0x7f38, 0x7f44];
    pub(super) const IDTR_LIMIT: usize = 0x7f54;
    pub(super) const TR_HIDDEN: usize = 0x7f5c;
    pub(super) const GDTR_LIMIT: usize = 0x7f70;
    pub(super) const LDTR_HIDDEN: usize = 0x7f78;
    pub(super) const SELECTORS: usize = 0x7fa8;
    pub(super) const LDTR: usize = 0x7fc0;
    pub(super) const TR: usize = 0x7fc4;
    pub(super) const DR7: usize = 0x7fc8;
    pub(super) const DR6: usize = 0x7fcc;
    /// EAX here … EDI at 0x7fec.
    pub(super) const EAX: usize = 0x7fd0;
    pub(super) const EIP: usize = 0x7ff0;
    pub(super) const EFLAGS: usize = 0x7ff4;
    pub(super) const CR3: usize = 0x7ff8;
    pub(super) const CR0: usize = 0x7ffc;
}

/// Where both maps say which they are.
const REVISION: usize = 0x7efc;

/// The map's bytes.
struct Map([u8; LEN]);

impl Map {
    fn put(&mut self, at: usize, size: usize, value: u64) {
        let at = at - 0x7e00;
        self.0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn get(&self, at: usize, size: usize) -> u64 {
        let at = at - 0x7e00;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.0[at..at + size]);
        u64::from_le_bytes(bytes)
    }

    fn get32(&self, at: usize) -> u32 {
        self.get(at, 4) as u32
    }

    fn put_amd64(&mut self, at: usize, segment: &Segment) {
        self.put(at, 2, segment.selector.into());
        self.put(at + 2, 2, segment.attributes.into());
        self.put(at + 4, 4, segment.limit.into());
        self.put(at + 8, 8, segment.base);
    }

    fn get_amd64(&self, at: usize) -> Segment {
        Segment {
            selector: self.get(at, 2) as u16,
            attributes: self.get(at + 2, 2) as u16 & ATTRIBUTES,
            limit: self.get32(at + 4),
            base: self.get(at + 8, 8),
        }
    }

    fn put_legacy(&mut self, selector: usize, hidden: usize, segment: &Segment) {
        self.put(selector, 4, segment.selector.into());
        self.put(hidden, 4, segment.attributes.into());
        self.put(hidden + 4, 4, segment.limit.into());
        self.put(hidden + 8, 4, segment.base);
    }

    fn get_legacy(&self, selector: usize, hidden: usize) -> Segment {
        Segment {
            selector: self.get(selector, 2) as u16,
            attributes: self.get(hidden, 2) as u16 & ATTRIBUTES,
            limit: self.get32(hidden + 4),
            base: self.get(hidden + 8, 4),
        }
    }
}

/// Bits 8 to 11 of a descriptor's second half are the limit's.
const ATTRIBUTES: u16 = 0xf0ff;

/// What RSM loads.
struct Saved {
    gpr: [u64; 16],
    rip: u64,
    rflags: u64,
    segments: [Segment; 6],
    ldtr: Segment,
    tr: Segment,
    gdtr: TableRegister,
    idtr: TableRegister,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    dr6: u64,
    dr7: u64,
    halted: bool,
    smbase: u32,
}

impl Cpu {
    fn read_map(&self) -> Map {
        let mut map = Map([0; LEN]);
        self.memory.read(self.map_address(), &mut map.0);
        map
    }

    fn map_address(&self) -> GuestAddress {
        GuestAddress(u64::from(self.smm.smbase) + MAP)
    }

    /// Takes the SMI that waits: saves the state and goes on in the handler.
    pub(crate) fn enter_smm(&mut self) {
        self.smm.smi_pending = false;
        self.smm.active = true;
        self.smm.inside_nmi = self.nmi_blocked;
        self.nmi_blocked = true;
        self.smi_count += 1;
        self.exit_request = true;
        self.step = false;
        self.select_memory();
        let mut map = self.read_map();
        if self.has_long() {
            self.save_amd64(&mut map);
        } else {
            self.save_legacy(&mut map);
        }
        self.memory.write(self.map_address(), &map.0);
        self.enter_handler_state();
    }

    /// The state that the handler finds (SDM vol. 3, table 32-4).
    fn enter_handler_state(&mut self) {
        let smbase = self.smm.smbase;
        let flat = Segment { selector: 0, base: 0, limit: u32::MAX, attributes: FLAT };
        self.segs = [flat; 6];
        self.segs[SegmentRegister::Cs as usize] =
            Segment { selector: (smbase >> 4) as u16, base: smbase.into(), ..flat };
        self.activity = Activity::Running;
        self.set_rip(ENTRY);
        self.set_rflags(rflags::FIXED);
        self.cr0 &= !CR0_CLEARED;
        self.cr4 = 0;
        self.dr[7] = DR7_FIXED;
        if self.has_long() {
            self.efer = 0;
        }
        self.mode.cpl = 0;
        self.tlb.flush_all();
        self.tlb.switch(0, false);
        self.update_mode();
    }

    fn save_amd64(&self, map: &mut Map) {
        for (index, segment) in self.segs.iter().enumerate() {
            map.put_amd64(amd64::SEGMENTS + 16 * index, segment);
        }
        map.put_amd64(amd64::LDTR, &self.ldtr);
        map.put_amd64(amd64::TR, &self.tr);
        for (at, table) in [(amd64::GDTR, self.gdtr), (amd64::IDTR, self.idtr)] {
            map.put(at + 4, 4, table.limit.into());
            map.put(at + 8, 8, table.base);
        }
        for (index, value) in self.gpr.iter().enumerate() {
            map.put(amd64::RAX - 8 * index, 8, *value);
        }
        map.put(amd64::RIP, 8, self.rip);
        map.put(amd64::RFLAGS, 4, self.rflags());
        map.put(amd64::EFER, 8, self.efer);
        map.put(amd64::CR0, 4, self.cr0);
        map.put(amd64::CR3, 8, self.cr3);
        map.put(amd64::CR4, 4, self.cr4);
        map.put(amd64::DR6, 4, self.dr[6]);
        map.put(amd64::DR7, 4, self.dr[7]);
        map.put(amd64::AUTO_HALT, 1, (self.activity == Activity::Halted).into());
        map.put(REVISION, 4, REVISION_64.into());
        map.put(amd64::SMBASE, 4, self.smm.smbase.into());
    }

    fn load_amd64(&self, map: &Map) -> Saved {
        let table = |at: usize| TableRegister { limit: map.get(at + 4, 2) as u16, base: map.get(at + 8, 8) };
        let relocated = map.get32(REVISION) & RELOCATION != 0;
        Saved {
            gpr: std::array::from_fn(|index| map.get(amd64::RAX - 8 * index, 8)),
            rip: map.get(amd64::RIP, 8),
            rflags: map.get(amd64::RFLAGS, 4),
            segments: std::array::from_fn(|index| map.get_amd64(amd64::SEGMENTS + 16 * index)),
            ldtr: map.get_amd64(amd64::LDTR),
            tr: map.get_amd64(amd64::TR),
            gdtr: table(amd64::GDTR),
            idtr: table(amd64::IDTR),
            cr0: map.get(amd64::CR0, 4),
            cr3: map.get(amd64::CR3, 8),
            cr4: map.get(amd64::CR4, 4),
            efer: map.get(amd64::EFER, 8),
            dr6: map.get(amd64::DR6, 4),
            dr7: map.get(amd64::DR7, 4),
            halted: map.get(amd64::AUTO_HALT, 1) & 1 != 0,
            smbase: if relocated { map.get32(amd64::SMBASE) } else { self.smm.smbase },
        }
    }

    fn save_legacy(&self, map: &mut Map) {
        for (index, segment) in self.segs.iter().enumerate() {
            map.put_legacy(legacy::SELECTORS + 4 * index, legacy::HIDDEN[index], segment);
        }
        map.put_legacy(legacy::LDTR, legacy::LDTR_HIDDEN, &self.ldtr);
        map.put_legacy(legacy::TR, legacy::TR_HIDDEN, &self.tr);
        for (at, table) in [(legacy::GDTR_LIMIT, self.gdtr), (legacy::IDTR_LIMIT, self.idtr)] {
            map.put(at, 4, table.limit.into());
            map.put(at + 4, 4, table.base);
        }
        for (index, value) in self.gpr.iter().take(8).enumerate() {
            map.put(legacy::EAX + 4 * index, 4, *value);
        }
        map.put(legacy::EIP, 4, self.rip);
        map.put(legacy::EFLAGS, 4, self.rflags());
        map.put(legacy::CR0, 4, self.cr0);
        map.put(legacy::CR3, 4, self.cr3);
        map.put(legacy::CR4, 4, self.cr4);
        map.put(legacy::DR6, 4, self.dr[6]);
        map.put(legacy::DR7, 4, self.dr[7]);
        map.put(legacy::AUTO_HALT, 2, (self.activity == Activity::Halted).into());
        map.put(REVISION, 4, REVISION_32.into());
        map.put(legacy::SMBASE, 4, self.smm.smbase.into());
    }

    fn load_legacy(&self, map: &Map) -> Saved {
        let table = |at: usize| TableRegister { limit: map.get(at, 2) as u16, base: map.get(at + 4, 4) };
        let relocated = map.get32(REVISION) & RELOCATION != 0;
        let mut gpr = self.gpr;
        for (index, value) in gpr.iter_mut().take(8).enumerate() {
            *value = map.get(legacy::EAX + 4 * index, 4);
        }
        Saved {
            gpr,
            rip: map.get(legacy::EIP, 4),
            rflags: map.get(legacy::EFLAGS, 4),
            segments: std::array::from_fn(|index| map.get_legacy(legacy::SELECTORS + 4 * index, legacy::HIDDEN[index])),
            ldtr: map.get_legacy(legacy::LDTR, legacy::LDTR_HIDDEN),
            tr: map.get_legacy(legacy::TR, legacy::TR_HIDDEN),
            gdtr: table(legacy::GDTR_LIMIT),
            idtr: table(legacy::IDTR_LIMIT),
            cr0: map.get(legacy::CR0, 4),
            cr3: map.get(legacy::CR3, 4),
            cr4: map.get(legacy::CR4, 4),
            // The map has no EFER, and the mode leaves it as it is.
            efer: self.efer,
            dr6: map.get(legacy::DR6, 4),
            dr7: map.get(legacy::DR7, 4),
            halted: map.get(legacy::AUTO_HALT, 2) & 1 != 0,
            smbase: if relocated { map.get32(legacy::SMBASE) } else { self.smm.smbase },
        }
    }

    /// RSM. State that no instruction could have made shuts the processor down.
    ///
    /// # Errors
    /// #UD outside of system-management mode.
    pub fn rsm(&mut self) -> Exec {
        if !self.smm.active {
            return Err(Fault::ud());
        }
        self.exit_request = true;
        // A trap of RSM itself would belong to code that is gone.
        (self.step, self.pending_debug) = (false, 0);
        let map = self.read_map();
        let saved = if self.has_long() { self.load_amd64(&map) } else { self.load_legacy(&map) };
        if !self.is_consistent(&saved) {
            self.activity = Activity::Shutdown;
            return Ok(());
        }
        self.smm.active = false;
        self.smm.smbase = saved.smbase;
        self.nmi_blocked = self.smm.inside_nmi;
        self.smm.inside_nmi = false;
        self.load_saved(&saved);
        Ok(())
    }

    /// What RSM checks (SDM vol. 3, 32.4.4; AMD APM vol. 2, 10.3.4).
    fn is_consistent(&self, saved: &Saved) -> bool {
        let Saved { cr0, cr3, cr4, efer, .. } = *saved;
        let (pe, pg) = (cr0 & cr::CR0_PE != 0, cr0 & cr::CR0_PG != 0);
        let caches = cr0 & cr::CR0_NW == 0 || cr0 & cr::CR0_CD != 0;
        let long = pg && efer & cr::EFER_LME != 0;
        let code = saved.segments[SegmentRegister::Cs as usize].attributes;
        (pe || !pg)
            && caches
            && cr4 & !self.cr4_writable() == 0
            && efer & !self.efer_known() == 0
            && (long || cr4 & cr::CR4_PCIDE == 0)
            && (!long || cr4 & cr::CR4_PAE != 0)
            && !(long && code & attr::L != 0 && code & attr::DB != 0)
            && (!long || cr3 >> self.features.physical_bits == 0)
    }

    fn load_saved(&mut self, saved: &Saved) {
        self.gpr = saved.gpr;
        self.segs = saved.segments;
        (self.ldtr, self.tr) = (saved.ldtr, saved.tr);
        (self.gdtr, self.idtr) = (saved.gdtr, saved.idtr);
        (self.cr0, self.cr3, self.cr4) = (saved.cr0 | cr::CR0_ET, saved.cr3, saved.cr4);
        self.efer = saved.efer & !cr::EFER_LMA;
        let long = self.cr0 & cr::CR0_PG != 0 && self.efer & cr::EFER_LME != 0;
        if long {
            self.efer |= cr::EFER_LMA;
        }
        self.dr[6] = (saved.dr6 & DR6_WRITABLE) | dr6::FIXED;
        self.dr[7] = (saved.dr7 & DR7_WRITABLE) | DR7_FIXED;
        let denied = if long { rflags::VM } else { 0 };
        self.set_rflags(saved.rflags & (SYSTEM_FLAGS | ARITHMETIC) & !denied);
        self.set_rip(saved.rip);
        self.activity = if saved.halted { Activity::Halted } else { Activity::Running };
        self.mode.cpl = self.stack_dpl();
        self.select_memory();
        self.update_mode();
        let pae = self.cr0 & cr::CR0_PG != 0 && self.cr4 & cr::CR4_PAE != 0 && !self.mode.long;
        if pae && self.load_pdptrs(self.cr3).is_err() {
            self.activity = Activity::Shutdown;
        }
        self.tlb.switch(self.pcid(), false);
    }
}

const ARITHMETIC: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::ZF | rflags::SF | rflags::OF;
