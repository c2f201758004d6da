//! Replies: what `process_message` sends to the very peer whose message it processes.
//!
//! The reader that polls it writes them itself at the end of its turn, if the writer is parked: a turn of another task
//! costs more than the message. Whatever cannot be written at once, and whatever would wait for another
//! `process_message`, is left to the writer.

use std::cell::Cell;

use super::{Activity, AnyOutbox, Intake, Outbox, wake};
use crate::{press::ReplyStream, sync::thread_local};

/// What is known of the reader that polls a `process_message` on this thread.
#[derive(Clone, Copy)]
struct Marks {
    /// The outbox whose replies that reader writes, [`ANY_READER`] if it writes none, or 0 if there is no reader.
    answered: usize,
    /// What has happened since the reader last asked.
    signals: Signals,
}

/// Where a reader is that writes no replies; no outbox lies there.
const ANY_READER: usize = 1;

/// What the sends of `process_message` ask of its reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// There are replies: they must be written or handed over.
    pub(crate) has_replies: bool,
    /// A queue has become half full, or full: its writer should have a turn before there are more messages. An edge and
    /// not a level, so a peer that has stalled costs nothing.
    pub(crate) is_crowded: bool,
}

impl Signals {
    pub(crate) const NONE: Self = Self { has_replies: false, is_crowded: false };
}

thread_local! {
    /// What the innermost reader on this thread has to know.
    static MARKS: Cell<Marks> = const { Cell::new(Marks { answered: 0, signals: Signals::NONE }) };
}

/// While it exists, a message that this thread sends to one outbox does not wake a parked writer, unless it has a receipt:
/// who waits for that may block the thread. Whoever made it writes the replies, or hands them over.
pub(crate) struct Answering {
    /// What was there: `process_message` may poll a runtime of its own, with readers of its own.
    before: Marks,
}

impl Answering {
    /// Begins a turn of a reader, which writes the replies of the outbox, if it is given one.
    #[inline]
    pub(crate) fn begin(outbox: Option<&dyn AnyOutbox>, is_crowded: bool) -> Self {
        let answered = outbox.map_or(ANY_READER, |outbox| std::ptr::from_ref(outbox).addr());
        let signals = Signals { is_crowded, ..Signals::NONE };
        Self { before: MARKS.with(|cell| cell.replace(Marks { answered, signals })) }
    }

    /// Returns what has been signalled and not been taken.
    #[inline]
    pub(crate) fn signals(&self) -> Signals {
        MARKS.with(|cell| cell.get().signals)
    }

    /// Returns whether a queue has become crowded since this was last asked.
    pub(crate) fn take_crowded(&self) -> bool {
        MARKS.with(|cell| {
            let mut marks = cell.get();
            let is_crowded = std::mem::take(&mut marks.signals.is_crowded);
            cell.set(marks);
            is_crowded
        })
    }

    /// Returns what has been signalled since this was last asked.
    #[inline]
    pub(crate) fn take_signals(&self) -> Signals {
        MARKS.with(|cell| {
            let Marks { answered, signals } = cell.get();
            if signals != Signals::NONE {
                cell.set(Marks { answered, signals: Signals::NONE });
            }
            signals
        })
    }
}

impl Drop for Answering {
    #[inline]
    fn drop(&mut self) {
        MARKS.with(|cell| cell.set(self.before));
    }
}

/// Whether the caller is polled by a reader, as `process_message` is.
pub(super) fn is_in_reader() -> bool {
    MARKS.with(|cell| cell.get().answered != 0)
}

/// Tells the reader that polls the caller, if one does, that a queue is getting full.
pub(super) fn signal_crowded() {
    MARKS.with(|cell| {
        let mut marks = cell.get();
        marks.signals.is_crowded = true;
        cell.set(marks);
    });
}

impl<M: Send + 'static> Outbox<M> {
    /// Whether the caller is a `process_message` whose replies go here, and then that there is one.
    #[inline]
    pub(super) fn is_answered_here(&self) -> bool {
        MARKS.with(|cell| {
            let mut marks = cell.get();
            let is_here = marks.answered == std::ptr::from_ref(self).addr();
            if is_here {
                marks.signals.has_replies = true;
                cell.set(marks);
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
        let waiting = state.put_back(press, self.half_depth());
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
        wake(waiting);
    }
}
