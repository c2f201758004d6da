//! How a connection ends: hooks, origins, farewells, last words, successors.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/ledger.rs"]
mod ledger;

mod farewell;
mod hooks;
mod last_words;
mod lifecycle;
mod origins;
mod orphans;
mod redials;
mod successors;
