//! A node with all five protocols. Compiled once per crate, which the parent module names `p2p`.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::net::TcpSocket;
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

use super::p2p::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use crate::member::{Member, Role};

#[derive(Clone)]
pub struct Peer {
    node: Node,
    role: Role,
    received: Arc<AtomicUsize>,
}

impl Member for Peer {
    async fn new(role: Role, port: u16) -> Self {
        let config = Config {
            listener_addr: (role == Role::Listens).then_some(([0, 0, 0, 0], port).into()),
            listener_backlog: 4_096,
            reuse_listener_port: true,
            max_connections: 15_000,
            max_connections_per_ip: 15_000,
            // A busy machine must not end a bench.
            connection_timeout_ms: 60_000,
            ..Default::default()
        };
        let peer = Self { node: Node::new(config), role, received: Arc::default() };
        peer.enable_handshake().await;
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_connect().await;
        peer.enable_on_disconnect().await;
        peer
    }

    async fn listen(&self) -> u16 {
        self.node.toggle_listener().await.expect("the port").expect("switched on").port()
    }

    async fn connect(&self, to: SocketAddr, socket: TcpSocket) -> io::Result<()> {
        self.node.connect_using_socket(to, socket).await
    }

    fn connected_addrs(&self) -> Vec<SocketAddr> {
        self.node.connected_addrs()
    }

    fn num_connected(&self) -> usize {
        self.node.num_connected()
    }

    fn num_received(&self) -> usize {
        self.received.load(Relaxed)
    }

    fn send(&self, to: SocketAddr, message: Bytes) {
        self.unicast_fast(to, message).expect("room in the queue");
    }
}

impl Pea2Pea for Peer {
    fn node(&self) -> &Node {
        &self.node
    }
}

impl Handshake for Peer {
    async fn perform_handshake(&self, mut connection: Connection) -> io::Result<Connection> {
        self.borrow_stream(&mut connection).set_nodelay(true)?;
        Ok(connection)
    }
}

impl Reading for Peer {
    /// Idle is what these connections are to be.
    const IDLE_TIMEOUT_MS: u64 = 0;

    type Message = BytesMut;
    type Codec = LengthDelimitedCodec;

    fn codec(&self, _: SocketAddr, _: ConnectionSide) -> Self::Codec {
        LengthDelimitedCodec::new()
    }

    async fn process_message(&self, source: SocketAddr, message: BytesMut) {
        if self.role == Role::Listens {
            self.send(source, message.freeze());
        }
        self.received.fetch_add(1, Relaxed);
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
