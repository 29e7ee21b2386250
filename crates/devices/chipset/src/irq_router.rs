//! Where a PC's interrupt lines go: each global system interrupt reaches its I/O APIC, which has 24 of them, the first 16
//! (the ISA interrupts) the 8259 pair as well.

use std::sync::Arc;

use device::{IrqInput, IrqSink};

/// The number of global system interrupts of a PC with one I/O APIC.
pub const GSI_COUNT: u32 = 24;

/// Fans a global system interrupt out to the two kinds of controller.
pub struct GsiRouter {
    pic: Option<Arc<dyn IrqSink>>,
    ioapics: Vec<Arc<dyn IrqSink>>,
}

impl GsiRouter {
    /// A router in front of the PIC pair and the I/O APICs, as far as the machine has them.
    pub fn new(pic: Option<Arc<dyn IrqSink>>, ioapics: Vec<Arc<dyn IrqSink>>) -> Arc<Self> {
        Arc::new(Self { pic, ioapics })
    }

    /// One shareable input for each global system interrupt.
    pub fn inputs(self: &Arc<Self>) -> Vec<IrqInput> {
        let count = GSI_COUNT * self.ioapics.len().max(1) as u32;
        (0..count).map(|gsi| IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, gsi)).collect()
    }

    fn pic(&self, gsi: u32) -> Option<&dyn IrqSink> {
        self.pic.as_deref().filter(|_| gsi < 16)
    }

    /// The I/O APIC of an interrupt, and the input there.
    fn ioapic(&self, gsi: u32) -> Option<(&dyn IrqSink, u32)> {
        self.ioapics.get((gsi / GSI_COUNT) as usize).map(|ioapic| (&**ioapic, gsi % GSI_COUNT))
    }
}

impl IrqSink for GsiRouter {
    fn set_level(&self, gsi: u32, level: bool) {
        if let Some(pic) = self.pic(gsi) {
            pic.set_level(gsi, level);
        }
        if let Some((ioapic, pin)) = self.ioapic(gsi) {
            ioapic.set_level(pin, level);
        }
    }

    fn restore_level(&self, gsi: u32, level: bool) {
        if let Some(pic) = self.pic(gsi) {
            pic.restore_level(gsi, level);
        }
        if let Some((ioapic, pin)) = self.ioapic(gsi) {
            ioapic.restore_level(pin, level);
        }
    }

    fn is_pending(&self, gsi: u32) -> bool {
        self.pic(gsi).is_some_and(|pic| pic.is_pending(gsi))
            || self.ioapic(gsi).is_some_and(|(ioapic, pin)| ioapic.is_pending(pin))
    }
}
