//! The `rrun` command.

fn main() {}
