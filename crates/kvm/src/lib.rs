//! The machine's vCPUs on the host's KVM.
//!
//! [`KvmAccelerator`] is an [`accel::Accelerator`]. Its memory slots follow the flat view of the machine's memory, and
//! its interrupt controllers are the kernel's or the machine's ([`IrqchipMode`]). Specification: the Linux kernel's
//! `Documentation/virt/kvm/api.rst`.
//!
//! Code map: `system` opens the device and asks what it can; `cpuid` turns CPU models into what KVM takes and tells
//! models what the host has; `accelerator` and `vm` make the machine; `slots` and `dirty` are its memory; `irqchip` its interrupt
//! controllers; `vcpu` is the run loop, `registers`, `msrs` and `fields` the exchange of registers; `gate` and `kick`
//! bring threads back from guest code; `page` is the shared page of a vCPU.
//!
//! Left out on purpose: the A20 gate (KVM has none: address bit 20 always passes, as with QEMU on KVM), system-management
//! mode without the kernel's help, nested virtualisation state, the dirty ring, AMX (its state is larger than
//! `KVM_GET_XSAVE` returns), Hyper-V and Xen interfaces.
//!
//! Threads: the accelerator may be used from any thread. A vCPU belongs to one thread at a time; others reach it through
//! its [`accel::CpuSignals`]. Lock ranks: memory slots → gate; both are behind all device locks, and nobody who holds
//! them takes another.

#![deny(unsafe_code)]

mod accelerator;
mod cpuid;
mod dirty;
mod error;
mod fields;
mod gate;
mod irqchip;
mod kick;
mod msrs;
mod page;
mod registers;
mod slots;
mod stats;
mod system;
mod vcpu;
mod vm;

pub use accelerator::{KvmAccelerator, KvmOptions};
pub use error::{HostError, KvmError};
pub use irqchip::IrqchipMode;
pub use system::Kvm;
