//! The shared part of a live connection: what a sender, an ending and the registry need of it.
//!
//! The registry owns it; removing it from there stops the connection's tasks. The tasks themselves own the halves of the
//! stream and refer to the link weakly.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::{
    connection::ConnectionInfo,
    outbox::AnyOutbox,
    task::dispose,
    transport::{ReadHalf, WriteHalf, say_farewell},
};

/// The most time that a graceful end spends on flushing what is queued.
pub(crate) const MAX_FLUSH_TIME: Duration = Duration::from_secs(1);

/// The most time that a flush may take on a connection with the given timeout of a batch.
pub(crate) fn flush_time(write_timeout: Option<Duration>) -> Duration {
    write_timeout.map_or(MAX_FLUSH_TIME, |timeout| timeout.min(MAX_FLUSH_TIME))
}

/// The halves of the stream that no task owns, because their protocol is not enabled; kept so that the stream stays open.
#[derive(Debug)]
pub(crate) struct UnusedHalves {
    /// Without Reading.
    pub(crate) read: Option<ReadHalf>,
    /// Without Writing.
    pub(crate) write: Option<WriteHalf>,
}

/// The tasks of a connection. A handle keeps the memory of a task that has ended.
#[derive(Debug, Default)]
pub(crate) struct LinkTasks {
    /// With Reading.
    pub(crate) reader: Option<AbortHandle>,
    /// With Writing.
    pub(crate) writer: Option<AbortHandle>,
    /// Only if it may be aborted.
    pub(crate) on_connect: Option<AbortHandle>,
}

/// A live connection.
pub(crate) struct Link {
    /// What the connection is.
    info: ConnectionInfo,
    /// `None` if the connection was set up without Writing.
    outbox: Option<Arc<dyn AnyOutbox>>,
    /// Whether the writer has to wait for the stream even when all is written: a wrapped one has its own farewell to send.
    is_wrapped: bool,
    /// The most time that a flush may take.
    flush_time: Duration,
    /// `None` if there are none, as is usual.
    unused: Mutex<Option<Box<UnusedHalves>>>,
    /// Filled at once after the link was established; held while the tasks are spawned.
    tasks: Mutex<LinkTasks>,
}

impl Link {
    /// `write_timeout` bounds a flush further.
    pub(crate) fn new(
        info: ConnectionInfo,
        outbox: Option<Arc<dyn AnyOutbox>>,
        is_wrapped: bool,
        write_timeout: Option<Duration>,
        unused: UnusedHalves,
    ) -> Self {
        let unused = (unused.read.is_some() || unused.write.is_some()).then(|| Box::new(unused));
        let flush_time = flush_time(write_timeout);
        Self { info, outbox, is_wrapped, flush_time, unused: Mutex::new(unused), tasks: Mutex::default() }
    }

    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    pub(crate) fn outbox(&self) -> Option<&dyn AnyOutbox> {
        self.outbox.as_deref()
    }

    /// Starts the tasks. Whoever stops the link waits until they can be aborted: a task may run, and end the connection,
    /// before the one that was spawned after it.
    pub(crate) fn start(&self, begin_all: impl FnOnce() -> LinkTasks) {
        let mut tasks = self.tasks.lock();
        *tasks = begin_all();
    }

    /// Gives up the handle of `on_connect`, which is returning.
    pub(crate) fn set_on_connect_done(&self) {
        let done = self.tasks.lock().on_connect.take();
        drop(done);
    }

    /// Takes no more messages, writes those that are queued and says farewell to the peer, as far as it takes them in
    /// time.
    pub(crate) async fn flush(&self) {
        if let Some(outbox) = &self.outbox {
            let is_flushed = outbox.finish();
            // With everything written to a socket, the writer's farewell needs nobody to wait for it.
            if !is_flushed || self.is_wrapped {
                self.info.tasks().wait_for(|| outbox.is_writer_gone(), self.flush_time).await;
            }
            return;
        }
        let unused = self.unused.lock().as_mut().and_then(|unused| unused.write.take());
        if let Some(half) = unused {
            self.info.set_ended();
            say_farewell(half, self.flush_time).await;
        }
    }

    /// Takes no more messages, drops those that are queued, and stops the tasks.
    pub(crate) fn stop(&self) {
        self.info.set_ended();
        let is_flushed = self.outbox.as_ref().is_none_or(|outbox| outbox.abandon());
        // A wrapped stream is user code. Whoever else still refers to the link must not keep the socket open.
        let unused = self.unused.lock().take();
        dispose(unused);
        let LinkTasks { reader, writer, on_connect } = std::mem::take(&mut *self.tasks.lock());
        for task in [reader, on_connect].into_iter().flatten() {
            task.abort();
        }
        // A writer with nothing left to write to a socket ends by itself, at once, after its farewell to the peer.
        if let (Some(writer), true) = (writer, !is_flushed || self.is_wrapped) {
            writer.abort();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("info", &self.info).finish_non_exhaustive()
    }
}
