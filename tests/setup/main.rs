//! How a connection comes to be: dials, the listener, limits, handshakes, networks, and what is refused.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod connect_errors;
mod handshake;
mod limits;
mod listener;
mod refusals;
mod topology;
