//! The page that a vCPU shares with the kernel (`struct kvm_run`).
//!
//! `kvm-ioctls` decodes most exits; what it leaves out is read here: the access size of string I/O, the codes of
//! failures, and the words that the kernel refreshes at every exit.

#![expect(unsafe_code, reason = "the page is the kernel's, with a union that the exit reason selects from")]

use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// A second way to the shared page of a [`VcpuFd`], which must live as long. [`crate::KvmVcpu`] owns both.
#[derive(Debug)]
pub(crate) struct RunPage(NonNull<kvm_run>);

// SAFETY: the mapping belongs to the vCPU's descriptor, which may change threads; `RunPage` goes with it.
unsafe impl Send for RunPage {}

impl RunPage {
    pub(crate) fn of(vcpu: &mut VcpuFd) -> Self {
        Self(NonNull::from(vcpu.get_kvm_run()))
    }

    /// The flag that makes the next `KVM_RUN` return at once. The kernel and a signal handler look at it as well.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte is inside of the mapped page, which outlives `self`; it is accessed atomically only.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.0.as_ptr()).immediate_exit) }
    }

    /// The width in bytes of the string I/O that the vCPU has just left for.
    pub(crate) fn io_size(&self) -> u8 {
        // SAFETY: inside of the mapped page; any bytes are a valid `u8`.
        unsafe { (*self.0.as_ptr()).__bindgen_anon_1.io.size }
    }

    /// Replaces what the port read that the vCPU has just left for gives: up to four bytes of one access.
    pub(crate) fn set_io_data(&self, value: u32) {
        let page = self.0.as_ptr();
        // SAFETY: inside of the mapped page; any bytes are valid for these integers.
        let (reason, direction, offset, size) = unsafe {
            let io = &(*page).__bindgen_anon_1.io;
            ((*page).exit_reason, io.direction, io.data_offset, usize::from(io.size.min(4)))
        };
        if reason != kvm_bindings::KVM_EXIT_IO || u32::from(direction) != kvm_bindings::KVM_EXIT_IO_IN {
            return;
        }
        // SAFETY: the last exit is such a read, so the kernel has put the offset of its data here, which is inside of
        // the vCPU's mapping (KVM_GET_VCPU_MMAP_SIZE, more than this page) with room for at least one access of `size`
        // bytes. The slice that the exit was handed out with is gone: the vCPU's owner calls this between two entries.
        unsafe {
            let data = page.cast::<u8>().add(offset as usize);
            std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), data, size);
        }
    }

    /// The kernel's number for an internal error.
    pub(crate) fn internal_suberror(&self) -> u32 {
        // SAFETY: inside of the mapped page; any bytes are a valid `u32`.
        unsafe { (*self.0.as_ptr()).__bindgen_anon_1.internal.suberror }
    }

    /// Asks for an exit as soon as an interrupt can be injected.
    pub(crate) fn request_interrupt_window(&self, wanted: bool) {
        // SAFETY: inside of the mapped page; the kernel reads it during KVM_RUN only.
        unsafe { (*self.0.as_ptr()).request_interrupt_window = wanted.into() }
    }

    /// Whether an interrupt could be injected at the last exit.
    pub(crate) fn is_ready_for_interrupt(&self) -> bool {
        // SAFETY: inside of the mapped page; the kernel writes it during KVM_RUN only.
        unsafe { (*self.0.as_ptr()).ready_for_interrupt_injection != 0 }
    }

    /// Says that the state at the last exit is not the vCPU's any more.
    pub(crate) fn forget_exit_state(&self) {
        // SAFETY: as for `is_ready_for_interrupt`.
        unsafe { (*self.0.as_ptr()).ready_for_interrupt_injection = 0 }
    }

    /// RFLAGS.IF at the last exit.
    pub(crate) fn interrupts_enabled(&self) -> bool {
        // SAFETY: inside of the mapped page; the kernel writes it during KVM_RUN only.
        unsafe { (*self.0.as_ptr()).if_flag != 0 }
    }

    /// Whether the vCPU was in system-management mode at the last exit.
    pub(crate) fn is_in_smm(&self) -> bool {
        // SAFETY: inside of the mapped page; the kernel writes it during KVM_RUN only.
        u32::from(unsafe { (*self.0.as_ptr()).flags }) & kvm_bindings::KVM_RUN_X86_SMM != 0
    }

    /// Says that the vCPU is not in system-management mode any more.
    pub(crate) fn leave_smm(&self) {
        // SAFETY: inside of the mapped page; the kernel writes it during KVM_RUN only.
        unsafe { (*self.0.as_ptr()).flags &= !(kvm_bindings::KVM_RUN_X86_SMM as u16) }
    }

    /// CR8 at the last exit.
    pub(crate) fn cr8(&self) -> u64 {
        // SAFETY: inside of the mapped page; the kernel accesses it during KVM_RUN only.
        unsafe { (*self.0.as_ptr()).cr8 }
    }

    /// What CR8 is at the next entry.
    pub(crate) fn set_cr8(&self, cr8: u64) {
        // SAFETY: as for `cr8`.
        unsafe { (*self.0.as_ptr()).cr8 = cr8 }
    }

    /// IA32_APIC_BASE at the last exit.
    pub(crate) fn apic_base(&self) -> u64 {
        // SAFETY: inside of the mapped page; the kernel writes it during KVM_RUN only.
        unsafe { (*self.0.as_ptr()).apic_base }
    }
}
