//! ouzel-ctl
fn main() {}
