//! The byte stream of a connection: plain TCP, dispatched statically, or a stream that a handshake wrapped around it.
//!
//! Owns the socket; knows no messages and no node.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{framing::scratch, task::caught};

/// The most input that a graceful end discards before it closes the socket.
const MAX_DISCARDED: usize = 1024 * 1024;

/// What a wrapped stream can do.
pub(crate) trait WrappedStream: AsyncRead + AsyncWrite + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Send + Sync> WrappedStream for T {}

pub(crate) type BoxedStream = Pin<Box<dyn WrappedStream>>;

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
            (None, Some(wrapped)) => Self::Wrapped(Box::pin(wrapped)),
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
                let (read, write) = tokio::io::split(stream);
                Some((ReadHalf::Wrapped(read), WriteHalf::Wrapped(write)))
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
    Wrapped(tokio::io::ReadHalf<BoxedStream>),
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Self::Wrapped(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

/// The sending half of a live connection's stream.
pub(crate) enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Wrapped(tokio::io::WriteHalf<BoxedStream>),
}

/// Ends a stream so that the peer gets all that was written, as far as it takes it in time: first shuts the write side,
/// then discards what already lies in the receive buffer. Closing a socket with unread input resets it, and the peer would
/// lose what it has not read yet.
///
/// The connection ends either way, so nothing that goes wrong here matters to anybody.
pub(crate) async fn say_farewell(mut half: WriteHalf, bound: Duration) {
    let farewell = async move {
        if half.shutdown().await.is_ok() {
            half.discard_input();
        }
    };
    let _whatever_came_of_it = caught(|| timeout(bound, farewell)).await;
}

impl WriteHalf {
    /// Never waits. A wrapped stream is out of reach here: its own shutdown is all it gets.
    fn discard_input(&self) {
        let Self::Tcp(half) = self else { return };
        let mut buffer = scratch::take();
        let mut discarded = 0;
        while discarded < MAX_DISCARDED {
            buffer.clear();
            match half.as_ref().try_read_buf(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => discarded += count,
            }
        }
        scratch::give(buffer);
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, buf),
            Self::Wrapped(half) => Pin::new(half).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            Self::Wrapped(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Wrapped(half) => Pin::new(half).poll_shutdown(cx),
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
