//! From a message to the outbox of its peer.

use std::{any::Any, io, net::SocketAddr, sync::Arc};

use super::setup::start_writer;
use crate::{
    error, inside,
    kernel::Kernel,
    live_connection::LiveConnection,
    outbound::{
        AnyOutbox, Outbox, Placed, PushError, Queued,
        encoder::{Item, ReceiptSender},
    },
};

/// Queues a message for one peer.
pub(crate) fn send<M: Send + 'static>(
    kernel: &Arc<Kernel>,
    addr: SocketAddr,
    message: M,
    receipt: Option<ReceiptSender>,
) -> io::Result<()> {
    send_by(kernel, addr, message, receipt, |live| start_writer(kernel, live))
}

/// The same with the caller's way to start the writer.
pub(super) fn send_by<M: Send + 'static>(
    kernel: &Kernel,
    addr: SocketAddr,
    message: M,
    receipt: Option<ReceiptSender>,
    start_writer: impl FnOnce(&Arc<LiveConnection>),
) -> io::Result<()> {
    let mut item = Some(Item { message, receipt });
    let own = inside::connection_with(kernel.identity(), addr);
    // Most messages are only queued, and to hold the connection for that would cost as much again.
    let reached = kernel.registry.visit(addr, |live| {
        if own.is_some_and(|own| own != live.info().id()) {
            return Reached::Nobody;
        }
        let Some(outbox) = live.outbox() else { return Reached::OlderThanWriting };
        let Some(outbox) = typed::<M>(outbox) else { return Reached::OtherType };
        match outbox.place(&mut item, false) {
            Placed::Queued => Reached::Queue,
            placed => Reached::LiveConnection(Arc::clone(live), placed),
        }
    });
    let (live, placed) = match reached {
        Some(Reached::Queue) => return Ok(()),
        Some(Reached::LiveConnection(live, placed)) => (live, placed),
        Some(Reached::OtherType) => return Err(error::writing_unsupported()),
        Some(Reached::OlderThanWriting) => {
            return Err(why_nobody_writes(kernel).unwrap_or_else(|| error::older_than_writing(addr)));
        }
        Some(Reached::Nobody) | None => {
            return Err(why_nobody_writes(kernel).unwrap_or_else(|| error::not_connected(addr)));
        }
    };
    let Some(outbox) = live.outbox().and_then(typed::<M>) else { unreachable!("seen under the lock") };
    match outbox.follow_up(placed, item) {
        Ok(Queued::Expected) => Ok(()),
        Ok(Queued::First) => {
            start_writer(&live);
            Ok(())
        }
        Err(PushError::Full) => Err(error::queue_full(addr, outbox.settings().depth)),
        Err(PushError::Closed) => Err(error::writer_gone(addr)),
    }
}

/// Queues a clone of a message for every peer; tells which peers do not get it, and why.
pub(crate) fn send_to_all<M: Clone + Send + 'static>(
    kernel: &Arc<Kernel>,
    message: &M,
    mut skipped: impl FnMut(SocketAddr, &'static str),
) -> io::Result<()> {
    if let Some(error) = why_nobody_writes(kernel) {
        return Err(error);
    }
    for (addr, live) in kernel.registry.all() {
        let Some(outbox) = live.outbox() else {
            skipped(addr, "Writing was enabled after this connection was set up");
            continue;
        };
        match typed::<M>(outbox).ok_or_else(error::writing_unsupported)?.push(message.clone(), None) {
            Ok(Queued::Expected) => {}
            Ok(Queued::First) => start_writer(kernel, &live),
            Err(PushError::Full) => skipped(addr, "its queue is full"),
            Err(PushError::Closed) => skipped(addr, "the connection is ending"),
        }
    }
    Ok(())
}

/// The error of a send that does not depend on the peer.
fn why_nobody_writes(kernel: &Kernel) -> Option<io::Error> {
    // Asked in this order: a shutdown closes the registry before it takes the hooks.
    let is_enabled = kernel.hooks.is_writing_enabled();
    match (is_enabled, kernel.registry.is_closed()) {
        (true, _) => None,
        (false, true) => Some(error::no_peers_after_shutdown()),
        (false, false) => Some(error::writing_unsupported()),
    }
}

/// How far a message has got under the registry's lock. What is to be dropped, woken or encoded waits for its release.
enum Reached<M> {
    /// It is queued, and that is all.
    Queue,
    /// The rest is to be done.
    LiveConnection(Arc<LiveConnection>, Placed<M>),
    /// The connection is not the one that the sender means.
    Nobody,
    /// The connection has no outbox.
    OlderThanWriting,
    /// Writing was enabled with another type of messages.
    OtherType,
}

/// The messages of Writing must be of the type that is being sent.
fn typed<M: Send + 'static>(outbox: &dyn AnyOutbox) -> Option<&Outbox<M>> {
    (outbox as &dyn Any).downcast_ref()
}
