//! The bounded outbound queue of a connection: messages in front, encoded bytes behind.
//!
//! Senders append messages; the writer swaps them out whole, encodes them and writes the bytes. While a connection is
//! *streaming*, a sender that finds the queue full encodes it into the batch that waits behind the one being written,
//! instead of failing: one write then carries a batch of bytes and not a queue of messages.
//!
//! The lock is held for a few instructions only. The encoder with its batch is a value that is taken out to be used
//! ([`State::press`] is `None` then), so no user code runs under the lock, and a send from inside an encoder is queued.
//! The writer is started by the first message and is woken outside of the lock, which may be taken under that of the
//! registry, and never around it.

mod crowding;
mod ending;
mod sending;

use std::{
    any::Any,
    collections::VecDeque,
    io,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::codec::Encoder;

pub(crate) use {
    crowding::Processing,
    ending::MAX_FLUSH_TIME,
    sending::{Placed, PushError, Queued},
};

use crate::{
    press::{Batch, Item, Press},
    scratch,
    sync::{AtomicBool, Mutex, OnceLock},
    task::poll_yield,
};

/// How often a writer gives way before it ends a stream. A sender that was turned away and yields is polled again after
/// the writer's first turn when both run on one thread.
const LINGER_TURNS: u8 = 2;

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

/// What the writer is doing. It is woken by a message that finds it parked or holding back, and by the return of a press
/// that it awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Not started: there has been no message.
    Unborn,
    /// Waiting for a message, with nothing to write.
    Parked,
    /// Started or woken, or about to look for a batch.
    Due,
    /// Waiting for the press, which a sender has taken.
    AwaitingPress,
    /// Giving senders that were turned away a chance to go on streaming, before it parks; so many turns so far.
    Lingering(u8),
    /// Leaving a small batch to grow, until the next message or for one turn.
    HoldingBack,
    /// Writing a batch.
    Writing,
}

/// Whether messages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    /// No more; what is queued is still written, then the stream is shut.
    Finishing,
    /// No more, and what was queued is gone.
    Abandoned,
}

struct State<M> {
    /// What is to be encoded next.
    queue: VecDeque<Item<M>>,
    /// How many messages are swapped out to be encoded: they keep their places until they are bytes.
    swapped_out: usize,
    /// The encoder and the waiting batch; `None` while somebody encodes.
    press: Option<Box<Press<M>>>,
    /// Whether the press holds a batch that waits for the writer.
    has_waiting_batch: bool,
    /// What the writer is doing.
    writer: Activity,
    /// Whether the queue has been full since the writer last swapped it out.
    has_been_full: bool,
    /// Whether the queue has been full and the writer has not parked since.
    is_streaming: bool,
    /// Whether messages are taken.
    intake: Intake,
    /// When they were no more. Boxed: a connection that is in use has no room for it.
    finished_at: Option<Box<Instant>>,
    /// The reader of this connection, while it waits until the queue is less than half full.
    awaits_room: Option<Box<Waker>>,
}

impl<M> State<M> {
    /// Whether the queue is less than half full.
    fn has_room(&self, half_depth: usize) -> bool {
        self.queue.len() + self.swapped_out < half_depth
    }

    /// Whether a graceful end has nothing to wait for.
    fn is_flushed(&self) -> bool {
        self.queue.is_empty() && self.swapped_out == 0 && !self.has_waiting_batch && self.writer != Activity::Writing
    }

    /// Puts what was not encoded back in front of what was queued in the meantime. This is where room appears: returns
    /// whom to wake for it, after the lock.
    #[must_use]
    fn put_back(&mut self, mut press: Box<Press<M>>, half_depth: usize) -> Option<Box<Waker>> {
        if !press.queue.is_empty() {
            press.queue.append(&mut self.queue);
            std::mem::swap(&mut press.queue, &mut self.queue);
        }
        self.swapped_out = 0;
        self.has_waiting_batch = !press.batch.is_empty();
        self.press = Some(press);
        if self.awaits_room.is_some() && self.has_room(half_depth) { self.awaits_room.take() } else { None }
    }
}

/// Wakes who waits for room, outside of all locks.
fn wake(waiting: Option<Box<Waker>>) {
    if let Some(waker) = waiting {
        waker.wake();
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

/// An outbox whatever its messages are: what a reader, and the end of a connection, need of it.
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
        let state = State {
            queue: VecDeque::new(),
            swapped_out: 0,
            press: Some(Box::new(Press::new(encoder, settings.flush_at))),
            has_waiting_batch: false,
            writer: Activity::Unborn,
            has_been_full: false,
            is_streaming: false,
            intake: Intake::Open,
            finished_at: None,
            awaits_room: None,
        };
        Self {
            settings,
            state: Mutex::new(state),
            waker: OnceLock::new(),
            writer_gone: AtomicBool::new(false),
            has_progress: AtomicBool::new(false),
            is_overdue: AtomicBool::new(false),
        }
    }

    /// At so many messages the queue is half full.
    fn half_depth(&self) -> usize {
        self.settings.depth.div_ceil(2)
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
        let before = std::mem::replace(&mut state.writer, Activity::Due);
        if state.intake == Intake::Abandoned {
            return Poll::Ready(Load::Finished);
        }
        let Some(press) = state.press.as_ref() else {
            state.writer = Activity::AwaitingPress;
            return Poll::Pending;
        };
        if state.queue.is_empty() && press.batch.is_empty() {
            if state.intake == Intake::Finishing {
                return Poll::Ready(Load::Finished);
            }
            let turns = if let Activity::Lingering(turns) = before { turns } else { 0 };
            if state.is_streaming && turns < LINGER_TURNS {
                state.writer = Activity::Lingering(turns + 1);
                drop(state);
                // Waking itself, it would be back before the sender that was turned away.
                return poll_yield(cx);
            }
            state.is_streaming = false;
            state.has_been_full = false;
            state.writer = Activity::Parked;
            let surplus = Self::take_surplus(&mut state);
            drop(state);
            drop(surplus);
            batch.release_surplus();
            return Poll::Pending;
        }
        if state.is_streaming
            && state.intake == Intake::Open
            && matches!(before, Activity::Writing | Activity::Lingering(_))
            && press.would_be_small_with(state.queue.len())
        {
            state.writer = Activity::HoldingBack;
            drop(state);
            return poll_yield(cx);
        }
        if std::mem::take(&mut state.has_been_full) {
            state.is_streaming = true;
        }
        state.writer = Activity::Writing;
        let Some(mut press) = state.press.take() else { unreachable!("seen above, under the same lock") };
        std::mem::swap(&mut state.queue, &mut press.queue);
        state.swapped_out = press.queue.len();
        drop(state);

        let is_turn_over = press.run_for_writer();
        std::mem::swap(&mut press.batch, batch);
        let mut state = self.state.lock();
        if state.intake == Intake::Abandoned {
            drop(state);
            press.discard();
        } else {
            let waiting = state.put_back(press, self.half_depth());
            drop(state);
            wake(waiting);
        }
        Poll::Ready(if is_turn_over { Load::SlowBatch } else { Load::Batch })
    }

    /// Takes out what an idle connection does not need, if there is any of it.
    fn take_surplus(state: &mut State<M>) -> Option<Surplus<M>> {
        let queue = scratch::is_surplus(&state.queue).then(|| std::mem::take(&mut state.queue));
        let press = state.press.as_deref_mut().and_then(Press::take_surplus);
        (queue.is_some() || press.is_some()).then_some((queue, press))
    }
}

/// Memory that an idle connection gives back; it holds no messages.
type Surplus<M> = (Option<VecDeque<Item<M>>>, Option<(VecDeque<Item<M>>, Batch)>);
