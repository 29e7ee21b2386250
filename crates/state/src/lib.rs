//! Saved device state: declared, versioned fields.
//!
//! `#[derive(State)]` on a struct declares its fields, in order, under a name and a version. Bytes are as QEMU's
//! vmstate has them: fields one after another without padding, integers big-endian, a `bool` as one byte, nested
//! structs in line, `Option`s of nested structs as subsections at the end (05H, length and name, version, fields).
//!
//! ```
//! use state::{Reader, SavedState, State, Writer};
//!
//! #[derive(Clone, Default, State)]
//! #[state(name = "i8254/channel", version = 1)]
//! struct Channel {
//!     count: u32,
//!     #[state(max = 5)]
//!     mode: u8,
//! }
//!
//! #[derive(State)]
//! #[state(name = "i8254", version = 2, minimum = 1)]
//! struct Pit {
//!     channels: [Channel; 3],
//!     #[state(since = 2, name = "irq_off")]
//!     irq_disabled: bool,
//!     #[state(max_len = 64)]
//!     queue: Vec<u8>,
//!     latch: Option<Channel>,
//!     #[state(skip = "counts accesses for query-stats")]
//!     accesses: u64,
//! }
//! # let mut pit = Pit { channels: Default::default(), irq_disabled: true, queue: vec![1], latch: None, accesses: 0 };
//! let mut writer = Writer::new();
//! pit.save(&mut writer);
//! let bytes = writer.into_bytes();
//! pit.load(&mut Reader::new(&bytes), 2).unwrap();
//! ```
//!
//! | attribute of a field | meaning |
//! | --- | --- |
//! | `skip = "reason"` | not saved; a load leaves it alone |
//! | `since = N` | absent from streams of older versions; a load of one leaves the field alone |
//! | `name = "x"` | the name in descriptions, in place of the field's own |
//! | `max = N` | a load refuses larger values (unsigned integers and arrays of them) |
//! | `max_len = N` | the bound of a `Vec<u8>`, which is saved as a 32-bit length and the bytes |
//!
//! Lists of structs with a bound are [`List`]s.
//!
//! Enums without fields that have `#[repr(u8)]`, `u16` or `u32` may derive `State` as well: they are saved as that
//! integer, and a load refuses other values. A field of another type does not compile: the derive destructures the
//! struct, so that nobody forgets to decide about a new field. Nested structs must be `Clone`, those in an `Option`
//! also `Default`. A nested struct is saved and loaded in its current version, as in QEMU; only the outermost
//! struct's version and those of subsections are in the stream.

#![forbid(unsafe_code)]

extern crate self as state;

mod describe;
mod field;
mod stream;
pub mod testing;

pub use describe::{Description, FieldDescription, Kind};
#[doc(hidden)]
pub use field::derived;
pub use field::{Bounded, Field, List};
pub use state_macros::State;
pub use stream::{LoadError, LoadErrorKind, Reader, Writer};

/// Guest-visible state of a device, with a name, a version and declared fields.
///
/// Implemented by `#[derive(State)]`.
pub trait SavedState {
    /// The declared name.
    fn name(&self) -> &'static str;

    /// The version that [`SavedState::save`] writes.
    fn version(&self) -> u32;

    /// What [`SavedState::save`] would write now: subsections that are absent are not described.
    fn describe(&self) -> Description;

    /// Appends the state.
    fn save(&self, writer: &mut Writer);

    /// Replaces the state by one that was saved in `version`. After an error nothing has changed.
    fn load(&mut self, reader: &mut Reader<'_>, version: u32) -> Result<(), LoadError>;
}
