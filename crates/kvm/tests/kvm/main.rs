//! Bare-metal guests on the host's KVM. Without `/dev/kvm`, or without a capability, a test says what it lacks and that
//! it was skipped. Guests are a few instructions; every run has a time limit, because a nested KVM may be slow or hang.

mod access;
mod interrupts;
mod memory_map;
mod modes;
mod registers;
mod seabios;
mod support;
