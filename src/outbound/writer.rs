//! The write loop: takes all that is queued as one batch, writes and flushes it, reports, and parks.
//!
//! ```text
//!           +--------------- nothing queued: parked, no buffer held ----------------+
//!           v                                                                       |
//!         load ----> count, write ----> flush ----> confirm ------------------------+
//!           |          |              |
//!           |          +--------------+--> error or timeout: the batch fails
//!           +--> the outbox is finished: its stream is given back
//! ```
//!
//! However much is queued, and however much the stream takes, the loop gives way after [`BYTES_PER_TURN`], and behind a batch
//! that took the time of a turn to be encoded. While a sender is ahead of it, `load` leaves a small batch to grow until the
//! next message, or for one turn.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    task::coop,
    time::{Instant, Sleep, sleep},
};

use super::{
    AnyOutbox, Load, Outbox, WriteStream,
    encoder::{Batch, WriteError},
};
use crate::{
    counting::Observer,
    error,
    panics::Panicked,
    waiting::{Grace, poll_yield},
};

/// How much is written between two pauses in which other tasks get their turn. A reader on the same thread then finds the
/// bytes in the processor's cache; a sender that fills all the buffers of the two sockets at once makes both ends work
/// from memory.
const BYTES_PER_TURN: usize = 256 * 1024;

/// What a message counts for beside its bytes once its batch is written: a turn ends behind the batch that completes about
/// 2,048 small ones, as many as a reader's.
const MESSAGE_WEIGHT: usize = BYTES_PER_TURN / 2048;

/// What a write loop leaves.
pub(crate) struct Written<W: WriteStream> {
    /// How it ended: the outbox was finished and everything has been written, or a batch could not be encoded or written.
    pub(crate) end: Result<(), FailedWrite>,
    /// With the stream, still open. Kept until nobody need wait for the writer any more.
    pub(crate) presence: WriterPresence<W>,
}

/// A batch that failed; dropping it resolves its receipts to `Err(_)`, as if the connection had merely gone away.
pub(crate) struct FailedWrite {
    /// What was to be written.
    batch: Batch,
    /// Why it was not.
    pub(crate) cause: WriteError,
}

impl FailedWrite {
    /// A writer that panicked has lost its batch.
    pub(crate) fn panicked(panicked: Panicked) -> Self {
        Self { batch: Batch::default(), cause: WriteError::Panicked(panicked) }
    }

    /// Tells the waiting receipts what happened.
    pub(crate) fn report(mut self) {
        self.batch.fail(&self.cause.to_error());
    }
}

/// The writing end of an outbox.
pub(crate) struct Writer<W: WriteStream, M: Send + 'static, O> {
    /// Where the messages come from, and where the bytes go.
    presence: WriterPresence<W, Outbox<M>>,
    /// What is being written.
    batch: Batch,
    /// How many of its bytes the OS has taken.
    written: usize,
    /// Whether all of the batch has been written, flushed and reported.
    is_flushed: bool,
    /// Runs while the peer keeps the batch waiting.
    timer: Option<Pin<Box<Sleep>>>,
    /// Of this batch.
    grace: Grace,
    /// Is told what passes.
    observer: O,
}

impl<W, M, O> Writer<W, M, O>
where
    W: WriteStream,
    M: Send + 'static,
    O: Observer,
{
    pub(crate) fn new(half: W, outbox: Arc<Outbox<M>>, observer: O) -> Self {
        Self {
            presence: WriterPresence { half: Some(half), outbox: Some(outbox) },
            batch: Batch::default(),
            written: 0,
            is_flushed: true,
            timer: None,
            grace: Grace::default(),
            observer,
        }
    }

    /// Writes what is queued until the outbox is finished or a write fails; the stream is given back, open.
    ///
    /// A batch that takes longer than the timeout to be flushed, counted from the first time it has to wait, fails.
    ///
    /// # Cancel safety
    /// Dropping it drops the receipts of the batch being written.
    // Not an `async fn`: that would keep room for the writer twice.
    pub(crate) fn run(self) -> impl Future<Output = Written<W>> {
        let mut writer = self;
        async move {
            let end = poll_fn(|cx| writer.poll_run(cx)).await;
            let end = end.map_err(|cause| FailedWrite { batch: std::mem::take(&mut writer.batch), cause });
            Written { end, presence: writer.presence.take_over() }
        }
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut left_of_turn = BYTES_PER_TURN;
        let mut is_turn_over = false;
        loop {
            if !self.is_flushed {
                ready!(self.poll_batch(cx, &mut left_of_turn))?;
                if is_turn_over {
                    return poll_yield(cx);
                }
            }
            match ready!(self.presence.get().poll_load(cx, &mut self.batch)) {
                Load::Finished => return Poll::Ready(Ok(())),
                load => {
                    self.written = 0;
                    self.is_flushed = false;
                    self.grace = Grace::default();
                    is_turn_over = load == Load::SlowBatch;
                }
            }
        }
    }

    /// Writes, flushes and reports one batch.
    fn poll_batch(&mut self, cx: &mut Context<'_>, left_of_turn: &mut usize) -> Poll<Result<(), WriteError>> {
        if !coop::has_budget_remaining() {
            return give_way(cx);
        }
        if self.batch.bytes().is_empty() {
            // Nothing will be asked of the stream, which would count as work of this turn.
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        if let Some(failure) = self.batch.take_failure() {
            return Poll::Ready(Err(failure));
        }
        match self.poll_write_and_flush(cx, left_of_turn) {
            Poll::Ready(result) => result.map_err(WriteError::Io)?,
            Poll::Pending if *left_of_turn == 0 => return poll_yield(cx),
            // The stream may have asked for what is not there.
            Poll::Pending if !coop::has_budget_remaining() => return give_way(cx),
            Poll::Pending => {
                ready!(self.poll_timeout(cx));
                return Poll::Ready(Err(WriteError::TimedOut));
            }
        }
        self.timer = None;
        self.is_flushed = true;
        *left_of_turn = left_of_turn.saturating_sub(self.batch.messages as usize * MESSAGE_WEIGHT);
        if self.batch.bytes().is_empty() {
            // It was never offered to the stream.
            self.observer.sent(self.batch.messages as usize, 0);
        }
        self.batch.confirm();
        Poll::Ready(Ok(()))
    }

    /// Pending with nothing left of the turn: it is over. A flush that has to wait then is asked again in the next one, and
    /// only from there on is the peer the one that is slow.
    fn poll_write_and_flush(&mut self, cx: &mut Context<'_>, left_of_turn: &mut usize) -> Poll<io::Result<()>> {
        let WriterPresence { half: Some(half), outbox: Some(outbox) } = &mut self.presence else {
            unreachable!("they are taken when the loop has ended")
        };
        while self.written < self.batch.bytes().len() {
            if *left_of_turn == 0 {
                return Poll::Pending;
            }
            let rest = &self.batch.bytes()[self.written..];
            let chunk = &rest[..rest.len().min(*left_of_turn)];
            let observer = &self.observer;
            let offered = self.batch.offer(
                self.written,
                chunk.len(),
                || Pin::new(&mut *half).poll_write(cx, chunk),
                |messages, bytes| observer.sent(messages, bytes),
                |messages, bytes| observer.unsent(messages, bytes),
            );
            match ready!(offered)? {
                0 => return Poll::Ready(Err(error::write_zero())),
                count => {
                    self.written += count;
                    outbox.note_progress();
                    *left_of_turn = left_of_turn.saturating_sub(count);
                }
            }
        }
        Pin::new(half).poll_flush(cx)
    }

    /// Ready when the batch has waited too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = self.presence.get().settings().timeout else { return Poll::Pending };
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
            if !timer.is_elapsed() {
                ready!(timer.as_mut().poll(cx));
            }
            let lateness = Instant::now().saturating_duration_since(timer.deadline());
            if ready!(self.grace.poll_is_over(cx, lateness)) {
                return Poll::Ready(());
            }
            self.timer = None;
        }
    }
}

/// Without budget it is this task that must give way, not the peer that is slow: no time is counted.
fn give_way<T>(cx: &Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// The writing end of a connection. Tells the outbox that its writer is gone, however it went.
pub(crate) struct WriterPresence<W: WriteStream, Q: AnyOutbox + ?Sized = dyn AnyOutbox> {
    /// Where the bytes go; `None` once it has been taken.
    half: Option<W>,
    /// Where the messages come from; `None` once another presence has taken over.
    outbox: Option<Arc<Q>>,
}

impl<W: WriteStream, Q: AnyOutbox + ?Sized> WriterPresence<W, Q> {
    pub(crate) fn get(&self) -> &Q {
        let Some(outbox) = &self.outbox else { unreachable!("only a presence that is consumed is taken over") };
        outbox
    }

    /// Takes the stream.
    pub(crate) fn take_half(&mut self) -> W {
        let Some(half) = self.half.take() else { unreachable!("it is taken once") };
        half
    }
}

impl<W: WriteStream, M: Send + 'static> WriterPresence<W, Outbox<M>> {
    /// Makes a presence that goes on when the writer is dropped.
    fn take_over(&mut self) -> WriterPresence<W> {
        WriterPresence { half: self.half.take(), outbox: self.outbox.take().map(|outbox| outbox as _) }
    }
}

impl<W: WriteStream, Q: AnyOutbox + ?Sized> Drop for WriterPresence<W, Q> {
    fn drop(&mut self) {
        let Some(outbox) = &self.outbox else { return };
        // Whoever stops the writer may have waited for the peer long enough.
        if let Some(half) = self.half.as_ref().filter(|_| outbox.is_overdue()) {
            half.reset_when_closed();
        }
        outbox.finish();
        outbox.set_writer_gone();
    }
}
