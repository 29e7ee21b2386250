//! The device `/dev/kvm`: opening it, and what the host's kernel can.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::Cap;

use crate::error::{HostError, KvmError, request};

/// The version of the interface since Linux 2.6.22; others are refused.
const API_VERSION: i32 = 12;

/// What a machine can't do without. All are there since Linux 4.11.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "UserMemory"),
    (Cap::DestroyMemoryRegionWorks, "DestroyMemoryRegionWorks"),
    (Cap::JoinMemoryRegionsWorks, "JoinMemoryRegionsWorks"),
    (Cap::ReadonlyMem, "ReadonlyMem"),
    (Cap::SetTssAddr, "SetTssAddr"),
    (Cap::SetIdentityMapAddr, "SetIdentityMapAddr"),
    (Cap::ExtCpuid, "ExtCpuid"),
    (Cap::MpState, "MpState"),
    (Cap::VcpuEvents, "VcpuEvents"),
    (Cap::Debugregs, "DebugRegs"),
    (Cap::Xsave, "Xsave"),
    (Cap::Xcrs, "Xcrs"),
    (Cap::UserNmi, "UserNmi"),
    (Cap::ImmediateExit, "ImmediateExit"),
];

/// The opened device.
#[derive(Debug)]
pub struct Kvm {
    system: kvm_ioctls::Kvm,
}

impl Kvm {
    /// Opens `/dev/kvm` and checks that it has what is needed always.
    ///
    /// # Errors
    /// [`KvmError::Open`], a version that is not supported, [`KvmError::Missing`].
    pub fn open() -> Result<Self, KvmError> {
        Self::open_at(Path::new("/dev/kvm"))
    }

    /// [`Kvm::open`] with another path.
    ///
    /// # Errors
    /// As for [`Kvm::open`].
    pub fn open_at(path: &Path) -> Result<Self, KvmError> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| KvmError::Open(HostError(libc::EINVAL)))?;
        let system = kvm_ioctls::Kvm::new_with_path(path).map_err(|error| KvmError::Open(error.into()))?;
        match system.get_api_version() {
            API_VERSION => {}
            // Something that is no KVM at all.
            ..0 => return Err(KvmError::Open(HostError(libc::ENOTTY))),
            0..API_VERSION => return Err(KvmError::VersionTooOld),
            _ => return Err(KvmError::VersionNotSupported),
        }
        match REQUIRED.iter().find(|(capability, _)| !system.check_extension(*capability)) {
            Some((_, name)) => Err(KvmError::Missing(name)),
            None => Ok(Self { system }),
        }
    }

    /// Whether the kernel has a capability.
    pub fn has(&self, capability: Cap) -> bool {
        self.system.check_extension(capability)
    }

    /// The highest number of vCPUs of one machine.
    pub fn max_vcpus(&self) -> usize {
        self.system.get_max_vcpus()
    }

    /// The number of memory slots of one machine.
    pub(crate) fn memory_slots(&self) -> usize {
        self.system.get_nr_memslots()
    }

    pub(crate) fn system(&self) -> &kvm_ioctls::Kvm {
        &self.system
    }

    /// The CPUID leaves that the kernel and the host's processor support.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        let list = self.system.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        Ok(list.map_err(request("KVM_GET_SUPPORTED_CPUID"))?.as_slice().to_vec())
    }

    /// The MSRs that a vCPU has and that are worth saving.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        Ok(self.system.get_msr_index_list().map_err(request("KVM_GET_MSR_INDEX_LIST"))?.as_slice().to_vec())
    }

    /// A feature MSR of the host. `None`: the kernel has no such feature MSR.
    pub(crate) fn feature_msr(&self, index: u32) -> Option<u64> {
        let list = self.system.get_msr_feature_index_list().ok()?;
        if !list.as_slice().contains(&index) {
            return None;
        }
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..kvm_msr_entry::default() }]).ok()?;
        let read = self.system.get_msrs(&mut msrs).ok()?;
        msrs.as_slice().first().filter(|_| read == 1).map(|entry| entry.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_of_a_missing_device_says_so() {
        let error = Kvm::open_at(Path::new("/nonexistent/kvm")).expect_err("no device");
        assert_eq!(error.to_string(), "Could not access KVM kernel module: No such file or directory");
    }

    #[test]
    fn open_of_another_device_is_refused() {
        let error = Kvm::open_at(Path::new("/dev/null")).expect_err("not KVM");
        assert_eq!(error, KvmError::Open(HostError(libc::ENOTTY)));
    }

    #[test]
    fn open_of_a_path_with_a_null_is_refused() {
        assert!(Kvm::open_at(Path::new("/dev/\0kvm")).is_err());
    }
}
