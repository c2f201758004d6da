//! What a connection is: its identity, its side, its counters, and its stream while it is being set up.
//!
//! Owns the stream until the setup splits it; never reads or writes it.

use std::{
    fmt,
    net::SocketAddr,
    ops::Not,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tracing::Span;

use crate::{
    counting::stats::Stats,
    transport::{ReadHalf, Transport, WriteHalf},
    waiting::TaskCount,
};

pub(crate) mod meter;

/// The two sides of a connection.
///
/// [`ConnectionInfo::side`] tells which side the *peer* is; the `codec` methods of [`Reading`](crate::protocols::Reading)
/// and [`Writing`](crate::protocols::Writing) get the side of the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionSide {
    /// The side that dialled.
    Initiator,
    /// The side that accepted.
    Responder,
}

impl Not for ConnectionSide {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisconnectOrigin {
    /// A panic in [`OnConnect::on_connect`](crate::protocols::OnConnect::on_connect).
    OnConnectAbort,
    /// The receiving side: the peer closed, a read or decode error, the idle timeout, or a panic in the decoder or in
    /// [`Reading::process_message`](crate::protocols::Reading::process_message).
    Reading,
    /// [`Node::shut_down`](crate::Node::shut_down).
    Shutdown,
    /// [`Node::disconnect`](crate::Node::disconnect).
    User,
    /// The sending side: a write error, a flush timeout, or an error or panic in the encoder.
    Writing,
}

/// Tells a connection from every other one of this process, from the reservation of its slot on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnId(u64);

impl ConnId {
    /// The next one. Not of the node alone: a handshake may return the connection of another node.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: nothing is published with the number, and no two callers get the same.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The parts of [`ConnectionInfo`] that its clones share.
struct Info {
    /// Which connection it is.
    id: ConnId,
    /// The peer's address, by which the connection is keyed.
    addr: SocketAddr,
    /// Which side the peer is.
    side: ConnectionSide,
    /// The connection's own counters.
    stats: Arc<Stats>,
    /// The span that the connection's log lines belong to.
    span: Span,
    /// Set when the slot has been released: the tasks must not begin anything more.
    ended: AtomicBool,
    /// A write has failed: the writer ends the connection, once the reader has finished.
    write_failed: AtomicBool,
    /// The reader has finished after that, or because of it.
    reader_done: AtomicBool,
    /// The connection's tasks that are not dropped yet.
    tasks: TaskCount,
}

/// Facts about a connection, valid beyond its end. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionInfo(Arc<Info>);

impl ConnectionInfo {
    pub(crate) fn new(id: ConnId, addr: SocketAddr, side: ConnectionSide, span: Span) -> Self {
        Self(Arc::new(Info {
            id,
            addr,
            side,
            stats: Arc::default(),
            span,
            ended: AtomicBool::new(false),
            write_failed: AtomicBool::new(false),
            reader_done: AtomicBool::new(false),
            tasks: TaskCount::default(),
        }))
    }

    /// Returns the peer's address.
    #[inline]
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// Returns which side the peer is: `Initiator` if the peer dialled us.
    pub fn side(&self) -> ConnectionSide {
        self.0.side
    }

    /// Returns the connection's counters.
    #[inline]
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0.stats
    }

    /// Returns the span that the connection's log lines belong to.
    pub fn span(&self) -> &Span {
        &self.0.span
    }

    #[inline]
    pub(crate) fn id(&self) -> ConnId {
        self.0.id
    }

    // The race of the two orderings of `ended`: a farewell sets it and then discards input, while the reader, on another thread,
    // reads what comes behind the gap and then asks. It must see the flag if it has read anything from behind the discarded part.

    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Acquire)
    }

    pub(crate) fn set_ended(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    // The race of the four that follow: the writer sets `write_failed`, wakes and looks at `reader_done`; the reader ends, looks at
    // `write_failed` and, if it is set, sets `reader_done` and leaves the end to the writer. One that looks too early claims the end
    // itself, and the writer's claim finds that it is taken. Whoever sees a flag of the other sees all that it did before.

    pub(crate) fn has_write_failed(&self) -> bool {
        self.0.write_failed.load(Ordering::Acquire)
    }

    pub(crate) fn set_write_failed(&self) {
        self.0.write_failed.store(true, Ordering::Release);
    }

    pub(crate) fn is_reader_done(&self) -> bool {
        self.0.reader_done.load(Ordering::Acquire)
    }

    pub(crate) fn set_reader_done(&self) {
        self.0.reader_done.store(true, Ordering::Release);
    }

    pub(crate) fn tasks(&self) -> &TaskCount {
        &self.0.tasks
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionInfo").field("addr", &self.addr()).field("side", &self.side()).finish_non_exhaustive()
    }
}

/// A connection that is being set up: what [`Handshake::perform_handshake`] is given and gives back.
///
/// [`Handshake::perform_handshake`]: crate::protocols::Handshake::perform_handshake
pub struct Connection {
    /// Facts that outlive the setup.
    info: ConnectionInfo,
    /// The stream, if nobody has taken it.
    transport: Transport,
}

impl Connection {
    pub(crate) fn new(info: ConnectionInfo, stream: TcpStream) -> Self {
        Self { info, transport: Transport::Tcp(stream) }
    }

    /// Returns the facts about the connection.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Returns the peer's address.
    pub fn addr(&self) -> SocketAddr {
        self.info.addr()
    }

    /// Returns which side the peer is: `Initiator` if the peer dialled us.
    pub fn side(&self) -> ConnectionSide {
        self.info.side()
    }

    /// Returns the connection's counters.
    pub fn stats(&self) -> &Arc<Stats> {
        self.info.stats()
    }

    /// Returns the span that the connection's log lines belong to.
    pub fn span(&self) -> &Span {
        self.info.span()
    }

    /// # Panics
    /// If the stream is not the original TCP stream any more.
    pub(crate) fn borrow_stream(&mut self) -> &mut TcpStream {
        match &mut self.transport {
            Transport::Tcp(stream) => stream,
            Transport::Taken | Transport::Wrapped(_) => {
                panic!("borrow_stream: the TCP stream of this connection was taken before")
            }
        }
    }

    /// # Panics
    /// If the stream is not the original TCP stream any more.
    pub(crate) fn take_stream(&mut self) -> TcpStream {
        match std::mem::replace(&mut self.transport, Transport::Taken) {
            Transport::Tcp(stream) => stream,
            other @ (Transport::Taken | Transport::Wrapped(_)) => {
                self.transport = other;
                panic!("take_stream: the TCP stream of this connection was taken before")
            }
        }
    }

    pub(crate) fn return_stream<T: AsyncRead + AsyncWrite + Send + Sync + 'static>(&mut self, stream: T) {
        self.transport = Transport::from_stream(stream);
    }

    /// Splits the stream; `None` if it was taken and not returned.
    pub(crate) fn split(self) -> Option<(ReadHalf, WriteHalf)> {
        self.transport.split()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("info", &self.info).field("transport", &self.transport).finish()
    }
}
