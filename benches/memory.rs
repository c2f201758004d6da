//! What connections and nodes that do nothing hold of the heap.

#[path = "workloads/mod.rs"]
mod workloads;

use workloads::{harness, heap::Counting, plan};

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() {
    harness::run(plan::memory);
}
