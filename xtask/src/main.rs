//! netd's developer commands.

fn main() {}
