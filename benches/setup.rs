//! What it takes to make and to end a connection, and a node.

#[path = "workloads/mod.rs"]
mod workloads;

use workloads::{harness, plan};

fn main() {
    harness::run(plan::setup);
}
