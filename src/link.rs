//! The shared part of a live connection: what a sender, an ending and the registry need of it.
//!
//! The registry owns it; removing it from there stops the connection's tasks. The tasks themselves own the halves of the
//! stream and refer to the link weakly.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    connection::ConnectionInfo,
    framing::read::ReadEnd,
    hooks::RunWriter,
    outbox::{AnyOutbox, MAX_FLUSH_TIME},
    sync::Mutex,
    task::dispose,
    transport::{ReadHalf, WriteHalf, say_brief_farewell},
};

/// What no task owns: the halves of the stream, kept so that it stays open, and the loops that have not been started.
pub(crate) struct Dormant {
    /// Without Reading.
    pub(crate) read: Option<ReadHalf>,
    /// Without Writing, or before the first message.
    pub(crate) write: Option<WriteHalf>,
    /// With Reading, before `on_connect` has begun.
    pub(crate) reader: Option<BoxFuture<'static, ReadEnd>>,
    /// With Writing, before the first message.
    pub(crate) writer: Option<DormantWriter>,
}

impl Dormant {
    fn is_used_up(&self) -> bool {
        self.read.is_none() && self.write.is_none() && self.reader.is_none()
    }
}

/// A write loop that has had nothing to write so far.
pub(crate) struct DormantWriter {
    /// Runs it.
    pub(crate) run: RunWriter,
}

/// The parts of a connection that run, and those that do not. A handle keeps the memory of a task that has ended.
#[derive(Default)]
struct Parts {
    /// With Reading, once it is started.
    reader: Option<AbortHandle>,
    /// With Writing, from the first message on.
    writer: Option<AbortHandle>,
    /// Only while it runs, and if it may be aborted.
    on_connect: Option<AbortHandle>,
    /// `None` if there are none, as is usual once a message has been sent.
    dormant: Option<Box<Dormant>>,
    /// Whether nothing runs any more: what was about to be started is aborted.
    is_stopped: bool,
    /// Whether `on_connect` has returned: its handle, which may come later, is not kept.
    is_on_connect_done: bool,
}

/// A live connection.
pub(crate) struct Link {
    /// What the connection is.
    info: ConnectionInfo,
    /// `None` if the connection was set up without Writing.
    outbox: Option<Arc<dyn AnyOutbox>>,
    /// Whether the writer has to wait for the stream even when all is written: a wrapped one has its own farewell to send.
    is_wrapped: bool,
    /// Whether the connection was set up with Reading.
    has_reader: bool,
    /// Where its tasks run: the sender of the first message may be anywhere, and so may be who ends it.
    runtime: Handle,
    /// Not held while tasks are spawned: a runtime that is shutting down drops them at once, and their drop ends the
    /// connection.
    parts: Mutex<Parts>,
}

impl Link {
    pub(crate) fn new(
        info: ConnectionInfo,
        outbox: Option<Arc<dyn AnyOutbox>>,
        is_wrapped: bool,
        runtime: Handle,
        dormant: Dormant,
    ) -> Self {
        let has_reader = dormant.reader.is_some();
        let dormant = (!dormant.is_used_up()).then(|| Box::new(dormant));
        Self { info, outbox, is_wrapped, has_reader, runtime, parts: Mutex::new(Parts { dormant, ..Parts::default() }) }
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    pub(crate) fn outbox(&self) -> Option<&dyn AnyOutbox> {
        self.outbox.as_deref()
    }

    /// Starts `on_connect`; what `begin` returns is aborted when the link is stopped.
    pub(crate) fn start_on_connect(&self, begin: impl FnOnce() -> Option<AbortHandle>) {
        if let Some(handle) = begin() {
            self.keep(handle, |parts| (!parts.is_on_connect_done).then_some(&mut parts.on_connect));
        }
    }

    /// Starts the reader, unless there is none or the link has been stopped meanwhile.
    pub(crate) fn start_reader(&self, begin: impl FnOnce(BoxFuture<'static, ReadEnd>) -> AbortHandle) {
        let mut parts = self.parts.lock();
        let Some(reader) = parts.dormant.as_mut().and_then(|dormant| dormant.reader.take()) else { return };
        parts.dormant.take_if(|dormant| dormant.is_used_up());
        drop(parts);
        self.keep(begin(reader), |parts| Some(&mut parts.reader));
    }

    /// Starts the writer, for the first message, unless the link has been stopped meanwhile.
    pub(crate) fn start_writer(&self, begin: impl FnOnce(WriteHalf, DormantWriter) -> AbortHandle) {
        let mut parts = self.parts.lock();
        let Some(dormant) = parts.dormant.as_mut() else { return };
        let (Some(half), Some(writer)) = (dormant.write.take(), dormant.writer.take()) else { return };
        parts.dormant.take_if(|dormant| dormant.is_used_up());
        drop(parts);
        self.keep(begin(half, writer), |parts| Some(&mut parts.writer));
    }

    /// Keeps the handle of a task that has been spawned, which may have ended, or been told to stop, in the meantime.
    fn keep(&self, handle: AbortHandle, place: impl FnOnce(&mut Parts) -> Option<&mut Option<AbortHandle>>) {
        let mut parts = self.parts.lock();
        if parts.is_stopped {
            drop(parts);
            handle.abort();
        } else if let Some(place) = place(&mut parts) {
            *place = Some(handle);
        }
    }

    /// Whether there is a reader, running or about to run.
    pub(crate) fn has_reader(&self) -> bool {
        self.has_reader
    }

    /// Gives up the handle of `on_connect`, which is returning.
    pub(crate) fn set_on_connect_done(&self) {
        let mut parts = self.parts.lock();
        parts.is_on_connect_done = true;
        let done = parts.on_connect.take();
        drop(parts);
        drop(done);
    }

    /// Takes no more messages, writes those that are queued and says farewell to the peer, as far as it takes them in
    /// time.
    pub(crate) async fn flush(&self) {
        let is_flushed = self.outbox.as_ref().is_none_or(|outbox| outbox.finish());
        let flush_time = self.outbox.as_ref().map_or(MAX_FLUSH_TIME, |outbox| outbox.flush_time());
        // A message that was queued before its sender has started the writer still gets it.
        let dormant = if is_flushed { self.take_write_half() } else { None };
        if let Some(half) = dormant {
            self.info.set_ended();
            say_brief_farewell(half, flush_time).await;
        } else if let Some(outbox) = &self.outbox
            // With everything written to a socket, the writer's farewell needs nobody to wait for it.
            && (!is_flushed || self.is_wrapped)
        {
            let is_written = self.info.tasks().wait_for(|| outbox.is_writer_gone(), flush_time).await;
            if !is_written {
                outbox.set_overdue();
            }
        }
    }

    fn take_write_half(&self) -> Option<WriteHalf> {
        self.parts.lock().dormant.as_mut().and_then(|dormant| dormant.write.take())
    }

    /// Takes no more messages, drops those that are queued, and stops the tasks.
    pub(crate) fn stop(&self) {
        self.info.set_ended();
        // A writer may wait for a reader that has never been started.
        self.info.tasks().notify();
        let is_flushed = self.outbox.as_ref().is_none_or(|outbox| outbox.abandon());
        let nothing = Parts { is_stopped: true, ..Parts::default() };
        let Parts { reader, writer, on_connect, dormant, .. } = std::mem::replace(&mut *self.parts.lock(), nothing);
        // A decoder and a wrapped stream are user code. Whoever else still refers to the link must not keep the socket open.
        dispose(dormant);
        for task in [reader, on_connect].into_iter().flatten() {
            task.abort();
        }
        // A writer with nothing left to write ends by itself, after its farewell to the peer, which is bounded. That of a
        // wrapped stream begins with a wait for the stream.
        let is_leaving = self.outbox.as_ref().is_some_and(|outbox| outbox.is_writer_gone());
        if let Some(writer) = writer.filter(|_| !is_leaving && (!is_flushed || self.is_wrapped)) {
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
