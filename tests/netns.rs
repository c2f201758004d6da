//! The rows of the fault matrix that need a network of their own: a cable that is pulled, a peer that vanishes without a
//! word, sockets that the OS kills. Each runs in a process of its own inside a network namespace of its own, which
//! disappears with it; the machine's interfaces are never touched.
//!
//! Needs root, `iproute2` and `util-linux`: `cargo test --test netns -- --ignored`. Without them each row says so and is
//! skipped; with `NETNS_REQUIRED=1` it fails.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(unreachable_pub, reason = "all of it is private to this test")]

mod common;

#[path = "faults/kit/mod.rs"]
mod kit;

#[path = "netns/namespace.rs"]
mod namespace;

#[path = "netns/addresses.rs"]
mod addresses;
#[path = "netns/cable.rs"]
mod cable;
#[path = "netns/kills.rs"]
mod kills;
