//! Peers that are no nodes: plain sockets, for everything that a node would not do.

use std::{io, net::SocketAddr};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::timing::{QUIET, patiently, soon};

/// A listening socket on a free port of `127.0.0.1`.
pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    listener_at("127.0.0.1").await
}

/// A listening socket on a free port of the given IP.
pub(crate) async fn listener_at(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(format!("{ip}:0")).await.expect("the loopback address can be bound");
    let addr = listener.local_addr().expect("a bound socket has an address");
    (listener, addr)
}

/// Dials `addr`.
pub(crate) async fn dial(addr: SocketAddr) -> TcpStream {
    patiently("a raw dial", TcpStream::connect(addr)).await.expect("the raw dial succeeds")
}

/// Dials `addr` from a free port of the given IP.
pub(crate) async fn dial_from(ip: &str, addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.bind(format!("{ip}:0").parse().expect("an IP")).expect("the loopback address can be bound");
    patiently("a raw dial", socket.connect(addr)).await.expect("the raw dial succeeds")
}

/// Accepts one connection.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    patiently("a raw accept", listener.accept()).await.expect("the raw accept succeeds").0
}

/// Closes the socket with a reset instead of a FIN.
pub(crate) fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("the option exists");
}

/// Reads until the peer is done; says how it ended.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut bytes = Vec::new();
    let end = patiently("the end of a raw stream", stream.read_to_end(&mut bytes)).await;
    (bytes, end.map(drop).map_err(|error| error.kind()))
}

/// Whether the peer ended the stream, by FIN or reset; waits for it.
pub(crate) async fn is_ended(stream: &mut TcpStream) -> bool {
    let _either_way = read_to_end(stream).await;
    true
}

/// Whether the peer leaves the stream open (and sends nothing) for the quiet window.
pub(crate) async fn stays_open(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(QUIET, stream.read_u8()).await.is_err()
}

/// Reads exactly `amount` bytes.
pub(crate) async fn read_exactly(stream: &mut TcpStream, amount: usize) -> Vec<u8> {
    let mut bytes = vec![0; amount];
    patiently("bytes on a raw stream", stream.read_exact(&mut bytes)).await.expect("the bytes arrive");
    bytes
}

/// An address of `127.0.0.1` on which nobody listens, and the socket that keeps it so as long as it lives.
pub(crate) fn deserted() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("the loopback address can be bound");
    let addr = socket.local_addr().expect("a bound socket has an address");
    (socket, addr)
}

/// A port of `127.0.0.1` that was free a moment ago.
pub(crate) fn free_addr() -> SocketAddr {
    deserted().1
}

/// A listener whose accept queue is full, so that the kernel drops further dials without an answer.
pub(crate) async fn unresponsive() -> (Vec<TcpStream>, TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("the loopback address can be bound");
    let listener = socket.listen(1).expect("a bound socket can listen");
    let addr = listener.local_addr().expect("a bound socket has an address");
    let mut fillers = Vec::new();
    while let Some(Ok(stream)) = soon(TcpStream::connect(addr)).await {
        fillers.push(stream);
    }
    (fillers, listener, addr)
}
