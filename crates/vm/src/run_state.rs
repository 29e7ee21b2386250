//! The run state: one enum, one table of transitions.
//!
//! ```text
//!            cont                 stop
//! prelaunch ──────▶ running ◀───────────▶ paused
//!                   │  │  │
//!    guest powers   │  │  └─ crash report ─▶ guest-panicked ─ cont ─▶ running
//!    off (-no-      │  └─ accelerator stuck ─▶ internal-error
//!    shutdown)      ▼                              │
//!                shutdown ◀── (needs a reset) ─────┘
//!    the guest suspends to RAM: running ─▶ suspended, a wake-up or a reset leads back
//!    a reset of a machine that does not run: ─▶ prelaunch
//! ```
//!
//! Whoever changes the state goes through [`RunStates::change`]; the caller emits the event in the same step.

use qapi::run_state::RunState;

/// A transition that the table does not allow: a bug in the caller, or a request in a wrong state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid runstate transition: '{from:?}' -> '{to:?}'")]
pub struct BadTransition {
    /// The current state.
    pub from: RunState,
    /// The state asked for.
    pub to: RunState,
}

/// The allowed transitions.
const TRANSITIONS: &[(RunState, &[RunState])] = {
    use RunState::{
        Debug, GuestPanicked, InternalError, IoError, Paused, Prelaunch, Running, Shutdown, Suspended, Watchdog,
    };
    &[
        (Prelaunch, &[Running, Paused]),
        (Running, &[Debug, Paused, Shutdown, GuestPanicked, InternalError, IoError, Suspended, Watchdog]),
        (Suspended, &[Running, Prelaunch, Shutdown]),
        (Paused, &[Running, Prelaunch, Shutdown]),
        (Debug, &[Running, Paused, Prelaunch, Shutdown]),
        (IoError, &[Running, Paused, Prelaunch, Shutdown]),
        (Shutdown, &[Paused, Prelaunch]),
        (GuestPanicked, &[Running, Paused, Prelaunch, Shutdown]),
        (Watchdog, &[Running, Paused, Prelaunch, Shutdown]),
        (InternalError, &[Paused, Prelaunch, Shutdown]),
    ]
};

/// Whether a guest in that state is there to hear keys and movements.
pub const fn can_hear(state: RunState) -> bool {
    matches!(state, RunState::Running | RunState::Suspended)
}

/// The machine's run state.
#[derive(Debug)]
pub struct RunStates {
    current: RunState,
}

impl RunStates {
    /// A machine that has not been started.
    pub fn new() -> Self {
        Self { current: RunState::Prelaunch }
    }

    /// The current state.
    pub fn current(&self) -> RunState {
        self.current
    }

    /// Whether the guest runs.
    pub fn is_running(&self) -> bool {
        self.current == RunState::Running
    }

    /// Whether only a reset can bring the machine on from here.
    pub fn needs_reset(&self) -> bool {
        matches!(self.current, RunState::Shutdown | RunState::InternalError)
    }

    /// Changes the state. A change to the current state is none.
    ///
    /// # Errors
    /// [`BadTransition`]; the state stays.
    pub fn change(&mut self, to: RunState) -> Result<(), BadTransition> {
        let from = self.current;
        if from == to {
            return Ok(());
        }
        let allowed = TRANSITIONS.iter().any(|(state, targets)| *state == from && targets.contains(&to));
        if !allowed {
            return Err(BadTransition { from, to });
        }
        crate::log::RUNSTATE_SET.emit(format_args!("current_run_state {from:?} new_state {to:?}"));
        self.current = to;
        Ok(())
    }
}

impl Default for RunStates {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_machine_runs_only_after_a_reset() {
        let mut states = RunStates::new();
        states.change(RunState::Running).expect("start");
        states.change(RunState::Shutdown).expect("shutdown");
        assert!(states.needs_reset());
        let refused = BadTransition { from: RunState::Shutdown, to: RunState::Running };
        assert_eq!(states.change(RunState::Running), Err(refused));
        states.change(RunState::Prelaunch).expect("reset");
        states.change(RunState::Running).expect("start again");
        assert!(states.is_running());
    }
}
