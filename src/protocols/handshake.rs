//! Securing and configuring a connection before it is live.

use std::{future::Future, io, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::Adapter;
use crate::{Pea2Pea, connections::Connection, hooks::HandshakeHook};

/// Secures or configures a connection before it is live: exchanges keys or metadata, wraps the stream, refuses the peer.
///
/// Runs on both sides of every connection. An error, a panic or a timeout ends the setup: the connection never goes live.
///
/// ```
/// # use std::io;
/// # use pea2pea::{Connection, Node, Pea2Pea, protocols::Handshake};
/// # use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # #[derive(Clone)] struct MyNode(Node);
/// # impl Pea2Pea for MyNode { fn node(&self) -> &Node { &self.0 } }
/// impl Handshake for MyNode {
///     async fn perform_handshake(&self, mut conn: Connection) -> io::Result<Connection> {
///         let stream = self.borrow_stream(&mut conn);
///         stream.write_u8(1).await?;
///         match stream.read_u8().await? {
///             1 => Ok(conn),
///             version => Err(io::Error::other(format!("version {version} is not spoken here"))),
///         }
///     }
/// }
/// ```
pub trait Handshake: Pea2Pea
where
    Self: Clone + Send + Sync + 'static,
{
    /// How long the handshake may take, in milliseconds; `u64::MAX` means for ever, 0 fails a handshake that has to wait.
    /// Default: 3,000, a few round trips around the world.
    const TIMEOUT_MS: u64 = 3_000;

    /// Performs the handshake and gives the connection back.
    ///
    /// Runs even if the peer is gone already.
    ///
    /// # Errors
    /// An error ends the setup; a dial returns it as it is.
    ///
    /// # Cancel safety
    /// Dropped at any await: by the timeout, with the `connect` that it runs in, or when the node shuts down.
    fn perform_handshake(&self, conn: Connection) -> impl Future<Output = io::Result<Connection>> + Send;

    /// Enables the protocol for the connections that are set up from now on; does nothing if the node is shutting down.
    ///
    /// # Panics
    /// If `Handshake` is enabled on the node already.
    fn enable_handshake(&self) -> impl Future<Output = ()> + Send {
        async move {
            let kernel = self.node().kernel();
            let hook: Arc<dyn HandshakeHook> = Adapter::of(self);
            kernel.hooks.enable("handshake", hook, |set| &mut set.handshake, || kernel.registry.is_closed());
        }
    }

    /// Returns the TCP stream of the connection.
    ///
    /// # Panics
    /// If the stream was taken, or replaced by a wrapped one. Inside a handshake, that ends the setup only.
    fn borrow_stream<'a>(&self, conn: &'a mut Connection) -> &'a mut TcpStream {
        conn.borrow_stream()
    }

    /// Takes the TCP stream out of the connection; [`return_stream`](Self::return_stream) puts one back.
    ///
    /// # Panics
    /// If the stream was taken, or replaced by a wrapped one. Inside a handshake, that ends the setup only.
    fn take_stream(&self, conn: &mut Connection) -> TcpStream {
        conn.take_stream()
    }

    /// Puts a stream in the place of the one that was taken: the same one, or anything that wraps it, such as TLS.
    ///
    /// A plain `TcpStream` stays on the statically dispatched path.
    fn return_stream<T: AsyncRead + AsyncWrite + Send + Sync + 'static>(&self, conn: &mut Connection, stream: T) {
        conn.return_stream(stream);
    }
}

impl<T: Handshake + Clone + Send + Sync + 'static> HandshakeHook for Adapter<T> {
    fn timeout_ms(&self) -> u64 {
        T::TIMEOUT_MS
    }

    fn perform(self: Arc<Self>, connection: Connection) -> BoxFuture<'static, io::Result<Connection>> {
        Box::pin(async move { self.0.perform_handshake(connection).await })
    }
}
