//! Bare-metal guests on the host's KVM. Without `/dev/kvm`, or without a capability, a test says what it lacks and that
//! it was skipped. Guests are a few instructions; every run has a time limit, because a nested KVM may be slow or hang.
//!
//! What a nested kvm-pvm runs (found out with these guests): it emulates every instruction, about half a million in a
//! second, in real mode, in protected mode without paging and in long mode. Paging outside of long mode is a triple
//! fault. It lacks SSE and x87 arithmetic, `int n`, `int3` and `iret` in protected mode, CMPXCHG16B, XGETBV and RDTSCP:
//! these end as internal errors. Interrupts, NMI, several vCPUs, the kernel's controllers in all modes, read-only slots
//! and the log of stores work; SeaBIOS runs up to its boot menu. A local APIC's end of interrupt leaves guest code late,
//! at the end of a batch of instructions, and not before a HLT.

mod access;
mod interrupts;
mod memory_map;
mod modes;
mod registers;
mod seabios;
mod smm;
mod support;
