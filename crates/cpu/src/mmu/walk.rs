//! Page walks: 32-bit with 4 MiB pages, PAE, and 4-level (SDM vol. 3, chapter 4).
//!
//! Accessed and dirty bits are set with compare-exchange on guest RAM once a translation is known to be allowed; when
//! an entry changed meanwhile, the walk starts again. Left out: 5-level paging and protection keys (not advertised).

use memory::{AccessSize, GuestAddress};

use super::tlb::{Class, Translation, rights};
use super::{AccessKind, host};
use crate::fault::{Exec, Fault};
use crate::state::{Cpu, cr};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PAGE_SIZE_BIT: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51..12.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Page-fault error code bits.
pub(crate) mod error {
    pub(crate) const PRESENT: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const USER: u32 = 4;
    pub(crate) const RESERVED: u32 = 8;
    pub(crate) const FETCH: u32 = 16;
}

/// Which tables are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paging {
    Bits32,
    Pae,
    FourLevel,
}

/// Why a walk found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Miss {
    NotPresent,
    Reserved,
}

/// The entries that one walk used.
#[derive(Default)]
struct Path {
    entries: [(u64, u64); 4],
    len: usize,
}

/// A finished walk: where the page is and what the entries say.
struct Found {
    translation: Translation,
    path: Path,
}

impl Cpu {
    fn paging(&self) -> Paging {
        if self.mode.long {
            Paging::FourLevel
        } else if self.cr4 & cr::CR4_PAE != 0 {
            Paging::Pae
        } else {
            Paging::Bits32
        }
    }

    /// Physical address bits that must be zero in table entries: above MAXPHYADDR up to bit 51.
    fn reserved_high(&self) -> u64 {
        FRAME & !((1u64 << self.features.physical_bits.clamp(32, 52)) - 1)
    }

    /// Applies the A20 gate.
    #[inline]
    pub(crate) fn gate(&self, phys: u64) -> u64 {
        if self.tlb.a20 { phys } else { phys & !(1 << 20) }
    }

    fn load_entry(&mut self, at: u64, wide: bool) -> u64 {
        let at = self.gate(at);
        let offset = (at & 0xfff) as usize;
        if let Some(page) = self.tlb.ram_page(at)
            && let Some(block) = self.tlb.block(page)
        {
            return if wide {
                block.load_u64(page.offset + offset).unwrap_or(0)
            } else {
                block.load_u32(page.offset + offset).map_or(0, u64::from)
            };
        }
        self.memory.load(GuestAddress(at), if wide { AccessSize::Qword } else { AccessSize::Dword })
    }

    /// Sets bits in an entry that still has the value `old`. `false`: it changed, walk again.
    fn update_entry(&mut self, at: u64, old: u64, new: u64, wide: bool) -> bool {
        let at = self.gate(at);
        let offset = (at & 0xfff) as usize;
        let Some(page) = self.tlb.ram_page(at).filter(|page| !page.read_only) else {
            // Tables in ROM or device memory keep what they have.
            return true;
        };
        let Some(block) = self.tlb.block(page) else { return true };
        if let Some(lockstep) = &mut self.lockstep {
            lockstep.walked(block, page.offset + offset, new & !old);
        }
        if wide {
            host::compare_exchange_u64(block, page.offset + offset, old, new)
        } else {
            host::compare_exchange_u32(block, page.offset + offset, old as u32, new as u32)
        }
    }

    /// Walks the tables for `linear` without regard to rights.
    fn find(&mut self, linear: u64) -> Result<Found, Miss> {
        match self.paging() {
            Paging::Bits32 => self.find_32(linear),
            Paging::Pae => {
                let pdpte = self.pdptr[(linear >> 30 & 3) as usize];
                if pdpte & PRESENT == 0 {
                    return Err(Miss::NotPresent);
                }
                let combined = WRITE | USER;
                self.find_wide(linear, pdpte & FRAME, 2, combined)
            }
            Paging::FourLevel => self.find_wide(linear, self.cr3 & FRAME, 4, WRITE | USER),
        }
    }

    fn find_32(&mut self, linear: u64) -> Result<Found, Miss> {
        let mut path = Path::default();
        let at = (self.cr3 & 0xffff_f000) + (linear >> 22 & 0x3ff) * 4;
        let pde = self.load_entry(at, false);
        if pde & PRESENT == 0 {
            return Err(Miss::NotPresent);
        }
        path.push(at, pde);
        if pde & PAGE_SIZE_BIT != 0 && self.cr4 & cr::CR4_PSE != 0 {
            // PSE-36: bits 20..13 are address bits 39..32.
            let high = if self.features.pse36 { (pde >> 13 & 0xff) << 32 } else { 0 };
            let reserved = pde & 1 << 21 != 0 || high & self.reserved_high() != 0;
            if reserved || (!self.features.pse36 && pde & 0x003f_e000 != 0) {
                return Err(Miss::Reserved);
            }
            let phys = (pde & 0xffc0_0000) | high | (linear & 0x003f_f000);
            return Ok(self.found(phys, pde, pde & (WRITE | USER), rights::LARGE, path));
        }
        let at = (pde & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4;
        let pte = self.load_entry(at, false);
        if pte & PRESENT == 0 {
            return Err(Miss::NotPresent);
        }
        path.push(at, pte);
        Ok(self.found(pte & 0xffff_f000, pte, pte & pde & (WRITE | USER), 0, path))
    }

    /// Walks tables of 64-bit entries from `level` (4: PML4, 2: page directory) down.
    fn find_wide(&mut self, linear: u64, table: u64, level: u32, combined: u64) -> Result<Found, Miss> {
        let mut reserved = self.reserved_high();
        if self.efer & cr::EFER_NXE == 0 {
            reserved |= NO_EXECUTE;
        }
        if !self.mode.long {
            reserved |= 0x7ff << 52;
        }
        let (mut table, mut combined, mut no_execute) = (table, combined, 0);
        let mut path = Path::default();
        for level in (1..=level).rev() {
            let shift = 12 + 9 * (level - 1);
            let at = table + (linear >> shift & 0x1ff) * 8;
            let entry = self.load_entry(at, true);
            if entry & PRESENT == 0 {
                return Err(Miss::NotPresent);
            }
            path.push(at, entry);
            if entry & reserved != 0 {
                return Err(Miss::Reserved);
            }
            combined &= entry;
            no_execute |= entry & NO_EXECUTE;
            let leaf = level == 1 || entry & PAGE_SIZE_BIT != 0;
            if !leaf {
                table = entry & FRAME;
                continue;
            }
            let inside = (1u64 << shift) - 1;
            // A page-size bit in a PML4E, or in a PDPTE without 1 GiB pages, is reserved; so are the address bits
            // below a large page, but for bit 12 (PAT).
            let bad_size = level == 4 || (level == 3 && !self.features.gigabyte_pages);
            if level > 1 && (bad_size || entry & inside & FRAME & !(1 << 12) != 0) {
                return Err(Miss::Reserved);
            }
            let size = match level {
                1 => 0,
                2 => rights::LARGE,
                _ => rights::HUGE,
            };
            let phys = (entry & FRAME & !inside) | (linear & inside & FRAME);
            let flags = (combined & (WRITE | USER)) | no_execute;
            return Ok(self.found(phys, entry, flags, size, path));
        }
        Err(Miss::NotPresent)
    }

    fn found(&self, phys: u64, leaf: u64, flags: u64, size: u64, path: Path) -> Found {
        let mut own = size;
        if flags & WRITE != 0 {
            own |= rights::WRITE;
        }
        if flags & USER != 0 {
            own |= rights::USER;
        }
        if flags & NO_EXECUTE != 0 {
            own |= rights::NO_EXECUTE;
        }
        if leaf & DIRTY != 0 {
            own |= rights::DIRTY;
        }
        if leaf & GLOBAL != 0 && self.cr4 & cr::CR4_PGE != 0 {
            own |= rights::GLOBAL;
        }
        Found { translation: Translation { phys, rights: own }, path }
    }

    /// Whether rights allow an access (SDM vol. 3, 4.6.1).
    pub(crate) fn allowed(&self, own: u64, kind: AccessKind, class: Class) -> bool {
        let user_page = own & rights::USER != 0;
        if kind == AccessKind::Fetch && own & rights::NO_EXECUTE != 0 {
            return false;
        }
        match class {
            Class::User | Class::UserAligned => user_page && (kind != AccessKind::Write || own & rights::WRITE != 0),
            Class::Supervisor | Class::SupervisorAc => match kind {
                AccessKind::Fetch => !(user_page && self.cr4 & cr::CR4_SMEP != 0),
                AccessKind::Read | AccessKind::Write => {
                    let smap = user_page && class == Class::Supervisor && self.cr4 & cr::CR4_SMAP != 0;
                    let protected = kind == AccessKind::Write && own & rights::WRITE == 0 && self.cr0 & cr::CR0_WP != 0;
                    !smap && !protected
                }
            },
        }
    }

    fn page_fault(&mut self, linear: u64, error: u32, kind: AccessKind, class: Class) -> Fault {
        let mut error = error;
        if kind == AccessKind::Write {
            error |= error::WRITE;
        }
        if matches!(class, Class::User | Class::UserAligned) {
            error |= error::USER;
        }
        let nx = self.efer & cr::EFER_NXE != 0 && self.cr4 & cr::CR4_PAE != 0;
        if kind == AccessKind::Fetch && (nx || self.cr4 & cr::CR4_SMEP != 0) {
            error |= error::FETCH;
        }
        self.fault_address = linear;
        Fault::pf(error)
    }

    /// Walks for an access, checks its rights and sets accessed and dirty bits.
    pub(crate) fn walk(&mut self, linear: u64, kind: AccessKind, class: Class) -> Exec<Translation> {
        loop {
            let Found { mut translation, path } = match self.find(linear) {
                Ok(found) => found,
                Err(Miss::NotPresent) => return Err(self.page_fault(linear, 0, kind, class)),
                Err(Miss::Reserved) => {
                    return Err(self.page_fault(linear, error::PRESENT | error::RESERVED, kind, class));
                }
            };
            if !self.allowed(translation.rights, kind, class) {
                return Err(self.page_fault(linear, error::PRESENT, kind, class));
            }
            let wide = self.paging() != Paging::Bits32;
            let mut settled = true;
            for (index, &(at, entry)) in path.entries[..path.len].iter().enumerate() {
                let mut new = entry | ACCESSED;
                if index + 1 == path.len && kind == AccessKind::Write {
                    new |= DIRTY;
                }
                if new != entry && !self.update_entry(at, entry, new, wide) {
                    settled = false;
                    break;
                }
            }
            if settled {
                if kind == AccessKind::Write {
                    translation.rights |= rights::DIRTY;
                }
                return Ok(translation);
            }
        }
    }

    /// Walks as a debugger does: no rights, no accessed bits.
    pub(crate) fn walk_quietly(&mut self, linear: u64) -> Option<u64> {
        if self.cr0 & cr::CR0_PG == 0 {
            return Some(self.gate(linear & 0xffff_ffff));
        }
        if self.mode.long && !super::is_canonical(linear) {
            return None;
        }
        let linear = if self.mode.long { linear } else { linear & 0xffff_ffff };
        let found = self.find(linear).ok()?;
        Some(self.gate(found.translation.phys | (linear & 0xfff)))
    }

    /// Loads the PAE page-directory-pointer registers from `cr3`; #GP(0) when one has reserved bits.
    pub(crate) fn load_pdptrs(&mut self, cr3: u64) -> Exec {
        let table = cr3 & 0xffff_ffe0;
        let reserved = self.reserved_high() | 0xfff0_0000_0000_01e6;
        let mut loaded = [0; 4];
        for (index, slot) in loaded.iter_mut().enumerate() {
            *slot = self.load_entry(table + index as u64 * 8, true);
            if *slot & PRESENT != 0 && *slot & reserved != 0 {
                return Err(Fault::gp0());
            }
        }
        self.pdptr = loaded;
        Ok(())
    }
}

impl Path {
    fn push(&mut self, at: u64, entry: u64) {
        if let Some(slot) = self.entries.get_mut(self.len) {
            *slot = (at, entry);
            self.len += 1;
        }
    }
}
