//! All of a vCPU's registers: power-on state, and the exchange with the outside.

#![expect(unsafe_code, reason = "the kernel is handed an XSAVE area whose size it does not ask for")]

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SMM, KVM_X86_SHADOW_INT_MOV_SS,
    KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_lapic_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use x86::cpuid::CpuidTable;
use x86::crx::cr0;
use x86::msr::{self, efer};
use x86::regs::{Events, InterruptShadow, Registers, SegmentRegister, SystemManagement, rflags};

use crate::error::{KvmError, request};
use crate::fields::{from_segment, from_table, to_segment, to_table, to_virtual_8086};
use crate::msrs;

/// The header of the XSAVE area follows the legacy region; its first word says which components are there.
const XSAVE_HEADER: usize = 512;
/// Legacy region and header.
const XSAVE_MIN: usize = 576;

/// What of the XSAVE area a model has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XsaveShape {
    /// The area's length in standard format.
    len: usize,
    /// The components that may be there.
    components: u64,
}

impl XsaveShape {
    pub(crate) fn of(table: &CpuidTable) -> Self {
        let leaf = table.get(0xd, 0);
        let components = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
        let has_leaf = table.get(0, 0).eax >= 0xd && components != 0;
        let len = if has_leaf { (leaf.ecx as usize).clamp(XSAVE_MIN, size_of::<kvm_xsave>()) } else { XSAVE_MIN };
        Self { len, components: if has_leaf { components | 3 } else { 3 } }
    }

    fn take(self, xsave: &[u32; 1024]) -> Vec<u8> {
        let mut area: Vec<u8> = xsave.iter().flat_map(|word| word.to_le_bytes()).take(self.len).collect();
        // The legacy region is written whatever the header says; the header's word is cut to what the model has.
        if let Some(word) = area.get_mut(XSAVE_HEADER..).and_then(|rest| rest.first_chunk_mut::<8>()) {
            *word = (u64::from_le_bytes(*word) & self.components).to_le_bytes();
        }
        area
    }

    fn give(self, area: &[u8]) -> Option<[u32; 1024]> {
        let mut area = area.get(..area.len().min(self.len)).filter(|area| area.len() >= XSAVE_MIN)?.to_vec();
        let header = area.get_mut(XSAVE_HEADER..XSAVE_MIN)?;
        let (components, rest) = header.split_first_chunk_mut::<8>()?;
        *components = (u64::from_le_bytes(*components) & self.components).to_le_bytes();
        // Standard format, reserved bytes.
        rest.fill(0);
        let mut xsave = [0; 1024];
        for (word, bytes) in xsave.iter_mut().zip(area.chunks(4)) {
            let mut whole = [0; 4];
            whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            *word = u32::from_le_bytes(whole);
        }
        Some(xsave)
    }
}

/// The kernel's register file, without what the interrupt controllers hold.
#[derive(Clone)]
pub(crate) struct KernelRegisters {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: [u32; 1024],
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    msrs: Vec<(u32, u64)>,
}

impl KernelRegisters {
    pub(crate) fn read(vcpu: &VcpuFd, msr_indices: &[u32]) -> Result<Self, KvmError> {
        Ok(Self {
            regs: vcpu.get_regs().map_err(request("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(request("KVM_GET_SREGS"))?,
            xsave: vcpu.get_xsave().map_err(request("KVM_GET_XSAVE"))?.region,
            xcrs: vcpu.get_xcrs().map_err(request("KVM_GET_XCRS"))?,
            debug: vcpu.get_debug_regs().map_err(request("KVM_GET_DEBUGREGS"))?,
            events: vcpu.get_vcpu_events().map_err(request("KVM_GET_VCPU_EVENTS"))?,
            msrs: msrs::read(vcpu, msr_indices)?,
        })
    }

    /// Writes all but the MSRs and what [`KernelRegisters::write_events`] writes.
    pub(crate) fn write(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        vcpu.set_sregs(&self.sregs).map_err(request("KVM_SET_SREGS"))?;
        vcpu.set_regs(&self.regs).map_err(request("KVM_SET_REGS"))?;
        vcpu.set_xcrs(&self.xcrs).map_err(request("KVM_SET_XCRS"))?;
        // SAFETY: the kernel reads more than a `kvm_xsave` only for components that a process asks for first with
        // `arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM)`; this one does not.
        unsafe { vcpu.set_xsave(&kvm_xsave { region: self.xsave, ..kvm_xsave::default() }) }
            .map_err(request("KVM_SET_XSAVE"))?;
        vcpu.set_debug_regs(&self.debug).map_err(request("KVM_SET_DEBUGREGS"))
    }

    /// Writes the events that wait, and the state of system-management mode.
    pub(crate) fn write_events(&self, vcpu: &VcpuFd, has_smi: bool) -> Result<(), KvmError> {
        let smm = if has_smi { KVM_VCPUEVENT_VALID_SMM } else { 0 };
        let flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING | smm;
        let events = kvm_vcpu_events { flags, ..self.events };
        vcpu.set_vcpu_events(&events).map_err(request("KVM_SET_VCPU_EVENTS"))
    }

    pub(crate) fn msrs(&self) -> &[(u32, u64)] {
        &self.msrs
    }

    /// The power-on state: as the kernel makes a vCPU, with the model's signature in EDX, its microcode and a TSC of
    /// zero.
    pub(crate) fn at_power_on(mut self, table: &CpuidTable, microcode_revision: u64) -> Self {
        self.regs.rdx = table.get(1, 0).eax.into();
        for (index, value) in &mut self.msrs {
            match *index {
                msr::TSC => *value = 0,
                msr::BIOS_SIGN_ID => *value = microcode_revision,
                _ => {}
            }
        }
        self
    }

    /// The state after INIT#: what it keeps is taken from `now` (SDM vol. 3, table 9-1).
    pub(crate) fn after_init(&self, now: &Self) -> Self {
        let mut state = Self { xsave: now.xsave, xcrs: now.xcrs, msrs: now.msrs.clone(), ..self.clone() };
        let caches = cr0::CD | cr0::NW;
        state.sregs.cr0 = state.sregs.cr0 & !caches | now.sregs.cr0 & caches;
        state.sregs.apic_base = now.sregs.apic_base;
        state
    }

    /// Execution at page `vector` in real mode, after a start-up IPI.
    pub(crate) fn started_at(mut self, vector: u8) -> Self {
        self.sregs.cs.selector = u16::from(vector) << 8;
        self.sregs.cs.base = u64::from(vector) << 12;
        self.regs.rip = 0;
        self
    }

    /// In our form. `activity` is not the register file's.
    pub(crate) fn to_registers(&self, shape: XsaveShape) -> Registers {
        let Self { regs: r, sregs: s, .. } = self;
        let mut debug = [0; 8];
        debug[..4].copy_from_slice(&self.debug.db);
        (debug[6], debug[7]) = (self.debug.dr6, self.debug.dr7);
        let mut msrs = self.msrs.clone();
        msrs.sort_unstable_by_key(|(index, _)| *index);
        let smbase = msrs.iter().position(|(index, _)| *index == msr::SMBASE).map(|at| msrs.remove(at).1 as u32);
        let e = &self.events;
        Registers {
            gpr: [
                r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
                r.r15,
            ],
            rip: r.rip,
            rflags: r.rflags,
            segments: [s.es, s.cs, s.ss, s.ds, s.fs, s.gs].map(|segment| from_segment(&segment)),
            tr: from_segment(&s.tr),
            ldtr: from_segment(&s.ldt),
            gdtr: from_table(&s.gdt),
            idtr: from_table(&s.idt),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            xcr0: self.xcrs.xcrs.first().map_or(1, |xcr| xcr.value),
            debug,
            efer: s.efer,
            apic_base: s.apic_base,
            msrs,
            xsave: shape.take(&self.xsave),
            activity: x86::regs::Activity::Running,
            events: Events {
                nmi_blocked: e.nmi.masked != 0,
                nmi_pending: e.nmi.pending != 0 || e.nmi.injected != 0,
                init_pending: e.smi.latched_init != 0,
                shadow: match u32::from(e.interrupt.shadow) {
                    0 => InterruptShadow::None,
                    shadow if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 => InterruptShadow::MovSs,
                    _ => InterruptShadow::Sti,
                },
                // The kernel keeps them with the exceptions, which are not taken over.
                debug_traps: 0,
            },
            smm: SystemManagement {
                active: e.smi.smm != 0,
                inside_nmi: e.smi.smm_inside_nmi != 0,
                smi_pending: e.smi.pending != 0,
                smbase: smbase.unwrap_or(SystemManagement::RESET_SMBASE),
            },
        }
    }

    /// Replaces everything by `registers`. An XSAVE area that is too short leaves the old one.
    pub(crate) fn set(&mut self, registers: &Registers, shape: XsaveShape) {
        let Registers {
            gpr,
            rip,
            rflags: flags,
            segments,
            tr,
            ldtr,
            gdtr,
            idtr,
            cr0: control0,
            cr2,
            cr3,
            cr4,
            cr8,
            xcr0,
            debug,
            efer: extended,
            apic_base,
            msrs,
            xsave,
            activity: _,
            events,
            smm,
        } = registers;
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = *gpr;
        let (rip, rflags) = (*rip, *flags | rflags::FIXED);
        self.regs =
            kvm_regs { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags };
        let form = if flags & rflags::VM != 0 { to_virtual_8086 } else { to_segment };
        let segment = |register: SegmentRegister| form(&segments[register as usize]);
        let is_long = extended & efer::LME != 0 && control0 & cr0::PG != 0;
        self.sregs = kvm_sregs {
            es: segment(SegmentRegister::Es),
            cs: segment(SegmentRegister::Cs),
            ss: segment(SegmentRegister::Ss),
            ds: segment(SegmentRegister::Ds),
            fs: segment(SegmentRegister::Fs),
            gs: segment(SegmentRegister::Gs),
            tr: to_segment(tr),
            ldt: to_segment(ldtr),
            gdt: to_table(gdtr),
            idt: to_table(idtr),
            cr0: control0 | cr0::ET,
            cr2: *cr2,
            cr3: *cr3,
            cr4: *cr4,
            cr8: cr8 & 0xf,
            efer: extended & !efer::LMA | if is_long { efer::LMA } else { 0 },
            apic_base: *apic_base,
            interrupt_bitmap: [0; 4],
        };
        if let Some(xsave) = shape.give(xsave) {
            self.xsave = xsave;
        }
        if let Some(xcr) = self.xcrs.xcrs.first_mut() {
            xcr.value = *xcr0;
        }
        self.debug.db.copy_from_slice(&debug[..4]);
        (self.debug.dr6, self.debug.dr7) = (debug[6], debug[7]);
        self.msrs.clone_from(msrs);
        self.msrs.push((msr::SMBASE, smm.smbase.into()));
        self.set_events(events, smm);
    }

    /// Exceptions belong to the instruction that the vCPU stood at and go; interrupts that were accepted stay.
    fn set_events(&mut self, events: &Events, smm: &SystemManagement) {
        let Events { nmi_blocked, nmi_pending, init_pending, shadow, debug_traps: _ } = *events;
        let now = &mut self.events;
        (now.exception, now.exception_has_payload, now.exception_payload) = (Default::default(), 0, 0);
        now.interrupt.shadow = match shadow {
            InterruptShadow::None => 0,
            InterruptShadow::Sti => KVM_X86_SHADOW_INT_STI as u8,
            InterruptShadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS as u8,
        };
        (now.nmi.masked, now.nmi.pending, now.nmi.injected) = (nmi_blocked.into(), nmi_pending.into(), 0);
        now.smi.smm = smm.active.into();
        now.smi.smm_inside_nmi = smm.inside_nmi.into();
        now.smi.pending = smm.smi_pending.into();
        now.smi.latched_init = init_pending.into();
    }

    /// CR8 and IA32_APIC_BASE, which our own local APIC holds.
    pub(crate) fn set_apic(&mut self, cr8: u8, apic_base: u64) {
        (self.sregs.cr8, self.sregs.apic_base) = (u64::from(cr8 & 0xf), apic_base);
    }
}

/// Drops all events that wait for the next entry.
pub(crate) fn reset_events(vcpu: &VcpuFd, has_smi: bool) -> Result<(), KvmError> {
    let smm = if has_smi { KVM_VCPUEVENT_VALID_SMM } else { 0 };
    let flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING | smm;
    let events = kvm_vcpu_events { flags, ..kvm_vcpu_events::default() };
    vcpu.set_vcpu_events(&events).map_err(request("KVM_SET_VCPU_EVENTS"))
}

/// The kernel's local APIC of a vCPU after power-on.
pub(crate) fn read_apic(vcpu: &VcpuFd) -> Result<kvm_lapic_state, KvmError> {
    vcpu.get_lapic().map_err(request("KVM_GET_LAPIC"))
}

/// Sets it.
pub(crate) fn write_apic(vcpu: &VcpuFd, state: &kvm_lapic_state) -> Result<(), KvmError> {
    vcpu.set_lapic(state).map_err(request("KVM_SET_LAPIC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xsave_area_keeps_only_the_model_s_components() {
        let shape = XsaveShape { len: 832, components: 7 };
        let mut area: Vec<u8> = (0..832u32).map(|index| index as u8).collect();
        area[XSAVE_HEADER..XSAVE_MIN].fill(0xff);
        let back = shape.take(&shape.give(&area).expect("long enough"));
        assert_eq!(back[..XSAVE_HEADER], area[..XSAVE_HEADER]);
        assert_eq!(back[XSAVE_HEADER..XSAVE_HEADER + 16], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(back[XSAVE_MIN..], area[XSAVE_MIN..]);
        assert!(shape.give(&area[..XSAVE_MIN - 1]).is_none());
    }
}
