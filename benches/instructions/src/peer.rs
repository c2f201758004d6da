//! A node with all five protocols, and the bare sockets it talks to.

use std::{
    io::{self, ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::task::yield_now;
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

/// A node that counts what it is sent, and may pass it on.
#[derive(Clone)]
pub struct Peer {
    node: Node,
    received: Arc<AtomicU64>,
    passes_on_to: Arc<OnceLock<SocketAddr>>,
}

impl Peer {
    pub async fn new() -> Self {
        let listener_addr = Some(([127, 0, 0, 1], 0).into());
        let config = Config { listener_addr, max_connections_per_ip: 2, ..Default::default() };
        let peer = Self { node: Node::new(config), received: Arc::default(), passes_on_to: Arc::default() };
        peer.enable_handshake().await;
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_connect().await;
        peer.enable_on_disconnect().await;
        peer
    }

    pub async fn listen(&self) -> SocketAddr {
        self.node.toggle_listener().await.expect("a port").expect("switched on")
    }

    /// Connects to a bare socket.
    pub async fn dial(&self, listener: &TcpListener) -> (SocketAddr, TcpStream) {
        let addr = listener.local_addr().expect("bound");
        self.node.connect(addr).await.expect("a listener");
        let (stream, _) = listener.accept().expect("a connection");
        (addr, stream)
    }

    /// Passes on to this peer whatever comes from now on.
    pub fn pass_on_to(&self, addr: SocketAddr) {
        self.passes_on_to.set(addr).expect("told once");
    }

    pub async fn until_received(&self, messages: u64) {
        until(|| self.received.load(Relaxed) == messages).await;
    }

    pub async fn until_connected(&self, connections: usize) {
        until(|| self.node.num_connected() == connections).await;
    }
}

/// Lets the other tasks run until it is so. Every turn also polls the sockets.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        yield_now().await;
    }
}

/// The far end of a connection.
pub struct Far {
    pub stream: TcpStream,
    /// How many bytes have been read.
    read: usize,
    buffer: Box<[u8]>,
}

impl Far {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket that takes options");
        Self { stream, read: 0, buffer: vec![0; 256 << 10].into() }
    }

    /// Reads what has come.
    pub fn drain(&mut self) {
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => panic!("the node has ended the connection"),
                Ok(bytes) => self.read += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads until so many bytes have come in all.
    pub async fn until_read(&mut self, bytes: usize) {
        self.drain();
        while self.read < bytes {
            yield_now().await;
            self.drain();
        }
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Peer {
    async fn perform_handshake(&self, connection: Connection) -> io::Result<Connection> {
        Ok(connection)
    }
}

impl Reading for Peer {
    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, _: SocketAddr, message: BytesMut) {
        self.received.fetch_add(1, Relaxed);
        if let Some(addr) = self.passes_on_to.get() {
            self.unicast_fast(*addr, message.freeze()).expect("room in the queue");
        }
    }
}

impl Writing for Peer {
    type Message = Bytes;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }
}

impl OnConnect for Peer {
    async fn on_connect(&self, _: SocketAddr) {}
}

impl OnDisconnect for Peer {
    async fn on_disconnect(&self, _: SocketAddr, _: DisconnectOrigin) {}
}
