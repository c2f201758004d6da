//! The life of a live connection above Noise: Yamux, the substreams that the peer opens, and those that we open.
//!
//! All of it is one future, which the kernel drops when the connection ends.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt,
    io::{AsyncRead, AsyncWrite},
    stream::FuturesUnordered,
};
use pea2pea::{ConnectionSide, protocols::Writing};
use tokio::sync::{mpsc, oneshot};
use yamux::{Config, Connection, Mode, Stream};

use crate::{Libp2p, noise::MAX_PLAINTEXT, stream::take};

/// What the handshake leaves for the session.
pub(crate) struct Seed {
    pub(crate) own_side: ConnectionSide,
    /// What the peer sent along with the end of the negotiation.
    pub(crate) early: Bytes,
    /// What the kernel reads from now on, decrypted.
    pub(crate) inbound: mpsc::Receiver<Bytes>,
    pub(crate) commands: mpsc::Receiver<Command>,
}

pub(crate) enum Command {
    Open(oneshot::Sender<yamux::Result<Stream>>),
    /// Says goodbye to the peer; dropped when that is done.
    Close(oneshot::Sender<()>),
}

/// Why a session is over.
pub(crate) enum End {
    Closed,
    /// The peer said goodbye.
    ClosedByPeer,
    Failed(yamux::ConnectionError),
}

pub(crate) async fn run(node: &Libp2p, addr: SocketAddr, seed: Seed) -> End {
    let Seed { own_side, early, inbound, mut commands } = seed;
    let pipe = Pipe::new(node.clone(), addr, inbound, early);
    let mode = match own_side {
        ConnectionSide::Initiator => Mode::Client,
        ConnectionSide::Responder => Mode::Server,
    };
    let mut yamux = Connection::new(pipe, config(), mode);
    let mut served = FuturesUnordered::new();
    let mut wanted: Option<oneshot::Sender<_>> = None;
    loop {
        tokio::select! {
            step = poll_fn(|cx| poll(&mut yamux, wanted.is_some(), cx)) => match step {
                Step::Opened(stream) => if let Some(reply) = wanted.take() {
                    // Whoever asked may have given up meanwhile; dropping the stream resets it.
                    let _ = reply.send(stream);
                },
                Step::Accepted(stream) => served.push(node.serve(addr, stream)),
                Step::Ended(end) => return end,
            },
            Some(()) = served.next() => {}
            Some(command) = commands.recv(), if wanted.is_none() => match command {
                Command::Open(reply) => wanted = Some(reply),
                Command::Close(done) => {
                    // The ending goes on, whatever became of the goodbye.
                    let _ = poll_fn(|cx| yamux.poll_close(cx)).await;
                    drop(done);
                    return End::Closed;
                }
            },
        }
    }
}

enum Step {
    Opened(yamux::Result<Stream>),
    Accepted(Stream),
    Ended(End),
}

/// Moves Yamux on, which reads and writes only here.
fn poll(yamux: &mut Connection<Pipe>, is_wanted: bool, cx: &mut Context<'_>) -> Poll<Step> {
    if is_wanted && let Poll::Ready(stream) = yamux.poll_new_outbound(cx) {
        return Poll::Ready(Step::Opened(stream));
    }
    yamux.poll_next_inbound(cx).map(|stream| match stream {
        Some(Ok(stream)) => Step::Accepted(stream),
        Some(Err(error)) => Step::Ended(End::Failed(error)),
        None => Step::Ended(End::ClosedByPeer),
    })
}

/// The kernel's two loops as something that Yamux can read and write: what `process_message` passes on, and `unicast`.
pub(crate) struct Pipe {
    node: Libp2p,
    addr: SocketAddr,
    inbound: mpsc::Receiver<Bytes>,
    /// The rest of a message that has been read in part.
    unread: Bytes,
    /// The message that is being filled.
    unsent: BytesMut,
    /// Of the message that is on its way; while there is one, no other is sent. Yamux stops when `unsent` is full.
    receipt: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Pipe {
    pub(crate) fn new(node: Libp2p, addr: SocketAddr, inbound: mpsc::Receiver<Bytes>, early: Bytes) -> Self {
        Self { node, addr, inbound, unread: early, unsent: BytesMut::new(), receipt: None }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, output: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.unread.is_empty() {
            match ready!(self.inbound.poll_recv(cx)) {
                Some(plaintext) => self.unread = plaintext,
                None => return Poll::Ready(Ok(0)),
            }
        }
        Poll::Ready(Ok(take(&mut self.unread, output)))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, input: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.len() == MAX_PLAINTEXT {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        let size = input.len().min(MAX_PLAINTEXT - self.unsent.len());
        self.unsent.extend_from_slice(&input[..size]);
        Poll::Ready(Ok(size))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(receipt) = &mut self.receipt {
                let outcome = ready!(Pin::new(receipt).poll(cx));
                self.receipt = None;
                outcome.map_err(|_| io::ErrorKind::NotConnected)??;
            }
            if self.unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let message = self.unsent.split().freeze();
            self.receipt = Some(self.node.unicast(self.addr, message)?);
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// What one peer can make us hold is at most [`MAX_STREAMS`] windows of 256 KiB.
fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_STREAMS * 256 * 1024));
    config
}

const MAX_STREAMS: usize = 64;
