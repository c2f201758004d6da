//! What a reader, and the end of a connection, need of its outbox, whatever the messages are.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{AnyOutbox, Intake, Outbox, wake};
use crate::{sync::Ordering, task::dispose_all};

/// The most time that a graceful end spends on flushing what is queued.
pub(crate) const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);

impl<M: Send + 'static> AnyOutbox for Outbox<M> {
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = Box::new(cx.waker().clone());
        let mut state = self.state.lock();
        let has_room = state.intake != Intake::Open || state.has_room(self.half_depth());
        let before = if has_room { state.awaits_room.take() } else { state.awaits_room.replace(waker) };
        drop(state);
        drop(before);
        if has_room { Poll::Ready(()) } else { Poll::Pending }
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
        if state.intake == Intake::Open {
            state.intake = Intake::Finishing;
            state.finished_at = Some(now);
        }
        let waiting = state.awaits_room.take();
        let is_flushed = state.is_flushed();
        drop(state);
        self.wake_writer();
        wake(waiting);
        is_flushed
    }

    fn abandon(&self) -> bool {
        let mut state = self.state.lock();
        let is_flushed = state.is_flushed();
        state.intake = Intake::Abandoned;
        let queue = std::mem::take(&mut state.queue);
        let press = state.press.take();
        let waiting = state.awaits_room.take();
        state.has_waiting_batch = false;
        drop(state);
        self.wake_writer();
        wake(waiting);
        dispose_all(queue);
        if let Some(press) = press {
            press.discard();
        }
        is_flushed
    }

    fn flush_time(&self) -> Duration {
        self.settings.timeout.map_or(MAX_FLUSH_TIME, |timeout| timeout.min(MAX_FLUSH_TIME))
    }

    fn time_left(&self) -> Duration {
        let finished_at = self.state.lock().finished_at.as_deref().copied();
        finished_at.map_or(Duration::ZERO, |at| self.flush_time().saturating_sub(at.elapsed()))
    }

    fn set_overdue(&self) {
        self.is_overdue.store(true, Ordering::Release);
    }

    fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Acquire)
    }

    fn is_writer_gone(&self) -> bool {
        self.writer_gone.load(Ordering::Acquire)
    }

    fn set_writer_gone(&self) {
        self.writer_gone.store(true, Ordering::Release);
    }
}
