//! The PIIX3's router of the four PCI interrupts to ISA interrupts (PIRQRC registers, Intel 290550, section 2.2.8).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{IrqInput, IrqLine, IrqSink};

/// The bit of a route register that disables it, and its reset value.
pub const DISABLED: u8 = 0x80;

struct Inner {
    /// Outputs by ISA interrupt.
    lines: Vec<IrqLine>,
    routes: [u8; 4],
    levels: [bool; 4],
}

impl Inner {
    fn level(&self, irq: usize) -> bool {
        (0..4).any(|pirq| {
            self.levels[pirq] && self.routes[pirq] & DISABLED == 0 && usize::from(self.routes[pirq] & 0xf) == irq
        })
    }
}

/// The router. Its rank is before the interrupt controllers'.
pub struct PirqRouter(Mutex<Inner>);

impl PirqRouter {
    /// A router to the ISA interrupts `isa` (the first 16 count), with all routes disabled.
    pub fn new(isa: &[IrqInput]) -> Arc<Self> {
        let lines = isa.iter().take(16).map(IrqInput::line).collect();
        Arc::new(Self(Mutex::new(Inner { lines, routes: [DISABLED; 4], levels: [false; 4] })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The four inputs, for the bus.
    pub fn inputs(self: &Arc<Self>) -> [IrqInput; 4] {
        [0, 1, 2, 3].map(|pin| IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, pin))
    }

    /// Sets the route registers of PIRQA to PIRQD.
    pub fn set_routes(&self, routes: [u8; 4]) {
        let mut inner = self.lock();
        inner.routes = routes;
        for irq in 0..inner.lines.len() {
            let level = inner.level(irq);
            inner.lines[irq].set(level);
        }
    }

    /// Which ISA interrupt a PIRQ reaches.
    pub fn route(&self, pirq: usize) -> Option<u8> {
        let route = *self.lock().routes.get(pirq)?;
        (route & DISABLED == 0).then_some(route & 0xf)
    }

    fn change(&self, pin: u32, level: bool, drive: fn(&mut IrqLine, bool)) {
        let mut inner = self.lock();
        let Some(entry) = inner.levels.get_mut(pin as usize) else { return };
        *entry = level;
        let route = inner.routes[pin as usize];
        if route & DISABLED != 0 {
            return;
        }
        let irq = usize::from(route & 0xf);
        let level = inner.level(irq);
        if let Some(line) = inner.lines.get_mut(irq) {
            drive(line, level);
        }
    }
}

impl IrqSink for PirqRouter {
    fn set_level(&self, pin: u32, level: bool) {
        self.change(pin, level, IrqLine::set);
    }

    fn restore_level(&self, pin: u32, level: bool) {
        self.change(pin, level, IrqLine::restore);
    }
}
