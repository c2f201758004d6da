//! The invariants by name, and sweeps for some of them: cancellation, allocations, memory that is kept.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod allocations;
mod cancellation;
mod invariants;
mod kept_messages;
