//! From a send to the socket: the bounded queue of a connection, messages in front and encoded bytes behind.
//!
//! A message waits in the [`state`]; [`queueing`] puts it there, [`encoder`] makes it bytes, [`writer`] writes them. Room appears in
//! [`State::hand_out_room`](state::State).
//!
//! Senders append messages; the writer swaps them out whole, encodes them and writes the bytes. While a connection is
//! *streaming*, a sender that finds the queue full encodes it into the batch that waits behind the one being written,
//! instead of failing: one write then carries a batch of bytes and not a queue of messages.
//!
//! The lock is held for a few instructions only. The encoder with its batch is a value that is taken out to be used
//! (there is none in the outbox then), so no user code runs under the lock, and a send from inside an encoder is queued.
//! The writer is started by the first message and is woken outside of the lock, which may be taken under that of the
//! registry, and never around it.

pub(crate) mod crowding;
pub(crate) mod encoder;
mod ending;
mod queueing;
mod state;
pub(crate) mod writer;

use std::{
    any::Any,
    io,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::AsyncWrite;
use tokio_util::codec::Encoder;

pub(crate) use {
    ending::MAX_FLUSH_TIME,
    queueing::Queued,
    state::{Placed, PushError},
};

use self::{
    encoder::{Batch, BatchEncoder},
    state::{Aftermath, State, Work},
};
use crate::{
    panics::dispose_all,
    sync::{AtomicBool, Mutex, OnceLock},
    waiting::poll_yield,
};

/// The settings of an outbox and its writer.
#[derive(Debug)]
pub(crate) struct WriteSettings {
    /// How many messages are taken.
    pub(crate) depth: usize,
    /// The bytes at which no further message begins in a batch.
    pub(crate) flush_at: usize,
    /// How long a batch may have to wait for the peer.
    pub(crate) timeout: Option<Duration>,
}

impl WriteSettings {
    /// At so many messages the queue is half full.
    fn half_depth(&self) -> usize {
        self.depth.div_ceil(2)
    }
}

/// What the writer finds to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// The batch has been filled.
    Batch,
    /// The batch has been filled as far as that was possible in the time of a turn.
    SlowBatch,
    /// Nothing is left, and nothing will come.
    Finished,
}

/// The part of an outbox that does not depend on the type of its messages.
pub(crate) trait AnyOutbox: Any + Send + Sync {
    /// Ready when the queue is less than half full, or takes no more messages; one task waits for it.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Tells that the peer has taken bytes.
    fn note_progress(&self);

    /// Whether the peer has taken bytes since this was last asked.
    fn take_progress(&self) -> bool;

    /// Takes no more messages, and lets the writer end once all is written; `true` if all is written already.
    fn finish(&self) -> bool;

    /// Takes no more messages and drops those that are queued; `true` if there was nothing left to write.
    fn abandon(&self) -> bool;

    /// Tells that the peer has not taken what was left to write within the [`flush_time`](Self::flush_time).
    fn set_overdue(&self);

    /// Whether it has not.
    fn is_overdue(&self) -> bool;

    /// The most time that a graceful end spends on flushing, from [`finish`](Self::finish) on; what follows a flush has the
    /// rest of it.
    fn flush_time(&self) -> Duration;

    /// What is left of the [`flush_time`](Self::flush_time).
    fn time_left(&self) -> Duration;

    /// Whether the writer is gone.
    fn is_writer_gone(&self) -> bool;

    /// Tells that the writer is gone.
    fn set_writer_gone(&self);
}

/// The outbound queue of one connection.
pub(crate) struct Outbox<M> {
    /// What the user chose.
    settings: &'static WriteSettings,
    /// Held for a few instructions, never while user code runs.
    state: Mutex<State<M>>,
    /// The waker of the one task that polls the writer.
    waker: OnceLock<Waker>,
    /// Set when the writer is gone.
    writer_gone: AtomicBool,
    /// Whether the peer has taken bytes. Relaxed: a reader that sees it late waits for another eighth of a second.
    has_progress: AtomicBool,
    /// Whether the peer has not taken in time what was left to write.
    is_overdue: AtomicBool,
}

impl<M: Send + 'static> Outbox<M> {
    pub(crate) fn new<E>(encoder: E, settings: &'static WriteSettings) -> Self
    where
        E: Encoder<M, Error = io::Error> + Send + 'static,
    {
        let state = State::new(BatchEncoder::new(encoder, settings.flush_at));
        Self {
            settings,
            state: Mutex::new(state),
            waker: OnceLock::new(),
            writer_gone: AtomicBool::new(false),
            has_progress: AtomicBool::new(false),
            is_overdue: AtomicBool::new(false),
        }
    }

    pub(crate) fn settings(&self) -> &'static WriteSettings {
        self.settings
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Fills the writer's batch, whose bytes must all have been written; parks the writer if there is nothing to do.
    pub(crate) fn poll_load(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Load> {
        // Before the state is read: a sender that comes after finds a waker to wake.
        let waker = self.waker.get_or_init(|| cx.waker().clone());
        debug_assert!(waker.will_wake(cx.waker()), "one task polls the writer all its life");
        let mut state = self.state.lock();
        let mut encoder = match state.load() {
            Work::Encode(encoder) => encoder,
            Work::End => return Poll::Ready(Load::Finished),
            Work::Wait => return Poll::Pending,
            Work::GiveWay => {
                drop(state);
                // Waking itself, it would be back before the sender that was turned away.
                return poll_yield(cx);
            }
            Work::Rest => {
                let surplus = state.take_surplus();
                drop(state);
                drop(surplus);
                batch.release_surplus();
                return Poll::Pending;
            }
        };
        drop(state);
        let is_turn_over = encoder.run_for_writer();
        std::mem::swap(&mut encoder.batch, batch);
        self.return_encoder(encoder);
        Poll::Ready(if is_turn_over { Load::SlowBatch } else { Load::Batch })
    }

    fn return_encoder(&self, encoder: Box<BatchEncoder<M>>) {
        let aftermath = self.state.lock().returned(encoder, self.settings);
        self.clean_up(aftermath);
    }

    /// Does what follows from something that has happened: wakes, and drops what is the user's.
    #[inline]
    fn clean_up(&self, aftermath: Aftermath<M>) {
        let Aftermath { wakes_writer, reader, remains } = aftermath;
        if wakes_writer {
            self.wake_writer();
        }
        if let Some(reader) = reader {
            reader.wake();
        }
        if let Some((queue, encoder)) = remains {
            dispose_all(queue);
            if let Some(encoder) = encoder {
                encoder.discard();
            }
        }
    }
}

/// What a writer writes to.
pub(crate) trait WriteStream: AsyncWrite + Unpin {
    /// The peer has not taken in time what was written: the system is not to keep it when the stream is closed.
    fn reset_when_closed(&self) {}
}

#[cfg(test)]
#[path = "../checks/writer_tests.rs"]
pub(crate) mod writer_tests;
#[cfg(test)]
#[path = "../checks/writer_turn_tests.rs"]
mod writer_turn_tests;
