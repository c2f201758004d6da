//! The scenarios, compiled against the published crate.

pub(crate) use published as p2p;

#[path = "scenarios/mod.rs"]
pub(crate) mod scenarios;
