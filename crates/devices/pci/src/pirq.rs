//! The router of PCI interrupts to ISA interrupts: the PIIX3's four (PIRQRC registers, Intel 290550, section 2.2.8) or the
//! ICH9's eight (Intel 316972, 13.1.17), which also reach inputs 16 to 23 of the I/O APIC, whatever the routes say.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device::{IrqInput, IrqLine, IrqSink};

/// The bit of a route register that disables it, and its reset value.
pub const DISABLED: u8 = 0x80;

struct Inner {
    /// Outputs by ISA interrupt.
    lines: Vec<IrqLine>,
    /// Outputs by PCI interrupt; none on a PIIX3.
    direct: Vec<IrqLine>,
    routes: Vec<u8>,
    levels: Vec<bool>,
}

impl Inner {
    fn level(&self, irq: usize) -> bool {
        (0..self.routes.len()).any(|pirq| {
            self.levels[pirq] && self.routes[pirq] & DISABLED == 0 && usize::from(self.routes[pirq] & 0xf) == irq
        })
    }
}

/// The router. Its rank is before the interrupt controllers'.
pub struct PirqRouter(Mutex<Inner>);

impl PirqRouter {
    /// A router to the ISA interrupts `isa` (the first 16 count), with all routes disabled.
    pub fn new(isa: &[IrqInput]) -> Arc<Self> {
        Self::build(isa, Vec::new(), 4)
    }

    /// The ICH9's router to the global system interrupts `gsi`.
    pub fn ich9(gsi: &[IrqInput]) -> Arc<Self> {
        Self::build(gsi, gsi.iter().skip(16).take(8).map(IrqInput::line).collect(), 8)
    }

    fn build(isa: &[IrqInput], direct: Vec<IrqLine>, count: usize) -> Arc<Self> {
        let lines = isa.iter().take(16).map(IrqInput::line).collect();
        let (routes, levels) = (vec![DISABLED; count], vec![false; count]);
        Arc::new(Self(Mutex::new(Inner { lines, direct, routes, levels })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inputs, for the bus.
    pub fn inputs(self: &Arc<Self>) -> Vec<IrqInput> {
        let count = self.lock().levels.len() as u32;
        (0..count).map(|pin| IrqInput::new(Arc::clone(self) as Arc<dyn IrqSink>, pin)).collect()
    }

    /// Sets the route registers, from PIRQA on.
    pub fn set_routes(&self, routes: &[u8]) {
        let mut inner = self.lock();
        for (to, from) in inner.routes.iter_mut().zip(routes) {
            *to = *from;
        }
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
        if let Some(line) = inner.direct.get_mut(pin as usize) {
            drive(line, level);
        }
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
