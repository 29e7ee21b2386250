//! What goes wrong with KVM. Where clients match on a text, it is QEMU's.

use std::io;

use accel::AccelError;

/// An error number of the host. Its text is the host's own, without the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(pub i32);

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let end = text.rfind(" (os error").unwrap_or(text.len());
        f.write_str(&text[..end])
    }
}

impl HostError {
    /// Of the system call that this thread has just made.
    pub(crate) fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
    }
}

impl From<kvm_ioctls::Error> for HostError {
    fn from(error: kvm_ioctls::Error) -> Self {
        Self(error.errno())
    }
}

/// Why KVM can't be used, or a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvmError {
    /// The device does not open.
    #[error("Could not access KVM kernel module: {0}")]
    Open(HostError),
    /// The kernel's interface is older than the one that is described.
    #[error("kvm version too old")]
    VersionTooOld,
    /// The kernel's interface is newer than the one that is described.
    #[error("kvm version not supported")]
    VersionNotSupported,
    /// A capability that is needed always.
    #[error("kvm does not support {0}")]
    Missing(&'static str),
    /// The kernel has no interrupt controllers of the wanted kind.
    #[error("Could not enable split irqchip mode: {0}")]
    SplitIrqchip(HostError),
    /// The kernel has no interrupt controllers.
    #[error("Create kernel irqchip failed: {0}")]
    KernelIrqchip(HostError),
    /// More vCPUs than the kernel allows.
    #[error("Number of SMP cpus requested ({requested}) exceeds the maximum cpus supported by KVM ({limit})")]
    TooManyVcpus {
        /// Wanted.
        requested: usize,
        /// Allowed.
        limit: usize,
    },
    /// A vCPU could not be made.
    #[error("kvm_init_vcpu: kvm_get_vcpu failed ({index}): {error}")]
    Vcpu {
        /// Its index.
        index: usize,
        /// Why.
        error: HostError,
    },
    /// A wanted TSC frequency that the host can't give.
    #[error("TSC frequency mismatch between VM ({wanted} kHz) and host ({host} kHz), and TSC scaling unavailable")]
    TscFrequency {
        /// Wanted.
        wanted: u32,
        /// The host's.
        host: u32,
    },
    /// Guest memory is in more pieces than the kernel has slots.
    #[error("kvm has no free slot left for memory at {0:#x}")]
    NoSlot(u64),
    /// A request that the kernel refused.
    #[error("ioctl({request}) failed: {error}")]
    Request {
        /// The name of the request.
        request: &'static str,
        /// Why.
        error: HostError,
    },
}

impl KvmError {
    /// The error number behind it.
    pub fn host_error(&self) -> HostError {
        match self {
            Self::Open(error) | Self::SplitIrqchip(error) | Self::KernelIrqchip(error) => *error,
            Self::Request { error, .. } | Self::Vcpu { error, .. } => *error,
            Self::VersionTooOld | Self::VersionNotSupported | Self::Missing(_) | Self::TooManyVcpus { .. } => {
                HostError(libc::EINVAL)
            }
            Self::TscFrequency { .. } => HostError(libc::ENOTSUP),
            Self::NoSlot(_) => HostError(libc::ENOSPC),
        }
    }
}

impl From<KvmError> for AccelError {
    fn from(error: KvmError) -> Self {
        Self::host(error.to_string(), io::Error::from_raw_os_error(error.host_error().0))
    }
}

/// Names the request that failed.
pub(crate) fn request<E: Into<HostError>>(request: &'static str) -> impl FnOnce(E) -> KvmError {
    move |error| KvmError::Request { request, error: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_clients_know() {
        let error = KvmError::Open(HostError(libc::ENOENT));
        assert_eq!(error.to_string(), "Could not access KVM kernel module: No such file or directory");
        assert_eq!(error.host_error().to_string(), "No such file or directory");
        assert_eq!(KvmError::Missing("UserMemory").host_error().to_string(), "Invalid argument");
    }
}
