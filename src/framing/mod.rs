//! The read loop and the write loop of a connection, over any stream and any tokio-util codec.
//!
//! Knows no node and no registry, and never spawns: whoever runs a loop decides what its end means.

use std::time::Duration;

use tokio::io::AsyncWrite;

mod fill;
mod hold;
mod idle;
pub(crate) mod read;
pub(crate) mod write;

/// A timer that fires later than this was held up with the whole process (stopped, or its clock jumped): the peer had no
/// fair chance, and its time starts anew. Once per wait: where others compute, each timer may be as late.
const CLOCK_JUMP: Duration = Duration::from_secs(1);

/// What a writer writes to.
pub(crate) trait WriteStream: AsyncWrite + Unpin {
    /// The peer has not taken in time what was written: the system is not to keep it when the stream is closed.
    fn reset_when_closed(&self) {}
}

/// Told what passes through the loops, once for many messages, and asked whether to go on.
pub(crate) trait Observer: Send {
    /// Whether the connection is at its end: from then on the input may have gaps, and nothing of it is used.
    fn has_ended(&self) -> bool;

    /// Complete messages were decoded, none of which has been processed yet.
    fn received(&self, messages: usize, bytes: usize);

    /// Whether a write to the peer has failed: what it has sent before is still of use, but not for ever.
    fn has_write_failed(&self) -> bool {
        false
    }

    /// The peer has closed its side; what it has sent may not be decoded yet.
    fn end_of_stream(&self) {}

    /// Complete messages were discarded because the queue was full.
    fn dropped(&self, messages: usize);

    /// Messages that were received will not be processed: the connection is over.
    fn unprocessed(&self, messages: usize);

    /// Messages are about to be handed to the OS; none of their receipts has been resolved yet.
    fn sent(&self, messages: usize, bytes: usize);

    /// The OS has not taken them.
    fn unsent(&self, messages: usize, bytes: usize);
}

#[cfg(test)]
mod idle_tests;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod write_tests;
#[cfg(test)]
mod write_turn_tests;
