//! Sending messages.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use tokio::sync::oneshot;
use tokio_util::codec::Encoder;
use tracing::debug;

use super::{Adapter, MIN_BUFFER_SIZE};
use crate::{
    Pea2Pea,
    connection::meter::Meter,
    connections::ConnectionSide,
    hooks::{RunWriter, WritingHook},
    lifecycle,
    outbound::{AnyOutbox, Outbox, WriteSettings, writer::Writer},
    waiting::bound,
};

/// Sends messages: queues them per connection, encodes them, and writes them in batches.
///
/// The messages of one connection leave in the order they were queued. All that is queued goes out in as few system calls
/// as possible, without waiting for more.
///
/// A burst on a connection that is not streaming is accepted up to exactly
/// [`MESSAGE_QUEUE_DEPTH`](Self::MESSAGE_QUEUE_DEPTH) messages. While it is streaming (the queue has been full and the
/// writer has not come to rest since), and inside [`process_message`](super::Reading::process_message), a send that finds the queue full may encode it, on the caller's thread, into one
/// batch of bytes that waits beside the one being written. What is accepted and not written is thus bounded by the depth
/// plus two batches; a peer that does not read always ends in `QuotaExceeded`. What is less than a quarter of a batch is then
/// left to grow until the next message, or for one turn of the writer's thread.
///
/// A send wakes the writer at once, but to be woken is not to run: woken from a task of the runtime, the writer may have to wait
/// for the thread of that task, until it awaits or returns. While that thread is blocked (`std::thread::sleep`, a lock, a long computation), nothing
/// that it has just sent is sure to leave; in `block_in_place` other threads take over its tasks, and it leaves.
/// Where a message has to leave before the thread is blocked, send it with `unicast` and await the receipt.
///
/// # Where the encoder runs
/// In the writer's task, and, while the connection streams or inside [`process_message`](super::Reading::process_message),
/// in the send that finds the queue full: on the thread of whoever sends. Therefore:
/// - Hold no lock across a send that the encoder takes too: a lock that is not re-entrant blocks its thread for ever.
/// - An encoder may not rely on a runtime (`Handle::current`, `tokio::spawn`), nor on values of a thread: a sender may be any
///   thread, and each message may be encoded on another one.
/// - The time that it takes may be the sender's.
///
/// For one connection it is never run by two at once, and its calls have the order of the queue.
///
/// An error or a panic of the encoder never comes out of a send: the receipt resolves to an error, and the connection ends
/// with origin [`Writing`](crate::DisconnectOrigin::Writing).
///
/// ```
/// # use std::net::SocketAddr;
/// # use pea2pea::{ConnectionSide, Node, Pea2Pea, protocols::Writing};
/// # use tokio_util::{bytes::Bytes, codec::LengthDelimitedCodec};
/// # #[derive(Clone)] struct MyNode(Node);
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.0 } }
/// impl Writing for MyNode {
///     type Message = Bytes;
///     type Codec = LengthDelimitedCodec;
///
///     fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
///         Default::default()
///     }
/// }
///
/// # async fn f(node: MyNode, addr: SocketAddr) -> std::io::Result<()> {
/// let receipt = node.unicast(addr, Bytes::from_static(b"hello"))?;
/// if let Ok(Ok(())) = receipt.await {
///     println!("handed to the OS");
/// }
/// # Ok(()) }
/// ```
pub trait Writing: Pea2Pea
where
    Self: Clone + Send + Sync + 'static,
{
    /// How many messages may be queued for a connection. Default: 64, must not be 0.
    const MESSAGE_QUEUE_DEPTH: usize = 64;

    /// The size at which a batch is full, in bytes: between 8 and 256 KiB. The writer tops it up to one and a half times
    /// that, and large messages make it larger: four of them, but 256 KiB and one message at most. Nothing is allocated
    /// before there are bytes. Default: 64 KiB.
    const INITIAL_BUFFER_SIZE: usize = 65_536;

    /// How long the flush of a batch may take, in milliseconds, from the first time it has to wait for the peer;
    /// `u64::MAX` means for ever, 0 fails the first flush that has to wait for more than a turn. Default: 10,000.
    const TIMEOUT_MS: u64 = 10_000;

    /// What is sent.
    type Message: Send;

    /// Encodes the messages.
    type Codec: Encoder<Self::Message, Error = io::Error> + Send;

    /// Makes the encoder of a connection; `side` is the side of the node itself. A panic ends the setup.
    fn codec(&self, addr: SocketAddr, side: ConnectionSide) -> Self::Codec;

    /// Enables the protocol for the connections that are set up from now on; does nothing if the node is shutting down.
    ///
    /// # Panics
    /// If `Writing` is enabled on the node already, or if [`MESSAGE_QUEUE_DEPTH`](Self::MESSAGE_QUEUE_DEPTH) is 0.
    fn enable_writing(&self) -> impl Future<Output = ()> + Send {
        async move {
            assert!(Self::MESSAGE_QUEUE_DEPTH > 0, "enable_writing: Writing::MESSAGE_QUEUE_DEPTH is 0");
            let kernel = self.node().kernel();
            let hook: Arc<dyn WritingHook> = Adapter::of(self);
            kernel.hooks.enable("writing", hook, |set| &mut set.writing, || kernel.registry.is_closed());
        }
    }

    /// Queues a message for one peer and returns its receipt.
    ///
    /// The receipt resolves to `Ok(Ok(()))` once the batch with the message has been flushed to the OS, to `Ok(Err(_))`
    /// when that batch failed (`TimedOut` if the peer did not take it in time, else the error of the OS or the encoder),
    /// and to `Err(_)` when the connection went away first. By then the message's place in the queue, and those of all
    /// earlier ones, are free. Dropping the receipt changes nothing.
    ///
    /// # Errors
    /// - `NotConnected`: there is no connection with the address, or one that was set up before `Writing` was enabled, or
    ///   the node has shut down; the text says which.
    /// - `QuotaExceeded`: the queue is full.
    /// - `BrokenPipe`: the connection is ending and takes no more messages.
    /// - `Unsupported`: `Writing` is not enabled on the node, or with another `Message` type.
    fn unicast(&self, addr: SocketAddr, message: Self::Message) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (receipt, receiver) = oneshot::channel();
        lifecycle::send(self.node().kernel(), addr, message, Some(receipt))?;
        Ok(receiver)
    }

    /// [`unicast`](Self::unicast) without a receipt, and without any allocation of its own.
    ///
    /// # Errors
    /// As with `unicast`.
    fn unicast_fast(&self, addr: SocketAddr, message: Self::Message) -> io::Result<()> {
        lifecycle::send(self.node().kernel(), addr, message, None)
    }

    /// Queues a clone of a message for every peer; peers whose queue is full, whose connection is ending, or whose
    /// connection is older than `Writing`, are skipped and logged at `DEBUG`.
    ///
    /// # Errors
    /// - `Unsupported`: `Writing` is not enabled on the node, or with another `Message` type.
    /// - `NotConnected`: the node has shut down.
    #[deprecated(
        since = "0.57.0",
        note = "it is lossy: a peer whose queue is full misses the message, and the caller is not told; send to each peer \
                with `unicast` or `unicast_fast`"
    )]
    fn broadcast(&self, message: Self::Message) -> io::Result<()>
    where
        Self::Message: Clone,
    {
        let kernel = self.node().kernel();
        lifecycle::send_to_all(kernel, &message, |addr, reason| {
            debug!(parent: &kernel.span, %addr, reason, "skipped a peer in a broadcast");
        })
    }
}

impl<T: Writing + Clone + Send + Sync + 'static> Adapter<T> {
    const WRITE_SETTINGS: WriteSettings = WriteSettings {
        depth: T::MESSAGE_QUEUE_DEPTH,
        flush_at: match T::INITIAL_BUFFER_SIZE {
            size if size < MIN_BUFFER_SIZE => MIN_BUFFER_SIZE,
            size => size,
        },
        timeout: bound(T::TIMEOUT_MS),
    };
}

impl<T: Writing + Clone + Send + Sync + 'static> WritingHook for Adapter<T> {
    fn prepare(&self, addr: SocketAddr, own_side: ConnectionSide, meter: Meter) -> (Arc<dyn AnyOutbox>, RunWriter) {
        let encoder = self.0.codec(addr, own_side);
        let outbox = Arc::new(Outbox::<T::Message>::new(encoder, &Self::WRITE_SETTINGS));
        let queue = Arc::clone(&outbox);
        let run = Box::new(move |half| Box::pin(Writer::new(half, queue, meter).run()) as _);
        (outbox, run)
    }
}
