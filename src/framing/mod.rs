//! The read loop and the write loop of a connection, over any stream and any tokio-util codec.
//!
//! Knows no node and no registry, and never spawns: whoever runs a loop decides what its end means.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::AsyncWrite;

use crate::task::poll_yield;

mod fill;
mod hold;
mod idle;
pub(crate) mod read;
pub(crate) mod write;

/// A timer that fires later than this was held up with the whole process: it was stopped, or its clock jumped.
const CLOCK_JUMP: Duration = Duration::from_secs(1);

/// What a peer is given once its time is up, for the delay may be ours.
#[derive(Debug, Default)]
struct Grace {
    /// Whether the runtime has been asked once more for what is waited for.
    has_looked_again: bool,
    /// Whether the time has been started anew after a clock jump.
    is_pardoned: bool,
}

impl Grace {
    /// The timer has fired, so late. Ready with whether the wait is over; if not, its time starts anew.
    fn poll_is_over(&mut self, cx: &mut Context<'_>, lateness: Duration) -> Poll<bool> {
        // Once per wait: on a thread on which others compute, each timer may be as late.
        if lateness > CLOCK_JUMP && !self.is_pardoned {
            *self = Self { has_looked_again: false, is_pardoned: true };
            return Poll::Ready(false);
        }
        if !self.has_looked_again {
            // A thread that was held up learns that the time is up before it learns what the peer has done.
            self.has_looked_again = true;
            return poll_yield(cx);
        }
        Poll::Ready(true)
    }
}

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
