//! The tasks of a live connection: their loops, and what follows from the end of each.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tracing::debug;

use super::{
    MAX_STOP_TIME,
    ending::{cut_short, tear_down},
    report_panic,
};
use crate::{
    connection::{ConnectionInfo, DisconnectOrigin},
    error::describe,
    inbound::reader::{DRAIN_TIME, ReadEnd},
    kernel::Kernel,
    live_connection::LiveConnection,
    outbound::{
        WriteStream,
        encoder::WriteError,
        writer::{FailedWrite, WriterPresence, Written},
    },
    panics::{OnDrop, Panicked, catch, dispose},
    registry::Teardown,
    transport::{WriteHalf, say_brief_farewell, shut, stay_until_peer_closes},
};

/// A task of a connection: runs its loop, and then what follows from the end of it.
pub(super) struct ConnectionTask<T>(Stage<T>);

enum Stage<T> {
    Running {
        /// Owns user code: the codec, a wrapped stream.
        the_loop: BoxFuture<'static, T>,
        /// For what follows.
        ender: Ender,
        /// What follows; made when it is needed, so that a connection does not carry it all its life.
        follow: fn(Result<T, Panicked>, Ender) -> BoxFuture<'static, ()>,
    },
    Following(BoxFuture<'static, ()>),
    Done,
}

impl<T> ConnectionTask<T> {
    pub(super) fn new(
        the_loop: BoxFuture<'static, T>,
        ender: Ender,
        follow: fn(Result<T, Panicked>, Ender) -> BoxFuture<'static, ()>,
    ) -> Self {
        Self(Stage::Running { the_loop, ender, follow })
    }
}

impl<T> Future for ConnectionTask<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let stage = &mut self.0;
        if let Stage::Running { the_loop, .. } = stage {
            let result = match catch(|| the_loop.as_mut().poll(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(output)) => Ok(output),
                Err(panicked) => Err(panicked),
            };
            if let Stage::Running { the_loop, ender, follow } = std::mem::replace(stage, Stage::Done) {
                dispose(the_loop);
                *stage = Stage::Following(follow(result, ender));
            }
        }
        match stage {
            Stage::Following(following) => following.as_mut().poll(cx),
            Stage::Running { .. } | Stage::Done => Poll::Ready(()),
        }
    }
}

impl<T> Drop for ConnectionTask<T> {
    /// Dropped while its loop runs: by whoever has ended the connection, or by a runtime that goes away and takes the
    /// connection with it.
    fn drop(&mut self) {
        if let Stage::Running { the_loop, ender, .. } = std::mem::replace(&mut self.0, Stage::Done) {
            dispose(the_loop);
            ender.end_unclaimed();
        }
    }
}

pub(super) fn after_reading(reason: Result<ReadEnd, Panicked>, ender: Ender) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let reason = reason.unwrap_or_else(ReadEnd::DecoderPanicked);
        match &reason {
            ReadEnd::Stopped => return,
            ReadEnd::Eof => debug!(parent: ender.info.span(), "the peer closed the connection"),
            ReadEnd::Truncated(error) | ReadEnd::Io(error) | ReadEnd::Decoding(error) => {
                debug!(parent: ender.info.span(), error = describe(error), "could not read")
            }
            ReadEnd::Idle => debug!(parent: ender.info.span(), "no message within Reading::IDLE_TIMEOUT_MS"),
            ReadEnd::DecoderPanicked(panicked) => {
                _ = report_panic(&ender.kernel, "the decoder or the stream", &ender.info, panicked)
            }
            ReadEnd::ProcessPanicked(panicked) => {
                _ = report_panic(&ender.kernel, "process_message", &ender.info, panicked)
            }
        }
        if ender.info.has_write_failed() {
            // The writer has noticed the end first, and waits for this.
            return ender.info.set_reader_done();
        }
        if let Some(claim) = ender.claim() {
            if matches!(reason, ReadEnd::Idle) {
                ender.kernel.heuristics().idle_timeouts.increment();
            }
            tear_down(&ender.kernel, claim, None).await;
        }
    })
}

pub(super) fn after_writing(written: Result<Written<WriteHalf>, Panicked>, ender: Ender) -> BoxFuture<'static, ()> {
    match written {
        Ok(Written { end: Ok(()), presence }) => Box::pin(say_farewell(presence, ender)),
        Ok(Written { end: Err(failed), presence }) => Box::pin(after_failed_write(failed, presence, ender)),
        // The stream is gone with the loop.
        Err(panicked) => Box::pin(async move {
            let failed = FailedWrite::panicked(panicked);
            report_cause(&failed.cause, &ender);
            end_claimed(ender.claim(), failed, &ender).await;
        }),
    }
}

/// What a writer does that has written everything: shuts the stream, and stays until the peer has closed it too.
async fn say_farewell(mut presence: WriterPresence<WriteHalf>, ender: Ender) {
    let mut half = presence.take_half();
    // The reader uses nothing more: what the farewell discards would be missing in it.
    ender.info.set_ended();
    if !ender.info.stats().has_sent() {
        return say_brief_farewell(half, presence.get().time_left()).await;
    }
    let is_shut = shut(&mut half, presence.get().time_left()).await;
    let time_left = presence.get().time_left();
    // Over before whoever waits for this task gives up, which matters only if both have the same time.
    let margin = STOP_MARGIN.saturating_sub(MAX_STOP_TIME.saturating_sub(presence.get().flush_time()));
    // Whoever ends the connection waits for what was queued to be written, and not for the rest.
    drop(presence);
    ender.info.tasks().notify();
    if is_shut {
        stay(half, time_left.saturating_sub(margin), &ender.kernel).await;
    }
}

/// Keeps the socket of a connection that is over until the peer has closed, unless too many stay already: their slots are
/// free, so a peer that lets its connections be ended as fast as it can dial would use up all descriptors.
async fn stay(half: WriteHalf, bound: Duration, kernel: &Kernel) {
    let _staying = kernel.farewells.present();
    // At least this one. Of several that come at once for the last places none may get one: the bound is what counts.
    if kernel.farewells.running() <= usize::from(kernel.config.max_connections).max(MIN_FAREWELLS) {
        stay_until_peer_closes(half, bound).await;
    }
}

/// So many sockets may stay open for a farewell on any node; more if it may have more connections: its default limit.
const MIN_FAREWELLS: usize = 100;

/// How much earlier than [`MAX_STOP_TIME`] a farewell ends at the latest, so that the task is gone when that is reached.
const STOP_MARGIN: Duration = Duration::from_millis(50);

/// What a writer does whose batch could not be encoded or written.
async fn after_failed_write(failed: FailedWrite, mut presence: WriterPresence<WriteHalf>, ender: Ender) {
    let mut half = presence.take_half();
    report_cause(&failed.cause, &ender);
    // From here on a send is refused, whoever ends the connection.
    presence.get().finish();
    let flush_time = presence.get().flush_time();
    match failed.cause {
        WriteError::Io(_) => {
            // The receipts do not wait for what the peer has sent before: those of the batch first, then those behind it.
            failed.report();
            presence.get().abandon();
            drop(presence);
            let claim = {
                let _if_dropped_meanwhile = OnDrop(|| ender.end_unclaimed());
                ender.finish_reading().await;
                ender.claim()
            };
            // Not before the claim: the peer learns of it, and may hang up before we have told why the connection ends.
            dispose(half);
            if let Some(claim) = claim {
                tear_down(&ender.kernel, claim, None).await;
            }
        }
        WriteError::TimedOut => {
            half.reset_when_closed();
            let claim = ender.claim();
            dispose(half);
            if claim.is_some() {
                ender.kernel.heuristics().write_timeouts.increment();
            }
            end_claimed(claim, failed, &ender).await;
            drop(presence);
        }
        WriteError::Encode(_) | WriteError::Panicked(_) => {
            let claim = ender.claim();
            // The ending waits for nothing more of this task, and does not stop it: what was confirmed must still arrive.
            drop(presence);
            end_claimed(claim, failed, &ender).await;
            ender.info.set_ended();
            if !ender.info.stats().has_sent() {
                return say_brief_farewell(half, flush_time).await;
            }
            let began = Instant::now();
            if shut(&mut half, flush_time).await {
                stay(half, flush_time.saturating_sub(began.elapsed()), &ender.kernel).await;
            }
        }
    }
}

/// Runs the ending, if this task has claimed it, and tells the receipts.
async fn end_claimed(claim: Option<Teardown<LiveConnection>>, failed: FailedWrite, ender: &Ender) {
    if let Some(claim) = claim {
        tear_down(&ender.kernel, claim, Some(failed)).await;
    } else {
        failed.report();
        if let Some(live) = ender.live.upgrade()
            && let Some(outbox) = live.outbox()
        {
            outbox.abandon();
        }
    }
}

fn report_cause(cause: &WriteError, ender: &Ender) {
    match cause {
        WriteError::Panicked(panicked) => {
            _ = report_panic(&ender.kernel, "the encoder or the stream", &ender.info, panicked)
        }
        WriteError::Encode(_) | WriteError::Io(_) | WriteError::TimedOut => {
            debug!(parent: ender.info.span(), error = describe(&cause.to_error()), "could not write")
        }
    }
}

pub(super) fn after_on_connect(result: Result<(), Panicked>, ender: Ender) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Err(panicked) = result {
            report_panic(&ender.kernel, "on_connect", &ender.info, &panicked);
            if let Some(claim) = ender.claim() {
                tear_down(&ender.kernel, claim, None).await;
            }
        } else if let Some(live) = ender.live.upgrade() {
            live.set_on_connect_done();
        }
    })
}

/// What a task of a connection needs to claim its end.
pub(super) struct Ender {
    /// The node.
    kernel: Arc<Kernel>,
    /// Gone once the connection is.
    live: Weak<LiveConnection>,
    /// What the connection is, also after its end.
    info: ConnectionInfo,
    /// What an ending that this task claims is due to.
    origin: DisconnectOrigin,
}

impl Ender {
    pub(super) fn new(kernel: &Arc<Kernel>, live: &Arc<LiveConnection>, origin: DisconnectOrigin) -> Self {
        Self { kernel: Arc::clone(kernel), live: Arc::downgrade(live), info: live.info().clone(), origin }
    }

    /// Lets the reader finish what the peer has sent before a write to it failed, for a while.
    async fn finish_reading(&self) {
        self.info.set_write_failed();
        // Whoever ends the connection need not wait for the writer any more.
        self.info.tasks().notify();
        if self.live.upgrade().is_some_and(|live| live.has_reader()) {
            self.info.tasks().wait_for(|| self.info.is_reader_done() || self.info.has_ended(), DRAIN_TIME).await;
        }
    }

    /// Ends the connection at once, unless somebody else does: its task has been dropped before it could.
    fn end_unclaimed(&self) {
        if let Some(claim) = self.claim() {
            debug!(parent: self.info.span(), "a task of the connection was dropped with its runtime");
            cut_short(&self.kernel, claim);
        }
    }

    /// Claims the end of this very connection, never that of a successor at the same address.
    fn claim(&self) -> Option<Teardown<LiveConnection>> {
        self.kernel.registry.claim(self.info.addr(), self.info.id(), self.origin)
    }
}
