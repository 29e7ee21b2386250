//! Model-specific registers of a vCPU: which there are, and their values.

use std::ops::RangeInclusive;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use x86::msr;

use crate::error::{HostError, KvmError, request};

/// MSRs that the kernel has for a processor with the feature, and does not list.
const UNLISTED: &[RangeInclusive<u32>] = &[
    msr::MTRR_PHYSBASE0..=msr::MTRR_PHYSBASE0 + 15,
    msr::MTRR_FIX64K_00000..=msr::MTRR_FIX64K_00000,
    msr::MTRR_FIX16K_80000..=msr::MTRR_FIX16K_A0000,
    msr::MTRR_FIX4K_C0000..=msr::MTRR_FIX4K_F8000,
    msr::MTRR_DEF_TYPE..=msr::MTRR_DEF_TYPE,
    msr::MCG_STATUS..=msr::MCG_CTL,
    msr::PAT..=msr::PAT,
];

/// What [`x86::regs::Registers`] has in fields of its own, what belongs to the APIC, and what a write would only
/// trigger. MSRs that tell what the processor has are not state.
const EXCLUDED: &[RangeInclusive<u32>] = &[
    msr::APIC_BASE..=msr::APIC_BASE,
    msr::EFER..=msr::EFER,
    msr::FS_BASE..=msr::GS_BASE,
    msr::X2APIC_FIRST..=msr::X2APIC_LAST,
    msr::ARCH_CAPABILITIES..=msr::ARCH_CAPABILITIES,
    msr::PERF_CAPABILITIES..=msr::PERF_CAPABILITIES,
    // Platform information.
    0xce..=0xce,
    msr::VMX_BASIC..=msr::VMX_VMFUNC,
];

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries)
        .map_err(|_| KvmError::Request { request: "KVM_GET_MSRS", error: HostError(libc::E2BIG) })
}

/// The MSRs of this vCPU that can be read, ascending. `listed` is what the kernel names.
pub(crate) fn readable(vcpu: &VcpuFd, listed: &[u32]) -> Result<Vec<u32>, KvmError> {
    let mut indices: Vec<u32> = listed.to_vec();
    indices.extend(UNLISTED.iter().cloned().flatten());
    indices.retain(|index| !EXCLUDED.iter().any(|range| range.contains(index)));
    indices.sort_unstable();
    indices.dedup();
    Ok(read(vcpu, &indices)?.into_iter().map(|(index, _)| index).collect())
}

/// The values of MSRs; those that can't be read are left out.
pub(crate) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, KvmError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let wanted: Vec<_> = rest.iter().map(|&index| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect();
        let mut msrs = list(&wanted)?;
        // It stops at the first one that it does not have.
        let done = vcpu.get_msrs(&mut msrs).map_err(request("KVM_GET_MSRS"))?.min(rest.len());
        values.extend(msrs.as_slice().iter().take(done).map(|entry| (entry.index, entry.data)));
        rest = rest.get(done + 1..).unwrap_or(&[]);
    }
    Ok(values)
}

/// Sets MSRs. Returns those that the kernel refused.
pub(crate) fn write(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<Vec<u32>, KvmError> {
    let mut refused = Vec::new();
    let mut rest = values;
    while !rest.is_empty() {
        let entries: Vec<_> =
            rest.iter().map(|&(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() }).collect();
        let done = vcpu.set_msrs(&list(&entries)?).map_err(request("KVM_SET_MSRS"))?.min(rest.len());
        refused.extend(rest.get(done).map(|(index, _)| *index));
        rest = rest.get(done + 1..).unwrap_or(&[]);
    }
    Ok(refused)
}
