//! This crate.

pub use pea2pea as p2p;

#[path = "peer.rs"]
pub mod peer;
