//! The state of an outbox: what is queued, who has the encoder, what the writer is doing, and whether messages are taken.
//!
//! Only this file changes it. Each thing that happens to an outbox is one method, called under its lock; what a method returns
//! is for after the lock: it wakes, drops, or runs code of users.
//!
//! The next state of the writer ([`Activity`]), by what happens; nothing else changes it, until a load finds that all is over:
//!
//! ```text
//!                  placed        load,              load,                load,            returned
//!                                nothing queued     something queued     encoder is out   by a sender
//! Unborn           Due, start    (1)                Writing              AwaitingEncoder
//! Parked           Due, wake     Parked             Writing              AwaitingEncoder
//! Due                            (1)                Writing              AwaitingEncoder
//! AwaitingEncoder                (1)                Writing              AwaitingEncoder  Due, wake
//! Lingering(n)                   Lingering(n + 1),  Writing (2)          AwaitingEncoder
//!                                in the end Parked
//! HoldingBack      Due, wake     (1)                Writing              AwaitingEncoder
//! Writing                        (1)                Writing (2)          AwaitingEncoder
//!
//! empty: as before    (1) Lingering(1) while streaming, else Parked
//! (2) HoldingBack before a small batch, while streaming and open
//! ```
//!
//! A message that finds the queue full changes nothing for the writer: it is refused, or its sender encodes.
//! Messages are taken ([`Intake`]) until `finish`, and what was taken is written until `abandon`. A connection streams from the load
//! after its queue has been full until its writer parks.

use std::{collections::VecDeque, task::Waker};

use tokio::time::Instant;

use super::{
    WriteSettings, crowding,
    encoder::{Batch, BatchEncoder, Item},
};
use crate::buffers;

/// How often a writer gives way before it ends a stream. A sender that was turned away and yields is polled again after
/// the writer's first turn when both run on one thread.
const LINGER_TURNS: u8 = 2;

/// What the writer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Not started: there has been no message.
    Unborn,
    /// Waiting for a message, with nothing to write.
    Parked,
    /// Started or woken, or about to look for a batch.
    Due,
    /// Waiting for the encoder, which a sender has taken.
    AwaitingEncoder,
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

pub(super) struct State<M> {
    /// What is to be encoded next.
    queue: VecDeque<Item<M>>,
    /// How many messages are lent out to be encoded: they keep their places until they are bytes.
    lent: usize,
    /// The encoder and the waiting batch; `None` while somebody encodes.
    encoder: Option<Box<BatchEncoder<M>>>,
    /// Whether the encoder holds a batch that waits for the writer.
    has_waiting_batch: bool,
    /// What the writer is doing.
    writer: Activity,
    /// Whether the queue has been full since the writer last took it.
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

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    /// The queue is full.
    Full,
    /// The connection is ending.
    Closed,
}

/// Where a message has got to, and what its sender has to do about it.
#[must_use]
pub(crate) enum Placed<M> {
    /// It is queued, and that is all.
    Queued,
    /// It is queued, and the first one of all: the writer is to be started.
    First,
    /// It is queued, and the writer is to be woken.
    Awaited,
    /// It is queued in the place of the messages that this encoder has, which are to be encoded.
    ToBeEncoded(Box<BatchEncoder<M>>),
    /// It is not: the queue has to grow first.
    NeedsRoom,
    /// It is not.
    Refused(PushError),
}

/// What the writer is to do.
pub(super) enum Work<M> {
    /// End: nothing is left, and nothing will come.
    End,
    /// Wait until it is woken.
    Wait,
    /// Come back after a turn of the others.
    GiveWay,
    /// Wait until it is woken, without the [`surplus`](State::take_surplus).
    Rest,
    /// Encode the messages that this encoder has, and bring it back.
    Encode(Box<BatchEncoder<M>>),
}

/// Memory that an idle connection gives back; it holds no messages.
pub(super) type Surplus<M> = (Option<VecDeque<Item<M>>>, Option<(VecDeque<Item<M>>, Batch)>);

/// What is to be done after the lock about something that has happened.
#[must_use]
pub(super) struct Aftermath<M> {
    /// Whether the writer is to be woken.
    pub(super) wakes_writer: bool,
    /// The reader, to be woken.
    pub(super) reader: Option<Box<Waker>>,
    /// To be discarded.
    pub(super) remains: Option<Remains<M>>,
}

/// All messages that were queued, and the encoder unless it is out.
type Remains<M> = (VecDeque<Item<M>>, Option<Box<BatchEncoder<M>>>);

impl<M> State<M> {
    pub(super) fn new(encoder: BatchEncoder<M>) -> Self {
        Self {
            queue: VecDeque::new(),
            lent: 0,
            encoder: Some(Box::new(encoder)),
            has_waiting_batch: false,
            writer: Activity::Unborn,
            has_been_full: false,
            is_streaming: false,
            intake: Intake::Open,
            finished_at: None,
            awaits_room: None,
        }
    }

    /// A sender brings a message. It is taken from the item if it is queued.
    ///
    /// Takes a few instructions, so that it may happen under the lock of the registry: without leave to grow it does not
    /// allocate.
    #[inline(always)]
    pub(super) fn place(&mut self, item: &mut Option<Item<M>>, may_grow: bool, settings: &WriteSettings) -> Placed<M> {
        if self.intake != Intake::Open {
            return Placed::Refused(PushError::Closed);
        }
        let taken = self.queue.len() + self.lent;
        if taken >= settings.depth {
            return self.place_beyond(item);
        }
        if !may_grow && self.queue.len() == self.queue.capacity() {
            return Placed::NeedsRoom;
        }
        append(&mut self.queue, item);
        if (taken + 1) * 2 >= settings.depth {
            signal_edge(taken + 1, settings);
        }
        let placed = match self.writer {
            Activity::Unborn => Placed::First,
            Activity::Parked | Activity::HoldingBack => Placed::Awaited,
            _ => return Placed::Queued,
        };
        self.writer = Activity::Due;
        placed
    }

    /// The message finds the queue full. While streaming, its sender encodes those before it, to make room.
    #[inline(never)]
    fn place_beyond(&mut self, item: &mut Option<Item<M>>) -> Placed<M> {
        self.has_been_full = true;
        // One message for each that is received is not refused for want of room: the reader gives way before the next one.
        if !self.is_streaming && !crowding::is_in_reader() {
            return Placed::Refused(PushError::Full);
        }
        let Some(encoder) = self.lend(BatchEncoder::has_room) else { return Placed::Refused(PushError::Full) };
        append(&mut self.queue, item);
        crowding::signal();
        Placed::ToBeEncoded(encoder)
    }

    /// The writer asks for work; all of its last batch has been written.
    pub(super) fn load(&mut self) -> Work<M> {
        let before = std::mem::replace(&mut self.writer, Activity::Due);
        if self.intake == Intake::Abandoned {
            return Work::End;
        }
        let Some(encoder) = &self.encoder else {
            self.writer = Activity::AwaitingEncoder;
            return Work::Wait;
        };
        if self.queue.is_empty() && encoder.batch.is_empty() {
            return self.load_nothing(before);
        }
        if self.is_streaming
            && self.intake == Intake::Open
            && matches!(before, Activity::Writing | Activity::Lingering(_))
            && encoder.would_be_small_with(self.queue.len())
        {
            self.writer = Activity::HoldingBack;
            return Work::GiveWay;
        }
        self.is_streaming |= std::mem::take(&mut self.has_been_full);
        self.writer = Activity::Writing;
        let Some(encoder) = self.lend(|_| true) else { unreachable!("seen above") };
        Work::Encode(encoder)
    }

    fn load_nothing(&mut self, before: Activity) -> Work<M> {
        if self.intake == Intake::Finishing {
            return Work::End;
        }
        let turns = if let Activity::Lingering(turns) = before { turns } else { 0 };
        if self.is_streaming && turns < LINGER_TURNS {
            self.writer = Activity::Lingering(turns + 1);
            return Work::GiveWay;
        }
        self.is_streaming = false;
        self.has_been_full = false;
        self.writer = Activity::Parked;
        Work::Rest
    }

    /// Lends the encoder out with all that is queued, if it is there and fit for it.
    fn lend(&mut self, is_fit: impl FnOnce(&BatchEncoder<M>) -> bool) -> Option<Box<BatchEncoder<M>>> {
        let mut encoder = self.encoder.take_if(|encoder| is_fit(encoder))?;
        // The other ring has as much room, unless it is the first time.
        std::mem::swap(&mut self.queue, &mut encoder.queue);
        self.lent = encoder.queue.len();
        Some(encoder)
    }

    /// Whoever encoded brings the encoder back. What was not encoded goes in front of what was queued in the meantime.
    pub(super) fn returned(&mut self, mut encoder: Box<BatchEncoder<M>>, settings: &WriteSettings) -> Aftermath<M> {
        if self.intake == Intake::Abandoned {
            return Aftermath { wakes_writer: false, reader: None, remains: Some((VecDeque::new(), Some(encoder))) };
        }
        if !encoder.queue.is_empty() {
            encoder.queue.append(&mut self.queue);
            std::mem::swap(&mut encoder.queue, &mut self.queue);
        }
        self.lent = 0;
        self.has_waiting_batch = !encoder.batch.is_empty();
        self.encoder = Some(encoder);
        let wakes_writer = self.writer == Activity::AwaitingEncoder;
        if wakes_writer {
            self.writer = Activity::Due;
        }
        Aftermath { wakes_writer, reader: self.hand_out_room(settings), remains: None }
    }

    /// The reader asks for room. Takes its waker if there is none; returns the one that it replaces.
    pub(super) fn await_room(
        &mut self,
        waker: &mut Option<Box<Waker>>,
        settings: &WriteSettings,
    ) -> Option<Box<Waker>> {
        if self.has_room(settings) {
            self.awaits_room.take()
        } else {
            std::mem::replace(&mut self.awaits_room, waker.take())
        }
    }

    /// This is where room appears, or hope for it ends: returns whom to wake.
    fn hand_out_room(&mut self, settings: &WriteSettings) -> Option<Box<Waker>> {
        if self.awaits_room.is_some() && self.has_room(settings) { self.awaits_room.take() } else { None }
    }

    /// Whether the queue is less than half full, or will not be used any more.
    fn has_room(&self, settings: &WriteSettings) -> bool {
        self.intake != Intake::Open || self.queue.len() + self.lent < settings.half_depth()
    }

    /// Messages are taken no more; those that are queued are written.
    pub(super) fn finish(&mut self, now: Box<Instant>, settings: &WriteSettings) -> Aftermath<M> {
        if self.intake == Intake::Open {
            self.intake = Intake::Finishing;
            self.finished_at = Some(now);
        }
        Aftermath { wakes_writer: true, reader: self.hand_out_room(settings), remains: None }
    }

    /// Messages are taken no more, and those that are queued are dropped.
    pub(super) fn abandon(&mut self, settings: &WriteSettings) -> Aftermath<M> {
        self.intake = Intake::Abandoned;
        self.has_waiting_batch = false;
        let remains = Some((std::mem::take(&mut self.queue), self.encoder.take()));
        Aftermath { wakes_writer: true, reader: self.hand_out_room(settings), remains }
    }

    /// When messages were taken no more.
    pub(super) fn finished_at(&self) -> Option<Instant> {
        self.finished_at.as_deref().copied()
    }

    /// Whether a graceful end has nothing to wait for.
    pub(super) fn is_flushed(&self) -> bool {
        self.queue.is_empty() && self.lent == 0 && !self.has_waiting_batch && self.writer != Activity::Writing
    }

    /// Takes out the memory that an idle connection does not need, if there is any.
    pub(super) fn take_surplus(&mut self) -> Option<Surplus<M>> {
        let queue = buffers::is_surplus(&self.queue).then(|| std::mem::take(&mut self.queue));
        let encoder = self.encoder.as_deref_mut().and_then(BatchEncoder::take_surplus);
        (queue.is_some() || encoder.is_some()).then_some((queue, encoder))
    }
}

#[inline]
fn append<M>(queue: &mut VecDeque<Item<M>>, item: &mut Option<Item<M>>) {
    let Some(item) = item.take() else { unreachable!("an item is placed once") };
    buffers::push_back(queue, item);
}

/// Tells that the queue has become half full, or full.
#[inline(never)]
fn signal_edge(taken: usize, settings: &WriteSettings) {
    if taken == settings.half_depth() || taken == settings.depth {
        crowding::signal();
    }
}
