//! What the unit tests share: an interrupt line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{IrqInput, IrqLine, IrqSink};

/// An interrupt input.
#[derive(Default)]
pub struct Pin(AtomicBool);

impl Pin {
    pub fn line(self: &Arc<Self>) -> IrqLine {
        IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, 0).line()
    }

    pub fn level(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl IrqSink for Pin {
    fn set_level(&self, _pin: u32, level: bool) {
        self.0.store(level, Ordering::Relaxed);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.set_level(pin, level);
    }
}
