//! Tells a reader that what its messages send fills queues.
//!
//! A send cannot wait, and the reader that polls `process_message` does not see it: they meet on the thread that both run on.

use std::cell::Cell;

use crate::sync::thread_local;

thread_local! {
    /// `None` unless a reader polls a `process_message`; then, whether a queue has become crowded by what that sent.
    static CROWDED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// While it exists, this thread polls the messages of a reader. What they send is not refused for want of room where it can be
/// encoded ahead, and they are told apart from what other readers poll.
///
/// A queue is crowded when it becomes half full, or full: its writer should have a turn before there are more messages. An edge
/// and not a level, so a peer that has stalled costs nothing.
pub(crate) struct Processing {
    /// What was there: `process_message` may poll a runtime of its own, with readers of its own.
    before: Option<bool>,
}

impl Processing {
    /// Begins a turn of a reader; `is_crowded` is what the one before has left.
    #[inline]
    pub(crate) fn begin(is_crowded: bool) -> Self {
        Self { before: CROWDED.with(|cell| cell.replace(Some(is_crowded))) }
    }

    /// Whether a queue has become crowded since that was last taken.
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        CROWDED.with(|cell| cell.get() == Some(true))
    }

    /// The same, and from now on no queue has.
    pub(crate) fn take_crowded(&self) -> bool {
        CROWDED.with(|cell| cell.replace(Some(false)) == Some(true))
    }
}

impl Drop for Processing {
    #[inline]
    fn drop(&mut self) {
        CROWDED.with(|cell| cell.set(self.before));
    }
}

/// Whether the caller is polled by a reader, as `process_message` is.
pub(super) fn is_in_reader() -> bool {
    CROWDED.with(|cell| cell.get().is_some())
}

/// Tells the reader that polls the caller, if one does, that a queue is getting full.
pub(super) fn signal() {
    CROWDED.with(|cell| {
        if cell.get().is_some() {
            cell.set(Some(true));
        }
    });
}
