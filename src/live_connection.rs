//! The shared part of a live connection: what a sender, an ending and the registry need of it.
//!
//! The registry owns it; removing it from there stops the connection's tasks. The tasks themselves own the halves of the
//! stream and refer to the connection weakly.

use std::{fmt, mem, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{runtime::Handle, task::AbortHandle};

use crate::{
    connection::ConnectionInfo,
    hooks::RunWriter,
    inbound::reader::ReadEnd,
    outbound::{AnyOutbox, MAX_FLUSH_TIME},
    panics::dispose,
    sync::Mutex,
    transport::{ReadHalf, WriteHalf, say_brief_farewell},
};

/// The reading half of the stream, or what reads it.
#[derive(Default)]
pub(crate) enum ReadSide {
    /// Without Reading.
    Unread(#[expect(dead_code, reason = "it keeps the stream open")] ReadHalf),
    /// With Reading, before `on_connect` has begun.
    Ready(BoxFuture<'static, ReadEnd>),
    /// Started. The handle keeps the memory of a task that has ended.
    Running(AbortHandle),
    /// Being started, or stopped; or the handshake has not given the stream back.
    #[default]
    Gone,
}

/// The writing half of the stream, or what writes to it. Boxed: a connection that has sent something has no room for it.
#[derive(Default)]
pub(crate) enum WriteSide {
    /// Without Writing: kept, so that the stream stays open.
    Unwritten(Box<WriteHalf>),
    /// With Writing, before the first message.
    Ready(Box<(WriteHalf, RunWriter)>),
    /// Started. The handle keeps the memory of a task that has ended.
    Running(AbortHandle),
    /// Being started, or stopped; or the handshake has not given the stream back.
    #[default]
    Gone,
}

impl ReadSide {
    fn take_ready(&mut self) -> Option<BoxFuture<'static, ReadEnd>> {
        match mem::take(self) {
            Self::Ready(reader) => Some(reader),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl WriteSide {
    fn take_ready(&mut self) -> Option<(WriteHalf, RunWriter)> {
        match mem::take(self) {
            Self::Ready(ready) => Some(*ready),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Takes the half that nobody writes to.
    fn take_half(&mut self) -> Option<WriteHalf> {
        match mem::take(self) {
            Self::Unwritten(half) => Some(*half),
            Self::Ready(ready) => Some(ready.0),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// The parts of a connection that run, and those that do not.
#[derive(Default)]
struct Parts {
    /// Reads.
    read: ReadSide,
    /// Writes.
    write: WriteSide,
    /// Only while it runs, and if it may be aborted.
    on_connect: Option<AbortHandle>,
    /// Whether nothing runs any more: what was about to be started is aborted.
    is_stopped: bool,
    /// Whether `on_connect` has returned: its handle, which may come later, is not kept.
    is_on_connect_done: bool,
}

/// A live connection.
pub(crate) struct LiveConnection {
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

impl LiveConnection {
    pub(crate) fn new(
        info: ConnectionInfo,
        outbox: Option<Arc<dyn AnyOutbox>>,
        is_wrapped: bool,
        runtime: Handle,
        read: ReadSide,
        write: WriteSide,
    ) -> Self {
        let has_reader = matches!(read, ReadSide::Ready(_));
        let parts = Mutex::new(Parts { read, write, ..Parts::default() });
        Self { info, outbox, is_wrapped, has_reader, runtime, parts }
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

    /// Starts `on_connect`; what `begin` returns is aborted when the connection is stopped.
    pub(crate) fn start_on_connect(&self, begin: impl FnOnce() -> Option<AbortHandle>) {
        if let Some(handle) = begin() {
            self.keep(handle, |parts, handle| {
                if !parts.is_on_connect_done {
                    parts.on_connect = Some(handle);
                }
            });
        }
    }

    /// Starts the reader, unless there is none or the connection has been stopped meanwhile.
    pub(crate) fn start_reader(&self, begin: impl FnOnce(BoxFuture<'static, ReadEnd>) -> AbortHandle) {
        let ready = self.parts.lock().read.take_ready();
        if let Some(reader) = ready {
            self.keep(begin(reader), |parts, handle| parts.read = ReadSide::Running(handle));
        }
    }

    /// Starts the writer, for the first message, unless the connection has been stopped meanwhile.
    pub(crate) fn start_writer(&self, begin: impl FnOnce(WriteHalf, RunWriter) -> AbortHandle) {
        let ready = self.parts.lock().write.take_ready();
        if let Some((half, run)) = ready {
            self.keep(begin(half, run), |parts, handle| parts.write = WriteSide::Running(handle));
        }
    }

    /// Keeps the handle of a task that has been spawned, which may have ended, or been told to stop, in the meantime.
    fn keep(&self, handle: AbortHandle, place: impl FnOnce(&mut Parts, AbortHandle)) {
        let mut parts = self.parts.lock();
        if parts.is_stopped {
            drop(parts);
            handle.abort();
        } else {
            place(&mut parts, handle);
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
        let unused = if is_flushed { self.parts.lock().write.take_half() } else { None };
        if let Some(half) = unused {
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

    /// Takes no more messages, drops those that are queued, and stops the tasks.
    pub(crate) fn stop(&self) {
        self.info.set_ended();
        // A writer may wait for a reader that has never been started.
        self.info.tasks().notify();
        let is_flushed = self.outbox.as_ref().is_none_or(|outbox| outbox.abandon());
        let nothing = Parts { is_stopped: true, ..Parts::default() };
        let Parts { read, write, on_connect, .. } = mem::replace(&mut *self.parts.lock(), nothing);
        if let Some(on_connect) = on_connect {
            on_connect.abort();
        }
        match read {
            ReadSide::Running(reader) => reader.abort(),
            // A decoder and a wrapped stream are user code. Whoever else still refers to the connection must not keep the socket open.
            unused => dispose(unused),
        }
        let writer = match write {
            WriteSide::Running(writer) => writer,
            unused => return dispose(unused),
        };
        // A writer with nothing left to write ends by itself, after its farewell to the peer, which is bounded. That of a
        // wrapped stream begins with a wait for the stream.
        let is_leaving = self.outbox.as_ref().is_some_and(|outbox| outbox.is_writer_gone());
        if !is_leaving && (!is_flushed || self.is_wrapped) {
            writer.abort();
        }
    }
}

impl Drop for LiveConnection {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for LiveConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveConnection").field("info", &self.info).finish_non_exhaustive()
    }
}
