//! Construction, reset, and the exchange of all registers with the outside (SDM vol. 3, table 9-1).

use std::sync::Arc;

use accel::{Signal, VcpuReset};
use fpu::{FxsaveFormat, Mxcsr, X87};
use x86::regs::{
    Events, InterruptShadow, Registers, Segment, SegmentRegister, SystemManagement, TableRegister, rflags,
};

use crate::CpuConfig;
use crate::block::BlockCache;
use crate::control::dr6;
use crate::cpuid::{Features, component, xsave_size};
use crate::flags::LazyFlags;
use crate::mmu::Tlb;
use crate::msr::Msrs;
use crate::state::{Activity, Cpu, Mode, Shadow, Ymm, cr, gpr};

/// The header of the XSAVE area follows the legacy region.
const XSAVE_HEADER: usize = 512;

fn reset_segment(selector: u16, base: u64, attributes: u16) -> Segment {
    Segment { selector, base, limit: 0xffff, attributes }
}

impl Cpu {
    pub(crate) fn new(config: CpuConfig) -> Self {
        let features = Arc::new(Features::new(config.features));
        let listener: Arc<dyn memory::CodeListener> = Arc::<accel::CpuSignals>::clone(&config.signals);
        memory::listen(&listener);
        let mut translator = config.translator;
        if translator.lockstep {
            translator.hot_after = translator.hot_after.min(2);
        }
        let tlb = Tlb::new();
        if translator.enabled && !tlb.tables().is_low() {
            tracing::warn!("the host has no memory below 2 GiB: guest code is interpreted");
            translator.enabled = false;
        }
        let mut cpu = Self {
            gpr: [0; 16],
            rip: 0,
            next_rip: 0,
            flags: LazyFlags::default(),
            system_flags: 0,
            seg_base: [0; 6],
            address_mask: 0xffff_ffff,
            seg_ok: [0; 6],
            fpu_denied: 0,
            alignment_check: false,
            mode: Mode::default(),
            mode_key: 0,
            one_instruction: false,
            code_modified: false,
            signal_mask: 0,
            exit_request: false,
            shadow: Shadow::None,
            ymm: [Ymm::ZERO; 16],
            mxcsr: Mxcsr::default(),
            x87: X87::after_reset(),
            segs: [Segment::default(); 6],
            tr: Segment::default(),
            ldtr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            pdptr: [0; 4],
            dr: [0; 8],
            msrs: Msrs::reset(),
            activity: Activity::Running,
            nmi_blocked: false,
            nmi_pending: false,
            init_pending: false,
            smm: SystemManagement::default(),
            smi_count: 0,
            pending_debug: 0,
            step: false,
            debugger: crate::debug::Debugger::default(),
            fault_address: 0,
            tlb,
            blocks: BlockCache::default(),
            apic_id: config.apic_id,
            boot_processor: config.boot_processor,
            features,
            normal_memory: Arc::clone(&config.memory),
            memory: config.memory,
            smm_memory: config.smm_memory,
            ports: config.ports,
            clock: config.clock,
            tsc_khz: config.tsc_khz,
            microcode_revision: config.microcode_revision,
            listener,
            signals: config.signals,
            apic: config.apic,
            a20: config.a20,
            exclusive: config.exclusive,
            ferr: config.ferr,
            translator,
            counter: config.counter,
            lockstep: config.translator.lockstep.then(crate::lockstep::Lockstep::new),
        };
        cpu.reset(VcpuReset::PowerOn);
        cpu
    }

    /// Power-on or INIT#.
    pub(crate) fn reset(&mut self, kind: VcpuReset) {
        self.gpr = [0; 16];
        self.gpr[gpr::RDX] = u64::from(self.features.signature);
        self.set_rip(0xfff0);
        self.set_rflags(rflags::FIXED);
        self.segs = [reset_segment(0, 0, 0x93); 6];
        self.segs[SegmentRegister::Cs as usize] = reset_segment(0xf000, 0xffff_0000, 0x9b);
        self.ldtr = reset_segment(0, 0, 0x82);
        self.tr = reset_segment(0, 0, 0x8b);
        self.gdtr = TableRegister { base: 0, limit: 0xffff };
        self.idtr = self.gdtr;
        // INIT# keeps CD and NW.
        let caches = match kind {
            VcpuReset::PowerOn => cr::CR0_CD | cr::CR0_NW,
            VcpuReset::Init => self.cr0 & (cr::CR0_CD | cr::CR0_NW),
        };
        self.cr0 = cr::CR0_ET | caches;
        (self.cr2, self.cr3, self.cr4, self.efer) = (0, 0, 0, 0);
        self.pdptr = [0; 4];
        self.dr = [0; 8];
        self.dr[6] = dr6::FIXED;
        self.dr[7] = 0x400;
        // INIT# comes outside of system-management mode only. It keeps SMBASE, and an SMI that waits.
        (self.nmi_blocked, self.nmi_pending, self.init_pending) = (false, false, false);
        self.pending_debug = 0;
        self.step = false;
        self.shadow = Shadow::None;
        self.activity = if self.boot_processor { Activity::Running } else { Activity::WaitForSipi };
        match kind {
            VcpuReset::PowerOn => {
                self.x87 = X87::after_reset();
                self.ymm = [Ymm::ZERO; 16];
                self.mxcsr = Mxcsr::default();
                self.xcr0 = 1;
                self.msrs = Msrs::reset();
                (self.smm, self.smi_count) = (SystemManagement::default(), 0);
                self.restore_msr(crate::msr::index::TSC, 0);
            }
            VcpuReset::Init => self.apic.init(),
        }
        self.mode.cpl = 0;
        self.select_memory();
        self.update_mode();
    }

    /// A start-up IPI: execution begins at page `vector` in real mode.
    pub(crate) fn start_at(&mut self, vector: u8) {
        self.segs[SegmentRegister::Cs as usize] = reset_segment(u16::from(vector) << 8, u64::from(vector) << 12, 0x9b);
        self.set_rip(0);
        self.activity = Activity::Running;
        self.update_mode();
    }

    /// The XSAVE area in standard format.
    fn xsave_image(&self) -> Vec<u8> {
        let components = self.features.xcr0;
        let mut area = vec![0; xsave_size(components)];
        let mut legacy = [0; 160];
        self.x87.fxsave(FxsaveFormat::Long, &mut legacy);
        area[..160].copy_from_slice(&legacy);
        area[24..28].copy_from_slice(&self.mxcsr.0.to_le_bytes());
        area[28..32].copy_from_slice(&Mxcsr::WRITABLE.to_le_bytes());
        for (slot, value) in area[160..416].chunks_exact_mut(16).zip(&self.ymm) {
            slot.copy_from_slice(&value.low.to_le_bytes());
        }
        for (slot, value) in area[component::AVX_AT..].chunks_exact_mut(16).zip(&self.ymm) {
            slot.copy_from_slice(&value.high.to_le_bytes());
        }
        // XSTATE_BV.
        area[XSAVE_HEADER] = components as u8;
        area
    }

    fn load_xsave_image(&mut self, area: &[u8]) {
        let Some(legacy) = area.first_chunk::<160>() else { return };
        let components = area.get(XSAVE_HEADER).copied().unwrap_or(3);
        if components & 1 != 0 {
            self.x87.fxrstor(FxsaveFormat::Long, legacy);
        } else {
            self.x87 = X87::new();
        }
        let mut mxcsr = [0; 4];
        mxcsr.copy_from_slice(&legacy[24..28]);
        self.mxcsr = Mxcsr(u32::from_le_bytes(mxcsr) & Mxcsr::WRITABLE);
        self.ymm = [Ymm::ZERO; 16];
        let slots = |wanted: u64, range: std::ops::Range<usize>| {
            let present = u64::from(components) & wanted != 0;
            let bytes = area.get(range).filter(|_| present).unwrap_or(&[]);
            bytes.chunks_exact(16).map(|slot| slot.try_into().map_or(0, u128::from_le_bytes))
        };
        for (register, value) in self.ymm.iter_mut().zip(slots(component::SSE, 160..416)) {
            register.low = value;
        }
        let upper = component::AVX_AT..xsave_size(component::AVX);
        for (register, value) in self.ymm.iter_mut().zip(slots(component::AVX, upper)) {
            register.high = value;
        }
    }

    /// All registers.
    pub(crate) fn registers(&mut self) -> Registers {
        let msrs = Self::saved_msrs().into_iter().filter_map(|msr| Some((msr, self.read_msr(msr).ok()?))).collect();
        Registers {
            gpr: self.gpr,
            rip: self.rip,
            rflags: self.rflags(),
            segments: self.segs,
            tr: self.tr,
            ldtr: self.ldtr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: u64::from(self.apic.cr8()),
            xcr0: self.xcr0,
            debug: self.dr,
            efer: self.efer,
            apic_base: self.apic.base(),
            msrs,
            xsave: self.xsave_image(),
            activity: match self.activity {
                Activity::Running | Activity::Shutdown => x86::regs::Activity::Running,
                Activity::Halted => x86::regs::Activity::Halted,
                Activity::WaitForSipi => x86::regs::Activity::WaitForSipi,
            },
            events: Events {
                nmi_blocked: self.nmi_blocked,
                nmi_pending: self.nmi_pending || self.signals.is_raised(Signal::NMI),
                init_pending: self.init_pending || self.signals.is_raised(Signal::INIT),
                shadow: match self.shadow {
                    Shadow::None => InterruptShadow::None,
                    Shadow::Sti => InterruptShadow::Sti,
                    Shadow::MovSs => InterruptShadow::MovSs,
                },
                debug_traps: self.pending_debug,
            },
            smm: SystemManagement {
                smi_pending: self.smm.smi_pending || self.signals.is_raised(Signal::SMI),
                ..self.smm
            },
        }
    }

    /// Sets all registers; execution continues from them. What waits for a start-up IPI keeps waiting unless the
    /// registers say that it executes or halts somewhere else than where INIT# left it.
    pub(crate) fn set_registers(&mut self, registers: &Registers) {
        let Registers {
            gpr,
            rip,
            rflags,
            segments,
            tr,
            ldtr,
            gdtr,
            idtr,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            xcr0,
            debug,
            efer,
            apic_base,
            msrs,
            xsave,
            activity,
            events,
            smm,
        } = registers;
        self.gpr = *gpr;
        self.set_rip(*rip);
        self.set_rflags(*rflags);
        self.segs = *segments;
        (self.tr, self.ldtr, self.gdtr, self.idtr) = (*tr, *ldtr, *gdtr, *idtr);
        (self.cr0, self.cr2, self.cr3, self.cr4, self.efer) = (*cr0 | cr::CR0_ET, *cr2, *cr3, *cr4, *efer);
        self.xcr0 = *xcr0;
        self.dr = *debug;
        // A base that the APIC refuses, or a priority without one, leaves the APIC as it is.
        let _unused = self.apic.set_base(*apic_base);
        self.apic.set_cr8((*cr8 & 0xf) as u8);
        for (msr, value) in msrs {
            self.restore_msr(*msr, *value);
        }
        self.load_xsave_image(xsave);
        self.activity = match activity {
            x86::regs::Activity::Running => Activity::Running,
            x86::regs::Activity::Halted => Activity::Halted,
            x86::regs::Activity::WaitForSipi => Activity::WaitForSipi,
        };
        self.set_events(events);
        self.smm = *smm;
        self.mode.cpl = self.stack_dpl();
        self.efer &= !cr::EFER_LMA;
        if self.efer & cr::EFER_LME != 0 && self.cr0 & cr::CR0_PG != 0 {
            self.efer |= cr::EFER_LMA;
        }
        self.select_memory();
        self.update_mode();
        if self.cr0 & cr::CR0_PG != 0 && self.cr4 & cr::CR4_PAE != 0 && !self.mode.long {
            // Tables that are not valid count as not present.
            if self.load_pdptrs(self.cr3).is_err() {
                self.pdptr = [0; 4];
            }
        }
        self.tlb.switch(self.pcid(), false);
    }

    /// Events that the mailbox still holds stay there: they come on top.
    fn set_events(&mut self, events: &Events) {
        let Events { nmi_blocked, nmi_pending, init_pending, shadow, debug_traps } = *events;
        (self.nmi_blocked, self.nmi_pending, self.init_pending) = (nmi_blocked, nmi_pending, init_pending);
        self.shadow = match shadow {
            InterruptShadow::None => Shadow::None,
            InterruptShadow::Sti => Shadow::Sti,
            InterruptShadow::MovSs => Shadow::MovSs,
        };
        self.pending_debug = debug_traps;
    }
}
