//! The human monitor's language, as QEMU 7.2's monitor speaks it: [`arguments`] of commands by their types,
//! [`expression`]s with registers, [`readline`] for people at terminals, and how memory is shown ([`dump`]).
//!
//! This crate knows texts, not machines: what commands do is `vm`'s.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod dump;
pub mod expression;
pub mod readline;

pub use arguments::{Arguments, Format, Value};
pub use readline::{Action, Readline};

/// A command: names, types of its arguments, and help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandSpec {
    /// The name, and others after `|`.
    pub name: &'static str,
    /// `NAME:TYPE` of each argument, with commas.
    pub arguments: &'static str,
    /// The arguments as the help shows them.
    pub parameters: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl CommandSpec {
    /// Whether it is called so.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.split('|').any(|known| known == name)
    }

    /// The first of its names.
    #[must_use]
    pub fn first_name(&self) -> &'static str {
        self.name.split('|').next().unwrap_or_default()
    }
}
