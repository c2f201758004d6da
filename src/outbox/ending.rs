//! What the end of a connection needs of its outbox, whatever the messages are.

use std::{any::Any, time::Duration};

use super::{Intake, Outbox};
use crate::{sync::Ordering, task::dispose_all};

/// The most time that a graceful end spends on flushing what is queued.
pub(crate) const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);

/// An outbox whatever its messages are: all that the end of a connection needs.
pub(crate) trait AnyOutbox: Any + Send + Sync {
    /// Takes no more messages, and lets the writer end once all is written; `true` if all is written already.
    fn finish(&self) -> bool;

    /// Takes no more messages and drops those that are queued; `true` if there was nothing left to write.
    fn abandon(&self) -> bool;

    /// The most time that a graceful end spends on flushing.
    fn flush_time(&self) -> Duration;

    /// Whether the writer is gone.
    fn is_writer_gone(&self) -> bool;

    /// Tells that the writer is gone.
    fn set_writer_gone(&self);
}

impl<M: Send + 'static> AnyOutbox for Outbox<M> {
    fn finish(&self) -> bool {
        let mut state = self.state.lock();
        if state.intake == Intake::Open {
            state.intake = Intake::Finishing;
        }
        let is_flushed = state.is_flushed(&self.is_last_flushed);
        self.is_last.store(false, Ordering::Release);
        drop(state);
        self.wake_writer();
        is_flushed
    }

    fn abandon(&self) -> bool {
        let mut state = self.state.lock();
        let is_flushed = state.is_flushed(&self.is_last_flushed);
        self.is_last.store(false, Ordering::Release);
        state.intake = Intake::Abandoned;
        let queue = std::mem::take(&mut state.queue);
        let press = state.press.take();
        state.has_waiting_batch = false;
        drop(state);
        self.wake_writer();
        dispose_all(queue);
        if let Some(press) = press {
            press.discard();
        }
        is_flushed
    }

    fn flush_time(&self) -> Duration {
        self.settings.timeout.map_or(MAX_FLUSH_TIME, |timeout| timeout.min(MAX_FLUSH_TIME))
    }

    fn is_writer_gone(&self) -> bool {
        self.writer_gone.load(Ordering::Acquire)
    }

    fn set_writer_gone(&self) {
        self.writer_gone.store(true, Ordering::Release);
    }
}
