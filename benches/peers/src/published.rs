//! The published crate as a contender.

pub use published as p2p;

#[path = "../../workloads/node/mod.rs"]
pub mod node;
#[path = "../../workloads/plain.rs"]
pub mod wire;
