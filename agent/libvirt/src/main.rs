//! CHOM.

fn main() {}
