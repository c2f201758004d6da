//! Code of the user's that panics, fails, hangs, or calls back into the node.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod hooks;
mod own_end;
mod setups;
mod values;
