//! Receiving messages.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use tokio_util::codec::Decoder;

use super::{Adapter, MAX_BUFFER_SIZE, MIN_BUFFER_SIZE};
use crate::{
    Pea2Pea,
    connection::meter::Meter,
    connections::ConnectionSide,
    hooks::{ReadingHook, RunReader},
    inbound::reader::{ReadSettings, Reader},
    panics::Disposed,
    waiting::bound,
};

/// Receives messages: decodes the byte stream of each connection and processes what it yields.
///
/// The messages of one connection are processed strictly in order, one at a time. While one is being processed, up to
/// [`MESSAGE_QUEUE_DEPTH`](Self::MESSAGE_QUEUE_DEPTH) more are read and decoded; beyond that the socket is not read, and
/// TCP makes the peer wait. Nothing is read before the connection is live.
///
/// The connection ends, with origin [`Reading`](crate::DisconnectOrigin::Reading), when the peer closes or resets it
/// (messages that were decoded before are still processed, for at most 3 s), on an error or a panic of the decoder, on a
/// panic of `process_message`, or when no complete message arrives in time. What is then left in the queue is dropped, and
/// counted in [`Heuristics::unprocessed_messages`](crate::Heuristics::unprocessed_messages).
///
/// One busy connection does not hold up the others of its thread: its turn ends after 2,048 messages, or after a
/// millisecond of decoding and processing. A single message that computes for longer than that is for you to spawn.
///
/// A message that you send for each message that you receive finds room. The turn ends when what `process_message` sends
/// makes a queue half full, so that it can be written. If the queue to the message's own sender is still half full after
/// that, the next message waits for room, until that peer has taken nothing for 1 s; so a peer that sends requests and takes
/// no replies is held up for a second, once, and then its replies are refused with `QuotaExceeded`. Nobody is waited for
/// because of another peer.
///
/// The decoder is called as under `FramedRead`: `decode` after bytes arrived and again after each message until it yields
/// none; at the end of the stream `decode_eof` until it yields none. It may return 10,000 messages in a row without
/// consuming a byte; one more is an error.
///
/// ```
/// # use std::{io, net::SocketAddr};
/// # use pea2pea::{ConnectionSide, Node, Pea2Pea, protocols::Reading};
/// # use tokio_util::{bytes::BytesMut, codec::LengthDelimitedCodec};
/// # #[derive(Clone)] struct MyNode(Node);
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.0 } }
/// impl Reading for MyNode {
///     type Message = BytesMut;
///     type Codec = LengthDelimitedCodec;
///
///     fn codec(&self, _addr: SocketAddr, _side: ConnectionSide) -> Self::Codec {
///         // Bounds what a peer can make us allocate.
///         LengthDelimitedCodec::builder().max_frame_length(64 * 1024).new_codec()
///     }
///
///     async fn process_message(&self, source: SocketAddr, message: BytesMut) {
///         println!("{source} sent {} bytes", message.len());
///     }
/// }
/// ```
pub trait Reading: Pea2Pea
where
    Self: Clone + Send + Sync + 'static,
{
    /// How many decoded messages of a connection may wait while one is being processed. Default: 64, must not be 0.
    const MESSAGE_QUEUE_DEPTH: usize = 64;

    /// Whether a full queue stops the reading. If not, everything complete in the read buffer is decoded before the next
    /// message is processed, and what does not fit into the queue is dropped: it counts as received, and is logged at most
    /// once a second per node. Default: `true`.
    const BACKPRESSURE: bool = true;

    /// How many bytes one read may take; 0 means 8 KiB, and 64 MiB are the most. Up to 64 KiB, reads share a buffer of 64 KiB
    /// that each thread keeps, and a message that is larger than the size is read in larger steps. Above, a buffer of the
    /// size is allocated for the read, and bytes that fill less than a quarter of it are copied out of it before they are
    /// decoded. Either way, messages that are kept do not keep a buffer each. Default: 64 KiB.
    const INITIAL_BUFFER_SIZE: usize = 65_536;

    /// How long to wait for the next complete message, in milliseconds; 0 means for ever. The clock also runs while a message
    /// is being processed. It stands still while the queue is full, and starts anew when reading resumes. From
    /// 1,600 on, a peer that sent messages in quick succession before it fell silent has up to a sixteenth more: the clock is
    /// not looked at for each message. Default: 60,000.
    const IDLE_TIMEOUT_MS: u64 = 60_000;

    /// What is received.
    type Message: Send;

    /// Decodes the messages.
    type Codec: Decoder<Item = Self::Message, Error = io::Error> + Send;

    /// Makes the decoder of a connection; `side` is the side of the node itself. A panic ends the setup.
    fn codec(&self, addr: SocketAddr, side: ConnectionSide) -> Self::Codec;

    /// Processes one message. A panic ends the connection.
    ///
    /// Here `source` means the connection that the message came from, and no successor at the same address: once the
    /// connection has ended, a send to it is `NotConnected`, a `disconnect` of it returns `false`, and `is_connected` and
    /// `connection_info` know no connection. What is sent to it without a receipt may wait until this call awaits or
    /// returns: see [`Writing`](super::Writing).
    ///
    /// # Cancel safety
    /// Dropped at an await when the connection ends.
    fn process_message(&self, source: SocketAddr, message: Self::Message) -> impl Future<Output = ()> + Send;

    /// Enables the protocol for the connections that are set up from now on; does nothing if the node is shutting down.
    ///
    /// # Panics
    /// If `Reading` is enabled on the node already, or if [`MESSAGE_QUEUE_DEPTH`](Self::MESSAGE_QUEUE_DEPTH) is 0.
    fn enable_reading(&self) -> impl Future<Output = ()> + Send {
        async move {
            assert!(Self::MESSAGE_QUEUE_DEPTH > 0, "enable_reading: Reading::MESSAGE_QUEUE_DEPTH is 0");
            let kernel = self.node().kernel();
            let hook: Arc<dyn ReadingHook> = Adapter::of(self);
            kernel.hooks.enable("reading", hook, |set| &mut set.reading, || kernel.registry.is_closed());
        }
    }
}

impl<T: Reading + Clone + Send + Sync + 'static> Adapter<T> {
    const READ_SETTINGS: ReadSettings = ReadSettings {
        depth: T::MESSAGE_QUEUE_DEPTH,
        backpressure: T::BACKPRESSURE,
        buffer_size: match T::INITIAL_BUFFER_SIZE {
            0 => MIN_BUFFER_SIZE,
            size if size > MAX_BUFFER_SIZE => MAX_BUFFER_SIZE,
            size => size,
        },
        idle_timeout: match T::IDLE_TIMEOUT_MS {
            0 => None,
            timeout_ms => bound(timeout_ms),
        },
    };
}

impl<T: Reading + Clone + Send + Sync + 'static> ReadingHook for Adapter<T> {
    fn prepare(&self, addr: SocketAddr, own_side: ConnectionSide, meter: Meter) -> RunReader {
        // The setup may still fail, and drop it.
        let decoder = Disposed::new(self.0.codec(addr, own_side));
        let user = Disposed::new(self.0.clone());
        Box::new(move |half, outbox| {
            let info = meter.info().clone();
            let mut reader = Reader::new(half, decoder.into_inner(), &Self::READ_SETTINGS, meter).with_outbox(outbox);
            Box::pin(async move {
                let process = |message| user.process_message(info.addr(), message);
                reader.run(process).await
            })
        })
    }
}
