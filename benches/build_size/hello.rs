//! Two nodes with all five protocols; one says hello to the other, which prints it. The same source for both crates.

use std::{io, net::SocketAddr, sync::mpsc};

use pea2pea::{
    Config, Connection, ConnectionSide, DisconnectOrigin, Node, Pea2Pea,
    protocols::{Handshake, OnConnect, OnDisconnect, Reading, Writing},
};
use tokio::runtime::Runtime;
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::LengthDelimitedCodec,
};

#[derive(Clone)]
struct Peer {
    node: Node,
    heard: mpsc::Sender<BytesMut>,
}

impl Peer {
    async fn new(heard: mpsc::Sender<BytesMut>) -> Self {
        let config = Config { listener_addr: Some(([127, 0, 0, 1], 0).into()), ..Default::default() };
        let peer = Self { node: Node::new(config), heard };
        peer.enable_handshake().await;
        peer.enable_reading().await;
        peer.enable_writing().await;
        peer.enable_on_connect().await;
        peer.enable_on_disconnect().await;
        peer
    }
}

fn main() -> io::Result<()> {
    let (heard, hearing) = mpsc::channel();
    let runtime = Runtime::new()?;
    let (far, near) = runtime.block_on(async { (Peer::new(heard.clone()).await, Peer::new(heard).await) });
    runtime.block_on(async {
        let addr = far.node.toggle_listener().await?.expect("switched on");
        near.node.connect(addr).await?;
        near.unicast_fast(addr, Bytes::from_static(b"hello"))
    })?;
    println!("{}", String::from_utf8_lossy(&hearing.recv().expect("a living node")));
    runtime.block_on(async {
        near.node.shut_down().await;
        far.node.shut_down().await;
    });
    Ok(())
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
        // Nobody listens any more at the end.
        _ = self.heard.send(message);
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
