//! Page tables: every combination of rights, the three formats, large pages, TLB maintenance, A20.

mod bench;

use bench::*;
use cpu::fault::{Exec, vector};
use memory::{Backing, GuestAddress};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use x86::regs::{SegmentRegister, rflags};

/// Linear address of the pages under test, and where they are.
const LINEAR: u64 = 0x40_0000;
const PHYS: u64 = 0x60_0000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Read,
    Write,
    Fetch,
}

/// `None`: allowed; otherwise the error code of the page fault, with the address checked.
fn access(bench: &mut Bench, kind: Kind, linear: u64) -> Option<u32> {
    let cpu = bench.cpu.cpu();
    let result: Exec = match kind {
        Kind::Read => cpu.read_u8(linear).map(|_| ()),
        Kind::Write => cpu.write_u8(linear, 0x5a),
        Kind::Fetch => cpu.fetch_page(linear).map(|_| ()),
    };
    result.err().map(|fault| {
        assert_eq!(fault.vector(), vector::PF);
        assert_eq!(cpu.fault_address, linear);
        fault.error_code().expect("error code")
    })
}

/// The table of SDM vol. 3, 4.6.1, spelled out for a page that is present.
struct Case {
    user: bool,
    page_user: bool,
    page_write: bool,
    page_nx: bool,
    wp: bool,
    smep: bool,
    smap: bool,
    ac: bool,
}

impl Case {
    fn expected(&self, kind: Kind) -> Option<u32> {
        let smap_hit = !self.user && self.page_user && self.smap && !self.ac;
        let denied = match kind {
            Kind::Fetch if self.page_nx => true,
            Kind::Fetch if self.user => !self.page_user,
            Kind::Fetch => self.page_user && self.smep,
            Kind::Read if self.user => !self.page_user,
            Kind::Read => smap_hit,
            Kind::Write if self.user => !self.page_user || !self.page_write,
            Kind::Write => smap_hit || (!self.page_write && self.wp),
        };
        denied.then(|| {
            1 | if kind == Kind::Write { 2 } else { 0 }
                | if self.user { 4 } else { 0 }
                | if kind == Kind::Fetch { 16 } else { 0 }
        })
    }
}

#[test]
fn four_level_rights_match_the_manual() {
    let mut bench = Bench::new();
    for bits in 0..256u32 {
        let bit = |index: u32| bits >> index & 1 != 0;
        let case = Case {
            user: bit(0),
            page_user: bit(1),
            page_write: bit(2),
            page_nx: bit(3),
            wp: bit(4),
            smep: bit(5),
            smap: bit(6),
            ac: bit(7),
        };
        let mut registers = long(&bench, if case.user { 3 } else { 0 });
        bench.put64(PD + 16, PT | 7);
        let mut entry = PHYS | 1;
        entry |= if case.page_user { 4 } else { 0 } | if case.page_write { 2 } else { 0 };
        entry |= if case.page_nx { 1 << 63 } else { 0 };
        if !case.wp {
            registers.cr0 &= !CR0_WP;
        }
        registers.cr4 |= if case.smep { CR4_SMEP } else { 0 } | if case.smap { CR4_SMAP } else { 0 };
        registers.rflags |= if case.ac { rflags::AC } else { 0 };
        for kind in [Kind::Read, Kind::Write, Kind::Fetch] {
            bench.put64(PT, entry);
            bench.set(&registers);
            let expected = case.expected(kind);
            assert_eq!(access(&mut bench, kind, LINEAR + 8), expected, "{kind:?} with bits {bits:#010b}");
            // Again, now that other kinds may have filled the TLB.
            assert_eq!(access(&mut bench, kind, LINEAR + 8), expected, "{kind:?} again with bits {bits:#010b}");
            let now = bench.get64(PT);
            let dirty = expected.is_none() && kind == Kind::Write;
            assert_eq!(
                now & 0x60,
                if dirty {
                    0x60
                } else if expected.is_none() {
                    0x20
                } else {
                    0
                }
            );
        }
    }
}

#[test]
fn read_then_write_sets_dirty_bit_through_a_filled_tlb() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.put64(PD + 16, PT | 7);
    bench.put64(PT, PHYS | 7);
    bench.set(&registers);
    assert_eq!(access(&mut bench, Kind::Read, LINEAR), None);
    assert_eq!(bench.get64(PT) & 0x60, 0x20);
    assert_eq!(access(&mut bench, Kind::Write, LINEAR), None);
    assert_eq!(bench.get64(PT) & 0x60, 0x60);
    assert_eq!(bench.get64(PHYS) & 0xff, 0x5a);
}

#[test]
fn missing_and_reserved_entries_give_their_error_codes() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 3);
    bench.put64(PD + 16, PT | 7);
    bench.put64(PT, 0);
    bench.put64(PT + 8, PHYS | 7 | 1 << 51);
    bench.put64(PT + 16, PHYS | 7 | 1 << 63);
    bench.put64(PD + 24, PHYS | 0x87 | 1 << 13);
    bench.set(&registers);
    assert_eq!(access(&mut bench, Kind::Write, LINEAR), Some(2 | 4));
    assert_eq!(access(&mut bench, Kind::Read, LINEAR + 0x1000), Some(1 | 4 | 8));
    assert_eq!(access(&mut bench, Kind::Read, 0x60_0000), Some(1 | 4 | 8));
    assert_eq!(access(&mut bench, Kind::Read, LINEAR + 0x2000), None);
    registers.efer &= !EFER_NXE;
    bench.set(&registers);
    assert_eq!(access(&mut bench, Kind::Read, LINEAR + 0x2000), Some(1 | 4 | 8));
}

#[test]
fn non_canonical_address_is_general_protection_or_stack_fault() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    let fault = cpu.read_seg::<u32>(SegmentRegister::Ds, 0x8000_0000_0000).expect_err("fault");
    assert_eq!((fault.vector(), fault.error_code()), (vector::GP, Some(0)));
    let fault = cpu.read_seg::<u32>(SegmentRegister::Ss, 0x7fff_ffff_fffe).map(|_| ());
    // The first bytes are canonical but not mapped: processors look at the last byte's address first.
    assert_eq!(fault.expect_err("fault").vector(), vector::SS);
    let fault = cpu.write_seg::<u32>(SegmentRegister::Ss, 0x8000_0000_0000, 1).expect_err("fault");
    assert_eq!((fault.vector(), fault.error_code()), (vector::SS, Some(0)));
}

#[test]
fn gigabyte_and_two_megabyte_pages_translate() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.put64(PDPT + 8, 0x87);
    bench.put64(0x12_3456, 0x1122_3344_5566_7788);
    bench.put64(0xc0_1008, 42);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    assert_eq!(cpu.read_u64(0x4000_0000 + 0x12_3456), Ok(0x1122_3344_5566_7788));
    assert_eq!(cpu.read_u64(0xc0_1008), Ok(42));
}

#[test]
fn classic_tables_with_four_megabyte_pages_translate_and_protect() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 3);
    bench.put32(PD, 0x87);
    bench.put32(PD + 4, PT as u32 | 7);
    bench.put32(PD + 8, 0x40_0085);
    bench.put32(PT, PHYS as u32 | 5);
    bench.put32(PHYS, 0xcafe);
    registers.cr0 |= CR0_PG | CR0_WP;
    registers.cr3 = PD;
    registers.cr4 = CR4_PSE;
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    assert_eq!(cpu.read_u32(LINEAR), Ok(0xcafe));
    assert_eq!(cpu.read_u32(PT), Ok(PHYS as u32 | 0x25));
    assert_eq!(access(&mut bench, Kind::Write, LINEAR), Some(7));
    assert_eq!(access(&mut bench, Kind::Write, 0x80_0000), Some(7));
    assert_eq!(access(&mut bench, Kind::Read, 0x80_0000), None);
    assert_eq!(access(&mut bench, Kind::Read, 0xc0_0000), Some(4));
    assert_eq!(bench.get32(PD + 4) & 0x60, 0x20);
    assert_eq!(bench.get32(PT) & 0x60, 0x20);
}

#[test]
fn pae_tables_translate_with_no_execute() {
    let mut bench = Bench::new();
    let mut registers = protected(&bench, 0);
    bench.put64(PDPT, PD | 1);
    bench.put64(PD, 0x83);
    bench.put64(PD + 16, PT | 3);
    bench.put64(PT, PHYS | 3 | 1 << 63);
    registers.cr0 |= CR0_PG;
    registers.cr3 = PDPT;
    registers.cr4 = CR4_PAE;
    registers.efer = EFER_NXE;
    bench.set(&registers);
    assert_eq!(access(&mut bench, Kind::Write, LINEAR), None);
    assert_eq!(access(&mut bench, Kind::Fetch, LINEAR), Some(17));
    assert_eq!(access(&mut bench, Kind::Read, 0x4000_0000), Some(0));
    assert_eq!(bench.get64(PHYS) & 0xff, 0x5a);
}

#[test]
fn store_across_pages_faults_before_anything_is_written() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.put64(PD + 16, PT | 7);
    bench.put64(PT, PHYS | 7);
    bench.put64(PT + 8, (PHYS + 0x3000) | 5);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    let fault = cpu.write_u64(LINEAR + 0xffc, u64::MAX).expect_err("fault");
    assert_eq!((fault.vector(), fault.error_code()), (vector::PF, Some(3)));
    assert_eq!(cpu.fault_address, LINEAR + 0x1000);
    assert_eq!(bench.get64(PHYS + 0xff8), 0);
    bench.put64(PT + 8, (PHYS + 0x3000) | 7);
    assert_eq!(bench.cpu.cpu().write_u64(LINEAR + 0xffc, 0x1122_3344_5566_7788), Ok(()));
    assert_eq!(bench.get32(PHYS + 0xffc), 0x5566_7788);
    assert_eq!(bench.get32(PHYS + 0x3000), 0x1122_3344);
    assert_eq!(bench.cpu.cpu().read_u64(LINEAR + 0xffc), Ok(0x1122_3344_5566_7788));
}

#[test]
fn invlpg_and_cr3_write_drop_stale_translations() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.put64(PD + 16, PT | 7);
    bench.put64(PT, PHYS | 7);
    bench.put64(PHYS, 1);
    bench.put64(PHYS + 0x1000, 2);
    bench.set(&registers);
    assert_eq!(bench.cpu.cpu().read_u64(LINEAR), Ok(1));
    bench.put64(PT, (PHYS + 0x1000) | 7);
    assert_eq!(bench.cpu.cpu().read_u64(LINEAR), Ok(1), "a translation may stay until INVLPG");
    bench.cpu.cpu().invlpg(LINEAR).expect("INVLPG");
    assert_eq!(bench.cpu.cpu().read_u64(LINEAR), Ok(2));
    bench.put64(PT, PHYS | 7);
    bench.cpu.cpu().mov_to_cr(3, PML4).expect("CR3");
    assert_eq!(bench.cpu.cpu().read_u64(LINEAR), Ok(1));
}

#[test]
fn global_pages_survive_cr3_writes_and_pcids_keep_theirs() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 0);
    bench.put64(PD + 16, PT | 7);
    bench.put64(PT, PHYS | 0x107);
    bench.put64(PT + 8, (PHYS + 0x1000) | 7);
    bench.put64(PHYS, 1);
    bench.put64(PHYS + 0x1000, 2);
    registers.cr4 |= CR4_PGE | CR4_PCIDE;
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    assert_eq!((cpu.read_u64(LINEAR), cpu.read_u64(LINEAR + 0x1000)), (Ok(1), Ok(2)));
    bench.put64(PT, 0);
    bench.put64(PT + 8, 0);
    let cpu = bench.cpu.cpu();
    cpu.mov_to_cr(3, PML4 | 5).expect("CR3");
    assert_eq!(cpu.read_u64(LINEAR), Ok(1), "global");
    assert!(cpu.read_u64(LINEAR + 0x1000).is_err(), "another PCID");
    cpu.mov_to_cr(3, PML4 | 1 << 63).expect("CR3");
    assert_eq!(cpu.read_u64(LINEAR + 0x1000), Ok(2), "kept by bit 63");
    cpu.mov_to_cr(3, PML4).expect("CR3");
    assert!(cpu.read_u64(LINEAR + 0x1000).is_err());
    cpu.mov_to_cr(4, CR4_PAE | CR4_PCIDE).expect("CR4");
    assert!(cpu.read_u64(LINEAR).is_err(), "CR4.PGE changed");
}

#[test]
fn closed_a20_gate_wraps_at_one_megabyte() {
    let mut bench = Bench::new();
    bench.put64(0x500, 7);
    bench.put64(0x10_0500, 9);
    assert_eq!(bench.cpu.cpu().read_u64(0x10_0500), Ok(9));
    bench.a20.store(false, Ordering::Release);
    // A port access of the vCPU itself notices the gate.
    bench.cpu.cpu().port_out(1, 0x92, 0).expect("OUT");
    assert_eq!(bench.cpu.cpu().read_u64(0x10_0500), Ok(7));
}

#[test]
fn remapped_memory_is_seen_after_a_port_access() {
    let mut bench = Bench::new();
    bench.put64(0xc_0000, 7);
    assert_eq!(bench.cpu.cpu().read_u64(0xc_0000), Ok(7));
    let rom = Arc::new(memory::RamBlock::new("pc.rom", 0x1000).expect("ROM"));
    rom.store_u64(0, 8);
    let backing = Backing::Ram { block: rom, offset: 0, read_only: true };
    bench.memory.map(GuestAddress(0xc_0000), 0x1000, 1, backing).expect("map");
    bench.cpu.cpu().port_out(4, 0xcfc, 0).expect("OUT");
    let cpu = bench.cpu.cpu();
    assert_eq!(cpu.read_u64(0xc_0000), Ok(8));
    assert_eq!(cpu.write_u64(0xc_0000, 1), Ok(()), "dropped");
    assert_eq!(cpu.read_u64(0xc_0000), Ok(8));
}

#[test]
fn alignment_check_faults_programs_only_with_am_and_ac() {
    let mut bench = Bench::new();
    let mut registers = long(&bench, 3);
    registers.cr0 |= 1 << 18;
    registers.rflags |= rflags::AC;
    bench.set(&registers);
    assert_eq!(bench.cpu.cpu().read_u32(0x1001).expect_err("fault").vector(), vector::AC);
    assert!(bench.cpu.cpu().read_u32(0x1004).is_ok());
    registers.rflags &= !rflags::AC;
    bench.set(&registers);
    assert!(bench.cpu.cpu().read_u32(0x1001).is_ok());
}

#[test]
fn control_register_writes_reject_what_the_manual_forbids() {
    let mut bench = Bench::new();
    let registers = long(&bench, 0);
    bench.set(&registers);
    let cpu = bench.cpu.cpu();
    let gp = |result: Exec| result.is_err_and(|fault| fault.vector() == vector::GP && fault.error_code() == Some(0));
    assert!(gp(cpu.mov_to_cr(0, CR0_PG)), "PG without PE");
    assert!(gp(cpu.mov_to_cr(0, CR0_PE | CR0_PG | 1 << 29)), "NW without CD");
    assert!(gp(cpu.mov_to_cr(0, CR0_PE)), "leaving long mode from 64-bit code");
    assert!(gp(cpu.mov_to_cr(4, 0)), "PAE off in long mode");
    assert!(gp(cpu.mov_to_cr(4, CR4_PAE | 1 << 12)), "LA57");
    assert!(gp(cpu.mov_to_cr(3, 1 << 52)), "reserved");
    assert!(gp(cpu.mov_to_cr(8, 16)));
    assert!(cpu.mov_to_cr(1, 0).is_err_and(|fault| fault.vector() == vector::UD));
    assert!(gp(cpu.wrmsr(0xc000_0080, EFER_NXE)), "LME off while paging");
    assert!(gp(cpu.wrmsr(0xdead, 0)));
    assert!(cpu.rdmsr(0xdead).is_err());
}
