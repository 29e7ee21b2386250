//! What the unit tests share: an interrupt sink that remembers levels and counts rising edges.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use device::{IrqInput, IrqLine, IrqSink};

#[derive(Default)]
pub struct Pins(Mutex<Vec<(bool, u32)>>, AtomicBool);

impl Pins {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn line(self: &Arc<Self>, pin: u32) -> IrqLine {
        IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, pin).line()
    }

    fn with<R>(&self, pin: u32, visit: impl FnOnce(&mut (bool, u32)) -> R) -> R {
        let mut pins = self.0.lock().expect("pins");
        let index = pin as usize;
        if pins.len() <= index {
            pins.resize(index + 1, (false, 0));
        }
        visit(&mut pins[index])
    }

    /// Whether the last edge of every pin waits from now on.
    pub fn hold(&self, waits: bool) {
        self.1.store(waits, Ordering::Relaxed);
    }

    pub fn level(&self, pin: u32) -> bool {
        self.with(pin, |entry| entry.0)
    }

    pub fn edges(&self, pin: u32) -> u32 {
        self.with(pin, |entry| entry.1)
    }
}

impl IrqSink for Pins {
    fn set_level(&self, pin: u32, level: bool) {
        self.with(pin, |entry| *entry = (level, entry.1 + u32::from(level)));
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.with(pin, |entry| entry.0 = level);
    }

    fn is_pending(&self, _pin: u32) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}
