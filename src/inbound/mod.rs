//! From the socket to `process_message`: the read loop of a connection, over any stream and any tokio-util decoder.
//!
//! Bytes become messages in [`fill`]. They wait in the queue of the [`reader`], which processes one at a time. [`hold`] keeps the next
//! one back while the queue of its replies is full, and [`idle`] ends the wait for a silent peer.
//!
//! Knows no node and no registry, and never spawns: whoever runs the loop decides what its end means.

mod fill;
mod hold;
mod idle;
pub(crate) mod reader;

#[cfg(test)]
#[path = "../checks/idle_tests.rs"]
mod idle_tests;
#[cfg(test)]
#[path = "../checks/reader_tests.rs"]
mod reader_tests;
