//! The kah program.
fn main() {}
