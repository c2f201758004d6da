//! Many nodes sending to one, and one sending to many.

#[path = "workloads/mod.rs"]
mod workloads;

use workloads::{harness, plan};

fn main() {
    harness::run(plan::fan);
}
