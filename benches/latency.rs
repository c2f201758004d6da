//! How long a message takes: there and back, along a line of nodes, and beside a peer that floods the node.

#[path = "workloads/mod.rs"]
mod workloads;

use workloads::{harness, plan};

fn main() {
    harness::run(plan::latency);
}
