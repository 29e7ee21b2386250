//! Which QEMU version clients may take this for, and what it really is.

/// The version that `query-version` and the greeting report: the one whose protocol is spoken.
pub const EMULATED: &str = "7.2.0";
/// Its parts.
pub const TRIPLE: (i64, i64, i64) = (7, 2, 0);

/// The package string: names this program and its own version.
pub fn package() -> String {
    format!("Ouzel {}", env!("CARGO_PKG_VERSION"))
}
