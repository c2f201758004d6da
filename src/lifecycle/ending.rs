//! The tasks of a live connection, and its end.

use std::{
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use tracing::debug;

use super::{MAX_STOP_TIME, report_panic};
use crate::{
    connection::{ConnectionInfo, DisconnectOrigin},
    error::describe,
    framing::{
        read::ReadEnd,
        write::{FailedWrite, WriteEnd, Written},
    },
    kernel::Kernel,
    link::Link,
    registry::Teardown,
    scope::{self, Scope, Scoped},
    task::{Panicked, bound, catch, caught, dispose, poll_once, within},
    transport::{WriteHalf, say_farewell},
};

/// A task of a connection: runs its loop, and then what follows from the end of it.
pub(super) enum LinkTask<T> {
    Running {
        /// Owns user code: the codec, a wrapped stream.
        the_loop: BoxFuture<'static, T>,
        /// For what follows.
        link: Ender,
        /// What follows; made when it is needed, so that a connection does not carry it all its life.
        follow: fn(Result<T, Panicked>, Ender) -> BoxFuture<'static, ()>,
    },
    Following(BoxFuture<'static, ()>),
    Done,
}

impl<T> LinkTask<T> {
    pub(super) fn new(
        the_loop: BoxFuture<'static, T>,
        link: Ender,
        follow: fn(Result<T, Panicked>, Ender) -> BoxFuture<'static, ()>,
    ) -> Self {
        Self::Running { the_loop, link, follow }
    }
}

impl<T> Future for LinkTask<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        if let Self::Running { the_loop, .. } = task {
            let result = match catch(|| the_loop.as_mut().poll(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(output)) => Ok(output),
                Err(panicked) => Err(panicked),
            };
            if let Self::Running { the_loop, link, follow } = std::mem::replace(task, Self::Done) {
                dispose(the_loop);
                *task = Self::Following(follow(result, link));
            }
        }
        match task {
            Self::Following(following) => following.as_mut().poll(cx),
            Self::Running { .. } | Self::Done => Poll::Ready(()),
        }
    }
}

pub(super) fn after_reading(reason: Result<ReadEnd, Panicked>, link: Ender) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let reason = reason.unwrap_or_else(ReadEnd::DecoderPanicked);
        match &reason {
            ReadEnd::Stopped => return,
            ReadEnd::Eof => debug!(parent: link.info.span(), "the peer closed the connection"),
            ReadEnd::Truncated(error) | ReadEnd::Io(error) | ReadEnd::Decoding(error) => {
                debug!(parent: link.info.span(), error = describe(error), "could not read")
            }
            ReadEnd::Idle => debug!(parent: link.info.span(), "no message within Reading::IDLE_TIMEOUT_MS"),
            ReadEnd::DecoderPanicked(panicked) => {
                _ = report_panic(&link.kernel, "the decoder or the stream", &link.info, panicked)
            }
            ReadEnd::ProcessPanicked(panicked) => {
                _ = report_panic(&link.kernel, "process_message", &link.info, panicked)
            }
        }
        if let Some(claim) = link.claim() {
            if matches!(reason, ReadEnd::Idle) {
                link.kernel.heuristics().idle_timeouts.increment();
            }
            tear_down(&link.kernel, claim, None).await;
        }
    })
}

pub(super) fn after_writing(written: Result<Written<WriteHalf>, Panicked>, link: Ender) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        // The presence is kept to the end: whoever waits for the writer waits for its farewell too.
        let (failed, rest) = match written {
            Ok(Written { end: WriteEnd::Finished, half, presence }) => {
                // The reader uses nothing more: what the farewell discards would be missing in it.
                link.info.set_ended();
                say_farewell(half, presence.get().flush_time()).await;
                return drop(presence);
            }
            Ok(Written { end: WriteEnd::Failed(failed), half, presence }) => (failed, Some((half, presence))),
            Err(panicked) => (FailedWrite::panicked(panicked), None),
        };
        match &failed.panicked {
            Some(panicked) => _ = report_panic(&link.kernel, "the encoder or the stream", &link.info, panicked),
            None => debug!(parent: link.info.span(), error = describe(&failed.error), "could not write"),
        }
        // From here on a send is refused, whoever ends the connection.
        if let Some((_, presence)) = &rest {
            presence.get().finish();
        }
        let claim = link.claim();
        // Not before the claim: the peer learns of it, and may hang up before we have told why the connection ends.
        let presence = rest.map(|(half, presence)| {
            dispose(half);
            presence
        });
        if let Some(claim) = claim {
            if failed.is_timeout {
                link.kernel.heuristics().write_timeouts.increment();
            }
            tear_down(&link.kernel, claim, Some(failed)).await;
        } else {
            failed.report();
            if let Some(presence) = &presence {
                presence.get().abandon();
            }
        }
    })
}

pub(super) fn after_on_connect(result: Result<(), Panicked>, link: Ender) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if let Err(panicked) = result {
            report_panic(&link.kernel, "on_connect", &link.info, &panicked);
            if let Some(claim) = link.claim() {
                tear_down(&link.kernel, claim, None).await;
            }
        } else if let Some(link) = link.link.upgrade() {
            link.set_on_connect_done();
        }
    })
}

/// What a task of a connection needs to claim its end.
pub(super) struct Ender {
    /// The node.
    kernel: Arc<Kernel>,
    /// The weak reference keeps the allocation from being used for another link, so its address is an identity.
    link: Weak<Link>,
    /// What the connection is, also after its end.
    info: ConnectionInfo,
    /// What an ending that this task claims is due to.
    origin: DisconnectOrigin,
}

impl Ender {
    pub(super) fn new(kernel: &Arc<Kernel>, link: &Arc<Link>, origin: DisconnectOrigin) -> Self {
        Self { kernel: Arc::clone(kernel), link: Arc::downgrade(link), info: link.info().clone(), origin }
    }

    /// Claims the end of this very connection, never that of a successor at the same address.
    fn claim(&self) -> Option<Teardown<Link>> {
        self.kernel.registry.claim(self.info.addr(), Some(self.link.as_ptr()), self.origin)
    }
}

/// Ends the connection of the address; `false` if there is none or somebody else is ending it.
pub(crate) async fn disconnect(kernel: &Arc<Kernel>, addr: SocketAddr) -> bool {
    let Some(link) = kernel.connection_at(addr) else { return false };
    let claim = kernel.registry.claim(addr, Some(Arc::as_ptr(&link)), DisconnectOrigin::User);
    // Not before the claim: a successor's link could get the same allocation, and be taken for this one.
    drop(link);
    let Some(claim) = claim else { return false };
    let info = claim.connection().info().clone();
    tear_down(kernel, claim, None).await;
    // A hook of this connection that called us has been told to stop too, and would be dropped at this await.
    if !scope::is_inside_task_of(info.identity()) {
        info.tasks().wait_for_all(MAX_STOP_TIME).await;
    }
    true
}

/// Runs the ending that was claimed: OnDisconnect, flush, stop, release. The first poll begins OnDisconnect.
///
/// # Cancel safety
/// Dropping it stops the connection and releases its slot at once.
pub(super) async fn tear_down(kernel: &Arc<Kernel>, claim: Teardown<Link>, mut failed: Option<FailedWrite>) {
    // Dropped before the claim is: stopped first, then released.
    let ending = Ending(claim);
    let link = ending.0.connection();
    let (addr, origin) = (ending.0.addr(), ending.0.origin());
    if let Some(hook) = kernel.hooks.on_disconnect() {
        let scope = Scope { node: kernel.identity(), ..Scope::default() };
        let limit = bound(hook.timeout_ms());
        let run = Scoped::new(scope, Box::pin(caught(move || hook.on_disconnect(addr, origin))));
        let mut run = pin!(within(limit, run));
        let begun = poll_once(run.as_mut()).await;
        // The receipts must not wait for the hook, and the hook may wait for the receipts.
        report_failed_write(link, &mut failed);
        let outcome = match begun {
            Some(outcome) => outcome,
            None => run.await,
        };
        match outcome {
            Some(Ok(())) => {}
            Some(Err(panicked)) => _ = report_panic(kernel, "on_disconnect", link.info(), &panicked),
            None => debug!(parent: link.info().span(), "on_disconnect ran out of time"),
        }
    }
    report_failed_write(link, &mut failed);
    if origin != DisconnectOrigin::Writing {
        link.flush().await;
    }
    debug!(parent: link.info().span(), ?origin, "ended");
}

/// Resolves the receipts of a failed batch, and then those of everything behind it.
fn report_failed_write(link: &Link, failed: &mut Option<FailedWrite>) {
    if let Some(failed) = failed.take() {
        failed.report();
        if let Some(outbox) = link.outbox() {
            outbox.abandon();
        }
    }
}

/// A claimed ending: stops the connection, then releases its slot.
struct Ending(Teardown<Link>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.connection().stop();
    }
}
