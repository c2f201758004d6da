//! The published crate.

pub use published as p2p;

#[path = "peer.rs"]
pub mod peer;
