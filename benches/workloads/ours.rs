//! This crate as a contender.

pub use pea2pea as p2p;

#[path = "node/mod.rs"]
pub mod node;
#[path = "plain.rs"]
pub mod wire;

use super::workload::Contender;

/// This crate, under its own name.
pub const CONTENDER: Contender = Contender { name: "ours", run: node::run };
