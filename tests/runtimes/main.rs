//! Nodes, and the runtimes that carry them.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod going_away;
mod undriven;
mod vanishing;
