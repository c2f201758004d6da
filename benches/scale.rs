//! Whether a message costs more among thousands of live connections.

#[path = "workloads/mod.rs"]
mod workloads;

use workloads::{harness, plan};

fn main() {
    harness::run(plan::scale);
}
