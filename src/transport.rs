//! The byte stream of a connection: plain TCP, dispatched statically, or a stream that a handshake wrapped around it.
//!
//! Owns the socket; knows no messages and no node.

use std::{
    any::Any,
    fmt,
    future::{pending, poll_fn},
    io::{
        self,
        ErrorKind::{BrokenPipe, ConnectionReset},
        Read,
    },
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{
    outbound::WriteStream,
    panics::{Disposed, caught},
};

/// The most input that a graceful end discards before it closes the socket.
const MAX_DISCARDED: usize = 1024 * 1024;

/// What a wrapped stream can do.
pub(crate) trait WrappedStream: AsyncRead + AsyncWrite + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Send + Sync> WrappedStream for T {}

/// Its drop is the user's, and may come from anywhere: a setup that fails, a half that is the last one.
type BoxedStream = Disposed<Pin<Box<dyn WrappedStream>>>;

/// A wrapped stream cannot be split; its halves take turns.
type SharedStream = Arc<Mutex<BoxedStream>>;

/// The stream of a connection during its setup.
pub(crate) enum Transport {
    /// The plain socket.
    Tcp(TcpStream),
    /// Taken by the handshake and not returned.
    Taken,
    /// What the handshake returned in the place of the socket.
    Wrapped(BoxedStream),
}

impl Transport {
    /// A `TcpStream` stays on the static path; anything else is boxed.
    pub(crate) fn from_stream<T: AsyncRead + AsyncWrite + Send + Sync + 'static>(stream: T) -> Self {
        let mut stream = Some(stream);
        let tcp = (&mut stream as &mut dyn Any).downcast_mut::<Option<TcpStream>>().and_then(Option::take);
        match (tcp, stream) {
            (Some(tcp), _) => Self::Tcp(tcp),
            (None, Some(wrapped)) => Self::Wrapped(Disposed::new(Box::pin(wrapped))),
            (None, None) => Self::Taken,
        }
    }

    pub(crate) fn split(self) -> Option<(ReadHalf, WriteHalf)> {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                Some((ReadHalf::Tcp(read), WriteHalf::Tcp(write)))
            }
            Self::Wrapped(stream) => {
                let stream = Arc::new(Mutex::new(stream));
                Some((ReadHalf::Wrapped(Arc::clone(&stream)), WriteHalf::Wrapped(stream)))
            }
            Self::Taken => None,
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Taken => "Taken",
            Self::Wrapped(_) => "Wrapped",
        })
    }
}

/// The receiving half of a live connection's stream.
pub(crate) enum ReadHalf {
    Tcp(OwnedReadHalf),
    Wrapped(SharedStream),
}

impl AsyncRead for ReadHalf {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Wrapped(stream) => stream.lock().as_mut().poll_read(cx, buf),
        }
    }
}

/// The sending half of a live connection's stream.
pub(crate) enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Wrapped(SharedStream),
}

/// Ends a stream to which nothing has been written that the peer could lose: shuts the write side, in time, and discards
/// what lies in the receive buffer, because closing a socket with unread input resets it. The reader must have been told
/// before that nothing it reads counts any more.
///
/// The connection ends either way, so nothing that goes wrong here or in the other farewells matters to anybody.
pub(crate) async fn say_brief_farewell(mut half: WriteHalf, bound: Duration) {
    let farewell = async move {
        if half.shutdown().await.is_ok() {
            half.discard_what_is_there().await;
        }
    };
    let _whatever_came_of_it = caught(|| timeout(bound, farewell)).await;
}

/// Shuts the write side, in time; `false` if it could not be shut.
pub(crate) async fn shut(half: &mut WriteHalf, bound: Duration) -> bool {
    matches!(caught(|| timeout(bound, half.shutdown())).await, Ok(Ok(Ok(()))))
}

/// Discards input until the peer has closed too, and closes: the system answers what comes after the close with a reset, and
/// then the peer loses what it has not read yet.
pub(crate) async fn stay_until_peer_closes(half: WriteHalf, bound: Duration) {
    let discarding = async move { half.discard_until_end().await };
    let _whatever_came_of_it = caught(|| timeout(bound, discarding)).await;
}

impl WriteHalf {
    pub(crate) fn is_wrapped(&self) -> bool {
        matches!(self, Self::Wrapped(_))
    }

    /// Never waits.
    async fn discard_what_is_there(&self) {
        match self {
            Self::Tcp(half) => discard_from_socket(half.as_ref()),
            Self::Wrapped(stream) => {
                poll_fn(|cx| {
                    let _ended_or_not = discard_from_wrapped(stream.lock().as_mut(), cx, &mut 0);
                    Poll::Ready(())
                })
                .await;
            }
        }
    }

    /// Waits for the end of the stream. A peer that sends more than [`MAX_DISCARDED`] finds its way stopped from there on, but
    /// not closed: it may still be reading.
    async fn discard_until_end(&self) {
        let mut discarded = 0;
        match self {
            Self::Tcp(half) => {
                let socket: &TcpStream = half.as_ref();
                let mut buffer = [0; 2 * 1024];
                while discarded < MAX_DISCARDED && socket.readable().await.is_ok() {
                    match socket.try_read(&mut buffer) {
                        Ok(0) => return,
                        Ok(count) => discarded += count,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            }
            Self::Wrapped(stream) => {
                poll_fn(|cx| discard_from_wrapped(stream.lock().as_mut(), cx, &mut discarded)).await;
            }
        }
        if discarded >= MAX_DISCARDED {
            pending::<()>().await;
        }
    }
}

impl WriteStream for WriteHalf {
    /// Of a wrapped stream the socket is the user's.
    fn reset_when_closed(&self) {
        if let Self::Tcp(half) = self {
            let socket: &TcpStream = half.as_ref();
            // A linger of no time never blocks. The socket may be gone.
            #[allow(deprecated, reason = "what replaces it is newer than the oldest tokio that is supported")]
            let _set_or_gone = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

/// The runtime's readiness may lag behind what has arrived, so the socket itself is asked, if that is possible.
fn discard_from_socket(socket: &TcpStream) {
    let mut itself = duplicate(socket);
    let mut buffer = [0; 8 * 1024];
    let mut discarded = 0;
    while discarded < MAX_DISCARDED {
        let read = match &mut itself {
            Some(itself) => itself.read(&mut buffer),
            None => socket.try_read(&mut buffer),
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => discarded += count,
        }
    }
}

/// Ready when there will be no more input, or enough has been discarded.
fn discard_from_wrapped(
    mut stream: Pin<&mut dyn WrappedStream>,
    cx: &mut Context<'_>,
    discarded: &mut usize,
) -> Poll<()> {
    let mut buffer = [0; 2 * 1024];
    while *discarded < MAX_DISCARDED {
        let mut piece = ReadBuf::new(&mut buffer);
        match ready!(stream.as_mut().poll_read(cx, &mut piece)) {
            Ok(()) if !piece.filled().is_empty() => *discarded += piece.filled().len(),
            _ => break,
        }
    }
    Poll::Ready(())
}

/// Another handle of the same socket, outside of the runtime; it does not block. `None` if the process has no more file
/// descriptors.
#[cfg(unix)]
fn duplicate(socket: &impl std::os::fd::AsFd) -> Option<std::net::TcpStream> {
    socket.as_fd().try_clone_to_owned().ok().map(Into::into)
}

/// Another handle of the same socket, outside of the runtime; it does not block.
#[cfg(windows)]
fn duplicate(socket: &impl std::os::windows::io::AsSocket) -> Option<std::net::TcpStream> {
    socket.as_socket().try_clone_to_owned().ok().map(Into::into)
}

/// There is no such handle on this platform.
#[cfg(not(any(unix, windows)))]
fn duplicate<T>(_: &T) -> Option<std::net::TcpStream> {
    None
}

/// Connects; once TCP is connected, the peer may close or reset the connection as fast as it likes.
pub(crate) async fn connect(addr: SocketAddr, socket: Option<TcpSocket>) -> io::Result<TcpStream> {
    let socket = match socket {
        Some(socket) => socket,
        None if addr.is_ipv4() => TcpSocket::new_v4()?,
        None => TcpSocket::new_v6()?,
    };
    let spare = duplicate(&socket);
    match (socket.connect(addr).await, spare) {
        // A reset that overtakes the runtime's look at the socket; an unanswered dial would be refused, not reset.
        (Err(error), Some(spare)) if matches!(error.kind(), ConnectionReset | BrokenPipe) => TcpStream::from_std(spare),
        (result, _) => result,
    }
}

impl AsyncWrite for WriteHalf {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, buf),
            Self::Wrapped(stream) => stream.lock().as_mut().poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Wrapped(stream) => stream.lock().as_mut().poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Wrapped(stream) => stream.lock().as_mut().poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadHalf")
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteHalf")
    }
}
