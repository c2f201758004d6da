//! The sender's side of an outbox.

use std::collections::VecDeque;

use super::{Activity, Intake, Outbox, crowding, wake};
use crate::{
    press::{Item, Press, Receipt},
    scratch,
};

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    /// The queue is full.
    Full,
    /// The connection is ending.
    Closed,
}

/// What becomes of a message that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Queued {
    /// The writer will come for it.
    Expected,
    /// It is the very first one: its sender has to start the writer.
    First,
}

/// Where a message has got to, and what its sender has to do about it.
#[must_use]
pub(crate) enum Placed<M> {
    /// It is queued, and that is all.
    Queued,
    /// It is queued, and the first one of all.
    First,
    /// It is queued, and the writer waits for it.
    Awaited,
    /// It is queued in the place of those in this press, which are to be encoded.
    ToBeEncoded(Box<Press<M>>),
    /// It is not: the queue has to grow first.
    NeedsRoom,
    /// It is not.
    Refused(PushError),
}

impl<M: Send + 'static> Outbox<M> {
    /// Queues a message, or, on a streaming connection, encodes what is queued to make room for it.
    pub(crate) fn push(&self, message: M, receipt: Option<Receipt>) -> Result<Queued, PushError> {
        self.follow_up(Placed::NeedsRoom, Some(Item { message, receipt }))
    }

    /// The part of a [`push`](Self::push) that takes a few instructions, runs nothing of a user's and wakes nobody. What is
    /// queued is taken.
    #[inline]
    pub(crate) fn place(&self, item: &mut Option<Item<M>>, may_grow: bool) -> Placed<M> {
        let mut state = self.state.lock();
        if state.intake != Intake::Open {
            return Placed::Refused(PushError::Closed);
        }
        let taken = state.queue.len() + state.swapped_out;
        if taken < self.settings.depth {
            if !may_grow && state.queue.len() == state.queue.capacity() {
                return Placed::NeedsRoom;
            }
            Self::append(&mut state.queue, item);
            if (taken + 1) * 2 >= self.settings.depth {
                self.signal_edge(taken + 1);
            }
            let placed = match state.writer {
                Activity::Unborn => Placed::First,
                Activity::Parked | Activity::HoldingBack => Placed::Awaited,
                _ => return Placed::Queued,
            };
            state.writer = Activity::Due;
            return placed;
        }
        state.has_been_full = true;
        // One message for each that is received is not refused for want of room: the reader gives way before the next one.
        if (state.is_streaming || crowding::is_in_reader())
            && let Some(mut press) = state.press.take_if(|press| press.has_room())
        {
            // The other ring, which has as much room unless it is the first time.
            std::mem::swap(&mut state.queue, &mut press.queue);
            state.swapped_out = press.queue.len();
            Self::append(&mut state.queue, item);
            crowding::signal();
            return Placed::ToBeEncoded(press);
        }
        Placed::Refused(PushError::Full)
    }

    /// Tells that the queue has become half full, or full.
    #[inline(never)]
    fn signal_edge(&self, taken: usize) {
        if taken == self.half_depth() || taken == self.settings.depth {
            crowding::signal();
        }
    }

    #[inline]
    fn append(queue: &mut VecDeque<Item<M>>, item: &mut Option<Item<M>>) {
        let Some(item) = item.take() else { unreachable!("an item is placed once") };
        scratch::push_back(queue, item);
    }

    /// The rest of a [`push`](Self::push), outside of all locks.
    pub(crate) fn follow_up(&self, placed: Placed<M>, mut item: Option<Item<M>>) -> Result<Queued, PushError> {
        match placed {
            Placed::Queued => Ok(Queued::Expected),
            Placed::First => Ok(Queued::First),
            Placed::Awaited => {
                self.wake_writer();
                Ok(Queued::Expected)
            }
            Placed::ToBeEncoded(mut press) => {
                press.run();
                self.return_press(press);
                Ok(Queued::Expected)
            }
            Placed::NeedsRoom => {
                let placed = self.place(&mut item, true);
                self.follow_up(placed, item)
            }
            Placed::Refused(error) => Err(error),
        }
    }

    /// Puts the press back after an encoding by a sender.
    fn return_press(&self, press: Box<Press<M>>) {
        let mut state = self.state.lock();
        if state.intake == Intake::Abandoned {
            drop(state);
            press.discard();
        } else {
            let waiting = state.put_back(press, self.half_depth());
            let is_awaited = state.writer == Activity::AwaitingPress;
            if is_awaited {
                state.writer = Activity::Due;
            }
            drop(state);
            if is_awaited {
                self.wake_writer();
            }
            wake(waiting);
        }
    }
}
