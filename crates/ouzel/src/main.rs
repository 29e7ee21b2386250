//! ouzel
fn main() {}
