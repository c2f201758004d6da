//! What a reader, and the end of a connection, need of its outbox, whatever the messages are.

use std::time::Duration;

use super::{AnyOutbox, Intake, Outbox};
use crate::{press::ReplyStream, sync::Ordering, task::dispose_all};

/// The most time that a graceful end spends on flushing what is queued.
pub(crate) const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);

impl<M: Send + 'static> AnyOutbox for Outbox<M> {
    fn write_replies(&self, stream: &dyn ReplyStream) {
        self.reply(stream);
    }

    fn hand_over_replies(&self) {
        self.hand_over();
    }

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
