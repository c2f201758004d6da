//! Tells a reader that what its messages send fills queues.
//!
//! A send cannot wait, and the reader that polls `process_message` does not see it: they meet on the thread that both run on.

use std::cell::Cell;

use crate::{panics::OnDrop, sync::thread_local};

thread_local! {
    /// `None` unless a reader polls a `process_message`; then, whether a queue has become crowded by what that sent.
    static CROWDED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Until what this returns is dropped, this thread polls the messages of a reader. What they send is not refused for want of room
/// where it can be encoded ahead, and they are told apart from what other readers poll. `is_crowded` is what the turn before has
/// left.
///
/// A queue is crowded when it becomes half full, or full: its writer should have a turn before there are more messages. An edge
/// and not a level, so a peer that has stalled costs nothing.
#[inline]
pub(crate) fn begin_processing(is_crowded: bool) -> OnDrop<impl FnMut()> {
    // Put back at the end: `process_message` may poll a runtime of its own, with readers of its own.
    let before = CROWDED.with(|cell| cell.replace(Some(is_crowded)));
    OnDrop(move || CROWDED.with(|cell| cell.set(before)))
}

/// Whether a queue has become crowded since that was last taken.
#[inline]
pub(crate) fn is_crowded() -> bool {
    CROWDED.with(|cell| cell.get() == Some(true))
}

/// The same, and from now on no queue has.
pub(crate) fn take_crowded() -> bool {
    CROWDED.with(|cell| cell.replace(Some(false)) == Some(true))
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
