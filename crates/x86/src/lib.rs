//! x86-64 definitions without behaviour: registers, MSRs, CPUID, descriptors and CPU models.
//!
//! Source: Intel Software Developer's Manual (SDM) and AMD64 Architecture Programmer's Manual (APM).

#![forbid(unsafe_code)]

pub mod cpuid;
pub mod crx;
pub mod descriptor;
mod feature;
pub mod model;
pub mod msr;
pub mod paging;
pub mod regs;
