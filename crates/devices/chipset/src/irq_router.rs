//! Where a PC's interrupt lines go: each of the 24 global system interrupts reaches the I/O APIC, the first 16 (the ISA
//! interrupts) the 8259 pair as well.

use std::sync::Arc;

use device::{IrqInput, IrqSink};

/// The number of global system interrupts of a PC with one I/O APIC.
pub const GSI_COUNT: u32 = 24;

/// Fans a global system interrupt out to the two kinds of controller.
pub struct GsiRouter {
    pic: Arc<dyn IrqSink>,
    ioapic: Option<Arc<dyn IrqSink>>,
}

impl GsiRouter {
    /// A router in front of the PIC pair and, when the machine has one, the I/O APIC.
    pub fn new(pic: Arc<dyn IrqSink>, ioapic: Option<Arc<dyn IrqSink>>) -> Arc<Self> {
        Arc::new(Self { pic, ioapic })
    }

    /// One shareable input for each global system interrupt.
    pub fn inputs(self: &Arc<Self>) -> Vec<IrqInput> {
        (0..GSI_COUNT).map(|gsi| IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, gsi)).collect()
    }
}

impl IrqSink for GsiRouter {
    fn set_level(&self, pin: u32, level: bool) {
        if pin < 16 {
            self.pic.set_level(pin, level);
        }
        if let Some(ioapic) = &self.ioapic {
            ioapic.set_level(pin, level);
        }
    }

    fn restore_level(&self, pin: u32, level: bool) {
        if pin < 16 {
            self.pic.restore_level(pin, level);
        }
        if let Some(ioapic) = &self.ioapic {
            ioapic.restore_level(pin, level);
        }
    }

    fn is_pending(&self, pin: u32) -> bool {
        (pin < 16 && self.pic.is_pending(pin)) || self.ioapic.as_ref().is_some_and(|ioapic| ioapic.is_pending(pin))
    }
}
