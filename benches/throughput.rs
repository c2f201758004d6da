//! How many messages a second go over one connection, and what CPU time each takes.

#[path = "workloads/mod.rs"]
mod workloads;

use workloads::{harness, plan};

fn main() {
    harness::run(plan::throughput);
}
