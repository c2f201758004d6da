//! The part of an outbox that does not depend on the type of its messages.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{AnyOutbox, Outbox};
use crate::sync::Ordering;

/// The most time that a graceful end spends on flushing what is queued.
pub(crate) const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);

impl<M: Send + 'static> AnyOutbox for Outbox<M> {
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = Some(Box::new(cx.waker().clone()));
        let replaced = self.state.lock().await_room(&mut waker, self.settings);
        drop(replaced);
        if waker.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn note_progress(&self) {
        self.has_progress.store(true, Ordering::Relaxed);
    }

    fn take_progress(&self) -> bool {
        self.has_progress.swap(false, Ordering::Relaxed)
    }

    fn finish(&self) -> bool {
        let now = Box::new(Instant::now());
        let mut state = self.state.lock();
        let is_flushed = state.is_flushed();
        let aftermath = state.finish(now, self.settings);
        drop(state);
        self.clean_up(aftermath);
        is_flushed
    }

    fn abandon(&self) -> bool {
        let mut state = self.state.lock();
        let is_flushed = state.is_flushed();
        let aftermath = state.abandon(self.settings);
        drop(state);
        self.clean_up(aftermath);
        is_flushed
    }

    fn flush_time(&self) -> Duration {
        self.settings.timeout.map_or(MAX_FLUSH_TIME, |timeout| timeout.min(MAX_FLUSH_TIME))
    }

    fn time_left(&self) -> Duration {
        let finished_at = self.state.lock().finished_at();
        finished_at.map_or(Duration::ZERO, |at| self.flush_time().saturating_sub(at.elapsed()))
    }

    // The race of `is_overdue`: an ending sets it and then aborts the writer, whose drop, on another thread, decides by it whether
    // the stream is reset.

    fn set_overdue(&self) {
        self.is_overdue.store(true, Ordering::Release);
    }

    fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Acquire)
    }

    // The race of `writer_gone`: the writer sets it after its last use of the stream and the queue; whoever waits for that then looks
    // at what has been written.

    fn is_writer_gone(&self) -> bool {
        self.writer_gone.load(Ordering::Acquire)
    }

    fn set_writer_gone(&self) {
        self.writer_gone.store(true, Ordering::Release);
    }
}
