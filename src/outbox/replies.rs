//! Replies: what `process_message` sends to the very peer whose message it processes.
//!
//! The reader that polls it writes them itself at the end of its turn, if the writer is parked: a turn of another task
//! costs more than the message. Whatever cannot be written at once, and whatever would wait for another
//! `process_message`, is left to the writer.

use std::cell::Cell;

use super::{Activity, AnyOutbox, Intake, Outbox};
use crate::{press::ReplyStream, sync::thread_local};

thread_local! {
    /// The outbox whose reader polls a `process_message` on this thread, or 0, and whether it has got replies.
    static ANSWERED: Cell<(usize, bool)> = const { Cell::new((0, false)) };
}

/// While it exists, a message that this thread sends to one outbox does not wake a parked writer, unless it has a receipt:
/// who waits for that may block the thread. Whoever made it writes the replies, or hands them over.
pub(crate) struct Answering {
    /// What was there: `process_message` may poll a runtime of its own, with readers of its own.
    before: (usize, bool),
}

impl Answering {
    #[inline]
    pub(crate) fn begin(outbox: Option<&dyn AnyOutbox>) -> Self {
        let answered = outbox.map_or(0, |outbox| std::ptr::from_ref(outbox).addr());
        Self { before: ANSWERED.with(|cell| cell.replace((answered, false))) }
    }

    /// Returns whether there are replies since this was last asked: they must be handed over or written.
    #[inline]
    pub(crate) fn take_replies(&self) -> bool {
        ANSWERED.with(|cell| {
            let (answered, has_replies) = cell.get();
            if has_replies {
                cell.set((answered, false));
            }
            has_replies
        })
    }
}

impl Drop for Answering {
    #[inline]
    fn drop(&mut self) {
        ANSWERED.with(|cell| cell.set(self.before));
    }
}

impl<M: Send + 'static> Outbox<M> {
    /// Whether the caller is a `process_message` whose replies go here, and then that there is one.
    #[inline]
    pub(super) fn is_answered_here(&self) -> bool {
        ANSWERED.with(|cell| {
            let (answered, _) = cell.get();
            let is_here = answered == std::ptr::from_ref(self).addr();
            if is_here {
                cell.set((answered, true));
            }
            is_here
        })
    }

    /// See [`AnyOutbox::hand_over_replies`].
    pub(super) fn hand_over(&self) {
        let mut state = self.state.lock();
        let is_due = state.writer == Activity::Replying;
        if is_due {
            state.writer = Activity::Due;
        }
        drop(state);
        if is_due {
            self.wake_writer();
        }
    }

    /// See [`AnyOutbox::write_replies`].
    pub(super) fn reply(&self, stream: &dyn ReplyStream) {
        let mut state = self.state.lock();
        // Otherwise somebody has woken the writer meanwhile.
        if state.writer != Activity::Replying || state.intake != Intake::Open {
            return;
        }
        let Some(mut press) = state.press.take() else { unreachable!("nobody encodes for a parked writer") };
        std::mem::swap(&mut state.queue, &mut press.queue);
        state.swapped_out = press.queue.len();
        state.writer = Activity::Writing;
        drop(state);

        press.run();
        let is_written = press.batch.try_write(stream);
        let mut state = self.state.lock();
        if state.intake == Intake::Abandoned {
            drop(state);
            return press.discard();
        }
        state.put_back(press);
        if is_written && state.queue.is_empty() && state.intake == Intake::Open {
            // A queue as long as it may be has left no room for others meanwhile, but nobody streams.
            state.has_been_full = false;
            state.writer = Activity::Parked;
            let surplus = Self::take_surplus(&mut state);
            drop(state);
            drop(surplus);
        } else {
            state.writer = Activity::Due;
            drop(state);
            self.wake_writer();
        }
    }
}
