//! The scenarios, compiled against this crate.

pub(crate) use ours as p2p;

#[path = "scenarios/mod.rs"]
pub(crate) mod scenarios;
