//! `shut_down`, and every timeout.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod shutdown;
mod shutdown_bounds;
mod timeouts;
