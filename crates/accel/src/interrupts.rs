//! Interrupt controllers that an accelerator has instead of the machine.

use std::sync::Arc;

use device::IrqSink;

/// A message-signalled interrupt: a store of `data` to `address` (0xfeexxxxx; SDM vol. 3, 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// The address.
    pub address: u64,
    /// The data.
    pub data: u32,
}

/// Tells the machine's I/O APIC that a local APIC ended this vector, which was level-triggered.
pub type IoApicEnd = Arc<dyn Fn(u8) + Send + Sync>;

/// The output of the machine's PIC, as a local APIC's LINT0 uses it.
pub trait PicOutput: Send + Sync {
    /// Takes the vector (INTA cycle). `None`: the request went away.
    fn acknowledge(&self) -> Option<u8>;
}

/// An accelerator's local APICs. Called from any thread, with device locks held: it must not wait for a vCPU.
pub trait LocalApics: Send + Sync {
    /// Sends a message to the local APICs that it addresses.
    fn send_msi(&self, message: Msi);

    /// What the machine's I/O APIC sends for input `pin` when it is level-triggered and not masked; `None` otherwise.
    /// The ends of these vectors are to be told to [`crate::MachineSpaces::end_of_interrupt`].
    fn set_level_route(&self, pin: u32, message: Option<Msi>);
}

/// All of an accelerator's interrupt controllers: PIC pair, I/O APIC with 24 inputs, local APICs.
pub trait IrqControllers: Send + Sync {
    /// Sends a message to the local APICs that it addresses.
    fn send_msi(&self, message: Msi);

    /// The global system interrupts 0 … 23. The first 16 reach the PIC pair too, and number 0 reaches the I/O APIC's
    /// input 2.
    fn inputs(&self) -> Arc<dyn IrqSink>;

    /// Resets PIC pair and I/O APIC. (A local APIC is reset with its vCPU.)
    fn reset(&self);
}

/// The registers of a local APIC that the accelerator has.
pub trait ApicRegisters {
    /// Reads the register at `offset` of the APIC page.
    fn read(&mut self, offset: u32) -> u32;

    /// Writes the register at `offset` of the APIC page, as the vCPU would.
    fn write(&mut self, offset: u32, value: u32);
}
