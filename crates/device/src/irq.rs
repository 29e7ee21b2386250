//! Interrupt lines: levels, OR-shared between their sources.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something with interrupt input pins: an interrupt controller, or a router in front of several.
pub trait IrqSink: Send + Sync {
    /// The level of input `pin` changed.
    fn set_level(&self, pin: u32, level: bool);

    /// The level of `pin` after a restore: it is no edge.
    fn restore_level(&self, pin: u32, level: bool);

    /// Whether the last edge of `pin` still waits for a processor, so that another one would be lost. A controller that
    /// can't know says no.
    fn is_pending(&self, pin: u32) -> bool {
        let _ = pin;
        false
    }
}

struct Input {
    sink: Arc<dyn IrqSink>,
    pin: u32,
    /// The lock also keeps changes of one pin in order.
    drive: Mutex<Drive>,
}

#[derive(Default)]
struct Drive {
    /// How many sources hold the line up.
    raised: usize,
    /// How often it has risen.
    edges: u64,
}

impl Input {
    fn lock(&self) -> MutexGuard<'_, Drive> {
        self.drive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One input pin of a sink, which any number of [`IrqLine`]s drive; its level is the OR of theirs.
#[derive(Clone)]
pub struct IrqInput(Arc<Input>);

impl IrqInput {
    /// The pin `pin` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, pin: u32) -> Self {
        Self(Arc::new(Input { sink, pin, drive: Mutex::default() }))
    }

    /// How often its level has risen, restores left out.
    pub fn edges(&self) -> u64 {
        self.0.lock().edges
    }

    /// A new source on this input, low.
    pub fn line(&self) -> IrqLine {
        IrqLine { input: Some(self.clone()), level: false }
    }
}

/// A device's interrupt output. It is low when made and when dropped.
pub struct IrqLine {
    input: Option<IrqInput>,
    level: bool,
}

impl std::fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IrqLine({})", if self.level { "high" } else { "low" })
    }
}

impl IrqLine {
    /// A line that leads nowhere.
    pub fn unconnected() -> Self {
        Self { input: None, level: false }
    }

    /// The level that this source drives.
    pub fn level(&self) -> bool {
        self.level
    }

    /// Drives the line. Repeating a level has no effect.
    pub fn set(&mut self, level: bool) {
        if self.change(level) {
            self.with_input(|input, drive, changed| {
                if changed {
                    drive.edges += u64::from(level);
                    input.sink.set_level(input.pin, level);
                }
            });
        }
    }

    /// A rising edge followed by a falling one.
    pub fn pulse(&mut self) {
        self.set(true);
        self.set(false);
    }

    /// Whether an edge that came now would be lost, because the last one still waits for a processor.
    pub fn is_pending(&self) -> bool {
        self.input.as_ref().is_some_and(|IrqInput(input)| input.sink.is_pending(input.pin))
    }

    /// Sets the level after a restore, without an edge.
    pub fn restore(&mut self, level: bool) {
        if self.change(level) {
            self.with_input(|input, _, changed| {
                if changed {
                    input.sink.restore_level(input.pin, level);
                }
            });
        }
    }

    fn change(&mut self, level: bool) -> bool {
        let differs = self.level != level;
        self.level = level;
        differs
    }

    /// Counts this source's new level in, and says whether the input's level changed by it.
    fn with_input(&self, tell: impl FnOnce(&Input, &mut Drive, bool)) {
        let Some(IrqInput(input)) = &self.input else { return };
        let mut drive = input.lock();
        let before = drive.raised;
        drive.raised = if self.level { before + 1 } else { before.saturating_sub(1) };
        let changed = (before == 0) != (drive.raised == 0);
        tell(input, &mut drive, changed);
    }
}

impl Drop for IrqLine {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool, bool)>>);
    impl IrqSink for Log {
        fn set_level(&self, pin: u32, level: bool) {
            self.0.lock().expect("log").push((pin, level, true));
        }
        fn restore_level(&self, pin: u32, level: bool) {
            self.0.lock().expect("log").push((pin, level, false));
        }
    }

    #[test]
    fn shared_input_is_high_while_any_source_is() {
        let log = Arc::new(Log::default());
        let input = IrqInput::new(log.clone(), 5);
        let (mut first, mut second) = (input.line(), input.line());
        first.set(true);
        first.set(true);
        second.set(true);
        first.set(false);
        drop(second);
        second = input.line();
        second.pulse();
        first.restore(true);
        let expected = [(5, true, true), (5, false, true), (5, true, true), (5, false, true), (5, true, false)];
        assert_eq!(*log.0.lock().expect("log"), expected);
        assert_eq!(input.edges(), 2, "what was restored is no edge");
    }
}
